"""Stages ``walk_forward_evaluations``, ``fold_results`` and ``backtest_results``: models over blocks of bars.

Here: which models and folds are computed, and which are current. Not here: the computation (core.evaluation), the
rows (fold_rows.py), or what follows from the folds (summarizing.py, deciding.py).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from postval_assets.core.bars import Bars
from postval_assets.core.evaluation import (
    EvaluatedModel,
    FoldEvaluation,
    FoldInputs,
    code_version,
    digest_of,
    evaluate,
    fold_inputs,
    not_evaluated,
)
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.features.causality import PromiseBroken
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.folds import (
    BACKTEST,
    Plan,
    PlanBlocks,
    TrainingWindow,
    cut,
    newest_close,
)
from postval_assets.core.instruments import Timeframe
from postval_assets.core.walk_forward import COMPUTED, FoldStatus
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.bar_checks import BarVerdicts
from postval_assets.pipeline.fold_rows import curve_frame, fold_row, trip_rows
from postval_assets.pipeline.instants import WANTED, Instant, ModelKey, model_key, newest_instants, wanted
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.progress import Progress

log = logging.getLogger("postval.evaluation")

_Rows = pd.DataFrame | Sequence[Mapping[str, object]]

# Rows of equity curves kept back before they are written: bounds memory, and keeps transactions few.
_ROWS_PER_WRITE = 100_000

_MODELS = f"""
SELECT m.archive_id, m.symbol, m.timeframe, m.model_sha256, m.feature_set, m.train_start, m.train_end,
       a.train_start AS archive_train_start, a.train_end AS archive_train_end
FROM extracted_models m
JOIN {WANTED} w USING (archive_id, symbol)
JOIN training_archives a USING (archive_id)
JOIN gating_scores g USING (archive_id, symbol, timeframe)
WHERE m.status = 'OK' AND (g.classification IN ('APPROVED', 'REVIEW') OR ?)
"""  # noqa: S608 - constants
_STORED = {
    "fold_results": f"""
SELECT archive_id, symbol, timeframe, as_of, plan, fold, inputs_digest, status, reason
FROM fold_results JOIN {WANTED} w USING (archive_id, symbol)
""",  # noqa: S608 - constants
    "backtest_results": f"""
SELECT archive_id, symbol, timeframe, as_of, '{BACKTEST.name}' AS plan, 1 AS fold, inputs_digest, status, reason
FROM backtest_results JOIN {WANTED} w USING (archive_id, symbol)
""",  # noqa: S608 - constants
}


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

    def is_current(self, inputs_digest: str) -> bool:
        """Whether it need not be computed again; what was refused is tried anew, its cause is in no digest."""
        return self.inputs_digest == inputs_digest and self.status is not FoldStatus.NOT_EVALUATED


_StoredFolds = dict[tuple[datetime, str, int], _StoredFold]


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
    # Why its bars are not to be used; what was computed from them before stays.
    stopped: str | None


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
    platform: Platform,
    bars: ModelBars,
    symbol: str,
    timeframe: Timeframe,
    feature_set: str,
    until: datetime | None,
) -> str | None:
    """What keeps a model from being evaluated at all: its feature set or its bars; None where nothing does."""
    try:
        _feature_set(platform, feature_set)
        newest_close(bars.read(symbol, timeframe), until or platform.now())
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
        # By table: keys of what is replaced, and the rows that come in its place.
        self.pending: dict[str, tuple[list[dict[str, object]], list[_Rows]]] = {}
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
        models = self._models(archives)
        instants = newest_instants(self.platform, archives)
        stored = self._stored(archives)
        symbols = list(dict.fromkeys(str(m["symbol"]) for m in models))
        bars = ModelBars(self.platform, symbols)
        verdicts = BarVerdicts(self.platform, bars, symbols)
        progress = Progress(log, self.table, total=len(models))
        for symbol in archives:
            self.counts[symbol], self.problems[symbol] = [0, 0], []
        for row in models:
            symbol = str(row["symbol"])
            name = f"{symbol} {row['timeframe']}"
            try:
                known = stored.get(model_key(row), {})
                job = self._job(row, selections[symbol], as_of, instants.get(model_key(row)), bars, known)
                stopped = verdicts.stops(symbol, Timeframe(row["timeframe"]), job.as_of)
                self._evaluate(dataclasses.replace(job, stopped=stopped))
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

    def _models(self, archives: Mapping[str, str]) -> list[dict[str, Any]]:
        """The models to evaluate, in the order of the symbols asked for."""
        rows = self.platform.warehouse.rows(
            _MODELS, (*wanted(archives), self.platform.settings.include_dropped)
        )
        place = {symbol: n for n, symbol in enumerate(archives)}
        return sorted(rows, key=lambda r: (place[r["symbol"]], r["timeframe"]))

    def _stored(self, archives: Mapping[str, str]) -> dict[ModelKey, _StoredFolds]:
        """The stored rows of each model, by as_of, plan and fold."""
        stored: dict[ModelKey, _StoredFolds] = {}
        for r in self.platform.warehouse.rows(_STORED[self.table], wanted(archives)):
            fold = _StoredFold(str(r["inputs_digest"]), FoldStatus(r["status"]), r["reason"])
            stored.setdefault(model_key(r), {})[(r["as_of"], r["plan"], int(r["fold"]))] = fold
        return stored

    def _job(
        self,
        row: Mapping[str, Any],
        selections: Sequence[FoldSelection],
        as_of: datetime | None,
        newest: Instant | None,
        stored_bars: ModelBars,
        known: _StoredFolds,
    ) -> _Job:
        platform = self.platform
        symbol, timeframe = str(row["symbol"]), Timeframe(row["timeframe"])
        stored = newest.as_of if newest is not None else None
        bars = stored_bars.read(symbol, timeframe, until=as_of or stored)
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
        wanted_folds = tuple(
            tuple(i for i in fold_inputs(model, bars, c, at, settings_digest) if s.contains(i.block.fold))
            for s, c in zip(selections, cuts, strict=True)
        )
        rows = tuple(
            {fold: f for (instant, plan, fold), f in known.items() if (instant, plan) == (at, s.plan.name)}
            for s in selections
        )
        stale = tuple(
            tuple(
                i
                for i in inputs
                if i.block.fold not in folds or not folds[i.block.fold].is_current(i.inputs_digest)
            )
            for folds, inputs in zip(rows, wanted_folds, strict=True)
        )
        is_new = stored is None or at != stored
        return _Job(model, keys, at, bars, cuts, wanted_folds, stale, rows, is_new, stopped=None)

    def _compute(
        self, job: _Job, work: Sequence[tuple[PlanBlocks, Sequence[FoldInputs]]]
    ) -> list[list[FoldEvaluation]]:
        """Evaluate blocks together; where that is refused for the bars, each plan alone, then each block alone."""
        if job.stopped is not None:
            return [[_refused(inputs, job.stopped) for inputs in blocks] for _, blocks in work]
        rules, device = self.platform.settings.execution_rules, self.platform.device()
        try:
            return evaluate(job.model, job.bars, work, rules, device)
        except PromiseBroken as error:
            # It lies in the set, not in a block: that some block does not show it makes that one no better.
            return [[_refused(inputs, str(error)) for inputs in blocks] for _, blocks in work]
        except Rejected as error:
            if sum(len(blocks) for _, blocks in work) == 1:
                reason = str(error)
                return [[_refused(inputs, reason) for inputs in blocks] for _, blocks in work]
        if len(work) > 1:
            return [self._compute(job, [part])[0] for part in work]
        return [[self._compute(job, [(plan, [inputs])])[0][0] for inputs in blocks] for plan, blocks in work]

    def _evaluate(self, job: _Job) -> None:
        results = self._compute(job, list(zip(job.cuts, job.stale, strict=True)))
        symbol = str(job.keys["symbol"])
        if job.is_new:
            self._replace("evaluations", [job.keys], [job.keys])
        for plan_blocks, inputs_wanted, stored, evaluations in zip(
            job.cuts, job.wanted, job.stored, results, strict=True
        ):
            done = {e.block.fold: e for e in evaluations}
            for inputs in inputs_wanted:
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
            self._replace("backtest_results", [job.keys], kept)
            return
        keys = [{**job.keys, "plan": plan_blocks.plan.name, "fold": e.block.fold} for e in evaluations]
        curves = [
            curve_frame(k, e, job.bars) for k, e in zip(keys, evaluations, strict=True) if e.run is not None
        ]
        trips = [r for k, e in zip(keys, evaluations, strict=True) for r in trip_rows(k, e, job.bars)]
        self._replace("fold_results", keys, rows)
        self._replace("equity_curves", keys, *curves)
        self._replace("trades", keys, trips)

    def _replace(
        self,
        table: str,
        keys: Sequence[dict[str, object]],
        *rows: _Rows,
    ) -> None:
        """Keep a change back; every table is written in one statement."""
        pending_keys, pending_rows = self.pending.setdefault(table, ([], []))
        pending_keys += keys
        pending_rows += rows
        self.pending_rows += sum(map(len, rows))

    def _flush(self) -> None:
        changes = [Replace(table, keys, _joined(rows)) for table, (keys, rows) in self.pending.items()]
        if changes:
            self.platform.warehouse.write(changes, run_id=self.run_id, now=self.platform.now())
        self.pending, self.pending_rows = {}, 0


def _refused(inputs: FoldInputs, reason: str) -> FoldEvaluation:
    """A block that was not evaluated; the reason goes into its digest, so that what it leads to changes with it."""
    fold = not_evaluated(inputs, reason)
    if fold.status is not FoldStatus.NOT_EVALUATED:
        return fold
    digest = digest_of({"inputs": inputs.inputs_digest, "not_evaluated": reason})
    return dataclasses.replace(fold, inputs_digest=digest)


def _joined(rows: Sequence[_Rows]) -> _Rows:
    """Rows kept back for one table: frames or rows, never both."""
    frames = [r for r in rows if isinstance(r, pd.DataFrame)]
    if frames:
        return pd.concat(frames, ignore_index=True)
    return [row for part in rows if not isinstance(part, pd.DataFrame) for row in part]


def selections_of(plans: Collection[Plan]) -> list[FoldSelection]:
    """All folds of these plans."""
    return [FoldSelection(plan) for plan in plans]
