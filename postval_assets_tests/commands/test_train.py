"""``postval train``: its words and endings, Ctrl-C as a terminal sends it, its archive in ``postval validate``."""

from __future__ import annotations

import contextlib
import os
import queue
import re
import shutil
import signal
import subprocess
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest

from postval_assets.commands.doctor import examine
from postval_assets.settings import load_settings
from postval_assets.trainer.run import train_archive
from postval_assets.trainer.simulated_market import SAMPLE_SYMBOLS, simulate_bars, symbol_rng
from postval_assets_tests.commands.conftest import Command
from postval_assets_tests.platform_process import postval_command, postval_environment

FIRST = date(2024, 1, 1)
N_DAYS = 250
TINY = "hidden_dims = [8]\nn_held_back_blocks = 2\nn_episodes = 4\nepisode_bars = 32\nepochs = 1\n"
# One update of these takes longer than any test.
ENDLESS = TINY.replace("epochs = 1", "epochs = 1000000000")

no_signals = pytest.mark.skipif(
    sys.platform == "win32",
    reason="a test cannot send Ctrl-C to another process there without getting it too",
)


@pytest.fixture(scope="module")
def bars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Simulated hourly bars: three crypto pairs of 250 days, and AAPL with too few to train on."""
    folder = tmp_path_factory.mktemp("bars")
    for spec in SAMPLE_SYMBOLS:
        if spec.symbol in ("BTCUSD", "ETHUSD", "UNIUSD", "AAPL"):
            n_days = 20 if spec.symbol == "AAPL" else N_DAYS
            made = simulate_bars(spec, FIRST, FIRST + timedelta(days=n_days - 1), symbol_rng(5, spec.symbol))
            made.frame().to_parquet(folder / f"{spec.symbol}_1Hour.parquet")
    return folder


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    file = tmp_path / "tiny.toml"
    file.write_text(TINY, encoding="utf-8")
    return file


def archives_in(out: Path) -> list[Path]:
    return sorted(out.glob("*.zip"))


def models_in(archive: Path) -> set[str]:
    with zipfile.ZipFile(archive) as file:
        assert file.testzip() is None
        return {Path(name).stem for name in file.namelist() if name.endswith(".pt")}


def test_an_archive_of_two_symbols_and_what_comes_next(
    postval: Command, bars: Path, tiny: Path, tmp_path: Path
) -> None:
    out = tmp_path / "my archives"
    done = postval(
        *("train", "--symbols", "UNI/USD,BTCUSD,UNIUSD", "--bars", f"parquet:{bars}", "--jobs", "1"),
        *("--hold-out-days", "200", "--config", str(tiny), "--updates", "3", "--out", str(out)),
    )
    assert done.code == 0, done.err
    [archive] = archives_in(out)
    assert re.fullmatch(r"Alpaca_trading_trained_\d{8}_\d{6}\.zip", archive.name)
    assert models_in(archive) == {"UNIUSD_1Hour", "BTCUSD_1Hour"}
    lines = done.out.splitlines()
    assert lines[0].split() == [
        *("model", "update", "of", "fitness", "PF", "consist.", "maxDD", "proxy", "train_end", "seconds")
    ]
    assert [line.split()[0] for line in lines[2:4]] == ["UNIUSD_1Hour", "BTCUSD_1Hour"]
    last = FIRST + timedelta(days=N_DAYS - 200 - 1)
    assert all(f" {last} 23:00Z " in line for line in lines[2:4])
    assert str(archive) in lines
    options = f"--data-dir {postval.data_dir} --bars parquet:{bars}"
    assert f'next:  postval {options} validate "{archive}" --plan 180d,365d' in lines
    assert "UNIUSD_1Hour  update 3/3  fitness " in done.err
    assert re.search(r"BTCUSD_1Hour  finished  .* 2 of 2 symbols", done.err)
    assert "too little is left" not in done.err
    assert not postval.data_dir.exists(), "training is not the platform's business"


def test_all_symbols_and_one_of_them_cannot_be_trained(
    postval: Command, bars: Path, tiny: Path, tmp_path: Path
) -> None:
    done = postval(
        *("--bars", f"parquet:{bars}", "train", "--symbols", "all", "--until", "2024-02-20", "--jobs", "1"),
        *("--config", str(tiny), "--updates", "1", "--out", str(tmp_path / "out"), "--no-keep-checkpoints"),
    )
    assert done.code == 1
    [archive] = archives_in(tmp_path / "out")
    assert models_in(archive) == {f"{symbol}_1Hour" for symbol in ("BTCUSD", "ETHUSD", "UNIUSD")}
    assert str(archive) in done.out
    assert list((tmp_path / "out").iterdir()) == [archive]
    assert re.search(r"^failed: AAPL_1Hour: AAPL \(1Hour\): \d+ bars are too few", done.err, re.MULTILINE)
    assert done.err.splitlines()[-1] == "Error: not trained: AAPL_1Hour; the archive holds the others"


def test_nothing_left_to_validate_on_is_said(
    postval: Command, bars: Path, tiny: Path, tmp_path: Path
) -> None:
    done = postval(
        *("train", "--symbols", "UNIUSD", "--bars", f"parquet:{bars}", "--timeframe", "4Hour"),
        *("--config", str(tiny), "--updates", "1", "--out", str(tmp_path / "out")),
    )
    assert done.code == 0, done.err
    assert models_in(archives_in(tmp_path / "out")[0]) == {"UNIUSD_4Hour"}
    assert (
        "too little is left to validate on, plan 180d needs 180 days and 250 bars in them, plan 365d"
        in done.err
    )
    assert "UNIUSD (0 days). Leave more out of training with --hold-out-days 365, or train" in done.err


def test_all_is_what_there_are_such_bars_of(postval: Command, bars: Path, tiny: Path, tmp_path: Path) -> None:
    source = tmp_path / "bars"
    source.mkdir()
    shutil.copy(bars / "UNIUSD_1Hour.parquet", source)
    shutil.copy(bars / "BTCUSD_1Hour.parquet", source / "BTCUSD_15Min.parquet")
    common = ("train", "--bars", f"parquet:{source}", "--hold-out-days", "200", "--config", str(tiny))
    done = postval(*common, "--updates", "1", "--symbols", "all", "--out", str(tmp_path / "out"))
    assert done.code == 0, done.err
    assert models_in(archives_in(tmp_path / "out")[0]) == {"UNIUSD_1Hour"}
    assert "BTCUSD_1Hour  left out  no 1Hour bars of BTCUSD in" in done.err
    named = postval(*common, "--updates", "1", "--symbols", "UNIUSD,BTCUSD", "--out", str(tmp_path / "named"))
    assert named.code == 1
    assert named.err.splitlines()[-1] == "Error: not trained: BTCUSD_1Hour; the archive holds the others"
    without = postval.refused(
        *common, "--symbols", "all", "--timeframe", "30Min", "--out", str(tmp_path / "none")
    )
    assert "nothing to train: BTCUSD_30Min: no 30Min bars of BTCUSD in" in without


def test_in_the_inbox_checkpoints_are_kept_on_demand_only(
    postval: Command, bars: Path, tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inbox = postval.data_dir / "inbox"
    # The same folder under another name.
    monkeypatch.chdir(postval.data_dir.parent)
    common = (
        *("train", "--symbols", "UNIUSD", "--bars", f"parquet:{bars}", "--hold-out-days", "200"),
        *("--config", str(tiny), "--updates", "1", "--out", "data/../data/inbox"),
    )
    assert postval(*common).code == 0
    [archive] = list(inbox.iterdir())
    archive.unlink()
    assert postval(*common, "--keep-checkpoints").code == 0
    [folder] = [p for p in inbox.iterdir() if p.is_dir()]
    told = [f for f in examine(load_settings(data_dir=postval.data_dir)) if folder.name in f.found]
    assert [(f.what, f.mend) for f in told] == [
        ("inbox", "nothing takes them from there: move or delete them")
    ]


def test_a_second_ctrl_c_after_the_archive_does_not_deny_it(
    postval: Command, bars: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*arguments: Any) -> None:
        train_archive(*arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr("postval_assets.trainer.run.train_archive", interrupted)
    done = postval(
        *("train", "--symbols", "UNIUSD", "--bars", f"parquet:{bars}", "--hold-out-days", "200"),
        *("--config", str(tiny), "--updates", "1", "--out", str(tmp_path / "out")),
    )
    assert done.code == 130
    [archive] = archives_in(tmp_path / "out")
    assert done.err.splitlines()[-1] == f"stopped at once: the archive was complete already: {archive}"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--until", "2024-02-01", "--hold-out-days", "5"), "give one of --until and --hold-out-days"),
        (("--until", "2024-02-31"), "expected e.g. 2025-03-01 or 2025-03-01T00:00:00Z"),
        (("--until", "yesterday"), "cannot be read"),
        (("--since", "2024-02-01T00:00"), "has no offset"),
        (("--until", "2020-01-01"), "nothing to train: UNIUSD_1Hour: UNIUSD: none of its 6000 1Hour bars"),
        (("--timeframe", "3Hour"), "timeframe '3Hour' is unknown"),
        (("--model-version", "9.9"), "model_version is '9.9': expected one of 2.3.0"),
        (
            ("--feature-set", "acme-60"),
            "feature set 'acme-60' is not registered. Registered are reference-53",
        ),
        (("--feature-set", "reference-53"), "no symbol was trained, and no archive written: UNIUSD_1Hour"),
        (("--until", "2024-01-15"), "bars are too few to train on"),
        (("--bars", "nowhere"), "bars source 'nowhere' is unknown"),
        (("--symbols", "TSLA,A|B"), "symbol 'A|B' is not usable"),
        (("--symbols", "TSLA,NVDA"), "nothing to train: TSLA_1Hour: no 1Hour bars of TSLA in"),
        (("--symbols", ","), "expected names separated by commas"),
    ],
)
def test_what_cannot_be_trained_is_refused_without_a_file(
    postval: Command, bars: Path, tiny: Path, tmp_path: Path, arguments: tuple[str, ...], words: str
) -> None:
    line = postval.refused(
        *("train", "--symbols", "UNIUSD", "--bars", f"parquet:{bars}", "--updates", "1"),
        *("--config", str(tiny), "--out", str(tmp_path / "out"), *arguments),
    )
    assert words in line
    assert not list((tmp_path / "out").glob("*"))


def test_a_wrong_config_names_what_there_is(postval: Command, bars: Path, tmp_path: Path) -> None:
    file = tmp_path / "wrong.toml"
    file.write_text("episodes = 3\n", encoding="utf-8")
    line = postval.refused(
        *("train", "--symbols", "UNIUSD", "--bars", f"parquet:{bars}", "--config", str(file)),
        *("--out", str(tmp_path / "out")),
    )
    assert "'episodes' is no training setting (did you mean n_episodes?); there are model_version" in line


def test_validate_takes_the_archive_as_it_is(
    postval: Command, bars: Path, tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTVAL_INCLUDE_DROPPED", "true")
    source = ("--bars", f"parquet:{bars}")
    trained = postval(
        *(*source, "train", "--symbols", "UNIUSD,BTCUSD", "--hold-out-days", "181", "--jobs", "1"),
        *("--config", str(tiny), "--updates", "4", "--out", str(tmp_path / "out")),
    )
    assert trained.code == 0, trained.err
    [archive] = archives_in(tmp_path / "out")
    done = postval(*source, "validate", str(archive), "--plan", "180d")
    assert done.code == 0, done.err
    models = postval.rows("SELECT * FROM extracted_models ORDER BY symbol")
    assert [m["symbol"] for m in models] == ["BTCUSD", "UNIUSD"]
    for model in models:
        assert (model["status"], model["reason"]) == ("OK", None)
        assert (model["feature_set"], model["feature_set_basis"]) == ("reference-59", "NAMED")
        assert model["activation_basis"] == "NAMED"
    gate = postval.rows("SELECT classification FROM gating_scores")
    assert {g["classification"] for g in gate} <= {"APPROVED", "REVIEW", "DROP"}
    folds = postval.rows("SELECT status, training_overlap FROM fold_results")
    assert len(folds) == 10
    assert {f["training_overlap"] for f in folds} == {"OUT_OF_SAMPLE"}
    assert {f["status"] for f in folds} <= {"OK", "NO_TRADES"}
    reasons = [r for d in postval.rows("SELECT reasons FROM deployment_decisions") for r in d["reasons"]]
    assert not [r for r in reasons if "TRAINING_WINDOW" in r or "ASSUMED" in r or "NOT_OUT" in r]


# --- real processes -----------------------------------------------------------------------------------------


@dataclass
class Training:
    """A ``postval train`` in a process group of its own, as a terminal starts it; its stderr as it comes.

    Attributes:
        process: the command.
        lines: what it said so far.
    """

    process: psutil.Popen
    lines: list[str] = field(default_factory=list)
    _coming: queue.Queue[str | None] = field(default_factory=queue.Queue)

    def __post_init__(self) -> None:
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stderr:
            self._coming.put(line.rstrip("\n"))
        self._coming.put(None)

    def wait_for(self, wanted: Callable[[str], bool]) -> str:
        """Read up to the next such line."""
        while True:
            line = self._coming.get(timeout=120)
            assert line is not None, f"it ended before: {self.lines}"
            self.lines.append(line)
            if wanted(line):
                return line

    def interrupt(self) -> None:
        """Ctrl-C: every process of the terminal's foreground group gets it."""
        os.killpg(self.process.pid, signal.SIGINT)

    def end(self) -> int:
        """Wait for it; its exit code."""
        code: int = self.process.wait(timeout=120)
        while (line := self._coming.get(timeout=120)) is not None:
            self.lines.append(line)
        return code

    def family(self) -> list[psutil.Process]:
        """The processes that it has started."""
        children: list[psutil.Process] = self.process.children(recursive=True)
        return children


Start = Callable[..., Training]


@pytest.fixture
def start(bars: Path, tmp_path: Path) -> Iterator[Start]:
    """Starts trainings; at the end none of their processes is left, or the test has failed."""
    started: list[Training] = []

    def begin(config: str, *arguments: str) -> Training:
        file = tmp_path / "training.toml"
        file.write_text(config, encoding="utf-8")
        command = postval_command(
            *("--bars", f"parquet:{bars}", "train", "--config", str(file), "--out", str(tmp_path / "out")),
            *("--hold-out-days", "200", *arguments),
        )
        process = psutil.Popen(
            command,
            env=postval_environment(tmp_path / "data", "sample"),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        started.append(Training(process))
        return started[-1]

    yield begin
    for training in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(training.process.pid, signal.SIGKILL)


def assert_gone(processes: list[psutil.Process]) -> None:
    _, alive = psutil.wait_procs(processes, timeout=30)
    assert alive == []


@no_signals
@pytest.mark.parametrize("jobs", [1, 2])
def test_ctrl_c_leaves_an_archive_of_what_is_finished(start: Start, tmp_path: Path, jobs: int) -> None:
    training = start(
        TINY, "--symbols", "UNIUSD,BTCUSD,ETHUSD", "--updates", "20", "--restarts", "20", "--jobs", str(jobs)
    )
    training.wait_for(lambda line: "  finished  " in line)
    family = training.family()
    assert len(family) >= jobs - 1
    training.interrupt()
    assert training.end() == 130, training.lines
    assert_gone(family)
    finished = {line.split()[1] for line in training.lines if "  finished  " in line}
    [archive] = archives_in(tmp_path / "out")
    assert models_in(archive) == finished == {"UNIUSD_1Hour"}
    assert sum("stopping: what is finished goes into the archive" in line for line in training.lines) == 1
    assert "stopped by Ctrl-C; left out: BTCUSD_1Hour, ETHUSD_1Hour" in training.lines
    assert not [line for line in training.lines if "Traceback" in line or "leaked" in line]
    assert not [p for p in (tmp_path / "out").rglob("*") if p.name.endswith(".part")]


@no_signals
def test_ctrl_c_before_anything_is_finished_leaves_no_archive(start: Start, tmp_path: Path) -> None:
    training = start(TINY, "--symbols", "UNIUSD", "--updates", "100000", "--jobs", "1")
    training.wait_for(lambda line: "  update " in line)
    training.interrupt()
    assert training.end() == 130
    assert "no symbol was finished: no archive was written" in training.lines
    assert archives_in(tmp_path / "out") == []


@no_signals
@pytest.mark.parametrize("jobs", [1, 2])
def test_a_second_ctrl_c_leaves_at_once(start: Start, tmp_path: Path, jobs: int) -> None:
    training = start(ENDLESS, "--symbols", "UNIUSD,BTCUSD", "--jobs", str(jobs))
    training.wait_for(lambda line: "  started  " in line)
    family = training.family()
    training.interrupt()
    training.wait_for(lambda line: line.startswith("stopping: "))
    training.interrupt()
    assert training.end() == 130, training.lines
    assert_gone(family)
    assert training.lines[-1] == "stopped at once: no archive was written"
    assert not [line for line in training.lines if "Traceback" in line or "leaked" in line]
    assert list((tmp_path / "out").iterdir()) == []


@no_signals
@pytest.mark.parametrize("jobs", [1, 2])
def test_kill_leaves_nothing_behind(start: Start, tmp_path: Path, jobs: int) -> None:
    training = start(ENDLESS, "--symbols", "UNIUSD,BTCUSD", "--jobs", str(jobs))
    training.wait_for(lambda line: "  started  " in line)
    family = training.family()
    training.process.terminate()
    assert training.end() == 143, training.lines
    assert_gone(family)
    assert list((tmp_path / "out").iterdir()) == []


@no_signals
def test_workers_do_not_outlive_a_command_that_is_killed(start: Start) -> None:
    training = start(ENDLESS, "--symbols", "UNIUSD,BTCUSD", "--jobs", "2")
    training.wait_for(lambda line: "  started  " in line)
    family = training.family()
    assert len(family) >= 2
    training.process.kill()
    assert_gone(family)
