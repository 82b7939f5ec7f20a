"""One look at the inbox: which files became archives, which were refused, which have to wait.

Here: from a scan to deliveries. Not here: the scan itself (io.inbox), or starting work on what was accepted (defs).
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from postval_assets.core.failures import PostvalError
from postval_assets.io.inbox import FileHasher, InboxCursor, ReadyArchive, WaitingFile, scan_inbox
from postval_assets.pipeline.archives import Delivery, archive_limits, register, register_rejected
from postval_assets.pipeline.platform import Platform

log = logging.getLogger("postval.inbox")


@dataclass(frozen=True)
class Reception:
    """What one look found.

    Attributes:
        cursor: for the next look.
        deliveries: files that were decided on.
        waiting: files that were not, and why.
    """

    cursor: str
    deliveries: tuple[Delivery, ...]
    waiting: tuple[WaitingFile, ...]


def receive(
    platform: Platform, cursor: str | None, *, run_id: str, hasher: FileHasher, busy: Callable[[str], bool]
) -> Reception:
    """Look at the inbox once; one bad file never stops the others.

    Args:
        platform: settings, stores and warehouse.
        cursor: what the last look left.
        run_id: goes into the rows.
        hasher: kept from look to look.
        busy: whether an archive with this SHA-256 has unfinished runs.

    Raises:
        Unavailable: where the inbox cannot be listed.
    """
    settings = platform.settings
    settings.inbox.mkdir(parents=True, exist_ok=True)
    scan = scan_inbox(
        settings.inbox,
        InboxCursor.from_json(cursor),
        now=platform.now(),
        hasher=hasher,
        limits=archive_limits(platform),
        unreadable_after=timedelta(minutes=settings.unreadable_after_minutes),
    )
    deliveries: list[Delivery] = []
    waiting = list(scan.waiting)
    again: set[str] = set()
    for ready in scan.ready:
        try:
            if ready.first_report:
                deliveries.append(register(platform, ready, run_id=run_id, busy=busy))
            _clear_away(platform, ready)
        except (PostvalError, OSError) as error:
            log.warning("%s: %s", ready.path.name, error)
            waiting.append(WaitingFile(ready.path.name, str(error)))
            again.add(ready.path.name)
    for rejected in scan.rejected:
        try:
            deliveries.append(register_rejected(platform, rejected, run_id=run_id))
        except (PostvalError, OSError) as error:
            log.warning("%s: %s", rejected.path.name, error)
            waiting.append(WaitingFile(rejected.path.name, str(error)))
            again.add(rejected.path.name)
    # What could not be registered is looked at afresh, as if it had just arrived.
    kept = InboxCursor({name: state for name, state in scan.cursor.files.items() if name not in again})
    return Reception(kept.to_json(), tuple(deliveries), tuple(waiting))


def _clear_away(platform: Platform, ready: ReadyArchive) -> None:
    """Take a file out of the inbox whose content is stored and decided; the store checks that it has it."""
    known = platform.warehouse.rows(
        "SELECT 1 FROM training_archives WHERE sha256 = ? AND status = 'COMPLETE'", (ready.sha256,)
    )
    if known:
        platform.archives.adopt(ready.path, ready.sha256, ready.size_bytes, ready.mtime_ns)
