"""Ranges of opens: what is missing is exactly what nobody asked for, held against sets of minutes."""

from __future__ import annotations

import itertools
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.coverage import MINUTE, TimeRange, missing, union, whole_minute, with_overlap

T0 = datetime(2025, 1, 1, tzinfo=UTC)
WEEK = timedelta(days=7)


def at(minute: int) -> datetime:
    return T0 + minute * MINUTE


def span(start: int, end: int) -> TimeRange:
    return TimeRange(at(start), at(end))


ranges = st.tuples(st.integers(0, 60), st.integers(0, 20)).map(lambda t: span(t[0], t[0] + t[1]))


def minutes(*given_ranges: TimeRange) -> set[datetime]:
    """Every minute that is in one of them."""
    return {r.start + n * MINUTE for r in given_ranges for n in range(int((r.end - r.start) / MINUTE) + 1)}


@given(st.lists(ranges, max_size=8))
def test_a_union_holds_the_same_minutes_in_ranges_that_do_not_touch(some: list[TimeRange]) -> None:
    joined = union(some)
    assert minutes(*joined) == minutes(*some)
    assert list(joined) == sorted(joined)
    assert all(a.end + MINUTE < b.start for a, b in itertools.pairwise(joined))


@given(ranges, st.lists(ranges, max_size=8))
def test_what_is_missing_is_what_is_wanted_and_not_covered(
    wanted: TimeRange, covered: list[TimeRange]
) -> None:
    gaps = missing(wanted, covered)
    assert minutes(*gaps) == minutes(wanted) - minutes(*covered)
    assert list(gaps) == list(union(gaps)), "as few ranges as possible"
    assert missing(wanted, [*covered, *gaps]) == (), "once asked, nothing is left"


def test_gaps_at_either_edge_and_inside() -> None:
    covered = [span(10, 20), span(30, 40)]
    assert missing(span(0, 50), covered) == (span(0, 9), span(21, 29), span(41, 50))
    assert missing(span(10, 40), [span(10, 20), span(21, 40)]) == (), "ranges that touch leave nothing"
    assert missing(span(0, 5), []) == (span(0, 5),)
    assert missing(span(50, 60), covered) == (span(50, 60),)


def test_a_gap_is_asked_with_a_piece_of_what_lies_before_it() -> None:
    covered = [span(0, 10), span(20, 99)]
    gap = span(100, 120)
    ten = timedelta(minutes=10)
    assert with_overlap(gap, covered, newest_bar=at(99), overlap=ten) == span(90, 120)
    assert with_overlap(gap, covered, newest_bar=at(50), overlap=ten) == span(50, 120), "back to a bar"
    assert with_overlap(gap, covered, newest_bar=at(99), overlap=WEEK) == span(20, 120), "what was asked"
    assert with_overlap(gap, covered, newest_bar=at(5), overlap=ten) == gap, "no bar to compare"
    assert with_overlap(gap, covered, newest_bar=None, overlap=ten) == gap
    assert with_overlap(span(102, 120), covered, newest_bar=at(99), overlap=ten) == span(102, 120)


def test_a_range_is_of_whole_minutes_with_a_zone_and_in_order() -> None:
    with pytest.raises(ValueError, match="must say its time zone"):
        TimeRange(datetime(2025, 1, 1), T0)  # noqa: DTZ001 - that it is naive is the point
    with pytest.raises(ValueError, match="end of a range of opens must be a whole minute"):
        TimeRange(T0, T0 + timedelta(seconds=90))
    with pytest.raises(ValueError, match="ends before it starts"):
        span(2, 1)
    assert span(1, 1).contains(at(1))
    assert not span(1, 1).contains(at(2))
    assert whole_minute(T0 + timedelta(seconds=61, microseconds=5)) == at(1)
