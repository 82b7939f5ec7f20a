"""A file taken in from anywhere, without the inbox: copied into the store, the original left alone.

Here: ``postval validate FILE``. Not here: what arrives in the inbox (reception.py).
"""

from __future__ import annotations

import shutil

from postval_assets.core.failures import Rejected
from postval_assets.io.disk_full import unavailable
from postval_assets.io.inbox import ReadyArchive
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.scratch import clear_left_over, scratch_folder


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
    # A copy of 4 GB that a killed run left may be what is missing on the disk.
    clear_left_over(platform)
    # A folder of its own: two runs may take in one file at the same time, and nothing stays where one fails.
    with scratch_folder(platform) as folder:
        copy = folder / f"{ready.sha256}.zip"
        try:
            shutil.copyfile(ready.path, copy)
        except OSError as error:
            raise unavailable(f"{ready.path} could not be copied to", platform.scratch, error) from error
        platform.archives.adopt(copy, ready.sha256, ready.size_bytes)
