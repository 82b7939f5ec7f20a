"""One decision from everything that it is made from: its row, and each of its inputs by name.

Here: pure functions; who decides now and who recomputes an old decision use the same ones. Not here: where the inputs
come from (deciding.py from the tables, replaying.py from archive, bars and settings), or the rules (core.decision).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.decision import ModelVerdict, Reason
from postval_assets.core.evaluation import code_version, digest_of
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.folds import plan_named
from postval_assets.core.gating import Classification, Flag
from postval_assets.core.instruments import AssetClass
from postval_assets.core.policies import DecisionPolicy, PlanFindings, PolicyLimits
from postval_assets.core.walk_forward import summarize
from postval_assets.core.walk_forward_evidence import WalkForwardEvidence
from postval_assets.pipeline.bar_checks import CheckedSeries
from postval_assets.pipeline.fold_rows import fold_outcome
from postval_assets.pipeline.recording import Content, Kind
from postval_assets.pipeline.summarizing import PlanFolds

Row = Mapping[str, Any]

_FAILED_METRICS = frozenset({Flag.LOW_FITNESS, Flag.LOW_PF, Flag.LOW_CONSISTENCY, Flag.HIGH_DRAWDOWN})
_MODEL = (
    *("status", "reason", "model_version", "feature_set", "feature_set_version", "feature_set_basis"),
    *("activation", "activation_basis", "train_start", "train_end"),
)
ID_DIGITS = 12


@dataclass(frozen=True, eq=False)
class DecisionBasis:
    """Everything that one decision is made from.

    Attributes:
        model: archive_id, symbol, timeframe; what extraction found (status, reason, model_sha256, feature_set and the
            rest of MODEL); archive_sha256; of the gate classification, gate_reason, flags, thresholds_version,
            gate_digest, claims_digest and thresholds_digest, None where there was no gate.
        verdict: what the policy is told of the model.
        policy: who decides.
        plan: over which folds.
        folds: with the columns of ``fold_results``; None where the model was not evaluated.
        missing: why it was not.
        evidence: what the folds prove; None where it was not weighed.
        evidence_digest: of what it was made from.
        limits: of the summary and the policies.
        settings_digest: of the settings in force, for a decision without folds.
        contents: of what else is in force.
        checked: which bars the warnings and errors of the verdict are about.
        asset_class: decides costs and sessions.
        feature_set: as it is registered; None where it is not.
    """

    model: Row
    verdict: ModelVerdict
    policy: DecisionPolicy
    plan: str
    folds: PlanFolds | None
    missing: str | None
    evidence: WalkForwardEvidence | None
    evidence_digest: str | None
    limits: PolicyLimits
    settings_digest: str
    contents: Sequence[Content]
    checked: CheckedSeries | None
    asset_class: AssetClass | None
    feature_set: FeatureSet | None


@dataclass(frozen=True)
class NamedInput:
    """An input of a decision: its digest, or itself where it is short, or both."""

    name: str
    digest: str | None = None
    value: object = None

    @property
    def text(self) -> str | None:
        """The value as the table has it."""
        return None if self.value is None else json.dumps(self.value, sort_keys=True, default=str)


def model_verdict(
    model: Row,
    *,
    bar_warnings: tuple[str, ...] = (),
    bar_errors: tuple[str, ...] = (),
    notes: tuple[str, ...] = (),
    edge_lost: str | None = None,
) -> ModelVerdict:
    """What a policy is told of a model; its attributes are those of DecisionBasis.model, and simulated_bars."""
    return ModelVerdict(
        usable=model["status"] == "OK",
        problem=model["reason"],
        classification=Classification(model["classification"]) if model["classification"] else None,
        gate_reason=_gate_reason(model),
        features_assumed=model["feature_set_basis"] == "ASSUMED",
        activation_assumed=model["activation_basis"] == "ASSUMED",
        simulated_bars=bool(model["simulated_bars"]),
        bar_warnings=bar_warnings,
        bar_errors=bar_errors,
        notes=notes,
        edge_lost=edge_lost,
    )


def is_missed(verdict: ModelVerdict) -> bool:
    """Whether a model without folds is missed: what is dropped unseen stays dropped when bars arrive."""
    passed = verdict.classification in (Classification.APPROVED, Classification.REVIEW)
    return verdict.usable and passed


def decision_row(basis: DecisionBasis) -> dict[str, object]:
    """The row of ``deployment_decisions``, without its id."""
    model, folds, policy = basis.model, basis.folds, basis.policy
    rows = folds.rows if folds is not None else ()
    outcomes = [fold_outcome(f) for f in rows]
    summary = None
    if rows:
        summary = summarize(
            outcomes, plan_named(basis.plan).n_folds, rows[0]["bars_per_year"], basis.limits.grades
        )
    found = PlanFindings(summary, basis.evidence, outcomes)
    verdict = policy.decide(basis.verdict, found, basis.limits)
    reasons = list(verdict.reasons)
    if basis.missing and reasons[0] == Reason.NO_EVIDENCE:
        reasons[0] = f"{Reason.NO_EVIDENCE}: {basis.missing}"
    bars_digest = digest_of({"folds": [f["bars_digest"] for f in rows]}) if rows else None
    parts: dict[str, object] = {
        "archive": model["archive_sha256"],
        "model": model["model_sha256"],
        "status": [model["status"], model["reason"], model["feature_set_basis"], model["activation_basis"]],
        "gate": model["gate_digest"],
        "folds": [f["inputs_digest"] for f in rows],
        "missing": basis.missing,
        # Which checks, not their figures: those move a little with every new bar.
        "bar_quality": [
            [words.partition(" ")[0] for words in found]
            for found in (basis.verdict.bar_warnings, basis.verdict.bar_errors)
        ],
        "limits": repr(basis.limits.grades),
        "policy": [policy.name, policy.version],
    }
    if policy.uses_evidence:
        parts["evidence"] = [basis.evidence_digest, repr(basis.limits.evidence)]
    # Only where there are any: a decision from before them has the same digest without.
    if basis.verdict.notes:
        parts["notes"] = basis.verdict.notes
    if basis.verdict.edge_lost is not None:
        parts["edge_lost"] = basis.verdict.edge_lost
    return {
        "archive_id": model["archive_id"],
        "symbol": model["symbol"],
        "timeframe": model["timeframe"],
        "plan": basis.plan,
        "as_of": folds.keys["as_of"] if folds is not None else None,
        "policy": policy.name,
        "policy_version": policy.version,
        "decision": verdict.decision.value,
        "reasons": reasons,
        "archive_sha256": model["archive_sha256"],
        "model_sha256": model["model_sha256"],
        "bars_digest": bars_digest,
        "settings_digest": _of_folds(rows, "settings_digest") or basis.settings_digest,
        "thresholds_version": model["thresholds_version"],
        "code_version": _of_folds(rows, "code_version") or code_version(),
        "folds_digest": folds.digest if folds is not None else None,
        "inputs_digest": digest_of(parts),
    }


def named_inputs(basis: DecisionBasis, row: Row) -> tuple[NamedInput, ...]:
    """Every input of the decision that ``decision_row`` made of the same basis."""
    model, verdict = basis.model, basis.verdict
    checked = basis.checked
    gate = {"classification": verdict.classification, "reason": verdict.gate_reason}
    quality = {
        "warnings": list(verdict.bar_warnings),
        "errors": list(verdict.bar_errors),
        "timeframe": checked.timeframe.value if checked else None,
        "first_ts": checked.first_ts.isoformat() if checked else None,
        "last_ts": checked.last_ts.isoformat() if checked else None,
        "bars_digest": checked.bars_digest if checked else None,
        "checked_at": checked.checked_at.isoformat() if checked and checked.checked_at else None,
    }
    registered = basis.feature_set
    return (
        NamedInput("archive", row["archive_sha256"]),
        NamedInput("weights", row["model_sha256"]),
        NamedInput("model", value={name: _plain(model[name]) for name in _MODEL}),
        NamedInput(
            "feature_set",
            value={"name": registered.name, "version": registered.version} if registered else None,
        ),
        NamedInput("asset_class", value=basis.asset_class.value if basis.asset_class else None),
        NamedInput("claims", model["claims_digest"]),
        NamedInput(Kind.THRESHOLDS.value, model["thresholds_digest"], model["thresholds_version"]),
        NamedInput("gate", model["gate_digest"], gate if model["classification"] else None),
        NamedInput("bars", row["bars_digest"]),
        NamedInput("bar_quality", value=quality),
        NamedInput("simulated_bars", value=verdict.simulated_bars),
        NamedInput("missing", value=basis.missing),
        NamedInput("folds", row["folds_digest"]),
        NamedInput("evidence", basis.evidence_digest if basis.policy.uses_evidence else None),
        NamedInput("notes", value=list(verdict.notes)),
        NamedInput("edge_lost", value=verdict.edge_lost),
        NamedInput(Kind.SETTINGS.value, row["settings_digest"]),
        NamedInput("code", value=row["code_version"]),
        NamedInput("deciding_code", value=code_version()),
        NamedInput("policy", value={"name": basis.policy.name, "version": basis.policy.version}),
        *(NamedInput(content.kind.value, content.digest) for content in basis.contents),
    )


def decision_id(row: Row, created_at: datetime) -> str:
    """The short name of a decision; migration 4 gives the same to those from before it.

    Args:
        row: of ``deployment_decisions``.
        created_at: of the row: the same model may be decided alike twice, with another decision between.
    """
    as_of = row["as_of"]
    parts = (
        *(row["archive_id"], row["symbol"], row["timeframe"], row["plan"] or ""),
        "" if as_of is None else str(_microseconds(as_of)),
        *(row["policy"], row["inputs_digest"] or ""),
        str(_microseconds(created_at)),
    )
    return hashlib.sha256("|".join(parts).encode()).hexdigest()[:ID_DIGITS]


def _microseconds(instant: datetime) -> int:
    """Since 1970, UTC; whole numbers all the way, which timestamp() is not."""
    since = instant - datetime.fromisoformat("1970-01-01T00:00:00+00:00")
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def _plain(value: object) -> object:
    return value.isoformat() if isinstance(value, datetime) else value


def _of_folds(rows: Sequence[Row], name: str) -> str | None:
    """What the folds were computed with: their one value, else a digest of all of them; None without folds."""
    values = sorted({str(f[name]) for f in rows})
    if not values:
        return None
    return values[0] if len(values) == 1 else digest_of({name: values})


def _gate_reason(model: Row) -> str | None:
    """Why the gate refused it: the problem, or the flags of the metrics that failed (not those that only warn)."""
    if model["gate_reason"]:
        return str(model["gate_reason"])
    failed = [flag for flag in model["flags"] or [] if flag in _FAILED_METRICS]
    return ", ".join(failed) or None
