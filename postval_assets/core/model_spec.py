"""The validated facts of one policy network: what every later stage knows of a model.

Here: the facts, the versions that exist, and finding the layers among a state dict's arrays. Not here:
reading files (checkpoint.py, torch_file.py), running the network (policy.py), features.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from types import MappingProxyType

import numpy as np
import numpy.typing as npt

from postval_assets.core.failures import Rejected

Float32 = npt.NDArray[np.float32]

DEFAULT_WINDOW = 100
ACTIVATIONS = ("relu", "tanh", "elu", "gelu", "silu", "leaky_relu", "selu", "sigmoid")
ACTOR_HEAD = "actor_head"
CRITIC_HEAD = "critic_head"


class Incompatible(Rejected):
    """Well-formed, but its version, dimensions, names or activation do not fit."""


class LayerKind(StrEnum):
    """What a layer computes."""

    LINEAR = "LINEAR"
    LAYER_NORM = "LAYER_NORM"
    ACTIVATION = "ACTIVATION"


class VersionBasis(StrEnum):
    """How a model's version is known."""

    STATED = "STATED"
    INFERRED = "INFERRED"


class ActivationBasis(StrEnum):
    """How a model's activation is known."""

    NAMED = "NAMED"
    ASSUMED = "ASSUMED"


@dataclass(frozen=True)
class LayerSpec:
    """One step of the actor.

    Attributes:
        kind: what it computes.
        weight_key: array [n_out, n_in] of a linear layer, [n_in] of a layer norm; empty for an activation.
        bias_key: array [n_out]; None where there is none.
        n_in, n_out: width before and after.
    """

    kind: LayerKind
    weight_key: str
    bias_key: str | None
    n_in: int
    n_out: int


@dataclass(frozen=True)
class ModelSpec:
    """Everything about a network except its numbers.

    Attributes:
        model_version: a key of VERSIONS.
        model_version_basis: whether the file says so.
        n_features: features of one bar of the observation, account features included.
        n_actions: actions the policy chooses from.
        obs_dim: n_features * window, row-major, the oldest bar's features first.
        window: bars in an observation.
        hidden_dims: widths of the trunk's linear layers.
        activation: one of ACTIVATIONS.
        activation_basis: whether the file says so.
        layers: the actor in order: trunk, then its head.
        account_features: names of the last features of a bar, in this order.
        n_parameters: of the whole policy, critic included.
        global_step: training steps, where stated.
        feature_set: name of the feature set, where stated.
        feature_names: all n_features names in order, where stated.
        train_start, train_end: opens of the first and last training bar (UTC, inclusive), where stated.
        min_trader_version: as stated.
        action_meanings: what the file calls its actions, by index.
    """

    model_version: str
    model_version_basis: VersionBasis
    n_features: int
    n_actions: int
    obs_dim: int
    window: int
    hidden_dims: tuple[int, ...]
    activation: str
    activation_basis: ActivationBasis
    layers: tuple[LayerSpec, ...]
    account_features: tuple[str, ...]
    n_parameters: int
    global_step: int | None = None
    feature_set: str | None = None
    feature_names: tuple[str, ...] | None = None
    train_start: datetime | None = None
    train_end: datetime | None = None
    min_trader_version: str | None = None
    action_meanings: tuple[str, ...] | None = None


@dataclass(frozen=True)
class VersionLayout:
    """What a model version fixes."""

    n_features: int
    n_actions: int
    account_features: tuple[str, ...]


_ACCOUNT_3 = ("total_pnl", "win_rate", "drawdown")
_ACCOUNT_6 = (*_ACCOUNT_3, "position_pct", "available_pct", "account_change")
_LAYOUT_56 = VersionLayout(56, 3, _ACCOUNT_3)
VERSIONS: Mapping[str, VersionLayout] = MappingProxyType(
    {
        "2.3.0": VersionLayout(53, 3, ()),
        "2.4.0": _LAYOUT_56,
        "2.5.0": _LAYOUT_56,
        "2.6.0": _LAYOUT_56,
        "2.7.0": VersionLayout(59, 7, _ACCOUNT_6),
    }
)

_PART = re.compile(r"(?P<path>.+)\.(?P<role>weight|bias)\Z")
_NUMBER = re.compile(r"[0-9]+")


@dataclass(frozen=True)
class _Module:
    """One parameterised module of the trunk.

    Attributes:
        path: as in the state dict, without the role.
        index: every number in the path, in order.
        linear: a linear layer, else a layer norm.
        n_in, n_out: widths.
    """

    path: str
    index: tuple[int, ...]
    linear: bool
    n_in: int
    n_out: int


def discover_layers(tensors: Mapping[str, Float32]) -> tuple[LayerSpec, ...]:
    """The actor's layers in order: the trunk by its numeric index, then ``actor_head``.

    A 2-D weight [n_out, n_in] is a linear layer, a 1-D weight [n] a layer norm, and an activation follows
    each linear layer of the trunk, after its norm. Where the numbering shows that a norm comes after the
    activation (``0`` linear, ``2`` norm, ``3`` linear), it is placed there.

    Args:
        tensors: the policy's arrays by name, wrappers' prefixes removed.

    Raises:
        Incompatible: parts that are not of such a network, dimensions that do not chain, or an unclear order.
    """
    weights, biases = _parts(tensors)
    if ACTOR_HEAD not in weights:
        raise Incompatible(f"the policy has no {ACTOR_HEAD}.weight; found {_shown(tensors)}")
    layers = _placed([_module(path, weights, biases) for path in _trunk_paths(weights)], biases)
    if not any(layer.kind is LayerKind.LINEAR for layer in layers):
        raise Incompatible(
            f"the policy has no trunk of linear layers before {ACTOR_HEAD}; found {_shown(tensors)}"
        )
    head = _module(ACTOR_HEAD, weights, biases)
    if not head.linear:
        raise Incompatible(f"{ACTOR_HEAD}.weight must have two dimensions, it has one")
    layers.append(_layer(head, biases))
    if CRITIC_HEAD in weights:
        critic = _module(CRITIC_HEAD, weights, biases)
        if not critic.linear or critic.n_out != 1 or critic.n_in != head.n_in:
            shape = weights[CRITIC_HEAD].shape
            raise Incompatible(f"{CRITIC_HEAD}.weight has shape {shape}; expected (1, {head.n_in})")
    for before, after in itertools.pairwise(layers):
        if before.n_out != after.n_in:
            raise Incompatible(
                f"layers do not fit: {before.weight_key or 'an activation'} gives {before.n_out} values, "
                f"{after.weight_key} takes {after.n_in}"
            )
    return tuple(layers)


def _parts(tensors: Mapping[str, Float32]) -> tuple[dict[str, Float32], dict[str, Float32]]:
    weights: dict[str, Float32] = {}
    biases: dict[str, Float32] = {}
    for name, array in tensors.items():
        match = _PART.match(name)
        if match is None:
            raise Incompatible(
                f"the policy has a part that is not read: {_text(name)}; "
                "expected weights and biases of Linear and LayerNorm modules"
            )
        (weights if match["role"] == "weight" else biases)[match["path"]] = array
    orphan = min(biases.keys() - weights.keys(), default=None)
    if orphan is not None:
        raise Incompatible(f"{_text(orphan)} has a bias but no weight")
    return weights, biases


def _trunk_paths(weights: Mapping[str, Float32]) -> list[str]:
    trunk = [path for path in weights if path not in {ACTOR_HEAD, CRITIC_HEAD}]
    families = sorted({_NUMBER.sub("#", path) for path in trunk})
    if len(families) > 1:
        raise Incompatible(
            "the order of the policy's layers is not clear: they are named "
            f"{', '.join(map(_text, families[:4]))}; "
            "expected one numbered series, such as shared.0, shared.2"
        )
    return sorted(trunk, key=_index)


def _module(path: str, weights: Mapping[str, Float32], biases: Mapping[str, Float32]) -> _Module:
    weight, bias = weights[path], biases.get(path)
    if weight.ndim not in {1, 2} or weight.size == 0:
        raise Incompatible(f"{_text(path)}.weight has shape {weight.shape}; expected (n_out, n_in) or (n,)")
    linear = weight.ndim == 2
    if not linear and bias is None:
        raise Incompatible(
            f"{_text(path)} is a norm without bias: RMSNorm and LayerNorm cannot be told apart"
        )
    if bias is not None and bias.shape != weight.shape[:1]:
        raise Incompatible(f"{_text(path)}.bias has shape {bias.shape}; expected {weight.shape[:1]}")
    return _Module(path, _index(path), linear=linear, n_in=weight.shape[-1], n_out=weight.shape[0])


def _placed(modules: list[_Module], biases: Mapping[str, Float32]) -> list[LayerSpec]:
    """The trunk's modules with the activations between them."""
    layers: list[LayerSpec] = []
    position = 0
    norm_last = False
    while position < len(modules):
        module = modules[position]
        layers.append(_layer(module, biases))
        position += 1
        if not module.linear:
            if position > 1:
                raise Incompatible(f"{_text(module.path)} is a second norm after the same linear layer")
            continue
        activation = LayerSpec(LayerKind.ACTIVATION, "", None, module.n_out, module.n_out)
        norm = modules[position] if position < len(modules) and not modules[position].linear else None
        if norm is None:
            layers.append(activation)
            continue
        position += 1
        after = modules[position] if position < len(modules) else None
        if _directly_before(module, norm):
            norm_last = False
        elif after is not None and _directly_before(norm, after):
            norm_last = True
        elif after is not None or not norm_last:
            raise Incompatible(
                f"whether the activation comes before or after {_text(norm.path)} is not clear from the "
                "numbering; expected Linear, LayerNorm, activation or Linear, activation, LayerNorm, Linear"
            )
        normed = _layer(norm, biases)
        layers.extend((activation, normed) if norm_last else (normed, activation))
    return layers


def _layer(module: _Module, biases: Mapping[str, Float32]) -> LayerSpec:
    kind = LayerKind.LINEAR if module.linear else LayerKind.LAYER_NORM
    bias_key = f"{module.path}.bias" if module.path in biases else None
    return LayerSpec(kind, f"{module.path}.weight", bias_key, module.n_in, module.n_out)


def _index(path: str) -> tuple[int, ...]:
    return tuple(int(number) for number in _NUMBER.findall(path))


def _directly_before(module: _Module, follower: _Module) -> bool:
    """Whether the numbering leaves no room for a module between the two."""
    *outer, last = module.index or (0,)
    return follower.index == (*outer, last + 1)


def _text(name: str) -> str:
    return ascii(name)[1:-1][:80]


def _shown(names: Iterable[str]) -> str:
    return ", ".join(_text(name) for name in list(names)[:8]) or "nothing"
