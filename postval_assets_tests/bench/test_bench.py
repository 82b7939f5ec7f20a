"""The benchmark's frame runs, and its checks can fail. No figure is held to anything: this is no quiet machine."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from postval_assets_tests.bench.__main__ import main
from postval_assets_tests.bench.engine_bench import agreement
from postval_assets_tests.bench.engine_case import (
    WITHOUT_ACCOUNT,
    EngineCase,
    PlainNetwork,
    plain_replay,
    production_case,
    run_product,
)
from postval_assets_tests.bench.options import BenchOptions
from postval_assets_tests.bench.peer_bench import _orders, _same_runs
from postval_assets_tests.bench.report import spread, text_table, with_spread


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> EngineCase:
    return production_case(BenchOptions((), tmp_path_factory.mktemp("case"), quick=True))


def numbers_in(found: object) -> list[float]:
    if isinstance(found, dict):
        return [x for value in found.values() for x in numbers_in(value)]
    if isinstance(found, list):
        return [x for value in found for x in numbers_in(value)]
    return [float(found)] if isinstance(found, int | float) else []


def test_one_command_measures_prints_and_writes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    words = [
        "--quick",
        "--only",
        "peers,engine,evidence",
        "--skip-peers",
        "--out",
        str(out),
        "--scratch",
        str(tmp_path),
    ]
    assert main(words) == 0
    printed = capsys.readouterr().out
    assert "floor / engine" in printed
    assert "--skip-peers" in printed
    result = json.loads(out.read_text(encoding="utf-8"))
    assert list(result["sections"]) == ["engine", "evidence", "peers"]
    assert "as a share of the evaluation" in printed
    assert all(of["added_s"] > 0.0 for of in result["sections"]["evidence"].values())
    assert result["machine"]["torch_threads"] >= 1
    production = result["sections"]["engine"]["cases"]["production"]
    for ratio in ("share_of_floor", "against_plain", "against_old_scripts", "bars_per_s"):
        assert 0.0 < production[ratio]["min"] <= production[ratio]["median"] <= production[ratio]["max"]
    assert all(math.isfinite(x) for x in numbers_in(result))
    assert production["equal_to_plain"] is True
    assert [path.name for path in tmp_path.iterdir()] == ["result.json"], "the scratch folder is removed"


def test_a_section_that_fails_is_told_and_the_others_are_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(options: BenchOptions) -> dict[str, object]:
        raise RuntimeError("no room")

    monkeypatch.setattr("postval_assets_tests.bench.engine_bench.run", broken)
    out = tmp_path / "result.json"
    words = [
        "--quick",
        "--only",
        "engine,peers",
        "--skip-peers",
        "--out",
        str(out),
        "--scratch",
        str(tmp_path),
    ]
    assert main(words) == 1
    assert "no room" in capsys.readouterr().err
    result = json.loads(out.read_text(encoding="utf-8"))
    assert result["failed"] == {"engine": "RuntimeError: no room"}
    assert list(result["sections"]) == ["peers"]


@pytest.mark.parametrize("words", [["--only", "engine,speed"], ["--models", "0"]])
def test_what_is_not_to_be_had_is_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        main(words)


def test_the_check_against_the_plain_loop_can_fail(case: EngineCase) -> None:
    (run, *_), block = run_product(case, case.lanes()).runs, case.blocks[0]
    plain = PlainNetwork(case).run(block)
    assert agreement(run, plain, block)["equal"] is True
    assert agreement(replace(run, equity=run.equity * (1 + 1e-8)), plain, block)["equal"] is False
    other = run.actions.copy()
    other[3] = (other[3] + 1) % 7
    found = agreement(replace(run, actions=other), plain, block)
    assert (found["equal"], found["first_different_decision"]) == (False, 3)


def test_the_check_against_a_peers_runs_can_fail(case: EngineCase) -> None:
    runs = run_product(case, case.lanes()).runs
    theirs = [{"actions": r.actions[:-1].tolist(), "equity": r.equity.tolist()} for r in runs]
    assert _same_runs(runs, theirs)["equal"] is True
    theirs[2]["equity"][-1] *= 1 + 1e-8
    assert _same_runs(runs, theirs)["equal"] is False
    theirs[2]["equity"].pop()
    assert _same_runs(runs, theirs)["equal"] is False


def test_orders_given_to_peers_end_flat_and_at_our_equity(case: EngineCase) -> None:
    lanes = case.lanes()
    runs = run_product(case, lanes).runs
    orders = _orders(case, lanes, runs)
    size, price = orders["order_size"], orders["order_price"]
    assert np.count_nonzero(size) > 0
    paid = price * (1 + np.sign(size) * 5e-4)
    cash = 100_000 - np.sum(size * paid + 25e-4 * np.abs(size) * paid, axis=0)
    np.testing.assert_allclose(size.sum(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(cash, [run.equity[-1] for run in runs], rtol=1e-12)


def test_flops_are_those_of_the_matrices(tmp_path: Path) -> None:
    small = production_case(BenchOptions((), tmp_path, quick=True), version=WITHOUT_ACCOUNT)
    assert small.flops_of_a_bar == 2 * (5300 * 16 + 16 * 8 + 8 * 3)
    assert small.n_bars == 5 * 40
    assert plain_replay(small, small.lanes()[0], run_product(small, small.lanes()).runs[0]).actions != []


def test_text_of_figures() -> None:
    assert with_spread(spread([3.0, 1.0, 2.0]), " s") == "2 s (1 .. 3)"
    assert text_table("T", [["a", "1"]], ["x", "y"]).splitlines() == ["T", "=", "x  y", "-  -", "a  1"]
