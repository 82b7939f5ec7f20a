"""Checkpoints whose instructions torch.save never writes, or never in this way.

Here: instructions. Not here: the names that they ask for (code_cases.py), tensors (tensor_cases.py), cost
(cost_cases.py).
"""

from __future__ import annotations

import functools
import io
import re
import struct
from collections.abc import Callable

from postval_assets_tests.factories import make_policy
from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.checkpoint_bytes import (
    BINPERSID,
    BUILD,
    FALSE,
    MARK,
    NEWOBJ,
    NONE,
    REDUCE,
    START,
    STOP,
    call,
    file_of,
    group,
    keep,
    kept,
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
from postval_assets_tests.hostile.code_cases import COMMAND, INERT

_SYSTEM = text(COMMAND) + b"\x85" + REDUCE


def _by_hand(pickle_bytes: bytes) -> bytes:
    return file_of(pickle_bytes)


def _config(value: bytes) -> bytes:
    return file_of(top={"config": value})


def _protocol(n: int) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save({"policy_state_dict": make_policy(), "config": re.compile}, buffer, pickle_protocol=n)
    return buffer.getvalue()


_TENSOR = tensor(storage("1"), (2,))

# (what, the file's maker, what it has to say): instructions that torch.save never writes, or never in this way.
_INSTRUCTIONS: tuple[tuple[str, bytes, str], ...] = (
    ("STACK_GLOBAL", text("os") + text("system") + b"\x93" + _SYSTEM, r"STACK_GLOBAL.*os\.system"),
    (
        "STACK_GLOBAL with a dotted attribute",
        text("os") + text("path.join") + b"\x93",
        r"STACK_GLOBAL.*os\.path\.join",
    ),
    (
        "STACK_GLOBAL from memory",
        text("os") + keep(1) + text("system") + kept(1) + b"\x93",
        "uses STACK_GLOBAL",
    ),
    ("INST", MARK + text(COMMAND) + b"ios\nsystem\n", r"INST.*os\.system"),
    ("OBJ", MARK + name("torch.Size") + b"o", "uses OBJ"),
    ("EXT1", b"\x82\x01", "uses EXT1"),
    ("EXT2", b"\x83\x01\x00", "uses EXT2"),
    ("EXT4", b"\x84\x01\x00\x00\x00", "uses EXT4"),
    ("NEWOBJ_EX", name(INERT) + b")}\x92", "uses NEWOBJ_EX"),
    ("PERSID", b"Pstorage\n", "uses PERSID"),
    ("DUP", b"K\x012", "uses DUP"),
    ("POP", b"K\x010", "uses POP"),
    ("MEMOIZE", b"K\x01\x94", "uses MEMOIZE"),
    ("FRAME", b"\x95" + struct.pack("<Q", 2**62), "uses FRAME|damaged"),
    ("BYTEARRAY8 of a terabyte", b"\x96" + struct.pack("<Q", 2**40), "BYTEARRAY8|damaged"),
    ("NEXT_BUFFER", b"\x97", "uses NEXT_BUFFER"),
    ("BINBYTES8 of a terabyte", b"\x8e" + struct.pack("<Q", 2**40), "BINBYTES8|damaged"),
    ("FROZENSET", MARK + b"\x91", "uses FROZENSET"),
    ("STRING with a quote to evaluate", b"S'a'\n", "uses STRING"),
    ("INT as text", b"I1\n", "uses INT"),
    ("LONG as text, a million digits", b"L" + b"9" * 1_000_000 + b"L\n", "uses LONG|damaged"),
    ("LONG4 of two gigabytes", b"\x8b" + struct.pack("<i", 2**31 - 1), "uses LONG4|damaged"),
    ("LONG4 of a negative length", b"\x8b" + struct.pack("<i", -1), "uses LONG4|damaged"),
    ("the protocol twice", START, "names its protocol late"),
    ("persistent id of a number", number(7) + BINPERSID, "outside itself"),
    ("persistent id of a module", storage("0", 1, word="module"), r"outside itself \(module"),
    ("persistent id of nothing", group() + BINPERSID, "outside itself"),
    (
        "persistent id of two",
        group(text("storage"), name("torch.FloatStorage")) + BINPERSID,
        "outside itself",
    ),
    ("persistent id of an unknown type", storage("0", 1, kind="torch.Size"), "outside itself"),
    (
        "persistent id with a record for its key",
        group(text("storage"), name("torch.FloatStorage"), call(INERT), text("cpu"), number(1)) + BINPERSID,
        "outside itself",
    ),
    ("REDUCE of a text", text("os.system") + group() + REDUCE, "calls a text"),
    ("REDUCE of a list", listed(number(1)) + group() + REDUCE, "calls a list"),
    ("REDUCE of a type", call("torch.float32"), r"calls torch\.float32"),
    ("REDUCE of a storage type", call("torch.FloatStorage", number(2**40)), r"calls torch\.FloatStorage"),
    ("REDUCE with a text for arguments", name(INERT) + text("a" * 99) + REDUCE, "with a text"),
    ("a set of unhashable members", call("builtins.set", listed(listed())), "a list as a key"),
    (
        "an OrderedDict of given items",
        call("collections.OrderedDict", listed()),
        r"calls collections\.OrderedDict",
    ),
    ("a device of a tuple", call("torch.device", group(text("cpu"))), r"calls torch\.device"),
    ("a size of a size that is none", call("torch.Size", number(2**40)), r"calls torch\.Size"),
    ("NEWOBJ of a set", name("builtins.set") + b")" + NEWOBJ, r"makes a new builtins\.set"),
    ("NEWOBJ of an OrderedDict", name("collections.OrderedDict") + b")" + NEWOBJ, "makes a new collections"),
    ("NEWOBJ of a number", number(1) + b")" + NEWOBJ, "makes a new a number"),
    ("BUILD of a list", listed() + mapping({}) + BUILD, "sets attributes of a list"),
    ("BUILD of a dict", b"}" + mapping({"items": NONE}) + BUILD, "sets attributes of a dict"),
    (
        "BUILD of a class",
        name(INERT) + mapping({"__new__": NONE}) + BUILD,
        "sets attributes of alpaca_trading",
    ),
    (
        "BUILD that hides a dict's methods",
        ordered() + mapping({"items": NONE, "get": NONE}) + BUILD,
        r"a dict \(items, get\)",
    ),
    (
        "BUILD of a tensor, its memory anew",
        _TENSOR + group(storage(), number(0), group(number(9)), group(number(1))) + BUILD,
        "attributes of a tensor",
    ),
    (
        "BUILD of a parameter, its memory anew",
        call("torch._utils._rebuild_parameter", _TENSOR, FALSE, ordered())
        + group(_TENSOR, number(0), group(number(2**34)), group(number(1)))
        + BUILD,
        "attributes of a tensor",
    ),
    (
        "a parameter of nothing",
        call("torch._utils._rebuild_parameter", NONE, FALSE, ordered()),
        r"calls torch\._utils\._rebuild_parameter",
    ),
    ("items of a list", listed() + text("a") + NONE + b"s", "sets items of a list"),
    ("items of a record", call(INERT) + text("a") + NONE + b"s", "sets items of alpaca_trading"),
    ("an odd count of items", b"}(" + text("a") + b"u", "expected pairs"),
    ("appending to a set", call("builtins.set", listed()) + NONE + b"a", "appends to a set"),
    ("a memory that was never kept", kept(77), "damaged"),
    ("a tuple without a mark", b"t", "damaged"),
    ("a byte that is no instruction", b"\xff", "damaged"),
)


def _instruction_cases() -> list[Case]:
    cases = [
        Case(
            f"instruction: {what}",
            "pickle: instructions",
            writes(functools.partial(_config, value)),
            Outcome.REFUSED,
            says,
        )
        for what, value, says in _INSTRUCTIONS
    ]
    whole: tuple[tuple[str, Callable[[], bytes], str], ...] = (
        *(
            (
                f"the whole pickle in protocol {n}",
                functools.partial(_protocol, n),
                r"asks for re\.compile",
            )
            for n in (0, 1, 3, 4, 5)
        ),
        (
            "instructions after the end",
            lambda: _by_hand(START + b"}." + name("os.system")),
            "go on after their end",
        ),
        ("no end", lambda: _by_hand(START + b"}"), "damaged"),
        ("nothing at all", lambda: _by_hand(b""), "damaged"),
        ("an end without a value", lambda: _by_hand(START + STOP), "damaged"),
        ("a text instead of a dict", lambda: _by_hand(START + text("a") + STOP), "holds a text"),
        (
            "a record instead of a dict",
            lambda: _by_hand(START + call(INERT) + STOP),
            r"holds alpaca_trading",
        ),
        ("a name that is not UTF-8", lambda: _by_hand(START + b"cos\xff\nsystem\n" + STOP), "damaged"),
    )
    return cases + [
        Case(f"instructions: {what}", "pickle: instructions", writes(make), Outcome.REFUSED, says)
        for what, make, says in whole
    ]


CASES = _instruction_cases()
