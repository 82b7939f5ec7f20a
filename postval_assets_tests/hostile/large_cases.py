"""Zip files whose fields of 64 bits lie, at their end and in single entries; and two that do not."""

from __future__ import annotations

import struct

from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.zip_bytes import FOLDER, Part, archive, good_model, writes

REFUSED, QUARANTINED, ACCEPTED = Outcome.REFUSED, Outcome.QUARANTINED, Outcome.ACCEPTED

_SPY = f"{FOLDER}SPY_1Hour.pt"
_MARK = 0xFFFFFFFF


def _model(**changes: object) -> bytes:
    """A second model, SPY, one of whose fields lies."""
    return archive(Part(_SPY, good_model(), **changes))  # type: ignore[arg-type]


def _large(size: int | None = None, packed: int | None = None, offset: int | None = None) -> bytes:
    """The extra field of 64-bit numbers, those that are given."""
    numbers = b"".join(struct.pack("<Q", n) for n in (size, packed, offset) if n is not None)
    return struct.pack("<HH", 1, len(numbers)) + numbers


_ZIP64 = (
    ("an honest 64-bit end record", lambda: archive(large={}), ACCEPTED, ""),
    (
        "an honest 64-bit end record, and marks in the other one",
        lambda: archive(
            large={}, end={"n_here": 0xFFFF, "n_entries": 0xFFFF, "size_bytes": _MARK, "offset": _MARK}
        ),
        ACCEPTED,
        "",
    ),
    (
        "a 64-bit end record with a directory of a gigabyte",
        lambda: archive(large={"size_bytes": 2**30}, end={"size_bytes": _MARK}),
        REFUSED,
        "directory of .* takes 1073741824 bytes; at most 5000 entries are read",
    ),
    (
        "a 64-bit end record of 2^60 entries",
        lambda: archive(
            large={"n_here": 2**60, "n_entries": 2**60}, end={"n_here": 0xFFFF, "n_entries": 0xFFFF}
        ),
        REFUSED,
        "has 1152921504606846976 entries; at most 5000 are read",
    ),
    (
        "two end records that contradict each other",
        lambda: archive(large={"n_here": 1, "n_entries": 1}),
        REFUSED,
        r"two end records of .* contradict each other \(2 and 1\)",
    ),
    (
        "a 64-bit end record that is said to be elsewhere",
        lambda: archive(large={"at": 7}),
        REFUSED,
        r"64-bit end record of .* is not where it is said to be \(byte 7\)",
    ),
    (
        "a 64-bit end record longer than itself",
        lambda: archive(large={"record_bytes": 2**40}),
        REFUSED,
        "says it takes 1099511627776 bytes; expected 44",
    ),
    (
        "a 64-bit end record on another disk",
        lambda: archive(large={"n_disks": 3}),
        REFUSED,
        "multi-part archive",
    ),
    (
        "a size of 64 bits that is not there",
        lambda: _model(listed={"size_bytes": _MARK}),
        REFUSED,
        f"is not a complete zip file: {_SPY} has numbers of 64 bits that are not there",
    ),
    (
        "a size of 2^60 bytes",
        lambda: _model(listed={"size_bytes": _MARK, "extra": _large(size=2**60)}),
        QUARANTINED,
        "it unpacks to 1152921504606846976 bytes; at most 2147483648",
    ),
    (
        "a packed size of 2^62 bytes",
        lambda: _model(listed={"packed_bytes": _MARK, "extra": _large(packed=2**62)}),
        REFUSED,
        f"overlap: {_SPY} would reach to byte 4611686018427",
    ),
    (
        "an offset of 2^63 bytes",
        lambda: _model(listed={"offset": _MARK, "extra": _large(offset=2**63)}),
        REFUSED,
        f"overlap: {_SPY} would reach to byte 9223372036854",
    ),
)

CASES: tuple[Case, ...] = tuple(
    Case(name, "64-bit fields", writes(make), expected, says) for name, make, expected, says in _ZIP64
)
