"""First come, first served, among processes that wait for one lock.

Here: a queue of empty files, one for each that waits. Not here: the lock itself (shared_lock.py).

Whoever only tries a lock again and again may lose to others for ever, the more surely the busier the machine is: a
process that has just released it is the first to try. A place in the queue is held by a lock on its own file, so it
goes with its process too; files of processes that are gone are removed by the others.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from pathlib import Path

from filelock import FileLock, Timeout

# How often the first is asked by the second whether it still lives.
_ASKED_EVERY_S = 0.25


def somebody_waits(folder: Path) -> bool:
    """Whether anybody has a place in the queue, or had one when its process was killed."""
    return bool(_places(folder))


class Place:
    """A place in a queue; those before it come first."""

    def __init__(self, folder: Path) -> None:
        """Take the last place of the queue in ``folder``, which is made.

        Raises:
            OSError: nothing can be written there.
        """
        folder.mkdir(exist_ok=True)
        self._folder = folder
        # The same clock in all processes, and it is never set back.
        self._name = f"{time.monotonic_ns():020d}-{os.getpid()}-{threading.get_ident()}"
        self._lock = FileLock(folder / self._name, timeout=0)
        self._lock.acquire()
        self._asked_at = time.monotonic()
        _remove_dead(folder, [name for name in _places(folder) if name != self._name])

    def n_before(self) -> int:
        """How many come first; where the first of them is gone, it is removed now and then."""
        before = [name for name in _places(self._folder) if name < self._name]
        # The further behind, the less there is to be found out, and many may be waiting.
        if before and time.monotonic() - self._asked_at >= _ASKED_EVERY_S * len(before):
            self._asked_at = time.monotonic()
            _remove_dead(self._folder, before[:1])
        return len(before)

    def leave(self) -> None:
        """Give the place up."""
        self._lock.release()
        _remove(self._folder / self._name)


def _places(folder: Path) -> list[str]:
    try:
        return sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []


def _remove_dead(folder: Path, names: list[str]) -> None:
    """Removes the files of processes that are gone: nobody holds them."""
    for name in names:
        lock = FileLock(folder / name, timeout=0)
        with suppress(Timeout, OSError):
            lock.acquire()
            lock.release()
            _remove(folder / name)


def _remove(path: Path) -> None:
    with suppress(PermissionError):  # Windows, while another one asks about it; it is removed by the next
        path.unlink(missing_ok=True)
