"""Stage ``deployment_decisions``: LIVE, PAPER, RETRAIN or DROP for every model of an archive.

Here: what a decision is made from, and its row with the digests of all of it. Not here: the rules (core.decision).
The table is append-only; a decision whose inputs are those of the newest one is not written again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from postval_assets.core.decision import POLICIES, DecisionPolicy, ModelVerdict, Reason
from postval_assets.core.evaluation import code_version, digest_of
from postval_assets.core.folds import plan_named
from postval_assets.core.gating import Classification, Flag
from postval_assets.core.instruments import Timeframe
from postval_assets.core.walk_forward import summarize
from postval_assets.io.warehouse import Append, Update
from postval_assets.pipeline.evaluation import why_not_evaluated
from postval_assets.pipeline.market import resolve_as_of
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.summarizing import fold_outcome

_MODELS = """
SELECT m.*, g.classification, g.reason AS gate_reason, g.flags, g.thresholds_version, g.inputs_digest AS gate_digest,
       a.sha256 AS archive_sha256
FROM extracted_models m
JOIN training_archives a USING (archive_id)
LEFT JOIN gating_scores g USING (archive_id, symbol, timeframe)
WHERE m.archive_id = ?
"""
_OF_SYMBOL = (
    _MODELS
    + "AND m.symbol = ? AND list_contains(a.models, m.symbol || '_' || m.timeframe) ORDER BY m.timeframe"
)
# What has no usable symbol or timeframe belongs to no partition, and is decided with the archive.
_UNADDRESSED = (
    _MODELS + "AND NOT list_contains(a.models, m.symbol || '_' || m.timeframe) ORDER BY m.symbol, m.timeframe"
)
_FOLDS = """
SELECT * FROM fold_results
WHERE archive_id = ? AND symbol = ? AND timeframe = ? AND as_of = ?
ORDER BY plan, fold
"""
_NEWEST = """
SELECT plan, policy, as_of, arg_max(inputs_digest, created_at) AS inputs_digest FROM deployment_decisions
WHERE archive_id = ? AND symbol = ? AND timeframe = ?
GROUP BY plan, policy, as_of
"""


_FAILED_METRICS = frozenset({Flag.LOW_FITNESS, Flag.LOW_PF, Flag.LOW_CONSISTENCY, Flag.HIGH_DRAWDOWN})


def decide_models(
    platform: Platform, archives: Mapping[str, str], *, run_id: str, as_of: datetime | None = None
) -> StageReport:
    """Decide every model of these symbols over each plan that it was evaluated on.

    A model that was not evaluated at all gets its decision for each plan of the settings, without an as_of.

    Args:
        platform: settings and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows.
        as_of: the newest evaluation up to then is meant; default the newest of all.
    """
    rows: list[dict[str, object]] = []
    reports = []
    for symbol, archive_id in archives.items():
        decided = current = 0
        for model in platform.warehouse.rows(_OF_SYMBOL, (archive_id, symbol)):
            made = decision_rows(platform, model, as_of)
            new = _new_rows(platform, model, made)
            decided += len(made)
            current += len(made) - len(new)
            rows += new
        reports.append(SymbolReport(symbol, decided, current))
    _append(platform, rows, run_id)
    for archive_id in sorted(set(archives.values())):
        finish_archive(platform, archive_id, run_id=run_id)
    return StageReport(tuple(reports))


def finish_archive(platform: Platform, archive_id: str, *, run_id: str) -> bool:
    """Decide what belongs to no symbol's partition, and mark the archive COMPLETE where all is decided."""
    rows: list[dict[str, object]] = []
    for model in platform.warehouse.rows(_UNADDRESSED, (archive_id,)):
        rows += _new_rows(platform, model, decision_rows(platform, model, None))
    _append(platform, rows, run_id)
    return complete_archive(platform, archive_id, run_id=run_id)


def _new_rows(
    platform: Platform, model: Mapping[str, Any], made: Sequence[dict[str, object]]
) -> list[dict[str, object]]:
    """The decisions whose inputs are not those of the newest one that is stored."""
    key = (model["archive_id"], model["symbol"], model["timeframe"])
    newest = {
        (r["plan"], r["policy"], r["as_of"]): r["inputs_digest"]
        for r in platform.warehouse.rows(_NEWEST, key)
    }
    return [r for r in made if newest.get((r["plan"], r["policy"], r["as_of"])) != r["inputs_digest"]]


def _append(platform: Platform, rows: Sequence[dict[str, object]], run_id: str) -> None:
    if rows:
        platform.warehouse.write([Append("deployment_decisions", rows)], run_id=run_id, now=platform.now())


def decision_rows(
    platform: Platform, model: Mapping[str, Any], as_of: datetime | None
) -> list[dict[str, object]]:
    """The decisions of one model, one for each plan and policy."""
    at = None
    if model["timeframe"] in set(Timeframe):
        timeframe = Timeframe(model["timeframe"])
        at = resolve_as_of(platform, model["archive_id"], model["symbol"], timeframe, until=as_of)
    folds = (
        platform.warehouse.rows(_FOLDS, (model["archive_id"], model["symbol"], model["timeframe"], at))
        if at
        else []
    )
    by_plan: dict[str, list[Mapping[str, Any]]] = {}
    for fold in folds:
        by_plan.setdefault(fold["plan"], []).append(fold)
    verdict = ModelVerdict(
        usable=model["status"] == "OK",
        problem=model["reason"],
        classification=Classification(model["classification"]) if model["classification"] else None,
        gate_reason=_gate_reason(model),
        features_assumed=model["feature_set_basis"] == "ASSUMED",
        activation_assumed=model["activation_basis"] == "ASSUMED",
    )
    plans = list(by_plan) or list(platform.settings.plans)
    missing = None
    if not by_plan and model["feature_set"] is not None:
        missing = why_not_evaluated(platform, model["symbol"], timeframe, model["feature_set"], as_of)
    return [
        _row(platform, model, verdict, policy, plan, by_plan.get(plan, []), at if by_plan else None, missing)
        for plan in plans
        for policy in POLICIES.values()
    ]


def _row(
    platform: Platform,
    model: Mapping[str, Any],
    model_verdict: ModelVerdict,
    policy: DecisionPolicy,
    plan: str,
    folds: Sequence[Mapping[str, Any]],
    as_of: datetime | None,
    missing: str | None,
) -> dict[str, object]:
    limits = platform.settings.grade_limits
    outcomes = [fold_outcome(f) for f in folds]
    summary = None
    if folds:
        summary = summarize(outcomes, plan_named(plan).n_folds, folds[0]["bars_per_year"], limits)
    verdict = policy.decide(model_verdict, summary, outcomes, limits)
    reasons = list(verdict.reasons)
    if missing and reasons[0] == Reason.NO_EVIDENCE:
        reasons[0] = f"{Reason.NO_EVIDENCE}: {missing}"
    bars_digest = digest_of({"folds": [f["bars_digest"] for f in folds]}) if folds else None
    parts: dict[str, object] = {
        "archive": model["archive_sha256"],
        "model": model["model_sha256"],
        "status": [model["status"], model["reason"], model["feature_set_basis"], model["activation_basis"]],
        "gate": model["gate_digest"],
        "folds": [f["inputs_digest"] for f in folds],
        "missing": missing,
        "limits": repr(limits),
        "policy": [policy.name, policy.version],
    }
    return {
        "archive_id": model["archive_id"],
        "symbol": model["symbol"],
        "timeframe": model["timeframe"],
        "plan": plan,
        "as_of": as_of,
        "policy": policy.name,
        "policy_version": policy.version,
        "decision": verdict.decision.value,
        "reasons": reasons,
        "archive_sha256": model["archive_sha256"],
        "model_sha256": model["model_sha256"],
        "bars_digest": bars_digest,
        "settings_digest": platform.settings.evaluation_digest(),
        "thresholds_version": model["thresholds_version"],
        "code_version": code_version(),
        "inputs_digest": digest_of(parts),
    }


def _gate_reason(model: Mapping[str, Any]) -> str | None:
    """Why the gate refused it: the problem, or the flags of the metrics that failed (not those that only warn)."""
    if model["gate_reason"]:
        return str(model["gate_reason"])
    failed = [flag for flag in model["flags"] or [] if flag in _FAILED_METRICS]
    return ", ".join(failed) or None


def complete_archive(platform: Platform, archive_id: str, *, run_id: str) -> bool:
    """Mark an archive COMPLETE once every one of its models has a decision; returns whether it is."""
    found = platform.warehouse.rows(
        """
        SELECT a.status, len(a.models) AS n_listed,
               (SELECT count(*) FROM extracted_models m WHERE m.archive_id = a.archive_id
                AND list_contains(a.models, m.symbol || '_' || m.timeframe)) AS n_extracted,
               (SELECT count(*) FROM extracted_models m ANTI JOIN deployment_decisions d
                USING (archive_id, symbol, timeframe) WHERE m.archive_id = a.archive_id) AS n_undecided
        FROM training_archives a WHERE a.archive_id = ?
        """,
        (archive_id,),
    )
    if not found:
        return False
    row = found[0]
    complete = row["n_extracted"] == row["n_listed"] and row["n_undecided"] == 0
    if complete and row["status"] != "COMPLETE":
        change = Update("training_archives", {"archive_id": archive_id}, {"status": "COMPLETE"})
        platform.warehouse.write([change], run_id=run_id, now=platform.now())
    return bool(complete)
