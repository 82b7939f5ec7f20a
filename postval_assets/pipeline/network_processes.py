"""Networks run in processes of their own, one for each core.

Here: starting them, what they are given, and what becomes of work whose process died. Not here: the run of a network
(core.evaluation), or what threads do (workers.py).

A step of the tail is some dozen calls of a tenth of a millisecond. Threads of one interpreter wait for each other
between them (measured: two threads took as long as one after the other), processes do not. Starting them costs
seconds, which many models bring in and few do not.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from typing import Self

from postval_assets.core.costs import ExecutionRules
from postval_assets.core.evaluation import NetworkWork, Runs, Timed, run_networks
from postval_assets.pipeline.stopwatch import Stopwatch

log = logging.getLogger("postval.evaluation")

WORTH_IT_FROM = 12
"""Models in a stage from which processes bring in what starting them costs."""

_MOST_ON_WINDOWS = 61  # ProcessPoolExecutor's limit there


class NetworkProcesses:
    """Runs networks in processes, which are started when they are first needed and end with the ``with`` block.

    They do not outlive it: a process that ends while it has others waits for them, and a run's process would for ever.
    On CUDA networks are run here, one after the other: one model's matrices fill the device, and torch's flags are the
    process's.

    Args:
        n_processes: at most so many; 1 for none but this one.
        stopwatch: is told what the processes counted.
    """

    def __init__(self, n_processes: int, stopwatch: Stopwatch) -> None:
        self._n_processes = min(n_processes, _MOST_ON_WINDOWS if sys.platform == "win32" else n_processes)
        self._stopwatch = stopwatch
        self._device = threading.Lock()
        self._starting = threading.Lock()
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> Self:
        """Nothing is started yet."""
        return self

    def __exit__(self, *error: object) -> None:
        """End the processes."""
        self._close()

    def run(self, works: Sequence[NetworkWork], rules: ExecutionRules, device: str, timed: Timed) -> Runs:
        """What ``run_networks`` gives; where a process died, it is done here."""
        if not works:
            return []
        if device != "cpu":
            with self._device:
                return run_networks(works, rules, device, timed)
        if self._n_processes == 1:
            return run_networks(works, rules, device, timed)
        pool = self._started()
        try:
            runs, seconds = pool.submit(_run, list(works), rules, device).result()
        except BrokenProcessPool:
            log.warning(
                "a worker process ended by itself (is memory short?): its models are evaluated without it"
            )
            self._close(pool)
            return run_networks(works, rules, device, timed)
        self._stopwatch.add(seconds)
        return runs

    def _started(self) -> ProcessPoolExecutor:
        with self._starting:
            if self._pool is None:
                self._pool = ProcessPoolExecutor(
                    self._n_processes, mp_context=multiprocessing.get_context("spawn"), initializer=_begin
                )
            return self._pool

    def _close(self, broken: ProcessPoolExecutor | None = None) -> None:
        """End the processes; those of ``broken`` only, where it is given: others may have been started since."""
        with self._starting:
            if broken is not None and self._pool is not broken:
                return
            pool, self._pool = self._pool, None
        if pool is not None:
            pool.shutdown(wait=True, cancel_futures=True)


def begin_process() -> None:
    """In a new process: leave Ctrl-C to the parent, and end with it."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _begin() -> None:
    """In a new process: as above, and use one core."""
    begin_process()  # before torch, which takes seconds in which the parent may die
    import torch

    torch.set_num_threads(1)


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def _run(works: list[NetworkWork], rules: ExecutionRules, device: str) -> tuple[Runs, dict[str, float]]:
    watch = Stopwatch()
    runs = run_networks(works, rules, device, watch.part)
    return runs, dict(watch.seconds())
