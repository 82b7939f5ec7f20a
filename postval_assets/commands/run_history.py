"""Dagster's records of runs: which materializations it knows, and which old runs can be forgotten.

Here: what is asked of the instance for that, and the removal. Not here: runs that are unfinished (defs/run_records.py).

Dagster forgets a run together with its events, and a partition whose newest materialization goes with it would look as
if it had never been made. So a run that holds the newest materialization of any partition is kept, however old.
"""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import dagster as dg

from postval_assets.defs.assets import ASSETS
from postval_assets.defs.resources import ARCHIVE_TAG
from postval_assets.defs.run_records import FINISHED, UNFINISHED, runs
from postval_assets.pipeline.retention import delete, size_of

_EVENTS_AT_ONCE = 1000
# The files of a run that was begun this moment may be there before its record is.
_STRAY_AFTER = timedelta(days=1)


@dataclass(frozen=True)
class OldRun:
    """A finished run that nothing needs any more, or what is left of one that was forgotten.

    Attributes:
        run_id: Dagster's.
        job: its name; None where only files are left.
        ended: when; None where that is not known.
        files: its events and captured output.
        size_bytes: of these.
    """

    run_id: str
    job: str | None
    ended: datetime | None
    files: tuple[Path, ...]
    size_bytes: int


def asset_names() -> list[str]:
    """Every asset, upstream first."""
    return [asset.key.to_user_string() for asset in ASSETS]


def newest_materializations(instance: dg.DagsterInstance, asset: str) -> dict[str, str]:
    """The run that made each partition of an asset last, by partition key; empty text for events without a run."""
    newest: dict[str, str] = {}
    cursor: str | None = None
    while True:
        found = instance.fetch_materializations(dg.AssetKey(asset), limit=_EVENTS_AT_ONCE, cursor=cursor)
        for record in found.records:
            # Newest first.
            if record.partition_key is not None:
                newest.setdefault(str(record.partition_key), record.run_id)
        if not found.has_more:
            return newest
        cursor = found.cursor


def busy_archives(instance: dg.DagsterInstance) -> set[str]:
    """Archives that unfinished runs are about; a run without the tag works on the newest ones."""
    tags = [run.tags.get(ARCHIVE_TAG, "") for run in runs(instance, UNFINISHED)]
    return {archive_id for tag in tags for archive_id in tag.split(",") if archive_id}


def old_runs(instance: dg.DagsterInstance, home: Path, *, now: datetime, days: float) -> list[OldRun]:
    """Finished runs of longer ago that hold no newest materialization, oldest first, and files without a run.

    Args:
        instance: Dagster's.
        home: its directory.
        now: the time.
        days: that runs are kept for.
    """
    needed = {run for asset in asset_names() for run in newest_materializations(instance, asset).values()}
    before = now - timedelta(days=days)
    records = instance.get_run_records(dg.RunsFilter(statuses=FINISHED, updated_before=before))
    found = []
    for record in records:
        run = record.dagster_run
        if run.run_id not in needed:
            files = tuple(_files_of(home, run.run_id))
            found.append(OldRun(run.run_id, run.job_name, record.update_timestamp, files, size_of(files)))
    known = {record.dagster_run.run_id for record in instance.get_run_records()}
    strays = [
        OldRun(run_id, None, None, files, size_of(files)) for run_id, files in _strays(home, known, now)
    ]
    return [*reversed(found), *strays]


def forget_run(instance: dg.DagsterInstance, run: OldRun) -> list[str]:
    """Remove a run's record, its events and its files; what could not be removed, in words."""
    if run.job is not None:
        instance.delete_run(run.run_id)
    return delete(run.files)


def _files_of(home: Path, run_id: str) -> Iterator[Path]:
    # Dagster empties a run's file of events and leaves it there.
    events = home / "history" / "runs"
    names = (f"{run_id}.db{suffix}" for suffix in ("", "-wal", "-shm", "-journal"))
    yield from (events / name for name in names if (events / name).is_file())
    output = home / "storage" / run_id
    if output.is_dir():
        yield output


def _strays(home: Path, known: set[str], now: datetime) -> Iterator[tuple[str, tuple[Path, ...]]]:
    """Files of runs that Dagster does not know any more."""
    events, output = home / "history" / "runs", home / "storage"
    named = [p.stem for p in events.glob("*.db")] if events.is_dir() else []
    named += [p.name for p in output.iterdir() if p.is_dir()] if output.is_dir() else []
    oldest = (now - _STRAY_AFTER).timestamp()
    for run_id in sorted(set(named) - known):
        files = tuple(_files_of(home, run_id))
        if _is_run_id(run_id) and all(path.lstat().st_mtime < oldest for path in files):
            yield run_id, files


def _is_run_id(name: str) -> bool:
    try:
        return str(uuid.UUID(name)) == name
    except ValueError:
        return False
