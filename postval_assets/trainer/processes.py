"""Training runs in processes of their own, and how Ctrl-C stops them.

Here: starting and stopping, in this process or in several, with no process left behind. Not here: a run
(single_run.py), or what becomes of its outcome (run.py).

Processes are spawned, as Windows does. Ctrl-C reaches a terminal's whole group of processes: the workers ignore it
(worker_start.py), and are stopped by an event that this process sets. A worker whose parent is gone, however it went,
ends itself.
"""

from __future__ import annotations

import contextlib
import functools
import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from multiprocessing.context import SpawnContext
from types import FrameType
from typing import Any

from postval_assets.trainer.single_run import Failed, Outcome, Run, RunEvent, Stopped, perform
from postval_assets.trainer.worker_start import CHANNELS, Channel, begin_worker

log = logging.getLogger("postval.train")

STOPPING = "stopping: what is finished goes into the archive; Ctrl-C again leaves at once, without one"
_POLL_SECONDS = 0.1  # Windows handles a Ctrl-C only between two waits
_DIED = "a worker process ended by itself; where memory is short, fewer --jobs need less of it"
_MOST_ON_WINDOWS = 61  # ProcessPoolExecutor's limit there


def default_jobs(n_runs: int, device: str) -> int:
    """One process a CPU core, at most one a run; on a GPU one, which it keeps busy."""
    if device != "cpu":
        return 1
    n_cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(n_cores or 1, n_runs))


def perform_all(
    runs: Sequence[Run],
    *,
    jobs: int,
    tell: Callable[[RunEvent], None],
    ended: Callable[[Run, Outcome], None],
    should_stop: Callable[[], bool],
) -> None:
    """Make all runs; each is the same whatever the number of processes.

    Args:
        runs: begun in this order.
        jobs: processes; 1 for this one.
        tell: told what runs say.
        ended: given each run's outcome once, after everything that it said.
        should_stop: once it says so, no run is begun, and those at work stop at their next update.
    """
    jobs = min(jobs, len(runs), _MOST_ON_WINDOWS if sys.platform == "win32" else len(runs))
    if jobs > 1:
        _perform_in_processes(runs, jobs, tell, ended, should_stop)
        return
    for run in runs:
        ended(run, perform(run, tell, should_stop))


def _perform_in_processes(
    runs: Sequence[Run],
    jobs: int,
    tell: Callable[[RunEvent], None],
    ended: Callable[[Run, Outcome], None],
    should_stop: Callable[[], bool],
) -> None:
    """A process that dies takes its pool with it: only a run that does so alone in its own has failed."""
    attempt = functools.partial(_perform_in_pool, tell=tell, ended=ended, should_stop=should_stop)
    begun_before: list[Run] = []
    left = list(runs)
    while left:
        begun, left = attempt(left, min(jobs, len(left)))
        if begun:
            log.warning(
                "%s. Made again after the others, alone: %s", _DIED, ", ".join(run.label for run in begun)
            )
        begun_before += begun
    for run in begun_before:
        if should_stop():
            ended(run, Stopped())
        elif attempt([run], 1) != ([], []):
            ended(run, Failed(_DIED))


def _perform_in_pool(
    runs: Sequence[Run],
    jobs: int,
    *,
    tell: Callable[[RunEvent], None],
    ended: Callable[[Run, Outcome], None],
    should_stop: Callable[[], bool],
) -> tuple[list[Run], list[Run]]:
    """Make runs in new processes.

    Returns:
        The runs without an outcome because a process died, those that had begun and those that had not; none where
        no process did.
    """
    context = multiprocessing.get_context("spawn")
    # A process that dies may keep the queue's lock: another pool needs another queue.
    channel = Channel(events=context.SimpleQueue(), stop=context.Event())
    pending: dict[Future[Outcome], Run] = {}
    begun: set[int] = set()

    def heed(event: RunEvent) -> None:
        begun.add(event.number)
        tell(event)

    with _workers(jobs, context, channel) as pool:
        # A process that is only starting does not ignore Ctrl-C yet, unless it inherits that (worker_start.py).
        with _handled_by(signal.SIGINT, signal.SIG_IGN), contextlib.suppress(BrokenProcessPool):
            for run in runs:
                pending[pool.submit(_perform_here, run)] = run
        lost = list(runs[len(pending) :])
        for run, outcome in _outcomes(pending, channel, heed, should_stop):
            if outcome is None:
                lost.append(run)
            else:
                ended(run, outcome)
    if should_stop():
        for run in lost:
            ended(run, Stopped())
        return [], []
    lost.sort(key=lambda run: run.number)
    # Where a process died before it said anything, its run is one of the first.
    suspects = [run for run in lost if run.number in begun] or lost[:jobs]
    return suspects, [run for run in lost if run not in suspects]


@contextmanager
def _workers(jobs: int, context: SpawnContext, channel: Channel) -> Iterator[ProcessPoolExecutor]:
    """A pool of processes, of which none is left after the block; where it ends with an error, at once."""
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=begin_worker, initargs=(channel,))
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _outcomes(
    pending: dict[Future[Outcome], Run],
    channel: Channel,
    tell: Callable[[RunEvent], None],
    should_stop: Callable[[], bool],
) -> Iterator[tuple[Run, Outcome | None]]:
    """Each run with its outcome, after everything that it said; None where a process died."""
    while pending:
        done, _ = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
        while not channel.events.empty():
            tell(channel.events.get())
        if should_stop() and not channel.stop.is_set():
            channel.stop.set()
            for future in pending:
                future.cancel()
        for future in [f for f in pending if f in done or f.cancelled()]:
            yield pending.pop(future), _outcome(future)


def _outcome(future: Future[Outcome]) -> Outcome | None:
    """None where a process died."""
    if future.cancelled():
        return Stopped()
    error = future.exception()
    if error is None:
        return future.result()
    return (
        None
        if isinstance(error, BrokenProcessPool)
        else Failed(f"unexpected {type(error).__name__}: {error}")
    )


def _perform_here(run: Run) -> Outcome:
    channel = CHANNELS[0]
    return perform(run, channel.events.put, channel.stop.is_set)


@contextmanager
def stopping_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is a wish to stop while the block lasts; the second one is a KeyboardInterrupt.

    The signal that ``kill`` sends is an exit, so that nothing half done is left behind; it has code 143, as in a shell.

    Yields:
        Whether there was a Ctrl-C.
    """
    asked = threading.Event()

    def handle(_number: int, _frame: FrameType | None) -> None:
        if asked.is_set():
            raise KeyboardInterrupt
        asked.set()
        # Not through logging: the signal may have come in the middle of a line that is being logged.
        with contextlib.suppress(OSError):
            os.write(2, f"{STOPPING}\n".encode())

    def leave(number: int, _frame: FrameType | None) -> None:
        sys.exit(128 + number)

    with _handled_by(signal.SIGTERM, leave), _handled_by(signal.SIGINT, handle):
        yield asked.is_set


@contextmanager
def _handled_by(number: signal.Signals, handler: Any) -> Iterator[None]:
    """Another handler of a signal while the block lasts; only the main thread has one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(number, handler)
    try:
        yield
    finally:
        signal.signal(number, before)
