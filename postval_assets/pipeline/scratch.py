"""Folders for what a stage needs for a moment, and what killed processes leave behind on the disk.

Here: making the one, removing the other. Not here: what is written there.

A folder's name says which process made it, so that the next run knows at once whether its maker is gone. What another
machine or container made cannot be told so, and goes when it is a day old.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

from postval_assets.io.disk_full import unavailable
from postval_assets.io.durable import PART
from postval_assets.io.process_identity import maker, maker_is_gone
from postval_assets.pipeline.platform import Platform

log = logging.getLogger("postval.scratch")

# What is written lies beside its place for minutes; what is this old belongs to a process that was killed.
_LIFETIME = timedelta(days=1)


@contextmanager
def scratch_folder(platform: Platform) -> Iterator[Path]:
    """A new folder, gone with everything in it when the block is left.

    Raises:
        Unavailable: where the disk refuses to make it.
    """
    try:
        platform.scratch.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(
            prefix=f"{maker()}.", dir=platform.scratch, ignore_cleanup_errors=True
        )
    except OSError as error:
        raise unavailable("no folder could be made in", platform.scratch, error) from error
    with folder as name:
        yield Path(name)


def clear_left_over(platform: Platform) -> None:
    """Remove what killed processes left on the disk; what cannot be removed is said and left.

    Scratch folders whose process is gone, and parts of files that never came into place: of weights, of stored
    archives, and of copies into the inbox.
    """
    oldest = platform.now() - _LIFETIME
    settings = platform.settings
    for folder, pattern in (
        (platform.scratch, "*"),
        (settings.inbox, f".*.zip{PART}"),
    ):
        _clear(folder, pattern, oldest)
    _clear_each(platform.archives.parts(), oldest)
    _clear_each(platform.models.parts(), oldest)


def _clear(folder: Path, pattern: str, oldest: datetime) -> None:
    if folder.is_dir():
        _clear_each(folder.glob(pattern), oldest)


def _clear_each(entries: Iterator[Path], oldest: datetime) -> None:
    while True:
        try:
            entry = next(entries, None)
        except OSError as error:
            log.warning("what killed runs left could not be looked for: %s", error)
            return
        if entry is None:
            return
        try:
            if not _is_left_over(entry, oldest):
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                # A link goes itself; what it points at is not ours.
                entry.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s is left over from a stopped run and could not be removed: %s", entry, error)


def _is_left_over(entry: Path, oldest: datetime) -> bool:
    gone = maker_is_gone(entry.name)
    return entry.lstat().st_mtime < oldest.timestamp() if gone is None else gone
