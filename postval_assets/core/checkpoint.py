"""What a training checkpoint says, checked: a ``ModelSpec`` and the actor's weights.

Here: reading a checkpoint's fields and holding them against the version it claims. Not here: reading
untrusted bytes (torch_file.py), finding layers (model_spec.py), matching feature sets, running the network.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from postval_assets.core.failures import Rejected
from postval_assets.core.model_spec import (
    ACTIVATIONS,
    DEFAULT_WINDOW,
    VERSIONS,
    ActivationBasis,
    Float32,
    Incompatible,
    LayerKind,
    LayerSpec,
    ModelSpec,
    VersionBasis,
    VersionLayout,
    discover_layers,
)
from postval_assets.core.summary import training_window
from postval_assets.core.torch_file import InertRecord, load_torch_file

if TYPE_CHECKING:
    import torch

__all__ = [
    "ActivationBasis",
    "Checkpoint",
    "Incompatible",
    "LayerKind",
    "LayerSpec",
    "ModelSpec",
    "VersionBasis",
    "read_checkpoint",
]

MAX_PARAMETERS = 200_000_000
# A layer has two, and no trainer stacks hundreds.
_MAX_TENSORS = 1_000
_MAX_WINDOW = 10_000
_MAX_NUMBER = 2**31
_MAX_TEXT = 200

_ACTIVATION_SPELLINGS = {name.replace("_", ""): name for name in ACTIVATIONS} | {"swish": "silu"}
_WRAPPERS = re.compile(r"(?:(?:_orig_mod|module)\.)+")
_VERBS = re.compile(r"HOLD|BUY|SELL")


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """One checkpoint, checked.

    Attributes:
        spec: its facts.
        tensors: float32 arrays of the actor (trunk and head) by the keys that ``spec.layers`` name; owned
            copies.
        notes: what a reader of the results should know, in sentences.
    """

    spec: ModelSpec
    tensors: Mapping[str, Float32]
    notes: tuple[str, ...]


def read_checkpoint(
    path: Path,
    *,
    allowed_config_prefixes: Iterable[str] = ("alpaca_trading.",),
    default_activation: str = "relu",
    max_parameters: int = MAX_PARAMETERS,
) -> Checkpoint:
    """Read and check one ``.pt`` file; nothing in it is run.

    Args:
        path: a file of ``torch.save``.
        allowed_config_prefixes: packages whose classes may stand in the file; they are read as inert records.
        default_activation: used, and marked ASSUMED, where the file names none.
        max_parameters: of the whole policy.

    Raises:
        Incompatible: version, dimensions, names or activation do not fit.
        Rejected: unsafe, damaged, not a checkpoint, or weights that are not finite.
        Unavailable: the operating system could not read the file.
    """
    assumed = _activation_name(default_activation)
    if assumed is None:
        raise ValueError(f"default activation {default_activation!r} is not one of {', '.join(ACTIVATIONS)}")
    content = load_torch_file(path, allowed_config_prefixes)
    policy = _policy_tensors(content.get("policy_state_dict"), max_parameters)
    # By the shapes alone: nothing is copied of a network that does not fit.
    layers = discover_layers(
        {name: np.broadcast_to(np.float32(0.0), tuple(tensor.shape)) for name, tensor in policy.items()}
    )
    notes: list[str] = []
    obs_dim, n_actions = layers[0].n_in, layers[-1].n_out
    stated_window = _stated_int(content, "window")
    window = DEFAULT_WINDOW if stated_window is None else stated_window
    version, basis, layout = _version(content, obs_dim, n_actions, window, notes)
    activation = _stated_activation(content)
    train_start, train_end, window_notes = training_window(
        _plain(content.get("train_start")), _plain(content.get("train_end"))
    )
    spec = ModelSpec(
        model_version=version,
        model_version_basis=basis,
        n_features=layout.n_features,
        n_actions=n_actions,
        obs_dim=obs_dim,
        window=window,
        hidden_dims=tuple(layer.n_out for layer in layers[:-1] if layer.kind is LayerKind.LINEAR),
        activation=activation or assumed,
        activation_basis=ActivationBasis.NAMED if activation else ActivationBasis.ASSUMED,
        layers=layers,
        account_features=layout.account_features,
        n_parameters=sum(tensor.numel() for tensor in policy.values()),
        global_step=_global_step(content.get("global_step")),
        feature_set=_stated_text(content, "feature_set"),
        feature_names=_feature_names(content.get("feature_names"), layout),
        train_start=train_start,
        train_end=train_end,
        min_trader_version=_stated_text(content, "min_trader_version"),
        action_meanings=_action_meanings(content.get("action_meanings"), n_actions),
    )
    actor = {key for layer in layers for key in (layer.weight_key, layer.bias_key) if key}
    tensors: dict[str, Float32] = {}
    for name, tensor in policy.items():
        array = _array(name, tensor)
        if name in actor:
            tensors[name] = array
    return Checkpoint(spec=spec, tensors=tensors, notes=(*notes, *window_notes))


def _policy_tensors(state: object, max_parameters: int) -> dict[str, torch.Tensor]:
    """The policy's tensors by their names without wrappers, each of a kind that can be copied."""
    import torch

    if not isinstance(state, dict) or not state:
        raise Rejected(
            "the checkpoint has no policy_state_dict; expected a dict with the network's weights under it"
        )
    if len(state) > _MAX_TENSORS:
        raise Rejected(f"the policy has {len(state)} tensors; at most {_MAX_TENSORS} are read")
    named: dict[str, torch.Tensor] = {}
    # Not by the object's own method, which a file might have put something before.
    for key, tensor in dict.items(state):
        if not isinstance(key, str) or not isinstance(tensor, torch.Tensor):
            raise Rejected(
                f"policy_state_dict[{_shown(key)}] is a {type(tensor).__name__}; expected tensors by name"
            )
        if not key.isprintable() or len(key) > _MAX_TEXT:
            raise Rejected(
                f"policy_state_dict[{_shown(key)}]: expected a name of at most {_MAX_TEXT} printable characters"
            )
        name = _WRAPPERS.sub("", key, count=1) if _WRAPPERS.match(key) else key
        if name in named:
            raise Incompatible(
                f"policy_state_dict names {_shown(name)} twice, with and without a wrapper's prefix"
            )
        named[name] = tensor
    n_parameters = sum(tensor.numel() for tensor in named.values())
    if n_parameters > max_parameters:
        raise Rejected(f"the policy has {n_parameters} parameters; at most {max_parameters} are read")
    for name, tensor in named.items():
        _check_kind(_shown(name), tensor)
    _check_apart(named)
    return named


def _check_apart(named: Mapping[str, torch.Tensor]) -> None:
    """No two share memory, unless they are one tensor under two names."""
    places = sorted(
        (
            tensor.data_ptr(),
            tensor.data_ptr() + tensor.numel() * tensor.element_size(),
            tuple(tensor.shape),
            name,
        )
        for name, tensor in named.items()
        if tensor.numel()
    )
    for (start, end, shape, name), (other_start, other_end, other_shape, other) in itertools.pairwise(places):
        if other_start < end and (start, end, shape) != (other_start, other_end, other_shape):
            raise Rejected(
                f"{_shown(name)} and {_shown(other)} share memory; expected each weight to have its own"
            )


def _check_kind(shown: str, tensor: torch.Tensor) -> None:
    """Whether it is a plain dense tensor of floating numbers; nothing of it is read."""
    import torch

    if tensor.layout != torch.strided or tensor.is_quantized or tensor.device.type != "cpu":
        raise Rejected(f"{shown} is a sparse, quantized or empty-device tensor; expected a dense one")
    if tensor.dtype not in {torch.float32, torch.float16, torch.bfloat16, torch.float64}:
        raise Incompatible(f"{shown} has type {tensor.dtype}; expected float32, float16, bfloat16 or float64")
    if not _is_dense(tuple(tensor.shape), tensor.stride()):
        raise Rejected(f"{shown} repeats or skips memory; expected a dense tensor")


def _array(name: str, tensor: torch.Tensor) -> Float32:
    """An owned float32 copy of finite numbers."""
    import torch

    shown = _shown(name)
    # A float64 beyond float32 becomes infinite here, and is found below.
    array = np.array(tensor.detach().to(torch.float32).numpy(), order="C", copy=True)
    n_bad = int(array.size - np.count_nonzero(np.isfinite(array)))
    if n_bad:
        raise Rejected(f"{shown} has {n_bad} weights that are NaN or infinite; expected finite weights")
    return array


def _is_dense(shape: tuple[int, ...], stride: tuple[int, ...]) -> bool:
    """Whether each element has its own place and no place is left out, in any order of the axes."""
    expected = 1
    for step, size in sorted((step, size) for step, size in zip(stride, shape, strict=True) if size != 1):
        if step != expected:
            return False
        expected *= size
    return True


def _version(
    content: Mapping[Any, Any], obs_dim: int, n_actions: int, window: int, notes: list[str]
) -> tuple[str, VersionBasis, VersionLayout]:
    """The version, stated or inferred, after every number was held against it."""
    if not 1 <= window <= _MAX_WINDOW:
        raise Incompatible(f"window is {window}; expected 1 to {_MAX_WINDOW} bars")
    stated = _stated_text(content, "model_version")
    if stated is None:
        version = _inferred_version(obs_dim, n_actions, window)
        layout = VERSIONS[version]
        same = [name for name, other in VERSIONS.items() if other == layout]
        sharing = f" ({', '.join(same)} have the same dimensions)" if len(same) > 1 else ""
        notes.append(f"model_version is not stated; {version} was inferred from the dimensions{sharing}")
        basis = VersionBasis.INFERRED
    else:
        version = stated.strip().removeprefix("v")
        if version not in VERSIONS:
            raise Incompatible(
                f"model_version {_shown(stated)} is not known; known are {', '.join(VERSIONS)}"
            )
        layout = VERSIONS[version]
        basis = VersionBasis.STATED
    found = {
        "the network's number of inputs": (obs_dim, layout.n_features * window),
        "the network's number of actions": (n_actions, layout.n_actions),
        "n_features": (_stated_int(content, "n_features"), layout.n_features),
        "n_actions": (_stated_int(content, "n_actions"), layout.n_actions),
        "obs_dim": (_stated_int(content, "obs_dim"), layout.n_features * window),
    }
    for what, (value, expected) in found.items():
        if value is not None and value != expected:
            raise Incompatible(
                f"{what} is {value}, but version {version} has {expected} "
                f"({layout.n_features} features, {layout.n_actions} actions, window {window})"
            )
    return version, basis, layout


def _inferred_version(obs_dim: int, n_actions: int, window: int) -> str:
    # The newest of those that share the dimensions: they differ in nothing that is read here.
    for version, layout in reversed(tuple(VERSIONS.items())):
        if (layout.n_features * window, layout.n_actions) == (obs_dim, n_actions):
            return version
    known = sorted({(layout.n_features * window, layout.n_actions) for layout in VERSIONS.values()})
    raise Incompatible(
        f"no known version has {obs_dim} inputs and {n_actions} actions with a window of {window} bars; "
        "known are " + ", ".join(f"{inputs} and {actions}" for inputs, actions in known)
    )


def _stated_activation(content: Mapping[Any, Any]) -> str | None:
    for value in (content.get("activation"), _config_fields(content.get("config")).get("activation")):
        if value is None:
            continue
        # An enum of the trainer arrives as a record of its value.
        text = value.args[0] if isinstance(value, InertRecord) and len(value.args) == 1 else value
        name = _activation_name(text)
        if name is None:
            raise Incompatible(f"activation {_shown(text)} is not known; known are {', '.join(ACTIVATIONS)}")
        return name
    return None


def _activation_name(text: object) -> str | None:
    """The one spelling of an activation: ``nn.LeakyReLU()`` and ``leaky_relu`` are the same."""
    if not isinstance(text, str):
        return None
    bare = text.strip().removesuffix("()").rpartition(".")[2].lower().replace("_", "")
    return _ACTIVATION_SPELLINGS.get(bare)


def _config_fields(config: object) -> dict[str, object]:
    if isinstance(config, InertRecord):
        return config.fields()
    return config if isinstance(config, dict) else {}


def _stated_int(content: Mapping[Any, Any], key: str) -> int | None:
    value = content.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int):
        raise Incompatible(f"{key} is {_shown(value)}; expected a whole number")
    if not -_MAX_NUMBER < value < _MAX_NUMBER:
        raise Incompatible(
            f"{key} is a number of {value.bit_length()} bits; expected one below {_MAX_NUMBER}"
        )
    return value


def _stated_text(content: Mapping[Any, Any], key: str) -> str | None:
    value = content.get(key)
    if value is None:
        return None
    if not isinstance(value, str) or not value.isprintable() or not 1 <= len(value) <= _MAX_TEXT:
        raise Incompatible(
            f"{key} is {_shown(value)}; expected a text of 1 to {_MAX_TEXT} printable characters"
        )
    return value


def _global_step(value: object) -> int | None:
    # Only shown: a step that cannot be read must not cost the model.
    return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63 else None


def _feature_names(value: object, layout: VersionLayout) -> tuple[str, ...] | None:
    """The stated names of all features of a bar, account features included."""
    if value is None:
        return None
    if not isinstance(value, list | tuple) or not all(
        isinstance(name, str) and name.isprintable() and 1 <= len(name) <= _MAX_TEXT for name in value
    ):
        raise Incompatible(f"feature_names is {_shown(value)}; expected a list of {layout.n_features} names")
    names = tuple(value)
    account = layout.account_features
    if account and len(names) == layout.n_features - len(account):
        # The version fixes what comes after the market features.
        names = (*names, *account)
    if len(names) != layout.n_features or len(set(names)) != len(names):
        raise Incompatible(
            f"feature_names has {len(names)} names, {len(set(names))} of them different; "
            f"expected {layout.n_features} different names"
        )
    if account and names[-len(account) :] != account:
        raise Incompatible(
            f"feature_names ends in {', '.join(map(_shown, names[-len(account) :]))}; "
            f"expected {', '.join(account)}, which this version puts last"
        )
    return names


def _action_meanings(value: object, n_actions: int) -> tuple[str, ...] | None:
    """The file's words for its actions by index, none of which may contradict the fixed order."""
    if isinstance(value, dict):
        value = [value.get(index, value.get(str(index))) for index in range(n_actions)]
    if not isinstance(value, list | tuple) or len(value) != n_actions:
        return None
    meanings = tuple(
        word if isinstance(word, str) and word.isprintable() and len(word) <= _MAX_TEXT else ""
        for word in value
    )
    n_sizes = (n_actions - 1) // 2
    order = ("HOLD", *("BUY",) * n_sizes, *("SELL",) * n_sizes)
    for index, (word, expected) in enumerate(zip(meanings, order, strict=True)):
        verbs = set(_VERBS.findall(word.upper()))
        if verbs and verbs != {expected}:
            raise Incompatible(
                f"action {index} is called {_shown(word)}; expected {expected}: {', '.join(order)}"
            )
    return meanings


def _plain(value: object) -> object:
    """A value of which the text is short to make; of anything else, its kind in words."""
    return value if isinstance(value, str | int | float) or value is None else _shown(value)


def _shown(value: object) -> str:
    """A value of the file as harmless, short text."""
    if isinstance(value, str | int | float | bool) or value is None:
        return ascii(value if not isinstance(value, str) else value[:80])[:82]
    return f"a {type(value).__name__}"
