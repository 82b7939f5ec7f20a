"""What there is to compute for a model: which blocks, which of them are current, and the computation itself.

Here: jobs, made from what the warehouse has, and their results. Not here: the order of them and the rows that come of
it (evaluation.py), or how a block is evaluated (core.evaluation).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.bars import Bars
from postval_assets.core.evaluation import (
    EvaluatedModel,
    Evaluations,
    FoldEvaluation,
    FoldInputs,
    ModelWork,
    RunNetworks,
    digest_of,
    evaluate_together,
    fold_inputs,
    not_evaluated,
    run_networks,
)
from postval_assets.core.failures import Rejected
from postval_assets.core.features.causality import PromiseBroken
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.folds import BACKTEST, Plan, PlanBlocks, TrainingWindow, cut, newest_close
from postval_assets.core.instruments import Timeframe
from postval_assets.core.policy_causality import (
    Checked,
    evaluate_tested,
    joined,
    look_ahead_reason,
    not_checked,
)
from postval_assets.core.walk_forward import FoldStatus
from postval_assets.pipeline.bar_checks import BarVerdicts
from postval_assets.pipeline.instants import WANTED, Instant, ModelKey, model_key, wanted
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.platform import Platform

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


def selections_of(plans: Collection[Plan]) -> list[FoldSelection]:
    """All folds of these plans."""
    return [FoldSelection(plan) for plan in plans]


@dataclass(frozen=True)
class StoredFold:
    """What the warehouse has of a fold."""

    inputs_digest: str
    status: FoldStatus
    reason: str | None

    def is_current(self, inputs_digest: str) -> bool:
        """Whether it need not be computed again; what was refused is tried anew, its cause is in no digest."""
        return self.inputs_digest == inputs_digest and self.status is not FoldStatus.NOT_EVALUATED


StoredFolds = dict[tuple[datetime, str, int], StoredFold]


@dataclass(frozen=True, eq=False)
class FoldJob:
    """One model's work: everything by plan, in the order of the selections.

    Attributes:
        model: with weights that are read when they are needed.
        keys: of its rows.
        as_of: the instant that it is evaluated at.
        bars: up to then, in its timeframe.
        cuts: each plan's blocks.
        wanted: each plan's blocks that were asked for.
        stale: of these, what is to be computed.
        stored: each plan's folds that have rows.
        is_new: whether there is no evaluation at this instant yet.
        stopped: why its bars are not to be used; what was computed from them before stays.
    """

    model: EvaluatedModel
    keys: dict[str, object]
    as_of: datetime
    bars: Bars
    cuts: tuple[PlanBlocks, ...]
    wanted: tuple[tuple[FoldInputs, ...], ...]
    stale: tuple[tuple[FoldInputs, ...], ...]
    stored: tuple[dict[int, StoredFold], ...]
    is_new: bool
    stopped: str | None

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.keys['symbol']} {self.keys['timeframe']}"


def models_to_evaluate(platform: Platform, archives: Mapping[str, str]) -> list[dict[str, Any]]:
    """The models to evaluate, in the order of the symbols asked for."""
    rows = platform.warehouse.rows(_MODELS, (*wanted(archives), platform.settings.include_dropped))
    place = {symbol: n for n, symbol in enumerate(archives)}
    return sorted(rows, key=lambda r: (place[r["symbol"]], r["timeframe"]))


def stored_folds(platform: Platform, table: str, archives: Mapping[str, str]) -> dict[ModelKey, StoredFolds]:
    """The stored rows of each model, by as_of, plan and fold."""
    stored: dict[ModelKey, StoredFolds] = {}
    for r in platform.warehouse.rows(_STORED[table], wanted(archives)):
        fold = StoredFold(str(r["inputs_digest"]), FoldStatus(r["status"]), r["reason"])
        stored.setdefault(model_key(r), {})[(r["as_of"], r["plan"], int(r["fold"]))] = fold
    return stored


def fold_job(
    platform: Platform,
    row: Mapping[str, Any],
    selections: Sequence[FoldSelection],
    as_of: datetime | None,
    newest: Instant | None,
    stored_bars: ModelBars,
    known: StoredFolds,
    verdicts: BarVerdicts,
) -> FoldJob:
    """What there is to do for one model.

    Args:
        platform: settings and stores.
        row: of models_to_evaluate.
        selections: plans and folds wanted.
        as_of: evaluate at the newest bar complete by then; default the newest evaluation, else now.
        newest: the model's newest evaluation.
        stored_bars: bars by symbol.
        known: the model's stored folds.
        verdicts: what bars are not to be used.

    Raises:
        Rejected: no bars, or its feature set is not there.
        Unavailable: the store of weights does not answer.
    """
    symbol, timeframe = str(row["symbol"]), Timeframe(row["timeframe"])
    stored = newest.as_of if newest is not None else None
    with platform.stopwatch.part("bars"):
        bars = stored_bars.read(symbol, timeframe, until=as_of or stored)
    at = newest_close(bars, as_of or platform.now()) if as_of or stored is None else stored
    model = evaluated_model(platform, row)
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
    return FoldJob(
        model, keys, at, bars, cuts, wanted_folds, stale, rows, is_new, verdicts.stops(symbol, timeframe, at)
    )


def evaluated_model(platform: Platform, row: Mapping[str, Any]) -> EvaluatedModel:
    """A model with weights that are read when they are needed.

    Args:
        platform: stores and feature sets.
        row: model_sha256, feature_set, train_start, train_end, and archive_train_start and archive_train_end, which
            count where the model itself says nothing.

    Raises:
        Rejected: its feature set is not there, or the weights are damaged.
        Unavailable: the store of weights does not answer.
    """
    spec, tensors = platform.models.open(row["model_sha256"])
    return EvaluatedModel(
        model_sha256=row["model_sha256"],
        spec=spec,
        tensors=tensors,
        feature_set=_feature_set(platform, row["feature_set"]),
        training=TrainingWindow(
            row["train_start"] or row["archive_train_start"], row["train_end"] or row["archive_train_end"]
        ),
    )


def compute(
    platform: Platform, run: RunNetworks, prepare: Callable[[], None], jobs: Sequence[FoldJob]
) -> list[Evaluations | Exception]:
    """The blocks of some jobs that are not current, the models in lockstep: no warehouse, nothing shared.

    Args:
        platform: settings.
        run: runs the networks.
        prepare: called before torch is used.
        jobs: what there is to do.

    Returns:
        For each job its evaluations by plan, or the error that kept the model from being evaluated.
    """
    return [done.evaluations for done in _Computer(platform, run, tests=False).done(prepare, jobs)]


def untested(
    platform: Platform, run: RunNetworks, prepare: Callable[[], None], jobs: Sequence[FoldJob]
) -> list[Checked]:
    """``compute``, in the form of ``compute_tested``."""
    return _Computer(platform, run, tests=False).done(prepare, jobs)


def compute_tested(
    platform: Platform, run: RunNetworks, prepare: Callable[[], None], jobs: Sequence[FoldJob]
) -> list[Checked]:
    """``compute``, and whether each model looks ahead; one that does has none of its wanted blocks evaluated."""
    return _Computer(platform, run, tests=True).done(prepare, jobs)


@dataclass(frozen=True, eq=False)
class _Computer:
    """How models are evaluated: on this platform, with networks run so, tested for looking ahead or not."""

    platform: Platform
    run: RunNetworks
    tests: bool

    def done(self, prepare: Callable[[], None], jobs: Sequence[FoldJob]) -> list[Checked]:
        works = [ModelWork(j.model, j.bars, list(zip(j.cuts, j.stale, strict=True))) for j in jobs]
        going = [work for job, work in zip(jobs, works, strict=True) if job.stopped is None]
        if not any(blocks for work in going for _, blocks in work.plans):
            # All of it is current: nobody has to wait for torch.
            outcomes = iter([Checked([[] for _ in work.plans], None) for work in going])
        else:
            prepare()
            outcomes = iter(self._evaluated(going))
        return [
            _stopped(work, job.stopped)
            if job.stopped is not None
            else _all_refused_that_looks_ahead(job, self._after_refusal(work, next(outcomes)))
            for job, work in zip(jobs, works, strict=True)
        ]

    def _evaluated(self, works: Sequence[ModelWork], run: RunNetworks | None = None) -> list[Checked]:
        platform = self.platform
        rules, device = platform.settings.execution_rules, platform.device()
        timed, run = platform.stopwatch.part, run or self.run
        if self.tests:
            return evaluate_tested(works, rules, device, timed, run)
        return [Checked(outcome, None) for outcome in evaluate_together(works, rules, device, timed, run)]

    def _after_refusal(self, work: ModelWork, done: Checked) -> Checked:
        """Where blocks together are refused for the bars, each plan alone, then each block alone."""
        refusal = done.evaluations
        if isinstance(refusal, PromiseBroken):
            # It lies in the set, not in a block: that some block does not show it makes that one no better.
            reason = str(refusal)
            if refusal.look_ahead is not None:
                reason = look_ahead_reason(work.model.feature_set.name, refusal.look_ahead)
            return Checked(_refused_all(work, reason), done.causality)
        if not isinstance(refusal, Rejected):
            return done
        if sum(len(blocks) for _, blocks in work.plans) == 1:
            return Checked(_refused_all(work, str(refusal)), done.causality)
        if len(work.plans) > 1:
            return _joined([self._alone(dataclasses.replace(work, plans=[part])) for part in work.plans])
        [(plan, blocks)] = work.plans
        each = [dataclasses.replace(work, plans=[(plan, [inputs])]) for inputs in blocks]
        together = _joined([self._alone(part) for part in each])
        if isinstance(together.evaluations, Exception):
            return together
        return Checked([[fold for [fold] in together.evaluations]], together.causality)

    def _alone(self, work: ModelWork) -> Checked:
        [done] = self._evaluated([work], run_networks)
        return self._after_refusal(work, done)


def _joined(parts: Sequence[Checked]) -> Checked:
    """Parts of one model's work: its evaluations one after the other, or the first error."""
    together: Evaluations = []
    for part in parts:
        if isinstance(part.evaluations, Exception):
            return part
        together += part.evaluations
    return Checked(together, joined([part.causality for part in parts]))


def _stopped(work: ModelWork, reason: str) -> Checked:
    refused = _refused_all(work, reason)
    return Checked(refused, not_checked(work, reason) if any(refused) else None)


def _all_refused_that_looks_ahead(job: FoldJob, done: Checked) -> Checked:
    """Where a model looks ahead, its wanted blocks that were current are refused as well."""
    found = done.causality
    if found is None or not found.looks_ahead:
        return done
    work = ModelWork(job.model, job.bars, list(zip(job.cuts, job.wanted, strict=True)))
    return Checked(_refused_all(work, str(found.reason)), found)


def _refused_all(work: ModelWork, reason: str) -> Evaluations:
    """Every block of a model refused for one reason."""
    return [[_refused(inputs, reason) for inputs in blocks] for _, blocks in work.plans]


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


def _refused(inputs: FoldInputs, reason: str) -> FoldEvaluation:
    """A block that was not evaluated; the reason goes into its digest, so that what it leads to changes with it."""
    fold = not_evaluated(inputs, reason)
    if fold.status is not FoldStatus.NOT_EVALUATED:
        return fold
    digest = digest_of({"inputs": inputs.inputs_digest, "not_evaluated": reason})
    return dataclasses.replace(fold, inputs_digest=digest)
