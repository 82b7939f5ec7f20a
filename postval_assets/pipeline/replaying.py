"""A recorded decision, recomputed from what is stored now: does it come out the same, and if not, what differs?

Here: archive -> model and claims -> gate, stored bars -> folds -> summary -> policy, by the functions of the stages,
with the recorded as_of. Nothing is written but into a temporary folder. Not here: which decisions were recorded, and
with what (recorded_decisions.py), reading models again (replay_sources.py), or the comparison (replay_differences.py).
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from postval_assets.core.bars import Bars
from postval_assets.core.decision import Reason
from postval_assets.core.evaluation import code_version, run_networks
from postval_assets.core.failures import PostvalError, Rejected
from postval_assets.core.folds import plan_named, to_datetime, to_datetime64
from postval_assets.core.gating import Thresholds
from postval_assets.core.instruments import Timeframe
from postval_assets.core.policies import POLICIES, DecisionPolicy
from postval_assets.core.walk_forward import FoldStatus
from postval_assets.core.walk_forward_evidence import WalkForwardEvidence
from postval_assets.io.model_store import ModelStore
from postval_assets.pipeline.bar_checks import BarVerdicts, CheckedSeries, examined
from postval_assets.pipeline.decision_rows import (
    DecisionBasis,
    decision_row,
    is_missed,
    model_verdict,
    named_inputs,
)
from postval_assets.pipeline.fold_jobs import FoldSelection, compute, fold_job, why_not_evaluated
from postval_assets.pipeline.fold_rows import fold_row
from postval_assets.pipeline.instants import Instant
from postval_assets.pipeline.looking_ahead import was_rejected_for_it
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.recorded_decisions import RecordedDecision, recorded_decisions
from postval_assets.pipeline.recording import (
    Kind,
    decision_contents,
    execution_content,
    settings_of,
    thresholds_content,
    thresholds_of,
)
from postval_assets.pipeline.replay_differences import (
    NUMBERS,
    WORDS,
    Difference,
    of_environment,
    of_figures,
    of_folds,
    of_inputs,
)
from postval_assets.pipeline.replay_sources import ReplaySource, model_facts, open_source, with_findings
from postval_assets.pipeline.summarizing import PlanFolds, n_trials_of
from postval_assets.pipeline.weighing import Curve, weigh, weighing_job
from postval_assets.pipeline.workers import torch_threads
from postval_assets.settings import Settings

Row = Mapping[str, Any]


class Outcome(StrEnum):
    """What came of a replay."""

    SAME = "SAME"
    DIFFERENT = "DIFFERENT"
    IMPOSSIBLE = "IMPOSSIBLE"


@dataclass(frozen=True, eq=False)
class Replay:
    """A decision recomputed.

    Attributes:
        row: as recorded.
        outcome: SAME where decision, reasons and every figure of every fold come out as recorded.
        decision, reasons: as recomputed; None and empty where that was not possible.
        problem: why it was not.
        inputs: what the decision was made from and is other now; it may be so without a consequence.
        figures: of folds that differ.
        n_figures: how many were compared.
        exact: whether figures had to be equal to the last bit: code, libraries and processor are those of then.
        environment: what it was computed with and is other now, for information.
        notes: what could not be compared.
    """

    row: Row
    outcome: Outcome
    decision: str | None = None
    reasons: tuple[str, ...] = ()
    problem: str | None = None
    inputs: tuple[Difference, ...] = ()
    figures: tuple[Difference, ...] = ()
    n_figures: int = 0
    exact: bool = False
    environment: tuple[Difference, ...] = ()
    notes: tuple[str, ...] = ()


def replay(
    platform: Platform, rows: Sequence[Row], *, with_recorded_settings: bool = False
) -> Iterator[Replay]:
    """Recompute decisions, one after the other; those of one archive and model are best given together.

    Args:
        platform: settings, stores and warehouse; only read.
        rows: of ``deployment_decisions``.
        with_recorded_settings: apply the settings, thresholds and limits that were recorded with each decision in
            place of those in force.
    """
    for archive_id, group in itertools.groupby(rows, key=lambda row: str(row["archive_id"])):
        decisions = recorded_decisions(platform, list(group))
        with ExitStack() as stack:
            try:
                source = stack.enter_context(open_source(platform, archive_id))
            except PostvalError as error:
                yield from (Replay(d.row, Outcome.IMPOSSIBLE, problem=str(error)) for d in decisions)
                continue
            replayer = _Replayer(platform, source, with_recorded_settings=with_recorded_settings)
            for decision in decisions:
                try:
                    yield replayer.replay(decision)
                except (PostvalError, OSError) as error:
                    found = source.differences()
                    yield Replay(decision.row, Outcome.IMPOSSIBLE, problem=str(error), inputs=found)


@dataclass(frozen=True, eq=False)
class _Applied:
    """What one decision is recomputed under."""

    settings: Settings
    thresholds: Thresholds
    platform: Platform


class _Replayer:
    """Decisions of one archive; what several of one model share is computed once."""

    def __init__(self, platform: Platform, source: ReplaySource, *, with_recorded_settings: bool) -> None:
        self._platform = platform
        self._source = source
        self._with_recorded = with_recorded_settings
        self._model: tuple[str, str] | None = None
        # By what they depend on beside the model.
        self._facts: dict[object, tuple[Row, tuple[Difference, ...]]] = {}
        self._folds: dict[object, _Recomputed] = {}

    def replay(self, recorded: RecordedDecision) -> Replay:
        """Recompute one decision.

        Raises:
            Rejected, Unavailable, OSError: it cannot be recomputed; the message says what is missing.
        """
        row = recorded.row
        policy = POLICIES.get(str(row["policy"]))
        if policy is None:
            raise Rejected(f"policy {row['policy']} is unknown to this code; it has {', '.join(POLICIES)}")
        symbol, timeframe = str(row["symbol"]), str(row["timeframe"])
        if self._model != (symbol, timeframe):
            self._model = (symbol, timeframe)
            self._facts, self._folds = {}, {}
        applied = self._applied(recorded)
        thresholds = applied.thresholds if row["thresholds_version"] is not None else None
        key = (applied.settings.model_dump_json(include=_INTAKE), thresholds)
        if key not in self._facts:
            self._facts[key] = model_facts(
                applied.platform, self._platform, self._source, symbol, timeframe, thresholds
            )
        facts, found = self._facts[key]
        facts = with_findings(self._platform, facts, row["created_at"])
        basis = self._basis(recorded, applied, facts, policy)
        return _compared(recorded, basis, applied, (*self._source.differences(), *found))

    def _applied(self, recorded: RecordedDecision, settings_digest: str | None = None) -> _Applied:
        """Settings, thresholds and platform; the settings of execution are a fold's where its digest is given."""
        given = self._platform.settings
        changes: dict[str, Any] = {"data_dir": self._source.folder}
        contents: dict[Kind, Mapping[str, Any] | None] = {}
        thresholds = None
        if self._with_recorded:
            asset_class = recorded.value("asset_class")
            if asset_class is not None:
                symbol = str(recorded.row["symbol"])
                changes["symbol_classes"] = {**given.symbol_classes, symbol: asset_class}
            kinds = (Kind.GRADE_LIMITS, Kind.EVIDENCE_LIMITS, Kind.INTAKE, Kind.QUALITY_LIMITS)
            contents = {kind: recorded.content(kind) for kind in kinds}
            contents[Kind.SETTINGS] = recorded.content(Kind.SETTINGS, settings_digest)
            thresholds = recorded.content(Kind.THRESHOLDS)
        settings = settings_of(given, contents, **changes)
        models = self._platform.models
        if self._source.file is not None:
            models = ModelStore(self._source.folder / "weights")
        return _Applied(
            settings=settings,
            thresholds=given.gate_thresholds if thresholds is None else thresholds_of(thresholds),
            platform=dataclasses.replace(self._platform, settings=settings, models=models),
        )

    def _basis(
        self, recorded: RecordedDecision, applied: _Applied, facts: Row, policy: DecisionPolicy
    ) -> DecisionBasis:
        row, platform = recorded.row, applied.platform
        symbol, timeframe = str(row["symbol"]), row["timeframe"]
        bars = ModelBars(platform, [symbol])
        verdict, checked, missing, folds, evidence = model_verdict(facts), None, None, None, None
        usable = facts["status"] == "OK"
        refused = bool(recorded.folds) and was_rejected_for_it(facts)
        if row["folds_digest"] is not None and (usable or refused):
            verdicts = _verdicts(recorded, platform, bars)
            folds = _refused_folds(recorded)
            if usable:
                recomputed = self._plan_folds(recorded, applied, facts, verdicts)
                folds = recomputed.folds
                if policy.uses_evidence:
                    evidence = recomputed.evidence(applied.platform, n_trials_of(self._source.row))
            of = (symbol, Timeframe(timeframe), row["as_of"])
            verdict = model_verdict(
                facts,
                bar_warnings=verdicts.warnings(*of),
                bar_errors=verdicts.errors(*of),
                notes=tuple(recorded.value("notes") or ()),
                edge_lost=recorded.value("edge_lost"),
            )
            checked = verdicts.checked(*of)
        elif is_missed(verdict):
            at = row["created_at"]
            missing = why_not_evaluated(
                platform, bars, symbol, Timeframe(timeframe), str(facts["feature_set"]), at
            )
        return DecisionBasis(
            model=facts,
            verdict=verdict,
            policy=policy,
            plan=str(row["plan"]),
            folds=folds,
            missing=missing,
            evidence=evidence,
            evidence_digest=None,
            limits=applied.settings.policy_limits,
            settings_digest=applied.settings.evaluation_digest(),
            contents=decision_contents(applied.settings),
            checked=checked,
            asset_class=platform.asset_class(symbol) if usable else None,
            feature_set=platform.feature_sets.get(facts["feature_set"]),
        )

    def _plan_folds(
        self, recorded: RecordedDecision, applied: _Applied, facts: Row, verdicts: BarVerdicts
    ) -> _Recomputed:
        """The folds that the decision was made from, computed again."""
        row = recorded.row
        plan = plan_named(str(row["plan"]))
        wanted: dict[tuple[str | None, bool], list[int]] = {}
        for fold in recorded.folds or ():
            # Folds of one decision may have been computed at different times, under different settings.
            digest = str(fold["settings_digest"]) if self._with_recorded else None
            wanted.setdefault((digest, _was_stopped(fold)), []).append(int(fold["fold"]))
        if recorded.folds is None:
            wanted[None, False] = list(range(1, plan.n_folds + 1))
        key = (row["folds_digest"], applied.settings.model_dump_json(), facts["model_sha256"])
        if key not in self._folds:
            parts: list[_Recomputed] = []
            for (digest, stopped), folds in wanted.items():
                under = applied.platform if digest is None else self._applied(recorded, digest).platform
                selection = FoldSelection(plan, frozenset(folds))
                parts.append(_computed(under, facts, selection, row["as_of"], verdicts, stopped=stopped))
            self._folds[key] = _Recomputed.together(parts)
        return self._folds[key]


def _refused_folds(recorded: RecordedDecision) -> PlanFolds:
    """Folds of a model that looks ahead, as recorded: they have no figures that could be computed again."""
    keys = {name: recorded.row[name] for name in ("archive_id", "symbol", "timeframe", "as_of", "plan")}
    return PlanFolds(keys, tuple(recorded.folds or ()), is_newest=True)


@dataclass(frozen=True, eq=False)
class _Recomputed:
    """Folds computed again.

    Attributes:
        folds: with the columns of ``fold_results``, and the model's number of actions.
        curves: equity and actions by fold.
        bars: of the model.
    """

    folds: PlanFolds
    curves: Mapping[int, Curve]
    bars: Bars

    @classmethod
    def together(cls, parts: Sequence[_Recomputed]) -> _Recomputed:
        """The folds of one plan that were computed in several parts."""
        rows = sorted((row for part in parts for row in part.folds.rows), key=lambda r: int(r["fold"]))
        curves = {fold: curve for part in parts for fold, curve in part.curves.items()}
        return cls(dataclasses.replace(parts[0].folds, rows=tuple(rows)), curves, parts[0].bars)

    def evidence(self, platform: Platform, n_trials: int) -> WalkForwardEvidence:
        """What they prove."""
        rows = [{**row, "n_trials": n_trials} for row in self.folds.rows]
        return weigh(weighing_job(platform, rows, self.curves, lambda: self.bars))


_INTAKE = {"default_activation", "config_prefixes", "feature_sets"}


def _was_stopped(fold: Row) -> bool:
    """Whether a fold was refused for what checks said of its bars; what was computed before such a verdict stays."""
    refused = fold["status"] == FoldStatus.NOT_EVALUATED
    return refused and str(fold["reason"]).startswith(Reason.BAR_QUALITY)


def _computed(
    platform: Platform,
    facts: Row,
    selection: FoldSelection,
    as_of: datetime,
    verdicts: BarVerdicts,
    *,
    stopped: bool,
) -> _Recomputed:
    symbol = str(facts["symbol"])
    row = {
        **facts,
        # Where the model does not say when it was trained, the archive's word is among the facts already.
        "archive_train_start": None,
        "archive_train_end": None,
    }
    instant = Instant(as_of, has_folds=True)
    job = fold_job(platform, row, [selection], None, instant, ModelBars(platform, [symbol]), {}, verdicts)
    if not stopped:
        job = dataclasses.replace(job, stopped=None)
    with torch_threads(1) as prepare:
        [outcome] = compute(platform, run_networks, prepare, [job])
    if isinstance(outcome, Exception):
        raise outcome
    digests = {
        "model_sha256": job.model.model_sha256,
        "settings_digest": platform.settings.evaluation_digest(),
        "code_version": code_version(),
    }
    [evaluations], [blocks] = outcome, job.cuts
    # A fold that was not computed has no figures; its row in the table has NULLs.
    nothing = dict.fromkeys((*WORDS, *NUMBERS))
    n_actions = job.model.spec.n_actions
    rows = tuple(
        {**nothing, **fold_row(job.keys, blocks, e, job.bars, digests), "n_actions": n_actions}
        for e in evaluations
    )
    curves = {e.block.fold: (e.run.equity, e.run.actions) for e in evaluations if e.run is not None}
    keys = {**job.keys, "plan": blocks.plan.name}
    return _Recomputed(PlanFolds(keys, rows, is_newest=True), curves, job.bars)


def _verdicts(recorded: RecordedDecision, platform: Platform, bars: ModelBars) -> BarVerdicts:
    """What the checks say of the bars that they saw then, as these are stored now."""
    symbol = str(recorded.row["symbol"])
    if not recorded.is_detailed:
        return BarVerdicts.stored(platform, bars, [symbol])
    then = recorded.value("bar_quality") or {}
    nothing = BarVerdicts(bars, [], {})
    if then.get("timeframe") is None:
        return nothing
    timeframe = Timeframe(then["timeframe"])
    if timeframe not in bars.timeframes(symbol):
        return nothing
    series = bars.stored(symbol, timeframe)
    first, last = (to_datetime64(datetime.fromisoformat(then[name])) for name in ("first_ts", "last_ts"))
    inside = ((series.ts >= first) & (series.ts <= last)).nonzero()[0]
    if not len(inside):
        return nothing
    seen = series.slice(int(inside[0]), int(inside[-1]) + 1)
    checked_at = datetime.fromisoformat(then["checked_at"]) if then["checked_at"] else None
    checked = CheckedSeries(
        timeframe, to_datetime(seen.ts[0]), to_datetime(seen.ts[-1]), seen.digest(), checked_at
    )
    rows = examined(platform, seen, checked_at)
    return BarVerdicts(bars, rows, {(symbol, timeframe.value): checked})


def _compared(
    recorded: RecordedDecision, basis: DecisionBasis, applied: _Applied, found: Sequence[Difference]
) -> Replay:
    row = recorded.row
    now: dict[str, Any] = decision_row(basis)
    contents = {
        c.kind.value: c.values
        for c in (
            *basis.contents,
            execution_content(applied.settings),
            thresholds_content(applied.thresholds),
        )
    }
    then_folds = recorded.folds or ()
    folds = basis.folds.rows if basis.folds is not None else ()
    environment = of_environment(recorded, contents)
    exact = environment == () and {f["code_version"] for f in then_folds} <= {code_version()}
    n_figures, figures = of_figures(then_folds, folds, exact=exact)
    reasons = tuple(now["reasons"])
    notes = []
    if not recorded.is_detailed:
        notes.append("the decision is older than the record of inputs: only digests can be compared")
    if recorded.folds is None:
        notes.append("the figures of its folds were not kept: decision and reasons are compared")
    same = (now["decision"], list(reasons)) == (row["decision"], list(row["reasons"])) and not figures
    differences = (
        *found,
        *of_inputs(recorded, named_inputs(basis, now), contents),
        *of_folds(recorded, folds, contents),
    )
    return Replay(
        row=row,
        outcome=Outcome.SAME if same else Outcome.DIFFERENT,
        decision=str(now["decision"]),
        reasons=reasons,
        inputs=tuple(dict.fromkeys(differences)),
        figures=figures,
        n_figures=n_figures,
        exact=exact,
        environment=environment or (),
        notes=tuple(notes),
    )
