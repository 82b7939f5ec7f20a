"""Checkpoints that are small and would cost hours or gigabytes: bombs of sharing, nesting, collisions and counts.

Here: what is cheap to write and dear to read. Not here: sizes that lie (tensor_cases.py).
"""

from __future__ import annotations

from collections.abc import Callable

from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.checkpoint_bytes import (
    BINPERSID,
    BUILD,
    MARK,
    NONE,
    REDUCE,
    START,
    STORAGES,
    call,
    file_of,
    fraction,
    group,
    keep,
    kept,
    listed,
    mapping,
    name,
    number,
    storage,
    tensor,
    text,
    writes,
)
from postval_assets_tests.hostile.code_cases import INERT

_PRIME = 2**61 - 1


def laughs(depth: int = 60, width: int = 2) -> bytes:
    """A tuple of that depth whose parts are shared: two to the power of its depth when it is written out."""
    rest = b"".join(keep(900 + n) + kept(900 + n) * (width - 1) + _tuple_of(width) for n in range(depth))
    return text("ha") + rest


def _tuple_of(width: int) -> bytes:
    return {1: b"\x85", 2: b"\x86", 3: b"\x87"}[width]


def _nested_lists(depth: int) -> bytes:
    return b"]" * depth + b"a" * (depth - 1)


def _nested_dicts(depth: int) -> bytes:
    return (b"}" + text("a")) * depth + NONE + b"s" * depth


def _nested_records(depth: int) -> bytes:
    """A record in a record in a record; each is the state of the next."""
    step = keep(7) + kept(5) + b")" + REDUCE + kept(7) + BUILD
    return listed(name(INERT) + keep(5) + b")" + REDUCE + step * depth)


def _config_of_parts(n_fields: int, n_parts: int) -> bytes:
    """A configuration whose fields are said over and over again."""
    fields = mapping({f"f{n}": NONE for n in range(n_fields)})
    return file_of(top={"config": call(INERT) + MARK + fields + keep(5) + kept(5) * n_parts + b"t" + BUILD})


def _key(value: bytes) -> bytes:
    return file_of(top={"more": b"}" + value + NONE + b"s"})


def _more(value: bytes) -> bytes:
    return file_of(top={"more": value})


def _layers(n_layers: int) -> dict[str, bytes | None]:
    """A trunk of many layers that all are one tensor."""
    first = {"shared.1.weight": tensor(storage_of(), (2, 2)) + keep(40)}
    rest = {f"shared.{n}.weight": kept(40) for n in range(2, n_layers)}
    return {**first, **rest}


def storage_of() -> bytes:
    """A storage of four numbers beside the honest ones."""
    return storage("9", 4)


_SHARED = {**STORAGES, "9": bytes(16)}
_WIDE = listed(*[number(n) for n in range(100_000)])
_MANY = MARK + b"K\x01" * 100_000 + b"t"

_REFUSED: tuple[tuple[str, Callable[[], bytes], str], ...] = (
    ("a shared tuple as a key", lambda: _key(laughs()), "a tuple of .* parts as a key"),
    (
        "a shared tuple in a set",
        lambda: _more(call("builtins.set", listed(laughs()))),
        "a tuple of .* parts as a key",
    ),
    (
        "a shared tuple as the key of a storage",
        lambda: _more(
            group(text("storage"), name("torch.FloatStorage"), laughs(), text("cpu"), number(1)) + BINPERSID
        ),
        "outside itself",
    ),
    ("a shared tuple that is called", lambda: _more(laughs() + group() + REDUCE), "calls a tuple"),
    ("a shared tuple that is made anew", lambda: _more(laughs() + b")\x81"), "makes a new a tuple"),
    (
        "a shared tuple that is built",
        lambda: _more(laughs() + mapping({}) + BUILD),
        "sets attributes of a tuple",
    ),
    (
        "a shared tuple as a size",
        lambda: _more(
            call(
                "torch._utils._rebuild_tensor_v2",
                storage(),
                number(0),
                laughs(),
                group(number(1), number(1)),
                NONE,
                NONE,
            )
        ),
        "makes a tensor from",
    ),
    ("a shared tuple as the whole", lambda: file_of(START + laughs() + b"."), "holds a tuple"),
    (
        "a shared tuple as an activation",
        lambda: file_of(top={"activation": laughs()}),
        "activation a tuple is not known",
    ),
    (
        "a shared tuple as a version",
        lambda: file_of(top={"model_version": laughs()}),
        "model_version is a tuple",
    ),
    ("a shared tuple as a window", lambda: file_of(top={"window": laughs()}), "window is a tuple"),
    (
        "a shared tuple as names of features",
        lambda: file_of(top={"feature_names": laughs()}),
        "feature_names is a tuple",
    ),
    (
        "a shared tuple as a weight",
        lambda: file_of(policy={"shared.0.weight": laughs()}),
        "is a tuple; expected tensors",
    ),
    (
        "tuples nested a hundred thousand deep",
        lambda: _more(b")" + b"\x85" * 100_000),
        "nests tuples more than 100 deep",
    ),
    ("tuples nested a hundred deep as a key", lambda: _key(b")" + b"\x85" * 98), "parts as a key"),
    (
        "two hundred thousand whole numbers of one hash",
        lambda: _more(mapping([(number(n * _PRIME), NONE) for n in range(1, 200_000)])),
        "more than 1000 keys",
    ),
    (
        "floating numbers of one hash",
        lambda: _more(mapping([(fraction(float(n)), NONE) for n in range(5_000)])),
        "more than 1000 keys",
    ),
    (
        "tuples of numbers as keys",
        lambda: _more(mapping([(group(number(n), number(-n)), NONE) for n in range(5_000)])),
        "more than 1000 keys",
    ),
    (
        "records as keys",
        lambda: _more(mapping([(call(INERT), NONE) for _ in range(5_000)])),
        "more than 1000 keys",
    ),
    (
        "a hundred thousand classes",
        lambda: _more(listed(*[name(f"alpaca_trading.a.C{n}") for n in range(100_000)])),
        "more than 200 classes",
    ),
    ("a class with a name of a megabyte", lambda: _more(name("alpaca_trading." + "a" * 2**20)), "asks for"),
    (
        "one class, a hundred thousand times",
        lambda: _more(listed(*[name("alpaca_trading.C")] * 100_000)),
        "more than 50000 objects",
    ),
    (
        "a hundred thousand records",
        lambda: _more(name(INERT) + keep(5) + listed(*[kept(5) + b")" + REDUCE] * 100_000)),
        "more than 50000 objects",
    ),
    (
        "ten thousand sets of a hundred thousand numbers",
        lambda: _more(
            group(_WIDE)
            + keep(5)
            + name("builtins.set")
            + keep(6)
            + listed(*[kept(6) + kept(5) + REDUCE] * 10_000)
        ),
        "more than 500000 parts",
    ),
    (
        "ten thousand records of a hundred thousand numbers",
        lambda: _more(
            _MANY + keep(5) + name(INERT) + keep(6) + listed(*[kept(6) + kept(5) + REDUCE] * 10_000)
        ),
        "more than 500000 parts",
    ),
    (
        "ten thousand new records of as many",
        lambda: _more(
            _MANY + keep(5) + name(INERT) + keep(6) + listed(*[kept(6) + kept(5) + b"\x81"] * 10_000)
        ),
        "more than 500000 parts",
    ),
    (
        "sizes of a hundred thousand dimensions",
        lambda: _more(group(_MANY) + keep(5) + name("torch.Size") + kept(5) + REDUCE),
        r"calls torch\.Size",
    ),
    (
        "a million instructions and more",
        lambda: _more(MARK + b"N" * 2_000_000 + b"t"),
        "more than 500000 instructions",
    ),
    ("a million marks and more", lambda: _more(MARK * 2_000_000), "more than 500000 instructions"),
    (
        "a million layers",
        lambda: file_of(storages=_SHARED, policy=_layers(100_000)),
        "100003 tensors; at most 1000",
    ),
    (
        "a thousand tensors and one",
        lambda: file_of(storages=_SHARED, policy=_layers(999)),
        "tensors; at most 1000",
    ),
    (
        "tensors without end, all one",
        lambda: file_of(
            storages=_SHARED, top={"optimizer_state_dict": listed(*[tensor(storage_of(), (2, 2))] * 30_000)}
        ),
        "more than 50000 objects|instructions",
    ),
    (
        "a text of three megabytes for a version",
        lambda: file_of(top={"model_version": text("2" * 3_000_000)}),
        "model_version is '2{70}",
    ),
    (
        "a text of three megabytes for an activation",
        lambda: file_of(top={"activation": text("relu" * 700_000)}),
        "activation 'relu",
    ),
    (
        "a hundred thousand names of features",
        lambda: file_of(top={"feature_names": listed(*[text(f"f{n}") for n in range(100_000)])}),
        "100000 names",
    ),
    ("a text longer than the file says", lambda: _more(b"X\xff\xff\xff\xff" + b"a"), "damaged"),
    (
        "a number of 255 bytes for a window",
        lambda: file_of(top={"window": number(2**2000)}),
        "window is a number of 2001 bits",
    ),
    (
        "a number of 255 bytes for the count of inputs",
        lambda: file_of(top={"obs_dim": number(-(2**2000))}),
        "obs_dim is a number of 2001 bits",
    ),
)

_ACCEPTED: tuple[tuple[str, Callable[[], bytes], str], ...] = (
    ("a shared tuple that nobody looks at", lambda: _more(laughs()), "read"),
    (
        "a shared tuple as the training window",
        lambda: file_of(top={"train_start": laughs(), "train_end": laughs(50, 3)}),
        "treated as unknown",
    ),
    ("a shared tuple as a step", lambda: file_of(top={"global_step": laughs()}), "step None"),
    (
        "a shared tuple as the meaning of actions",
        lambda: file_of(top={"action_meanings": group(laughs(), laughs(), laughs())}),
        "read",
    ),
    ("a shared tuple as a configuration", lambda: file_of(top={"config": laughs()}), "read"),
    (
        "a shared tuple as a configuration's fields",
        lambda: file_of(top={"config": call(INERT) + laughs() + BUILD}),
        "read",
    ),
    (
        "a hundred thousand parts of a configuration",
        lambda: _config_of_parts(5_000, 100_000),
        "read",
    ),
    ("lists nested a hundred thousand deep", lambda: _more(_nested_lists(100_000)), "read"),
    ("dicts nested fifty thousand deep", lambda: _more(_nested_dicts(50_000)), "read"),
    ("records nested twenty thousand deep", lambda: _more(_nested_records(10_000)), "read"),
    ("a list that holds itself", lambda: _more(b"]" + keep(5) + kept(5) + b"a"), "read"),
    ("a dict that holds itself", lambda: _more(b"}" + keep(5) + text("a") + kept(5) + b"s"), "read"),
    ("a text of three megabytes that nobody looks at", lambda: _more(text("a" * 3_000_000)), "read"),
    ("a hundred thousand keys", lambda: _more(mapping({f"k{n}": NONE for n in range(100_000)})), "read"),
    ("places of memory far apart", lambda: _more(b"K\x01" + keep(2**32 - 1) + b"\x85" + keep(2**31)), "read"),
    ("a step beyond 64 bits", lambda: file_of(top={"global_step": number(2**2000)}), "step None"),
)

CASES = [
    *(Case(f"cost: {what}", "cost", writes(make), Outcome.REFUSED, says) for what, make, says in _REFUSED),
    *(Case(f"cost: {what}", "cost", writes(make), Outcome.ACCEPTED, says) for what, make, says in _ACCEPTED),
]
