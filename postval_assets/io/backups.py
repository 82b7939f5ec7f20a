"""Copies of the warehouse that can be gone back to: where they lie, how they are made, and whether they are whole.

Here: names, and copies that count only once they have been read and found equal. Not here: when a copy is made and
under which lock (warehouse.py), or how long copies are kept.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from postval_assets.core.failures import PostvalError, Rejected, Unavailable
from postval_assets.io.disk_full import unavailable
from postval_assets.io.durable import replace_durably
from postval_assets.io.replica import copy_database, remove, wal_of
from postval_assets.io.warehouse_file import Contents, read_contents

_NAME = re.compile(r"\.v(?P<version>\d{4,})\.(?P<made_at>\d{8}T\d{6}Z)(?:-(?P<number>\d+))?$")
_TIME = "%Y%m%dT%H%M%SZ"


@dataclass(frozen=True)
class Backup:
    """A finished copy of the warehouse.

    Attributes:
        path: the file.
        made_at: when, UTC.
        schema_version: the migration that it is at.
        size_bytes: of the file.
    """

    path: Path
    made_at: datetime
    schema_version: int
    size_bytes: int


def list_backups(directory: Path) -> tuple[Backup, ...]:
    """The copies in a directory, oldest first; none is opened, and other files are passed over.

    Raises:
        Unavailable: the directory cannot be read.
    """
    found: list[tuple[datetime, int, Backup]] = []
    try:
        for path in directory.iterdir() if directory.is_dir() else ():
            named = _NAME.search(path.stem)
            if named is None or path.name.startswith(".") or not path.is_file():
                continue
            made_at = datetime.strptime(named["made_at"], _TIME).replace(tzinfo=UTC)
            backup = Backup(path, made_at, int(named["version"]), path.stat().st_size)
            found.append((made_at, int(named["number"] or 1), backup))
    except OSError as error:
        raise Unavailable(f"the copies in {directory} cannot be listed: {error}") from error
    return tuple(backup for *_, backup in sorted(found, key=lambda each: (*each[:2], each[2].path.name)))


def newest_backup(directory: Path) -> Backup | None:
    """The newest copy in a directory, if there is one."""
    return next(reversed(list_backups(directory)), None)


def place_for(directory: Path, database: Path, schema_version: int, now: datetime) -> Path:
    """A free name for a new copy of a database: ``warehouse.v0003.20250301T180000Z.duckdb``."""
    stem = f"{database.stem}.v{schema_version:04}.{now.astimezone(UTC):{_TIME}}"
    return free_name(directory / f"{stem}{database.suffix}")


def free_name(path: Path) -> Path:
    """``path``, or where that is taken, the same name with a number."""
    number, free = 1, path
    while free.exists():
        number += 1
        free = path.with_name(f"{path.stem}-{number}{path.suffix}")
    return free


def copy_verified(source: Path, target: Path, expected: Contents) -> None:
    """Copies a database file that nobody writes to; the copy gets its name once it was read and found equal.

    Args:
        source: the file; it has no log.
        target: the copy's name; its directory is made.
        expected: what the source holds.

    Raises:
        Unavailable: the disk refused, or gave back something else than was written. Nothing is left of the copy.
    """
    staged = target.with_name(f".{target.name}.part")
    try:
        try:
            target.parent.mkdir(parents=True, exist_ok=True)
            copy_database(source, staged)
            if read_contents(staged) != expected:
                raise Unavailable(
                    f"a copy of {source} in {target.parent} does not hold what was copied: is its disk sound?"
                )
            replace_durably(staged, target)
        finally:
            remove(staged)
    except OSError as error:
        raise unavailable(f"{source.name} could not be copied to", target, error) from error


def restorable(backup: Path, database: Path, newest_version: int) -> Contents:
    """What a copy holds that is to take a database's place; every row of it was read.

    Args:
        backup: the copy.
        database: the place; it may be empty.
        newest_version: the newest schema that this code knows.

    Raises:
        Rejected: it is damaged, no copy of a warehouse, newer than this code, or not a file of its own.
        Unavailable: it is missing, or its disk does not answer.
    """
    if backup.exists() and database.exists() and backup.samefile(database):
        raise Rejected(f"{backup} is the warehouse itself: expected a copy of it")
    if wal_of(backup).exists():
        raise Rejected(f"{backup} has a log beside it, so it is no finished copy: expected one without")
    contents = read_contents(backup)
    if not 0 < contents.schema_version <= newest_version:
        raise Rejected(
            f"{backup} has schema version {contents.schema_version}, this code knows versions 1 to "
            f"{newest_version}: expected a copy of a warehouse of this or an older postval"
        )
    return contents


def exchange(database: Path, staged: Path, now: datetime) -> Path | None:
    """Puts a finished copy into a database's place; what is there, and its log, go aside under another name.

    Args:
        database: the place; nobody of ours has it open.
        staged: the copy, in the same directory; it has no log.
        now: for the name of what is put aside.

    Returns:
        Where the file is now that was there; None where there was none.

    Raises:
        Unavailable: another program has it open, or the disk refused; repeating it comes to the same end.
    """
    stem = f"{database.stem}.aside.{now.astimezone(UTC):{_TIME}}"
    aside = free_name(database.with_name(f"{stem}{database.suffix}"))
    there = database.exists()
    moved: list[tuple[Path, Path]] = []
    try:
        if there:
            try:
                os.link(database, aside)  # so that there is a file in its place at any moment
            except OSError:  # a file system without links
                moved.append((database.replace(aside), database))
        log = wal_of(database)
        if log.exists():  # before the copy comes, or it would be replayed into that
            moved.append((log.replace(wal_of(aside)), log))
        replace_durably(staged, database)
    except OSError as error:
        for where, back in moved:
            where.replace(back)
        if database.exists():
            aside.unlink(missing_ok=True)
        raise unavailable(
            "close what has it open, and repeat: a copy could not take the place of", database, error
        ) from error
    return aside if there else None


def way_back(directory: Path) -> str:
    """What to do about a damaged database whose copies are in a directory, for a message."""
    try:
        newest = newest_backup(directory)
    except PostvalError:
        newest = None
    if newest is None:
        return (
            f"there is no copy in {directory}: move the file and its .wal away to start empty, and deliver the "
            "archives again (they are kept in archives/)"
        )
    return f"go back to its newest copy: postval restore {newest.path} (the damaged file is kept)"
