"""Plans, as_of, blocks and training overlap, against a plain implementation that looks at one bar at a time."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.bars import Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.folds import (
    BACKTEST,
    PLANS,
    Block,
    Plan,
    TrainingWindow,
    cut,
    cut_interval,
    newest_close,
    overlaps,
    parse_fold_key,
    plan_named,
    to_datetime,
)
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets_tests.core.plain_folds import plain_cut

T0 = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
US = timedelta(microseconds=1)
DAYS_20 = Plan("20d", 20, 4)


def bars_at(opens: Sequence[datetime], timeframe: Timeframe = Timeframe.HOUR_1) -> Bars:
    ts = np.array([o.replace(tzinfo=None) for o in opens], dtype="datetime64[us]")
    price = 100.0 + np.arange(len(ts), dtype=np.float64) % 7
    volume = np.full(len(ts), 1000.0)
    return Bars("BTCUSD", timeframe, AssetClass.CRYPTO, ts, price, price, price, price, volume)


def hourly(n: int, start: datetime = T0) -> Bars:
    return bars_at([start + i * HOUR for i in range(n)])


# --- blocks -------------------------------------------------------------------------------------------------


@st.composite
def series(draw: st.DrawFn) -> tuple[list[datetime], Timeframe]:
    """Opens of up to forty days of bars, with gaps."""
    timeframe = draw(st.sampled_from([Timeframe.MIN_30, Timeframe.HOUR_1, Timeframe.HOUR_4]))
    n = draw(st.integers(0, 40 * 1440 // timeframe.minutes))
    rng = np.random.default_rng(draw(st.integers(0, 2**20)))
    kept = rng.random(n) >= draw(st.sampled_from([0.0, 0.1, 0.7]))
    return [T0 + int(i) * timedelta(minutes=timeframe.minutes) for i in np.flatnonzero(kept)], timeframe


MOMENTS = st.integers(0, 45 * 48).map(lambda i: T0 + i * timedelta(minutes=30))


@settings(max_examples=150, deadline=None)
@given(
    series(),
    st.builds(Plan, st.just("p"), st.integers(1, 30), st.integers(1, 8)),
    MOMENTS,
    st.sampled_from([timedelta(), US, -US, timedelta(minutes=7)]),
    st.integers(0, 400),
    st.sets(st.integers(0, 1900), max_size=2),
    st.tuples(st.none() | MOMENTS, st.none() | MOMENTS),
)
def test_blocks_are_those_of_the_plain_implementation(made, plan, moment, off, needed, bad, training):
    opens, timeframe = made
    if None not in training and training[0] > training[1]:
        training = training[::-1]
    as_of = moment + off
    bars = bars_at(opens, timeframe)
    invalid = frozenset(i for i in bad if i < len(opens))
    low = bars.low.copy()
    low[list(invalid)] = 0.0
    bars = replace(bars, low=low)
    length = timedelta(minutes=timeframe.minutes)
    expected, bars_per_year = plain_cut(
        opens, length, plan.days, plan.n_folds, as_of, needed, invalid, training
    )

    found = cut(bars, plan, as_of, needed_before=needed)
    assert found.bars_per_year == pytest.approx(bars_per_year, rel=1e-12)
    labels = overlaps(bars, found.blocks, TrainingWindow(*training))
    assert len(found.blocks) == len(expected)
    for block, label, plain in zip(found.blocks, labels, expected, strict=True):
        assert block.fold == plain.fold
        assert opens[block.start : block.stop] == plain.opens
        assert block.n_bars == len(plain.opens)
        if plain.opens:
            assert block.n_before == plain.n_before
        assert block.problem == plain.problem
        assert (block.reason is None) == (block.problem is None)
        assert label == plain.label


@settings(max_examples=100, deadline=None)
@given(series(), st.builds(Plan, st.just("p"), st.integers(1, 30), st.integers(1, 8)), MOMENTS)
def test_blocks_cover_the_window_and_never_reach_after_as_of(made, plan, as_of):
    opens, timeframe = made
    bars = bars_at(opens, timeframe)
    blocks = cut(bars, plan, as_of, needed_before=0).blocks
    for before, after in itertools.pairwise(blocks):
        assert before.stop == after.start, "contiguous"
        assert before.n_bars in (after.n_bars, after.n_bars + 1), "the first ones are one longer"
    assert blocks[0].n_bars - blocks[-1].n_bars <= 1
    start = as_of - timedelta(days=plan.days)
    length = timedelta(minutes=timeframe.minutes)
    held = opens[blocks[0].start : blocks[-1].stop]
    assert held == [o for o in opens if start <= o and o + length <= as_of]


@settings(max_examples=50, deadline=None)
@given(series(), MOMENTS, st.integers(1, 300))
def test_later_bars_do_not_exist(made, as_of, n_later):
    opens, timeframe = made
    length = timedelta(minutes=timeframe.minutes)
    known = [o for o in opens if o + length <= as_of]
    later = [as_of + US + i * length for i in range(n_later)]
    plan = Plan("p", 10, 3)
    assert cut(bars_at(known, timeframe), plan, as_of, needed_before=30) == cut(
        bars_at(known + later, timeframe), plan, as_of, needed_before=30
    )


def test_the_edges_of_the_window_belong_to_it() -> None:
    as_of = T0 + timedelta(days=30)
    inside = [as_of - timedelta(days=20), as_of - HOUR]
    outside = [as_of - timedelta(days=20) - US, as_of - HOUR + US]
    opens = sorted([T0, *inside, *outside])
    blocks = cut(bars_at(opens), Plan("p", 20, 1), as_of, needed_before=0).blocks
    assert opens[blocks[0].start : blocks[0].stop] == inside


def test_the_first_blocks_are_one_longer() -> None:
    plan = Plan("p", 100, 5)
    blocks = cut(hourly(603), plan, T0 + 603 * HOUR, needed_before=0).blocks
    assert [b.n_bars for b in blocks] == [121, 121, 121, 120, 120]
    assert [b.start for b in blocks] == [0, 121, 242, 363, 483]


@pytest.mark.parametrize(
    ("n", "said"), [(50, None), (49, "49 bars in the block, 50 needed")], ids=["enough", "too few"]
)
def test_a_block_needs_50_bars(n: int, said: str | None) -> None:
    as_of = T0 + timedelta(days=30)
    opens = [as_of - timedelta(days=30) + i * HOUR for i in range(200)]
    opens += [as_of - timedelta(days=20) + i * HOUR for i in range(n)]
    (block,) = cut(bars_at(opens), Plan("p", 20, 1), as_of, needed_before=200).blocks
    assert block.reason == said
    assert block.problem == (None if said is None else "INSUFFICIENT_DATA")


@pytest.mark.parametrize(
    ("n_before", "said"),
    [(239, None), (238, "238 bars before the block, 239 needed (window plus look-back)")],
)
def test_observations_need_their_bars_before_the_block(n_before: int, said: str | None) -> None:
    as_of = T0 + timedelta(days=60)
    start = as_of - timedelta(days=20)
    opens = [start - (n_before - i) * HOUR for i in range(n_before)]
    opens += [start + i * HOUR for i in range(20 * 24)]
    blocks = cut(bars_at(opens), DAYS_20, as_of, needed_before=239).blocks
    assert [b.reason for b in blocks] == [said, None, None, None]
    assert blocks[0].n_before == n_before


def test_history_may_start_a_twentieth_of_the_plan_late() -> None:
    as_of = T0 + timedelta(days=400)
    window_start = as_of - timedelta(days=180)
    latest = window_start + timedelta(days=9)

    def blocks_from(first: datetime) -> tuple[Block, ...]:
        n = (as_of - first) // HOUR
        return cut(hourly(n, first), PLANS["180d"], as_of, needed_before=0).blocks

    assert [b.problem for b in blocks_from(latest)] == [None] * 5
    late = blocks_from(latest + HOUR)
    assert [b.problem for b in late] == ["INSUFFICIENT_DATA"] * 5
    assert late[0].reason == (
        "history starts 2024-08-17T01:00:00+00:00, plan 180d needs it from 2024-08-08T00:00:00+00:00 "
        "(at most 5% of the plan later)"
    )
    assert sum(b.n_bars for b in late) == (as_of - latest) // HOUR - 1, "the bars that are there are counted"


def test_a_gap_inside_the_history_is_no_late_start() -> None:
    as_of = T0 + timedelta(days=60)
    opens = [T0 + i * HOUR for i in range(100)]
    opens += [as_of - timedelta(days=15) + i * HOUR for i in range(15 * 24)]
    assert [b.problem for b in cut(bars_at(opens), DAYS_20, as_of, needed_before=100).blocks] == [None] * 4


def test_a_window_without_bars() -> None:
    for bars in (hourly(0), hourly(100), hourly(100, T0 + timedelta(days=90))):
        found = cut(bars, DAYS_20, T0 + timedelta(days=60), needed_before=0)
        assert found.bars_per_year == 0.0
        assert [(b.n_bars, b.problem) for b in found.blocks] == [(0, "INSUFFICIENT_DATA")] * 4
        assert found.blocks[0].reason == "no bars in the 20 days before 2024-03-01T00:00:00+00:00"
        assert overlaps(bars, found.blocks, TrainingWindow(T0, T0)) == ("UNKNOWN",) * 4


@pytest.mark.parametrize("column", ["open", "high", "low", "close"])
@pytest.mark.parametrize("value", [0.0, -1.0, math.nan, math.inf])
def test_bars_without_a_price_break_the_blocks_that_see_them(column: str, value: float) -> None:
    bars = hourly(21 * 24)
    blocks = cut(bars, DAYS_20, T0 + timedelta(days=21), needed_before=24).blocks
    assert [b.problem for b in blocks] == [None] * 4
    # The last bar of the second block is also one that the third one looks back to.
    values = getattr(bars, column).copy()
    values[blocks[1].stop - 1] = value
    found = cut(replace(bars, **{column: values}), DAYS_20, T0 + timedelta(days=21), needed_before=24).blocks
    assert [b.problem for b in found] == [None, "INVALID_BARS", "INVALID_BARS", None]
    assert found[1].reason == (
        f"{column} of the bar at 2024-01-11T23:00:00+00:00 is {value:g}; prices must be finite and positive "
        "(1 such bars)"
    )
    assert [(b.start, b.stop) for b in found] == [(b.start, b.stop) for b in blocks]


def test_a_bad_bar_before_the_look_back_does_not_matter() -> None:
    bars = hourly(30 * 24)
    as_of = T0 + timedelta(days=30)
    start = 10 * 24
    for position, problem in ((start - 25, None), (start - 24, "INVALID_BARS")):
        low = bars.low.copy()
        low[position] = 0.0
        found = cut(replace(bars, low=low), DAYS_20, as_of, needed_before=24).blocks
        assert found[0].problem == problem


def test_unknown_volume_is_no_invalid_bar() -> None:
    bars = replace(hourly(21 * 24), volume=np.full(21 * 24, np.nan))
    found = cut(bars, DAYS_20, T0 + timedelta(days=21), needed_before=24)
    assert [b.problem for b in found.blocks] == [None] * 4


def test_bars_per_year_are_measured() -> None:
    as_of = T0 + timedelta(days=200)
    weekdays = [o for i in range(200 * 24) if (o := T0 + i * HOUR).weekday() < 5 and 14 <= o.hour < 21]
    found = cut(bars_at(weekdays), PLANS["180d"], as_of, needed_before=0)
    n = sum(as_of - timedelta(days=180) <= o for o in weekdays)
    assert found.bars_per_year == pytest.approx(n / 180 * 365.25)
    assert 1800 < found.bars_per_year < 1850, "7 hours on 261 days"


# --- training -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("first", "last", "label"),
    [
        (0, 9, "BEFORE_TRAIN"),
        (0, 10, "OVERLAP"),
        (9, 9, "BEFORE_TRAIN"),
        (9, 20, "OVERLAP"),
        (10, 10, "IN_TRAIN"),
        (10, 20, "IN_TRAIN"),
        (20, 20, "IN_TRAIN"),
        (10, 21, "OVERLAP"),
        (20, 30, "OVERLAP"),
        (21, 30, "OUT_OF_SAMPLE"),
        (0, 30, "OVERLAP"),
    ],
)
def test_overlap_at_the_edges_of_training(first: int, last: int, label: str) -> None:
    """Training holds the bars that open at hour 10 .. 20, both included."""
    bars = hourly(40)
    window = TrainingWindow(T0 + 10 * HOUR, T0 + 20 * HOUR)
    block = Block(1, first, last + 1, first, None, None)
    assert overlaps(bars, [block], window) == (label,)
    assert window.overlap(bars.ts[first], bars.ts[last]) == label


@pytest.mark.parametrize(
    ("start", "end", "first", "last", "label"),
    [
        (None, None, 0, 30, "UNKNOWN"),
        (None, 20, 21, 30, "OUT_OF_SAMPLE"),
        (None, 20, 20, 30, "OVERLAP"),
        (None, 20, 5, 20, "IN_TRAIN"),
        (10, None, 0, 9, "BEFORE_TRAIN"),
        (10, None, 0, 10, "OVERLAP"),
        (10, None, 10, 30, "UNKNOWN"),
        (10, None, 25, 30, "UNKNOWN"),
    ],
)
def test_what_one_edge_of_training_already_says(
    start: int | None, end: int | None, first: int, last: int, label: str
) -> None:
    bars = hourly(40)
    window = TrainingWindow(*(None if hour is None else T0 + hour * HOUR for hour in (start, end)))
    assert window.overlap(bars.ts[first], bars.ts[last]) == label


def test_training_times_of_another_zone_are_the_same_instants() -> None:
    from zoneinfo import ZoneInfo

    new_york = (T0 + 20 * HOUR).astimezone(ZoneInfo("America/New_York"))
    bars = hourly(40)
    assert TrainingWindow(T0, new_york).overlap(bars.ts[20], bars.ts[30]) == "OVERLAP"
    assert TrainingWindow(T0, new_york).overlap(bars.ts[21], bars.ts[30]) == "OUT_OF_SAMPLE"


# --- names and as_of ----------------------------------------------------------------------------------------


def test_the_plans_of_the_contract() -> None:
    assert [(p.name, p.days, p.n_folds) for p in PLANS.values()] == [("180d", 180, 5), ("365d", 365, 10)]
    assert (BACKTEST.days, BACKTEST.n_folds) == (30, 1)
    assert PLANS["180d"].fold_keys() == ("180d-1", "180d-2", "180d-3", "180d-4", "180d-5")
    assert PLANS["365d"].fold_keys() == (*(f"365d-0{n}" for n in range(1, 10)), "365d-10")


@pytest.mark.parametrize("plan", PLANS.values(), ids=PLANS)
def test_fold_keys_are_read_back(plan: Plan) -> None:
    assert [parse_fold_key(key) for key in plan.fold_keys()] == [(plan, n + 1) for n in range(plan.n_folds)]
    assert plan_named(plan.name) is plan


@pytest.mark.parametrize(
    "key", ["", "180d", "180d-0", "180d-6", "180d-01", "365d-1", "365d-11", "30d-1", "180d-1|A"]
)
def test_unknown_folds_are_refused(key: str) -> None:
    with pytest.raises(Rejected, match="expected a key such as 180d-1, 365d-01"):
        parse_fold_key(key)


def test_unknown_plans_are_refused() -> None:
    with pytest.raises(Rejected, match="plan '90d' is unknown: expected one of 180d, 365d"):
        plan_named("90d")


def test_as_of_is_the_close_of_the_newest_complete_bar() -> None:
    bars = hourly(10)
    assert newest_close(bars, T0 + timedelta(days=9)) == T0 + 10 * HOUR
    assert newest_close(bars, T0 + 4 * HOUR) == T0 + 4 * HOUR
    assert newest_close(bars, T0 + 4 * HOUR - US) == T0 + 3 * HOUR
    assert newest_close(bars, T0 + HOUR) == T0 + HOUR


def test_as_of_needs_a_complete_bar() -> None:
    with pytest.raises(
        Rejected, match=r"BTCUSD has no complete 1Hour bar by 2024-01-01T00:59:59.*first one opens"
    ):
        newest_close(hourly(10), T0 + HOUR - timedelta(seconds=1))
    with pytest.raises(Rejected, match="there are none"):
        newest_close(hourly(0), T0)


# --- an interval --------------------------------------------------------------------------------------------


@given(
    made=series(),
    start=st.integers(-3, 2_000),
    length=st.integers(0, 900),
    needed=st.sampled_from([0, 10, 200]),
)
def test_an_interval_is_one_block_of_the_bars_that_lie_in_it(made, start, length, needed) -> None:
    opens, timeframe = made
    first, last = T0 + start * HOUR / 2, T0 + (start + length) * HOUR / 2
    bars = bars_at(opens, timeframe)
    found = cut_interval(bars, "watch", first, last, needed_before=needed)
    inside = [
        i for i, o in enumerate(opens) if first <= o and o + timedelta(minutes=timeframe.minutes) <= last
    ]
    [block] = found.blocks
    assert list(range(block.start, block.stop)) == inside
    assert block.n_before == block.start
    is_short = len(inside) < 50 or block.start < needed
    assert (block.problem is not None) == is_short
    days = max((last - first) / timedelta(days=1), 1.0)
    assert found.bars_per_year == pytest.approx(len(inside) / days * 365.25)


def test_instants_come_back_aware() -> None:
    assert to_datetime(hourly(3).ts[2]) == T0 + 2 * HOUR
    assert to_datetime(hourly(3).ts[2]).tzinfo is UTC
