"""Stage ``archive_evidence``: how likely an archive's best results are to be luck, when its models have their folds.

Here: which folds and curves are read, the rows, and which archives are due. Not here: the figures
(core.archive_evidence, core.evidence).

Each model counts with its newest evaluation, as in its summary; those instants differ between models (equities close
on Friday, crypto does not), and a row's ``as_of`` is the newest of them, also in the models' own rows.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from postval_assets.core.archive_evidence import (
    DeflatedSharpe,
    Float,
    FoldReturns,
    Instants,
    archive_reasons,
    common_calendar,
    deflate,
    fold_counts,
    fold_returns,
    model_reasons,
    on_calendar,
    overfitting,
)
from postval_assets.core.evaluation import digest_of
from postval_assets.core.evidence import ReturnMoments, return_moments
from postval_assets.core.failures import Rejected
from postval_assets.core.folds import MISSING_HISTORY_TOLERANCE, TrainingOverlap, plan_named, to_datetime64
from postval_assets.core.instruments import Timeframe
from postval_assets.core.walk_forward import FoldStatus
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.progress import Progress
from postval_assets.pipeline.stopwatch import timed_stage

log = logging.getLogger("postval.evidence")

METHOD_VERSION = "1"
"""Raised when the same folds would give other figures."""

# What each plan's evidence is made from, beside the digest of what its row was made from; the digest of the folds is
# made where they lie.
_INPUTS = """
WITH inputs AS (
    SELECT f.archive_id, f.plan, max(f.as_of) AS as_of, any_value(a.n_models) AS n_models,
           any_value(greatest(a.n_models, coalesce(a.n_trials, a.n_models))) AS n_trials,
           count(DISTINCT f.symbol || ' ' || f.timeframe) AS n_with_folds,
           sha256(string_agg(concat_ws(' ', f.symbol, f.timeframe, f.fold, f.inputs_digest), ','
                             ORDER BY f.symbol, f.timeframe, f.fold)) AS folds_digest
    FROM fold_results f
    JOIN newest_evaluations USING (archive_id, symbol, timeframe, as_of)
    JOIN training_archives a USING (archive_id)
    WHERE CASE WHEN CAST(? AS VARCHAR) IS NULL THEN a.status = 'COMPLETE' ELSE f.archive_id = ? END
    GROUP BY f.archive_id, f.plan
)
SELECT inputs.*, e.inputs_digest AS weighed_digest
FROM inputs LEFT JOIN archive_evidence e USING (archive_id, plan, as_of)
ORDER BY archive_id, plan
"""
_FOLDS = """
SELECT f.symbol, f.timeframe, f.as_of, f.fold, f.n_folds, f.status, f.training_overlap, f.n_bars, f.bars_per_year,
       f.start_ts, f.end_ts
FROM fold_results f
JOIN newest_evaluations USING (archive_id, symbol, timeframe, as_of)
WHERE f.archive_id = ? AND f.plan = ?
ORDER BY f.symbol, f.timeframe, f.fold
"""
_CURVES = """
SELECT c.symbol, c.timeframe, c.fold, c.ts, c.equity
FROM equity_curves c
JOIN (SELECT unnest(CAST(? AS VARCHAR[])) AS symbol, unnest(CAST(? AS VARCHAR[])) AS timeframe,
             unnest(CAST(? AS TIMESTAMPTZ[])) AS as_of) m
  USING (symbol, timeframe, as_of)
WHERE c.archive_id = ? AND c.plan = ?
ORDER BY c.symbol, c.timeframe, c.fold, c.ts
"""
# Points of equity curves read at once: bounds memory, and keeps queries few.
_POINTS_PER_READ = 100_000


@dataclass(frozen=True)
class PlanEvidence:
    """What was found for one plan.

    Attributes:
        plan: its name.
        as_of: the newest evaluation among the models.
        n_models: models with a row.
        is_current: nothing had changed, and nothing was computed.
        reasons: of the plan's row, as written now; empty where it was current.
    """

    plan: str
    as_of: datetime
    n_models: int
    is_current: bool
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True)
class EvidenceReport:
    """What the stage did for an archive, a PlanEvidence for each plan that has folds."""

    archive_id: str
    plans: tuple[PlanEvidence, ...]

    @property
    def n_rows(self) -> int:
        """Rows of ``archive_evidence`` that the archive now has from this stage."""
        return len(self.plans)

    @property
    def n_current(self) -> int:
        """Of these, rows that were current and not computed again."""
        return sum(p.is_current for p in self.plans)


@dataclass(frozen=True, eq=False)
class _Model:
    """A model's folds of one plan, and what has been made of them."""

    symbol: str
    timeframe: Timeframe
    as_of: datetime
    folds: tuple[Mapping[str, Any], ...]

    @property
    def name(self) -> str:
        return f"{self.symbol} {self.timeframe}"

    @property
    def outcomes(self) -> list[tuple[FoldStatus, TrainingOverlap]]:
        return [(FoldStatus(f["status"]), TrainingOverlap(f["training_overlap"])) for f in self.folds]

    @property
    def n_folds(self) -> int:
        return int(self.folds[0]["n_folds"])

    @property
    def bars_per_year(self) -> float:
        return float(self.folds[0]["bars_per_year"])

    @property
    def counted(self) -> list[int]:
        """Numbers of the folds that count."""
        return [
            int(f["fold"])
            for f, outcome in zip(self.folds, self.outcomes, strict=True)
            if fold_counts(*outcome)
        ]

    @property
    def is_whole(self) -> bool:
        """Whether every fold of the plan counts."""
        return len(self.counted) == self.n_folds

    @property
    def n_bars(self) -> int:
        return sum(int(f["n_bars"]) for f in self.folds)

    @property
    def sparseness(self) -> tuple[bool, int, str]:
        """Orders models by their bars, fewest first; one that was ruined stops early and comes last."""
        ruined = any(status is FoldStatus.RUINED for status, _ in self.outcomes)
        return ruined, self.n_bars, self.name

    @property
    def first_close(self) -> np.datetime64:
        return to_datetime64(self.folds[0]["start_ts"]) + self.timeframe.delta

    @property
    def last_close(self) -> np.datetime64:
        return to_datetime64(self.folds[-1]["end_ts"]) + self.timeframe.delta


@timed_stage("archive_evidence")
def weigh_archive(platform: Platform, archive_id: str, *, run_id: str) -> EvidenceReport:
    """Evidence of every plan that has folds in an archive; a plan whose folds have not changed is left as it is.

    Args:
        platform: settings and warehouse.
        archive_id: which; it need not be COMPLETE, but evidence over half of its models is half of the evidence.
        run_id: goes into the rows.

    Raises:
        Rejected: there is no such archive.
    """
    if not platform.warehouse.rows(
        "SELECT 1 AS n FROM training_archives WHERE archive_id = ?", (archive_id,)
    ):
        raise Rejected(f"archive {ascii(archive_id)[:40]} is unknown: ingest it first")
    changes: list[Replace] = []
    plans = []
    for inputs in platform.warehouse.rows(_INPUTS, (archive_id, archive_id)):
        plan, as_of, n_models = inputs["plan"], inputs["as_of"], int(inputs["n_with_folds"])
        if inputs["weighed_digest"] == evidence_digest(inputs):
            plans.append(PlanEvidence(plan, as_of, n_models, is_current=True))
            continue
        row, model_rows = _weigh_plan(platform, inputs)
        keys = [{"archive_id": archive_id, "plan": plan, "as_of": as_of}]
        changes += [
            Replace("archive_evidence", keys, [row]),
            Replace("archive_evidence_models", keys, model_rows),
        ]
        plans.append(PlanEvidence(plan, as_of, n_models, is_current=False, reasons=tuple(row["reasons"])))
    if changes:
        platform.warehouse.write(changes, run_id=run_id, now=platform.now())
    return EvidenceReport(archive_id, tuple(plans))


def archives_to_weigh(platform: Platform) -> dict[str, str]:
    """COMPLETE archives with a plan whose evidence is missing or was made from other folds; one query.

    An archive without any fold (the gate dropped every model) has no evidence to be made, and is not among them.

    Returns:
        For each archive_id a digest of what its evidence is to be made from: the same state is worth one attempt.
    """
    due: dict[str, list[str]] = {}
    for inputs in platform.warehouse.rows(_INPUTS, (None, None)):
        digest = evidence_digest(inputs)
        if inputs["weighed_digest"] != digest:
            due.setdefault(str(inputs["archive_id"]), []).append(digest)
    return {archive_id: digest_of({"due": digests}) for archive_id, digests in due.items()}


def weighed_archives(platform: Platform) -> list[str]:
    """Archives that have evidence, of whatever state."""
    rows = platform.warehouse.rows("SELECT DISTINCT archive_id FROM archive_evidence ORDER BY archive_id")
    return [str(row["archive_id"]) for row in rows]


def evidence_digest(inputs: Mapping[str, Any]) -> str:
    """Digest of what a plan's evidence is made from: the folds of its models, and the number of trials."""
    parts = {name: inputs[name] for name in ("folds_digest", "n_models", "n_trials")}
    return digest_of({**parts, "method": METHOD_VERSION})


def _weigh_plan(
    platform: Platform, inputs: Mapping[str, Any]
) -> tuple[dict[str, Any], list[dict[str, object]]]:
    """The row of a plan, and one for each of its models."""
    archive_id, plan = str(inputs["archive_id"]), str(inputs["plan"])
    models = _models(platform, archive_id, plan)
    moments: dict[str, ReturnMoments | None] = {}
    n_returns: dict[str, int] = {}
    columns: list[Float] = []
    sharing = _sharing_a_calendar(models, plan, inputs["as_of"])
    calendar = _calendar(platform, archive_id, plan, sharing) if sharing else None
    progress = Progress(log, f"archive_evidence {plan}", total=len(models))
    for model, returns in _read_returns(platform, archive_id, plan, models):
        moments[model.name], n_returns[model.name] = return_moments(returns.returns), len(returns.returns)
        if calendar is not None and model in sharing:
            columns.append(on_calendar(returns, calendar))
        progress.step(model.name)
    deflated = _deflated(models, moments, int(inputs["n_trials"]))
    n_evaluated = sum(bool(m.counted) for m in models)
    found = overfitting(columns, n_evaluated)
    reasons = {m.name: model_reasons(m.outcomes, m.n_folds, moments[m.name]) for m in models}
    keys = {"archive_id": archive_id, "plan": plan, "as_of": inputs["as_of"]}
    row = {
        **keys,
        "n_models": inputs["n_models"],
        "n_evaluated": n_evaluated,
        "n_trials": inputs["n_trials"],
        "pbo": found.pbo,
        "reasons": [*([found.reason] if found.reason else []), *archive_reasons(list(reasons.values()))],
        "inputs_digest": evidence_digest(inputs),
    }
    model_rows = [
        _model_row(keys, m, n_returns[m.name], moments[m.name], deflated.get(m.name), reasons[m.name])
        for m in models
    ]
    return row, model_rows


def _models(platform: Platform, archive_id: str, plan: str) -> list[_Model]:
    groups: dict[tuple[str, str, datetime], list[Mapping[str, Any]]] = {}
    for row in platform.warehouse.rows(_FOLDS, (archive_id, plan)):
        groups.setdefault((row["symbol"], row["timeframe"], row["as_of"]), []).append(row)
    return [
        _Model(symbol, Timeframe(timeframe), as_of, tuple(folds))
        for (symbol, timeframe, as_of), folds in groups.items()
    ]


def _sharing_a_calendar(models: Sequence[_Model], plan: str, as_of: datetime) -> list[_Model]:
    """Models that can be compared bar by bar: all their folds count, and end at about the same time."""
    tolerance = plan_named(plan).days * MISSING_HISTORY_TOLERANCE * timedelta(days=1)
    return [m for m in models if m.is_whole and as_of - m.as_of <= tolerance]


def _calendar(platform: Platform, archive_id: str, plan: str, sharing: Sequence[_Model]) -> Instants:
    sparsest = min(sharing, key=lambda m: m.sparseness)
    [(_, returns)] = _read_returns(platform, archive_id, plan, [sparsest])
    return common_calendar(
        returns,
        max(m.first_close for m in sharing),
        min(m.last_close for m in sharing),
    )


def _read_returns(
    platform: Platform, archive_id: str, plan: str, models: Sequence[_Model]
) -> Iterator[tuple[_Model, FoldReturns]]:
    """Returns of the folds that count, model by model; curves are read in batches."""
    batch: list[_Model] = []
    for model in models:
        if batch and sum(m.n_bars for m in batch) + model.n_bars > _POINTS_PER_READ:
            yield from _read_batch(platform, archive_id, plan, batch)
            batch = []
        batch.append(model)
    if batch:
        yield from _read_batch(platform, archive_id, plan, batch)


def _read_batch(
    platform: Platform, archive_id: str, plan: str, models: Sequence[_Model]
) -> Iterator[tuple[_Model, FoldReturns]]:
    names = ([m.symbol for m in models], [m.timeframe.value for m in models], [m.as_of for m in models])
    points = platform.warehouse.frame(_CURVES, (*names, archive_id, plan))
    curves = dict(iter(points.groupby(["symbol", "timeframe"], sort=False)))
    for model in models:
        curve = curves.get((model.symbol, model.timeframe.value), points.iloc[:0])
        curve = curve[curve["fold"].isin(model.counted)]
        opens = curve["ts"].dt.tz_localize(None).to_numpy().astype("datetime64[us]")
        fold, equity = curve["fold"].to_numpy(np.int64), curve["equity"].to_numpy(np.float64)
        yield model, fold_returns(fold, opens + model.timeframe.delta, equity)


def _deflated(
    models: Sequence[_Model], moments: Mapping[str, ReturnMoments | None], n_trials: int
) -> dict[str, DeflatedSharpe]:
    """By name, of the models that have a Sharpe ratio."""
    defined = [(m, found) for m in models if (found := moments[m.name]) is not None]
    results = deflate([found for _, found in defined], [m.bars_per_year for m, _ in defined], n_trials)
    return {m.name: result for (m, _), result in zip(defined, results, strict=True)}


def _model_row(
    keys: Mapping[str, object],
    model: _Model,
    n_returns: int,
    moments: ReturnMoments | None,
    deflated: DeflatedSharpe | None,
    reasons: Sequence[str],
) -> dict[str, object]:
    return {
        **keys,
        "symbol": model.symbol,
        "timeframe": model.timeframe.value,
        "model_as_of": model.as_of,
        "bars_per_year": model.bars_per_year,
        "sharpe": deflated.sharpe if deflated else None,
        "n_returns": n_returns,
        "skew": moments.skew if moments else None,
        "kurtosis": moments.kurtosis if moments else None,
        "sharpe_benchmark": deflated.benchmark if deflated else None,
        "dsr": deflated.dsr if deflated else None,
        "reason": "; ".join(reasons) or None,
    }
