"""The pipeline's DuckDB file, and the replica of it that people read.

Here: the lock, short transactions, migrations, backups, publication. Not here: what is stored and what it means
(migrations/, views.sql, dictionary.py), the statements that change rows (changes.py), one file opened and judged
(warehouse_file.py), how copies are kept (backups.py) and how the replica's file gets into place (replica.py).

DuckDB lets one process at a time write a file, and refuses everybody else meanwhile. So each operation takes
a file lock that all processes share, opens the file, does its work, and closes it: callers compute first and
write after.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
from filelock import FileLock

from postval_assets.core.failures import PostvalError, Rejected, Unavailable
from postval_assets.io.backups import copy_verified, exchange, place_for, restorable, way_back
from postval_assets.io.changes import Append, Change, Merge, Replace, Update, apply_change, check_change
from postval_assets.io.disk_full import is_disk_full, unavailable
from postval_assets.io.durable import replace_durably
from postval_assets.io.publication import current_replicas, forget_publications, note_publication
from postval_assets.io.queries import fetch, plain_params
from postval_assets.io.replica import (
    Publication,
    PublicationStatus,
    copy_database,
    kept_aside,
    place,
    remove,
    staging_of,
    wal_of,
)
from postval_assets.io.schema import MIGRATIONS, Schema
from postval_assets.io.shared_lock import taken
from postval_assets.io.typed_rows import Rows, Stamps
from postval_assets.io.warehouse_file import (
    Condition,
    Connection,
    DamagedDatabase,
    Health,
    connected,
    contents_of,
    query_replica,
    schema_version,
    table_contents,
    table_names,
    transaction,
)

__all__ = [
    "MIGRATIONS",
    "Append",
    "Change",
    "Condition",
    "Health",
    "Merge",
    "Publication",
    "PublicationStatus",
    "Replace",
    "Rows",
    "Update",
    "Warehouse",
    "kept_aside",
    "query_replica",
]

_READ_ONLY = (errno.EACCES, errno.EPERM, errno.EROFS)


def _utc_now() -> datetime:
    return datetime.now(UTC)


class Warehouse:
    """The database that belongs to the pipeline.

    Args:
        path: the database file; made, with its directory, at the first use.
        lock_timeout_s: how long to wait for the other processes of the pipeline.
        open_timeout_s: how long to wait for a program that holds the file without the lock.
        clock: the time of publications and of migrations that a first use brings.
        migrations: directory of the numbered migrations.

    Raises (every method):
        Unavailable: the lock or the file is held by somebody else for too long, or the disk does not answer.
        Rejected: the file is damaged, or newer than this code.
    """

    def __init__(
        self,
        path: Path,
        *,
        lock_timeout_s: float = 60,
        open_timeout_s: float = 10,
        clock: Callable[[], datetime] = _utc_now,
        migrations: Path = MIGRATIONS,
    ) -> None:
        self.path = path
        self.lock_path = path.with_name(path.name + ".lock")
        self.backups = path.parent / "backups"
        self._lock_timeout_s = lock_timeout_s
        self._open_timeout_s = open_timeout_s
        self._clock = clock
        self._schema = Schema(migrations)

    def write(self, changes: Sequence[Change], *, run_id: str, now: datetime) -> dict[str, int]:
        """Makes all changes in their order in one transaction, or none of them.

        Args:
            changes: what to change; run_id, created_at and (where the table has it) revision of inserted rows are
                filled in here.
            run_id: the run that writes.
            now: created_at of inserted rows; aware.

        Returns:
            Rows inserted, by table; 0 where a table was only deleted from or updated.

        Raises:
            ValueError: a change that the table does not allow, an unknown column, a value that does not fit,
                infinity, or a second row with the same key. Nothing is written.
        """
        if now.tzinfo is None:
            raise ValueError(f"now must say its time zone: {now.isoformat()}")
        for change in changes:
            check_change(change)
        inserted: dict[str, int] = {}
        with self._session(f"a write of {run_id}") as connection, transaction(connection):
            [(revision,)] = connection.execute(
                "UPDATE revision SET revision = revision + 1, run_id = ?, created_at = ? RETURNING revision",
                [run_id, now],
            ).fetchall()
            stamps = Stamps(run_id, now, revision)
            for change in changes:
                count = apply_change(connection, change, stamps)
                inserted[change.table] = inserted.get(change.table, 0) + count
        return inserted

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Reads rows as mappings: instants are aware datetimes in UTC, NULL is None, lists are lists."""
        with self._session("a query", read_only=True) as connection:
            names, values = fetch(connection.execute(sql, plain_params(params)))
        return [dict(zip(names, row, strict=True)) for row in values]

    def frame(self, sql: str, params: Sequence[object] = ()) -> pd.DataFrame:
        """Reads a data frame: instants are ``datetime64[us, UTC]``; NULL is NaN, NaT or None.

        Integers with a NULL among them come as float64, booleans as object; lists are numpy arrays.
        """
        with self._session("a query", read_only=True) as connection:
            # by way of Arrow: duckdb's own df() calls a deprecated form of pandas
            frame: pd.DataFrame = connection.execute(sql, plain_params(params)).to_arrow_table().to_pandas()
        return frame

    def schema_version(self) -> int:
        """The migration that the file is at; 0 where there is no file."""
        with self._locked("a look at the schema", reading=True):
            if not self.path.exists():
                return 0
            with self._connected(self.path, read_only=True) as connection:
                return schema_version(connection)

    def condition(self, *, thorough: bool = False) -> Condition:
        """What is the matter with the file, if anything; nothing is changed, and no failure is raised.

        Args:
            thorough: read every row of it, so that damage in the middle is found; the lock is given to others
                between two tables.
        """
        if not self.path.parent.exists():
            return Condition(Health.ABSENT)
        version: int | None = None
        try:
            with self._locked("a look at the schema", reading=True):
                if not self.path.exists():
                    self._require_no_remains()
                    return Condition(Health.ABSENT)
                with self._connected(self.path, read_only=True) as connection:
                    version, tables = schema_version(connection), table_names(connection)
                    health = Health.CURRENT if self._is_current(connection) else Health.OLDER
            for table in tables if thorough else ():
                with (
                    self._locked("a look at every row", reading=True),
                    self._connected(self.path, read_only=True) as connection,
                ):
                    table_contents(connection, table)
        except DamagedDatabase as error:
            return Condition(Health.DAMAGED, version, str(error))
        except Rejected as error:
            newer = version is not None and version > self._schema.version
            return Condition(Health.NEWER if newer else Health.DAMAGED, version, str(error))
        except Unavailable as error:
            return Condition(Health.UNREACHABLE, version, str(error))
        return Condition(health, version)

    def migrate(self, *, now: datetime) -> list[int]:
        """Brings the schema up to this code's, after a backup, and makes views and comments anew.

        The other methods do this by themselves where the file is missing or older; this one is for a new
        version of the code, whose views may differ without a migration.

        Returns:
            The numbers of the migrations that were run.
        """
        with self._locked("a migration"):
            return self._migrate(now)

    def make_backup(self, *, now: datetime) -> Path:
        """Copies the warehouse into ``backups``; the copy counts once it was read and found equal.

        Returns:
            The copy.
        """
        with self._locked("a backup"):
            if not self.path.exists():
                raise Rejected(f"{self.path} is not there: there is nothing to copy yet")
            return self._back_up(now)

    def restore(self, backup: Path, *, now: datetime) -> Path | None:
        """Puts a copy in the place of the file; what was there, and its log, stay under another name.

        The copy is read whole before anything is moved. Replicas count as stale afterwards: publish anew.

        Args:
            backup: the copy; it stays.
            now: for the name of what is put aside.

        Returns:
            Where the file is now that was there; None where there was none.

        Raises:
            Rejected: the copy is damaged, no copy of a warehouse, newer than this code, or has a log beside it.
        """
        with self._locked("a restore"):
            contents = restorable(backup, self.path, self._schema.version)
            copy_verified(backup, self._restoring, contents)
            with self._connected(self._restoring) as connection, transaction(connection):
                forget_publications(connection)
            return exchange(self.path, self._restoring, now)

    def publish(self, replica: Path) -> Publication:
        """Puts a copy of the warehouse where people read it, unless that is current already."""
        label = self._label(replica)
        with self._locked("a publication"):
            with self._current() as connection:
                current = current_replicas(connection)
                # a log beside the replica is somebody's writing in it: publish anew, which removes both
                if label in current and replica.exists() and not wal_of(replica).exists():
                    return Publication(PublicationStatus.UNCHANGED, replica, current[label])
                connection.execute("CHECKPOINT")
            try:
                aside = kept_aside(replica)
                if aside and self._label(aside[-1]) in current:  # current, but its way was blocked: try again
                    staged, published_at = aside[-1], current[self._label(aside[-1])]
                else:
                    staged, published_at = staging_of(replica), self._clock()
                    self._stage(staged, label, published_at)
                publication = place(staged, replica, published_at=published_at)
            except OSError as error:
                raise unavailable("the copy for people could not be made at", replica, error) from error
            # noted only now: after a crash before this, the copy is made again
            with self._connected(self.path) as connection, transaction(connection):
                note_publication(connection, self._label(publication.path), published_at)
            return publication

    def _label(self, replica: Path) -> str:
        return Path(os.path.relpath(replica.resolve(), self.path.parent.resolve())).as_posix()

    def _stage(self, staged: Path, label: str, published_at: datetime) -> None:
        """Makes the copy that is to become the replica, and says in it when."""
        staged.parent.mkdir(parents=True, exist_ok=True)
        copy_database(self.path, staged)
        try:
            with self._connected(staged) as connection, transaction(connection):
                forget_publications(connection)
                note_publication(connection, label, published_at)
        except PostvalError:
            for leftover in (staged, wal_of(staged)):
                remove(leftover)
            raise

    @contextmanager
    def _locked(self, doing: str, *, reading: bool = False) -> Iterator[bool]:
        """Holds the lock that all processes share; gives whether it does.

        Whoever only reads goes on without it where the directory cannot be written: nobody else writes there
        either, and DuckDB's own lock still keeps a reader and a writer of the file apart.
        """
        lock: FileLock | None = None
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            lock = taken(self.lock_path, timeout_s=self._lock_timeout_s, doing=doing)
        except OSError as error:
            if is_disk_full(error):
                raise unavailable("the warehouse could not be locked in", self.path.parent, error) from error
            if not (reading and error.errno in _READ_ONLY and self.path.exists()):
                raise Unavailable(
                    f"the data directory {self.path.parent.parent} cannot be written: {error}; make it writable for "
                    "the user who runs postval, or give another with --data-dir or POSTVAL_DATA_DIR"
                ) from error
        try:
            yield lock is not None
        finally:
            if lock is not None:
                lock.release()

    @contextmanager
    def _session(self, doing: str, *, read_only: bool = False) -> Iterator[Connection]:
        with self._locked(doing, reading=read_only) as locked:
            if locked:
                with self._current(read_only=read_only) as connection:
                    yield connection
                return
            with self._connected(self.path, read_only=True) as connection:
                if not self._is_current(connection):
                    raise Unavailable(
                        f"{self.path} has schema version {schema_version(connection)}, and cannot be brought to "
                        f"{self._schema.version} where the data directory cannot be written: make it writable"
                    )
                yield connection

    @contextmanager
    def _current(self, *, read_only: bool = False) -> Iterator[Connection]:
        """A connection to a file at this code's version; the lock is held by the caller."""
        if self.path.exists():
            with self._connected(self.path, read_only=read_only) as connection:
                if self._is_current(connection):
                    yield connection
                    return
        self._migrate(self._clock())
        with self._connected(self.path, read_only=read_only) as connection:
            yield connection

    def _connected(self, path: Path, *, read_only: bool = False) -> AbstractContextManager[Connection]:
        ours = self._way_back if path == self.path else str
        return connected(path, read_only=read_only, open_timeout_s=self._open_timeout_s, way_back=ours)

    def _is_current(self, connection: Connection) -> bool:
        return self._schema.is_current(connection, self.path, self._way_back)

    def _way_back(self) -> str:
        return way_back(self.backups)

    def _migrate(self, now: datetime) -> list[int]:
        if not self.path.exists():
            return self._create(now)
        with self._connected(self.path) as connection:
            self._is_current(connection)
            version = schema_version(connection)
        pending = self._schema.pending(version)
        if pending and version:
            self._back_up(now)
        with self._connected(self.path) as connection:
            self._schema.bring_up(connection, pending, now)
        return pending

    def _create(self, now: datetime) -> list[int]:
        """Makes a new file beside its place: one that is there and no database is always a damaged one."""
        self._require_no_remains()
        staged = self.path.with_name(f"{self.path.stem}.new{self.path.suffix}")
        try:
            for leftover in (staged, wal_of(staged)):
                remove(leftover)
            pending = self._schema.pending(0)
            with self._connected(staged) as connection:
                self._schema.bring_up(connection, pending, now)
            replace_durably(staged, self.path)
        except OSError as error:
            raise unavailable("the database could not be made:", self.path, error) from error
        return pending

    def _require_no_remains(self) -> None:
        """Raises Rejected where the file is missing but was not given up: to start empty would lose it."""
        if wal_of(self.path).exists():
            raise Rejected(
                f"{self.path} is missing, but its log {wal_of(self.path).name} is there: put the file back, or move "
                f"the log away; {self._way_back()}"
            )
        if self._restoring.exists():
            raise Rejected(
                f"{self.path} is missing: a restore was cut short; repeat it (postval restore FILE), or move "
                f"{self._restoring.name} away to start empty"
            )

    def _back_up(self, now: datetime) -> Path:
        """Copies the file as it is; the lock is held by the caller."""
        with self._connected(self.path) as connection:
            connection.execute("CHECKPOINT")
            contents = contents_of(connection)
        target = place_for(self.backups, self.path, contents.schema_version, now)
        copy_verified(self.path, target, contents)
        return target

    @property
    def _restoring(self) -> Path:
        """Where a copy waits to take the file's place."""
        return self.path.with_name(f"{self.path.stem}.restoring{self.path.suffix}")
