"""Series of several timeframes: each is loaded on its own, and a model reads the longest that it can be made from."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

import numpy as np
import pytest

from postval_assets.core.bars import Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.pipeline.loading import load_bars
from postval_assets.pipeline.market import ModelBars, model_bars, stored_bars
from postval_assets.pipeline.topping_up import EMPTY
from postval_assets_tests.pipeline.conftest import BUY, END, Bench, bars_frame, network

SMALL = 120


def shortened(bench: Bench, symbol: str, minutes: int, n: int) -> None:
    """Bars of a quarter or half of an hour for the source."""
    frame = bars_frame(n=n, hours=1, seed=7)
    first = END - n * timedelta(minutes=minutes)
    frame["ts"] = [first + i * timedelta(minutes=minutes) for i in range(n)]
    bench.put_bars(symbol, frame, timeframe=f"{minutes}Min")


@pytest.fixture
def hourly(bench: Bench) -> Bench:
    """An archive with a 15Min and a 1Hour model of BTCUSD, the base timeframe being 1Hour."""
    hourly = bench.configured(base_timeframe="1Hour")
    hourly.put_bars("BTCUSD", timeframe="1Hour", n=SMALL, hours=1)
    hourly.deliver(hourly.archive({"BTCUSD_15Min": network(BUY), "BTCUSD_1Hour": network(BUY)}))
    return hourly


def test_a_finer_model_does_not_take_the_base_bars_away(hourly: Bench) -> None:
    report = hourly.load(["BTCUSD"])
    assert (report.symbols[0].n_rows, report.symbols[0].n_current) == (SMALL, 0)
    (problem,) = report.symbols[0].problems
    assert "no 15Min bars of BTCUSD in" in problem
    loads = hourly.rows("SELECT timeframe, status, reason FROM bar_loads ORDER BY timeframe")
    assert [(r["timeframe"], r["status"]) for r in loads] == [("15Min", "REJECTED"), ("1Hour", "OK")]
    assert len(model_bars(hourly.platform, "BTCUSD", Timeframe.HOUR_1)) == SMALL
    with pytest.raises(
        Rejected, match=r"bars of BTCUSD are 1Hour: 15Min bars cannot be made .* no 15Min bars of"
    ):
        model_bars(hourly.platform, "BTCUSD", Timeframe.MIN_15)


def test_both_series_are_loaded_and_each_model_reads_its_own(hourly: Bench) -> None:
    shortened(hourly, "BTCUSD", 15, 4 * SMALL)
    assert hourly.load(["BTCUSD"]).symbols[0].n_rows == 5 * SMALL
    one = stored_bars(hourly.platform, "BTCUSD", Timeframe.HOUR_1)
    assert one is not None
    shelf = ModelBars(hourly.platform, ["BTCUSD"])
    assert shelf.read("BTCUSD", Timeframe.HOUR_1).digest() == one.digest()
    assert len(shelf.read("BTCUSD", Timeframe.MIN_15)) == 4 * SMALL
    assert shelf.read("BTCUSD", Timeframe.HOUR_1).digest() == one.digest()


@pytest.mark.parametrize("ahead", [15, 30, 45])
def test_a_quarter_of_an_hour_more_does_not_make_a_finer_series_reach_further(
    hourly: Bench, ahead: int
) -> None:
    """The next bar of the longer series is not complete yet: nothing is missing from it."""
    hourly.load(["BTCUSD"])
    later = bars_frame(n=SMALL, hours=1, seed=7)
    later["ts"] = [END + timedelta(minutes=ahead) - timedelta(minutes=15) * (SMALL - i) for i in range(SMALL)]
    hourly.put_bars("BTCUSD", later, timeframe="15Min")
    hourly.load(["BTCUSD"])
    one = stored_bars(hourly.platform, "BTCUSD", Timeframe.HOUR_1)
    assert one is not None
    for until in (None, END, END + timedelta(minutes=ahead), END + timedelta(days=9)):
        assert model_bars(hourly.platform, "BTCUSD", Timeframe.HOUR_1, until=until).digest() == one.digest()


def test_a_base_series_that_is_missing_leaves_what_a_finer_one_gives(hourly: Bench) -> None:
    (hourly.bars / "BTCUSD_1Hour.parquet").unlink()
    shortened(hourly, "BTCUSD", 15, 4 * SMALL)
    problems = hourly.load(["BTCUSD"]).symbols[0].problems
    assert len(problems) == 1
    assert "no 1Hour bars of BTCUSD" in problems[0]
    assert len(model_bars(hourly.platform, "BTCUSD", Timeframe.HOUR_1)) == SMALL
    with pytest.raises(Rejected, match="no bars of ETHUSD in the warehouse"):
        model_bars(hourly.platform, "ETHUSD", Timeframe.HOUR_1)


def test_series_of_many_symbols_are_read_in_batches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postval_assets.pipeline.market._BARS_PER_READ", 2 * SMALL)
    symbols = ["AAAUSD", "BBBUSD", "CCCUSD", "DDDUSD", "EEEUSD"]
    frames = {s: bench.put_bars(s, n=SMALL, seed=n) for n, s in enumerate(symbols) if s != "CCCUSD"}
    bench.load(symbols)
    shelf = ModelBars(bench.platform, symbols)
    for symbol, frame in frames.items():
        assert shelf.read(symbol, Timeframe.HOUR_4).close.tolist() == frame["close"].tolist()
    with pytest.raises(Rejected, match="no bars of CCCUSD"):
        shelf.read("CCCUSD", Timeframe.HOUR_4)


# --- what the source delivers -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Silent:
    """A source that knows every symbol and has no bars, as a source of the network may for a new listing."""

    name: str = "silent"

    def symbols(self) -> tuple[str, ...]:
        return ("BTCUSD", "NEWUSD")

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        """No bars, which is an answer."""
        none = np.empty(0)
        return Bars(
            symbol, timeframe, asset_class, none.astype("datetime64[us]"), none, none, none, none, none
        )


def test_no_bars_are_an_answer(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = bench.put_bars("BTCUSD", n=SMALL)
    bench.load(["BTCUSD"])
    with monkeypatch.context() as patched:
        patched.setattr("postval_assets.pipeline.platform.open_bar_source", lambda *_, **__: Silent())
        report = load_bars(bench.platform, ["BTCUSD", "NEWUSD"], run_id="silent")
    assert [(s.n_rows, s.problems) for s in report.symbols] == [
        (SMALL, (f"4Hour: {EMPTY}",)),
        (0, (f"4Hour: {EMPTY}",)),
    ]
    row = bench.one("SELECT * FROM bar_loads WHERE symbol = 'NEWUSD'")
    assert (row["status"], row["reason"], row["n_fetched"]) == ("EMPTY", EMPTY, 0)
    assert row["first_ts"] is row["last_ts"] is row["fetched_digest"] is None
    with pytest.raises(Rejected, match=f"no bars of NEWUSD: {EMPTY}"):
        model_bars(bench.platform, "NEWUSD", Timeframe.HOUR_4)
    bars = stored_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4)
    assert bars is not None
    assert bars.close.tolist() == frame["close"].tolist()
    assert bench.load(["BTCUSD"]).symbols[0].n_current == SMALL


def test_a_delivery_like_the_last_one_is_not_compared_with_what_is_stored(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.put_bars("BTCUSD", n=SMALL)
    bench.load(["BTCUSD"])
    digest = bench.one("SELECT fetched_digest FROM bar_loads")["fetched_digest"]
    assert digest == model_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4).digest()
    reads = []
    warehouse = bench.platform.warehouse
    frame = warehouse.frame
    monkeypatch.setattr(warehouse, "frame", lambda *a: reads.append(a) or frame(*a))
    bench.load(["BTCUSD"])
    assert reads == []
    changed = bars_frame(n=SMALL)
    changed.loc[3, "close"] *= 2.0
    bench.put_bars("BTCUSD", changed)
    bench.load(["BTCUSD"])
    assert len(reads) == 1
    assert bench.one("SELECT fetched_digest FROM bar_loads")["fetched_digest"] != digest
    bench.put_bars("BTCUSD", n=SMALL)
    bench.load(["BTCUSD"])
    assert bench.one("SELECT n_changed FROM bar_loads")["n_changed"] == 1, "the older prices are back"


def test_many_symbols_are_written_in_batches(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("postval_assets.pipeline.loading._ROWS_PER_WRITE", 2 * SMALL)
    symbols = [f"S{n}USD" for n in range(5)]
    for n, symbol in enumerate(symbols):
        bench.put_bars(symbol, n=SMALL, seed=n)
    before = bench.one("SELECT revision FROM revision")["revision"]
    report = bench.load([*symbols, "NONEUSD"])
    assert bench.one("SELECT revision FROM revision")["revision"] == before + 3
    assert [s.n_rows for s in report.symbols] == [SMALL] * 5 + [0]
    assert bench.one("SELECT count(*) AS n FROM bar_loads")["n"] == 6
    assert bench.one("SELECT count(*) AS n FROM bars")["n"] == 5 * SMALL
