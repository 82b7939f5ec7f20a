"""Whether a model's past depends on its future: asked of every model, with the bars that it is evaluated on.

Here: at a few instants all later bars are replaced by noise; what the policy saw until then must be the same to the
last bit, and so must what it did. Not here: noise (features/patchwork.py), the closer and tolerant look at a plug-in
(features/causality.py), or what becomes of a model that looks ahead (pipeline).

The same functions compute both sides: features of the same stretch of bars, the network beside the evaluation's own
(the same weights and the same way of summing), the engine. What the check of plug-ins leaves to rounding is no rounding
here, because both sides are arrays of one length that differ after the instant alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import BlockRun, Float, Int, run_lanes
from postval_assets.core.evaluation import (
    Evaluations,
    ModelWork,
    NetworkWork,
    RunNetworks,
    Timed,
    code_version,
    digest_of,
    evaluations_of,
    network_work,
    reached,
    run_networks,
    untimed,
)
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.features.causality import PromiseBroken
from postval_assets.core.features.faults import FeatureFault, shown_time
from postval_assets.core.policy import NetworkActor, PolicyNetwork, on_one_thread
from postval_assets.core.policy_futures import Probe, Segment, probe_of, segments_under_other_futures

TIE = 1e-5
"""Lead of the best logit below which float32 cannot settle which is best (docs/rules.md, section 3)."""
LOOKS_AHEAD = "LOOKS_AHEAD"


class CausalityStatus(StrEnum):
    """What was found of a model."""

    CAUSAL = "CAUSAL"
    LOOKS_AHEAD = LOOKS_AHEAD
    NOT_CHECKED = "NOT_CHECKED"


@dataclass(frozen=True)
class PolicyCausality:
    """What was found of one model at one evaluation.

    Attributes:
        status: CAUSAL, LOOKS_AHEAD or NOT_CHECKED.
        n_instants: bars that were followed by noise; 0 where the check of plug-ins had found it before.
        first_ts, last_ts: open of the first and the last of the bars tested, UTC; None where none were.
        n_ties: instants where actions differ and the best logit's lead is below TIE: not held against the model.
        feature: that looks ahead; None where none does, or where the action alone does.
        reason: what was found, or why nothing could be.
        inputs_digest: of weights, feature set, bars, blocks and code.
    """

    status: CausalityStatus
    n_instants: int
    first_ts: np.datetime64 | None
    last_ts: np.datetime64 | None
    n_ties: int
    feature: str | None
    reason: str | None
    inputs_digest: str

    @property
    def looks_ahead(self) -> bool:
        """Whether the model may not be used."""
        return self.status is CausalityStatus.LOOKS_AHEAD


@dataclass(frozen=True, eq=False)
class Checked:
    """A model's evaluations, and whether it looks ahead.

    Attributes:
        evaluations: or what kept the model from being evaluated; PromiseBroken where it looks ahead.
        causality: None where no block was asked for.
    """

    evaluations: Evaluations | Exception
    causality: PolicyCausality | None


def evaluate_tested(
    works: Sequence[ModelWork],
    rules: ExecutionRules,
    device: str = "cpu",
    timed: Timed = untimed,
    run: RunNetworks = run_networks,
) -> list[Checked]:
    """``evaluate_together`` with a test of each model; the evaluations are the same to the last bit.

    The arguments are those of ``evaluate_together``; the part ``causality`` is timed as well.
    """
    prepared = [_prepared(work, rules, timed) for work in works]
    networks = [
        n for ready in prepared if isinstance(ready, _Ready) for n in (ready.network, ready.probe.work)
    ]
    runs = iter(run(networks, rules, device, timed))
    return [
        ready if isinstance(ready, Checked) else _judged(ready, next(runs), next(runs), rules, device)
        for ready in prepared
    ]


def look_ahead_reason(feature_set: str, fault: FeatureFault) -> str:
    """The sentence about a feature that looks ahead."""
    return (
        f"{LOOKS_AHEAD}: feature {fault.feature} of set {feature_set}: its value at {shown_time(fault.ts)} changes "
        f"when bars after it change ({fault.value:.9g} -> {fault.other:.9g})"
    )


def joined(found: Sequence[PolicyCausality | None]) -> PolicyCausality | None:
    """What was found of one model on different blocks as one: the worst, or all that was tested."""
    there = [f for f in found if f is not None]
    ahead = [f for f in there if f.looks_ahead]
    causal = [f for f in there if f.status is CausalityStatus.CAUSAL]
    if ahead or not causal:
        return next(iter(ahead or there), None)
    reasons = dict.fromkeys(f.reason for f in causal if f.reason)
    return PolicyCausality(
        status=CausalityStatus.CAUSAL,
        n_instants=sum(f.n_instants for f in causal),
        first_ts=min((f.first_ts for f in causal if f.first_ts is not None), default=None),
        last_ts=max((f.last_ts for f in causal if f.last_ts is not None), default=None),
        n_ties=sum(f.n_ties for f in causal),
        feature=None,
        reason="; ".join(reasons) or None,
        inputs_digest=digest_of({"parts": [f.inputs_digest for f in causal]}),
    )


@dataclass(frozen=True, eq=False)
class _Ready:
    """A model whose features are the same under every future that was tried."""

    model: ModelWork
    network: NetworkWork
    probe: Probe


def _prepared(work: ModelWork, rules: ExecutionRules, timed: Timed) -> _Ready | Checked:
    """What is to be run for a model; its result where nothing is."""
    if not any(blocks for _, blocks in work.plans):
        return Checked(evaluations_of(work, [], rules), None)
    network: NetworkWork | None = None
    segments: list[Segment] = []
    try:
        network = network_work(work, timed)
        if network is None:
            return Checked(evaluations_of(work, [], rules), not_checked(work, "no block could be evaluated"))
        with timed("causality"):
            for segment in segments_under_other_futures(work.model, network):
                segments.append(segment)  # noqa: PERF402 - one by one: they are counted where the next one fails
            return _Ready(work, network, probe_of(network, segments))
    except PromiseBroken as error:
        if error.look_ahead is None:
            return Checked(error, not_checked(work, str(error)))
        fault, reason = error.look_ahead, look_ahead_reason(work.model.feature_set.name, error.look_ahead)
        # Without a network it was the check of plug-ins that saw it, before any instant.
        n_instants = 0 if network is None else len(segments) + 1
        found = _found(
            work,
            CausalityStatus.LOOKS_AHEAD,
            n_instants=n_instants,
            feature=fault.feature,
            reason=reason,
        )
        return Checked(PromiseBroken(reason, fault), found)
    except (Rejected, Unavailable, OSError) as error:
        return Checked(error, not_checked(work, str(error)))


def _judged(
    ready: _Ready,
    own: list[BlockRun] | Exception,
    beside: list[BlockRun] | Exception,
    rules: ExecutionRules,
    device: str,
) -> Checked:
    """Actions until each instant, under both futures."""
    for runs in (own, beside):
        if isinstance(runs, Exception):
            return Checked(runs, not_checked(ready.model, str(runs)))
    assert not isinstance(own, Exception) and not isinstance(beside, Exception)  # noqa: S101, PT018
    work, segments = ready.model, ready.probe.segments
    n_ties = 0
    for i, segment in enumerate(segments):
        step = _parting(segment, beside[2 * i], beside[2 * i + 1])
        if step is None:
            continue
        if _lead(ready.probe.work, 2 * i, step, rules, device) < TIE:
            # What follows in this lane starts from another account and proves nothing.
            n_ties += 1
            continue
        then = shown_time(work.bars.ts[segment.lane[0] + step])
        a, b = (_action_at(run, step) for run in (beside[2 * i], beside[2 * i + 1]))
        reason = (
            f"{LOOKS_AHEAD}: the action at {then} changes when bars after "
            f"{shown_time(work.bars.ts[segment.instant])} change, and no feature does ({a} -> {b})"
        )
        found = _found(
            work, CausalityStatus.LOOKS_AHEAD, n_instants=len(segments), n_ties=n_ties, reason=reason
        )
        return Checked(PromiseBroken(reason), found)
    found = _found(
        work, CausalityStatus.CAUSAL, n_instants=len(segments), n_ties=n_ties, reason=_said(segments, n_ties)
    )
    return Checked(evaluations_of(work, own, rules), found)


def _parting(segment: Segment, real: BlockRun, other: BlockRun) -> int | None:
    """First step until the instant at which the two differ; None where none does."""
    n_steps = segment.instant + 1 - segment.lane[0]
    a, b = real.actions[:n_steps], other.actions[:n_steps]
    n = min(len(a), len(b))
    different = np.flatnonzero(a[:n] != b[:n])
    if different.size:
        return int(different[0])
    return None if len(a) == len(b) else n


def _action_at(run: BlockRun, step: int) -> str:
    return str(run.actions[step]) if step < len(run.actions) and run.actions[step] >= 0 else "none"


def _lead(work: NetworkWork, lane: int, step: int, rules: ExecutionRules, device: str) -> float:
    """Lead of the best logit over the next at a step of a lane; NaN where they are not finite."""
    network = PolicyNetwork(work.spec, work.tensors, device)
    watcher = _Watcher(network.actor(work.features, work.lanes), lane, step)
    with on_one_thread():
        run_lanes(work.lanes, watcher, rules)
    return watcher.lead


class _Watcher:
    """Another actor, of which the logits of one decision are looked at."""

    def __init__(self, actor: NetworkActor, lane: int, step: int) -> None:
        self._actor = actor
        self._at = (step, lane)
        self.lead = float("nan")

    def act(self, step: int, lanes: Int, account: Float) -> Int:
        if step == self._at[0] and self._at[1] in lanes:
            place = lanes == self._at[1]
            logits = self._actor.logits(step, lanes[place], account[place]).cpu().numpy()[0]
            second, best = np.sort(logits)[-2:]
            self.lead = float(best - second)
        return self._actor.act(step, lanes, account)


def _said(segments: Sequence[Segment], n_ties: int) -> str | None:
    """What is to be known of a test that found nothing."""
    n_refused = sum(s.refused for s in segments)
    said = []
    if n_refused:
        said.append(
            f"the feature set does not compute with noise: at {n_refused} of {len(segments)} instants its features "
            "were compared with those of the bars up to it alone"
        )
    if n_ties:
        said.append(
            f"actions differ at {n_ties} of {len(segments)} instants, each at a tie of the best logits"
        )
    return "; ".join(said) or None


def not_checked(work: ModelWork, why: str) -> PolicyCausality:
    """What is said of a model that could not be tested."""
    return _found(work, CausalityStatus.NOT_CHECKED, reason=why)


def _found(
    work: ModelWork,
    status: CausalityStatus,
    *,
    n_instants: int = 0,
    n_ties: int = 0,
    feature: str | None = None,
    reason: str | None = None,
) -> PolicyCausality:
    model, lanes = work.model, work.lanes()
    runs = reached(lanes, model.needed_before)
    tested = work.bars.slice(runs[0][0], runs[-1][1]) if runs else work.bars.slice(0, 0)
    parts = {
        "model": model.model_sha256,
        "activation": model.spec.activation,
        "feature_set": [model.feature_set.name, model.feature_set.version],
        "bars": tested.digest(),
        "lanes": [[lane.start - runs[0][0], lane.stop - runs[0][0]] for lane in lanes],
        "code": code_version(),
    }
    is_tested = status is not CausalityStatus.NOT_CHECKED and len(tested) > 0
    return PolicyCausality(
        status=status,
        n_instants=n_instants,
        first_ts=tested.ts[0] if is_tested else None,
        last_ts=tested.ts[-1] if is_tested else None,
        n_ties=n_ties,
        feature=feature,
        reason=reason,
        inputs_digest=digest_of(parts),
    )
