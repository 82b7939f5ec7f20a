"""Stages ``walk_forward_evaluations``, ``fold_results`` and ``backtest_results``: models over blocks of bars.

Here: which models and folds are computed, which are current, and their rows. Not here: the computation
(core.evaluation) or what follows from the folds (summarizing.py, deciding.py).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from postval_assets.core.bars import Bars
from postval_assets.core.evaluation import (
    EvaluatedModel,
    FoldEvaluation,
    FoldInputs,
    code_version,
    evaluate,
    fold_inputs,
    not_evaluated,
)
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.folds import (
    BACKTEST,
    Plan,
    PlanBlocks,
    TrainingWindow,
    cut,
    newest_close,
    to_datetime,
)
from postval_assets.core.instruments import Timeframe
from postval_assets.core.walk_forward import COMPUTED, FoldStatus
from postval_assets.io.warehouse import Append, Replace
from postval_assets.pipeline.market import model_bars, resolve_as_of
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.progress import Progress

log = logging.getLogger("postval.evaluation")

# Rows of equity curves kept back before they are written: bounds memory, and keeps transactions few.
_ROWS_PER_WRITE = 100_000

_MODELS = """
SELECT m.archive_id, m.symbol, m.timeframe, m.model_sha256, m.feature_set, m.train_start, m.train_end,
       a.train_start AS archive_train_start, a.train_end AS archive_train_end
FROM extracted_models m
JOIN training_archives a USING (archive_id)
JOIN gating_scores g USING (archive_id, symbol, timeframe)
WHERE m.archive_id = ? AND m.symbol = ? AND m.status = 'OK'
  AND (g.classification IN ('APPROVED', 'REVIEW') OR ?)
ORDER BY m.timeframe
"""


@dataclass(frozen=True)
class FoldSelection:
    """Folds of one plan; all of them where ``folds`` is None."""

    plan: Plan
    folds: frozenset[int] | None = None

    def contains(self, fold: int) -> bool:
        """Whether this fold was asked for."""
        return self.folds is None or fold in self.folds


@dataclass(frozen=True)
class EvaluatedFold:
    """One fold that now has a row, for the asset catalogue."""

    symbol: str
    fold_key: str
    n_rows: int
    statuses: tuple[str, ...]


@dataclass(frozen=True)
class EvaluationReport(StageReport):
    """A stage report with the folds that have rows."""

    folds: tuple[EvaluatedFold, ...] = ()


@dataclass(frozen=True)
class _StoredFold:
    """What the warehouse has of a fold."""

    inputs_digest: str
    status: FoldStatus
    reason: str | None


@dataclass(frozen=True, eq=False)
class _Job:
    model: EvaluatedModel
    keys: dict[str, object]
    as_of: datetime
    bars: Bars
    cuts: tuple[PlanBlocks, ...]
    wanted: tuple[tuple[FoldInputs, ...], ...]
    stale: tuple[tuple[FoldInputs, ...], ...]
    stored: tuple[dict[int, _StoredFold], ...]
    is_new: bool


def evaluate_folds(
    platform: Platform,
    archives: Mapping[str, str],
    selections: Mapping[str, Sequence[FoldSelection]],
    *,
    run_id: str,
    as_of: datetime | None = None,
) -> EvaluationReport:
    """Compute the wanted folds of every evaluated model that are missing or whose inputs changed.

    Args:
        platform: settings, stores and warehouse.
        archives: archive_id by symbol.
        selections: by symbol, the plans and folds wanted.
        run_id: goes into the rows.
        as_of: evaluate at the newest bar complete by then; default each model's newest evaluation, else now.

    Raises:
        Unavailable: once, after all other models are finished.
    """
    stage = _Stage(platform, run_id, "fold_results")
    stage.run(archives, selections, as_of)
    return stage.report()


def evaluate_backtests(
    platform: Platform, archives: Mapping[str, str], *, run_id: str, as_of: datetime | None = None
) -> EvaluationReport:
    """The last 30 days of every evaluated model, as one block; arguments as in evaluate_folds."""
    stage = _Stage(platform, run_id, "backtest_results")
    stage.run(archives, {symbol: [FoldSelection(BACKTEST)] for symbol in archives}, as_of)
    return stage.report()


def why_not_evaluated(
    platform: Platform, symbol: str, timeframe: Timeframe, feature_set: str, until: datetime | None
) -> str | None:
    """What keeps a model from being evaluated at all: its feature set or its bars; None where nothing does."""
    try:
        _feature_set(platform, feature_set)
        newest_close(model_bars(platform, symbol, timeframe), until or platform.now())
    except Rejected as error:
        return str(error)
    return None


def _feature_set(platform: Platform, name: str) -> FeatureSet:
    try:
        return platform.feature_sets[name]
    except KeyError:
        raise Rejected(
            f"feature set {name} is no longer registered: install its plug-in again, or ingest the archive anew"
        ) from None


class _Stage:
    """One pass over the models of some symbols, writing in batches."""

    def __init__(self, platform: Platform, run_id: str, table: str) -> None:
        self.platform = platform
        self.run_id = run_id
        self.table = table
        self.changes: list[Replace | Append] = []
        self.pending_rows = 0
        self.folds: dict[tuple[str, str], list[str]] = {}
        self.counts: dict[str, list[int]] = {}
        self.problems: dict[str, list[str]] = {}
        self.unavailable: list[str] = []

    def run(
        self,
        archives: Mapping[str, str],
        selections: Mapping[str, Sequence[FoldSelection]],
        as_of: datetime | None,
    ) -> None:
        models = [m for symbol in archives for m in self._models(archives[symbol], symbol)]
        progress = Progress(log, self.table, total=len(models))
        for symbol in archives:
            self.counts[symbol], self.problems[symbol] = [0, 0], []
        for row in models:
            symbol = str(row["symbol"])
            name = f"{symbol} {row['timeframe']}"
            try:
                job = self._job(row, selections[symbol], as_of)
                self._evaluate(job)
            except Rejected as error:
                log.warning("%s is not evaluated: %s", name, error)
                self.problems[symbol].append(f"{row['timeframe']}: {error}")
            except (Unavailable, OSError) as error:
                self.unavailable.append(f"{name}: {error}")
            progress.step(name)
        self._flush()
        if self.unavailable:
            raise Unavailable(
                f"{len(self.unavailable)} model(s) could not be evaluated: " + "; ".join(self.unavailable)
            )

    def report(self) -> EvaluationReport:
        return EvaluationReport(
            symbols=tuple(
                SymbolReport(symbol, n, current, tuple(self.problems[symbol]))
                for symbol, (n, current) in self.counts.items()
            ),
            folds=tuple(
                EvaluatedFold(symbol, key, len(statuses), tuple(statuses))
                for (symbol, key), statuses in self.folds.items()
            ),
        )

    def _models(self, archive_id: str, symbol: str) -> list[dict[str, Any]]:
        return self.platform.warehouse.rows(
            _MODELS, (archive_id, symbol, self.platform.settings.include_dropped)
        )

    def _job(
        self, row: Mapping[str, Any], selections: Sequence[FoldSelection], as_of: datetime | None
    ) -> _Job:
        platform = self.platform
        symbol, timeframe = str(row["symbol"]), Timeframe(row["timeframe"])
        stored = resolve_as_of(platform, row["archive_id"], symbol, timeframe)
        bars = model_bars(platform, symbol, timeframe, until=as_of or stored)
        at = newest_close(bars, as_of or platform.now()) if as_of or stored is None else stored
        spec, tensors = platform.models.load(row["model_sha256"])
        model = EvaluatedModel(
            model_sha256=row["model_sha256"],
            spec=spec,
            tensors=tensors,
            feature_set=_feature_set(platform, row["feature_set"]),
            training=TrainingWindow(
                row["train_start"] or row["archive_train_start"], row["train_end"] or row["archive_train_end"]
            ),
        )
        keys = {"archive_id": row["archive_id"], "symbol": symbol, "timeframe": timeframe.value, "as_of": at}
        settings_digest = platform.settings.evaluation_digest()
        cuts = tuple(cut(bars, s.plan, at, needed_before=model.needed_before) for s in selections)
        wanted = tuple(
            tuple(i for i in fold_inputs(model, bars, c, at, settings_digest) if s.contains(i.block.fold))
            for s, c in zip(selections, cuts, strict=True)
        )
        rows = tuple(self._stored(keys, s.plan) for s in selections)
        stale = tuple(
            tuple(
                i
                for i in inputs
                if i.block.fold not in known or known[i.block.fold].inputs_digest != i.inputs_digest
            )
            for known, inputs in zip(rows, wanted, strict=True)
        )
        return _Job(model, keys, at, bars, cuts, wanted, stale, rows, is_new=stored is None or at != stored)

    def _stored(self, keys: Mapping[str, object], plan: Plan) -> dict[int, _StoredFold]:
        """The stored row of each fold."""
        where = "archive_id = ? AND symbol = ? AND timeframe = ? AND as_of = ?"
        columns = "inputs_digest, status, reason"
        values = tuple(keys.values())
        if self.table == "backtest_results":
            sql = f"SELECT 1 AS fold, {columns} FROM backtest_results WHERE {where}"  # noqa: S608 - constants
            rows = self.platform.warehouse.rows(sql, values)
        else:
            sql = f"SELECT fold, {columns} FROM fold_results WHERE {where} AND plan = ?"  # noqa: S608 - constants
            rows = self.platform.warehouse.rows(sql, (*values, plan.name))
        return {
            int(r["fold"]): _StoredFold(str(r["inputs_digest"]), FoldStatus(r["status"]), r["reason"])
            for r in rows
        }

    def _evaluate(self, job: _Job) -> None:
        try:
            results = evaluate(
                job.model,
                job.bars,
                list(zip(job.cuts, job.stale, strict=True)),
                self.platform.settings.execution_rules,
                self.platform.device(),
            )
        except Rejected as error:
            results = [[not_evaluated(inputs, str(error)) for inputs in stale] for stale in job.stale]
        symbol = str(job.keys["symbol"])
        if job.is_new:
            self.changes.append(Replace("evaluations", [job.keys], [job.keys]))
        for plan_blocks, wanted, stored, evaluations in zip(
            job.cuts, job.wanted, job.stored, results, strict=True
        ):
            done = {e.block.fold: e for e in evaluations}
            for inputs in wanted:
                fold_key = plan_blocks.plan.fold_keys()[inputs.block.fold - 1]
                fold = done.get(inputs.block.fold) or stored[inputs.block.fold]
                self.folds.setdefault((symbol, fold_key), []).append(fold.status.value)
                self.counts[symbol][0] += 1
                self.counts[symbol][1] += isinstance(fold, _StoredFold)
                if fold.status not in COMPUTED:
                    self.problems[symbol].append(
                        f"{job.keys['timeframe']} {fold_key}: {fold.status.value}, {fold.reason}"
                    )
            if evaluations:
                self._add_rows(job, plan_blocks, evaluations)
        if self.pending_rows >= _ROWS_PER_WRITE:
            self._flush()

    def _add_rows(self, job: _Job, plan_blocks: PlanBlocks, evaluations: Sequence[FoldEvaluation]) -> None:
        digests = {
            "model_sha256": job.model.model_sha256,
            "settings_digest": self.platform.settings.evaluation_digest(),
            "code_version": code_version(),
        }
        rows = [fold_row(job.keys, plan_blocks, e, job.bars, digests) for e in evaluations]
        if self.table == "backtest_results":
            kept = [{k: v for k, v in row.items() if k not in ("plan", "fold", "n_folds")} for row in rows]
            self.changes.append(Replace("backtest_results", [job.keys], kept))
            return
        keys = [{**job.keys, "plan": plan_blocks.plan.name, "fold": e.block.fold} for e in evaluations]
        curves = [
            curve_frame(k, e, job.bars) for k, e in zip(keys, evaluations, strict=True) if e.run is not None
        ]
        trips = [r for k, e in zip(keys, evaluations, strict=True) for r in trip_rows(k, e, job.bars)]
        curve = pd.concat(curves, ignore_index=True) if curves else pd.DataFrame()
        self.changes += [
            Replace("fold_results", keys, rows),
            Replace("equity_curves", keys, curve if len(curve) else []),
            Replace("trades", keys, trips),
        ]
        self.pending_rows += len(curve) + len(trips) + len(rows)

    def _flush(self) -> None:
        if self.changes:
            self.platform.warehouse.write(self.changes, run_id=self.run_id, now=self.platform.now())
        self.changes, self.pending_rows = [], 0


def fold_row(
    keys: Mapping[str, object],
    plan_blocks: PlanBlocks,
    evaluation: FoldEvaluation,
    bars: Bars,
    digests: Mapping[str, object],
) -> dict[str, object]:
    """The row of one fold; every metric is NULL where the fold was not computed."""
    block = evaluation.block
    has_bars = block.n_bars > 0
    metrics = dataclasses.asdict(evaluation.metrics) if evaluation.metrics else {}
    return {
        **keys,
        "plan": plan_blocks.plan.name,
        "fold": block.fold,
        "n_folds": plan_blocks.plan.n_folds,
        "start_ts": to_datetime(bars.ts[block.start]) if has_bars else None,
        "end_ts": to_datetime(bars.ts[block.stop - 1]) if has_bars else None,
        "training_overlap": evaluation.training_overlap.value,
        "bars_per_year": plan_blocks.bars_per_year,
        **metrics,
        "n_bars": block.n_bars,
        "status": evaluation.status.value,
        "reason": evaluation.reason,
        **digests,
        "bars_digest": evaluation.bars_digest,
        "inputs_digest": evaluation.inputs_digest,
    }


def curve_frame(keys: Mapping[str, object], evaluation: FoldEvaluation, bars: Bars) -> pd.DataFrame:
    """The equity curve of a fold, a row a bar; action is NULL where none was decided."""
    run = evaluation.run
    if run is None:
        raise ValueError("a fold that was not run has no curve")
    start = evaluation.block.start
    ts = pd.Series(bars.ts[start : start + len(run.equity)]).dt.tz_localize("UTC")
    action = pd.array(np.where(run.actions < 0, 0, run.actions), dtype="Int64")
    action[run.actions < 0] = pd.NA
    frame = pd.DataFrame({"ts": ts, "equity": run.equity, "position": run.position, "action": action})
    values: dict[str, Any] = dict(keys)
    return frame.assign(**values)


def trip_rows(keys: Mapping[str, object], evaluation: FoldEvaluation, bars: Bars) -> list[dict[str, object]]:
    """The round trips of a fold."""
    if evaluation.run is None:
        return []
    start = evaluation.block.start
    return [
        {
            **keys,
            "trade": number,
            "entry_ts": to_datetime(bars.ts[start + trip.entry_step]),
            "exit_ts": to_datetime(bars.ts[start + trip.exit_step]),
            "side": trip.side.value,
            "quantity": trip.quantity,
            "entry_price": trip.entry_price,
            "exit_price": trip.exit_price,
            "pnl": trip.pnl,
            "fees": trip.fees,
        }
        for number, trip in enumerate(evaluation.run.trips, start=1)
    ]


def selections_of(plans: Collection[Plan]) -> list[FoldSelection]:
    """All folds of these plans."""
    return [FoldSelection(plan) for plan in plans]
