"""The settings of the learning as docs/trainer.md lists them."""

import dataclasses
import re
import tomllib
from pathlib import Path

from postval_assets.trainer.config import PPOConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "trainer.md"


def test_the_page_lists_every_setting_with_its_default() -> None:
    section = PAGE.read_text(encoding="utf-8").split("## Settings of the learning")[1].split("\n## ")[0]
    rows = dict(re.findall(r"^\| `(\w+)` \| `(.+?)` \|", section, re.MULTILINE))
    assert list(rows) == [field.name for field in dataclasses.fields(PPOConfig)]
    listed = tomllib.loads("\n".join(f"{name} = {value}" for name, value in rows.items()))
    for name, default in dataclasses.asdict(PPOConfig()).items():
        assert listed[name] == (list(default) if isinstance(default, tuple) else default), name
