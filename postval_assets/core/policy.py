"""Running a policy network over bars: from market features and account features to actions.

Here: inference. Not here: reading checkpoints (checkpoint.py), features (features/), accounting (engine.py).

The observation is a window of bars; its market part slides by one bar a step, so the first layer over it is a
one-dimensional convolution over time, computed once for all bars. The account features are constant over the
window: their part of the first layer is one small matrix, the weights summed over the window, added step by step.
No observation is ever built, except for a network that normalises the observation itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from postval_assets.core.engine import Lane
from postval_assets.core.model_spec import LayerKind, ModelSpec

if TYPE_CHECKING:
    import torch

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]

# Rows of a batched pass through the layers after the first: bounds memory for long plans.
_BATCH = 8192


class PolicyNetwork:
    """A policy's actor in float32 on one device."""

    def __init__(
        self, spec: ModelSpec, tensors: Mapping[str, npt.NDArray[np.float32]], device: str = "cpu"
    ) -> None:
        """Take the weights to the device.

        Args:
            spec: validated facts of the checkpoint, layers in order (trunk, then the actor's head).
            tensors: float32 arrays by the keys that the spec's layers name.
            device: a torch device name.
        """
        import torch

        self.spec = spec
        self.device = torch.device(device)
        self._weights = {
            key: torch.from_numpy(np.array(value)).to(self.device) for key, value in tensors.items()
        }
        self._slides = spec.layers[0].kind is LayerKind.LINEAR

    @property
    def n_market(self) -> int:
        """Market features in a bar of the observation."""
        return self.spec.n_features - len(self.spec.account_features)

    def first_layer(self, features: Float32) -> torch.Tensor:
        """First layer over the market features, bias included, for each bar that has a full window.

        Args:
            features: market features [bar, feature], finite.

        Returns:
            float32 tensor [bar - window + 1, unit]: row i belongs to bar i + window - 1.
        """
        import torch

        layer = self.spec.layers[0]
        weight = self._weights[layer.weight_key].view(-1, self.spec.window, self.spec.n_features)
        kernel = weight[:, :, : self.n_market].permute(0, 2, 1).contiguous()
        bias = None if layer.bias_key is None else self._weights[layer.bias_key]
        series = torch.from_numpy(np.ascontiguousarray(features.T)).to(self.device)
        # Whole float32: on CUDA a convolution would else be rounded to the 10 bits of TF32.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            return torch.nn.functional.conv1d(series[None], kernel, bias)[0].T.contiguous()

    def account_matrix(self) -> torch.Tensor:
        """The first layer's weights on the account features, summed over the window: float32 [unit, account]."""
        weight = self._weights[self.spec.layers[0].weight_key].view(
            -1, self.spec.window, self.spec.n_features
        )
        return weight[:, :, self.n_market :].sum(dim=1)

    def logits(self, hidden: torch.Tensor, first: int = 1) -> torch.Tensor:
        """The network from layer number ``first`` on: [row, unit] to [row, action]."""
        import torch

        functional = torch.nn.functional
        activate = _activation(self.spec.activation)
        with torch.inference_mode():
            for layer in self.spec.layers[first:]:
                if layer.kind is LayerKind.ACTIVATION:
                    hidden = activate(hidden)
                    continue
                weight = self._weights[layer.weight_key]
                bias = None if layer.bias_key is None else self._weights[layer.bias_key]
                if layer.kind is LayerKind.LINEAR:
                    hidden = functional.linear(hidden, weight, bias)
                else:
                    hidden = functional.layer_norm(hidden, weight.shape, weight, bias)
        return hidden

    def actor(self, features: Float32, lanes: Sequence[Lane]) -> NetworkActor:
        """An actor for these lanes, whose bars are rows of ``features`` [bar, market feature]."""
        return NetworkActor(self, features, lanes)

    @property
    def slides(self) -> bool:
        """Whether the first layer is linear in the observation, so that it can slide over the bars."""
        return self._slides


class NetworkActor:
    """Actions of one policy for lanes over the same bars."""

    def __init__(self, network: PolicyNetwork, features: Float32, lanes: Sequence[Lane]) -> None:
        window = network.spec.window
        self._network = network
        self._starts = np.array([lane.start for lane in lanes])
        self._n_account = len(network.spec.account_features)
        first_bar, stop = int(self._starts.min()), max(lane.stop for lane in lanes)
        usable: npt.NDArray[np.bool_] = np.logical_and.reduce(np.isfinite(features), axis=1)
        if any(
            lane.start < window - 1 or not usable[lane.start - window + 1 : lane.stop].all() for lane in lanes
        ):
            raise ValueError("a lane starts before its first full window of finite features")
        # Bars between two lanes that neither sees may have no features; nothing of theirs may reach a sum.
        rows = slice(first_bar - window + 1, stop)
        self._rows = np.where(usable[rows, None], features[rows], np.float32(0.0))
        self._offset = first_bar
        self._actions: Int | None = None
        if network.slides:
            self._hidden = network.first_layer(self._rows)
            if self._n_account == 0:
                self._actions = self._all_actions()
            else:
                self._account_weights = network.account_matrix().T.contiguous()

    def _all_actions(self) -> Int:
        starts = range(0, len(self._hidden), _BATCH)
        return np.concatenate([_choose(self._network.logits(self._hidden[i : i + _BATCH])) for i in starts])

    def act(self, step: int, lanes: Int, account: Float) -> Int:
        """Argmax of the logits of each lane, lowest index on ties; -1 where they are NaN or infinite."""
        import torch

        bars = self._starts[lanes] + step - self._offset
        if self._actions is not None:
            chosen: Int = self._actions[bars]
            return chosen
        seen = torch.from_numpy(account[:, : self._n_account].astype(np.float32)).to(self._network.device)
        if not self._network.slides:
            return _choose(self._network.logits(self._observations(bars, seen), first=0))
        hidden = self._hidden[torch.from_numpy(bars).to(self._network.device)] + seen @ self._account_weights
        return _choose(self._network.logits(hidden))

    def _observations(self, bars: Int, account: torch.Tensor) -> torch.Tensor:
        import torch

        window = self._network.spec.window
        market = np.stack([self._rows[bar : bar + window] for bar in bars])
        constant = account[:, None, :].expand(-1, window, -1)
        return torch.cat([torch.from_numpy(market).to(account.device), constant], dim=2).flatten(1)


def _choose(logits: torch.Tensor) -> Int:
    values = logits.cpu().numpy()
    # numpy's argmax takes the first of equals, which torch does not promise.
    best: Int = np.argmax(values, axis=1).astype(np.int64)
    best[~np.isfinite(values).all(axis=1)] = -1
    return best


def _activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Torch's function of that name; the names are those that checkpoint.py accepts."""
    import torch

    found: Callable[[torch.Tensor], torch.Tensor] = getattr(
        torch if name in ("tanh", "sigmoid") else torch.nn.functional, name
    )
    return found
