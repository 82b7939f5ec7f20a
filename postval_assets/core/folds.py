"""Plans, as_of and folds: which bars are evaluated, and what they have to do with training. rules.md section 2.

Here: cutting bars into blocks and saying which cannot be evaluated and why. Not here: trading them (engine.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

import numpy as np

from postval_assets.core.bars import PRICE_COLUMNS, Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.metrics import DAYS_PER_YEAR

MIN_BLOCK_BARS = 50
# A plan whose window starts this share of its days before the first bar is not evaluated at all.
MISSING_HISTORY_TOLERANCE = 0.05


class TrainingOverlap(StrEnum):
    """What a block of bars has to do with the bars that the model was trained on."""

    IN_TRAIN = "IN_TRAIN"
    OVERLAP = "OVERLAP"
    OUT_OF_SAMPLE = "OUT_OF_SAMPLE"
    BEFORE_TRAIN = "BEFORE_TRAIN"
    UNKNOWN = "UNKNOWN"


class BlockProblem(StrEnum):
    """Why a block cannot be evaluated."""

    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"
    INVALID_BARS = "INVALID_BARS"


@dataclass(frozen=True)
class Plan:
    """A walk-forward plan: so many days back from as_of, in so many folds."""

    name: str
    days: int
    n_folds: int

    def fold_keys(self) -> tuple[str, ...]:
        """Partition keys of the folds: ``180d-1`` .. ``180d-5``, ``365d-01`` .. ``365d-10``."""
        width = len(str(self.n_folds))
        return tuple(f"{self.name}-{fold:0{width}}" for fold in range(1, self.n_folds + 1))


PLANS = {plan.name: plan for plan in (Plan("180d", 180, 5), Plan("365d", 365, 10))}
BACKTEST = Plan("30d", 30, 1)


def parse_fold_key(key: str) -> tuple[Plan, int]:
    """The plan and the fold number (from 1) of a fold's partition key; raises Rejected for an unknown one."""
    match = re.fullmatch(r"(?P<plan>[^-]+)-(?P<fold>[0-9]+)", key)
    plan = PLANS.get(match["plan"]) if match else None
    if match is None or plan is None or key not in plan.fold_keys():
        examples = ", ".join(p.fold_keys()[0] for p in PLANS.values())
        raise Rejected(f"fold {ascii(key)[:40]} is unknown: expected a key such as {examples}")
    return plan, int(match["fold"])


def plan_named(name: str) -> Plan:
    """The plan of that name; raises Rejected with the known names."""
    try:
        return PLANS[name]
    except KeyError:
        raise Rejected(f"plan {ascii(name)[:40]} is unknown: expected one of {', '.join(PLANS)}") from None


@dataclass(frozen=True)
class TrainingWindow:
    """Opens of the first and last training bar, inclusive, UTC; None where unknown."""

    start: datetime | None
    end: datetime | None

    def overlap(self, first_open: np.datetime64, last_open: np.datetime64) -> TrainingOverlap:
        """What bars from ``first_open`` to ``last_open`` (opens, inclusive) have to do with training.

        One known edge says what it can: without a start, training counts as older than the bars, so that bars
        up to its end are never taken for unseen ones; without an end, bars after the start stay UNKNOWN.
        """
        start = None if self.start is None else to_datetime64(self.start)
        end = None if self.end is None else to_datetime64(self.end)
        if end is not None and first_open > end:
            return TrainingOverlap.OUT_OF_SAMPLE
        if start is not None and last_open < start:
            return TrainingOverlap.BEFORE_TRAIN
        if start is not None and first_open < start:
            return TrainingOverlap.OVERLAP
        if end is None:
            return TrainingOverlap.UNKNOWN
        return TrainingOverlap.IN_TRAIN if last_open <= end else TrainingOverlap.OVERLAP


@dataclass(frozen=True)
class Block:
    """One fold of a plan, or the reason why it cannot be evaluated.

    Attributes:
        fold: from 1.
        start, stop: indices into the bars; equal where there are none.
        n_before: bars before ``start``.
        problem, reason: set where the block cannot be evaluated.
    """

    fold: int
    start: int
    stop: int
    n_before: int
    problem: BlockProblem | None
    reason: str | None

    @property
    def n_bars(self) -> int:
        """Bars in the block."""
        return self.stop - self.start


@dataclass(frozen=True)
class PlanBlocks:
    """A plan cut out of a series of bars, with its measured frequency."""

    plan: Plan
    blocks: tuple[Block, ...]
    bars_per_year: float


def to_datetime64(instant: datetime) -> np.datetime64:
    """An aware datetime as UTC datetime64[us]."""
    return np.datetime64(instant.astimezone(UTC).replace(tzinfo=None), "us")


def to_datetime(instant: np.datetime64) -> datetime:
    """A UTC datetime64 as an aware datetime."""
    naive: datetime = instant.astype("datetime64[us]").astype(object)
    return naive.replace(tzinfo=UTC)


def newest_close(bars: Bars, until: datetime) -> datetime:
    """Closing time of the newest bar that is complete by ``until``: the ``as_of`` of an evaluation.

    Raises:
        Rejected: where no bar is complete by then.
    """
    complete = np.flatnonzero(bars.ts + bars.timeframe.delta <= to_datetime64(until))
    if complete.size == 0:
        have = f"the first one opens {to_datetime(bars.ts[0]).isoformat()}" if len(bars) else "there are none"
        raise Rejected(f"{bars.symbol} has no complete {bars.timeframe} bar by {until.isoformat()}: {have}")
    return to_datetime(bars.ts[complete[-1]] + bars.timeframe.delta)


def cut(bars: Bars, plan: Plan, as_of: datetime, *, needed_before: int) -> PlanBlocks:
    """Cut a plan's bars into contiguous blocks of equal bar count, the first ones one longer.

    Args:
        bars: the whole history, in the model's timeframe.
        plan: days and folds.
        as_of: end of the window; bars that close after it do not exist for this evaluation.
        needed_before: bars that an observation at a block's first bar reaches back (window plus look-back).
    """
    end = to_datetime64(as_of)
    window_start = end - np.timedelta64(plan.days, "D")
    first = int(np.searchsorted(bars.ts, window_start, side="left"))
    stop = int(np.searchsorted(bars.ts + bars.timeframe.delta, end, side="right"))
    n = max(stop - first, 0)
    bars_per_year = n / plan.days * DAYS_PER_YEAR
    tolerance = np.timedelta64(round(plan.days * 86_400_000_000 * MISSING_HISTORY_TOLERANCE), "us")
    short_history = None
    if n == 0:
        short_history = f"no bars in the {plan.days} days before {as_of.isoformat()}"
    elif bars.ts[0] > window_start + tolerance:
        short_history = (
            f"history starts {to_datetime(bars.ts[0]).isoformat()}, plan {plan.name} needs it from "
            f"{to_datetime(window_start).isoformat()} (at most {MISSING_HISTORY_TOLERANCE:.0%} of the plan later)"
        )
    size, longer = divmod(n, plan.n_folds)
    blocks = []
    start = first
    for fold in range(1, plan.n_folds + 1):
        end_index = start + size + (1 if fold <= longer else 0)
        problem, reason = _problem(bars, start, end_index, needed_before, short_history)
        blocks.append(Block(fold, start, end_index, start, problem, reason))
        start = end_index
    return PlanBlocks(plan, tuple(blocks), bars_per_year)


def cut_interval(bars: Bars, name: str, start: datetime, end: datetime, *, needed_before: int) -> PlanBlocks:
    """The bars of an interval as one block.

    Args:
        bars: the whole history, in the model's timeframe.
        name: of the plan that is made for it.
        start: bars that open before it are not in the block.
        end: bars that close after it do not exist.
        needed_before: as in ``cut``.
    """
    first = int(np.searchsorted(bars.ts, to_datetime64(start), side="left"))
    stop = int(np.searchsorted(bars.ts + bars.timeframe.delta, to_datetime64(end), side="right"))
    stop = max(first, stop)
    days = max((end - start).total_seconds() / 86_400, 1.0)
    problem, reason = _problem(bars, first, stop, needed_before, None)
    block = Block(1, first, stop, first, problem, reason)
    return PlanBlocks(Plan(name, round(days), 1), (block,), (stop - first) / days * DAYS_PER_YEAR)


def _problem(
    bars: Bars, start: int, stop: int, needed_before: int, short_history: str | None
) -> tuple[BlockProblem | None, str | None]:
    if short_history is not None:
        return BlockProblem.INSUFFICIENT_DATA, short_history
    if stop - start < MIN_BLOCK_BARS:
        return BlockProblem.INSUFFICIENT_DATA, f"{stop - start} bars in the block, {MIN_BLOCK_BARS} needed"
    if start < needed_before:
        return (
            BlockProblem.INSUFFICIENT_DATA,
            f"{start} bars before the block, {needed_before} needed (window plus look-back)",
        )
    bad = first_invalid(bars, start - needed_before, stop)
    if bad is not None:
        return BlockProblem.INVALID_BARS, bad
    return None, None


def first_invalid(bars: Bars, start: int, stop: int) -> str | None:
    """The first bar of ``start`` .. ``stop - 1`` with a price that is not finite and positive, in words."""
    prices = np.stack([getattr(bars, name)[start:stop] for name in PRICE_COLUMNS])
    usable = np.isfinite(prices) & (prices > 0.0)
    bad = np.flatnonzero(~usable.all(axis=0))
    if bad.size == 0:
        return None
    column = PRICE_COLUMNS[int(np.flatnonzero(~usable[:, bad[0]])[0])]
    value = prices[PRICE_COLUMNS.index(column), bad[0]]
    when = to_datetime(bars.ts[start + int(bad[0])]).isoformat()
    return f"{column} of the bar at {when} is {value:g}; prices must be finite and positive ({bad.size} such bars)"


def overlaps(bars: Bars, blocks: Sequence[Block], training: TrainingWindow) -> tuple[TrainingOverlap, ...]:
    """Training overlap of each block, axis [block]; UNKNOWN for a block without bars."""
    return tuple(
        training.overlap(bars.ts[b.start], bars.ts[b.stop - 1]) if b.n_bars else TrainingOverlap.UNKNOWN
        for b in blocks
    )
