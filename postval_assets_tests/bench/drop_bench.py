"""From a zip in the inbox to the last decision, through the real daemon and code server: seconds and memory.

Here: the sections ``drop`` and ``memory``, and what ``docs/scaling.md`` says of models, folds and bars. Not here: the
archives (production_archive.py), how memory is counted (process_tree.py), how time is taken apart (drop_times.py).
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import psutil

from postval_assets.commands.demo import wait_until_settled
from postval_assets.commands.home import open_instance
from postval_assets.commands.servers import daemon_command, running
from postval_assets.core.archive import archive_id as id_of
from postval_assets.core.folds import plan_named
from postval_assets.defs.jobs import archive_job
from postval_assets.defs.resources import ARCHIVE_TAG
from postval_assets.defs.run_records import FINISHED
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.settings import child_environment, load_settings
from postval_assets_tests.bench.drop_tables import drop_table, memory_table, scaling_table
from postval_assets_tests.bench.drop_times import run_times, split, stage_times
from postval_assets_tests.bench.options import BenchOptions
from postval_assets_tests.bench.own_environment import own_environment
from postval_assets_tests.bench.process_tree import watched
from postval_assets_tests.bench.production_archive import (
    HISTORY_DAYS,
    PRODUCTION,
    Shape,
    why_no_room,
    write_production_archive,
    write_production_bars,
)

__all__ = ["measure_drop", "measure_validate", "memory_run", "memory_table", "run", "scaling_table", "table"]

# The form of a section: run and table.
table = drop_table

PLAN = "180d"
QUICK_SHAPE = Shape(hidden_dims=(16, 8), window=100)
# Of the curves over folds and bars: few models, because what is compared is not their number.
CURVE_MODELS = 3
CURVE_DAYS = 600
_CASES = (
    ("folds", (PLAN,), CURVE_DAYS),
    ("folds", (PLAN, "365d"), CURVE_DAYS),
    ("bars", (PLAN,), CURVE_DAYS // 2),
    ("bars", (PLAN,), CURVE_DAYS * 2),
    ("bars", (PLAN,), CURVE_DAYS * 4),
)
_POLL_SECONDS = 1.0
_START_SECONDS = 180.0
# What the daemon logs when the sensor has looked at an empty inbox.
_TICK_IN_LOG = "the inbox is empty"


class BenchFailed(RuntimeError):  # noqa: N818 - named as what happened
    """What was to be measured did not come to its end."""


@dataclass(frozen=True)
class Place:
    """A data directory of its own for one measurement, with everything that is in it.

    Attributes:
        folder: of the measurement; removed afterwards.
        archive: to be dropped.
        platform: settings and stores of the data directory.
        timings: the file in which the product says what its stages took.
    """

    folder: Path
    archive: Path
    platform: Platform
    timings: Path

    @property
    def archive_id(self) -> str:
        """By the archive's name."""
        return id_of(self.archive.name, self.archive.name)


def run(options: BenchOptions) -> dict[str, Any]:
    """Seconds and memory of archives of each size, then of more folds and more bars.

    Returns:
        ``archives``: one result a size; ``curve``: one result a case of folds and bars; ``ratios``: seconds and
        memory of each size over those of the size before; ``skipped``: what did not fit, in words.
    """
    curve = [measure_validate(options, *case) for case in _CASES[: 2 if options.quick else None]]
    return {**_drops(options), "curve": curve}


def _drops(options: BenchOptions) -> dict[str, Any]:
    """The archives that fit on the disk, smallest first."""
    archives: list[dict[str, Any]] = []
    skipped: list[str] = []
    for n_models in sorted(set(options.models)):
        reason = None if options.quick else why_no_room(options.scratch, n_models)
        if reason is None:
            archives.append(measure_drop(options, n_models))
        else:
            skipped.append(reason)
    return {"archives": archives, "ratios": _ratios(archives), "skipped": skipped}


def memory_run(options: BenchOptions, drop_result: dict[str, Any] | None = None) -> dict[str, Any]:
    """Peak memory at each size, of the runs that ``drop`` measured; measures them where there is no such result."""
    found = _drops(options) if drop_result is None else drop_result
    chosen = ("models", "memory_until_decided", "memory")
    return {
        "archives": [{name: each[name] for name in chosen} for each in found["archives"]],
        "ratios": [{k: v for k, v in r.items() if k != "seconds_a_model"} for r in found["ratios"]],
        "skipped": found["skipped"],
    }


def measure_drop(options: BenchOptions, n_models: int) -> dict[str, Any]:
    """One archive of so many models from its drop to its decisions and on until everything is published.

    Raises:
        BenchFailed: where a run fails, or not every model is decided.
    """
    with _place(options, f"drop-{n_models}", n_models, HISTORY_DAYS, (PLAN,)) as (place, made_s):
        settings, platform = place.platform.settings, place.platform
        size = place.archive.stat().st_size
        log = settings.data_dir / "logs" / "daemon.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            log.open("wb") as output,
            running(daemon_command(), settings, output) as daemon,
            watched(daemon) as peaks,
        ):
            require_running = _required(daemon, log)
            _wait_for_tick(log, require_running)
            dropped_at = time.time()
            place.archive.replace(settings.inbox / place.archive.name)
            instance = open_instance(settings)
            _wait_for_decisions(platform, instance, place.archive_id, log, require_running)
            until_decided = peaks.as_dict()
            wait_until_settled(platform, timeout_s=600.0, check=require_running)
            settled_s = time.time() - dropped_at
        facts = _facts(platform, place.archive_id, n_models)
        times = run_times(instance, {ARCHIVE_TAG: place.archive_id}, archive_job.name)
        parts = split(dropped_at, facts.pop("decided_at"), times, stage_times(place.timings))
        return {
            "models": n_models,
            "archive_mb": round(size / 1e6, 1),
            "made_in_s": round(made_s, 1),
            **parts,
            "seconds_a_model": round(parts["seconds"] / n_models, 3),
            "settled_s": round(settled_s, 2),
            "memory_until_decided": until_decided,
            "memory": peaks.as_dict(),
            **facts,
        }


def measure_validate(options: BenchOptions, against: str, plans: Sequence[str], days: int) -> dict[str, Any]:
    """A few models through ``postval validate``: the same stages in one process.

    Args:
        options: of the run.
        against: what the case is there for.
        plans: that are evaluated.
        days: of history.
    """
    n_models = 1 if options.quick else CURVE_MODELS
    name = f"{against}-{'-'.join(plans)}-{days}"
    with _place(options, name, n_models, days, plans) as (place, _):
        settings = place.platform.settings
        log = place.folder / "validate.log"
        command = [sys.executable, "-m", "postval_assets.cli", "validate", str(place.archive)]
        command += ["--plan", ",".join(plans)]
        started_at = time.time()
        with log.open("wb") as output:
            process = psutil.Popen(
                command,
                env=child_environment(settings),
                cwd=place.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
            with watched(process, lambda _: "validate") as peaks:
                code = process.wait()
        if code != 0:
            raise BenchFailed(f"postval validate ended with {code}:\n{_end_of(log)}")
        wall_s = time.time() - started_at
        facts = _facts(place.platform, place.archive_id, n_models)
        times = run_times(open_instance(settings), {ARCHIVE_TAG: place.archive_id}, archive_job.name)
        parts = split(started_at, facts.pop("decided_at"), times, stage_times(place.timings))
        return {
            "against": against,
            "models": n_models,
            "plans": list(plans),
            "folds": sum(plan_named(plan).n_folds for plan in plans),
            "history_bars": days * 24,
            "wall_s": round(wall_s, 2),
            "stages_s": round(sum(parts["stages"].values()), 2),
            "stages": parts["stages"],
            "parts": parts["parts"],
            "peak_mb": peaks.as_dict()["peak_mb"],
        }


@contextlib.contextmanager
def _place(
    options: BenchOptions, name: str, n_models: int, days: int, plans: Sequence[str]
) -> Iterator[tuple[Place, float]]:
    """A data directory with bars and an archive beside it, and how long these took to make; removed afterwards."""
    folder = options.scratch / name
    folder.mkdir(parents=True)
    try:
        shape = QUICK_SHAPE if options.quick else PRODUCTION
        started = time.monotonic()
        n_workers = 1 if options.quick else min(os.cpu_count() or 1, n_models)
        archive = write_production_archive(folder, n_models, options.seed, shape, n_workers=n_workers)
        write_production_bars(folder / "bars", n_models, options.seed, days)
        made_s = time.monotonic() - started
        with own_environment(folder, plans=plans) as timings:
            settings = load_settings(data_dir=folder / "data", bars_source=f"parquet:{folder / 'bars'}")
            yield Place(folder, archive, open_platform(settings), timings), made_s
    finally:
        _remove(folder)


def _remove(folder: Path) -> None:
    # The database for people is read-only, and Windows does not remove such a file.
    for file in [path for path in folder.rglob("*") if path.is_file()]:
        file.chmod(0o600)
    shutil.rmtree(folder)


def _required(daemon: psutil.Popen, log: Path) -> Any:
    def require_running() -> None:
        if daemon.poll() is not None:
            raise BenchFailed(f"the daemon ended with code {daemon.returncode}:\n{_end_of(log)}")

    return require_running


def _wait_for_tick(log: Path, require_running: Any) -> None:
    """Until the sensor has looked at the empty inbox: from then on the platform is up."""
    deadline = time.monotonic() + _START_SECONDS
    while _TICK_IN_LOG not in log.read_text(errors="replace"):
        require_running()
        if time.monotonic() > deadline:
            raise BenchFailed(f"no tick of the inbox sensor in {_START_SECONDS:.0f} s:\n{_end_of(log)}")
        time.sleep(_POLL_SECONDS)


def _wait_for_decisions(
    platform: Platform, instance: dg.DagsterInstance, archive_id: str, log: Path, require_running: Any
) -> None:
    """Until the archive's runs have ended and it is COMPLETE.

    Dagster's records are asked meanwhile, not the warehouse, whose lock the runs need.
    """
    filters = dg.RunsFilter(job_name=archive_job.name, tags={ARCHIVE_TAG: archive_id})
    status = "SELECT status FROM training_archives WHERE archive_id = ?"
    while True:
        require_running()
        runs = [record.dagster_run for record in instance.get_run_records(filters)]
        failed = [r for r in runs if r.status in FINISHED and r.status is not dg.DagsterRunStatus.SUCCESS]
        if failed:
            raise BenchFailed(f"run {failed[0].run_id} ended as {failed[0].status.value}:\n{_end_of(log)}")
        if runs and all(r.status in FINISHED for r in runs):
            found = platform.warehouse.rows(status, (archive_id,))
            if found and found[0]["status"] == "COMPLETE":
                return
        time.sleep(_POLL_SECONDS)


def _facts(platform: Platform, archive_id: str, n_models: int) -> dict[str, Any]:
    """What came out, to see that the work was done; raises BenchFailed where a model or a fold is missing."""
    [row] = platform.warehouse.rows(
        """
        SELECT max(created_at) AS decided_at, count(DISTINCT symbol) AS n FROM deployment_decisions
        WHERE archive_id = ? AND plan = ?
        """,
        (archive_id, PLAN),
    )
    [folds] = platform.warehouse.rows(
        """
        SELECT count(*) AS n, count(total_return) AS computed, sum(n_bars) AS bars, sum(n_trades) AS trades,
               any_value(reason) AS reason
        FROM fold_results WHERE archive_id = ?
        """,
        (archive_id,),
    )
    if row["n"] != n_models or folds["computed"] != folds["n"]:
        raise BenchFailed(
            f"{row['n']} of {n_models} models are decided over {PLAN}, {folds['computed']} of {folds['n']} folds are "
            f"computed ({folds['reason']})"
        )
    return {
        "decided_at": row["decided_at"].timestamp(),
        "folds_computed": int(folds["computed"]),
        "bars_evaluated": int(folds["bars"]),
        "trades": int(folds["trades"]),
    }


def _end_of(log: Path) -> str:
    return log.read_text(errors="replace")[-3000:]


def _ratios(archives: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Each size against the one before."""
    return [
        {
            "models": large["models"],
            "than": small["models"],
            "seconds_a_model": round(large["seconds_a_model"] / small["seconds_a_model"], 3),
            "peak_memory": round(large["memory"]["peak_mb"] / small["memory"]["peak_mb"], 3),
        }
        for small, large in itertools.pairwise(archives)
    ]
