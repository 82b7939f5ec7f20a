"""The bars of a training run, divided: what is learnt from, and what is held back.

Here: features, the division, the inputs of the network. Not here: reading bars (run.py), or learning (training.py).
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Bars
from postval_assets.core.engine import Lane
from postval_assets.core.failures import Rejected
from postval_assets.core.features.causality import require_causal
from postval_assets.core.features.feature_set import FeatureSet, compute_features
from postval_assets.core.features.reference import REFERENCE_SETS
from postval_assets.core.model_spec import VERSIONS
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.network import (
    InputMap,
    averaged_features,
    fit_input_map,
    network_inputs,
    temporal_kernels,
)

MIN_HELD_BACK_BLOCK_BARS = 20


@dataclass(frozen=True, eq=False)
class TrainingData:
    """The bars of a run, divided.

    Attributes:
        bars: all of them, held-back ones last.
        feature_set: what the network sees.
        features: market features [bar, feature].
        input_map: fitted on the learning bars.
        inputs: of the compact network [bar, input]; 0 before the first full window.
        first: first bar with a full window.
        cut: first bar that is held back.
        held_back: the blocks that validations trade.
    """

    bars: Bars
    feature_set: FeatureSet
    features: npt.NDArray[np.float32]
    input_map: InputMap
    inputs: npt.NDArray[np.float32]
    first: int
    cut: int
    held_back: tuple[Lane, ...]


def prepare_data(bars: Bars, config: PPOConfig, feature_sets: Mapping[str, FeatureSet]) -> TrainingData:
    """Compute features and divide the bars.

    Raises:
        Rejected: a feature set that is unknown, does not fit the version or looks ahead, a feature to leave out that
            it does not have, or too few bars.
    """
    chosen = _feature_set(config, feature_sets)
    sizes = action_sizes(VERSIONS[config.model_version].n_actions)
    features = compute_features(chosen, bars)
    require_causal(chosen, bars, features)
    first = chosen.look_back - 1 + config.window - 1
    n_usable = len(bars) - first
    n_held_back = round(config.held_back_frac * n_usable)
    cut = len(bars) - n_held_back
    n_needed = config.n_held_back_blocks * MIN_HELD_BACK_BLOCK_BARS
    if n_held_back < n_needed or cut - first < config.episode_bars:
        least = max(
            round(n_needed / config.held_back_frac), round(config.episode_bars / (1 - config.held_back_frac))
        )
        raise Rejected(
            f"{bars.symbol} ({bars.timeframe}): {len(bars)} bars are too few to train on; expected at least "
            f"{first + least + 1}: {first} before the first observation, episodes of {config.episode_bars}, and "
            f"{config.n_held_back_blocks} held-back blocks of {MIN_HELD_BACK_BLOCK_BARS}"
        )
    kernels = temporal_kernels(config.window, config.kernel_spans)
    averaged = averaged_features(features, kernels)
    unknown = sorted(set(config.left_out) - set(chosen.market_features))
    if unknown and (chosen in REFERENCE_SETS or config.left_out != PPOConfig().left_out):
        raise Rejected(
            f"feature(s) {', '.join(unknown)} cannot be left out: {chosen.name} has none of that name"
        )
    left_out = [i for i, name in enumerate(chosen.market_features) if name in config.left_out]
    input_map = fit_input_map(averaged[first:cut], kernels, left_out)
    inputs = np.zeros((len(bars), input_map.n_inputs), dtype=np.float32)
    inputs[first:] = network_inputs(averaged[first:], input_map)
    edges = np.linspace(cut, len(bars), config.n_held_back_blocks + 1).round().astype(int)
    held_back = tuple(
        Lane(bars=bars, start=int(a), stop=int(b), sizes=sizes) for a, b in itertools.pairwise(edges)
    )
    return TrainingData(bars, chosen, features, input_map, inputs, first, cut, held_back)


def _feature_set(config: PPOConfig, feature_sets: Mapping[str, FeatureSet]) -> FeatureSet:
    layout = VERSIONS[config.model_version]
    if not config.feature_set:
        return next(s for s in REFERENCE_SETS if s.account_features == layout.account_features)
    chosen = feature_sets.get(config.feature_set)
    if chosen is None:
        raise Rejected(
            f"feature set {config.feature_set!a} is not registered; registered are "
            f"{', '.join(sorted(feature_sets))}"
        )
    if (chosen.n_features, chosen.account_features) != (layout.n_features, layout.account_features):
        raise Rejected(
            f"feature set {chosen.name} has {chosen.n_features} features, {len(chosen.account_features)} of them "
            f"of the account; version {config.model_version} has {layout.n_features} and "
            f"{len(layout.account_features)}"
        )
    return chosen
