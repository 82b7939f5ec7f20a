from datetime import date

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.bars import Bars
from postval_assets.trainer.simulated_market import (
    REGIME_MEAN_HOURS,
    SAMPLE_SYMBOLS,
    US_HOLIDAYS,
    Session,
    bar_opens,
    simulate_bars,
    simulate_regimes,
    symbol_rng,
)

FIRST, LAST = date(2024, 1, 1), date(2025, 6, 30)
SPECS = {spec.symbol: spec for spec in SAMPLE_SYMBOLS}


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
    assert not set(local.date) & set(US_HOLIDAYS)
    # 2024 had 252 trading days, as the exchange's calendar says.
    assert len({d for d in local.date if d.year == 2024}) == 252


def test_regular_session_has_seven_bars_from_half_past_nine() -> None:
    ts = bar_opens(Session.REGULAR, date(2024, 3, 8), date(2024, 3, 11))
    # Friday before and Monday after the change to daylight saving time.
    assert [str(t)[:16] for t in ts] == [
        *(f"2024-03-08T{h}:30" for h in range(14, 21)),
        *(f"2024-03-11T{h}:30" for h in range(13, 20)),
    ]


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
