"""One look at the inbox: which files became archives, which were refused, which have to wait.

Here: from a scan to deliveries. Not here: the scan itself (io.inbox), or starting work on what was accepted (defs).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from postval_assets.core.failures import PostvalError, Unavailable
from postval_assets.io.inbox import (
    FileHasher,
    InboxCursor,
    InboxScan,
    ReadyArchive,
    UnreadableArchive,
    WaitingFile,
    scan_inbox,
)
from postval_assets.io.warehouse import Warehouse
from postval_assets.pipeline.archives import (
    Delivery,
    Outcome,
    archive_limits,
    note_stored,
    register,
    register_rejected,
)
from postval_assets.pipeline.platform import Platform

log = logging.getLogger("postval.inbox")

# A look has to end within a minute, its hashing included; the next one is seconds away.
_LOCK_PATIENCE_S = 15.0

# What is known of the files that lie there, and refused files whose row does not say yet where they went.
_KNOWN = """
SELECT archive_id, sha256, file_name, size_bytes, status
FROM training_archives
WHERE (status <> 'REJECTED' AND list_contains(?, sha256)) OR (status = 'REJECTED' AND stored_path IS NULL)
"""


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

    A second copy of content that is being worked on waits: for the archive to be decided (it is then recorded as a
    duplicate and cleared away), or for the work to end without that (it is then a new attempt).

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
    if settings.inbox_dir is None:  # one that was named may lie on a disk that is away just now
        settings.inbox.mkdir(parents=True, exist_ok=True)
    scan = scan_inbox(
        settings.inbox,
        InboxCursor.from_json(cursor),
        now=platform.now(),
        hasher=hasher,
        limits=archive_limits(platform),
        unreadable_after=timedelta(minutes=settings.unreadable_after_minutes),
    )
    patience = min(settings.lock_timeout_s, _LOCK_PATIENCE_S)
    hurried = replace(platform, warehouse=Warehouse(platform.warehouse.path, lock_timeout_s=patience))
    desk = _Desk(hurried, run_id, hasher, busy)
    desk.look_up(scan)
    files: tuple[ReadyArchive | UnreadableArchive, ...] = (*scan.ready, *scan.rejected)
    for file in files:
        desk.take(file)
    # What was not decided on counts as not reported: the next scan tells it as new, its hash is kept.
    states = {
        name: replace(state, reported=False) if name in desk.undecided else state
        for name, state in scan.cursor.files.items()
    }
    return Reception(InboxCursor(states).to_json(), tuple(desk.deliveries), (*scan.waiting, *desk.waiting))


class _Desk:
    """Where the files of one look are decided on, one after the other.

    Attributes:
        deliveries: files that were decided on.
        waiting: files that a later look will take up again.
        undecided: names of files that were told as new and got no delivery.
    """

    def __init__(
        self, platform: Platform, run_id: str, hasher: FileHasher, busy: Callable[[str], bool]
    ) -> None:
        self._platform = platform
        self._run_id = run_id
        self._hasher = hasher
        self._busy = busy
        self._known: dict[str, dict[str, Any]] = {}
        # Accepted in this look: their runs are asked for only after it, so nobody else calls them busy yet.
        self._begun: set[str] = set()
        # Why the warehouse did not answer. Every file that asked it again would wait as long as the first one.
        self._silent: str | None = None
        self.deliveries: list[Delivery] = []
        self.waiting: list[WaitingFile] = []
        self.undecided: set[str] = set()

    def look_up(self, scan: InboxScan) -> None:
        """Ask once for what is known of all files; where there is no answer, all of them will wait."""
        if not scan.ready and not scan.rejected:
            return
        try:
            with self._asking():
                shas = list({file.sha256 for file in scan.ready})
                rows = self._platform.warehouse.rows(_KNOWN, (shas,))
        except (PostvalError, OSError) as error:
            self._silent = str(error)
            log.warning("the inbox waits: %s", error)
            return
        self._known = {r["sha256"]: r for r in rows if r["status"] != "REJECTED"}
        gone = [r for r in rows if r["status"] == "REJECTED" and r["file_name"] not in scan.cursor.files]
        try:
            self._find_aside(gone)
        except (PostvalError, OSError) as error:
            log.warning("where %d refused file(s) went is not known: %s", len(gone), error)

    def take(self, file: ReadyArchive | UnreadableArchive) -> None:
        """Decide on one file, or have it wait with the reason."""
        if file.first_report:
            self.undecided.add(file.path.name)
        reason = self._silent
        if reason is None:
            try:
                if isinstance(file, ReadyArchive):
                    reason = self._accept(file)
                else:
                    self._refuse(file)
            except (PostvalError, OSError) as error:
                log.warning("%s: %s", file.path.name, error)
                reason = str(error)
            except ValueError as error:
                # Nobody foresaw this file; its neighbours are taken all the same.
                log.warning("%s could not be taken", file.path.name, exc_info=True)
                reason = f"it could not be taken: {error}"
        if reason is not None:
            self.waiting.append(WaitingFile(file.path.name, reason))

    def _accept(self, file: ReadyArchive) -> str | None:
        """Why a readable file has to wait; None where it is done with for now."""
        known = self._known.get(file.sha256)
        complete = known is not None and known["status"] == "COMPLETE"
        if file.first_report:
            if not complete and (
                file.sha256 in self._begun or (known is not None and self._busy(file.sha256))
            ):
                return "the same content is being worked on: this copy is taken up again when that has ended"
            with self._asking():
                delivery = register(self._platform, file, run_id=self._run_id, busy=lambda _: False)
            self._deliver(file, delivery)
            if delivery.outcome is not Outcome.DUPLICATE:
                self._begun.add(file.sha256)
        return self._clear_away(file) if complete else None

    def _clear_away(self, file: ReadyArchive) -> str | None:
        """Take a file out of the inbox whose archive is decided, once the store is known to hold its content."""
        stored = self._platform.archives.path_of(file.sha256)
        if stored.is_file():
            kept = stored.stat()
            # Within the hasher's budget: the store would read all of a large archive at once.
            _, sha256 = self._hasher.advance(stored, kept.st_size, kept.st_mtime_ns)
            if sha256 is None:
                return "its archive is decided; the stored copy is being checked before this one is removed"
            if sha256 == file.sha256:
                found = file.path.stat()
                if (found.st_size, found.st_mtime_ns) != (file.size_bytes, file.mtime_ns):
                    return "it has changed; the new content counts as another archive"
                file.path.unlink()
                return None
        self._platform.archives.adopt(file.path, file.sha256, file.size_bytes, file.mtime_ns)
        return None

    def _refuse(self, file: UnreadableArchive) -> None:
        """Record a file that is no archive, then move it aside; a move that failed is tried at each look."""
        archive_id = f"rejected-{file.sha256[:12]}"
        if file.first_report:
            with self._asking():
                delivery = register_rejected(self._platform, file, run_id=self._run_id)
            self._deliver(file, delivery)
            archive_id = delivery.archive_id
        aside = self._platform.archives.reject(file.path, file.sha256, file.size_bytes, file.mtime_ns)
        with self._asking():
            note_stored(self._platform, {archive_id: aside}, run_id=self._run_id)

    def _find_aside(self, rows: list[dict[str, Any]]) -> None:
        """Files that were moved aside by a look that ended before it could say where."""
        found = {
            row["archive_id"]: self._platform.archives.find_aside(
                row["file_name"], row["sha256"], row["size_bytes"]
            )
            for row in rows
        }
        places = {archive_id: path for archive_id, path in found.items() if path is not None}
        with self._asking():
            note_stored(self._platform, places, run_id=self._run_id)

    def _deliver(self, file: ReadyArchive | UnreadableArchive, delivery: Delivery) -> None:
        self.deliveries.append(delivery)
        self.undecided.discard(file.path.name)

    @contextmanager
    def _asking(self) -> Iterator[None]:
        """Around what asks the warehouse: once it did not answer, nobody asks any more in this look."""
        try:
            yield
        except Unavailable as error:
            self._silent = str(error)
            raise
