"""One training run as it is handed to a process: what it is about, what it says meanwhile, how it ends.

Here: everything that crosses the border between processes, and the files of a run's validations. Not here: learning
(training.py), processes (processes.py), or which run of a symbol is delivered (run.py).
"""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.failures import PostvalError, Unavailable
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.trainer.archive_writer import TrainedModel, write_checkpoint
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.training import Progress, TrainingStopped, train_model

log = logging.getLogger("postval.train")

PART_SUFFIX = ".part"

FeatureSetsLoader = Callable[[], Mapping[str, FeatureSet]]


@dataclass(frozen=True, eq=False)
class Run:
    """One training run of one symbol.

    Attributes:
        number: of the run among all, from 0.
        bars: training bars.
        config: settings; the seed is the run's own.
        rules: of execution.
        feature_sets: gives the known sets by name. A function of a module, called in the process that works: a
            plug-in's set may hold what cannot be sent to another one.
        device: torch's name of it.
        restart: of the symbol, from 1.
        n_restarts: of the symbol.
        checkpoints: folder for the network of each validation, as checkpoint_path lays it out; None for none.
    """

    number: int
    bars: Bars
    config: PPOConfig
    rules: ExecutionRules
    feature_sets: FeatureSetsLoader
    device: str
    restart: int
    n_restarts: int
    checkpoints: Path | None

    @property
    def name(self) -> str:
        """``SYMBOL_TIMEFRAME``."""
        return f"{self.bars.symbol}_{self.bars.timeframe}"

    @property
    def label(self) -> str:
        """The name, and which of several restarts it is."""
        return self.name if self.n_restarts == 1 else f"{self.name} ({self.restart} of {self.n_restarts})"


@dataclass(frozen=True)
class RunEvent:
    """What a run says while it works.

    Attributes:
        number: of the run.
        progress: after its first update and after every validation.
        warning: what a person has to know, though the run goes on; where there is neither, the run begins.
    """

    number: int
    progress: Progress | None = None
    warning: str | None = None


@dataclass(frozen=True, eq=False)
class Finished:
    """A run that came to its end.

    Attributes:
        model: of its best validation.
        n_updates: that it made.
        seconds: that it took.
    """

    model: TrainedModel
    n_updates: int
    seconds: float


@dataclass(frozen=True)
class Stopped:
    """A run that was stopped, or not begun."""


@dataclass(frozen=True)
class Failed:
    """A run that could not be made, and why."""

    reason: str


Outcome = Finished | Stopped | Failed


def perform(run: Run, tell: Callable[[RunEvent], None], should_stop: Callable[[], bool]) -> Outcome:
    """Make one run; whatever is wrong with it is its outcome, so that the others go on.

    Args:
        run: what to train.
        tell: told what the run says.
        should_stop: asked before every update.

    Returns:
        A finished run's model is in the form that ``portable`` gives.
    """
    if should_stop():
        return Stopped()
    tell(RunEvent(run.number))
    started, n_updates, keeping = time.perf_counter(), 0, run.checkpoints is not None

    def on_progress(progress: Progress) -> None:
        nonlocal n_updates
        n_updates = progress.update
        if progress.update == 1 or progress.claim is not None:
            tell(RunEvent(run.number, progress))

    def on_checkpoint(update: int, model: TrainedModel) -> None:
        nonlocal keeping
        if run.checkpoints is None or not keeping:
            return
        try:
            _keep(checkpoint_path(run.checkpoints, run.name, update), write_checkpoint(model))
        except Unavailable as error:
            # The network is in memory all the same, and what is delivered may find room.
            keeping = False
            warning = f"no checkpoint from update {update} on, the training goes on: {error}"
            tell(RunEvent(run.number, warning=warning))

    try:
        model = train_model(
            run.bars,
            run.config,
            rules=run.rules,
            feature_sets=run.feature_sets(),
            device=run.device,
            on_progress=on_progress,
            on_checkpoint=on_checkpoint,
            should_stop=should_stop,
        )
    except TrainingStopped:
        return Stopped()
    except PostvalError as error:
        return Failed(str(error))
    except Exception as error:
        log.exception("%s: unexpected error", run.label)
        return Failed(f"unexpected {type(error).__name__}: {error}")
    return Finished(portable(model), n_updates, time.perf_counter() - started)


def checkpoint_path(folder: Path, name: str, update: int) -> Path:
    """Where the network after an update lies in a run's folder.

    The file is named as those of an archive are: ``postval backtest`` takes symbol and timeframe from there. The
    names of its folders sort as updates do.
    """
    return folder / f"update_{update:05d}" / f"{name}.pt"


def _keep(target: Path, content: bytes) -> None:
    """Write a file as a whole or not at all."""
    part = target.with_name(f".{target.name}{PART_SUFFIX}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        part.write_bytes(content)
        part.replace(target)
    except OSError as error:
        raise Unavailable(f"{target} could not be written: {error}") from error
    finally:
        # Where not even that is possible, the reason is the one that is told already.
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def clear_unfinished(checkpoints: Path) -> None:
    """Remove what processes that died, and disks that refused, have left in a command's folder of checkpoints."""
    for path in sorted(checkpoints.rglob("*"), reverse=True):
        with contextlib.suppress(OSError):
            if path.is_dir():
                path.rmdir()  # refused where something is in it
            elif path.name.endswith(PART_SUFFIX):
                path.unlink()
    with contextlib.suppress(OSError):
        checkpoints.rmdir()


def portable(model: TrainedModel) -> TrainedModel:
    """The model with arrays in place of tensors: torch would send a tensor as shared memory, not as its values."""
    return dataclasses.replace(
        model,
        policy_state_dict=_rebuilt(model.policy_state_dict, _to_array),
        optimizer_state_dict=_rebuilt(model.optimizer_state_dict, _to_array),
    )


def restored(model: TrainedModel) -> TrainedModel:
    """A portable model with its tensors again."""
    return dataclasses.replace(
        model,
        policy_state_dict=_rebuilt(model.policy_state_dict, _to_tensor),
        optimizer_state_dict=_rebuilt(model.optimizer_state_dict, _to_tensor),
    )


def _rebuilt(value: Any, leaf: Callable[[object], object]) -> Any:
    if isinstance(value, Mapping):
        return {_rebuilt(key, leaf): _rebuilt(item, leaf) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_rebuilt(item, leaf) for item in value)
    return leaf(value)


def _to_array(value: object) -> object:
    return value.detach().cpu().numpy() if isinstance(value, torch.Tensor) else value


def _to_tensor(value: object) -> object:
    return torch.from_numpy(value) if isinstance(value, np.ndarray) else value
