"""``postval doctor`` where something is broken: each is found, with its mend, and nothing stops the other questions."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import duckdb
import pytest

from postval_assets.commands.doctor import examine
from postval_assets.commands.finding import Finding, Severity
from postval_assets.io.backups import list_backups
from postval_assets.io.shared_lock import taken
from postval_assets.io.warehouse import Append
from postval_assets.settings import load_settings
from postval_assets_tests.commands.conftest import Command
from postval_assets_tests.faults.damage import DAMAGES, garbage_in_the_middle
from postval_assets_tests.faults.privileges import (
    has_permissions,
    make_read_only,
    open_folder,
    unprivileged,
)


def findings(postval: Command, what: str) -> list[Finding]:
    found = examine(load_settings(data_dir=postval.data_dir))
    assert {"versions", "settings", "web UI", "daemon"} <= {f.what for f in found}, "all questions are asked"
    return [f for f in found if f.what == what]


@pytest.fixture
def backed_up(validated: Command) -> Command:
    """A data directory with a copy of its warehouse."""
    validated.platform.warehouse.make_backup(now=datetime(2025, 3, 2, tzinfo=UTC))
    return validated


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_warehouse_is_told_with_the_copy_to_go_back_to(
    backed_up: Command, damage: Callable[[Path], None]
) -> None:
    path = backed_up.data_dir / "warehouse" / "warehouse.duckdb"
    [backup] = list_backups(path.parent / "backups")
    damage(path)
    before = path.read_bytes()
    [warehouse] = findings(backed_up, "warehouse")
    assert warehouse.severity is Severity.ERROR
    assert "cannot be read (it is damaged" in warehouse.found
    assert f"postval restore {backup.path}" in str(warehouse.mend)
    assert path.read_bytes() == before, "looking changes nothing"


def test_a_damaged_warehouse_ends_the_command_with_1_and_no_traceback(backed_up: Command) -> None:
    garbage_in_the_middle(backed_up.data_dir / "warehouse" / "warehouse.duckdb")
    done = backed_up("doctor")
    assert done.code == 1
    assert "postval restore" in done.out
    assert "Traceback" not in done.out + done.err


def test_a_damaged_copy_is_told(backed_up: Command) -> None:
    assert [f.severity for f in findings(backed_up, "backups")] == [Severity.OK]
    [backup] = list_backups(backed_up.platform.warehouse.backups)
    garbage_in_the_middle(backup.path)
    [told] = findings(backed_up, "backups")
    assert told.severity is Severity.ERROR
    assert "cannot be read" in told.found
    assert "postval backup" in str(told.mend)


@pytest.mark.parametrize(
    ("statement", "severity", "found", "mend"),
    [
        (
            "DELETE FROM schema_versions WHERE version = (SELECT max(version) FROM schema_versions)",
            Severity.NOTE,
            "older than this postval's",
            "postval migrate",
        ),
        (
            "INSERT INTO schema_versions (version, name, created_at) VALUES (999, 'x', now())",
            Severity.ERROR,
            "schema version 999",
            "postval restore",
        ),
    ],
)
def test_another_schema_is_told_and_left_as_it_is(
    backed_up: Command, statement: str, severity: Severity, found: str, mend: str
) -> None:
    path = backed_up.platform.warehouse.path
    with duckdb.connect(path) as connection:
        connection.execute(statement)
    before = path.read_bytes()
    [told] = findings(backed_up, "warehouse")
    assert told.severity is severity
    assert found in told.found
    assert mend in told.found + str(told.mend)
    assert path.read_bytes() == before


def test_a_damaged_replica_is_told(validated: Command) -> None:
    replica = validated.platform.replica
    replica.chmod(0o644)
    garbage_in_the_middle(replica)
    replica.write_bytes(replica.read_bytes()[: 4096 * 8])
    [told] = findings(validated, "replica")
    assert told.severity is Severity.ERROR
    assert str(told.mend).startswith("delete it")
    assert "delete it" in validated.refused("sql", "SELECT 1")
    replica.unlink()
    validated.platform.warehouse.publish(replica)
    assert validated("sql", "SELECT count(*) FROM training_archives").code == 0


def test_a_damaged_history_of_dagster_is_told(validated: Command) -> None:
    [runs] = (validated.data_dir / "dagster").rglob("runs.db")
    runs.write_bytes(b"no database" * 1000)
    [told] = findings(validated, "dagster")
    assert told.severity is Severity.ERROR
    assert "postval rebuild" in str(told.mend)


def test_a_clock_that_was_set_back_is_told(validated: Command) -> None:
    assert findings(validated, "clock") == []
    later = datetime.now(UTC) + timedelta(days=400)
    row = {"sha256": "ab" * 32, "attempt": 1}
    validated.platform.warehouse.write([Append("archive_deliveries", [row])], run_id="test", now=later)
    [told] = findings(validated, "clock")
    assert f"{later:%Y-%m-%d %H:%M} UTC, 399 days" in told.found


def test_who_holds_the_warehouse_is_told(validated: Command) -> None:
    assert findings(validated, "lock") == []
    lock = taken(validated.platform.warehouse.lock_path, timeout_s=10, doing="a long write")
    try:
        settings = load_settings(data_dir=validated.data_dir, lock_timeout_s=0.05)
        found = {f.what: f for f in examine(settings)}
    finally:
        lock.release()
    assert "a long write" in found["lock"].found
    assert found["warehouse"].severity is Severity.ERROR
    assert "a long write" in found["warehouse"].found


@pytest.fixture
def locked_away(validated: Command) -> Iterator[Command]:
    """The data directory where every user may look, and only its owner may write."""
    with open_folder() as folder:
        shutil.copytree(validated.data_dir, folder / "data")
        yield Command(folder / "data")


@has_permissions
def test_a_data_directory_that_cannot_be_written_is_told_and_can_be_read(
    locked_away: Command, tmp_path: Path, made_archive: Path
) -> None:
    query = ("sql", "SELECT symbol, decision FROM latest_decisions ORDER BY symbol", "--format", "csv")
    writing = [
        ("validate", str(made_archive)),
        ("ingest", str(made_archive)),
        ("bars",),
        ("backfill", "--symbols", "AAPL", "--plan", "180d"),
        ("home",),
    ]
    archive = locked_away.data_dir / "readable.zip"
    shutil.copy(made_archive, archive)
    before = locked_away(*query)
    staged = locked_away("stage", "--to", str(tmp_path / "before"), "--decision", "LIVE,PAPER,RETRAIN,DROP")
    assert (before.code, staged.code) == (0, 0), staged
    assert locked_away("doctor").code == 0
    make_read_only(locked_away.data_dir)
    with open_folder() as target:
        target.chmod(0o777)
        with unprivileged():
            assert locked_away(*query).out == before.out
            again = locked_away("stage", "--to", str(target / "bot"), "--decision", "LIVE,PAPER,RETRAIN,DROP")
            assert again.code == 0, again
            assert len(again.out.splitlines()) == len(staged.out.splitlines())
            for command in writing:
                words = [word.replace(str(made_archive), str(archive)) for word in command]
                told = locked_away.refused(*words)
                assert str(locked_away.data_dir) in told, command
                assert "cannot be written" in told, command
                assert "--data-dir" in told, command
            doctor = locked_away("doctor")
    assert doctor.code == 1
    assert "cannot be written" in doctor.out
    assert "Traceback" not in doctor.out + doctor.err
    assert "every row read" in doctor.out, "and the warehouse can be read all the same"


@has_permissions
def test_an_inbox_that_may_not_be_read_is_told(postval: Command) -> None:
    with open_folder() as folder:
        inbox = folder / "inbox"
        inbox.mkdir()
        there = Command(folder / "data")
        assert there("home").code == 0
        assert findings(there, "inbox") != []
        inbox.chmod(0o000)
        settings = load_settings(data_dir=there.data_dir, inbox_dir=inbox)
        (there.data_dir / "warehouse").mkdir(exist_ok=True)
        with unprivileged():
            told = [f for f in examine(settings) if f.what == "inbox"]
        inbox.chmod(0o755)
    assert [f.severity for f in told] == [Severity.ERROR]
    assert str(inbox) in told[0].found
    assert "readable" in str(told[0].mend)
