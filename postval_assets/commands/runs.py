"""Runs in this process: the same jobs over the same assets, without daemon or web server.

Here: ``validate``, ``backfill``, ``bars`` and ``watch``. The queue of a running daemon counts these runs as its own and
waits for them.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import dagster as dg

from postval_assets.commands.home import open_instance
from postval_assets.commands.occupancy import clear_orphans_beside
from postval_assets.core.failures import PostvalError, Rejected
from postval_assets.core.instruments import parse_symbol
from postval_assets.definitions import build_definitions
from postval_assets.defs.catalogue import archive_materialization
from postval_assets.defs.jobs import (
    archive_job,
    bars_job,
    evaluation_job,
    evidence_job,
    range_tags,
    watch_job,
)
from postval_assets.defs.partitions import ARCHIVE, SYMBOL
from postval_assets.defs.resources import ARCHIVE_TAG, AS_OF_TAG, PLANS_TAG, SHA_TAG
from postval_assets.defs.run_records import made_here
from postval_assets.defs.sensors import evidence_due, is_busy
from postval_assets.io.disk_full import is_disk_full, unavailable
from postval_assets.io.inbox import inspect_archive
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.archives import archive_limits, archives_of, register
from postval_assets.pipeline.intake_file import take_in
from postval_assets.pipeline.market import SIMULATED, require_one_kind_of_bars
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.reading import stored_bars_rows
from postval_assets.pipeline.watched import deployed_models, watches

log = logging.getLogger("postval.runs")

_FOR_TRYING_OUT = (
    "simulated, for trying out only; your own: --bars alpaca or parquet:DIR, or bars_source in postval.toml"
)

# Dagster's own events stay out of the terminal; they are in its history.
_QUIET = {"loggers": {"console": {"config": {"log_level": "CRITICAL"}}}}


class RunFailed(PostvalError):  # noqa: N818 - named as what happened
    """A run ended with an error; its message is the first failed step's."""


Arguments = ParamSpec("Arguments")
Result = TypeVar("Result")


def _telling_a_full_disk(
    command: Callable[Concatenate[Platform, Arguments], Result],
) -> Callable[Concatenate[Platform, Arguments], Result]:
    """Dagster's own history is on the disk too; where that is full, its error becomes one readable line."""

    @functools.wraps(command)
    def told(platform: Platform, /, *args: Arguments.args, **kwargs: Arguments.kwargs) -> Result:
        try:
            return command(platform, *args, **kwargs)
        except PostvalError:
            raise
        except Exception as error:
            home = platform.settings.data_dir / "dagster"
            if is_disk_full(error, home):
                raise unavailable("the run's history could not be written to", home, error) from error
            raise

    return told


@dataclass(frozen=True)
class Validated:
    """What was validated: the archive, and the symbols that were asked for."""

    archive_id: str
    symbols: tuple[str, ...]


@_telling_a_full_disk
def validate(
    platform: Platform,
    file: Path,
    *,
    symbols: Sequence[str] | None,
    plans: Sequence[str],
    as_of: datetime | None,
) -> Validated:
    """Take in one archive and run its job here, to its decisions.

    Raises:
        Rejected: for a file that is no archive, or symbols that it does not hold.
        RunFailed: where a run ended with an error.
    """
    ready = inspect_archive(file, archive_limits(platform), now=platform.now())
    tell_bars(platform)
    instance = open_instance(platform.settings)
    clear_orphans_beside(platform.settings, instance)
    take_in(platform, ready)
    delivery = register(platform, ready, run_id="validate", busy=lambda sha256: is_busy(instance, sha256))
    if delivery.reason:
        log.info("%s; what is current is not computed again", delivery.reason)
    wanted = _among(symbols, delivery.symbols, delivery.archive_id)
    _add_partitions(instance, ARCHIVE, [delivery.archive_id])
    _add_partitions(instance, SYMBOL, delivery.symbols)
    instance.report_runless_asset_event(archive_materialization(delivery))
    tags = {ARCHIVE_TAG: delivery.archive_id, SHA_TAG: delivery.sha256, PLANS_TAG: ",".join(plans)}
    if as_of is not None:
        tags[AS_OF_TAG] = as_of.isoformat()
    run_job(platform, instance, archive_job.name, wanted, tags)
    weigh(platform, instance)
    return Validated(delivery.archive_id, wanted)


@_telling_a_full_disk
def backfill(
    platform: Platform,
    *,
    symbols: Sequence[str],
    plans: Sequence[str],
    archive_id: str | None,
    as_of: datetime | None = None,
) -> dict[str, str]:
    """Folds of these plans for known models, and the summaries and decisions that follow.

    Returns:
        archive_id by symbol.

    Raises:
        Rejected: for an unknown archive, or symbols without a model.
        RunFailed: where a run ended with an error.
    """
    tell_bars(platform)
    instance = open_instance(platform.settings)
    clear_orphans_beside(platform.settings, instance)
    wanted = [parse_symbol(s) for s in symbols]
    archives = archives_of(platform, wanted, archive_id)
    missing = [s for s in wanted if s not in archives]
    if missing:
        where = f"archive {archive_id}" if archive_id else "any archive"
        raise Rejected(f"no model of {', '.join(missing)} in {where}: ingest an archive that has one first")
    _add_partitions(instance, SYMBOL, wanted)
    for one in sorted(set(archives.values())):
        of_archive = [s for s, a in archives.items() if a == one]
        tags = {ARCHIVE_TAG: one, PLANS_TAG: ",".join(plans)}
        if as_of is not None:
            tags[AS_OF_TAG] = as_of.isoformat()
        run_job(platform, instance, evaluation_job.name, of_archive, tags)
    weigh(platform, instance)
    return archives


@_telling_a_full_disk
def load(platform: Platform, symbols: Sequence[str] | None) -> list[dict[str, Any]]:
    """Load or top up the bars of these symbols, also of those that no archive has.

    These become partitions like others and are topped up from then on; one without bars is forgotten again, so that
    a misspelt name is not asked for every day.

    Args:
        platform: settings and warehouse.
        symbols: whose bars; None for all that are known.

    Returns:
        What is stored of them (pipeline.reading.stored_bars_rows).

    Raises:
        Rejected: for what is no symbol, or where none is known yet.
        RunFailed: where a run ended with an error.
    """
    wanted = None if symbols is None else tuple(dict.fromkeys(parse_symbol(s) for s in symbols))
    tell_bars(platform)
    instance = open_instance(platform.settings)
    clear_orphans_beside(platform.settings, instance)
    if wanted is None:
        wanted = tuple(instance.get_dynamic_partitions(SYMBOL))
        if not wanted:
            raise Rejected("no symbol is known yet: name some with --symbols, or ingest an archive")
    known = set(instance.get_dynamic_partitions(SYMBOL))
    _add_partitions(instance, SYMBOL, wanted)
    try:
        run_job(platform, instance, bars_job.name, wanted, {})
        return stored_bars_rows(platform, wanted)
    finally:
        _forget(platform, instance, [s for s in wanted if s not in known])


@_telling_a_full_disk
def watch(platform: Platform, symbols: Sequence[str] | None) -> list[dict[str, Any]]:
    """Hold every model that went LIVE against the bars since then, and decide again.

    Args:
        platform: settings and warehouse.
        symbols: whose models; None for all.

    Returns:
        What the watch says of each (pipeline.watched.watches).

    Raises:
        Rejected: for what is no symbol, or where nothing was decided yet.
        RunFailed: where a run ended with an error.
    """
    wanted = None if symbols is None else {parse_symbol(s) for s in symbols}
    if not platform.warehouse.path.is_file():
        raise Rejected(f"{platform.warehouse.path} is not there: nothing was decided in this data directory")
    deployed = deployed_models(platform, wanted)
    if not deployed:
        return []
    instance = open_instance(platform.settings)
    clear_orphans_beside(platform.settings, instance)
    failures = []
    for archive_id in sorted({r["archive_id"] for r in deployed}):
        of_archive = list(dict.fromkeys(r["symbol"] for r in deployed if r["archive_id"] == archive_id))
        _add_partitions(instance, SYMBOL, of_archive)
        try:
            run_job(platform, instance, watch_job.name, of_archive, {ARCHIVE_TAG: archive_id})
        except RunFailed as error:
            failures.append(str(error))
    if failures:
        raise RunFailed("; ".join(failures))
    return watches(platform, wanted)


def _forget(platform: Platform, instance: dg.DagsterInstance, symbols: Sequence[str]) -> None:
    """Take back the partitions of those of these symbols that have neither bars nor, by now, an archive."""
    kept = {r["symbol"] for r in stored_bars_rows(platform, symbols) if r["n_bars"]}
    gone = [s for s in symbols if s not in kept and s not in archives_of(platform, symbols, None)]
    for symbol in gone:
        instance.delete_dynamic_partition(SYMBOL, symbol)
    if gone:
        keys = [{"symbol": symbol} for symbol in gone]
        platform.warehouse.write(
            [Replace("bar_loads", keys, []), Replace("bar_coverage", keys, [])],
            run_id=bars_job.name,
            now=platform.now(),
        )
        platform.warehouse.publish(platform.replica)


def tell_bars(platform: Platform) -> None:
    """Say which bars are used, before anything is decided on them.

    Raises:
        Rejected: where the source is missing, or does not belong to this data directory.
    """
    require_one_kind_of_bars(platform)
    source = platform.settings.bars_source
    log.info("bars: %s%s", source, f" ({_FOR_TRYING_OUT})" if source == SIMULATED else "")


def weigh(platform: Platform, instance: dg.DagsterInstance) -> None:
    """Evidence of the archives that are decided and not weighed as they stand, then publish.

    Raises:
        RunFailed: after all archives were tried, with the first failures.
    """
    definition = build_definitions(platform.settings).resolve_job_def(evidence_job.name)
    results = [
        definition.execute_in_process(
            instance=instance,
            partition_key=archive_id,
            tags={ARCHIVE_TAG: archive_id, **made_here()},
            run_config=_QUIET,
            raise_on_error=False,
        )
        for archive_id in evidence_due(instance, platform)
    ]
    _finish(platform, results)


def run_job(
    platform: Platform, instance: dg.DagsterInstance, job: str, symbols: Sequence[str], tags: dict[str, str]
) -> None:
    """Run a job here over these symbols, one run for each contiguous range, then publish.

    Raises:
        RunFailed: after all ranges were tried, with the first failure.
    """
    definition = build_definitions(platform.settings).resolve_job_def(job)
    ordered = instance.get_dynamic_partitions(SYMBOL)
    results = [
        definition.execute_in_process(
            instance=instance, tags=run_tags, run_config=_QUIET, raise_on_error=False
        )
        for run_tags in range_tags(
            symbols, ordered, platform.settings.symbols_per_run, {**tags, **made_here()}
        )
    ]
    _finish(platform, results)


def _finish(platform: Platform, results: Sequence[dg.ExecuteInProcessResult]) -> None:
    platform.warehouse.publish(platform.replica)
    failures = [_first_failure(r) for r in results if not r.success]
    if failures:
        raise RunFailed("; ".join(failures))


def _first_failure(result: dg.ExecuteInProcessResult) -> str:
    for event in result.all_events:
        if event.is_step_failure:
            failure = event.step_failure_data
            told = failure.user_failure_data.description if failure.user_failure_data else None
            return f"{event.step_key} failed: {told or _root_message(failure.error)} (run {result.run_id})"
    return f"run {result.run_id} failed"


def _root_message(error: Any) -> str:
    """The first line of what an error that nobody foresaw was caused by."""
    while error is not None and error.cause is not None:
        error = error.cause
    return str(error.message).strip().splitlines()[0] if error is not None else "no message"


def _among(symbols: Sequence[str] | None, held: Sequence[str], archive_id: str) -> tuple[str, ...]:
    if symbols is None:
        return tuple(held)
    wanted = tuple(dict.fromkeys(parse_symbol(s) for s in symbols))
    missing = [s for s in wanted if s not in held]
    if missing:
        raise Rejected(f"archive {archive_id} has no model of {', '.join(missing)}; it has {', '.join(held)}")
    return wanted


def _add_partitions(instance: dg.DagsterInstance, name: str, keys: Sequence[str]) -> None:
    known = set(instance.get_dynamic_partitions(name))
    new = [k for k in dict.fromkeys(keys) if k not in known]
    if new:
        instance.add_dynamic_partitions(name, new)
