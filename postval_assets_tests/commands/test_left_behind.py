"""Processes that a killed ``postval up`` leaves running."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from postval_assets.commands.left_behind import started_here, stop_left_behind
from postval_assets.commands.occupancy import held
from postval_assets.settings import STARTED_BY, Settings, environment, load_settings

WAITS = "import sys; print('here', flush=True); sys.stdin.read()"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return load_settings(data_dir=tmp_path / "data", bars_source="sample")


@pytest.fixture
def started() -> Iterator[list[subprocess.Popen[str]]]:
    processes: list[subprocess.Popen[str]] = []
    yield processes
    for process in processes:
        process.kill()
        process.communicate()


def start(
    settings: Settings, starter: dict[str, str], started: list[subprocess.Popen[str]]
) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITS],
        env={**os.environ, **environment(settings), **starter},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    started.append(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n"
    return process


def of_a_dead_starter() -> dict[str, str]:
    code = "from postval_assets.commands.left_behind import *; print(*started_here().values())"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return {STARTED_BY: ended.stdout.strip()}


def test_what_a_killed_starter_left_is_stopped_and_nothing_else(
    settings: Settings,
    tmp_path: Path,
    started: list[subprocess.Popen[str]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    dead = of_a_dead_starter()
    left = start(settings, dead, started)
    kept = [
        start(settings, started_here(), started),
        start(settings, {}, started),
        start(load_settings(data_dir=tmp_path / "other", bars_source="sample"), dead, started),
    ]
    with held(settings):
        assert left.poll() is not None
    assert [process.poll() for process in kept] == [None] * 3
    assert "left 1 process(es) running" in caplog.text
    assert stop_left_behind(settings) == 0
