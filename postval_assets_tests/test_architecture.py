"""Who may import whom, and what may not be written where: held by parsing every module."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = "postval_assets"
TESTS = "postval_assets_tests"

# Each room and the rooms it may use, itself included. "" is the package's own __init__.
MAY_USE = {
    "core": {"core"},
    "io": {"io", "core"},
    "report": {"report", "core"},
    "settings": {"settings", "settings_rules", "settings_tables", "core"},
    "settings_rules": {"settings_rules", "core"},
    "settings_tables": {"settings_tables", "core"},
    "pipeline": {"pipeline", "report", "io", "core", "settings"},
    "defs": {"defs", "pipeline", "report", "io", "core", "settings"},
    "definitions": {"definitions", "defs", "pipeline", "report", "io", "core", "settings"},
    "commands": {"commands", "definitions", "defs", "pipeline", "report", "io", "core", "settings"},
    "cli": {
        *("cli", "cli_audit", "cli_calibrate", "cli_train", "cli_operations", "cli_words"),
        *("commands", "definitions", "defs", "pipeline", "report", "io", "core", "settings"),
    },
    "__main__": {"cli"},
    "cli_train": {"cli_train", "cli_words", "trainer", "commands", "report", "io", "core", "settings"},
    "cli_calibrate": {"cli_calibrate", "cli_words", "trainer", "core"},
    "cli_audit": {"cli_audit", "cli_words", "commands", "pipeline", "report", "io", "core", "settings"},
    "cli_operations": {
        "cli_operations",
        "cli_words",
        "commands",
        "pipeline",
        "report",
        "io",
        "core",
        "settings",
    },
    "cli_words": {"cli_words", "defs", "io", "core", "settings"},
    # Comes before postval: it trains networks and makes the sample. Of all that validates, only the command knows it.
    "trainer": {"trainer", "io", "core"},
    "": {"core"},
}
# Edges of the outside world, and where alone each is touched.
ONLY_IN = {
    "duckdb": ("io/warehouse_file.py",),
    "alpaca": ("io/alpaca_bars.py",),
    "dagster": ("defs/", "definitions.py", "commands/"),
    "click": (
        "cli.py",
        "cli_audit.py",
        "cli_calibrate.py",
        "cli_train.py",
        "cli_operations.py",
        "cli_words.py",
    ),
}
CORE_MAY_IMPORT = {"numpy", "pandas", "torch"} | sys.stdlib_module_names - {
    *("asyncio", "http", "random", "secrets", "socket", "sqlite3", "ssl", "subprocess", "urllib"),
}
CLOCKS = {"datetime.now", "datetime.utcnow", "datetime.today", "date.today", "time.time", "Timestamp.now"}
UNPICKLERS = {"pickle", "_pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
ENVIRONMENT = {"environ", "environb", "getenv", "putenv"}
NOBODY_S_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
MAX_LINES = 450


# --- the checker --------------------------------------------------------------------------------------------


def violations(path: str, source: str) -> list[str]:
    """What is wrong with a module, as lines of text; ``path`` is relative to the repository, with slashes."""
    where = PurePosixPath(path)
    found = [
        f"{path}: nothing is called {part}" for part in where.with_suffix("").parts if part in NOBODY_S_NAMES
    ]
    n_lines = len(source.splitlines())
    if n_lines > MAX_LINES:
        found.append(f"{path}: {n_lines} lines, more than {MAX_LINES}")
    tree = ast.parse(source, filename=path)
    imports = list(_imports(tree, where))
    found += [
        f"{path}:{line}: {name} is private to Dagster"
        for line, name in imports
        if name.startswith("dagster.")
        and any(part.startswith("_") and not part.endswith("__") for part in name.split("."))
    ]
    if where.parts[0] != PACKAGE:
        return found
    inner = where.relative_to(PACKAGE)
    found += _import_violations(path, inner, imports)
    found += _laziness_violations(path, inner, tree, where)
    found += _use_violations(path, inner, tree)
    return found


def _room(inner: PurePosixPath) -> str:
    room = inner.parts[0].removesuffix(".py")
    return "" if room == "__init__" else room


def _imports(tree: ast.AST, where: PurePosixPath) -> Iterator[tuple[int, str]]:
    """(line, dotted name) of everything that is imported; ``from a import b`` counts as ``a.b``."""
    for node in ast.walk(tree):
        yield from _imports_of(node, where)


def _imports_of(node: ast.AST, where: PurePosixPath) -> Iterator[tuple[int, str]]:
    match node:
        case ast.Import(names=names):
            for alias in names:
                yield node.lineno, alias.name
        case ast.ImportFrom(module=module, names=names, level=level):
            base = where.parts[: len(where.parts) - level] if level else ()
            origin = ".".join([*base, *([module] if module else [])])
            for alias in names:
                yield node.lineno, f"{origin}.{alias.name}"
        case ast.Call(func=func, args=[ast.Constant(value=str(name)), *_]) if _dotted(func).rpartition(".")[
            2
        ] in (
            "import_module",
            "__import__",
        ):
            yield node.lineno, name
        case _:
            pass


def _import_violations(path: str, inner: PurePosixPath, imports: list[tuple[int, str]]) -> Iterator[str]:
    room = _room(inner)
    if room not in MAY_USE:
        yield f"{path}: {room} is none of the rooms {', '.join(filter(None, MAY_USE))}"
        return
    for line, name in imports:
        why = _why_not(room, inner, name)
        if why is not None:
            yield f"{path}:{line}: {why} ({name})"


def _why_not(room: str, inner: PurePosixPath, name: str) -> str | None:
    top, _, rest = name.partition(".")
    if top == PACKAGE:
        used = rest.partition(".")[0]
        if used not in MAY_USE:
            return "name the module: neither a new room nor the package's front door"
        return None if used in MAY_USE[room] else f"{room or PACKAGE} may not use {used or PACKAGE}"
    if top == TESTS:
        return "the product may not use its tests"
    if top in ONLY_IN and not str(inner).startswith(ONLY_IN[top]):
        return f"{top} is only for {', '.join(ONLY_IN[top])}"
    if top in UNPICKLERS:
        return "nothing is unpickled"
    if room == "core" and top not in CORE_MAY_IMPORT:
        return f"core is pure and may not use {top}"
    if top == "os" and rest in ENVIRONMENT and room not in ("settings", "cli"):
        return "the environment is only for settings and cli"
    return None


def _laziness_violations(
    path: str, inner: PurePosixPath, tree: ast.Module, where: PurePosixPath
) -> Iterator[str]:
    if _room(inner) != "trainer":
        for node in _run_at_import(tree):
            for line, name in _imports_of(node, where):
                if name.partition(".")[0] == "torch":
                    yield f"{path}:{line}: torch is imported inside the functions that need it"
                if name.startswith(f"{PACKAGE}.trainer"):
                    yield f"{path}:{line}: the trainer is imported inside the functions that need it"
    if _room(inner) == "defs":
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module == "__future__":
                yield f"{path}:{node.lineno}: Dagster reads annotations: no `from __future__` in defs"


def _run_at_import(node: ast.AST) -> Iterator[ast.AST]:
    """Every node that is executed when the module is imported."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
            continue
        if isinstance(child, ast.If) and _dotted(child.test).rpartition(".")[2] == "TYPE_CHECKING":
            for other in child.orelse:
                yield other
                yield from _run_at_import(other)
            continue
        yield child
        yield from _run_at_import(child)


def _use_violations(path: str, inner: PurePosixPath, tree: ast.AST) -> Iterator[str]:
    room = _room(inner)
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="os"), attr=attr) if attr in ENVIRONMENT:
                if room not in ("settings", "cli"):
                    yield f"{path}:{node.lineno}: the environment is only for settings and cli (os.{attr})"
            case ast.Attribute(attr="read_pickle" | "to_pickle"):
                yield f"{path}:{node.lineno}: nothing is unpickled ({node.attr})"
            case ast.Call(func=func, keywords=keywords):
                if any(k.arg == "allow_pickle" and not _is(k.value, False) for k in keywords):
                    yield f"{path}:{node.lineno}: nothing is unpickled (allow_pickle)"
                safe = any(k.arg == "weights_only" and _is(k.value, True) for k in keywords)
                if _dotted(func) == "torch.load" and not safe:
                    yield f"{path}:{node.lineno}: torch.load without weights_only=True"
                if room == "core" and _dotted(func).endswith(tuple(CLOCKS)):
                    yield f"{path}:{node.lineno}: core has no clock ({_dotted(func)})"
            case _:
                pass


def _dotted(node: ast.AST) -> str:
    match node:
        case ast.Name(id=name):
            return name
        case ast.Attribute(value=value, attr=attr):
            return f"{_dotted(value)}.{attr}"
        case _:
            return ""


def _is(node: ast.AST, value: bool) -> bool:
    return isinstance(node, ast.Constant) and node.value is value


# --- the product --------------------------------------------------------------------------------------------


def _modules() -> list[str]:
    files = [f for folder in (PACKAGE, TESTS) for f in (ROOT / folder).rglob("*.py")]
    return sorted(f.relative_to(ROOT).as_posix() for f in files)


@pytest.mark.parametrize("path", _modules())
def test_module_keeps_the_rules(path: str) -> None:
    assert violations(path, (ROOT / path).read_text(encoding="utf-8")) == []


def test_every_room_was_looked_at() -> None:
    rooms = {_room(PurePosixPath(m).relative_to(PACKAGE)) for m in _modules() if m.startswith(f"{PACKAGE}/")}
    assert rooms >= {"", "core", "io", "pipeline", "report", "defs"}
    assert rooms <= set(MAY_USE)


def test_no_room_is_used_both_ways() -> None:
    for room, uses in MAY_USE.items():
        for used in uses - {room}:
            assert room not in MAY_USE[used], f"{room} and {used} use each other"


# --- the checker can fail -----------------------------------------------------------------------------------


VIOLATIONS = {
    "may not use": [
        ("core/x.py", "import postval_assets.io.warehouse"),
        ("core/x.py", "from postval_assets.io import warehouse"),
        ("core/x.py", "from postval_assets import io"),
        ("core/x.py", "def f():\n    from postval_assets.pipeline.gate import gate_models"),
        ("core/x.py", "from postval_assets.settings import Settings"),
        ("core/x.py", "from ..io import warehouse"),
        ("core/features/x.py", "from ... import io"),
        ("core/features/x.py", "from ...io.warehouse import Warehouse"),
        ("core/x.py", "import importlib\nimportlib.import_module('postval_assets.io.warehouse')"),
        ("core/x.py", "if TYPE_CHECKING:\n    from postval_assets.io.warehouse import Warehouse"),
        ("io/x.py", "from postval_assets.pipeline.gate import gate_models"),
        ("io/x.py", "from postval_assets.report.page import page"),
        ("io/x.py", "from postval_assets.settings import Settings"),
        ("report/x.py", "from postval_assets.io.warehouse import Warehouse"),
        ("report/x.py", "from postval_assets.settings import Settings"),
        ("pipeline/x.py", "from postval_assets.defs.assets import bars"),
        ("pipeline/x.py", "from postval_assets.cli import main"),
        ("defs/x.py", "from postval_assets.definitions import defs"),
        ("definitions.py", "from postval_assets.cli import main"),
        ("settings.py", "from postval_assets.io.warehouse import Warehouse"),
        ("cli.py", "def f():\n    from postval_assets.trainer.run import train_archive"),
        ("cli_words.py", "def f():\n    from postval_assets.trainer.run import train_archive"),
        ("core/x.py", "def f():\n    from postval_assets.trainer.network import ActorCritic"),
        ("io/x.py", "from postval_assets.trainer.archive_writer import write_archive"),
        ("pipeline/x.py", "from postval_assets.trainer import make_sample"),
        ("report/x.py", "from postval_assets.trainer.archive_writer import Claim"),
        ("settings.py", "from postval_assets.trainer.config import PPOConfig"),
        ("defs/x.py", "def f():\n    from postval_assets.trainer.run import train_archive"),
        ("definitions.py", "from postval_assets.trainer.run import train_archive"),
        ("commands/x.py", "def f():\n    from postval_assets.trainer.run import train_archive"),
        ("commands/x.py", "if TYPE_CHECKING:\n    from postval_assets.trainer.run import TrainingReport"),
        ("trainer/x.py", "from postval_assets.cli_train import train"),
        ("trainer/x.py", "from postval_assets.pipeline.gate import gate_models"),
        ("trainer/x.py", "from postval_assets.settings import Settings"),
        ("__init__.py", "from postval_assets.io.warehouse import Warehouse"),
    ],
    "name the module": [
        ("io/x.py", "from postval_assets import assess_model_quality"),
    ],
    "may not use its tests": [
        ("io/x.py", "from postval_assets_tests.factories import bars"),
    ],
    "none of the rooms": [
        ("storage/x.py", "x = 1"),
        ("extra.py", "x = 1"),
    ],
    "is only for": [
        ("io/x.py", "import duckdb"),
        ("pipeline/x.py", "def f():\n    import duckdb"),
        ("io/warehouses.py", "import alpaca.data"),
        ("io/x.py", "from alpaca.data.historical import StockHistoricalDataClient"),
        ("pipeline/x.py", "import dagster as dg"),
        ("settings.py", "from dagster import Config"),
        ("defs/x.py", "import click"),
    ],
    "private to Dagster": [
        ("cli.py", "from dagster._core.instance import DagsterInstance"),
        ("defs/x.py", "from dagster import _check"),
        ("defs/x.py", "import dagster._utils"),
    ],
    "core is pure": [
        ("core/x.py", "import pydantic"),
        ("core/x.py", "import requests"),
        ("core/x.py", "import urllib.request"),
    ],
    "inside the functions": [
        ("core/x.py", "import torch"),
        ("io/x.py", "from torch import nn"),
        ("pipeline/x.py", "try:\n    import torch.nn as nn\nexcept ImportError:\n    nn = None"),
        ("report/x.py", "class A:\n    import torch"),
        ("defs/x.py", "if True:\n    import torch"),
        ("core/x.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch"),
        ("cli_train.py", "from postval_assets.trainer.run import train_archive"),
        ("cli_train.py", "import postval_assets.trainer"),
    ],
    "Dagster reads annotations": [
        ("defs/x.py", "from __future__ import annotations"),
    ],
    "the environment is only for": [
        ("io/x.py", "import os\nos.environ['A']"),
        ("pipeline/x.py", "import os\nos.getenv('A')"),
        ("defs/x.py", "from os import environ"),
        ("core/x.py", "from os import getenv as g"),
    ],
    "core has no clock": [
        ("core/x.py", "from datetime import datetime, UTC\ndatetime.now(UTC)"),
        ("core/x.py", "import time\ntime.time()"),
        ("core/x.py", "import pandas as pd\npd.Timestamp.now()"),
    ],
    "nothing is unpickled": [
        ("io/x.py", "import pickle"),
        ("trainer/x.py", "from pickle import loads"),
        ("io/x.py", "import joblib"),
        ("io/x.py", "import pandas as pd\npd.read_pickle('a')"),
        ("io/x.py", "import numpy as np\nnp.load('a', allow_pickle=True)"),
    ],
    "without weights_only": [
        ("core/x.py", "def f():\n    import torch\n    return torch.load('a')"),
        ("core/x.py", "def f():\n    import torch\n    return torch.load('a', weights_only=False)"),
    ],
    "nothing is called": [
        ("core/utils.py", "x = 1"),
        ("io/common/x.py", "x = 1"),
        ("helpers.py", "x = 1"),
    ],
    "more than 450": [
        ("core/x.py", "x = 1\n" * 451),
    ],
}


@pytest.mark.parametrize(
    ("said", "path", "source"),
    [(said, path, source) for said, cases in VIOLATIONS.items() for path, source in cases],
)
def test_a_violation_is_seen(said: str, path: str, source: str) -> None:
    assert [v for v in violations(f"{PACKAGE}/{path}", source) if said in v] != []


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("core/x.py", "from postval_assets.core.bars import Bars\nimport numpy as np\nimport math"),
        ("core/features/x.py", "from ..bars import Bars\nfrom . import base"),
        ("core/__init__.py", "from .bars import Bars"),
        ("core/x.py", "def f():\n    import torch\n    return torch.load('a', weights_only=True)"),
        ("core/x.py", "if TYPE_CHECKING:\n    import torch"),
        ("core/x.py", "from datetime import datetime\ndatetime(2024, 1, 1)"),
        ("io/warehouse_file.py", "import duckdb\nfrom postval_assets.core.bars import Bars"),
        ("io/alpaca_bars.py", "from alpaca.data.historical import StockHistoricalDataClient"),
        ("io/x.py", "import os\nos.replace('a', 'b')\nimport pickletools\nimport numpy as np\nnp.load('a')"),
        (
            "pipeline/x.py",
            "from postval_assets.settings import Settings\nfrom postval_assets.report import page",
        ),
        ("defs/x.py", "import dagster as dg\nfrom postval_assets.pipeline.gate import gate_models"),
        ("definitions.py", "from postval_assets.defs.assets import bars\nfrom dagster import Definitions"),
        ("cli.py", "import click, os\nos.environ['A']\nfrom postval_assets.commands.demo import run_demo"),
        ("cli_train.py", "import click\ndef f():\n    from postval_assets.trainer.run import train_archive"),
        ("cli_train.py", "if TYPE_CHECKING:\n    from postval_assets.trainer.run import TrainingReport"),
        ("commands/x.py", "import dagster\nfrom postval_assets.definitions import build_definitions"),
        ("settings.py", "import os\nos.environ['A']\nfrom postval_assets.core.folds import PLANS"),
        ("trainer/x.py", "import torch\nfrom postval_assets.io.file_bars import CsvBars"),
        ("__init__.py", "from postval_assets.core.gating import assess_model_quality"),
        ("core/x.py", "x = 1\n" * 450),
    ],
)
def test_what_keeps_the_rules_is_not_reported(path: str, source: str) -> None:
    assert violations(f"{PACKAGE}/{path}", source) == []


def test_tests_may_import_any_room_but_nothing_private_to_dagster() -> None:
    good = "import duckdb, torch, os\nfrom postval_assets.io import warehouse\nos.environ['A']"
    assert violations(f"{TESTS}/io/test_x.py", good) == []
    assert violations(f"{TESTS}/io/test_x.py", "from dagster._core.test_utils import instance_for_test") != []
    assert violations(f"{TESTS}/utils.py", "") != []
