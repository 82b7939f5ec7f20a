from datetime import date, timedelta

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.bars import Bars
from postval_assets.trainer.planted_edge import PlantedEdge
from postval_assets.trainer.simulated_market import (
    REGIME_MEAN_HOURS,
    REGIME_VOLATILITY,
    SAMPLE_SYMBOLS,
    Session,
    SimulatedMarket,
    bar_opens,
    simulate_bars,
    simulate_regimes,
    symbol_rng,
)
from postval_assets_tests.trainer.planted_edge_table import (
    FREE,
    make_markets,
    readout,
    shadow_readout,
    sharpe_of,
    trade,
)

FIRST, LAST = date(2024, 1, 1), date(2025, 6, 30)
SPECS = {spec.symbol: spec for spec in SAMPLE_SYMBOLS}
YEAR = (date(2023, 1, 1), date(2023, 12, 31))
DAYS = {"AAPL": YEAR, "SPY": YEAR, "BTCUSD": (date(2023, 1, 1), date(2023, 3, 31))}
N_MARKETS = 40


@pytest.fixture(scope="module")
def market() -> dict[str, Bars]:
    return {s.symbol: simulate_bars(s, FIRST, LAST, symbol_rng(7, s.symbol)) for s in SAMPLE_SYMBOLS}


def new_york(bars: Bars) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(bars.ts).tz_localize("UTC").tz_convert("America/New_York")


def log_returns(bars: Bars) -> np.ndarray:
    return np.diff(np.log(bars.close))


@pytest.mark.parametrize("symbol", SPECS)
def test_prices_bracket_and_stand_on_ticks(market: dict[str, Bars], symbol: str) -> None:
    bars = market[symbol]
    assert (bars.low > 0).all()
    assert (bars.low <= np.minimum(bars.open, bars.close)).all()
    assert (bars.high >= np.maximum(bars.open, bars.close)).all()
    assert (bars.volume >= 0).all()
    assert np.isfinite(bars.volume).all()
    in_ticks = bars.close / SPECS[symbol].tick
    assert np.abs(in_ticks - np.round(in_ticks)).max() < 1e-6
    # A price that wandered to nothing or to the moon would make a poor demonstration.
    assert bars.close.min() / bars.close[0] > 0.1
    assert bars.close.max() / bars.close[0] < 20


def test_continuous_symbols_trade_every_hour(market: dict[str, Bars]) -> None:
    n_days = (LAST - FIRST).days + 1
    for symbol in ("BTCUSD", "ETHUSD", "UNIUSD"):
        bars = market[symbol]
        assert len(bars) == 24 * n_days
        assert (np.diff(bars.ts) == np.timedelta64(1, "h")).all()
        assert (pd.DatetimeIndex(bars.ts).day_of_week >= 5).any()


@pytest.mark.parametrize("symbol", ["AAPL", "MSFT", "NVDA", "SPY"])
def test_stocks_rest_on_weekends_and_holidays(market: dict[str, Bars], symbol: str) -> None:
    local = new_york(market[symbol])
    assert (local.day_of_week < 5).all()
    closed = {date(2024, 1, 15), date(2024, 3, 29), date(2024, 7, 4), date(2024, 11, 28), date(2025, 6, 19)}
    assert not set(local.date) & closed
    # 2024 had 252 trading days, as the exchange's calendar says.
    assert len({d for d in local.date if d.year == 2024}) == 252


def test_regular_session_has_seven_bars_from_half_past_nine() -> None:
    ts = bar_opens(Session.REGULAR, date(2024, 3, 8), date(2024, 3, 11))
    # Friday before and Monday after the change to daylight saving time.
    assert [str(t)[:16] for t in ts] == [
        *(f"2024-03-08T{h}:30" for h in range(14, 21)),
        *(f"2024-03-11T{h}:30" for h in range(13, 20)),
    ]


def test_both_changes_of_the_clock_are_followed() -> None:
    for first, hours in ((date(2021, 11, 5), ("13:30", "14:30")), (date(2030, 3, 8), ("14:30", "13:30"))):
        ts = bar_opens(Session.REGULAR, first, first + timedelta(days=3))
        assert (str(ts[0])[11:16], str(ts[7])[11:16]) == hours
        extended = bar_opens(Session.EXTENDED, first, first + timedelta(days=3))
        local = pd.DatetimeIndex(extended).tz_localize("UTC").tz_convert("America/New_York")
        assert local.hour.tolist() == 2 * list(range(8, 18))


# Trading days a year as the New York Stock Exchange has counted them.
@pytest.mark.parametrize(
    ("year", "n_days"),
    [(2012, 250), (2018, 251), (2020, 253), (2022, 251), (2023, 250), (2025, 250)],
)
def test_years_have_their_trading_days(year: int, n_days: int) -> None:
    ts = bar_opens(Session.REGULAR, date(year, 1, 1), date(year, 12, 31))
    assert len(np.unique(ts.astype("datetime64[D]"))) == n_days


def test_holidays_by_rule_and_days_closed_by_decree() -> None:
    closed = (
        date(2012, 10, 29),  # Hurricane Sandy
        date(2018, 12, 5),  # mourning for G. H. W. Bush
        date(2022, 6, 20),  # Juneteenth, kept on the Monday after
        date(2025, 1, 9),  # mourning for Carter
        date(2030, 4, 19),  # Good Friday
    )
    assert [day for day in closed if len(bar_opens(Session.REGULAR, day, day))] == []
    # Juneteenth is a holiday since 2022.
    assert len(bar_opens(Session.REGULAR, date(2021, 6, 18), date(2021, 6, 18))) == 7
    early = (date(2019, 12, 24), date(2027, 11, 26))
    assert [len(bar_opens(Session.REGULAR, day, day)) for day in early] == [4, 4]
    assert [len(bar_opens(Session.EXTENDED, day, day)) for day in early] == [9, 9]


def test_days_without_a_session_have_no_bars() -> None:
    weekend = (date(2024, 1, 6), date(2024, 1, 7))
    assert len(bar_opens(Session.REGULAR, *weekend)) == 0
    with pytest.raises(ValueError, match="AAPL: only 0 bar"):
        simulate_bars(SPECS["AAPL"], *weekend, symbol_rng(1, "AAPL"))
    assert len(simulate_bars(SPECS["BTCUSD"], *weekend, symbol_rng(1, "BTCUSD"))) == 48


def test_half_day_closes_at_one() -> None:
    ts = bar_opens(Session.REGULAR, date(2024, 11, 29), date(2024, 11, 29))
    assert [str(t)[11:16] for t in ts] == ["14:30", "15:30", "16:30", "17:30"]


def test_extended_hours_are_there_but_not_all(market: dict[str, Bars]) -> None:
    local = new_york(market["SPY"])
    assert set(local.hour) == set(range(8, 18))
    assert (local.minute == 0).all()
    per_day = pd.Series(local.date).value_counts()
    assert per_day.max() == 10
    assert per_day.min() < 10
    session = local[(local.hour >= 9) & (local.hour < 16)]
    # The session's hours are complete on every day.
    assert (pd.Series(session.date).value_counts() == 7).all()


def test_regimes_last_as_long_as_they_should() -> None:
    path = simulate_regimes(500_000, np.random.default_rng(1))
    starts = np.flatnonzero(np.diff(path, prepend=-1))
    lengths, states = np.diff(starts), path[starts[:-1]]
    for state, mean_hours in enumerate(REGIME_MEAN_HOURS):
        assert lengths[states == state].mean() == pytest.approx(mean_hours, rel=0.15)


@pytest.mark.parametrize("symbol", SPECS)
def test_volatility_comes_in_clusters(market: dict[str, Bars], symbol: str) -> None:
    bars = market[symbol]
    # By calendar day, so that neither the session's shape nor overnight gaps can show as clustering.
    day = pd.DatetimeIndex(bars.ts[1:]).date
    daily = pd.Series(np.abs(log_returns(bars))).groupby(day).median().to_numpy()
    by_next_day = np.corrcoef(daily[1:], daily[:-1])[0, 1]
    assert by_next_day > 2.5 / np.sqrt(len(daily))


@pytest.mark.parametrize("symbol", ["BTCUSD", "ETHUSD", "UNIUSD"])
def test_returns_have_heavy_tails_and_the_stated_size(market: dict[str, Bars], symbol: str) -> None:
    returns = log_returns(market[symbol])
    z = (returns - returns.mean()) / returns.std()
    assert (z**4).mean() > 4.0
    assert returns.std() * np.sqrt(8766) == pytest.approx(SPECS[symbol].annual_volatility, rel=0.35)


@pytest.mark.parametrize("symbol", ["AAPL", "MSFT", "NVDA"])
def test_session_is_u_shaped_and_nights_leave_gaps(market: dict[str, Bars], symbol: str) -> None:
    bars = market[symbol]
    size = np.abs(np.log(bars.close / bars.open))
    hour = new_york(bars).hour.to_numpy()
    assert size[hour == 9].mean() > size[hour == 12].mean()
    assert size[hour == 15].mean() > size[hour == 12].mean()
    gap = np.abs(np.log(bars.open[1:] / bars.close[:-1]))
    overnight = np.diff(bars.ts) > np.timedelta64(6, "h")
    assert gap[overnight].mean() > 5 * gap[~overnight].mean()


@pytest.mark.parametrize("symbol", ["BTCUSD", "AAPL", "SPY"])
def test_volume_goes_with_movement(market: dict[str, Bars], symbol: str) -> None:
    bars = market[symbol]
    spread = np.log(bars.high / bars.low)
    assert np.corrcoef(np.log(bars.volume), spread)[0, 1] > 0.3


def test_thin_pair_has_bars_without_trades_whose_prices_move(market: dict[str, Bars]) -> None:
    bars = market["UNIUSD"]
    empty = bars.volume == 0
    assert 0.08 < empty.mean() < 0.16
    assert (bars.close[empty] != bars.open[empty]).mean() > 0.9
    for symbol in set(SPECS) - {"UNIUSD"}:
        assert (market[symbol].volume > 0).all()


def test_a_symbol_is_the_same_alone_and_among_others(market: dict[str, Bars]) -> None:
    again = simulate_bars(SPECS["MSFT"], FIRST, LAST, symbol_rng(7, "MSFT"))
    assert again.digest() == market["MSFT"].digest()
    other = simulate_bars(SPECS["MSFT"], FIRST, LAST, symbol_rng(8, "MSFT"))
    assert other.digest() != again.digest()


# --- what is true of a market without an edge ----------------------------------------------------------------


@pytest.fixture(scope="module")
def martingales() -> dict[str, list[SimulatedMarket]]:
    return {s: make_markets(SPECS[s], N_MARKETS, days=DAYS[s]) for s in ("AAPL", "BTCUSD", "SPY")}


def bar_returns(markets: list[SimulatedMarket]) -> list[np.ndarray]:
    """Simple returns, open to close, over the bar's true volatility."""
    return [(m.bars.close / m.bars.open - 1.0) / m.volatility for m in markets]


def standard_errors(values: np.ndarray, expected: float) -> float:
    """How many standard errors the mean of independent values is from what is expected."""
    return float(abs(values.mean() - expected) / (values.std(ddof=1) / np.sqrt(len(values))))


@pytest.mark.parametrize("symbol", ["AAPL", "BTCUSD", "SPY"])
def test_volatility_is_the_stated_one(martingales: dict[str, list[SimulatedMarket]], symbol: str) -> None:
    scaled = np.concatenate(bar_returns(martingales[symbol]))
    assert standard_errors(scaled**2, 1.0) < 4.0


@pytest.mark.parametrize("symbol", ["AAPL", "BTCUSD", "SPY"])
def test_regimes_differ_in_volatility(martingales: dict[str, list[SimulatedMarket]], symbol: str) -> None:
    markets = martingales[symbol]
    # By time of day, so that the session's shape does not count.
    hours = np.concatenate([pd.DatetimeIndex(m.bars.ts).hour.to_numpy() for m in markets])
    size = np.concatenate([np.abs(np.log(m.bars.close / m.bars.open)) for m in markets])
    regime = np.concatenate([m.regime for m in markets])
    groups = [size[(hours == 15) & (regime == k)] for k in range(3)]
    for k in (1, 2):
        ratio = groups[k].mean() / groups[k - 1].mean()
        # Of a ratio of means of independent values: relative standard errors add in squares.
        relative = np.sqrt(sum(g.var(ddof=1) / len(g) / g.mean() ** 2 for g in groups[k - 1 : k + 1]))
        assert relative < 0.1
        assert abs(ratio / (REGIME_VOLATILITY[k] / REGIME_VOLATILITY[k - 1]) - 1.0) < 4.0 * relative


@pytest.mark.parametrize("symbol", ["AAPL", "BTCUSD", "SPY"])
def test_returns_have_mean_zero_whatever_came_before(
    martingales: dict[str, list[SimulatedMarket]], symbol: str
) -> None:
    """A martingale: uncorrelated with each thing that was known before, each correlation within 4 / sqrt(n)."""
    markets = martingales[symbol]
    returns = bar_returns(markets)
    assert standard_errors(np.concatenate(returns), 0.0) < 4.0
    after_gap = np.concatenate([m.bars.open[1:] / m.bars.close[:-1] - 1.0 for m in markets])
    assert standard_errors(after_gap, 0.0) < 4.0
    now = np.concatenate([r[1:] for r in returns])
    before = {
        "return": np.concatenate([np.sign(r[:-1]) for r in returns]),
        "shadows": np.concatenate([np.sign(shadow_readout(m.bars, 1))[:-1] for m in markets]),
        "regime": np.concatenate([m.regime[:-1] - 1.0 for m in markets]),
    }
    found = {name: standard_errors(now * known, 0.0) for name, known in before.items()}
    assert {name: errors for name, errors in found.items() if errors >= 4.0} == {}


def test_an_edge_would_be_found() -> None:
    """The test above can fail: with a planted edge the shadows of one bar do tell the next one's return."""
    markets = make_markets(SPECS["BTCUSD"], N_MARKETS, PlantedEdge(3.0), DAYS["BTCUSD"])
    now = np.concatenate([r[1:] for r in bar_returns(markets)])
    shadows = np.concatenate([np.sign(shadow_readout(m.bars, 1))[:-1] for m in markets])
    assert standard_errors(now * shadows, 0.0) > 4.0


@pytest.mark.parametrize("symbol", ["AAPL", "BTCUSD"])
def test_no_policy_earns_before_costs(martingales: dict[str, list[SimulatedMarket]], symbol: str) -> None:
    markets = martingales[symbol]
    rng = np.random.default_rng(5)
    policies = {
        "readout": readout(5),
        "long": lambda m: np.full(len(m.bars), 3),
        "random": lambda m: rng.integers(0, 7, len(m.bars)),
        "momentum": lambda m: np.where(np.diff(m.bars.close, prepend=m.bars.close[0]) > 0.0, 3, 6),
    }
    found = {name: sharpe_of(trade(markets, policy, FREE), DAYS[symbol]) for name, policy in policies.items()}
    assert {name: str(e) for name, e in found.items() if not e.holds(0.0)} == {}


def test_truth_is_of_the_bars(martingales: dict[str, list[SimulatedMarket]]) -> None:
    market = martingales["SPY"][0]
    assert {len(market.regime), len(market.volatility), len(market.state)} == {len(market.bars)}
    assert not market.state.any()
    assert market.drift_per_volatility == 0.0
    assert market.edge is None
    again = simulate_bars(SPECS["SPY"], *YEAR, symbol_rng(0, "SPY"))
    assert again.digest() == market.bars.digest()
