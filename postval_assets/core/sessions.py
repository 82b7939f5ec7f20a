"""Regular trading sessions.

Here: which bars belong to the regular session, and which bars a session should have. By the clock for the setting
``session``; by a calendar's opens and closes, which come in as values, for the quality of bars. Not here: the calendar
itself (io/calendars.py), and what missing bars mean (bar_quality.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from postval_assets.core.bars import COLUMNS, Bars, Timestamps
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass
from postval_assets.core.resampling import EXCHANGE_TIMEZONE

OPEN_MINUTE = 9 * 60 + 30
CLOSE_MINUTE = 16 * 60

Flags = npt.NDArray[np.bool_]


def regular_session(bars: Bars) -> Bars:
    """The bars that open from 09:30 until before 16:00 New York time; all bars for crypto, which never closes.

    This is a rule of the clock: on a half day the afternoon's extended-hours bars still count as regular.
    """
    if bars.asset_class is AssetClass.CRYPTO:
        return bars
    local = pd.DatetimeIndex(bars.ts, tz="UTC").tz_convert(EXCHANGE_TIMEZONE)
    minute = np.asarray(local.hour * 60 + local.minute)
    kept = (minute >= OPEN_MINUTE) & (minute < CLOSE_MINUTE)
    columns = {name: getattr(bars, name)[kept] for name in COLUMNS}
    return Bars(symbol=bars.symbol, timeframe=bars.timeframe, asset_class=bars.asset_class, **columns)


@dataclass(frozen=True, eq=False)
class Sessions:
    """Regular sessions as a calendar knows them: no holidays, early closes as they were. Axis [session].

    Attributes:
        opens, closes: UTC, ``datetime64[us]``, in time order and apart from each other.
    """

    opens: Timestamps
    closes: Timestamps

    def __post_init__(self) -> None:
        """Hold the order; raises Rejected where a session ends before it begins or two of them overlap."""
        if self.opens.shape != self.closes.shape:
            raise Rejected(f"{len(self.opens)} opens and {len(self.closes)} closes of sessions: need as many")
        if not bool(np.all(self.opens < self.closes)) or not bool(np.all(self.closes[:-1] <= self.opens[1:])):
            raise Rejected("sessions must be in time order, each closing after it opens and before the next")

    def __len__(self) -> int:
        """Number of sessions."""
        return len(self.opens)

    @classmethod
    def around_the_clock(cls, start: np.datetime64, stop: np.datetime64) -> Sessions:
        """One session without an end in between: crypto from ``start`` to ``stop``."""
        return cls(np.array([start], dtype="datetime64[us]"), np.array([stop], dtype="datetime64[us]"))

    @property
    def close_early(self) -> Flags:
        """Which sessions are shorter than the usual one (the median), axis [session]: half days."""
        length = self.closes - self.opens
        return np.asarray(length < np.median(length.astype(np.int64)).astype("timedelta64[us]"))

    def between(self, start: np.datetime64, stop: np.datetime64) -> Sessions:
        """The sessions that have some time in ``start`` .. ``stop``, cut at both ends."""
        kept = (self.closes > start) & (self.opens < stop)
        return Sessions(np.maximum(self.opens[kept], start), np.minimum(self.closes[kept], stop))

    def trading_time(self, start: np.datetime64, stop: np.datetime64) -> np.timedelta64:
        """Time in session from ``start`` to ``stop``."""
        part = self.between(start, stop)
        return np.timedelta64(int((part.closes - part.opens).astype(np.int64).sum()), "us")


@dataclass(frozen=True, eq=False)
class ExpectedBars:
    """The bars that the sessions should have, axis [expected bar], in time order.

    Attributes:
        ts: open of the bar, on the grid of its session; before the session's open where a bar contains that.
        start, stop: the part of the bar that lies in the session.
        session: index of the session.
        is_there: whether any bar covers some of that part.
    """

    ts: Timestamps
    start: Timestamps
    stop: Timestamps
    session: npt.NDArray[np.intp]
    is_there: Flags

    def __len__(self) -> int:
        """Number of expected bars."""
        return len(self.ts)


def regular_bars(bars: Bars, sessions: Sessions) -> Flags:
    """Which bars have some time in a regular session, axis [bar]; the others are extended hours.

    A clock-hour bar that contains the open (09:00) or the end of a half day counts as regular.
    """
    if not len(sessions):
        return np.zeros(len(bars), dtype=np.bool_)
    following = np.searchsorted(sessions.closes, bars.ts, side="right")
    known = following < len(sessions)
    opens = sessions.opens[np.minimum(following, len(sessions) - 1)]
    return np.asarray(known & (opens < bars.ts + bars.timeframe.delta))


def expected_bars(bars: Bars, sessions: Sessions) -> ExpectedBars:
    """Which bars the sessions should have, and which of these are there.

    A session's grid is that of the first bar that has some time in it, as in resampling; one without any bar has the
    grid of the session before it. So a day of hourly bars is 7 of them, whether they open at 09:30 or at 09:00, and a
    half day is 4; the last half hour of the one and the first of the other are bars like any other.
    """
    n, delta = len(sessions), bars.timeframe.delta
    if not n or not len(bars):
        none = bars.ts[:0]
        return ExpectedBars(none, none, none, np.zeros(0, dtype=np.intp), np.zeros(0, dtype=np.bool_))
    ends = bars.ts + delta
    first = np.searchsorted(ends, sessions.opens, side="right")
    first_ts = bars.ts[np.minimum(first, len(bars) - 1)]
    has_bar = (first < len(bars)) & (first_ts < sessions.closes)
    before_open = (sessions.opens - first_ts) % delta
    donor = np.maximum.accumulate(np.where(has_bar, np.arange(n), -1))
    donor = np.where(donor < 0, int(np.argmax(has_bar)), donor)
    grid_start = sessions.opens - before_open[donor]

    count = -((grid_start - sessions.closes) // delta)
    session = np.repeat(np.arange(n), count)
    place = np.arange(len(session)) - np.repeat(np.cumsum(count) - count, count)
    ts = grid_start[session] + place * delta
    start, stop = np.maximum(ts, sessions.opens[session]), np.minimum(ts + delta, sessions.closes[session])
    covering = np.searchsorted(ends, start, side="right")
    is_there = (covering < len(bars)) & (bars.ts[np.minimum(covering, len(bars) - 1)] < stop)
    return ExpectedBars(ts, start, stop, session, np.asarray(is_there))
