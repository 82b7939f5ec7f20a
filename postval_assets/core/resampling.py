"""Longer timeframes out of shorter ones.

Here: which base bars make up a longer bar, and when that bar is complete. Not here: where base bars come from
(io), or the opposite direction: nothing is ever interpolated.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pandas as pd

from postval_assets.core.bars import Bars, Timestamps
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass, Timeframe

EXCHANGE_TIMEZONE = "America/New_York"
REGULAR_OPEN = np.timedelta64(9 * 60 + 30, "m").astype("timedelta64[us]")

_DAY = Timeframe.DAY_1.delta


@dataclass(frozen=True)
class Resampled:
    """Bars of a longer timeframe, and how many base bars had to be left out.

    Attributes:
        bars: complete bars only; ``ts`` is the start of the bin.
        n_straddling: base bars that reach over the edge of a bin. They belong to neither side (in the left
            bin they would show prices of the right one before its time), so they are in none.
    """

    bars: Bars
    n_straddling: int


class _Bins(NamedTuple):
    """The bin of each base bar, axis [base bar]."""

    start: Timestamps
    end: Timestamps


def resample(bars: Bars, timeframe: Timeframe, *, complete_until: np.datetime64 | None = None) -> Resampled:
    """Bars of ``timeframe``: first open, highest high, lowest low, last close, summed volume.

    Crypto bins are aligned to UTC midnight. Equity bins are aligned to the regular open, 09:30 in New York,
    extend before and after it, and end at local midnight; where the day's base bars open on the hour, no
    edge can fall on 09:30, and the base bar that contains the open starts the bin (09:00). A 1Day bar of an
    equity is a New York calendar day, labelled with its midnight. Where there is no base bar there is no bar,
    and volume is NaN where that of any part is.

    Bars never change once they are delivered: each is made of base bars that lie wholly inside it, and it is
    delivered once its end is reached or a base bar of a later bin exists. So all of it is known at
    ``ts + timeframe``. (Bins that midnight cuts short, and the last ones of a day, may be known earlier.)

    Args:
        bars: base bars; every one of them complete.
        timeframe: the same as the base, or a multiple of it.
        complete_until: time up to which the base bars are known to be all there is, where that is later than
            the end of the last base bar (after a session, say).

    Raises:
        Rejected: where ``timeframe`` is shorter than the base bars or not a multiple of them.
    """
    if timeframe == bars.timeframe:
        return Resampled(bars, 0)
    if timeframe.minutes % bars.timeframe.minutes:
        raise Rejected(
            f"bars of {bars.symbol} are {bars.timeframe}; {timeframe} bars cannot be made from them: "
            f"expected a multiple of {bars.timeframe}"
        )
    if len(bars) == 0:
        return Resampled(_aggregate(bars, timeframe, bars.ts, np.arange(0)), 0)

    bins = (
        _crypto_bins(bars, timeframe)
        if bars.asset_class is AssetClass.CRYPTO
        else _equity_bins(bars, timeframe)
    )
    # A bin's label promises that everything is known at start + timeframe: on the 25-hour day that is an hour
    # before midnight.
    inside = bars.ts + bars.timeframe.delta <= np.minimum(bins.end, bins.start + timeframe.delta)

    known_until = bars.ts[-1] + bars.timeframe.delta
    if complete_until is not None:
        known_until = max(known_until, complete_until.astype("datetime64[us]"))
    complete = (bins.start < bins.start[-1]) | (bins.end <= known_until)

    used = np.flatnonzero(inside & complete)
    starts = bins.start[used]
    first = np.flatnonzero(np.r_[True, starts[1:] != starts[:-1]]) if len(used) else used
    parts = _take(bars, used)
    return Resampled(_aggregate(parts, timeframe, starts[first], first), int(np.count_nonzero(~inside)))


def _crypto_bins(bars: Bars, timeframe: Timeframe) -> _Bins:
    start = bars.ts - (bars.ts - np.datetime64(0, "us")) % timeframe.delta
    return _Bins(start, start + timeframe.delta)


def _equity_bins(bars: Bars, timeframe: Timeframe) -> _Bins:
    local_date = _local_dates(bars.ts)
    is_first = np.r_[True, local_date[1:] != local_date[:-1]]
    day = np.cumsum(is_first) - 1  # [base bar] -> index into the arrays below, axis [day]
    date = local_date[is_first]
    midnight, next_midnight = _to_utc(date), _to_utc(date + np.timedelta64(1, "D"))
    if timeframe is Timeframe.DAY_1:
        return _Bins(midnight[day], next_midnight[day])

    # The grid of a day is that of its first bar: what most of its bars do is only known when it is over.
    base = bars.timeframe.delta
    offset = (bars.ts[is_first] - midnight) % base
    regular_open = _to_utc(date, REGULAR_OPEN) - midnight
    anchor = midnight + offset + (regular_open - offset) // base * base

    uncut = anchor[day] + (bars.ts - anchor[day]) // timeframe.delta * timeframe.delta
    start = np.maximum(uncut, midnight[day])
    return _Bins(start, np.minimum(uncut + timeframe.delta, next_midnight[day]))


def local_time_of_day(ts: Timestamps) -> npt.NDArray[np.timedelta64]:
    """Time since midnight on New York's clock of each UTC timestamp."""
    local = _local(ts)
    return np.asarray(local - local.astype("datetime64[D]"))


def _local(ts: Timestamps) -> Timestamps:
    """Each UTC timestamp on New York's clock, naive."""
    local = pd.DatetimeIndex(ts).tz_localize("UTC").tz_convert(EXCHANGE_TIMEZONE).tz_localize(None)
    return np.asarray(local.to_numpy(), dtype="datetime64[us]")


def _local_dates(ts: Timestamps) -> Timestamps:
    """New York calendar date of each UTC timestamp, as its naive midnight in microseconds."""
    return _local(ts).astype("datetime64[D]").astype("datetime64[us]")


def _to_utc(date: Timestamps, time_of_day: np.timedelta64 | None = None) -> Timestamps:
    """UTC time of a New York date and time of day (midnight); the clocks change at 02:00, so both exist."""
    naive = pd.DatetimeIndex(date if time_of_day is None else date + time_of_day)
    utc = naive.tz_localize(EXCHANGE_TIMEZONE).tz_convert("UTC").tz_localize(None)
    return utc.to_numpy().astype("datetime64[us]")


def _take(bars: Bars, index: npt.NDArray[np.intp]) -> Bars:
    return Bars(
        symbol=bars.symbol,
        timeframe=bars.timeframe,
        asset_class=bars.asset_class,
        ts=bars.ts[index],
        open=bars.open[index],
        high=bars.high[index],
        low=bars.low[index],
        close=bars.close[index],
        volume=bars.volume[index],
    )


def _aggregate(parts: Bars, timeframe: Timeframe, start: Timestamps, first: npt.NDArray[np.intp]) -> Bars:
    """One bar for each run of ``parts`` that begins at an index in ``first``, labelled with ``start``."""
    if len(first) == 0:
        none = np.empty(0)
        return Bars(parts.symbol, timeframe, parts.asset_class, parts.ts[:0], none, none, none, none, none)
    last = np.r_[first[1:], len(parts)] - 1
    return Bars(
        symbol=parts.symbol,
        timeframe=timeframe,
        asset_class=parts.asset_class,
        ts=start,
        open=parts.open[first],
        high=np.maximum.reduceat(parts.high, first),
        low=np.minimum.reduceat(parts.low, first),
        close=parts.close[last],
        volume=np.add.reduceat(parts.volume, first),
    )
