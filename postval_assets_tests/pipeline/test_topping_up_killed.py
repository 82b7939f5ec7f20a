"""A process that is killed in the middle of a fetch, and the next one: the table is that of an undisturbed run.

Real processes, Alpaca's own client, and a real server on loopback.
"""

from __future__ import annotations

import math
import threading
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from postval_assets.core.bars import Bars
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets_tests.io.alpaca_server import AlpacaServer, Fault, alpaca_bars_of
from postval_assets_tests.pipeline.alpaca_process import DIED, HISTORY_DAYS, NEVER, platform_at, start
from postval_assets_tests.pipeline.conftest import bars_frame

NOW = datetime(2025, 2, 1, 12, 20, tzinfo=UTC)
SYMBOLS = ("AAPL", "MSFT", "NVDA", "SPY", "BTCUSD", "ETHUSD")
PAGE = 900
PATIENCE_S = 120.0


@cache
def series(symbol: str) -> list[dict[str, Any]]:
    """Hourly bars of half the symbol's history and a little more, as Alpaca writes them."""
    name = symbol.replace("/", "")
    frame = bars_frame(
        n=1500 + 10 * len(symbol), end=NOW.replace(minute=0), hours=1, seed=sum(map(ord, name))
    )
    bars = Bars.from_frame(frame, symbol=name, timeframe=Timeframe.HOUR_1, asset_class=AssetClass.EQUITY)
    return alpaca_bars_of(bars)


class Watched:
    """The server's series; says when a request of a given number has come."""

    def __init__(self, number: int) -> None:
        self.number = number
        self.has_come = threading.Event()
        self.server: AlpacaServer | None = None

    def __call__(self, symbol: str) -> list[dict[str, Any]]:
        if self.server is not None and len(self.server.requests) > self.number:
            self.has_come.set()
        return series(symbol)


def tables(data_dir: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Bars and coverage, without who wrote them and when."""
    warehouse = platform_at(data_dir, "http://127.0.0.1", NOW).warehouse
    return (
        warehouse.rows("SELECT * EXCLUDE (run_id, created_at) FROM bars ORDER BY symbol, timeframe, ts"),
        warehouse.rows("SELECT * EXCLUDE (run_id, created_at) FROM bar_coverage ORDER BY ALL"),
    )


def finish(data_dir: Path) -> tuple[int, int]:
    """Run to the end against a sound server; requests made, and those of another run after it."""
    with AlpacaServer(series, page_size=PAGE) as server:
        counts = []
        for _ in range(2):
            assert start(data_dir, server.url, NOW, SYMBOLS).wait(PATIENCE_S) == 0
            counts.append(len(server.requests))
        return counts[0], counts[1] - counts[0]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, int]:
    """Its tables, and how many requests it made."""
    data_dir = tmp_path_factory.mktemp("undisturbed")
    n_requests, again = finish(data_dir)
    assert again == 0, "a second run has nothing to ask"
    return tables(data_dir), n_requests


def test_the_undisturbed_run_has_every_bar_that_is_complete(undisturbed: tuple[Any, int]) -> None:
    (bars, coverage), n_requests = undisturbed
    newest = NOW.replace(hour=11, minute=0)
    first = (NOW - timedelta(days=HISTORY_DAYS)).replace(hour=0, minute=0)
    assert {(r["start_ts"], r["end_ts"]) for r in coverage} == {(first, newest)}
    for symbol in SYMBOLS:
        slashed = symbol if not symbol.endswith("USD") else f"{symbol[:-3]}/USD"
        own = [(r["ts"], r["close"]) for r in bars if r["symbol"] == symbol]
        assert own == [(datetime.fromisoformat(b["t"]), b["c"]) for b in series(slashed)]
        assert own[-1][0] == newest
    assert n_requests >= math.ceil(len(bars) / PAGE)


# The first groups of requests are for two stocks each and take four pages.
@pytest.mark.parametrize(("number", "n_stored", "n_kept"), [(1, 0, 0), (6, 2, 4), (9, 4, 8)])
def test_killed_in_the_middle_of_a_fetch(
    undisturbed: tuple[Any, int], tmp_path: Path, number: int, n_stored: int, n_kept: int
) -> None:
    watched = Watched(number)
    with AlpacaServer(watched, {number: Fault.HANG_IN_PAGE}, page_size=PAGE) as server:
        watched.server = server
        process = start(tmp_path, server.url, NOW, SYMBOLS)
        try:
            assert watched.has_come.wait(PATIENCE_S)
        finally:
            process.kill()
        assert process.wait(PATIENCE_S) != 0
    bars, coverage = tables(tmp_path)
    assert len({r["symbol"] for r in coverage}) == n_stored
    assert {r["symbol"] for r in bars} == {r["symbol"] for r in coverage}
    expected, n_undisturbed = undisturbed
    n_requests, again = finish(tmp_path)
    assert tables(tmp_path) == expected
    assert again == 0
    assert n_requests == n_undisturbed - n_kept, "only the group in flight is asked again"


@pytest.mark.parametrize("write", [1, 2, 3])
def test_killed_between_bars_and_coverage_of_one_transaction(
    undisturbed: tuple[Any, int], tmp_path: Path, write: int
) -> None:
    with AlpacaServer(series, page_size=PAGE) as server:
        process = start(tmp_path, server.url, NOW, SYMBOLS, die_in_write=write)
        assert process.wait(PATIENCE_S) == DIED
    bars, coverage = tables(tmp_path)
    assert {r["symbol"] for r in bars} == {r["symbol"] for r in coverage}, "both or neither"
    assert write == 1 or bars
    assert finish(tmp_path)[1] == NEVER
    assert tables(tmp_path) == undisturbed[0]
