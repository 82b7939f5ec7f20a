"""``postval doctor``: what is configured, reachable, stale, locked or large, each with its mend.

Here: one function a question; each answers with findings and never changes anything. Not here: mending, or the
questions about the warehouse's file (doctor_warehouse.py) and about bars (doctor_bars.py).
"""

from __future__ import annotations

import importlib.metadata
import logging
import shutil
import socket
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import dagster as dg

from postval_assets.commands.doctor_bars import kind_of_bars, source_of_bars, stored_bars
from postval_assets.commands.doctor_warehouse import backups, clock, file_condition, lock, replica
from postval_assets.commands.finding import Finding, Severity
from postval_assets.commands.home import writing_problem
from postval_assets.commands.occupancy import is_held
from postval_assets.core.failures import PostvalError
from postval_assets.core.features.registry import load_feature_sets
from postval_assets.defs.jobs import archive_job, bars_job
from postval_assets.defs.run_records import WORKED_ON, orphans, runs, schedules_on
from postval_assets.io.inbox import FileHasher, InboxCursor, scan_inbox
from postval_assets.io.warehouse import Condition, Health, Warehouse
from postval_assets.pipeline.archives import archive_limits
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.settings import Settings, export_environment

_PACKAGES = ("dagster", "dagster-webserver", "duckdb", "pandas", "numpy", "torch")
_LOW_DISK_GB = 5.0
_LOCK_PATIENCE_S = 10.0
_MENDS = {
    "dagster": "postval rebuild makes Dagster's history anew from the warehouse; results are not in it",
    "inbox": "make it readable for this user, or name another with POSTVAL_INBOX_DIR",
}

log = logging.getLogger("postval.doctor")

Question = Callable[[Platform], Iterator[Finding]]


def examine(settings: Settings) -> list[Finding]:
    """Every finding, in the order in which a person would ask."""
    platform = _impatient(open_platform(settings))
    condition = platform.warehouse.condition(thorough=True)
    of_tables: tuple[Question, ...] = (clock, kind_of_bars, _used_feature_sets, _results, stored_bars)
    questions: tuple[Question, ...] = (
        _versions,
        _configuration,
        _data_directory,
        source_of_bars,
        _feature_sets,
        _inbox,
        _warehouse(condition),
        backups,
        *(of_tables if condition.health is Health.CURRENT else ()),
        lock,
        replica,
        _dagster,
        _port,
        _sizes,
    )
    return [finding for question in questions for finding in _answers(question, platform)]


def _impatient(platform: Platform) -> Platform:
    """Whoever asks what is wrong shall not wait as long as a run would."""
    patience = min(platform.settings.lock_timeout_s, _LOCK_PATIENCE_S)
    return replace(platform, warehouse=Warehouse(platform.warehouse.path, lock_timeout_s=patience))


def _answers(question: Question, platform: Platform) -> list[Finding]:
    """What a question finds; one that fails is a finding too, and stops no other."""
    findings: list[Finding] = []
    name = question.__name__.strip("_").replace("_", " ")
    try:
        findings += question(platform)
    except (PostvalError, OSError) as error:
        findings.append(Finding(Severity.ERROR, name, str(error), _MENDS.get(name)))
    except Exception as error:  # whatever is broken, the other questions are asked
        log.debug("%s could not be examined", name, exc_info=True)
        told = (str(error).strip().splitlines() or ["no message"])[0]
        found = f"could not be examined: {type(error).__name__}: {told}"
        findings.append(Finding(Severity.ERROR, name, found, _MENDS.get(name)))
    return findings


def _warehouse(condition: Condition) -> Question:
    def warehouse(platform: Platform) -> Iterator[Finding]:
        yield from file_condition(platform, condition)

    return warehouse


def _versions(platform: Platform) -> Iterator[Finding]:  # noqa: ARG001 - every question has the same form
    names = [f"{name} {importlib.metadata.version(name)}" for name in _PACKAGES]
    supported = (3, 11) <= sys.version_info[:2] <= (3, 13)
    python = f"Python {sys.version.split()[0]}"
    yield Finding(
        Severity.OK if supported else Severity.ERROR,
        "versions",
        ", ".join([python, *names]),
        None if supported else "use Python 3.11, 3.12 or 3.13",
    )


def _configuration(platform: Platform) -> Iterator[Finding]:
    s = platform.settings
    thresholds = s.gate_thresholds.name
    yield Finding(
        Severity.OK,
        "settings",
        f"bars {s.bars_source}, plans {','.join(s.plans)}, thresholds {thresholds}, policy {s.decision_policy}, "
        f"device {platform.device()}",
    )


def _data_directory(platform: Platform) -> Iterator[Finding]:
    folder = platform.settings.data_dir
    if not folder.is_dir():
        yield Finding(
            Severity.NOTE, "data directory", f"{folder} does not exist yet", "the first command makes it"
        )
        return
    problem = writing_problem(folder)
    if problem is not None:
        yield Finding(
            Severity.ERROR,
            "data directory",
            f"{folder} cannot be written: {problem}",
            "make it writable, or give another with --data-dir; meanwhile postval sql and stage work",
        )
        return
    free = shutil.disk_usage(folder).free / 2**30
    low = free < _LOW_DISK_GB
    yield Finding(
        Severity.NOTE if low else Severity.OK,
        "data directory",
        f"{folder}, {free:.1f} GB free",
        "a 50-model archive needs about 6 GB: make room" if low else None,
    )


def _feature_sets(platform: Platform) -> Iterator[Finding]:
    yield Finding(Severity.OK, "feature sets", ", ".join(sorted(platform.feature_sets)))
    for broken in load_feature_sets().broken:
        yield Finding(
            Severity.ERROR,
            "feature sets",
            f"plug-in {broken.entry_point}: {broken.reason}",
            "mend or remove the plug-in",
        )


def _used_feature_sets(platform: Platform) -> Iterator[Finding]:
    rows = platform.warehouse.rows(
        """
        SELECT feature_set, count(*) AS n_models FROM extracted_models
        WHERE feature_set IS NOT NULL GROUP BY feature_set ORDER BY feature_set
        """
    )
    for row in rows:
        if row["feature_set"] not in platform.feature_sets:
            yield Finding(
                Severity.ERROR,
                "feature sets",
                f"{row['n_models']} model(s) use {row['feature_set']}, which is not installed here",
                "install its plug-in before validate, or their models become INCOMPATIBLE",
            )


def _inbox(platform: Platform) -> Iterator[Finding]:
    inbox = platform.settings.inbox
    if not inbox.is_dir():
        yield Finding(Severity.NOTE, "inbox", f"{inbox} does not exist yet", "postval up makes it")
        return
    scan = scan_inbox(
        inbox,
        InboxCursor(),
        now=platform.now(),
        hasher=FileHasher(budget_seconds=0.0),
        limits=archive_limits(platform),
    )
    others = sorted(
        p.name for p in inbox.iterdir() if not p.name.startswith(".") and p.suffix.lower() != ".zip"
    )
    n_waiting = len(scan.waiting) + len(scan.ready) + len(scan.rejected)
    mend = "postval up takes them; one stays while its archive is being worked on" if n_waiting else None
    yield Finding(
        Severity.NOTE if n_waiting else Severity.OK, "inbox", f"{inbox}: {n_waiting} archive(s) waiting", mend
    )
    checkpoints = [name for name in others if name.startswith("checkpoints_")]
    strangers = [name for name in others if name not in checkpoints]
    if checkpoints:
        found = f"checkpoints of postval train: {', '.join(checkpoints[:5])}"
        yield Finding(Severity.NOTE, "inbox", found, "nothing takes them from there: move or delete them")
    if strangers:
        yield Finding(
            Severity.NOTE, "inbox", f"ignored: {', '.join(strangers[:5])}", "archives are called NAME.zip"
        )


def _results(platform: Platform) -> Iterator[Finding]:
    counts = platform.warehouse.rows(
        """
        SELECT (SELECT count(*) FROM training_archives) AS archives,
               (SELECT count(*) FROM extracted_models) AS models,
               (SELECT count(*) FROM fold_results) AS folds,
               (SELECT count(*) FROM deployment_decisions) AS decisions
        """
    )[0]
    found = ", ".join(f"{n} {name}" for name, n in counts.items())
    yield Finding(Severity.OK, "results", found)
    for row in platform.warehouse.rows(
        "SELECT archive_id, status, file_name FROM training_archives WHERE status IN ('RECEIVED', 'EXTRACTED')"
    ):
        yield Finding(
            Severity.NOTE,
            "archive",
            f"{row['archive_id']} is {row['status']}, not every model is decided",
            f"wait while postval up runs; if its run failed, drop {row['file_name']} again",
        )


def _dagster(platform: Platform) -> Iterator[Finding]:
    home = platform.settings.data_dir / "dagster"
    if not (home / "dagster.yaml").is_file():
        yield Finding(Severity.NOTE, "dagster", f"{home} is not set up yet", "postval up does it")
        return
    export_environment(platform.settings)
    instance = dg.DagsterInstance.get()
    lost = orphans(instance, nobody_else_works=False)
    for run in lost:
        mend = "the next postval up, validate or backfill fails it, and a daemon's is repeated then"
        yield Finding(Severity.ERROR, "dagster", f"run {run.run_id} has lost its process", mend)
    states = {
        "queued": [dg.DagsterRunStatus.QUEUED],
        "running": WORKED_ON,
        "failed": [dg.DagsterRunStatus.FAILURE],
    }
    found = {name: runs(instance, statuses) for name, statuses in states.items()}
    failed = Counter(run.job_name for run in found["failed"])
    of_jobs = f" ({', '.join(f'{n} {_job(name)}' for name, n in sorted(failed.items()))})" if failed else ""
    yield Finding(
        Severity.NOTE if failed else Severity.OK,
        "dagster",
        ", ".join(f"{len(of_state)} {name}" for name, of_state in found.items()) + f" runs{of_jobs}",
        "; ".join(dict.fromkeys(_mend(name) for name in sorted(failed))) or None,
    )
    on = schedules_on(instance)
    yield Finding(Severity.OK, "schedules", f"on: {', '.join(on)}" if on else "both are off (docs/alpaca.md)")


def _job(name: str) -> str:
    """A job's name for people: assets that were materialized in the web UI have one of Dagster's own."""
    return "by hand" if name.startswith("__") else name


def _mend(job: str) -> str:
    """What to do about a failed run."""
    if job == archive_job.name:
        return "a failed archive: drop it again; what is done stays"
    if job == bars_job.name:
        return "failed bars_job: postval bars, which fetches what is missing"
    return "other failed runs: re-execute them in the web UI, or postval backfill"


def _port(platform: Platform) -> Iterator[Finding]:
    port = platform.settings.port
    with socket.socket() as probe:
        probe.settimeout(0.5)
        used = probe.connect_ex(("127.0.0.1", port)) == 0
    yield Finding(Severity.OK, "web UI", f"port {port} is {'in use' if used else 'free'}")
    if is_held(platform.settings):
        yield Finding(Severity.OK, "daemon", "postval up (or demo) works on this data directory")
    else:
        yield Finding(Severity.NOTE, "daemon", "not running: archives in the inbox wait", "postval up")


def _sizes(platform: Platform) -> Iterator[Finding]:
    for name in ("archives", "weights", "warehouse", "dagster", "logs"):
        folder = platform.settings.data_dir / name
        if folder.is_dir():
            size = _size(folder) / 2**20
            yield Finding(Severity.OK, "disk", f"{name}: {size:,.0f} MB")


def _size(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        with suppress(FileNotFoundError, PermissionError):  # gone meanwhile, or not ours to see
            total += path.stat().st_size if path.is_file() else 0
    return total
