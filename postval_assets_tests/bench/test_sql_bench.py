"""The made-up warehouse of the sql benchmark, and that its peer answers the same questions."""

from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest

from postval_assets.io.warehouse import Warehouse, query_replica
from postval_assets_tests.bench import sql_bench

SMALL = sql_bench.Size(n_archives=6, n_symbols=30, n_bars=4)


@pytest.fixture(scope="module")
def replica(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sql")
    warehouse = Warehouse(folder / "warehouse" / "warehouse.duckdb", clock=lambda: sql_bench.PUBLISHED_AT)
    sql_bench.fill(warehouse, SMALL)
    warehouse.publish(folder / "postval.duckdb")
    return folder / "postval.duckdb"


def frame(replica: Path, sql: str) -> pd.DataFrame:
    columns, rows = query_replica(replica, sql)
    return pd.DataFrame(rows, columns=columns)


def test_the_full_size_has_ten_million_rows() -> None:
    assert sql_bench.TEN_MILLION.n_curve_rows >= 10_000_000
    assert SMALL.n_curve_rows == 6 * 30 * 15 * 4


def test_both_ways_give_the_same_answers(replica: Path, tmp_path: Path) -> None:
    parquet = sql_bench.export(replica, tmp_path / "parquet")
    board, curve = frame(replica, sql_bench.LEADERBOARD), frame(replica, sql_bench.CURVE)
    assert len(board) == 6 * 30 * 2
    assert set(board["decision"]) == {"LIVE", "PAPER", "RETRAIN", "DROP"}
    assert len(curve) == SMALL.n_bars
    assert curve["ts"].is_monotonic_increasing
    sql_bench.require_equal("leaderboard", board, sql_bench.leaderboard_in_pandas(parquet))
    sql_bench.require_equal("curve", curve, sql_bench.curve_in_pandas(parquet))


def test_answers_that_differ_are_refused() -> None:
    curve = pd.DataFrame({"equity": [1.0, 2.0]})
    for other in (pd.DataFrame({"equity": [1.0, 2.5]}), pd.DataFrame({"equity": [1.0]})):
        with pytest.raises(RuntimeError, match="not the same answer"):
            sql_bench.require_equal("curve", curve, other)


def test_no_two_rows_have_the_same_key(replica: Path) -> None:
    for table, key in {
        "equity_curves": "archive_id, symbol, timeframe, as_of, plan, fold, ts",
        "fold_results": "archive_id, symbol, timeframe, as_of, plan, fold",
        "deployment_decisions": "archive_id, symbol, timeframe, plan, as_of, policy",
    }.items():
        counted = frame(replica, f"SELECT count(*) AS n, count(DISTINCT ({key})) AS keys FROM {table}")  # noqa: S608
        assert counted["n"][0] == counted["keys"][0] > 0
