"""How much a model's folds prove: the evidence columns of a summary. docs/evidence.md.

Here: the figures of one model over one plan, and the word for them together. Not here: resampling (bootstrap.py),
replays (action_replays.py), the published formulas (evidence.py), or what is decided from it (evidence_policy.py).

Only folds that count are evidence (archive_evidence.fold_counts); how many do not is said. What is not defined is
None, and None fails every condition.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

from postval_assets.core.action_replays import PlayedFold, ReplayFigures
from postval_assets.core.archive_evidence import fold_counts
from postval_assets.core.bootstrap import bootstrap_sharpe, seeded
from postval_assets.core.evidence import probabilistic_sharpe_ratio, return_moments
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.metrics import DAYS_PER_YEAR
from postval_assets.core.walk_forward import COMPUTED, FoldOutcome, at_least

Float = npt.NDArray[np.float64]

METHOD_VERSION = "1"
"""Raised when the same folds would give other figures."""

_NORMAL = NormalDist()


class Evidence(StrEnum):
    """How much the folds prove."""

    SHOWN = "SHOWN"
    WEAK = "WEAK"
    INSUFFICIENT = "INSUFFICIENT"
    CONTRADICTED = "CONTRADICTED"


class Condition(StrEnum):
    """What is asked of the evidence; the word of a reason, followed by the number and the one that was needed."""

    P_VALUE_ARCHIVE = "P_VALUE_ARCHIVE"
    P_VALUE = "P_VALUE"
    POSITIVE_SHARE = "POSITIVE_SHARE"
    CONSISTENCY_RATIO = "CONSISTENCY_RATIO"
    NULL_PERCENTILE = "NULL_PERCENTILE"
    BREAK_EVEN_COST = "BREAK_EVEN_COST"
    LAG_RETURN = "LAG_RETURN"
    RETURN_SUM = "RETURN_SUM"
    NOT_COUNTED = "NOT_COUNTED"
    REPLAY_DIFFERS = "REPLAY_DIFFERS"


@dataclass(frozen=True)
class EvidenceLimits:
    """Limits of policy ``evidence``; the defaults are those of docs/evidence.md.

    Attributes:
        live_p_value_archive: largest p_value_archive for LIVE.
        live_positive_share: smallest share of positive folds for LIVE.
        live_consistency_ratio: largest consistency_ratio for LIVE.
        live_null_percentile: smallest null_percentile for LIVE.
        live_break_even: smallest break-even cost for LIVE, as a multiple of the assumed one.
        paper_counted_share: smallest share of folds that count for PAPER.
        paper_p_value: largest p_value for PAPER.
        paper_null_percentile: smallest null_percentile for PAPER.
    """

    live_p_value_archive: float = 0.05
    live_positive_share: float = 0.60
    live_consistency_ratio: float = 1.5
    live_null_percentile: float = 0.95
    live_break_even: float = 2.0
    paper_counted_share: float = 0.5
    paper_p_value: float = 0.20
    paper_null_percentile: float = 0.80


@dataclass(frozen=True)
class SharpeEvidence:
    """What the returns of the folds that count say; annualised but for skew and kurtosis. None: not defined.

    Attributes:
        n_counted: folds that count.
        n_out_of_sample: of these, folds that are known to be out of sample.
        n_returns: returns per bar in them.
        counted_return: sum of their total returns.
        sharpe, bootstrap_se, bootstrap_low, bootstrap_high: with the spread and the 90 % interval of its bootstrap.
        p_value: chance of a Sharpe ratio this high without skill.
        n_trials: models that were tried.
        p_value_archive: chance that the best of so many reaches it without skill (Sidak).
        psr: probabilistic Sharpe ratio against 0, independent returns.
        track_record_days: of the returns at hand.
        min_track_record_days: needed at this Sharpe ratio for p_value_archive to reach its limit.
        consistency_ratio: spread of the folds' Sharpe ratios / the spread that sampling alone gives them.
    """

    n_counted: int
    n_out_of_sample: int
    n_returns: int
    counted_return: float | None
    sharpe: float | None
    bootstrap_se: float | None
    bootstrap_low: float | None
    bootstrap_high: float | None
    p_value: float | None
    n_trials: int
    p_value_archive: float | None
    psr: float | None
    track_record_days: float | None
    min_track_record_days: float | None
    consistency_ratio: float | None


@dataclass(frozen=True)
class WalkForwardEvidence:
    """The evidence columns of one model over one plan.

    Attributes:
        returns: what the returns say.
        replays: what the model's actions gave when replayed; None where they could not be.
        evidence: the word for all of it.
        reasons: every condition that failed, with its number and the one that was needed.
    """

    returns: SharpeEvidence
    replays: ReplayFigures | None
    evidence: Evidence
    reasons: tuple[str, ...]


def sharpe_evidence(
    folds: Sequence[FoldOutcome],
    curves: Mapping[int, Float],
    *,
    bars_per_year: float,
    model_sha256: str,
    n_trials: int,
    limits: EvidenceLimits,
) -> SharpeEvidence:
    """What the returns of a model's folds say.

    Args:
        folds: of the plan.
        curves: equity [point] of each fold that counts, by its number.
        bars_per_year: measured over the plan's window.
        model_sha256: seeds the bootstrap.
        n_trials: models that were tried to find this one, at least 1.
        limits: p_value_archive that min_track_record_days is about.
    """
    counted = [f for f in folds if fold_counts(f.status, f.training_overlap)]
    parts = [np.diff(curves[f.fold]) / curves[f.fold][:-1] for f in counted]
    lengths = [len(part) for part in parts if len(part)]
    returns = np.concatenate([np.empty(0), *parts])
    annual = math.sqrt(bars_per_year)
    moments = return_moments(returns)
    spread = bootstrap_sharpe(returns, lengths, seeded(model_sha256, "bootstrap")) if moments else None
    sharpe = moments.sharpe if moments else None
    se = spread.se if spread and spread.se > 0.0 else None
    p_value = None if sharpe is None or se is None else _NORMAL.cdf(-sharpe / se)
    days = len(returns) / bars_per_year * DAYS_PER_YEAR if len(returns) else None
    return SharpeEvidence(
        n_counted=len(counted),
        n_out_of_sample=sum(f.training_overlap is TrainingOverlap.OUT_OF_SAMPLE for f in counted),
        n_returns=len(returns),
        counted_return=sum(f.total_return or 0.0 for f in counted) if counted else None,
        sharpe=None if sharpe is None else sharpe * annual,
        bootstrap_se=None if spread is None else spread.se * annual,
        bootstrap_low=None if spread is None else spread.low * annual,
        bootstrap_high=None if spread is None else spread.high * annual,
        p_value=p_value,
        n_trials=n_trials,
        p_value_archive=None if p_value is None else best_of(p_value, n_trials),
        psr=(
            probabilistic_sharpe_ratio(moments.sharpe, moments.n_obs, moments.skew, moments.kurtosis)
            if moments
            else None
        ),
        track_record_days=days,
        min_track_record_days=_days_needed(sharpe, se, days, n_trials, limits.live_p_value_archive),
        consistency_ratio=consistency_ratio(counted, bars_per_year),
    )


def best_of(p_value: float, n_trials: int) -> float:
    """The chance that the best of so many independent trials has a p-value this small: Sidak, 1 - (1 - p)^N."""
    if p_value >= 1.0:
        return 1.0
    return -math.expm1(n_trials * math.log1p(-p_value))


def p_value_needed(p_value_archive: float, n_trials: int) -> float:
    """The p-value of one trial whose ``best_of`` is this."""
    return -math.expm1(math.log1p(-p_value_archive) / n_trials)


def _days_needed(
    sharpe: float | None, se: float | None, days: float | None, n_trials: int, p_value_archive: float
) -> float | None:
    """Days at this Sharpe ratio until its z is enough; the bootstrap's spread shrinks with the root of the days."""
    if sharpe is None or se is None or days is None or sharpe <= 0.0:
        return None
    needed = -_NORMAL.inv_cdf(p_value_needed(p_value_archive, n_trials)) * se / sharpe
    return days * needed * needed


def consistency_ratio(folds: Sequence[FoldOutcome], bars_per_year: float) -> float | None:
    """Spread (ddof 1) of the folds' Sharpe ratios over what sampling alone gives; None for fewer than two."""
    sharpes = [f.sharpe for f in folds if f.sharpe is not None]
    if len(sharpes) < 2:
        return None
    expected = math.sqrt(bars_per_year / float(np.mean([f.n_bars for f in folds])))
    return float(np.std(sharpes, ddof=1)) / expected


def weighed(
    returns: SharpeEvidence,
    replays: ReplayFigures | None,
    folds: Sequence[FoldOutcome],
    *,
    n_folds: int,
    limits: EvidenceLimits,
    problem: str | None = None,
) -> WalkForwardEvidence:
    """All figures together, and the word for them.

    CONTRADICTED where losing is shown; SHOWN where every condition of LIVE that is about evidence holds; INSUFFICIENT
    where the Sharpe ratio is positive and more days are needed, or where nothing counts; else WEAK.

    Args:
        returns: of the folds that count.
        replays: of the same folds.
        folds: of the plan, computed or not.
        n_folds: folds of the plan.
        limits: of the conditions.
        problem: why the actions could not be replayed.
    """
    counted = [f for f in folds if fold_counts(f.status, f.training_overlap)]
    failed = list(failed_conditions(returns, replays, positive_share(counted), limits))
    if problem is not None:
        failed.append(f"{Condition.REPLAY_DIFFERS}: {problem}")
    reasons = [*not_counted(folds, n_folds), *failed]
    return WalkForwardEvidence(returns, replays, _word(returns, counted, not failed), tuple(reasons))


def _word(returns: SharpeEvidence, counted: Sequence[FoldOutcome], holds: bool) -> Evidence:  # noqa: FBT001 - private
    if not counted:
        return Evidence.INSUFFICIENT
    if losing_is_shown(returns, counted):
        return Evidence.CONTRADICTED
    if holds:
        return Evidence.SHOWN
    days, needed = returns.track_record_days, returns.min_track_record_days
    return (
        Evidence.INSUFFICIENT if days is not None and needed is not None and needed > days else Evidence.WEAK
    )


def losing_is_shown(returns: SharpeEvidence, folds: Sequence[FoldOutcome]) -> bool:
    """Whether the interval of the Sharpe ratio lies below 0, or none of the computed folds made a profit."""
    computed = [f.total_return for f in folds if f.status in COMPUTED and f.total_return is not None]
    below = returns.bootstrap_high is not None and returns.bootstrap_high < 0.0
    return below or (bool(computed) and max(computed) <= 0.0)


def positive_share(folds: Sequence[FoldOutcome]) -> float | None:
    """Share of folds with a profit; None without folds."""
    if not folds:
        return None
    return sum(f.total_return is not None and f.total_return > 0.0 for f in folds) / len(folds)


def failed_conditions(
    returns: SharpeEvidence, replays: ReplayFigures | None, share: float | None, limits: EvidenceLimits
) -> tuple[str, ...]:
    """What LIVE asks of the evidence and is not there, with the number that was found and the one that was needed."""
    break_even = None if replays is None else replays.break_even_cost_bps
    assumed = None if replays is None else replays.assumed_cost_bps
    needed_bps = None if assumed is None else limits.live_break_even * assumed
    lag = None if replays is None else replays.lag_return
    null = None if replays is None else replays.null_percentile
    failed = []
    if not at_most(returns.p_value_archive, limits.live_p_value_archive):
        failed.append(
            f"{Condition.P_VALUE_ARCHIVE}: {_shown(returns.p_value_archive)} of {returns.n_trials} trials, "
            f"at most {limits.live_p_value_archive:g} needed"
        )
    if share is None or not at_least(share, limits.live_positive_share):
        failed.append(
            f"{Condition.POSITIVE_SHARE}: {_shown(share)}, at least {limits.live_positive_share:g} needed"
        )
    if not at_most(returns.consistency_ratio, limits.live_consistency_ratio):
        failed.append(
            f"{Condition.CONSISTENCY_RATIO}: {_shown(returns.consistency_ratio)}, "
            f"at most {limits.live_consistency_ratio:g} needed"
        )
    if null is None or null < limits.live_null_percentile:
        failed.append(
            f"{Condition.NULL_PERCENTILE}: {_shown(null)}, at least {limits.live_null_percentile:g} needed"
        )
    if break_even is None or needed_bps is None or break_even < needed_bps:
        wanted = (
            f"{limits.live_break_even:g} times the assumed" if needed_bps is None else f"{needed_bps:g} bps"
        )
        found = "undefined" if break_even is None else f"{break_even:.3g} bps"
        failed.append(f"{Condition.BREAK_EVEN_COST}: {found} a side, at least {wanted} needed")
    if lag is None or lag <= 0.0:
        failed.append(f"{Condition.LAG_RETURN}: {_percent(lag)} with orders a bar later, above 0 needed")
    return tuple(failed)


def not_counted(folds: Sequence[FoldOutcome], n_folds: int) -> tuple[str, ...]:
    """How many folds are no evidence, and why."""
    overlaps = [f for f in folds if f.status in COMPUTED and not fold_counts(f.status, f.training_overlap)]
    missing = n_folds - sum(f.status in COMPUTED for f in folds)
    said = []
    if overlaps:
        words = ", ".join(sorted({f.training_overlap for f in overlaps}))
        said.append(f"{len(overlaps)} of {n_folds} folds are not out of sample ({words})")
    if missing:
        said.append(f"{missing} of {n_folds} folds were not computed")
    return (f"{Condition.NOT_COUNTED}: {'; '.join(said)}",) if said else ()


def at_most(value: float | None, limit: float) -> bool:
    """``value <= limit``; what is not defined fails."""
    return value is not None and value <= limit


def _shown(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3g}"


def _percent(value: float | None) -> str:
    return "undefined" if value is None else f"{value:+.2%}"


def counted_folds(folds: Sequence[FoldOutcome], played: Sequence[PlayedFold]) -> list[PlayedFold]:
    """The traded folds that count."""
    numbers = {f.fold for f in folds if fold_counts(f.status, f.training_overlap)}
    return [p for p in played if p.fold in numbers]
