"""LIVE, PAPER, RETRAIN or DROP by what the folds prove: policy ``evidence``. docs/evidence.md.

Here: the rule. Not here: its figures (walk_forward_evidence.py), the other policy and the words (decision.py), or how
often it errs (docs/calibration.md).
"""

from __future__ import annotations

from collections.abc import Sequence

from postval_assets.core.decision import (
    Decision,
    ModelVerdict,
    Reason,
    Verdict,
    always_shown,
    caps,
    decided_before_folds,
)
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.walk_forward import COMPUTED, FoldOutcome, WalkForwardSummary, at_least
from postval_assets.core.walk_forward_evidence import (
    Condition,
    EvidenceLimits,
    WalkForwardEvidence,
    at_most,
    losing_is_shown,
)


def decide_evidence(
    model: ModelVerdict,
    summary: WalkForwardSummary | None,
    evidence: WalkForwardEvidence | None,
    folds: Sequence[FoldOutcome],
    limits: EvidenceLimits,
) -> Verdict:
    """Policy ``evidence``: first match of the rules; every condition that failed is a reason.

    Args:
        model: gate and intake.
        summary: of the plan; None where the model was not evaluated.
        evidence: of the plan; None where it was not weighed, which fails every condition.
        folds: of the plan, computed or not.
        limits: of the conditions.
    """
    early = decided_before_folds(model, summary, folds)
    if early is not None or summary is None:
        return early or Verdict(Decision.RETRAIN, (Reason.NO_EVIDENCE,))
    always = always_shown(model, summary, folds)
    forbids_live = caps(model, summary, folds)
    unknown = any(f.training_overlap is TrainingOverlap.UNKNOWN and f.status in COMPUTED for f in folds)
    if evidence is None:
        return Verdict(Decision.RETRAIN, (f"{Reason.EVIDENCE}: not weighed yet", *forbids_live, *always))
    found = _in_words(evidence)
    not_live = (*evidence.reasons, *forbids_live)
    if not not_live and not unknown:
        return Verdict(Decision.LIVE, (found, *always))
    not_paper = _failed_for_paper(evidence, summary.n_folds, limits)
    if not not_paper:
        return Verdict(Decision.PAPER, (found, *not_live, *always))
    if losing_is_shown(evidence.returns, folds):
        return Verdict(Decision.DROP, (_losses(evidence), found, *not_live, *not_paper, *always))
    return Verdict(Decision.RETRAIN, (found, *not_live, *not_paper, *always))


def _in_words(evidence: WalkForwardEvidence) -> str:
    returns = evidence.returns
    if returns.sharpe is None or returns.bootstrap_low is None or returns.bootstrap_high is None:
        return f"{Reason.EVIDENCE}: {evidence.evidence}, no Sharpe ratio over {returns.n_counted} folds that count"
    chance = "" if returns.p_value is None else f", p {returns.p_value:.2g}"
    return (
        f"{Reason.EVIDENCE}: {evidence.evidence}, Sharpe {returns.sharpe:.2f} over {returns.n_counted} folds that "
        f"count (90 % {returns.bootstrap_low:.2f} .. {returns.bootstrap_high:.2f}){chance}"
    )


def _losses(evidence: WalkForwardEvidence) -> str:
    high = evidence.returns.bootstrap_high
    if high is not None and high < 0.0:
        return f"{Reason.LOSSES_SHOWN}: Sharpe at most {high:.2f} (90 %)"
    return str(Reason.CONSISTENT_LOSSES)


def _failed_for_paper(evidence: WalkForwardEvidence, n_folds: int, limits: EvidenceLimits) -> tuple[str, ...]:
    """What PAPER asks for and is not there."""
    returns = evidence.returns
    null = None if evidence.replays is None else evidence.replays.null_percentile
    failed = []
    if not at_least(returns.n_counted / n_folds, limits.paper_counted_share):
        failed.append(
            f"{Condition.NOT_COUNTED}: {returns.n_counted} of {n_folds} folds count, "
            f"{limits.paper_counted_share:.0%} needed for PAPER"
        )
    if not at_most(returns.p_value, limits.paper_p_value):
        found = "undefined" if returns.p_value is None else f"{returns.p_value:.3g}"
        failed.append(f"{Condition.P_VALUE}: {found}, at most {limits.paper_p_value:g} needed for PAPER")
    if null is None or null < limits.paper_null_percentile:
        found = "undefined" if null is None else f"{null:.3g}"
        failed.append(
            f"{Condition.NULL_PERCENTILE}: {found}, at least {limits.paper_null_percentile:g} needed for PAPER"
        )
    if returns.counted_return is None or returns.counted_return <= 0.0:
        found = "undefined" if returns.counted_return is None else f"{returns.counted_return:+.2%}"
        failed.append(f"{Condition.RETURN_SUM}: {found}, above 0 needed for PAPER")
    return tuple(failed)
