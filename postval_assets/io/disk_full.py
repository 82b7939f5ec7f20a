"""What is said where the disk refuses, above all because it is full.

Here: telling a full disk from other failures, whoever noticed it, and the words. Not here: writing (durable.py).
"""

from __future__ import annotations

import errno
import shutil
from collections.abc import Iterator
from pathlib import Path

from postval_assets.core.failures import Unavailable

_MB = 1e6
# ENOSPC, a user's quota, and a limit on the size of a file.
_FULL = {errno.ENOSPC, errno.EFBIG, getattr(errno, "EDQUOT", errno.ENOSPC)}
_FULL_ON_WINDOWS = {39, 112}  # ERROR_HANDLE_DISK_FULL, ERROR_DISK_FULL
# How databases pass on what the system told them: SQLite its own words, DuckDB the system's.
_SAID = (
    "no space left on device",
    "disk is full",
    "disk full",
    "not enough space on the disk",
    "file too large",
    "quota exceeded",
)
_SAID_WITHOUT_SPACE = ("disk i/o error", "unable to open database file")
# Less than what a database asks for at a time.
_NOTHING = 2**20


def is_disk_full(error: BaseException, path: Path | None = None) -> bool:
    """Whether an error, or one that it was raised from, says that there is no space left.

    Args:
        error: what was raised.
        path: what it is about, where that is known: SQLite calls a full disk an I/O error, like a broken one, and the
            free space there tells which it is.
    """
    is_without_space = path is not None and (free := _free_bytes(path)) is not None and free < _NOTHING
    said = (*_SAID, *_SAID_WITHOUT_SPACE) if is_without_space else _SAID
    for cause in _causes(error):
        if isinstance(cause, OSError) and (
            cause.errno in _FULL or getattr(cause, "winerror", None) in _FULL_ON_WINDOWS
        ):
            return True
        text = str(cause).lower()
        if any(words in text for words in said):
            return True
    return False


def unavailable(what: str, path: Path, error: BaseException) -> Unavailable:
    """The failure in one line: what could not be done where, why, and what to do where the disk is full.

    Args:
        what: such as ``weights could not be written to``.
        path: where.
        error: the system's or a database's.
    """
    lines = str(error).strip().splitlines()
    why = getattr(error, "strerror", None) or (lines[0] if lines else type(error).__name__)
    if not is_disk_full(error, path):
        return Unavailable(f"{what} {path}: {why}")
    return Unavailable(
        f"{what} {path}: the disk is full ({_free(path)}): free some space there (postval prune says what can go), "
        "then run this again; what was finished before is kept"
    )


def _free(path: Path) -> str:
    free = _free_bytes(path)
    return f"{free / _MB:.1f} MB free" if free is not None else "nothing can be said of what is free"


def _free_bytes(path: Path) -> int | None:
    """How much is free on the disk of a path that may not exist; None where that cannot be told."""
    for place in (path, *path.parents):
        try:
            return shutil.disk_usage(place).free
        except OSError:
            continue
    return None


def _causes(error: BaseException) -> Iterator[BaseException]:
    """An error and what it was raised from, or while."""
    seen: set[int] = set()
    cause: BaseException | None = error
    while cause is not None and id(cause) not in seen:
        seen.add(id(cause))
        yield cause
        cause = cause.__cause__ or cause.__context__
