"""The New York Stock Exchange's calendar, from exchange_calendars.

Here: regular sessions as opens and closes in UTC. Not here: what bars a session should have (core.sessions). Crypto
needs no calendar.
"""

from __future__ import annotations

import warnings
from datetime import date, timedelta
from functools import lru_cache

import numpy as np
import pandas as pd

from postval_assets.core.sessions import Sessions

EXCHANGE = "XNYS"
_MARGIN = timedelta(days=10)


def exchange_sessions(first: np.datetime64, last: np.datetime64) -> Sessions:
    """The regular sessions that have some time from ``first`` to ``last`` (UTC), early closes as they were.

    Whole years are kept, so that the symbols of a run share one calendar. None are known before 1900 and after 2100.
    """
    start, end = (
        min(max(when.astype("datetime64[Y]").astype(int) + 1970, 1900), 2100) for when in (first, last)
    )
    return _sessions(date(start, 1, 1), date(end, 12, 31)).between(first, last)


@lru_cache(maxsize=16)
def _sessions(first_day: date, last_day: date) -> Sessions:
    # Only loaded where bars of equities are checked: it brings a second of imports with it.
    import exchange_calendars  # type: ignore[import-untyped]

    with warnings.catch_warnings():
        # exchange_calendars 4.13 uses an accessor that pandas 3.1 announces to change in pandas 4.
        warnings.simplefilter("ignore", DeprecationWarning)
        # Some days more, because it makes no calendar of a single day or without a session.
        calendar = exchange_calendars.get_calendar(
            EXCHANGE, start=(first_day - _MARGIN).isoformat(), end=(last_day + _MARGIN).isoformat()
        )
    opens, closes = (
        pd.DatetimeIndex(calendar.schedule[name]).tz_convert("UTC").tz_localize(None)
        for name in ("open", "close")
    )
    return Sessions(*(np.asarray(t.to_numpy(), dtype="datetime64[us]") for t in (opens, closes)))
