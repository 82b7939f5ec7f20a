"""Which process did something, so that a later look tells whether it is still there.

Here: a process as text, also in the names of files that it makes for itself. Not here: what is concluded from its end
(defs/run_records.py, pipeline/scratch.py, commands/left_behind.py).

A number alone is given again to another process; with the moment of its start it is not. That moment is counted from
the machine's start where the system counts it so: by the wall clock it would move whenever the clock is set.
"""

from __future__ import annotations

import os
import platform
import re
import sys

import psutil

_MAKER = re.compile(r"(?:^|\.)(?P<machine>[A-Za-z0-9-]+)\.(?P<process>\d+ \d+\.\d+)\.")


def this_process() -> str:
    """This process: its number and when it was started."""
    return f"{os.getpid()} {_started(psutil.Process()):.2f}"


def is_alive(process: str) -> bool:
    """Whether a process that ``this_process`` named is still there; False for a text of another form."""
    number, _, started = process.partition(" ")
    try:
        return f"{_started(psutil.Process(int(number))):.2f}" == started
    except (psutil.NoSuchProcess, ValueError):
        return False


def maker() -> str:
    """This machine and process, as the part of a file's name that ``maker_is_gone`` reads; a full stop follows it."""
    return f"{_machine()}.{this_process()}"


def maker_is_gone(name: str) -> bool | None:
    """Whether the process that made a file of this name has ended; None where the name does not say it.

    Nor does it where another machine, or another container, made it: its processes cannot be asked about.
    """
    found = _MAKER.search(name)
    if found is None or found["machine"] != _machine():
        return None
    return not is_alive(found["process"])


def _machine() -> str:
    """This machine's name, as far as a file's name may hold it."""
    return re.sub(r"[^A-Za-z0-9-]", "-", platform.node())[:40] or "unnamed"


def _started(process: psutil.Process) -> float:
    created = process.create_time()
    # psutil adds the machine's start, by today's clock, to what Linux says; the others say the time itself.
    return created - psutil.boot_time() if sys.platform == "linux" else created
