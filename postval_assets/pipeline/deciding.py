"""Stage ``deployment_decisions``: LIVE, PAPER, RETRAIN or DROP for every model of an archive.

Here: what a decision is made from, and its row with the digests of all of it. Not here: the rules (core.decision).
The table is append-only; a decision whose inputs are those of the newest one is not written again. One about an
earlier evaluation is only made anew where its folds are others: what else has changed since is not about it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.decision import POLICIES, DecisionPolicy, ModelVerdict, Reason
from postval_assets.core.evaluation import code_version, digest_of
from postval_assets.core.folds import plan_named
from postval_assets.core.gating import Classification, Flag
from postval_assets.core.instruments import Timeframe
from postval_assets.core.walk_forward import summarize
from postval_assets.io.warehouse import Append, Update
from postval_assets.pipeline.bar_checks import BarVerdicts
from postval_assets.pipeline.fold_jobs import why_not_evaluated
from postval_assets.pipeline.instants import WANTED, ModelKey, model_key, wanted
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.stopwatch import timed_stage
from postval_assets.pipeline.summarizing import PlanFolds, fold_outcome, stored_folds

_COLUMNS = """
SELECT m.archive_id, m.symbol, m.timeframe, m.status, m.reason, m.model_sha256, m.feature_set, m.feature_set_basis,
       m.activation_basis, g.classification, g.reason AS gate_reason, g.flags, g.thresholds_version,
       g.inputs_digest AS gate_digest, a.sha256 AS archive_sha256,
       EXISTS (SELECT 1 FROM bar_loads b WHERE b.symbol = m.symbol AND b.status = 'OK' AND b.source = 'sample')
         AS simulated_bars
FROM extracted_models m
JOIN training_archives a USING (archive_id)
LEFT JOIN gating_scores g USING (archive_id, symbol, timeframe)
"""
_MODELS = f"""{_COLUMNS}
JOIN {WANTED} w ON w.archive_id = m.archive_id AND w.symbol = m.symbol
WHERE list_contains(a.models, m.symbol || '_' || m.timeframe)
ORDER BY m.timeframe
"""
# What has no usable symbol or timeframe belongs to no partition, and is decided with the archive.
_UNADDRESSED = f"""{_COLUMNS}
WHERE m.archive_id = ? AND NOT list_contains(a.models, m.symbol || '_' || m.timeframe)
ORDER BY m.symbol, m.timeframe
"""
_NEWEST = """
SELECT archive_id, symbol, timeframe, plan, policy, as_of, arg_max(inputs_digest, created_at) AS inputs_digest,
       arg_max(folds_digest, created_at) AS folds_digest
FROM deployment_decisions WHERE list_contains(?, archive_id) AND list_contains(?, symbol)
GROUP BY archive_id, symbol, timeframe, plan, policy, as_of
"""

Row = Mapping[str, Any]

_FAILED_METRICS = frozenset({Flag.LOW_FITNESS, Flag.LOW_PF, Flag.LOW_CONSISTENCY, Flag.HIGH_DRAWDOWN})


@timed_stage("deployment_decisions")
def decide_models(
    platform: Platform, archives: Mapping[str, str], *, run_id: str, as_of: datetime | None = None
) -> StageReport:
    """Decide every model of these symbols over each plan that it was evaluated on.

    Earlier evaluations are decided as well where they have folds that no decision was made from. A model that was
    not evaluated at all gets its decision for each plan of the settings, without an as_of.

    Args:
        platform: settings and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows.
        as_of: the newest evaluation up to then is meant; default the newest of all.
    """
    models = platform.warehouse.rows(_MODELS, wanted(archives))
    made = _decisions(platform, models, stored_folds(platform, archives, until=as_of), as_of)
    _append(platform, [row for _, _, new in made for row in new], run_id)
    for archive_id in sorted(set(archives.values())):
        finish_archive(platform, archive_id, run_id=run_id)
    reports = []
    for symbol in archives:
        counts = [(n_made, n_made - len(new)) for model, n_made, new in made if model["symbol"] == symbol]
        said = [line for model, _, new in made if model["symbol"] == symbol for line in _said(new)]
        reports.append(
            SymbolReport(symbol, sum(n for n, _ in counts), sum(n for _, n in counts), said=tuple(said))
        )
    return StageReport(tuple(reports))


def _said(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """New decisions as lines for the asset catalogue."""
    return [
        f"{r['timeframe']} {r['plan']} ({r['policy']}): {r['decision']}, {'; '.join(r['reasons'])}"
        for r in rows
    ]


def finish_archive(platform: Platform, archive_id: str, *, run_id: str) -> bool:
    """Decide what belongs to no symbol's partition, and mark the archive COMPLETE where all is decided."""
    models = platform.warehouse.rows(_UNADDRESSED, (archive_id,))
    made = _decisions(platform, models, {}, None)
    _append(platform, [row for _, _, new in made for row in new], run_id)
    return complete_archive(platform, archive_id, run_id=run_id)


@dataclass(frozen=True)
class _Known:
    """What the newest stored decision was made from."""

    inputs_digest: str
    folds_digest: str | None


def _decisions(
    platform: Platform,
    models: Sequence[Row],
    folds: Mapping[ModelKey, Sequence[PlanFolds]],
    as_of: datetime | None,
) -> list[tuple[Row, int, list[dict[str, object]]]]:
    """For each model how many decisions it has, and the rows of those that are to be written."""
    if not models:
        return []
    symbols = sorted({m["symbol"] for m in models})
    rows = platform.warehouse.rows(_NEWEST, (sorted({m["archive_id"] for m in models}), symbols))
    known: dict[tuple[object, ...], _Known] = {
        (*model_key(r), r["plan"], r["policy"], r["as_of"]): _Known(r["inputs_digest"], r["folds_digest"])
        for r in rows
    }
    bars = ModelBars(platform, symbols)
    verdicts = BarVerdicts(platform, bars, symbols)
    return [
        (model, *_of_model(platform, model, folds.get(model_key(model), ()), known, bars, verdicts, as_of))
        for model in models
    ]


def _of_model(
    platform: Platform,
    model: Row,
    evaluated: Sequence[PlanFolds],
    known: Mapping[tuple[object, ...], _Known],
    bars: ModelBars,
    verdicts: BarVerdicts,
    as_of: datetime | None,
) -> tuple[int, list[dict[str, object]]]:
    unseen = ModelVerdict(
        usable=model["status"] == "OK",
        problem=model["reason"],
        classification=Classification(model["classification"]) if model["classification"] else None,
        gate_reason=_gate_reason(model),
        features_assumed=model["feature_set_basis"] == "ASSUMED",
        activation_assumed=model["activation_basis"] == "ASSUMED",
        simulated_bars=bool(model.get("simulated_bars")),
    )
    missing = None
    # Only a model that the gate lets pass is missed: what is dropped unseen stays dropped when bars arrive.
    passed = unseen.classification in (Classification.APPROVED, Classification.REVIEW)
    if not evaluated and unseen.usable and passed:
        timeframe = Timeframe(model["timeframe"])
        missing = why_not_evaluated(platform, bars, model["symbol"], timeframe, model["feature_set"], as_of)
    n_made = 0
    new = []
    for plan, folds in _plans(platform, evaluated):
        at = folds.keys["as_of"] if folds is not None else None
        verdict = unseen
        if isinstance(at, datetime):
            of = (str(model["symbol"]), Timeframe(model["timeframe"]), at)
            verdict = dataclasses.replace(
                unseen, bar_warnings=verdicts.warnings(*of), bar_errors=verdicts.errors(*of)
            )
        for policy in POLICIES.values():
            stored = known.get((*model_key(model), plan, policy.name, at))
            if folds is not None and not folds.is_newest and stored and stored.folds_digest == folds.digest:
                continue
            row = _row(platform, model, verdict, policy, plan, folds, missing)
            n_made += 1
            if stored is None or stored.inputs_digest != row["inputs_digest"]:
                new.append(row)
    return n_made, new


def _plans(platform: Platform, evaluated: Sequence[PlanFolds]) -> list[tuple[str, PlanFolds | None]]:
    """The plans of each evaluation; those of the settings for a model that was not evaluated."""
    if not evaluated:
        return [(plan, None) for plan in platform.settings.plans]
    return [(str(folds.keys["plan"]), folds) for folds in evaluated]


def _append(platform: Platform, rows: Sequence[dict[str, object]], run_id: str) -> None:
    if rows:
        platform.warehouse.write([Append("deployment_decisions", rows)], run_id=run_id, now=platform.now())


def _row(
    platform: Platform,
    model: Row,
    model_verdict: ModelVerdict,
    policy: DecisionPolicy,
    plan: str,
    folds: PlanFolds | None,
    missing: str | None,
) -> dict[str, object]:
    limits = platform.settings.grade_limits
    rows = folds.rows if folds is not None else ()
    outcomes = [fold_outcome(f) for f in rows]
    summary = None
    if rows:
        summary = summarize(outcomes, plan_named(plan).n_folds, rows[0]["bars_per_year"], limits)
    verdict = policy.decide(model_verdict, summary, outcomes, limits)
    reasons = list(verdict.reasons)
    if missing and reasons[0] == Reason.NO_EVIDENCE:
        reasons[0] = f"{Reason.NO_EVIDENCE}: {missing}"
    bars_digest = digest_of({"folds": [f["bars_digest"] for f in rows]}) if rows else None
    parts: dict[str, object] = {
        "archive": model["archive_sha256"],
        "model": model["model_sha256"],
        "status": [model["status"], model["reason"], model["feature_set_basis"], model["activation_basis"]],
        "gate": model["gate_digest"],
        "folds": [f["inputs_digest"] for f in rows],
        "missing": missing,
        # Which checks, not their figures: those move a little with every new bar.
        "bar_quality": [
            [words.partition(" ")[0] for words in found]
            for found in (model_verdict.bar_warnings, model_verdict.bar_errors)
        ],
        "limits": repr(limits),
        "policy": [policy.name, policy.version],
    }
    return {
        "archive_id": model["archive_id"],
        "symbol": model["symbol"],
        "timeframe": model["timeframe"],
        "plan": plan,
        "as_of": folds.keys["as_of"] if folds is not None else None,
        "policy": policy.name,
        "policy_version": policy.version,
        "decision": verdict.decision.value,
        "reasons": reasons,
        "archive_sha256": model["archive_sha256"],
        "model_sha256": model["model_sha256"],
        "bars_digest": bars_digest,
        "settings_digest": _of_folds(rows, "settings_digest") or platform.settings.evaluation_digest(),
        "thresholds_version": model["thresholds_version"],
        "code_version": _of_folds(rows, "code_version") or code_version(),
        "folds_digest": folds.digest if folds is not None else None,
        "inputs_digest": digest_of(parts),
    }


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
