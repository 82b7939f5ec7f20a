"""A dozen processes killed, and a disk that is full; ``python -m postval_assets_tests.crash`` does hundreds."""

from __future__ import annotations

from pathlib import Path

import pytest

from postval_assets_tests.crash.full_disk import can_mount, run_full_disk
from postval_assets_tests.crash.trials import prepare, run_trials, table


def test_what_killed_processes_leave_comes_out_as_if_nobody_had_been_killed(tmp_path: Path) -> None:
    by_dagster, stages = prepare(tmp_path, ["validate, empty directory", "stages, second archive"])
    # The stages alone take a third of the time, and twice as many of them are killed.
    trials = run_trials(tmp_path, [by_dagster, stages, stages], 12, seed=20240629)
    assert not [problem for trial in trials for problem in trial.problems], table(trials)
    assert sum(trial.died for trial in trials) >= 9, table(trials)


@pytest.mark.skipif(not can_mount(), reason="needs Linux, and the right to mount in a namespace of one's own")
def test_a_full_disk_is_told_and_costs_nothing_but_a_second_run() -> None:
    steps = run_full_disk(4, by_dagster=False)
    assert not [problem for step in steps for problem in step.problems], steps
    *runs, backup = steps
    assert runs[0].told is not None
    assert runs[-1].told is None, "the last one had space enough"
    assert backup.told is not None
