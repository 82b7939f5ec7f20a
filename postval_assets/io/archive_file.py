"""One zip file, opened without trusting it.

Here: its directory and bounded reads of single entries. Not here: which entries count (core/archive.py).
Nothing is ever written to a name that an archive chose.
"""

from __future__ import annotations

import errno
import struct
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from postval_assets.core.archive import ArchiveEntry, ArchiveLimits, ArchivePlan, plan_archive, shown
from postval_assets.core.failures import Rejected, Unavailable

_CHUNK_BYTES = 2**20
# A line of the directory: 46 bytes, a name and extra fields. Bounds what opening a hostile file costs.
_DIRECTORY_BYTES_PER_ENTRY = 1_024
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    ValueError,
    struct.error,
)


class Damaged(Rejected):
    """Not the bytes of a complete zip file: another format, damaged, or still being copied."""


@dataclass(frozen=True, eq=False)
class ArchiveFile:
    """An open archive.

    Attributes:
        path: where it is.
        plan: what counts in it.
    """

    path: Path
    plan: ArchivePlan
    _container: zipfile.ZipFile

    def read_summary(self) -> bytes:
        """The training summary's bytes.

        Raises:
            Damaged: its bytes, length or checksum are not what the directory says.
            Unavailable: the disk refused.
        """
        return b"".join(self._chunks(self.plan.summary))

    def copy_entry_to(self, entry: ArchiveEntry, target: Path) -> None:
        """Write one entry to ``target``, which must not exist; nothing stays there on failure.

        Raises:
            Damaged: its bytes, length or checksum are not what the directory says.
            Unavailable: the disk refused.
        """
        try:
            with target.open("xb") as file:
                try:
                    for chunk in self._chunks(entry):
                        file.write(chunk)
                except BaseException:
                    file.close()
                    target.unlink(missing_ok=True)
                    raise
        except OSError as error:
            raise Unavailable(f"{target} could not be written: {error}") from error

    def _chunks(self, entry: ArchiveEntry) -> Iterator[bytes]:
        """The entry's bytes; at the end its length and checksum are those that the directory declares."""
        n_bytes = 0
        try:
            with self._container.open(self._container.infolist()[entry.position]) as stream:
                while chunk := stream.read(_CHUNK_BYTES):
                    n_bytes += len(chunk)
                    if n_bytes > entry.size_bytes:
                        break
                    yield chunk
        except _DAMAGED as error:
            raise Damaged(f"{shown(entry.name)} in {self.path.name} is damaged: {_said(error)}") from error
        except OSError as error:
            raise _unread(self.path, error) from error
        if n_bytes != entry.size_bytes:
            raise Damaged(
                f"{shown(entry.name)} in {self.path.name} is damaged: the directory says "
                f"{entry.size_bytes} bytes, there are {'more' if n_bytes > entry.size_bytes else n_bytes}"
            )


@contextmanager
def open_archive(path: Path, limits: ArchiveLimits) -> Iterator[ArchiveFile]:
    """Open an archive by its directory alone.

    Raises:
        Damaged: no zip directory can be read.
        Rejected: it can be read, and is not a training archive.
        Unavailable: the operating system could not read the file.
    """
    try:
        file = path.open("rb")
    except OSError as error:
        raise Unavailable(f"{path} could not be opened: {error}") from error
    with file:
        container, size_bytes = _container(path, file, limits)
        with container:
            entries = _entries(container)
            if sum(entry.compressed_bytes for entry in entries) > size_bytes:
                raise Rejected(f"the entries of {path.name} overlap: together they are larger than the file")
            yield ArchiveFile(path, plan_archive(entries, limits), container)


def _container(path: Path, file: BinaryIO, limits: ArchiveLimits) -> tuple[zipfile.ZipFile, int]:
    try:
        size_bytes = file.seek(0, 2)
        directory_bytes = _directory_bytes(file, size_bytes)
        if directory_bytes > limits.max_entries * _DIRECTORY_BYTES_PER_ENTRY:
            raise Rejected(
                f"the directory of {path.name} takes {directory_bytes} bytes; "
                f"at most {limits.max_entries} entries are read"
            )
        return zipfile.ZipFile(file), size_bytes
    except _DAMAGED as error:
        raise Damaged(f"{path.name} is not a complete zip file: {_said(error)}") from error
    except OSError as error:
        raise _unread(path, error) from error


def _directory_bytes(file: BinaryIO, size_bytes: int) -> int:
    """The directory's size by the end record, which zipfile would read into memory whole."""
    tail_bytes = min(size_bytes, 22 + 65_535 + 20 + 56)
    file.seek(size_bytes - tail_bytes)
    tail = file.read(tail_bytes)
    end = tail.rfind(b"PK\x05\x06")
    if end < 0 or len(tail) - end < 22:
        raise zipfile.BadZipFile("there is no end of a directory")
    directory_bytes: int = struct.unpack_from("<I", tail, end + 12)[0]
    # zipfile follows a 64-bit end record wherever its locator stands right before the end.
    large = end - 20 - 56
    if large >= 0 and tail[end - 20 : end - 16] == b"PK\x06\x07" and tail[large : large + 4] == b"PK\x06\x06":
        directory_bytes = max(directory_bytes % 0xFFFFFFFF, struct.unpack_from("<Q", tail, large + 40)[0])
    return directory_bytes


def _entries(container: zipfile.ZipFile) -> list[ArchiveEntry]:
    return [
        ArchiveEntry(
            name=info.filename,
            size_bytes=info.file_size,
            compressed_bytes=info.compress_size,
            compression=info.compress_type,
            encrypted=bool(info.flag_bits & 1),
            position=position,
        )
        for position, info in enumerate(container.infolist())
    ]


def _unread(path: Path, error: OSError) -> Damaged | Unavailable:
    # A damaged directory sends the reader to places that no file has; that will not pass by itself.
    if error.errno in {errno.EINVAL, errno.EOVERFLOW}:
        return Damaged(f"{path.name} is not a complete zip file: its directory points outside the file")
    return Unavailable(f"{path} could not be read: {error}")


def _said(error: BaseException) -> str:
    return ascii(str(error) or type(error).__name__)[1:-1][:160]
