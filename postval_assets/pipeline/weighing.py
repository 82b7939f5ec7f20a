"""What the folds of some models prove, from the warehouse alone: their curves, their actions, and the bars.

Here: reading what is weighed, and weighing several models at once. Not here: the figures (core), which folds are
weighed anew and the rows (summarizing.py, evidence_rows.py).
"""

from __future__ import annotations

import functools
import multiprocessing
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pandas as pd

from postval_assets.core.action_replays import PlayedFold, replay_figures
from postval_assets.core.actions import action_sizes
from postval_assets.core.archive_evidence import Float, fold_counts
from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import Lane
from postval_assets.core.failures import Rejected
from postval_assets.core.folds import to_datetime64
from postval_assets.core.instruments import Timeframe
from postval_assets.core.walk_forward import FoldOutcome
from postval_assets.core.walk_forward_evidence import (
    EvidenceLimits,
    WalkForwardEvidence,
    sharpe_evidence,
    weighed,
)
from postval_assets.pipeline.fold_rows import fold_outcome
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.network_processes import WORTH_IT_FROM, begin_process
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.workers import in_order, workers_for

Row = Mapping[str, Any]

_CURVES = """
SELECT c.archive_id, c.symbol, c.timeframe, c.as_of, c.plan, c.fold, c.equity, c.action
FROM equity_curves c
JOIN (SELECT unnest(CAST(? AS VARCHAR[])) AS archive_id, unnest(CAST(? AS VARCHAR[])) AS symbol,
             unnest(CAST(? AS VARCHAR[])) AS timeframe, unnest(CAST(? AS TIMESTAMPTZ[])) AS as_of,
             unnest(CAST(? AS VARCHAR[])) AS plan) m
  USING (archive_id, symbol, timeframe, as_of, plan)
ORDER BY c.archive_id, c.symbol, c.timeframe, c.as_of, c.plan, c.fold, c.ts
"""
_KEYS = ("archive_id", "symbol", "timeframe", "as_of", "plan")
# Points of equity curves read at once: bounds memory, and keeps queries few.
_POINTS_PER_READ = 200_000


@dataclass(frozen=True, eq=False)
class WeighingJob:
    """A model's folds of one plan with everything that they are weighed by: nothing of it is asked for later.

    Attributes:
        outcomes: of the folds that have rows.
        n_folds: of the plan.
        bars_per_year: measured over the plan's window.
        curves: equity of each fold that counts, by its number.
        played: the folds that count, with their actions; empty where ``problem`` says why not.
        model_sha256: seeds what is drawn.
        n_trials: models that were tried.
        rules: of execution.
        limits: of the conditions.
        problem: why the actions cannot be replayed.
    """

    outcomes: tuple[FoldOutcome, ...]
    n_folds: int
    bars_per_year: float
    curves: Mapping[int, Float]
    played: tuple[PlayedFold, ...]
    model_sha256: str
    n_trials: int
    rules: ExecutionRules
    limits: EvidenceLimits
    problem: str | None = None


def weigh(job: WeighingJob) -> WalkForwardEvidence:
    """What the folds of one job prove."""
    returns = sharpe_evidence(
        job.outcomes,
        job.curves,
        bars_per_year=job.bars_per_year,
        model_sha256=job.model_sha256,
        n_trials=job.n_trials,
        limits=job.limits,
    )
    replays, problem = None, job.problem
    if job.played:
        replays = replay_figures(job.played, job.model_sha256, job.rules)
        if not replays.reproduces(job.played):
            replays, problem = (
                None,
                "a replay of the model's actions on the bars that are stored now gives other folds",
            )
    return weighed(returns, replays, job.outcomes, n_folds=job.n_folds, limits=job.limits, problem=problem)


def weigh_together(
    platform: Platform, jobs: Iterator[WeighingJob], n_jobs: int
) -> Iterator[WalkForwardEvidence]:
    """Evidence of each job, in their order; jobs are drawn by the calling thread, which alone asks the warehouse.

    Args:
        platform: the setting ``workers``.
        jobs: what is to be weighed.
        n_jobs: how many there are.
    """
    n_workers = workers_for(platform.settings.workers, n_jobs)
    if n_workers == 1 or n_jobs < WORTH_IT_FROM:
        # Small steps of numpy hold the interpreter: threads would wait for each other.
        yield from map(weigh, jobs)
        return
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_workers, mp_context=context, initializer=begin_process) as pool:
        work = functools.partial(_in_process, pool)
        for _, finished in in_order(jobs, work, n_workers):
            yield finished.result()


def _in_process(pool: ProcessPoolExecutor, job: WeighingJob) -> WalkForwardEvidence:
    try:
        return pool.submit(weigh, job).result()
    except BrokenProcessPool:
        return weigh(job)


def weighing_jobs(platform: Platform, plans: Sequence[Sequence[Row]]) -> Iterator[WeighingJob]:
    """The jobs of some plans, in their order; curves are read for several together.

    Args:
        platform: settings and warehouse.
        plans: for each its rows of ``fold_results``, with n_actions and n_trials of the model.
    """
    bars = ModelBars(platform, list(dict.fromkeys(str(rows[0]["symbol"]) for rows in plans)))
    first = 0
    while first < len(plans):
        stop, n_points = first, 0
        while stop < len(plans) and (stop == first or n_points < _POINTS_PER_READ):
            n_points += sum(int(row["n_bars"] or 0) for row in plans[stop])
            stop += 1
        curves = _read_curves(platform, plans[first:stop])
        for rows in plans[first:stop]:
            model = (str(rows[0]["symbol"]), Timeframe(rows[0]["timeframe"]))
            series = functools.partial(bars.read, *model, until=rows[0]["as_of"])
            yield weighing_job(platform, rows, curves.get(_key(rows[0]), {}), series)
        first = stop


def _key(row: Row) -> tuple[object, ...]:
    return tuple(pd.Timestamp(row[n]) if n == "as_of" else row[n] for n in _KEYS)


Curve = tuple[Float, npt.NDArray[np.int64]]
_NO_CURVE: Curve = (np.empty(0), np.empty(0, dtype=np.int64))


def _read_curves(
    platform: Platform, plans: Sequence[Sequence[Row]]
) -> dict[tuple[object, ...], dict[int, Curve]]:
    """Equity and actions of every fold, by plan and fold; -1 where no action was decided."""
    columns = tuple([rows[0][name] for rows in plans] for name in _KEYS)
    points = platform.warehouse.frame(_CURVES, columns)
    found: dict[tuple[object, ...], dict[int, Curve]] = {}
    for found_key, curve in points.groupby([*_KEYS, "fold"], sort=False):
        *key, fold = cast("tuple[Any, ...]", found_key)
        actions = curve["action"].to_numpy(np.float64, na_value=-1.0).astype(np.int64)
        found.setdefault(tuple(key), {})[int(fold)] = (curve["equity"].to_numpy(np.float64), actions)
    return found


def weighing_job(
    platform: Platform, rows: Sequence[Row], curves: Mapping[int, Curve], series: Callable[[], Bars]
) -> WeighingJob:
    """What one plan's folds are weighed by.

    Args:
        platform: settings.
        rows: of ``fold_results``, with n_actions and n_trials of the model.
        curves: equity and actions of each fold, by its number.
        series: gives the model's bars; Rejected where they are not there any more.
    """
    outcomes = tuple(fold_outcome(row) for row in rows)
    counted = [
        row
        for row, outcome in zip(rows, outcomes, strict=True)
        if fold_counts(outcome.status, outcome.training_overlap)
    ]
    problem: str | None = None
    played: tuple[PlayedFold, ...] = ()
    try:
        played = _played(platform, counted, curves, series)
    except Rejected as error:
        problem = str(error)
    settings = platform.settings
    return WeighingJob(
        outcomes=outcomes,
        n_folds=int(rows[0]["n_folds"]),
        bars_per_year=float(rows[0]["bars_per_year"]),
        curves={int(row["fold"]): curves.get(int(row["fold"]), _NO_CURVE)[0] for row in counted},
        played=played,
        model_sha256=str(rows[0]["model_sha256"]),
        n_trials=int(rows[0]["n_trials"]),
        rules=settings.execution_rules,
        limits=settings.evidence_limits,
        problem=problem,
    )


def _played(
    platform: Platform, rows: Sequence[Row], curves: Mapping[int, Curve], series: Callable[[], Bars]
) -> tuple[PlayedFold, ...]:
    """The folds with their bars and actions.

    Raises:
        Rejected: the bars are not there any more, or the settings of execution are others.
    """
    if not rows:
        return ()
    missing = [str(row["fold"]) for row in rows if int(row["fold"]) not in curves]
    if missing:
        raise Rejected(f"the equity curve of fold {', '.join(missing)} is not stored any more")
    settings = platform.settings
    if {row["settings_digest"] for row in rows} != {settings.evaluation_digest()}:
        raise Rejected("the folds were computed under other settings of execution")
    bars = series()
    sizes = action_sizes(int(rows[0]["n_actions"]))
    # Only what the folds reach: another process is given a copy.
    seen = bars.slice(_place(bars, rows[0], "start_ts"), _place(bars, rows[-1], "end_ts") + 1)
    played = []
    for row in rows:
        start, stop = _place(seen, row, "start_ts"), _place(seen, row, "end_ts") + 1
        if stop - start != row["n_bars"]:
            raise Rejected(
                f"{stop - start} bars are stored for fold {row['fold']}, it was computed on {row['n_bars']}"
            )
        equity, actions = curves[int(row["fold"])]
        held = np.full(stop - start, -1, dtype=np.int64)
        held[: len(actions)] = actions
        played.append(
            PlayedFold(
                fold=int(row["fold"]),
                lane=Lane(seen, start, stop, sizes),
                actions=held,
                traded_value=float(row["turnover"]) * float(equity.mean()),
                total_return=float(row["total_return"]),
            )
        )
    return tuple(played)


def _place(bars: Bars, row: Row, column: str) -> int:
    ts = to_datetime64(row[column])
    place = int(np.searchsorted(bars.ts, ts))
    if place == len(bars) or bars.ts[place] != ts:
        raise Rejected(f"the bar at {row[column].isoformat()} of fold {row['fold']} is not stored any more")
    return place
