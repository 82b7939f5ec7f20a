"""One DuckDB file: opening it, telling damage from other trouble, what it contains, and people's queries.

Here: the only module that imports duckdb. Not here: locks, writes and migrations
(warehouse.py), and where copies are kept (backups.py).
"""

from __future__ import annotations

import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import duckdb

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.changes import quoted
from postval_assets.io.disk_full import is_disk_full, unavailable
from postval_assets.io.queries import fetch, require_one_reading_statement
from postval_assets.io.replica import copy_database, wal_of

Connection = duckdb.DuckDBPyConnection

_OPEN_TIMEOUT_S = 10.0
# Between attempts to copy a file that somebody is writing into.
_PAUSES_S = (0.05, 0.1, 0.2, 0.4, 0.8)
_HELD = re.compile(r"could not set lock|already open|being used by another process", re.IGNORECASE)
_HOLDER = re.compile(r"PID (\d+)")
_DAMAGED = re.compile(r"not a valid duckdb database|corrupt|checksum|deseriali|enough bytes", re.IGNORECASE)
_OTHERS_LOG = re.compile(r"replaying wal", re.IGNORECASE)
_NEWER_FORMAT = re.compile(r"version number", re.IGNORECASE)
# Only these speak of the file; the others speak of a statement, whatever words are in it.
_OF_THE_FILE = (
    duckdb.IOException,
    duckdb.FatalException,
    duckdb.InternalException,
    duckdb.SerializationException,
)


class DamagedDatabase(Rejected):
    """A database file whose content cannot be read."""


@dataclass(frozen=True)
class TableContents:
    """Rows of a table: how many, and a digest over all of their values that does not depend on their order."""

    n_rows: int
    digest: int


@dataclass(frozen=True)
class Contents:
    """What a database file holds: two files with equal contents are copies of each other.

    Attributes:
        schema_version: its newest migration; 0 for a file that is none of ours.
        tables: by name.
    """

    schema_version: int
    tables: Mapping[str, TableContents]


class Health(StrEnum):
    """Whether the warehouse's file can be worked with."""

    ABSENT = "ABSENT"
    CURRENT = "CURRENT"
    OLDER = "OLDER"
    NEWER = "NEWER"
    DAMAGED = "DAMAGED"
    UNREACHABLE = "UNREACHABLE"


@dataclass(frozen=True)
class Condition:
    """What is the matter with the warehouse's file.

    Attributes:
        health: CURRENT where it can be worked with; OLDER where the next use brings it up to date first.
        schema_version: its newest migration; None where that cannot be told.
        said: what is wrong and what to do, else None.
    """

    health: Health
    schema_version: int | None = None
    said: str | None = None


@contextmanager
def connected(
    path: Path,
    *,
    read_only: bool = False,
    open_timeout_s: float = _OPEN_TIMEOUT_S,
    way_back: Callable[[], str] = str,
) -> Iterator[Connection]:
    """A connection that is closed afterwards; DuckDB's complaints about the file become ours.

    Args:
        path: the file.
        read_only: whether nothing is to be written.
        open_timeout_s: how long to wait for a program that holds the file.
        way_back: says what to do about a damaged file; asked only then.

    Raises:
        DamagedDatabase: the file, or its log, cannot be read as a database.
        Unavailable: somebody else holds it for too long, or the disk does not answer.
    """
    try:
        connection = _opened(path, read_only=read_only, open_timeout_s=open_timeout_s)
        try:
            connection.execute("SET TimeZone = 'UTC'")
            yield connection
        finally:
            connection.close()
    except duckdb.Error as error:
        told = first_line(error)
        if _is_damage(error):
            raise DamagedDatabase(
                "; ".join(filter(None, [f"{path} cannot be read (it is damaged: {told})", way_back()]))
            ) from error
        if isinstance(error, _OF_THE_FILE) and _NEWER_FORMAT.search(told):
            raise Rejected(f"{path} cannot be read ({told}): install the duckdb that wrote it") from error
        # A commit that finds the disk full is a TransactionException.
        if isinstance(error, duckdb.IOException | duckdb.FatalException) or is_disk_full(error):
            raise unavailable("the database could not be used:", path, error) from error
        raise


def _is_damage(error: duckdb.Error) -> bool:
    if is_disk_full(error):
        return False
    if _OTHERS_LOG.search(str(error)):  # of whatever kind: what the log says does not fit the file
        return True
    return isinstance(error, _OF_THE_FILE) and _DAMAGED.search(str(error)) is not None


def _opened(path: Path, *, read_only: bool, open_timeout_s: float) -> Connection:
    """Opens the file, waiting a while for a program that holds it without our lock."""
    deadline = time.monotonic() + open_timeout_s
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


def schema_version(connection: Connection) -> int:
    """The newest migration that a database has been through; 0 where it has not been through any."""
    if "schema_versions" not in table_names(connection):
        return 0
    newest = connection.execute("SELECT coalesce(max(version), 0) FROM schema_versions").fetchone()
    return int(newest[0]) if newest else 0


def table_names(connection: Connection) -> list[str]:
    """Its tables, without views."""
    rows = connection.execute(
        "SELECT table_name FROM duckdb_tables() WHERE NOT internal ORDER BY table_name"
    ).fetchall()
    return [str(name) for (name,) in rows]


def table_contents(connection: Connection, table: str) -> TableContents:
    """Rows and digest of one table; every block of it is read, and held against its checksum."""
    found = connection.execute(
        f"SELECT count(*), coalesce(bit_xor(hash(t)), 0) FROM {quoted(table)} AS t"  # noqa: S608
    ).fetchone()
    return TableContents(*map(int, found)) if found else TableContents(0, 0)


def contents_of(connection: Connection) -> Contents:
    """What an open database holds, every table read."""
    tables = {name: table_contents(connection, name) for name in table_names(connection)}
    return Contents(schema_version(connection), tables)


def read_contents(path: Path) -> Contents:
    """What a database file holds, every table read.

    Raises:
        DamagedDatabase: some of it cannot be read.
        Unavailable: it is missing, held, or its disk does not answer.
    """
    if not path.is_file():
        raise Unavailable(f"{path} is not there")
    with connected(path, read_only=True) as connection:
        return contents_of(connection)


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """All or nothing of what is done inside."""
    connection.begin()
    try:
        yield
    except BaseException:
        try:
            connection.rollback()
        except duckdb.Error as error:
            # A damaged block stops the whole database, the rollback too: what is to be told is the damage.
            if not _is_damage(error):
                raise
        raise
    connection.commit()


def first_line(error: BaseException) -> str:
    """The line of a message that says what happened."""
    return str(error).strip().splitlines()[0]


def query_replica(path: Path, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Answers one reading statement from the replica: nothing can be written, and no other file be read.

    Where somebody has the replica open for writing, or has left a log beside it, the query goes to a copy.

    Args:
        path: the replica.
        sql: one SELECT, WITH, FROM, VALUES, TABLE, SHOW, DESCRIBE, SUMMARIZE or EXPLAIN.

    Returns:
        Column names, and rows in their order.

    Raises:
        Rejected: not one reading statement, the statement is wrong, or the file is damaged.
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
        return _query_copy(path, sql)
    except OSError as error:
        raise Unavailable(f"{path} cannot be read now: {error}") from error
    except duckdb.Error as error:
        if _is_damage(error):
            raise DamagedDatabase(
                f"{path} cannot be read (it is damaged: {first_line(error)}): delete it, and it is made anew from "
                "the warehouse by the next run, or by postval up"
            ) from error
        raise Rejected(str(error).strip()) from error


def _query_copy(path: Path, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    """Answers from a copy; one that was made while somebody wrote into the file may be torn, and is made again."""
    with tempfile.TemporaryDirectory(prefix="postval-sql-") as directory:
        copy = Path(directory) / path.name
        pauses = iter(_PAUSES_S)
        while True:
            copy_database(path, copy)
            try:
                return _query(copy, sql)
            except duckdb.Error as error:
                if not _is_damage(error):
                    raise
                pause_s = next(pauses, None)
                if pause_s is None:
                    raise Unavailable(
                        f"{path} cannot be read now: another program writes into it, or left it half written; close "
                        "it there and try again, or delete the file: it is made anew by the next run, or by postval up"
                    ) from error
            time.sleep(pause_s)


def _query(path: Path, sql: str) -> tuple[list[str], list[tuple[object, ...]]]:
    with duckdb.connect(path, read_only=True) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return fetch(connection.execute(sql))
