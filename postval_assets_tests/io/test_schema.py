from __future__ import annotations

import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pytest

from postval_assets.core.failures import Rejected
from postval_assets.io.dictionary import COLUMNS, TABLES, VIEWS
from postval_assets.io.warehouse import MIGRATIONS, Append, Warehouse

NOW = datetime(2024, 9, 1, 12, tzinfo=UTC)
T1, T2 = datetime(2024, 8, 1, tzinfo=UTC), datetime(2024, 8, 15, tzinfo=UTC)
OLD, NEW = "20240101_000000", "20240601_000000"
NUMBERS = sorted(int(file.name[:4]) for file in MIGRATIONS.glob("*.sql"))
NEWEST = NUMBERS[-1]


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse" / "warehouse.duckdb")


@pytest.fixture
def next_migrations(tmp_path: Path) -> Path:
    """The migrations of a version to come."""
    directory = tmp_path / "migrations"
    shutil.copytree(MIGRATIONS, directory)
    (directory / f"{NEWEST + 1:04}_notes.sql").write_text(
        "CREATE TABLE notes (note VARCHAR); INSERT INTO notes VALUES ('two');"
    )
    return directory


def test_the_first_use_makes_the_schema_without_a_backup(warehouse: Warehouse) -> None:
    assert warehouse.schema_version() == 0
    rows = warehouse.rows("SELECT version, name FROM schema_versions ORDER BY version")
    assert rows[:2] == [
        {"version": 1, "name": "0001_initial"},
        {"version": 2, "name": "0002_bar_coverage"},
    ]
    assert [row["version"] for row in rows] == list(range(1, NEWEST + 1)), "no number is left out"
    assert warehouse.schema_version() == NEWEST
    assert not warehouse.backups.exists()
    assert warehouse.migrate(now=NOW) == []


def test_an_older_file_is_backed_up_and_brought_up_to_date(
    warehouse: Warehouse, next_migrations: Path
) -> None:
    warehouse.write([Append("evaluations", [model("AAPL") | {"as_of": T1}])], run_id="run-1", now=NOW)
    newer = Warehouse(warehouse.path, migrations=next_migrations)
    assert newer.migrate(now=NOW) == [NEWEST + 1]
    assert newer.schema_version() == NEWEST + 1
    assert newer.rows("SELECT note FROM notes") == [{"note": "two"}]
    assert newer.rows("SELECT count(*) AS n FROM evaluations") == [{"n": 1}]
    [backup] = warehouse.backups.iterdir()
    assert backup.name == f"warehouse.v{NEWEST:04}.20240901T120000Z.duckdb"
    assert Warehouse(backup).rows("SELECT symbol FROM evaluations") == [{"symbol": "AAPL"}]
    assert newer.migrate(now=NOW) == []
    assert list(warehouse.backups.glob("*.duckdb")) == [backup]


def test_a_data_directory_of_the_first_version_keeps_its_rows(tmp_path: Path) -> None:
    """As the first version left it: its tables, a bar, no coverage."""
    path = tmp_path / "warehouse" / "warehouse.duckdb"
    path.parent.mkdir()
    with duckdb.connect(path) as first:
        first.execute("SET TimeZone = 'UTC'")
        first.execute((MIGRATIONS / "0001_initial.sql").read_text(encoding="utf-8"))
        first.execute("INSERT INTO schema_versions VALUES (1, '0001_initial', NULL, ?)", [NOW])
        first.execute("INSERT INTO revision VALUES (7, 'run-1', ?)", [NOW])
        first.execute(
            "INSERT INTO bars VALUES ('AAPL', '1Hour', ?, 1, 2, 0.5, 1.5, 9, 'parquet', 'r', ?)", [T1, NOW]
        )
    warehouse = Warehouse(path)
    assert warehouse.schema_version() == 1
    assert warehouse.migrate(now=NOW) == NUMBERS[1:]
    assert warehouse.rows("SELECT symbol, ts, close, source FROM bars") == [
        {"symbol": "AAPL", "ts": T1, "close": 1.5, "source": "parquet"}
    ]
    assert warehouse.rows("SELECT count(*) AS n FROM bar_coverage") == [{"n": 0}]
    asked = {"symbol": "AAPL", "timeframe": "1Hour", "source": "alpaca", "start_ts": T1, "end_ts": T2}
    warehouse.write([Append("bar_coverage", [asked])], run_id="run-2", now=NOW)
    assert warehouse.rows("SELECT start_ts, end_ts FROM bar_coverage") == [{"start_ts": T1, "end_ts": T2}]
    [backup] = warehouse.backups.iterdir()
    assert backup.name == "warehouse.v0001.20240901T120000Z.duckdb"


def test_any_use_brings_an_older_file_up_to_date(warehouse: Warehouse, next_migrations: Path) -> None:
    warehouse.migrate(now=NOW)
    assert Warehouse(warehouse.path, migrations=next_migrations).frame("SELECT note FROM notes").shape == (
        1,
        1,
    )
    assert len(list(warehouse.backups.iterdir())) == 1


def test_a_migration_that_fails_leaves_the_version_before_it(
    warehouse: Warehouse, next_migrations: Path
) -> None:
    warehouse.migrate(now=NOW)
    broken = next_migrations / f"{NEWEST + 2:04}_broken.sql"
    broken.write_text("INSERT INTO notes VALUES ('three'); SELECT * FROM nowhere;")
    newer = Warehouse(warehouse.path, migrations=next_migrations)
    with pytest.raises(duckdb.CatalogException, match="nowhere"):
        newer.migrate(now=NOW)
    broken.unlink()
    mended = Warehouse(warehouse.path, migrations=next_migrations)
    assert mended.schema_version() == NEWEST + 1
    assert mended.rows("SELECT note FROM notes") == [{"note": "two"}]


def test_a_newer_file_is_refused_with_both_versions(warehouse: Warehouse, next_migrations: Path) -> None:
    Warehouse(warehouse.path, migrations=next_migrations).migrate(now=NOW)
    before = warehouse.path.read_bytes()
    for use in (
        lambda: warehouse.rows("SELECT 1"),
        lambda: warehouse.write([], run_id="run-1", now=NOW),
        lambda: warehouse.migrate(now=NOW),
        lambda: warehouse.publish(warehouse.path.with_name("postval.duckdb")),
    ):
        with pytest.raises(
            Rejected, match=f"schema version {NEWEST + 1}, this code knows versions up to {NEWEST}"
        ):
            use()
    assert warehouse.path.read_bytes() == before
    assert warehouse.schema_version() == NEWEST + 1


def test_every_table_view_and_column_says_what_it_means(warehouse: Warehouse) -> None:
    relations = warehouse.rows(
        "SELECT table_name AS name, comment FROM duckdb_tables() UNION ALL "
        "SELECT view_name, comment FROM duckdb_views() WHERE NOT internal"
    )
    assert {row["name"] for row in relations} == set(TABLES) | set(VIEWS)
    assert [row["name"] for row in relations if not row["comment"]] == []
    columns = warehouse.rows(
        "SELECT table_name AS t, column_name AS c, comment FROM duckdb_columns() WHERE NOT internal"
    )
    assert [(row["t"], row["c"]) for row in columns if not row["comment"]] == []
    assert len(columns) > 250
    # and nothing is explained that is not there
    there = {f"{row['t']}.{row['c']}" for row in columns} | {str(row["c"]) for row in columns}
    assert set(COLUMNS) - there == set()


def test_every_table_ends_with_who_wrote_it_and_when(warehouse: Warehouse) -> None:
    for table in TABLES:
        columns = [(row["column_name"], row["column_type"]) for row in warehouse.rows(f"DESCRIBE {table}")]
        assert columns[-2:] == [("run_id", "VARCHAR"), ("created_at", "TIMESTAMP WITH TIME ZONE")], table
        assert set(TABLES[table].key) <= {name for name, _ in columns}, table


# ---- views ----


def model(symbol: str, archive: str = NEW) -> dict[str, Any]:
    return {"archive_id": archive, "symbol": symbol, "timeframe": "1Hour"}


class Decisions:
    """Writes decisions, each a minute after the one before."""

    def __init__(self, warehouse: Warehouse) -> None:
        self.warehouse = warehouse
        self.now = NOW

    def __call__(
        self,
        symbol: str,
        decision: str,
        *reasons: str,
        archive: str = NEW,
        as_of: datetime | None = T1,
        plan: str = "180d",
        policy: str = "standard",
    ) -> datetime:
        self.now += timedelta(minutes=1)
        row = model(symbol, archive) | {"as_of": as_of, "plan": plan, "policy": policy}
        row |= {"decision": decision, "reasons": list(reasons), "decision_id": f"{plan}-{decision}"}
        self.warehouse.write([Append("deployment_decisions", [row])], run_id="run-1", now=self.now)
        return self.now


@pytest.fixture
def decide(warehouse: Warehouse) -> Decisions:
    return Decisions(warehouse)


def test_latest_decisions_takes_the_worst_plan_of_the_newest_evaluation(
    warehouse: Warehouse, decide: Decisions
) -> None:
    decide("AAPL", "DROP", "CONSISTENT_LOSSES", as_of=T1)  # an older evaluation
    decide("AAPL", "DROP", "NO_TRADES", as_of=T2)  # superseded below
    decide("AAPL", "LIVE", "B", "A", as_of=T2)
    decide("AAPL", "RETRAIN", "B", "C", as_of=T2, plan="365d")
    decide("AAPL", "PAPER", "P_VALUE", as_of=T2, policy="evidence")
    last = decide("AAPL", "LIVE", as_of=T2, plan="365d", policy="evidence")
    gate = model("AAPL") | {"classification": "REVIEW"}
    warehouse.write([Append("gating_scores", [gate])], run_id="run-1", now=NOW)
    assert warehouse.rows("SELECT * FROM latest_decisions") == [
        {
            "symbol": "AAPL",
            "timeframe": "1Hour",
            "archive_id": NEW,
            "as_of": T2,
            "decision": "RETRAIN",
            "decision_evidence": "PAPER",
            "plans": ["180d", "365d"],
            "reasons": ["B", "C", "A"],  # the worst plan's first, each in its own order
            "reasons_evidence": ["P_VALUE"],
            "classification": "REVIEW",
            "decided_at": last,
            "decision_id": "365d-RETRAIN",  # the decision that counts
        }
    ]


def test_latest_decisions_is_about_each_symbols_own_newest_archive(
    warehouse: Warehouse, decide: Decisions
) -> None:
    decide("AAPL", "LIVE", archive=NEW)
    decide("AAPL", "DROP", archive=OLD)  # decided later, trained earlier
    decide("MSFT", "PAPER", archive=OLD)
    got = warehouse.rows("SELECT symbol, archive_id, decision FROM latest_decisions")
    assert [tuple(row.values()) for row in got] == [("AAPL", NEW, "LIVE"), ("MSFT", OLD, "PAPER")]


def test_latest_decisions_has_models_that_were_never_evaluated_or_by_one_policy(
    warehouse: Warehouse, decide: Decisions
) -> None:
    decide("AAPL", "DROP", "GATING_DROP", as_of=None)
    decide("MSFT", "RETRAIN", "NO_EVIDENCE", as_of=None)  # before its first evaluation
    decide("MSFT", "LIVE", as_of=T1)
    decide("TSLA", "PAPER", policy="evidence")
    got = warehouse.rows(
        "SELECT symbol, as_of, decision, decision_evidence, reasons, reasons_evidence, classification "
        "FROM latest_decisions"
    )
    assert [tuple(row.values()) for row in got] == [
        ("AAPL", None, "DROP", None, ["GATING_DROP"], [], None),
        ("MSFT", T1, "LIVE", None, [], [], None),
        ("TSLA", T1, None, "PAPER", [], [], None),
    ]


@pytest.mark.parametrize(
    ("decisions", "worst"),
    [(("LIVE", "PAPER"), "PAPER"), (("PAPER", "RETRAIN"), "RETRAIN"), (("RETRAIN", "DROP"), "DROP")],
)
def test_live_is_better_than_paper_than_retrain_than_drop(
    warehouse: Warehouse, decide: Decisions, decisions: tuple[str, str], worst: str
) -> None:
    decide("AAPL", decisions[0], plan="180d")
    decide("AAPL", decisions[1], plan="365d")
    assert warehouse.rows("SELECT decision FROM latest_decisions") == [{"decision": worst}]


def test_the_leaderboard_is_best_first_with_the_figures_behind_it(
    warehouse: Warehouse, decide: Decisions
) -> None:
    decide("DULL", "PAPER", archive=OLD)
    decide("GOOD", "DROP", as_of=T1)
    decide("GOOD", "LIVE", as_of=T2)
    decide("GOOD", "PAPER", as_of=T2, policy="evidence")
    decide("BEST", "LIVE")
    decide("LOST", "DROP", as_of=None)
    decide("NONE", "PAPER")
    figures = [
        ("BEST", NEW, T1, 2.5),
        ("GOOD", NEW, T1, 9.0),
        ("GOOD", NEW, T2, 1.5),
        ("DULL", OLD, T1, -1.0),
    ]
    summaries = [
        model(symbol, archive) | {"as_of": as_of, "plan": "180d", "sharpe_mean": sharpe}
        for symbol, archive, as_of, sharpe in figures
    ]
    gate = model("BEST") | {"max_drawdown": 0.07}
    warehouse.write(
        [Append("walk_forward_summaries", summaries), Append("gating_scores", [gate])],
        run_id="run-1",
        now=NOW,
    )
    got = warehouse.rows(
        "SELECT symbol, decision, decision_evidence, sharpe_mean, training_max_drawdown FROM leaderboard"
    )
    assert [tuple(row.values()) for row in got] == [
        ("BEST", "LIVE", None, 2.5, 0.07),
        ("GOOD", "LIVE", "PAPER", 1.5, None),
        ("DULL", "PAPER", None, -1.0, None),
        ("NONE", "PAPER", None, None, None),
        ("LOST", "DROP", None, None, None),
    ]


def test_the_history_of_a_symbol_is_in_time_order(warehouse: Warehouse, decide: Decisions) -> None:
    decide("AAPL", "PAPER", as_of=T2)
    decide("AAPL", "DROP", as_of=T1)
    decide("AAPL", "LIVE", as_of=T1)
    decide("AAPL", "DROP", as_of=T1, policy="evidence")
    decide("AAPL", "RETRAIN", as_of=T2, archive=OLD)
    summary = model("AAPL") | {"as_of": T1, "plan": "180d", "sharpe_mean": 1.25, "positive_share": 0.8}
    warehouse.write([Append("walk_forward_summaries", [summary])], run_id="run-1", now=NOW)
    got = warehouse.rows(
        "SELECT archive_id, as_of, decision, sharpe_mean, positive_share FROM symbol_history"
    )
    assert [tuple(row.values()) for row in got] == [
        (OLD, T2, "RETRAIN", None, None),
        (NEW, T1, "LIVE", 1.25, 0.8),
        (NEW, T2, "PAPER", None, None),
    ]


def test_before_a_publication_published_at_is_one_empty_row(warehouse: Warehouse) -> None:
    assert warehouse.rows("SELECT * FROM published_at") == [{"published_at": None}]


def test_decisions_of_an_older_file_keep_all_they_say_and_count_by_time_among_themselves(
    tmp_path: Path,
) -> None:
    path = tmp_path / "warehouse" / "warehouse.duckdb"
    path.parent.mkdir()
    with duckdb.connect(path) as older:
        older.execute("SET TimeZone = 'UTC'")
        for file in sorted(MIGRATIONS.glob("*.sql")):
            if int(file.name[:4]) <= 3:
                older.execute(file.read_text(encoding="utf-8"))
                older.execute(
                    "INSERT INTO schema_versions VALUES (?, ?, NULL, ?)", [int(file.name[:4]), file.stem, NOW]
                )
        older.execute("INSERT INTO revision VALUES (7, 'run-1', ?)", [NOW])
        for n, decision in enumerate(("LIVE", "PAPER")):
            older.execute(
                "INSERT INTO deployment_decisions BY NAME SELECT 'a' AS archive_id, 'AAPL' AS symbol, '1Hour' AS "
                "timeframe, '180d' AS plan, ?::TIMESTAMPTZ AS as_of, 'standard' AS policy, ? AS decision, ['R'] AS "
                "reasons, 'd' || ? AS inputs_digest, 'run-1' AS run_id, ?::TIMESTAMPTZ AS created_at",
                [T1, decision, str(n), NOW + timedelta(days=n)],
            )
        columns = [row[0] for row in older.execute("DESCRIBE deployment_decisions").fetchall()]
        before = older.execute("SELECT * FROM deployment_decisions ORDER BY created_at").fetchall()
    warehouse = Warehouse(path)
    assert warehouse.migrate(now=NOW) == NUMBERS[3:]
    after = warehouse.rows("SELECT * FROM deployment_decisions ORDER BY created_at")
    assert [tuple(row[name] for name in columns) for row in after] == before
    assert [row["revision"] for row in after] == [None, None]
    assert warehouse.rows("SELECT decision FROM latest_decisions") == [{"decision": "PAPER"}]
    described = {row["column_name"]: row["null"] for row in warehouse.rows("DESCRIBE deployment_decisions")}
    must = {"archive_id", "symbol", "timeframe", "policy", "decision", "run_id", "created_at"}
    assert {name for name, null in described.items() if null == "NO"} == must
