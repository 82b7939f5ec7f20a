"""What happens in the processes of the crash test: the work that is killed, and the run after it.

Here: functions that another process calls, with everything imported before, so that a killed run costs what it did and
not what starting Python costs. Not here: who is killed when (trials.py).
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path

# Imported here so that a server of forked processes has them already: both are imported late by the product.
import safetensors.numpy
import torch  # noqa: F401

from postval_assets.core.failures import PostvalError
from postval_assets_tests.crash.looking import Seen, look, replica_is_current
from postval_assets_tests.crash.scenes import Scene

assert safetensors.numpy

_OPENED_FOR_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
_COUNTED = {
    *("os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.chmod", "os.truncate", "os.utime"),
    *("shutil.copyfile", "shutil.rmtree", "sqlite3.connect", "fcntl.flock", "msvcrt.locking"),
}
_ONLY_HERE = signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM


@dataclass(frozen=True)
class Death:
    """When a process dies.

    Attributes:
        kind: ``time``: killed from outside, after ``at`` seconds; ``event``: by itself, just before its ``n``-th
            operation on files; ``inside``: ``at`` seconds after that, wherever it then is.
        at: seconds.
        n: counted from 1.
    """

    kind: str
    at: float = 0.0
    n: int = 0


def work(scene: Scene, data_dir: Path, log: Path, death: Death, told: Connection) -> None:
    """Act a scene, and die in the middle of it; says ``begun``, and ``ended`` where it came to its end before."""
    _quiet(log)
    _die_at(death)
    told.send("begun")
    scene.act(data_dir)
    told.send("ended")


def _die_at(death: Death) -> Callable[[], int]:
    """Count operations on files, and die at one of them; what gives the count."""
    n_events = 0
    counting = threading.Lock()

    def hook(event: str, args: tuple[object, ...]) -> None:
        nonlocal n_events
        if event not in _COUNTED and not (
            event == "open" and isinstance(args[2], int) and args[2] & _OPENED_FOR_WRITING
        ):
            return
        with counting:
            n_events += 1
            now = n_events
        if now != death.n:
            return
        if death.kind == "inside" and hasattr(signal, "setitimer") and death.at > 0:
            # The system ends the process wherever it is then, in C code too: nobody handles this signal.
            signal.setitimer(signal.ITIMER_REAL, death.at)
        else:
            os.kill(os.getpid(), _ONLY_HERE)

    sys.addaudithook(hook)
    return lambda: n_events


@dataclass(frozen=True)
class After:
    """What a run after a crash found and left.

    Attributes:
        seconds: that it took.
        n_events: operations on files in it.
        error: that it ended with, and where it came from; None where it did not.
        told: the error as a person reads it; None where it was not meant to be read.
        found: what was there before it; None where that was not looked at.
        left: what is there after it; None where it failed.
        replica_current: whether people read what the pipeline has.
    """

    seconds: float
    n_events: int
    error: str | None
    told: str | None = None
    found: Seen | None = None
    left: Seen | None = None
    replica_current: bool = False


def recover(scene: Scene, data_dir: Path, log: Path, report: Path, *, look_first: bool) -> None:
    """Act a scene to its end in a data directory that a killed process left, and write an After to ``report``."""
    _quiet(log)
    found = None
    if look_first:
        # Looking opens databases, which mends them: in a copy, so that the run finds what the dead process left.
        copy = data_dir.with_name(f"{data_dir.name}-looked-at")
        if data_dir.exists():
            shutil.copytree(data_dir, copy)
        found = look(scene.settings(copy))
        shutil.rmtree(copy, ignore_errors=True)
    count = _die_at(Death("never"))
    started = time.monotonic()
    error = told = None
    try:
        scene.act(data_dir, later=timedelta(minutes=1))
    except PostvalError as failure:
        error, told = "".join(traceback.format_exception(failure)), str(failure)
    except Exception as failure:  # noqa: BLE001 - whatever it is, it is reported
        error = "".join(traceback.format_exception(failure))
    seconds, n_events = time.monotonic() - started, count()
    settings = scene.settings(data_dir)
    left = look(settings) if error is None else None
    current = replica_is_current(settings) if error is None else False
    report.write_text(
        json.dumps(asdict(After(seconds, n_events, error, told, found, left, current))), encoding="utf-8"
    )


def read_report(report: Path) -> After:
    """What ``recover`` wrote."""
    content = json.loads(report.read_text(encoding="utf-8"))
    for name in ("found", "left"):
        content[name] = Seen(**content[name]) if content[name] is not None else None
    return After(**content)


def _quiet(log: Path) -> None:
    """What is said goes to a file, of both streams."""
    opened = os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    sys.stdout.flush()
    sys.stderr.flush()
    for stream in (1, 2):
        os.dup2(opened, stream)
