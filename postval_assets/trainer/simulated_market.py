"""Simulated hourly bars of stocks and crypto pairs whose truth is known, for tests, calibration and the sample.

Here: trading hours, volatility regimes, and prices and volumes drawn from them, with or without a planted edge.
Not here: what an edge is (planted_edge.py), files (make_sample.py), or anything fitted to real data: the numbers
below are round figures of the right size, and the symbols' names only say which kind of market each imitates.
Symbols are independent of each other. docs/simulated-market.md has the formulas and what was measured.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from datetime import date, timedelta
from enum import StrEnum
from functools import lru_cache

import exchange_calendars  # type: ignore[import-untyped]
import numpy as np
import numpy.typing as npt
import pandas as pd

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Bars, Float, Timestamps
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.instruments import Timeframe, asset_class_of
from postval_assets.core.metrics import DAYS_PER_YEAR
from postval_assets.trainer.planted_edge import PlantedEdge, drift_for, show_states, simulate_states

Int = npt.NDArray[np.int64]

NEW_YORK = "America/New_York"
US_CALENDAR = "XNYS"
_CALENDAR_MARGIN = timedelta(days=10)

# A three-state Markov chain in hours: CALM, NORMAL, TURBULENT.
REGIME_MEAN_HOURS = (240.0, 96.0, 36.0)
REGIME_NEXT = ((0.0, 0.85, 0.15), (0.75, 0.0, 0.25), (0.20, 0.80, 0.0))
REGIME_VOLATILITY = (0.6, 1.0, 2.0)

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


@dataclass(frozen=True, eq=False)
class SimulatedMarket:
    """Bars of one symbol with what is true of them, axis [bar].

    Attributes:
        bars: what a policy may see.
        regime: 0 CALM, 1 NORMAL, 2 TURBULENT.
        volatility: standard deviation of the bar's return, open to close.
        state: the planted state, +1 or -1; 0 everywhere without an edge. It shows in the shape of its own bar, so it
            is known at that bar's close, and drifts the next bar from its open, where an order of that close is
            filled, to its close. Gaps between bars have no drift.
        drift_per_volatility: mean simple return of a bar after state +1 over its volatility; after -1 its negative.
        edge: what was planted.
    """

    bars: Bars
    regime: Int
    volatility: Float
    state: Int
    drift_per_volatility: float
    edge: PlantedEdge | None


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
    opens, closes = us_sessions(first_day, last_day)
    midnight = opens.normalize()
    if session is Session.REGULAR:
        first, end = opens, closes
    else:
        early = closes - midnight < pd.Timedelta(hours=16)
        first = midnight + pd.Timedelta(hours=8)
        end = midnight + pd.to_timedelta(np.where(early, 17, 18), unit="h")
    grid = first.to_numpy()[:, None] + np.arange(24) * np.timedelta64(1, "h")
    local = pd.DatetimeIndex(grid[grid < end.to_numpy()[:, None]]).tz_localize(NEW_YORK)
    return np.asarray(local.tz_convert("UTC").tz_localize(None).to_numpy(), dtype="datetime64[us]")


@lru_cache(maxsize=16)
def us_sessions(first_day: date, last_day: date) -> tuple[pd.DatetimeIndex, pd.DatetimeIndex]:
    """Opens and closes of the regular sessions of the New York Stock Exchange, New York wall-clock, days inclusive."""
    with warnings.catch_warnings():
        # exchange_calendars 4.13 uses an accessor that pandas 3.1 announces to change in pandas 4.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Some days more, because it makes no calendar of a single day or without a session.
        calendar = exchange_calendars.get_calendar(
            US_CALENDAR,
            start=(first_day - _CALENDAR_MARGIN).isoformat(),
            end=(last_day + _CALENDAR_MARGIN).isoformat(),
        )
    schedule = calendar.schedule.loc[first_day.isoformat() : last_day.isoformat()]
    opens, closes = (
        pd.DatetimeIndex(schedule[name]).tz_convert(NEW_YORK).tz_localize(None) for name in ("open", "close")
    )
    return opens, closes


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


def simulate_market(
    spec: SymbolSpec,
    first_day: date,
    last_day: date,
    rng: np.random.Generator,
    edge: PlantedEdge | None = None,
    rules: ExecutionRules | None = None,
) -> SimulatedMarket:
    """Hourly bars of one symbol, and the truth about them.

    A bar's return is Student-t with the volatility of its regime and time of day, walked in five-minute
    steps; sessions are joined by an overnight gap. Volume grows with volatility, with the bar's own range and
    with the session's busy hours.

    Half of each variance is taken from the log returns. Given its variance a step is normal, so
    the mean simple return of bars and gaps is then exactly 0, or exactly the planted drift, but for rounding to ticks.

    Args:
        spec: what to simulate.
        first_day: the first day, as in bar_opens.
        last_day: the last day, inclusive.
        rng: all randomness. The same one gives the same shocks with an edge and without.
        edge: what to plant.
        rules: the costs and sizes after which the edge's Sharpe ratio is stated; the defaults where None.

    Raises:
        ValueError: where the days have no two bars, or no market has that edge.
    """
    ts = bar_opens(spec.session, first_day, last_day)
    if spec.session is Session.EXTENDED:
        ts = ts[~(_is_extended(ts) & (rng.random(len(ts)) < 0.02))]  # thin hours without a trade have no bar
    n = len(ts)
    if n < 2:
        raise ValueError(f"{spec.symbol}: only {n} bar(s) from {first_day} to {last_day}; expected 2 or more")
    hour_of_path = ((ts - ts[0]) // np.timedelta64(1, "h")).astype(np.int64)
    regime = simulate_regimes(int(hour_of_path[-1]) + 1, rng)[hour_of_path]
    regime_volatility = np.asarray(REGIME_VOLATILITY)[regime]
    profile = _volatility_profile(spec.session, ts)

    sigma = _hourly_sigma(spec) * regime_volatility * profile
    shock = np.sqrt((_TAIL_DF - 2.0) / rng.chisquare(_TAIL_DF, n))
    steps = rng.standard_normal((n, _STEPS)) * (sigma * shock / np.sqrt(_STEPS))[:, None]
    gap_sigma = _gap_sigma(spec, ts) * regime_volatility
    gap_sigma[0] = 0.0
    gaps = gap_sigma * rng.standard_normal(n)
    volume_noise = np.exp(0.4 * rng.standard_normal(n))
    empty = (
        rng.random(n) < spec.zero_volume_share if spec.zero_volume_share > 0.0 else np.zeros(n, dtype=bool)
    )

    state, drift = np.zeros(n, dtype=np.int64), 0.0
    steps -= ((sigma * shock) ** 2 / (2.0 * _STEPS))[:, None]
    gaps -= gap_sigma**2 / 2.0
    if edge is not None:
        bars_per_year = n / ((last_day - first_day).days + 1) * DAYS_PER_YEAR
        drift = drift_for(
            edge,
            sigma[1:],
            gap_sigma[1:],
            bars_per_year,
            asset_class_of(spec.symbol),
            spec.zero_volume_share,
            rules or ExecutionRules(),
        )
        state = simulate_states(n, edge, rng)
        # An order decided on a bar is filled at the next open: from there on the bar's state works, not before.
        steps[1:] += (np.log1p(drift * sigma[1:] * state[:-1]) / _STEPS)[:, None]
        steps = show_states(steps, state, rng)

    points = np.log(spec.first_price) + np.cumsum(np.column_stack([gaps, steps])).reshape(n, _STEPS + 1)
    prices = np.maximum(_on_grid(np.exp(points), spec.tick), spec.tick)
    surprise = (points.max(axis=1) - points.min(axis=1)) / (sigma * 1.5)
    busy = profile**1.5 * np.where(_is_extended(ts) & (spec.session is Session.EXTENDED), 0.05, 1.0)
    volume = spec.hourly_volume * busy * regime_volatility * surprise**0.8 * volume_noise
    volume = np.maximum(_on_grid(volume, spec.volume_step), spec.volume_step)
    volume[empty] = 0.0
    bars = Bars(
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
    return SimulatedMarket(bars, regime, sigma, state, drift, edge)


def simulate_bars(
    spec: SymbolSpec,
    first_day: date,
    last_day: date,
    rng: np.random.Generator,
    edge: PlantedEdge | None = None,
) -> Bars:
    """The bars of simulate_market."""
    return simulate_market(spec, first_day, last_day, rng, edge).bars


def informed_actions(market: SimulatedMarket, n_actions: int) -> Int:
    """Actions of the policy that knows the state, axis [bar]: BUY or SELL the largest size; HOLD without an edge.

    SELL goes short where that is allowed, and to flat where it is not.
    """
    return actions_of_signs(market.state, n_actions)


def actions_of_signs(signs: Int, n_actions: int) -> Int:
    """The largest BUY where a sign is above 0, the largest SELL where it is below, else HOLD, axis [bar]."""
    sizes = action_sizes(n_actions)
    buy, sell, hold = sizes.argmax(), sizes.argmin(), np.abs(sizes).argmin()
    return np.asarray(np.where(signs > 0, buy, np.where(signs < 0, sell, hold)), dtype=np.int64)


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
