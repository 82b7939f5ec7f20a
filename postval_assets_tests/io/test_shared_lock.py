"""The lock of a data directory: it goes with its process, and whoever waits for long says for whom."""

from __future__ import annotations

import json
import logging
import multiprocessing
import os
import threading
from multiprocessing.synchronize import Event
from pathlib import Path

import psutil
import pytest

from postval_assets.core.failures import Unavailable
from postval_assets.io import shared_lock
from postval_assets.io.shared_lock import is_locked, last_holder, taken

SPAWN = multiprocessing.get_context("spawn")


def _hold(path: Path, held: Event, release: Event) -> None:
    lock = taken(path, timeout_s=30, doing="a write of run-7")
    held.set()
    release.wait()
    lock.release()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "warehouse.duckdb.lock"


def test_the_lock_of_a_killed_process_holds_nobody_up(path: Path) -> None:
    held, release = SPAWN.Event(), SPAWN.Event()
    holder = SPAWN.Process(target=_hold, args=(path, held, release))
    holder.start()
    assert held.wait(60)
    assert is_locked(path)
    told = last_holder(path)
    assert told is not None
    assert (told.pid, told.doing) == (holder.pid, "a write of run-7")
    psutil.Process(holder.pid).kill()
    holder.join()
    assert path.exists(), "its file is left behind"
    assert not is_locked(path)
    assert last_holder(path) is None, "nobody is sent to look for a process that is gone"
    taken(path, timeout_s=0, doing="the next").release()


def test_another_process_of_the_same_number_is_not_taken_for_the_holder(path: Path) -> None:
    taken(path, timeout_s=0, doing="mine").release()
    note = path.with_name(path.name + ".holder")
    words = json.loads(note.read_text(encoding="utf-8"))
    assert words["pid"] == os.getpid()
    note.write_text(json.dumps({**words, "process": f"{os.getpid()} 1.00"}), encoding="utf-8")
    assert last_holder(path) is None


@pytest.mark.parametrize(
    "note", [b"", b"{", b"[]", b'{"pid": 1}', b"\xff\xfe", b'{"pid": "x", "command": 1}']
)
def test_a_note_that_cannot_be_read_names_nobody(path: Path, note: bytes) -> None:
    path.with_name(path.name + ".holder").write_bytes(note)
    assert last_holder(path) is None
    with_lock = taken(path, timeout_s=0, doing="mine")
    assert last_holder(path) is not None
    with_lock.release()


def test_a_wait_that_ends_without_the_lock_names_the_holder(path: Path) -> None:
    lock = taken(path, timeout_s=0, doing="a long write")
    with pytest.raises(
        Unavailable, match=rf"lock was held for 0\.05 s, by process {os.getpid()} .* a long write"
    ):
        taken(path, timeout_s=0.05, doing="impatient")
    lock.release()


def test_a_long_wait_is_told_while_it_lasts_and_when_it_ends(
    path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(shared_lock, "_TOLD_AFTER_S", 0.05)
    lock = taken(path, timeout_s=0, doing="a long write")
    said = threading.Event()

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            said.set()

    listener = Listener()
    logging.getLogger("postval.lock").addHandler(listener)
    caplog.set_level(logging.WARNING, "postval.lock")
    waiter = threading.Thread(target=lambda: taken(path, timeout_s=60, doing="patient").release())
    try:
        waiter.start()
        assert said.wait(30), "it says that it waits before it has the lock"
        lock.release()
        waiter.join(30)
    finally:
        logging.getLogger("postval.lock").removeHandler(listener)
    waits, free = caplog.messages
    assert f"held by process {os.getpid()}" in waits
    assert "a long write" in waits
    assert "came free after" in free


def test_a_short_wait_is_not_told(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with taken(path, timeout_s=0, doing="short"):
        pass
    taken(path, timeout_s=5, doing="next").release()
    assert caplog.messages == []


def test_the_command_of_a_run_is_told_without_what_dagster_hands_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["/usr/bin/dagster", "api", "execute_run", '{"__class__": "X"}', "more"])
    assert shared_lock._command() == "dagster api execute_run"
    monkeypatch.setattr("sys.argv", ["postval", "\x1b[31m" + "x" * 300])
    assert shared_lock._command().isprintable()
    assert len(shared_lock._command()) == 100


def test_where_there_is_no_lock_file_none_is_made(path: Path) -> None:
    assert not is_locked(path)
    assert not path.exists()


# ---- turns ----


def _take_again_and_again(path: Path, at_it: Event, stop: Event) -> None:
    while not stop.is_set():
        lock = taken(path, timeout_s=60, doing="one of many")
        at_it.set()
        lock.release()


def test_one_that_takes_it_again_and_again_does_not_keep_another_out(path: Path) -> None:
    at_it, stop = SPAWN.Event(), SPAWN.Event()
    greedy = SPAWN.Process(target=_take_again_and_again, args=(path, at_it, stop))
    greedy.start()
    try:
        assert at_it.wait(60)
        for _ in range(20):
            taken(path, timeout_s=30, doing="mine").release()
    finally:
        stop.set()
        greedy.join(60)


def test_those_who_wait_get_it_in_their_order(path: Path) -> None:
    first = taken(path, timeout_s=0, doing="first")
    queue = path.with_name(path.name + ".queue")
    order: list[int] = []

    def wait(number: int) -> None:
        lock = taken(path, timeout_s=60, doing=f"number {number}")
        order.append(number)
        lock.release()

    waiters = []
    for number in range(6):
        waiters.append(threading.Thread(target=wait, args=(number,)))
        waiters[-1].start()
        while len(list(queue.glob("*"))) <= number if queue.exists() else True:
            pass  # until it has its place
    first.release()
    for waiter in waiters:
        waiter.join(60)
    assert order == list(range(6))
    assert list(queue.iterdir()) == []


def test_places_of_processes_that_are_gone_hold_nobody_up(path: Path) -> None:
    queue = path.with_name(path.name + ".queue")
    queue.mkdir()
    for number in (0, 10**19):  # before and behind every other
        (queue / f"{number:020d}-1-1").touch()
    taken(path, timeout_s=30, doing="mine").release()
    assert list(queue.iterdir()) == []


def test_without_room_for_a_queue_the_lock_is_taken_all_the_same(path: Path) -> None:
    path.with_name(path.name + ".queue").write_text("not a folder")
    taken(path, timeout_s=0, doing="mine").release()
