"""The environment of a measurement: this process's, without what another postval left in it.

Here: variables. Not here: data directories (drop_bench.py, sql_bench.py).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from postval_assets.settings import Settings

_TIMINGS = "timings"


@contextlib.contextmanager
def own_environment(folder: Path, *, plans: Sequence[str] = ("180d",)) -> Iterator[Path]:
    """For this process and its children: no settings but these plans, and a file of timings, which is given.

    Args:
        folder: in which the files of settings and of timings lie.
        plans: of an arriving archive.
    """
    settings_file, timings = folder / "bench.toml", folder / "timings.jsonl"
    listed = ", ".join(f'"{plan}"' for plan in plans)
    settings_file.write_text(f"plans = [{listed}]\n", encoding="utf-8")
    before = dict(os.environ)
    try:
        for name in before:
            if name.startswith(("POSTVAL_", "DAGSTER_")):
                del os.environ[name]
        os.environ["POSTVAL_SETTINGS_FILE"] = str(settings_file)
        # A version of the product from before this setting would refuse it.
        if _TIMINGS in Settings.model_fields:
            os.environ[f"POSTVAL_{_TIMINGS.upper()}"] = str(timings)
        yield timings
    finally:
        os.environ.clear()
        os.environ.update(before)
