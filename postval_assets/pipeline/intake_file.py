"""A file taken in from anywhere, without the inbox: copied into the store, the original left alone.

Here: ``postval validate FILE``. Not here: what arrives in the inbox (reception.py).
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.inbox import ReadyArchive
from postval_assets.pipeline.platform import Platform


def take_in(platform: Platform, ready: ReadyArchive) -> None:
    """Copy an inspected file into the store, by its content.

    Raises:
        Unavailable: where the disk refuses.
    """
    try:
        platform.archives.verify(ready.sha256)
    except Rejected:
        _copy_in(platform, ready)


def _copy_in(platform: Platform, ready: ReadyArchive) -> None:
    """For an archive that the store has not, or has damaged."""
    try:
        platform.scratch.mkdir(parents=True, exist_ok=True)
        # A folder of its own: two runs may take in one file at the same time, and nothing stays where one fails.
        with tempfile.TemporaryDirectory(dir=platform.scratch, ignore_cleanup_errors=True) as folder:
            copy = Path(folder) / f"{ready.sha256}.zip"
            shutil.copyfile(ready.path, copy)
            platform.archives.adopt(copy, ready.sha256, ready.size_bytes)
    except OSError as error:
        raise Unavailable(f"{ready.path} could not be copied to {platform.scratch}: {error}") from error
