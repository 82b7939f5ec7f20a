"""Small archives, checkpoints and summaries as trainers write them.

Here: builders that several tests use. Not here: assertions, or bars.
"""

from __future__ import annotations

import json
import sys
import types
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

# What each version fixes, written down here independently of the product's own table.
VERSION_DIMS = {"2.3.0": (53, 3), "2.4.0": (56, 3), "2.5.0": (56, 3), "2.6.0": (56, 3), "2.7.0": (59, 7)}
TRAINER_MODULE = "alpaca_trading.gpu.ppo_trainer_native"
STAMP = "20250301_180000"

Claims = dict[str, list[float]]


def claims(
    fitness: float, profit_factor: float, consistency: float, max_drawdown: float, n: int = 10
) -> Claims:
    """Histories that improve steadily towards these final values."""
    finals = {
        "fitness_score": (0.2, fitness),
        "profit_factor": (0.9, profit_factor),
        "consistency": (0.4, consistency),
        "max_drawdown": (min(1.0, 2 * max_drawdown), max_drawdown),
    }
    return {name: [round(float(v), 6) for v in np.linspace(*ends, n)] for name, ends in finals.items()}


def good_claims() -> Claims:
    """Claims that the gate approves."""
    return claims(0.80, 2.1, 0.92, 0.05)


def review_claims() -> Claims:
    """Claims that the gate sends to review."""
    return claims(0.60, 1.5, 0.75, 0.11)


def drop_claims() -> Claims:
    """Claims that the gate drops."""
    return claims(0.30, 1.1, 0.50, 0.30)


def make_summary(
    models: Mapping[str, Claims],
    *,
    shape: str = "symbols",
    nested: bool = True,
    timestamp: str = STAMP,
    train: tuple[str, str] | None = ("2022-01-01T00:00:00Z", "2024-06-01T00:00:00Z"),
    **extra: Any,
) -> dict[str, Any]:
    """A training summary.

    Args:
        models: claims by SYMBOL or SYMBOL_TIMEFRAME.
        shape: ``symbols``, ``results`` or ``models`` (a map under that key), ``top`` (at the top level), or
            the first three with ``-list`` for a list of objects (``list`` alone: the whole file is one).
        nested: metrics under ``metrics``, else directly in the symbol's object.
        timestamp: of the training.
        train: first and last training bar; None where the summary does not say.
        extra: more keys at the top level, replacing these.
    """
    entries = {name: {"metrics": found} if nested else dict(found) for name, found in models.items()}
    top: dict[str, Any] = {"timestamp": timestamp, "reward_scale": 0.001, "validation_interval": 40}
    if train is not None:
        top["data"] = {"start": train[0], "end": train[1]}
    as_list = []
    for name, entry in entries.items():
        symbol, _, timeframe = name.partition("_")
        as_list.append({"symbol": symbol, **({"timeframe": timeframe} if timeframe else {}), **entry})
    if shape == "list":
        return as_list  # type: ignore[return-value]
    if shape == "top":
        return {**top, **entries, **extra}
    key, _, listed = shape.partition("-")
    return {**top, key: as_list if listed else entries, **extra}


@contextmanager
def importable_class(qualified_name: str, base: type = object) -> Iterator[type]:
    """A class of a module that exists only inside the block."""
    module_name, _, class_name = qualified_name.rpartition(".")
    parts = module_name.split(".")
    names = [".".join(parts[: n + 1]) for n in range(len(parts))]
    before = {name: sys.modules.get(name) for name in names}
    for name in names:
        sys.modules[name] = types.ModuleType(name)
    found = type(class_name, (base,), {"__module__": module_name, "__qualname__": class_name})
    setattr(sys.modules[module_name], class_name, found)
    try:
        yield found
    finally:
        for name, module in before.items():
            del sys.modules[name]
            if module is not None:
                sys.modules[name] = module


def make_policy(
    *,
    version: str = "2.7.0",
    hidden: tuple[int, ...] = (8, 8),
    layer_norm: bool = False,
    window: int = 100,
    prefix: str = "",
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
) -> dict[str, torch.Tensor]:
    """A policy's state dict, as ``nn.Sequential`` would name it: a trunk ``shared`` and the two heads."""
    n_features, n_actions = VERSION_DIMS[version]
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}

    def linear(name: str, n_in: int, n_out: int) -> None:
        bound = n_in**-0.5
        weight = (torch.rand((n_out, n_in), generator=generator) * 2 - 1) * bound
        state[f"{prefix}{name}.weight"] = weight.to(dtype)
        state[f"{prefix}{name}.bias"] = ((torch.rand(n_out, generator=generator) * 2 - 1) * bound).to(dtype)

    width, position = n_features * window, 0
    for n_out in hidden:
        linear(f"shared.{position}", width, n_out)
        width, position = n_out, position + 2
        if layer_norm:
            state[f"{prefix}shared.{position - 1}.weight"] = torch.ones(n_out, dtype=dtype)
            state[f"{prefix}shared.{position - 1}.bias"] = torch.zeros(n_out, dtype=dtype)
            position += 1
    linear("actor_head", width, n_actions)
    linear("critic_head", width, 1)
    return state


def make_checkpoint(
    path: Path,
    *,
    version: str = "2.7.0",
    hidden: tuple[int, ...] = (8, 8),
    layer_norm: bool = False,
    window: int = 100,
    prefix: str = "",
    with_metadata: bool = True,
    activation: str | None = "relu",
    seed: int = 0,
    config_module: str | None = TRAINER_MODULE,
    overrides: Mapping[str, Any] | None = None,
) -> Path:
    """A checkpoint with optimizer state and a config object of a class that cannot be imported.

    Args:
        path: where to write it.
        version: decides its dimensions.
        hidden: widths of the trunk.
        layer_norm: a norm after each linear layer of the trunk.
        window: bars in an observation.
        prefix: before each name of the policy, such as ``_orig_mod.``.
        with_metadata: whether version and dimensions are stated.
        activation: in the config; None where it says nothing.
        seed: of the weights.
        config_module: module of the config's class; None for no config.
        overrides: top-level keys to replace; the value ``...`` removes the key.
    """
    n_features, n_actions = VERSION_DIMS[version]
    policy = make_policy(
        version=version, hidden=hidden, layer_norm=layer_norm, window=window, prefix=prefix, seed=seed
    )
    moments = {
        n: {"step": torch.tensor(1.0), "exp_avg": torch.zeros_like(w)} for n, w in enumerate(policy.values())
    }
    content: dict[str, Any] = {
        "policy_state_dict": policy,
        "optimizer_state_dict": {"state": moments, "param_groups": [{"lr": 3e-4, "params": list(moments)}]},
        "global_step": 1000,
    }
    if with_metadata:
        content |= {
            "model_version": version,
            "n_features": n_features,
            "n_actions": n_actions,
            "obs_dim": n_features * window,
            "min_trader_version": version,
            "action_meanings": {n: str(n) for n in range(n_actions)},
        }
        if window != 100:
            content["window"] = window
    for key, value in (overrides or {}).items():
        if value is ...:
            content.pop(key, None)
        else:
            content[key] = value
    if config_module is None:
        torch.save(content, path)
        return path
    with importable_class(f"{config_module}.NativePPOConfig") as config_class:
        config = config_class()
        config.hidden_dims = hidden
        config.learning_rate = 3e-4
        config.n_envs = 1024
        if activation is not None:
            config.activation = activation
        content.setdefault("config", config)
        torch.save(content, path)
    return path


def rewrite_instructions(path: Path, change: Callable[[bytes], bytes]) -> None:
    """Change the pickle inside a checkpoint, in place."""
    with zipfile.ZipFile(path) as file:
        records = [(info.filename, file.read(info)) for info in file.infolist()]
    with zipfile.ZipFile(path, "w") as file:
        for name, content in records:
            file.writestr(name, change(content) if name.endswith("data.pkl") else content)


def make_archive(
    path: Path,
    models: Mapping[str, Mapping[str, Any] | bytes | Path],
    *,
    summary: Any = None,
    summary_name: str = f"training_summary_{STAMP}.json",
    folder: str = "Alpaca_trading",
    extra: Mapping[str, bytes] | None = None,
) -> Path:
    """A training archive.

    Args:
        path: where to write it.
        models: by SYMBOL or SYMBOL_TIMEFRAME: arguments of ``make_checkpoint``, or a file's bytes or path.
        summary: an object for JSON, or bytes; None for good claims of every model. ``...`` for no summary.
        summary_name: its file name.
        folder: the leading folder, empty for none.
        extra: other entries by their full name.
    """
    lead = f"{folder}/" if folder else ""
    if summary is None:
        summary = make_summary({name: good_claims() for name in models})
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, model in models.items():
            entry = f"{lead}models/rl_symbols/{name}.pt"
            if isinstance(model, Mapping):
                checkpoint = make_checkpoint(path.with_name(f".{path.name}.{name}.pt"), **model)
                archive.write(checkpoint, entry)
                checkpoint.unlink()
            else:
                archive.writestr(entry, model if isinstance(model, bytes) else model.read_bytes())
        if summary is not ...:
            text = summary if isinstance(summary, bytes) else json.dumps(summary).encode()
            archive.writestr(f"{lead}{summary_name}", text)
        archive.writestr(f"{lead}notebooks/training.ipynb", b"{}")
        for name, content in (extra or {}).items():
            archive.writestr(name, content)
    return path
