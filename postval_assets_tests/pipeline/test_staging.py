"""Staging: the original checkpoints of chosen models, and what they were chosen by."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.pipeline.staging import Staged, newest_complete_archive, stage_models
from postval_assets_tests.factories import drop_claims, good_claims, make_summary, review_claims
from postval_assets_tests.pipeline.conftest import BUY, Bench, MakeBench, network

ARCHIVE = "20250201_000000"
SYMBOLS = {
    "UPPUSD": "rising",
    "REVUSD": "rising",
    "DWNUSD": "falling",
    "BADUSD": "rising",
    "VERUSD": "rising",
}


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, make_bench: MakeBench) -> Bench:
    """A LIVE, a PAPER, three DROP: by losses, by the gate, by its version."""
    bench = make_bench(tmp_path_factory.mktemp("staging"))
    for symbol, market in SYMBOLS.items():
        bench.put_bars(symbol, market=market)
    models = {f"{s}_4Hour": network(BUY, seed=n) for n, s in enumerate(SYMBOLS)}
    models["VERUSD_4Hour"] = network(BUY, model_version="9.9.9")
    claims = {name: good_claims() for name in models}
    claims |= {"REVUSD_4Hour": review_claims(), "BADUSD_4Hour": drop_claims()}
    bench.validate(bench.archive(models, summary=make_summary(claims)))
    decisions = {s: bench.decisions(s)[0]["decision"] for s in SYMBOLS}
    assert decisions == {
        "UPPUSD": "LIVE",
        "REVUSD": "PAPER",
        "DWNUSD": "DROP",
        "BADUSD": "DROP",
        "VERUSD": "DROP",
    }
    return bench


def names(staged: Staged) -> list[str]:
    return [Path(f).stem for f in staged.files]


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, by its path, hidden ones too."""
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@contextmanager
def damaged(archive: Path, entry: str) -> Iterator[None]:
    """One entry of a stored archive has a wrong byte meanwhile."""
    whole = archive.read_bytes()
    with zipfile.ZipFile(archive) as file:
        info = next(i for i in file.infolist() if i.filename.endswith(entry))
    broken = bytearray(whole)
    broken[info.header_offset + 30 + len(info.filename) + info.compress_size // 2] ^= 0xFF
    archive.write_bytes(broken)
    try:
        yield
    finally:
        archive.write_bytes(whole)


def test_what_is_staged_is_the_original_file(bench: Bench, tmp_path: Path) -> None:
    staged = stage_models(bench.platform, ARCHIVE, tmp_path / "bot", decisions=["LIVE", "PAPER"])
    assert sorted(staged.files) == ["models/rl_symbols/REVUSD_4Hour.pt", "models/rl_symbols/UPPUSD_4Hour.pt"]
    manifest = json.loads(staged.manifest.read_text(encoding="utf-8"))
    with zipfile.ZipFile(next(iter((bench.root / "delivered").iterdir()))) as archive:
        for entry in manifest["models"]:
            content = (tmp_path / "bot" / entry["file"]).read_bytes()
            assert content == archive.read(f"Alpaca_trading/{entry['file']}")
            assert entry["sha256"] == hashlib.sha256(content).hexdigest()
    found = {m["symbol"]: m for m in manifest["models"]}
    assert {s: (m["classification"], m["decision"]) for s, m in found.items()} == {
        "UPPUSD": ("APPROVED", "LIVE"),
        "REVUSD": ("REVIEW", "PAPER"),
    }
    row = bench.decisions("REVUSD")[0]
    assert found["REVUSD"]["reasons"] == row["reasons"] == ["STEADY_PROFIT", "GATING_REVIEW"]
    assert found["REVUSD"]["inputs_digest"] == row["inputs_digest"]
    assert found["REVUSD"]["model_sha256"] == row["model_sha256"]
    assert (manifest["archive_id"], manifest["policy"]) == (ARCHIVE, "standard")
    assert manifest["archive_sha256"] == bench.one("SELECT sha256 FROM training_archives")["sha256"]
    left = sorted(p.name for p in (tmp_path / "bot").rglob("*") if p.is_file())
    assert left == ["REVUSD_4Hour.pt", "UPPUSD_4Hour.pt", "manifest.json"], "no partial files"


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        ({"classifications": ["APPROVED"]}, ["DWNUSD_4Hour", "UPPUSD_4Hour"]),
        ({"classifications": ["REVIEW", "DROP"]}, ["BADUSD_4Hour", "REVUSD_4Hour"]),
        ({"decisions": ["DROP"]}, ["BADUSD_4Hour", "DWNUSD_4Hour"]),
        ({"classifications": ["APPROVED"], "decisions": ["LIVE"]}, ["UPPUSD_4Hour"]),
        ({}, ["REVUSD_4Hour", "UPPUSD_4Hour"]),
    ],
)
def test_choices(bench: Bench, tmp_path: Path, choice, expected) -> None:
    """A model whose checkpoint could not be read is never staged; said nothing, LIVE and PAPER are meant."""
    assert sorted(names(stage_models(bench.platform, ARCHIVE, tmp_path, **choice))) == expected


def test_a_choice_that_nothing_meets_says_what_there_is(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match=r"no model of archive .* meets that choice; it has .*1 APPROVED/LIVE"):
        stage_models(bench.platform, ARCHIVE, tmp_path / "bot", decisions=["RETRAIN"])
    assert not (tmp_path / "bot").exists()


def test_unknown_and_removed_archives(bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(Rejected, match="archive '19990101_000000' is unknown"):
        stage_models(bench.platform, "19990101_000000", tmp_path)
    path = bench.platform.archives.path_of(bench.one("SELECT sha256 FROM training_archives")["sha256"])
    away = path.rename(path.with_suffix(".away"))
    try:
        with pytest.raises(Rejected, match=r"is not in the store any more .* deliver it again"):
            stage_models(bench.platform, ARCHIVE, tmp_path)
    finally:
        away.rename(path)


def test_staging_again_takes_away_what_is_no_longer_chosen(bench: Bench, tmp_path: Path) -> None:
    stage_models(bench.platform, ARCHIVE, tmp_path, decisions=["LIVE", "PAPER"])
    staged = stage_models(bench.platform, ARCHIVE, tmp_path, decisions=["LIVE"])
    folder = tmp_path / "models" / "rl_symbols"
    assert names(staged) == [p.stem for p in folder.iterdir()] == ["UPPUSD_4Hour"]
    (folder / "MINE_1Hour.pt").write_bytes(b"somebody's own")
    with pytest.raises(Rejected, match=r"not of an earlier staging \(MINE_1Hour.pt\)"):
        stage_models(bench.platform, ARCHIVE, tmp_path, decisions=["PAPER"])
    assert sorted(p.stem for p in folder.iterdir()) == ["MINE_1Hour", "UPPUSD_4Hour"], "nothing was touched"
    (tmp_path / "manifest.json").write_text("[1]", encoding="utf-8")
    with pytest.raises(Rejected, match="is not a manifest of postval stage"):
        stage_models(bench.platform, ARCHIVE, tmp_path, decisions=["PAPER"])


def test_a_copy_that_fails_leaves_the_earlier_staging_as_it_was(bench: Bench, tmp_path: Path) -> None:
    stage_models(bench.platform, ARCHIVE, tmp_path, decisions=["DROP"])
    before = content(tmp_path)
    stored = bench.platform.archives.path_of(bench.one("SELECT sha256 FROM training_archives")["sha256"])
    # REVUSD comes before it, and is copied by then.
    with (
        damaged(stored, "UPPUSD_4Hour.pt"),
        pytest.raises(Rejected, match=r"UPPUSD_4Hour.pt in .* is damaged"),
    ):
        stage_models(bench.platform, ARCHIVE, tmp_path)
    assert content(tmp_path) == before
    assert sorted(names(stage_models(bench.platform, ARCHIVE, tmp_path))) == ["REVUSD_4Hour", "UPPUSD_4Hour"]
    assert len(content(tmp_path)) == 3


def test_a_staging_that_stops_half_way_can_be_done_again(bench: Bench, tmp_path: Path) -> None:
    """The new REVUSD is in place, the new UPPUSD is not, and the old DWNUSD is not gone yet."""
    stage_models(bench.platform, ARCHIVE, tmp_path, classifications=["APPROVED"])
    folder = tmp_path / "models" / "rl_symbols"
    obstacle = folder / "UPPUSD_4Hour.pt"
    obstacle.unlink()
    obstacle.mkdir()
    (obstacle / "file").write_bytes(b"so that nothing can take its name")
    with pytest.raises(Unavailable, match=f"archive {ARCHIVE} could not be staged to"):
        stage_models(bench.platform, ARCHIVE, tmp_path)
    assert sorted(p.name for p in folder.iterdir()) == [
        "DWNUSD_4Hour.pt",
        "REVUSD_4Hour.pt",
        "UPPUSD_4Hour.pt",
    ], "and no parts"
    manifest = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    listed = sorted(m["symbol"] for m in manifest["models"])
    assert (manifest["unfinished"], listed) == (True, ["DWNUSD", "REVUSD", "UPPUSD"])
    (obstacle / "file").unlink()
    obstacle.rmdir()
    staged = stage_models(bench.platform, ARCHIVE, tmp_path)
    assert sorted(p.stem for p in folder.iterdir()) == names(staged) == ["REVUSD_4Hour", "UPPUSD_4Hour"]
    manifest = json.loads(staged.manifest.read_text(encoding="utf-8"))
    assert "unfinished" not in manifest
    assert [m["symbol"] for m in manifest["models"]] == ["REVUSD", "UPPUSD"]


def test_parts_that_a_killed_staging_left_are_no_hindrance(bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "models" / "rl_symbols"
    folder.mkdir(parents=True)
    for part in (
        folder / ".UPPUSD_4Hour.pt.part",
        folder / ".OLDUSD_1Hour.pt.part",
        tmp_path / ".manifest.json.part",
    ):
        part.write_bytes(b"half of it")
    mine = tmp_path / ".mine"
    mine.write_bytes(b"somebody's own")
    stage_models(bench.platform, ARCHIVE, tmp_path, decisions=["LIVE"])
    assert sorted(content(tmp_path)) == [".mine", "manifest.json", "models/rl_symbols/UPPUSD_4Hour.pt"]


def test_a_folder_that_cannot_be_made_is_told(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"no folder")
    with pytest.raises(Unavailable, match=r"could not be staged to .*bot: .*"):
        stage_models(bench.platform, ARCHIVE, tmp_path / "file" / "bot")


def test_only_an_archive_that_is_decided_is_staged(tmp_path: Path, make_bench: MakeBench) -> None:
    bench = make_bench(tmp_path)
    assert newest_complete_archive(bench.platform) is None
    dropped = make_summary({"AAPL_4Hour": drop_claims()}, timestamp="20250101_000000")
    first = bench.deliver(
        bench.archive({"AAPL_4Hour": network(BUY)}, stamp="20250101_000000", summary=dropped)
    )
    bench.decide(bench.intake(first))
    models = {f"{s}_4Hour": network(BUY) for s in ("AAPL", "MSFT", "SPY")}
    half = bench.intake(bench.deliver(bench.archive(models)))
    bench.decide({"AAPL": half["AAPL"]})
    target = tmp_path / "bot"
    stage_models(bench.platform, first.archive_id, target, decisions=["DROP"])
    before = content(target)
    with pytest.raises(Rejected, match=r"is not decided yet .*2 of 3 models .*\(MSFT_4Hour, SPY_4Hour\)"):
        stage_models(bench.platform, ARCHIVE, target, classifications=["APPROVED"])
    assert content(target) == before
    assert newest_complete_archive(bench.platform) == first.archive_id
    bench.decide(half)
    assert newest_complete_archive(bench.platform) == ARCHIVE
