"""An archive's models together: what the best of so many would show by luck, and whether the choice is overfitted.

Here: which folds count, their returns one after another, the models' Sharpe ratios brought to one scale, their returns
on one calendar. Not here: the formulas (evidence.py) or where folds and curves come from.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from postval_assets.core.evidence import (
    ReturnMoments,
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    probability_of_backtest_overfitting,
)
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.walk_forward import COMPUTED, FoldStatus

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Instants = npt.NDArray[np.datetime64]

MIN_PBO_MODELS = 10
PBO_BLOCKS = 8
MIN_BARS_PER_PBO_BLOCK = 10
COUNTED_OVERLAPS = (TrainingOverlap.OUT_OF_SAMPLE, TrainingOverlap.UNKNOWN)
"""Folds that count: an unknown training window is taken for out of sample, and the reasons say so."""


class EvidenceReason(StrEnum):
    """Why a figure is not defined or less than it seems; followed by its numbers after a colon."""

    TOO_FEW_MODELS = "TOO_FEW_MODELS"
    NO_COMMON_CALENDAR = "NO_COMMON_CALENDAR"
    NO_EVIDENCE = "NO_EVIDENCE"
    CONSTANT_RETURNS = "CONSTANT_RETURNS"
    NOT_OUT_OF_SAMPLE = "NOT_OUT_OF_SAMPLE"
    INCOMPLETE = "INCOMPLETE"
    TRAINING_WINDOW_UNKNOWN = "TRAINING_WINDOW_UNKNOWN"


def fold_counts(status: FoldStatus, training_overlap: TrainingOverlap) -> bool:
    """Whether a fold is evidence: computed, and on bars that the model was not trained on."""
    return status in COMPUTED and training_overlap in COUNTED_OVERLAPS


@dataclass(frozen=True, eq=False)
class FoldReturns:
    """Returns per bar of a model's folds, one after another.

    Attributes:
        closes: [return], when the bar of each return closed, UTC.
        returns: [return], simple.
    """

    closes: Instants
    returns: Float


def fold_returns(fold: Int, closes: Instants, equity: Float) -> FoldReturns:
    """Returns within folds; none leads from one fold to the next, since each starts with the full capital.

    Args:
        fold: [point], number of each point's fold, points of a fold together and in time order.
        closes: [point], when each point's bar closed, UTC.
        equity: [point]; positive, but for the last point of a fold in which all was lost.
    """
    inside = fold[1:] == fold[:-1]
    before, after = equity[:-1][inside], equity[1:][inside]
    return FoldReturns(closes[1:][inside], after / before - 1.0)


@dataclass(frozen=True)
class DeflatedSharpe:
    """A model's Sharpe ratio against the luck of the best; both annualised, so that models can be compared.

    Attributes:
        sharpe: measured.
        benchmark: what the best of the trials is expected to show without skill.
        dsr: probability that the true Sharpe ratio is above the benchmark; None where it is not defined.
    """

    sharpe: float
    benchmark: float
    dsr: float | None


def deflate(
    moments: Sequence[ReturnMoments], bars_per_year: Sequence[float], n_trials: int
) -> list[DeflatedSharpe]:
    """Deflated Sharpe ratio of each model of an archive.

    Models differ in their bars a year, so their variance is taken over annualised Sharpe ratios and brought to each
    model's frequency. It is never below 1 / (T - 1), the sampling variance of a Sharpe ratio of T returns without
    skill: models that resemble each other do not make luck smaller.

    Args:
        moments: of the models that have a Sharpe ratio.
        bars_per_year: of the same models.
        n_trials: models tried, these and those that are not here.
    """
    annual = np.array([m.sharpe * math.sqrt(b) for m, b in zip(moments, bars_per_year, strict=True)])
    across = float(annual.var(ddof=1)) if len(annual) >= 2 else 0.0
    deflated = []
    for m, per_year, sharpe in zip(moments, bars_per_year, annual, strict=True):
        variance = max(across / per_year, 1.0 / (m.n_obs - 1))
        deflated.append(
            DeflatedSharpe(
                sharpe=float(sharpe),
                benchmark=expected_maximum_sharpe(n_trials, variance) * math.sqrt(per_year),
                dsr=deflated_sharpe_ratio(m.sharpe, m.n_obs, m.skew, m.kurtosis, n_trials, variance),
            )
        )
    return deflated


def common_calendar(sparsest: FoldReturns, first_close: np.datetime64, last_close: np.datetime64) -> Instants:
    """Instants [bar + 1] between which the models' returns are compared.

    They are the closes of the model with the fewest bars, so that every return of the others falls into one of its
    bars: with models on the same bars these are the bars, with equities beside crypto the equities' bars.

    Args:
        sparsest: the model with the fewest bars.
        first_close: the first close that all models have reached.
        last_close: the last one.
    """
    inside = (sparsest.closes > first_close) & (sparsest.closes <= last_close)
    return np.concatenate([np.array([first_close], dtype=sparsest.closes.dtype), sparsest.closes[inside]])


def on_calendar(model: FoldReturns, calendar: Instants) -> Float:
    """A model's returns [bar] on a calendar [bar + 1]: the sum of those after one instant and up to the next."""
    earned = np.concatenate([[0.0], np.cumsum(model.returns)])
    return np.diff(earned[np.searchsorted(model.closes, calendar, side="right")])


@dataclass(frozen=True)
class Overfitting:
    """Probability of backtest overfitting, or the reason why there is none."""

    pbo: float | None
    reason: str | None


def overfitting(columns: Sequence[Float], n_evaluated: int) -> Overfitting:
    """Probability that choosing the best model is overfitting.

    Args:
        columns: returns [bar] of each model on the common calendar that all of them share.
        n_evaluated: models that have any folds that count, for the reason.
    """
    n_models = sum(len(column) > 0 and bool(np.ptp(column) > 0.0) for column in columns)
    if n_models < MIN_PBO_MODELS:
        return Overfitting(
            None,
            f"{EvidenceReason.TOO_FEW_MODELS}: {n_models} of {n_evaluated} evaluated models trade on a common "
            f"calendar with every fold, {MIN_PBO_MODELS} needed for pbo",
        )
    needed = PBO_BLOCKS * MIN_BARS_PER_PBO_BLOCK
    if len(columns[0]) < needed:
        return Overfitting(
            None,
            f"{EvidenceReason.NO_COMMON_CALENDAR}: {len(columns[0])} bars are common to {n_models} models, "
            f"{needed} needed for pbo",
        )
    return Overfitting(probability_of_backtest_overfitting(np.column_stack(columns), PBO_BLOCKS), None)


def model_reasons(
    folds: Sequence[tuple[FoldStatus, TrainingOverlap]], n_folds: int, moments: ReturnMoments | None
) -> tuple[str, ...]:
    """What a person must know of a model's part of the evidence.

    Args:
        folds: status and training overlap of each fold that has a row.
        n_folds: folds of the plan.
        moments: of the returns that count; None where they have none.
    """
    counted = sum(fold_counts(*fold) for fold in folds)
    computed = sum(status in COMPUTED for status, _ in folds)
    seen = [overlap for _, overlap in folds if overlap not in COUNTED_OVERLAPS]
    reasons: list[str] = []
    if not counted:
        reasons.append(f"{EvidenceReason.NO_EVIDENCE}: 0 of {n_folds} folds count")
    elif moments is None:
        reasons.append(f"{EvidenceReason.CONSTANT_RETURNS}: no Sharpe ratio")
    if seen:
        reasons.append(
            f"{EvidenceReason.NOT_OUT_OF_SAMPLE}: {len(seen)} of {n_folds} folds ({', '.join(sorted(set(seen)))})"
        )
    if computed < n_folds:
        reasons.append(f"{EvidenceReason.INCOMPLETE}: {computed} of {n_folds} folds computed")
    if any(s in COMPUTED and o is TrainingOverlap.UNKNOWN for s, o in folds):
        reasons.append(EvidenceReason.TRAINING_WINDOW_UNKNOWN)
    return tuple(reasons)


def archive_reasons(models: Collection[Sequence[str]]) -> tuple[str, ...]:
    """How many models each reason applies to, one text a reason."""
    counts = {word: sum(any(_word(r) == word for r in m) for m in models) for word in EvidenceReason}
    return tuple(
        f"{word}: {count} of {len(models)} models with folds" for word, count in counts.items() if count
    )


def _word(reason: str) -> str:
    return reason.partition(":")[0]
