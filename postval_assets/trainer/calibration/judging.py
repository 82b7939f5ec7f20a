"""What the rules say of one model over one plan, exactly as they would in the platform.

Here: from finished blocks to both policies' decisions. Not here: rules and statistics, which are core's, or trading
(archives.py).

The gate, intake and features of a model are taken for good (APPROVED, NAMED): what is measured is the walk-forward
part of the rules. The platform's gate would drop some of these models before.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from postval_assets.core.action_replays import PlayedFold, ReplayFigures, replay_figures
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.decision import ModelVerdict, decide_standard
from postval_assets.core.engine import BlockRun, Lane, RunStatus
from postval_assets.core.evidence_policy import decide_evidence
from postval_assets.core.folds import PlanBlocks, overlaps
from postval_assets.core.gating import Classification
from postval_assets.core.metrics import block_metrics
from postval_assets.core.walk_forward import (
    FoldOutcome,
    FoldStatus,
    GradeLimits,
    WalkForwardSummary,
    summarize,
)
from postval_assets.core.walk_forward_evidence import (
    Condition,
    EvidenceLimits,
    SharpeEvidence,
    WalkForwardEvidence,
    best_of,
    counted_folds,
    sharpe_evidence,
    weighed,
)
from postval_assets.trainer.calibration.markets import TradedMarket
from postval_assets.trainer.calibration.records import Judged
from postval_assets.trainer.calibration.study import TRIAL_COUNTS, Family

GOOD_MODEL = ModelVerdict(
    usable=True,
    problem=None,
    classification=Classification.APPROVED,
    gate_reason=None,
    features_assumed=False,
    activation_assumed=False,
)
LIMITS = EvidenceLimits()
GRADES = GradeLimits()
REPLAY_CONDITIONS = (Condition.NULL_PERCENTILE, Condition.BREAK_EVEN_COST, Condition.LAG_RETURN)
"""Conditions of LIVE that are unknown where nothing was replayed."""


@dataclass(frozen=True)
class Subject:
    """A model as the tables know it.

    Attributes:
        family, kind: of the tables' rows.
        symbol: whose market it trades.
        digest: seeds the bootstrap and the permutations, as a file's digest does in the platform.
        annual_sharpe: the true one, where it has an edge.
        n_trials: models in its archive.
        replay_always: whether figures are computed that could change no decision.
    """

    family: Family
    kind: str
    symbol: str
    digest: str
    annual_sharpe: float | None
    n_trials: int
    replay_always: bool


def judge(
    subject: Subject,
    market: TradedMarket,
    runs: Sequence[BlockRun],
    lanes: Sequence[Lane],
    rules: ExecutionRules,
) -> list[Judged]:
    """Both policies' decisions for each plan of a market.

    Args:
        subject: the model.
        market: its market.
        runs: of the lanes.
        lanes: all blocks of all plans in order, as market.lanes gives them.
        rules: that they were traded by.

    Raises:
        ValueError: a plan has a block that cannot be evaluated: these markets are made so that none has.
    """
    if len(lanes) != sum(len(plan.blocks) for plan in market.cuts):
        raise ValueError(f"{subject.symbol}: a block of the plans cannot be evaluated")
    judged, first = [], 0
    for plan in market.cuts:
        stop = first + len(plan.blocks)
        judged.append(_judge_plan(subject, market, plan, runs[first:stop], lanes[first:stop], rules))
        first = stop
    return judged


def _judge_plan(
    subject: Subject,
    market: TradedMarket,
    plan: PlanBlocks,
    runs: Sequence[BlockRun],
    lanes: Sequence[Lane],
    rules: ExecutionRules,
) -> Judged:
    folds = _outcomes(market, plan, runs, lanes, rules)
    summary = summarize(folds, plan.plan.n_folds, plan.bars_per_year, GRADES)
    returns = sharpe_evidence(
        folds,
        {fold.fold: run.equity for fold, run in zip(folds, runs, strict=True)},
        bars_per_year=plan.bars_per_year,
        model_sha256=subject.digest,
        n_trials=subject.n_trials,
        limits=LIMITS,
    )
    replays = None
    if subject.replay_always or _replays_matter(returns):
        replays = _replays(subject, folds, runs, lanes, rules)
    evidence = _weighed(returns, replays, folds, plan)
    return Judged(
        family=subject.family,
        kind=subject.kind,
        symbol=subject.symbol,
        plan=plan.plan.name,
        annual_sharpe=subject.annual_sharpe,
        standard=decide_standard(GOOD_MODEL, summary, folds, GRADES).decision,
        evidence=decide_evidence(GOOD_MODEL, summary, evidence, folds, LIMITS).decision,
        by_trials=_by_trials(summary, returns, replays, folds, plan),
        failed=_failed(evidence, replayed=replays is not None),
        replayed=replays is not None,
        sharpe=None if returns.sharpe is None else round(returns.sharpe, 6),
        p_value=returns.p_value,
    )


def _outcomes(
    market: TradedMarket,
    plan: PlanBlocks,
    runs: Sequence[BlockRun],
    lanes: Sequence[Lane],
    rules: ExecutionRules,
) -> list[FoldOutcome]:
    labels = overlaps(market.bars, plan.blocks, market.training)
    folds = []
    for block, label, run, lane in zip(plan.blocks, labels, runs, lanes, strict=True):
        metrics = block_metrics(run, lane, rules, plan.bars_per_year)
        folds.append(
            FoldOutcome(
                fold=block.fold,
                status=FoldStatus(run.status.value),
                training_overlap=label,
                n_bars=block.n_bars,
                total_return=metrics.total_return,
                sharpe=metrics.sharpe,
                n_trades=metrics.n_trades,
            )
        )
    return folds


def _replays_matter(returns: SharpeEvidence) -> bool:
    """Whether any outcome of the replays could make the model LIVE or PAPER, in an archive of any size."""
    largest = max(LIMITS.paper_p_value, LIMITS.live_p_value_archive)
    return returns.p_value is not None and returns.p_value <= largest


def _replays(
    subject: Subject,
    folds: Sequence[FoldOutcome],
    runs: Sequence[BlockRun],
    lanes: Sequence[Lane],
    rules: ExecutionRules,
) -> ReplayFigures | None:
    played = [
        PlayedFold(fold.fold, lane, run.actions, run.traded_value, fold.total_return)
        for fold, run, lane in zip(folds, runs, lanes, strict=True)
        if run.status is not RunStatus.BROKEN_POLICY and fold.total_return is not None
    ]
    counted = counted_folds(folds, played)
    if not counted:
        return None
    figures = replay_figures(counted, subject.digest, rules)
    if not figures.reproduces(counted):
        raise ValueError(f"{subject.digest}: a replay of its own actions gave other returns")
    return figures


def _weighed(
    returns: SharpeEvidence, replays: ReplayFigures | None, folds: Sequence[FoldOutcome], plan: PlanBlocks
) -> WalkForwardEvidence:
    return weighed(returns, replays, folds, n_folds=plan.plan.n_folds, limits=LIMITS)


def _by_trials(
    summary: WalkForwardSummary,
    returns: SharpeEvidence,
    replays: ReplayFigures | None,
    folds: Sequence[FoldOutcome],
    plan: PlanBlocks,
) -> tuple[tuple[int, str], ...]:
    """Decisions in archives of other sizes: the same returns, another p_value_archive."""
    decisions = []
    for n in TRIAL_COUNTS:
        p_value = None if returns.p_value is None else best_of(returns.p_value, n)
        of_size = dataclasses.replace(returns, n_trials=n, p_value_archive=p_value)
        evidence = _weighed(of_size, replays, folds, plan)
        decisions.append((n, decide_evidence(GOOD_MODEL, summary, evidence, folds, LIMITS).decision.value))
    return tuple(decisions)


def _failed(evidence: WalkForwardEvidence, *, replayed: bool) -> tuple[str, ...]:
    """Names of the conditions of LIVE that failed; of those about replays only where there are any."""
    names = [reason.partition(":")[0] for reason in evidence.reasons]
    unknown = () if replayed else REPLAY_CONDITIONS
    return tuple(name for name in names if name not in unknown)
