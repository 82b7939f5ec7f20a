"""Every hostile checkpoint under the canary, alone and among good neighbours in the real stage."""

from __future__ import annotations

import pickle  # noqa: TID251 - the reader that trusts what it reads
import time
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.failures import Rejected
from postval_assets_tests.factories import make_checkpoint
from postval_assets_tests.hostile.canary import watch
from postval_assets_tests.hostile.cases import Case, Outcome, surprises
from postval_assets_tests.hostile.checkpoint_bytes import START, STOP, call, instructions
from postval_assets_tests.hostile.checkpoint_cases import CASES
from postval_assets_tests.hostile.checkpoint_runs import judge
from postval_assets_tests.hostile.code_cases import LIVE
from postval_assets_tests.hostile.container_cases import with_locator_elsewhere, with_other_letters
from postval_assets_tests.pipeline.conftest import BUY, Bench, bench, make_bench, network

__all__ = ["bench", "make_bench"]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("case", CASES, ids=[case.name for case in CASES])
def test_a_hostile_checkpoint_does_no_harm(case: Case, tmp_path: Path) -> None:
    verdict = judge(case, tmp_path)
    assert surprises(case, verdict) == ()


def test_the_names_of_the_cases_are_their_own() -> None:
    assert len({case.name for case in CASES}) == len(CASES)
    assert len(CASES) >= 70


@pytest.mark.parametrize("payload", LIVE, ids=range(len(LIVE)))
def test_the_canary_notices_a_reader_that_trusts_the_same_bytes(payload: bytes, tmp_path: Path) -> None:
    sandbox = tmp_path / "data"
    sandbox.mkdir()
    seen = watch(lambda: pickle.loads(payload), sandbox=sandbox)  # noqa: S301
    assert seen.noticed


@pytest.mark.parametrize("make", [with_locator_elsewhere, with_other_letters])
def test_two_libraries_do_see_different_instructions_in_one_file(
    make: Callable[[bytes], bytes], tmp_path: Path
) -> None:
    """Why the container is checked: what Python shows of these files is not what torch would load."""
    path = tmp_path / "two.pt"
    path.write_bytes(make(START + call("collections.Counter") + STOP))
    with zipfile.ZipFile(path) as file:
        assert file.read("archive/data.pkl") == instructions()
    assert torch.load(path, weights_only=True) == Counter()
    with pytest.raises(Rejected):
        read_checkpoint(path)


def test_good_neighbours_of_hostile_models_are_extracted(bench: Bench, tmp_path: Path) -> None:
    """Some of every family in one archive, through the real stage: the good ones are used, each bad one is a row."""
    hostile = {}
    for position, case in enumerate(CASES[::7]):
        folder = tmp_path / f"made{position}"
        folder.mkdir()
        path = case.build(folder)
        if path.stat().st_size < 2**18:
            hostile[f"H{_letters(position)}_1Hour"] = (case, path)
    models: dict[str, Any] = {"AAPL_1Hour": network(BUY), "ZZZ_1Hour": network(BUY, seed=5)}
    models |= {name: path for name, (_, path) in hostile.items()}
    delivery = bench.deliver(bench.archive(models))
    begun = time.process_time()
    bench.intake(delivery)
    assert time.process_time() - begun < 60
    rows = {row["symbol"]: row for row in bench.rows("SELECT * FROM extracted_models")}
    assert {rows["AAPL"]["status"], rows["ZZZ"]["status"]} == {"OK"}
    assert len(rows) == len(models)
    for name, (case, _) in hostile.items():
        row = rows[name.removesuffix("_1Hour")]
        if case.expected is Outcome.REFUSED:
            assert row["status"] in {"REJECTED", "INCOMPATIBLE"}, case.name
            assert row["reason"].isascii(), case.name
            assert row["reason"].isprintable(), case.name
            assert row["weights_path"] is None, case.name
        else:
            assert row["status"] in {"OK", "INCOMPATIBLE"}, case.name
    assert len(hostile) >= 60
    assert list(bench.platform.scratch.iterdir()) == []


def _letters(number: int) -> str:
    return "".join(chr(65 + number // 26**place % 26) for place in (2, 1, 0))


def test_a_checkpoint_as_large_as_those_of_production_is_read_fast(tmp_path: Path) -> None:
    path = make_checkpoint(tmp_path / "large.pt", hidden=(1024, 512, 256))
    sandbox = tmp_path / "data"
    sandbox.mkdir()
    case = Case("production", "", lambda _: path, Outcome.ACCEPTED, "read")
    folder = tmp_path / "judged"
    folder.mkdir()
    verdict = judge(case, folder)
    assert surprises(case, verdict) == ()
