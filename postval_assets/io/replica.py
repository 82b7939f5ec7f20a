"""Putting a finished copy of the warehouse where people read it.

Here: files only: copying, the rename into place, and what is left aside where a rename is refused. Not here:
databases (warehouse.py) and when to publish (the sensors).

A person may do anything with the replica; nothing here waits for them or fails because of them. On POSIX a
rename over an open file succeeds and its reader keeps the old copy. On Windows it is refused: then the new
copy stays beside it under a number until a later publication finds the way free.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path

from postval_assets.io.durable import sync_folder


class PublicationStatus(StrEnum):
    """What became of a publication."""

    PUBLISHED = "PUBLISHED"
    KEPT_ASIDE = "KEPT_ASIDE"
    UNCHANGED = "UNCHANGED"


@dataclass(frozen=True)
class Publication:
    """What became of a publication.

    Attributes:
        status: UNCHANGED where the replica was current already.
        path: the file that holds the newest copy: the replica, or the numbered file kept aside.
        published_at: when that copy was made.
        reason: why it was kept aside, else None.
    """

    status: PublicationStatus
    path: Path
    published_at: datetime
    reason: str | None = None


def wal_of(database: Path) -> Path:
    """The write-ahead log that belongs to a database file."""
    return database.with_name(database.name + ".wal")


def staging_of(replica: Path) -> Path:
    """Where a copy is prepared: in the replica's directory, so that the last step is a rename."""
    return replica.with_name(f"{replica.stem}.publishing{replica.suffix}")


def kept_aside(replica: Path) -> list[Path]:
    """Newer copies whose way was blocked, oldest first: ``postval.1.duckdb``, ``postval.2.duckdb``."""
    return [path for _, path in sorted(_numbered(replica).items())]


def _numbered(replica: Path) -> dict[int, Path]:
    numbers = {
        path.name.removeprefix(replica.stem + ".").removesuffix(replica.suffix): path
        for path in replica.parent.glob(f"{replica.stem}.*{replica.suffix}")
    }
    return {int(number): path for number, path in numbers.items() if number.isdecimal()}


def copy_database(source: Path, target: Path) -> None:
    """Copies a database file that nobody writes to, without its log, sharing blocks where possible.

    Raises:
        OSError: the disk refused; no half of a copy is left.
    """
    remove(target)
    remove(wal_of(target))
    try:
        if not _copy_in_kernel(source, target):
            shutil.copyfile(source, target)
    except OSError:
        remove(target)
        raise


def _copy_in_kernel(source: Path, target: Path) -> bool:
    """Copies with copy_file_range (a reflink on btrfs and XFS); False where that did not do all of it."""
    if not hasattr(os, "copy_file_range"):
        return False
    with source.open("rb") as reading, target.open("wb") as writing:
        left = os.fstat(reading.fileno()).st_size
        try:
            while left > 0:
                copied = os.copy_file_range(reading.fileno(), writing.fileno(), left)
                if copied == 0:
                    return False
                left -= copied
        except OSError:  # a file system that cannot; the plain copy tells of real trouble
            return False
    return True


def place(staged: Path, replica: Path, *, published_at: datetime) -> Publication:
    """Makes a staged copy the replica, read-only; keeps it under a number where that is refused.

    The copy was written to and closed as a database, which has brought it to the disk.

    A log that somebody's writing left beside the old replica goes first: DuckDB 1.5 would replay it into the
    new file, and 2.0 would refuse to open it.

    Args:
        staged: the copy, in the replica's directory; may be one that was kept aside before.
        replica: where it should go.
        published_at: when the copy was made.
    """
    staged.chmod(0o444)
    try:
        remove(wal_of(replica))
        _replace(staged, replica)
    except PermissionError as error:
        older = _numbered(replica)
        aside = staged
        if staged not in older.values():
            aside = replica.with_name(f"{replica.stem}.{max(older, default=0) + 1}{replica.suffix}")
            staged.replace(aside)
        _remove_where_possible(path for path in older.values() if path != aside)
        reason = f"{replica.name} is open in another program: {error.strerror or error}"
        return Publication(PublicationStatus.KEPT_ASIDE, aside, published_at, reason)
    # The caller notes what is published; after a power cut that must not be of a name that was lost.
    sync_folder(replica.parent)
    _remove_where_possible(kept_aside(replica))
    return Publication(PublicationStatus.PUBLISHED, replica, published_at)


def remove(path: Path) -> None:
    """Removes a file if it is there, also a read-only one (Windows refuses those until they are writable)."""
    try:
        path.unlink(missing_ok=True)
    except PermissionError:
        path.chmod(stat.S_IREAD | stat.S_IWRITE)
        path.unlink(missing_ok=True)


def _replace(staged: Path, replica: Path) -> None:
    try:
        staged.replace(replica)
    except PermissionError:
        if not replica.exists():
            raise
        replica.chmod(stat.S_IREAD | stat.S_IWRITE)  # Windows does not rename onto a read-only file
        try:
            staged.replace(replica)
        except PermissionError:
            replica.chmod(0o444)
            raise


def _remove_where_possible(paths: Iterable[Path]) -> None:
    for path in paths:
        try:
            remove(wal_of(path))
            remove(path)
        except PermissionError:
            continue  # open somewhere; the next publication tries again
