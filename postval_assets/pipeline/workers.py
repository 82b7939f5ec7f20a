"""Several models at once in one process: threads, because what takes long (inflating, matrices) frees the interpreter.

Here: how many, what each may use of the machine, and results in the order of the work. Not here: the work.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

Work = TypeVar("Work")
Result = TypeVar("Result")


def usable_cores() -> int:
    """Cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0)) or 1
    return os.cpu_count() or 1


def workers_for(wanted: int, n_tasks: int) -> int:
    """How many threads work on so many tasks: the setting ``workers``, one for each core where it is 0."""
    return max(1, min(wanted or usable_cores(), n_tasks))


@contextmanager
def torch_threads(n_workers: int) -> Iterator[Callable[[], None]]:
    """Torch's threads divided among the workers, so that two models never wait for each other's.

    Yields:
        What a worker calls before it uses torch, which keeps the number for each thread. Only that imports it: where
        everything is current, nobody waits for torch.
    """
    each = max(1, usable_cores() // n_workers)
    before: list[int] = []

    def divide() -> None:
        import torch

        before.append(torch.get_num_threads())
        torch.set_num_threads(each)

    try:
        yield divide
    finally:
        if before:
            import torch

            # What the first worker found is what all threads had.
            torch.set_num_threads(before[0])


def in_order(
    tasks: Iterable[Work], work: Callable[[Work], Result], n_workers: int
) -> Iterator[tuple[Work, Future[Result]]]:
    """Each task with its finished future, in the order of the tasks.

    Tasks are drawn and results are taken by the calling thread; at most two tasks a worker are drawn ahead of the
    result that is awaited, so memory does not grow with their number. A task's error is in its future.
    """
    waiting: deque[tuple[Work, Future[Result]]] = deque()
    pool = ThreadPoolExecutor(n_workers, thread_name_prefix="model")
    try:
        for task in tasks:
            waiting.append((task, pool.submit(work, task)))
            if len(waiting) >= 2 * n_workers:
                yield _finished(waiting)
        while waiting:
            yield _finished(waiting)
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _finished(waiting: deque[tuple[Work, Future[Result]]]) -> tuple[Work, Future[Result]]:
    task, future = waiting.popleft()
    future.exception()  # waits; the error itself is the taker's
    return task, future
