"""Two archives with models of the same symbols, taken in as they would be; for tests of their comparison."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

import pytest

from postval_assets.pipeline import challenging, fold_jobs
from postval_assets.pipeline.challenging import compare_champions
from postval_assets.pipeline.notes import champion_notes
from postval_assets.pipeline.platform import StageReport
from postval_assets_tests.pipeline.conftest import END, TRAINED, Bench, network

OLDEST, FIRST, SECOND = "20241101_000000", "20250101_000000", "20250201_000000"
EARLIER = END - timedelta(days=4)
SEEN = ("2022-01-01T00:00:00Z", "2025-02-01T00:00:00Z")

Row = dict[str, Any]


def taken(bench: Bench, stamp: str, models: Mapping[str, Any], **archive: Any) -> dict[str, str]:
    """An archive delivered, extracted and gated; archive_id by symbol."""
    return bench.intake(bench.deliver(bench.archive(models, stamp=stamp, **archive)))


def one_model(
    bench: Bench, stamp: str, seed: int = 0, action: str | None = None, **how: Any
) -> dict[str, str]:
    archive = {"train": how.pop("train", TRAINED)}
    return taken(bench, stamp, {"UPPUSD_4Hour": network(action, seed=seed, **how)}, **archive)


def compared(bench: Bench, archives: Mapping[str, str], as_of: datetime | None = None) -> StageReport:
    return compare_champions(bench.platform, archives, run_id=bench.run_id("champion"), as_of=as_of)


def comparisons(bench: Bench) -> list[Row]:
    return bench.rows("SELECT * FROM champion_comparisons ORDER BY symbol, as_of, plan")


def only(bench: Bench) -> Row:
    return bench.one("SELECT * FROM champion_comparisons")


def notes(bench: Bench, archives: Mapping[str, str], until: datetime | None = None) -> dict[Any, str]:
    return champion_notes(bench.platform, archives, until=until)


def with_bars(bench: Bench, symbol: str = "UPPUSD", **made: Any) -> Bench:
    """The data directory with the bars of one symbol."""
    bench.put_bars(symbol, **made)
    bench.load([symbol])
    return bench


def two_archives(bench: Bench) -> dict[str, str]:
    """Two archives, of which the newer one is evaluated; its archive_id by symbol."""
    one_model(bench, FIRST, 1)
    archives = one_model(bench, SECOND, 2)
    bench.evaluate(archives)
    return archives


def count_runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that the stage runs from now on."""
    seen: list[str] = []

    def counting(platform: Any, run: Any, prepare: Any, jobs: Any) -> Any:
        seen.extend(f"{job.keys['archive_id']} {job.name}" for job in jobs)
        return fold_jobs.compute(platform, run, prepare, jobs)

    monkeypatch.setattr(challenging, "compute", counting)
    return seen
