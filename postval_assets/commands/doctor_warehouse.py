"""``postval doctor`` on the warehouse: its file, its copies, who holds it, the replica, and the clock.

Here: one function a question, as in doctor.py. Not here: mending (postval restore, postval migrate), or what is in the
tables (doctor.py, doctor_bars.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

from postval_assets.commands.finding import Finding, Severity
from postval_assets.core.failures import PostvalError
from postval_assets.io.backups import list_backups
from postval_assets.io.shared_lock import is_locked, last_holder
from postval_assets.io.warehouse import Condition, Health, kept_aside, query_replica
from postval_assets.io.warehouse_file import read_contents
from postval_assets.pipeline.platform import Platform

_MB = 2**20
# A clock may be set right by so much without anything to say about it.
_CLOCK_TOLERANCE = timedelta(minutes=5)


def file_condition(platform: Platform, condition: Condition) -> Iterator[Finding]:
    """Whether the warehouse's file can be worked with; where it can, the tables are asked next."""
    match condition.health:
        case Health.CURRENT:
            size = platform.warehouse.path.stat().st_size / _MB
            yield Finding(
                Severity.OK, "warehouse", f"schema {condition.schema_version}, {size:.1f} MB, every row read"
            )
        case Health.ABSENT:
            n_copies = len(list_backups(platform.warehouse.backups))
            mend = "postval ingest FILE.zip, or postval validate FILE.zip"
            if n_copies:
                mend = f"postval restore FILE brings back one of {n_copies} copies; or {mend}"
            yield Finding(Severity.NOTE, "warehouse", "no results yet", mend)
        case Health.OLDER:
            found = f"schema {condition.schema_version}, older than this postval's"
            mend = "postval migrate; or the next command does it, after a copy"
            yield Finding(Severity.NOTE, "warehouse", found, mend)
        case _:
            # What is wrong comes before the first semicolon, what to do after it.
            found, _, mend = (condition.said or "it cannot be used").partition("; ")
            yield Finding(Severity.ERROR, "warehouse", found, mend or None)


def backups(platform: Platform) -> Iterator[Finding]:
    """Which copies there are, and whether the newest can be read."""
    warehouse = platform.warehouse
    copies = list_backups(warehouse.backups)
    if copies:
        newest = copies[-1]
        told = f"{len(copies)}, newest {newest.path.name} ({newest.size_bytes / _MB:.1f} MB)"
        try:
            read_contents(newest.path)
        except PostvalError as error:
            mend = "postval backup makes a new one; delete this one"
            yield Finding(Severity.ERROR, "backups", f"{told}, cannot be read: {error}", mend)
        else:
            yield Finding(Severity.OK, "backups", f"{told}, every row read")
    elif warehouse.path.is_file():
        yield Finding(
            Severity.NOTE, "backups", "none", "postval backup makes one; a migration makes one by itself"
        )
    if warehouse.path.parent.is_dir():
        for path in sorted(warehouse.path.parent.glob("*.aside.*")):
            found = f"{path.name} was put aside by a restore"
            yield Finding(
                Severity.NOTE, "backups", found, "delete it when nobody needs it for a search for causes"
            )


def lock(platform: Platform) -> Iterator[Finding]:
    """Who holds the warehouse now; a lock file of a process that is gone holds nobody up."""
    path = platform.warehouse.lock_path
    if is_locked(path):
        holder = last_holder(path)
        yield Finding(
            Severity.OK, "lock", f"{path.name} is held by {holder or 'a process that left no note of itself'}"
        )


def replica(platform: Platform) -> Iterator[Finding]:
    """The database for people: there, readable, and not beside its place."""
    path = platform.replica
    for aside in kept_aside(path) if path.parent.is_dir() else ():
        mend = f"close the program that holds {path.name} open; the next publication puts it in place"
        yield Finding(Severity.NOTE, "replica", f"{aside.name} could not take the place of {path.name}", mend)
    if not path.is_file():
        yield Finding(
            Severity.NOTE, "replica", f"{path} was not published yet", "it follows the first finished run"
        )
        return
    try:
        query_replica(path, "SELECT count(*) FROM training_archives")
    except PostvalError as error:
        found, _, mend = str(error).partition(": delete it")
        yield Finding(
            Severity.ERROR, "replica", found, f"delete it{mend}" if mend else "see what holds it open"
        )
        return
    yield Finding(Severity.OK, "replica", f"{path}, {path.stat().st_size / _MB:.1f} MB")


def clock(platform: Platform) -> Iterator[Finding]:
    """Whether this machine's clock is behind what was written: it was set back, or was ahead then."""
    [newest] = platform.warehouse.rows("SELECT created_at FROM revision")
    ahead = newest["created_at"] - platform.now()
    if ahead > _CLOCK_TOLERANCE:
        yield Finding(
            Severity.NOTE,
            "clock",
            f"the newest write says {newest['created_at']:%Y-%m-%d %H:%M} UTC, {ahead} ahead of this machine's clock",
            "set the clock right; what was decided last still counts, whatever the times say",
        )
