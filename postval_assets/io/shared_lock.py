"""A lock that all processes share, taken visibly: whoever waits for long says so, and for whom.

Here: taking the lock, and the note beside it of who took it last. Not here: what is done under it (warehouse.py).

The operating system drops the lock with the process that holds it, however that ends, so a lock file that was left
behind holds nobody up. The note is for people: nothing is decided by it.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from filelock import FileLock, Timeout

from postval_assets.core.failures import Unavailable
from postval_assets.io.process_identity import is_alive, this_process
from postval_assets.io.turns import Place, somebody_waits

# Only the first of those who wait looks so often; each of the others the less often, the more come before it.
_FIRST_POLL_S = 0.005
_POLL_S = 0.02
_SLOWEST_POLL_S = 0.2
# A wait is told after so long, then each time that the second has passed.
_TOLD_AFTER_S = 3.0
_TOLD_EVERY_S = 15.0
_SHOWN_CHARACTERS = 100

log = logging.getLogger("postval.lock")


@dataclass(frozen=True)
class Holder:
    """Who took a lock last, and still lives.

    Attributes:
        pid: the process.
        command: how it was started, shortened.
        doing: what it took the lock for.
        since: when it took it, by its clock, UTC.
    """

    pid: int
    command: str
    doing: str
    since: datetime

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}) for {self.doing} since {self.since:%H:%M:%S} UTC"


def taken(path: Path, *, timeout_s: float, doing: str) -> FileLock:
    """Take the lock, in the order in which it was asked for, and note who has it; the caller releases it.

    Waiting for more than a few seconds is logged, with the holder, and so is its end.

    Args:
        path: the lock file; its directory is there.
        timeout_s: how long to wait.
        doing: what for, in words.

    Raises:
        Unavailable: it was held for so long; the message names the holder.
        OSError: the lock file cannot be opened or made.
    """
    # a lock object of its own for each use, so that threads of one process exclude each other too
    lock = FileLock(path, timeout=0)
    queue = path.with_name(path.name + ".queue")
    if somebody_waits(queue) or not _is_taken(lock):
        _wait(lock, path, _place(queue), timeout_s)
    _note(path, doing)
    return lock


def _wait(lock: FileLock, path: Path, place: Place | None, timeout_s: float) -> None:
    """Take the lock when it is this place's turn and the lock is free."""
    started = time.monotonic()
    told_at = _TOLD_AFTER_S
    try:
        while True:
            n_before = 0 if place is None else place.n_before()
            if n_before == 0 and _is_taken(lock):
                break
            waited = time.monotonic() - started
            if waited >= timeout_s:
                raise Unavailable(
                    f"{path} was held for {timeout_s:g} s, by {_held_by(path)}: wait for its work to finish or "
                    "stop it, then try again (the lock goes with the process)"
                )
            if waited >= told_at:
                log.warning("waiting for %s since %.0f s: held by %s", path.name, waited, _held_by(path))
                told_at = waited + _TOLD_EVERY_S
            time.sleep(min(_POLL_S * n_before, _SLOWEST_POLL_S) if n_before else _FIRST_POLL_S)
    finally:
        if place is not None:
            place.leave()
    if told_at > _TOLD_AFTER_S:
        log.warning("%s came free after %.1f s", path.name, time.monotonic() - started)


def _is_taken(lock: FileLock) -> bool:
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _place(queue: Path) -> Place | None:
    """A place in the queue; none where the disk has no room for one, and then everybody tries."""
    try:
        return Place(queue)
    except OSError as error:
        log.debug("no queue can be kept in %s: %s", queue, error)
        return None


def is_locked(path: Path) -> bool:
    """Whether somebody holds the lock now; nothing is made where there is no lock file."""
    if not path.is_file():
        return False
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # not ours to write in: then nobody of ours holds it
        return False
    lock.release()
    return False


def last_holder(path: Path) -> Holder | None:
    """Who took the lock last, where that process still lives; it may have released it since."""
    try:
        note = json.loads(_note_path(path).read_text(encoding="utf-8"))
        holder = Holder(
            int(note["pid"]), str(note["command"]), str(note["doing"]), datetime.fromisoformat(note["since"])
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return holder if is_alive(str(note.get("process"))) else None


def _held_by(path: Path) -> str:
    holder = last_holder(path)
    return str(holder) if holder is not None else "another postval process"


def _note(path: Path, doing: str) -> None:
    """Say beside the lock who has it; where that cannot be written, the lock is held all the same."""
    note = {
        "pid": os.getpid(),
        "process": _process(os.getpid()),
        "command": _command(),
        "doing": doing,
        "since": datetime.now(UTC).isoformat(timespec="seconds"),
    }
    try:
        _note_path(path).write_text(json.dumps(note), encoding="utf-8")
    except OSError as error:
        log.debug("who holds %s cannot be noted: %s", path.name, error)


@functools.cache
def _process(pid: int) -> str:  # noqa: ARG001 - a forked process asks anew
    """This process, as it is told from a later one of the same number."""
    return this_process()


def _note_path(path: Path) -> Path:
    return path.with_name(path.name + ".holder")


def _command() -> str:
    """This process's own words, without what Dagster hands its processes as JSON."""
    words = [Path(sys.argv[0]).name or "python"]
    for word in sys.argv[1:]:
        if word.startswith(("{", "[")):
            break
        words.append(word)
    return ascii(" ".join(words))[1:-1][:_SHOWN_CHARACTERS]
