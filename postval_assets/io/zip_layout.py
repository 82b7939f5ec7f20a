"""Where a zip file keeps what, read so that it has one meaning only.

Here: the records at a file's end, the walk over its directory, the place of every entry, and an entry's own header.
Not here: inflating (archive_file.py), or what the names mean (core/archive.py).

Python's zipfile forgives a lot: data before and after, parts of several disks, a directory that says something else
than its end record, entries that lie over each other. Programs that forgive differently see different content in
such a file, so it is not read at all. The layout is that of PKWARE's APPNOTE 6.3.10, sections 4.3.7 (an entry's own
header), 4.3.12 (directory) and 4.3.14 to 4.3.16 (end records).
"""

from __future__ import annotations

import itertools
import struct
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import BinaryIO

from postval_assets.core.archive import shown
from postval_assets.core.failures import Rejected

_END = b"PK\x05\x06"
_END_BYTES = 22
_LOCATOR_64 = b"PK\x06\x07"
_END_64 = b"PK\x06\x06"
_LOCATOR_64_BYTES, _END_64_BYTES = 20, 56
_LINE = b"PK\x01\x02"
_LINE_BYTES = 46
_OWN_HEADER = b"PK\x03\x04"
_OWN_HEADER_BYTES = 30
_MAX_COMMENT_BYTES = 65_535
_LARGE_NUMBERS = 1
_MARK_16, _MARK_32 = 0xFFFF, 0xFFFFFFFF

# A line of the directory: 46 bytes, a name and extra fields. Bounds what opening a hostile file costs.
_DIRECTORY_BYTES_PER_ENTRY = 1_024
_MAX_NAME_BYTES = 1_024
_FLAG_ENCRYPTED, _FLAG_SIZES_FOLLOW, _FLAG_UTF8 = 1, 8, 0x800


@dataclass(frozen=True)
class Directory:
    """Where the directory lies.

    Attributes:
        offset: its first byte in the file.
        size_bytes: all its lines together.
        n_entries: lines in it.
    """

    offset: int
    size_bytes: int
    n_entries: int


def find_directory(file: BinaryIO, size_bytes: int, max_entries: int, file_name: str) -> Directory:
    """The directory by the records at the end of the file, which have to agree with each other and with its size.

    Raises:
        zipfile.BadZipFile: the end is not that of a complete zip file.
        Rejected: it is, and says something that is not read.
    """
    first = max(0, size_bytes - _MAX_COMMENT_BYTES - _END_BYTES - _LOCATOR_64_BYTES - _END_64_BYTES)
    file.seek(first)
    tail = file.read(size_bytes - first)
    end = tail.rfind(_END)
    if end < 0 or len(tail) - end < _END_BYTES:
        raise zipfile.BadZipFile("there is no end of a directory")
    n_after = len(tail) - end - _END_BYTES - _comment_bytes(tail, end)
    if n_after:
        what = f"{n_after} bytes follow" if n_after > 0 else f"{-n_after} bytes are missing after"
        raise zipfile.BadZipFile(f"{what} the end of its directory")
    _refuse_second_end(tail, end, file_name)
    disk, first_disk, n_here, n_entries, directory_bytes, offset = struct.unpack_from(
        "<HHHHII", tail, end + 4
    )
    stated = (n_entries, directory_bytes, offset)
    if end >= _LOCATOR_64_BYTES and tail[end - _LOCATOR_64_BYTES : end].startswith(_LOCATOR_64):
        at = end - _LOCATOR_64_BYTES
        disks, (n_here, n_entries, directory_bytes, offset) = _large_end(tail, at, first, file_name)
        for small, mark, large in zip(
            stated, (_MARK_16, _MARK_32, _MARK_32), (n_entries, directory_bytes, offset), strict=True
        ):
            if small not in (mark, large):
                raise Rejected(
                    f"the two end records of {file_name} contradict each other ({small} and {large}); "
                    "expected the same numbers in both"
                )
        parts = (*disks, 0 if disk == _MARK_16 else disk, 0 if first_disk == _MARK_16 else first_disk)
        end = at - _END_64_BYTES
    else:
        parts = (disk, first_disk)
    if any(parts) or n_here != n_entries:
        raise Rejected(f"{file_name} is one part of a multi-part archive; expected a single file")
    if n_entries > max_entries:
        raise Rejected(f"{file_name} has {n_entries} entries; at most {max_entries} are read")
    if directory_bytes > max_entries * _DIRECTORY_BYTES_PER_ENTRY:
        raise Rejected(
            f"the directory of {file_name} takes {directory_bytes} bytes; "
            f"at most {max_entries} entries are read"
        )
    if offset + directory_bytes != first + end:
        raise zipfile.BadZipFile(
            f"the directory should end at byte {offset + directory_bytes} and ends at {first + end}: "
            "data stand before the first entry, or some are missing"
        )
    return Directory(offset, directory_bytes, n_entries)


def check_directory(file: BinaryIO, directory: Directory, file_name: str) -> None:
    """Walk over all lines of the directory: as many as the end record says, and nothing else.

    Raises:
        zipfile.BadZipFile: its bytes are not those of a directory.
        Rejected: one line says something that is not read; it is named.
    """
    file.seek(directory.offset)
    content = file.read(directory.size_bytes)
    at = 0
    for number in range(1, directory.n_entries + 1):
        if content[at : at + 4] != _LINE or len(content) - at < _LINE_BYTES:
            raise zipfile.BadZipFile(f"line {number} of {directory.n_entries} of its directory is damaged")
        flags = struct.unpack_from("<H", content, at + 8)[0]
        name_bytes, extra_bytes, comment_bytes, disk = struct.unpack_from("<HHHH", content, at + 28)
        name = content[at + _LINE_BYTES : at + _LINE_BYTES + name_bytes]
        _check_name(name, flags, file_name)
        extra = content[at + _LINE_BYTES + name_bytes : at + _LINE_BYTES + name_bytes + extra_bytes]
        numbers = (
            *struct.unpack_from("<II", content, at + 20),
            struct.unpack_from("<I", content, at + 42)[0],
        )
        if _MARK_32 in numbers and not _has_large_numbers(extra):
            raise zipfile.BadZipFile(
                f"{shown(name.decode('latin-1'))} has numbers of 64 bits that are not there"
            )
        if disk not in (0, _MARK_16):
            raise Rejected(
                f"{shown(name.decode('latin-1'))} in {file_name} begins in part {disk + 1} of a multi-part "
                "archive; expected a single file"
            )
        at += _LINE_BYTES + name_bytes + extra_bytes + comment_bytes
    if at != directory.size_bytes:
        raise zipfile.BadZipFile(
            f"its directory has {directory.size_bytes} bytes; its {directory.n_entries} lines take {at}"
        )


def ends_of_entries(
    entries: Sequence[zipfile.ZipInfo], directory: Directory, file_name: str
) -> tuple[int, ...]:
    """Where the bytes of each entry end at the latest: at the next entry's header, or at the directory.

    Raises:
        Rejected: entries lie over each other or over the directory, or data stand before the first one.
    """
    order = sorted(range(len(entries)), key=lambda position: entries[position].header_offset)
    ends = [directory.offset] * len(entries)
    if order and entries[order[0]].header_offset != 0:
        raise Rejected(
            f"{entries[order[0]].header_offset} bytes stand before the first entry of {file_name}; "
            "expected a zip file and nothing else"
        )
    for position, following in itertools.zip_longest(order, order[1:]):
        entry = entries[position]
        ends[position] = directory.offset if following is None else entries[following].header_offset
        # The directory's name stands in the entry's own header too, at least as long.
        least = entry.header_offset + _OWN_HEADER_BYTES + entry.compress_size
        if least > ends[position]:
            other = "the directory" if following is None else shown(entries[following].orig_filename)
            raise Rejected(
                f"entries of {file_name} overlap: {shown(entry.orig_filename)} would reach to byte {least}, "
                f"{other} begins at {ends[position]}; expected entries one after the other"
            )
    return tuple(ends)


def own_header_problem(file: BinaryIO, entry: zipfile.ZipInfo, end: int) -> str | None:
    """What an entry's own header says otherwise than the directory; None where they agree.

    Args:
        file: the archive.
        entry: as the directory has it.
        end: where its bytes end at the latest.
    """
    file.seek(entry.header_offset)
    header = file.read(_OWN_HEADER_BYTES)
    if len(header) < _OWN_HEADER_BYTES or not header.startswith(_OWN_HEADER):
        return "there is no entry where the directory says"
    flags, method = struct.unpack_from("<HH", header, 6)
    checksum, compressed_bytes, size_bytes = struct.unpack_from("<III", header, 14)
    name_bytes, extra_bytes = struct.unpack_from("<HH", header, 26)
    for what, own, listed in (
        ("encryption", flags & _FLAG_ENCRYPTED, entry.flag_bits & _FLAG_ENCRYPTED),
        ("compression method", method, entry.compress_type),
        ("checksum", checksum, entry.CRC),
        ("compressed size", compressed_bytes, entry.compress_size),
        ("size", size_bytes, entry.file_size),
    ):
        # A writer that could not go back leaves zeros there, one of large files a mark: only the directory knows.
        unsaid = what in ("compressed size", "size") and own == _MARK_32
        unsaid |= (
            bool(flags & _FLAG_SIZES_FOLLOW) and own == 0 and what not in ("encryption", "compression method")
        )
        if own != listed and not unsaid:
            return f"its own header says {what} {own}, the directory says {listed}"
    if entry.header_offset + _OWN_HEADER_BYTES + name_bytes + extra_bytes + entry.compress_size > end:
        return "it overlaps the next entry"
    return None


def _comment_bytes(tail: bytes, end: int) -> int:
    found: int = struct.unpack_from("<H", tail, end + 20)[0]
    return found


def _refuse_second_end(tail: bytes, end: int, file_name: str) -> None:
    """Another end record whose comment reaches to the end of the file would give the file a second meaning."""
    at = tail.find(_END)
    while 0 <= at < end:
        if at + _END_BYTES + _comment_bytes(tail, at) == len(tail):
            raise Rejected(f"{file_name} has two ends of a directory; expected one")
        at = tail.find(_END, at + 1)


def _large_end(
    tail: bytes, locator: int, first: int, file_name: str
) -> tuple[tuple[int, ...], tuple[int, int, int, int]]:
    """The 64-bit end record: numbers that are above 0 in a multi-part archive, then entries, size and offset."""
    at = locator - _END_64_BYTES
    its_disk, stated_at, n_disks = struct.unpack_from("<IQI", tail, locator + 4)
    if at < 0 or not tail[at:].startswith(_END_64) or stated_at != first + at:
        raise Rejected(
            f"the 64-bit end record of {file_name} is not where it is said to be (byte {stated_at}); "
            "expected it right before the end"
        )
    record_bytes, disk, first_disk, n_here, n_entries, directory_bytes, offset = struct.unpack_from(
        "<Q4xIIQQQQ", tail, at + 4
    )
    if record_bytes != _END_64_BYTES - 12:
        raise Rejected(
            f"the 64-bit end record of {file_name} says it takes {record_bytes} bytes; "
            f"expected {_END_64_BYTES - 12}"
        )
    return (its_disk, max(0, n_disks - 1), disk, first_disk), (n_here, n_entries, directory_bytes, offset)


def _has_large_numbers(extra: bytes) -> bool:
    """Whether one of an entry's extra fields is that of 64-bit numbers."""
    at = 0
    while at + 4 <= len(extra):
        kind, n_bytes = struct.unpack_from("<HH", extra, at)
        if kind == _LARGE_NUMBERS:
            return True
        at += 4 + int(n_bytes)
    return False


def _check_name(name: bytes, flags: int, file_name: str) -> None:
    as_text = shown(name.decode("latin-1"))
    if len(name) > _MAX_NAME_BYTES:
        raise Rejected(
            f"an entry of {file_name} has a name of {len(name)} bytes ({as_text}...); "
            f"at most {_MAX_NAME_BYTES} are read"
        )
    if flags & _FLAG_UTF8:
        try:
            name.decode("utf-8")
        except UnicodeDecodeError:
            raise Rejected(
                f"the name {as_text} in {file_name} is said to be UTF-8 and is not; expected UTF-8"
            ) from None
