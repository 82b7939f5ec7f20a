"""How many requests, how long and how much memory a large universe takes. A measurement, not a test.

    python -m postval_assets_tests.pipeline.alpaca_volume [SYMBOLS] [DAYS]

The server is a process of its own, so that the memory that is measured is the pipeline's. Its bars are hourly, of 16
hours on each weekday, as Alpaca has them with extended hours; 200 requests a minute, which free accounts have, are not
waited for: the least that they take is told beside the time.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np
import pandas as pd
import psutil

from postval_assets.core.bars import Bars
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.pipeline.loading import load_bars
from postval_assets.pipeline.platform import open_platform
from postval_assets.settings import Settings
from postval_assets_tests.io.alpaca_server import KEY_ID, SECRET, AlpacaServer, alpaca_bars_of

NOW = datetime(2025, 3, 1, 12, 20, tzinfo=UTC)  # a Saturday
PAGE = 10_000
PER_MINUTE = 200


@lru_cache(maxsize=8)
def series(symbol: str) -> list[dict[str, Any]]:
    """Hourly bars of weekdays from 08:00 to 24:00 UTC, the week after NOW included."""
    hours = pd.date_range(NOW - timedelta(days=900), NOW + timedelta(days=7), freq="h").floor("h")
    hours = hours[(hours.day_of_week < 5) & (hours.hour >= 8)]
    rng = np.random.default_rng(int(symbol[1:]))
    close = np.round(100 * np.exp(rng.normal(0, 0.004, len(hours)).cumsum()), 4)
    prices = {"open": close - 0.1, "high": close + 0.2, "low": close - 0.3, "close": close}
    frame = pd.DataFrame({"ts": hours, **prices, "volume": 1000.0})
    bars = Bars.from_frame(frame, symbol=symbol, timeframe=Timeframe.HOUR_1, asset_class=AssetClass.EQUITY)
    return alpaca_bars_of(bars)


def say(line: str) -> None:
    """A line on stdout, at once."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def serve() -> None:
    """The server's process: its address on stdout, then a number of requests for each line on stdin."""
    with AlpacaServer(series, validate=False) as server:
        say(server.url)
        for _ in sys.stdin:
            say(str(len(server.requests)))


@dataclass
class Server:
    """The other process."""

    process: subprocess.Popen[str]

    def line(self) -> str:
        """What it says next."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def n_requests(self) -> int:
        """Requests so far."""
        assert self.process.stdin is not None
        self.process.stdin.write("?\n")
        self.process.stdin.flush()
        return int(self.line())


class Memory:
    """The most memory that this process has had, looked at many times a second."""

    def __init__(self) -> None:
        self.most = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        process = psutil.Process()
        while not self._over.wait(0.05):
            self.most = max(self.most, process.memory_info().rss)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def measured(server: Server, what: str, least: int, work: Callable[[], int]) -> None:
    """One line of the table."""
    requests, started, used = server.n_requests(), time.monotonic(), time.process_time()
    with Memory() as memory:
        rows = work()
    took, used = time.monotonic() - started, time.process_time() - used
    made = server.n_requests() - requests
    say(
        f"{what:<34} {rows:>9,} bars stored  {made:>4} requests (least {least:>3})  {took:6.1f} s ({used:.1f} s CPU)  "
        f"{memory.most / 2**20:6.0f} MB  ({made / PER_MINUTE:.1f} min at {PER_MINUTE} a minute)"
    )


def n_bars(days: float, until: datetime, n_symbols: int) -> int:
    """Bars that the server has of so many days up to an open."""
    first = (NOW - timedelta(days=days)).replace(hour=0, minute=0)
    times = [datetime.fromisoformat(bar["t"]) for bar in series("S000")]
    return n_symbols * sum(first <= t <= until for t in times)


def main(n_symbols: int = 500, days: int = 730) -> None:
    """The table."""
    os.environ |= {"APCA_API_KEY_ID": KEY_ID, "APCA_API_SECRET_KEY": SECRET}
    names = [f"S{n:03}" for n in range(n_symbols)]
    command = [sys.executable, "-m", "postval_assets_tests.pipeline.alpaca_volume", "serve"]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    server = Server(process)
    try:
        url = server.line()
        whole = n_bars(days, NOW, n_symbols)
        for most in (n_symbols, 50):
            with tempfile.TemporaryDirectory() as folder:
                at = [NOW]
                settings = Settings(
                    data_dir=Path(folder),
                    bars_source="alpaca",
                    alpaca_url=url,
                    history_days=days,
                    alpaca_requests_per_minute=100_000,
                )
                platform = open_platform(settings, now=lambda at=at: at[0])

                def top_up(platform: Any = platform, most: int = most) -> int:
                    blocks = [names[i : i + most] for i in range(0, n_symbols, most)]
                    return sum(load_bars(platform, block, run_id="volume").n_rows for block in blocks)

                say(f"{n_symbols} symbols, {days} days, {most} symbols a run")
                measured(server, "the first time", math.ceil(whole / PAGE), top_up)
                measured(server, "again", 0, top_up)
                at[0] = NOW + timedelta(days=2, hours=14)  # Tuesday, when Monday's bars are complete
                new = n_bars(days, at[0], n_symbols) - whole
                measured(server, "after the next day of trading", math.ceil(new / PAGE), top_up)
                measured(server, "again", 0, top_up)
    finally:
        process.kill()
        process.wait()


if __name__ == "__main__":
    if sys.argv[1:] == ["serve"]:
        serve()
    else:
        main(*map(int, sys.argv[1:]))
