"""Checkpoints whose zip file can be read in two ways, or holds what torch.save never writes.

Here: records, directories and end records. Not here: what the instructions say (the other modules of cases).

Several of these show one thing to Python's zip library and another to torch's: honest instructions to the one, and to
the other some that ask for more than dense tensors.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.checkpoint_bytes import (
    START,
    STOP,
    STORAGES,
    call,
    file_of,
    instructions,
    number,
    parts,
    writes,
)
from postval_assets_tests.hostile.code_cases import COMMAND
from postval_assets_tests.hostile.zip_bytes import DEFLATED, STORED, Part, zip_bytes

# Allowed by torch's own list, and forty gigabytes.
_SMUGGLED = START + call("builtins.bytearray", number(40 * 2**30)) + STOP
_HONEST = instructions()
_BIG = 2**32 - 1


def _zip(*more: Part, records: Sequence[Part] | None = None, **changes: Any) -> bytes:
    return zip_bytes([*(parts(_HONEST) if records is None else records), *more], **changes)


def _changed(position: int, **changes: Any) -> list[Part]:
    """The honest records, one of them otherwise: 0 the instructions, 3 the first storage."""
    records = parts(_HONEST)
    return [*records[:position], replace(records[position], **changes), *records[position + 1 :]]


def _part(name: str | bytes, content: bytes = b"a", **changes: Any) -> Part:
    return Part(name, content, STORED, **changes)


def with_locator_elsewhere(smuggled: bytes = _SMUGGLED) -> bytes:
    """Python looks for the 64-bit end record right before its locator; torch goes where the locator says.

    The locator stands at the end of the last line of the honest directory, as an extra field of it.
    """
    first = zip_bytes(parts(smuggled), large={})
    body = first[: len(first) - 42]
    locator = struct.pack("<2H", 0xCAFE, 20) + struct.pack("<4sIQI", b"PK\x06\x07", 0, len(body) - 56, 1)
    *honest, last = parts(_HONEST)
    return zip_bytes([*honest, replace(last, listed={"extra": locator})], before=body, shifted=True)


def with_other_letters(smuggled: bytes = _SMUGGLED) -> bytes:
    """Python tells data.pkl from DATA.PKL; torch does not, and takes the one that its sorting brings first."""
    return _zip(records=[*parts(_HONEST)[:2], _part("archive/DATA.PKL", smuggled), *parts(_HONEST)[2:]])


def _big_endian() -> bytes:
    swapped = {
        key: np.frombuffer(content, "<f4").astype(">f4").tobytes() for key, content in STORAGES.items()
    }
    return file_of(storages=swapped, side={"byteorder": b"big"})


def _overlapping() -> bytes:
    """Two storages in the same bytes: the directory sends both names to one place."""
    records = parts(_HONEST)
    at = sum(30 + len(str(part.name)) + len(part.content) for part in records[:3])
    return _zip(records=_changed(5, listed={"offset": at}))


def _nested() -> bytes:
    """A storage that stands inside another one's bytes, header and all."""
    inner = zip_bytes([_part("archive/data/9", b"abcd")])[: 30 + 14 + 4]
    records = parts(_HONEST, {**STORAGES, "8": inner})
    at = (
        sum(30 + len(str(part.name)) + len(part.content) for part in records[:7]) + 30 + len("archive/data/8")
    )
    # Its line in the directory alone: the record has no bytes of its own.
    return zip_bytes([*records, _part("archive/data/9", b"abcd", listed={"offset": at})])


_REFUSED: tuple[tuple[str, Callable[[], bytes], str], ...] = (
    (
        "instructions twice",
        lambda: _zip(_part("archive/data.pkl", _SMUGGLED)),
        "two records of the same name",
    ),
    (
        "instructions in other letters",
        with_other_letters,
        "two records of the same name",
    ),
    (
        "instructions in other letters, first",
        lambda: _zip(records=[_part("archive/Data.pkl", _SMUGGLED), *parts(_HONEST)]),
        "two records of the same name",
    ),
    (
        "instructions in another folder",
        lambda: _zip(_part("other/data.pkl", _SMUGGLED)),
        "one data.pkl in one folder",
    ),
    ("the folder in other letters", lambda: _zip(_part("ARCHIVE/data/9")), "not in the folder of data.pkl"),
    (
        "instructions two folders deep",
        lambda: _zip(records=parts(_HONEST, folder="a/b")),
        "one data.pkl in one folder",
    ),
    ("no instructions", lambda: _zip(records=parts(_HONEST)[1:]), "one data.pkl in one folder"),
    (
        "compressed instructions",
        lambda: _zip(records=_changed(0, method=DEFLATED)),
        "compressed or encrypted",
    ),
    (
        "compressed storage",
        lambda: _zip(records=_changed(3, method=DEFLATED)),
        "data/0 is compressed or encrypted",
    ),
    ("encrypted instructions", lambda: _zip(records=_changed(0, flags=1)), "compressed or encrypted"),
    ("strongly encrypted storage", lambda: _zip(records=_changed(3, flags=0x41)), "compressed or encrypted"),
    (
        "a patch instead of instructions",
        lambda: _zip(records=_changed(0, flags=0x20)),
        "compressed or encrypted",
    ),
    (
        "instructions under another name where they stand",
        lambda: _zip(records=_changed(0, own={"name": b"archive/data.pk1"})),
        "called otherwise where it stands",
    ),
    (
        "a storage under another name where it stands",
        lambda: _zip(records=_changed(3, own={"name": b"archive/data/7"})),
        "called otherwise where it stands",
    ),
    (
        "a storage compressed where it stands",
        lambda: _zip(records=_changed(3, own={"method": 8})),
        "called otherwise where it stands",
    ),
    (
        "a wrong checksum of the instructions",
        lambda: _zip(records=_changed(0, own={"crc": 7}, listed={"crc": 7})),
        "CRC",
    ),
    (
        "instructions longer than they are",
        lambda: _zip(records=_changed(0, listed={"packed_bytes": 9**6, "size_bytes": 9**6})),
        "overlaps with the one before",
    ),
    (
        "instructions unpacking to more than is packed",
        lambda: _zip(records=_changed(0, listed={"size_bytes": 9**6})),
        "bytes but says",
    ),
    (
        "a storage that reaches into the directory",
        lambda: _zip(records=_changed(6, listed={"packed_bytes": 9**3, "size_bytes": 9**3})),
        "overlaps|reaches into its directory",
    ),
    ("two storages in the same place", _overlapping, "overlaps with the one before"),
    ("a storage inside a storage", _nested, "overlaps with the one before"),
    (
        "a record before the file's start",
        lambda: _zip(records=_changed(3, listed={"offset": 2**31})),
        "overlaps|not a file of torch.save",
    ),
    (
        "a size stated twice",
        lambda: _zip(records=_changed(3, listed={"extra": struct.pack("<2HQ2HQ", 1, 8, 4, 1, 8, 9)})),
        "states its size twice",
    ),
    (
        "extra fields that do not end",
        lambda: _zip(records=_changed(3, listed={"extra": struct.pack("<2H", 7, 99)})),
        "states its size twice|not a file of torch.save",
    ),
    (
        "a 64-bit place beyond the file",
        lambda: _zip(records=_changed(3, listed={"offset": _BIG, "extra": struct.pack("<2HQ", 1, 8, 2**62)})),
        "overlaps|directory points outside|not a file",
    ),
    ("another directory, by the locator's word", with_locator_elsewhere, "64-bit end record is not where"),
    (
        "two zip files one after the other",
        lambda: zip_bytes(parts(_SMUGGLED)) + _zip(),
        "does not lie right before its end",
    ),
    (
        "two end records that disagree",
        lambda: _zip(large={"offset": 0}),
        "disagree|does not lie right before",
    ),
    (
        "a 64-bit end record of another length",
        lambda: _zip(large={"record_bytes": 4444}),
        "not one of torch.save",
    ),
    ("an end record that speaks of another file", lambda: _zip(end={"n_here": 1}), "speaks of another file"),
    ("more records said than there are", lambda: _zip(end={"n_here": 99, "n_entries": 99}), "says 99"),
    ("fewer records said than there are", lambda: _zip(end={"n_here": 1, "n_entries": 1}), "says 1"),
    ("a directory elsewhere", lambda: _zip(end={"offset": 0}), "does not lie right before its end"),
    (
        "a directory of four gigabytes",
        lambda: _zip(end={"size_bytes": _BIG}),
        "does not lie right before its end",
    ),
    ("something before the zip file", lambda: _zip(before=b"#!/bin/sh\n"), "does not begin with a record"),
    (
        "a record's mark before the zip file",
        lambda: _zip(before=b"PK\x03\x04" * 9),
        "does not lie right before its end",
    ),
    (
        "something after the zip file",
        lambda: _zip(after=b"more"),
        "does not end with the end of its directory",
    ),
    ("a comment", lambda: _zip(comment=b"PK\x05\x06" + bytes(18)), "does not end|right before its end"),
    ("only an end record", lambda: zip_bytes([]), "does not begin with a record"),
    ("cut in the middle", lambda: file_of()[:4000], "cut short"),
    (
        "a path that climbs",
        lambda: _zip(_part("archive/../../etc/passwd")),
        "has a name that torch.save never writes",
    ),
    ("an absolute path", lambda: _zip(_part("/etc/passwd")), "has a name that torch.save never writes"),
    ("backslashes", lambda: _zip(_part("archive\\data\\9")), "has a name that torch.save never writes"),
    (
        "a NUL in a name",
        lambda: _zip(_part(b"archive/data/9\0.txt")),
        "has a name that torch.save never writes",
    ),
    (
        "a terminal code in a name",
        lambda: _zip(_part("archive/data/\x1b[2J")),
        "has a name that torch.save never writes",
    ),
    (
        "a name that is no text",
        lambda: _zip(_part(b"archive/data/\xff\xfe")),
        "has a name that torch.save never writes",
    ),
    (
        "a name of 60000 letters",
        lambda: _zip(_part("archive/data/" + "a" * 60_000)),
        "file name too long|bytes of directory|torch.save never writes",
    ),
    (
        "a folder's own record",
        lambda: _zip(_part("archive/", b"")),
        "has a name that torch.save never writes",
    ),
    (
        "five megabytes of instructions",
        lambda: file_of(START + b"N" * (5 * 2**20) + STOP),
        "instructions take",
    ),
    (
        "twenty thousand records and one",
        lambda: _zip(*(_part(f"archive/data/x{n}", b"") for n in range(20_001))),
        "at most 20000 records",
    ),
    (
        "a byte order of a megabyte",
        lambda: file_of(side={"byteorder": b"little" * 200_000}),
        "byteorder takes 1200000 bytes",
    ),
    ("a byte order that there is not", lambda: file_of(side={"byteorder": b"middle"}), "endianness"),
    (
        "a byte order that is no text",
        lambda: file_of(side={"byteorder": b"\xff\x1b[2J"}),
        "not a readable checkpoint",
    ),
    ("no version", lambda: file_of(side={"version": None}), "not a readable checkpoint"),
    (
        "a version that is no number",
        lambda: file_of(side={"version": b"three\n"}),
        "not a readable checkpoint",
    ),
    ("a version of 400 digits", lambda: file_of(side={"version": b"9" * 400}), "not a readable checkpoint"),
    ("a version of the future", lambda: file_of(side={"version": b"4000\n"}), "not a readable checkpoint"),
    (
        "an alignment that is no number",
        lambda: file_of(side={".storage_alignment": b"os.system"}),
        "not a readable checkpoint",
    ),
    (
        "a missing storage",
        lambda: file_of(storages={k: v for k, v in STORAGES.items() if k != "0"}),
        "no storage '0'",
    ),
    (
        "a shorter storage",
        lambda: file_of(storages={**STORAGES, "0": STORAGES["0"][:-4]}),
        "there are 8476 bytes of it",
    ),
    ("an empty storage", lambda: file_of(storages={**STORAGES, "0": b""}), "there are 0 bytes of it"),
    ("the marks of a program", lambda: _zip(_part("archive/constants.pkl")), "TorchScript program"),
    (
        "code beside the instructions, of a megabyte",
        lambda: _zip(_part("archive/code/evil.py", COMMAND.encode() * 50_000)),
        "at most 65536 are read",
    ),
)

_ACCEPTED: tuple[tuple[str, Callable[[], bytes], str], ...] = (
    ("an honest file", file_of, "first weight 0.012573"),
    ("an honest file with 64-bit end records", lambda: file_of(large={}), "first weight 0.012573"),
    ("an honest file of a machine of the other byte order", _big_endian, "first weight 0.012573"),
    (
        "a storage longer than it is stated",
        lambda: file_of(storages={**STORAGES, "0": STORAGES["0"] + bytes(99)}),
        "read",
    ),
    (
        "a storage that nobody uses",
        lambda: file_of(storages={**STORAGES, "evil.sh": COMMAND.encode()}),
        "read",
    ),
    ("code beside the instructions", lambda: _zip(_part("archive/code/evil.py", COMMAND.encode())), "read"),
    (
        "a symbolic link for a record",
        lambda: _zip(_part("archive/data/9", b"/etc/passwd", listed={"attributes": 0o120777 << 16})),
        "read",
    ),
    ("a device's name for a record", lambda: _zip(_part("archive/CON")), "read"),
    (
        "attributes of an executable",
        lambda: _zip(records=_changed(0, listed={"attributes": 0o104777 << 16})),
        "read",
    ),
    (
        "offsets to be computed, that are wrong",
        lambda: file_of(side={".storage_alignment": b"7"}),
        "first weight 0.012573",
    ),
)

CASES = [
    *(
        Case(f"container: {what}", "containers", writes(make), Outcome.REFUSED, says)
        for what, make, says in _REFUSED
    ),
    *(
        Case(f"container: {what}", "containers", writes(make), Outcome.ACCEPTED, says)
        for what, make, says in _ACCEPTED
    ),
]
