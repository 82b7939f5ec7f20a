"""Several models at once: results in order, errors of one alone, and no more work drawn than is needed."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from postval_assets.core.failures import Unavailable
from postval_assets.pipeline.workers import in_order, torch_threads, usable_cores, workers_for


def test_results_come_in_the_order_of_the_tasks_however_long_each_takes() -> None:
    first_may_end = threading.Event()

    def work(n: int) -> int:
        if n == 0:
            assert first_may_end.wait(30)
        if n == 1:
            first_may_end.set()
        return n * n

    done = [(task, future.result()) for task, future in in_order(range(6), work, 2)]
    assert done == [(n, n * n) for n in range(6)]


def test_an_error_is_in_its_own_future() -> None:
    def work(n: int) -> int:
        if n == 1:
            raise Unavailable("the disk")
        return n

    outcomes = {task: future.exception() for task, future in in_order(range(4), work, 3)}
    assert [task for task, error in outcomes.items() if error is None] == [0, 2, 3]
    assert str(outcomes[1]) == "the disk"


def test_no_more_is_drawn_than_two_tasks_a_worker() -> None:
    drawn: list[int] = []

    def tasks() -> Iterator[int]:
        for n in range(50):
            drawn.append(n)
            yield n

    results = in_order(tasks(), lambda n: n, 2)
    taken = 0
    for _ in results:
        taken += 1
        assert len(drawn) <= taken + 4
    assert taken == 50


def test_whoever_stops_taking_leaves_no_thread_behind() -> None:
    def tasks() -> Iterator[int]:
        yield from range(50)

    results = in_order(tasks(), lambda n: n, 2)
    next(results)
    results.close()
    assert not [t for t in threading.enumerate() if t.name.startswith("model")]


@pytest.mark.parametrize(("wanted", "n_tasks", "expected"), [(3, 10, 3), (3, 2, 2), (1, 10, 1), (4, 0, 1)])
def test_how_many_workers(wanted: int, n_tasks: int, expected: int) -> None:
    assert workers_for(wanted, n_tasks) == expected


def test_one_worker_a_core_by_default() -> None:
    assert workers_for(0, 10_000) == usable_cores()


def test_workers_share_the_cores_and_the_caller_gets_its_threads_back() -> None:
    import torch

    before = torch.get_num_threads()

    def threads(_: int) -> int:
        divide()
        return torch.get_num_threads()

    with torch_threads(10_000) as divide:
        seen = [future.result() for _, future in in_order([0, 1], threads, 2)]
    assert seen == [1, 1]
    assert torch.get_num_threads() == before


def test_who_has_nothing_to_compute_does_not_wait_for_torch() -> None:
    code = (
        "import sys\n"
        "from postval_assets.pipeline.workers import in_order, torch_threads\n"
        "with torch_threads(2):\n"
        "    print([future.result() for _, future in in_order([1, 2], abs, 2)], 'torch' in sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[1, 2] False"
