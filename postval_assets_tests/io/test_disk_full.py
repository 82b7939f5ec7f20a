from __future__ import annotations

import errno
import os
import shutil
import sqlite3
from pathlib import Path

import duckdb
import pytest

from postval_assets.io.disk_full import is_disk_full, unavailable

FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/data/x")


def raised_from(cause: BaseException) -> Exception:
    try:
        try:
            raise cause
        except BaseException as error:
            raise RuntimeError("Dagster could not store an event") from error
    except RuntimeError as error:
        return error


@pytest.mark.parametrize(
    "error",
    [
        FULL,
        OSError(errno.EFBIG, os.strerror(errno.EFBIG)),
        sqlite3.OperationalError("database or disk is full"),
        duckdb.IOException(
            'IO Error: Could not write file "w.duckdb.wal": No space left on device\n\nstack trace'
        ),
        duckdb.TransactionException(
            'TransactionContext Error: Failed to commit: Could not write file "w.wal": No space left on device'
        ),
        raised_from(FULL),
        raised_from(sqlite3.OperationalError("database or disk is full")),
    ],
)
def test_a_full_disk_is_told_whoever_noticed_it(error: Exception, tmp_path: Path) -> None:
    assert is_disk_full(error)
    said = str(unavailable("weights could not be written to", tmp_path / "not" / "there", error))
    assert said.startswith(
        f"weights could not be written to {tmp_path / 'not' / 'there'}: the disk is full ("
    )
    assert " MB free): free some space" in said
    assert "\n" not in said


@pytest.mark.parametrize(
    "error",
    [
        PermissionError(errno.EACCES, os.strerror(errno.EACCES), "/data/x"),
        duckdb.IOException("IO Error: Could not set lock on file: Conflicting lock"),
        raised_from(KeyError("symbol")),
    ],
)
def test_other_failures_are_not(error: Exception, tmp_path: Path) -> None:
    assert not is_disk_full(error)
    said = str(unavailable("the copy could not be made at", tmp_path, error))
    assert said.startswith(f"the copy could not be made at {tmp_path}: ")
    assert "full" not in said


def test_an_io_error_of_sqlites_is_a_full_disk_where_nothing_is_free(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    error = raised_from(sqlite3.OperationalError("disk I/O error"))
    assert not is_disk_full(error, tmp_path)
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=100_000))
    assert is_disk_full(error, tmp_path)
    assert not is_disk_full(error)
    assert "the disk is full (0.1 MB free)" in str(
        unavailable("the history could not be written to", tmp_path, error)
    )
