"""Servers are stopped with everything that they started, however postval is asked to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from postval_assets_tests.platform_process import (
    REPOSITORY,
    postval_environment,
    processes_of,
    wait_for,
)

# A server with a child of its own, as dagster dev is; a child that outlives its parent keeps its port.
_CHILD = "import time; time.sleep(600)"
_SERVER = (
    f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {_CHILD!r}]); time.sleep(600)"
)
_POSTVAL = f"""
import sys
from postval_assets.commands.servers import running
from postval_assets.settings import load_settings
with running([sys.executable, "-c", {_SERVER!r}], load_settings(), None) as process:
    process.wait()
"""
SIGNALS = [getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)]


@pytest.fixture
def postval(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A postval with its server and the server's child, started where Ctrl-C is ignored, as a shell does with &.

    SIGHUP is heeded there, whether or not the tests themselves are run under nohup.
    """
    before = {signal.SIGINT: signal.signal(signal.SIGINT, signal.SIG_IGN)}
    if hasattr(signal, "SIGHUP"):
        before[signal.SIGHUP] = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    try:
        process = subprocess.Popen(
            [sys.executable, "-c", _POSTVAL],
            env={**postval_environment(tmp_path, "sample"), "PYTHONPATH": str(REPOSITORY)},
            stderr=subprocess.DEVNULL,
        )
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    try:
        wait_for("server and child", lambda: len(processes_of(tmp_path)) == 3, timeout_s=60)
        yield process
    finally:
        for left in processes_of(tmp_path):
            left.kill()
        process.wait(timeout=10)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
@pytest.mark.parametrize("how", SIGNALS)
def test_a_signal_stops_the_whole_tree(
    postval: subprocess.Popen[bytes], tmp_path: Path, how: signal.Signals
) -> None:
    tree = processes_of(tmp_path)
    postval.send_signal(how)
    postval.wait(timeout=60)
    psutil.wait_procs(tree, timeout=5)
    assert not processes_of(tmp_path)


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has other signals")
def test_asking_twice_does_not_leave_the_half_of_it_running(
    postval: subprocess.Popen[bytes], tmp_path: Path
) -> None:
    tree = processes_of(tmp_path)
    for _ in range(5):
        postval.send_signal(signal.SIGINT)
    postval.wait(timeout=60)
    psutil.wait_procs(tree, timeout=5)
    assert not processes_of(tmp_path)
