"""The parts of the drop benchmark that can be wrong without anybody seeing it: archives, memory, and the arithmetic."""

from __future__ import annotations

import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import numpy as np
import psutil
import pytest

from postval_assets.core.archive import ArchiveLimits
from postval_assets.core.checkpoint import Checkpoint, read_checkpoint
from postval_assets.core.features.reference import REFERENCE_59
from postval_assets.core.gating import Classification, gate
from postval_assets.core.instruments import AssetClass, Timeframe, asset_class_of
from postval_assets.core.summary import parse_summary
from postval_assets.io.archive_file import open_archive
from postval_assets.io.file_bars import ParquetBars
from postval_assets_tests.bench import drop_tables
from postval_assets_tests.bench.drop_times import RunTimes, StageTime, run_times, split, stage_times
from postval_assets_tests.bench.process_tree import Peaks, Sample, memory_of, sample_tree, watched
from postval_assets_tests.bench.production_archive import (
    PRODUCTION,
    Shape,
    _deflated,
    _ZipWriter,
    needed_bytes,
    production_model,
    symbol_names,
    why_no_room,
    write_production_archive,
    write_production_bars,
)

TINY = Shape(hidden_dims=(8, 4), window=10)
MEGABYTE = 1_000_000


def checkpoints_of(path: Path, folder: Path) -> dict[str, Checkpoint]:
    """Every model of an archive as the product reads it, by symbol."""
    found = {}
    with open_archive(path, ArchiveLimits()) as archive:
        assert archive.plan.rejected == ()
        for model in archive.plan.models:
            file = folder / f"{model.symbol}.pt"
            archive.copy_entry_to(model.entry, file)
            found[model.symbol] = read_checkpoint(file)
    return found


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_production_archive(tmp_path_factory.mktemp("archive"), 3, seed=4, shape=TINY)


def test_the_product_reads_every_model_and_all_weights_differ(archive: Path, tmp_path: Path) -> None:
    models = checkpoints_of(archive, tmp_path)
    assert tuple(models) == symbol_names(3) == ("BENCH001USD", "BENCH002USD", "BENCH003USD")
    assert {asset_class_of(symbol) for symbol in models} == {AssetClass.CRYPTO}
    for model in models.values():
        assert model.spec.model_version == "2.7.0"
        assert model.spec.hidden_dims == (8, 4)
        assert (model.spec.window, model.spec.obs_dim, model.spec.n_actions) == (10, 590, 7)
        assert model.spec.feature_set == REFERENCE_59.name
        assert model.spec.train_end is not None
        assert model.spec.train_end < datetime(2024, 1, 1, tzinfo=UTC)
    first, second, third = (m.tensors["shared.0.weight"] for m in models.values())
    assert not np.isclose(first, second).any(axis=1).all()
    assert not np.array_equal(second, third)


def test_its_claims_pass_the_gate(archive: Path) -> None:
    with open_archive(archive, ArchiveLimits()) as opened:
        summary = parse_summary(opened.read_summary())
    assert len(summary.claims) == 3
    for claims in summary.claims.values():
        verdict = gate(
            fitness_history=claims.fitness_score,
            profit_factor_history=claims.profit_factor,
            consistency_history=claims.consistency,
            max_drawdown_history=claims.max_drawdown,
            problem=claims.problem,
            reward_scale=summary.reward_scale,
        )
        assert verdict.classification is Classification.APPROVED


def test_the_same_seed_gives_the_same_bytes_whoever_makes_the_models(archive: Path, tmp_path: Path) -> None:
    by_processes = write_production_archive(tmp_path, 3, seed=4, shape=TINY, n_workers=2)
    assert by_processes.name == archive.name
    assert by_processes.read_bytes() == archive.read_bytes()
    other = write_production_archive(tmp_path, 3, seed=5, shape=TINY)
    assert other.name != archive.name
    first, second = (production_model("A", 0, s, TINY).policy_state_dict["actor_head.bias"] for s in (4, 5))
    assert not np.array_equal(first.numpy(), second.numpy())


def test_a_production_model_has_the_size_that_room_is_counted_with() -> None:
    model = production_model("BENCH001USD", 0, seed=0)
    policy = sum(t.numel() * 4 for t in model.policy_state_dict.values())
    moments = sum(
        m[name].numel() * 4
        for m in model.optimizer_state_dict["state"].values()
        for name in ("exp_avg", "exp_avg_sq")
    )
    assert model.policy_state_dict["shared.0.weight"].shape == (PRODUCTION.hidden_dims[0], 5_900)
    assert moments == 2 * policy
    assert 79 * MEGABYTE < policy + moments < 82 * MEGABYTE
    assert 30e9 < needed_bytes(200) < 40e9


def test_what_does_not_fit_says_how_much_is_needed(tmp_path: Path) -> None:
    assert why_no_room(tmp_path, 200, free_bytes=needed_bytes(200)) is None
    reason = why_no_room(tmp_path, 200, free_bytes=12 * 10**9)
    assert reason is not None
    assert "200 models need 35 GB" in reason
    assert "there are 12 GB" in reason


@pytest.mark.skipif(sys.platform == "win32", reason="NTFS would write the gap")
def test_entries_beyond_four_gigabytes_are_found(tmp_path: Path) -> None:
    path = tmp_path / "large.zip"
    with path.open("wb") as file:
        writer = _ZipWriter(file, datetime(2025, 7, 1, 6, 30, 12, tzinfo=UTC))
        writer.add("early.txt", _deflated(b"one" * 100))
        file.seek(5 * 2**30)  # a gap without blocks on the disk
        writer.add("late.txt", _deflated(b"two" * 100))
        writer.finish()
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        assert archive.read("early.txt") == b"one" * 100
        assert archive.read("late.txt") == b"two" * 100
        assert {info.date_time for info in archive.infolist()} == {(2025, 7, 1, 6, 30, 12)}


def test_every_name_has_the_same_bars_and_enough_of_them(tmp_path: Path) -> None:
    assert write_production_bars(tmp_path, 2, seed=1, days=200) == 200 * 24
    source = ParquetBars(tmp_path)
    assert source.symbols() == symbol_names(2)
    first, second = (
        source.fetch(symbol, Timeframe.HOUR_1, AssetClass.CRYPTO, start=None, end=None)
        for symbol in source.symbols()
    )
    assert np.array_equal(first.close, second.close)
    assert len(first) == 200 * 24 > 180 * 24 + REFERENCE_59.look_back + PRODUCTION.window


_ALLOCATING = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "print('up', flush=True); input()"], stdin=subprocess.PIPE,
                         stdout=subprocess.PIPE)
child.stdout.readline()
print("up", flush=True)
input()
block = bytearray(b"x" * 80_000_000)
print("has it", flush=True)
input()
"""


@contextmanager
def allocating() -> Iterator[subprocess.Popen[str]]:
    """A process with a child of its own, which takes 80 MB when it is told to."""
    with subprocess.Popen(
        [sys.executable, "-c", _ALLOCATING], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        tree = [psutil.Process(process.pid)]
        assert process.stdout is not None
        try:
            assert process.stdout.readline() == "up\n"
            tree += tree[0].children(recursive=True)
            yield process
        finally:
            for each in tree:
                each.kill()


def tell(process: subprocess.Popen[str]) -> str:
    """Let it take the next step; what it says then."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("\n")
    process.stdin.flush()
    return process.stdout.readline()


def test_the_tree_is_the_sum_of_what_psutil_says_of_each_process() -> None:
    with allocating() as process:
        root = psutil.Process(process.pid)
        parts = {p.pid: memory_of(p) for p in [root, *root.children()]}
        sample = sample_tree(root, lambda p: "root" if p.pid == process.pid else "child")
        assert len(parts) == sample.n_processes == 2
        assert set(sample.bytes_by_kind) == {"root", "child"}
        # They sleep, but shares of common pages move a little with whoever else uses them.
        assert sample.bytes_by_kind["root"] == pytest.approx(parts[root.pid], rel=0.2)
        assert sample.total_bytes == pytest.approx(sum(parts.values()), rel=0.2)


def test_the_peak_holds_what_a_process_took_for_a_while() -> None:
    with allocating() as process:
        root = psutil.Process(process.pid)
        before = sample_tree(root).total_bytes
        with watched(root, lambda _: "all", interval_s=0.01) as peaks:
            assert tell(process) == "has it\n"
            assert peaks.n_samples >= 1
        # The last sample is taken when the block ends.
        assert peaks.total_bytes - before > 75 * MEGABYTE
        assert peaks.as_dict()["peak_mb"] == pytest.approx(peaks.total_bytes / 1e6, abs=0.1)


def test_the_peak_of_the_sum_is_not_the_sum_of_the_peaks() -> None:
    peaks = Peaks()
    peaks.take(Sample({"daemon": 100, "run worker": 10}, 2))
    peaks.take(Sample({"daemon": 20, "run worker": 70}, 3))
    assert peaks.total_bytes == 110
    assert peaks.bytes_by_kind == {"daemon": 100, "run worker": 70}
    assert peaks.n_processes == 3


def test_a_process_that_has_gone_counts_as_nothing() -> None:
    process = psutil.Popen([sys.executable, "-c", ""])
    process.wait()
    assert sample_tree(process) == Sample({}, 0)


def test_waiting_starting_stages_and_events_make_up_the_whole() -> None:
    runs = [
        RunTimes(created=107.0, first_step=112.0, ended=130.0, steps={"extract": 10.0, "decide": 5.0}),
        RunTimes(created=107.5, first_step=134.0, ended=150.0, steps={"extract": 9.0, "decide": 4.0}),
    ]
    timed = [
        StageTime("extract", 8.0, {"inflating": 6.0, "writing": 1.0}),
        StageTime("extract", 7.5, {"inflating": 5.0}),
    ]
    found = split(100.0, 149.0, runs, timed)
    assert found["seconds"] == 49.0
    assert found["waiting_s"] == 7.0
    assert found["starting_s"] == 5.0 + 4.0
    assert found["stages"] == {"extract": 15.5, "decide": 9.0}
    assert found["steps"] == {"extract": 19.0, "decide": 9.0}
    assert found["parts"] == {"inflating": 11.0, "writing": 1.0}
    assert found["events_s"] == 49.0 - 7.0 - 9.0 - 24.5


def test_runs_and_steps_come_from_dagsters_records(tmp_path: Path) -> None:
    @dg.op
    def work() -> None: ...

    @dg.job(tags={"bench": "mine"})
    def measured() -> None:
        work()

    with dg.DagsterInstance.ephemeral(str(tmp_path)) as instance:
        assert measured.execute_in_process(instance=instance).success
        assert run_times(instance, {"bench": "another"}, "measured") == []
        [run] = run_times(instance, {"bench": "mine"}, "measured")
    assert list(run.steps) == ["work"]
    assert run.created <= run.first_step <= run.ended
    assert 0 <= run.steps["work"] <= run.ended - run.first_step


def test_timings_are_lines_of_json_and_may_be_missing(tmp_path: Path) -> None:
    file = tmp_path / "timings.jsonl"
    assert stage_times(file) == []
    file.write_text('{"pid": 1, "stage": "bars", "started_at": 5.0, "wall_s": 2, "parts": {"bars": 1.5}}\n\n')
    assert stage_times(file) == [StageTime("bars", 2.0, {"bars": 1.5})]


def test_tables_show_what_was_measured_and_what_was_not() -> None:
    memory = {"peak_mb": 1234.0, "peak_mb_by_kind": {"daemon": 150.0}, "most_processes": 4, "samples": 9}
    measured = {
        **split(
            100.0,
            149.0,
            [RunTimes(107.0, 112.0, 150.0, {"bars": 30.0})],
            [StageTime("bars", 20.0, {"bars": 8.0})],
        ),
        "models": 5,
        "seconds_a_model": 9.8,
        "memory": memory,
        "memory_until_decided": memory,
    }
    case = {"against": "folds", "plans": ["180d"], "folds": 5, "history_bars": 14_400, "models": 3}
    case |= {"wall_s": 21.0, "stages_s": 12.0, "peak_mb": 900.0}
    reason = "200 models need 35 GB"
    result = {"archives": [measured], "curve": [case], "ratios": [], "skipped": [reason]}
    said = drop_tables.drop_table(result)
    assert "49.0" in said
    assert "9.80" in said
    assert f"skipped: {reason}" in said
    assert "1,234" in drop_tables.memory_table(result)
    tables = drop_tables.scaling_table(result)
    assert "| 5 | 49.0 | 9.80 | 7.0 | 5.0 | 20.0 | 17.0 | 8.0 | 1,234 |" in tables
    assert tables.count("| 180d | 5 | 14,400 | 3 | 21.0 | 12.0 | 900 |") == 2, (
        "both curves begin at this case"
    )
