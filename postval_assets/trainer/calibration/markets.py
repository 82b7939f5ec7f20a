"""Markets to judge models on: fresh ones for every archive, and the bundled bars.

Here: bars, where a plan cuts them, and their features. Not here: how prices are drawn (simulated_market.py), or who
trades them (models.py).

Every archive has markets of its own, so that archives are independent samples; models of one symbol share its bars,
as real ones do. They are fresh paths of the generator that made the bundled bars, and not resampled bundled bars:
without an edge a fresh path is a martingale exactly, whereas every resample of one realisation inherits what its
prices happened to do, so that no model would be known to be worthless on it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import Bars
from postval_assets.core.bootstrap import seeded
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import Lane
from postval_assets.core.features.feature_set import compute_features
from postval_assets.core.features.reference import REFERENCE_53
from postval_assets.core.folds import Plan, PlanBlocks, TrainingWindow, cut, newest_close, to_datetime
from postval_assets.core.instruments import Timeframe, asset_class_of
from postval_assets.core.model_spec import DEFAULT_WINDOW
from postval_assets.io.sample_bars import SampleBars
from postval_assets.trainer.planted_edge import PlantedEdge
from postval_assets.trainer.simulated_market import (
    SAMPLE_SYMBOLS,
    SimulatedMarket,
    SymbolSpec,
    simulate_market,
)

Float32 = npt.NDArray[np.float32]

LAST_DAY = date(2025, 6, 30)
DAYS_BEFORE = 120
"""Simulated before the longest plan: window and look-back (239 bars, 50 days of a stock), and as many bars again from
which the spread of a network's inputs is taken."""

NEEDED_BEFORE = DEFAULT_WINDOW + REFERENCE_53.look_back
BUNDLED_WITHOUT_EDGE = ("BTCUSD", "UNIUSD", "AAPL", "MSFT", "SPY")
"""Symbols of the bundled bars whose prices are martingales (data/sample/README.md)."""


@dataclass(frozen=True, eq=False)
class TradedMarket:
    """Bars of one symbol and the plans cut out of them.

    Attributes:
        bars: with what a model needs before the plans.
        cuts: of each plan.
        training: a window that ends before every plan, so that all folds are out of sample.
        simulated: what is true of the bars; None for the bundled ones.
    """

    bars: Bars
    cuts: tuple[PlanBlocks, ...]
    training: TrainingWindow
    simulated: SimulatedMarket | None = None
    _features: list[Float32] = field(default_factory=list, repr=False)

    @property
    def n_training(self) -> int:
        """Bars before the first one of any plan."""
        return min(plan.blocks[0].start for plan in self.cuts)

    def features(self) -> Float32:
        """The 53 market features of all reference sets, [bar, feature], computed once."""
        if not self._features:
            self._features.append(compute_features(REFERENCE_53, self.bars))
        return self._features[0]

    def lanes(self, sizes: npt.NDArray[np.float64]) -> list[Lane]:
        """The blocks of all plans in order, for a policy with these order sizes."""
        return [
            Lane(self.bars, block.start, block.stop, sizes)
            for plan in self.cuts
            for block in plan.blocks
            if block.problem is None
        ]


def traded(bars: Bars, plans: Sequence[Plan], simulated: SimulatedMarket | None = None) -> TradedMarket:
    """A market whose plans end with its newest bar."""
    as_of = newest_close(bars, datetime.max.replace(tzinfo=UTC))
    cuts = tuple(cut(bars, plan, as_of, needed_before=NEEDED_BEFORE) for plan in plans)
    first = min(plan.blocks[0].start for plan in cuts)
    training = TrainingWindow(to_datetime(bars.ts[0]), to_datetime(bars.ts[first - 1]))
    return TradedMarket(bars, cuts, training, simulated)


def fresh_market(
    spec: SymbolSpec,
    plans: Sequence[Plan],
    words: Sequence[str],
    edge: PlantedEdge | None = None,
    rules: ExecutionRules | None = None,
) -> TradedMarket:
    """A path of its own of a symbol's market.

    Args:
        spec: the symbol.
        plans: that are to be cut out of it.
        words: the path follows from them and from the symbol.
        edge: planted in all of it, worth what it states after the costs of the rules.
        rules: of execution.
    """
    first_day = LAST_DAY - timedelta(days=max(plan.days for plan in plans) + DAYS_BEFORE)
    rng = seeded("market", *words, spec.symbol)
    market = simulate_market(spec, first_day, LAST_DAY, rng, edge, rules)
    return traded(market.bars, plans, market)


def fresh_markets(
    plans: Sequence[Plan],
    words: Sequence[str],
    edge: PlantedEdge | None = None,
    rules: ExecutionRules | None = None,
) -> dict[str, TradedMarket]:
    """A fresh market of every symbol of the bundled bars."""
    return {spec.symbol: fresh_market(spec, plans, words, edge, rules) for spec in SAMPLE_SYMBOLS}


def bundled_bars(sample_dir: Path) -> dict[str, Bars]:
    """All hourly bars of the sample, by symbol."""
    source = SampleBars(sample_dir)
    return {
        symbol: source.fetch(symbol, Timeframe.HOUR_1, asset_class_of(symbol), start=None, end=None)
        for symbol in source.symbols()
    }


def bundled_markets(bars: Mapping[str, Bars], plans: Sequence[Plan]) -> dict[str, TradedMarket]:
    """The bundled bars without an edge as they are: one realisation of five symbols."""
    days = np.timedelta64(max(plan.days for plan in plans) + DAYS_BEFORE, "D")
    markets = {}
    for symbol in BUNDLED_WITHOUT_EDGE:
        whole = bars[symbol]
        first = int(np.searchsorted(whole.ts, whole.ts[-1] - days))
        markets[symbol] = traded(whole.slice(first, len(whole)), plans)
    return markets


def shuffled_in_time(bars: Bars, rng: np.random.Generator) -> Bars:
    """The same bars in another order: each keeps its shape and its step from the close before, as ratios.

    Timestamps stay. Whatever the order said is gone; what the prices did in all of the time stays, to the last close.
    """
    order = 1 + rng.permutation(len(bars) - 1)
    before = bars.close[:-1]
    steps = {name: getattr(bars, name)[1:] / before for name in ("open", "high", "low", "close")}
    close = np.empty(len(bars))
    close[0] = bars.close[0]
    close[1:] = bars.close[0] * np.cumprod(steps["close"][order - 1])
    columns = {}
    for name, ratio in steps.items():
        values = getattr(bars, name).copy()
        values[1:] = ratio[order - 1] * close[:-1]
        columns[name] = values
    columns["close"] = close
    # a product may round to just outside of the bar's range
    columns["high"] = np.maximum.reduce([columns["high"], columns["open"], close])
    columns["low"] = np.minimum.reduce([columns["low"], columns["open"], close])
    volume = bars.volume.copy()
    volume[1:] = bars.volume[order]
    return Bars(
        symbol=bars.symbol,
        timeframe=bars.timeframe,
        asset_class=bars.asset_class,
        ts=bars.ts,
        volume=volume,
        **columns,
    )
