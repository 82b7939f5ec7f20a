"""What is made for a moment, and what killed processes left of it."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import tempfile
from datetime import timedelta
from pathlib import Path

import pytest

from postval_assets.core.failures import Unavailable
from postval_assets.io.durable import part_of
from postval_assets.pipeline.scratch import clear_left_over, scratch_folder
from postval_assets_tests.pipeline.conftest import Bench

# Makes what a stage makes, says where, and is killed with it.
_KILLED = """
import os, signal, sys
from pathlib import Path
from postval_assets.io.durable import part_of
from postval_assets.pipeline.platform import open_platform
from postval_assets.pipeline.scratch import scratch_folder
from postval_assets.settings import Settings

platform = open_platform(Settings(data_dir=Path(sys.argv[1])))
target = platform.models.path_of("ab" * 32)
target.parent.mkdir(parents=True)
part_of(target).write_bytes(b"half of the weights")
with scratch_folder(platform) as folder:
    (folder / "checkpoint.pt").write_bytes(b"80 MB")
    print(folder, flush=True)
    os._exit(9)
"""


def test_a_scratch_folder_goes_with_its_block(bench: Bench) -> None:
    with scratch_folder(bench.platform) as folder:
        (folder / "checkpoint.pt").write_bytes(b"x")
        clear_left_over(bench.platform)
        assert (folder / "checkpoint.pt").is_file(), "its maker lives"
    assert list(bench.platform.scratch.iterdir()) == []


def test_what_a_killed_process_left_goes_at_once(bench: Bench) -> None:
    data_dir = bench.platform.settings.data_dir
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(data_dir)], capture_output=True, text=True, check=False
    )
    assert killed.returncode == 9, killed.stderr
    folder = Path(killed.stdout.strip())
    assert (folder / "checkpoint.pt").is_file()
    assert len(list(bench.platform.models.parts())) == 1
    clear_left_over(bench.platform)
    assert not folder.exists()
    assert list(bench.platform.models.parts()) == []


def test_parts_that_are_being_written_stay_and_old_ones_of_nobody_go(bench: Bench) -> None:
    platform, inbox = bench.platform, bench.platform.settings.inbox
    target = platform.models.path_of("ab" * 32)
    target.parent.mkdir(parents=True)
    inbox.mkdir(parents=True, exist_ok=True)
    kept = [part_of(target), inbox / ".new.zip.part", inbox / "upload.part", inbox / "old.zip"]
    gone = [target.with_name(f".{target.name}.part"), inbox / ".old.zip.part"]
    now = bench.clock().timestamp()
    two_days = timedelta(days=2).total_seconds()
    for path in (*kept, *gone):
        path.write_bytes(b"x")
        age = 60.0 if path.name == ".new.zip.part" else two_days
        os.utime(path, (now - age, now - age))
    clear_left_over(platform)
    assert [p.exists() for p in kept] == [True] * 4
    assert [p.exists() for p in gone] == [False] * 2


def test_a_disk_that_refuses_a_folder_is_told(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(tempfile, "mkdtemp", refuse)
    with (
        pytest.raises(Unavailable, match=r"no folder could be made in .*scratch: the disk is full"),
        scratch_folder(bench.platform),
    ):
        pass
