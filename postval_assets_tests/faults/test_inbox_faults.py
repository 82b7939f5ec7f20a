"""An inbox whose disk, permissions or clock misbehave: files wait with a reason, and nothing is lost."""

from __future__ import annotations

import logging
import os
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from postval_assets.core.failures import Unavailable
from postval_assets.io import file_hasher
from postval_assets.io.inbox import FileHasher, InboxCursor, InboxScan, scan_inbox
from postval_assets_tests.factories import make_archive
from postval_assets_tests.faults.privileges import has_permissions, open_folder, unprivileged

START = datetime(2025, 3, 1, tzinfo=UTC)
TICK = timedelta(seconds=5)


class Watched:
    """An inbox that is looked at again and again; its cursor is kept as text, and only where a look succeeded."""

    def __init__(self, folder: Path, hasher: FileHasher | None = None) -> None:
        self.folder = folder
        self.now = START
        self.cursor: str | None = None
        self.hasher = hasher or FileHasher()

    def look(self, passed: timedelta = TICK) -> InboxScan:
        self.now += passed
        scan = scan_inbox(self.folder, InboxCursor.from_json(self.cursor), now=self.now, hasher=self.hasher)
        self.cursor = scan.cursor.to_json()
        return scan

    def reasons(self, passed: timedelta = TICK) -> dict[str, str]:
        return {w.name: w.reason for w in self.look(passed).waiting}


@pytest.fixture
def inbox(tmp_path: Path) -> Watched:
    folder = tmp_path / "inbox"
    folder.mkdir()
    return Watched(folder)


def put(folder: Path, name: str = "a.zip", size: int = 100) -> Path:
    return make_archive(folder / name, {"AAPL": os.urandom(size)})


# ---- a disk that goes and comes ----


def test_a_disk_that_vanishes_and_comes_back_loses_neither_files_nor_what_is_known(inbox: Watched) -> None:
    path = put(inbox.folder)
    inbox.look()
    [ready] = inbox.look().ready
    away = inbox.folder.with_name("unplugged")
    inbox.folder.rename(away)
    for _ in range(3):
        with pytest.raises(Unavailable, match=r"could not be listed: .* Is its disk there"):
            inbox.look()
    away.rename(inbox.folder)
    [again] = inbox.look().ready
    assert (again.path, again.sha256, again.first_report) == (path, ready.sha256, False)


def test_an_empty_mount_point_is_an_empty_inbox_and_its_files_are_taken_up_again(inbox: Watched) -> None:
    put(inbox.folder)
    inbox.look()
    [ready] = inbox.look().ready
    away = inbox.folder.with_name("unplugged")
    inbox.folder.rename(away)
    inbox.folder.mkdir()  # what a mount leaves where it was
    assert inbox.look().cursor.files == {}
    inbox.folder.rmdir()
    away.rename(inbox.folder)
    assert inbox.look().ready == (), "it has to stand still again: who knows what happened to it"
    [again] = inbox.look().ready
    assert again.sha256 == ready.sha256


def test_a_file_that_goes_while_it_is_looked_at_is_told(
    inbox: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(inbox.folder)
    inbox.look()

    def gone(self: Path, *args: object) -> object:
        raise FileNotFoundError(2, "No such file or directory", str(self))

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", gone)
        assert "is gone" in inbox.reasons()["a.zip"]
    assert len(inbox.look().ready) == 1


def test_a_disk_with_errors_makes_its_file_wait_and_no_other(
    inbox: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad, good = put(inbox.folder, "bad.zip"), put(inbox.folder, "good.zip")
    inbox.look()
    open_file = Path.open

    def failing(self: Path, *args: object, **options: object) -> object:
        if self == bad:
            raise OSError(5, "Input/output error", str(self))
        return open_file(self, *args, **options)  # type: ignore[call-overload]

    with monkeypatch.context() as patched:
        patched.setattr(Path, "open", failing)
        scan = inbox.look()
        assert [r.path for r in scan.ready] == [good]
        assert "Input/output error" in {w.name: w.reason for w in scan.waiting}["bad.zip"]
    assert {r.path for r in inbox.look().ready} == {bad, good}


# ---- a slow one ----


class SlowClock:
    """Every look at it costs as much as reading a piece of a file takes on a slow disk."""

    def __init__(self, seconds_a_piece: float) -> None:
        self.at = 0.0
        self.seconds_a_piece = seconds_a_piece

    def __call__(self) -> float:
        self.at += self.seconds_a_piece
        return self.at


def test_a_slow_disk_costs_a_look_its_budget_and_one_piece_whatever_lies_there(tmp_path: Path) -> None:
    folder = tmp_path / "inbox"
    folder.mkdir()
    names = [f"{n}.zip" for n in range(6)]
    for name in names:
        put(folder, name, size=20_000)
    clock = SlowClock(4.0)
    inbox = Watched(folder, FileHasher(budget_seconds=20.0, clock=clock, chunk_bytes=5_000))
    inbox.look()
    done: set[str] = set()
    advanced: set[str] = set()
    for _ in range(40):
        before = clock.at
        scan = inbox.look()
        assert clock.at - before <= 20.0 + 2 * 4.0 + len(names) * 4.0, (
            "pieces, and a look at the clock a file"
        )
        advanced |= {name for name, state in scan.cursor.files.items() if state.hashed_bytes}
        done |= {r.path.name for r in scan.ready}
        waits = {w.name for w in scan.waiting}
        assert waits | {r.path.name for r in scan.ready} == set(names), (
            "each is ready, or waits with a reason"
        )
        if done == set(names):
            break
    assert done == set(names), "all of them get their turn"


def test_a_disk_that_hangs_is_left_alone_until_it_answers(
    inbox: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(inbox.folder)
    inbox.hasher = FileHasher(budget_seconds=0.0, patience_seconds=0.1)
    inbox.look()
    answers, asked = threading.Event(), []
    lstat = Path.lstat

    def hanging(self: Path) -> os.stat_result:
        if self.suffix == ".zip":
            asked.append(self)
            answers.wait(60)
        return lstat(self)

    monkeypatch.setattr(Path, "lstat", hanging)
    with pytest.raises(Unavailable, match=r"does not answer: its disk hangs .*\(nothing for 0\.1 s\)"):
        inbox.look()
    for _ in range(3):
        with pytest.raises(Unavailable, match="an earlier look still waits for it"):
            inbox.look()
    assert len(asked) == 1, "no second look is begun before the first has ended"
    look = inbox.hasher._look
    assert look is not None
    answers.set()
    look.join(60)
    assert len(inbox.look().ready) == 1


def test_an_error_in_a_look_is_raised_where_it_was_asked_for(tmp_path: Path) -> None:
    def broken() -> None:
        raise KeyError("nobody foresaw this")

    with pytest.raises(KeyError, match="nobody foresaw"):
        FileHasher().in_time(broken, tmp_path)


def test_a_piece_is_small_enough_for_a_slow_disk() -> None:
    """At a tenth of a megabyte a second, the last piece may overrun the time of a look, but not by a minute."""
    assert file_hasher._CHUNK_BYTES / 0.1e6 < 20


# ---- a file that keeps growing ----


def test_a_file_that_keeps_growing_waits_and_is_taken_when_it_is_whole(
    inbox: Watched, tmp_path: Path
) -> None:
    content = put(tmp_path, "whole.zip", size=50_000).read_bytes()
    path = inbox.folder / "slow.zip"
    for end in range(0, len(content), len(content) // 30):
        path.write_bytes(content[:end])
        os.utime(path, ns=(0, end + 1))
        scan = inbox.look(timedelta(minutes=30))
        assert (scan.ready, scan.rejected) == ((), ())
        assert "stood still" in {w.name: w.reason for w in scan.waiting}["slow.zip"]
    path.write_bytes(content)
    os.utime(path, ns=(0, len(content) + 1))
    inbox.look()
    assert len(inbox.look().ready) == 1


# ---- permissions ----


@has_permissions
def test_a_file_that_may_not_be_read_waits_until_it_may() -> None:
    with open_folder() as folder:
        inbox = Watched(folder)
        secret, good = put(folder, "secret.zip"), put(folder, "good.zip")
        good.chmod(0o644)
        secret.chmod(0o000)
        with unprivileged():
            inbox.look()
            scan = inbox.look()
        assert [r.path for r in scan.ready] == [good]
        [waiting] = scan.waiting
        assert (waiting.name, "change its permissions" in waiting.reason) == ("secret.zip", True)
        secret.chmod(0o644)
        with unprivileged():
            assert {r.path for r in inbox.look().ready} == {good, secret}


@has_permissions
def test_an_inbox_that_may_not_be_read_is_worth_retrying() -> None:
    with open_folder() as folder:
        inbox = Watched(folder / "inbox")
        inbox.folder.mkdir()
        put(inbox.folder).chmod(0o644)
        inbox.folder.chmod(0o000)
        with unprivileged(), pytest.raises(Unavailable, match=r"Permission denied.*may this user read it"):
            inbox.look()
        inbox.folder.chmod(0o755)
        with unprivileged():
            inbox.look()
            assert len(inbox.look().ready) == 1


# ---- clocks ----


@pytest.fixture
def half_a_copy(inbox: Watched, tmp_path: Path) -> tuple[Path, bytes]:
    """Half an archive, of which the rest is still to come."""
    content = put(tmp_path, "whole.zip", size=5_000).read_bytes()
    path = inbox.folder / "copied.zip"
    path.write_bytes(content[: len(content) // 2])
    return path, content


@pytest.mark.parametrize("jump", [timedelta(days=20_000), timedelta(hours=1), timedelta(days=-20_000)])
def test_a_clock_that_jumps_does_not_reject_what_is_still_being_copied(
    inbox: Watched, half_a_copy: tuple[Path, bytes], jump: timedelta
) -> None:
    path, content = half_a_copy
    inbox.look()
    inbox.look()
    scan = inbox.look(jump)
    assert scan.rejected == ()
    assert "may still be growing" in scan.waiting[0].reason
    path.write_bytes(content)
    inbox.look()
    inbox.look(-jump)
    assert len(inbox.look().ready) == 1


@pytest.mark.parametrize("jump", [timedelta(days=20_000), timedelta(days=-20_000)])
def test_a_clock_that_jumps_does_not_use_up_or_stretch_the_patience(
    inbox: Watched, half_a_copy: tuple[Path, bytes], jump: timedelta
) -> None:
    inbox.look()
    inbox.look(jump)
    rejected = [bool(inbox.look(timedelta(minutes=1)).rejected) for _ in range(12)]
    assert not any(rejected[:4]), "half of the patience is always watched"
    assert rejected[10], "and it ends, though the clock says that no time has passed"


def test_a_jump_of_the_clock_does_not_take_a_file_twice(inbox: Watched) -> None:
    put(inbox.folder)
    inbox.look()
    assert inbox.look().ready[0].first_report
    for jump in (timedelta(days=20_000), timedelta(days=-20_000)):
        assert not inbox.look(jump).ready[0].first_report


def test_an_archive_of_a_far_future_waits_until_the_clock_is_right(inbox: Watched) -> None:
    put(inbox.folder)
    inbox.look(timedelta(days=-9_000))
    scan = inbox.look()
    assert (scan.ready, scan.rejected) == ((), ())
    assert "Is this machine's clock right?" in scan.waiting[0].reason
    assert inbox.look(timedelta(days=9_000)).ready[0].first_report


def test_looking_says_nothing_in_the_log_about_files_that_only_wait(
    inbox: Watched, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    put(inbox.folder)
    for _ in range(4):
        inbox.look()
    assert caplog.messages == []
