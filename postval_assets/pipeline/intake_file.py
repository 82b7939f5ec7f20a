"""A file taken in from anywhere, without the inbox: copied into the store, the original left alone.

Here: ``postval validate FILE``. Not here: what arrives in the inbox (reception.py).
"""

from __future__ import annotations

import shutil

from postval_assets.core.failures import Unavailable
from postval_assets.io.inbox import ReadyArchive
from postval_assets.pipeline.platform import Platform


def take_in(platform: Platform, ready: ReadyArchive) -> None:
    """Copy an inspected file into the store, by its content.

    Raises:
        Unavailable: where the disk refuses.
    """
    if platform.archives.path_of(ready.sha256).is_file():
        return
    copy = platform.scratch / f"{ready.sha256}.zip"
    try:
        platform.scratch.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ready.path, copy)
    except OSError as error:
        raise Unavailable(f"{ready.path} could not be copied to {platform.scratch}: {error}") from error
    platform.archives.adopt(copy, ready.sha256, ready.size_bytes)
