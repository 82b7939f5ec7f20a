"""One zip file, opened without trusting it.

Here: its directory and bounded reads of single entries. Not here: where what lies in it (zip_layout.py), or which
entries count (core/archive.py). Nothing is ever written to a name that an archive chose.
"""

from __future__ import annotations

import copy
import errno
import stat
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
from postval_assets.core.summary import TrainingSummary, parse_summary
from postval_assets.io.zip_layout import (
    check_directory,
    ends_of_entries,
    find_directory,
    own_header_problem,
)

_CHUNK_BYTES = 2**20
# Bits of an entry's flags: encrypted, strongly encrypted, directory encrypted.
_ENCRYPTED = 0x1 | 0x40 | 0x2000
_DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    NotImplementedError,
    RuntimeError,
    OverflowError,
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
    _limits: ArchiveLimits
    _ends: tuple[int, ...]

    def summary(self) -> TrainingSummary:
        """The training summary, read within the archive's limits.

        Raises:
            Damaged: its bytes, length or checksum are not what the directory says.
            Rejected: they are, and are no training summary.
            Unavailable: the disk refused.
        """
        limits = self._limits
        return parse_summary(
            self.read_summary(), max_models=limits.max_claims, max_values=limits.max_summary_values
        )

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
        info = self._container.infolist()[entry.position]
        try:
            # A handle of its own: other threads read other entries through the container's.
            with self.path.open("rb") as file:
                problem = own_header_problem(file, info, self._ends[entry.position])
            if problem is not None:
                raise zipfile.BadZipFile(problem)
            # zipfile stops at the size that it is told; asked for one byte more, it shows what would follow.
            asked = copy.copy(info)
            asked.file_size = entry.size_bytes + 1
            with self._container.open(asked) as stream:
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
        container, ends = _container(path, file, limits)
        with container:
            plan = plan_archive(_entries(container), limits)
            yield ArchiveFile(path, plan, container, limits, ends)


def _container(path: Path, file: BinaryIO, limits: ArchiveLimits) -> tuple[zipfile.ZipFile, tuple[int, ...]]:
    """The archive by its directory, and where the bytes of each entry end at the latest."""
    try:
        size_bytes = file.seek(0, 2)
        if size_bytes > limits.max_total_bytes:
            raise Rejected(
                f"{path.name} has {size_bytes} bytes; at most {limits.max_total_bytes} are read (max_archive_gb)"
            )
        directory = find_directory(file, size_bytes, limits.max_entries, path.name)
        check_directory(file, directory, path.name)
        container = zipfile.ZipFile(file)
        found = container.infolist()
        if len(found) != directory.n_entries:
            raise zipfile.BadZipFile(f"{directory.n_entries} entries are announced, {len(found)} are there")
        return container, ends_of_entries(found, directory, path.name)
    except _DAMAGED as error:
        raise Damaged(f"{path.name} is not a complete zip file: {_said(error)}") from error
    except OSError as error:
        raise _unread(path, error) from error


def _entries(container: zipfile.ZipFile) -> list[ArchiveEntry]:
    return [
        ArchiveEntry(
            # As it is written: zipfile cuts its own at a NUL, and newer versions take another name from a field.
            name=info.orig_filename,
            size_bytes=info.file_size,
            compressed_bytes=info.compress_size,
            compression=info.compress_type,
            encrypted=bool(info.flag_bits & _ENCRYPTED),
            is_plain=_is_plain(info),
            position=position,
        )
        for position, info in enumerate(container.infolist())
    ]


def _is_plain(info: zipfile.ZipInfo) -> bool:
    """Whether an entry is a file's content: unpacked, others would be links, devices or pipes."""
    return stat.S_IFMT(info.external_attr >> 16) in (0, stat.S_IFREG)


def _unread(path: Path, error: OSError) -> Damaged | Unavailable:
    # A damaged directory sends the reader to places that no file has; that will not pass by itself.
    if error.errno in {errno.EINVAL, errno.EOVERFLOW}:
        return Damaged(f"{path.name} is not a complete zip file: its directory points outside the file")
    return Unavailable(f"{path} could not be read: {error}")


def _said(error: BaseException) -> str:
    return ascii(str(error) or type(error).__name__)[1:-1][:160]
