"""Zip files whose structure lies: more than one meaning, parts of others, damage, passwords, unusual compression.

Not here: fields of 64 bits (large_cases.py), what is small and unpacks to a lot (bomb_cases.py), or hostile names
(name_cases.py).
"""

from __future__ import annotations

import bz2
import lzma
import struct
import zlib

from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.zip_bytes import (
    FOLDER,
    STORED,
    SUMMARY,
    Part,
    archive,
    good_model,
    good_parts,
    good_summary,
    writes,
    zip_bytes,
)

REFUSED, QUARANTINED, ACCEPTED = Outcome.REFUSED, Outcome.QUARANTINED, Outcome.ACCEPTED

_SPY = f"{FOLDER}SPY_1Hour.pt"
_METHODS = {
    1: b"",
    6: b"",
    9: b"",
    12: bz2.compress(b"x" * 100),
    14: lzma.compress(b"x"),
    93: b"",
    98: b"",
    99: b"",
}
_METHOD_NAMES = {
    1: "shrunk",
    6: "imploded",
    9: "deflate64",
    12: "bzip2",
    14: "lzma",
    93: "zstandard",
    98: "ppmd",
    99: "AES",
}


def _model(**changes: object) -> bytes:
    """A second model, SPY, one of whose fields lies."""
    return archive(Part(_SPY, good_model(), **changes))  # type: ignore[arg-type]


def _summary(**changes: object) -> bytes:
    """The summary's entry lies."""
    return zip_bytes([Part(SUMMARY, good_summary(), **changes), good_parts()[1]])  # type: ignore[arg-type]


def _garbled() -> bytes:
    packed = zlib.compressobj(6, zlib.DEFLATED, -15)
    found = bytearray(packed.compress(good_model()) + packed.flush())
    found[20:200] = b"\xff" * 180
    return _model(packed=bytes(found))


def _with_descriptor() -> bytes:
    """As a program writes that cannot go back: zeros in the entry's own header, the numbers behind the data."""
    content = good_model()
    numbers = struct.pack("<III", zlib.crc32(content), len(content), len(content))
    zeros = {"crc": 0, "packed_bytes": 0, "size_bytes": 0}
    return archive(Part(_SPY, content, STORED, flags=8, own=zeros, trailer=b"PK\x07\x08" + numbers))


def _inside(flags: int = 0) -> bytes:
    """A second directory line that points into the bytes of another entry."""
    inner = zip_bytes([Part(_SPY, good_model(), STORED)])
    outer = Part(f"{FOLDER}MSFT_1Hour.pt", inner, STORED)
    first = zip_bytes(good_parts())
    at = first.index(b"PK\x01\x02") + 30 + len(outer.name)
    return archive(outer, Part(_SPY, good_model(), STORED, flags, listed={"offset": at}))


def _padded() -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return _model(packed=packer.compress(good_model()) + packer.flush() + b"hidden" * 50)


def _two_ends() -> bytes:
    """The comment of one directory's end is another directory and its end: which one counts?"""
    other = zip_bytes([Part(_SPY, b"another archive altogether")])
    return archive(comment=other)


def _two_ends_same_file() -> bytes:
    """Two end records that both reach to the end of the file, each with a directory of its own."""
    data = archive()
    end = data[-22:]
    return data[:-2] + struct.pack("<H", 22) + end


def _case(name: str, family: str, make: object, expected: Outcome, says: str, **more: object) -> Case:
    return Case(name, family, writes(make), expected, says, **more)  # type: ignore[arg-type]


_SECRETS = (
    (
        "an encrypted model",
        lambda: _model(flags=1),
        QUARANTINED,
        "encrypted; expected an archive without a password",
    ),
    (
        "an encrypted summary",
        lambda: _summary(flags=1),
        REFUSED,
        f"{SUMMARY} cannot be read: it is encrypted",
    ),
    ("a strongly encrypted model", lambda: _model(flags=0x41), QUARANTINED, "it is encrypted"),
    ("a masked directory", lambda: _model(flags=0x2001), QUARANTINED, "it is encrypted"),
    (
        "a model that is encrypted by its own header alone",
        lambda: _model(own={"flags": 1}),
        QUARANTINED,
        "own header says encryption 1, the directory says 0",
    ),
    ("patched data", lambda: _model(flags=0x20), QUARANTINED, f"{_SPY} in .* is damaged: .*patched data"),
    (
        "the last part of several",
        lambda: archive(end={"disk": 3}),
        REFUSED,
        "one part of a multi-part archive",
    ),
    ("a directory on another disk", lambda: archive(end={"first_disk": 1}), REFUSED, "multi-part archive"),
    ("fewer entries here than in all", lambda: archive(end={"n_here": 1}), REFUSED, "multi-part archive"),
    (
        "an entry that begins on another disk",
        lambda: _model(listed={"disk": 4}),
        REFUSED,
        f"{_SPY} in .* begins in part 5 of a multi-part archive",
    ),
)

_DAMAGE = (
    (
        "a wrong checksum of a model",
        lambda: _model(own={"crc": 1}, listed={"crc": 1}),
        QUARANTINED,
        f"{_SPY} in .* is damaged: Bad CRC-32",
    ),
    (
        "a wrong checksum of the summary",
        lambda: _summary(own={"crc": 1}, listed={"crc": 1}),
        REFUSED,
        "Bad CRC-32",
    ),
    ("a damaged stream", _garbled, QUARANTINED, f"{_SPY} in .* is damaged"),
    (
        "an entry where the directory says there is none",
        lambda: _model(listed={"offset": 5}),
        REFUSED,
        f"overlap: .*{_SPY}|overlap: {SUMMARY}",
    ),
    (
        "a line too many in the end record",
        lambda: archive(end={"n_here": 3, "n_entries": 3}),
        REFUSED,
        "line 3 of 3 of its directory is damaged",
    ),
    (
        "a line too few in the end record",
        lambda: archive(end={"n_here": 1, "n_entries": 1}),
        REFUSED,
        r"its directory has \d+ bytes; its 1 lines take \d+",
    ),
    ("nothing at all", lambda: b"", REFUSED, "there is no end of a directory"),
    ("a program of Linux", lambda: b"\x7fELF" + bytes(5_000), REFUSED, "there is no end of a directory"),
    ("an end record alone", lambda: zip_bytes([]), REFUSED, "the archive has no training summary"),
    (
        "the first half of a file",
        lambda: archive()[: len(archive()) // 2],
        REFUSED,
        "not a complete zip file",
    ),
    (
        "a missing last byte",
        lambda: archive(comment=b"x" * 9)[:-1],
        REFUSED,
        "1 bytes are missing after the end",
    ),
)

_MEANINGS = (
    (
        "a program before the data",
        lambda: archive(before=b"MZ" * 50),
        REFUSED,
        "data stand before the first entry",
    ),
    (
        "a program before the data, counted in all offsets",
        lambda: archive(before=b"%PDF-1.7\n" * 9, shifted=True),
        REFUSED,
        "81 bytes stand before the first entry",
    ),
    ("data after the end", lambda: archive(after=b"#!/bin/sh\n" * 9), REFUSED, "90 bytes follow the end"),
    ("a comment", lambda: archive(comment=b"trained on a Tuesday"), ACCEPTED, ""),
    ("a comment that is an archive", _two_ends, REFUSED, "has two ends of a directory; expected one"),
    ("two end records one in the other", _two_ends_same_file, REFUSED, "has two ends of a directory"),
    (
        "an own header of another name",
        lambda: _model(own={"name": f"{FOLDER}QQQ_1Hour.pt".encode()}),
        QUARANTINED,
        f"{_SPY} in .* is damaged: File name in directory .*QQQ_1Hour",
    ),
    (
        "an own header of another method",
        lambda: _model(own={"method": STORED}),
        QUARANTINED,
        "own header says compression method 0, the directory says 8",
    ),
    (
        "an own header of another size",
        lambda: _model(own={"size_bytes": 5}),
        QUARANTINED,
        "own header says size 5",
    ),
    (
        "an own header of another packed size",
        lambda: _model(own={"packed_bytes": 7}),
        QUARANTINED,
        "own header says compressed size 7",
    ),
    (
        "an own header of another checksum",
        lambda: _model(own={"crc": 7}),
        QUARANTINED,
        "own header says checksum 7",
    ),
    (
        "an own header with a field that reaches into the next entry",
        lambda: archive(
            Part(_SPY, good_model(), own={"extra": b""}, listed={}), Part("notes.txt", b"x")
        ).replace(
            struct.pack("<2H", len(_SPY), 0) + _SPY.encode(),
            struct.pack("<2H", len(_SPY), 900) + _SPY.encode(),
            1,
        ),
        QUARANTINED,
        f"{_SPY} in .* is damaged: it overlaps the next entry",
    ),
    ("numbers that follow the data", _with_descriptor, ACCEPTED, ""),
    (
        "numbers that follow the data and are there before, otherwise",
        lambda: _model(flags=8, own={"size_bytes": 77}),
        QUARANTINED,
        "own header says size 77",
    ),
    ("bytes behind the end of a stream", _padded, ACCEPTED, ""),
    ("an entry inside of another one", _inside, REFUSED, f"overlap: .*{_SPY}"),
)

_TWICE = (
    (
        "one model twice by the same name",
        lambda: archive(Part(_SPY, good_model()), Part(_SPY, b"the other one")),
        QUARANTINED,
        "SPY 1Hour is in the archive 2 times: .*SPY_1Hour.pt and .*SPY_1Hour.pt; expected once",
    ),
    (
        "one model by a short and a long name",
        lambda: archive(Part(f"{FOLDER}SPY.pt", good_model()), Part(_SPY, good_model())),
        QUARANTINED,
        r"2 times: .*SPY\.pt and .*SPY_1Hour\.pt",
    ),
    (
        "one model with slashes and with backslashes",
        lambda: archive(Part(_SPY.replace("/", "\\"), good_model()), Part(_SPY, good_model())),
        QUARANTINED,
        "SPY 1Hour is in the archive 2 times",
    ),
    (
        "one model four hundred times",
        lambda: archive(*[Part(_SPY, b"x")] * 400),
        QUARANTINED,
        "400 times: .*and 397 more; expected once",
    ),
    (
        "a model here and below another folder",
        lambda: archive(Part(f"other/{FOLDER}AAPL_1Hour.pt", good_model())),
        QUARANTINED,
        f"it is not beside the summary {SUMMARY}",
    ),
    (
        "two summaries",
        lambda: archive(Part("training_summary_20250101_000000.json", good_summary())),
        REFUSED,
        f"2 training summaries, {SUMMARY} and .*: expected exactly one",
    ),
    ("one summary twice", lambda: archive(Part(SUMMARY, b"{}")), REFUSED, "2 training summaries"),
)


CASES: tuple[Case, ...] = (
    *(_case(name, "encrypted, multi-part", *rest) for name, *rest in _SECRETS),
    *(_case(name, "damage", *rest) for name, *rest in _DAMAGE),
    *(_case(name, "two meanings", *rest) for name, *rest in _MEANINGS),
    *(_case(name, "one name twice", *rest) for name, *rest in _TWICE),
    *(
        _case(
            f"a model packed by {_METHOD_NAMES[method]}",
            "compression methods",
            lambda method=method, packed=packed: _model(method=method, packed=packed or b"x" * 50),
            QUARANTINED,
            f"its compression method {method} is not read; expected stored or deflated",
        )
        for method, packed in _METHODS.items()
    ),
    _case(
        "a summary packed by lzma",
        "compression methods",
        lambda: _summary(method=14, packed=lzma.compress(good_summary())),
        REFUSED,
        f"{SUMMARY} cannot be read: its compression method 14 is not read",
    ),
    _case(
        "a version that nobody has written",
        "compression methods",
        lambda: _model(listed={"version": 255}),
        REFUSED,
        "not a complete zip file: zip file version 25.5",
    ),
)
