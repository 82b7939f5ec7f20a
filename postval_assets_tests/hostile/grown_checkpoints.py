"""Checkpoints that are grown: well-formed instructions with values of any kind where any other was expected.

Here: values by a generator of random numbers. Not here: changes of single instructions and bytes (mutations.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from random import Random

from postval_assets_tests.hostile.checkpoint_bytes import (
    BINPERSID,
    BUILD,
    FALSE,
    NEWOBJ,
    NONE,
    SHAPES,
    STORAGES,
    TRUE,
    call,
    file_of,
    fraction,
    group,
    instructions,
    listed,
    mapping,
    name,
    number,
    ordered,
    storage,
    tensor,
    text,
)
from postval_assets_tests.hostile.code_cases import INERT
from postval_assets_tests.hostile.cost_cases import laughs

_TEXTS = (
    *(
        "",
        "relu",
        "tanh",
        "2.3.0",
        "v2.7.0",
        "9.9.9",
        "HOLD",
        "SELL",
        "items",
        "get",
        "neg",
        "conj",
        "activation",
    ),
    *(
        "_metadata",
        "__class__",
        "\x1b[2J",
        "\udc80",
        "\u202e",
        "<b>",
        "2024-01-01",
        "0001-01-01T00:00:00+23:59",
    ),
    *("9999-12-31", "cpu", "cuda:7", "storage", "module", "a" * 300, "9" * 5000, "reference-53"),
)
_NUMBERS = (0, 1, 2, 3, 20, 53, 100, 1060, -1, 255, 2**31 - 1, 2**31, 2**63, -(2**63), 2**2000, 2**61 - 1)
_FRACTIONS = (0.0, 0.5, -1.0, 1e308, 1e-320, float("nan"), float("inf"), float("-inf"))
_FIELDS = (
    *("policy_state_dict", "model_version", "window", "activation", "config", "global_step", "feature_set"),
    *("feature_names", "n_features", "n_actions", "obs_dim", "action_meanings", "train_start", "train_end"),
    *("min_trader_version", "optimizer_state_dict", "more"),
)
_WEIGHTS = (
    *SHAPES,
    *(
        "shared.1.weight",
        "shared.1.bias",
        "shared.2.weight",
        "critic_head.weight",
        "critic_head.bias",
        "log_std",
    ),
    *(
        "module.shared.0.weight",
        "actor_head",
        f"shared.{'9' * 5000}.weight",
        "shared.1\udc80.weight",
        ".weight",
        "",
    ),
)
_ATTRIBUTES = ("items", "keys", "get", "_metadata", "__class__", "activation")
_STORAGE_TYPES = ("Float", "Double", "Half", "BFloat16", "Long", "Bool", "ComplexFloat", "Quantized")


def grown_checkpoint(rng: Random) -> bytes:
    """A file of torch.save's form with one to four parts that are not what they should be."""
    return file_of(grown_instructions(rng), _storages(rng), _side(rng))


def grown_instructions(rng: Random) -> bytes:
    """The instructions of one."""
    policy: dict[str, bytes | None] = {}
    top: dict[str, bytes | None] = {}
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        if rng.random() < 0.4:
            weight = rng.choice(_WEIGHTS)
            shape = SHAPES.get(weight, (2,))
            policy[weight] = _tensor(rng, shape) if rng.random() < 0.7 else value(rng)
        elif rng.random() < 0.1:
            whole = (
                ordered()
                if rng.random() < 0.5
                else mapping({"shared.0.weight": tensor(storage(), (2, 1060))})
            )
            top["policy_state_dict"] = _built(rng, whole)
        else:
            top[rng.choice(_FIELDS)] = value(rng) if rng.random() < 0.9 else None
    return instructions(policy, top)


def value(rng: Random, depth: int = 0) -> bytes:
    """Instructions of a value of any kind."""
    made = rng.choice(_PLAIN if depth > 2 else (*_PLAIN, *_INNER, *_INNER))
    return made(rng, depth)


def _several(rng: Random, depth: int) -> list[bytes]:
    return [
        value(rng, depth + 1)
        for _ in range(rng.choice((0, 1, 2, 3, 3, 4, 7, 53)) if depth == 0 else rng.randrange(3))
    ]


def _items(rng: Random, depth: int) -> bytes:
    return mapping([(_key(rng, depth), value(rng, depth + 1)) for _ in range(rng.randrange(4))])


def _key(rng: Random, depth: int) -> bytes:
    return text(rng.choice((*_TEXTS, *_ATTRIBUTES))) if rng.random() < 0.8 else value(rng, depth + 1)


def _built(rng: Random, made: bytes) -> bytes:
    return made + mapping({key: value(rng, 2) for key in rng.sample(_ATTRIBUTES, rng.randrange(3))}) + BUILD


def _record(rng: Random, depth: int) -> bytes:
    made = name(INERT) + group(*_several(rng, depth)) + rng.choice((b"R", NEWOBJ))
    match rng.randrange(4):
        case 0:
            return made
        case 1:
            return made + value(rng, depth + 1) + BUILD
        case 2:
            return made + group(NONE, _items(rng, depth)) + BUILD
        case _:
            return made + mapping({"activation": value(rng, depth + 1)}) + BUILD


def _stored(rng: Random, _: int = 0) -> bytes:
    key = rng.choice((*STORAGES, *STORAGES, "77"))
    honest = len(STORAGES.get(key, b"")) // 4
    n_numbers = rng.choice((honest, honest, honest, honest + 1, honest // 2, *_NUMBERS))
    kind = f"torch.{'Float' if rng.random() < 0.7 else rng.choice(_STORAGE_TYPES)}Storage"
    if rng.random() < 0.05:
        return group(*_several(rng, 1)) + BINPERSID
    return storage(key, n_numbers, kind=kind, place=rng.choice(("cpu", "cuda:0", "meta", "a" * 300)))


def _tensor(rng: Random, shape: tuple[int, ...]) -> bytes:
    key = next((str(n) for n, known in enumerate(SHAPES.values()) if known == shape), "0")
    stored = storage(key) if rng.random() < 0.7 else _stored(rng)
    if rng.random() < 0.3:
        shape = tuple(rng.choice(_NUMBERS) for _ in range(rng.choice((0, 1, 2, 2, 3, 9, 70))))
    strides = None
    if rng.random() < 0.3:
        strides = tuple(
            rng.choice((0, 1, *shape, *_NUMBERS)) for _ in range(rng.choice((len(shape), len(shape), 1)))
        )
    made = tensor(
        stored,
        shape,
        strides=strides,
        offset=number(0) if rng.random() < 0.8 else value(rng, 3),
        requires_grad=rng.choice((FALSE, FALSE, TRUE)) if rng.random() < 0.95 else value(rng, 3),
        hooks=None if rng.random() < 0.9 else value(rng, 2),
        more=b""
        if rng.random() < 0.8
        else mapping({rng.choice(("neg", "conj", "a")): rng.choice((TRUE, FALSE, NONE))}),
    )
    if rng.random() < 0.15:
        made = call("torch._utils._rebuild_parameter", made, rng.choice((TRUE, FALSE)), ordered())
    return made if rng.random() < 0.95 else made + value(rng, 2) + BUILD


def _any_tensor(rng: Random, _: int) -> bytes:
    return _tensor(rng, rng.choice(list(SHAPES.values())))


_PLAIN: tuple[Callable[[Random, int], bytes], ...] = (
    lambda rng, _: rng.choice((NONE, TRUE, FALSE)),
    lambda rng, _: number(rng.choice(_NUMBERS)),
    lambda rng, _: fraction(rng.choice(_FRACTIONS)),
    lambda rng, _: text(rng.choice(_TEXTS)),
    lambda rng, _: text(rng.choice(_TEXTS)),
)
_INNER: tuple[Callable[[Random, int], bytes], ...] = (
    lambda rng, depth: group(*_several(rng, depth)),
    lambda rng, depth: listed(*_several(rng, depth)),
    _items,
    _record,
    _any_tensor,
    _stored,
    lambda rng, _: laughs(rng.choice((3, 20, 60))),
    lambda rng, _: _built(rng, ordered()),
    lambda rng, depth: call("builtins.set", listed(*_several(rng, depth))),
    lambda rng, depth: call("torch.Size", value(rng, depth + 1)),
    lambda rng, depth: call("torch.device", value(rng, depth + 1)),
    lambda rng, _: name(
        rng.choice((INERT, "torch.float32", "torch.FloatStorage", "os.system", "torch.load"))
    ),
)


def _storages(rng: Random) -> dict[str, bytes]:
    storages = dict(STORAGES)
    if rng.random() < 0.2:
        key = rng.choice(list(storages))
        content = storages[key]
        changes: tuple[Callable[[], bytes], ...] = (
            lambda: content[:-4],
            lambda: b"",
            lambda: content + bytes(100),
            lambda: b"\xff" * len(content),
            functools.partial(rng.randbytes, len(content)),
        )
        storages[key] = rng.choice(changes)()
    return storages


def _side(rng: Random) -> dict[str, bytes | None]:
    if rng.random() < 0.9:
        return {}
    key = rng.choice(
        ("byteorder", "version", ".format_version", ".storage_alignment", ".data/serialization_id", "code/a")
    )
    return {
        key: rng.choice((None, b"", b"big", b"little", b"-1", b"9" * 5000, b"\xff\xfe", b"64", b"a" * 70_000))
    }
