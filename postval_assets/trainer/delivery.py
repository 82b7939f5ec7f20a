"""What a run delivers: the trained network as a model of the contract.

Here: from the compact network to the plain one with its facts. Not here: when that happens (training.py), or the
bytes of a file (archive_writer.py).
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from postval_assets.core.model_spec import (
    VERSIONS,
    ActivationBasis,
    ModelSpec,
    VersionBasis,
    discover_layers,
)
from postval_assets.trainer.archive_writer import Claim, TrainedModel
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.data import TrainingData
from postval_assets.trainer.network import ActorCritic, delivered_state_dict

ACTION_MEANINGS = {
    3: ("HOLD", "BUY_50", "SELL_50"),
    7: ("HOLD", "BUY_25", "BUY_50", "BUY_75", "SELL_25", "SELL_50", "SELL_75"),
}


def delivered_model(
    network: ActorCritic,
    optimizer: torch.optim.Optimizer,
    data: TrainingData,
    config: PPOConfig,
    update: int,
    claims: tuple[Claim, ...] = (),
) -> TrainedModel:
    """The network as it stands after an update, with what it claims."""
    layout = VERSIONS[config.model_version]
    bars = data.bars
    return TrainedModel(
        symbol=bars.symbol,
        timeframe=bars.timeframe,
        model_version=config.model_version,
        n_features=layout.n_features,
        n_actions=layout.n_actions,
        window=config.window,
        action_meanings=dict(enumerate(ACTION_MEANINGS[layout.n_actions])),
        activation=config.activation,
        feature_set=data.feature_set.name,
        feature_names=data.feature_set.feature_names,
        policy_state_dict=delivered_state_dict(network, data.input_map),
        optimizer_state_dict=_optimizer_state(optimizer),
        config=config,
        global_step=update * config.n_episodes * (config.episode_bars - 1),
        train_start=_datetime(bars.ts[0]),
        train_end=_datetime(bars.ts[-1]),
        claims=claims,
    )


def model_spec(model: TrainedModel) -> ModelSpec:
    """What a reader of the model's checkpoint will know of its network."""
    tensors = policy_arrays(model)
    layers = discover_layers(tensors)
    return ModelSpec(
        model_version=model.model_version,
        model_version_basis=VersionBasis.STATED,
        n_features=model.n_features,
        n_actions=model.n_actions,
        obs_dim=model.n_features * model.window,
        window=model.window,
        hidden_dims=tuple(model.config.hidden_dims),
        activation=model.activation,
        activation_basis=ActivationBasis.NAMED,
        layers=layers,
        account_features=VERSIONS[model.model_version].account_features,
        n_parameters=sum(array.size for array in tensors.values()),
    )


def policy_arrays(model: TrainedModel) -> dict[str, npt.NDArray[np.float32]]:
    """The delivered network's arrays by name."""
    return {name: tensor.numpy() for name, tensor in model.policy_state_dict.items()}


def _optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Settings and moments, copied to the CPU: the optimizer goes on changing its own."""
    state: dict[str, Any] = optimizer.state_dict()
    copied = {
        number: {name: _copied(value) for name, value in moments.items()}
        for number, moments in state["state"].items()
    }
    return {"state": copied, "param_groups": [dict(group) for group in state["param_groups"]]}


def _copied(value: object) -> object:
    return value.detach().cpu().clone() if isinstance(value, torch.Tensor) else value


def _datetime(ts: np.datetime64) -> datetime:
    return datetime.fromisoformat(str(ts.astype("datetime64[s]"))).replace(tzinfo=UTC)
