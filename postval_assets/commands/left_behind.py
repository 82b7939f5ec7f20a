"""What a killed ``postval up`` or ``demo`` leaves running: Dagster's processes, which know nothing of their starter.

Here: finding and stopping them. Not here: the lock that says whether the starter is gone (occupancy.py), or an orderly
stop (servers.py).

They would go on taking archives, without the lock that keeps a second daemon from the same data directory, and would
hold the port. What they were working on is repeated by the next daemon.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Sequence

import psutil

from postval_assets.io.process_identity import is_alive, this_process
from postval_assets.settings import STARTED_BY, Settings, environment

log = logging.getLogger("postval.occupancy")

_STOP_SECONDS = 20.0
# While they are stopped they may start others, which are found when they are looked for again.
_ROUNDS = 3


def started_here() -> dict[str, str]:
    """What is added to the environment of Dagster's processes, which hand it on to their own."""
    return {STARTED_BY: this_process()}


def stop_left_behind(settings: Settings) -> int:
    """Stop what a killed starter left running on this data directory; how many processes that were.

    For a caller that holds the data directory's lock.
    """
    home = environment(settings)["DAGSTER_HOME"]
    stopped = 0
    for _ in range(_ROUNDS):
        left = [process for process in psutil.process_iter() if _is_left_behind(process, home)]
        if not left:
            break
        log.warning(
            "a killed postval up or demo left %d process(es) running on %s: they are stopped",
            len(left),
            settings.data_dir,
        )
        _stop(left)
        stopped += len(left)
    return stopped


def _stop(processes: Sequence[psutil.Process]) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.terminate()
    _, alive = psutil.wait_procs(processes, timeout=_STOP_SECONDS)
    for process in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            process.kill()
    psutil.wait_procs(alive, timeout=_STOP_SECONDS)


def _is_left_behind(process: psutil.Process, home: str) -> bool:
    with contextlib.suppress(psutil.Error, OSError):
        environ = process.environ()
        starter = environ.get(STARTED_BY)
        return starter is not None and environ.get("DAGSTER_HOME") == home and not is_alive(starter)
    return False
