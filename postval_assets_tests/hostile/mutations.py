"""Small changes to valid files, made where a reader takes a decision: a length, an offset, an instruction, a value.

Here: changing bytes, zip fields, pickle instructions and JSON, all by a generator of random numbers that is given. Not
here: what is read with them (fuzz_readers.py).
"""

from __future__ import annotations

import json
import pickletools
import struct
from collections.abc import Callable, Sequence
from random import Random
from typing import Any

from postval_assets_tests.hostile.checkpoint_bytes import (
    BINPERSID,
    BUILD,
    NEWOBJ,
    NONE,
    REDUCE,
    call,
    group,
    keep,
    kept,
    mapping,
    name,
    number,
    text,
)

_NUMBERS = (
    0,
    1,
    2,
    3,
    7,
    8,
    255,
    256,
    65535,
    65536,
    2**31 - 1,
    2**31,
    2**32 - 1,
    2**62,
    2**63 - 1,
    2**64 - 1,
)
_MARKS = (b"PK\x03\x04", b"PK\x01\x02", b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x07\x08")
# Bytes of a zip's record after its mark that say something.
_FIELD_BYTES = 56

_SNIPPETS = (
    *(call("os.system", text("true")), name("os.system"), name("builtins.eval"), name("torch.load")),
    *(
        name("torch.Size"),
        name("collections.OrderedDict"),
        name("builtins.bytearray") + number(2**40) + b"\x85R",
    ),
    *(
        name("alpaca_trading.a.B"),
        name("torch.nn.parameter.Parameter"),
        name("torch._utils._rebuild_qtensor"),
    ),
    *(
        REDUCE,
        BUILD,
        NEWOBJ,
        BINPERSID,
        b"(",
        b"t",
        b"u",
        b"s",
        b"a",
        b"e",
        b"}",
        b"]",
        b")",
        b"0",
        b"2",
        b".",
        b"\x93",
    ),
    *(NONE, group(), mapping({}), text("items"), mapping({"items": NONE}) + BUILD, keep(1), kept(1), kept(7)),
    *(number(-1), number(2**31 - 1), number(2**63), number(2**2000), b"G\x7f\xf8\0\0\0\0\0\0", b"\x85" * 90),
)

_VALUES: tuple[Any, ...] = (
    *(None, True, False, 0, -1, 1, 85, 2**31, 2**63, 10**40, -(10**400), 0.5, 1e-320, 1e308),
    *(
        float("nan"),
        float("inf"),
        float("-inf"),
        "",
        "0.5",
        "\x1b[2J",
        "<b>",
        "'; --",
        "\u202e",
        "\ud800",
        "../../a",
    ),
    *(
        "AAPL",
        "AAPL_1Hour",
        "BTC/USD",
        "con",
        "1Hour",
        "20241226_211819",
        "9999-12-31T23:59:59-23:59",
        "A" * 5000,
    ),
    *([], {}, [[]], [None], {"a": {}}, [0.5] * 400, {"metrics": {}}, [{"symbol": None}], {"timeframe": 3}),
)


def changed_bytes(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    """One to four changes of bytes: flips, numbers written over, pieces moved, doubled, cut out or cut off."""
    for _ in range(rng.choice((1, 1, 1, 2, 4))):
        data = rng.choice(_BYTE_CHANGES)(rng, data, others)
    return data


def _flipped(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    if not data:
        return data
    found = bytearray(data)
    for _flip in range(rng.choice((1, 1, 2, 8))):
        found[rng.randrange(len(found))] ^= 1 << rng.randrange(8)
    return bytes(found)


def _number_over(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return _written(rng, data, rng.randrange(len(data) + 1))


def _written(rng: Random, data: bytes, at: int) -> bytes:
    size: int = rng.choice((1, 2, 4, 8))
    value: int = rng.choice((*_NUMBERS, rng.randrange(2**16), len(data), len(data) + 1, max(at - 1, 0)))
    written: bytes = (value % 256**size).to_bytes(size, "little")
    return data[:at] + (written if rng.random() < 0.75 else written[::-1]) + data[at + size :]


def _cut_off(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def _piece(rng: Random, data: bytes) -> tuple[int, int]:
    start = rng.randrange(len(data) + 1)
    return start, min(len(data), start + rng.choice((1, 4, 16, 64, 512, 4096)))


def _cut_out(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _piece(rng, data)
    return data[:start] + data[end:]


def _doubled(rng: Random, data: bytes, _: Sequence[bytes]) -> bytes:
    start, end = _piece(rng, data)
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[start:end] * rng.choice((1, 1, 2, 50)) + data[at:]


def _spliced(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    start, end = _piece(rng, other)
    at = rng.randrange(len(data) + 1)
    kept_from = at + (end - start) * rng.choice((0, 1))
    return data[:at] + other[start:end] + data[kept_from:]


def _halves(rng: Random, data: bytes, others: Sequence[bytes]) -> bytes:
    other = rng.choice(others)
    return data[: rng.randrange(len(data) + 1)] + other[rng.randrange(len(other) + 1) :]


_BYTE_CHANGES: tuple[Callable[[Random, bytes, Sequence[bytes]], bytes], ...] = (
    *(_flipped, _flipped, _number_over, _number_over, _cut_off, _cut_out, _doubled, _spliced, _halves),
)


def changed_zip(rng: Random, data: bytes) -> bytes:
    """A number written over a field of a header, of the directory or of an end record."""
    for _ in range(rng.choice((1, 1, 2, 3))):
        mark = rng.choice(_MARKS)
        places = [at for at in range(len(data)) if data.startswith(mark, at)] if data.count(mark) else []
        if places:
            data = _written(rng, data, rng.choice(places) + rng.choice((0, *range(4, _FIELD_BYTES))))
    return data


def changed_pickle(rng: Random, instructions: bytes, others: Sequence[bytes]) -> bytes:
    """One to five instructions taken out, doubled, swapped, replaced, put in, or with another argument."""
    pieces = _pieces(instructions)
    for _ in range(rng.choice((1, 1, 2, 3, 5))):
        at = rng.randrange(len(pieces) + 1)
        match rng.randrange(7):
            case 0:
                del pieces[at : at + rng.choice((1, 1, 3))]
            case 1:
                pieces[at:at] = pieces[at : at + rng.choice((1, 5, 30))] * rng.choice((1, 2, 20))
            case 2 if pieces:
                other = rng.randrange(len(pieces))
                at = min(at, len(pieces) - 1)
                pieces[at], pieces[other] = pieces[other], pieces[at]
            case 3:
                pieces[at : at + rng.choice((0, 1))] = [rng.choice(_SNIPPETS)]
            case 4 if pieces:
                at = min(at, len(pieces) - 1)
                pieces[at] = _other_argument(rng, pieces[at])
            case 5:
                taken = _pieces(rng.choice(others))
                start = rng.randrange(len(taken) + 1)
                pieces[at:at] = taken[start : start + rng.choice((1, 3, 20))]
            case _:
                joined = b"".join(pieces)
                return changed_bytes(rng, joined, others)
    return b"".join(pieces)


def _pieces(instructions: bytes) -> list[bytes]:
    """The instructions one by one, as far as they can be told apart."""
    starts: list[int] = []
    try:
        starts.extend(position or 0 for _, _, position in pickletools.genops(instructions))
    except ValueError:
        # What follows the damage is one piece.
        starts.append(len(instructions))
    return [instructions[a:b] for a, b in zip(starts, [*starts[1:], len(instructions)], strict=True)]


def _other_argument(rng: Random, piece: bytes) -> bytes:
    """The same instruction with another argument, of the length that it announces or not."""
    match piece[:1]:
        case b"J" | b"r" | b"j" | b"X" if len(piece) >= 5:
            return piece[:1] + struct.pack("<I", rng.choice(_NUMBERS) % 2**32) + piece[5:]
        case b"K" | b"q" | b"h" | b"M":
            return piece[:1] + bytes(rng.randrange(256) for _ in piece[1:])
        case b"c":
            parts = piece.split(b"\n")
            parts[rng.randrange(2)] = rng.choice(
                (b"cos", b"system", b"cbuiltins", b"eval", b"calpaca_trading", b"a.b", b"")
            )
            return b"\n".join(parts)
        case _:
            return _flipped(rng, piece, ())


def changed_json(rng: Random, data: bytes) -> bytes:
    """One to four values replaced, keys renamed, doubled or taken away; or the text itself changed."""
    top = json.loads(data)
    for _ in range(rng.choice((1, 1, 2, 4))):
        top = _with_other_value(rng, top)
    written = json.dumps(top, ensure_ascii=rng.random() < 0.5).encode("utf-8", "surrogatepass")
    match rng.randrange(8):
        case 0:
            key = rng.choice(("symbols", "metrics", "fitness_score", "timestamp", "AAPL_1Hour"))
            return written.replace(b"{", f'{{"{key}": {{}}, '.encode(), rng.choice((1, -1)))
        case 1:
            return written.replace(b"0.", rng.choice((b"1e999", b"-0.", b"00.", b".0", b"9" * 5000)), 1)
        case 2:
            depth = rng.choice((10, 40, 5000))
            return written.replace(b"[", b"[" * depth, 1).replace(b"]", b"]" * depth, 1)
        case 3:
            return changed_bytes(rng, written, [data])
        case 4:
            return rng.choice((b"\xef\xbb\xbf", b"\xff\xfe", b"\0", b"[", b"\\", b'"')) + written
        case _:
            return written


def _with_other_value(rng: Random, value: Any) -> Any:
    """A copy with one value, anywhere in it, replaced, doubled, renamed or taken away."""
    if rng.random() < 0.25 or not isinstance(value, dict | list) or not value:
        return rng.choice(_VALUES) if rng.random() < 0.8 else [value, value]
    if isinstance(value, list):
        at = rng.randrange(len(value))
        return [*value[:at], _with_other_value(rng, value[at]), *value[at + 1 :]]
    key = rng.choice(list(value))
    match rng.randrange(6):
        case 0:
            return {other: found for other, found in value.items() if other != key}
        case 1:
            new = str(rng.choice(_VALUES))
            return {new if other == key else other: found for other, found in value.items()}
        case _:
            return {**value, key: _with_other_value(rng, value[key])}
