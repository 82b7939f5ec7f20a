"""Files that are either wholly there or not at all, also after a crash or a power cut.

Here: writing beside the target, bringing it to the disk, and the rename. Not here: what is written (the stores), or
what is said where the disk refuses (disk_full.py).

A rename alone protects against a killed process: its writes are the kernel's already. Against a power cut the content
has to be on the disk before the name is, and the name itself is only safe once the folder was brought there too.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from postval_assets.io.process_identity import maker

PART = ".part"


def part_of(target: Path) -> Path:
    """A hidden name beside ``target`` that no other process or thread uses; it says its maker."""
    return target.with_name(f".{target.name}.{maker()}.{threading.get_ident()}{PART}")


def write_durably(target: Path, content: bytes) -> None:
    """Write a whole file, in place of one that may be there; nothing is left beside it where that fails.

    Raises:
        OSError: the disk refused; ``target`` is as it was.
    """
    part = part_of(target)
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(target)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def replace_durably(part: Path, target: Path) -> None:
    """Rename a finished file into place, its content first brought to the disk; errors as the system's."""
    sync_file(part)
    part.replace(target)
    sync_folder(target.parent)


def sync_file(path: Path) -> None:
    """Bring a file's content to the disk."""
    # Windows brings to the disk only what is open for writing; elsewhere a read-only file can be brought there too.
    with path.open("r+b" if os.name == "nt" else "rb") as file:
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Bring a folder's names to the disk, where the system can be asked for it (not on Windows)."""
    if os.name == "nt":
        return
    opened = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(opened)
    except OSError:
        # Some file systems of the network refuse this for folders; the rename itself has been done.
        return
    finally:
        os.close(opened)
