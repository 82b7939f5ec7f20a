"""Markets of a study: where their plans lie, and what shuffling leaves."""

import itertools
from dataclasses import replace

import numpy as np

from postval_assets.core.folds import PLANS, TrainingOverlap, overlaps
from postval_assets.trainer.calibration.markets import (
    BUNDLED_WITHOUT_EDGE,
    NEEDED_BEFORE,
    bundled_bars,
    bundled_markets,
    fresh_market,
    shuffled_in_time,
)
from postval_assets.trainer.planted_edge import PlantedEdge
from postval_assets_tests.trainer.calibration.calibration_cases import HALF_YEAR, SAMPLE, SPECS, random_rng

BOTH = tuple(PLANS.values())


def test_every_fold_of_every_symbol_can_be_evaluated_out_of_sample() -> None:
    for spec in SPECS.values():
        market = fresh_market(spec, BOTH, ("a",))
        assert market.n_training >= 2 * NEEDED_BEFORE
        for plan in market.cuts:
            assert [block.problem for block in plan.blocks] == [None] * plan.plan.n_folds
            assert set(overlaps(market.bars, plan.blocks, market.training)) == {TrainingOverlap.OUT_OF_SAMPLE}


def test_bundled_bars_without_an_edge_have_both_plans() -> None:
    markets = bundled_markets(bundled_bars(SAMPLE), BOTH)
    assert tuple(markets) == BUNDLED_WITHOUT_EDGE
    assert all(block.problem is None for m in markets.values() for plan in m.cuts for block in plan.blocks)


def test_a_market_follows_from_its_words() -> None:
    first, again, other = (fresh_market(SPECS["AAPL"], HALF_YEAR, (word,)) for word in ("a", "a", "b"))
    assert first.bars.digest() == again.bars.digest()
    assert first.bars.digest() != other.bars.digest()


def test_archives_have_independent_prices() -> None:
    """Of 30 markets the correlation of hourly returns between neighbours has mean 0 and the spread of chance."""
    returns = [
        np.diff(np.log(fresh_market(SPECS["AAPL"], HALF_YEAR, (str(n),)).bars.close)) for n in range(30)
    ]
    found = [np.corrcoef(a, b)[0, 1] for a, b in itertools.pairwise(returns)]
    assert abs(np.mean(found)) < 4.0 / np.sqrt(len(returns[0]) * len(found))


def test_an_edge_is_planted_where_it_is_wanted() -> None:
    market = fresh_market(SPECS["BTCUSD"], HALF_YEAR, ("a",), PlantedEdge(4.0))
    assert market.simulated is not None
    assert market.simulated.drift_per_volatility > 0.0
    plain = fresh_market(SPECS["BTCUSD"], HALF_YEAR, ("a",)).simulated
    assert plain is not None
    assert plain.drift_per_volatility == 0.0


def test_shuffled_bars_are_the_same_bars_in_another_order() -> None:
    bars = fresh_market(SPECS["SPY"], HALF_YEAR, ("a",)).bars
    shuffled = shuffled_in_time(bars, random_rng("shuffle"))
    assert np.array_equal(shuffled.ts, bars.ts)
    for name in ("open", "high", "low", "close"):
        before, after = (np.sort(getattr(b, name)[1:] / b.close[:-1]) for b in (bars, shuffled))
        np.testing.assert_allclose(after, before, rtol=1e-12)
    np.testing.assert_allclose(shuffled.close[-1], bars.close[-1], rtol=1e-9)
    assert np.array_equal(np.sort(shuffled.volume), np.sort(bars.volume))
    assert np.all(shuffled.high >= np.maximum(shuffled.open, shuffled.close))
    assert np.all(shuffled.low <= np.minimum(shuffled.open, shuffled.close))
    assert np.mean(shuffled.close == bars.close) < 0.1


def test_shuffling_ends_what_the_order_said() -> None:
    """A market that alternates up and down has a correlation of -1 between neighbours, shuffled about none."""
    bars = fresh_market(SPECS["AAPL"], HALF_YEAR, ("a",)).bars
    steps = np.where(np.arange(len(bars)) % 2, 1.01, 1.0 / 1.01)
    close = 100.0 * np.cumprod(steps)
    zigzag = replace(bars, open=close.copy(), high=close.copy(), low=close.copy(), close=close)
    shuffled = shuffled_in_time(zigzag, random_rng("zigzag"))

    def dependence(values: np.ndarray) -> float:
        moves = np.diff(np.log(values))
        return float(np.corrcoef(moves[:-1], moves[1:])[0, 1])

    assert dependence(zigzag.close) < -0.99
    assert abs(dependence(shuffled.close)) < 4.0 / np.sqrt(len(bars))
