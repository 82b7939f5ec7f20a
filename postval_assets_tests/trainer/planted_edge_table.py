"""What planted edges are worth, measured: the numbers of docs/simulated-market.md and of test_planted_edge.py.

python -m postval_assets_tests.trainer.planted_edge_table --markets 400
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date

import numpy as np

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import BlockRun, Float, Int, Lane, ScriptedActor, run_lanes
from postval_assets.core.features import base
from postval_assets.core.features.spec import BarArrays
from postval_assets.core.metrics import DAYS_PER_YEAR, sharpe_ratio
from postval_assets.trainer.planted_edge import PlantedEdge
from postval_assets.trainer.simulated_market import (
    SAMPLE_SYMBOLS,
    SimulatedMarket,
    SymbolSpec,
    actions_of_signs,
    informed_actions,
    simulate_market,
    symbol_rng,
)

SPECS = {spec.symbol: spec for spec in SAMPLE_SYMBOLS}
FREE = ExecutionRules(equity_fee_bps=0.0, crypto_fee_bps=0.0, slippage_bps=0.0)
YEAR = (date(2023, 1, 1), date(2023, 12, 31))
N_ACTIONS = 7

Policy = Callable[[SimulatedMarket], Int]


@dataclass(frozen=True)
class Estimate:
    """A mean over independent markets with its standard error."""

    mean: float
    standard_error: float

    def holds(self, value: float, bias: float = 0.0, errors: float = 4.0) -> bool:
        """Whether the value is within so many standard errors, and a known bias, of the mean."""
        return abs(self.mean - value) <= errors * self.standard_error + bias

    def __str__(self) -> str:
        return f"{self.mean:.2f} +/- {self.standard_error:.2f}"


def make_markets(
    spec: SymbolSpec,
    n: int,
    edge: PlantedEdge | None = None,
    days: tuple[date, date] = YEAR,
    rules: ExecutionRules | None = None,
    first_seed: int = 0,
) -> list[SimulatedMarket]:
    """Independent markets of one kind."""
    seeds = range(first_seed, first_seed + n)
    return [simulate_market(spec, *days, symbol_rng(seed, spec.symbol), edge, rules) for seed in seeds]


def trade(
    markets: Sequence[SimulatedMarket],
    policy: Policy,
    rules: ExecutionRules | None = None,
    n_actions: int = N_ACTIONS,
) -> list[BlockRun]:
    """A policy through the real engine, one block a market."""
    lanes = [Lane(m.bars, 0, len(m.bars), action_sizes(n_actions)) for m in markets]
    script = np.zeros((len(lanes), max(lane.n_bars for lane in lanes)), dtype=np.int64)
    for i, market in enumerate(markets):
        script[i, : lanes[i].n_bars] = policy(market)
    return run_lanes(lanes, ScriptedActor(script), rules or ExecutionRules())


def sharpe_of(runs: Sequence[BlockRun], days: tuple[date, date] = YEAR) -> Estimate:
    """Mean net Sharpe ratio, as postval computes it."""
    sharpes: list[float] = []
    for run in runs:
        sharpe = sharpe_ratio(np.diff(run.equity) / run.equity[:-1], bars_per_year(run.n_bars, days))
        assert sharpe is not None
        sharpes.append(sharpe)
    return estimate(sharpes)


def expected_sharpe_of(
    markets: Sequence[SimulatedMarket], runs: Sequence[BlockRun], days: tuple[date, date] = YEAR
) -> Estimate:
    """The same with the luck taken out: far smaller standard errors, but only where the truth is known.

    What a position earns beyond the bar's true drift, and in gaps, has mean 0 whatever the policy, since the position
    is held before. It is subtracted from the mean return, not from the standard deviation.
    """
    sharpes: list[float] = []
    for market, run in zip(markets, runs, strict=True):
        bars = market.bars
        drift = market.drift_per_volatility * market.volatility[1:] * market.state[:-1]
        in_bar = bars.close[1:] - bars.open[1:] * (1.0 + drift)
        in_gap = bars.open[1:] - bars.close[:-1]
        held = run.position[1:].copy()
        held[-1] = held[
            -2
        ]  # the last one was closed at the close: what was held inside the bar is not on record
        luck = (held * in_bar + run.position[:-1] * in_gap) / run.equity[:-1]
        returns = np.diff(run.equity) / run.equity[:-1]
        scale = math.sqrt(bars_per_year(run.n_bars, days)) / float(returns.std(ddof=1))
        sharpes.append(float((returns - luck).mean()) * scale)
    return estimate(sharpes)


def bars_per_year(n_bars: int, days: tuple[date, date]) -> float:
    """As docs/rules.md measures it, section 4."""
    return n_bars / ((days[1] - days[0]).days + 1) * DAYS_PER_YEAR


def estimate(values: Sequence[float]) -> Estimate:
    """Mean and standard error of independent values."""
    return Estimate(float(np.mean(values)), float(np.std(values, ddof=1) / math.sqrt(len(values))))


def informed(market: SimulatedMarket) -> Int:
    """Knows the state."""
    return informed_actions(market, N_ACTIONS)


def always_long(market: SimulatedMarket) -> Int:
    """Buys, and goes on buying."""
    return actions_of_signs(np.ones(len(market.bars), dtype=np.int64), N_ACTIONS)


def readout(n_bars: int) -> Policy:
    """Knows two features: the sign of their mean difference over the last bars."""
    return lambda market: actions_of_signs(
        np.sign(shadow_readout(market.bars, n_bars)).astype(int), N_ACTIONS
    )


def shadow_readout(bars: Bars, n_bars: int) -> Float:
    """Mean of lower_shadow - upper_shadow over the last n_bars, from the reference features, axis [bar].

    The first n_bars - 1 have fewer bars to average, and say 0.
    """
    names = [spec.name for spec in base.SPECS]
    features = base.base_features(BarArrays.from_frame(bars.frame()))
    difference = features[:, names.index("lower_shadow")] - features[:, names.index("upper_shadow")]
    out = np.zeros(len(bars))
    out[n_bars - 1 :] = np.convolve(difference, np.full(n_bars, 1.0 / n_bars), mode="valid")
    return out


def readout_accuracy(markets: Sequence[SimulatedMarket], n_bars: int) -> tuple[float, float]:
    """Share of bars where the readout's sign is the state: of all bars, and of those whose window has one state."""
    right: list[np.ndarray] = []
    whole: list[np.ndarray] = []
    for market in markets:
        windows = np.lib.stride_tricks.sliding_window_view(market.state, n_bars)
        seen = np.sign(shadow_readout(market.bars, n_bars))[n_bars - 1 :]
        right.append(seen == market.state[n_bars - 1 :])
        whole.append((windows == windows[:, :1]).all(axis=1))
    hits, one_state = np.concatenate(right), np.concatenate(whole)
    return float(hits.mean()), float(hits[one_state].mean())


def main() -> None:
    """Print the tables as Markdown."""
    parser = argparse.ArgumentParser(description="Measure planted edges.")
    parser.add_argument("--markets", type=int, default=400, help="simulated years of each kind")
    parser.add_argument("--first-seed", type=int, default=0, help="seeds count up from here")
    parser.add_argument("--symbols", nargs="+", default=["AAPL", "SPY", "BTCUSD", "UNIUSD"])
    options = parser.parse_args()
    n = options.markets
    write = sys.stdout.write
    columns = (
        "symbol",
        "stated",
        "drift",
        "informed",
        "without luck",
        "3 actions",
        "readout 1",
        "readout 3",
        "readout 5",
    )
    write(f"| {' | '.join(columns)} | long |\n{'|---' * (len(columns) + 1)}|\n")
    for symbol in options.symbols:
        for stated in (1.0, 3.0, 8.0):
            markets = make_markets(SPECS[symbol], n, PlantedEdge(stated), first_seed=options.first_seed)

            def true_sharpe(
                policy: Policy, n_actions: int = N_ACTIONS, markets: list[SimulatedMarket] = markets
            ) -> str:
                return str(expected_sharpe_of(markets, trade(markets, policy, n_actions=n_actions)))

            drift = np.mean([m.drift_per_volatility for m in markets])
            cells = [
                f"{drift:.4f}",
                str(sharpe_of(trade(markets, informed))),
                true_sharpe(informed),
                true_sharpe(lambda m: informed_actions(m, 3), 3),
                *(true_sharpe(readout(k)) for k in (1, 3, 5)),
                true_sharpe(always_long),
            ]
            write(f"| {symbol} | {stated:g} | {' | '.join(cells)} |\n")
    write(
        "\n| symbol | 1 bar | 3 bars | 5 bars | 3 bars, one state | 5 bars, one state |\n|---|---|---|---|---|---|\n"
    )
    for symbol, spec in SPECS.items():
        markets = make_markets(spec, 20, PlantedEdge(3.0))
        (one, _), (three_all, three_one), (five_all, five_one) = (
            readout_accuracy(markets, k) for k in (1, 3, 5)
        )
        shares = (one, three_all, five_all, three_one, five_one)
        write(f"| {symbol} | " + " | ".join(f"{100 * s:.1f} %" for s in shares) + " |\n")


if __name__ == "__main__":
    main()
