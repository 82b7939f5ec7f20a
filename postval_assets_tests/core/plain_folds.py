"""Blocks and training overlap looked at one bar at a time: the oracle for cutting plans.

Here: docs/rules.md, section 2, written from that page alone. Not here: anything from the package under test.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta


@dataclass
class PlainBlock:
    fold: int
    opens: list[datetime]
    n_before: int
    problem: str | None
    label: str


def plain_overlap(opens: Sequence[datetime], start: datetime | None, end: datetime | None) -> str:
    """What a block has to do with training, from the set of training bars' opens that it holds."""
    if not opens or (start is None and end is None):
        return "UNKNOWN"
    if end is not None and all(o > end for o in opens):
        return "OUT_OF_SAMPLE"
    if start is not None and all(o < start for o in opens):
        return "BEFORE_TRAIN"
    if end is None:
        # What starts before the first training bar and is not wholly before it lies on both sides of it.
        return "OVERLAP" if opens[0] < start else "UNKNOWN"
    inside = [(start is None or start <= o) and o <= end for o in opens]
    return "IN_TRAIN" if all(inside) else "OVERLAP"


def plain_cut(
    opens: Sequence[datetime],
    length: timedelta,
    days: int,
    n_folds: int,
    as_of: datetime,
    needed_before: int,
    invalid: frozenset[int] = frozenset(),
    training: tuple[datetime | None, datetime | None] = (None, None),
) -> tuple[list[PlainBlock], float]:
    """rules.md section 2, one bar at a time."""
    window_start = as_of - timedelta(days=days)
    members = [i for i, o in enumerate(opens) if window_start <= o and o + length <= as_of]
    sizes = [len(members) // n_folds] * n_folds
    for extra in range(len(members) % n_folds):
        sizes[extra] += 1
    late = bool(opens) and opens[0] - window_start > 0.05 * timedelta(days=days)
    blocks = []
    taken = 0
    for fold, size in enumerate(sizes, start=1):
        own = members[taken : taken + size]
        taken += size
        before = own[0] if own else None
        problem = None
        if not members or late or size < 50 or before < needed_before:
            problem = "INSUFFICIENT_DATA"
        elif any(i in invalid for i in range(before - needed_before, own[-1] + 1)):
            problem = "INVALID_BARS"
        block_opens = [opens[i] for i in own]
        blocks.append(
            PlainBlock(fold, block_opens, before or 0, problem, plain_overlap(block_opens, *training))
        )
    return blocks, len(members) / days * 365.25
