"""Stages ``walk_forward_evaluations``, ``fold_results`` and ``backtest_results``: models over blocks of bars.

Here: which models and folds are computed, and which are current. Not here: the computation (core.evaluation; over all
cores: lockstep.py), the rows (fold_rows.py), or what follows from the folds (summarizing.py, deciding.py).
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pandas as pd

from postval_assets.core.evaluation import FoldEvaluation, code_version
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.folds import BACKTEST, PlanBlocks
from postval_assets.core.policy_causality import Checked, PolicyCausality
from postval_assets.core.walk_forward import COMPUTED
from postval_assets.io.warehouse import Change, Replace, Update
from postval_assets.pipeline.bar_checks import BarVerdicts
from postval_assets.pipeline.fold_jobs import (
    FoldJob,
    FoldSelection,
    StoredFold,
    compute_tested,
    fold_job,
    models_to_evaluate,
    stored_folds,
    untested,
)
from postval_assets.pipeline.fold_rows import curve_frame, fold_row, trip_rows
from postval_assets.pipeline.instants import model_key, newest_instants
from postval_assets.pipeline.lockstep import run_jobs
from postval_assets.pipeline.looking_ahead import (
    Findings,
    causality_row,
    is_news,
    rejection,
    stored_findings,
)
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.progress import Progress
from postval_assets.pipeline.recording import execution_content, keep
from postval_assets.pipeline.stopwatch import timed_stage
from postval_assets.pipeline.stored_weights import require_readable, require_whole

log = logging.getLogger("postval.evaluation")

_Rows = pd.DataFrame | Sequence[Mapping[str, object]]

# Rows of equity curves kept back before they are written: bounds memory, and keeps transactions few.
_ROWS_PER_WRITE = 100_000


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


@timed_stage("fold_results")
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


@timed_stage("backtest_results")
def evaluate_backtests(
    platform: Platform, archives: Mapping[str, str], *, run_id: str, as_of: datetime | None = None
) -> EvaluationReport:
    """The last 30 days of every evaluated model, as one block; arguments as in evaluate_folds."""
    stage = _Stage(platform, run_id, "backtest_results")
    stage.run(archives, {symbol: [FoldSelection(BACKTEST)] for symbol in archives}, as_of)
    return stage.report()


class _Stage:
    """One pass over the models of some symbols, writing in batches."""

    def __init__(self, platform: Platform, run_id: str, table: str) -> None:
        self.platform = platform
        self.run_id = run_id
        self.table = table
        # By table: keys of what is replaced, and the rows that come in its place.
        self.pending: dict[str, tuple[list[dict[str, object]], list[_Rows]]] = {}
        self.pending_rows = 0
        # Written with them: models that are not OK any more.
        self.rejections: list[Update] = []
        self.findings: Findings = {}
        self.folds: dict[tuple[str, str], list[str]] = {}
        self.counts: dict[str, list[int]] = {}
        self.problems: dict[str, list[str]] = {}
        self.unavailable: list[str] = []
        self.kept_settings = False

    def run(
        self,
        archives: Mapping[str, str],
        selections: Mapping[str, Sequence[FoldSelection]],
        as_of: datetime | None,
    ) -> None:
        models = models_to_evaluate(self.platform, archives)
        instants = newest_instants(self.platform, archives)
        stored = stored_folds(self.platform, self.table, archives)
        symbols = list(dict.fromkeys(str(m["symbol"]) for m in models))
        bars = ModelBars(self.platform, symbols)
        verdicts = BarVerdicts.stored(self.platform, bars, symbols)
        self.findings = stored_findings(self.platform, archives)
        progress = Progress(log, self.table, total=len(models))
        for symbol in archives:
            self.counts[symbol], self.problems[symbol] = [0, 0], []

        def jobs() -> Iterator[FoldJob]:
            # Drawn by this thread, as the workers get through: only it asks the warehouse.
            for row in models:
                symbol = str(row["symbol"])
                with self._told(row, progress) as told:
                    key = model_key(row)
                    require_readable(self.platform, row)
                    job = fold_job(
                        self.platform,
                        row,
                        selections[symbol],
                        as_of,
                        instants.get(key),
                        bars,
                        stored.get(key, {}),
                        verdicts,
                    )
                    if any(job.stale):
                        require_whole(self.platform, row)
                    told.append(job)
                yield from told

        # A backtest is not tested: the folds of the same model are.
        work = compute_tested if self.table == "fold_results" else untested
        with closing(run_jobs(self.platform, jobs(), len(models), work)) as done:
            for job, outcome in done:
                with self._told(job.keys, progress) as told:
                    self._take(job, outcome)
                    told.append(job)
                if told:
                    progress.step(job.name)
        self._flush()
        if self.unavailable:
            raise Unavailable(
                f"{len(self.unavailable)} model(s) could not be evaluated: " + "; ".join(self.unavailable)
            )

    @contextmanager
    def _told(self, row: Mapping[str, Any], progress: Progress) -> Iterator[list[FoldJob]]:
        """What goes wrong with one model is told, and the others go on; yields a list that stays empty then."""
        name = f"{row['symbol']} {row['timeframe']}"
        done: list[FoldJob] = []
        try:
            yield done
        except Rejected as error:
            log.warning("%s is not evaluated: %s", name, error)
            self.problems[str(row["symbol"])].append(f"{row['timeframe']}: {error}")
        except (Unavailable, OSError) as error:
            self.unavailable.append(f"{name}: {error}")
        else:
            return
        done.clear()
        progress.step(name)

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

    def _take(self, job: FoldJob, outcome: Checked) -> None:
        """Keep back what came of a model, and write what has gathered."""
        if isinstance(outcome.evaluations, Exception):
            raise outcome.evaluations
        self._add(job, outcome.evaluations)
        if outcome.causality is not None:
            self._note(job, outcome.causality)
        if self.pending_rows >= _ROWS_PER_WRITE:
            self._flush()

    def _add(self, job: FoldJob, results: Sequence[Sequence[FoldEvaluation]]) -> None:
        """Keep a model's rows back for the next write."""
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
                self.counts[symbol][1] += isinstance(fold, StoredFold)
                if fold.status not in COMPUTED:
                    self.problems[symbol].append(
                        f"{job.keys['timeframe']} {fold_key}: {fold.status.value}, {fold.reason}"
                    )
            if evaluations:
                self._add_rows(job, plan_blocks, evaluations)

    def _note(self, job: FoldJob, found: PolicyCausality) -> None:
        """Keep back what was found of a model, and its rejection where it looks ahead."""
        row = causality_row(job.keys, job.model, found)
        if is_news(row, self.findings.get(model_key(job.keys), ())):
            self._replace("policy_causality", [job.keys], [row])
        if found.looks_ahead:
            log.warning("%s is rejected: %s", job.name, found.reason)
            self.rejections.append(rejection(job.keys, job.model, found.reason))

    def _add_rows(self, job: FoldJob, plan_blocks: PlanBlocks, evaluations: Sequence[FoldEvaluation]) -> None:
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
        changes: list[Change] = [
            Replace(table, keys, _joined(rows)) for table, (keys, rows) in self.pending.items()
        ]
        if changes and not self.kept_settings:
            changes += keep(self.platform, [execution_content(self.platform.settings)])
            self.kept_settings = True
        changes += self.rejections
        if changes:
            with self.platform.stopwatch.part("writing"):
                self.platform.warehouse.write(changes, run_id=self.run_id, now=self.platform.now())
        self.pending, self.pending_rows, self.rejections = {}, 0, []


def _joined(rows: Sequence[_Rows]) -> _Rows:
    """Rows kept back for one table: frames or rows, never both."""
    frames = [r for r in rows if isinstance(r, pd.DataFrame)]
    if frames:
        return pd.concat(frames, ignore_index=True)
    return [row for part in rows if not isinstance(part, pd.DataFrame) for row in part]
