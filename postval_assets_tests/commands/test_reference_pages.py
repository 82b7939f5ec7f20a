"""docs/tables.md, settings.md and features.md are what the code says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest

from postval_assets.commands.reference_pages import (
    EXAMPLE,
    WRITERS,
    features_page,
    main,
    pages,
    settings_page,
    tables_page,
)
from postval_assets.io.dictionary import TABLES, VIEWS
from postval_assets.settings import Settings

DOCS = Path(__file__).resolve().parents[2] / "docs"


@pytest.mark.parametrize("name", ["tables.md", "settings.md", "features.md"])
def test_the_page_in_docs_is_current(name: str) -> None:
    written = (DOCS / name).read_text(encoding="utf-8")
    assert written == pages()[name], "run: python -m postval_assets.commands.reference_pages docs"


def test_every_table_and_view_has_its_section_with_columns() -> None:
    sections = {part.split("\n", 1)[0]: part for part in tables_page().split("\n### ")[1:]}
    assert set(sections) == {*TABLES, *VIEWS}
    assert set(WRITERS) == set(TABLES)
    assert all(re.search(r"^\| `\w+` \| [A-Z]+", part, re.MULTILINE) for part in sections.values())
    assert "| `sharpe` | DOUBLE | Annualised Sharpe ratio" in sections["fold_results"]
    assert "| `ts` | TIMESTAMPTZ | " in sections["bars"]


def test_every_setting_is_there_with_its_default() -> None:
    page = settings_page()
    for name in Settings.model_fields:
        assert f"| `{name}` | `POSTVAL_{name.upper()}` | " in page
    assert "| `crypto_fee_bps` | `POSTVAL_CRYPTO_FEE_BPS` | `25` | " in page
    assert "| `capital` | `POSTVAL_CAPITAL` | `100000` | " in page
    assert "| `plans` | `POSTVAL_PLANS` | `180d` | " in page
    assert "| `include_dropped` | `POSTVAL_INCLUDE_DROPPED` | `false` | " in page


def test_no_page_names_a_place_of_this_machine() -> None:
    home = str(Path.home())
    for text in pages().values():
        assert str(DOCS.parent) not in text
        assert home == "/" or home not in text


def test_the_example_of_postval_toml_is_accepted() -> None:
    settings = Settings(**tomllib.loads(EXAMPLE))
    assert settings.gate_thresholds.name == "strict"
    assert settings.gate_thresholds.approve.profit_factor == 2.0
    assert settings.feature_sets["20250301_180000"] == "acme-59"


def test_features_are_numbered_in_the_order_of_an_observation() -> None:
    numbers = [int(n) for n in re.findall(r"^\| (\d+) \| `", features_page(), re.MULTILINE)]
    assert numbers == list(range(1, 54))


def test_the_command_writes_the_pages(tmp_path: Path) -> None:
    main([str(tmp_path / "out")])
    assert sorted(p.name for p in (tmp_path / "out").iterdir()) == sorted(pages())
    assert (tmp_path / "out" / "tables.md").read_bytes().count(b"\r") == 0
