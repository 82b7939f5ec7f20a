"""A data directory with its own Dagster instance, over the sample's bars. Here: fixtures of this folder."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from postval_assets.commands.home import open_instance
from postval_assets.definitions import build_definitions
from postval_assets.defs.jobs import RANGE_END_TAG, RANGE_START_TAG
from postval_assets.defs.resources import PlatformResource
from postval_assets.defs.sensors import inbox_sensor, queue_sensor
from postval_assets.io.inbox import deliver
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.settings import Settings, environment, load_settings
from postval_assets_tests.factories import make_archive

Tick = dg.SensorResult | dg.SkipReason
DECIDED, DECIDED_SYMBOLS = "20250301_180000", ("AAPL", "MSFT", "NVDA")


@dataclass(frozen=True)
class Home:
    """A data directory, the Dagster instance in it, and the daemon's work done by hand."""

    settings: Settings
    platform: Platform
    instance: dg.DagsterInstance

    def rows(self, sql: str, *params: object) -> list[dict[str, Any]]:
        """From the warehouse."""
        return self.platform.warehouse.rows(sql, params)

    def tick(self, sensor: dg.SensorDefinition, cursor: str | None) -> tuple[Tick, str | None]:
        """One tick of a sensor, and the cursor that it leaves."""
        resources = {"platform": PlatformResource.of(self.settings)}
        with dg.build_sensor_context(self.instance, cursor, resources=resources) as context:
            result = sensor(context)
            assert isinstance(result, dg.SensorResult | dg.SkipReason)
            left = result.cursor if isinstance(result, dg.SensorResult) else None
            return result, left or context.cursor

    def inbox_tick(self, cursor: str | None = None) -> tuple[Tick, str | None]:
        """One tick of the inbox sensor, and the cursor that it leaves."""
        return self.tick(inbox_sensor, cursor)

    def queue_tick(self, cursor: str | None = None) -> tuple[Tick, str | None]:
        """One tick of the queue sensor, and the cursor that it leaves."""
        return self.tick(queue_sensor, cursor)

    def take(self, *files: Path, cursor: str | None = None) -> tuple[dg.SensorResult, str | None]:
        """Files dropped into the inbox and taken by the sensor's second tick; partitions and events as it asked."""
        for file in files:
            deliver(file, self.settings.inbox)
        _, cursor = self.inbox_tick(cursor)
        result, cursor = self.inbox_tick(cursor)
        assert isinstance(result, dg.SensorResult), result
        for request in result.dynamic_partitions_requests or ():
            assert isinstance(request, dg.AddDynamicPartitionsRequest)
            self.instance.add_dynamic_partitions(request.partitions_def_name, request.partition_keys)
        for event in result.asset_events:
            self.instance.report_runless_asset_event(event)
        return result, cursor

    def run(
        self, job: str, tags: Mapping[str, str], partition_key: str | None = None, **settings: object
    ) -> dg.ExecuteInProcessResult:
        """A job with these tags, in this process; other settings where given."""
        chosen = self.settings.model_copy(update=settings)
        definition = build_definitions(chosen).resolve_job_def(job)
        return definition.execute_in_process(
            instance=self.instance, tags=dict(tags), partition_key=partition_key, raise_on_error=False
        )

    def run_requested(self, result: dg.SensorResult) -> None:
        """Every run that a tick asked for, to its success."""
        for request in result.run_requests or ():
            done = self.run(request.job_name or "archive_job", request.tags, request.partition_key)
            assert done.success, step_failures(done)

    def settle(self, cursor: str | None = None, most: int = 6) -> str | None:
        """Ticks of the queue sensor, and the runs that they ask for, until there is nothing more to do."""
        for _ in range(most):
            result, cursor = self.queue_tick(cursor)
            if isinstance(result, dg.SkipReason):
                return cursor
            self.run_requested(result)
        raise AssertionError(f"the queue sensor still asks for runs after {most} ticks")


def over(first: str, last: str, **tags: str) -> dict[str, str]:
    """Tags of a run over a range of symbols; ``postval_archive_id`` stands for ``postval/archive_id``."""
    named = {name.replace("postval_", "postval/"): value for name, value in tags.items()}
    return {RANGE_START_TAG: first, RANGE_END_TAG: last, **named}


def step_failures(result: dg.ExecuteInProcessResult) -> dict[str, str]:
    """Message by failed step."""
    found: dict[str, str] = {}
    for event in result.all_events:
        if event.is_step_failure:
            error = event.step_failure_data.error
            found[event.step_key or ""] = error.message if error is not None else ""
    return found


def archive_of(folder: Path, stamp: str, models: Sequence[str] | Mapping[str, Any], **arguments: Any) -> Path:
    """A small archive trained at ``stamp``, of these models."""
    named = models if isinstance(models, Mapping) else {name: {} for name in models}
    folder.mkdir(parents=True, exist_ok=True)
    return make_archive(
        folder / f"Alpaca_trading_trained_{stamp}.zip",
        named,
        summary_name=f"training_summary_{stamp}.json",
        **arguments,
    )


@contextmanager
def opened_home(folder: Path, **settings: object) -> Iterator[Home]:
    """A fresh data directory whose instance is this process's for the length of the block."""
    chosen = load_settings(data_dir=folder, bars_source="sample", **settings)
    logger = logging.getLogger("postval")
    before = (list(logger.handlers), logger.level)
    try:
        with pytest.MonkeyPatch.context() as patch:
            for name, value in environment(chosen).items():
                patch.setenv(name, value)
            with open_instance(chosen) as instance:
                yield Home(chosen, open_platform(chosen), instance)
    finally:
        # The directory's own log, which the first use of its platform turned on.
        logger.handlers = before[0]
        logger.setLevel(before[1])


@pytest.fixture(scope="session")
def decided_directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with one decided archive of three symbols, everything published."""
    root = tmp_path_factory.mktemp("decided")
    with opened_home(root / "data") as home:
        taken, _ = home.take(archive_of(root / "made", DECIDED, DECIDED_SYMBOLS))
        home.run_requested(taken)
        home.settle()
    return root / "data"


@pytest.fixture
def decided(decided_directory: Path, tmp_path: Path) -> Iterator[Home]:
    """A copy of that directory: it works wherever it lies."""
    shutil.copytree(decided_directory, tmp_path / "copy")
    with opened_home(tmp_path / "copy") as opened:
        yield opened


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Home]:
    """An empty data directory."""
    with opened_home(tmp_path / "data") as opened:
        yield opened
