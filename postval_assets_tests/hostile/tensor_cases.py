"""Checkpoints whose tensors lie about their sizes, their memory or their names.

Here: tensors and the names they stand under. Not here: what is in them (weight_cases.py), what only costs
(cost_cases.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping

from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.checkpoint_bytes import (
    FALSE,
    N_HIDDEN,
    N_INPUTS,
    NONE,
    STORAGES,
    TRUE,
    call,
    file_of,
    fraction,
    group,
    listed,
    mapping,
    name,
    number,
    ordered,
    storage,
    tensor,
    text,
    writes,
)
from postval_assets_tests.hostile.weight_cases import SHAPE, WEIGHT, numbers_of, storage_of

_N = N_HIDDEN * N_INPUTS


def _weight(instructions: bytes | None) -> Callable[[], bytes]:
    return lambda: file_of(policy={WEIGHT: instructions})


_LYING: tuple[tuple[str, bytes, str], ...] = (
    (
        "a size far beyond the storage",
        tensor(storage(), (2, 10**9)),
        r"shape \(2, 1000000000\).*reaches to number 2000000000",
    ),
    ("sizes of which the product overflows", tensor(storage(), (2**32, 2**32)), "below 0 or above|numbers"),
    (
        "sizes of which the product wraps to a small number",
        tensor(storage(), (2**33, 2**31)),
        "numbers|reaches",
    ),
    ("a size beyond 64 bits", tensor(storage(), (2**70, 1)), "below 0 or above"),
    ("a negative size", tensor(storage(), (-2, N_INPUTS), strides=(N_INPUTS, 1)), "shape .-2, 1060.*below 0"),
    ("two negative sizes", tensor(storage(), (-2, -N_INPUTS), strides=(N_INPUTS, 1)), "below 0"),
    ("a negative stride", tensor(storage(), SHAPE, strides=(-N_INPUTS, 1)), "strides .-1060, 1.*below 0"),
    ("a negative offset", tensor(storage(), SHAPE, offset=number(-1)), "offset -1.*below 0"),
    (
        "an offset beyond the storage",
        tensor(storage(), SHAPE, offset=number(10)),
        "reaches to number 2130 of a storage of 2120",
    ),
    ("an offset beyond 64 bits", tensor(storage(), SHAPE, offset=number(2**80)), "below 0 or above"),
    ("strides beyond the storage", tensor(storage(), SHAPE, strides=(10**6, 1)), "reaches to number"),
    ("a stride of 2 to the 62", tensor(storage(), (2, 1), strides=(2**62, 1)), "below 0 or above"),
    (
        "an expanded tensor that claims terabytes",
        tensor(storage(), (10**6, 10**6), strides=(0, 0)),
        "parameters; at most",
    ),
    ("an expanded tensor beyond counting", tensor(storage(), (2**40, 2**40), strides=(0, 0)), "numbers"),
    (
        "an expanded tensor of the right shape",
        tensor(storage(), SHAPE, strides=(0, 1)),
        "repeats or skips memory",
    ),
    ("overlapping rows", tensor(storage(), SHAPE, strides=(1, 1)), "repeats or skips memory"),
    ("no strides", tensor(storage(), SHAPE, strides=()), "2 sizes and 0 strides"),
    ("more strides than sizes", tensor(storage(), SHAPE, strides=(1, 1, 1)), "2 sizes and 3 strides"),
    ("a hundred dimensions", tensor(storage(), (1,) * 100), "100 sizes"),
    ("three dimensions", tensor(storage(), (1, *SHAPE)), r"shape \(1, 2, 1060\)"),
    ("no dimension", tensor(storage(), ()), r"shape \(\)"),
    ("an empty tensor", tensor(storage(), (0, N_INPUTS)), r"shape \(0, 1060\)"),
    (
        "a storage stated longer than it is",
        tensor(storage("0", 10**12), SHAPE),
        "stated with 1000000000000 numbers.*8480 bytes",
    ),
    ("a storage stated with a negative length", tensor(storage("0", -4), SHAPE), "stated with -4 numbers"),
    (
        "a storage stated with 600 digits",
        tensor(storage("0", 2**2000), SHAPE),
        "stated with a number of 2001 bits",
    ),
    (
        "a storage stated shorter than the tensor",
        tensor(storage("0", _N - 1), SHAPE),
        "reaches to number 2120 of a storage of 2119",
    ),
    (
        "a storage that is not there",
        tensor(
            group(text("storage"), name("torch.FloatStorage"), text("77"), text("cpu"), number(_N)) + b"Q",
            SHAPE,
        ),
        "no storage '77'",
    ),
    (
        "a storage whose key is a path",
        tensor(
            group(text("storage"), name("torch.FloatStorage"), text("../data.pkl"), text("cpu"), number(9))
            + b"Q",
            (9,),
        ),
        "no storage '../data.pkl'",
    ),
    (
        "a storage of two types",
        tensor(storage("1", 1, kind="torch.DoubleStorage"), (1,)),
        "twice, with another type",
    ),
    ("a tensor for its storage", tensor(tensor(storage(), SHAPE), SHAPE), r"from \(a tensor,"),
    (
        "a record for its storage",
        tensor(call("alpaca_trading.Storage"), SHAPE),
        r"from \(alpaca_trading\.Storage",
    ),
    (
        "floating sizes",
        call(
            "torch._utils._rebuild_tensor_v2",
            storage(),
            number(0),
            group(fraction(2.0), fraction(1.0)),
            group(number(1), number(1)),
            FALSE,
            ordered(),
        ),
        "no whole numbers",
    ),
    (
        "truth values for sizes",
        call(
            "torch._utils._rebuild_tensor_v2",
            storage(),
            number(0),
            group(TRUE, TRUE),
            group(TRUE, TRUE),
            FALSE,
            ordered(),
        ),
        "no whole numbers",
    ),
    (
        "sizes in a list",
        call(
            "torch._utils._rebuild_tensor_v2",
            storage(),
            number(0),
            listed(number(2)),
            listed(number(1)),
            FALSE,
            ordered(),
        ),
        r"a list, a list",
    ),
    (
        "hooks with something in them",
        tensor(storage(), SHAPE, hooks=ordered() + text("a") + NONE + b"s"),
        "makes a tensor from",
    ),
    (
        "hooks that are a record",
        tensor(storage(), SHAPE, hooks=call("alpaca_trading.Hooks")),
        "makes a tensor from",
    ),
    ("a negative bit", tensor(storage(), SHAPE, more=mapping({"neg": TRUE})), "makes a tensor from"),
    ("a conjugate bit", tensor(storage(), SHAPE, more=mapping({"conj": TRUE})), "makes a tensor from"),
    ("a text instead of a tensor", text("weights"), "expected tensors by name"),
    ("a record instead of a tensor", call("alpaca_trading.Tensor"), "is a InertRecord; expected tensors"),
    ("a list of numbers instead of a tensor", listed(fraction(0.5)), "is a list; expected tensors"),
)

_SMALL = tensor(storage("1"), (2,))
# Names that weights may not have, or that lead nowhere.
_NAMES: tuple[tuple[str, Mapping[str, bytes | None], str], ...] = (
    ("a lone surrogate", {"shared.1\udc80.weight": _SMALL}, "printable"),
    ("a terminal code", {"shared.1\x1b[2J.weight": _SMALL}, "printable"),
    ("text that turns its direction", {"shared.1\u202e.weight": _SMALL}, "printable"),
    ("a line break", {"shared.1\n.weight": _SMALL}, "printable"),
    ("five thousand digits", {f"shared.{'9' * 5000}.weight": _SMALL}, "at most 200 printable"),
    ("a hundred wrappers", {"module." * 100 + "shared.1.weight": _SMALL}, "at most 200 printable"),
    ("HTML", {"<script>alert(1)</script>.0.weight": _SMALL}, "not clear"),
    ("a path", {"../../shared.0.weight": _SMALL}, "not clear"),
    ("the same name twice, once wrapped", {f"_orig_mod.{WEIGHT}": _SMALL}, "twice"),
    ("nothing", {"": _SMALL}, "part that is not read"),
    (
        "a reserved key of the file that it is kept in",
        {"__metadata__": _SMALL},
        "part that is not read: __metadata__",
    ),
    ("digits of another script", {"shared.\u0661.weight": _SMALL, "shared.\u0661.bias": _SMALL}, "not clear"),
)


def _two_in_one(first: int, second: int) -> bytes:
    """Two layers of one shape, whose weights start at these places of one storage."""
    numbers = numbers_of(*[0.25] * 64)
    layers = {
        f"shared.{n}": tensor(storage_of(len(numbers)), (2, 2), offset=number(at))
        for n, at in ((2, first), (4, second))
    }
    policy = {f"{key}.weight": value for key, value in layers.items()}
    biases = {f"shared.{n}.bias": tensor(storage("1"), (2,)) for n in (2, 4)}
    return file_of(storages={**STORAGES, "9": numbers}, policy={**policy, **biases})


_KEYS: tuple[tuple[str, bytes], ...] = (
    ("numbers", mapping([(number(0), _SMALL)])),
    ("records", mapping([(call("alpaca_trading.Key"), _SMALL)])),
    ("tensors", mapping([(_SMALL, _SMALL)])),
    ("tuples", mapping([(group(text("a"), text("b")), _SMALL)])),
)


def _cases() -> list[Case]:
    cases = [
        Case(f"tensor: {what}", "tensors", writes(_weight(made)), Outcome.REFUSED, says)
        for what, made, says in _LYING
    ]
    cases += [
        Case(
            f"names of weights: {what}",
            "tensors",
            writes(functools.partial(file_of, policy=more)),
            Outcome.REFUSED,
            says,
        )
        for what, more, says in _NAMES
    ]
    cases += [
        Case(
            f"keys of the policy: {what}",
            "tensors",
            writes(functools.partial(file_of, top={"policy_state_dict": policy})),
            Outcome.REFUSED,
            "expected tensors by name",
        )
        for what, policy in _KEYS
    ]
    read, refused = Outcome.ACCEPTED, Outcome.REFUSED
    return [
        *cases,
        Case(
            "tensors that share half their memory",
            "tensors",
            writes(lambda: _two_in_one(0, 2)),
            refused,
            "share memory",
        ),
        Case("two names of one tensor", "tensors", writes(lambda: _two_in_one(4, 4)), read, "7 layers"),
        Case("two tensors of one storage", "tensors", writes(lambda: _two_in_one(0, 4)), read, "7 layers"),
        Case(
            "a tensor that wants gradients",
            "tensors",
            writes(_weight(tensor(storage(), SHAPE, requires_grad=TRUE))),
            read,
            "read",
        ),
        Case(
            "weights kept on a device called meta",
            "tensors",
            writes(_weight(tensor(storage(place="meta"), SHAPE))),
            read,
            "read",
        ),
        Case(
            "weights kept on a place of 600 letters",
            "tensors",
            writes(_weight(tensor(storage(place="a" * 600), SHAPE))),
            refused,
            "outside itself",
        ),
    ]


CASES = _cases()
