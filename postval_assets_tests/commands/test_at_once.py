"""Two archives and a backfill at once, each by its own command: the same comes out as one after the other."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from postval_assets.io.warehouse import query_replica
from postval_assets_tests.commands.conftest import Command
from postval_assets_tests.factories import good_claims, make_archive, make_summary

# Stages write these; run_id, created_at and what is made from them differ from run to run.
TABLES = (
    *("training_claims", "extracted_models", "gating_scores", "evaluations", "backtest_results"),
    "claim_reproductions",
    *("fold_results", "equity_curves", "trades", "walk_forward_summaries", "bars", "deployment_decisions"),
)
OF_THE_RUN = ("run_id", "created_at", "revision", "decision_id")


def snapshot(directory: Command) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the stages' tables, without what names the run that made it."""
    rows: dict[str, list[tuple[object, ...]]] = {}
    for table in TABLES:
        columns = [r["column_name"] for r in directory.rows(f"DESCRIBE {table}")]
        chosen = ", ".join(f'"{c}"' for c in columns if c not in OF_THE_RUN)
        where = "WHERE policy = 'standard'" if table == "deployment_decisions" else ""
        found = directory.rows(f"SELECT {chosen} FROM {table} {where} ORDER BY ALL")  # noqa: S608
        rows[table] = [tuple(map(str, row.values())) for row in found]
    return rows


def archive(folder: Path, stamp: str, *symbols: str) -> Path:
    return make_archive(
        folder / f"Alpaca_trading_trained_{stamp}.zip",
        {symbol: {} for symbol in symbols},
        summary=make_summary({symbol: good_claims() for symbol in symbols}),
        summary_name=f"training_summary_{stamp}.json",
    )


def started(directory: Command, *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "postval_assets", "--data-dir", str(directory.data_dir), *words],
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        cwd=directory.data_dir.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture
def apart(validated: Command, tmp_path: Path) -> Command:
    """Another copy of the same data directory."""
    shutil.copytree(validated.data_dir, tmp_path / "apart" / "data")
    return Command(tmp_path / "apart" / "data")


def test_two_archives_and_a_backfill_at_once_lose_nothing(
    validated: Command, apart: Command, tmp_path: Path
) -> None:
    commands = [
        ("validate", str(archive(tmp_path, "20250401_120000", "SPY"))),
        ("validate", str(archive(tmp_path, "20250402_120000", "MSFT"))),
        ("backfill", "--symbols", "AAPL", "--plan", "365d", "--archive", "20250301_180000"),
    ]
    running = [started(validated, *words) for words in commands]
    for words in commands:
        assert apart(*words).code == 0, words
    for words, process in zip(commands, running, strict=True):
        out, err = process.communicate(timeout=500)
        assert process.returncode == 0, (words, out, err)
        assert "Traceback" not in err, (words, err)
    one_by_one, at_once = snapshot(apart), snapshot(validated)
    for table in TABLES:
        assert at_once[table] == one_by_one[table], table
    assert len(at_once["fold_results"]) == 10 + 2 * 5 + 10
    # and the last of them to end has published what all of them wrote
    count = "SELECT count(*) FROM deployment_decisions"
    _, [(published,)] = query_replica(validated.platform.replica, count)
    assert [{"n": published}] == validated.rows("SELECT count(*) AS n FROM deployment_decisions")
