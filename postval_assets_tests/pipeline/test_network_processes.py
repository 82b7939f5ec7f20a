"""Networks in processes: what they give, what they count, and what is left when one of them dies or the parent does."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil
import pytest

from postval_assets.core.actions import action_sizes
from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import Lane
from postval_assets.core.evaluation import NetworkWork, run_networks, untimed
from postval_assets.core.failures import Unavailable
from postval_assets.core.features.feature_set import compute_features
from postval_assets.core.features.reference import REFERENCE_59
from postval_assets.pipeline import lockstep
from postval_assets.pipeline.network_processes import NetworkProcesses
from postval_assets.pipeline.stopwatch import Stopwatch
from postval_assets_tests.core.hourly_bars import some_bars
from postval_assets_tests.factories import make_checkpoint
from postval_assets_tests.pipeline.conftest import MakeBench, network

RULES = ExecutionRules()
WINDOW = 6


@pytest.fixture(scope="module")
def works(tmp_path_factory: pytest.TempPathFactory) -> list[NetworkWork]:
    bars = some_bars(700, seed=5)
    features = compute_features(REFERENCE_59, bars)
    made = []
    for seed in (3, 4):
        path = make_checkpoint(tmp_path_factory.mktemp("m") / "m.pt", window=WINDOW, hidden=(16,), seed=seed)
        model = read_checkpoint(path)
        start = REFERENCE_59.look_back + WINDOW
        lanes = [
            Lane(bars, start + n * 60, start + n * 60 + 60, action_sizes(model.spec.n_actions))
            for n in range(3)
        ]
        made.append(NetworkWork(model.spec, dict(model.tensors), features, lanes))
    return made


@pytest.fixture(autouse=True)
def ended() -> Iterator[None]:
    yield
    assert not children(), "processes end with the block"


def children() -> list[psutil.Process]:
    """Workers of this process; what multiprocessing keeps beside them is not one."""
    return [c for c in psutil.Process().children() if "spawn_main" in " ".join(c.cmdline())]


class Gone(Mapping[str, np.ndarray]):
    """Weights that cannot be read."""

    def __getitem__(self, name: str) -> np.ndarray:
        raise Unavailable("the store of weights does not answer")

    def __iter__(self) -> Iterator[str]:
        raise Unavailable("the store of weights does not answer")

    def __len__(self) -> int:
        return 1


def test_a_process_gives_what_this_one_gives_to_the_last_bit(works: list[NetworkWork]) -> None:
    watch = Stopwatch()
    with NetworkProcesses(2, watch) as processes:
        found = processes.run(works, RULES, "cpu", untimed)
        assert len(children()) >= 1, "it was done elsewhere"
    for runs, expected in zip(found, run_networks(works, RULES), strict=True):
        assert not isinstance(runs, Exception)
        assert not isinstance(expected, Exception)
        assert len(runs) == 3
        for run, same in zip(runs, expected, strict=True):
            assert (run.status, run.trips, run.fees) == (same.status, same.trips, same.fees)
            assert np.array_equal(run.equity, same.equity)
            assert np.array_equal(run.actions, same.actions)
    assert set(watch.seconds()) == {"weights", "inference", "accounting"}
    assert min(watch.seconds().values()) > 0


def test_a_network_that_cannot_be_made_is_told_and_stops_none_beside_it(works: list[NetworkWork]) -> None:
    broken = replace(works[0], tensors=Gone())
    with NetworkProcesses(2, Stopwatch()) as processes:
        first, second = processes.run([broken, works[1]], RULES, "cpu", untimed)
    assert isinstance(first, Unavailable)
    assert str(first) == "the store of weights does not answer"
    assert not isinstance(second, Exception)


def test_nothing_to_run_starts_no_process() -> None:
    assert NetworkProcesses(2, Stopwatch()).run([], RULES, "cpu", untimed) == []
    assert not children()


@dataclass(frozen=True)
class Deadly(Mapping[str, np.ndarray]):
    """Weights that end every process but the one that they come from."""

    tensors: Mapping[str, np.ndarray]
    home: int

    def __getitem__(self, name: str) -> np.ndarray:
        if os.getpid() != self.home:
            os.kill(os.getpid(), getattr(signal, "SIGKILL", signal.SIGTERM))
        return self.tensors[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)


def test_where_a_process_dies_the_work_is_done_here_and_the_next_finds_others(
    works: list[NetworkWork], caplog: pytest.LogCaptureFixture
) -> None:
    deadly = replace(works[0], tensors=Deadly(works[0].tensors, os.getpid()))
    with NetworkProcesses(2, Stopwatch()) as processes:
        [runs] = processes.run([deadly], RULES, "cpu", untimed)
        assert not isinstance(runs, Exception)
        assert len(runs) == 3
        assert "a worker process ended by itself" in caplog.text
        [again] = processes.run([works[0]], RULES, "cpu", untimed)
        assert not isinstance(again, Exception)
        assert children()


def test_processes_end_with_their_parent(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, psutil\n"
        "from postval_assets.pipeline import network_processes\n"
        "from postval_assets.pipeline.stopwatch import Stopwatch\n"
        "if __name__ == '__main__':\n"
        "    processes = network_processes.NetworkProcesses(2, Stopwatch())\n"
        "    processes._started().submit(os.getpid).result()\n"
        "    workers = [c for c in psutil.Process().children() if 'spawn_main' in ' '.join(c.cmdline())]\n"
        "    print(*(c.pid for c in workers), flush=True)\n"
        "    input()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert parent.stdout is not None
    workers = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
    assert workers
    parent.kill()
    parent.wait(30)
    gone, alive = psutil.wait_procs(workers, timeout=30)
    assert (len(gone), alive) == (len(workers), [])


def test_a_stage_gives_the_same_rows_in_one_process_and_in_several(
    tmp_path: Path, make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    symbols = ("AAPL", "BTCUSD", "MSFT")
    found = {}
    started: list[int] = []
    begin = NetworkProcesses._started
    monkeypatch.setattr(NetworkProcesses, "_started", lambda self: started.append(1) or begin(self))
    for name, workers, worth_it_from in (("one", 1, 1), ("threads", 2, 100), ("processes", 2, 1)):
        monkeypatch.setattr(lockstep, "WORTH_IT_FROM", worth_it_from)
        bench = make_bench(tmp_path / name, workers=workers)
        for n, symbol in enumerate(symbols):
            bench.put_bars(symbol, seed=n + 1)
        models = {f"{s}_4Hour": network(None, seed=n) for n, s in enumerate(symbols)}
        archives = bench.intake(bench.deliver(bench.archive(models)))
        bench.load(symbols)
        bench.evaluate(archives)
        assert bool(started) == (name == "processes")
        assert not children()
        found[name] = [
            bench.rows("SELECT * EXCLUDE (run_id, created_at) FROM fold_results ORDER BY ALL"),
            bench.rows("SELECT * EXCLUDE (run_id, created_at) FROM equity_curves ORDER BY ALL"),
            bench.rows("SELECT * EXCLUDE (run_id, created_at) FROM trades ORDER BY ALL"),
        ]
    folds, curves, trades = found["one"]
    assert (len(folds), bool(curves), bool(trades)) == (15, True, True)
    assert found["threads"] == found["one"]
    assert found["processes"] == found["one"]


def run_in_processes(works: list[NetworkWork]) -> None:
    with NetworkProcesses(2, Stopwatch()) as processes:
        processes.run(works, RULES, "cpu", untimed)


def test_a_process_that_had_processes_ends(works: list[NetworkWork]) -> None:
    """As a run's does, which Dagster's code server starts in this way."""
    runs_process = multiprocessing.get_context("spawn").Process(target=run_in_processes, args=(works,))
    runs_process.start()
    runs_process.join(60)
    assert runs_process.exitcode == 0
