"""The zip file that ``torch.save`` writes, held against the one form it has.

Here: which records there are, how large, and the pickle among them. Not here: what the pickle asks for
(torch_instructions.py), or loading it (torch_file.py).

Two zip libraries read a checkpoint: Python's, here, and torch's own. Where a file can be read in two ways
they might see different instructions, and what was checked would not be what is loaded. So everything that
can be read in two ways is turned away: data before or after, a second directory, records that overlap,
names that differ only in case, or that differ between the directory and the record.
"""

from __future__ import annotations

import errno
import struct
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import BinaryIO

from postval_assets.core.failures import Rejected, Unavailable

# A checkpoint's instructions take a few kilobytes; the numbers lie beside them.
MAX_INSTRUCTION_BYTES = 4 * 2**20
_MAX_RECORDS = 20_000
_MAX_DIRECTORY_BYTES = _MAX_RECORDS * 256
# Records beside instructions and storages hold a version, a byte order, a number.
_MAX_SIDE_RECORD_BYTES = 2**16
# A folder called like the file, and a storage's number.
_MAX_NAME = 400

_RECORD_START = b"PK\x03\x04"
_END = struct.Struct("<4s4H2LH")
_LOCATOR = struct.Struct("<4sLQL")
_LARGE_END = struct.Struct("<4sQ2H2L4Q")
_LOCAL = struct.Struct("<4s5H3L2H")
_ZIP64_FIELD = 1
# Sizes behind the data, and names in UTF-8: what torch.save sets. Encryption and patches are other bits.
_KNOWN_FLAGS = 0x0808
# Sizes of these may stand elsewhere, in the 64-bit fields.
_ELSEWHERE = {"H": 0xFFFF, "L": 0xFFFFFFFF}

_NOT_ONE = "is not a file of torch.save, or it is cut short"


@dataclass(frozen=True)
class TorchContainer:
    """What one file holds.

    Attributes:
        instructions: the pickle.
        storages: bytes of each storage by its key.
    """

    instructions: bytes
    storages: Mapping[str, int]


def read_container(path: Path) -> TorchContainer:
    """The records of a file of ``torch.save``.

    Raises:
        Rejected: another format, damaged, or a container that could be read in two ways.
        Unavailable: the operating system could not read the file.
    """
    name = path.name
    try:
        with path.open("rb") as file:
            size_bytes = file.seek(0, 2)
            _check_head(name, file)
            n_records, directory_at = _directory(name, file, size_bytes)
            with zipfile.ZipFile(file) as container:
                records = container.infolist()
                if len(records) != n_records:
                    raise Rejected(
                        f"{name} has {len(records)} records but says {n_records}: it could be read in two ways"
                    )
                found = _instruction_record(name, records)
                _check_places(name, file, records, directory_at)
                instructions = container.read(found)
    except (
        zipfile.BadZipFile,
        EOFError,
        ValueError,
        NotImplementedError,
        RuntimeError,
        struct.error,
    ) as error:
        raise Rejected(f"{name} {_NOT_ONE}: {ascii(str(error))[:120]}") from error
    except OSError as error:
        raise unread(path, error) from error
    folder = found.filename.removesuffix("data.pkl")
    storages = {
        record.filename.removeprefix(f"{folder}data/"): record.file_size
        for record in records
        if record.filename.startswith(f"{folder}data/")
    }
    return TorchContainer(instructions, MappingProxyType(storages))


def unread(path: Path, error: OSError) -> Rejected | Unavailable:
    """The failure that an error of the operating system means for this file."""
    # A damaged directory sends the reader to places that no file has; that will not pass by itself.
    if error.errno in {errno.EINVAL, errno.EOVERFLOW}:
        return Rejected(f"{path.name} is not a file of torch.save: its directory points outside the file")
    return Unavailable(f"{path.name} could not be read: {error}")


def _check_head(name: str, file: BinaryIO) -> None:
    file.seek(0)
    head = file.read(4)
    if head[:1] == b"\x80":
        raise Rejected(
            f"{name} is in the format that torch wrote before 1.6; save it again with a current torch.save"
        )
    if head != _RECORD_START:
        raise Rejected(f"{name} {_NOT_ONE}: it does not begin with a record")


def _directory(name: str, file: BinaryIO, size_bytes: int) -> tuple[int, int]:
    """How many records the end record speaks of, and where the directory starts."""
    tail_bytes = min(size_bytes, _END.size + _LOCATOR.size + _LARGE_END.size)
    file.seek(size_bytes - tail_bytes)
    tail = file.read(tail_bytes)
    if len(tail) < _END.size or not tail[-_END.size :].startswith(b"PK\x05\x06") or tail[-2:] != b"\0\0":
        raise Rejected(f"{name} {_NOT_ONE}: it does not end with the end of its directory")
    _, disk, first_disk, here, n_records, n_bytes, start, _ = _END.unpack(tail[-_END.size :])
    end = size_bytes - _END.size
    stated = (n_records, n_bytes, start)
    locator = tail[-_END.size - _LOCATOR.size : -_END.size]
    if locator.startswith(b"PK\x06\x07"):
        end = size_bytes - tail_bytes
        n_records, n_bytes, start = _large_directory(name, tail, locator, end)
        agree = all(
            small in {large, _ELSEWHERE[kind]}
            for kind, small, large in zip("HLL", stated, (n_records, n_bytes, start), strict=True)
        )
        if not agree:
            raise _two_ways(name, "its two end records disagree")
    elif here != n_records:
        raise _two_ways(name, "its end record speaks of another file")
    if disk or first_disk or start + n_bytes != end:
        raise _two_ways(name, "its directory does not lie right before its end record")
    if n_records > _MAX_RECORDS or n_bytes > _MAX_DIRECTORY_BYTES:
        raise Rejected(
            f"{name} has {n_records} records in {n_bytes} bytes of directory; at most {_MAX_RECORDS} records "
            f"in {_MAX_DIRECTORY_BYTES} bytes are read"
        )
    return n_records, start


def _large_directory(name: str, tail: bytes, locator: bytes, end: int) -> tuple[int, int, int]:
    """What the 64-bit end record says, which has to stand right before its locator."""
    _, disk, place, _ = _LOCATOR.unpack(locator)
    if place != end or disk or not tail.startswith(b"PK\x06\x06") or len(tail) < _LARGE_END.size:
        raise _two_ways(name, "its 64-bit end record is not where both readers look for it")
    _, size, _, _, disk, first_disk, here, n_records, n_bytes, start = _LARGE_END.unpack(
        tail[: _LARGE_END.size]
    )
    if size != _LARGE_END.size - 12 or disk or first_disk or here != n_records:
        raise _two_ways(name, "its 64-bit end record is not one of torch.save")
    return n_records, n_bytes, start


def _instruction_record(name: str, records: Sequence[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    """The pickle's record, after every record's own line in the directory was looked at."""
    inside = {record.filename.partition("/")[2] for record in records}
    if "constants.pkl" in inside:
        raise Rejected(f"{name} is a TorchScript program; expected a dict written by torch.save")
    if inside & {"archive_format", "serialized_exported_program.json"}:
        raise Rejected(f"{name} is a program of torch.export; expected a dict written by torch.save")
    seen: set[str] = set()
    for record in records:
        # torch's reader takes data.pkl and DATA.PKL for the same.
        lowered = record.filename.lower()
        if lowered in seen:
            raise Rejected(
                f"{name} has two records of the same name ({_shown(record.filename)}), which torch.save never writes"
            )
        seen.add(lowered)
        problem = _problem(record)
        if problem:
            raise Rejected(f"{name}: its record {_shown(record.orig_filename)} {problem}")
    found = [record for record in records if record.filename.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1 or "data.pkl" not in inside:
        raise Rejected(f"{name} is a zip file but not one of torch.save: expected one data.pkl in one folder")
    _check_together(name, found[0], records)
    if found[0].file_size > MAX_INSTRUCTION_BYTES:
        raise Rejected(
            f"{name}: its instructions take {found[0].file_size} bytes; at most "
            f"{MAX_INSTRUCTION_BYTES} are read"
        )
    return found[0]


def _check_together(name: str, instructions: zipfile.ZipInfo, records: Sequence[zipfile.ZipInfo]) -> None:
    """All records are in the folder of the instructions, and none is too large."""
    folder = instructions.filename.removesuffix("data.pkl")
    for record in records:
        if not record.filename.startswith(folder):
            raise Rejected(
                f"{name}: its record {_shown(record.filename)} is not in the folder of data.pkl; "
                "torch.save writes one folder"
            )
        is_beside = record is not instructions and not record.filename.startswith(f"{folder}data/")
        if is_beside and record.file_size > _MAX_SIDE_RECORD_BYTES:
            raise Rejected(
                f"{name}: its record {_shown(record.filename)} takes {record.file_size} bytes; at most "
                f"{_MAX_SIDE_RECORD_BYTES} are read beside instructions and storages"
            )


def _problem(record: zipfile.ZipInfo) -> str | None:
    """What torch.save would not write of a record; None where there is nothing."""
    written = record.orig_filename
    parts = written.split("/")
    if (
        not (written.isascii() and written.isprintable() and written == record.filename)
        or "\\" in written
        or any(part in {"", ".", ".."} for part in parts)
        or len(written) > _MAX_NAME
    ):
        return "has a name that torch.save never writes; expected such as archive/data/0"
    if record.compress_type != zipfile.ZIP_STORED or record.flag_bits & ~_KNOWN_FLAGS:
        return "is compressed or encrypted, which torch.save never writes"
    if record.compress_size != record.file_size:
        return f"has {record.compress_size} bytes but says {record.file_size}"
    fields = _extra_fields(record.extra)
    if fields is None or fields.count(_ZIP64_FIELD) > 1:
        return "states its size twice, which torch.save never does"
    return None


def _extra_fields(extra: bytes) -> list[int] | None:
    """The kinds of a record's extra fields; None where they do not end where they should."""
    kinds: list[int] = []
    while len(extra) >= 4:
        kind, size = struct.unpack_from("<2H", extra)
        kinds.append(kind)
        if len(extra) < 4 + size:
            return None
        extra = extra[4 + size :]
    return kinds if not extra else None


def _check_places(name: str, file: BinaryIO, records: Sequence[zipfile.ZipInfo], directory_at: int) -> None:
    """Every record stands where the directory says, under its name, and reaches into no other."""
    end_before = 0
    for record in sorted(records, key=lambda record: record.header_offset):
        file.seek(record.header_offset)
        start = file.read(_LOCAL.size)
        if record.header_offset < end_before or len(start) < _LOCAL.size:
            raise _two_ways(name, f"its record {_shown(record.filename)} overlaps with the one before")
        signature, _, _, method, _, _, _, _, _, name_bytes, extra_bytes = _LOCAL.unpack(start)
        written = file.read(name_bytes)
        if (
            signature != _RECORD_START
            or method != zipfile.ZIP_STORED
            or written != record.orig_filename.encode("ascii")
        ):
            raise _two_ways(name, f"its record {_shown(record.filename)} is called otherwise where it stands")
        end_before = record.header_offset + _LOCAL.size + name_bytes + extra_bytes + record.file_size
    if end_before > directory_at:
        raise _two_ways(name, "its last record reaches into its directory")


def _two_ways(name: str, what: str) -> Rejected:
    return Rejected(f"{name} {_NOT_ONE}: {what}")


def _shown(record_name: str) -> str:
    return ascii(record_name)[1:-1][:80]
