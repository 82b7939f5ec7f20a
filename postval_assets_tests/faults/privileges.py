"""Permissions that hold for the tests too, which may be run by root. Here: being somebody else for a while."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

NOBODY = 65534

has_permissions = pytest.mark.skipif(
    sys.platform == "win32", reason="its permissions are another thing, and files there have no owner to be"
)


@contextmanager
def unprivileged() -> Iterator[None]:
    """In this process, as a user who owns nothing; nothing changes where that is so already."""
    if os.geteuid() != 0:
        yield
        return
    os.setegid(NOBODY)
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


@contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that every user may look into: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(prefix="postval-faults-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        make_writable(folder)
        shutil.rmtree(folder)


def make_read_only(folder: Path) -> None:
    """Nobody without privileges writes anything in it."""
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def make_writable(folder: Path) -> None:
    """The owner may do everything again."""
    folder.chmod(0o755)
    for path in folder.rglob("*"):
        path.chmod(0o755 if path.is_dir() else 0o644)
