"""LIVE, PAPER, RETRAIN or DROP: policy ``standard`` of rules.md section 6.

Here: the words of decisions, what they have in common, and this policy. Not here: the statistics behind them, policy
``evidence`` (evidence_policy.py), or the list of policies (policies.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.gating import Classification
from postval_assets.core.walk_forward import (
    COMPUTED,
    FoldOutcome,
    GradeLimits,
    WalkForwardSummary,
    at_least,
)


class Decision(StrEnum):
    """What happens to the model, best first."""

    LIVE = "LIVE"
    PAPER = "PAPER"
    RETRAIN = "RETRAIN"
    DROP = "DROP"


class Reason(StrEnum):
    """Why; a reason may be followed by details after a colon."""

    GATE_DROP = "GATE_DROP"
    GATE_INVALID = "GATE_INVALID"
    MODEL_NOT_OK = "MODEL_NOT_OK"
    NO_EVIDENCE = "NO_EVIDENCE"
    NO_TRADES = "NO_TRADES"
    CONSISTENT_LOSSES = "CONSISTENT_LOSSES"
    STEADY_PROFIT = "STEADY_PROFIT"
    MODERATE_PROFIT = "MODERATE_PROFIT"
    TOO_FEW_POSITIVE_FOLDS = "TOO_FEW_POSITIVE_FOLDS"
    UNSTABLE_SHARPE = "UNSTABLE_SHARPE"
    GATING_REVIEW = "GATING_REVIEW"
    NOT_OUT_OF_SAMPLE = "NOT_OUT_OF_SAMPLE"
    INCOMPLETE = "INCOMPLETE"
    ASSUMED_FEATURES = "ASSUMED_FEATURES"
    ASSUMED_ACTIVATION = "ASSUMED_ACTIVATION"
    TRAINING_WINDOW_UNKNOWN = "TRAINING_WINDOW_UNKNOWN"
    SIMULATED_BARS = "SIMULATED_BARS"
    BAR_QUALITY = "BAR_QUALITY"
    EDGE_LOST = "EDGE_LOST"
    EVIDENCE = "EVIDENCE"
    LOSSES_SHOWN = "LOSSES_SHOWN"


@dataclass(frozen=True)
class ModelVerdict:
    """What is known of a model before any fold.

    Attributes:
        usable: false for INCOMPATIBLE and REJECTED models.
        problem: why it is not usable.
        classification: of the gate; None where the gate has no row.
        gate_reason: why the gate dropped it.
        features_assumed, activation_assumed: whether these were only guessed.
        simulated_bars: whether its bars are the sample's, which are not a market's.
        bar_warnings: checks of its bars that warn, in words.
        bar_errors: checks that would stop an evaluation now, in words; its folds are from before.
        notes: what others found of it (its claims, its champion), as reasons that are always shown and decide nothing.
        edge_lost: that what it earned since it went LIVE is not what its folds promised, as the reason that turns
            LIVE into RETRAIN.
    """

    usable: bool
    problem: str | None
    classification: Classification | None
    gate_reason: str | None
    features_assumed: bool
    activation_assumed: bool
    simulated_bars: bool = False
    bar_warnings: tuple[str, ...] = ()
    bar_errors: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    edge_lost: str | None = None


@dataclass(frozen=True)
class Verdict:
    """A decision with every reason that applied, the deciding one first."""

    decision: Decision
    reasons: tuple[str, ...]


def decide_standard(
    model: ModelVerdict, summary: WalkForwardSummary | None, folds: Sequence[FoldOutcome], limits: GradeLimits
) -> Verdict:
    """Policy ``standard``: first match of the rules, then the caps.

    Args:
        model: gate and intake.
        summary: of the plan; None where the model was not evaluated.
        folds: of the plan, computed or not.
        limits: of positive share and Sharpe spread.
    """
    early = decided_before_folds(model, summary, folds)
    if early is not None or summary is None:
        return early or Verdict(Decision.RETRAIN, (Reason.NO_EVIDENCE,))
    forbids_live = caps(model, summary, folds)
    shown = (*forbids_live, *always_shown(model, summary, folds))
    computed = [f for f in folds if f.status in COMPUTED]
    if all(f.total_return is not None and f.total_return <= 0.0 for f in computed):
        return Verdict(Decision.DROP, (Reason.CONSISTENT_LOSSES, *shown))
    decision, why = _by_folds(summary, limits)
    if decision is Decision.LIVE and forbids_live:
        decision = Decision.PAPER
    return Verdict(decision, (*why, *shown))


def decided_before_folds(
    model: ModelVerdict, summary: WalkForwardSummary | None, folds: Sequence[FoldOutcome]
) -> Verdict | None:
    """Rules 1 and 2, which every policy has: a model that is refused, and one whose folds say nothing."""
    always = always_shown(model, summary, folds)
    if not model.usable:
        return Verdict(Decision.DROP, (f"{Reason.MODEL_NOT_OK}: {model.problem}", *always))
    if model.classification not in (Classification.APPROVED, Classification.REVIEW):
        dropped = model.classification is Classification.DROP
        name = Reason.GATE_DROP if dropped else Reason.GATE_INVALID
        return Verdict(Decision.DROP, (_with(name, model.gate_reason), *always))
    if summary is None:
        return Verdict(Decision.RETRAIN, (_with(Reason.NO_EVIDENCE, _first_problem(folds)), *always))
    shown = (*caps(model, summary, folds), *always)
    if summary.n_computed == 0:
        return Verdict(Decision.RETRAIN, (_with(Reason.NO_EVIDENCE, _first_problem(folds)), *shown))
    if not any(f.n_trades for f in folds if f.status in COMPUTED):
        return Verdict(Decision.RETRAIN, (Reason.NO_TRADES, *shown))
    return None


def _by_folds(summary: WalkForwardSummary, limits: GradeLimits) -> tuple[Decision, tuple[str, ...]]:
    """Rules 4 to 6: positive share and Sharpe spread."""
    share, std = summary.positive_share, summary.sharpe_std
    if at_least(share, limits.good_positive_share) and std is not None and std < limits.good_sharpe_std:
        return Decision.LIVE, (Reason.STEADY_PROFIT,)
    if (
        at_least(share, limits.marginal_positive_share)
        and std is not None
        and std <= limits.marginal_sharpe_std
    ):
        return Decision.PAPER, (Reason.MODERATE_PROFIT,)
    failed: list[str] = []
    if not at_least(share, limits.marginal_positive_share):
        failed.append(
            f"{Reason.TOO_FEW_POSITIVE_FOLDS}: {summary.positive_folds} of {summary.n_folds}, "
            f"{limits.marginal_positive_share:.0%} needed"
        )
    if std is None or std > limits.marginal_sharpe_std:
        found = "undefined" if std is None else f"{std:.2f}"
        failed.append(f"{Reason.UNSTABLE_SHARPE}: std {found}, at most {limits.marginal_sharpe_std:g} needed")
    return Decision.RETRAIN, tuple(failed)


def caps(model: ModelVerdict, summary: WalkForwardSummary, folds: Sequence[FoldOutcome]) -> tuple[str, ...]:
    """Reasons that forbid LIVE, whether or not LIVE was reached."""
    seen = {f.training_overlap for f in folds}
    not_fresh = seen & {TrainingOverlap.IN_TRAIN, TrainingOverlap.OVERLAP, TrainingOverlap.BEFORE_TRAIN}
    caps: list[str] = []
    if model.classification is Classification.REVIEW:
        caps.append(Reason.GATING_REVIEW)
    if not_fresh:
        count = sum(f.training_overlap in not_fresh for f in folds)
        caps.append(
            f"{Reason.NOT_OUT_OF_SAMPLE}: {count} of {summary.n_folds} folds ({', '.join(sorted(not_fresh))})"
        )
    if summary.n_computed < summary.n_folds:
        caps.append(_with(Reason.INCOMPLETE, f"{summary.n_computed} of {summary.n_folds} folds computed"))
    if model.features_assumed:
        caps.append(Reason.ASSUMED_FEATURES)
    if model.activation_assumed:
        caps.append(Reason.ASSUMED_ACTIVATION)
    if model.bar_errors and summary.n_computed:
        caps.append(_with(Reason.BAR_QUALITY, f"ERROR: {', '.join(model.bar_errors)}"))
    return tuple(caps)


def always_shown(
    model: ModelVerdict, summary: WalkForwardSummary | None, folds: Sequence[FoldOutcome]
) -> tuple[str, ...]:
    """Reasons that decide nothing and belong to every decision."""
    reasons: list[str] = list(summary.reasons) if summary is not None else []
    if any(f.training_overlap is TrainingOverlap.UNKNOWN and f.n_bars for f in folds):
        reasons.append(Reason.TRAINING_WINDOW_UNKNOWN)
    if folds and model.simulated_bars:
        reasons.append(Reason.SIMULATED_BARS)
    if folds and model.bar_warnings:
        reasons.append(_with(Reason.BAR_QUALITY, ", ".join(model.bar_warnings)))
    return (*reasons, *model.notes)


def _first_problem(folds: Sequence[FoldOutcome]) -> str | None:
    """The first fold that was not computed, with its reason."""
    for fold in folds:
        if fold.status not in COMPUTED:
            return f"{fold.status}, {fold.reason}" if fold.reason else str(fold.status)
    return None


def _with(reason: Reason, detail: str | None) -> str:
    return f"{reason}: {detail}" if detail else str(reason)
