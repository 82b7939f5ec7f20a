"""Bars for a look at one symbol, of which nothing is kept: ``postval backtest`` and ``postval features check``.

Here: whether stored bars do, and how much is asked for where they do not. Not here: the stages' bars (market.py), or
storing anything (loading.py, topping_up.py).
"""

from __future__ import annotations

import math
from datetime import UTC, datetime, time, timedelta

from postval_assets.core.bars import Bars
from postval_assets.core.coverage import TimeRange, missing, whole_minute
from postval_assets.core.folds import to_datetime64
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.bar_source import RemoteBarSource, is_remote
from postval_assets.pipeline.bar_questions import read_series
from postval_assets.pipeline.market import in_timeframe, stored_bars
from postval_assets.pipeline.platform import Platform

# Of a stock's regular session; extended hours only add bars.
_SESSION_MINUTES = 390
_TRADING_DAYS_A_WEEK = 5
# Holidays, and bars that are missing.
_SPARE, _SPARE_DAYS = 1.25, 7


def bars_at_hand(
    platform: Platform,
    symbol: str,
    timeframe: Timeframe,
    *,
    days: float | None = None,
    until: datetime | None = None,
) -> Bars:
    """Bars of a symbol in a model's timeframe, the session setting applied.

    A local source is read whole. Of one of the network, the stored bars are taken where it was asked for the wanted
    range before; else it is asked for that range, and nothing is stored.

    Args:
        platform: settings, source, warehouse and clock.
        symbol: whose bars.
        timeframe: of the result; made from the base timeframe where that is shorter.
        days: of history before ``until``; at most ``history_days``, and these where None. Local sources are read whole.
        until: the last instant of interest; None for now.

    Raises:
        Rejected: where the source has no such series.
        Unavailable: where it does not answer.
    """
    settings = platform.settings
    base = min(settings.base_timeframe, timeframe, key=lambda t: t.minutes)
    asset_class = platform.asset_class(symbol)
    source = platform.bar_source()
    if not is_remote(source):
        fetched = source.fetch(symbol, base, asset_class, start=None, end=None)
        return in_timeframe(fetched, timeframe, settings.session)
    wanted = _wanted(platform, source, base, asset_class, days, until)
    bars = _stored(platform, source, symbol, base, wanted)
    if bars is None:
        bars = source.fetch(symbol, base, asset_class, start=wanted.start, end=wanted.end)
    return in_timeframe(bars, timeframe, settings.session)


def days_of(n_bars: int, timeframe: Timeframe, asset_class: AssetClass) -> float:
    """Days of the calendar that surely hold so many bars, holidays included."""
    if asset_class is AssetClass.CRYPTO:
        a_day = 24 * 60 / timeframe.minutes
    else:
        a_day = max(_SESSION_MINUTES // timeframe.minutes, 1) * _TRADING_DAYS_A_WEEK / 7
    return math.ceil(n_bars / a_day * _SPARE) + _SPARE_DAYS


def _wanted(
    platform: Platform,
    source: RemoteBarSource,
    base: Timeframe,
    asset_class: AssetClass,
    days: float | None,
    until: datetime | None,
) -> TimeRange:
    now = platform.now()
    newest = whole_minute(source.newest_complete(base, asset_class, now))
    oldest = platform.settings.history_days
    end = newest if until is None else whole_minute(min(until, newest)).astimezone(UTC)
    # Whole days before the present (not before the newest bar), as bars are stored by.
    before = now if until is None else end
    first_day = (before.astimezone(UTC) - timedelta(days=min(days or oldest, oldest))).date()
    start = datetime.combine(first_day, time(), tzinfo=UTC)
    return TimeRange(min(start, end), end)


def _stored(
    platform: Platform, source: RemoteBarSource, symbol: str, base: Timeframe, wanted: TimeRange
) -> Bars | None:
    """The stored bars of the range; None where the source was not asked for all of it."""
    if not platform.warehouse.path.is_file():
        return None
    series = [s for s in read_series(platform, source, [symbol]) if s.timeframe is base]
    if not series or missing(wanted, series[0].covered):
        return None
    bars = stored_bars(platform, symbol, base)
    if bars is None:
        return None
    inside = (bars.ts >= to_datetime64(wanted.start)) & (bars.ts <= to_datetime64(wanted.end))
    first, stop = int(inside.argmax()), int(inside.sum())
    return bars.slice(first, first + stop) if stop else None
