"""Digests of settings and of the code: what they see, and what they do not."""

from __future__ import annotations

import shutil
from dataclasses import asdict
from pathlib import Path

import pytest

from postval_assets.core import evaluation
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.evaluation import code_version, digest_of, source_digest
from postval_assets.settings import Settings

EVALUATION_SETTINGS = {
    "capital": 5_000.0,
    "safety_buffer": 0.1,
    "base_alloc": 0.2,
    "max_position": 0.3,
    "min_order_usd": 2.0,
    "equity_fee_bps": 1.0,
    "crypto_fee_bps": 1.0,
    "slippage_bps": 1.0,
    "zero_volume": "fill",
    "account_features": "neutral",
    "session": "regular",
}


def test_the_settings_of_a_result_are_in_their_digest_and_no_others() -> None:
    before = Settings().evaluation_digest()
    assert Settings().evaluation_digest() == before
    seen = {Settings(**{name: value}).evaluation_digest() for name, value in EVALUATION_SETTINGS.items()}
    assert len(seen | {before}) == len(EVALUATION_SETTINGS) + 1
    others = {
        "port": 3001,
        "plans": ("365d",),
        "include_dropped": True,
        "good_sharpe_std": 0.5,
        "device": "cpu",
    }
    for name, value in others.items():
        assert Settings(**{name: value}).evaluation_digest() == before, name
    rules = ExecutionRules()
    assert set(asdict(rules)) == set(rules.as_dict()), "every number of execution is in it"


def test_digests_do_not_depend_on_the_order_of_keys() -> None:
    assert digest_of({"a": 1, "b": [2.5, None]}) == digest_of({"b": [2.5, None], "a": 1})
    assert digest_of({"a": 1}) != digest_of({"a": 2})


# --- code version -------------------------------------------------------------------------------------------


@pytest.fixture
def core_copy(tmp_path: Path) -> Path:
    source = Path(evaluation.__file__).parent
    return Path(shutil.copytree(source, tmp_path / "core", ignore=shutil.ignore_patterns("__pycache__")))


def test_the_code_version_is_the_same_with_windows_line_endings(core_copy: Path) -> None:
    assert source_digest(core_copy) == code_version()
    for path in core_copy.rglob("*.py"):
        path.write_bytes(path.read_bytes().replace(b"\n", b"\r\n"))
    assert b"\r\n" in (core_copy / "engine.py").read_bytes()
    assert source_digest(core_copy) == code_version()


def test_the_code_version_sees_source_and_names_only(core_copy: Path) -> None:
    (core_copy / "__pycache__").mkdir()
    (core_copy / "__pycache__" / "engine.cpython-311.pyc").write_bytes(b"compiled")
    (core_copy / "notes.md").write_text("notes", encoding="utf-8")
    assert source_digest(core_copy) == code_version()
    deep = core_copy / "features" / "base.py"
    text = deep.read_text(encoding="utf-8")
    deep.write_text(text + "\n", encoding="utf-8")
    other = source_digest(core_copy)
    assert other != code_version()
    deep.write_text(text, encoding="utf-8")
    assert source_digest(core_copy) == code_version()
    deep.rename(deep.with_name("basis.py"))
    assert source_digest(core_copy) not in (other, code_version())


# --- results ------------------------------------------------------------------------------------------------
