"""Stage ``deployment_watches``: what became of models since they went LIVE.

Here: which models are deployed and since when, their returns since then, and the rows. Not here: the test
(core.deployment_watch), or the decision that follows from an alarm (deciding.py).

A model is deployed over a plan where the newest decision of any policy is LIVE, and it is watched from the as_of of its
first LIVE decision, against the folds of that evaluation: evaluating it again on newer bars, every week, moves neither.
Since then it trades one block, from flat, as any fold does, without its last bar: there the engine closes what is held,
which the deployed model does not. So every return stays what it is when further bars arrive, and so does an alarm. A
row with an alarm is final.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np

from postval_assets.core.archive_evidence import Float, fold_counts
from postval_assets.core.bars import Bars
from postval_assets.core.deployment_watch import (
    FALSE_ALARM_RATE,
    MIN_RETURNS,
    FoldReference,
    WatchResult,
    fold_reference,
    watch,
)
from postval_assets.core.evaluation import FoldEvaluation, FoldInputs, digest_of, evaluate, fold_inputs
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.folds import PlanBlocks, TrainingOverlap, cut_interval, newest_close, to_datetime
from postval_assets.core.instruments import Timeframe
from postval_assets.core.walk_forward import FoldStatus
from postval_assets.io.model_store import LostWeights
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.bar_checks import BarVerdicts
from postval_assets.pipeline.fold_jobs import evaluated_model
from postval_assets.pipeline.instants import WANTED, wanted
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.progress import Progress
from postval_assets.pipeline.stopwatch import timed_stage
from postval_assets.pipeline.stored_weights import require_readable, require_whole
from postval_assets.pipeline.watched import DEPLOYED

log = logging.getLogger("postval.watch")

METHOD_VERSION = "1"
"""Raised when the same folds and bars would give another row."""

WATCHED, TOO_EARLY, NOT_WATCHED = "WATCHED", "TOO_EARLY", "NOT_WATCHED"
_PLAN = "watch"

_DEPLOYED = f"""
SELECT d.* EXCLUDE (alarm, watched_until), m.model_sha256, m.feature_set, m.train_start, m.train_end,
       a.train_start AS archive_train_start, a.train_end AS archive_train_end, w.inputs_digest AS watched_digest,
       w.watched_until, w.status AS watch_status, w.reason AS watch_reason, coalesce(w.alarm, false) AS alarm
FROM ({DEPLOYED}) d
JOIN {WANTED} t USING (archive_id, symbol)
JOIN extracted_models m USING (archive_id, symbol, timeframe)
JOIN training_archives a USING (archive_id)
LEFT JOIN deployment_watches w USING (archive_id, symbol, timeframe, as_of, plan)
ORDER BY d.archive_id, d.symbol, d.timeframe, d.as_of, d.plan
"""  # noqa: S608 - constants
_FOLDS = """
SELECT fold, status, training_overlap, bars_per_year, inputs_digest FROM fold_results
WHERE archive_id = ? AND symbol = ? AND timeframe = ? AND as_of = ? AND plan = ? ORDER BY fold
"""
_CURVES = """
SELECT fold, equity FROM equity_curves
WHERE archive_id = ? AND symbol = ? AND timeframe = ? AND as_of = ? AND plan = ? AND list_contains(?, fold)
ORDER BY fold, ts
"""

Row = Mapping[str, Any]


@dataclass(frozen=True, eq=False)
class _Since:
    """A deployed model with its bars since then.

    Attributes:
        row: of _DEPLOYED, of any of its plans.
        bars: in its timeframe.
        until: close of the newest complete one.
        block: the bars since as_of.
        inputs: the digests of the block.
        problem: why it cannot be evaluated.
    """

    row: Row
    bars: Bars
    until: datetime
    block: PlanBlocks
    inputs: FoldInputs
    problem: str | None

    @property
    def n_returns(self) -> int:
        """Returns that the block gives, its last bar left out."""
        return max(self.inputs.block.n_bars - 2, 0)

    @property
    def is_due(self) -> bool:
        """Whether there is anything to be evaluated."""
        return self.problem is None and self.n_returns >= MIN_RETURNS


@timed_stage("deployment_watches")
def watch_deployed(
    platform: Platform, archives: Mapping[str, str], *, run_id: str, now: datetime | None = None
) -> StageReport:
    """Watch every deployed model of these symbols up to the newest complete bar.

    Args:
        platform: settings, stores and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows.
        now: bars that are not complete by then do not exist; default the clock. What was seen later stays.

    Raises:
        Unavailable: once, after all other models were looked at.
    """
    deployed = platform.warehouse.rows(_DEPLOYED, wanted(archives))
    stage = _Stage(platform, run_id, now or platform.now())
    if deployed:
        stage.run(deployed)
    return stage.report(archives)


class _Stage:
    """One pass over deployed models: a write for each."""

    def __init__(self, platform: Platform, run_id: str, now: datetime) -> None:
        self.platform = platform
        self.run_id = run_id
        self.now = now
        self.counts: dict[str, list[int]] = {}
        self.problems: dict[str, list[str]] = {}
        self.said: dict[str, list[str]] = {}
        self.unavailable: list[str] = []

    def run(self, deployed: Sequence[Row]) -> None:
        symbols = list(dict.fromkeys(str(r["symbol"]) for r in deployed))
        bars = ModelBars(self.platform, symbols)
        verdicts = BarVerdicts.stored(self.platform, bars, symbols)
        models = [
            list(rows)
            for _, rows in itertools.groupby(
                deployed, lambda r: (r["archive_id"], r["symbol"], r["timeframe"], r["as_of"])
            )
        ]
        progress = Progress(log, "deployment_watches", total=len(models))
        for rows in models:
            name = f"{rows[0]['symbol']} {rows[0]['timeframe']}"
            self._tell([r for r in rows if r["alarm"]], is_current=True)
            going = [r for r in rows if not r["alarm"]]
            try:
                made = self._model(going, bars, verdicts) if going else []
            except (Rejected, LostWeights) as error:
                log.warning("%s is not watched: %s", name, error)
                made = [_row(r, NOT_WATCHED, reason=str(error)) for r in going]
            except (Unavailable, OSError) as error:
                self.unavailable.append(f"{name}: {error}")
                made = []
            self._write(made)
            progress.step(name)
        if self.unavailable:
            raise Unavailable(
                f"{len(self.unavailable)} model(s) could not be watched: " + "; ".join(self.unavailable)
            )

    def _model(self, rows: Sequence[Row], bars: ModelBars, verdicts: BarVerdicts) -> list[dict[str, Any]]:
        """The rows of a model that are to be written, one a plan at most."""
        since = self._since(rows[0], bars, verdicts)
        evaluation: FoldEvaluation | None = None
        made = []
        current = []
        for row in rows:
            folds = self.platform.warehouse.rows(_FOLDS, _key(row))
            digest = _digest(since, folds)
            seen = row["watched_until"]
            if row["watched_digest"] == digest or (seen is not None and seen > since.until):
                current.append(row)
                continue
            reference = self._reference(row, folds)
            if reference is not None and evaluation is None and since.is_due:
                evaluation = self._evaluate(since)
            found = _judged(row, since, reference, evaluation)
            made.append({**found, "bars_digest": since.inputs.bars_digest, "inputs_digest": digest})
        self._tell(current, is_current=True)
        return made

    def _since(self, row: Row, stored: ModelBars, verdicts: BarVerdicts) -> _Since:
        """Raises Rejected where there are no bars, or weights that cannot be had."""
        platform = self.platform
        symbol, timeframe = str(row["symbol"]), Timeframe(row["timeframe"])
        require_readable(platform, row)
        bars = stored.read(symbol, timeframe, until=self.now)
        until = newest_close(bars, self.now)
        model = evaluated_model(platform, row)
        block = cut_interval(bars, _PLAN, row["as_of"], until, needed_before=model.needed_before)
        [inputs] = fold_inputs(model, bars, block, until, platform.settings.evaluation_digest())
        return _Since(row, bars, until, block, inputs, verdicts.stops(symbol, timeframe, until))

    def _evaluate(self, since: _Since) -> FoldEvaluation:
        platform = self.platform
        require_whole(platform, since.row)
        model = evaluated_model(platform, since.row)
        plans = [(since.block, [since.inputs])]
        [[evaluation]] = evaluate(
            model, since.bars, plans, platform.settings.execution_rules, platform.device()
        )
        return evaluation

    def _reference(self, row: Row, folds: Sequence[Row]) -> FoldReference | None:
        counted = [
            int(f["fold"])
            for f in folds
            if fold_counts(FoldStatus(f["status"]), TrainingOverlap(f["training_overlap"]))
        ]
        if not counted:
            return None
        points = self.platform.warehouse.frame(_CURVES, (*_key(row), counted))
        curves = [c["equity"].to_numpy(np.float64) for _, c in points.groupby("fold", sort=True)]
        returns = [_returns(c) for c in curves if len(c) >= 2]
        if not returns:
            return None
        return fold_reference(
            np.concatenate(returns),
            [len(r) for r in returns],
            float(folds[0]["bars_per_year"]),
            str(row["model_sha256"]),
            str(row["plan"]),
            _PLAN,
        )

    def _write(self, made: Sequence[dict[str, Any]]) -> None:
        if not made:
            return
        keys = [{name: r[name] for name in _KEY} for r in made]
        change = Replace("deployment_watches", keys, made)
        self.platform.warehouse.write([change], run_id=self.run_id, now=self.platform.now())
        for r in made:
            told = {**r, "watch_status": r["status"], "watch_reason": r["reason"]}
            self._tell([told], is_current=False)

    def _tell(self, rows: Sequence[Row], *, is_current: bool) -> None:
        """Count rows that are in the table now, and what is wrong with their models."""
        for r in rows:
            counts = self.counts.setdefault(r["symbol"], [0, 0])
            counts[0] += 1
            counts[1] += is_current
            line = f"{r['timeframe']} {r['plan']}: {r['watch_status']}, {r['watch_reason']}"
            if r["alarm"] or r["watch_status"] == NOT_WATCHED:
                self.problems.setdefault(r["symbol"], []).append(line)
            if not is_current:
                self.said.setdefault(r["symbol"], []).append(line)

    def report(self, archives: Mapping[str, str]) -> StageReport:
        return StageReport(tuple(self._report(symbol) for symbol in archives))

    def _report(self, symbol: str) -> SymbolReport:
        n_rows, n_current = self.counts.get(symbol, (0, 0))
        problems, said = self.problems.get(symbol, ()), self.said.get(symbol, ())
        return SymbolReport(symbol, n_rows, n_current, tuple(problems), tuple(said))


_KEY = ("archive_id", "symbol", "timeframe", "as_of", "plan")


def _key(row: Row) -> tuple[object, ...]:
    return tuple(row[name] for name in _KEY)


def _digest(since: _Since, folds: Sequence[Row]) -> str:
    parts = {
        "folds": [f["inputs_digest"] for f in folds],
        "since": since.inputs.inputs_digest,
        "problem": since.problem,
        "method": METHOD_VERSION,
    }
    return digest_of(parts)


def _judged(
    row: Row, since: _Since, reference: FoldReference | None, evaluation: FoldEvaluation | None
) -> dict[str, Any]:
    """The row of a model and plan, without its digests."""
    known: dict[str, Any] = {"watched_until": since.until, "n_returns": since.n_returns}
    if since.problem is not None:
        return _row(row, NOT_WATCHED, reason=since.problem, **known)
    if reference is None:
        reason = f"its folds have no {MIN_RETURNS} returns that count and vary: nothing to hold it against"
        return _row(row, NOT_WATCHED, reason=reason, **known)
    known["sharpe_reference"] = reference.sharpe
    if evaluation is None:
        reason = f"{since.n_returns} of the {MIN_RETURNS} bars that the first look needs"
        return _row(row, TOO_EARLY, reason=reason, **known)
    if evaluation.run is None:
        return _row(row, NOT_WATCHED, reason=f"{evaluation.status}: {evaluation.reason}", **known)
    returns = _returns(evaluation.run.equity)
    is_whole = evaluation.status not in (FoldStatus.RUINED, FoldStatus.BROKEN_POLICY)
    if is_whole:
        returns = returns[:-1]
    found = watch(reference, returns)
    figures = _figures(found) if found is not None else {}
    if found is not None and found.alarm_index is not None:
        at = _close_of(since, found.alarm_index)
        rate = f"{FALSE_ALARM_RATE * 100:.0f} % false alarms"
        reason = f"{_record(row, found)}; sequential test alarmed at {at:%Y-%m-%d} ({rate})"
        return _row(row, WATCHED, reason=reason, alarm_ts=at, **{**known, **figures})
    if not is_whole:
        at = _close_of(since, len(returns) - 1)
        figures["n_returns"] = len(returns)
        reason = f"since {row['as_of']:%Y-%m-%d} {evaluation.status} at {at:%Y-%m-%d}: {evaluation.reason}"
        return _row(row, WATCHED, reason=reason, alarm_ts=at, **{**known, **figures})
    assert found is not None  # noqa: S101 - it is due
    return _row(row, WATCHED, reason=_record(row, found), **{**known, **figures})


def _record(row: Row, found: WatchResult) -> str:
    observed = "undefined" if found.sharpe_observed is None else f"{found.sharpe_observed:.2f}"
    return (
        f"since {row['as_of']:%Y-%m-%d} Sharpe {observed} over {found.n_returns} bars, at least "
        f"{found.sharpe_reference:.2f} expected"
    )


def _figures(found: WatchResult) -> dict[str, Any]:
    return {
        "n_returns": found.n_returns,
        "sharpe_observed": found.sharpe_observed,
        "return_since": found.total_return,
        "statistic": found.statistic,
        "boundary": found.boundary,
    }


def _row(
    row: Row, status: str, *, reason: str, alarm_ts: datetime | None = None, **figures: Any
) -> dict[str, Any]:
    """A row of the table; what is not given is NULL."""
    return {
        **{name: row[name] for name in _KEY},
        **figures,
        "alarm": alarm_ts is not None,
        "alarm_ts": alarm_ts,
        "status": status,
        "reason": reason,
        "model_sha256": row["model_sha256"],
    }


def _close_of(since: _Since, index: int) -> datetime:
    """When the bar of a return closed: the first return is that of the block's second bar."""
    at = since.bars.ts[since.inputs.block.start + 1 + index] + since.bars.timeframe.delta
    return to_datetime(at)


def _returns(equity: Float) -> Float:
    """Returns [return] of a curve [point]."""
    changes: Float = equity[1:] / equity[:-1] - 1.0
    return changes
