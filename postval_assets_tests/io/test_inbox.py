from __future__ import annotations

import hashlib
import json
import os
import shutil
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from postval_assets.core.archive import ArchiveLimits
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.inbox import FileHasher, InboxCursor, InboxScan, deliver, inspect_archive, scan_inbox
from postval_assets_tests.factories import good_claims, make_archive, make_summary

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "archives"
START = datetime(2025, 3, 1, tzinfo=UTC)


class Inbox:
    """An inbox that is scanned every 30 seconds, its cursor kept as text between the scans."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        self.now = START
        self.cursor: str | None = None
        self.hasher = FileHasher()

    def scan(self, wait: timedelta = timedelta(seconds=30)) -> InboxScan:
        self.now += wait
        scan = scan_inbox(self.folder, InboxCursor.from_json(self.cursor), now=self.now, hasher=self.hasher)
        self.cursor = scan.cursor.to_json()
        return scan

    def put(self, name: str = "a.zip", **kwargs) -> Path:
        models = kwargs.pop("models", {"AAPL": b"aapl", "SPY_1Hour": b"spy"})
        return make_archive(self.folder / name, models, **kwargs)


@pytest.fixture
def inbox(tmp_path) -> Inbox:
    return Inbox(tmp_path / "inbox")


def sha_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_an_archive_is_ready_once_it_stood_still_over_two_scans(inbox):
    path = inbox.put()
    first = inbox.scan()
    assert (first.ready, first.rejected) == ((), ())
    assert [w.name for w in first.waiting] == ["a.zip"]
    (ready,) = inbox.scan().ready
    assert (ready.path, ready.sha256, ready.archive_id) == (path, sha_of(path), "20250301_180000")
    assert (ready.size_bytes, ready.mtime_ns) == (path.stat().st_size, path.stat().st_mtime_ns)
    assert [m.symbol for m in ready.plan.models] == ["AAPL", "SPY"]
    assert len(ready.summary.claims) == 2
    assert ready.first_report


def test_an_archive_that_stays_is_reported_again_and_not_hashed_again(inbox):
    inbox.put()
    inbox.scan()
    first = inbox.scan().ready[0]
    # A new process with no time at all: it could not have hashed the file.
    inbox.hasher = FileHasher(budget_seconds=0, chunk_bytes=1)
    again = inbox.scan().ready[0]
    assert (again.sha256, first.first_report, again.first_report) == (first.sha256, True, False)


def test_a_file_that_changes_starts_over(inbox):
    path = inbox.put()
    inbox.scan()
    inbox.scan()
    make_archive(path, {"QQQ": b"longer than before"})
    os.utime(path, ns=(0, 12345))
    assert inbox.scan().ready == ()
    (ready,) = inbox.scan().ready
    assert (ready.sha256, ready.first_report) == (sha_of(path), True)
    assert [m.symbol for m in ready.plan.models] == ["QQQ"]


def test_a_slow_copy_is_waited_for(inbox, tmp_path):
    data = make_archive(tmp_path / "whole.zip", {"AAPL": b"aapl" * 1000}).read_bytes()
    path = inbox.folder / "slow.zip"
    for n_bytes in range(0, len(data), len(data) // 5):
        path.write_bytes(data[:n_bytes])
        scan = inbox.scan(timedelta(minutes=9))
        assert (scan.ready, scan.rejected) == ((), ())
    path.write_bytes(data)
    inbox.scan()
    assert [r.path for r in inbox.scan().ready] == [path]


def test_what_is_no_zip_is_rejected_after_ten_minutes_without_change(inbox):
    path = inbox.folder / "a.zip"
    path.write_bytes(b"not a zip" * 100)
    inbox.scan()
    for _ in range(2):
        waiting = inbox.scan(timedelta(minutes=4, seconds=59)).waiting
        assert "not a complete zip file" in waiting[0].reason
    (rejected,) = inbox.scan(timedelta(seconds=2)).rejected
    assert "not a complete zip file" in rejected.reason
    assert (rejected.path, rejected.sha256, rejected.first_report) == (path, sha_of(path), True)
    assert inbox.scan().rejected[0].first_report is False


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"summary": ...}, "no training summary"),
        ({"extra": {"Alpaca_trading/training_summary_2.json": b"{}"}}, "2 training summaries"),
        ({"summary": b"{}"}, "no metrics per symbol"),
        ({"summary": b"not json"}, "not JSON"),
        ({"summary_name": "training_summary.json"}, "YYYYMMDD_HHMMSS"),
        ({"models": {}}, "no models"),
    ],
)
def test_a_zip_that_is_no_training_archive_is_rejected_as_soon_as_it_stands_still(inbox, kwargs, said):
    if "models" in kwargs:
        kwargs["summary"] = make_summary({"AAPL": good_claims()})
    path = inbox.put(**kwargs)
    assert inbox.scan().rejected == ()
    (rejected,) = inbox.scan().rejected
    assert said in rejected.reason
    assert rejected.sha256 == sha_of(path)


def test_one_bad_file_never_stops_the_others(inbox):
    (inbox.folder / "a.zip").write_bytes(b"")
    (inbox.folder / "b.zip").mkdir()
    inbox.put("c.zip", summary=...)
    good = inbox.put("d.ZIP")
    if os.name != "nt":  # links need a privilege there
        (inbox.folder / "b-link.zip").symlink_to(good)
    inbox.scan()
    scan = inbox.scan()
    assert [r.path.name for r in scan.ready] == ["d.ZIP"]
    assert [r.path.name for r in scan.rejected] == ["c.zip"]
    assert {w.name for w in scan.waiting} - {"b-link.zip"} == {"a.zip", "b.zip"}
    assert len(scan.ready) + len(scan.rejected) + len(scan.waiting) == len(list(inbox.folder.iterdir()))
    assert all(w.reason for w in scan.waiting)


def test_a_file_that_vanishes_is_forgotten(inbox):
    path = inbox.put()
    inbox.scan()
    path.unlink()
    scan = inbox.scan()
    assert (scan.ready, scan.rejected, scan.waiting, dict(scan.cursor.files)) == ((), (), (), {})


def test_a_file_that_vanishes_during_the_scan_waits(inbox):
    first, second = inbox.put("a.zip"), inbox.put("b.zip")
    inbox.scan()
    ticks = []

    def clock() -> float:
        # Read when the hasher is made, when the scan starts, and after each chunk: in the middle of the first
        # file, somebody takes the second one away.
        ticks.append(1)
        if len(ticks) > 2:
            second.unlink(missing_ok=True)
        return 0.0

    inbox.hasher = FileHasher(clock=clock)
    scan = inbox.scan()
    assert [r.path for r in scan.ready] == [first]
    assert [w.name for w in scan.waiting] == ["b.zip"]


@pytest.mark.parametrize("name", [".a.zip", ".a.zip.part", "a.zip.part", "a.zip.crdownload", "a.rar", "zip"])
def test_other_names_are_not_looked_at(inbox, name):
    inbox.put(name)
    scan = inbox.scan()
    assert (scan.waiting, dict(scan.cursor.files)) == ((), {})


def test_hashing_is_spread_over_scans_within_the_budget(inbox):
    path = inbox.put(models={"AAPL": os.urandom(10_000)})
    size = path.stat().st_size
    now = [0.0]

    def clock() -> float:
        now[0] += 1.0
        return now[0]

    inbox.hasher = FileHasher(budget_seconds=2.5, clock=clock, chunk_bytes=1_000)
    inbox.scan()
    offsets = []
    while not (scan := inbox.scan()).ready:
        offsets.append(scan.cursor.files["a.zip"].hashed_bytes)
        assert "hash is being computed" in scan.waiting[0].reason
    assert offsets == [3_000 * (n + 1) for n in range(len(offsets))]
    assert len(offsets) == (size - 1) // 3_000
    assert scan.ready[0].sha256 == sha_of(path)


def test_a_file_that_changes_while_it_is_hashed_waits(inbox):
    path = inbox.put(models={"AAPL": os.urandom(10_000)})
    inbox.hasher = FileHasher(budget_seconds=0, chunk_bytes=4_000)
    inbox.scan()
    inbox.scan()
    hasher = FileHasher(budget_seconds=0, chunk_bytes=4_000)
    hasher.advance(path, path.stat().st_size, path.stat().st_mtime_ns)
    with pytest.raises(Unavailable, match="changed"):
        hasher.advance(path, path.stat().st_size + 1, path.stat().st_mtime_ns)
    with path.open("ab") as file:
        file.write(b"x")
    assert inbox.scan().ready == ()


def test_a_new_process_starts_the_hash_again_and_gets_the_same(inbox):
    path = inbox.put(models={"AAPL": os.urandom(10_000)})
    inbox.hasher = FileHasher(budget_seconds=0, chunk_bytes=4_000)
    inbox.scan()
    assert inbox.scan().cursor.files["a.zip"].hashed_bytes == 4_000
    inbox.hasher = FileHasher()
    assert inbox.scan().ready[0].sha256 == sha_of(path)


@pytest.mark.parametrize(
    "cursor",
    [None, "", "{", "[]", "3", '{"a.zip": 3}', '{"a.zip": {"x": 1}}', '{"a.zip": {}}', "null"]
    + [
        json.dumps({"a.zip": {"size_bytes": 1, "mtime_ns": 1, "unchanged_since": since}})
        for since in ("x", 5, "2025")
    ],
)
def test_an_unreadable_cursor_starts_afresh(inbox, cursor):
    inbox.put()
    inbox.cursor = cursor
    assert inbox.scan().ready == ()
    assert len(inbox.scan().ready) == 1


def test_a_folder_that_cannot_be_listed_is_worth_retrying(tmp_path):
    with pytest.raises(Unavailable, match="could not be listed"):
        scan_inbox(tmp_path / "none", InboxCursor(), now=START, hasher=FileHasher())


def test_inspecting_judges_at_once(tmp_path):
    path = make_archive(tmp_path / "a.zip", {"AAPL": b"aapl"})
    found = inspect_archive(path)
    assert (found.sha256, found.archive_id, found.path) == (sha_of(path), "20250301_180000", path)
    with pytest.raises(Rejected, match="no training summary"):
        inspect_archive(make_archive(tmp_path / "b.zip", {"AAPL": b"aapl"}, summary=...))
    with pytest.raises(Rejected, match="at most 1 "):
        inspect_archive(path, ArchiveLimits(max_entries=1))
    with pytest.raises(Rejected, match="trained on 2025-03-01"):
        inspect_archive(path, now=datetime(2023, 1, 1, tzinfo=UTC))
    with pytest.raises(Unavailable):
        inspect_archive(tmp_path / "none.zip")


def test_delivering_copies_and_is_idempotent(tmp_path):
    path = make_archive(tmp_path / "a.zip", {"AAPL": b"aapl"})
    target = deliver(path, tmp_path / "inbox")
    assert target == tmp_path / "inbox" / "a.zip"
    assert deliver(path, tmp_path / "inbox") == target
    assert sha_of(target) == sha_of(path)
    assert [p.name for p in target.parent.iterdir()] == ["a.zip"]


def test_delivering_never_overwrites_another_file(tmp_path):
    deliver(make_archive(tmp_path / "a.zip", {"AAPL": b"aapl"}), tmp_path / "inbox")
    before = sha_of(tmp_path / "inbox" / "a.zip")
    other = make_archive(tmp_path / "a.zip", {"SPY": b"spy"})
    with pytest.raises(Rejected, match="other content"):
        deliver(other, tmp_path / "inbox")
    assert sha_of(tmp_path / "inbox" / "a.zip") == before


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
@pytest.mark.parametrize(
    "name", ["\x1b[31mred.zip", "two\nlines.zip", "right\u202etfel.zip", "line\u2028end.zip"]
)
def test_a_name_that_would_steer_a_terminal_is_not_taken(inbox, name):
    inbox.put(name)
    inbox.scan()
    [waiting] = inbox.scan().waiting
    assert "rename it" in waiting.reason
    assert waiting.name.isascii()
    assert waiting.name.isprintable()


@pytest.mark.skipif(sys.platform != "linux", reason="other systems do not allow such names")
def test_a_name_that_is_no_text_is_not_taken(inbox, tmp_path):
    path = inbox.put("caf\udce9.zip")
    good = inbox.put("good.zip")
    for _ in range(2):
        scan = inbox.scan()
        assert "caf\\udce9.zip" in {w.name for w in scan.waiting if "rename it" in w.reason}
    assert [r.path for r in scan.ready] == [good]
    for refuses in (inspect_archive, lambda file: deliver(file, tmp_path / "other")):
        with pytest.raises(Rejected, match=r"^caf\\udce9\.zip: .*rename it"):
            refuses(path)


def test_a_hash_elsewhere_goes_on_over_scans(inbox, tmp_path):
    elsewhere = make_archive(tmp_path / "stored.zip", {"AAPL": os.urandom(5_000)})
    found = elsewhere.stat()
    inbox.hasher = FileHasher(budget_seconds=0, chunk_bytes=found.st_size - 1)
    assert inbox.hasher.advance(elsewhere, found.st_size, found.st_mtime_ns) == (found.st_size - 1, None)
    inbox.scan()
    _, sha256 = inbox.hasher.advance(elsewhere, found.st_size, found.st_mtime_ns)
    assert sha256 == sha_of(elsewhere)


@pytest.mark.parametrize("name", ["a.rar", ".a.zip"])
def test_a_name_that_would_be_ignored_is_not_delivered(tmp_path, name):
    path = make_archive(tmp_path / name, {"AAPL": b"aapl"})
    with pytest.raises(Rejected, match="ignored"):
        deliver(path, tmp_path / "inbox")


def test_a_name_that_leaves_no_room_for_a_copy_in_the_making_is_not_delivered(tmp_path):
    path = make_archive(tmp_path / f"{'n' * 245}.zip", {"AAPL": b"aapl"})
    with pytest.raises(Rejected, match="name is too long; expected at most 240 bytes"):
        deliver(path, tmp_path / "inbox")
    assert not (tmp_path / "inbox").exists()


def test_a_copy_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    path = make_archive(tmp_path / "a.zip", {"AAPL": b"aapl"})

    def full(part, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("postval_assets.io.inbox.replace_durably", full)
    with pytest.raises(Unavailable, match="the disk is full"):
        deliver(path, tmp_path / "inbox")
    assert list((tmp_path / "inbox").iterdir()) == []


@pytest.mark.shared_data
@pytest.mark.skipif(not REAL.exists(), reason="real data is not here")
def test_archives_of_another_program_become_ready(inbox):
    for path in REAL.glob("*.zip"):
        shutil.copyfile(path, inbox.folder / path.name)
    inbox.scan()
    found = {r.archive_id: r for r in inbox.scan().ready}
    assert set(found) == {"20241220_221500", "20250115_093000", "20250301_180000"}
    for ready in found.values():
        claimed = {key for key, claims in ready.summary.claims.items() if claims.problem is None}
        assert {(m.symbol, m.timeframe) for m in ready.plan.models} == claimed
        assert (ready.summary.unusable, ready.summary.notes) == ((), ())
    assert found["20250115_093000"].summary.train_end is None
    assert found["20250301_180000"].summary.train_end == datetime(2025, 3, 1, tzinfo=UTC)
    spy = found["20250301_180000"].summary.claims["SPY", "1Hour"]
    assert (spy.fitness_score[-1], spy.max_drawdown[-1]) == (0.3, 0.3)
