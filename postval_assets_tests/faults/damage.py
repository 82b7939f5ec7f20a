"""Ways in which a warehouse's file gets damaged. Here: doing it. Not here: what has to follow (test_damaged.py)."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np

from postval_assets.io.replica import wal_of

_LEAVE_A_LOG = """
import os, sys, duckdb
connection = duckdb.connect(sys.argv[1])
connection.execute("CREATE TABLE bars (close DOUBLE)")
connection.execute("INSERT INTO bars VALUES (1)")
os._exit(0)
"""


def truncated(path: Path) -> None:
    """Its second half is gone."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def cut_short(path: Path) -> None:
    """Only its first hundred bytes are there."""
    path.write_bytes(path.read_bytes()[:100])


def without_header(path: Path) -> None:
    """Its header is zeros."""
    content = path.read_bytes()
    path.write_bytes(bytes(4096 * 3) + content[4096 * 3 :])


def garbage_in_the_middle(path: Path) -> None:
    """Some pages behind the header are noise; the header is whole."""
    content = bytearray(path.read_bytes())
    noise = np.random.default_rng(6)
    for start in range(4096 * 4, len(content), 64 * 1024):
        content[start : start + 512] = noise.bytes(512)
    path.write_bytes(content)


def emptied(path: Path) -> None:
    """Nothing is in it."""
    path.write_bytes(b"")


def with_the_log_of_another(path: Path) -> None:
    """Beside it lies a log that belongs to another database."""
    other = path.with_name("other.duckdb")
    duckdb.connect(other).close()
    subprocess.run([sys.executable, "-c", _LEAVE_A_LOG, str(other)], check=True)
    wal_of(other).replace(wal_of(path))
    other.unlink()


DAMAGES: tuple[Callable[[Path], None], ...] = (
    truncated,
    cut_short,
    without_header,
    garbage_in_the_middle,
    emptied,
    with_the_log_of_another,
)
