"""The inbox folder: which files in it are archives, complete and readable.

Here: looking at the folder again and again, cheaply, and putting a file into it. Not here: what happens with
a ready archive (defs, pipeline), or where it is kept (archive_store.py).
"""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import stat
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from pathlib import Path

from postval_assets.core.archive import ArchiveLimits, ArchivePlan, archive_id, require_past
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.summary import TrainingSummary
from postval_assets.io.archive_file import Damaged, open_archive
from postval_assets.io.disk_full import unavailable
from postval_assets.io.durable import replace_durably
from postval_assets.io.file_hasher import FileHasher

__all__ = [
    "FileHasher",
    "FileState",
    "InboxCursor",
    "InboxScan",
    "ReadyArchive",
    "UnreadableArchive",
    "WaitingFile",
    "deliver",
    "inspect_archive",
    "scan_inbox",
]

_CHUNK_BYTES = 8 * 2**20
_GB = 1e9
_NO_TEXT = "its name is not plain text (UTF-8 without control characters), so no table or page can hold it: rename it"
_MOST_NAME_BYTES = 240  # of the 255 that a name may have: a copy in the making has a longer one

log = logging.getLogger("postval.inbox")


@dataclass(frozen=True)
class FileState:
    """What earlier scans saw of one file.

    Attributes:
        size_bytes, mtime_ns: as last seen.
        unchanged_since: first scan that saw this size and time, ISO 8601.
        hashed_bytes: how far the hash is, for display.
        sha256: of the whole file; None until it is known.
        reported: whether a scan has returned it as ready or rejected; whoever could not decide on it clears this.
        seen_at: the last scan, ISO 8601.
        still_s: how long scans have seen it stand still. Not the time since: a clock that is set forwards must not
            use up the patience with a copy that is still being written, nor one that is set back stretch it.
    """

    size_bytes: int
    mtime_ns: int
    unchanged_since: str
    hashed_bytes: int = 0
    sha256: str | None = None
    reported: bool = False
    seen_at: str | None = None
    still_s: float = 0.0

    def seen(self, now: datetime, most: timedelta) -> FileState:
        """The same file, seen again; between two looks at most ``most`` counts as standing still."""
        before = datetime.fromisoformat(self.seen_at or now.isoformat())
        passed = min(max(now - before, timedelta(0)), most)
        return replace(self, seen_at=now.isoformat(), still_s=self.still_s + passed.total_seconds())


@dataclass(frozen=True)
class InboxCursor:
    """What one scan leaves for the next, by file name."""

    files: Mapping[str, FileState] = field(default_factory=dict)

    def to_json(self) -> str:
        """The cursor as text; ``from_json`` reads it."""
        return json.dumps({name: asdict(state) for name, state in self.files.items()})

    @classmethod
    def from_json(cls, text: str | None) -> InboxCursor:
        """The cursor from its text; an unreadable one starts afresh, which costs one scan."""
        try:
            files = {name: FileState(**state) for name, state in json.loads(text or "{}").items()}
            for state in files.values():
                instants = [state.unchanged_since, *([state.seen_at] if state.seen_at is not None else [])]
                if any(datetime.fromisoformat(each).tzinfo is None for each in instants) or state.still_s < 0:
                    return cls()
        except (ValueError, TypeError, AttributeError):
            return cls()
        return cls(files)


@dataclass(frozen=True)
class ReadyArchive:
    """A complete training archive.

    Attributes:
        path: where it lies.
        sha256: of the file: its identity.
        size_bytes, mtime_ns: of the file that was hashed.
        archive_id: ``YYYYMMDD_HHMMSS``.
        plan: what counts in it.
        summary: what its trainer claims.
        first_report: false where an earlier scan has reported the same file.
    """

    path: Path
    sha256: str
    size_bytes: int
    mtime_ns: int
    archive_id: str
    plan: ArchivePlan
    summary: TrainingSummary
    first_report: bool = True


@dataclass(frozen=True)
class UnreadableArchive:
    """A file that will never be a training archive.

    Attributes:
        path: where it lies.
        sha256: of the file.
        size_bytes, mtime_ns: of the file that was hashed.
        reason: why, and what would be accepted.
        first_report: false where an earlier scan has reported the same file.
    """

    path: Path
    sha256: str
    size_bytes: int
    mtime_ns: int
    reason: str
    first_report: bool = True


@dataclass(frozen=True)
class WaitingFile:
    """A file that a later scan will look at again, and why."""

    name: str
    reason: str


@dataclass(frozen=True)
class InboxScan:
    """One look at the inbox; ready and rejected files are in order of name."""

    cursor: InboxCursor
    ready: tuple[ReadyArchive, ...]
    rejected: tuple[UnreadableArchive, ...]
    waiting: tuple[WaitingFile, ...]


def scan_inbox(
    inbox_dir: Path,
    cursor: InboxCursor,
    *,
    now: datetime,
    hasher: FileHasher,
    limits: ArchiveLimits | None = None,
    unreadable_after: timedelta = timedelta(minutes=10),
) -> InboxScan:
    """Look at every ``*.zip`` of the inbox once.

    A file is reported when its size and time stood still over two scans, its content could be judged and its hash is
    complete: as ready, or as rejected with the reason. A file that is not a complete zip looks like a slow copy and is
    rejected only after ``unreadable_after`` without change. Everything else waits, with the reason; no file stops the
    others. A file that stays in the inbox is reported by every scan; ``first_report`` tells. An archive of a far future
    waits too: it would be the newest of its symbols for good, and it may be the clock that is wrong.

    Args:
        inbox_dir: the folder.
        cursor: what the last scan left.
        now: with a time zone.
        hasher: kept by the caller from scan to scan.
        limits: what an archive may cost.
        unreadable_after: patience with incomplete files.

    Raises:
        Unavailable: the folder itself cannot be listed, or its disk does not answer within the hasher's time.
    """
    return hasher.in_time(
        lambda: _scan(inbox_dir, cursor, now, hasher, limits or ArchiveLimits(), unreadable_after), inbox_dir
    )


def _scan(
    inbox_dir: Path,
    cursor: InboxCursor,
    now: datetime,
    hasher: FileHasher,
    limits: ArchiveLimits,
    unreadable_after: timedelta,
) -> InboxScan:
    paths = _candidates(inbox_dir)
    hasher.start_look(inbox_dir, paths)
    files: dict[str, FileState] = {}
    ready: list[ReadyArchive] = []
    rejected: list[UnreadableArchive] = []
    waiting: list[WaitingFile] = []
    for path in hasher.in_turn(paths):
        if not _is_plain_text(path.name):
            waiting.append(WaitingFile(_printable(path.name), _NO_TEXT))
            continue
        state = cursor.files.get(path.name)
        found: ReadyArchive | UnreadableArchive | WaitingFile
        try:
            state, found = _look(path, state, now, hasher, limits, unreadable_after)
        except (Unavailable, OSError) as error:
            found = WaitingFile(path.name, _trouble(error))
        except ValueError as error:
            log.warning("%s could not be judged: %s", path.name, error, exc_info=True)
            found = WaitingFile(path.name, f"it could not be judged: {error}")
        if state is not None:
            files[path.name] = state
        if isinstance(found, ReadyArchive):
            ready.append(found)
        elif isinstance(found, UnreadableArchive):
            rejected.append(found)
        else:
            waiting.append(found)
    ready.sort(key=lambda each: each.path)
    rejected.sort(key=lambda each: each.path)
    return InboxScan(InboxCursor(files), tuple(ready), tuple(rejected), tuple(waiting))


def inspect_archive(
    path: Path, limits: ArchiveLimits | None = None, *, now: datetime | None = None
) -> ReadyArchive:
    """Judge and hash one file at once.

    Args:
        path: the file.
        limits: what an archive may cost.
        now: with a time zone; where it is given, an archive from a far future is refused.

    Raises:
        Rejected: it is not a training archive, or its name is not text.
        Unavailable: it could not be read, or changed meanwhile.
    """
    if not _is_plain_text(path.name):
        raise Rejected(f"{_printable(path.name)}: {_NO_TEXT}")
    try:
        found = path.stat()
        name, plan, summary = _content(path, limits or ArchiveLimits())
        if now is not None:
            require_past(name, now)
        hasher = FileHasher(budget_seconds=float("inf"))
        _, sha256 = hasher.advance(path, found.st_size, found.st_mtime_ns)
    except OSError as error:
        raise Unavailable(f"{path} could not be read: {error}") from error
    if sha256 is None:
        raise Unavailable(f"{path} changed while it was read")
    return ReadyArchive(path, sha256, found.st_size, found.st_mtime_ns, name, plan, summary)


def deliver(file: Path, inbox_dir: Path) -> Path:
    """Copy a file into the inbox so that no scan ever sees half of it; where it now lies.

    Raises:
        Rejected: its name is not one that the inbox looks at, or another file of that name is there.
        Unavailable: the disk refused.
    """
    if not _is_plain_text(file.name):
        raise Rejected(f"{_printable(file.name)}: {_NO_TEXT}")
    if not _is_candidate(file.name):
        raise Rejected(f"{file.name[:200]} would be ignored in the inbox; expected a name such as NAME.zip")
    if len(file.name.encode()) > _MOST_NAME_BYTES:
        raise Rejected(
            f"{_printable(file.name)}: its name is too long; expected at most {_MOST_NAME_BYTES} bytes"
        )
    target = inbox_dir / file.name
    part = inbox_dir / f".{file.name}.part"
    try:
        inbox_dir.mkdir(parents=True, exist_ok=True)
        if target.exists():
            if _sha256(target) != _sha256(file):
                raise Rejected(f"{target} is already there with other content; expected a name of its own")
            return target
        try:
            with file.open("rb") as source, part.open("wb") as copy:
                shutil.copyfileobj(source, copy, _CHUNK_BYTES)
            replace_durably(part, target)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise unavailable(f"{file.name} could not be put into", inbox_dir, error) from error
    return target


def _is_candidate(name: str) -> bool:
    return name.lower().endswith(".zip") and not name.startswith(".")


def _candidates(inbox_dir: Path) -> list[Path]:
    try:
        return sorted(path for path in inbox_dir.iterdir() if _is_candidate(path.name))
    except OSError as error:
        raise Unavailable(
            f"the inbox {inbox_dir} could not be listed: {error.strerror or error}. Is its disk there, and may this "
            "user read it? What lies in it is taken when it can be"
        ) from error


def _look(
    path: Path,
    before: FileState | None,
    now: datetime,
    hasher: FileHasher,
    limits: ArchiveLimits,
    unreadable_after: timedelta,
) -> tuple[FileState, ReadyArchive | UnreadableArchive | WaitingFile]:
    """What the next scan should know of one file, and what is to be said of it now."""
    name = path.name
    found = path.lstat()
    if not stat.S_ISREG(found.st_mode):
        raise Unavailable("it is a folder or a link; expected a file")
    if before is None or (found.st_size, found.st_mtime_ns) != (before.size_bytes, before.mtime_ns):
        state = FileState(found.st_size, found.st_mtime_ns, now.isoformat(), seen_at=now.isoformat())
        return state, WaitingFile(name, "it is new or has changed; it is taken when it has stood still")
    # Half of the patience at most for one gap: the other half is always watched.
    state = before.seen(now, unreadable_after / 2)
    if hasher.is_out_of_time(path):
        return state, WaitingFile(name, "the inbox's disk is slow: the next look goes on with it")
    content: tuple[str, ArchivePlan, TrainingSummary] | None = None
    reason = ""
    try:
        content = _content(path, limits)
    except Rejected as error:
        reason = str(error)
        if isinstance(error, Damaged) and state.still_s < unreadable_after.total_seconds():
            return state, WaitingFile(name, f"{reason}; it may still be growing")
    if content is not None and (ahead := _ahead_of_time(content[0], now)):
        return state, WaitingFile(name, ahead)
    if state.sha256 is None:
        hashed_bytes, sha256 = hasher.advance(path, state.size_bytes, state.mtime_ns)
        state = replace(state, hashed_bytes=hashed_bytes, sha256=sha256)
    if state.sha256 is None:
        done, all_of_it = state.hashed_bytes / _GB, state.size_bytes / _GB
        return state, WaitingFile(name, f"its hash is being computed: {done:.2f} of {all_of_it:.2f} GB")
    file = (path, state.sha256, state.size_bytes, state.mtime_ns)
    first = not state.reported
    state = replace(state, reported=True)
    if content is None:
        return state, UnreadableArchive(*file, reason, first_report=first)
    return state, ReadyArchive(*file, *content, first_report=first)


def _ahead_of_time(name: str, now: datetime) -> str | None:
    """What is to be said of an archive of a far future: nobody here can know whether it or the clock is wrong."""
    try:
        require_past(name, now)
    except Rejected as error:
        return f"{error}. Is this machine's clock right?"
    return None


def _content(path: Path, limits: ArchiveLimits) -> tuple[str, ArchivePlan, TrainingSummary]:
    with open_archive(path, limits) as archive:
        return archive_id(archive.plan.summary.name, path.name), archive.plan, archive.summary()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _is_plain_text(name: str) -> bool:
    """Whether a file's name can be stored and shown: systems allow names that are no text or steer a terminal."""
    return not any(
        unicodedata.category(each)[0] == "C" or unicodedata.category(each) in ("Zl", "Zp") for each in name
    )


def _printable(name: str) -> str:
    return ascii(name)[1:-1][:200]


def _trouble(error: Unavailable | OSError) -> str:
    """Why a file could not be looked at, and what to do where somebody has to."""
    cause = error if isinstance(error, OSError) else error.__cause__
    if isinstance(cause, PermissionError):
        return "it may not be read by the user who runs postval: change its permissions"
    if isinstance(cause, FileNotFoundError):
        return "it was there a moment ago and is gone: it was taken away, or its disk was"
    return str(error)
