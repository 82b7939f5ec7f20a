"""Makes the bundled sample: simulated bars and one training archive of networks trained on their first part.

    python -m postval_assets.trainer.make_sample --out data/sample

Here: what the sample consists of, and its files. Not here: how prices, networks and archives come about.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from postval_assets.core.bars import PRICE_COLUMNS, Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.instruments import Timeframe
from postval_assets.core.resampling import resample
from postval_assets.trainer.archive_writer import (
    TrainedModel,
    TrainingSummary,
    archive_file_name,
    write_archive,
)
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.planted_edge import PlantedEdge
from postval_assets.trainer.simulated_market import (
    SAMPLE_SYMBOLS,
    SymbolSpec,
    simulate_market,
    symbol_rng,
)
from postval_assets.trainer.training import train_model

_HOUR, _HOUR_4 = Timeframe.HOUR_1, Timeframe.HOUR_4


@dataclass(frozen=True)
class SampleModel:
    """One network of the sample.

    Attributes:
        symbol: whose bars.
        timeframe: of the bars it acts on.
        config: of its training; the seed is the plan's.
        names_feature_set: whether the checkpoint says which feature set it was trained with.
    """

    symbol: str
    timeframe: Timeframe
    config: PPOConfig
    names_feature_set: bool = True


@dataclass(frozen=True)
class SamplePlan:
    """What the sample consists of.

    Attributes:
        seed: of prices and networks.
        first_day, last_day: of the bars, inclusive.
        training_cut: bars that close by then are the training part, UTC.
        trained_at: when the networks are said to have been finished, UTC.
        symbols: whose bars are simulated.
        edges: planted, by symbol; the others have none.
        models: the networks, each of one of the symbols.
    """

    seed: int
    first_day: date
    last_day: date
    training_cut: datetime
    trained_at: datetime
    symbols: tuple[SymbolSpec, ...]
    edges: Mapping[str, PlantedEdge]
    models: tuple[SampleModel, ...]


# Small networks keep the archive small; a bar of 4 hours has a quarter of the bars to learn from.
_SMALL = PPOConfig(hidden_dims=(8, 8))

# The cut leaves more than the last 365 days to the walk-forward plans.
SAMPLE_PLAN = SamplePlan(
    seed=20250630,
    first_day=date(2022, 1, 1),
    last_day=date(2025, 6, 30),
    training_cut=datetime(2024, 6, 29, tzinfo=UTC),
    trained_at=datetime(2024, 6, 29, 6, 0, 0, tzinfo=UTC),
    symbols=SAMPLE_SYMBOLS,
    edges={"ETHUSD": PlantedEdge(annual_sharpe=8.0), "NVDA": PlantedEdge(annual_sharpe=8.0)},
    models=(
        SampleModel("BTCUSD", _HOUR, _SMALL),
        SampleModel("BTCUSD", _HOUR_4, _SMALL),
        SampleModel("ETHUSD", _HOUR, replace(_SMALL, model_version="2.6.0")),
        SampleModel("UNIUSD", _HOUR, _SMALL),
        SampleModel("AAPL", _HOUR, _SMALL),
        SampleModel("MSFT", _HOUR, replace(_SMALL, model_version="2.6.0"), names_feature_set=False),
        SampleModel("NVDA", _HOUR, replace(_SMALL, layer_norm=True)),
        SampleModel("SPY", _HOUR, replace(_SMALL, model_version="2.3.0")),
    ),
)


def make_sample(
    out: Path, plan: SamplePlan = SAMPLE_PLAN, on_model: Callable[[TrainedModel], None] | None = None
) -> list[TrainedModel]:
    """Write bars and archive below ``out``; equal plans give equal bytes on the same platform.

    Args:
        out: directory, made where it is missing.
        plan: what to make.
        on_model: told of each network when it is trained.

    Returns:
        The networks in the archive.
    """
    bars_dir = out / "bars"
    bars_dir.mkdir(parents=True, exist_ok=True)
    history: dict[str, Bars] = {}
    for spec in plan.symbols:
        rng = symbol_rng(plan.seed, spec.symbol)
        bars = simulate_market(spec, plan.first_day, plan.last_day, rng, plan.edges.get(spec.symbol)).bars
        history[spec.symbol] = bars
        write_bars(bars_dir / f"{bars.symbol}_{bars.timeframe}.parquet", bars)

    models: list[TrainedModel] = []
    for number, planned in enumerate(plan.models):
        model = train_model(
            training_part(history[planned.symbol], planned.timeframe, plan.training_cut),
            replace(planned.config, seed=plan.seed + number),
            rules=ExecutionRules(),
            feature_sets={},
        )
        if not planned.names_feature_set:
            model = replace(model, feature_set=None, feature_names=None)
        if on_model is not None:
            on_model(model)
        models.append(model)
    config = plan.models[0].config
    summary = TrainingSummary(
        trained_at=plan.trained_at,
        reward_scale=config.reward_scale,
        validation_interval=config.validation_interval,
        seed=plan.seed,
        n_trials=len(models),
    )
    write_archive(out / archive_file_name(summary), models, summary)
    return models


def training_part(bars: Bars, timeframe: Timeframe, cut: datetime) -> Bars:
    """The bars of the timeframe that close by the cut."""
    longer = resample(bars, timeframe).bars
    closes = longer.ts + timeframe.delta
    return longer.slice(
        0, int(np.searchsorted(closes, np.datetime64(cut.replace(tzinfo=None)), side="right"))
    )


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
`postval_assets/trainer/simulated_market.py` (docs/simulated-market.md), networks trained by
`postval_assets/trainer` (docs/trainer.md).

To make it again (the same bytes on the same platform and package versions):

    python -m postval_assets.trainer.make_sample --out data/sample

## bars/

`SYMBOL_1Hour.parquet`, 2022-01-01 to 2025-06-30: symbol, ts (bar open, UTC), open, high, low, close, volume.

| symbols | bars |
|---|---|
| BTCUSD, ETHUSD | every hour |
| UNIUSD | every hour; about 12 % of the bars have no volume, and prices that move all the same |
| AAPL, MSFT, NVDA | regular session of US stocks: 7 a day from 09:30 New York, 4 on half days |
| SPY | clock hours from 08:00 to 18:00 New York; a thin one outside the session is missing here and there |

What is true of them: ETHUSD and NVDA have a planted edge, which earns the policy that knows it an annual Sharpe
ratio of 8 after costs. The others have none: their prices are martingales, and nobody can earn anything on them but
by luck.

## Alpaca_trading_trained_20240629_060000.zip

Eight networks of 8 x 8 units, trained by PPO on the bars before 2024-06-29, so that the last 365 days are out of
sample. ETHUSD and MSFT have model version 2.6.0, SPY 2.3.0, the others 2.7.0. MSFT's checkpoint does not name its
feature set; NVDA's network has LayerNorm; BTCUSD has one for 1Hour and one for 4Hour.

The metrics in the training summary are the trainer's claims, on the last fifth of its bars, which it holds back from
learning: docs/trainer.md says how each is computed. No seed was chosen for its result.
"""


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description="Make the bundled sample.")
    parser.add_argument(
        "--out", type=Path, required=True, help="directory to write into, such as data/sample"
    )
    out: Path = parser.parse_args().out
    make_sample(out, on_model=_tell)
    (out / "README.md").write_text(SAMPLE_README, encoding="utf-8", newline="\n")


def _tell(model: TrainedModel) -> None:
    claim = model.claims[-1]
    sys.stdout.write(
        f"{model.name:14} {model.model_version}  validations {len(model.claims)}  "
        f"fitness {claim.fitness_score:.2f}  profit factor {claim.profit_factor:.2f}  "
        f"consistency {claim.consistency:.2f}  max drawdown {claim.max_drawdown:.3f}\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    main()
