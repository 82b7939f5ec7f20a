"""Where archives are kept, by their content.

Here: moving a file from the inbox into the store, or aside, so that a crash at any point loses nothing. Not
here: judging archives, or their rows in the warehouse.
"""

from __future__ import annotations

import errno
import hashlib
from collections.abc import Iterator
from pathlib import Path

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.disk_full import unavailable
from postval_assets.io.durable import replace_durably

_CHUNK_BYTES = 8 * 2**20
# What the operating system answers where a file cannot be moved to another disk (the second one on Windows).
_OTHER_DISK_WINDOWS = 17
# Of a name's 255 bytes, so that a digest and an ending still fit behind it.
_MOST_STEM_BYTES = 200


class ArchiveStore:
    """Archives as ``root/<sha256>.zip``; rejected files under their own names in another folder."""

    def __init__(self, root: Path, rejected_root: Path) -> None:
        """Take the two folders; they are made when something is put there."""
        self._root = root
        self._rejected_root = rejected_root

    def path_of(self, sha256: str) -> Path:
        """Where the archive of that content is or would be kept."""
        if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
            raise Rejected(f"{ascii(sha256)[:80]} is not a SHA-256; expected 64 of 0-9 and a-f")
        return self._root / f"{sha256}.zip"

    def adopt(
        self, path: Path, sha256: str, expected_size: int, expected_mtime_ns: int | None = None
    ) -> Path:
        """Move a file into the store; doing it again changes nothing.

        Args:
            path: the file, usually in the inbox. It is gone afterwards.
            sha256: of the content that was announced.
            expected_size: of that file, in bytes.
            expected_mtime_ns: of that file; where it differs or is None, the content is hashed again.

        Returns:
            Where it is kept.

        Raises:
            Rejected: the file has other content than was announced.
            Unavailable: it is nowhere, or the disk refused.
        """
        target = self.path_of(sha256)
        try:
            self._root.mkdir(parents=True, exist_ok=True)
            if _holds(target, sha256, expected_size):
                if path.is_file() and _holds(path, sha256, expected_size):
                    path.unlink()
                return target
            if not path.is_file():
                raise Unavailable(
                    f"{path} is neither there nor in the store: it was removed after it was seen; "
                    "drop it again"
                )
            found = path.stat()
            announced = (found.st_size, found.st_mtime_ns) == (expected_size, expected_mtime_ns)
            if not announced and not _holds(path, sha256, expected_size):
                raise Rejected(
                    f"{path.name} has changed since it was announced; the new content "
                    "counts as another archive"
                )
            _move(path, target, sha256)
        except OSError as error:
            raise unavailable(f"{path} could not be stored as", target, error) from error
        return target

    def verify(self, sha256: str) -> Path:
        """Where an archive is kept, once its content is known to be what its name says.

        Raises:
            Rejected: it is missing, or was changed.
            Unavailable: it could not be read.
        """
        path = self.path_of(sha256)
        try:
            if not path.is_file():
                raise Rejected(f"{path} is missing from the store; deliver the archive again")
            if not _holds(path, sha256):
                raise Rejected(
                    f"{path} was changed or damaged after it was stored; deliver the archive again"
                )
        except OSError as error:
            raise Unavailable(f"{path} could not be read: {error}") from error
        return path

    def reject(
        self,
        path: Path,
        sha256: str,
        expected_size: int | None = None,
        expected_mtime_ns: int | None = None,
    ) -> Path:
        """Move a file aside under its own name, never over another one; where it is now.

        Args:
            path: the file, usually in the inbox. It is gone afterwards.
            sha256: of the content that was refused.
            expected_size: of that file, in bytes; not looked at where None.
            expected_mtime_ns: of that file; not looked at where None.

        Raises:
            Unavailable: it is nowhere, was changed since it was refused, or the disk refused.
        """
        first, second = self._places_aside(path.name, sha256)
        try:
            self._rejected_root.mkdir(parents=True, exist_ok=True)
            if path.is_file():
                found = path.stat()
                for now, expected in ((found.st_size, expected_size), (found.st_mtime_ns, expected_mtime_ns)):
                    if expected is not None and now != expected:
                        raise Unavailable(f"{path.name} has changed since it was refused")
            for target in (first, second):
                if not path.is_file():
                    if _holds(target, sha256):
                        return target
                elif not target.exists():
                    _move(path, target, sha256)
                    return target
                elif _holds(target, sha256) and _holds(path, sha256):
                    path.unlink()
                    return target
        except OSError as error:
            raise unavailable(f"{path} could not be moved to", self._rejected_root, error) from error
        raise Unavailable(f"{path} could not be moved aside: it is gone, or {second} is another file")

    def find_aside(self, file_name: str, sha256: str, size_bytes: int) -> Path | None:
        """Where a refused file of that name and size lies already; its content is not read."""
        for target in self._places_aside(file_name, sha256):
            if target.is_file() and target.stat().st_size == size_bytes:
                return target
        return None

    def parts(self) -> Iterator[Path]:
        """Files that never came into place, of copies that are being made or were killed."""
        return self._root.glob(".*.zip.part")

    def _places_aside(self, file_name: str, sha256: str) -> tuple[Path, Path]:
        """Where a refused file goes: under its own name, or beside another file of that name."""
        own = self._rejected_root / file_name
        stem = own.stem.encode()[:_MOST_STEM_BYTES].decode(errors="ignore")
        return own, own.with_name(f"{stem}-{sha256[:8]}{own.suffix}")


def _holds(path: Path, sha256: str, size_bytes: int | None = None) -> bool:
    """Whether there is a file of exactly that content."""
    if not path.is_file() or (size_bytes is not None and path.stat().st_size != size_bytes):
        return False
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _move(path: Path, target: Path, sha256: str) -> None:
    try:
        replace_durably(path, target)
    except OSError as error:
        if error.errno != errno.EXDEV and getattr(error, "winerror", None) != _OTHER_DISK_WINDOWS:
            raise
        _copy_over(path, target, sha256)


def _copy_over(path: Path, target: Path, sha256: str) -> None:
    """To another disk: the original goes only when a whole, checked copy has its final name."""
    part = target.with_name(f".{target.name}.part")
    digest = hashlib.sha256()
    try:
        with path.open("rb") as source, part.open("wb") as copy:
            while chunk := source.read(_CHUNK_BYTES):
                digest.update(chunk)
                copy.write(chunk)
        if digest.hexdigest() != sha256:
            raise Rejected(
                f"{path.name} changed while it was copied; the new content counts as another archive"
            )
        replace_durably(part, target)
    finally:
        part.unlink(missing_ok=True)
    path.unlink()
