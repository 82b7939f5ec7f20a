"""Stage ``deployment_decisions``: LIVE, PAPER, RETRAIN or DROP for every model of an archive.

Here: which models are decided, from which tables, and what is written of it. Not here: a single decision
(decision_rows.py), or the rules (core.decision). The table is append-only; a decision whose inputs are those of the
newest one is not written again. One about an earlier evaluation is only made anew where its folds are others: what else
has changed since is not about it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.instruments import Timeframe
from postval_assets.core.policies import POLICIES
from postval_assets.io.warehouse import Append, Change, Merge, Update
from postval_assets.pipeline.bar_checks import BarVerdicts
from postval_assets.pipeline.decision_rows import (
    DecisionBasis,
    NamedInput,
    decision_id,
    decision_row,
    is_missed,
    model_verdict,
    named_inputs,
)
from postval_assets.pipeline.fold_jobs import why_not_evaluated
from postval_assets.pipeline.instants import WANTED, ModelKey, PlanKey, model_key, plan_key, wanted
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.notes import champion_notes, claim_notes
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.recording import Content, decision_contents, execution_content, keep
from postval_assets.pipeline.stopwatch import timed_stage
from postval_assets.pipeline.summarizing import PlanFolds, StoredEvidence, stored_evidence, stored_folds
from postval_assets.pipeline.watched import edges_lost

_COLUMNS = """
SELECT m.archive_id, m.symbol, m.timeframe, m.status, m.reason, m.model_sha256, m.model_version, m.feature_set,
       m.feature_set_version, m.feature_set_basis, m.activation, m.activation_basis,
       coalesce(m.train_start, a.train_start) AS train_start, coalesce(m.train_end, a.train_end) AS train_end,
       g.classification, g.reason AS gate_reason, g.flags, g.thresholds_version, g.inputs_digest AS gate_digest,
       g.claims_digest, g.thresholds_digest, a.sha256 AS archive_sha256,
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
SELECT archive_id, symbol, timeframe, plan, policy, as_of, inputs_digest, folds_digest
FROM deployment_decisions WHERE list_contains(?, archive_id) AND list_contains(?, symbol)
QUALIFY row_number() OVER (
    PARTITION BY archive_id, symbol, timeframe, plan, policy, as_of ORDER BY revision DESC NULLS LAST, created_at DESC
) = 1
"""
_FOLDS_TO_KEEP = f"""
WITH grouped AS (
    SELECT f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan,
           sha256(string_agg(f.inputs_digest, ',' ORDER BY f.fold)) AS folds_digest
    FROM fold_results f JOIN {WANTED} w USING (archive_id, symbol)
    GROUP BY f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan
)
SELECT g.folds_digest, f.* EXCLUDE (archive_id, symbol, timeframe, as_of, n_folds, run_id, created_at)
FROM fold_results f JOIN grouped g USING (archive_id, symbol, timeframe, as_of, plan)
WHERE list_contains(?, g.folds_digest)
  AND g.folds_digest NOT IN (SELECT k.folds_digest FROM decided_folds k)
QUALIFY row_number() OVER (PARTITION BY g.folds_digest, f.fold ORDER BY f.archive_id, f.symbol) = 1
"""  # noqa: S608 - constants

Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Made:
    """A new decision: its row and its inputs."""

    row: dict[str, object]
    inputs: tuple[NamedInput, ...]


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
    made = _decisions(platform, models, stored_folds(platform, archives, until=as_of), archives, as_of)
    _append(platform, [one for _, _, new in made for one in new], run_id)
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


def _said(new: Sequence[_Made]) -> list[str]:
    """New decisions as lines for the asset catalogue."""
    rows: list[dict[str, Any]] = [one.row for one in new]
    return [
        f"{r['timeframe']} {r['plan']} ({r['policy']}): {r['decision']}, {'; '.join(r['reasons'])} "
        f"[{r['decision_id']}]"
        for r in rows
    ]


def finish_archive(platform: Platform, archive_id: str, *, run_id: str) -> bool:
    """Decide what belongs to no symbol's partition, and mark the archive COMPLETE where all is decided."""
    models = platform.warehouse.rows(_UNADDRESSED, (archive_id,))
    made = _decisions(platform, models, {}, {}, None)
    _append(platform, [one for _, _, new in made for one in new], run_id)
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
    archives: Mapping[str, str],
    as_of: datetime | None,
) -> list[tuple[Row, int, list[_Made]]]:
    """For each model how many decisions it has, and those that are to be written."""
    if not models:
        return []
    symbols = sorted({m["symbol"] for m in models})
    rows = platform.warehouse.rows(_NEWEST, (sorted({m["archive_id"] for m in models}), symbols))
    known: dict[tuple[object, ...], _Known] = {
        (*model_key(r), r["plan"], r["policy"], r["as_of"]): _Known(r["inputs_digest"], r["folds_digest"])
        for r in rows
    }
    bars = ModelBars(platform, symbols)
    verdicts = BarVerdicts.stored(platform, bars, symbols)
    findings = _Findings(
        known=known,
        bars=bars,
        verdicts=verdicts,
        evidence=stored_evidence(platform, [f for plans in folds.values() for f in plans]),
        claims=claim_notes(platform, archives),
        champions=champion_notes(platform, archives, until=as_of),
        edges_lost=edges_lost(platform, archives),
        contents=decision_contents(platform.settings),
    )
    return [
        (model, *_of_model(platform, model, folds.get(model_key(model), ()), findings, as_of))
        for model in models
    ]


@dataclass(frozen=True, eq=False)
class _Findings:
    """What is known of all models that are decided together.

    Attributes:
        known: newest stored decisions, by model, plan, policy and as_of.
        bars: of their symbols.
        verdicts: what the checks say of these.
        evidence: by the keys of a plan's folds.
        claims: models that disagree with what training claims of them, by model.
        champions: how models compare with the ones before them, by the keys of a plan's folds.
        edges_lost: models that have lost their edge since they went LIVE, by model and plan.
        contents: of what is in force.
    """

    known: Mapping[tuple[object, ...], _Known]
    bars: ModelBars
    verdicts: BarVerdicts
    evidence: Mapping[tuple[object, ...], StoredEvidence]
    claims: Mapping[ModelKey, str]
    champions: Mapping[PlanKey, str]
    edges_lost: Mapping[tuple[str, str, str, str], str]
    contents: Sequence[Content]

    def notes(self, folds: PlanFolds) -> tuple[str, ...]:
        """Reasons that are shown with a decision and decide nothing."""
        of_model = model_key(folds.keys)
        found = (self.claims.get(of_model), self.champions.get(plan_key(folds.keys)))
        return tuple(note for note in found if note is not None)

    def edge_lost(self, folds: PlanFolds) -> str | None:
        """Why the model may no longer be LIVE; what it earned since is not about an earlier evaluation."""
        return (
            self.edges_lost.get((*model_key(folds.keys), str(folds.keys["plan"])))
            if folds.is_newest
            else None
        )


def _of_model(
    platform: Platform,
    model: Row,
    evaluated: Sequence[PlanFolds],
    found: _Findings,
    as_of: datetime | None,
) -> tuple[int, list[_Made]]:
    symbol = str(model["symbol"])
    unseen = model_verdict(model)
    missing = None
    if not evaluated and is_missed(unseen):
        timeframe = Timeframe(model["timeframe"])
        missing = why_not_evaluated(platform, found.bars, symbol, timeframe, model["feature_set"], as_of)
    n_made = 0
    new = []
    for plan, folds in _plans(platform, evaluated):
        at = folds.keys["as_of"] if folds is not None else None
        verdict, checked = unseen, None
        if folds is not None and isinstance(at, datetime):
            of = (symbol, Timeframe(model["timeframe"]), at)
            verdict = model_verdict(
                model,
                bar_warnings=found.verdicts.warnings(*of),
                bar_errors=found.verdicts.errors(*of),
                notes=found.notes(folds),
                edge_lost=found.edge_lost(folds),
            )
            checked = found.verdicts.checked(*of)
        evidence = found.evidence.get(tuple(folds.keys.values())) if folds is not None else None
        for policy in POLICIES.values():
            stored = found.known.get((*model_key(model), plan, policy.name, at))
            if folds is not None and not folds.is_newest and stored and stored.folds_digest == folds.digest:
                continue
            basis = DecisionBasis(
                model=model,
                verdict=verdict,
                policy=policy,
                plan=plan,
                folds=folds,
                missing=missing,
                evidence=evidence.evidence if evidence else None,
                evidence_digest=evidence.digest if evidence else None,
                limits=platform.settings.policy_limits,
                settings_digest=platform.settings.evaluation_digest(),
                contents=found.contents,
                checked=checked,
                asset_class=platform.asset_class(symbol) if model["status"] == "OK" else None,
                feature_set=platform.feature_sets.get(model["feature_set"]),
            )
            row = decision_row(basis)
            n_made += 1
            if stored is None or stored.inputs_digest != row["inputs_digest"]:
                new.append(_Made(row, named_inputs(basis, row)))
    return n_made, new


def _plans(platform: Platform, evaluated: Sequence[PlanFolds]) -> list[tuple[str, PlanFolds | None]]:
    """The plans of each evaluation; those of the settings for a model that was not evaluated."""
    if not evaluated:
        return [(plan, None) for plan in platform.settings.plans]
    return [(str(folds.keys["plan"]), folds) for folds in evaluated]


def _append(platform: Platform, made: Sequence[_Made], run_id: str) -> None:
    """Write new decisions with their inputs, the folds that they are made from, and what their digests stand for."""
    if not made:
        return
    now = platform.now()
    inputs: list[dict[str, object]] = []
    for one in made:
        one.row["decision_id"] = decision_id(one.row, now)
        inputs += [
            {"decision_id": one.row["decision_id"], "input": i.name, "digest": i.digest, "value": i.text}
            for i in one.inputs
        ]
    settings = platform.settings
    contents = (execution_content(settings), *decision_contents(settings))
    changes: list[Change] = [
        *keep(platform, contents),
        *_keep_folds(platform, [one.row for one in made]),
        Append("deployment_decisions", [one.row for one in made]),
        Append("decision_inputs", inputs),
    ]
    platform.warehouse.write(changes, run_id=run_id, now=now)


def _keep_folds(platform: Platform, rows: Sequence[Row]) -> list[Change]:
    """What is to be written so that the folds of these decisions are kept as they are now."""
    digests = sorted({r["folds_digest"] for r in rows if r["folds_digest"] is not None})
    if not digests:
        return []
    models = sorted({(str(r["archive_id"]), str(r["symbol"])) for r in rows})
    pairs = ([archive_id for archive_id, _ in models], [symbol for _, symbol in models])
    folds = platform.warehouse.rows(_FOLDS_TO_KEEP, (*pairs, digests))
    return [Merge("decided_folds", folds)] if folds else []


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
