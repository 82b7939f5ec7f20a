"""The policies that decide: each one a named, versioned rule of the same findings.

Here: the list, and what comes after every rule. Not here: the rules (decision.py, evidence_policy.py).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from postval_assets.core.decision import Decision, ModelVerdict, Verdict, decide_standard
from postval_assets.core.evidence_policy import decide_evidence
from postval_assets.core.walk_forward import FoldOutcome, GradeLimits, WalkForwardSummary
from postval_assets.core.walk_forward_evidence import EvidenceLimits, WalkForwardEvidence


@dataclass(frozen=True)
class PolicyLimits:
    """The numbers of all policies."""

    grades: GradeLimits = field(default_factory=GradeLimits)
    evidence: EvidenceLimits = field(default_factory=EvidenceLimits)


@dataclass(frozen=True)
class PlanFindings:
    """What is known of a model over one plan.

    Attributes:
        summary: of the folds; None where it was not evaluated.
        evidence: what they prove; None where that was not weighed.
        folds: computed or not.
    """

    summary: WalkForwardSummary | None
    evidence: WalkForwardEvidence | None
    folds: Sequence[FoldOutcome]


Rule = Callable[[ModelVerdict, PlanFindings, PolicyLimits], Verdict]


@dataclass(frozen=True)
class DecisionPolicy:
    """A named, versioned rule.

    Attributes:
        name, version: in every row that it decided.
        rule: what it says of the folds alone.
        uses_evidence: whether the evidence is among what its decisions are made from.
    """

    name: str
    version: str
    rule: Rule
    uses_evidence: bool

    def decide(self, model: ModelVerdict, found: PlanFindings, limits: PolicyLimits) -> Verdict:
        """The decision: that of the rule, unless a model that is LIVE has lost its edge since."""
        verdict = self.rule(model, found, limits)
        if verdict.decision is Decision.LIVE and model.edge_lost is not None:
            return Verdict(Decision.RETRAIN, (model.edge_lost, *verdict.reasons))
        return verdict


def _standard(model: ModelVerdict, found: PlanFindings, limits: PolicyLimits) -> Verdict:
    return decide_standard(model, found.summary, found.folds, limits.grades)


def _evidence(model: ModelVerdict, found: PlanFindings, limits: PolicyLimits) -> Verdict:
    return decide_evidence(model, found.summary, found.evidence, found.folds, limits.evidence)


POLICIES: Mapping[str, DecisionPolicy] = {
    "standard": DecisionPolicy("standard", "2", _standard, uses_evidence=False),
    "evidence": DecisionPolicy("evidence", "1", _evidence, uses_evidence=True),
}
