"""Looks at the inbox: one file never holds up another, nothing is recorded twice, and nothing is lost by a crash."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from filelock import FileLock

from postval_assets.io.inbox import FileHasher, InboxCursor, UnreadableArchive, scan_inbox
from postval_assets.io.warehouse import Warehouse
from postval_assets.pipeline.archives import Delivery, archive_row, register_rejected
from postval_assets.pipeline.reception import Reception, receive
from postval_assets_tests.factories import drop_claims, make_summary
from postval_assets_tests.pipeline.conftest import BUY, Bench, network

AAPL = {"AAPL_4Hour": network(BUY)}
SPY = {"SPY_4Hour": network(BUY)}
DROPPED = make_summary({"AAPL_4Hour": drop_claims()})
WORKED_ON = "the same content is being worked on"


class Inbox:
    """The inbox of a bench; its archives are busy while their SHA-256 is in ``busy``."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.hasher = FileHasher()
        self.cursor: str | None = None
        self.folder = bench.platform.settings.inbox
        self.folder.mkdir(parents=True)
        self.busy: set[str] = set()

    def look(self, busy: Callable[[str], bool] | None = None) -> Reception:
        self.bench.clock.at += timedelta(seconds=30)
        found = receive(
            self.bench.platform,
            self.cursor,
            run_id="inbox",
            hasher=self.hasher,
            busy=busy or self.busy.__contains__,
        )
        self.cursor = found.cursor
        return found

    def outcomes(self) -> list[tuple[str, int, str]]:
        return [(d.outcome.value, d.attempt, d.file_name) for d in self.look().deliveries]

    def waiting(self) -> dict[str, str]:
        return {w.name: w.reason for w in self.look().waiting}

    def put(self, file: Path, name: str) -> Path:
        """A copy of the file, as it is dropped by hand; it has stood still when this returns."""
        lying = Path(shutil.copyfile(file, self.folder / name))
        self.look()
        return lying

    def recorded(self) -> list[tuple[str, int, str]]:
        rows = self.bench.rows("SELECT * FROM archive_deliveries ORDER BY created_at")
        return [(r["outcome"], r["attempt"], r["file_name"]) for r in rows]


@pytest.fixture
def inbox(bench: Bench) -> Inbox:
    return Inbox(bench)


def finish(bench: Bench, delivery: Delivery) -> None:
    """Decide an archive whose model the gate drops: no bars are needed for it."""
    bench.decide(bench.intake(delivery))
    assert archive_row(bench.platform, delivery.archive_id)["status"] == "COMPLETE"


def dropped(bench: Bench) -> Path:
    """An archive that ``finish`` can decide."""
    return bench.archive(AAPL, summary=DROPPED)


# --- one bad file never stops the others --------------------------------------------------------------------


def test_numbers_that_no_column_holds_are_unknown_with_a_note(bench: Bench, inbox: Inbox) -> None:
    summary = make_summary({"AAPL_4Hour": drop_claims()}, n_trials=3_000_000_000, validation_interval=2e9)
    inbox.put(bench.archive(AAPL, summary=summary), "a.zip")
    inbox.put(bench.archive(SPY, stamp="20250301_000000"), "b.zip")
    inbox.look()
    assert inbox.recorded() == [("ACCEPTED", 1, "a.zip"), ("ACCEPTED", 1, "b.zip")]
    row = archive_row(bench.platform, "20250201_000000")
    assert (row["n_trials"], row["validation_interval"]) == (None, None)
    assert "n_trials is 3000000000: treated as unknown" in row["reason"]
    assert "validation_interval is 2000000000.0: treated as unknown" in row["reason"]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_a_name_that_is_no_text_waits_until_it_is_renamed(bench: Bench, inbox: Inbox) -> None:
    good = bench.archive(SPY, stamp="20250301_000000")
    bad = inbox.put(bench.archive(AAPL), "caf\udce9.zip")
    inbox.put(good, "good.zip")
    found = inbox.look()
    assert [d.file_name for d in found.deliveries] == ["good.zip"]
    assert [w.name for w in found.waiting] == ["caf\\udce9.zip"]
    assert "rename it" in found.waiting[0].reason
    found.waiting[0].name.encode("utf-8")
    bad.rename(bad.with_name("café.zip"))
    inbox.look()
    assert inbox.outcomes() == [("ACCEPTED", 1, "café.zip")]


def test_a_failure_that_nobody_foresaw_is_that_files_alone(
    bench: Bench, inbox: Inbox, caplog: pytest.LogCaptureFixture
) -> None:
    file = bench.archive(AAPL)
    inbox.put(file, "a.zip")
    (first,) = inbox.look().deliveries
    shutil.copyfile(file, inbox.folder / "b.zip")

    def refuses(sha256: str) -> bool:
        raise ValueError(f"cannot say of {sha256[:4]}")

    inbox.put(bench.archive(SPY, stamp="20250301_000000"), "c.zip")
    with caplog.at_level(logging.WARNING, "postval.inbox"):
        found = inbox.look(busy=refuses)
    assert [d.file_name for d in found.deliveries] == ["c.zip"]
    assert {w.name: w.reason for w in found.waiting} == {
        "b.zip": f"it could not be taken: cannot say of {first.sha256[:4]}"
    }
    assert any(r.exc_info for r in caplog.records if "b.zip" in r.getMessage())


# --- the same content while it is being worked on -----------------------------------------------------------


def test_a_second_copy_waits_and_is_a_duplicate_once_the_first_is_decided(bench: Bench, inbox: Inbox) -> None:
    file = dropped(bench)
    inbox.put(file, "a.zip")
    (first,) = inbox.look().deliveries
    inbox.busy = {first.sha256}
    second = inbox.put(file, "b.zip")
    for _ in range(3):
        assert WORKED_ON in inbox.waiting()["b.zip"]
    assert inbox.recorded() == [("ACCEPTED", 1, "a.zip")]
    finish(bench, first)
    assert not (inbox.folder / "a.zip").exists(), "its run moved it"
    inbox.busy.clear()
    assert inbox.outcomes() == [("DUPLICATE", 1, "b.zip")]
    assert not second.exists()
    assert inbox.outcomes() == []
    assert inbox.recorded() == [("ACCEPTED", 1, "a.zip"), ("DUPLICATE", 1, "b.zip")]


def test_a_second_copy_is_a_new_attempt_once_the_first_has_failed(bench: Bench, inbox: Inbox) -> None:
    file = dropped(bench)
    for name in ("a.zip", "b.zip", "c.zip"):
        shutil.copyfile(file, inbox.folder / name)
    inbox.look()
    found = inbox.look()
    (first,) = found.deliveries
    assert (first.outcome.value, first.file_name) == ("ACCEPTED", "a.zip")
    waiting = {w.name for w in found.waiting}
    assert waiting == {"b.zip", "c.zip"}, "the first one's run is not even asked for yet"
    inbox.busy = {first.sha256}
    assert inbox.outcomes() == []
    inbox.busy.clear()
    retry = inbox.look()
    assert [(d.outcome.value, d.attempt, d.file_name) for d in retry.deliveries] == [("RETRY", 2, "b.zip")]
    assert [w.name for w in retry.waiting] == ["c.zip"], "one attempt at a time"
    inbox.busy = {first.sha256}
    assert inbox.outcomes() == []
    finish(bench, retry.deliveries[0])
    inbox.busy.clear()
    assert inbox.outcomes() == [("DUPLICATE", 2, "c.zip")]
    assert list(inbox.folder.iterdir()) == [], "copies whose attempts failed go too"


def test_the_first_copy_itself_is_no_copy_of_itself(bench: Bench, inbox: Inbox) -> None:
    inbox.put(dropped(bench), "a.zip")
    (first,) = inbox.look().deliveries
    inbox.busy = {first.sha256}
    assert inbox.look().waiting == ()
    inbox.busy.clear()
    for _ in range(2):
        found = inbox.look()
        assert (found.deliveries, found.waiting) == ((), ()), "its run failed: it wants to be dropped again"
    assert inbox.recorded() == [("ACCEPTED", 1, "a.zip")]


def test_a_look_that_died_after_accepting_is_made_good_by_the_next(bench: Bench, inbox: Inbox) -> None:
    inbox.put(dropped(bench), "a.zip")
    before = inbox.cursor
    inbox.look()
    inbox.cursor = before
    assert inbox.outcomes() == [("RETRY", 2, "a.zip")], "nobody has asked for the run of the first attempt"


def test_other_content_under_the_name_of_what_is_being_worked_on(bench: Bench, inbox: Inbox) -> None:
    inbox.put(dropped(bench), "a.zip")
    (first,) = inbox.look().deliveries
    inbox.busy = {first.sha256}
    inbox.put(bench.archive({"AAPL_4Hour": network(seed=5)}), "a.zip")
    (other,) = inbox.look().deliveries
    assert other.outcome.value == "ACCEPTED"
    assert other.archive_id == f"20250201_000000-{other.sha256[:8]}"


# --- copies of what is decided ------------------------------------------------------------------------------


def test_a_copy_leaves_only_when_the_stored_one_was_checked_within_the_budget(
    bench: Bench, inbox: Inbox
) -> None:
    file = dropped(bench)
    inbox.put(file, "a.zip")
    (first,) = inbox.look().deliveries
    finish(bench, first)
    inbox.put(file, "b.zip")
    thirds = -(-file.stat().st_size // 3)
    inbox.hasher = FileHasher(budget_seconds=0.0, chunk_bytes=thirds)
    found = [inbox.look() for _ in range(5)]
    assert [d.outcome.value for look in found for d in look.deliveries] == ["DUPLICATE"]
    hashed, checked = "its hash is being computed", "the stored copy is being checked"
    said = [w.reason for look in found for w in look.waiting]
    assert [hashed in s for s in said] == [True, True, False, False]
    assert [checked in s for s in said] == [False, False, True, True]
    assert list(inbox.folder.iterdir()) == []


def test_a_copy_takes_the_place_of_a_damaged_stored_one(bench: Bench, inbox: Inbox) -> None:
    file = dropped(bench)
    inbox.put(file, "a.zip")
    (first,) = inbox.look().deliveries
    finish(bench, first)
    stored = bench.platform.archives.path_of(first.sha256)
    stored.write_bytes(b"?" * stored.stat().st_size)
    inbox.put(file, "b.zip")
    assert inbox.outcomes() == [("DUPLICATE", 1, "b.zip")]
    assert stored.read_bytes() == file.read_bytes()
    assert list(inbox.folder.iterdir()) == []


# --- refused files ------------------------------------------------------------------------------------------


def refused(bench: Bench) -> Path:
    return bench.archive(AAPL, summary=...)


def stored_paths(bench: Bench) -> list[str | None]:
    return [r["stored_path"] for r in bench.rows("SELECT stored_path FROM training_archives")]


def as_found(inbox: Inbox) -> UnreadableArchive:
    """The refused file as the next look will find it, without that look being told."""
    cursor = InboxCursor.from_json(inbox.cursor)
    (found,) = scan_inbox(inbox.folder, cursor, now=inbox.bench.clock(), hasher=FileHasher()).rejected
    return found


def test_a_look_that_died_before_the_move_does_not_record_twice(bench: Bench, inbox: Inbox) -> None:
    file = refused(bench)
    lying = inbox.put(file, "a.zip")
    register_rejected(bench.platform, as_found(inbox), run_id="died")
    assert lying.exists()
    assert stored_paths(bench) == [None]
    assert inbox.outcomes() == [("REJECTED", 1, "a.zip")], "it is told, for the dead look told nobody"
    assert inbox.recorded() == [("REJECTED", 1, "a.zip")]
    assert stored_paths(bench) == ["archives/rejected/a.zip"]
    assert list(inbox.folder.iterdir()) == []


def test_a_look_that_died_after_the_move_leaves_a_file_that_is_found(bench: Bench, inbox: Inbox) -> None:
    inbox.put(refused(bench), "a.zip")
    found = as_found(inbox)
    register_rejected(bench.platform, found, run_id="died")
    bench.platform.archives.reject(found.path, found.sha256)
    inbox.put(bench.archive(SPY, stamp="20250301_000000"), "b.zip")
    assert inbox.outcomes() == [("ACCEPTED", 1, "b.zip")]
    aside = archive_row(bench.platform, f"rejected-{found.sha256[:12]}")["stored_path"]
    assert aside == "archives/rejected/a.zip"


def test_the_same_refused_file_dropped_again_is_recorded_again_once(bench: Bench, inbox: Inbox) -> None:
    file = refused(bench)
    for attempt in (1, 2):
        inbox.put(file, "a.zip")
        assert inbox.outcomes() == [("REJECTED", attempt, "a.zip")]
        assert inbox.outcomes() == []
        assert list(inbox.folder.iterdir()) == []
        assert stored_paths(bench) == ["archives/rejected/a.zip"]
    assert inbox.recorded() == [("REJECTED", 1, "a.zip"), ("REJECTED", 2, "a.zip")]


def test_a_refused_file_that_cannot_be_moved_is_recorded_once_and_stops_nobody(
    bench: Bench, inbox: Inbox
) -> None:
    in_the_way = bench.platform.settings.data_dir / "archives" / "rejected"
    in_the_way.parent.mkdir(parents=True, exist_ok=True)
    in_the_way.write_text("not a folder", encoding="utf-8")
    cut = bench.root / "cut.zip"
    shutil.copyfile(bench.archive(SPY, summary=...), cut)
    shutil.copyfile(cut, inbox.folder / "b.zip")
    inbox.put(refused(bench), "a.zip")
    found = inbox.look()
    assert [(d.outcome.value, d.file_name) for d in found.deliveries] == [
        ("REJECTED", "a.zip"),
        ("REJECTED", "b.zip"),
    ]
    assert {w.name for w in found.waiting} == {"a.zip", "b.zip"}
    assert all("could not be moved" in w.reason for w in found.waiting)
    assert inbox.outcomes() == []
    in_the_way.unlink()
    assert inbox.outcomes() == []
    assert list(inbox.folder.iterdir()) == []
    assert sorted(str(p) for p in stored_paths(bench)) == [
        "archives/rejected/a.zip",
        "archives/rejected/b.zip",
    ]
    assert len(inbox.recorded()) == 2


# --- a warehouse that does not answer -----------------------------------------------------------------------


def test_a_warehouse_that_does_not_answer_is_asked_once_in_a_look(
    tmp_path: Path, make_bench: Callable[..., Bench], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = make_bench(tmp_path, lock_timeout_s=0.2)
    inbox = Inbox(bench)
    inbox.put(dropped(bench), "a.zip")
    assert inbox.outcomes() == [("ACCEPTED", 1, "a.zip")]
    shutil.copyfile(bench.archive(SPY, stamp="20250301_000000"), inbox.folder / "b.zip")
    shutil.copyfile(bench.archive(AAPL, stamp="20250401_000000"), inbox.folder / "c.zip")
    inbox.put(refused(bench), "d.zip")
    asked: list[object] = []
    # The session of the real warehouse, counted.
    session = Warehouse._session

    def counted(warehouse: Warehouse, doing: str, **arguments: bool) -> object:
        asked.append(arguments)
        return session(warehouse, doing, **arguments)

    monkeypatch.setattr(Warehouse, "_session", counted)
    with FileLock(bench.platform.warehouse.lock_path):
        for _ in range(2):
            asked.clear()
            waiting = inbox.waiting()
            assert len(asked) == 1
            assert set(waiting) == {"a.zip", "b.zip", "c.zip", "d.zip"}
            assert all("warehouse.duckdb.lock was held for" in reason for reason in waiting.values())
    # Nothing is hashed or waited for anew, and what was delivered before is not delivered again.
    inbox.hasher = FileHasher(budget_seconds=0.0, chunk_bytes=1)
    assert inbox.outcomes() == [("ACCEPTED", 1, "b.zip"), ("ACCEPTED", 1, "c.zip"), ("REJECTED", 1, "d.zip")]


def test_a_warehouse_that_falls_silent_in_a_look_is_not_asked_again(
    tmp_path: Path, make_bench: Callable[..., Bench]
) -> None:
    bench = make_bench(tmp_path, lock_timeout_s=0.2)
    inbox = Inbox(bench)
    file = dropped(bench)
    inbox.put(file, "a.zip")
    (first,) = inbox.look().deliveries
    shutil.copyfile(file, inbox.folder / "b.zip")
    shutil.copyfile(bench.archive(SPY, stamp="20250301_000000"), inbox.folder / "c.zip")
    inbox.put(refused(bench), "d.zip")
    lock = FileLock(bench.platform.warehouse.lock_path)

    def locks(sha256: str) -> bool:
        """Somebody takes the lock after the look's first question."""
        lock.acquire()
        return sha256 != first.sha256

    try:
        found = inbox.look(busy=locks)
    finally:
        lock.release(force=True)
    assert found.deliveries == ()
    assert {w.name for w in found.waiting} == {"b.zip", "c.zip", "d.zip"}
    assert len({w.reason for w in found.waiting}) == 1
    assert [(d[0], d[2]) for d in inbox.outcomes()] == [
        ("RETRY", "b.zip"),
        ("ACCEPTED", "c.zip"),
        ("REJECTED", "d.zip"),
    ]
