"""SECURITY.md names tests that exist, for every promise; and the promises about servers that need no server."""

from __future__ import annotations

import re
from importlib.resources import files
from pathlib import Path

import yaml

from postval_assets.commands.servers import daemon_command, dev_command
from postval_assets.settings import Settings

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`(postval_assets_tests/[\w./]*\w)`", PAGE)))


def promises() -> list[tuple[str, ...]]:
    """The rows of the table of promises: promise, how, held by."""
    table = PAGE.partition("## What is promised")[2].partition("\n## ")[0]
    rows = [line for line in table.splitlines() if line.startswith("| ")][1:]
    return [tuple(cell.strip() for cell in row.strip("|").split("|")) for row in rows]


def test_every_test_that_the_page_names_exists() -> None:
    assert len(NAMED) > 15
    for name in NAMED:
        path = ROOT / name
        found = [path] if path.is_file() else sorted(path.rglob("test_*.py"))
        assert found, f"SECURITY.md names {name}, which is not there or holds no test"
        assert any("def test_" in file.read_text(encoding="utf-8") for file in found), name


def test_every_promise_is_held_by_a_test() -> None:
    assert len(promises()) > 12
    for promise, how, held_by in promises():
        assert how, promise
        assert re.findall(r"`(postval_assets_tests/[^`]+)`", held_by), promise


def test_what_the_page_links_to_and_runs_exists() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", PAGE):
        assert (ROOT / link).exists(), link
    for module in re.findall(r"`python -m (\S+)", PAGE):
        path = ROOT.joinpath(*module.split("."))
        assert path.with_suffix(".py").is_file() or (path / "__main__.py").is_file(), module


def test_servers_are_told_to_listen_on_this_machine_only() -> None:
    command = dev_command(Settings(port=3001))
    assert command[command.index("--host") + 1] == "127.0.0.1"
    assert command[command.index("--port") + 1] == "3001"
    # The daemon serves nobody: no address is given to it, and it has none to listen on.
    assert not [word for word in daemon_command() if "host" in word or "port" in word]


def test_dagster_sends_nothing_anywhere() -> None:
    text = files("postval_assets.defs").joinpath("dagster.yaml").read_text(encoding="utf-8")
    instance = yaml.safe_load(text)
    assert instance["telemetry"] == {"enabled": False}
    assert instance["nux"] == {"enabled": False}
