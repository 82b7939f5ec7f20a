"""prune, archives, migrate, backup and restore: what they show, what they do, and how they refuse."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import duckdb
import pytest

from postval_assets.commands.home import open_instance
from postval_assets.commands.occupancy import held
from postval_assets.commands.pruning import size_text
from postval_assets.commands.run_history import asset_names, newest_materializations
from postval_assets.definitions import defs
from postval_assets.defs.jobs import archive_job
from postval_assets.defs.resources import ARCHIVE_TAG
from postval_assets.defs.run_records import FINISHED, runs
from postval_assets.io.warehouse import MIGRATIONS
from postval_assets.settings import load_settings
from postval_assets_tests.commands.conftest import ARCHIVE, Command
from postval_assets_tests.factories import good_claims, make_archive, make_summary

NEXT = "20250401_180000"
LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def twice_directory(validated_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The validated data directory, after a backup and another archive, which is newer for AAPL alone."""
    root = tmp_path_factory.mktemp("twice")
    file = make_archive(
        root / f"Alpaca_trading_trained_{NEXT}.zip",
        {"AAPL": {"version": "2.3.0", "seed": 1}},
        summary=make_summary({"AAPL": good_claims()}, timestamp=NEXT),
        summary_name=f"training_summary_{NEXT}.json",
    )
    shutil.copytree(validated_directory, root / "data")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DAGSTER_HOME", "POSTVAL_DATA_DIR", "POSTVAL_BARS_SOURCE"):
            patch.setenv(name, "")
            patch.delenv(name)
        postval = Command(root / "data")
        assert postval("backup").code == 0
        assert postval("validate", str(file)).code == 0
    return root / "data"


@pytest.fixture
def twice(elsewhere: Path, twice_directory: Path, tmp_path: Path) -> Command:
    """The command on a copy of that data directory."""
    shutil.copytree(twice_directory, tmp_path / "data")
    return Command(tmp_path / "data")


def instance_of(postval: Command) -> dg.DagsterInstance:
    return open_instance(load_settings(data_dir=postval.data_dir))


def state_of(postval: Command) -> dict[str, set[str]]:
    """Materialized partitions of every asset."""
    instance = instance_of(postval)
    return {name: set(newest_materializations(instance, name)) for name in asset_names()}


def run_ids(postval: Command) -> set[str]:
    return {run.run_id for run in runs(instance_of(postval), FINISHED)}


def files_below(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if p.is_file()}


def test_prune_of_an_empty_directory_frees_nothing_and_makes_nothing(postval: Command) -> None:
    done = postval("prune", "--yes")
    assert done.code == 0, done.err
    assert done.out.startswith("nothing to free\n")
    assert "keep_archives_days, keep_weights_days, keep_rejected_days" in done.out
    assert not postval.data_dir.exists()


def test_prune_shows_what_it_would_free_and_only_then_does_it(
    validated: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = validated.data_dir
    for day in (1, 2, 3):
        validated.platform.warehouse.make_backup(now=datetime(2025, 1, day, tzinfo=UTC))
    left = data / "scratch" / "tmpabc"
    left.mkdir(parents=True)
    (left / "checkpoint.pt").write_bytes(b"x" * 5000)
    os.utime(left, (LONG_AGO.timestamp(), LONG_AGO.timestamp()))
    monkeypatch.setenv("POSTVAL_KEEP_BACKUPS", "1")
    monkeypatch.setenv("POSTVAL_KEEP_ARCHIVES_DAYS", "0")
    before = files_below(data) - files_below(data / "logs")
    shown = validated("prune")
    assert shown.code == 0, shown.err
    assert "nothing was touched" in shown.err
    assert files_below(data) - files_below(data / "logs") == before
    lines = shown.out.splitlines()
    assert lines[0].split() == ["rule", "what", "why", "size"]
    assert [line.split()[0] for line in lines[2:5]] == ["backups", "backups", "left-overs"]
    assert "made 2025-01-01, not among the newest 1" in lines[2]
    assert "4.9 kB" in lines[4]
    assert lines[6].startswith("2 backups: ")
    assert "1 left-overs: 4.9 kB; together " in lines[6]
    assert lines[7].startswith("note: kept for ever: weights, rejected")
    done = validated("prune", "--yes")
    assert done.code == 0, done.err
    assert "freed " in done.err
    assert not left.exists()
    backups = list((data / "warehouse" / "backups").iterdir())
    assert [p.name.split(".")[2] for p in backups] == ["20250103T000000Z"]
    assert validated("prune").out.startswith("nothing to free")
    assert validated.platform.archives.path_of(sha_of(validated)).is_file(), "the newest archive always stays"


def sha_of(postval: Command, archive_id: str = ARCHIVE) -> str:
    [row] = postval.rows("SELECT sha256 FROM training_archives WHERE archive_id = ?", archive_id)
    return str(row["sha256"])


def test_prune_forgets_old_runs_but_no_partition_that_they_made(
    validated: Command, made_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTVAL_KEEP_RUNS_DAYS", "0.0000001")
    first = run_ids(validated)
    assert validated("prune").out.startswith("nothing to free"), "every run made what is newest"
    assert validated("validate", str(made_archive)).code == 0
    state = state_of(validated)
    instance = instance_of(validated)
    needed = {run for name in asset_names() for run in newest_materializations(instance, name).values()}
    old = run_ids(validated) - needed
    assert old
    assert old <= first
    shown = validated("prune")
    assert [line.split()[:2] for line in shown.out.splitlines()[2 : 2 + len(old)]] == [
        ["runs", r] for r in old
    ]
    with held(load_settings(data_dir=validated.data_dir)):
        beside = validated("prune", "--yes")
    assert "old runs of Dagster's are left alone while postval up works: stop it first" in beside.out
    assert old <= run_ids(validated)
    done = validated("prune", "--yes")
    assert done.code == 0, done.err
    assert run_ids(validated).isdisjoint(old)
    assert state_of(validated) == state
    dagster = validated.data_dir / "dagster"
    assert not [p for p in dagster.rglob("*") if any(run in p.name for run in old)]
    assert validated("prune").out.startswith("nothing to free")


def test_prune_finishes_what_one_that_was_killed_began(
    validated: Command, made_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Dagster has forgotten the run; its files are still there."""
    lost = "0f0e0d0c-1234-4abc-8def-000000000000"
    dagster = validated.data_dir / "dagster"
    left = [
        dagster / "history" / "runs" / f"{lost}.db",
        dagster / "storage" / lost / "compute_logs" / "a.out",
    ]
    others = [dagster / "history" / "runs" / "index.db", dagster / "storage" / "mine" / "a.txt"]
    for path in [*left, others[1]]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 2000)
    assert validated("prune").out.startswith("nothing to free"), (
        "a run that begins has files before its record"
    )
    for path in [left[0], left[1].parents[1], others[1].parent]:
        os.utime(path, (LONG_AGO.timestamp(), LONG_AGO.timestamp()))
    assert f"runs  {lost}  files of a run that is forgotten" in validated("prune").out
    assert validated("prune", "--yes").code == 0
    assert not any(path.exists() for path in left)
    assert all(path.is_file() for path in others)


def test_archives_lists_what_was_delivered(twice: Command) -> None:
    lines = twice("archives").out.splitlines()
    assert lines[0].split() == [
        "archive",
        "received",
        "models",
        "decisions",
        "zip",
        "weights",
        "where",
        "status",
    ]
    assert [line.split()[0] for line in lines[2:]] == [ARCHIVE, NEXT]
    assert all(line.endswith("stored  COMPLETE") for line in lines[2:])
    older, newer = json.loads(twice("archives", "--json").out)
    decisions: Mapping[str, int] = older["decisions"]
    made = twice.rows(
        """SELECT decision, count(*) AS n FROM deployment_decisions
           WHERE archive_id = ? AND policy = 'standard' GROUP BY decision""",
        ARCHIVE,
    )
    assert dict(decisions) == {r["decision"]: r["n"] for r in made}
    assert sum(decisions.values()) == older["n_models"] == 3
    assert older["zip_bytes"] == twice.platform.archives.path_of(sha_of(twice)).stat().st_size
    assert older["weights_bytes"] > 0
    assert datetime.fromisoformat(older["received_at"]).tzinfo is not None
    assert (older["is_newest"], newer["is_newest"]) == (True, True), (
        "the older one is MSFT's and NVDA's newest"
    )
    assert older["where"] == newer["where"] == "stored"


def test_archives_says_when_there_is_none(postval: Command) -> None:
    assert postval("archives").out == "no archive was delivered yet\n"
    assert json.loads(postval("archives", "--json").out) == []
    assert not postval.data_dir.exists()


def test_removing_an_archive_is_shown_first_and_keeps_its_results(validated: Command, tmp_path: Path) -> None:
    stored = validated.platform.archives.path_of(sha_of(validated))
    decided = validated.rows("SELECT * FROM deployment_decisions ORDER BY ALL")
    shown = validated("archives", "--remove", ARCHIVE)
    assert shown.code == 0
    assert "archives: 1 file(s), " in shown.out
    assert "weights: 2 file(s), " in shown.out, "two of the three networks are the same"
    assert "it is the newest archive of AAPL_1Hour, MSFT_1Hour, NVDA_1Hour" in shown.out
    assert "nothing was touched" in shown.err
    assert stored.is_file()
    assert validated("archives", "--remove", ARCHIVE, "--yes").code == 0
    assert not stored.exists()
    assert not list((validated.data_dir / "weights").rglob("*.safetensors"))
    [entry] = json.loads(validated("archives", "--json").out)
    assert (entry["where"], entry["zip_bytes"], entry["weights_bytes"]) == ("pruned", 0, 0)
    assert f"pruned {datetime.now(UTC):%Y-%m-%d}" in validated("archives").out
    assert (
        "has no files any more; its results stay" in validated("archives", "--remove", ARCHIVE, "--yes").out
    )
    for command in (
        ("stage", "--to", str(tmp_path / "bot"), "--classification", "APPROVED"),
        ("backfill", "--symbols", "AAPL", "--plan", "365d"),
    ):
        done = validated(*command)
        assert done.code == 1
        assert (
            f"archive {ARCHIVE} was pruned on {datetime.now(UTC):%Y-%m-%d} (by hand); drop the archive again"
            in (done.err + log_of(validated))
        )
    seen = validated("sql", "SELECT archive_id, kind FROM removed_files ORDER BY kind", "--format", "csv")
    assert seen.out == f"archive_id,kind\n{ARCHIVE},ARCHIVE\n{ARCHIVE},WEIGHTS\n"
    assert validated.rows("SELECT * FROM deployment_decisions ORDER BY ALL") == decided


def log_of(postval: Command) -> str:
    return (postval.data_dir / "logs" / "postval.log").read_text("utf-8")


def test_removing_refuses_what_is_unknown_or_worked_on(validated: Command) -> None:
    assert f"such as {ARCHIVE}" in validated.refused("archives", "--remove", "20200101_000000", "--yes")
    assert validated("archives", "--yes").code == 2
    assert validated("archives", "--json", "--remove", ARCHIVE).code == 2
    instance = instance_of(validated)
    job = defs.resolve_job_def(archive_job.name)
    instance.create_run_for_job(job, tags={ARCHIVE_TAG: ARCHIVE}, status=dg.DagsterRunStatus.STARTED)
    assert "is being worked on" in validated.refused("archives", "--remove", ARCHIVE, "--yes")
    assert validated.platform.archives.path_of(sha_of(validated)).is_file()


def test_migrate_says_what_it_did_and_backs_up_first(postval: Command) -> None:
    path = postval.data_dir / "warehouse" / "warehouse.duckdb"
    path.parent.mkdir(parents=True)
    with duckdb.connect(path) as first:
        first.execute((MIGRATIONS / "0001_initial.sql").read_text(encoding="utf-8"))
        first.execute("INSERT INTO schema_versions VALUES (1, '0001_initial', NULL, now())")
        first.execute("INSERT INTO revision VALUES (7, 'run-1', now())")
    done = postval("migrate")
    assert done.code == 0, done.err
    [backup] = (path.parent / "backups").glob("*.duckdb")
    assert f"warehouse: schema 1 to {postval.platform.warehouse.schema_version()}" in done.out
    assert str(backup) in done.out
    assert "dagster: not set up yet" in done.out
    with duckdb.connect(backup, read_only=True) as copy:
        assert copy.execute("SELECT max(version) FROM schema_versions").fetchone() == (1,)
    assert "already; views and comments made anew" in postval("migrate").out
    assert list((path.parent / "backups").glob("*.duckdb")) == [backup]


def test_migrate_brings_dagster_up_to_date_and_refuses_beside_a_daemon(validated: Command) -> None:
    with held(load_settings(data_dir=validated.data_dir)):
        assert "another postval up or demo works on" in validated.refused("migrate")
    state = state_of(validated)
    done = validated("migrate")
    assert done.code == 0, done.err
    assert done.out.splitlines()[1] == "dagster: brought up to date"
    assert state_of(validated) == state


def test_migrate_tells_what_dagster_said_where_it_fails(validated: Command) -> None:
    (validated.data_dir / "dagster" / "dagster.yaml").write_text("run_coordinator: nonsense\n")
    line = validated.refused("migrate")
    assert "dagster instance migrate ended with code" in line


def test_a_backup_is_listed_and_restored_with_everything_else_kept(twice: Command) -> None:
    folder = twice.data_dir / "warehouse" / "backups"
    [path] = folder.glob("*.duckdb")
    listed = twice("backup", "--list").out.splitlines()
    assert listed[0].split() == ["backup", "made", "schema", "size"]
    assert listed[2].startswith(path.name)
    with duckdb.connect(path, read_only=True) as copy:
        copy.execute("SET TimeZone = 'UTC'")
        before = copy.execute("SELECT archive_id, decision FROM deployment_decisions ORDER BY ALL").fetchall()
    decided = "SELECT archive_id, decision FROM deployment_decisions ORDER BY ALL"
    after = [tuple(r.values()) for r in twice.rows(decided)]
    assert len(after) > len(before) > 0
    with held(load_settings(data_dir=twice.data_dir)):
        assert "another postval up or demo works on" in twice.refused("restore", path.name)
    done = twice("restore", path.name)
    assert done.code == 0, done.err
    assert [tuple(r.values()) for r in twice.rows(decided)] == before
    seen = twice("sql", "SELECT archive_id FROM training_archives", "--format", "csv")
    assert seen.out == f"archive_id\n{ARCHIVE}\n", "the database for people is the restored one"
    stored = [p for p in (twice.data_dir / "archives").glob("*.zip") if p.stem != sha_of(twice)]
    assert f"note: delivered after it was made: postval validate {stored[0]}" in done.out
    aside = Path(done.out.splitlines()[1].removeprefix("what was there before is "))
    assert twice("restore", str(aside)).code == 0, "also that can be gone back to"
    assert [tuple(r.values()) for r in twice.rows(decided)] == after


def test_a_damaged_database_is_restored_from_its_backup(validated: Command) -> None:
    before = validated.rows("SELECT * FROM fold_results ORDER BY ALL")
    name = Path(validated("backup").out.rpartition(" (")[0]).name
    validated.platform.warehouse.path.write_bytes(b"scrambled" * 1000)
    assert "postval restore" in validated.refused("archives")
    done = validated("restore", name)
    assert done.code == 0, done.err
    assert validated.rows("SELECT * FROM fold_results ORDER BY ALL") == before


def test_backup_and_restore_refuse_what_is_not_there(postval: Command, validated_directory: Path) -> None:
    assert "nothing to back up" in postval.refused("backup")
    assert "no backup in" in postval("backup", "--list").out
    assert "expected a path, or one of the backups (there is none yet)" in postval.refused(
        "restore", "a.duckdb"
    )
    shutil.copytree(validated_directory, postval.data_dir)
    name = Path(postval("backup").out.rpartition(" (")[0]).name
    assert f"expected a path, or one of {name}" in postval.refused("restore", "a.duckdb")


@pytest.mark.parametrize(
    ("n_bytes", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (5000, "4.9 kB"),
        (10 * 2**20, "10 MB"),
        (2**30, "1.0 GB"),
        (1000 * 2**30, "1.0 TB"),
    ],
)
def test_sizes_read_as_people_say_them(n_bytes: int, text: str) -> None:
    assert size_text(n_bytes) == text


def test_every_command_keeps_alpacas_keys_out_of_the_log(
    postval: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = {"APCA_API_KEY_ID": "PKTESTKEY12345", "APCA_API_SECRET_KEY": "secretsecretsecret"}
    for name, value in keys.items():
        monkeypatch.setenv(name, value)
    postval.data_dir.mkdir()
    assert postval("archives").code == 0
    logging.getLogger("postval.test").warning("asked with %s and %s", *keys.values())
    assert "asked with *** and ***" in log_of(postval)
    assert not any(value in log_of(postval) for value in keys.values())
