"""The actor-critic that is trained, and the plain network that it is delivered as.

Here: the compact network, and writing it out as the contract's MLP over a whole window. Not here: learning
(ppo.py), files (archive_writer.py), or running a delivered network, which is core's work (core/policy.py).

A delivered network has one weight for each feature of each of the window's bars: thousands of inputs a unit, and
a few years of bars to learn them from. What is trained has far fewer: each unit's weights along the window are a
mixture of a few fixed kernels (exponential averages of stated spans), and the features are standardised on the
training bars. Both are linear, so they fold into the first layer exactly: the delivered network computes the same
numbers from raw features, and nothing of the shortcut is visible in it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from postval_assets.core.model_spec import ACTIVATIONS

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

_BLOCK_BARS = 4096  # averaged at once: bounds the memory that windows laid out side by side take
_CONSTANT = 1e-7  # a feature that moves less than this over the training bars says nothing: it is left out
_ACTIVATION_MODULES: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
}
assert set(_ACTIVATION_MODULES) == set(ACTIVATIONS)  # noqa: S101 - held at import: readers know exactly these


def temporal_kernels(window: int, spans: Sequence[int]) -> Float:
    """Exponential averages over a window: [kernel, bar], the oldest bar first; each sums to 1.

    Args:
        window: bars in an observation.
        spans: of the averages, in bars; 1 is the newest bar alone.
    """
    age = np.arange(window - 1, -1, -1, dtype=np.float64)
    weights = np.stack([(1.0 - 2.0 / (span + 1.0)) ** age for span in spans])
    kernels: Float = weights / weights.sum(axis=1, keepdims=True)
    return kernels


@dataclass(frozen=True, eq=False)
class InputMap:
    """How raw features become the inputs of the compact network.

    Attributes:
        kernels: [kernel, bar], the oldest bar first.
        mean: of each input over the training bars, [kernel, feature].
        inverse_sd: 1 / standard deviation of each input; 0 where it is left out.
    """

    kernels: Float
    mean: Float
    inverse_sd: Float

    @property
    def n_inputs(self) -> int:
        """Inputs of the compact network, account features excluded."""
        return int(self.mean.size)


def averaged_features(features: Float32, kernels: Float) -> Float:
    """The kernels over the window that ends at each bar: [bar, kernel, feature].

    Args:
        features: market features [bar, feature]; NaN where a feature has no look-back yet.
        kernels: [kernel, bar of the window].

    Returns:
        NaN for the bars without a full window of finite features.
    """
    window = kernels.shape[1]
    out = np.full((len(features), len(kernels), features.shape[1]), np.nan)
    for first in range(window - 1, len(features), _BLOCK_BARS):
        stop = min(first + _BLOCK_BARS, len(features))
        windows = np.lib.stride_tricks.sliding_window_view(
            features[first - window + 1 : stop], window, axis=0
        )
        out[first:stop] = np.einsum("nft,kt->nkf", windows, kernels, optimize=True)
    return out


def fit_input_map(averaged: Float, kernels: Float, left_out: Sequence[int] = ()) -> InputMap:
    """Mean and spread of the inputs over the training bars.

    Args:
        averaged: of the training bars that have a value: [bar, kernel, feature], finite.
        kernels: that made them.
        left_out: columns of features that the network shall not see.
    """
    sd = averaged.std(axis=0)
    inverse = np.divide(1.0, sd, out=np.zeros_like(sd), where=sd > _CONSTANT)
    inverse[:, list(left_out)] = 0.0
    return InputMap(kernels=kernels, mean=averaged.mean(axis=0), inverse_sd=inverse)


def network_inputs(averaged: Float, input_map: InputMap) -> Float32:
    """The compact network's inputs: [bar, kernel x feature]."""
    inputs = (averaged - input_map.mean) * input_map.inverse_sd
    return inputs.reshape(len(inputs), -1).astype(np.float32)


class ActorCritic(nn.Module):
    """Trunk, actor and critic over the compact inputs and the account features."""

    def __init__(
        self,
        n_inputs: int,
        n_account: int,
        n_actions: int,
        hidden_dims: Sequence[int],
        activation: str,
        *,
        layer_norm: bool,
    ) -> None:
        """Draw the weights from torch's global generator: orthogonal, the actor's small, biases 0.

        Source: Huang et al., "The 37 Implementation Details of Proximal Policy Optimization" (2022), detail 2.
        """
        super().__init__()
        self.market = nn.Linear(n_inputs, hidden_dims[0])
        self.account = nn.Linear(n_account, hidden_dims[0], bias=False) if n_account else None
        rest: list[nn.Module] = []
        width = hidden_dims[0]
        for number, hidden in enumerate(hidden_dims):
            if number:
                rest.append(nn.Linear(width, hidden))
            if layer_norm:
                rest.append(nn.LayerNorm(hidden))
            rest.append(_ACTIVATION_MODULES[activation]())
            width = hidden
        self.rest = nn.Sequential(*rest)
        self.actor_head = nn.Linear(width, n_actions)
        self.critic_head = nn.Linear(width, 1)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                gain = {self.actor_head: 0.01, self.critic_head: 1.0}.get(module, 2.0**0.5)
                nn.init.orthogonal_(module.weight, gain)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def heads(self, hidden: torch.Tensor, account: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [row, action] and values [row] from the first layer's market part [row, unit]."""
        if self.account is not None:
            hidden = hidden + self.account(account)
        hidden = self.rest(hidden)
        return self.actor_head(hidden), self.critic_head(hidden)[:, 0]

    def forward(self, inputs: torch.Tensor, account: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [row, action] and values [row] from inputs [row, input] and account features [row, feature]."""
        return self.heads(self.market(inputs), account)


def delivered_state_dict(network: ActorCritic, input_map: InputMap) -> OrderedDict[str, torch.Tensor]:
    """The network as an MLP over raw windows: ``shared.N``, ``actor_head``, ``critic_head``, float32 on the CPU.

    The first layer's weights are [unit, bar x feature], row-major, the oldest bar's features first, account
    features last in each bar; the account's weights are spread evenly over the bars, in which it is constant.
    """
    n_kernels, window = input_map.kernels.shape
    market = _float64(network.market.weight).reshape(-1, n_kernels, input_map.mean.shape[1])
    scaled = market * input_map.inverse_sd
    weight = np.einsum("ukf,kt->utf", scaled, input_map.kernels)
    bias = _float64(network.market.bias) - (scaled * input_map.mean).sum(axis=(1, 2))
    if network.account is not None:
        account = _float64(network.account.weight) / window
        spread = np.broadcast_to(account[:, None, :], (len(account), window, account.shape[1]))
        weight = np.concatenate([weight, spread], axis=2)
    tensors = {
        "shared.0.weight": torch.from_numpy(weight.reshape(len(weight), -1).astype(np.float32)),
        "shared.0.bias": torch.from_numpy(bias.astype(np.float32)),
    }
    for name, tensor in network.state_dict().items():
        part, _, inner = name.partition(".")
        if part in ("market", "account"):
            continue
        if part == "rest":
            number, _, role = inner.partition(".")
            name = f"shared.{int(number) + 1}.{role}"  # noqa: PLW2901 - the first layer comes before the rest
        tensors[name] = tensor.detach().cpu().clone()
    return OrderedDict(tensors)


def _float64(tensor: torch.Tensor) -> Float:
    return np.asarray(tensor.detach().cpu().numpy(), dtype=np.float64)
