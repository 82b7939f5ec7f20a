"""The pipeline's DuckDB file and people's read replica of it: the only module that imports duckdb.

Here: the lock, short transactions, migrations, publication, read-only queries. Not here: what is stored and
what it means (migrations/, views.sql, dictionary.py), the statements that change rows (changes.py), how the
replica's file gets into place (replica.py).

DuckDB lets one process at a time write a file, and refuses everybody else meanwhile. So each operation takes
a file lock that all processes share, opens the file, does its work, and closes it: callers compute first and
write after.
"""

from __future__ import annotations

import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from filelock import FileLock, Timeout

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.changes import Append, Change, Merge, Replace, Update, apply_change, check_change
from postval_assets.io.dictionary import TABLES, VIEWS, comments_on
from postval_assets.io.queries import fetch, plain_params, require_one_reading_statement
from postval_assets.io.replica import (
    Publication,
    PublicationStatus,
    copy_database,
    kept_aside,
    place,
    staging_of,
    wal_of,
)
from postval_assets.io.typed_rows import Rows

__all__ = [
    "Append",
    "Change",
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

MIGRATIONS = Path(__file__).parent / "migrations"
VIEWS_SQL = Path(__file__).parent / "views.sql"

_FILE_ERRORS = (duckdb.IOException, duckdb.FatalException, duckdb.InternalException)
_HELD = re.compile(r"could not set lock|already open|being used by another process", re.IGNORECASE)
_HOLDER = re.compile(r"PID (\d+)")
_DAMAGED = re.compile(
    r"not a valid duckdb database|corrupt|checksum|replaying wal|deseriali|version number", re.IGNORECASE
)


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
        self._migrations = {int(file.name[:4]): file for file in sorted(migrations.glob("[0-9]*.sql"))}

    def write(self, changes: Sequence[Change], *, run_id: str, now: datetime) -> dict[str, int]:
        """Makes all changes in their order in one transaction, or none of them.

        Args:
            changes: what to change; run_id and created_at of inserted rows are filled in here.
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
        with self._session() as connection, _transaction(connection):
            for change in changes:
                count = apply_change(connection, change, run_id=run_id, now=now)
                inserted[change.table] = inserted.get(change.table, 0) + count
            connection.execute(
                "UPDATE revision SET revision = revision + 1, run_id = ?, created_at = ?", [run_id, now]
            )
        return inserted

    def rows(self, sql: str, params: Sequence[object] = ()) -> list[dict[str, Any]]:
        """Reads rows as mappings: instants are aware datetimes in UTC, NULL is None, lists are lists."""
        with self._session(read_only=True) as connection:
            names, values = fetch(connection.execute(sql, plain_params(params)))
        return [dict(zip(names, row, strict=True)) for row in values]

    def frame(self, sql: str, params: Sequence[object] = ()) -> pd.DataFrame:
        """Reads a data frame: instants are ``datetime64[us, UTC]``; NULL is NaN, NaT or None.

        Integers with a NULL among them come as float64, booleans as object; lists are numpy arrays.
        """
        with self._session(read_only=True) as connection:
            # by way of Arrow: duckdb's own df() calls a deprecated form of pandas
            frame: pd.DataFrame = connection.execute(sql, plain_params(params)).to_arrow_table().to_pandas()
        return frame

    def schema_version(self) -> int:
        """The migration that the file is at; 0 where there is no file."""
        with self._locked():
            if not self.path.exists():
                return 0
            with self._connected(self.path, read_only=True) as connection:
                return _version(connection)

    def migrate(self, *, now: datetime) -> list[int]:
        """Brings the schema up to this code's, after a backup, and makes views and comments anew.

        The other methods do this by themselves where the file is missing or older; this one is for a new
        version of the code, whose views may differ without a migration.

        Returns:
            The numbers of the migrations that were run.
        """
        with self._locked():
            return self._migrate(now)

    def publish(self, replica: Path) -> Publication:
        """Puts a copy of the warehouse where people read it, unless that is current already."""
        with self._locked():
            with self._current() as connection:
                current = _published(connection)
                label = self._label(replica)
                # a log beside the replica is somebody's writing in it: publish anew, which removes both
                if label in current and replica.exists() and not wal_of(replica).exists():
                    return Publication(PublicationStatus.UNCHANGED, replica, current[label])
                connection.execute("CHECKPOINT")
            aside = kept_aside(replica)
            if aside and self._label(aside[-1]) in current:  # a current copy whose way was blocked: try again
                staged, published_at = aside[-1], current[self._label(aside[-1])]
            else:
                staged, published_at = staging_of(replica), self._clock()
                self._stage(staged, replica, published_at)
            publication = place(staged, replica, published_at=published_at)
            # noted only now: after a crash before this, the copy is made again
            with self._connected(self.path) as connection, _transaction(connection):
                _note_publication(connection, self._label(publication.path), published_at)
            return publication

    def _label(self, replica: Path) -> str:
        return Path(os.path.relpath(replica.resolve(), self.path.parent.resolve())).as_posix()

    def _stage(self, staged: Path, replica: Path, published_at: datetime) -> None:
        """Makes the copy that is to become the replica, and says in it when."""
        try:
            staged.parent.mkdir(parents=True, exist_ok=True)
            copy_database(self.path, staged)
        except OSError as error:
            raise Unavailable(f"cannot copy {self.path} to {staged}: {error}") from error
        with self._connected(staged) as connection, _transaction(connection):
            connection.execute("DELETE FROM publication")
            _note_publication(connection, self._label(replica), published_at)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Holds the lock that all processes share."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        # a lock object of its own for each use, so that threads of one process exclude each other too
        lock = FileLock(self.lock_path, timeout=self._lock_timeout_s, poll_interval=0.02)
        try:
            lock.acquire()
        except Timeout as error:
            raise Unavailable(
                f"{self.lock_path} was held by another postval process for {self._lock_timeout_s:g} s: wait "
                "for its run to finish or stop it, then try again (the lock goes with the process)"
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _session(self, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        with self._locked(), self._current(read_only=read_only) as connection:
            yield connection

    @contextmanager
    def _current(self, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection to a file at this code's version; the lock is held by the caller."""
        if self.path.exists():
            with self._connected(self.path, read_only=read_only) as connection:
                if self._is_current(connection):
                    yield connection
                    return
        self._migrate(self._clock())
        with self._connected(self.path, read_only=read_only) as connection:
            yield connection

    @contextmanager
    def _connected(self, path: Path, *, read_only: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
        """A connection that is closed afterwards; DuckDB's complaints about the file become ours."""
        try:
            connection = self._opened(path, read_only=read_only)
            try:
                connection.execute("SET TimeZone = 'UTC'")
                yield connection
            finally:
                connection.close()
        except duckdb.Error as error:
            if isinstance(error, _FILE_ERRORS) and _DAMAGED.search(str(error)):
                raise Rejected(
                    f"{path} cannot be read ({_first_line(error)}); copies made before each migration are in "
                    f"{self.backups}: put one in its place, or move the file away to start empty"
                ) from error
            if isinstance(error, duckdb.IOException):
                raise Unavailable(f"{path}: {_first_line(error)}") from error
            raise

    def _opened(self, path: Path, *, read_only: bool) -> duckdb.DuckDBPyConnection:
        """Opens the file, waiting a while for a program that holds it without our lock."""
        deadline = time.monotonic() + self._open_timeout_s
        while True:
            try:
                return duckdb.connect(path, read_only=read_only)
            except duckdb.IOException as error:
                if not _HELD.search(str(error)):
                    raise
                if time.monotonic() >= deadline:
                    pid = _HOLDER.search(str(error))
                    who = f"process {pid[1]}" if pid else "another program"
                    raise Unavailable(
                        f"{path} is open in {who}: close it there. This file belongs to the pipeline; "
                        "the one for people is postval.duckdb"
                    ) from error
                time.sleep(0.05)

    def _is_current(self, connection: duckdb.DuckDBPyConnection) -> bool:
        version, ours = _version(connection), max(self._migrations)
        if version > ours:
            raise Rejected(
                f"{self.path} has schema version {version}, this code knows versions up to {ours}: install a "
                f"newer postval, or go back to a copy in {self.backups}"
            )
        return version == ours

    def _migrate(self, now: datetime) -> list[int]:
        version = 0
        if self.path.exists():
            with self._connected(self.path) as connection:
                self._is_current(connection)
                version = _version(connection)
                connection.execute("CHECKPOINT")
        pending = [number for number in sorted(self._migrations) if number > version]
        if pending and version:
            self.backups.mkdir(parents=True, exist_ok=True)
            name = f"{self.path.stem}.v{version:04}.{now.astimezone(UTC):%Y%m%dT%H%M%SZ}{self.path.suffix}"
            copy_database(self.path, self.backups / name)
        with self._connected(self.path) as connection:
            for number in pending:
                file = self._migrations[number]
                with _transaction(connection):
                    connection.execute(file.read_text(encoding="utf-8"))
                    connection.execute(
                        "INSERT INTO schema_versions (version, name, created_at) VALUES (?, ?, ?)",
                        [number, file.stem, now],
                    )
                    if number == 1:
                        connection.execute("INSERT INTO revision VALUES (0, 'migration', ?)", [now])
            with _transaction(connection):
                connection.execute(VIEWS_SQL.read_text(encoding="utf-8"))
                for name in (*TABLES, *VIEWS):
                    columns = [row[0] for row in connection.execute(f'DESCRIBE "{name}"').fetchall()]
                    connection.execute(comments_on(name, columns))
                # the replica lacks this until it is published again
                connection.execute("UPDATE revision SET revision = revision + 1")
        return pending


def query_replica(path: Path, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Answers one reading statement from the replica: nothing can be written, and no other file be read.

    Where somebody has the replica open for writing, or has left a log beside it, the query goes to a copy.

    Args:
        path: the replica.
        sql: one SELECT, WITH, FROM, VALUES, TABLE, SHOW, DESCRIBE, SUMMARIZE or EXPLAIN.

    Returns:
        Column names, and rows in their order.

    Raises:
        Rejected: not one reading statement, or the statement is wrong.
        Unavailable: nothing was published yet, or the file cannot be opened now.
    """
    if not path.exists():
        raise Unavailable(f"{path} is not there: it is written when the first run has finished")
    try:
        require_one_reading_statement(duckdb, sql)
        if not wal_of(path).exists():
            try:
                return _query(path, sql)
            except duckdb.IOException as error:
                if not _HELD.search(str(error)):
                    raise
        with tempfile.TemporaryDirectory(prefix="postval-sql-") as directory:
            copy = Path(directory) / path.name
            copy_database(path, copy)
            return _query(copy, sql)
    except OSError as error:
        raise Unavailable(f"{path} cannot be read now: {error}") from error
    except duckdb.Error as error:
        raise Rejected(str(error).strip()) from error


def _query(path: Path, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    with duckdb.connect(path, read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return fetch(connection.execute(sql))


def _published(connection: duckdb.DuckDBPyConnection) -> dict[str, datetime]:
    """When each replica that holds the present state was made."""
    rows = connection.execute(
        "SELECT p.replica, p.published_at FROM publication AS p JOIN revision AS r ON r.revision = p.revision"
    ).fetchall()
    return {replica: published_at.astimezone(UTC) for replica, published_at in rows}


def _note_publication(connection: duckdb.DuckDBPyConnection, label: str, published_at: datetime) -> None:
    connection.execute("DELETE FROM publication WHERE replica = ?", [label])
    connection.execute(
        "INSERT INTO publication (replica, revision, published_at, created_at) "
        "SELECT ?, revision, ?, ? FROM revision",
        [label, published_at, published_at],
    )


def _version(connection: duckdb.DuckDBPyConnection) -> int:
    there = connection.execute(
        "SELECT count(*) FROM information_schema.tables WHERE table_name = 'schema_versions'"
    ).fetchone()
    if there is None or there[0] == 0:
        return 0
    newest = connection.execute("SELECT coalesce(max(version), 0) FROM schema_versions").fetchone()
    return int(newest[0]) if newest else 0


@contextmanager
def _transaction(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    connection.begin()
    try:
        yield
    except BaseException:
        connection.rollback()
        raise
    connection.commit()


def _first_line(error: BaseException) -> str:
    return str(error).strip().splitlines()[0]
