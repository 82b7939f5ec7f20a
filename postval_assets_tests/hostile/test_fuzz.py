"""The fuzzer for a bounded number of cases, and that it notices, keeps and replays what it should."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets_tests.hostile import fuzz as fuzzer
from postval_assets_tests.hostile.canary import SONG, sing
from postval_assets_tests.hostile.fuzz import case_of, fuzz, main, replay, table, warm_up
from postval_assets_tests.hostile.fuzz_readers import READERS

SEED = 20250201


@pytest.fixture(scope="module", autouse=True)
def _warm() -> None:
    warm_up()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("name", "n_cases"), [("archive", 600), ("summary", 1500), ("checkpoint", 600)])
def test_changed_files_are_refused_or_read_and_nothing_else(name: str, n_cases: int, tmp_path: Path) -> None:
    count = fuzz([READERS[name]], SEED, tmp_path, max_cases=n_cases)[name]
    assert count.surprises == [], table({name: count})
    assert count.cases == n_cases == count.refused + count.accepted
    # Were all refused at the first byte, or all read, the changes would not reach what they are for.
    assert count.refused > n_cases // 10
    assert count.accepted > n_cases // 50


@pytest.mark.parametrize("name", READERS)
def test_a_case_is_made_by_its_seed_and_number_alone(name: str) -> None:
    reader = READERS[name]
    made = [case_of(reader, SEED, number) for number in range(30)]
    assert made == [case_of(reader, SEED, number) for number in range(30)]
    assert len(set(made)) > 20
    assert case_of(reader, SEED + 1, 3) != made[3]


def _raises(error: Exception) -> Callable[[bytes, Path], Sequence[str]]:
    def read(_: bytes, __: Path) -> Sequence[str]:
        raise error

    return read


def _writes_beside(_: bytes, folder: Path) -> Sequence[str]:
    (folder.parent / "stray").write_text("here")
    return ()


def _sings(_: bytes, __: Path) -> Sequence[str]:
    sing(SONG)
    return ()


def _takes_memory(_: bytes, __: Path) -> Sequence[str]:
    assert len(b"\1" * (2 * fuzzer.MEMORY_BOUND_BYTES)) > 0
    return ()


@pytest.mark.parametrize(
    ("read", "what"),
    [
        (_raises(TypeError("no such thing")), "TypeError"),
        (_raises(Unavailable("later")), "Unavailable"),
        (_raises(Rejected("\x1b[2J")), "unsafe text"),
        (_sings, "canary sang"),
        (_writes_beside, "stray file"),
        (_takes_memory, "memory over the bound"),
        (lambda _, __: ["weights that are not finite"], "not finite"),
    ],
)
def test_a_surprise_is_kept_and_can_be_replayed(
    read: Callable[[bytes, Path], Sequence[str]], what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = replace(READERS["summary"], read=read)
    monkeypatch.setitem(READERS, "summary", reader)
    monkeypatch.setattr(fuzzer, "MEMORY_BOUND_BYTES", 2**26)
    count = fuzz([reader], SEED, tmp_path, max_cases=1)["summary"]
    (surprise,) = count.surprises
    assert what in surprise.what
    kept = Path(surprise.kept)
    assert kept.read_bytes() == case_of(reader, SEED, 0)
    assert what in "".join(replay(kept))
    assert main(["--replay", str(kept)]) == 1
    monkeypatch.undo()
    assert replay(kept) == []


def test_the_time_ends_the_loop(tmp_path: Path) -> None:
    assert fuzz(list(READERS.values()), SEED, tmp_path, seconds=0.0)["archive"].cases == 0


def test_the_command_runs_in_a_process_of_its_own(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--seconds", "1", "--seed", "3", "--reader", "summary", "--keep", str(tmp_path)]) == 0
    words = capsys.readouterr().out.split()
    assert words[words.index("summary") + 4] == "0", "surprises"
    assert int(words[words.index("summary") + 1]) > 0


def test_a_file_that_kills_the_process_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of a process that ends badly is taken over where it stopped."""
    ended = iter((1, 0))

    def run(command: Sequence[str], **_: object) -> object:
        first = int(command[command.index("--first") + 1])
        figures = {"summary": {"cases": 7, "refused": 7, "accepted": 0, "surprises": []}}
        if first == 0:
            (tmp_path / "at-work.json").write_text(json.dumps(["summary", 3, 7, figures]))
        code = next(ended)
        return type("Done", (), {"returncode": code, "stdout": json.dumps(figures).encode()})()

    monkeypatch.setattr("subprocess.run", run)
    assert main(["--seconds", "5", "--seed", "3", "--reader", "summary", "--keep", str(tmp_path)]) == 1
    assert (tmp_path / "summary-3-7.bin").read_bytes() == case_of(READERS["summary"], 3, 7)
