"""Stage ``walk_forward_summaries``: a plan's folds together, from the warehouse alone.

Here: one row a model, plan and as_of, for every plan that has folds; what is current stays. Not here: the figures
(core), or how evidence is weighed (weighing.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.evaluation import digest_of
from postval_assets.core.folds import plan_named
from postval_assets.core.walk_forward import COMPUTED, summarize
from postval_assets.core.walk_forward_evidence import WalkForwardEvidence
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.evidence_rows import evidence_columns, evidence_digest, evidence_of
from postval_assets.pipeline.fold_rows import fold_outcome
from postval_assets.pipeline.instants import NEWEST_UNTIL, WANTED, ModelKey, model_key, wanted
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.stopwatch import timed_stage
from postval_assets.pipeline.weighing import weigh_together, weighing_jobs
from postval_assets.settings import Settings

Row = Mapping[str, Any]

_FOLDS = f"""
SELECT f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan, f.fold, f.n_folds, f.status, f.reason,
       f.training_overlap, f.start_ts, f.end_ts, f.n_bars, f.bars_per_year, f.total_return, f.sharpe, f.n_trades,
       f.turnover, f.model_sha256, f.bars_digest, f.settings_digest, f.code_version, f.inputs_digest,
       m.n_actions, greatest(a.n_models, coalesce(a.n_trials, a.n_models)) AS n_trials, n.as_of AS newest
FROM fold_results f
JOIN {WANTED} w USING (archive_id, symbol)
JOIN extracted_models m USING (archive_id, symbol, timeframe)
JOIN training_archives a USING (archive_id)
JOIN ({NEWEST_UNTIL}) n USING (archive_id, symbol, timeframe)
WHERE f.as_of <= n.as_of
ORDER BY f.timeframe, f.as_of, f.plan, f.fold
"""  # noqa: S608 - constants
_SUMMARIZED = f"""
SELECT archive_id, symbol, timeframe, as_of, plan, folds_digest, evidence, evidence_reasons, evidence_digest,
       inputs_digest
FROM walk_forward_summaries JOIN {WANTED} w USING (archive_id, symbol)
"""  # noqa: S608 - constants
_EVIDENCE = """
SELECT * FROM walk_forward_summaries WHERE list_contains(?, archive_id) AND list_contains(?, symbol)
"""
# The digests of the folds are compared where they lie; folds_digest() computes the same.
_STALE = """
SELECT f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan,
       sha256(string_agg(f.inputs_digest, ',' ORDER BY f.fold)) AS folds_digest
FROM fold_results f
LEFT JOIN walk_forward_summaries s USING (archive_id, symbol, timeframe, as_of, plan)
GROUP BY f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan
HAVING folds_digest IS DISTINCT FROM any_value(s.folds_digest) OR any_value(s.evidence_digest) IS NULL
ORDER BY f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan
"""


@dataclass(frozen=True)
class PlanFolds:
    """The stored folds of a model, evaluation and plan.

    Attributes:
        keys: archive_id, symbol, timeframe, as_of and plan.
        rows: in their order.
        is_newest: whether it is the model's newest evaluation (of those that were asked for).
    """

    keys: Mapping[str, object]
    rows: tuple[Row, ...]
    is_newest: bool

    @property
    def digest(self) -> str:
        """Digest of the folds."""
        return folds_digest([str(r["inputs_digest"]) for r in self.rows])


@timed_stage("walk_forward_summaries")
def summarize_folds(
    platform: Platform, archives: Mapping[str, str], *, run_id: str, as_of: datetime | None = None
) -> StageReport:
    """Summaries of every plan that has folds, for each model's newest evaluation.

    What was made from the same folds under the same limits is current and stays. Folds of an earlier evaluation are
    summarized as well where they have no summary, or one of other folds or without evidence.

    Args:
        platform: settings and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows.
        as_of: the newest evaluation up to then is meant; default the newest of all.
    """
    known: dict[tuple[object, ...], Row] = {
        (*model_key(r), r["as_of"], r["plan"]): r
        for r in platform.warehouse.rows(_SUMMARIZED, wanted(archives))
    }
    by_symbol: dict[str, list[PlanFolds]] = {symbol: [] for symbol in archives}
    stale: list[PlanFolds] = []
    for plans in stored_folds(platform, archives, until=as_of).values():
        for folds in plans:
            stored = known.get(tuple(folds.keys.values()))
            is_stale = stored is None or _is_stale(stored, folds, platform.settings)
            if folds.is_newest or is_stale:
                by_symbol[str(folds.keys["symbol"])].append(folds)
            if is_stale:
                stale.append(folds)
    jobs = weighing_jobs(platform, [folds.rows for folds in stale])
    rows = [
        summary_row(folds, platform, evidence)
        for folds, evidence in zip(stale, weigh_together(platform, jobs, len(stale)), strict=True)
    ]
    if stale:
        change = Replace("walk_forward_summaries", [folds.keys for folds in stale], rows)
        platform.warehouse.write([change], run_id=run_id, now=platform.now())
    written = {id(folds): row for folds, row in zip(stale, rows, strict=True)}
    return StageReport(
        tuple(
            SymbolReport(
                symbol,
                len(plans),
                n_current=sum(id(folds) not in written for folds in plans),
                problems=tuple(_problems(plans)),
                said=tuple(
                    _said(written.get(id(folds)) or known[tuple(folds.keys.values())]) for folds in plans
                ),
            )
            for symbol, plans in by_symbol.items()
        )
    )


def _is_stale(stored: Row, folds: PlanFolds, settings: Settings) -> bool:
    """Whether a summary is to be made anew; of an earlier evaluation only for other folds, or without evidence."""
    if stored["evidence_digest"] is None:
        return True
    if folds.is_newest:
        return bool(stored["inputs_digest"] != _inputs_digest(folds, settings))
    return bool(stored["folds_digest"] != folds.digest)


def _said(row: Row) -> str:
    """What the evidence says, as a line for the asset catalogue."""
    reasons = "; ".join(row["evidence_reasons"]) or "every condition holds"
    return f"{row['timeframe']} {row['plan']}: evidence {row['evidence']}, {reasons}"


def _problems(plans: Sequence[PlanFolds]) -> list[str]:
    problems = []
    for folds in plans:
        n_folds = plan_named(str(folds.keys["plan"])).n_folds
        n_computed = sum(fold_outcome(row).status in COMPUTED for row in folds.rows)
        if n_computed != n_folds:
            problems.append(
                f"{folds.keys['timeframe']} {folds.keys['plan']}: {n_computed} of {n_folds} folds computed"
            )
    return problems


def stored_folds(
    platform: Platform, archives: Mapping[str, str], *, until: datetime | None
) -> dict[ModelKey, list[PlanFolds]]:
    """The folds of these symbols' models by model, evaluation (up to ``until``) and plan."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    names = ("archive_id", "symbol", "timeframe", "as_of", "plan")
    for row in platform.warehouse.rows(_FOLDS, (*wanted(archives), until)):
        groups.setdefault(tuple(row[n] for n in names), []).append(row)
    found: dict[ModelKey, list[PlanFolds]] = {}
    for key, rows in groups.items():
        keys = dict(zip(names, key, strict=True))
        folds = PlanFolds(keys, tuple(rows), is_newest=rows[0]["as_of"] == rows[0]["newest"])
        found.setdefault(model_key(keys), []).append(folds)
    return found


@dataclass(frozen=True)
class StoredEvidence:
    """What a summary says that its folds prove, and the digest of what that was made from."""

    evidence: WalkForwardEvidence | None
    digest: str | None


def stored_evidence(
    platform: Platform, plans: Sequence[PlanFolds]
) -> dict[tuple[object, ...], StoredEvidence]:
    """Evidence by the keys of each plan's folds; what was made from other folds is none."""
    digests = {tuple(folds.keys.values()): folds.digest for folds in plans}
    archives, symbols = ([str(folds.keys[name]) for folds in plans] for name in ("archive_id", "symbol"))
    rows = platform.warehouse.rows(_EVIDENCE, (sorted(set(archives)), sorted(set(symbols))))
    found: dict[tuple[object, ...], StoredEvidence] = {}
    for row in rows:
        key = (*model_key(row), row["as_of"], row["plan"])
        if digests.get(key) == row["folds_digest"]:
            found[key] = StoredEvidence(evidence_of(row), row["evidence_digest"])
    return found


def summary_row(folds: PlanFolds, platform: Platform, evidence: WalkForwardEvidence) -> dict[str, object]:
    """The row of one model over one plan."""
    plan = plan_named(str(folds.keys["plan"]))
    settings = platform.settings
    outcomes = [fold_outcome(f) for f in folds.rows]
    summary = summarize(outcomes, plan.n_folds, folds.rows[0]["bars_per_year"], settings.grade_limits)
    figures = {k: v for k, v in dataclasses.asdict(summary).items() if k != "reasons"}
    return {
        **folds.keys,
        **figures,
        "reasons": list(summary.reasons),
        **evidence_columns(evidence),
        "evidence_digest": _evidence_digest(folds, settings),
        "folds_digest": folds.digest,
        "inputs_digest": _inputs_digest(folds, settings),
    }


def n_trials_of(archive: Row) -> int:
    """Models that were tried: those delivered, or what the summary says where that is more; the query's column."""
    return int(max(archive["n_models"], archive["n_trials"] or 0))


def _evidence_digest(folds: PlanFolds, settings: Settings) -> str:
    return evidence_digest(folds.digest, int(folds.rows[0]["n_trials"]), settings.evidence_limits)


def _inputs_digest(folds: PlanFolds, settings: Settings) -> str:
    limits = repr(settings.grade_limits)
    parts = {"folds": folds.digest, "limits": limits, "evidence": _evidence_digest(folds, settings)}
    return digest_of(parts)


def folds_digest(inputs_digests: Sequence[str]) -> str:
    """Digest of a plan's folds, from what each of them was computed from."""
    return hashlib.sha256(",".join(inputs_digests).encode()).hexdigest()


@dataclass(frozen=True)
class StaleSummaries:
    """Symbols of an archive with folds that are not what their summary was made from.

    Attributes:
        archive_id: which archive.
        symbols: sorted.
        state: digest of those folds: the same state is worth one attempt, not one every few seconds.
    """

    archive_id: str
    symbols: tuple[str, ...]
    state: str


def stale_summaries(platform: Platform) -> tuple[StaleSummaries, ...]:
    """What is to be summarized and decided again, by archive: folds that changed, or that have no summary.

    Earlier evaluations count as the newest one does. Changed limits of the grades do not make anything stale: they
    are for what is evaluated from now on, and for who asks for summaries again.
    """
    stale: dict[str, dict[str, list[str]]] = {}
    for row in platform.warehouse.rows(_STALE):
        stale.setdefault(row["archive_id"], {}).setdefault(row["symbol"], []).append(row["folds_digest"])
    return tuple(
        StaleSummaries(archive_id, tuple(sorted(symbols)), digest_of({"stale": symbols}))
        for archive_id, symbols in stale.items()
    )
