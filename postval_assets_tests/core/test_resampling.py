from __future__ import annotations

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.resampling import resample

NEW_YORK = ZoneInfo("America/New_York")
REAL_BARS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "bars"

Row = tuple[datetime, float, float, float, float, float]


# --- building and reading bars ------------------------------------------------------------------------------


def make_bars(
    opens: list[datetime],
    *,
    base: Timeframe = Timeframe.HOUR_1,
    asset_class: AssetClass = AssetClass.EQUITY,
    seed: int = 0,
) -> Bars:
    """Bars at these times with random prices and whole volumes (so that sums are exact)."""
    rng = np.random.default_rng(seed)
    n = len(opens)
    low = rng.uniform(90, 100, n)
    high = low + rng.uniform(1, 10, n)
    return Bars(
        symbol="XYZ",
        timeframe=base,
        asset_class=asset_class,
        ts=np.array([t.astimezone(UTC).replace(tzinfo=None) for t in opens], dtype="datetime64[us]"),
        open=rng.uniform(low, high),
        high=high,
        low=low,
        close=rng.uniform(low, high),
        volume=rng.integers(0, 1000, n).astype(np.float64),
    )


def local(day: str, clock: str) -> datetime:
    return datetime.combine(date.fromisoformat(day), time.fromisoformat(clock), tzinfo=NEW_YORK)


def hours(day: str, first: str, n: int, step: int = 60) -> list[datetime]:
    start = local(day, first).astimezone(UTC)
    return [start + timedelta(minutes=step * i) for i in range(n)]


def utc(text: str) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def clocks(bars: Bars) -> list[str]:
    """Labels as New York clock times."""
    return [t.astimezone(NEW_YORK).strftime("%H:%M") for t in moments(bars)]


def moments(bars: Bars) -> list[datetime]:
    return [t.replace(tzinfo=UTC) for t in bars.ts.tolist()]


def rows(bars: Bars) -> list[Row]:
    values = (bars.open, bars.high, bars.low, bars.close, bars.volume)
    return list(zip(moments(bars), *(v.tolist() for v in values), strict=True))


def assert_same(left: list[Row], right: list[Row]) -> None:
    assert [r[0] for r in left] == [r[0] for r in right]
    np.testing.assert_array_equal([r[1:5] for r in left], [r[1:5] for r in right])
    np.testing.assert_allclose([r[5] for r in left], [r[5] for r in right], rtol=1e-12)


# --- the rule once more, one bin at a time ------------------------------------------------------------------


def bins_of_day(
    day: date, opens: list[datetime], base: int, length: int
) -> Iterator[tuple[datetime, datetime]]:
    """The bins of one New York day as (start, end) in UTC; ``opens`` are the day's base bars."""
    midnight = datetime.combine(day, time(), tzinfo=NEW_YORK).astimezone(UTC)
    next_midnight = datetime.combine(day + timedelta(days=1), time(), tzinfo=NEW_YORK).astimezone(UTC)
    if length == 1440:
        yield midnight, next_midnight
        return
    regular_open = datetime.combine(day, time(9, 30), tzinfo=NEW_YORK).astimezone(UTC)
    anchor = opens[0]
    while anchor > regular_open:
        anchor -= timedelta(minutes=base)
    while anchor + timedelta(minutes=base) <= regular_open:
        anchor += timedelta(minutes=base)
    start = anchor
    while start > midnight:
        start -= timedelta(minutes=length)
    while start < next_midnight:
        end = start + timedelta(minutes=length)
        if end > midnight:
            yield max(start, midnight), min(end, next_midnight)
        start = end


def oracle(bars: Bars, timeframe: Timeframe, complete_until: datetime | None = None) -> tuple[list[Row], int]:
    base, length = timedelta(minutes=bars.timeframe.minutes), timedelta(minutes=timeframe.minutes)
    parts = rows(bars)
    known_until = max(parts[-1][0] + base, complete_until or parts[-1][0])
    zone = UTC if bars.asset_class is AssetClass.CRYPTO else NEW_YORK
    days: dict[date, list[Row]] = {}
    for part in parts:
        days.setdefault(part[0].astimezone(zone).date(), []).append(part)
    result, used = [], 0
    for day, of_day in days.items():
        if bars.asset_class is AssetClass.CRYPTO:
            first = datetime.combine(day, time(), tzinfo=UTC)
            spans = iter(
                [(first + i * length, first + (i + 1) * length) for i in range(timedelta(days=1) // length)]
            )
        else:
            spans = bins_of_day(day, [p[0] for p in of_day], bars.timeframe.minutes, timeframe.minutes)
        for start, end in spans:
            inside = [p for p in of_day if p[0] >= start and p[0] + base <= min(end, start + length)]
            used += len(inside)
            if inside and (end <= known_until or any(p[0] >= end for p in parts)):
                volume = sum(p[5] for p in inside)
                ends = (max(p[2] for p in inside), min(p[3] for p in inside), inside[-1][4], volume)
                result.append((start, inside[0][1], *ends))
    return result, len(parts) - used


# --- golden cases -------------------------------------------------------------------------------------------


def test_first_max_min_last_sum() -> None:
    ts = np.array(["2024-01-01T00", "2024-01-01T01", "2024-01-01T02"], dtype="datetime64[us]")
    bars = Bars(
        "BTCUSD",
        Timeframe.HOUR_1,
        AssetClass.CRYPTO,
        ts,
        open=np.array([10.0, 11.0, 12.0]),
        high=np.array([15.0, 19.0, 13.0]),
        low=np.array([9.0, 10.0, 11.0]),
        close=np.array([11.0, 12.0, 12.5]),
        volume=np.array([1.0, 2.0, 4.0]),
    )
    result = resample(bars, Timeframe.HOUR_2)
    assert rows(result.bars) == [(utc("2024-01-01"), 10.0, 19.0, 9.0, 12.0, 3.0)]
    assert (result.bars.symbol, result.bars.timeframe, result.bars.asset_class, result.n_straddling) == (
        "BTCUSD",
        Timeframe.HOUR_2,
        AssetClass.CRYPTO,
        0,
    )


def test_unknown_volume_of_one_part_is_unknown_volume_of_the_whole() -> None:
    bars = make_bars(
        [utc("2024-01-01") + timedelta(hours=h) for h in range(4)], asset_class=AssetClass.CRYPTO
    )
    bars.volume[1] = np.nan
    volume = resample(bars, Timeframe.HOUR_2).bars.volume
    assert math.isnan(volume[0])
    assert volume[1] == bars.volume[2] + bars.volume[3]


def test_crypto_is_aligned_to_utc_midnight_and_gaps_stay_gaps() -> None:
    opens = [utc("2024-01-01") + timedelta(hours=h) for h in (3, 4, 12, 15, 16, 17)]
    result = resample(make_bars(opens, asset_class=AssetClass.CRYPTO), Timeframe.HOUR_4)
    assert [t.hour for t in moments(result.bars)] == [0, 4, 12]  # 08:00 has no part, 16:00 is still forming
    day = resample(make_bars([*opens, utc("2024-01-02")], asset_class=AssetClass.CRYPTO), Timeframe.DAY_1)
    assert moments(day.bars) == [utc("2024-01-01")]


def test_regular_session_bars_on_the_half_hour_are_anchored_at_the_open() -> None:
    two_days = hours("2024-06-03", "09:30", 7) + hours("2024-06-04", "09:30", 7)
    assert clocks(resample(make_bars(two_days), Timeframe.HOUR_2).bars) == [
        *("09:30", "11:30", "13:30", "15:30"),
        *("09:30", "11:30", "13:30"),  # the last one would end at 17:30
    ]
    assert clocks(resample(make_bars(two_days), Timeframe.HOUR_4).bars) == ["09:30", "13:30", "09:30"]


def test_extended_hours_bars_on_the_hour_keep_the_open_inside_one_bin() -> None:
    result = resample(make_bars(hours("2024-06-03", "04:00", 16)), Timeframe.HOUR_4)
    assert clocks(result.bars) == ["01:00", "05:00", "09:00", "13:00"]  # 17:00 ends at 21:00: not there yet
    assert result.n_straddling == 0


def test_half_hour_bars_are_anchored_at_the_open_even_where_they_begin_on_the_hour() -> None:
    bars = make_bars(hours("2024-06-03", "04:00", 32, step=30), base=Timeframe.MIN_30)
    assert clocks(resample(bars, Timeframe.HOUR_1).bars)[:3] == ["03:30", "04:30", "05:30"]
    assert "09:30" in clocks(resample(bars, Timeframe.HOUR_4).bars)


def test_bins_end_at_local_midnight() -> None:
    around_the_clock = hours("2024-06-03", "00:00", 48)
    assert clocks(resample(make_bars(around_the_clock), Timeframe.HOUR_4).bars) == [
        *("00:00", "01:00", "05:00", "09:00", "13:00", "17:00", "21:00"),
        *("00:00", "01:00", "05:00", "09:00", "13:00", "17:00", "21:00"),
    ]


def test_a_day_of_an_equity_is_a_new_york_day_in_winter_and_summer() -> None:
    days = ["2024-03-07", "2024-03-08", "2024-03-11", "2024-03-12"]  # clocks change on the 10th
    opens = [t for day in days for t in hours(day, "04:00", 16)]
    result = resample(make_bars(opens), Timeframe.DAY_1).bars
    assert [t.isoformat() for t in moments(result)] == [
        "2024-03-07T05:00:00+00:00",
        "2024-03-08T05:00:00+00:00",
        "2024-03-11T04:00:00+00:00",
    ]


def test_the_open_moves_with_the_clocks() -> None:
    opens = [t for day in ("2024-11-01", "2024-11-04") for t in hours(day, "09:30", 7)]
    labels = moments(resample(make_bars(opens), Timeframe.HOUR_4).bars)
    assert [t.strftime("%d %H:%M") for t in labels] == ["01 13:30", "01 17:30", "04 14:30"]


@pytest.mark.parametrize(("sunday", "n_hours", "n_left_out"), [("2024-03-10", 23, 0), ("2024-11-03", 25, 1)])
def test_a_day_on_which_the_clocks_change(sunday: str, n_hours: int, n_left_out: int) -> None:
    start = local(sunday, "00:00").astimezone(UTC)
    bars = make_bars([start + timedelta(hours=h) for h in range(n_hours + 1)])  # and the next midnight's bar
    day = resample(bars, Timeframe.DAY_1)
    assert moments(day.bars) == [start]
    assert day.n_straddling == n_left_out  # the 25th hour is not known 24 hours after the label
    assert day.bars.volume[0] == bars.volume[: n_hours - n_left_out].sum()
    four_hours = resample(bars, Timeframe.HOUR_4)
    assert four_hours.n_straddling == 0
    assert "09:00" in clocks(four_hours.bars)
    assert clocks(four_hours.bars)[-1] == "00:00"  # of the next day: one hour long, complete
    assert four_hours.bars.volume.sum() == bars.volume.sum()


def test_the_bin_that_is_still_forming_is_not_delivered() -> None:
    opens = hours("2024-06-03", "09:30", 7)
    for n, expected in [(1, 0), (2, 1), (3, 1), (4, 2), (6, 3), (7, 3)]:
        assert len(resample(make_bars(opens[:n]), Timeframe.HOUR_2).bars) == expected
    assert len(resample(make_bars([*opens, *hours("2024-06-04", "09:30", 1)]), Timeframe.HOUR_2).bars) == 4


def test_the_caller_may_know_that_nothing_more_will_come() -> None:
    bars = make_bars(hours("2024-06-03", "09:30", 7))
    for clock, n in [("17:29", 3), ("17:30", 4)]:
        until = np.datetime64(local("2024-06-03", clock).astimezone(UTC).replace(tzinfo=None))
        assert len(resample(bars, Timeframe.HOUR_2, complete_until=until).bars) == n
    early = np.datetime64("2020-01-01", "s")  # knows less than the bars themselves: changes nothing
    assert len(resample(bars, Timeframe.HOUR_2, complete_until=early).bars) == 3


def test_bars_that_reach_over_an_edge_are_in_neither_bin() -> None:
    on_grid, off_grid = hours("2024-06-03", "09:30", 7), hours("2024-06-03", "10:00", 6)
    opens = sorted(on_grid + off_grid)
    bars = make_bars(opens)
    result = resample(bars, Timeframe.HOUR_2)
    # 11:00-12:00, 13:00-14:00 and 15:00-16:00 reach over 11:30, 13:30 and 15:30
    assert result.n_straddling == 3
    left_out = [opens.index(t) for t in hours("2024-06-03", "11:00", 3, step=120)]
    kept = np.delete(np.arange(len(opens)), left_out)
    first_bin = [i for i in kept if opens[i] < on_grid[2]]
    assert result.bars.volume[0] == bars.volume[first_bin].sum()
    assert result.bars.high[0] == bars.high[first_bin].max()
    assert result.bars.close[0] == bars.close[first_bin[-1]]


def test_bars_off_the_crypto_grid_are_left_out() -> None:
    opens = [utc("2024-01-01T00:30:00") + timedelta(hours=h) for h in range(4)]
    result = resample(make_bars(opens, asset_class=AssetClass.CRYPTO), Timeframe.HOUR_2)
    assert (len(result.bars), result.n_straddling) == (2, 2)


def test_the_same_timeframe_is_the_same_bars() -> None:
    bars = make_bars(hours("2024-06-03", "09:30", 7))
    result = resample(bars, Timeframe.HOUR_1)
    assert result.bars is bars
    assert result.n_straddling == 0


@pytest.mark.parametrize("asset_class", list(AssetClass))
def test_nothing_comes_of_nothing(asset_class: AssetClass) -> None:
    none = resample(make_bars([], asset_class=asset_class), Timeframe.HOUR_4)
    assert (len(none.bars), none.bars.timeframe, none.n_straddling) == (0, Timeframe.HOUR_4, 0)
    forming = resample(make_bars([utc("2024-01-01")], asset_class=asset_class), Timeframe.HOUR_4)
    assert (len(forming.bars), forming.bars.timeframe) == (0, Timeframe.HOUR_4)


@pytest.mark.parametrize("timeframe", [Timeframe.MIN_15, Timeframe.MIN_30])
def test_shorter_bars_are_refused(timeframe: Timeframe) -> None:
    with pytest.raises(Rejected, match=rf"bars of XYZ are 1Hour; {timeframe} bars cannot be made from them"):
        resample(make_bars(hours("2024-06-03", "09:30", 7)), timeframe)


# --- invariants ---------------------------------------------------------------------------------------------

PAIRS = [(b, t) for b in Timeframe for t in Timeframe if t.minutes > b.minutes]
# Around both changes of the clocks, and an ordinary week
FIRST_DAYS = [date(2024, 3, 8), date(2024, 11, 1), date(2024, 6, 3)]


@st.composite
def series(draw: st.DrawFn) -> tuple[Bars, Timeframe]:
    """Bars over a few days: any grid, changing between and within days, any gaps, day or night."""
    base, timeframe = draw(st.sampled_from(PAIRS))
    asset_class = draw(st.sampled_from(list(AssetClass)))
    midnight = datetime.combine(draw(st.sampled_from(FIRST_DAYS)), time(), tzinfo=NEW_YORK).astimezone(UTC)
    step = min(base.minutes, draw(st.sampled_from([15, 30, 60])))
    slots = draw(st.sets(st.integers(0, 4 * 1440 // step), min_size=1, max_size=60))
    opens = [midnight + timedelta(minutes=step * slot) for slot in sorted(slots)]
    return make_bars(opens, base=base, asset_class=asset_class, seed=draw(st.integers(0, 9))), timeframe


@given(series(), st.none() | st.integers(0, 3000))
@settings(max_examples=300)
def test_it_is_what_one_bin_at_a_time_gives(case: tuple[Bars, Timeframe], later: int | None) -> None:
    bars, timeframe = case
    until = None if later is None else moments(bars)[-1] + timedelta(minutes=later)
    naive = None if until is None else np.datetime64(until.replace(tzinfo=None))
    result = resample(bars, timeframe, complete_until=naive)
    expected, n_straddling = oracle(bars, timeframe, until)
    assert rows(result.bars) == expected
    assert result.n_straddling == n_straddling


@given(series(), st.integers(1, 60))
@settings(max_examples=300)
def test_bars_once_delivered_never_change(case: tuple[Bars, Timeframe], n_known: int) -> None:
    bars, timeframe = case
    now, later = resample(bars.slice(0, n_known), timeframe), resample(bars, timeframe)
    assert rows(now.bars) == rows(later.bars)[: len(now.bars)]
    assert now.n_straddling <= later.n_straddling


@given(series())
@settings(max_examples=300)
def test_every_bar_is_known_when_its_time_is_over(case: tuple[Bars, Timeframe]) -> None:
    """A bar's values at ts + timeframe are those made of base bars that have closed by then."""
    bars, timeframe = case
    result = resample(bars, timeframe).bars
    for index, ts in enumerate(result.ts):
        closed = int(np.searchsorted(bars.ts + bars.timeframe.delta, ts + timeframe.delta, side="right"))
        known = resample(
            bars.slice(0, closed), timeframe, complete_until=bars.ts[-1] + 2 * timeframe.delta
        ).bars
        assert rows(known)[index] == rows(result)[index]


@given(series())
@settings(max_examples=300)
def test_nothing_is_lost_and_nothing_is_counted_twice(case: tuple[Bars, Timeframe]) -> None:
    bars, timeframe = case
    everything = resample(bars, timeframe, complete_until=bars.ts[-1] + 2 * Timeframe.DAY_1.delta)
    ones = Bars(**{c: getattr(bars, c) for c in COLUMNS[:-1]}, **_identity(bars), volume=np.ones(len(bars)))
    counted = resample(ones, timeframe, complete_until=bars.ts[-1] + 2 * Timeframe.DAY_1.delta)
    assert counted.bars.volume.sum() + counted.n_straddling == len(bars)
    longer = everything.bars
    assert np.all(longer.low <= np.minimum(longer.open, longer.close))
    assert np.all(longer.high >= np.maximum(longer.open, longer.close))
    assert np.isin(longer.open, bars.open).all()
    assert np.isin(longer.close, bars.close).all()


def _identity(bars: Bars) -> dict[str, object]:
    return {"symbol": bars.symbol, "timeframe": bars.timeframe, "asset_class": bars.asset_class}


# --- real bars ----------------------------------------------------------------------------------------------

real = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not REAL_BARS.exists(), reason="real data is not here"),
]


def real_bars(symbol: str, asset_class: AssetClass = AssetClass.EQUITY) -> Bars:
    frame = pd.read_parquet(REAL_BARS / f"{symbol}_1Hour.parquet")
    return Bars.from_frame(frame, symbol=symbol, timeframe=Timeframe.HOUR_1, asset_class=asset_class)


class TestRealBars:
    pytestmark = real

    @pytest.mark.parametrize("timeframe", [Timeframe.HOUR_2, Timeframe.HOUR_4, Timeframe.DAY_1])
    @pytest.mark.parametrize("symbol", ["SPY", "MSFT", "COST", "AAPL", "BTCUSD"])
    def test_it_is_what_one_bin_at_a_time_gives(self, symbol: str, timeframe: Timeframe) -> None:
        asset_class = AssetClass.CRYPTO if symbol == "BTCUSD" else AssetClass.EQUITY
        bars = real_bars(symbol, asset_class)
        bars = bars.slice(len(bars) - 2500, len(bars))  # most of a year: both changes of the clocks
        result = resample(bars, timeframe)
        expected, n_straddling = oracle(bars, timeframe)
        assert_same(rows(result.bars), expected)
        assert result.n_straddling == n_straddling

    def test_days_of_spy_are_those_of_pandas(self) -> None:
        bars = real_bars("SPY")
        result = resample(bars, Timeframe.DAY_1).bars
        frame = bars.frame()
        by_date = frame.groupby(frame["ts"].dt.tz_convert("America/New_York").dt.date)
        expected = by_date.agg(
            {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
        )
        assert len(result) == len(expected) - 1  # the last day has not reached midnight
        for name in ("open", "high", "low", "close"):
            np.testing.assert_array_equal(getattr(result, name), expected[name].to_numpy()[:-1])
        np.testing.assert_allclose(result.volume, expected["volume"].to_numpy()[:-1])

    def test_bitcoin_is_as_pandas_resamples_it(self) -> None:
        bars = real_bars("BTCUSD", AssetClass.CRYPTO)
        result = resample(bars, Timeframe.HOUR_4).bars
        rules = {"open": "first", "high": "max", "low": "min", "close": "last", "volume": "sum"}
        expected = bars.frame().set_index("ts").resample("4h").agg(rules).dropna()
        np.testing.assert_array_equal(result.close, expected["close"].to_numpy()[: len(result)])
        assert len(expected) - len(result) == 1  # the last bar opens at 01:00

    def test_sessions_on_the_half_hour_make_four_two_hour_bars(self) -> None:
        result = resample(real_bars("MSFT"), Timeframe.HOUR_2)
        assert result.n_straddling == 0
        assert set(clocks(result.bars)) == {"09:30", "11:30", "13:30", "15:30"}

    def test_the_splice_of_two_grids_leaves_out_what_reaches_over_an_edge(self) -> None:
        bars = real_bars("AAPL")
        assert resample(bars, Timeframe.HOUR_2).n_straddling == 3  # 11:00, 13:00, 15:00 on 2026-02-20
        assert resample(bars, Timeframe.HOUR_4).n_straddling == 1  # 13:00
        assert resample(bars, Timeframe.DAY_1).n_straddling == 0
