"""A source of the network whose answers a test decides, and what a test asks of the tables after it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd

from postval_assets.core.bars import Bars
from postval_assets.core.failures import Unavailable
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.bar_source import BarAnswer, BarAsk
from postval_assets.pipeline.platform import StageReport
from postval_assets.pipeline.topping_up import top_up_bars
from postval_assets_tests.pipeline.conftest import END, Bench, MakeBench, Row, bars_frame

HOURS = timedelta(hours=1)
DAY = timedelta(days=1)
N = 120
DAYS = 30  # of history that is asked for; the bars are of the last 20


@dataclass
class Exchange:
    """A source of the network whose answers a test decides."""

    history: dict[str, pd.DataFrame] = field(default_factory=dict)
    unknown: frozenset[str] = frozenset()
    answers_left: int | None = None
    name: str = "exchange"
    feed: str = ""
    asked: list[list[BarAsk]] = field(default_factory=list)

    def symbols(self) -> tuple[str, ...]:
        """None: it cannot list them."""
        return ()

    def recorded_as(self, asset_class: AssetClass) -> str:
        """Its name, with the feed of stocks where one is set."""
        return self.name if asset_class is AssetClass.CRYPTO or not self.feed else f"{self.name}-{self.feed}"

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        """A source of the network is not read whole."""
        raise AssertionError(f"{symbol} {timeframe} {asset_class} {start} {end}")

    def reach(self) -> None:
        """It answers."""

    def newest_complete(self, timeframe: Timeframe, asset_class: AssetClass, now: datetime) -> datetime:
        """Complete for a quarter of an hour, by whole hours."""
        assert isinstance(asset_class, AssetClass)
        before = now - timedelta(minutes=timeframe.minutes + 15)
        return before.replace(minute=0, second=0, microsecond=0)

    def answer(
        self, asks: Sequence[BarAsk], timeframe: Timeframe, asset_class: AssetClass
    ) -> Iterator[BarAnswer]:
        """What the history holds; after ``answers_left`` answers it falls silent."""
        self.asked.append(list(asks))
        for ask in asks:
            if self.answers_left is not None:
                if not self.answers_left:
                    raise Unavailable("it fell silent")
                self.answers_left -= 1
            whole = self.history.get(ask.symbol, bars_frame(n=1).iloc[:0])
            # One bar more than was asked for: it is not complete.
            inside = whole[(whole["ts"] >= ask.start) & (whole["ts"] <= ask.end + 4 * HOURS)]
            bars = Bars.from_frame(inside, symbol=ask.symbol, timeframe=timeframe, asset_class=asset_class)
            problem = f"{ask.symbol}: it is not known" if ask.symbol in self.unknown else None
            yield BarAnswer(ask, bars.slice(0, 0) if problem else bars, problem)

    def questions(self) -> list[tuple[str, datetime, datetime]]:
        """What was asked since the last look."""
        asked, self.asked = self.asked, []
        return [(ask.symbol, ask.start, ask.end) for asks in asked for ask in asks]


def opened(root: Path, make_bench: MakeBench) -> Bench:
    """A data directory two hours after the end of the bars: the newest one is complete."""
    made = make_bench(root, history_days=DAYS)
    made.clock.at = END + 2 * HOURS
    return made


def since(bench: Bench, days: int = DAYS) -> datetime:
    """First open that is asked for."""
    return (bench.clock.at - days * DAY).replace(hour=0, minute=0, second=0, microsecond=0)


def newest(bench: Bench) -> datetime:
    """Newest open that is asked for."""
    return Exchange().newest_complete(Timeframe.HOUR_4, AssetClass.EQUITY, bench.clock.at)


def top_up(bench: Bench, exchange: Exchange, *symbols: str) -> StageReport:
    return top_up_bars(bench.platform, exchange, symbols or ("AAPL",), run_id=bench.run_id("bars"))


def stored(bench: Bench, symbol: str = "AAPL") -> list[Row]:
    sql = "SELECT ts, open, high, low, close, volume FROM bars WHERE symbol = ? ORDER BY ts"
    return bench.rows(sql, symbol)


def expected(exchange: Exchange, until: datetime, symbol: str = "AAPL") -> list[Row]:
    history = exchange.history[symbol]
    return [
        {**row, "ts": row["ts"].to_pydatetime()}
        for row in history[history["ts"] <= until].to_dict(orient="records")
    ]


def coverage(bench: Bench, symbol: str = "AAPL") -> list[tuple[datetime, datetime]]:
    sql = "SELECT start_ts, end_ts FROM bar_coverage WHERE symbol = ? AND source LIKE 'exchange%' ORDER BY start_ts"
    return [(r["start_ts"], r["end_ts"]) for r in bench.rows(sql, symbol)]


def later(exchange: Exchange, bench: Bench, n: int = 3, symbol: str = "AAPL") -> None:
    """Time passes, and n more bars are there."""
    whole = bars_frame(n=N + n, end=END + n * 4 * HOURS, seed=5)
    exchange.history[symbol] = pd.concat([exchange.history[symbol], whole.iloc[-n:]], ignore_index=True)
    bench.clock.at += n * 4 * HOURS
