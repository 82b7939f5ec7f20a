"""A plan's folds together: counts, Sharpe spread and grades. rules.md section 5.

Here: the summary of one model over one plan. Not here: single folds (metrics.py) or what follows (decision.py).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from postval_assets.core.folds import TrainingOverlap

ONE_LUCKY_PERIOD = "ONE_LUCKY_PERIOD"


class FoldStatus(StrEnum):
    """What became of a fold; the first three were computed."""

    OK = "OK"
    NO_TRADES = "NO_TRADES"
    RUINED = "RUINED"
    BROKEN_POLICY = "BROKEN_POLICY"
    INSUFFICIENT_DATA = "INSUFFICIENT_DATA"
    INVALID_BARS = "INVALID_BARS"
    NOT_EVALUATED = "NOT_EVALUATED"


COMPUTED = (FoldStatus.OK, FoldStatus.NO_TRADES, FoldStatus.RUINED)


class Grade(StrEnum):
    """How a property of the folds is judged."""

    GOOD = "GOOD"
    MARGINAL = "MARGINAL"
    POOR = "POOR"


@dataclass(frozen=True)
class GradeLimits:
    """Limits of the grades and of the standard decision; the defaults are those of docs/rules.md."""

    good_positive_share: float = 0.80
    marginal_positive_share: float = 0.60
    good_sharpe_std: float = 1.0
    marginal_sharpe_std: float = 2.0
    lucky_positive_share: float = 0.40


@dataclass(frozen=True)
class FoldOutcome:
    """What a summary and a decision need to know of one fold; ``reason`` says why it was not computed."""

    fold: int
    status: FoldStatus
    training_overlap: TrainingOverlap
    n_bars: int
    total_return: float | None
    sharpe: float | None
    n_trades: int | None
    reason: str | None = None


@dataclass(frozen=True)
class WalkForwardSummary:
    """One model over one plan; None where a figure is not defined.

    Attributes:
        positive_folds: folds with total_return > 0.
        n_folds: folds of the plan, computed or not.
        n_computed: folds with a result.
        positive_share: positive_folds / n_folds.
        sharpe_mean, sharpe_std, sharpe_min, sharpe_max: over the folds that have a Sharpe ratio; std has ddof 1.
        sharpe_std_expected: spread that sampling alone gives to the annualised Sharpe of so short a fold.
        return_min, return_max, return_sum: over the computed folds, fractions.
        best_fold_share: the best fold's return / the sum of the positive ones.
        consistency_grade: of the positive share.
        stability_grade: of the Sharpe spread.
        profitability_grade: of the returns.
        reasons: ONE_LUCKY_PERIOD where it applies.
    """

    positive_folds: int
    n_folds: int
    n_computed: int
    positive_share: float
    sharpe_mean: float | None
    sharpe_std: float | None
    sharpe_std_expected: float | None
    sharpe_min: float | None
    sharpe_max: float | None
    return_min: float | None
    return_max: float | None
    return_sum: float | None
    best_fold_share: float | None
    consistency_grade: Grade
    stability_grade: Grade
    profitability_grade: Grade
    reasons: tuple[str, ...]


def summarize(
    folds: Sequence[FoldOutcome], n_folds: int, bars_per_year: float | None, limits: GradeLimits
) -> WalkForwardSummary:
    """Summary of a plan's folds.

    Args:
        folds: those that have a row, computed or not.
        n_folds: folds of the plan.
        bars_per_year: measured over the plan's window.
        limits: of the grades.
    """
    computed = [f for f in folds if f.status in COMPUTED and f.total_return is not None]
    returns = np.array([f.total_return for f in computed], dtype=np.float64)
    sharpes = np.array([f.sharpe for f in computed if f.sharpe is not None], dtype=np.float64)
    positive = int((returns > 0.0).sum())
    share = positive / n_folds
    std = float(sharpes.std(ddof=1)) if len(sharpes) >= 2 else None
    return_sum = float(returns.sum()) if len(returns) else None
    gains = float(returns[returns > 0.0].sum())
    reasons = []
    if return_sum is not None and return_sum > 0.0 and at_most(share, limits.lucky_positive_share):
        reasons.append(ONE_LUCKY_PERIOD)
    return WalkForwardSummary(
        positive_folds=positive,
        n_folds=n_folds,
        n_computed=len(computed),
        positive_share=share,
        sharpe_mean=float(sharpes.mean()) if len(sharpes) else None,
        sharpe_std=std,
        sharpe_std_expected=_expected_spread(computed, bars_per_year),
        sharpe_min=float(sharpes.min()) if len(sharpes) else None,
        sharpe_max=float(sharpes.max()) if len(sharpes) else None,
        return_min=float(returns.min()) if len(returns) else None,
        return_max=float(returns.max()) if len(returns) else None,
        return_sum=return_sum,
        best_fold_share=float(returns.max() / gains) if gains > 0.0 else None,
        consistency_grade=_consistency(share, limits),
        stability_grade=_stability(std, limits),
        profitability_grade=_profitability(returns),
        reasons=tuple(reasons),
    )


def at_least(share: float, limit: float) -> bool:
    """``share >= limit`` for shares of small counts: 3/5 is 0.6, whatever the binary fraction says."""
    return share >= limit or math.isclose(share, limit, rel_tol=1e-12)


def at_most(share: float, limit: float) -> bool:
    """``share <= limit`` for shares of small counts."""
    return share <= limit or math.isclose(share, limit, rel_tol=1e-12)


def _expected_spread(computed: Sequence[FoldOutcome], bars_per_year: float | None) -> float | None:
    if not computed or not bars_per_year:
        return None
    return math.sqrt(bars_per_year / float(np.mean([f.n_bars for f in computed])))


def _consistency(share: float, limits: GradeLimits) -> Grade:
    if at_least(share, limits.good_positive_share):
        return Grade.GOOD
    return Grade.MARGINAL if at_least(share, limits.marginal_positive_share) else Grade.POOR


def _stability(std: float | None, limits: GradeLimits) -> Grade:
    if std is None or std > limits.marginal_sharpe_std:
        return Grade.POOR
    return Grade.GOOD if std < limits.good_sharpe_std else Grade.MARGINAL


def _profitability(returns: np.typing.NDArray[np.float64]) -> Grade:
    if len(returns) and bool((returns > 0.0).all()):
        return Grade.GOOD
    # Nothing computed proves nothing: it is graded as the rule's worst, and the decision says NO_EVIDENCE.
    if not len(returns) or (returns < 0.0).mean() > 0.5:
        return Grade.POOR
    return Grade.MARGINAL
