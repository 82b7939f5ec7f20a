"""Deliveries: known by content, named by training time, received through the inbox."""

from __future__ import annotations

import json
import warnings
import zipfile
from datetime import timedelta
from pathlib import Path

import pytest

from postval_assets.core.failures import Rejected
from postval_assets.io.inbox import FileHasher, deliver, inspect_archive
from postval_assets.pipeline.archives import (
    Delivery,
    archive_row,
    archive_symbols,
    archives_of,
    list_models,
    verify_archive,
)
from postval_assets.pipeline.extraction import store_archive
from postval_assets.pipeline.reading import newest_archive
from postval_assets.pipeline.reception import Reception, receive
from postval_assets_tests.factories import drop_claims, make_summary
from postval_assets_tests.pipeline.conftest import BUY, Bench, network

AAPL = {"AAPL_4Hour": network(BUY)}
DROPPED = make_summary({"AAPL_4Hour": drop_claims()})


def finish(bench: Bench, delivery: Delivery) -> None:
    """Decide an archive whose models the gate drops: no bars are needed for it."""
    bench.decide(bench.intake(delivery))
    assert archive_row(bench.platform, delivery.archive_id)["status"] == "COMPLETE"


def log(bench: Bench) -> list[tuple[str, int, str]]:
    rows = bench.rows("SELECT * FROM archive_deliveries ORDER BY created_at")
    return [(r["outcome"], r["attempt"], r["archive_id"]) for r in rows]


# --- identity -----------------------------------------------------------------------------------------------


def test_content_decides_not_the_name(bench: Bench) -> None:
    file = bench.archive(AAPL, summary=DROPPED)
    first = bench.deliver(file)
    assert (first.outcome, first.attempt, first.archive_id) == ("ACCEPTED", 1, "20250201_000000")
    finish(bench, first)
    again = bench.deliver(file.rename(file.with_name("Alpaca_trading_trained_19990101_000000.zip")))
    assert (again.outcome, again.archive_id) == ("DUPLICATE", first.archive_id)
    assert again.reason == "the same content was delivered before, as archive 20250201_000000, and is decided"
    assert len(bench.rows("SELECT * FROM training_archives")) == 1
    assert [outcome for outcome, _, _ in log(bench)] == ["ACCEPTED", "DUPLICATE"]


def test_what_is_not_decided_is_tried_again(bench: Bench) -> None:
    file = bench.archive(AAPL, summary=DROPPED)
    assert bench.deliver(file).outcome == "ACCEPTED"
    busy = bench.deliver(file, busy=lambda _: True)
    assert (busy.outcome, busy.attempt) == ("DUPLICATE", 1)
    assert "is being worked on" in (busy.reason or "")
    bench.intake(busy)
    second, third = bench.deliver(file), bench.deliver(file)
    assert [(d.outcome, d.attempt) for d in (second, third)] == [("RETRY", 2), ("RETRY", 3)]
    assert {d.archive_id for d in (busy, second, third)} == {"20250201_000000"}
    assert len(bench.rows("SELECT * FROM extracted_models")) == 1, "what is done stays"
    finish(bench, third)
    assert bench.deliver(file).outcome == "DUPLICATE"
    assert log(bench) == [
        (outcome, attempt, "20250201_000000")
        for outcome, attempt in (
            ("ACCEPTED", 1),
            ("DUPLICATE", 1),
            ("RETRY", 2),
            ("RETRY", 3),
            ("DUPLICATE", 3),
        )
    ]


def test_other_content_under_the_same_time_gets_a_name_of_its_own(bench: Bench) -> None:
    deliveries = [bench.deliver(bench.archive({"AAPL_4Hour": network(seed=seed)})) for seed in (1, 2, 3)]
    assert [d.outcome for d in deliveries] == ["ACCEPTED"] * 3
    first, second, third = (d.archive_id for d in deliveries)
    assert first == "20250201_000000"
    assert second == f"20250201_000000-{deliveries[1].sha256[:8]}"
    assert third == f"20250201_000000-{deliveries[2].sha256[:8]}"
    trained = {r["trained_at"] for r in bench.rows("SELECT trained_at FROM training_archives")}
    assert [t.isoformat() for t in trained] == ["2025-02-01T00:00:00+00:00"]
    assert newest_archive(bench.platform) == max(second, third)


def test_a_later_archive_of_a_symbol_takes_over_and_the_earlier_one_stays(bench: Bench) -> None:
    later = bench.deliver(bench.archive(AAPL, stamp="20250301_000000"))
    earlier = bench.deliver(bench.archive({**AAPL, "SPY_4Hour": network(BUY)}, stamp="20250201_000000"))
    for delivery in (later, earlier):
        bench.intake(delivery)
    platform = bench.platform
    assert archives_of(platform, ["SPY", "AAPL", "NONE"], None) == {
        "SPY": "20250201_000000",
        "AAPL": "20250301_000000",
    }
    assert archives_of(platform, ["AAPL", "SPY"], "20250301_000000") == {"AAPL": "20250301_000000"}
    assert archive_symbols(platform, earlier.archive_id) == ("AAPL", "SPY")
    assert len(bench.rows("SELECT * FROM extracted_models WHERE symbol = 'AAPL'")) == 2
    assert newest_archive(platform) == "20250301_000000"
    with pytest.raises(
        Rejected, match=r"archive '20990101_000000' is unknown: .*20250301_000000, 20250201_000000"
    ):
        archives_of(platform, ["AAPL"], "20990101_000000")


def test_no_archive_yet(bench: Bench) -> None:
    assert newest_archive(bench.platform) is None
    assert archives_of(bench.platform, ["AAPL"], None) == {}
    with pytest.raises(Rejected, match="such as none so far"):
        archive_row(bench.platform, "x")


def test_the_stored_file_is_held_against_its_row(bench: Bench) -> None:
    file = bench.archive(AAPL)
    delivery = bench.deliver(file)
    before = verify_archive(bench.platform, delivery.archive_id)
    assert before["stored_path"] is None, "nothing is stored before the first run"
    store_archive(bench.platform, delivery.archive_id, run_id="r")
    row = verify_archive(bench.platform, delivery.archive_id)
    stored = bench.platform.settings.data_dir / row["stored_path"]
    assert stored.read_bytes() == file.read_bytes()
    assert row["stored_path"].count("\\") == 0
    stored.write_bytes(b"changed")
    with pytest.raises(Rejected, match="was changed or damaged"):
        verify_archive(bench.platform, delivery.archive_id)
    stored.unlink()
    with pytest.raises(Rejected, match="missing from the store"):
        verify_archive(bench.platform, delivery.archive_id)


def test_what_is_refused_belongs_to_the_symbol_that_its_name_says(bench: Bench, tmp_path: Path) -> None:
    path = tmp_path / "Alpaca_trading_trained_20250201_000000.zip"
    folder = "A" * 150 + "\\models\\rl_symbols\\"
    with zipfile.ZipFile(path, "w") as archive:
        names = ("SPY_4Hour", "BRK.B_1Day", "BRK.B_1Day", "QQQ_best_1Hour", "IWM_3Hour", "btc")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of the name that is there twice
            for name in names:
                archive.writestr(f"{folder}{name}.pt", b"not read")
        archive.writestr(
            f"{'A' * 150}\\training_summary_20250201_000000.json",
            json.dumps(make_summary({"SPY_4Hour": drop_claims()})),
        )
    ready = inspect_archive(path)
    listed = {(m.symbol, m.timeframe): m.addressable for m in list_models(ready.plan, ready.summary)}
    assert listed == {
        ("SPY", "4Hour"): True,
        ("BRK.B", "1Day"): True,
        ("QQQ_best", "unknown"): False,
        ("IWM", "unknown"): False,
        ("btc", "unknown"): False,
    }


# --- through the inbox --------------------------------------------------------------------------------------


class Inbox:
    """The inbox of a bench, looked at every thirty seconds."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.hasher = FileHasher()
        self.cursor: str | None = None
        self.folder = bench.platform.settings.inbox

    def look(self, bench: Bench | None = None) -> Reception:
        bench = bench or self.bench
        bench.clock.at += timedelta(seconds=30)
        found = receive(bench.platform, self.cursor, run_id="inbox", hasher=self.hasher, busy=lambda _: False)
        self.cursor = found.cursor
        return found

    def outcomes(self) -> list[str]:
        return [d.outcome.value for d in self.look().deliveries]


@pytest.fixture
def inbox(bench: Bench) -> Inbox:
    return Inbox(bench)


def test_a_file_is_taken_when_it_stood_still_and_cleared_away_when_it_is_decided(
    bench: Bench, inbox: Inbox
) -> None:
    assert inbox.look().deliveries == ()
    file = bench.archive(AAPL, summary=DROPPED)
    lying = deliver(file, inbox.folder)
    assert [w.name for w in inbox.look().waiting] == [lying.name]
    (delivery,) = inbox.look().deliveries
    assert (delivery.outcome, delivery.symbols, delivery.n_models) == ("ACCEPTED", ("AAPL",), 1)
    assert inbox.outcomes() == [], "a file is delivered once"
    assert lying.is_file()
    finish(bench, delivery)
    assert not lying.exists(), "the first stage moved it into the store"
    stored = bench.one("SELECT stored_path FROM training_archives")["stored_path"]
    assert (bench.platform.settings.data_dir / stored).read_bytes() == file.read_bytes()

    again = deliver(file, inbox.folder)
    assert inbox.outcomes() == []
    assert inbox.outcomes() == ["DUPLICATE"]
    assert not again.exists()
    assert inbox.outcomes() == []


def test_one_bad_file_does_not_stop_the_others(bench: Bench, inbox: Inbox) -> None:
    no_summary = bench.archive(AAPL, summary=...)
    deliver(no_summary, inbox.folder)
    deliver(bench.archive({**AAPL, "SPY_4Hour": network(BUY)}), inbox.folder)
    inbox.look()
    found = {d.outcome.value: d for d in inbox.look().deliveries}
    assert set(found) == {"ACCEPTED", "REJECTED"}
    rejected = found["REJECTED"]
    assert rejected.archive_id == f"rejected-{rejected.sha256[:12]}"
    assert "the archive has no training summary" in (rejected.reason or "")
    row = archive_row(bench.platform, rejected.archive_id)
    assert (row["status"], row["models"], row["n_models"]) == ("REJECTED", [], 0)
    aside = bench.platform.settings.data_dir / row["stored_path"]
    assert aside.read_bytes() == no_summary.read_bytes(), "moved aside, not deleted"
    assert verify_archive(bench.platform, rejected.archive_id)["status"] == "REJECTED"
    assert newest_archive(bench.platform) == "20250201_000000"
    assert archives_of(bench.platform, ["AAPL"], None) == {"AAPL": "20250201_000000"}
    assert [p.name for p in inbox.folder.iterdir()] == [found["ACCEPTED"].file_name]


def test_a_file_that_looks_cut_off_is_given_ten_minutes(bench: Bench, inbox: Inbox) -> None:
    whole = bench.archive(AAPL).read_bytes()
    inbox.folder.mkdir(parents=True)
    growing = inbox.folder / "Alpaca_trading_trained_20250201_000000.zip"
    growing.write_bytes(whole[: len(whole) // 2])
    assert inbox.outcomes() == []
    assert "it may still be growing" in inbox.look().waiting[0].reason
    growing.write_bytes(whole)
    assert inbox.outcomes() == []
    assert inbox.outcomes() == ["ACCEPTED"]

    lost = inbox.folder / "cut.zip"
    lost.write_bytes(whole[: len(whole) // 2])
    assert inbox.outcomes() == []
    for outcomes in ([], ["REJECTED"]):
        bench.clock.at += timedelta(minutes=5)
        assert inbox.outcomes() == outcomes
    assert not lost.exists()


def test_what_was_refused_may_be_accepted_under_other_limits(bench: Bench, inbox: Inbox) -> None:
    file = bench.archive({**AAPL, "SPY_4Hour": network(BUY)})
    strict = bench.configured(max_models=1)
    deliver(file, inbox.folder)
    inbox.look(strict)
    (refused,) = inbox.look(strict).deliveries
    assert refused.outcome == "REJECTED"
    deliver(file, inbox.folder)
    inbox.look()
    (accepted,) = inbox.look().deliveries
    assert (accepted.outcome, accepted.archive_id) == ("ACCEPTED", "20250201_000000")
    assert accepted.attempt == 2
    bench.intake(accepted)
    assert (
        bench.one("SELECT status FROM training_archives WHERE status <> 'REJECTED'")["status"] == "EXTRACTED"
    )


def test_a_file_that_cannot_be_registered_now_is_tried_at_the_next_look(bench: Bench, inbox: Inbox) -> None:
    deliver(bench.archive(AAPL), inbox.folder)
    inbox.look()
    database = bench.platform.settings.data_dir / "warehouse"
    database.mkdir(parents=True, exist_ok=True)
    away = database.rename(database.with_name("away"))
    database.write_text("no folder", encoding="utf-8")
    found = inbox.look()
    assert found.deliveries == ()
    assert len(found.waiting) == 1
    database.unlink()
    away.rename(database)
    assert inbox.outcomes() == ["ACCEPTED"]


def test_files_that_vanish_and_folders_are_no_trouble(bench: Bench, inbox: Inbox) -> None:
    lying = deliver(bench.archive(AAPL), inbox.folder)
    (inbox.folder / "folder.zip").mkdir()
    (inbox.folder / "notes.txt").write_text("not an archive", encoding="utf-8")
    inbox.look()
    lying.unlink()
    found = inbox.look()
    assert found.deliveries == ()
    assert [w.name for w in found.waiting] == ["folder.zip"]


def test_entries_that_are_not_models_never_reach_the_disk(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"leads to a parent folder, \.\./escaped\.py"):
        bench.deliver(bench.archive(AAPL, extra={"../escaped.py": b"1"}))
    file = bench.archive(AAPL, extra={"escaped.py": b"1", "Alpaca_trading/run.sh": b"rm"})
    bench.intake(bench.deliver(file))
    names = {p.name for p in bench.platform.settings.data_dir.rglob("*")}
    assert not names & {"escaped.py", "run.sh", "training.ipynb"}
    assert not (tmp_path / "escaped.py").exists()
    assert zipfile.is_zipfile(
        bench.platform.archives.path_of(bench.one("SELECT sha256 FROM training_archives")["sha256"])
    )
