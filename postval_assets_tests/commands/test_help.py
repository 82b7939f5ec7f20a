"""``--help`` teaches by example, for every command."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from postval_assets.cli import main


@pytest.mark.parametrize("name", sorted(main.commands))
def test_help_shows_what_the_command_does_and_an_example_of_it(name: str) -> None:
    done = CliRunner().invoke(main, [name, "--help"])
    assert done.exit_code == 0
    usage, _, rest = done.stdout.partition("\n\n")
    assert usage.startswith("Usage: ")
    description, _, examples = rest.partition("Examples:\n")
    assert len(description.split()) > 5
    lines = [line for line in examples.splitlines() if line.strip()]
    assert all(line.startswith(("    postval ", "    dagster ")) for line in lines)
    assert any(line.startswith("    postval ") and f" {name}" in line for line in lines), "no example of it"
    assert all(len(line) <= 110 for line in done.stdout.splitlines())


def test_help_of_the_whole_lists_every_command() -> None:
    done = CliRunner().invoke(main, ["--help"])
    listed = done.stdout.partition("Commands:\n")[2]
    expected = {"demo", "up", "ingest", "validate", "backtest", "backfill", "stage", "sql", "doctor"}
    assert expected <= set(main.commands)
    assert all(f"\n  {name} " in f"\n{listed}" for name in main.commands)
    assert "Examples:\n    postval demo" in done.stdout


def test_options_in_examples_exist() -> None:
    for name, command in main.commands.items():
        options = {o for p in (*command.params, *main.params) for o in p.opts}
        for line in (command.epilog or "").splitlines():
            used = [word for word in line.split() if word.startswith("--")]
            assert set(used) <= options, f"{name}: {line}"
