"""Bars from Alpaca's Market Data API, by Alpaca's own clients: the only place that imports alpaca-py.

Here: which questions become one request, what a page holds, and which symbols Alpaca does not know. Not here: waiting
and trying again (alpaca_http.py), keys (alpaca_keys.py), or which bars are missing (pipeline/).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import requests
from alpaca.data.enums import Adjustment, DataFeed
from alpaca.data.historical import CryptoHistoricalDataClient, StockHistoricalDataClient
from alpaca.data.requests import CryptoBarsRequest, StockBarsRequest
from alpaca.data.timeframe import TimeFrame, TimeFrameUnit

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.instruments import AssetClass, Timeframe, alpaca_symbol, parse_symbol
from postval_assets.io.alpaca_http import (
    Clock,
    RefusedRequest,
    TokenBucket,
    patient_session,
    shared_bucket,
)
from postval_assets.io.alpaca_keys import AlpacaKeys, alpaca_keys
from postval_assets.io.bar_source import AlpacaAccess, BarAnswer, BarAsk

# Accounts without a subscription may not see the last 15 minutes of stocks. For crypto the same delay makes sure that
# a bar is there when its time is asked for: a range that was empty once is never asked again.
DELAY = timedelta(minutes=15)
# Before this Alpaca has nothing: stocks begin in 2016, crypto in 2021.
_BEGINNING = datetime(2015, 12, 1, tzinfo=UTC)
# The longest list of symbols in a request, as it is written in a URL; servers commonly refuse URLs of 8 KB.
MAX_SYMBOLS_LENGTH = 4_000
# Bars expected of one group of requests, 50 pages: a process that is killed loses one group at most.
MAX_GROUP_BARS = 500_000
# A listed stock that had no bar in so long is looked up: does Alpaca know it at all?
_QUIET = timedelta(days=10)
# Shares of a week in which bars open: 16 hours on 5 days, extended hours included.
_OPEN_SHARE = {AssetClass.EQUITY: 16 * 5 / (24 * 7), AssetClass.CRYPTO: 1.0}
# Where a refusal names symbols, and what could be one.
_INVALID, _NAME = re.compile("invalid symbol", re.IGNORECASE), re.compile(r"[A-Z0-9]+(?:[./][A-Z0-9]+)?")
# Pages one after the other without a bar that are believed.
_MAX_EMPTY_PAGES = 100
# What is asked for to see whether Alpaca answers.
_KNOWN_STOCK, _KNOWN_DAY = "AAPL", datetime(2024, 1, 2, tzinfo=UTC)
_REACH_TIMEOUT_S = 5.0
_FIELDS = ("t", "o", "h", "l", "c", "v")
_HOUR = 60
_SECONDS_LENGTH = len("2024-01-02T09:30:00Z")
_Arrays = dict[str, npt.NDArray[Any]]  # by COLUMNS, one value a bar


@dataclass(frozen=True)
class AlpacaBars:
    """Stocks (adjusted for splits and dividends) and crypto pairs.

    Attributes:
        url: data host instead of Alpaca's own.
        keys: called before the first request; raises where there are none.
        feed: of stocks; None for the best one that the account has.
        requests_per_minute: of this process, in any minute.
        timeout_s: longest silence of the server before a request is repeated.
        now: the time, aware.
        clock: for waiting.
        bucket: of this source alone, where not the process's.
    """

    url: str | None
    keys: Callable[[], AlpacaKeys] = field(repr=False)
    feed: str | None = None
    requests_per_minute: int = 200
    timeout_s: float = 30.0
    now: Callable[[], datetime] = field(default=lambda: datetime.now(UTC), repr=False)
    clock: Clock = field(default=Clock(), repr=False)
    bucket: TokenBucket | None = field(default=None, repr=False)
    name: str = field(default="alpaca", init=False)

    def recorded_as(self, asset_class: AssetClass) -> str:
        """See RemoteBarSource: a feed that is set makes other bars of stocks than another; pairs have no feed."""
        return (
            self.name if asset_class is AssetClass.CRYPTO or self.feed is None else f"{self.name}-{self.feed}"
        )

    def symbols(self) -> tuple[str, ...]:
        """See BarSource.symbols: nobody lists them here; raises where the keys are missing."""
        self.keys()
        return ()

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        """See BarSource.fetch; an unknown symbol is Rejected."""
        newest = self.newest_complete(timeframe, asset_class, self.now())
        ask = BarAsk(parse_symbol(symbol), _utc(start or _BEGINNING), _utc(end or newest))
        [answer] = self.answer([ask], timeframe, asset_class)
        if answer.problem is not None:
            raise Rejected(answer.problem)
        return answer.bars

    def reach(self) -> None:
        """See RemoteBarSource.reach: one bar of one day, from the feed that is set."""
        keys = self.keys()
        # Not the process's bucket, which may have to wait.
        bucket = TokenBucket(1, self.clock)
        timeout_s = min(self.timeout_s, _REACH_TIMEOUT_S)
        with patient_session(keys, bucket, timeout_s=timeout_s, clock=self.clock, once=True) as session:
            client = _client(AssetClass.EQUITY, keys, self.url, session)
            asking = _Asking(client, self.feed, Timeframe.DAY_1, AssetClass.EQUITY)
            until = _KNOWN_DAY + timedelta(days=1)
            list(asking.group([BarAsk(_KNOWN_STOCK, _KNOWN_DAY, until)], until))

    def newest_complete(
        self,
        timeframe: Timeframe,
        asset_class: AssetClass,  # noqa: ARG002 - the same for both, see DELAY
        now: datetime,
    ) -> datetime:
        """See RemoteBarSource; on the hour, or on the timeframe's own grid where that is finer."""
        latest = _utc(now) - DELAY - timedelta(minutes=timeframe.minutes)
        step = timedelta(minutes=min(timeframe.minutes, _HOUR))
        # Days and 4 hours begin by the clock of New York or Chicago, which is on UTC's hours but not on its days.
        return latest - (latest - datetime(2000, 1, 1, tzinfo=UTC)) % step

    def answer(
        self, asks: Sequence[BarAsk], timeframe: Timeframe, asset_class: AssetClass
    ) -> Iterator[BarAnswer]:
        """See RemoteBarSource.answer.

        Bars that are not complete yet, or too recent to be seen (newest_complete), are left out of an answer.
        """
        keys = self.keys()
        latest = self.newest_complete(timeframe, asset_class, self.now())
        bucket = self.bucket or shared_bucket(self.requests_per_minute)
        with patient_session(keys, bucket, timeout_s=self.timeout_s, clock=self.clock) as session:
            asking = _Asking(_client(asset_class, keys, self.url, session), self.feed, timeframe, asset_class)
            for group in _groups(asks, timeframe, asset_class, latest):
                yield from asking.group(group, latest)


def open_alpaca(access: AlpacaAccess) -> AlpacaBars:
    """The source as the settings have it; nothing is looked at before it is asked."""
    return AlpacaBars(
        url=access.alpaca_url,
        keys=lambda: alpaca_keys(access.alpaca_variables),
        feed=access.alpaca_feed,
        requests_per_minute=access.alpaca_requests_per_minute,
        timeout_s=access.alpaca_timeout_s,
    )


class _Columns:
    """Bars of one request's pages so far, as arrays: a page's own form takes ten times the memory.

    Args:
        most: more bars than the request can have; a server that sends more repeats itself.

    Attributes:
        wrong: what is wrong with a bar, by Alpaca's symbol.
    """

    def __init__(self, most: int = 0) -> None:
        self.wrong: dict[str, str] = {}
        self._most = most
        self._parts: dict[str, list[_Arrays]] = {}
        self._tokens: set[str] = set()
        self._n_bars = self._n_empty = 0

    def take(self, page: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a page's bars; the page without them."""
        bars = page.get("bars", ...)
        if not isinstance(bars, Mapping | None):
            what = "without bars" if bars is ... else f"whose bars are a {type(bars).__name__}"
            raise Unavailable(f"Alpaca sent a page {what}")
        n_before = self._n_bars
        for symbol, series in (bars or {}).items():  # null where there are none
            if series and symbol not in self.wrong:
                arrays = _arrays(series)
                if isinstance(arrays, str):
                    self.wrong[symbol] = arrays
                else:
                    self._parts.setdefault(symbol, []).append(arrays)
                    self._n_bars += len(series)
        self._n_empty = self._n_empty + 1 if self._n_bars == n_before else 0
        return {"bars": {}, "next_page_token": self._next(page.get("next_page_token"))}

    def _next(self, token: object) -> str | None:
        if not token:
            return None
        if not isinstance(token, str) or token in self._tokens:
            raise Unavailable(
                "Alpaca's pages go round: a page names an earlier one, or none, as the next one"
            )
        if self._n_bars > self._most or self._n_empty > _MAX_EMPTY_PAGES:
            raise Unavailable("Alpaca's pages do not end: they have more bars than there can be, or none")
        self._tokens.add(token)
        return token

    def of(self, symbol: str) -> _Arrays | None:
        """The bars of a symbol, None where there were none."""
        parts = self._parts.get(symbol)
        return {name: np.concatenate([part[name] for part in parts]) for name in COLUMNS} if parts else None


class _PageByPage:
    """What both clients are given: our session, and pages that are taken one by one.

    ``get`` is what the clients call for each page. Without this, they would hold all pages of a request at once.
    """

    columns: _Columns

    def attach(self, session: requests.Session) -> None:
        """alpaca-py has no other way to a session with timeouts than the attribute that its clients use."""
        self._session = session

    def get(self, path: str, data: Any = None, **more: Any) -> Any:
        """One page, without the bars that it brought."""
        page: Mapping[str, Any] = super().get(path, data, **more)  # type: ignore[misc]
        return self.columns.take(page)


class _Stocks(_PageByPage, StockHistoricalDataClient):
    """Stocks."""


class _Crypto(_PageByPage, CryptoHistoricalDataClient):
    """Crypto pairs."""


def _client(
    asset_class: AssetClass, keys: AlpacaKeys, url: str | None, session: requests.Session
) -> _Stocks | _Crypto:
    chosen = _Crypto if asset_class is AssetClass.CRYPTO else _Stocks
    # alpaca-py puts a slash behind the host, also where there is one.
    host = url.rstrip("/") if url is not None else None
    client = chosen(keys.key_id, keys.secret, raw_data=True, url_override=host)
    client.attach(session)
    return client


@dataclass(frozen=True)
class _Asking:
    """Requests of one client for one timeframe."""

    client: _Stocks | _Crypto
    feed: str | None
    timeframe: Timeframe
    asset_class: AssetClass

    def group(self, asks: Sequence[BarAsk], latest: datetime) -> Iterator[BarAnswer]:
        """The answers to questions of one range and different symbols."""
        names: dict[str, str] = {}  # Alpaca's name by symbol
        problems: dict[str, str] = {}
        for ask in asks:
            try:
                names[ask.symbol] = alpaca_symbol(ask.symbol, self.asset_class)
            except Rejected as error:
                problems[ask.symbol] = str(error)
        start, end = asks[0].start, min(asks[0].end, latest)
        if start <= end:
            step = timedelta(minutes=self.timeframe.minutes)
            columns, refused = self._bars(list(names.values()), start, end, _timeframe(self.timeframe), step)
        else:
            columns, refused = _Columns(), set()
        found = {symbol: columns.of(name) for symbol, name in names.items()}
        problems |= {symbol: _unknown(symbol, name) for symbol, name in names.items() if name in refused}
        problems |= {s: f"{s}: {columns.wrong[name]}" for s, name in names.items() if name in columns.wrong}
        # Of a pair, which trades all the time, any empty answer is suspect.
        if start <= end and (self.asset_class is AssetClass.CRYPTO or end - start >= _QUIET):
            empty = {s: names[s] for s, arrays in found.items() if arrays is None and s not in problems}
            problems |= {s: _unknown(s, names[s]) for s in self._without_history(empty, latest)}
        for ask in asks:
            bars, wrong = self._series(ask, found.get(ask.symbol), latest)
            problem = problems.get(ask.symbol, wrong)
            yield BarAnswer(ask, bars if problem is None else bars.slice(0, 0), problem)

    def _without_history(self, names: Mapping[str, str], latest: datetime) -> list[str]:
        """The symbols that Alpaca has never had a bar of, as its months say: one request for many."""
        if not names:
            return []
        month = TimeFrame(1, TimeFrameUnit.Month)
        columns, _ = self._bars(list(names.values()), _BEGINNING, latest, month, timedelta(days=28))
        return [s for s, name in names.items() if columns.of(name) is None and name not in columns.wrong]

    def _bars(
        self, names: list[str], start: datetime, end: datetime, length: TimeFrame, step: timedelta
    ) -> tuple[_Columns, set[str]]:
        """All bars of Alpaca's symbols, and those symbols that it refuses to hear; ``step`` is the least length."""
        refused: set[str] = set()
        while wanted := [name for name in names if name not in refused]:
            # Twice what fits, for bars that are sent again or on another grid.
            self.client.columns = _Columns(2 * len(wanted) * (int((end - start) / step) + 2))
            try:
                self._request(wanted, start, end, length)
            except RefusedRequest as error:
                # One bad symbol spoils the request of all.
                where = _INVALID.search(error.said)
                named = _NAME.findall(error.said, where.end()) if where is not None else ()
                if not set(named) & set(wanted):
                    raise
                refused |= set(named) & set(wanted)
            else:
                return self.client.columns, refused
        return _Columns(), refused

    def _request(self, names: list[str], start: datetime, end: datetime, length: TimeFrame) -> None:
        what: dict[str, Any] = {"symbol_or_symbols": names, "timeframe": length, "start": start, "end": end}
        if isinstance(self.client, _Crypto):
            self.client.get_crypto_bars(CryptoBarsRequest(**what))
        else:
            feed = DataFeed(self.feed) if self.feed is not None else None
            self.client.get_stock_bars(StockBarsRequest(**what, adjustment=Adjustment.ALL, feed=feed))

    def _series(self, ask: BarAsk, arrays: _Arrays | None, latest: datetime) -> tuple[Bars, str | None]:
        """The bars of the question's range, and what is wrong with them."""
        arrays = arrays or {c: np.empty(0, "datetime64[us]" if c == "ts" else "float64") for c in COLUMNS}
        low, high = (np.datetime64(t.replace(tzinfo=None), "us") for t in (ask.start, min(ask.end, latest)))
        # In order, and of bars with the same time the last one.
        rows = np.argsort(arrays["ts"], kind="stable")
        ts = arrays["ts"][rows]
        is_last = np.append(ts[1:] != ts[:-1], True)[: len(ts)]
        rows = rows[is_last & (ts >= low) & (ts <= high)]
        columns = {name: arrays[name][rows] for name in COLUMNS}
        bars = Bars(ask.symbol, self.timeframe, self.asset_class, **columns)
        for index in np.flatnonzero(_unusable(bars))[:1]:
            values = ", ".join(f"{name} {getattr(bars, name)[index]}" for name in COLUMNS[1:])
            return (
                bars,
                f"{ask.symbol}: Alpaca's bar at {bars.ts[index].astype('datetime64[s]')}Z has {values}",
            )
        return bars, None


def _groups(
    asks: Sequence[BarAsk], timeframe: Timeframe, asset_class: AssetClass, latest: datetime
) -> Iterator[list[BarAsk]]:
    """Questions that one request asks together: of one range, each symbol once, not too many."""
    by_range: dict[tuple[datetime, datetime], list[BarAsk]] = {}
    for ask in asks:
        aware = BarAsk(ask.symbol, _utc(ask.start), _utc(ask.end))
        by_range.setdefault((aware.start, aware.end), []).append(aware)
    for (start, end), same in by_range.items():
        span = max(min(end, latest) - start, timedelta(0)) / timedelta(minutes=timeframe.minutes) + 1
        n_max = max(1, int(MAX_GROUP_BARS / (span * _OPEN_SHARE[asset_class])))
        group: list[BarAsk] = []
        length = 0
        for ask in same:
            # The comma behind a symbol takes three characters in a URL, and so does a pair's slash.
            more = len(ask.symbol) + (6 if asset_class is AssetClass.CRYPTO else 3)
            full = len(group) == n_max or length + more > MAX_SYMBOLS_LENGTH
            if group and (full or any(ask.symbol == other.symbol for other in group)):
                yield group
                group, length = [], 0
            group.append(ask)
            length += more
        yield group


def _arrays(series: Sequence[Mapping[str, Any]]) -> _Arrays | str:
    """A page's bars of one symbol, by COLUMNS; what is wrong where one of them is no bar."""
    arrays: _Arrays = {}
    for name, key in zip(COLUMNS, _FIELDS, strict=True):
        try:
            values = [bar[key] for bar in series]
            arrays[name] = _times(values) if name == "ts" else np.array(values, dtype=np.float64)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            # Without the error's words: they may repeat anything that the server sends.
            return f"Alpaca sent a bar that is none ({type(error).__name__} in {key})"
    return arrays


def _times(texts: Sequence[str]) -> npt.NDArray[np.datetime64]:
    if all(len(text) == _SECONDS_LENGTH and text[-1] == "Z" for text in texts):
        return np.array([text[:-1] for text in texts], dtype="datetime64[us]")
    times = pd.to_datetime(list(texts), utc=True, format="ISO8601").tz_localize(None)
    return times.to_numpy(dtype="datetime64[us]")


def _unusable(bars: Bars) -> npt.NDArray[np.bool_]:
    """Bars with a price that is no number, or a volume that is no quantity."""
    prices = np.stack([bars.open, bars.high, bars.low, bars.close])
    volume_ok = np.isnan(bars.volume) | (np.isfinite(bars.volume) & (bars.volume >= 0))
    bad: npt.NDArray[np.bool_] = ~(np.isfinite(prices).all(axis=0) & volume_ok)
    return bad


def _unknown(symbol: str, name: str) -> str:
    asked = "" if name == symbol else f" (asked for as {name})"
    return f"{symbol}: Alpaca has no bars of this symbol at any time{asked}: is it spelt right, and traded there?"


def _timeframe(timeframe: Timeframe) -> TimeFrame:
    if timeframe.minutes < _HOUR:
        return TimeFrame(timeframe.minutes, TimeFrameUnit.Minute)
    if timeframe is Timeframe.DAY_1:
        return TimeFrame(1, TimeFrameUnit.Day)
    return TimeFrame(timeframe.minutes // _HOUR, TimeFrameUnit.Hour)


def _utc(moment: datetime) -> datetime:
    return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
