"""Runs that were made and not begun, because the process that made them was killed in between."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import dagster as dg
import pytest

from postval_assets.commands.home import open_instance
from postval_assets.definitions import build_definitions
from postval_assets.defs import run_records
from postval_assets.defs.run_records import COMMAND_TAG, UNFINISHED, fail_orphans, made_here, runs
from postval_assets.settings import environment, load_settings

NOT_STARTED = dg.DagsterRunStatus.NOT_STARTED


@pytest.fixture
def instance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dg.DagsterInstance]:
    settings = load_settings(data_dir=tmp_path / "data", bars_source="sample")
    for name, value in environment(settings).items():
        monkeypatch.setenv(name, value)
    with open_instance(settings) as opened:
        yield opened


def made(instance: dg.DagsterInstance, tags: dict[str, str]) -> str:
    job = build_definitions(load_settings(bars_source="sample")).resolve_job_def("bars_job")
    run = instance.create_run_for_job(job, tags=tags)
    assert run.status is NOT_STARTED
    return run.run_id


def of_a_dead_command() -> dict[str, str]:
    code = "from postval_assets.io.process_identity import *; print(this_process())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {COMMAND_TAG: ended.stdout.strip()}


@pytest.mark.parametrize("nobody_else_works", [True, False])
def test_a_run_whose_command_was_killed_before_it_began_is_failed(
    instance: dg.DagsterInstance, nobody_else_works: bool
) -> None:
    dead = made(instance, of_a_dead_command())
    ours, a_daemons = made(instance, made_here()), made(instance, {})
    assert fail_orphans(instance, nobody_else_works=nobody_else_works) == [dead]
    assert {r.run_id for r in runs(instance, UNFINISHED)} == {ours, a_daemons}


def test_a_daemons_run_that_nobody_took_up_is_failed_after_a_while(
    instance: dg.DagsterInstance, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, a_daemons = made(instance, made_here()), made(instance, {})
    monkeypatch.setattr(run_records, "_LEFT_ALONE", timedelta())
    assert fail_orphans(instance, nobody_else_works=False) == [a_daemons]
    assert [r.run_id for r in runs(instance, UNFINISHED)] == [ours]


def test_a_run_that_is_repeated_from_the_web_page_is_no_commands(instance: dg.DagsterInstance) -> None:
    parent = made(instance, {})
    job = build_definitions(load_settings(bars_source="sample")).resolve_job_def("bars_job")
    child = instance.create_run_for_job(
        job, tags=of_a_dead_command(), parent_run_id=parent, root_run_id=parent
    )
    assert fail_orphans(instance, nobody_else_works=True) == []
    assert child.run_id in {r.run_id for r in runs(instance, UNFINISHED)}
