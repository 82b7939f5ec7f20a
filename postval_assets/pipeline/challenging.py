"""Stage ``champion_comparisons``: a model and the one of an earlier archive, on the same bars.

Here: the champion's folds on the challenger's bars, the rows, and what they say in a decision. Not here: who is
compared with whom (champion_pairs.py), the figures (core.champion), or the decision (deciding.py).

The champion's folds are computed in memory. As rows of ``fold_results`` they would count as a new evaluation of its
archive, and its summaries and decisions would be made anew. The challenger's are read from ``equity_curves``.
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from postval_assets.core.archive_evidence import fold_counts
from postval_assets.core.champion import (
    Comparison,
    ModelFold,
    champion_note,
    compare,
    not_compared,
    whole_returns,
)
from postval_assets.core.evaluation import Evaluations, FoldEvaluation
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.folds import plan_named
from postval_assets.core.walk_forward import COMPUTED
from postval_assets.io.dictionary import PLAN
from postval_assets.io.model_store import LostWeights
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.bar_checks import BarVerdicts
from postval_assets.pipeline.champion_pairs import Pair, choose_champions, outcome_of
from postval_assets.pipeline.fold_jobs import FoldJob, FoldSelection, compute, fold_job
from postval_assets.pipeline.instants import WANTED, model_key, plan_key, wanted
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.network_processes import WORTH_IT_FROM, NetworkProcesses
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.progress import Progress
from postval_assets.pipeline.stopwatch import timed_stage
from postval_assets.pipeline.stored_weights import require_whole
from postval_assets.pipeline.workers import in_order, torch_threads, workers_for

log = logging.getLogger("postval.champion")

_STORED = f"""
SELECT c.* EXCLUDE (run_id, created_at) FROM champion_comparisons c JOIN {WANTED} w USING (archive_id, symbol)
"""  # noqa: S608 - constants
_CURVES = """
SELECT plan, fold, equity FROM equity_curves
WHERE archive_id = ? AND symbol = ? AND timeframe = ? AND as_of = ? AND list_contains(?, plan)
ORDER BY plan, fold, ts
"""
Row = Mapping[str, Any]


@dataclass(frozen=True)
class _Duel:
    """Plans of one model that have the same champion, which is run over all of them at once."""

    pairs: tuple[Pair, ...]

    @property
    def champion(self) -> Row:
        """The earlier model."""
        return self.pairs[0].champion

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.champion['symbol']} {self.champion['timeframe']}"


@timed_stage("champion_comparisons")
def compare_champions(
    platform: Platform, archives: Mapping[str, str], *, run_id: str, as_of: datetime | None = None
) -> StageReport:
    """Compare each model that has folds with the one of the newest earlier archive that can be run.

    A comparison that was made from the same is left as it is. Where the champion cannot be run, or not on the same
    bars, the row says NOT_COMPARED and why.

    Args:
        platform: settings, stores and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows.
        as_of: the newest evaluation up to then is meant; default the newest of all.

    Raises:
        Unavailable: once, after all other models are finished.
    """
    stage = _Stage(platform, archives)
    stage.run(as_of)
    if stage.rows:
        keys = [{name: row[name] for name in PLAN} for row in stage.rows]
        change = Replace("champion_comparisons", keys, stage.rows)
        platform.warehouse.write([change], run_id=run_id, now=platform.now())
    if stage.unavailable:
        raise Unavailable(
            f"{len(stage.unavailable)} model(s) could not be compared with their champions: "
            + "; ".join(stage.unavailable)
        )
    return stage.report()


class _Stage:
    """One pass over the models of some symbols."""

    def __init__(self, platform: Platform, archives: Mapping[str, str]) -> None:
        self.platform = platform
        self.archives = archives
        self.rows: list[dict[str, Any]] = []
        self.unavailable: list[str] = []
        self.counts: dict[str, list[int]] = {symbol: [0, 0] for symbol in archives}
        self.said: dict[str, list[str]] = {symbol: [] for symbol in archives}
        self._stored = {plan_key(r): r for r in platform.warehouse.rows(_STORED, wanted(archives))}

    def run(self, as_of: datetime | None) -> None:
        duels = self._duels(as_of)
        if not duels:
            return
        symbols = list(dict.fromkeys(d.pairs[0].symbol for d in duels))
        bars = ModelBars(self.platform, symbols)
        verdicts = BarVerdicts.stored(self.platform, bars, symbols)
        progress = Progress(log, "champion_comparisons", total=len(duels))

        def jobs() -> Iterator[tuple[_Duel, FoldJob]]:
            # Drawn by this thread, as the workers get through: only it asks the warehouse.
            for duel in duels:
                drawn = []
                with self._told(duel, progress):
                    drawn.append((duel, self._job(duel, bars, verdicts)))
                yield from drawn

        n_workers = workers_for(self.platform.settings.workers, len(duels))
        n_processes = n_workers if len(duels) >= WORTH_IT_FROM else 1
        with (
            NetworkProcesses(n_processes, self.platform.stopwatch) as processes,
            torch_threads(n_workers) as divide,
        ):

            def work(task: tuple[_Duel, FoldJob]) -> Evaluations | Exception:
                return compute(self.platform, processes.run, divide, [task[1]])[0]

            for (duel, job), finished in in_order(jobs(), work, n_workers):
                with self._told(duel, progress):
                    outcome = finished.result()
                    if isinstance(outcome, Exception):
                        raise outcome
                    self._weigh(duel, job, outcome)
                    progress.step(duel.name)

    @contextmanager
    def _told(self, duel: _Duel, progress: Progress) -> Iterator[None]:
        """What goes wrong with one champion is told, and the others go on."""
        try:
            yield
        except (Rejected, LostWeights) as error:
            for pair in duel.pairs:
                self._add(pair, not_compared(str(error)))
        except (Unavailable, OSError) as error:
            self.unavailable.append(f"{duel.name}: {error}")
        else:
            return
        progress.step(duel.name)

    def report(self) -> StageReport:
        return StageReport(
            tuple(
                SymbolReport(symbol, n, current, said=tuple(self.said[symbol]))
                for symbol, (n, current) in self.counts.items()
            )
        )

    def _duels(self, as_of: datetime | None) -> list[_Duel]:
        """What is to be computed; the rest is current, or settled without."""
        choice = choose_champions(self.platform, self.archives, self._stored, as_of)
        self.unavailable += choice.unavailable
        duels: dict[tuple[object, ...], list[Pair]] = {}
        for pair in choice.pairs:
            if pair.is_current:
                self._count(pair, is_current=True)
            elif pair.settled is not None:
                self._add(pair, pair.settled)
            else:
                of = (*model_key(pair.challenger), pair.champion["archive_id"])
                duels.setdefault(of, []).append(pair)
        return [_Duel(tuple(pairs)) for pairs in duels.values()]

    def _job(self, duel: _Duel, bars: ModelBars, verdicts: BarVerdicts) -> FoldJob:
        """The champion's folds to compute: those that count for the challenger.

        Raises:
            Rejected: no bars, damaged weights, or its feature set is not there.
            Unavailable: the store of weights does not answer.
        """
        selections = [FoldSelection(plan_named(p.plan), frozenset(p.counted)) for p in duel.pairs]
        job = fold_job(
            self.platform, duel.champion, selections, duel.pairs[0].as_of, None, bars, {}, verdicts
        )
        require_whole(self.platform, duel.champion)
        return job

    def _weigh(self, duel: _Duel, job: FoldJob, outcome: Evaluations) -> None:
        """Put the champion's folds beside the challenger's stored ones."""
        keys = duel.pairs[0].folds.keys
        params = [keys[name] for name in ("archive_id", "symbol", "timeframe", "as_of")]
        plans = [pair.plan for pair in duel.pairs]
        curves = self.platform.warehouse.frame(_CURVES, (*params, plans))
        for pair, evaluations in zip(duel.pairs, outcome, strict=True):
            try:
                self._require_same_bars(pair, job, evaluations)
                of_plan = curves[curves["plan"] == pair.plan]
                challenger = [_of_challenger(row, of_plan) for row in pair.folds.rows]
                champion = [_of_champion(evaluation) for evaluation in evaluations]
                found = compare(challenger, champion, pair.bars_per_year, pair.rng())
            except Rejected as error:
                found = not_compared(str(error))
            self._add(pair, found)

    def _require_same_bars(self, pair: Pair, job: FoldJob, evaluations: Sequence[FoldEvaluation]) -> None:
        """Raises Rejected where the bars of a fold are not those that the challenger was evaluated on."""
        feature_set = self.platform.feature_sets.get(pair.challenger["feature_set"])
        if feature_set is None:
            raise Rejected(f"the challenger's feature set {pair.challenger['feature_set']} is not registered")
        reach = int(pair.challenger["window"]) + feature_set.look_back
        for evaluation in evaluations:
            block = evaluation.block
            now = job.bars.slice(max(block.start - reach, 0), block.stop).digest()
            if now != pair.counted[block.fold]["bars_digest"]:
                raise Rejected(
                    f"the bars of fold {block.fold} are not those that the challenger was evaluated on: "
                    "evaluate it again"
                )

    def _add(self, pair: Pair, found: Comparison) -> None:
        """Keep a comparison back for the write; what is stored already is not written again."""
        passed_over = f"passed over: {'; '.join(pair.passed_over)}" if pair.passed_over else None
        row = {
            **pair.folds.keys,
            "champion_archive_id": pair.champion["archive_id"],
            "champion_model_sha256": pair.champion["model_sha256"],
            **dataclasses.asdict(found),
            "verdict": found.verdict.value,
            "reason": "; ".join(filter(None, (found.reason, passed_over))) or None,
            "folds_digest": pair.folds.digest,
            "inputs_digest": pair.digest,
        }
        is_current = self._stored.get(plan_key(row)) == row
        self._count(pair, is_current=is_current)
        if not is_current:
            self.rows.append(row)
            note = champion_note(found, str(pair.champion["archive_id"]))
            self.said[pair.symbol].append(f"{row['timeframe']} {pair.plan}: {note}")

    def _count(self, pair: Pair, *, is_current: bool) -> None:
        counts = self.counts[pair.symbol]
        counts[0] += 1
        counts[1] += is_current


_NO_RETURNS = np.zeros(0)


def _of_challenger(row: Row, curves: pd.DataFrame) -> ModelFold:
    """A stored fold with its returns.

    Raises:
        Rejected: points of its curve are missing.
    """
    status, overlap = outcome_of(row)
    returns = _NO_RETURNS
    if fold_counts(status, overlap):
        equity = curves.loc[curves["fold"] == row["fold"], "equity"].to_numpy(np.float64)
        try:
            returns = whole_returns(equity, int(row["n_bars"]))
        except ValueError as error:
            raise Rejected(f"the challenger's fold {row['fold']}: {error}; evaluate it again") from error
    return ModelFold(int(row["fold"]), status, overlap, row["total_return"], returns)


def _of_champion(evaluation: FoldEvaluation) -> ModelFold:
    """A fold that was computed in memory."""
    run, metrics, block = evaluation.run, evaluation.metrics, evaluation.block
    return ModelFold(
        fold=block.fold,
        status=evaluation.status,
        training_overlap=evaluation.training_overlap,
        total_return=metrics.total_return if metrics is not None else None,
        returns=whole_returns(run.equity, block.n_bars)
        if run is not None and evaluation.status in COMPUTED
        else _NO_RETURNS,
    )
