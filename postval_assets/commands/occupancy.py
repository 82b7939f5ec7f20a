"""One daemon a data directory: two would tick the same sensors over the same history.

Here: the lock that `up` and `demo` hold while they run, and what is done under it first: runs that a killed process
left behind are failed, so that they do not hold the queue. The lock goes with the process that holds it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

import dagster as dg
from filelock import FileLock, Timeout

from postval_assets.commands.home import open_instance, prepare_home
from postval_assets.commands.left_behind import stop_left_behind
from postval_assets.core.failures import Rejected
from postval_assets.defs.run_records import fail_orphans
from postval_assets.io.disk_full import unavailable
from postval_assets.settings import Settings

log = logging.getLogger("postval.occupancy")

LOCK_NAME = "postval.lock"


@contextmanager
def held(settings: Settings) -> Iterator[None]:
    """Hold the data directory against other daemons; what a killed one left running is stopped first.

    Raises:
        Rejected: where another one holds it.
        Unavailable: where the data directory cannot be written.
    """
    lock = _lock(settings)
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise Rejected(
            f"another postval up or demo works on {settings.data_dir}: stop it, or give another --data-dir"
        ) from error
    except OSError as error:
        raise unavailable("no lock can be held in", settings.data_dir, error) from error
    try:
        stop_left_behind(settings)
        yield
    finally:
        lock.release()


def is_held(settings: Settings) -> bool:
    """Whether a daemon works on the data directory now."""
    if not (settings.data_dir / LOCK_NAME).is_file():
        return False
    lock = _lock(settings)
    try:
        lock.acquire()
    except Timeout:
        return True
    except OSError:  # not ours to write in: then no daemon of ours works there
        return False
    lock.release()
    return False


@contextmanager
def occupied(settings: Settings) -> Iterator[None]:
    """Hold the data directory for a daemon; runs that an earlier one left behind are failed first.

    Raises:
        Rejected: where another daemon holds it.
    """
    prepare_home(settings)
    with held(settings):
        clear_orphans(open_instance(settings), nobody_else_works=True)
        yield


def clear_orphans_beside(settings: Settings, instance: dg.DagsterInstance) -> None:
    """Fail runs that were left behind, from a command that may run beside a daemon."""
    lock = _lock(settings)
    try:
        with lock:
            clear_orphans(instance, nobody_else_works=True)
    except Timeout:
        clear_orphans(instance, nobody_else_works=False)


def clear_orphans(instance: dg.DagsterInstance, *, nobody_else_works: bool) -> None:
    """Fail runs that nobody works on any more, and say so."""
    for run_id in fail_orphans(instance, nobody_else_works=nobody_else_works):
        log.info("run %s was left unfinished by a process that is gone; it counts as failed", run_id)


def _lock(settings: Settings) -> FileLock:
    return FileLock(settings.data_dir / LOCK_NAME, timeout=0)
