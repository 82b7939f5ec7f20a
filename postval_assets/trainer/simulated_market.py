"""Simulated hourly bars of stocks and crypto pairs, for demonstrations and tests.

Here: trading calendars, volatility regimes, and prices and volumes drawn from them. Not here: files
(make_sample.py), or anything fitted to real data: the numbers below are round figures of the right size, and
the symbols' names only say which kind of market each imitates. Symbols are independent of each other.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pandas as pd

from postval_assets.core.bars import Bars, Float, Timestamps
from postval_assets.core.instruments import Timeframe, asset_class_of

NEW_YORK = "America/New_York"

# Days without trading on US exchanges, and days that close at 13:00, from 2024 to the middle of 2025.
US_HOLIDAYS = (
    date(2024, 1, 1),
    date(2024, 1, 15),
    date(2024, 2, 19),
    date(2024, 3, 29),
    date(2024, 5, 27),
    date(2024, 6, 19),
    date(2024, 7, 4),
    date(2024, 9, 2),
    date(2024, 11, 28),
    date(2024, 12, 25),
    date(2025, 1, 1),
    date(2025, 1, 9),
    date(2025, 1, 20),
    date(2025, 2, 17),
    date(2025, 4, 18),
    date(2025, 5, 26),
    date(2025, 6, 19),
)
US_HALF_DAYS = (date(2024, 7, 3), date(2024, 11, 29), date(2024, 12, 24))

# A three-state Markov chain in hours: CALM, NORMAL, TURBULENT.
REGIME_MEAN_HOURS = (240.0, 96.0, 36.0)
REGIME_NEXT = ((0.0, 0.85, 0.15), (0.75, 0.0, 0.25), (0.20, 0.80, 0.0))
REGIME_VOLATILITY = (0.6, 1.0, 2.0)
# Mean return of an hour in units of that hour's volatility: rising slowly while calm, falling in turmoil.
REGIME_DRIFT = (0.02, 0.01, -0.03)

_STEPS = 12  # five-minute steps inside a bar, from which its high and low come
_TAIL_DF = 5.0  # degrees of freedom of the Student-t return of a bar
_OVERNIGHT_SHARE = 0.25  # of a trading day's variance
_EXTENDED_VOLATILITY = 0.35  # before the open and after the close, relative to the session


class Session(StrEnum):
    """When a symbol trades."""

    CONTINUOUS = "continuous"  # every hour of every day, UTC
    REGULAR = "regular"  # 7 bars a day from 09:30 New York, the last one half an hour long
    EXTENDED = "extended"  # clock hours from 08:00 to 18:00 New York


@dataclass(frozen=True)
class SymbolSpec:
    """What to simulate.

    Attributes:
        symbol: as files name it.
        session: when it trades.
        first_price: where the price starts, in USD.
        annual_volatility: standard deviation of a year's log return in the NORMAL regime.
        tick: prices are multiples of it, in USD.
        hourly_volume: typical volume of a bar, in shares or coins.
        volume_step: volumes are multiples of it.
        zero_volume_share: share of bars without a trade, whose prices move all the same, as a quote does.
    """

    symbol: str
    session: Session
    first_price: float
    annual_volatility: float
    tick: float
    hourly_volume: float
    volume_step: float
    zero_volume_share: float = 0.0


SAMPLE_SYMBOLS = (
    SymbolSpec("BTCUSD", Session.CONTINUOUS, 42_000.0, 0.50, 1.0, 12.0, 0.01),
    SymbolSpec("ETHUSD", Session.CONTINUOUS, 2_300.0, 0.62, 0.1, 150.0, 0.1),
    SymbolSpec("UNIUSD", Session.CONTINUOUS, 7.2, 0.85, 0.001, 400.0, 0.1, zero_volume_share=0.12),
    SymbolSpec("AAPL", Session.REGULAR, 186.0, 0.24, 0.01, 7_500_000.0, 1_000.0),
    SymbolSpec("MSFT", Session.REGULAR, 372.0, 0.21, 0.01, 2_900_000.0, 1_000.0),
    SymbolSpec("NVDA", Session.REGULAR, 49.0, 0.48, 0.01, 45_000_000.0, 10_000.0),
    SymbolSpec("SPY", Session.EXTENDED, 474.0, 0.14, 0.01, 8_000_000.0, 1_000.0),
)


def bar_opens(session: Session, first_day: date, last_day: date) -> Timestamps:
    """The opens of all hourly bars from first_day to last_day inclusive, UTC ``datetime64[us]``, axis [bar].

    Days are UTC days for CONTINUOUS and New York days for the others.
    """
    days = pd.date_range(first_day, last_day, freq="D")
    if session is Session.CONTINUOUS:
        hours = pd.to_timedelta(np.arange(24), unit="h")
        return np.asarray(
            (days.to_numpy()[:, None] + hours.to_numpy()[None, :]).ravel(), dtype="datetime64[us]"
        )
    opens: list[pd.Timestamp] = []
    for day in days:
        if day.day_of_week >= 5 or day.date() in US_HOLIDAYS:
            continue
        half = day.date() in US_HALF_DAYS
        if session is Session.REGULAR:
            minutes = [9 * 60 + 30 + 60 * i for i in range(4 if half else 7)]
        else:
            minutes = [60 * hour for hour in range(8, 17 if half else 18)]
        opens.extend(day + pd.Timedelta(minutes=m) for m in minutes)
    local = pd.DatetimeIndex(opens).tz_localize(NEW_YORK)
    return np.asarray(local.tz_convert("UTC").tz_localize(None).to_numpy(), dtype="datetime64[us]")


def simulate_regimes(n_hours: int, rng: np.random.Generator) -> npt.NDArray[np.int64]:
    """A path of the regime chain, axis [hour]: 0 CALM, 1 NORMAL, 2 TURBULENT; episodes are geometric."""
    states: list[npt.NDArray[np.int64]] = []
    state, filled = 1, 0
    while filled < n_hours:
        length = int(rng.geometric(1.0 / REGIME_MEAN_HOURS[state]))
        states.append(np.full(length, state, dtype=np.int64))
        filled += length
        state = int(rng.choice(3, p=REGIME_NEXT[state]))
    return np.concatenate(states)[:n_hours] if states else np.empty(0, dtype=np.int64)


def simulate_bars(spec: SymbolSpec, first_day: date, last_day: date, rng: np.random.Generator) -> Bars:
    """Hourly bars of one symbol.

    A bar's log return is Student-t with the volatility of its regime and time of day, walked in five-minute
    steps; sessions are joined by an overnight gap. Volume grows with volatility, with the bar's own range and
    with the session's busy hours.
    """
    ts = bar_opens(spec.session, first_day, last_day)
    if spec.session is Session.EXTENDED:
        ts = ts[~(_is_extended(ts) & (rng.random(len(ts)) < 0.02))]  # thin hours without a trade have no bar
    n = len(ts)
    hour_of_path = ((ts - ts[0]) // np.timedelta64(1, "h")).astype(np.int64)
    regime = simulate_regimes(int(hour_of_path[-1]) + 1, rng)[hour_of_path]
    regime_volatility = np.asarray(REGIME_VOLATILITY)[regime]
    profile = _volatility_profile(spec.session, ts)

    sigma = _hourly_sigma(spec) * regime_volatility * profile
    shock = np.sqrt((_TAIL_DF - 2.0) / rng.chisquare(_TAIL_DF, n))
    steps = rng.standard_normal((n, _STEPS)) * (sigma * shock / np.sqrt(_STEPS))[:, None]
    steps += (np.asarray(REGIME_DRIFT)[regime] * sigma / _STEPS)[:, None]
    gaps = _gap_sigma(spec, ts) * regime_volatility * rng.standard_normal(n)
    gaps[0] = 0.0
    points = np.log(spec.first_price) + np.cumsum(np.column_stack([gaps, steps])).reshape(n, _STEPS + 1)
    prices = np.maximum(_on_grid(np.exp(points), spec.tick), spec.tick)

    surprise = (points.max(axis=1) - points.min(axis=1)) / (sigma * 1.5)
    busy = profile**1.5 * np.where(_is_extended(ts) & (spec.session is Session.EXTENDED), 0.05, 1.0)
    volume = (
        spec.hourly_volume * busy * regime_volatility * surprise**0.8 * np.exp(0.4 * rng.standard_normal(n))
    )
    volume = np.maximum(_on_grid(volume, spec.volume_step), spec.volume_step)
    if spec.zero_volume_share > 0.0:
        volume[rng.random(n) < spec.zero_volume_share] = 0.0
    return Bars(
        symbol=spec.symbol,
        timeframe=Timeframe.HOUR_1,
        asset_class=asset_class_of(spec.symbol),
        ts=ts,
        open=np.ascontiguousarray(prices[:, 0]),
        high=prices.max(axis=1),
        low=prices.min(axis=1),
        close=np.ascontiguousarray(prices[:, -1]),
        volume=volume,
    )


def symbol_rng(seed: int, symbol: str) -> np.random.Generator:
    """A generator of its own for each symbol, so that adding one leaves the others as they were."""
    return np.random.default_rng([seed, *symbol.encode()])


def _new_york_hours(ts: Timestamps) -> Float:
    """Time of day in New York as fractional hours, axis [bar]."""
    local = pd.DatetimeIndex(ts).tz_localize("UTC").tz_convert(NEW_YORK)
    return np.asarray(local.hour + local.minute / 60.0, dtype=np.float64)


def _is_extended(ts: Timestamps) -> npt.NDArray[np.bool_]:
    hours = _new_york_hours(ts)
    return (hours < 9.0) | (hours >= 16.0)


def _volatility_profile(session: Session, ts: Timestamps) -> Float:
    """Volatility relative to the session's typical hour, axis [bar]."""
    if session is Session.CONTINUOUS:
        # Most active in the US afternoon, quieter on weekends.
        index = pd.DatetimeIndex(ts)
        daily = 1.0 + 0.3 * np.cos((index.hour.to_numpy() - 16.0) / 24.0 * 2.0 * np.pi)
        return np.asarray(daily * np.where(index.day_of_week.to_numpy() >= 5, 0.75, 1.0), dtype=np.float64)
    # A U over the session: open and close are busier than noon.
    hours = _new_york_hours(ts)
    curve = 0.75 + 0.8 * ((np.clip(hours, 9.5, 15.5) - 12.8) / 3.0) ** 2
    return np.asarray(np.where(_is_extended(ts), _EXTENDED_VOLATILITY, curve), dtype=np.float64)


def _hourly_sigma(spec: SymbolSpec) -> float:
    if spec.session is Session.CONTINUOUS:
        return spec.annual_volatility / float(np.sqrt(365.25 * 24.0))
    return spec.annual_volatility * float(np.sqrt((1.0 - _OVERNIGHT_SHARE) / (252.0 * 6.5)))


def _gap_sigma(spec: SymbolSpec, ts: Timestamps) -> Float:
    """Standard deviation of the log return between a bar's open and the close before it, axis [bar]."""
    hours = np.diff(ts, prepend=ts[:1]) / np.timedelta64(1, "h")
    between_bars = np.full(len(ts), 0.03 * _hourly_sigma(spec))
    overnight = (
        spec.annual_volatility * np.sqrt(_OVERNIGHT_SHARE / 252.0) * np.sqrt(np.clip(hours / 24.0, 0.7, 1.5))
    )
    return np.asarray(np.where(hours > 6.0, overnight, between_bars), dtype=np.float64)


def _on_grid(values: Float, step: float) -> Float:
    """Values rounded to multiples of step, as the shortest decimals that say so."""
    decimals = max(0, int(np.ceil(-np.log10(step))))
    return np.asarray(np.round(np.round(values / step) * step, decimals), dtype=np.float64)
