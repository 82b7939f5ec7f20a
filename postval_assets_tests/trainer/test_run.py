"""Several symbols, one archive: equal whatever the number of processes, and of what is finished where it is stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import logging
import multiprocessing
import os
import zipfile
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from postval_assets.core.archive import ArchiveLimits
from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.instruments import Timeframe
from postval_assets.core.summary import parse_summary
from postval_assets.io.archive_file import open_archive
from postval_assets.trainer.archive_writer import TrainingSummary, unfinished, write_archive
from postval_assets.trainer.processes import default_jobs
from postval_assets.trainer.run import TrainingPlan, best_update, run_seed, torch_device, train_archive
from postval_assets.trainer.single_run import checkpoint_path
from postval_assets_tests.trainer.archive_cases import (
    ARCHIVE,
    BITCOIN,
    STARTED,
    TINY,
    TOO_SHORT,
    UNISWAP,
    plan_in,
)


@pytest.fixture
def plan(tmp_path: Path) -> TrainingPlan:
    return plan_in(tmp_path / "out")


def files_of(folder: Path) -> dict[str, str]:
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    return {p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def members_of(archive: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        return {name.removeprefix("Alpaca_trading/"): file.read(name) for name in file.namelist()}


def summary_of(archive: Path) -> dict[str, Any]:
    [content] = [c for name, c in members_of(archive).items() if name.startswith("training_summary_")]
    summary: dict[str, Any] = json.loads(content)
    return summary


def stop_after(n_calls: int) -> Callable[[], bool]:
    """Asked once before a run and once before each of its updates."""
    calls = itertools.count(1)
    return lambda: next(calls) > n_calls


def test_processes_change_nothing_but_the_time(plan: TrainingPlan, tmp_path: Path) -> None:
    found = []
    for jobs in (1, 2):
        out = tmp_path / f"jobs{jobs}"
        before = set(multiprocessing.active_children())
        report = train_archive(
            [BITCOIN, UNISWAP], dataclasses.replace(plan, jobs=jobs, out=out, n_restarts=2)
        )
        assert report.archive == out / ARCHIVE
        assert (report.failures, report.left_out, report.stopped, report.n_trials) == ((), (), False, 4)
        assert set(multiprocessing.active_children()) == before
        found.append(files_of(out))
    assert found[0] == found[1]
    assert len(found[0]) == 1 + 2 * 2 * 2


def test_the_archive_is_what_the_platform_reads(plan: TrainingPlan, tmp_path: Path) -> None:
    report = train_archive([BITCOIN, UNISWAP], plan)
    assert report.archive is not None
    with open_archive(report.archive, ArchiveLimits()) as archive:
        summary = parse_summary(archive.read_summary())
        assert [model.symbol for model in archive.plan.models] == ["BTCUSD", "UNIUSD"]
        assert archive.plan.rejected == ()
        archive.copy_entry_to(archive.plan.models[1].entry, tmp_path / "model.pt")
    checkpoint = read_checkpoint(tmp_path / "model.pt")
    assert checkpoint.notes == ()
    spec = checkpoint.spec
    assert (spec.feature_set, spec.model_version, spec.activation) == ("reference-59", "2.7.0", "relu")
    trained = (datetime(2024, 1, 1, tzinfo=UTC), datetime(2024, 1, 30, 23, tzinfo=UTC))
    assert (spec.train_start, spec.train_end) == trained
    assert (summary.train_start, summary.train_end) == trained
    assert (summary.notes, summary.unusable) == ((), ())
    assert summary.trained_at == STARTED.replace(microsecond=0)
    assert (summary.seed, summary.n_trials) == (0, 2)
    assert (summary.reward_scale, summary.validation_interval) == (0.001, 2)
    claims = summary.claims["UNIUSD", Timeframe.HOUR_1]
    assert claims.problem is None
    assert len(claims.fitness_score) * 2 == best_update(report.delivered[1].model)


def test_the_id_is_the_start_in_utc(plan: TrainingPlan) -> None:
    elsewhere = STARTED.astimezone(timezone(timedelta(hours=-5)))
    report = train_archive([UNISWAP], dataclasses.replace(plan, started_at=elsewhere))
    assert report.archive is not None
    assert report.archive.name == ARCHIVE


def test_a_symbol_s_network_does_not_depend_on_its_neighbours(plan: TrainingPlan, tmp_path: Path) -> None:
    both = train_archive([BITCOIN, UNISWAP], plan).archive
    alone = train_archive([UNISWAP], dataclasses.replace(plan, out=tmp_path / "alone")).archive
    other = dataclasses.replace(plan, out=tmp_path / "other", config=dataclasses.replace(TINY, seed=1))
    reseeded = train_archive([UNISWAP], other).archive
    assert both is not None
    assert alone is not None
    assert reseeded is not None
    name = "models/rl_symbols/UNIUSD_1Hour.pt"
    assert members_of(both)[name] == members_of(alone)[name]
    assert members_of(both)[name] != members_of(reseeded)[name]


def test_seeds_of_runs() -> None:
    seeds = {
        (s, symbol, r): run_seed(s, symbol, r) for s in (0, 1) for symbol in ("AAPL", "MSFT") for r in (1, 2)
    }
    assert seeds[0, "AAPL", 2] == seeds[1, "AAPL", 1], "restarts have the seeds seed, seed + 1, ..."
    assert len(set(seeds.values())) == 6


def test_of_several_restarts_the_fittest_is_delivered_and_all_are_trials(
    plan: TrainingPlan, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "postval.train"):
        report = train_archive([UNISWAP], dataclasses.replace(plan, n_restarts=3))
    assert report.archive is not None
    [delivered] = report.delivered
    best = [float(line.split("fitness ")[1].split()[0]) for line in caplog.messages if "  finished  " in line]
    assert len(best) == 3
    assert delivered.model.claims[-1].fitness_score == pytest.approx(max(best), abs=0.005)
    seeds = {run_seed(0, "UNIUSD", restart): restart for restart in (1, 2, 3)}
    chosen = seeds[delivered.model.config.seed]
    assert best.index(max(best)) == chosen - 1
    assert summary_of(report.archive)["n_trials"] == report.n_trials == 3
    # The delivered run's checkpoints stand where those of an only run do.
    assert report.checkpoints is not None
    folder = report.checkpoints / "UNIUSD_1Hour"
    assert {p.name for p in folder.glob("run_*")} == {f"run_{r}" for r in {1, 2, 3} - {chosen}}
    delivered_bytes = members_of(report.archive)["models/rl_symbols/UNIUSD_1Hour.pt"]
    best_one = checkpoint_path(folder, "UNIUSD_1Hour", best_update(delivered.model))
    assert best_one.read_bytes() == delivered_bytes


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_failing_symbol_stops_no_other(plan: TrainingPlan, jobs: int) -> None:
    report = train_archive([TOO_SHORT, UNISWAP], dataclasses.replace(plan, jobs=jobs))
    assert [d.model.name for d in report.delivered] == ["UNIUSD_1Hour"]
    [(name, reason)] = report.failures
    assert name == "ETHUSD_1Hour"
    assert "240 bars are too few to train on" in reason
    assert (report.left_out, report.stopped) == ((), False)
    assert report.n_trials == 1, "what could not be trained was not tried"


def broken_feature_sets() -> Mapping[str, FeatureSet]:
    raise ZeroDivisionError("of a plug-in")


def test_an_error_that_nobody_thought_of_is_a_symbol_s_failure(plan: TrainingPlan) -> None:
    report = train_archive([UNISWAP], dataclasses.replace(plan, feature_sets=broken_feature_sets))
    assert report.failures == (("UNIUSD_1Hour", "unexpected ZeroDivisionError: of a plug-in"),)
    assert report.archive is None
    assert list(plan.out.iterdir()) == [], "nothing half done is left"


# Asked once for the first run and four times for its updates; then once for the second run and before each update.
@pytest.mark.parametrize(("n_calls", "n_trials"), [(5, 1), (6, 1), (7, 2)])
def test_what_is_finished_is_delivered_when_it_is_stopped(
    plan: TrainingPlan, n_calls: int, n_trials: int
) -> None:
    report = train_archive([BITCOIN, UNISWAP], plan, stop_after(n_calls))
    assert report.archive is not None
    assert [d.model.name for d in report.delivered] == ["BTCUSD_1Hour"]
    assert (report.left_out, report.stopped) == (("UNIUSD_1Hour",), True)
    assert report.n_trials == summary_of(report.archive)["n_trials"] == n_trials, (
        "from its first update a run counts"
    )
    assert list(summary_of(report.archive)["symbols"]) == ["BTCUSD_1Hour"]


def test_the_best_finished_restart_is_delivered_when_it_is_stopped(plan: TrainingPlan) -> None:
    report = train_archive([UNISWAP], dataclasses.replace(plan, n_restarts=3), stop_after(12))
    assert [d.model.name for d in report.delivered] == ["UNIUSD_1Hour"]
    assert report.delivered[0].model.config.seed in {run_seed(0, "UNIUSD", r) for r in (1, 2)}
    assert (report.left_out, report.stopped, report.n_trials) == ((), True, 3)


@pytest.mark.parametrize("jobs", [1, 2])
def test_without_a_finished_run_there_is_no_archive(plan: TrainingPlan, jobs: int) -> None:
    plan = dataclasses.replace(plan, jobs=jobs)
    report = train_archive([BITCOIN, UNISWAP], plan, lambda: True)
    assert (report.archive, report.delivered, report.n_trials) == (None, (), 0)
    assert (report.left_out, report.stopped) == (("BTCUSD_1Hour", "UNIUSD_1Hour"), True)
    assert list(plan.out.iterdir()) == []


def test_an_archive_is_never_overwritten(plan: TrainingPlan) -> None:
    plan.out.mkdir()
    (plan.out / ARCHIVE).write_bytes(b"mine")
    with pytest.raises(Rejected, match="expected another folder, or a second later"):
        train_archive([UNISWAP], plan)
    assert files_of(plan.out) == {ARCHIVE: hashlib.sha256(b"mine").hexdigest()}


def test_two_trainings_of_one_second_do_not_meet(plan: TrainingPlan) -> None:
    """The second one is refused while the first one is at work, and takes nothing from it."""
    refused: list[str] = []

    def meanwhile() -> bool:
        if not refused:
            with pytest.raises(Rejected) as error:
                train_archive([UNISWAP], plan)
            refused.append(str(error.value))
        return False

    report = train_archive([UNISWAP], plan, meanwhile)
    assert "another training was started in this very second" in refused[0]
    assert report.archive is not None
    assert report.archive.is_file()


def test_a_folder_that_cannot_be_is_said_before_training(plan: TrainingPlan) -> None:
    plan.out.write_bytes(b"a file")
    with pytest.raises(Rejected, match="is not a folder"):
        train_archive([UNISWAP], plan, lambda: pytest.fail("it began to train"))


def test_an_archive_appears_complete_or_not_at_all(plan: TrainingPlan, tmp_path: Path) -> None:
    [delivered] = train_archive([UNISWAP], plan).delivered
    broken = dataclasses.replace(delivered.model, symbol="BTCUSD", config=object())
    path = tmp_path / "archive.zip"
    path.write_bytes(b"of before")
    summary = TrainingSummary(STARTED.replace(microsecond=0), 0.001, 2, seed=0, n_trials=1)
    with pytest.raises(TypeError):
        write_archive(path, [delivered.model, broken], summary)
    assert path.read_bytes() == b"of before"
    write_archive(path, [delivered.model], summary)
    assert members_of(path) == members_of(plan.out / ARCHIVE)
    with pytest.raises(Unavailable, match="could not be written"):
        write_archive(tmp_path / "nowhere" / "archive.zip", [delivered.model], summary)
    assert not unfinished(path).exists()


def test_what_is_said_meanwhile(plan: TrainingPlan, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "postval.train"):
        train_archive([TOO_SHORT, UNISWAP], plan)
    lines = caplog.messages
    assert lines[0] == "ETHUSD_1Hour  started  240 bars, 2024-01-01 .. 2024-01-10"
    assert lines[1].startswith("ETHUSD_1Hour  failed  ETHUSD (1Hour): 240 bars are too few")
    assert lines[1].endswith("  1 of 2 symbols")
    assert lines[2] == "UNIUSD_1Hour  started  720 bars, 2024-01-01 .. 2024-01-30"
    assert lines[3].startswith("UNIUSD_1Hour  update 2/4  fitness 0.")
    assert all(word in lines[3] for word in ("  profit factor ", "  consistency ", "  drawdown proxy 0."))
    assert lines[3].endswith("  best"), "the first one always is"
    assert lines[4].startswith("UNIUSD_1Hour  update 4/4  fitness ")
    assert lines[5].startswith("UNIUSD_1Hour  finished  fitness 0.")
    assert lines[5].endswith(" s  2 of 2 symbols")
    assert len(lines) == 6


def test_jobs_and_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_jobs(1, "cpu") == 1
    assert 1 <= default_jobs(1000, "cpu") <= (os.cpu_count() or 1)
    assert default_jobs(1000, "cuda") == 1
    assert torch_device("cpu") == "cpu"
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert torch_device("auto") == "cpu"
    with pytest.raises(Rejected, match="no CUDA device here; expected auto or cpu"):
        torch_device("cuda")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert (torch_device("auto"), torch_device("cuda"), torch_device("cpu")) == ("cuda", "cuda", "cpu")
