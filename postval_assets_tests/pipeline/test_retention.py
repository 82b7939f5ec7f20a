"""What retention frees and what it never does, and what dropping a pruned archive again brings back."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from postval_assets.core.failures import Rejected
from postval_assets.io.warehouse import Append, Update
from postval_assets.pipeline import retention
from postval_assets.pipeline.archives import Delivery, Outcome, verify_archive
from postval_assets.pipeline.extraction import extract_models
from postval_assets.pipeline.removals import Kind, why_removed
from postval_assets.pipeline.retention import (
    Removable,
    Rule,
    files_of_archive,
    removable,
    remove_files,
    superseded,
)
from postval_assets.pipeline.staging import stage_models
from postval_assets_tests.pipeline.conftest import BUY, Bench, MakeBench, network

DAY = timedelta(days=1)
HISTORY = (
    *("training_archives", "archive_deliveries", "extracted_models", "gating_scores", "fold_results"),
    *("equity_curves", "trades", "walk_forward_summaries", "deployment_decisions", "bars"),
)


def found(bench: Bench, *, busy: Sequence[str] = (), **settings: Any) -> list[Removable]:
    return removable(bench.configured(**settings).platform, busy=busy)


def names(items: Sequence[Removable], rule: Rule) -> list[str]:
    return [item.name for item in items if item.rule is rule]


def decided(bench: Bench, stamp: str, *symbols: str, seed: int = 0, action: str | None = BUY) -> Delivery:
    """An archive through every stage, of one network a symbol."""
    models = {f"{s}_4Hour": network(action, seed=seed + n) for n, s in enumerate(symbols)}
    delivery = bench.validate(bench.archive(models, stamp=stamp))
    [row] = bench.rows("SELECT status FROM training_archives WHERE archive_id = ?", delivery.archive_id)
    assert row["status"] == "COMPLETE"
    return delivery


def extracted(bench: Bench, stamp: str, models: dict[str, Any]) -> Delivery:
    """An archive whose decisions are left out: it only counts as decided."""
    delivery = bench.deliver(bench.archive(models, stamp=stamp))
    bench.intake(delivery)
    change = Update("training_archives", {"archive_id": delivery.archive_id}, {"status": "COMPLETE"})
    bench.platform.warehouse.write([change], run_id="test", now=bench.clock())
    return delivery


def counts(bench: Bench) -> dict[str, int]:
    return {t: int(bench.one(f"SELECT count(*) AS n FROM {t}")["n"]) for t in HISTORY}  # noqa: S608


def weights_of(bench: Bench, archive_id: str) -> list[Path]:
    rows = bench.rows(
        "SELECT model_sha256 FROM extracted_models WHERE archive_id = ? ORDER BY symbol", archive_id
    )
    return [bench.platform.models.path_of(r["model_sha256"]) for r in rows]


def zip_of(bench: Bench, delivery: Delivery) -> Path:
    return bench.platform.archives.path_of(delivery.sha256)


@pytest.fixture(scope="session")
def two_made(
    tmp_path_factory: pytest.TempPathFactory, make_bench: MakeBench
) -> tuple[Bench, Delivery, Delivery]:
    """Two decided archives of AAPL, the older one good in every fold, a month apart."""
    bench = make_bench(tmp_path_factory.mktemp("two"))
    bench.put_bars("AAPL", market="rising")
    older = decided(bench, "20250101_000000", "AAPL", seed=1)
    bench.clock.at += 30 * DAY
    newer = decided(bench, "20250201_000000", "AAPL", seed=2, action=None)
    return bench, older, newer


@pytest.fixture
def two(
    two_made: tuple[Bench, Delivery, Delivery], tmp_path: Path, make_bench: MakeBench
) -> tuple[Bench, Delivery, Delivery]:
    """A copy of that data directory."""
    made, older, newer = two_made
    bench = make_bench(tmp_path / "copy")
    shutil.rmtree(bench.root)
    shutil.copytree(made.root, bench.root)
    bench.clock.at = made.clock.at
    return bench, older, newer


def row(
    archive_id: str, models: Sequence[str], status: str = "COMPLETE", usable: Sequence[str] | None = None
) -> Any:
    return {
        "archive_id": archive_id,
        "status": status,
        "models": list(models),
        "usable": list(models if usable is None else usable),
    }


@pytest.mark.parametrize(
    ("archives", "old"),
    [
        ([row("1", ["A_1Hour"]), row("2", ["A_1Hour"])], ["1"]),
        ([row("1", ["A_1Hour"]), row("2", ["A_1Hour"]), row("3", ["A_1Hour"])], ["1", "2"]),
        ([row("1", ["A_1Hour", "B_1Hour"]), row("2", ["A_1Hour"])], []),
        ([row("1", ["A_1Hour"]), row("2", ["A_4Hour"])], []),
        # The newer one is not decided yet, or its checkpoint cannot be used: the older one is still the good one.
        ([row("1", ["A_1Hour"]), row("2", ["A_1Hour"], "EXTRACTED")], []),
        ([row("1", ["A_1Hour"]), row("2", ["A_1Hour"], usable=[])], []),
        # What is not decided is never superseded: its run may be tried again.
        ([row("1", ["A_1Hour"], "RECEIVED", usable=[]), row("2", ["A_1Hour"])], []),
        ([row("1", []), row("2", ["A_1Hour"])], ["1"]),
        ([], []),
    ],
)
def test_only_decided_archives_that_are_nobodys_newest_are_superseded(
    archives: list[Any], old: list[str]
) -> None:
    assert [r["archive_id"] for r in superseded(archives)] == old


def test_by_default_nothing_of_an_archive_goes_however_old(two: tuple[Bench, Delivery, Delivery]) -> None:
    bench, *_ = two
    bench.clock.at += 3650 * DAY
    assert found(bench) == []


def test_an_empty_data_directory_has_nothing_and_is_not_made(make_bench: MakeBench, tmp_path: Path) -> None:
    bench = make_bench(tmp_path, data_dir=tmp_path / "nowhere")
    bench.platform.warehouse.path.unlink()
    assert found(bench, keep_archives_days=0, keep_weights_days=0, keep_rejected_days=0) == []
    assert not (tmp_path / "nowhere" / "archives").exists()


def test_a_superseded_archive_goes_by_its_age_also_one_that_was_live(
    two: tuple[Bench, Delivery, Delivery],
) -> None:
    bench, older, newer = two
    decisions = {
        r["archive_id"]: r["decision"]
        for r in bench.rows("SELECT archive_id, decision FROM deployment_decisions WHERE policy = 'standard'")
    }
    assert decisions[older.archive_id] in ("LIVE", "PAPER"), "there is something to lose"
    assert found(bench, keep_archives_days=31, keep_weights_days=31) == []
    items = found(bench, keep_archives_days=29, keep_weights_days=29)
    assert [(i.rule, i.name) for i in items] == [
        (Rule.ARCHIVES, older.archive_id),
        (Rule.WEIGHTS, older.archive_id),
    ]
    assert items[0].files == (zip_of(bench, older),)
    assert items[0].size_bytes == zip_of(bench, older).stat().st_size
    assert list(items[1].files) == weights_of(bench, older.archive_id)
    assert found(bench, keep_archives_days=29, keep_weights_days=29, busy=[older.archive_id]) == []
    # Whatever is set, the newest one stays, LIVE or not.
    every = found(bench, keep_archives_days=0, keep_weights_days=0)
    assert newer.archive_id not in {i.name for i in every}


def test_what_is_pruned_leaves_its_rows_and_a_record(two: tuple[Bench, Delivery, Delivery]) -> None:
    bench, older, newer = two
    before = counts(bench)
    items = found(bench, keep_archives_days=1, keep_weights_days=1)
    gone = [p for item in items for p in item.files]
    assert remove_files(bench.platform, items, run_id="prune") == []
    assert not any(p.exists() for p in gone)
    assert zip_of(bench, newer).is_file()
    assert all(p.is_file() for p in weights_of(bench, newer.archive_id))
    assert counts(bench) == before
    written = bench.rows(
        "SELECT archive_id, kind, n_files, size_bytes, reason FROM removed_files ORDER BY kind"
    )
    assert [(r["archive_id"], r["kind"], r["n_files"]) for r in written] == [
        (older.archive_id, "ARCHIVE", 1),
        (older.archive_id, "WEIGHTS", 1),
    ]
    assert all(r["reason"].startswith("superseded, received 2025-") and r["size_bytes"] > 0 for r in written)
    assert found(bench, keep_archives_days=1, keep_weights_days=1) == [], "again there is nothing to do"


def test_weights_that_a_kept_archive_shares_stay(bench: Bench) -> None:
    same = network(BUY, seed=5)
    first = extracted(bench, "20250101_000000", {"AAPL_4Hour": same, "MSFT_4Hour": network(seed=6)})
    bench.clock.at += 30 * DAY
    extracted(bench, "20250201_000000", {"AAPL_4Hour": same, "MSFT_4Hour": network(seed=7)})
    of_aapl, of_msft = weights_of(bench, first.archive_id)
    [item] = [i for i in found(bench, keep_weights_days=1) if i.rule is Rule.WEIGHTS]
    assert item.files == (of_msft,)
    remove_files(bench.platform, [item], run_id="prune")
    assert of_aapl.is_file()


def test_killed_in_the_middle_it_is_finished_by_the_next(
    two: tuple[Bench, Delivery, Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, older, _ = two
    before = counts(bench)
    items = found(bench, keep_archives_days=1, keep_weights_days=1)

    def killed(path: Path) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(retention, "remove", killed)
    with pytest.raises(KeyboardInterrupt):
        remove_files(bench.platform, items, run_id="prune")
    monkeypatch.undo()
    assert found(bench, keep_archives_days=1, keep_weights_days=1) == items
    assert remove_files(bench.platform, items, run_id="prune") == []
    assert not zip_of(bench, older).exists()
    assert counts(bench) == before


def test_a_file_that_cannot_be_removed_is_told_and_the_others_go(
    two: tuple[Bench, Delivery, Delivery], monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, older, _ = two
    items = found(bench, keep_archives_days=1, keep_weights_days=1)
    path = zip_of(bench, older)
    really = retention.remove

    def held_open(file: Path) -> None:
        if file == path:
            raise PermissionError(13, "it is open in another program")
        really(file)

    monkeypatch.setattr(retention, "remove", held_open)
    assert remove_files(bench.platform, items, run_id="prune") == [
        f"{path} could not be removed: it is open in another program"
    ]
    assert not any(p.exists() for p in weights_of(bench, older.archive_id))


def test_a_pruned_archive_says_so_where_it_is_asked_for(
    two: tuple[Bench, Delivery, Delivery], tmp_path: Path
) -> None:
    bench, older, _ = two
    assert why_removed(bench.platform, older.archive_id, Kind.ARCHIVE) is None
    remove_files(bench.platform, files_of_archive(bench.platform, older.archive_id), run_id="by hand")
    said = rf"archive {older.archive_id} was pruned on 2025-03-0\d \(by hand\); drop the archive again"
    with pytest.raises(Rejected, match=said):
        stage_models(bench.platform, older.archive_id, tmp_path / "bot")
    with pytest.raises(Rejected, match=said):
        verify_archive(bench.platform, older.archive_id)
    with pytest.raises(Rejected, match=said):
        extract_models(bench.platform, {"AAPL": older.archive_id}, run_id="again")
    report = bench.evaluate({"AAPL": older.archive_id}, plans=("365d",))
    assert "was pruned on 2025-03-0" in report.symbols[0].problems[0]
    assert bench.folds("AAPL", "365d") == []


def test_dropped_again_it_is_worked_on_again_and_comes_back_as_it_was(
    two: tuple[Bench, Delivery, Delivery], tmp_path: Path
) -> None:
    bench, older, _ = two
    file = next((bench.root / "delivered").glob("*20250101_000000*"))
    before = bench.rows("SELECT * FROM deployment_decisions ORDER BY ALL")
    folds = bench.rows("SELECT * FROM fold_results ORDER BY ALL")
    assert bench.deliver(file).outcome is Outcome.DUPLICATE
    files = files_of_archive(bench.platform, older.archive_id)
    remove_files(bench.platform, files, run_id="by hand")
    again = bench.validate(file)
    assert (again.outcome, again.archive_id) == (Outcome.RETRY, older.archive_id)
    assert zip_of(bench, older).is_file()
    assert all(p.is_file() for p in weights_of(bench, older.archive_id))
    assert bench.rows("SELECT * FROM deployment_decisions ORDER BY ALL") == before
    assert bench.rows("SELECT * FROM fold_results ORDER BY ALL") == folds
    assert bench.deliver(file).outcome is Outcome.DUPLICATE
    decisions = ("LIVE", "PAPER", "RETRAIN", "DROP")
    staged = stage_models(bench.platform, older.archive_id, tmp_path / "bot", decisions=decisions)
    assert staged.files == ("models/rl_symbols/AAPL_4Hour.pt",)
    assert found(bench, keep_archives_days=1) == [], "its age counts from when it was delivered again"


def test_refused_files_go_by_their_age(bench: Bench) -> None:
    folder = bench.platform.settings.data_dir / "archives" / "rejected"
    folder.mkdir(parents=True)
    recorded, unknown = folder / "bad.zip", folder / "other.zip"
    recorded.write_bytes(b"no zip")
    unknown.write_bytes(b"neither")
    old = (bench.clock.at - 100 * DAY).timestamp()
    os.utime(unknown, (old, old))
    refused = {
        "archive_id": "rejected-0123456789ab",
        "sha256": "0" * 64,
        "file_name": "bad.zip",
        "received_at": bench.clock.at - 10 * DAY,
        "status": "REJECTED",
        "stored_path": "archives/rejected/bad.zip",
    }
    bench.platform.warehouse.write([Append("training_archives", [refused])], run_id="r", now=bench.clock.at)
    assert names(found(bench), Rule.REJECTED) == []
    assert names(found(bench, keep_rejected_days=50), Rule.REJECTED) == ["archives/rejected/other.zip"]
    items = found(bench, keep_rejected_days=9)
    assert names(items, Rule.REJECTED) == ["archives/rejected/bad.zip", "archives/rejected/other.zip"]
    remove_files(bench.platform, items, run_id="prune")
    assert list(folder.iterdir()) == []
    assert bench.rows("SELECT archive_id, kind FROM removed_files") == [
        {"archive_id": "rejected-0123456789ab", "kind": "ARCHIVE"}
    ]


def test_only_the_newest_backups_are_kept(bench: Bench) -> None:
    made = [bench.platform.warehouse.make_backup(now=datetime(2025, 1, day, tzinfo=UTC)) for day in (1, 2, 3)]
    assert names(found(bench), Rule.BACKUPS) == []
    items = found(bench, keep_backups=1)
    assert [item.files for item in items] == [(made[0],), (made[1],)]
    remove_files(bench.platform, items, run_id="prune")
    assert [p.exists() for p in made] == [False, False, True]
    assert bench.rows("SELECT * FROM removed_files") == [], "a backup is no archive's"


def test_left_overs_of_killed_processes_go_after_a_day_and_links_go_themselves(
    two: tuple[Bench, Delivery, Delivery], tmp_path: Path
) -> None:
    bench, *_ = two
    data = bench.platform.settings.data_dir
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "thesis.txt").write_text("mine")
    parts = [
        data / "scratch" / "tmpabc" / "checkpoint.pt",
        data / "archives" / f".{'a' * 64}.zip.part",
        data / "weights" / "ab" / f".{'ab' * 32}.safetensors.1-2.part",
        data / "weights" / "cd" / f"{'cd' * 32}.safetensors",
        bench.platform.settings.inbox / ".new.zip.part",
        data / "postval.publishing.duckdb",
    ]
    for path in parts:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"half")
    tops = [parts[0].parent, *parts[1:]]
    others = [data / "archives" / ".keep", bench.platform.settings.inbox / "new.zip"]
    for path in others:
        path.write_bytes(b"mine")
    if hasattr(os, "symlink"):
        (data / "scratch" / "link").symlink_to(outside, target_is_directory=True)
    now = bench.clock.at.timestamp()
    for path in [*tops, *others]:
        os.utime(path, (now, now))
    bench.clock.at += DAY / 2
    assert {f for i in found(bench) for f in i.files}.isdisjoint(tops), "they may be at work yet"
    bench.clock.at += DAY
    for path in tops:
        assert path in {f for i in found(bench) for f in i.files}, path
    bench.clock.at = datetime(2040, 1, 1, tzinfo=UTC)
    items = found(bench)
    assert {i.rule for i in items} == {Rule.LEFT_OVERS}
    remove_files(bench.platform, items, run_id="prune")
    assert not any(path.exists() for path in parts)
    assert not (data / "scratch" / "link").is_symlink()
    assert (outside / "thesis.txt").read_text() == "mine"
    assert all(path.is_file() for path in others)
    assert found(bench) == []
