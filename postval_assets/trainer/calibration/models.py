"""Models whose worth is known: networks with random weights, networks trained on shuffled bars, informed policies.

Here: making them, and the file in which trained ones are kept. Not here: their markets (markets.py) or their judgement
(judging.py).

On a market without an edge every network is worthless, whatever it learnt: its expected return before costs is 0.
Networks of two kinds are taken because they trade differently, and a test may have another size for each.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Bars
from postval_assets.core.bootstrap import seeded
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.model_spec import (
    DEFAULT_WINDOW,
    VERSIONS,
    ActivationBasis,
    ModelSpec,
    VersionBasis,
    discover_layers,
)
from postval_assets.trainer.calibration.markets import TradedMarket, shuffled_in_time
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.delivery import policy_arrays
from postval_assets.trainer.network import (
    ActorCritic,
    InputMap,
    averaged_features,
    delivered_state_dict,
    fit_input_map,
    temporal_kernels,
)
from postval_assets.trainer.training import train_model

Float32 = npt.NDArray[np.float32]
Tensors = dict[str, Float32]

# What random networks are drawn from: small ones, that look at the newest bars or at days.
HIDDEN_DIMS: tuple[tuple[int, ...], ...] = ((8, 8), (16, 16), (32,))
ACTIVATIONS = ("tanh", "relu")
KERNEL_SPANS: tuple[tuple[int, ...], ...] = ((1, 4, 16, 48), (24, 96), (96,))
SHUFFLED_VERSIONS = ("2.3.0", "2.7.0")
MAP_BARS = 1_000
"""Newest bars before the plans on which inputs are standardised; more of them cost time and change little."""

# A minute for all of them: they have nothing to learn, and only have to trade as trained networks do.
SHUFFLED_CONFIG = PPOConfig(hidden_dims=(8, 8), n_updates=30, n_episodes=32, patience=6)


@dataclass(frozen=True, eq=False)
class WorthlessModel:
    """A network on a market without an edge.

    Attributes:
        kind: how it came about, with its version, for the tables.
        symbol: whose market it trades.
        digest: what its seeds follow from, in place of the digest of a file.
        spec, tensors: the network.
    """

    kind: str
    symbol: str
    digest: str
    spec: ModelSpec
    tensors: Tensors


@dataclass(frozen=True, eq=False)
class ShuffledNetwork:
    """A network that was trained on the shuffled bars of a symbol."""

    symbol: str
    version: str
    tensors: Tensors


def network_spec(version: str, activation: str, tensors: Mapping[str, Float32]) -> ModelSpec:
    """The facts of a delivered network, as a reader of its checkpoint would know them."""
    layout = VERSIONS[version]
    layers = discover_layers(tensors)
    return ModelSpec(
        model_version=version,
        model_version_basis=VersionBasis.STATED,
        n_features=layout.n_features,
        n_actions=layout.n_actions,
        obs_dim=layout.n_features * DEFAULT_WINDOW,
        window=DEFAULT_WINDOW,
        hidden_dims=tuple(layer.n_out for layer in layers[:-1] if layer.weight_key),
        activation=activation,
        activation_basis=ActivationBasis.NAMED,
        layers=layers,
        account_features=layout.account_features,
        n_parameters=sum(array.size for array in tensors.values()),
    )


class RandomNetworks:
    """Networks as the trainer delivers them before the first update, standardised on their market's bars.

    Only bars before the plans are used for that, as in training.
    """

    def __init__(self, market: TradedMarket) -> None:
        self._market = market
        self._maps: dict[tuple[int, ...], InputMap] = {}

    def draw(self, version: str, words: Sequence[str]) -> WorthlessModel:
        """A network that follows from the words."""
        rng = seeded("network", *words)
        hidden = HIDDEN_DIMS[int(rng.integers(len(HIDDEN_DIMS)))]
        activation = ACTIVATIONS[int(rng.integers(len(ACTIVATIONS)))]
        spans = KERNEL_SPANS[int(rng.integers(len(KERNEL_SPANS)))]
        layout = VERSIONS[version]
        input_map = self._input_map(spans)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(int(rng.integers(2**63)))
            network = ActorCritic(
                input_map.n_inputs,
                len(layout.account_features),
                layout.n_actions,
                hidden,
                activation,
                layer_norm=False,
            )
        tensors = {name: t.numpy() for name, t in delivered_state_dict(network, input_map).items()}
        return WorthlessModel(
            kind=f"random weights, {version}",
            symbol=self._market.bars.symbol,
            digest="|".join(words),
            spec=network_spec(version, activation, tensors),
            tensors=tensors,
        )

    def _input_map(self, spans: tuple[int, ...]) -> InputMap:
        if spans not in self._maps:
            kernels = temporal_kernels(DEFAULT_WINDOW, spans)
            stop = self._market.n_training
            averaged = averaged_features(self._market.features()[max(stop - MAP_BARS, 0) : stop], kernels)
            self._maps[spans] = fit_input_map(averaged[np.isfinite(averaged).all(axis=(1, 2))], kernels)
        return self._maps[spans]


def shuffled_model(network: ShuffledNetwork, words: Sequence[str]) -> WorthlessModel:
    """A network that was trained on shuffled bars, on a market of its symbol."""
    return WorthlessModel(
        kind=f"trained on shuffled bars, {network.version}",
        symbol=network.symbol,
        digest="|".join(words),
        spec=network_spec(network.version, SHUFFLED_CONFIG.activation, network.tensors),
        tensors=network.tensors,
    )


def train_on_shuffled(bars: Bars, version: str, seed: int) -> ShuffledNetwork:
    """Train one network on the bars in another order."""
    shuffled = shuffled_in_time(bars, seeded("shuffled", str(seed), bars.symbol, version))
    model = train_model(
        shuffled,
        replace(SHUFFLED_CONFIG, model_version=version, seed=seed),
        rules=ExecutionRules(),
        feature_sets={},
    )
    return ShuffledNetwork(bars.symbol, version, policy_arrays(model))


def save_networks(path: Path, networks: Sequence[ShuffledNetwork], made_of: Mapping[str, Any]) -> None:
    """Keep trained networks with what they were made of."""
    arrays: Tensors = {}
    names = []
    for number, network in enumerate(networks):
        names.append([network.symbol, network.version])
        arrays |= {f"{number}/{name}": array for name, array in network.tensors.items()}
    header = json.dumps({"made_of": dict(made_of), "networks": names}, sort_keys=True)
    part = path.with_name(f"{path.name}.part")
    with part.open("wb") as file:
        np.savez(file, header=np.array(header), **arrays)  # type: ignore[arg-type]  # numpy's stub: names are free
    part.replace(path)


def load_networks(path: Path, made_of: Mapping[str, Any]) -> list[ShuffledNetwork] | None:
    """The networks that were kept; None where there are none, or ones made of something else."""
    if not path.exists():
        return None
    with np.load(path) as kept:
        header = json.loads(str(kept["header"]))
        if header["made_of"] != dict(made_of):
            return None
        return [
            ShuffledNetwork(
                symbol,
                version,
                {key.partition("/")[2]: kept[key] for key in kept.files if key.startswith(f"{number}/")},
            )
            for number, (symbol, version) in enumerate(header["networks"])
        ]


def sizes_of(model: WorthlessModel) -> npt.NDArray[np.float64]:
    """Order sizes of a model's actions, axis [action]."""
    return action_sizes(model.spec.n_actions)
