"""One model over the blocks of a plan: features, network, engine and metrics put together.

Here: what a fold's result is made of, and its digest. Not here: where models and bars come from, or where results go.
"""

from __future__ import annotations

import functools
import hashlib
import itertools
import json
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import Actor, BlockRun, Float, Int, Lane, run_lanes
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.features.causality import require_causal
from postval_assets.core.features.feature_set import FeatureSet, compute_features
from postval_assets.core.folds import Block, PlanBlocks, TrainingOverlap, TrainingWindow, overlaps
from postval_assets.core.metrics import BlockMetrics, block_metrics
from postval_assets.core.model_spec import ModelSpec
from postval_assets.core.policy import PolicyNetwork, on_one_thread
from postval_assets.core.walk_forward import FoldOutcome, FoldStatus

Float32 = npt.NDArray[np.float32]

Timed = Callable[[str], AbstractContextManager[None]]
"""Told the name of a part of the work, gives what that part is done inside: a stopwatch of one who has a clock."""


def untimed(part: str) -> AbstractContextManager[None]:  # noqa: ARG001 - the signature of Timed
    """No stopwatch."""
    return nullcontext()


@dataclass(frozen=True, eq=False)
class EvaluatedModel:
    """A model with everything that its observations need.

    Attributes:
        model_sha256: digest of its weights.
        spec, tensors: the network.
        feature_set: how its market features are computed.
        training: its training window.
    """

    model_sha256: str
    spec: ModelSpec
    tensors: Mapping[str, Float32]
    feature_set: FeatureSet
    training: TrainingWindow

    @property
    def needed_before(self) -> int:
        """Bars that a block needs before its first one: the window plus the feature set's look-back."""
        return self.spec.window + self.feature_set.look_back


@dataclass(frozen=True, eq=False)
class FoldEvaluation:
    """One block of a plan, evaluated or refused.

    Attributes:
        block: where it lies in the bars.
        status: what became of it; ``reason`` says why where it was not computed.
        training_overlap: what it has to do with the training window.
        bars_digest: of the block's bars and those its observations reach back to.
        inputs_digest: of everything that the result depends on.
        metrics, run: None where the block was not evaluated.
    """

    block: Block
    status: FoldStatus
    reason: str | None
    training_overlap: TrainingOverlap
    bars_digest: str
    inputs_digest: str
    metrics: BlockMetrics | None
    run: BlockRun | None

    def outcome(self) -> FoldOutcome:
        """What a summary needs to know."""
        m = self.metrics
        return FoldOutcome(
            fold=self.block.fold,
            status=self.status,
            training_overlap=self.training_overlap,
            n_bars=self.block.n_bars,
            total_return=m.total_return if m else None,
            sharpe=m.sharpe if m else None,
            n_trades=m.n_trades if m else None,
            reason=self.reason,
        )


@dataclass(frozen=True)
class FoldInputs:
    """A block with the digests of what its result depends on: known before anything is computed."""

    block: Block
    training_overlap: TrainingOverlap
    bars_digest: str
    inputs_digest: str


def fold_inputs(
    model: EvaluatedModel, bars: Bars, cut: PlanBlocks, as_of: datetime, settings_digest: str
) -> tuple[FoldInputs, ...]:
    """Digests of each block's inputs, axis [block]."""
    labels = overlaps(bars, cut.blocks, model.training)
    out = []
    for block, label in zip(cut.blocks, labels, strict=True):
        bars_digest = bars.slice(max(block.start - model.needed_before, 0), block.stop).digest()
        parts = {
            "model": model.model_sha256,
            "activation": model.spec.activation,
            "feature_set": [model.feature_set.name, model.feature_set.version],
            "bars": bars_digest,
            "plan": [cut.plan.name, cut.plan.days, cut.plan.n_folds, block.fold, block.problem, block.reason],
            "bars_per_year": cut.bars_per_year,
            "as_of": as_of.isoformat(),
            "training_overlap": label,
            "settings": settings_digest,
            "code": code_version(),
        }
        out.append(FoldInputs(block, label, bars_digest, digest_of(parts)))
    return tuple(out)


@dataclass(frozen=True, eq=False)
class ModelWork:
    """A model and the blocks that it is to be evaluated on.

    Attributes:
        model: the model.
        bars: its bars, in its timeframe.
        plans: for each plan the blocks wanted.
    """

    model: EvaluatedModel
    bars: Bars
    plans: Sequence[tuple[PlanBlocks, Collection[FoldInputs]]]

    def lanes(self) -> list[Lane]:
        """The blocks that can be evaluated, in order."""
        sizes = action_sizes(self.model.spec.n_actions)
        return [
            Lane(self.bars, inputs.block.start, inputs.block.stop, sizes)
            for _, blocks in self.plans
            for inputs in blocks
            if inputs.block.problem is None
        ]


Evaluations = list[list[FoldEvaluation]]
"""For each plan of a ModelWork its evaluations, in the order of its blocks."""


def evaluate(
    model: EvaluatedModel,
    bars: Bars,
    plans: Sequence[tuple[PlanBlocks, Collection[FoldInputs]]],
    rules: ExecutionRules,
    device: str = "cpu",
) -> Evaluations:
    """Evaluate one model's blocks of several plans in lockstep; the arguments are those of ModelWork.

    Raises:
        Rejected, Unavailable, OSError: it cannot be evaluated.
    """
    [outcome] = evaluate_together([ModelWork(model, bars, plans)], rules, device)
    if isinstance(outcome, Exception):
        raise outcome
    return outcome


@dataclass(frozen=True, eq=False)
class NetworkWork:
    """What a model's network is run on: everything that another process needs, and nothing of a plug-in.

    Attributes:
        spec, tensors: the network.
        features: market features of the bars, float32 [bar, feature].
        lanes: blocks of these bars.
        beside: whether it is a shorter one beside the work before it, of the same network: that one's weights are used,
            and its way of summing.
    """

    spec: ModelSpec
    tensors: Mapping[str, Float32]
    features: Float32
    lanes: list[Lane]
    beside: bool = False


Runs = list[list[BlockRun] | Exception]
"""For each NetworkWork its runs, one a lane, or what kept its network from being made."""

RunNetworks = Callable[[Sequence[NetworkWork], ExecutionRules, str, Timed], Runs]


def run_networks(
    works: Sequence[NetworkWork], rules: ExecutionRules, device: str = "cpu", timed: Timed = untimed
) -> Runs:
    """Run networks over their blocks in lockstep: each result is what the network alone would give.

    A step of the accounts costs about the same for one block and for many, so models share them.
    """
    actors: list[Actor | Exception] = []
    for same in _by_network(works):
        try:
            with timed("weights"):
                network = PolicyNetwork(same[0].spec, same[0].tensors, device)
            with timed("inference"):
                actors += network.actors([(work.features, work.lanes) for work in same])
        except (Rejected, Unavailable, OSError) as error:
            actors += [error] * len(same)
    shares = [
        (actor, work.lanes)
        for actor, work in zip(actors, works, strict=True)
        if not isinstance(actor, Exception)
    ]
    lanes = [lane for _, own in shares for lane in own]
    with timed("accounting"), on_one_thread():
        runs = iter(run_lanes(lanes, _SharedActor(shares, timed), rules))
    return [
        actor if isinstance(actor, Exception) else list(itertools.islice(runs, len(work.lanes)))
        for actor, work in zip(actors, works, strict=True)
    ]


def _by_network(works: Sequence[NetworkWork]) -> list[list[NetworkWork]]:
    """Works with those that are beside them."""
    groups: list[list[NetworkWork]] = []
    for work in works:
        if work.beside:
            groups[-1].append(work)
        else:
            groups.append([work])
    return groups


def evaluate_together(
    works: Sequence[ModelWork],
    rules: ExecutionRules,
    device: str = "cpu",
    timed: Timed = untimed,
    run: RunNetworks = run_networks,
) -> list[Evaluations | Exception]:
    """Evaluate the blocks of several models.

    Args:
        works: models and their blocks.
        rules: of execution.
        device: torch device for inference.
        timed: counts the parts ``features``, ``weights``, ``inference`` and ``accounting``.
        run: runs the networks: here, or somewhere else.

    Returns:
        For each work its evaluations, or the Rejected, Unavailable or OSError that kept it from being evaluated.
    """
    prepared: list[NetworkWork | Exception | None] = []
    for work in works:
        try:
            prepared.append(network_work(work, timed))
        except (Rejected, Unavailable, OSError) as error:
            prepared.append(error)
    runs = iter(run([work for work in prepared if isinstance(work, NetworkWork)], rules, device, timed))
    outcomes: list[Evaluations | Exception] = []
    for work, ready in zip(works, prepared, strict=True):
        done = next(runs) if isinstance(ready, NetworkWork) else ready
        outcomes.append(done if isinstance(done, Exception) else evaluations_of(work, done or [], rules))
    return outcomes


def network_work(work: ModelWork, timed: Timed) -> NetworkWork | None:
    """What a model's network is to be run on; None where no block can be evaluated.

    Raises:
        Rejected: features that cannot be computed, or may not be used (PromiseBroken).
    """
    lanes = work.lanes()
    if not lanes:
        return None
    with timed("features"):
        features = market_features(work.model, work.bars, lanes)
    return NetworkWork(work.model.spec, work.model.tensors, features, lanes)


def evaluations_of(work: ModelWork, runs: Sequence[BlockRun], rules: ExecutionRules) -> Evaluations:
    """A model's evaluations from the runs of its lanes, in order."""
    finished = iter(zip(runs, work.lanes(), strict=True))
    return [
        [
            _evaluation(inputs, None if inputs.block.problem else next(finished), plan, rules)
            for inputs in blocks
        ]
        for plan, blocks in work.plans
    ]


class _SharedActor:
    """Each model's actor for its own lanes; its time is inference, inside the engine's, which is accounting."""

    def __init__(self, shares: Sequence[tuple[Actor, Sequence[Lane]]], timed: Timed) -> None:
        self._actors = [actor for actor, _ in shares]
        self._firsts = np.cumsum([0, *(len(lanes) for _, lanes in shares)])
        self._timed = timed

    def act(self, step: int, lanes: Int, account: Float) -> Int:
        with self._timed("inference"):
            if lanes[-1] < self._firsts[1]:
                # All are the first one's, as they are but for the shorter lanes beside a model.
                return self._actors[0].act(step, lanes, account)
            # Lanes come in ascending order, so each model's are neighbours.
            bounds = np.searchsorted(lanes, self._firsts)
            chosen = np.empty(len(lanes), dtype=np.int64)
            for actor, first, start, stop in zip(
                self._actors, self._firsts, bounds, bounds[1:], strict=False
            ):
                if start < stop:
                    chosen[start:stop] = actor.act(step, lanes[start:stop] - first, account[start:stop])
            return chosen


def market_features(model: EvaluatedModel, bars: Bars, lanes: Sequence[Lane]) -> Float32:
    """Market features [bar, feature] aligned with ``bars``; NaN outside what the lanes' observations reach.

    Only those bars are given to the feature set, so that a bad bar years ago, or in a block that is not
    evaluated, does not matter. A plug-in that is seen to look ahead on them is refused.
    """
    out = np.full((len(bars), len(model.feature_set.market_features)), np.nan, dtype=np.float32)
    for first, stop in reached(lanes, model.needed_before):
        stretch = bars.slice(first, stop)
        out[first:stop] = compute_features(model.feature_set, stretch)
        require_causal(model.feature_set, stretch, out[first:stop])
    return out


def reached(lanes: Sequence[Lane], needed_before: int) -> list[tuple[int, int]]:
    """Runs of bars, first and stop, that the lanes and their observations reach, in order."""
    runs: list[tuple[int, int]] = []
    for first, stop in sorted((lane.start - needed_before, lane.stop) for lane in lanes):
        if runs and first <= runs[-1][1]:
            runs[-1] = (runs[-1][0], max(runs[-1][1], stop))
        else:
            runs.append((first, stop))
    return runs


def not_evaluated(inputs: FoldInputs, reason: str) -> FoldEvaluation:
    """A block that was refused together with the others, for a reason that lies in none of them."""
    problem = inputs.block.problem
    return FoldEvaluation(
        block=inputs.block,
        status=FoldStatus(problem.value) if problem else FoldStatus.NOT_EVALUATED,
        reason=inputs.block.reason if problem else reason,
        training_overlap=inputs.training_overlap,
        bars_digest=inputs.bars_digest,
        inputs_digest=inputs.inputs_digest,
        metrics=None,
        run=None,
    )


def _evaluation(
    inputs: FoldInputs, finished: tuple[BlockRun, Lane] | None, plan: PlanBlocks, rules: ExecutionRules
) -> FoldEvaluation:
    block = inputs.block
    if finished is None:
        if block.problem is None:
            raise ValueError(f"fold {block.fold} was not run")
        status, reason, metrics, run = FoldStatus(block.problem.value), block.reason, None, None
    else:
        run, lane = finished
        status = FoldStatus(run.status.value)
        metrics = block_metrics(run, lane, rules, plan.bars_per_year)
        reason = None
        if status is FoldStatus.BROKEN_POLICY:
            reason = f"the policy's output was NaN or infinite at bar {len(run.equity)} of {run.n_bars}"
        elif status is FoldStatus.RUINED:
            reason = f"equity reached zero at bar {len(run.equity)} of {run.n_bars}"
    return FoldEvaluation(
        block=block,
        status=status,
        reason=reason,
        training_overlap=inputs.training_overlap,
        bars_digest=inputs.bars_digest,
        inputs_digest=inputs.inputs_digest,
        metrics=metrics,
        run=run,
    )


def digest_of(parts: Mapping[str, object]) -> str:
    """SHA-256 of a JSON object with sorted keys."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()


@functools.cache
def code_version() -> str:
    """Digest of the source text of ``core``: changes exactly when the rules as written in code change.

    Line endings are not part of it, so that a checkout on Windows computes the same.
    """
    return source_digest(Path(__file__).resolve().parent)


def source_digest(root: Path) -> str:
    """Digest of the Python source below a folder, 16 hexadecimal digits: names and text, not line endings."""
    sha = hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda p: p.relative_to(root).as_posix()):
        sha.update(path.relative_to(root).as_posix().encode())
        sha.update(path.read_bytes().replace(b"\r\n", b"\n"))
    return sha.hexdigest()[:16]
