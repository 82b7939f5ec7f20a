"""A planted edge is worth what it states, through the real engine, and can be read from the bars.

Sharpe ratios are means over independent markets; each is held against the stated one within 4 standard errors, taken
from the spread of the markets themselves (about 1 / sqrt(n) for n years). Where the luck is taken out
(planted_edge_table.expected_sharpe_of) the standard error is a fraction of that, and what the closed form leaves out
would show: that prices move positions. BIAS allows 2 % for it.
"""

from dataclasses import replace
from datetime import date

import numpy as np
import pytest

from postval_assets.core.costs import ExecutionRules
from postval_assets.core.instruments import AssetClass
from postval_assets.trainer.planted_edge import (
    PlantedEdge,
    drift_for,
    order_step,
    position_moments,
    show_states,
    simulate_states,
)
from postval_assets.trainer.simulated_market import (
    SimulatedMarket,
    informed_actions,
    simulate_bars,
    simulate_market,
    symbol_rng,
)
from postval_assets_tests.trainer.planted_edge_table import (
    FREE,
    SPECS,
    YEAR,
    always_long,
    expected_sharpe_of,
    informed,
    make_markets,
    readout,
    readout_accuracy,
    sharpe_of,
    trade,
)

BIAS = 0.02
RULES = ExecutionRules()
CASES = [("AAPL", 3.0), ("AAPL", 8.0), ("BTCUSD", 3.0), ("BTCUSD", 8.0)]
# Crypto has five times as many bars a year: a fifth of a year is as long.
DAYS = {
    symbol: YEAR if symbol in ("AAPL", "SPY") else (date(2023, 1, 1), date(2023, 3, 31)) for symbol in SPECS
}
N_MARKETS = 60


def n_years(symbol: str) -> float:
    return N_MARKETS * ((DAYS[symbol][1] - DAYS[symbol][0]).days + 1) / 365.25


@pytest.fixture(scope="module")
def planted() -> dict[tuple[str, float], list[SimulatedMarket]]:
    return {
        (s, stated): make_markets(SPECS[s], N_MARKETS, PlantedEdge(stated), DAYS[s]) for s, stated in CASES
    }


@pytest.mark.parametrize("case", CASES)
def test_who_knows_the_state_earns_the_stated_sharpe(
    planted: dict[tuple[str, float], list[SimulatedMarket]], case: tuple[str, float]
) -> None:
    markets, (symbol, stated) = planted[case], case
    runs = trade(markets, informed)
    net = sharpe_of(runs, DAYS[symbol])
    assert net.standard_error == pytest.approx(1.0 / np.sqrt(n_years(symbol)), rel=0.4)
    assert net.holds(stated), str(net)
    without_luck = expected_sharpe_of(markets, runs, DAYS[symbol])
    assert without_luck.standard_error < 0.5 * net.standard_error
    assert without_luck.holds(stated, bias=BIAS * stated), str(without_luck)


@pytest.mark.parametrize(
    ("symbol", "edge", "rules"),
    [
        # Short stays cost most, and are never fully built up; bars without volume delay orders; other costs.
        ("SPY", PlantedEdge(3.0, mean_state_bars=12.0), RULES),
        ("BTCUSD", PlantedEdge(2.0, mean_state_bars=200.0), replace(RULES, crypto_fee_bps=10.0)),
        ("UNIUSD", PlantedEdge(3.0), RULES),
    ],
)
def test_the_formula_holds_elsewhere(symbol: str, edge: PlantedEdge, rules: ExecutionRules) -> None:
    markets = make_markets(SPECS[symbol], N_MARKETS, edge, DAYS[symbol], rules)
    without_luck = expected_sharpe_of(markets, trade(markets, informed, rules), DAYS[symbol])
    assert without_luck.holds(edge.annual_sharpe, bias=BIAS * edge.annual_sharpe), str(without_luck)


@pytest.mark.parametrize("case", CASES[1::2])
def test_who_does_not_know_it_earns_nothing(
    planted: dict[tuple[str, float], list[SimulatedMarket]], case: tuple[str, float]
) -> None:
    markets, days = planted[case], DAYS[case[0]]
    assert sharpe_of(trade(markets, always_long), days).holds(0.0, bias=0.1)  # one entry and one exit at cost
    # A random policy keeps buying and selling: nothing before costs, and with them less.
    rng = np.random.default_rng(1)
    script = {id(m): rng.integers(0, 7, len(m.bars)) for m in markets}
    assert sharpe_of(trade(markets, lambda m: script[id(m)], FREE), days).holds(0.0)
    net = sharpe_of(trade(markets, lambda m: script[id(m)]), days)
    assert net.mean < -4.0 * net.standard_error


@pytest.mark.parametrize("case", CASES)
def test_the_state_can_be_read_from_the_bars(
    planted: dict[tuple[str, float], list[SimulatedMarket]], case: tuple[str, float]
) -> None:
    markets = planted[case][:10]
    of_one_bar, _ = readout_accuracy(markets, 1)
    of_five, of_five_in_one_state = readout_accuracy(markets, 5)
    # At least 17,000 bars, so one standard error is below 0.3 %. Right after a change five bars still show the
    # state before: of 48 bars about two.
    assert 0.80 < of_one_bar < 0.90
    assert of_five_in_one_state > 0.97
    assert of_five > 0.94


@pytest.mark.parametrize("case", CASES)
def test_who_reads_it_earns_most_of_it(
    planted: dict[tuple[str, float], list[SimulatedMarket]], case: tuple[str, float]
) -> None:
    markets, stated = planted[case], case[1]
    read = expected_sharpe_of(markets, trade(markets, readout(5)), DAYS[case[0]])
    assert 0.75 * stated < read.mean < stated


def test_drift_begins_at_the_next_open(planted: dict[tuple[str, float], list[SimulatedMarket]]) -> None:
    """Where the state changes, a bar goes by the state before it; the gap between, and a shuffled state, by none."""
    markets = planted["AAPL", 8.0]
    in_bar, at_change, gap = [], [], []
    for market in markets:
        bars, before, now = market.bars, market.state[:-1], market.state[1:]
        aligned = (bars.close[1:] / bars.open[1:] - 1.0) / market.volatility[1:] * before
        in_bar.append(aligned)
        at_change.append(aligned[before != now])
        gap.append((bars.open[1:] / bars.close[:-1] - 1.0) * before)

    def errors_from(values: list[np.ndarray], expected: float) -> float:
        joined = np.concatenate(values)
        return float((joined.mean() - expected) / joined.std(ddof=1) * np.sqrt(len(joined)))

    drift = float(np.mean([m.drift_per_volatility for m in markets]))
    assert abs(errors_from(in_bar, drift)) < 4.0
    assert abs(errors_from(at_change, drift)) < 4.0
    assert errors_from(at_change, -drift) > 4.0  # it would be this if a bar went by its own state
    assert abs(errors_from(gap, 0.0)) < 4.0


def test_states_last_as_long_as_they_should() -> None:
    state = simulate_states(400_000, PlantedEdge(1.0, mean_state_bars=20.0), np.random.default_rng(3))
    assert set(np.unique(state)) == {-1, 1}
    starts = np.flatnonzero(np.diff(state, prepend=0))
    lengths = np.diff(starts)
    # Geometric with mean 20: standard deviation sqrt(20 * 19).
    assert abs(lengths.mean() - 20.0) < 4.0 * np.sqrt(20.0 * 19.0 / len(lengths))
    assert lengths.std() == pytest.approx(np.sqrt(20.0 * 19.0), rel=0.05)
    first = [simulate_states(1, PlantedEdge(1.0), np.random.default_rng(seed))[0] for seed in range(200)]
    assert abs(np.mean(first)) < 4.0 / np.sqrt(200)


def test_showing_the_state_only_reverses_steps() -> None:
    rng = np.random.default_rng(4)
    steps = rng.standard_normal((5_000, 12))
    state = simulate_states(5_000, PlantedEdge(1.0), rng)
    shown = show_states(steps, state, rng)
    kept = (shown == steps).all(axis=1)
    turned = (shown == steps[:, ::-1]).all(axis=1)
    assert (kept | turned).all()
    assert 0.3 < kept.mean() < 0.7
    walk, walk_shown = np.cumsum(steps, axis=1), np.cumsum(shown, axis=1)

    def width(path: np.ndarray) -> np.ndarray:
        return np.asarray(np.maximum(path.max(axis=1), 0.0) - np.minimum(path.min(axis=1), 0.0))

    np.testing.assert_allclose(walk_shown[:, -1], walk[:, -1], atol=1e-12)
    np.testing.assert_allclose(width(walk_shown), width(walk), atol=1e-12)


def test_an_edge_leaves_calendar_noise_and_empty_bars_alone() -> None:
    spec = SPECS["UNIUSD"]
    plain = simulate_market(spec, *YEAR, symbol_rng(9, "UNIUSD"))
    market = simulate_market(spec, *YEAR, symbol_rng(9, "UNIUSD"), PlantedEdge(5.0))
    assert np.array_equal(market.bars.ts, plain.bars.ts)
    assert np.array_equal(market.regime, plain.regime)
    assert np.array_equal(market.bars.volume == 0.0, plain.bars.volume == 0.0)
    # What is left of the returns after the drift is the same, but for rounding to ticks.
    drift = np.log1p(market.drift_per_volatility * market.volatility[1:] * market.state[:-1])
    left = np.log(market.bars.close / market.bars.open)[1:] - drift
    tick = spec.tick / min(market.bars.low.min(), plain.bars.low.min())
    np.testing.assert_allclose(left, np.log(plain.bars.close / plain.bars.open)[1:], atol=3.0 * tick)


def test_equal_seeds_give_equal_markets() -> None:
    edge = PlantedEdge(4.0)
    first, again, other = (
        simulate_market(SPECS["SPY"], *YEAR, symbol_rng(seed, "SPY"), edge) for seed in (1, 1, 2)
    )
    assert first.bars.digest() == again.bars.digest() != other.bars.digest()
    assert np.array_equal(first.state, again.state)
    assert not np.array_equal(first.state[:1_000], other.state[:1_000])
    assert (first.edge, first.drift_per_volatility) == (edge, again.drift_per_volatility)
    assert simulate_bars(SPECS["SPY"], *YEAR, symbol_rng(1, "SPY"), edge).digest() == first.bars.digest()


def test_actions_are_the_largest_of_each_side() -> None:
    market = simulate_market(SPECS["AAPL"], *YEAR, symbol_rng(1, "AAPL"), PlantedEdge(4.0))
    for n_actions, buy, sell in ((7, 3, 6), (3, 1, 2)):
        assert np.array_equal(informed_actions(market, n_actions), np.where(market.state > 0, buy, sell))
    plain = simulate_market(SPECS["AAPL"], *YEAR, symbol_rng(1, "AAPL"))
    assert not informed_actions(plain, 7).any()


@pytest.mark.parametrize("asset_class", list(AssetClass))
@pytest.mark.parametrize("lapses", [0.0, 0.3])
def test_moments_are_those_of_positions_walked_one_by_one(asset_class: AssetClass, lapses: float) -> None:
    rng = np.random.default_rng(8)
    n, mean_bars, step = 200_000, 10.0, 0.3
    state = simulate_states(n, PlantedEdge(0.0, mean_state_bars=mean_bars), rng)
    filled = rng.random(n) >= lapses
    lowest = 0.0 if asset_class is AssetClass.CRYPTO else -1.0
    position, held, traded = 0.0, np.empty(n), np.empty(n)
    for i in range(n):
        after = min(max(position + step * state[i], lowest), 1.0) if filled[i] else position
        held[i], traded[i] = after, abs(after - position)
        position = after
    moments = position_moments(mean_bars, step, lapses, asset_class, RULES)
    # 20,000 stays: relative standard errors of about 0.7 percent.
    assert moments.aligned == pytest.approx((held * state).mean(), rel=0.03)
    assert moments.square == pytest.approx((held**2).mean(), rel=0.03)
    assert moments.traded == pytest.approx(traded.mean(), rel=0.03)
    assert moments.traded_square == pytest.approx((traded**2).mean(), rel=0.03)
    assert moments.aligned_traded == pytest.approx((held * state * traded).mean(), rel=0.03)


def test_drift_where_it_can_be_written_down() -> None:
    """Orders large enough to turn at once, one volatility, no gaps, no costs: m = s long-short.

    Long-flat, half the time 0: mean m / 2, second moment (1 + m^2) / 2, so s^2 (1 / 2 + m^2 / 4) = m^2 / 4.
    """
    rules = replace(FREE, base_alloc=10.0)
    assert order_step(rules) > 2.0
    sigma, no_gap = np.full(5, 0.01), np.zeros(5)
    edge = PlantedEdge(4.0)
    s2 = 16.0 / 1_764.0
    short = drift_for(edge, sigma, no_gap, 1_764.0, AssetClass.EQUITY, 0.0, rules)
    flat = drift_for(edge, sigma, no_gap, 1_764.0, AssetClass.CRYPTO, 0.0, rules)
    assert short == pytest.approx(np.sqrt(s2))
    assert flat == pytest.approx(np.sqrt(2.0 * s2 / (1.0 - s2)))
    # At cost c each stay of 48 bars pays 2 c, once in 48 bars; at Sharpe 0 the drift just pays that.
    costly = replace(rules, slippage_bps=10.0)
    paid = drift_for(PlantedEdge(0.0), sigma, no_gap, 1_764.0, AssetClass.EQUITY, 0.0, costly)
    assert paid == pytest.approx(2.0 * 0.001 / 48.0 / 0.01)


def test_what_cannot_be_planted_is_refused() -> None:
    with pytest.raises(ValueError, match="annual_sharpe must be 0 or more, not -1"):
        PlantedEdge(-1.0)
    with pytest.raises(ValueError, match="annual_sharpe must be 0 or more, not nan"):
        PlantedEdge(float("nan"))
    with pytest.raises(ValueError, match="mean_state_bars must be 2 or more, not 1"):
        PlantedEdge(1.0, mean_state_bars=1.0)
    days = (date(2024, 1, 1), date(2024, 3, 1))
    with pytest.raises(ValueError, match="no drift gives a Sharpe ratio of 500"):
        simulate_market(SPECS["AAPL"], *days, symbol_rng(1, "AAPL"), PlantedEdge(500.0))
    with pytest.raises(ValueError, match="no order to trade with"):
        simulate_market(
            SPECS["AAPL"], *days, symbol_rng(1, "AAPL"), PlantedEdge(1.0), replace(RULES, base_alloc=0.0)
        )
