"""Ways to the command: as a module, and options in the wrong place."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from postval_assets_tests.commands.conftest import Command


def test_the_package_runs_as_a_module(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "postval_assets", "--help"],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("Usage: python -m postval_assets [OPTIONS] COMMAND")


@pytest.mark.parametrize(
    ("arguments", "option"),
    [
        (("doctor", "--bars", "alpaca"), "--bars"),
        (("bars", "--data-dir", "x"), "--data-dir"),
        (("features", "check", "reference-59", "--bars", "alpaca"), "--bars"),
    ],
)
def test_an_option_of_the_whole_is_told_where_it_stands(
    postval: Command, arguments: tuple[str, ...], option: str
) -> None:
    done = postval(*arguments)
    assert done.code == 2
    assert f"It stands before the command: postval {option} ... COMMAND" in done.err


def test_an_option_that_does_not_exist_is_only_that(postval: Command) -> None:
    done = postval("doctor", "--nonsense")
    assert done.code == 2
    assert "before the command" not in done.err
