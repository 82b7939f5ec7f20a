"""A damaged warehouse: it is found, nothing is made worse, and there is a way back that loses nothing."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from postval_assets.core.failures import PostvalError, Rejected, Unavailable
from postval_assets.io import backups as backups_module
from postval_assets.io.backups import list_backups, newest_backup
from postval_assets.io.replica import wal_of
from postval_assets.io.schema import MIGRATIONS, Schema
from postval_assets.io.warehouse import Append, Health, PublicationStatus, Warehouse, query_replica
from postval_assets.io.warehouse_file import DamagedDatabase, read_contents
from postval_assets_tests.faults.damage import DAMAGES, emptied, garbage_in_the_middle

NOW = datetime(2025, 3, 1, 12, tzinfo=UTC)
COUNT = "SELECT count(*) AS n FROM archive_deliveries"


def deliver(warehouse: Warehouse, attempts: range) -> None:
    rows = [{"sha256": "ab" * 32, "attempt": attempt, "file_name": f"{attempt}.zip"} for attempt in attempts]
    warehouse.write([Append("archive_deliveries", rows)], run_id="run-1", now=NOW)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A warehouse with a thousand rows, and a copy from when it had five hundred."""
    warehouse = Warehouse(tmp_path_factory.mktemp("made") / "warehouse" / "warehouse.duckdb")
    deliver(warehouse, range(500))
    warehouse.make_backup(now=NOW)
    deliver(warehouse, range(500, 1000))
    return warehouse.path.parent


@pytest.fixture
def warehouse(made: Path, tmp_path: Path) -> Warehouse:
    """It, to be damaged."""
    shutil.copytree(made, tmp_path / "warehouse")
    return Warehouse(tmp_path / "warehouse" / "warehouse.duckdb")


def files(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir() if ".lock" not in p.name)


@pytest.mark.parametrize("damage", DAMAGES)
def test_damage_is_found_told_with_the_way_back_and_the_way_back_works(
    warehouse: Warehouse, tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    replica = tmp_path / "postval.duckdb"
    assert warehouse.publish(replica).status is PublicationStatus.PUBLISHED
    damage(warehouse.path)
    log = wal_of(warehouse.path)
    before = warehouse.path.read_bytes(), log.read_bytes() if log.exists() else None
    newest = newest_backup(warehouse.backups)
    assert newest is not None

    found = warehouse.condition(thorough=True)
    assert found.health is Health.DAMAGED
    assert f"postval restore {newest.path}" in str(found.said)
    for use in (
        lambda: warehouse.rows("SELECT * FROM archive_deliveries"),
        lambda: warehouse.make_backup(now=NOW),
    ):
        with pytest.raises(DamagedDatabase, match=r"warehouse\.duckdb cannot be read .* postval restore "):
            use()
    assert list_backups(warehouse.backups) == (newest,), "a damaged file is no backup"
    assert query_replica(replica, COUNT)[1] == [(1000,)], "people go on reading"

    aside = warehouse.restore(newest.path, now=NOW)
    assert warehouse.rows(COUNT) == [{"n": 500}]
    assert warehouse.condition(thorough=True).health is Health.CURRENT
    assert aside is not None
    assert aside.read_bytes() == before[0], "the damaged file is kept"
    assert (wal_of(aside).read_bytes() if wal_of(aside).exists() else None) == before[1], "and its log"
    assert not log.exists()
    assert warehouse.publish(replica).status is PublicationStatus.PUBLISHED
    assert query_replica(replica, COUNT)[1] == [(500,)]
    assert list_backups(warehouse.backups) == (newest,)


def test_garbage_is_found_wherever_a_row_lies(warehouse: Warehouse) -> None:
    garbage_in_the_middle(warehouse.path)
    quick, thorough = warehouse.condition(), warehouse.condition(thorough=True)
    assert thorough.health is Health.DAMAGED
    assert quick.health in (Health.CURRENT, Health.DAMAGED), "a quick look may not meet it"


def test_without_a_copy_the_message_says_so(warehouse: Warehouse) -> None:
    for backup in list_backups(warehouse.backups):
        backup.path.unlink()
    emptied(warehouse.path)
    with pytest.raises(DamagedDatabase, match=r"there is no copy in .*backups: move the file"):
        warehouse.rows("SELECT 1")
    assert warehouse.path.read_bytes() == b"", "an empty file is not taken for a new one"


# ---- copies ----


def test_copies_are_whole_named_by_version_and_time_and_listed_oldest_first(warehouse: Warehouse) -> None:
    [first] = list_backups(warehouse.backups)
    second, third = warehouse.make_backup(now=NOW), warehouse.make_backup(now=NOW + timedelta(hours=1))
    (warehouse.backups / "notes.txt").write_text("mine")
    (warehouse.backups / ".warehouse.v0001.20250301T120000Z.duckdb.part").write_bytes(b"half")
    listed = list_backups(warehouse.backups)
    assert [b.path for b in listed] == [first.path, second, third], "two of one second, in their order"
    assert [b.made_at for b in listed] == [NOW, NOW, NOW + timedelta(hours=1)]
    assert {b.schema_version for b in listed} == {warehouse.schema_version()}
    assert [b.size_bytes for b in listed] == [b.path.stat().st_size for b in listed]
    assert read_contents(third).tables["archive_deliveries"].n_rows == 1000
    assert read_contents(second) == read_contents(third) != read_contents(first.path)
    assert list_backups(warehouse.backups / "none") == ()


@pytest.mark.parametrize("lost", [b"", None])
def test_a_copy_that_came_out_otherwise_does_not_count(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, lost: bytes | None
) -> None:
    """A disk that says it wrote, and did not."""
    older = list_backups(warehouse.backups)[0].path.read_bytes()
    monkeypatch.setattr(
        backups_module,
        "copy_database",
        lambda _, target: target.write_bytes(older if lost is None else lost),
    )
    before = files(warehouse.backups)
    with pytest.raises(PostvalError, match=r"does not hold what was copied|cannot be read"):
        warehouse.make_backup(now=NOW + timedelta(hours=1))
    assert files(warehouse.backups) == before


def test_a_migration_does_not_begin_without_its_copy(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    later = Warehouse(warehouse.path, migrations=newer_migrations(tmp_path))

    def full(source: Path, target: Path) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(backups_module, "copy_database", full)
    version = warehouse.schema_version()
    with pytest.raises(Unavailable, match="the disk is full"):
        later.migrate(now=NOW)
    assert warehouse.schema_version() == version
    monkeypatch.undo()
    assert later.migrate(now=NOW) == [version + 1]
    newest = newest_backup(warehouse.backups)
    assert newest is not None
    assert newest.schema_version == version
    # and back, with the older code: the newer file is refused, its own copy is taken
    assert (condition := warehouse.condition()).health is Health.NEWER
    assert f"postval restore {newest.path}" in str(condition.said)
    warehouse.restore(newest.path, now=NOW)
    assert warehouse.rows(COUNT) == [{"n": 1000}]


def newer_migrations(tmp_path: Path) -> Path:
    """The migrations of a version to come."""
    folder = tmp_path / "migrations"
    folder.mkdir()
    for file in MIGRATIONS.glob("*.sql"):
        shutil.copy(file, folder)
    number = Schema().version + 1
    (folder / f"{number:04}_notes.sql").write_text("CREATE TABLE notes (note VARCHAR);", encoding="utf-8")
    return folder


# ---- what is refused ----


def _damaged(backup: Path) -> Path:
    garbage_in_the_middle(backup)
    return backup


def _no_database(backup: Path) -> Path:
    backup.write_bytes(b"PK\x03\x04 no database")
    return backup


def _of_something_else(backup: Path) -> Path:
    other = backup.with_name("other.duckdb")
    with duckdb.connect(other) as connection:
        connection.execute("CREATE TABLE t AS SELECT 1 AS a")
    return other


def _newer(backup: Path) -> Path:
    with duckdb.connect(backup) as connection:
        connection.execute("INSERT INTO schema_versions (version, name, created_at) VALUES (999, 'x', now())")
    return backup


def _with_a_log(backup: Path) -> Path:
    wal_of(backup).write_bytes(b"a log")
    return backup


def _missing(backup: Path) -> Path:
    return backup.with_name("nowhere.duckdb")


def _itself(backup: Path) -> Path:
    return backup.parent.parent / "warehouse.duckdb"


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (_damaged, "cannot be read"),
        (_no_database, "cannot be read"),
        (_of_something_else, "schema version 0, this code knows"),
        (_newer, "schema version 999, this code knows"),
        (_with_a_log, "has a log beside it"),
        (_missing, "is not there"),
        (_itself, "is the warehouse itself"),
    ],
)
def test_what_cannot_take_its_place_is_refused_before_anything_is_moved(
    warehouse: Warehouse, make: Callable[[Path], Path], said: str
) -> None:
    backup = make(list_backups(warehouse.backups)[0].path)
    before, content = files(warehouse.path.parent), warehouse.path.read_bytes()
    with pytest.raises(PostvalError, match=said):
        warehouse.restore(backup, now=NOW)
    assert files(warehouse.path.parent) == before
    assert warehouse.path.read_bytes() == content


def test_a_database_of_something_else_is_not_written_to(warehouse: Warehouse) -> None:
    warehouse.path.unlink()
    with duckdb.connect(warehouse.path) as connection:
        connection.execute("CREATE TABLE holidays AS SELECT 1 AS day")
    content = warehouse.path.read_bytes()
    with pytest.raises(Rejected, match=r"something else \(it has the tables holidays\).*postval restore"):
        deliver(warehouse, range(1))
    assert warehouse.condition().health is Health.DAMAGED
    assert warehouse.path.read_bytes() == content


# ---- cut short ----


def test_a_restore_that_cannot_put_the_copy_in_place_changes_nothing(
    warehouse: Warehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    def in_use(part: Path, target: Path) -> None:
        if target == warehouse.path:
            raise PermissionError(13, "it is open in another program")
        part.replace(target)

    monkeypatch.setattr(backups_module, "replace_durably", in_use)
    [backup] = list_backups(warehouse.backups)
    with pytest.raises(Unavailable, match="close what has it open, and repeat"):
        warehouse.restore(backup.path, now=NOW)
    monkeypatch.undo()
    assert warehouse.rows(COUNT) == [{"n": 1000}]
    assert not list(warehouse.path.parent.glob("*.aside.*"))
    assert warehouse.restore(backup.path, now=NOW) is not None
    assert warehouse.rows(COUNT) == [{"n": 500}]


def test_a_restore_that_was_killed_between_two_renames_is_repeated_not_started_empty(
    warehouse: Warehouse,
) -> None:
    """As on a file system without links: the old file is aside, the copy is not in its place yet."""
    [backup] = list_backups(warehouse.backups)
    warehouse.path.rename(warehouse.path.with_name("warehouse.aside.20250301T120000Z.duckdb"))
    warehouse.path.with_name("warehouse.restoring.duckdb").write_bytes(backup.path.read_bytes())
    with pytest.raises(Rejected, match="a restore was cut short; repeat it"):
        deliver(warehouse, range(1))
    assert warehouse.restore(backup.path, now=NOW) is None
    assert warehouse.rows(COUNT) == [{"n": 500}]


def test_a_file_that_is_missing_while_its_log_is_there_is_not_started_empty(warehouse: Warehouse) -> None:
    warehouse.path.unlink()
    wal_of(warehouse.path).write_bytes(b"its last transactions")
    with pytest.raises(Rejected, match=r"is missing, but its log warehouse\.duckdb\.wal is there"):
        deliver(warehouse, range(1))
    found = warehouse.condition()
    assert found.health is Health.DAMAGED
    assert "postval restore" in str(found.said)


def test_a_first_use_that_was_killed_is_no_obstacle(tmp_path: Path) -> None:
    warehouse = Warehouse(tmp_path / "w" / "warehouse.duckdb")
    warehouse.path.parent.mkdir()
    for name in ("warehouse.new.duckdb", "warehouse.new.duckdb.wal"):
        (warehouse.path.parent / name).write_bytes(b"half a header")
    deliver(warehouse, range(3))
    assert warehouse.rows(COUNT) == [{"n": 3}]
    assert files(warehouse.path.parent) == ["warehouse.duckdb"]


def test_looking_at_the_condition_changes_nothing(warehouse: Warehouse, tmp_path: Path) -> None:
    newer = Warehouse(warehouse.path, migrations=newer_migrations(tmp_path))
    content, before = warehouse.path.read_bytes(), files(warehouse.path.parent)
    assert newer.condition(thorough=True).health is Health.OLDER
    assert warehouse.path.read_bytes() == content
    assert files(warehouse.path.parent) == before
    nowhere = Warehouse(tmp_path / "elsewhere" / "warehouse.duckdb")
    assert nowhere.condition().health is Health.ABSENT
    assert not nowhere.path.parent.exists()
