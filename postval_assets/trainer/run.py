"""Several symbols, one training archive.

Here: the runs of a command, which of a symbol's runs is delivered, what is said meanwhile, and the archive. Not here:
one run (single_run.py), processes (processes.py), which bars (history.py), or learning (training.py).
"""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch

from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.trainer.archive_writer import (
    TrainedModel,
    TrainingSummary,
    archive_file_name,
    unfinished,
    write_archive,
)
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.processes import perform_all
from postval_assets.trainer.single_run import (
    Failed,
    FeatureSetsLoader,
    Finished,
    Outcome,
    Run,
    RunEvent,
    checkpoint_path,
    clear_unfinished,
    restored,
)
from postval_assets.trainer.training import Progress

log = logging.getLogger("postval.train")


@dataclass(frozen=True)
class TrainingPlan:
    """What the runs of a command have in common.

    Attributes:
        config: settings; its seed is that of the whole command.
        n_restarts: runs of each symbol, with the seeds ``seed``, ``seed + 1``, ...
        rules: of execution.
        feature_sets: gives the known sets by name; a function of a module (single_run.Run).
        device: torch's name of it.
        jobs: processes.
        started_at: of the command: the archive's id.
        out: folder of the archive.
        keep_checkpoints: write the network of every validation into ``out/checkpoints_ID``.
    """

    config: PPOConfig
    n_restarts: int
    rules: ExecutionRules
    feature_sets: FeatureSetsLoader
    device: str
    jobs: int
    started_at: datetime
    out: Path
    keep_checkpoints: bool


@dataclass(frozen=True, eq=False)
class Delivered:
    """A symbol's model in the archive.

    Attributes:
        model: of the best of its finished runs.
        n_updates: made by that run; the model may be from an earlier one.
        seconds: of all its finished runs.
    """

    model: TrainedModel
    n_updates: int
    seconds: float


@dataclass(frozen=True, eq=False)
class TrainingReport:
    """What a command did.

    Attributes:
        archive: its file; None where no symbol has a finished run.
        checkpoints: folder of the networks of all validations; None where there is none.
        delivered: in the order of the symbols.
        failures: label of the run, and reason.
        left_out: names of symbols that were stopped before any of their runs was finished.
        stopped: whether any run was stopped or not begun.
        n_trials: runs that made at least one update, delivered or not.
    """

    archive: Path | None
    checkpoints: Path | None
    delivered: tuple[Delivered, ...]
    failures: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]
    stopped: bool
    n_trials: int


def archive_path(plan: TrainingPlan) -> Path:
    """Where the archive of the command comes to lie."""
    return plan.out / archive_file_name(_summary(plan))


def best_update(model: TrainedModel) -> int:
    """The update after which the model was validated and kept."""
    return len(model.claims) * int(model.config.validation_interval)


def torch_device(wanted: str) -> str:
    """``auto`` is CUDA where there is one; raises Rejected for a CUDA that there is not."""
    if wanted == "cpu":
        return "cpu"
    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise Rejected("device cuda: torch finds no CUDA device here; expected auto or cpu")
    return "cpu"


def run_seed(seed: int, symbol: str, restart: int) -> int:
    """Seed of a run: of the command's seed, the symbol and the restart (from 1), and of no other symbol."""
    return int(np.random.SeedSequence([seed + restart - 1, *symbol.encode()]).generate_state(1)[0])


def train_archive(
    series: Sequence[Bars], plan: TrainingPlan, should_stop: Callable[[], bool] = lambda: False
) -> TrainingReport:
    """Train a model for each series and write the archive of those that have a finished run.

    Args:
        series: training bars, one a symbol.
        plan: what the runs have in common.
        should_stop: once it says so, runs stop at their next update; what is finished is delivered.

    Raises:
        Rejected: there is an archive of this second already.
        Unavailable: the disk refused; says where the networks lie that would have been delivered.
    """
    summary = _summary(plan)
    path = archive_path(plan)
    checkpoints = plan.out / f"checkpoints_{summary.archive_id}"
    with _reserved(path, checkpoints):
        runs = _runs(series, plan, checkpoints if plan.keep_checkpoints else None)
        tally = _Tally(runs)
        perform_all(runs, jobs=plan.jobs, tell=tally.tell, ended=tally.ended, should_stop=should_stop)
        chosen = tally.chosen()
        delivered = tuple(one for _, one in chosen)
        for run, _ in chosen:
            _bring_forward(run)
        if delivered:
            summary = dataclasses.replace(summary, n_trials=tally.n_trials)
            try:
                write_archive(path, [one.model for one in delivered], summary)
            except Unavailable as error:
                raise Unavailable(f"{error}; {_kept(checkpoints, delivered)}") from error
    missing = dict.fromkeys(run.name for run in runs if run.name not in {d.model.name for d in delivered})
    failures = tuple((r.label, o.reason) for r, o in tally.outcomes if isinstance(o, Failed))
    failed = {r.name for r, o in tally.outcomes if isinstance(o, Failed)}
    return TrainingReport(
        archive=path if delivered else None,
        checkpoints=checkpoints if checkpoints.is_dir() else None,
        delivered=delivered,
        failures=failures,
        left_out=tuple(name for name in missing if name not in failed),
        stopped=any(not isinstance(o, Finished | Failed) for _, o in tally.outcomes),
        n_trials=tally.n_trials,
    )


def _summary(plan: TrainingPlan) -> TrainingSummary:
    """Of the command; nothing was tried yet."""
    return TrainingSummary(
        trained_at=plan.started_at.astimezone(UTC).replace(microsecond=0),
        reward_scale=plan.config.reward_scale,
        validation_interval=plan.config.validation_interval,
        seed=plan.config.seed,
        n_trials=0,
    )


@contextmanager
def _reserved(path: Path, checkpoints: Path) -> Iterator[None]:
    """Nobody else writes this archive while the block lasts."""
    part = unfinished(path)
    taken = f"another training was started in this very second; expected another folder, or a second later: {path}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("xb"):
            pass
    except FileExistsError as error:
        raise Rejected(taken if part.exists() else f"{path.parent} is not a folder") from error
    except OSError as error:
        raise Unavailable(f"{path} cannot be written: {error}") from error
    try:
        if path.exists() or checkpoints.exists():
            raise Rejected(taken)
        # Only now: what is there already is another training's.
        try:
            yield
        finally:
            clear_unfinished(checkpoints)
    finally:
        part.unlink(missing_ok=True)


def _runs(series: Sequence[Bars], plan: TrainingPlan, checkpoints: Path | None) -> list[Run]:
    """All runs, symbol by symbol: what is stopped early has as many symbols as possible."""
    runs: list[Run] = []
    for bars in series:
        for restart in range(1, plan.n_restarts + 1):
            folder = None
            if checkpoints is not None:
                folder = checkpoints / f"{bars.symbol}_{bars.timeframe}"
                folder = folder / f"run_{restart}" if plan.n_restarts > 1 else folder
            runs.append(
                Run(
                    number=len(runs),
                    bars=bars,
                    config=dataclasses.replace(
                        plan.config, seed=run_seed(plan.config.seed, bars.symbol, restart)
                    ),
                    rules=plan.rules,
                    feature_sets=plan.feature_sets,
                    device=plan.device,
                    restart=restart,
                    n_restarts=plan.n_restarts,
                    checkpoints=folder,
                )
            )
    return runs


class _Tally:
    """What the runs said and how they ended; says it to people."""

    def __init__(self, runs: Sequence[Run]) -> None:
        self._runs = runs
        self._learning: set[int] = set()
        self._outcomes: dict[int, Outcome] = {}
        self._unfinished = {name: sum(r.name == name for r in runs) for name in (r.name for r in runs)}

    @property
    def n_trials(self) -> int:
        """Runs that made at least one update."""
        return len(self._learning)

    @property
    def outcomes(self) -> list[tuple[Run, Outcome]]:
        """In the order of the runs."""
        return [(run, self._outcomes[run.number]) for run in self._runs if run.number in self._outcomes]

    def tell(self, event: RunEvent) -> None:
        """Count it, and print what is worth a line."""
        run = self._runs[event.number]
        if event.warning is not None:
            log.warning("%s  %s", run.label, event.warning)
            return
        if event.progress is None:
            first, last = (str(ts.astype("datetime64[D]")) for ts in run.bars.ts[[0, -1]])
            log.info("%s  started  %d bars, %s .. %s", run.label, len(run.bars), first, last)
            return
        self._learning.add(event.number)
        if event.progress.claim is not None:
            log.info("%s  %s", run.label, progress_line(event.progress))

    def ended(self, run: Run, outcome: Outcome) -> None:
        """Keep it, and print it."""
        self._outcomes[run.number] = outcome
        self._unfinished[run.name] -= 1
        n_done, n_symbols = sum(n == 0 for n in self._unfinished.values()), len(self._unfinished)
        count = f"{n_done} of {n_symbols} symbol{'' if n_symbols == 1 else 's'}"
        if isinstance(outcome, Finished):
            model = outcome.model
            log.info(
                "%s  finished  fitness %.2f at update %d of %d  %.0f s  %s",
                run.label,
                model.claims[-1].fitness_score,
                best_update(model),
                outcome.n_updates,
                outcome.seconds,
                count,
            )
        elif isinstance(outcome, Failed):
            log.info("%s  failed  %s  %s", run.label, outcome.reason, count)

    def chosen(self) -> list[tuple[Run, Delivered]]:
        """Of each symbol the finished run with the best fitness, the earliest one of equals."""
        finished: dict[str, list[tuple[Run, Finished]]] = {}
        for run, outcome in self.outcomes:
            if isinstance(outcome, Finished):
                finished.setdefault(run.name, []).append((run, outcome))
        chosen: list[tuple[Run, Delivered]] = []
        for pairs in finished.values():
            run, best = max(pairs, key=lambda pair: pair[1].model.claims[-1].fitness_score)
            seconds = sum(outcome.seconds for _, outcome in pairs)
            chosen.append((run, Delivered(restored(best.model), best.n_updates, seconds)))
        return chosen


def progress_line(progress: Progress) -> str:
    """A validation in words."""
    claim = progress.claim
    if claim is None:
        return f"update {progress.update}/{progress.n_updates}"
    return (
        f"update {progress.update}/{progress.n_updates}  fitness {claim.fitness_score:.2f}  "
        f"profit factor {claim.profit_factor:.2f}  consistency {claim.consistency:.2f}  "
        f"drawdown proxy {claim.max_drawdown:.3f}{'  best' if progress.best else ''}"
    )


def _bring_forward(run: Run) -> None:
    """Of several runs, the delivered one's checkpoints lie where those of an only one do."""
    if run.checkpoints is None or run.n_restarts == 1 or not run.checkpoints.is_dir():
        return
    try:
        for folder in sorted(run.checkpoints.iterdir()):
            folder.replace(run.checkpoints.parent / folder.name)
        run.checkpoints.rmdir()
    except OSError as error:
        log.warning("%s: its checkpoints stay in %s: %s", run.label, run.checkpoints, error)


def _kept(checkpoints: Path, delivered: Sequence[Delivered]) -> str:
    """Where the networks of an archive lie that could not be written."""
    files = [
        checkpoint_path(checkpoints / one.model.name, one.model.name, best_update(one.model))
        for one in delivered
    ]
    there = [file.relative_to(checkpoints).as_posix() for file in files if file.is_file()]
    lost = [one.model.name for one, file in zip(delivered, files, strict=True) if not file.is_file()]
    said = [f"its networks lie in {checkpoints}: {', '.join(there)}"] if there else []
    return "; ".join([*said, *([f"not kept: {', '.join(lost)}"] if lost else [])])
