"""Running a policy network over bars: from market features and account features to actions.

Here: inference. Not here: reading checkpoints (checkpoint.py), features (features/), accounting (engine.py).

The observation is a window of bars; its market part slides by one bar a step, so the first layer over it is computed
once for all bars (sliding_layer.py). The account features are constant over the window: their part of the first layer
is one small matrix, the weights summed over the window, added step by step. No observation is ever built, except for a
network that normalises the observation itself.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from postval_assets.core.engine import Lane
from postval_assets.core.model_spec import LayerKind, ModelSpec
from postval_assets.core.sliding_layer import several_window_sums

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
        first = spec.layers[0]
        self._slides = first.kind is LayerKind.LINEAR
        held = {key: torch.from_numpy(np.require(value, np.float32, "C")) for key, value in tensors.items()}
        if self._slides:
            # The largest matrix by far is kept in the one form that it is used in.
            weight = held[first.weight_key].view(-1, spec.window, spec.n_features)
            self._taps = self._own(weight[:, :, : self.n_market].permute(1, 2, 0))
            self._account = self._own(weight[:, :, self.n_market :].sum(dim=1).T)
            self._first_bias = None if first.bias_key is None else self._own(held[first.bias_key])
        self._activate = _activation(spec.activation)
        # Matrices as [in, out]: with the few rows of a step they multiply faster that way round.
        self._layers: list[tuple[LayerKind, torch.Tensor | None, torch.Tensor | None]] = [
            (
                layer.kind,
                None if not layer.weight_key else self._own(held[layer.weight_key].t()),
                None if layer.bias_key is None else self._own(held[layer.bias_key]),
            )
            for layer in (spec.layers[1:] if self._slides else spec.layers)
        ]

    def _own(self, tensor: torch.Tensor) -> torch.Tensor:
        """A dense copy on the device."""
        import torch

        return tensor.to(self.device, copy=True, memory_format=torch.contiguous_format)

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
        [sums] = self.first_layers([features])
        return sums

    def first_layers(self, several: Sequence[Float32]) -> list[torch.Tensor]:
        """``first_layer`` of a series, and of shorter ones beside it for little more, summed in the same way."""
        import torch

        series = [torch.from_numpy(np.ascontiguousarray(features)).to(self.device) for features in several]
        return several_window_sums(series, self._taps, self._first_bias)

    def logits_of(self, hidden: torch.Tensor, account: torch.Tensor | None = None) -> torch.Tensor:
        """The network after the sum over market features: [row, unit] to [row, action].

        Args:
            hidden: rows of ``first_layer``.
            account: account features [row, account], where the model has them.
        """
        import torch

        with torch.inference_mode():
            if account is not None:
                hidden = torch.addmm(hidden, account, self._account)
            return self._rest(hidden)

    def logits_of_observations(self, observations: torch.Tensor) -> torch.Tensor:
        """The whole network over whole observations [row, input]: where the first layer is not linear."""
        import torch

        with torch.inference_mode():
            return self._rest(observations)

    def _rest(self, hidden: torch.Tensor) -> torch.Tensor:
        import torch

        for kind, weight, bias in self._layers:
            if kind is LayerKind.ACTIVATION:
                hidden = self._activate(hidden)
            elif weight is None:
                raise ValueError(f"a {kind} layer without weights")
            elif kind is LayerKind.LINEAR:
                hidden = hidden @ weight if bias is None else torch.addmm(bias, hidden, weight)
            else:
                hidden = torch.nn.functional.layer_norm(hidden, weight.shape, weight, bias)
        return hidden

    def actor(self, features: Float32, lanes: Sequence[Lane]) -> NetworkActor:
        """An actor for these lanes, whose bars are rows of ``features`` [bar, market feature]."""
        [actor] = self.actors([(features, lanes)])
        return actor

    def actors(self, parts: Sequence[tuple[Float32, Sequence[Lane]]]) -> list[NetworkActor]:
        """An actor for lanes, and others for those over shorter series beside; arguments as in ``actor``."""
        actors = [NetworkActor(self, features, lanes) for features, lanes in parts]
        if self._slides:
            for actor, hidden in zip(actors, self.first_layers([a.rows for a in actors]), strict=True):
                actor.take_first_layer(hidden)
        return actors

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
        self.rows: Float32 = np.where(usable[rows, None], features[rows], np.float32(0.0))
        self._offset = first_bar
        self._actions: Int | None = None

    def take_first_layer(self, hidden: torch.Tensor) -> None:
        """The first layer over ``rows``, where the network slides: needed before the first action."""
        self._hidden = hidden
        if self._n_account == 0:
            self._actions = self._all_actions()

    def _all_actions(self) -> Int:
        starts = range(0, len(self._hidden), _BATCH)
        return np.concatenate(
            [_choose(self._network.logits_of(self._hidden[i : i + _BATCH])) for i in starts]
        )

    def act(self, step: int, lanes: Int, account: Float) -> Int:
        """Argmax of the logits of each lane, lowest index on ties; -1 where they are NaN or infinite."""
        if self._actions is not None:
            chosen: Int = self._actions[self._starts[lanes] + (step - self._offset)]
            return chosen
        return _choose(self.logits(step, lanes, account))

    def logits(self, step: int, lanes: Int, account: Float) -> torch.Tensor:
        """What ``act`` chooses by, [lane, action]; arguments as there."""
        import torch

        bars = self._starts[lanes] + (step - self._offset)
        device = self._network.device
        seen = torch.from_numpy(account[:, : self._n_account].astype(np.float32))
        if device.type != "cpu":
            seen = seen.to(device)
        if not self._network.slides:
            return self._network.logits_of_observations(self._observations(bars, seen))
        rows = torch.from_numpy(bars)
        hidden = self._hidden[rows if device.type == "cpu" else rows.to(device)]
        return self._network.logits_of(hidden, seen if self._n_account else None)

    def _observations(self, bars: Int, account: torch.Tensor) -> torch.Tensor:
        import torch

        window = self._network.spec.window
        market = np.stack([self.rows[bar : bar + window] for bar in bars])
        constant = account[:, None, :].expand(-1, window, -1)
        return torch.cat([torch.from_numpy(market).to(account.device), constant], dim=2).flatten(1)


@contextmanager
def on_one_thread() -> Iterator[None]:
    """Torch's work of the calling thread inside, undivided.

    A step multiplies a few rows: threads that meet after each layer cost more than they bring, and where something
    else runs on the machine they wait for it at every step (measured: six times slower beside two busy processes).
    """
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _choose(logits: torch.Tensor) -> Int:
    values = logits.cpu().numpy()
    # numpy's argmax takes the first of equals, which torch does not promise.
    best: Int = values.argmax(axis=1)
    if not np.isfinite(values).all():
        best[~np.isfinite(values).all(axis=1)] = -1
    return best


def _activation(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Torch's function of that name; the names are those that checkpoint.py accepts."""
    import torch

    found: Callable[[torch.Tensor], torch.Tensor] = getattr(
        torch if name in ("tanh", "sigmoid") else torch.nn.functional, name
    )
    return found
