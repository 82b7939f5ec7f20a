"""The training archive as docs/contract.md lays it out: checkpoints and a summary in one zip file.

Here: bytes on disk from finished training results, the same bytes every time. Not here:
training (training.py), or reading an archive, which core does without knowing this module.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import sys
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

from postval_assets.core.failures import Unavailable
from postval_assets.core.instruments import Timeframe

if TYPE_CHECKING:
    import torch

FOLDER = "Alpaca_trading"
# A trainer's config is an instance of a class that the reader cannot import. So is this one: its module is
# there only while a checkpoint is written, and stands under the prefix that readers allow by default.
CONFIG_MODULE = "alpaca_trading.postval_trainer"
CONFIG_CLASS = "PPOConfig"

_README = """This archive was made by `postval train`, the trainer that comes with postval: docs/trainer.md there.
The metrics in the training summary are claims of the trainer, on bars that it held back from learning.
What a network is worth shows on bars after its training: postval validate.
"""


@dataclass(frozen=True)
class Claim:
    """What training claims about a model at one validation: claims.py says how each is computed. Fractions."""

    fitness_score: float
    profit_factor: float
    consistency: float
    max_drawdown: float


_METRICS = tuple(field.name for field in dataclasses.fields(Claim))


@dataclass(frozen=True)
class TrainedModel:
    """One finished training run.

    Attributes:
        symbol: without a slash.
        timeframe: of the bars that the model acts on.
        model_version: of the observation layout.
        n_features: features a bar in the observation, account features included.
        n_actions: width of the actor's head.
        window: bars in an observation; ``obs_dim`` is ``n_features * window``.
        action_meanings: name of each action number.
        activation: between the layers.
        feature_set: name of the feature set, None where the checkpoint does not say.
        feature_names: all names in order, None where the checkpoint does not say.
        policy_state_dict: tensors by name: ``shared.N.*``, ``actor_head.*``, ``critic_head.*``.
        optimizer_state_dict: as the optimizer gave it.
        config: the run's settings, a dataclass instance.
        global_step: samples seen in training.
        train_start, train_end: opens of the first and last training bar, UTC.
        claims: one a validation, the last one that of the network delivered.
    """

    symbol: str
    timeframe: Timeframe
    model_version: str
    n_features: int
    n_actions: int
    window: int
    action_meanings: Mapping[int, str]
    activation: str
    feature_set: str | None
    feature_names: tuple[str, ...] | None
    policy_state_dict: Mapping[str, torch.Tensor]
    optimizer_state_dict: Mapping[str, Any]
    config: Any
    global_step: int
    train_start: datetime
    train_end: datetime
    claims: tuple[Claim, ...]

    @property
    def name(self) -> str:
        """``SYMBOL_TIMEFRAME``, the stem of the checkpoint's file name."""
        return f"{self.symbol}_{self.timeframe}"


@dataclass(frozen=True)
class TrainingSummary:
    """Facts about the whole archive.

    Attributes:
        trained_at: when training began or ended, UTC: the archive's id, and the time of every file in it.
        reward_scale: unit of the rewards behind the drawdown proxy.
        validation_interval: updates between two validations.
        seed: of the whole run.
        n_trials: configurations that were tried, delivered or not.
    """

    trained_at: datetime
    reward_scale: float
    validation_interval: int
    seed: int
    n_trials: int

    @property
    def archive_id(self) -> str:
        """``YYYYMMDD_HHMMSS``."""
        return self.trained_at.strftime("%Y%m%d_%H%M%S")


def archive_file_name(summary: TrainingSummary) -> str:
    """The zip's name."""
    return f"Alpaca_trading_trained_{summary.archive_id}.zip"


def write_checkpoint(model: TrainedModel) -> bytes:
    """One ``.pt`` file as ``torch.save`` writes it; equal models give equal bytes.

    A file tells which of its texts are one object and which only equal, and that differs between a model that was
    made here and one that came from another process. So equal texts become one object first, and containers new ones.
    """
    import torch

    checkpoint: dict[str, Any] = {
        "policy_state_dict": dict(model.policy_state_dict),
        "optimizer_state_dict": dict(model.optimizer_state_dict),
        "global_step": model.global_step,
        "model_version": model.model_version,
        "n_features": model.n_features,
        "n_actions": model.n_actions,
        "obs_dim": model.n_features * model.window,
        "action_meanings": dict(model.action_meanings),
        "min_trader_version": model.model_version,
        "window": model.window,
        "activation": model.activation,
        "train_start": _utc(model.train_start),
        "train_end": _utc(model.train_end),
    }
    if model.feature_set is not None:
        checkpoint["feature_set"] = model.feature_set
    if model.feature_names is not None:
        checkpoint["feature_names"] = list(model.feature_names)
    buffer = io.BytesIO()
    with _foreign_config(model.config) as config:
        torch.save({**_canonical(checkpoint), "config": config}, buffer)
    return buffer.getvalue()


def _canonical(value: Any) -> Any:
    """New containers, and one object for equal texts."""
    if isinstance(value, Mapping):
        return {_canonical(key): _canonical(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_canonical(item) for item in value)
    return sys.intern(value) if type(value) is str else value


def summary_document(models: Sequence[TrainedModel], summary: TrainingSummary) -> dict[str, Any]:
    """The training summary, ready for JSON."""
    return {
        "timestamp": summary.archive_id,
        "reward_scale": summary.reward_scale,
        "validation_interval": summary.validation_interval,
        "seed": summary.seed,
        "n_trials": summary.n_trials,
        "data": {
            "start": _utc(min(m.train_start for m in models)),
            "end": _utc(max(m.train_end for m in models)),
        },
        "symbols": {
            m.name: {
                "timeframe": m.timeframe.value,
                "metrics": {
                    name: [round(getattr(claim, name), 6) for claim in m.claims] for name in _METRICS
                },
            }
            for m in models
        },
    }


def unfinished(path: Path) -> Path:
    """Where a file is written before it is complete: beside it, under a name that no reader of archives looks at."""
    return path.with_name(f".{path.name}.part")


def write_archive(path: Path, models: Sequence[TrainedModel], summary: TrainingSummary) -> None:
    """Write the archive; equal models and summaries give equal bytes under one version of zlib.

    The file appears complete or not at all, in place of one that is there; one checkpoint is held in memory at a time.

    Args:
        path: the zip file; readers expect the name that ``archive_file_name`` gives.
        models: at least one.
        summary: facts about the whole archive.

    Raises:
        Unavailable: the disk refused.
    """
    part = unfinished(path)
    try:
        with part.open("wb") as file:
            with zipfile.ZipFile(file, "w") as archive:
                for name, content in _files(models, summary):
                    entry = zipfile.ZipInfo(name, date_time=summary.trained_at.timetuple()[:6])
                    entry.compress_type = zipfile.ZIP_DEFLATED
                    entry.create_system = 3  # Unix everywhere: the default is the writer's own system
                    entry.external_attr = 0o644 << 16
                    archive.writestr(entry, content, compresslevel=9)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        raise Unavailable(f"{path} could not be written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def _files(models: Sequence[TrainedModel], summary: TrainingSummary) -> Iterator[tuple[str, bytes]]:
    """Name and content of each file in the archive, made when it is its turn."""
    yield f"{FOLDER}/README.txt", _README.encode()
    document = json.dumps(summary_document(models, summary), indent=1) + "\n"
    yield f"{FOLDER}/training_summary_{summary.archive_id}.json", document.encode()
    for model in models:
        yield f"{FOLDER}/models/rl_symbols/{model.name}.pt", write_checkpoint(model)


def _utc(when: datetime) -> str:
    return when.strftime("%Y-%m-%dT%H:%M:%SZ")


@contextmanager
def _foreign_config(config: Any) -> Iterator[Any]:
    """The config as an instance of a class in CONFIG_MODULE, which exists only inside this block.

    A class is written by its module's and its own name, and the writer checks that it can be found there.
    """
    fields = {field.name: _canonical(getattr(config, field.name)) for field in dataclasses.fields(config)}
    foreign = dataclasses.make_dataclass(CONFIG_CLASS, list(fields), frozen=True)
    foreign.__module__ = CONFIG_MODULE
    module = ModuleType(CONFIG_MODULE)
    setattr(module, CONFIG_CLASS, foreign)
    package = CONFIG_MODULE.partition(".")[0]
    added = [CONFIG_MODULE] if package in sys.modules else [package, CONFIG_MODULE]
    for name in added:
        sys.modules[name] = module if name == CONFIG_MODULE else ModuleType(name)
    try:
        yield foreign(**fields)
    finally:
        for name in added:
            del sys.modules[name]
