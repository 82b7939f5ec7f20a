"""A study goes on where it was stopped, and comes out the same however it was made."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.trainer.calibration import running
from postval_assets.trainer.calibration.models import load_networks, save_networks
from postval_assets.trainer.calibration.records import PieceResult, ResultsFile
from postval_assets.trainer.calibration.running import Finished, finished_before, networks_made_of, run_study
from postval_assets.trainer.calibration.study import Piece, PieceKind, Study
from postval_assets_tests.trainer.calibration.calibration_cases import (
    SAMPLE,
    TINY,
    judged,
    keep_stand_ins,
    stand_in_networks,
)


def silent(line: str) -> None:
    """Nobody listens."""


def run(results: Path, study: Study = TINY, processes: int = 1) -> Finished:
    keep_stand_ins(results, study.seed)
    return run_study(study, results, SAMPLE, processes, silent)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    results = tmp_path_factory.mktemp("study") / "alone.jsonl"
    return results, run(results)


def models_of(done: Finished) -> dict[str, object]:
    return {result.name: result.models for result in done.results}


def test_two_processes_make_what_one_makes(alone: tuple[Path, Finished], tmp_path: Path) -> None:
    assert models_of(run(tmp_path / "two.jsonl", processes=2)) == models_of(alone[1])


def test_a_stopped_study_goes_on_and_ends_the_same(
    alone: tuple[Path, Finished], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = alone[0].read_text(encoding="utf-8")
    results = tmp_path / "half.jsonl"
    # as a process leaves it that was killed in the middle of a line
    results.write_text(whole[: len(whole) - len(whole.splitlines()[-1]) // 2], encoding="utf-8")
    made: list[str] = []
    timed = running._timed
    monkeypatch.setattr(
        running, "_timed", lambda maker, piece: made.append(piece.name) or timed(maker, piece)
    )
    done = run(results)
    assert made == [json.loads(whole.splitlines()[-1])["piece"]]
    assert models_of(done) == models_of(alone[1])
    assert models_of(run(results)) == models_of(alone[1])
    assert len(made) == 1


def test_a_larger_study_keeps_the_pieces_of_a_smaller_one(
    alone: tuple[Path, Finished], tmp_path: Path
) -> None:
    results = tmp_path / "larger.jsonl"
    results.write_bytes(alone[0].read_bytes())
    done = run(results, replace(TINY, bundled_archives=2))
    assert len(done.results) == len(alone[1].results) + 1
    kept = models_of(done)
    assert {name: kept[name] for name in models_of(alone[1])} == models_of(alone[1])


@pytest.mark.parametrize("changes", [{"seed": 6}, {"plans": ("365d",)}, {"archive_size": 4}])
def test_results_of_another_study_are_not_mixed_in(
    alone: tuple[Path, Finished], changes: dict[str, object]
) -> None:
    before = alone[0].read_bytes()
    with pytest.raises(Rejected, match="another study"):
        run(alone[0], replace(TINY, **changes))  # type: ignore[arg-type]
    assert alone[0].read_bytes() == before
    keep_stand_ins(alone[0], TINY.seed)


def test_a_file_is_read_back_as_it_was_written(alone: tuple[Path, Finished]) -> None:
    read = finished_before(alone[0])
    assert models_of(read) == models_of(alone[1])
    assert read.study == TINY
    assert read.depends_on == json.loads(json.dumps(alone[1].depends_on))


def test_what_is_no_file_of_results_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Unavailable):
        finished_before(tmp_path / "missing.jsonl")
    for content in ("", "no json\n", "[]\n", '{"depends_on": {}, "columns": ["other"]}\n'):
        file = tmp_path / "file.jsonl"
        file.write_text(content, encoding="utf-8")
        with pytest.raises(Rejected):
            finished_before(file)


def test_a_damaged_line_is_told(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    kept = ResultsFile(file, {"seed": 1})
    kept.append(PieceResult("fresh/00000", 1.0, (judged("LIVE"),)))
    file.write_text(file.read_text(encoding="utf-8").replace('"LIVE"', "LIVE"), encoding="utf-8")
    with pytest.raises(Rejected, match="no result"):
        ResultsFile(file, {"seed": 1})


def test_networks_are_kept_and_those_of_other_settings_are_not_used(tmp_path: Path) -> None:
    path = tmp_path / "networks.npz"
    assert load_networks(path, networks_made_of(1)) is None
    networks = stand_in_networks()
    save_networks(path, networks, networks_made_of(1))
    assert load_networks(path, networks_made_of(2)) is None
    read = load_networks(path, networks_made_of(1))
    assert read is not None
    for before, after in zip(networks, read, strict=True):
        assert (before.symbol, before.version) == (after.symbol, after.version)
        assert {k: v.tolist() for k, v in before.tensors.items()} == {
            k: v.tolist() for k, v in after.tensors.items()
        }


def test_pieces_have_names_of_their_own_and_come_mixed() -> None:
    study = Study(1, ("180d", "365d"), archives=4, bundled_archives=2, edge_markets=3)
    pieces = study.pieces()
    assert len({p.name for p in pieces}) == len(pieces) == 4 + 2 + 4 * 3
    assert {p.kind for p in pieces[:6]} == set(PieceKind)
    assert Piece(PieceKind.EDGE, 2, 3.0).name == "edge-3/00002"


def test_a_study_that_cannot_be_is_refused() -> None:
    for wrong in ({"plans": ("90d",)}, {"plans": ()}, {"archives": -1}, {"archive_size": 0}):
        with pytest.raises(Rejected):
            replace(TINY, **wrong)  # type: ignore[arg-type]
