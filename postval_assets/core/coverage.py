"""Which opens of a series were asked for already, and which are still to be asked.

Here: closed ranges of opens, their union and what is missing from them. Not here: who is asked (io), what is done with
the answer (pipeline), or whether a range without bars should have had some (sessions.py, bar_quality.py).

A range that was asked and had no bars is covered like any other: what matters is that it was asked. Bars open at whole
minutes, whatever their timeframe, so ranges touch where a minute lies between them, and nothing can open in between.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

MINUTE = timedelta(minutes=1)


@dataclass(frozen=True, order=True)
class TimeRange:
    """The opens ``start <= ts <= end``: both ends belong to it.

    Attributes:
        start: aware, a whole minute.
        end: aware, a whole minute, not before ``start``.
    """

    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        """Raises ValueError where the ends are no range of opens."""
        for name, at in (("start", self.start), ("end", self.end)):
            if at.tzinfo is None:
                raise ValueError(f"{name} of a range of opens must say its time zone: {at.isoformat()}")
            if at.second or at.microsecond:
                raise ValueError(f"{name} of a range of opens must be a whole minute: {at.isoformat()}")
        if self.end < self.start:
            raise ValueError(
                f"a range of opens ends before it starts: {self.start.isoformat()} .. {self.end.isoformat()}"
            )

    def contains(self, ts: datetime) -> bool:
        """Whether a bar that opens then is in the range."""
        return self.start <= ts <= self.end


def union(ranges: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The same opens in as few ranges as possible, in time order, none touching the next."""
    joined: list[TimeRange] = []
    for one in sorted(ranges):
        if joined and one.start <= joined[-1].end + MINUTE:
            joined[-1] = TimeRange(joined[-1].start, max(joined[-1].end, one.end))
        else:
            joined.append(one)
    return tuple(joined)


def missing(wanted: TimeRange, covered: Iterable[TimeRange]) -> tuple[TimeRange, ...]:
    """The parts of ``wanted`` that no range of ``covered`` holds, in time order: at either edge and inside."""
    gaps: list[TimeRange] = []
    start = wanted.start
    for one in union(covered):
        if one.end < start:
            continue
        if one.start > wanted.end:
            break
        if one.start > start:
            gaps.append(TimeRange(start, one.start - MINUTE))
        start = one.end + MINUTE
    if start <= wanted.end:
        gaps.append(TimeRange(start, wanted.end))
    return tuple(gaps)


def with_overlap(
    gap: TimeRange, covered: Iterable[TimeRange], *, newest_bar: datetime | None, overlap: timedelta
) -> TimeRange:
    """The gap, and before it a piece of what is covered, so that bars that are known can be compared.

    Args:
        gap: a missing range.
        covered: ranges that were asked; the gap is returned as it is where none ends at its start.
        newest_bar: open of the newest bar that is known; the piece reaches back to it, however far that is.
        overlap: how far the piece reaches back at least.
    """
    before = next((one for one in union(covered) if one.end + MINUTE == gap.start), None)
    if before is None or newest_bar is None or not before.contains(newest_bar):
        return gap
    return TimeRange(max(before.start, min(newest_bar, gap.start - overlap)), gap.end)


def whole_minute(at: datetime) -> datetime:
    """The minute that an instant lies in."""
    return at.replace(second=0, microsecond=0)
