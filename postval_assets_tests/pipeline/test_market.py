"""Bars: merged and never replaced whole, in the timeframe that a model needs."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.instruments import Timeframe
from postval_assets.pipeline.loading import load_bars
from postval_assets.pipeline.market import in_timeframe, model_bars, stored_bars
from postval_assets_tests.pipeline.conftest import BUY, END, Bench, bars_frame, network

SMALL = 100


def stored(bench: Bench, symbol: str = "BTCUSD", timeframe: str = "4Hour") -> pd.DataFrame:
    bars = stored_bars(bench.platform, symbol, Timeframe(timeframe))
    assert bars is not None
    return bars.frame()


def load(bench: Bench, *symbols: str) -> tuple[int, int, tuple[str, ...]]:
    """Rows, current rows and problems of the first symbol."""
    report = bench.load(symbols or ("BTCUSD",))
    first = report.symbols[0]
    return first.n_rows, first.n_current, first.problems


def test_what_the_source_has_is_stored_as_it_is(bench: Bench) -> None:
    frame = bench.put_bars("BTCUSD", n=SMALL)
    frame.loc[3, "volume"] = np.nan
    bench.put_bars("BTCUSD", frame)
    assert load(bench) == (SMALL, 0, ())
    pd.testing.assert_frame_equal(stored(bench), frame)
    load_row = bench.one("SELECT * FROM bar_loads")
    assert (load_row["status"], load_row["n_fetched"], load_row["n_changed"]) == ("OK", SMALL, SMALL)
    assert load_row["last_ts"] == END - timedelta(hours=4)
    assert bench.one("SELECT DISTINCT source, timeframe FROM bars") == {
        "source": "parquet",
        "timeframe": "4Hour",
    }


def test_loading_again_writes_nothing_new(bench: Bench) -> None:
    frame = bars_frame(n=SMALL)
    frame.loc[5, "volume"] = np.nan
    bench.put_bars("BTCUSD", frame)
    load(bench)
    before = bench.rows("SELECT * FROM bars ORDER BY ts")
    assert load(bench) == (SMALL, SMALL, ())
    assert bench.rows("SELECT * FROM bars ORDER BY ts") == before, "not even run_id and created_at"
    assert bench.one("SELECT n_changed FROM bar_loads")["n_changed"] == 0


def test_new_rows_are_merged_and_changed_ones_replaced(bench: Bench) -> None:
    frame = bars_frame(n=SMALL)
    first, last = frame.iloc[:60].copy(), frame.iloc[40:].copy()
    bench.put_bars("BTCUSD", first)
    load(bench)
    run_ids = {r["ts"]: r["run_id"] for r in bench.rows("SELECT ts, run_id FROM bars")}
    last.loc[45, "close"] *= 1.01
    last.loc[46, "volume"] = np.nan
    bench.put_bars("BTCUSD", last)
    assert load(bench) == (SMALL, 60, ())
    expected = pd.concat([first.iloc[:40], last], ignore_index=True)
    pd.testing.assert_frame_equal(stored(bench), expected)
    assert bench.one("SELECT n_changed FROM bar_loads")["n_changed"] == 42
    changed = {
        r["ts"]
        for r in bench.rows("SELECT ts, run_id FROM bars")
        if run_ids.get(r["ts"], r["run_id"]) != r["run_id"]
    }
    assert changed == {last.loc[45, "ts"], last.loc[46, "ts"]}


def test_a_source_that_has_no_such_series_leaves_what_is_stored(bench: Bench) -> None:
    frame = bench.put_bars("BTCUSD", n=SMALL)
    bench.put_bars("ETHUSD", n=SMALL)
    load(bench)
    (bench.bars / "BTCUSD_4Hour.parquet").unlink()
    n_rows, n_current, problems = load(bench, "BTCUSD", "ETHUSD")
    assert (n_rows, n_current) == (SMALL, SMALL)
    assert "no 4Hour bars of BTCUSD" in problems[0]
    pd.testing.assert_frame_equal(stored(bench), frame)
    assert len(stored(bench, "ETHUSD")) == SMALL, "the neighbour is loaded"
    row = bench.one("SELECT * FROM bar_loads WHERE symbol = 'BTCUSD'")
    assert row["status"] == "REJECTED"
    assert row["reason"] == problems[0]
    bench.put_bars("BTCUSD", frame)
    assert load(bench) == (SMALL, SMALL, ())
    assert bench.one("SELECT status FROM bar_loads WHERE symbol = 'BTCUSD'")["status"] == "OK"


def test_a_damaged_file_leaves_what_is_stored(bench: Bench) -> None:
    frame = bench.put_bars("BTCUSD", n=SMALL)
    load(bench)
    (bench.bars / "BTCUSD_4Hour.parquet").write_bytes(b"PAR1 not really")
    assert "is not a readable Parquet file" in load(bench)[2][0]
    pd.testing.assert_frame_equal(stored(bench), frame)


def test_a_disk_that_does_not_answer_is_told_after_the_others_are_loaded(bench: Bench) -> None:
    bench.put_bars("ETHUSD", n=SMALL)
    (bench.bars / "BTCUSD_4Hour.parquet").mkdir()
    with pytest.raises(Unavailable, match=r"bars of 1 symbol\(s\) could not be read: BTCUSD"):
        load_bars(bench.platform, ["BTCUSD", "ETHUSD"], run_id="r")
    assert len(stored(bench, "ETHUSD")) == SMALL


def test_a_zero_price_is_stored_as_it_is(bench: Bench) -> None:
    """It is judged where a block sees it, not here: most of a series may be sound."""
    frame = bars_frame(n=SMALL)
    frame.loc[0, ["open", "low"]] = 0.0
    bench.put_bars("DOGEUSD", frame)
    assert load(bench, "DOGEUSD") == (SMALL, 0, ())
    assert stored(bench, "DOGEUSD").loc[0, "open"] == 0.0


# --- timeframes ---------------------------------------------------------------------------------------------


def test_bars_are_loaded_in_the_finest_timeframe_that_a_model_needs(bench: Bench) -> None:
    bench.put_bars("BTCUSD", timeframe="4Hour", n=SMALL)
    bench.put_bars("BTCUSD", timeframe="1Hour", n=SMALL, hours=1)
    load(bench)
    assert bench.one("SELECT DISTINCT timeframe FROM bars")["timeframe"] == "4Hour", "the setting"
    bench.deliver(bench.archive({"BTCUSD_1Hour": network(BUY), "BTCUSD_1Day": network(BUY)}))
    load(bench)
    assert len(stored(bench, timeframe="1Hour")) == SMALL
    assert len(stored(bench, timeframe="4Hour")) == SMALL, "what was stored stays"


def test_a_model_gets_its_timeframe(bench: Bench) -> None:
    frame = bench.put_bars("BTCUSD", timeframe="1Hour", n=240, hours=1)
    hourly = bench.configured(base_timeframe="1Hour")
    hourly.load(["BTCUSD"])
    one = model_bars(hourly.platform, "BTCUSD", Timeframe.HOUR_1)
    assert len(one) == 240
    four = model_bars(hourly.platform, "BTCUSD", Timeframe.HOUR_4)
    assert four.timeframe is Timeframe.HOUR_4
    groups = frame.groupby(frame["ts"].dt.floor("4h"))
    assert four.close.tolist() == groups["close"].last().tolist()
    assert four.high.tolist() == groups["high"].max().tolist()
    with pytest.raises(
        Rejected, match="15Min bars cannot be made from them; set base_timeframe to a finer one"
    ):
        model_bars(hourly.platform, "BTCUSD", Timeframe.MIN_15)


def test_a_series_that_is_no_longer_loaded_does_not_hold_a_model_back(bench: Bench) -> None:
    old = bench.put_bars("BTCUSD", n=SMALL, end=END - timedelta(days=20), seed=9)
    bench.load(["BTCUSD"])
    assert model_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4).close.tolist() == old["close"].tolist()
    bench.put_bars("BTCUSD", timeframe="1Hour", n=1000, hours=1)
    bench.configured(base_timeframe="1Hour").load(["BTCUSD"])
    newest = model_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4)
    assert newest.ts[-1] + newest.timeframe.delta == np.datetime64(END.replace(tzinfo=None))
    frozen = model_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4, until=END - timedelta(days=20))
    assert frozen.close.tolist() == old["close"].tolist(), "what was evaluated then is evaluated again"
    later = model_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4, until=END + timedelta(days=9))
    assert later.digest() == newest.digest()


def test_bars_of_the_models_own_timeframe_come_first(bench: Bench) -> None:
    bench.put_bars("BTCUSD", timeframe="1Hour", n=400, hours=1)
    bench.configured(base_timeframe="1Hour").load(["BTCUSD"])
    own = bench.put_bars("BTCUSD", n=SMALL, seed=9)
    bench.load(["BTCUSD"])
    assert model_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4).close.tolist() == own["close"].tolist()


def test_the_session_setting_is_applied_before_resampling(bench: Bench) -> None:
    bench.put_bars("SPY", timeframe="1Hour", n=240, hours=1)
    hourly = bench.configured(base_timeframe="1Hour")
    hourly.load(["SPY"])
    every = model_bars(hourly.platform, "SPY", Timeframe.HOUR_1)
    regular = hourly.configured(session="regular")
    kept = model_bars(regular.platform, "SPY", Timeframe.HOUR_1)
    hours = pd.DatetimeIndex(kept.ts, tz="UTC").tz_convert("America/New_York").hour
    assert set(hours) == {10, 11, 12, 13, 14, 15}, "bars on the hour: that of 09:00 opens before the session"
    assert len(kept) == 6 * 10
    assert len(every) == 240
    two = model_bars(regular.platform, "SPY", Timeframe.HOUR_2)
    assert two.close.tolist() == in_timeframe(kept, Timeframe.HOUR_2, "all").close.tolist()


def test_bars_across_two_bins_are_left_out_and_said(bench: Bench, caplog: pytest.LogCaptureFixture) -> None:
    frame = bars_frame(n=40, hours=1)
    frame.loc[frame["ts"].dt.date == frame["ts"].iloc[20].date(), "ts"] += timedelta(minutes=30)
    bench.put_bars("BTCUSD", frame.drop_duplicates("ts"), timeframe="1Hour")
    hourly = bench.configured(base_timeframe="1Hour")
    hourly.load(["BTCUSD"])
    model_bars(hourly.platform, "BTCUSD", Timeframe.HOUR_4)
    assert "lie across the edge of two and are left out" in caplog.text


def test_no_bars_say_why(bench: Bench) -> None:
    with pytest.raises(Rejected, match="no bars of BTCUSD in the warehouse: materialize bars for it first"):
        model_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4)
    bench.put_bars("ETHUSD", n=SMALL)
    load(bench)
    with pytest.raises(Rejected, match=r"no bars of BTCUSD: no 4Hour bars of BTCUSD in .* nearest: ETHUSD"):
        model_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4)
    assert stored_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4) is None


def test_the_class_of_a_symbol_can_be_set(bench: Bench) -> None:
    bench.put_bars("BTCUSD", n=SMALL)
    load(bench)
    assert model_bars(bench.platform, "BTCUSD", Timeframe.HOUR_4).asset_class == "crypto"
    other = bench.configured(symbol_classes={"BTCUSD": "equity"})
    assert model_bars(other.platform, "BTCUSD", Timeframe.HOUR_4).asset_class == "equity"
