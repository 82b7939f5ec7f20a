from __future__ import annotations

import errno
import multiprocessing
import os
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb
import pytest

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io import warehouse_file
from postval_assets.io.replica import copy_database, wal_of
from postval_assets.io.warehouse import Append, PublicationStatus, Warehouse, kept_aside, query_replica

NOW = datetime(2024, 9, 1, 12, tzinfo=UTC)
SPAWN = multiprocessing.get_context("spawn")
COUNT = "SELECT count(*) FROM archive_deliveries"
PUBLISHED, KEPT_ASIDE, UNCHANGED = PublicationStatus


class Clock:
    """A minute later each time it is asked."""

    def __init__(self) -> None:
        self.minutes = 0

    def __call__(self) -> datetime:
        self.minutes += 1
        return NOW + timedelta(minutes=self.minutes)


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    warehouse = Warehouse(tmp_path / "warehouse" / "warehouse.duckdb", clock=Clock())
    warehouse.migrate(now=NOW)
    deliver(warehouse)
    return warehouse


@pytest.fixture
def replica(tmp_path: Path) -> Path:
    return tmp_path / "postval.duckdb"


def deliver(warehouse: Warehouse) -> None:
    warehouse.write([Append("archive_deliveries", [{"sha256": "ab"}])], run_id="run-1", now=NOW)


def writable(replica: Path) -> Path:
    replica.chmod(0o644)  # what a person does who insists
    return replica


def test_a_publication_says_when_it_was_made_and_is_read_only(warehouse: Warehouse, replica: Path) -> None:
    publication = warehouse.publish(replica)
    assert (publication.status, publication.path, publication.reason) == (PUBLISHED, replica, None)
    assert publication.published_at == NOW + timedelta(minutes=1)
    assert query_replica(replica, "SELECT * FROM published_at") == (
        ["published_at"],
        [(publication.published_at,)],
    )
    assert warehouse.rows("SELECT * FROM published_at") == [{"published_at": publication.published_at}]
    assert stat.S_IMODE(replica.stat().st_mode) & 0o222 == 0
    assert query_replica(replica, COUNT)[1] == [(1,)]
    assert sorted(path.name for path in replica.parent.iterdir()) == ["postval.duckdb", "warehouse"]


def test_nothing_is_copied_where_nothing_was_written(warehouse: Warehouse, replica: Path) -> None:
    first = warehouse.publish(replica)
    before = replica.stat()
    again = warehouse.publish(replica)
    assert (again.status, again.published_at) == (UNCHANGED, first.published_at)
    assert replica.stat().st_ino == before.st_ino
    assert replica.stat().st_mtime_ns == before.st_mtime_ns
    deliver(warehouse)
    assert warehouse.publish(replica).status is PUBLISHED
    assert query_replica(replica, COUNT)[1] == [(2,)]


def test_a_missing_replica_is_published_again(warehouse: Warehouse, replica: Path) -> None:
    warehouse.publish(replica)
    replica.unlink()
    assert warehouse.publish(replica).status is PUBLISHED
    assert replica.exists()


def test_two_replicas_do_not_stand_for_each_other(warehouse: Warehouse, replica: Path) -> None:
    other = replica.with_name("other.duckdb")
    warehouse.publish(other)
    deliver(warehouse)
    assert warehouse.publish(replica).status is PUBLISHED
    assert warehouse.publish(other).status is PUBLISHED
    assert query_replica(other, COUNT)[1] == [(2,)]


def test_a_migration_is_published_though_no_row_was_written(warehouse: Warehouse, replica: Path) -> None:
    warehouse.publish(replica)
    warehouse.migrate(now=NOW)
    assert warehouse.publish(replica).status is PUBLISHED


def test_a_copy_that_a_crash_left_behind_is_no_obstacle(warehouse: Warehouse, replica: Path) -> None:
    staged = replica.with_name("postval.publishing.duckdb")
    staged.write_bytes(b"half a copy")
    staged.chmod(0o444)
    wal_of(staged).write_bytes(b"half a log")
    assert warehouse.publish(replica).status is PUBLISHED
    assert query_replica(replica, COUNT)[1] == [(1,)]


# ---- people who have it open ----


def _read_on(path: Path, opened: Event, release: Event, seen: multiprocessing.Queue[int]) -> None:
    with duckdb.connect(path, read_only=True) as connection:
        opened.set()
        release.wait()
        seen.put(connection.execute(COUNT).fetchall()[0][0])


def _scribble(path: Path, opened: Event, release: Event, done: Event) -> None:
    connection = duckdb.connect(path)
    opened.set()
    release.wait()
    connection.execute("CREATE TABLE scribble AS SELECT * FROM range(1000)")  # makes the log
    done.set()
    os._exit(0)  # without the checkpoint of a tidy close


@pytest.fixture
def release() -> Iterator[Event]:
    event = SPAWN.Event()
    yield event
    event.set()


def test_readers_that_stay_open_hold_nobody_up_and_see_their_old_copy(
    warehouse: Warehouse, replica: Path, release: Event
) -> None:
    warehouse.publish(replica)
    opened, seen = [SPAWN.Event() for _ in range(3)], SPAWN.Queue()
    readers = [SPAWN.Process(target=_read_on, args=(replica, event, release, seen)) for event in opened]
    for reader, event in zip(readers, opened, strict=True):
        reader.start()
        assert event.wait(60)
    for n in (2, 3):
        deliver(warehouse)
        publication = warehouse.publish(replica)
        assert publication.status is (KEPT_ASIDE if os.name == "nt" else PUBLISHED)
        assert query_replica(publication.path, COUNT)[1] == [(n,)]
    release.set()
    assert [seen.get(timeout=60) for _ in readers] == [1, 1, 1]
    for reader in readers:
        reader.join()


def test_somebody_who_writes_into_the_replica_disturbs_nobody(
    warehouse: Warehouse, replica: Path, release: Event
) -> None:
    warehouse.publish(replica)
    opened, done = SPAWN.Event(), SPAWN.Event()
    scribbler = SPAWN.Process(target=_scribble, args=(writable(replica), opened, release, done))
    scribbler.start()
    assert opened.wait(60)
    assert query_replica(replica, COUNT)[1] == [(1,)]  # answered from a copy
    deliver(warehouse)
    assert warehouse.publish(replica).status is PUBLISHED
    assert query_replica(replica, COUNT)[1] == [(2,)]
    release.set()
    assert done.wait(60)
    scribbler.join()
    # the scribbler's log lies beside a file that it does not belong to: it is not in what is answered
    assert wal_of(replica).exists()
    assert query_replica(replica, COUNT)[1] == [(2,)]
    assert "scribble" not in {row[0] for row in query_replica(replica, "SHOW TABLES")[1]}
    deliver(warehouse)
    assert warehouse.publish(replica).status is PUBLISHED
    assert not wal_of(replica).exists()
    assert query_replica(replica, COUNT)[1] == [(3,)]


def test_a_log_left_beside_the_replica_goes_before_the_new_file_comes(
    warehouse: Warehouse, replica: Path, release: Event
) -> None:
    warehouse.publish(replica)
    release.set()
    opened, done = SPAWN.Event(), SPAWN.Event()
    scribbler = SPAWN.Process(target=_scribble, args=(writable(replica), opened, release, done))
    scribbler.start()
    scribbler.join()
    assert wal_of(replica).exists()  # the trap is set
    assert warehouse.publish(replica).status is PUBLISHED  # although nothing was written meanwhile
    assert not wal_of(replica).exists()
    with duckdb.connect(replica, read_only=True) as connection:
        names = {row[0] for row in connection.execute("SHOW TABLES").fetchall()}
    assert "archive_deliveries" in names
    assert "scribble" not in names


# ---- a rename that is refused, as on Windows while the file is open ----


class Blocked:
    """Refuses to rename onto one file."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
        self._context = monkeypatch
        self._real = os.replace
        self._path = path
        monkeypatch.setattr(os, "replace", self._replace)

    def _replace(self, source: Path, target: Path) -> None:
        if Path(target) == self._path:
            raise PermissionError(errno.EACCES, "Access is denied")
        self._real(source, target)

    def free(self) -> None:
        self._context.setattr(os, "replace", self._real)


def test_a_refused_rename_keeps_the_copy_aside_until_the_way_is_free(
    warehouse: Warehouse, replica: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.publish(replica)
    blocked = Blocked(monkeypatch, replica)
    deliver(warehouse)
    publication = warehouse.publish(replica)
    first = replica.with_name("postval.1.duckdb")
    assert (publication.status, publication.path) == (KEPT_ASIDE, first)
    assert publication.reason is not None
    assert "postval.duckdb is open in another program: Access is denied" in publication.reason
    assert query_replica(replica, COUNT)[1] == [(1,)]
    assert query_replica(first, COUNT)[1] == [(2,)]
    assert stat.S_IMODE(replica.stat().st_mode) & 0o222 == 0

    # nothing new: the copy that waits is tried again, not made again
    inode = first.stat().st_ino
    assert warehouse.publish(replica) == publication
    assert (first.stat().st_ino, kept_aside(replica)) == (inode, [first])

    # something new: the next number, and the older one goes
    deliver(warehouse)
    second = replica.with_name("postval.2.duckdb")
    assert warehouse.publish(replica).path == second
    assert kept_aside(replica) == [second]

    blocked.free()
    freed = warehouse.publish(replica)
    assert (freed.status, freed.path) == (PUBLISHED, replica)
    assert kept_aside(replica) == []
    assert query_replica(replica, COUNT)[1] == [(3,)]
    assert query_replica(replica, "SELECT * FROM published_at")[1] == [(freed.published_at,)]
    assert warehouse.publish(replica).status is UNCHANGED


def test_numbers_sort_as_numbers_and_other_files_are_not_ours(replica: Path) -> None:
    for name in ("postval.10.duckdb", "postval.9.duckdb", "postval.old.duckdb", "postval.publishing.duckdb"):
        replica.with_name(name).touch()
    assert [path.name for path in kept_aside(replica)] == ["postval.9.duckdb", "postval.10.duckdb"]


def test_a_copy_is_the_same_where_the_kernel_cannot_copy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, target = tmp_path / "source", tmp_path / "target"
    source.write_bytes(os.urandom(3_000_000))
    copy_database(source, target)
    assert target.read_bytes() == source.read_bytes()

    def refuse(*_: object) -> int:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "copy_file_range", refuse, raising=False)
    copy_database(source, target)
    assert target.read_bytes() == source.read_bytes()


# ---- queries by people ----


@pytest.mark.parametrize(
    "sql",
    [
        "SELECT sha256 FROM archive_deliveries",
        "  -- which\n /* and; how */ (SELECT sha256 FROM archive_deliveries);",
        "with d as (from archive_deliveries) select sha256 from d",
        "FROM archive_deliveries SELECT sha256",
        "VALUES ('ab')",
        "SELECT 'ab' AS \"; DROP TABLE bars\"",
    ],
)
def test_a_reading_statement_is_answered(warehouse: Warehouse, replica: Path, sql: str) -> None:
    warehouse.publish(replica)
    assert query_replica(replica, sql)[1] == [("ab",)]


@pytest.mark.parametrize(
    "sql", ["SHOW TABLES", "DESCRIBE bars", "SUMMARIZE bars", "EXPLAIN SELECT 1", "TABLE revision"]
)
def test_a_statement_about_the_tables_is_answered(warehouse: Warehouse, replica: Path, sql: str) -> None:
    warehouse.publish(replica)
    names, rows = query_replica(replica, sql)
    assert names
    assert rows


@pytest.mark.parametrize(
    "sql",
    [
        "DELETE FROM archive_deliveries",
        "INSERT INTO archive_deliveries (sha256) VALUES ('cd')",
        "CREATE TEMP TABLE t AS SELECT 1",
        "DROP VIEW leaderboard",
        "ATTACH '{dir}/other.duckdb' AS other",
        "COPY archive_deliveries TO '{dir}/stolen.csv'",
        "COPY (SELECT 1) TO '{dir}/stolen.csv'",
        "EXPORT DATABASE '{dir}/stolen'",
        "EXPLAIN ANALYZE COPY archive_deliveries TO '{dir}/stolen.csv'",
        "EXPLAIN ANALYZE DELETE FROM archive_deliveries",
        "SET enable_external_access = true",
        "PRAGMA database_size",
        "PRAGMA enable_profiling",
        "CALL pragma_version()",
        "LOAD httpfs",
        "INSTALL httpfs",
        "SELECT * FROM read_csv('{dir}/secret.csv')",
        "SELECT * FROM '{dir}/secret.csv'",
        "SELECT content FROM read_text('{dir}/secret.csv')",
        "SELECT * FROM glob('{dir}/*')",
        "SELECT 1; SELECT 2",
        "SELECT 1; DELETE FROM archive_deliveries",
        "",
        "-- nothing",
        "SELEKT 1",
        "SELECT nothing FROM archive_deliveries",
    ],
)
def test_anything_else_is_refused(warehouse: Warehouse, replica: Path, sql: str) -> None:
    warehouse.publish(replica)
    (replica.parent / "secret.csv").write_text("a\n1\n")
    before = {path.name for path in replica.parent.iterdir()}
    with pytest.raises(Rejected) as refusal:
        query_replica(replica, sql.format(dir=replica.parent))
    assert str(refusal.value)
    assert {path.name for path in replica.parent.iterdir()} == before
    assert query_replica(replica, COUNT)[1] == [(1,)]


def test_before_the_first_publication_the_answer_is_to_wait(replica: Path) -> None:
    with pytest.raises(Unavailable, match=r"postval\.duckdb is not there"):
        query_replica(replica, "SELECT 1")


# ---- somebody writes into it just now ----


def test_a_copy_that_was_torn_by_somebodys_writing_is_made_again(
    warehouse: Warehouse, replica: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.publish(replica)
    wal_of(replica).write_bytes(b"")  # somebody works on it: the query goes to a copy
    copies: list[Path] = []

    def torn_twice(source: Path, target: Path) -> None:
        copy_database(source, target)
        copies.append(target)
        if len(copies) <= 2:
            content = target.read_bytes()
            target.write_bytes(content[: len(content) // 2])

    monkeypatch.setattr(warehouse_file, "copy_database", torn_twice)
    monkeypatch.setattr(warehouse_file, "_PAUSES_S", (0.0, 0.0, 0.0))
    assert query_replica(replica, COUNT)[1] == [(1,)]
    assert len(copies) == 3


def test_a_copy_that_stays_torn_is_worth_retrying(
    warehouse: Warehouse, replica: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    warehouse.publish(replica)
    wal_of(replica).write_bytes(b"")
    writable(replica).write_bytes(replica.read_bytes()[:5000])
    monkeypatch.setattr(warehouse_file, "_PAUSES_S", (0.0, 0.0))
    with pytest.raises(Unavailable, match="another program writes into it"):
        query_replica(replica, COUNT)
