"""Makes the bundled sample: simulated bars and one training archive of networks fitted on their first part.

    python -m postval_assets.trainer.make_sample --out data/sample

Here: what the sample consists of, and its files. Not here: how prices, networks and archives come about.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from postval_assets.core.bars import PRICE_COLUMNS, Bars
from postval_assets.core.instruments import Timeframe
from postval_assets.core.resampling import resample
from postval_assets.trainer.archive_writer import (
    TrainedModel,
    TrainingSummary,
    archive_file_name,
    write_archive,
)
from postval_assets.trainer.fitted_policy import REWARD_SCALE, UPDATES_PER_VALIDATION, FitPlan, fit_policy
from postval_assets.trainer.simulated_market import SAMPLE_SYMBOLS, SymbolSpec, simulate_bars, symbol_rng

_HOUR, _HOUR_4 = Timeframe.HOUR_1, Timeframe.HOUR_4


@dataclass(frozen=True)
class SamplePlan:
    """What the sample consists of.

    Attributes:
        seed: of prices and networks.
        first_day, last_day: of the bars, inclusive.
        training_cut: bars that close by then are the training part, UTC.
        trained_at: when the networks are said to have been finished, UTC.
        symbols: whose bars are simulated.
        models: the networks, each of one of the symbols.
    """

    seed: int
    first_day: date
    last_day: date
    training_cut: datetime
    trained_at: datetime
    symbols: tuple[SymbolSpec, ...]
    models: tuple[FitPlan, ...]


# The cut leaves more than the last 365 days to the walk-forward plans. All networks get the same number of
# updates: the ones with the most bars learn the least of them by heart, and claim the least.
SAMPLE_PLAN = SamplePlan(
    seed=20250630,
    first_day=date(2024, 1, 1),
    last_day=date(2025, 6, 30),
    training_cut=datetime(2024, 6, 29, tzinfo=UTC),
    trained_at=datetime(2024, 6, 29, 6, 0, 0, tzinfo=UTC),
    symbols=SAMPLE_SYMBOLS,
    models=(
        FitPlan("BTCUSD", _HOUR, "2.7.0"),
        FitPlan("BTCUSD", _HOUR_4, "2.7.0"),
        FitPlan("ETHUSD", _HOUR, "2.6.0"),
        FitPlan("UNIUSD", _HOUR, "2.7.0"),
        FitPlan("AAPL", _HOUR, "2.7.0"),
        FitPlan("MSFT", _HOUR, "2.6.0", names_feature_set=False),
        FitPlan("NVDA", _HOUR, "2.3.0", layer_norm=True),
        FitPlan("SPY", _HOUR, "2.7.0"),
    ),
)


def make_sample(out: Path, plan: SamplePlan = SAMPLE_PLAN) -> list[TrainedModel]:
    """Write bars and archive below ``out``; equal plans give equal bytes on the same platform.

    Returns:
        The networks in the archive.
    """
    bars_dir = out / "bars"
    bars_dir.mkdir(parents=True, exist_ok=True)
    history: dict[str, Bars] = {}
    for spec in plan.symbols:
        bars = simulate_bars(spec, plan.first_day, plan.last_day, symbol_rng(plan.seed, spec.symbol))
        history[spec.symbol] = bars
        write_bars(bars_dir / f"{bars.symbol}_{bars.timeframe}.parquet", bars)

    models = [
        fit_policy(fit, training_part(history, fit, plan.training_cut), plan.seed + number)
        for number, fit in enumerate(plan.models)
    ]
    summary = TrainingSummary(
        trained_at=plan.trained_at,
        reward_scale=REWARD_SCALE,
        validation_interval=UPDATES_PER_VALIDATION,
        seed=plan.seed,
        n_trials=len(models),
    )
    write_archive(out / archive_file_name(summary), models, summary)
    return models


def training_part(history: Mapping[str, Bars], fit: FitPlan, cut: datetime) -> Bars:
    """The bars of the fit's symbol and timeframe that close by the cut."""
    bars = resample(history[fit.symbol], fit.timeframe).bars
    closes = bars.ts + fit.timeframe.delta
    return bars.slice(0, int(np.searchsorted(closes, np.datetime64(cut.replace(tzinfo=None)), side="right")))


def write_bars(path: Path, bars: Bars) -> None:
    """One parquet file: symbol, ts (bar open, UTC), open, high, low, close, volume."""
    table = pa.table(
        {
            "symbol": pa.array([bars.symbol] * len(bars), pa.string()),
            "ts": pa.array(bars.ts, pa.timestamp("us", tz="UTC")),
            **{name: pa.array(getattr(bars, name), pa.float64()) for name in (*PRICE_COLUMNS, "volume")},
        }
    )
    # Without dictionaries (except for the symbol), zstd packs neighbouring prices twice as well.
    pq.write_table(table, path, compression="zstd", compression_level=19, use_dictionary=["symbol"])


SAMPLE_README = """# Sample: simulated bars and a training archive

Everything here is simulated. None of it is market data, and the networks are worth nothing on any real
market: the symbols' names only say which kind of market each series imitates. Prices are drawn by
`postval_assets/trainer/simulated_market.py`, networks fitted by `postval_assets/trainer/fitted_policy.py`.

To make it again (the same bytes on the same platform and package versions):

    python -m postval_assets.trainer.make_sample --out data/sample

## bars/

`SYMBOL_1Hour.parquet`, 2024-01-01 to 2025-06-30: symbol, ts (bar open, UTC), open, high, low, close, volume.

| symbols | bars |
|---|---|
| BTCUSD, ETHUSD | every hour |
| UNIUSD | every hour; about 12 % of the bars have no volume, and prices that move all the same |
| AAPL, MSFT, NVDA | regular session of US stocks: 7 a day from 09:30 New York, 4 on half days |
| SPY | clock hours from 08:00 to 18:00 New York; a thin one outside the session is missing here and there |

## Alpaca_trading_trained_20240629_060000.zip

Eight networks of 6 x 6 units, fitted by supervised learning on the bars before 2024-06-29, so that the last
365 days are out of sample. They learn which action the return of the next 4 bars, less costs, would have made
right. MSFT's checkpoint does not name its feature set; NVDA's network has LayerNorm; BTCUSD has one for 1Hour
and one for 4Hour.

The metrics in the training summary are computed, every 40 updates, on the same bars that the network is
fitted on. The reward of a bar is the position that the network's last signal asked for (0.25 to 0.75; no
short crypto) times the bar's return, less fee and slippage of what was traded:

- `profit_factor`: sum of positive rewards / sum of negative rewards, at most 10
- `consistency`: share of 20 equal sub-windows that gain
- `max_drawdown`: largest fall of the summed rewards at 20 % of equity
- `fitness_score`: (consistency + max(0, 1 - 1 / profit_factor)) / 2

So they are in-sample claims, as a trainer's often are: thousands of weights learn a few thousand bars by
heart. What a network is worth shows on the bars after its training, which is what postval is for.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the bundled sample.")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory to write into, such as data/sample"
    )
    out: Path = parser.parse_args().out
    models = make_sample(out)
    (out / "README.md").write_text(SAMPLE_README, encoding="utf-8", newline="\n")
    for model in models:
        claims = model.validations
        sys.stdout.write(
            f"{model.name:14} {model.model_version}  fitness {claims.fitness_score[-1]:.2f}  "
            f"profit factor {claims.profit_factor[-1]:.2f}  consistency {claims.consistency[-1]:.2f}  "
            f"max drawdown {claims.max_drawdown[-1]:.3f}\n"
        )


if __name__ == "__main__":
    main()
