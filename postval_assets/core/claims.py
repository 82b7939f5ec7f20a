"""Claimed against reproduced: does a model do on its own training bars what its training summary says of it?

Here: which bars are traded for it, the figures of these blocks, and when they disagree largely with what was claimed
(docs/rules.md, section 1). Not here: trading the blocks (evaluation.py), the gate's classes (gating.py; nothing here
changes one), or whether a model is any good on bars that it has not seen (walk_forward.py, decision.py).

Trainers define their metrics each in their own way, and a claim is of a sample. So a model disagrees only where the
difference is both: large, and more than the chance of few round trips or few blocks explains. Where it is large and
chance may explain it, nothing is said either way.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import Bars
from postval_assets.core.evaluation import FoldEvaluation
from postval_assets.core.failures import Rejected
from postval_assets.core.folds import (
    MIN_BLOCK_BARS,
    Plan,
    PlanBlocks,
    TrainingWindow,
    cut,
    newest_close,
    to_datetime,
    to_datetime64,
)
from postval_assets.core.gating import MetricLimits
from postval_assets.core.metrics import max_drawdown, sharpe_ratio
from postval_assets.core.walk_forward import COMPUTED, at_most

Float = npt.NDArray[np.float64]

# As long, and in as many blocks, as the walk-forward over unseen bars: the two can be read side by side.
MOST_DAYS = 180
N_BLOCKS = 5

MIN_TRADES = 10
"""Round trips below which nothing is compared: resampling fewer gives no bound worth the name.

From ten on, a model that does what it claims is flagged about as seldom as with many (test_claims.py measures it).
"""

KEPT_EXCESS = 0.5
"""Share of the profit factor's claimed excess over 1 that has to be reproduced: other costs take some, not half."""

CONSISTENCY_GAP = 0.30
"""How much lower a share of profitable blocks may be: one of five blocks is 0.20, and says nothing."""

DRAWDOWN_RATIO = 2.0
"""How many times the claimed proxy a drawdown may be: rewards do not see what equity loses between two of them."""

CHANCE = 0.01
"""Where chance gives a figure as bad as the reproduced one more often than this, it is no disagreement.

The claim is of a sample too, whose spread nobody knows. Taken to be as large as that of the reproduction, it makes the
spread of the difference sqrt(2) times as large: 5 % one-sided of the difference is 1 % of the reproduction alone.
"""

MOST_CERTAIN = 0.95
"""A claimed share of gaining periods counts as at most this: 10 of 10 periods do not make the next one certain."""

IDLE_DAYS = 90
"""A model that claims gains and makes no round trip in so many days of its own training window disagrees."""

UNKNOWN_WINDOW = "the training window is unknown: neither summary nor checkpoint says when it ends"

N_RESAMPLES = 2_000
# Bounds the memory of resampling thousands of round trips.
_RESAMPLES_AT_ONCE = 100


class ClaimStatus(StrEnum):
    """What came of a model's claims; NOT_REPRODUCIBLE: nothing to compare with, or too little to tell."""

    REPRODUCED = "REPRODUCED"
    DISAGREES = "DISAGREES"
    NOT_REPRODUCIBLE = "NOT_REPRODUCIBLE"


@dataclass(frozen=True)
class Claims:
    """The final metrics of a training summary, as the gate judges them.

    Attributes:
        fitness: of no public formula; shown, never compared.
        profit_factor: gross profit / gross loss.
        consistency: share of the trainer's periods that gained, a fraction.
        max_drawdown: the proxy (reward volatility), a fraction.
    """

    fitness: float
    profit_factor: float
    consistency: float
    max_drawdown: float


@dataclass(frozen=True)
class Reproduction:
    """What a model does on the blocks of its training window; None where a figure is not defined.

    Attributes:
        n_blocks: blocks, all of them computed.
        n_bars: bars in them.
        days: days that they were cut from.
        until: close of the last bar.
        n_trades: round trips of all blocks.
        profit_factor: gross profit / gross loss of all round trips.
        profit_factor_high: the profit factor that resampled round trips exceed with CHANCE; None where it has no
            bound (some resamples lose nothing), or there is no profit factor.
        n_gained: blocks with a total return above 0.
        max_drawdown: largest fall of equity, the blocks' curves one after the other, a positive fraction.
        total_return: of the blocks one after the other, a fraction.
        sharpe: annualised, of the per-bar returns of all blocks.
    """

    n_blocks: int
    n_bars: int
    days: int
    until: datetime
    n_trades: int
    profit_factor: float | None
    profit_factor_high: float | None
    n_gained: int
    max_drawdown: float
    total_return: float
    sharpe: float | None

    @property
    def consistency(self) -> float:
        """Share of the blocks that gained."""
        return self.n_gained / self.n_blocks

    @property
    def window(self) -> str:
        """The days, for people."""
        return f"{self.days} days to {self.until.date().isoformat()}"


@dataclass(frozen=True)
class ClaimVerdict:
    """Status, and in words with both numbers what disagrees or what prevented a comparison; None where all is well."""

    status: ClaimStatus
    reason: str | None = None


def training_blocks(
    bars: Bars, training: TrainingWindow, *, needed_before: int
) -> tuple[datetime, PlanBlocks]:
    """The newest stored bars of a training window, at most MOST_DAYS of them, in N_BLOCKS blocks.

    A shorter history gives a shorter span of whole days: every bar traded is one of training, and has its needed bars
    before it.

    Args:
        bars: all that are stored, in the model's timeframe.
        training: of the model.
        needed_before: bars that an observation reaches back (window plus look-back); they may lie before training.

    Returns:
        The close of the last of these bars, and the blocks.

    Raises:
        Rejected: the window is unknown, or too few of its bars are stored.
    """
    if training.end is None:
        raise Rejected(UNKNOWN_WINDOW)
    length = timedelta(minutes=bars.timeframe.minutes)
    until = newest_close(bars, training.end + length)
    first = needed_before
    if training.start is not None:
        first = max(first, int(np.searchsorted(bars.ts, to_datetime64(training.start), side="left")))
    stop = int(np.searchsorted(bars.ts, to_datetime64(until), side="left"))
    needed = N_BLOCKS * MIN_BLOCK_BARS
    if stop - first < needed:
        raise Rejected(
            f"{max(stop - first, 0)} stored bars of the training window to {until.date().isoformat()} have their "
            f"{needed_before} needed bars before them, {needed} are needed"
        )
    days = min(MOST_DAYS, (until - to_datetime(bars.ts[first])) // timedelta(days=1))
    return until, cut(bars, Plan(f"train-{days}d", days, N_BLOCKS), until, needed_before=needed_before)


def reproduce(
    blocks: Sequence[FoldEvaluation],
    cut_blocks: PlanBlocks,
    until: datetime,
    capital: float,
    rng: np.random.Generator,
) -> Reproduction:
    """Figures of the blocks together.

    Args:
        blocks: all of them, evaluated, in time order.
        cut_blocks: what they were cut from.
        until: close of the last bar.
        capital: that each block began with, USD.
        rng: resamples the round trips.

    Raises:
        Rejected: a block was not computed.
    """
    curves, pnl, n_bars = [], [], 0
    for block in blocks:
        if block.status not in COMPUTED or block.run is None:
            raise Rejected(
                f"block {block.block.fold} of {len(blocks)} of the training window: {block.status}, {block.reason}"
            )
        curves.append(block.run.equity / capital)
        pnl += [trip.pnl for trip in block.run.trips]
        n_bars += block.block.n_bars
    joined, value = [np.ones(1)], 1.0
    for curve in curves:
        joined.append(value * curve)
        value *= float(curve[-1])
    returns = np.concatenate([np.diff(curve) / curve[:-1] for curve in curves])
    trips = np.array(pnl, dtype=np.float64)
    return Reproduction(
        n_blocks=len(blocks),
        n_bars=n_bars,
        days=cut_blocks.plan.days,
        until=until,
        n_trades=len(trips),
        profit_factor=profit_factor(trips),
        profit_factor_high=profit_factor_bound(trips, rng),
        n_gained=sum(bool(curve[-1] > 1.0) for curve in curves),
        max_drawdown=max_drawdown(np.concatenate(joined)),
        total_return=value - 1.0,
        sharpe=sharpe_ratio(returns, cut_blocks.bars_per_year),
    )


def profit_factor(pnl: Float) -> float | None:
    """Gross profit / gross loss of round trips, axis [trip]; None where nothing lost."""
    profit, loss = float(pnl[pnl > 0.0].sum()), float(-pnl[pnl < 0.0].sum())
    return profit / loss if loss > 0.0 else None


def profit_factor_bound(pnl: Float, rng: np.random.Generator) -> float | None:
    """The profit factor that CHANCE of the resamples of the round trips exceed; None where it has no bound.

    Round trips are drawn one by one with replacement: they follow each other, and do not overlap.

    Args:
        pnl: of the round trips, axis [trip].
        rng: draws.
    """
    n = len(pnl)
    if profit_factor(pnl) is None:
        return None
    found = []
    for _ in range(N_RESAMPLES // _RESAMPLES_AT_ONCE):
        drawn = pnl[rng.integers(0, n, (_RESAMPLES_AT_ONCE, n))]
        profit, loss = np.maximum(drawn, 0.0).sum(axis=1), np.maximum(-drawn, 0.0).sum(axis=1)
        found.append(np.divide(profit, loss, out=np.full(len(loss), np.inf), where=loss > 0.0))
    # An order statistic: interpolating towards a resample without a loss would be infinite.
    bound = float(np.quantile(np.concatenate(found), 1.0 - CHANCE, method="lower"))
    return bound if math.isfinite(bound) else None


def compare(claims: Claims, found: Reproduction, review: MetricLimits) -> ClaimVerdict:
    """Whether a model does clearly worse on its training bars than its summary claims.

    Args:
        claims: of the summary.
        found: on the bars of the training window.
        review: the gate's limits for REVIEW; a drawdown within them is none to speak of.
    """
    figures = f"profit factor {claims.profit_factor:.2f} claimed, {_shown(found.profit_factor)} reproduced"
    if found.n_trades == 0 and found.days >= IDLE_DAYS and claims.profit_factor > 0.0:
        return ClaimVerdict(ClaimStatus.DISAGREES, f"{figures}: no round trip in {found.window}")
    if found.n_trades < MIN_TRADES:
        few = f"{found.n_trades} round trip(s) in {found.window}, {MIN_TRADES} needed for a comparison"
        return ClaimVerdict(ClaimStatus.NOT_REPRODUCIBLE, f"{few}; {figures}")
    apart: list[str] = []
    unclear: list[str] = []
    if found.profit_factor is not None and _is_half(claims.profit_factor, found.profit_factor):
        high = found.profit_factor_high
        is_clear = high is not None and high < claims.profit_factor
        (apart if is_clear else unclear).append(f"{figures} ({_chance(high)})")
    if not at_most(claims.consistency - found.consistency, CONSISTENCY_GAP):
        blocks = f"{found.n_gained} of {found.n_blocks} blocks"
        is_clear = _so_few_gain(claims.consistency, found) <= CHANCE
        (apart if is_clear else unclear).append(
            f"consistency {claims.consistency:.2f} claimed, {found.consistency:.2f} reproduced ({blocks})"
        )
    if found.max_drawdown > max(DRAWDOWN_RATIO * claims.max_drawdown, review.max_drawdown):
        apart.append(
            f"max drawdown proxy {claims.max_drawdown:.2%} claimed, real {found.max_drawdown:.2%} reproduced"
        )
    where = f"over {found.window} ({found.n_trades} round trips)"
    if apart:
        return ClaimVerdict(ClaimStatus.DISAGREES, f"{'; '.join(apart)} {where}")
    if unclear:
        # Neither: to call it reproduced would be as wrong as to call it a disagreement.
        return ClaimVerdict(
            ClaimStatus.NOT_REPRODUCIBLE, f"{'; '.join(unclear)} {where}: chance may explain it"
        )
    return ClaimVerdict(ClaimStatus.REPRODUCED)


def _is_half(claimed: float, reproduced: float) -> bool:
    """Whether less than the share that has to be reproduced of the excess over 1 is left."""
    return claimed > 1.0 and reproduced < 1.0 + KEPT_EXCESS * (claimed - 1.0)


def _so_few_gain(claimed: float, found: Reproduction) -> float:
    """Probability that at most so many blocks gain where each does with the claimed share."""
    n, share = found.n_blocks, min(claimed, MOST_CERTAIN)
    return sum(math.comb(n, k) * share**k * (1.0 - share) ** (n - k) for k in range(found.n_gained + 1))


def _chance(high: float | None) -> str:
    return "any by chance" if high is None else f"at most {high:.2f} by chance"


def _shown(value: float | None) -> str:
    return "none" if value is None else f"{value:.2f}"
