"""The postval command on a data directory of its own, in this process. Here: fixtures of this folder."""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from postval_assets.cli import main
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.settings import load_settings
from postval_assets_tests.factories import drop_claims, good_claims, make_archive, make_summary, review_claims

ARCHIVE = "20250301_180000"


@dataclass(frozen=True)
class Outcome:
    """What a command said and how it ended."""

    code: int
    out: str
    err: str


@dataclass(frozen=True)
class Command:
    """The postval command with a data directory."""

    data_dir: Path

    def __call__(self, *arguments: str) -> Outcome:
        """Run it; anything but an ending with a code is a bug, and raised."""
        done = CliRunner().invoke(main, ["--data-dir", str(self.data_dir), *arguments])
        if done.exception is not None and not isinstance(done.exception, SystemExit):
            raise done.exception
        return Outcome(done.exit_code, done.stdout, done.stderr)

    def refused(self, *arguments: str) -> str:
        """Run it; the one line that says why it refused."""
        done = self(*arguments)
        assert done.code == 1, done
        lines = [line for line in done.err.splitlines() if line.startswith("Error:")]
        assert len(lines) == 1, done.err
        assert "Traceback" not in done.err
        assert not done.out
        return lines[0]

    @property
    def platform(self) -> Platform:
        """The data directory, seen from inside."""
        return open_platform(load_settings(data_dir=self.data_dir))

    def rows(self, sql: str, *params: object) -> list[dict[str, Any]]:
        """From the warehouse."""
        return self.platform.warehouse.rows(sql, params)


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory without settings, and nothing of postval in the environment."""
    for name in [n for n in os.environ if n.startswith(("POSTVAL_", "DAGSTER_"))]:
        monkeypatch.delenv(name)
    # Named here so that they are as before afterwards, whatever a command sets.
    for name in ("DAGSTER_HOME", "POSTVAL_DATA_DIR", "POSTVAL_BARS_SOURCE"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    monkeypatch.chdir(folder)
    logger = logging.getLogger("postval")
    before = (list(logger.handlers), logger.level, logger.propagate)
    yield folder
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


@pytest.fixture
def postval(elsewhere: Path, tmp_path: Path) -> Command:
    """The command on a data directory that does not exist yet."""
    return Command(tmp_path / "data")


@pytest.fixture(scope="session")
def made_archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of three models: AAPL is approved, MSFT goes to review, NVDA is dropped."""
    claims = {"AAPL": good_claims(), "MSFT": review_claims(), "NVDA": drop_claims()}
    return make_archive(
        tmp_path_factory.mktemp("made") / f"Alpaca_trading_trained_{ARCHIVE}.zip",
        {"AAPL": {"version": "2.3.0"}, "MSFT": {}, "NVDA": {}},
        summary=make_summary(claims),
    )


@pytest.fixture(scope="session")
def validated_directory(tmp_path_factory: pytest.TempPathFactory, made_archive: Path) -> Path:
    """A data directory after ``postval validate`` of that archive."""
    data_dir = tmp_path_factory.mktemp("validated") / "data"
    with pytest.MonkeyPatch.context() as patch:
        for name in ("DAGSTER_HOME", "POSTVAL_DATA_DIR", "POSTVAL_BARS_SOURCE"):
            patch.setenv(name, "")
            patch.delenv(name)
        done = Command(data_dir)("validate", str(made_archive))
    assert done.code == 0, done
    return data_dir


@pytest.fixture
def validated(elsewhere: Path, validated_directory: Path, tmp_path: Path) -> Command:
    """The command on a copy of that data directory."""
    shutil.copytree(validated_directory, tmp_path / "data")
    return Command(tmp_path / "data")
