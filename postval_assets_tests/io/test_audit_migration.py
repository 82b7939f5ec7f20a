"""A data directory from before decisions had ids: they get one, and the folds that they were made from are kept."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from postval_assets.io.warehouse import MIGRATIONS, Warehouse

NOW = datetime(2024, 9, 1, 12, tzinfo=UTC)
AS_OF = datetime(2024, 8, 1, tzinfo=UTC)
FOLDS = hashlib.sha256(b"one,two").hexdigest()


def older(path: Path) -> None:
    """As the third version left it: a model decided over two folds, one over folds that were computed anew since."""
    path.parent.mkdir()
    with duckdb.connect(path) as old:
        old.execute("SET TimeZone = 'UTC'")
        for number in (1, 2, 3):
            [file] = MIGRATIONS.glob(f"{number:04}_*.sql")
            old.execute(file.read_text(encoding="utf-8"))
            old.execute("INSERT INTO schema_versions VALUES (?, ?, NULL, ?)", [number, file.stem, NOW])
        old.execute("INSERT INTO revision VALUES (7, 'run-1', ?)", [NOW])
        for fold, digest, sharpe in ((1, "one", 0.5), (2, "two", 1.5)):
            old.execute(
                "INSERT INTO fold_results (archive_id, symbol, timeframe, as_of, plan, fold, sharpe, status, "
                "inputs_digest, run_id, created_at) VALUES ('A', 'AAPL', '1Hour', ?, '180d', ?, ?, 'OK', ?, 'r', ?)",
                [AS_OF, fold, sharpe, digest, NOW],
            )
        for symbol, folds in (("AAPL", FOLDS), ("MSFT", "0" * 64), ("NVDA", None)):
            old.execute(
                "INSERT INTO deployment_decisions (archive_id, symbol, timeframe, plan, as_of, policy, decision, "
                "folds_digest, inputs_digest, run_id, created_at) "
                "VALUES ('A', ?, '1Hour', '180d', ?, 'standard', 'LIVE', ?, 'i', 'r', ?)",
                [symbol, None if folds is None else AS_OF, folds, NOW],
            )
        old.execute(
            "INSERT INTO gating_scores (archive_id, symbol, timeframe, fitness, run_id, created_at) "
            "VALUES ('A', 'AAPL', '1Hour', 0.8, 'r', ?)",
            [NOW],
        )


def test_older_decisions_get_their_ids_and_keep_their_folds(tmp_path: Path) -> None:
    path = tmp_path / "warehouse" / "warehouse.duckdb"
    older(path)
    warehouse = Warehouse(path)
    warehouse.migrate(now=NOW)
    ids = {r["symbol"]: r["decision_id"] for r in warehouse.rows("FROM deployment_decisions")}
    seconds = int(AS_OF.timestamp()) * 1_000_000, int(NOW.timestamp()) * 1_000_000
    name = f"A|AAPL|1Hour|180d|{seconds[0]}|standard|i|{seconds[1]}"
    assert ids["AAPL"] == hashlib.sha256(name.encode()).hexdigest()[:12]
    name = f"A|NVDA|1Hour|180d||standard|i|{seconds[1]}"
    assert ids["NVDA"] == hashlib.sha256(name.encode()).hexdigest()[:12]
    assert len(set(ids.values())) == 3
    kept = warehouse.rows("SELECT folds_digest, plan, fold, sharpe, run_id FROM decided_folds ORDER BY fold")
    assert kept == [
        {"folds_digest": FOLDS, "plan": "180d", "fold": 1, "sharpe": 0.5, "run_id": "r"},
        {"folds_digest": FOLDS, "plan": "180d", "fold": 2, "sharpe": 1.5, "run_id": "r"},
    ]
    [gate] = warehouse.rows("SELECT fitness, claims_digest, run_id, created_at FROM gating_scores")
    assert gate == {"fitness": 0.8, "claims_digest": None, "run_id": "r", "created_at": NOW}
