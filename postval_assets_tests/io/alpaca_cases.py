"""What the tests of Alpaca's bars share: bars as Alpaca has them, a clock that does not wait, a source on a server."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from postval_assets.io.alpaca_bars import AlpacaBars
from postval_assets.io.alpaca_http import Clock, TokenBucket
from postval_assets.io.alpaca_keys import AlpacaKeys
from postval_assets.io.bar_source import BarAsk
from postval_assets_tests.io.alpaca_server import KEY_ID, SECRET, AlpacaServer, Bar

START = datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime(2025, 3, 1, 12, 40, tzinfo=UTC)
END = datetime(2025, 3, 1, tzinfo=UTC)


@dataclass
class FakeClock:
    """Time that passes where somebody waits, and only there."""

    seconds: float = 1000.0
    waits: list[float] = field(default_factory=list)

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.seconds += seconds

    @property
    def clock(self) -> Clock:
        return Clock(monotonic=lambda: self.seconds, wall=lambda: 1.7e9 + self.seconds, sleep=self.sleep)


def hourly(n: int, *, start: datetime = START, price: float = 100.0) -> list[Bar]:
    """``n`` hourly bars that differ from each other, around the clock."""
    return [
        {
            "t": f"{start + timedelta(hours=i):%Y-%m-%dT%H:%M:%SZ}",
            "o": price + i,
            "h": price + i + 2,
            "l": price + i - 1,
            "c": price + i + 0.5,
            "v": 10 + i,
            "n": 3,
            "vw": price + i,
        }
        for i in range(n)
    ]


def source_on(
    server: AlpacaServer,
    fake: FakeClock | None = None,
    *,
    feed: str | None = None,
    timeout_s: float = 10.0,
    now: datetime = NOW,
    per_minute: int = 10_000,
) -> AlpacaBars:
    """A source that asks the server, with a bucket of its own."""
    clock = (fake or FakeClock()).clock
    return AlpacaBars(
        url=server.url,
        keys=lambda: AlpacaKeys(KEY_ID, SECRET),
        feed=feed,
        timeout_s=timeout_s,
        now=lambda: now,
        clock=clock,
        bucket=TokenBucket(per_minute, clock),
    )


def ask(symbol: str, start: datetime = START, end: datetime = END) -> BarAsk:
    return BarAsk(symbol, start, end)
