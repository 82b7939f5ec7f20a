from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass, Timeframe


def make_bars(n: int = 3) -> Bars:
    base = np.arange(n, dtype=np.float64)
    return Bars(
        symbol="AAPL",
        timeframe=Timeframe.HOUR_1,
        asset_class=AssetClass.EQUITY,
        ts=np.datetime64("2024-01-02T14:00", "us") + np.arange(n) * np.timedelta64(1, "h"),
        open=base + 10,
        high=base + 12,
        low=base + 9,
        close=base + 11,
        volume=base * 100,
    )


def from_frame(frame: pd.DataFrame) -> Bars:
    return Bars.from_frame(frame, symbol="AAPL", timeframe=Timeframe.HOUR_1, asset_class=AssetClass.EQUITY)


def test_a_frame_of_the_bars_makes_the_same_bars() -> None:
    bars = make_bars()
    frame = bars.frame()
    assert tuple(frame.columns) == COLUMNS
    assert str(frame["ts"].dtype) == "datetime64[us, UTC]"
    assert from_frame(frame).digest() == bars.digest()
    assert len(from_frame(frame.head(0))) == 0


@given(st.permutations(range(5)), st.lists(st.integers(0, 4), max_size=4))
def test_any_order_makes_the_same_bars_and_later_rows_replace_earlier_ones(
    order: list[int], again: list[int]
) -> None:
    bars = make_bars(5)
    frame = bars.frame()
    stale = frame.iloc[again].assign(close=-1.0)
    assert from_frame(pd.concat([stale, frame.iloc[order]])).digest() == bars.digest()
    newest = from_frame(pd.concat([frame.iloc[order], stale]))
    assert (newest.close == -1.0).tolist() == [i in again for i in range(5)]


@pytest.mark.parametrize(
    "convert", [lambda t: t.dt.tz_localize(None), lambda t: t.dt.tz_convert("Asia/Tokyo"), str]
)
def test_naive_times_are_utc_and_others_become_it(convert: object) -> None:
    frame = make_bars().frame()
    ts = frame["ts"].map(str) if convert is str else convert(frame["ts"])
    assert from_frame(frame.assign(ts=ts)).digest() == make_bars().digest()


def test_unknown_volume_stays_unknown() -> None:
    frame = make_bars().frame().assign(volume=pd.array([1, None, 3], dtype="Int64"))
    np.testing.assert_array_equal(from_frame(frame).volume, [1.0, np.nan, 3.0])


@pytest.mark.parametrize("column", COLUMNS)
def test_a_missing_column_is_named(column: str) -> None:
    with pytest.raises(Rejected, match=rf"bars of AAPL: column\(s\) {column} missing"):
        from_frame(make_bars().frame().drop(columns=column))


@pytest.mark.parametrize("column", COLUMNS[1:])
def test_what_is_no_number_is_refused(column: str) -> None:
    frame = make_bars().frame().astype({column: object})
    frame[column] = ["x", "y", "z"]
    with pytest.raises(Rejected, match="bars of AAPL: a column cannot be read"):
        from_frame(frame)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            {"ts": np.array(["2024-01-01"] * 3, dtype="datetime64[ns]")},
            r"datetime64\[us\] in UTC, not datetime64\[ns\]",
        ),
        ({"ts": np.array(["2024-01-01"] * 3, dtype="datetime64[us]")}, "strictly increasing"),
        ({"ts": make_bars().ts[::-1]}, "strictly increasing"),
        ({"high": np.ones(2)}, "high must be 3 float64"),
        ({"close": np.ones(3, dtype=np.float32)}, "close must be 3 float64"),
        ({"volume": np.ones((3, 1))}, "volume must be 3 float64"),
    ],
)
def test_arrays_that_are_no_price_series_are_refused(change: dict[str, np.ndarray], said: str) -> None:
    with pytest.raises(Rejected, match=said):
        replace(make_bars(), **change)


def test_a_slice_is_a_view() -> None:
    bars = make_bars(5)
    part = bars.slice(1, 3)
    assert len(part) == 2
    assert part.ts.tolist() == bars.ts[1:3].tolist()
    for name in COLUMNS:
        assert np.shares_memory(getattr(part, name), getattr(bars, name))
    assert len(bars.slice(3, 3)) == 0


@pytest.mark.parametrize("column", COLUMNS)
def test_the_digest_sees_every_value(column: str) -> None:
    bars = make_bars()
    changed = getattr(bars, column).copy()
    changed[-1] += 1
    assert replace(bars, **{column: changed}).digest() != bars.digest()


def test_the_digest_sees_what_the_bars_are_of() -> None:
    bars = make_bars()
    digests = {
        bars.digest(),
        replace(bars, symbol="MSFT").digest(),
        replace(bars, timeframe=Timeframe.HOUR_2).digest(),
        replace(bars, asset_class=AssetClass.CRYPTO).digest(),
        bars.slice(0, 2).digest(),
    }
    assert len(digests) == 5
    strided = replace(bars, open=np.repeat(bars.open, 2)[::2])
    assert strided.digest() == make_bars().digest() == bars.digest()
