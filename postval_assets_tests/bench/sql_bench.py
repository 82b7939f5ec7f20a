"""What people wait for in SQL: the view ``leaderboard`` and one equity curve, over ten million rows of curves.

Here: a warehouse of made-up results, published as the replica, and the time of two queries of it, beside the same two
in pandas over parquet files of the same rows. Not here: results that mean anything.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import pandas as pd
from filelock import FileLock

from postval_assets.core.folds import PLANS
from postval_assets.io.warehouse import Warehouse, query_replica
from postval_assets.settings import child_environment, load_settings
from postval_assets_tests.bench.options import BenchOptions
from postval_assets_tests.bench.own_environment import own_environment

PUBLISHED_AT = datetime(2025, 7, 1, 6, tzinfo=UTC)
LEADERBOARD = "SELECT * FROM leaderboard"
_CURVE_KEYS = {
    "archive_id": "20250101_000005",
    "symbol": "S025USD",
    "timeframe": "1Hour",
    "plan": "180d",
    "fold": 3,
}
_CURVE_WORDS = " AND ".join(f"{name} = {value!r}" for name, value in _CURVE_KEYS.items())
CURVE = f"SELECT ts, equity FROM equity_curves WHERE {_CURVE_WORDS} ORDER BY ts"  # noqa: S608 - constants
_REPEATS = 7
_TABLES = (
    "equity_curves",
    "fold_results",
    "deployment_decisions",
    "walk_forward_summaries",
    "gating_scores",
)

# Models in the order in which runs write them; h is a made-up share that differs from row to row.
_MODELS = """
CREATE TEMP TABLE models AS
SELECT format('20250101_{:06}', a) AS archive_id, format('S{:03}USD', s) AS symbol, '1Hour' AS timeframe,
       TIMESTAMPTZ '2025-01-01 00:00:00+00' + to_days(CAST(a AS INTEGER)) AS as_of, 'bench' AS run_id,
       TIMESTAMPTZ '2025-01-02 00:00:00+00' + to_days(CAST(a AS INTEGER)) AS created_at
FROM range(1, ? + 1) AS archives(a), range(1, ? + 1) AS symbols(s) ORDER BY a, s;
"""
_ROWS = (
    """
    INSERT INTO gating_scores BY NAME
    SELECT archive_id, symbol, timeframe, 0.8 AS fitness, 2.0 AS profit_factor, 0.9 AS consistency,
           0.05 AS max_drawdown, 'APPROVED' AS classification, [] AS flags, false AS use_checkpoint,
           'v2.4.5' AS thresholds_version, run_id, created_at FROM models
    """,
    """
    INSERT INTO evaluations BY NAME SELECT archive_id, symbol, timeframe, as_of, run_id, created_at FROM models
    """,
    """
    INSERT INTO walk_forward_summaries BY NAME
    SELECT archive_id, symbol, timeframe, as_of, plan, 3 AS positive_folds, n_folds, n_folds AS n_computed,
           0.6 AS positive_share, h * 4 - 2 AS sharpe_mean, 1 + h AS sharpe_std, h AS return_sum,
           'MARGINAL' AS consistency_grade, 'GOOD' AS stability_grade, 'POOR' AS profitability_grade,
           run_id, created_at
    FROM (SELECT *, hash(archive_id, symbol, plan) / 18446744073709551615.0 AS h FROM models, plans)
    """,
    """
    INSERT INTO deployment_decisions BY NAME
    SELECT archive_id, symbol, timeframe, plan, as_of, policy, '1' AS policy_version,
           ['LIVE', 'PAPER', 'RETRAIN', 'DROP'][CAST(1 + hash(archive_id, symbol, plan, policy) % 4 AS INTEGER)]
               AS decision,
           ['made up'] AS reasons, run_id, created_at
    FROM models, plans, (SELECT unnest(['standard', 'evidence']) AS policy)
    """,
    """
    INSERT INTO fold_results BY NAME
    SELECT archive_id, symbol, timeframe, as_of, plan, fold, n_folds, ? AS n_bars, h AS total_return,
           h * 4 - 2 AS sharpe, 'OK' AS status, run_id, created_at
    FROM (SELECT *, hash(archive_id, symbol, plan, fold) / 18446744073709551615.0 AS h FROM models, folds)
    """,
)
_CURVES = """
INSERT INTO equity_curves BY NAME
SELECT archive_id, symbol, timeframe, as_of, plan, fold,
       as_of - to_hours(CAST((n_folds - fold + 1) * ? - bar AS INTEGER)) AS ts,
       100000 + 1000 * (hash(archive_id, symbol, plan, fold, bar) / 18446744073709551615.0) AS equity,
       (bar % 3) / 10 AS position, CAST(bar % 7 AS INTEGER) AS action, run_id, created_at
FROM models, folds, range(?) AS bars(bar)
WHERE archive_id = ?
ORDER BY symbol, plan, fold, bar
"""


@dataclass(frozen=True)
class Size:
    """How many rows there are: ``n_archives * n_symbols`` models, each with the folds of all plans.

    Attributes:
        n_archives, n_symbols: each archive has a model of each symbol.
        n_bars: rows of an equity curve of one fold.
    """

    n_archives: int = 10
    n_symbols: int = 50
    n_bars: int = 1_334

    @property
    def n_curve_rows(self) -> int:
        """Rows of equity curves."""
        return self.n_archives * self.n_symbols * sum(p.n_folds for p in PLANS.values()) * self.n_bars


TEN_MILLION = Size()
QUICK = Size(n_archives=6, n_symbols=30, n_bars=60)


def run(options: BenchOptions) -> dict[str, Any]:
    """Build, publish, and time both queries.

    Returns:
        ``rows`` of the tables, sizes in MB, and for ``leaderboard`` and ``curve``: rows of the answer,
        milliseconds over a fresh connection (as ``postval sql`` makes one for each query), over one that stays
        open, of the whole command, and of pandas; ``ratio`` is pandas over the fresh connection.
    """
    folder = options.scratch / "sql"
    folder.mkdir(parents=True)
    with own_environment(folder):
        return measure(folder, QUICK if options.quick else TEN_MILLION)


def measure(folder: Path, size: Size) -> dict[str, Any]:
    """The section in a folder of its own."""
    settings = load_settings(data_dir=folder / "data")
    started = time.monotonic()
    warehouse = Warehouse(settings.data_dir / "warehouse" / "warehouse.duckdb", clock=lambda: PUBLISHED_AT)
    fill(warehouse, size)
    built_s = time.monotonic() - started
    replica = settings.data_dir / "postval.duckdb"
    started = time.monotonic()
    warehouse.publish(replica)
    published_s = time.monotonic() - started
    parquet = export(replica, folder / "parquet")
    environment = child_environment(settings)
    queries: dict[str, tuple[str, Callable[[Path], pd.DataFrame]]] = {
        "leaderboard": (LEADERBOARD, leaderboard_in_pandas),
        "curve": (CURVE, curve_in_pandas),
    }
    timed: dict[str, Any] = {}
    for name, (sql, in_pandas) in queries.items():
        columns, rows = query_replica(replica, sql)
        require_equal(name, pd.DataFrame(rows, columns=columns), in_pandas(parquet))
        with duckdb.connect(replica, read_only=True) as connection:
            warm_ms = _median_ms(lambda sql=sql, c=connection: c.execute(sql).fetchall())  # type: ignore[misc]
        fresh_ms = _median_ms(lambda sql=sql: query_replica(replica, sql))  # type: ignore[misc]
        pandas_ms = _median_ms(lambda f=in_pandas: f(parquet))  # type: ignore[misc]
        command = [sys.executable, "-m", "postval_assets.cli", "sql", sql, "--format", "csv"]
        command_ms = _median_ms(
            lambda command=command: subprocess.run(  # type: ignore[misc]
                command, env=environment, cwd=folder, check=True, stdout=subprocess.DEVNULL
            ),
            repeats=3,
        )
        timed[name] = {
            "rows": len(rows),
            "fresh_ms": round(fresh_ms, 1),
            "warm_ms": round(warm_ms, 1),
            "command_ms": round(command_ms),
            "pandas_ms": round(pandas_ms, 1),
            "ratio": round(pandas_ms / fresh_ms, 2),
        }
    [counts] = query_replica(
        replica,
        "SELECT " + ", ".join(f"(SELECT count(*) FROM {table}) AS {table}" for table in _TABLES),  # noqa: S608
    )[1]
    return {
        "rows": dict(zip(_TABLES, counts, strict=True)),
        "replica_mb": round(replica.stat().st_size / 1e6, 1),
        "parquet_mb": round(sum(f.stat().st_size for f in parquet.iterdir()) / 1e6, 1),
        "built_s": round(built_s, 1),
        "published_s": round(published_s, 2),
        "queries": timed,
    }


def fill(warehouse: Warehouse, size: Size) -> None:
    """Made-up rows, in the warehouse's own file under its own lock."""
    warehouse.migrate(now=PUBLISHED_AT)
    with FileLock(warehouse.lock_path), duckdb.connect(warehouse.path) as connection:
        connection.execute("SET TimeZone = 'UTC'")
        connection.execute(_MODELS, [size.n_archives, size.n_symbols])
        plans = ", ".join(f"('{p.name}', {p.n_folds})" for p in PLANS.values())
        connection.execute(f"CREATE TEMP TABLE plans AS FROM (VALUES {plans}) AS v(plan, n_folds)")
        connection.execute("""
            CREATE TEMP TABLE folds AS
            SELECT plan, n_folds, CAST(unnest(range(1, n_folds + 1)) AS INTEGER) AS fold FROM plans
        """)
        for statement in _ROWS:
            connection.execute(statement, [size.n_bars] if "?" in statement else [])
        archives = connection.execute("SELECT DISTINCT archive_id FROM models ORDER BY 1").fetchall()
        for (archive_id,) in archives:
            connection.execute(_CURVES, [size.n_bars, size.n_bars, archive_id])
        connection.execute("UPDATE revision SET revision = revision + 1")
    [row] = warehouse.rows("SELECT count(*) AS n FROM equity_curves")
    if row["n"] != size.n_curve_rows:
        raise RuntimeError(f"{row['n']} rows of equity curves were made; expected {size.n_curve_rows}")


def export(replica: Path, folder: Path) -> Path:
    """The tables as parquet files, one each, for the peer."""
    folder.mkdir()
    with duckdb.connect(replica, read_only=True) as connection:
        for table_name in _TABLES:
            connection.execute(f"COPY {table_name} TO '{folder / table_name}.parquet' (FORMAT parquet)")
    return folder


def curve_in_pandas(folder: Path) -> pd.DataFrame:
    """The peer's equity curve: the filter goes down to the file's row groups."""
    filters = [(name, "==", value) for name, value in _CURVE_KEYS.items()]
    found = pd.read_parquet(folder / "equity_curves.parquet", columns=["ts", "equity"], filters=filters)
    return found.sort_values("ts", ignore_index=True)


def leaderboard_in_pandas(folder: Path) -> pd.DataFrame:
    """The peer's leaderboard: the newest decision of each policy, with its summary and its gating."""
    decisions, summaries, gating = (
        pd.read_parquet(folder / f"{name}.parquet")
        for name in ("deployment_decisions", "walk_forward_summaries", "gating_scores")
    )
    model = ["archive_id", "symbol", "timeframe"]
    newest = decisions.sort_values(["as_of", "created_at", "run_id"], ascending=False)
    newest = newest.drop_duplicates([*model, "plan", "policy"])
    board = newest[newest["policy"] == "standard"].drop(columns=["policy"])
    evidence = newest.loc[newest["policy"] == "evidence", [*model, "plan", "as_of", "decision"]]
    evidence = evidence.rename(columns={"decision": "decision_evidence"})
    instant = [*model, "plan", "as_of"]
    board = board.merge(evidence, "left", on=instant).merge(
        summaries, "left", on=instant, suffixes=("", "_w")
    )
    board = board.merge(gating, "left", on=model, suffixes=("", "_g"))
    board["rank"] = board["decision"].map({"LIVE": 1, "PAPER": 2, "RETRAIN": 3, "DROP": 4})
    order = ["rank", "sharpe_mean", "symbol", "timeframe", "archive_id", "plan"]
    return board.sort_values(order, ascending=[True, False, True, True, False, True], ignore_index=True)


def require_equal(name: str, ours: pd.DataFrame, peers: pd.DataFrame) -> None:
    """Raises RuntimeError where the two ways do not give the same answer: then their times say nothing."""
    compared = {
        "leaderboard": ["symbol", "archive_id", "plan", "decision", "decision_evidence", "sharpe_mean"],
        "curve": ["equity"],
    }[name]
    if ours.empty or ours[compared].to_numpy().tolist() != peers[compared].to_numpy().tolist():
        raise RuntimeError(
            f"{name}: {len(ours)} rows in SQL and {len(peers)} in pandas are not the same answer"
        )


def _median_ms(ask: Callable[[], object], repeats: int = _REPEATS) -> float:
    """The median time of some repetitions, after one that is not counted."""
    ask()
    times = []
    for _ in range(repeats):
        started = time.perf_counter()
        ask()
        times.append(time.perf_counter() - started)
    return 1e3 * statistics.median(times)


def table(result: dict[str, Any]) -> str:
    """The section ``sql`` as text."""
    n_rows = result["rows"]["equity_curves"]
    lines = [
        f"{n_rows:,} rows of equity curves, {result['replica_mb']:,.0f} MB; published in {result['published_s']} s",
        f"{'':12}{'rows':>7}{'fresh ms':>10}{'warm ms':>10}{'command ms':>12}{'pandas ms':>11}{'pandas/fresh':>14}",
    ]
    for name, q in result["queries"].items():
        lines.append(
            f"{name:12}{q['rows']:>7}{q['fresh_ms']:>10.1f}{q['warm_ms']:>10.1f}{q['command_ms']:>12}"
            f"{q['pandas_ms']:>11.1f}{q['ratio']:>13.2f}x"
        )
    return "\n".join(lines)
