"""Many jobs over all cores: threads, processes for the networks, and models that share their steps.

Here: how jobs are grouped and run, results in their order. Not here: what a job is and its computation (fold_jobs.py),
or what is made of a result (evaluation.py, reproducing.py).
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TypeVar

from postval_assets.core.evaluation import RunNetworks
from postval_assets.pipeline.fold_jobs import FoldJob
from postval_assets.pipeline.network_processes import WORTH_IT_FROM, NetworkProcesses
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.workers import in_order, torch_threads, workers_for

# Models that a worker evaluates in lockstep share the steps of the accounts; but at each step the later layers of all
# of them pass through the core's cache, and what does not fit there together is faster one after the other.
_MODELS_IN_LOCKSTEP = 8
_LOCKSTEP_BYTES = 2**20


Outcome = TypeVar("Outcome")
Computation = Callable[[Platform, RunNetworks, Callable[[], None], Sequence[FoldJob]], list[Outcome]]
"""``fold_jobs.compute``, or another function of its form."""


def run_jobs(
    platform: Platform, jobs: Iterator[FoldJob], n_models: int, computation: Computation[Outcome]
) -> Generator[tuple[FoldJob, Outcome], None, None]:
    """Each job with what the computation gives of it, in the order of the jobs.

    To be closed by whoever may leave early (``contextlib.closing``): threads and processes end with it.

    Args:
        platform: settings.
        jobs: drawn by the calling thread as the workers get through, so that only it asks the warehouse.
        n_models: how many jobs there may be.
        computation: of several jobs at once.
    """
    n_workers = workers_for(platform.settings.workers, n_models)
    most = max(1, min(_MODELS_IN_LOCKSTEP, n_models // n_workers))
    n_processes = n_workers if n_models >= WORTH_IT_FROM else 1
    with (
        NetworkProcesses(n_processes, platform.stopwatch) as processes,
        torch_threads(n_workers) as divide,
    ):
        work = functools.partial(computation, platform, processes.run, divide)
        for together, finished in in_order(_lockstep(jobs, most), work, n_workers):
            yield from zip(together, finished.result(), strict=True)


def _lockstep(jobs: Iterator[FoldJob], most: int) -> Iterator[list[FoldJob]]:
    """Jobs in the groups that are evaluated together."""
    group: list[FoldJob] = []
    n_bytes = 0
    for job in jobs:
        size = 4 * sum(layer.n_in * layer.n_out for layer in job.model.spec.layers[1:] if layer.weight_key)
        if group and (len(group) == most or n_bytes + size > _LOCKSTEP_BYTES):
            yield group
            group, n_bytes = [], 0
        group.append(job)
        n_bytes += size
    if group:
        yield group
