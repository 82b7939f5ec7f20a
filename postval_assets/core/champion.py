"""A model against the one that came before it, on the same bars: which is better, and whether that is luck.

Here: which folds are compared, the difference of the two Sharpe ratios, how likely it is without a difference in
skill, and the words for it. Not here: the resampling (bootstrap.py), or which models are compared and where their
returns come from (pipeline/challenging.py).

The returns of two models on the same bars go up and down together. So the same bars are drawn for both when resampling,
and what the market did to both cancels out.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from postval_assets.core.archive_evidence import fold_counts
from postval_assets.core.bootstrap import INTERVAL, bootstrap_sharpe_difference
from postval_assets.core.evidence import return_moments
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.walk_forward import COMPUTED, FoldStatus

Float = npt.NDArray[np.float64]

SIGNIFICANCE = 0.05
"""A difference is called one up to this p-value: of models that are alike, one pair in twenty."""

_SMALLEST_SHOWN = 0.001


class Verdict(StrEnum):
    """Which of the two is better."""

    CHALLENGER_BETTER = "CHALLENGER_BETTER"
    CHAMPION_BETTER = "CHAMPION_BETTER"
    NO_DIFFERENCE_SHOWN = "NO_DIFFERENCE_SHOWN"
    NOT_COMPARED = "NOT_COMPARED"


@dataclass(frozen=True, eq=False)
class ModelFold:
    """One model's outcome on one fold.

    Attributes:
        fold: its number.
        status, training_overlap: as in ``fold_results``.
        total_return: a fraction; None where the fold was not computed.
        returns: [bar - 1], per bar, as ``whole_returns`` gives them; empty where the fold was not computed.
    """

    fold: int
    status: FoldStatus
    training_overlap: TrainingOverlap
    total_return: float | None
    returns: Float

    @property
    def counts(self) -> bool:
        """Whether it is evidence."""
        return fold_counts(self.status, self.training_overlap)


@dataclass(frozen=True)
class Comparison:
    """What came of two models on the folds that count for both.

    Attributes:
        verdict: which is better.
        reason: why they could not be compared; None where they were.
        n_folds_compared: folds that count for both; the figures are over these.
        n_returns: returns per bar of either model on them.
        challenger_sharpe, champion_sharpe: annualised; None for constant returns.
        challenger_return, champion_return: sums of the folds' total returns; None without a fold.
        challenger_positive_folds, champion_positive_folds: folds with a total return above 0.
        sharpe_difference: challenger - champion, annualised.
        difference_se: its bootstrap standard error.
        difference_low, difference_high: its bootstrap percentiles, ``INTERVAL`` between them.
        p_value: chance of a difference at least as large, either way, between models that are equally good.
    """

    verdict: Verdict
    reason: str | None = None
    n_folds_compared: int = 0
    n_returns: int = 0
    challenger_sharpe: float | None = None
    champion_sharpe: float | None = None
    challenger_return: float | None = None
    champion_return: float | None = None
    challenger_positive_folds: int | None = None
    champion_positive_folds: int | None = None
    sharpe_difference: float | None = None
    difference_se: float | None = None
    difference_low: float | None = None
    difference_high: float | None = None
    p_value: float | None = None


def not_compared(reason: str) -> Comparison:
    """Two models that could not be put side by side."""
    return Comparison(Verdict.NOT_COMPARED, reason)


def whole_returns(equity: Float, n_bars: int) -> Float:
    """Returns per bar [n_bars - 1] of a fold; 0 after the bar in which all was lost.

    So a model that was ruined half-way can be put bar by bar beside one that was not.

    Args:
        equity: [point], positive but for the last point of a ruined fold, which has fewer points than bars.
        n_bars: bars in the fold.

    Raises:
        ValueError: more points than bars, none at all, or fewer than bars although not all was lost.
    """
    if not 1 <= len(equity) <= n_bars or (len(equity) < n_bars and equity[-1] > 0.0):
        raise ValueError(f"{len(equity)} points of equity in a fold of {n_bars} bars")
    returns = np.zeros(n_bars - 1)
    returns[: len(equity) - 1] = equity[1:] / equity[:-1] - 1.0
    return returns


def compare(
    challenger: Sequence[ModelFold],
    champion: Sequence[ModelFold],
    bars_per_year: float,
    rng: np.random.Generator,
) -> Comparison:
    """Compare two models on the folds that count for both.

    ``p_value = 2 * (1 - Phi(|d| / se))``, d the difference of the Sharpe ratios and se its bootstrap standard error.
    Exchanging the two turns the signs round and changes nothing else, given the same randomness.

    Args:
        challenger: the newer model's folds.
        champion: the earlier model's, on the same bars where the numbers are the same.
        bars_per_year: what annualises.
        rng: all randomness.

    Raises:
        ValueError: the two have different numbers of returns on a fold.
    """
    of_champion = {f.fold: f for f in champion if f.counts}
    if not any(f.counts for f in challenger):
        return not_compared(f"no fold of the challenger counts: {_causes(challenger)}")
    pairs = [(f, of_champion[f.fold]) for f in challenger if f.counts and f.fold in of_champion]
    if not pairs:
        return not_compared(
            f"no fold counts for both: challenger {_causes(challenger)}; champion {_causes(champion)}"
        )
    lengths = [len(mine.returns) for mine, _ in pairs]
    if lengths != [len(other.returns) for _, other in pairs]:
        raise ValueError(f"the folds {[f.fold for f, _ in pairs]} have other bars in the two models")
    first = np.concatenate([mine.returns for mine, _ in pairs])
    second = np.concatenate([other.returns for _, other in pairs])
    annual = math.sqrt(bars_per_year)
    sharpes = [m.sharpe * annual if (m := return_moments(r)) is not None else None for r in (first, second)]
    totals = [[f.total_return or 0.0 for f in side] for side in zip(*pairs, strict=True)]
    known = Comparison(
        Verdict.NOT_COMPARED,
        n_folds_compared=len(pairs),
        n_returns=len(first),
        challenger_sharpe=sharpes[0],
        champion_sharpe=sharpes[1],
        challenger_return=sum(totals[0]),
        champion_return=sum(totals[1]),
        challenger_positive_folds=sum(t > 0.0 for t in totals[0]),
        champion_positive_folds=sum(t > 0.0 for t in totals[1]),
    )
    return _weighed(known, first, second, lengths, annual, rng)


def _weighed(
    known: Comparison,
    first: Float,
    second: Float,
    lengths: Sequence[int],
    annual: float,
    rng: np.random.Generator,
) -> Comparison:
    """The figures of both, and how much their difference is worth."""
    if np.array_equal(first, second):
        return replace(known, reason="both have the same return in every bar")
    if known.challenger_sharpe is None or known.champion_sharpe is None:
        constant = "challenger" if known.challenger_sharpe is None else "champion"
        return replace(known, reason=f"no Sharpe ratio of the {constant}: its returns are constant")
    spread = bootstrap_sharpe_difference(first, second, lengths, rng)
    if spread is None or spread.se <= 0.0:
        return replace(known, reason=f"{len(first)} returns give the difference no spread")
    difference = known.challenger_sharpe - known.champion_sharpe
    # the smaller tail itself: 1 - Phi would lose the digits of a small one
    p_value = 2.0 * NormalDist().cdf(-abs(difference) / (spread.se * annual))
    verdict = Verdict.NO_DIFFERENCE_SHOWN
    if p_value <= SIGNIFICANCE:
        verdict = Verdict.CHALLENGER_BETTER if difference > 0.0 else Verdict.CHAMPION_BETTER
    return replace(
        known,
        verdict=verdict,
        sharpe_difference=difference,
        difference_se=spread.se * annual,
        difference_low=spread.low * annual,
        difference_high=spread.high * annual,
        p_value=p_value,
    )


def _causes(folds: Sequence[ModelFold]) -> str:
    """How many of these folds count, and what is the matter with the others."""
    causes = Counter(
        (f.training_overlap if f.status in COMPUTED else f.status).value for f in folds if not f.counts
    )
    said = ", ".join(f"{n} {cause}" for cause, n in sorted(causes.items()))
    return f"{sum(f.counts for f in folds)} of {len(folds)}" + (f" ({said})" if said else "")


def champion_note(found: Comparison, champion_archive_id: str) -> str:
    """A comparison as a reason of a decision: a word, and after a colon the figures.

    Args:
        found: what came of it.
        champion_archive_id: the archive of the earlier model.
    """
    if found.sharpe_difference is None or found.p_value is None:
        return f"CHAMPION: not compared with {champion_archive_id}: {found.reason}"
    p_value = f"p {found.p_value:.2g}" if found.p_value >= _SMALLEST_SHOWN else f"p < {_SMALLEST_SHOWN}"
    low, high = found.difference_low, found.difference_high
    if found.verdict is Verdict.CHAMPION_BETTER and low is not None and high is not None:
        low, high = -high, -low
    figures = f"{INTERVAL * 100:.0f} % {low:.2f} .. {high:.2f}, {p_value}, {found.n_folds_compared} folds"
    if found.verdict is Verdict.NO_DIFFERENCE_SHOWN:
        words = f"no difference from {champion_archive_id} shown: Sharpe {found.sharpe_difference:+.2f}"
    elif found.verdict is Verdict.CHALLENGER_BETTER:
        words = f"challenger better than {champion_archive_id} by Sharpe {found.sharpe_difference:.2f}"
    else:
        words = f"champion {champion_archive_id} better by Sharpe {-found.sharpe_difference:.2f}"
    return f"CHAMPION: {words} ({figures})"
