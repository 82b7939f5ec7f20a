"""The same model under another future: a few instants, noise after each, and what a policy is shown of both.

Here: where the instants lie, features computed again with noise after them, and the lanes that the network is run on
beside its evaluation. Not here: noise (features/patchwork.py), running and judging (policy_causality.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import PRICE_COLUMNS, Bars, Timestamps
from postval_assets.core.bootstrap import seeded
from postval_assets.core.engine import Lane
from postval_assets.core.evaluation import EvaluatedModel, NetworkWork, reached
from postval_assets.core.failures import Rejected
from postval_assets.core.features.causality import PromiseBroken
from postval_assets.core.features.faults import Fault, FeatureFault
from postval_assets.core.features.feature_set import raw_features
from postval_assets.core.features.patchwork import with_noise

Float32 = npt.NDArray[np.float32]

LANE_BARS = 32
"""Decisions taken again up to an instant, its own included: enough for an account to have a history."""
BARS_AFTER = 4
"""Bars of noise that follow them: enough to fill an order and to end the block elsewhere."""
# The second instant lies this many bars, or a multiple, and one more after the first: longer bars of 2, 3, 4, 6, 7, 8,
# 12 ... bars end at one of the two at most, and a longer bar that is known from its start shows itself but at its end.
_PHASE = 42
# Differences that another length of the arrays may make: of the value, and of the feature's mean size.
_OF_VALUE, _OF_SIZE = 1e-5, 1e-6


@dataclass(frozen=True, eq=False)
class Segment:
    """Some bars up to an instant, followed by those that were and by others.

    Attributes:
        instant: index of the last bar that both have in common.
        lane: first bar traded and the one after the last.
        real, other: bars from the first one's window on.
        features, other_features: of these bars, finite.
        refused: whether the set does not compute with noise, so that the bars up to the instant were taken alone.
    """

    instant: int
    lane: tuple[int, int]
    real: Bars
    other: Bars
    features: Float32
    other_features: Float32
    refused: bool


@dataclass(frozen=True, eq=False)
class Probe:
    """What is run beside an evaluation: two lanes for each segment, the real one first."""

    segments: tuple[Segment, ...]
    work: NetworkWork


def segments_under_other_futures(model: EvaluatedModel, network: NetworkWork) -> Iterator[Segment]:
    """Some instants of an evaluation, each with the features under another future, the same until then.

    Args:
        model: decides the seed.
        network: what the evaluation runs.

    Raises:
        PromiseBroken: they are not the same; or the set does not compute at all with the bars up to an instant.
    """
    bars, lanes = network.lanes[0].bars, network.lanes
    rng = seeded("policy causality", model.model_sha256, str(bars.ts[lanes[0].start]), str(len(lanes)))
    runs = reached(lanes, model.needed_before)
    for instant in instants(bars, lanes, rng):
        first, stop = next((first, stop) for first, stop in runs if first <= instant < stop)
        real, n_known = bars.slice(first, stop), instant + 1 - first
        features = network.features[first:stop]
        noisy = with_noise(real, n_known, rng)
        values, refused = _under_another_future(model, real, noisy, features, n_known)
        lane = next(lane for lane in lanes if lane.start <= instant < lane.stop - 1)
        start, end = max(instant - LANE_BARS + 1, lane.start), min(instant + 1 + BARS_AFTER, lane.stop)
        cut = slice(start - network.spec.window + 1 - first, end - first)
        yield Segment(
            instant=instant,
            lane=(start, end),
            real=real.slice(cut.start, cut.stop),
            other=noisy.slice(cut.start, cut.stop),
            features=features[cut],
            other_features=values[cut],
            refused=refused,
        )


def instants(bars: Bars, lanes: Sequence[Lane], rng: np.random.Generator) -> tuple[int, ...]:
    """The bars after which all are replaced: two at seeded places, and the last one before the longest wait.

    Each is one that a lane decides at. Bars round the clock have no wait, so there are two: each costs a computation
    of all features.
    """
    at = np.unique(np.concatenate([np.arange(lane.start, lane.stop - 1) for lane in lanes]))
    waits = bars.ts[at + 1] - bars.ts[at]
    # Where a session ends, so do all longer bars.
    within = at[waits == bars.timeframe.delta] if (waits == bars.timeframe.delta).any() else at
    half = len(within) // 2
    first = int(within[rng.integers(0, max(half, 1))])
    later = within[half + int(rng.integers(0, len(within) - half)) :]
    apart = (bars.ts[later] - bars.ts[first]) // bars.timeframe.delta
    fitting = later[apart % _PHASE == 1]
    neighbour = within[within == first + 1]
    chosen = {first, *map(int, fitting[:1] if len(fitting) else neighbour)}
    if waits.max() > bars.timeframe.delta:
        chosen.add(int(at[waits == waits.max()][-1]))
    return tuple(sorted(chosen))


def _under_another_future(
    model: EvaluatedModel, real: Bars, noisy: Bars, features: Float32, n_known: int
) -> tuple[Float32, bool]:
    """Features [bar, feature] when noise follows, and whether the set refused it.

    Args:
        model: whose set is run.
        real: all bars of a stretch.
        noisy: the same ones up to ``n_known``, then noise.
        features: those that the evaluation uses, of ``real``.
        n_known: bars that are the same.

    Raises:
        PromiseBroken: values of the bars that are the same are others.
    """
    feature_set = model.feature_set
    rows = slice(feature_set.look_back - 1, n_known)
    expected = features[rows]
    values = features.copy()
    # What the network is shown where the set gives nothing: finite, and not what follows.
    values[n_known:] = features[n_known - 1]
    refused = False
    try:
        found = raw_features(feature_set, noisy)
        refused = not np.isfinite(found[rows]).all()
    except Rejected:
        refused = True
    if refused:
        # It may dislike bars that never were: then the real ones decide, by themselves.
        found = _alone(model, real.slice(0, n_known))
        differing = ~_alike(expected, found[rows])
    else:
        differing = found[rows] != expected
        usable = np.isfinite(found[n_known:]).all(axis=1)
        values[n_known:][usable] = found[n_known:][usable]
    if differing.any():
        raise _named(model, real, expected, found[rows], differing)
    return values, refused


def _alone(model: EvaluatedModel, bars: Bars) -> Float32:
    try:
        return raw_features(model.feature_set, bars)
    except Rejected as error:
        raise PromiseBroken(
            f"{error}; it was given the first {len(bars)} of the bars that it is evaluated on, and its look-back is "
            f"{model.feature_set.look_back}"
        ) from error


def _alike(expected: Float32, found: Float32) -> npt.NDArray[np.bool_]:
    """Where values are the same but for the rounding of shorter arrays, [row, feature]."""
    left, right = expected.astype(np.float64), found.astype(np.float64)
    allowed = _OF_VALUE * np.abs(left) + _OF_SIZE * np.abs(left).mean(axis=0)
    alike: npt.NDArray[np.bool_] = np.abs(left - right) <= allowed  # false for NaN
    return alike


def _named(
    model: EvaluatedModel, real: Bars, expected: Float32, found: Float32, differing: npt.NDArray[np.bool_]
) -> PromiseBroken:
    """The first feature that differs, unless it also differs on the same bars."""
    feature_set = model.feature_set
    column = int(np.flatnonzero(differing.any(axis=0))[0])
    row = int(np.flatnonzero(differing[:, column])[0])
    bar = row + feature_set.look_back - 1
    again = raw_features(feature_set, real)[bar, column]
    unsteady = again != expected[row, column]
    fault = FeatureFault(
        feature=feature_set.market_features[column],
        fault=Fault.NOT_REPEATABLE if unsteady else Fault.SEES_LATER,
        bar=bar,
        ts=real.ts[bar],
        value=float(expected[row, column]),
        other=float(again if unsteady else found[row, column]),
        look_back=feature_set.look_back,
    )
    return PromiseBroken(
        f"feature set {feature_set.name} on bars of {real.symbol} ({real.timeframe}): {fault}",
        None if unsteady else fault,
    )


def probe_of(network: NetworkWork, segments: Sequence[Segment]) -> Probe:
    """All segments in one series, so that the network runs once over them."""
    sizes, window = action_sizes(network.spec.n_actions), network.spec.window
    parts = [part for s in segments for part in ((s.real, s.features), (s.other, s.other_features))]
    stops = np.cumsum([len(bars) for bars, _ in parts])
    bars = _stacked([bars for bars, _ in parts])
    lanes = [
        Lane(bars, int(stop) - len(part) + window - 1, int(stop), sizes)
        for (part, _), stop in zip(parts, stops, strict=True)
    ]
    features = np.concatenate([values for _, values in parts])
    return Probe(tuple(segments), replace(network, features=features, lanes=lanes, beside=True))


def _stacked(parts: Sequence[Bars]) -> Bars:
    """Bars one after the other; their times are counted, because neither network nor engine sees them."""
    names = (*PRICE_COLUMNS, "volume")
    columns: dict[str, Any] = {n: np.concatenate([getattr(bars, n) for bars in parts]) for n in names}
    n_bars = sum(map(len, parts))
    ts: Timestamps = parts[0].ts[0] + np.arange(n_bars) * parts[0].timeframe.delta
    return replace(parts[0], ts=ts, **columns)
