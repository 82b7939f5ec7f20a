"""Does the trainer find what is there, and does validation say so? Markets with and without an edge, end to end.

    python -m postval_assets_tests.trainer.planted_edge_study --seeds 10

Each market is a symbol of its own, simulated from a seed: bars into a folder, `postval train` on all but the last 365
days, `postval validate` over both plans on the rest, and the results read with `postval sql`. Nothing of the truth
reaches the trainer or the platform.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from postval_assets.trainer.make_sample import write_bars
from postval_assets.trainer.planted_edge import PlantedEdge
from postval_assets.trainer.simulated_market import Session, SymbolSpec, simulate_market

FIRST_DAY, LAST_DAY = date(2022, 1, 1), date(2025, 12, 31)
HOLD_OUT_DAYS = 365
# Shorter runs than the defaults, so that twenty of them fit into a test; n_updates is the command's own option.
QUICK = "hidden_dims = [16, 16]\nn_updates = 40\nn_episodes = 32\npatience = 4\n"

_QUERY = """
SELECT s.symbol, s.plan, g.classification, g.fitness, s.positive_folds, s.n_folds, s.sharpe_mean, s.sharpe_std,
       d.decision, r.out_of_sample, r.total_return, r.n_trades
FROM walk_forward_summaries s
JOIN gating_scores g USING (archive_id, symbol, timeframe)
JOIN latest_decisions l USING (archive_id, symbol, timeframe)
JOIN (SELECT symbol, plan, decision FROM deployment_decisions WHERE policy = 'standard') d USING (symbol, plan)
JOIN (SELECT symbol, plan, count(*) FILTER (training_overlap = 'OUT_OF_SAMPLE') AS out_of_sample,
             sum(total_return) AS total_return, sum(n_trades) AS n_trades
      FROM fold_results GROUP BY ALL) r USING (symbol, plan)
ORDER BY s.symbol, s.plan
"""


@dataclass(frozen=True)
class Kind:
    """A kind of market.

    Attributes:
        prefix: of its symbols; those of crypto end in USD.
        crypto: hours and costs of crypto, long only; else the regular session of US stocks.
        annual_sharpe: of the planted edge; 0 for a market without one.
    """

    prefix: str
    crypto: bool
    annual_sharpe: float

    def spec(self, seed: int) -> SymbolSpec:
        """What is simulated for a seed."""
        if self.crypto:
            name = f"{self.prefix}{chr(ord('A') + seed // 26)}{chr(ord('A') + seed % 26)}USD"
            return SymbolSpec(name, Session.CONTINUOUS, 2_300.0, 0.60, 0.01, 150.0, 0.1)
        return SymbolSpec(f"{self.prefix}{seed:02}", Session.REGULAR, 100.0, 0.30, 0.01, 1e6, 100.0)


STOCKS = (Kind("EDGE", crypto=False, annual_sharpe=10.0), Kind("NONE", crypto=False, annual_sharpe=0.0))
COINS = (Kind("EDG", crypto=True, annual_sharpe=10.0), Kind("NON", crypto=True, annual_sharpe=0.0))


def write_markets(folder: Path, kinds: Sequence[Kind], seeds: Sequence[int]) -> list[str]:
    """Bars of each kind and seed into a folder; the symbols."""
    folder.mkdir(parents=True, exist_ok=True)
    symbols = []
    for kind in kinds:
        for seed in seeds:
            spec = kind.spec(seed)
            # The same seed draws the same noise for both kinds: only the edge is another.
            rng = np.random.default_rng([seed, int(kind.crypto)])
            edge = PlantedEdge(kind.annual_sharpe) if kind.annual_sharpe else None
            bars = simulate_market(spec, FIRST_DAY, LAST_DAY, rng, edge).bars
            write_bars(folder / f"{bars.symbol}_{bars.timeframe}.parquet", bars)
            symbols.append(bars.symbol)
    return symbols


def train_and_validate(work: Path, kinds: Sequence[Kind], seeds: Sequence[int], config: str) -> pd.DataFrame:
    """The commands that a user would give, and a row a symbol and plan of what came out."""
    symbols = write_markets(work / "bars", kinds, seeds)
    (work / "config.toml").write_text(config, encoding="utf-8")
    bars = f"parquet:{work / 'bars'}"
    postval(
        work,
        *("train", "--symbols", ",".join(symbols), "--bars", bars, "--hold-out-days", str(HOLD_OUT_DAYS)),
        *("--config", str(work / "config.toml"), "--no-keep-checkpoints", "--out", str(work / "out")),
    )
    [archive] = (work / "out").glob("Alpaca_trading_trained_*.zip")
    base = ("--data-dir", str(work / "data"), "--bars", bars)
    postval(work, *base, "validate", str(archive), "--plan", "180d,365d")
    rows = json.loads(postval(work, *base, "sql", _QUERY, "--format", "json"))
    table = pd.DataFrame(rows)
    table["edge"] = table["symbol"].str.startswith(tuple(k.prefix for k in kinds if k.annual_sharpe))
    table["positive_share"] = table["positive_folds"] / table["n_folds"]
    return table


def postval(work: Path, *arguments: str) -> str:
    """One command in a directory of its own; its standard output."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("POSTVAL_")}
    done = subprocess.run(
        [sys.executable, "-m", "postval_assets.cli", *arguments],
        cwd=work,
        env=environment | {"POSTVAL_INCLUDE_DROPPED": "true"},
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"postval {arguments}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
    return done.stdout


def summary_of(table: pd.DataFrame) -> list[dict[str, Any]]:
    """A row for each kind and plan."""
    rows = []
    for (edge, plan), part in table.groupby(["edge", "plan"], sort=True):
        error = part["sharpe_mean"].std(ddof=1) / np.sqrt(len(part))
        rows.append(
            {
                "edge": "planted" if edge else "none",
                "plan": plan,
                "models": len(part),
                "passed the gate": int(part["classification"].isin(["APPROVED", "REVIEW"]).sum()),
                "claimed fitness": f"{part['fitness'].mean():.2f}",
                "folds positive": f"{part['positive_folds'].sum()}/{part['n_folds'].sum()}",
                "models >= 80 % positive": int((part["positive_share"] >= 0.8).sum()),
                "mean Sharpe of folds": f"{part['sharpe_mean'].mean():.2f} +/- {error:.2f}",
                "sum of returns, mean": f"{100 * part['total_return'].mean():.1f} %",
                **{d: int((part["decision"] == d).sum()) for d in ("LIVE", "PAPER", "RETRAIN", "DROP")},
            }
        )
    return rows


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=10, help="markets of each kind")
    parser.add_argument("--coins", action="store_true", help="crypto instead of stocks")
    parser.add_argument("--quick", action="store_true", help="the shorter runs of the test")
    arguments = parser.parse_args()
    kinds = COINS if arguments.coins else STOCKS
    with tempfile.TemporaryDirectory() as work:
        table = train_and_validate(
            Path(work), kinds, range(arguments.seeds), QUICK if arguments.quick else ""
        )
    with pd.option_context("display.width", 200, "display.max_columns", None, "display.max_rows", None):
        sys.stdout.write(table.to_string(index=False) + "\n\n")
        sys.stdout.write(pd.DataFrame(summary_of(table)).T.to_string(header=False) + "\n")


if __name__ == "__main__":
    main()
