from __future__ import annotations

import errno
import os
import threading
from pathlib import Path

import pytest

from postval_assets.io.durable import part_of, replace_durably, sync_folder, write_durably


def refuse(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_file_is_replaced_whole_and_nothing_stays_beside_it(tmp_path: Path) -> None:
    target = tmp_path / "weights"
    for content in (b"first", b"second, longer", b""):
        write_durably(target, content)
        assert target.read_bytes() == content
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_where_the_disk_refuses_the_old_file_stays_and_no_part(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    target = tmp_path / "weights"
    write_durably(target, b"old")
    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match="No space left"):
        write_durably(target, b"new")
    assert target.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["weights"]


def test_the_content_is_on_the_disk_before_the_name_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    part, target = tmp_path / "part", tmp_path / "target"
    part.write_bytes(b"content")
    done: list[str] = []
    rename, sync = os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda fd: (done.append("sync"), sync(fd)))
    monkeypatch.setattr(os, "replace", lambda a, b: (done.append("rename"), rename(a, b)))
    monkeypatch.setattr(os, "rename", lambda a, b: (done.append("rename"), rename(a, b)))
    replace_durably(part, target)
    assert done == (["sync", "rename"] if os.name == "nt" else ["sync", "rename", "sync"])
    assert target.read_bytes() == b"content"
    assert not part.exists()


def test_a_folder_that_cannot_be_synced_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", refuse)
    sync_folder(tmp_path)


def test_two_threads_never_write_one_part(tmp_path: Path) -> None:
    names: set[str] = {part_of(tmp_path / "x").name}
    other = threading.Thread(target=lambda: names.add(part_of(tmp_path / "x").name))
    other.start()
    other.join()
    assert len(names) == 2
    assert all(name.startswith(".x.") and name.endswith(".part") for name in names)
