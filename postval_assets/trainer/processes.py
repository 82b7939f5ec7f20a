"""Training runs in processes of their own, and how Ctrl-C stops them.

Here: starting and stopping, in this process or in several, with no process left behind. Not here: a run
(single_run.py), or what becomes of its outcome (run.py).

Processes are spawned, as Windows does. Ctrl-C reaches a terminal's whole group of processes: the workers ignore it,
and are stopped by an event that this process sets. A worker whose parent is gone, however it went, ends itself.
"""

from __future__ import annotations

import contextlib
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
from dataclasses import dataclass
from types import FrameType
from typing import Any, Protocol

from postval_assets.trainer.single_run import Failed, Outcome, Run, RunEvent, Stopped, perform

log = logging.getLogger("postval.train")

STOPPING = "stopping: what is finished goes into the archive; Ctrl-C again leaves at once, without one"
_POLL_SECONDS = 0.1  # Windows handles a Ctrl-C only between two waits
_MOST_ON_WINDOWS = 61  # ProcessPoolExecutor's limit there


class _Events(Protocol):
    """A queue whose ``put`` returns once the event is on its way: what a run said is here before its outcome."""

    def put(self, event: RunEvent) -> None: ...

    def get(self) -> RunEvent: ...

    def empty(self) -> bool: ...


class _Flag(Protocol):
    """An event that all processes see."""

    def set(self) -> None: ...

    def is_set(self) -> bool: ...


@dataclass(frozen=True)
class _Channel:
    """What connects a worker with its parent."""

    events: _Events
    stop: _Flag


# Of a worker: one entry. A channel reaches a process only as it starts, not with the work that it is given.
_CHANNELS: list[_Channel] = []


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
    context = multiprocessing.get_context("spawn")
    channel = _Channel(events=context.SimpleQueue(), stop=context.Event())
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(jobs, mp_context=context, initializer=_begin_worker, initargs=(channel,))
    try:
        # A process that is only starting does not ignore Ctrl-C yet, unless it inherits that.
        with _interrupts_handled_by(signal.SIG_IGN):
            pending = {pool.submit(_perform_here, run): run for run in runs}
        while pending:
            done, _ = wait(pending, timeout=_POLL_SECONDS, return_when=FIRST_COMPLETED)
            while not channel.events.empty():
                tell(channel.events.get())
            if should_stop() and not channel.stop.is_set():
                channel.stop.set()
                for future in pending:
                    future.cancel()
            for future in [f for f in pending if f in done or f.cancelled()]:
                ended(pending.pop(future), _outcome(future, stopping=channel.stop.is_set()))
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _outcome(future: Future[Outcome], *, stopping: bool) -> Outcome:
    if future.cancelled():
        return Stopped()
    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, BrokenProcessPool):
        why = "a worker process ended by itself; where memory is short, fewer --jobs need less of it"
        return Stopped() if stopping else Failed(why)
    return Failed(f"unexpected {type(error).__name__}: {error}")


def _begin_worker(channel: _Channel) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _CHANNELS.append(channel)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _perform_here(run: Run) -> Outcome:
    channel = _CHANNELS[0]
    return perform(run, channel.events.put, channel.stop.is_set)


@contextmanager
def stopping_on_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C is a wish to stop while the block lasts; the second one is a KeyboardInterrupt.

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

    with _interrupts_handled_by(handle):
        yield asked.is_set


@contextmanager
def _interrupts_handled_by(handler: Any) -> Iterator[None]:
    """Another handler of SIGINT while the block lasts; only the main thread has one."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGINT, handler)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
