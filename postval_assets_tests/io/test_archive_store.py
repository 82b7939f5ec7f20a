from __future__ import annotations

import errno
import hashlib
from pathlib import Path

import pytest

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.archive_store import ArchiveStore

CONTENT = b"an archive" * 1000
SHA = hashlib.sha256(CONTENT).hexdigest()


class Folders:
    def __init__(self, root: Path) -> None:
        self.inbox = root / "inbox"
        self.kept = root / "archives"
        self.rejected = root / "rejected"
        self.inbox.mkdir()
        self.store = ArchiveStore(self.kept, self.rejected)

    def drop(self, content: bytes = CONTENT, name: str = "a.zip") -> Path:
        path = self.inbox / name
        path.write_bytes(content)
        return path

    def files(self) -> list[str]:
        root = self.inbox.parent
        return sorted(p.relative_to(root).as_posix() for p in root.rglob("*") if p.is_file())


@pytest.fixture
def folders(tmp_path) -> Folders:
    return Folders(tmp_path)


@pytest.fixture
def other_disk(monkeypatch):
    """Inbox and store on two disks: a rename between folders is refused, as the operating system would."""
    replace = Path.replace

    def refuse(self, target):
        if self.parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", refuse)


def adopt(folders: Folders, path: Path, mtime_ns: int | None = None) -> Path:
    return folders.store.adopt(path, SHA, len(CONTENT), mtime_ns)


@pytest.mark.parametrize("disks", ["one", "two"])
@pytest.mark.parametrize("mtime", ["known", "unknown", "other"])
def test_a_file_moves_into_the_store(folders, disks, mtime, request):
    if disks == "two":
        request.getfixturevalue("other_disk")
    path = folders.drop()
    stat_ns = path.stat().st_mtime_ns
    stored = adopt(folders, path, {"known": stat_ns, "unknown": None, "other": stat_ns + 1}[mtime])
    assert stored == folders.store.path_of(SHA) == folders.kept / f"{SHA}.zip"
    assert stored.read_bytes() == CONTENT
    assert folders.files() == [f"archives/{SHA}.zip"]


def test_adopting_again_changes_nothing(folders):
    path = folders.drop()
    adopt(folders, path)
    assert adopt(folders, path) == folders.store.path_of(SHA)
    folders.drop()
    assert adopt(folders, path) == folders.store.path_of(SHA)
    assert folders.files() == [f"archives/{SHA}.zip"]


def test_another_file_under_the_inbox_name_is_left_alone(folders):
    adopt(folders, folders.drop())
    other = folders.drop(b"the next archive")
    adopt(folders, other)
    assert other.read_bytes() == b"the next archive"


def test_a_damaged_stored_file_is_replaced_by_the_good_one(folders):
    folders.kept.mkdir()
    folders.store.path_of(SHA).write_bytes(b"x" * len(CONTENT))
    path = folders.drop()
    assert adopt(folders, path).read_bytes() == CONTENT
    assert not path.exists()


def test_what_a_crash_left_half_copied_is_replaced(folders, other_disk):
    folders.kept.mkdir()
    (folders.kept / f".{SHA}.zip.part").write_bytes(b"half")
    adopt(folders, folders.drop())
    assert folders.files() == [f"archives/{SHA}.zip"]


@pytest.mark.parametrize("content", [b"x" * len(CONTENT), b"short"])
def test_changed_content_is_rejected_and_stays(folders, content):
    path = folders.drop(content)
    with pytest.raises(Rejected, match="changed since it was announced"):
        adopt(folders, path)
    assert path.read_bytes() == content
    assert folders.files() == ["inbox/a.zip"]


def test_content_that_changed_unnoticed_is_found_while_copying(folders, other_disk):
    path = folders.drop(b"x" * len(CONTENT))
    with pytest.raises(Rejected, match="changed while it was copied"):
        adopt(folders, path, path.stat().st_mtime_ns)
    assert folders.files() == ["inbox/a.zip"]


def test_a_file_that_is_nowhere_is_worth_retrying(folders):
    with pytest.raises(Unavailable, match="drop it again"):
        adopt(folders, folders.inbox / "a.zip")


def test_a_disk_that_refuses_is_worth_retrying(folders, monkeypatch):
    def full(self, target):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    path = folders.drop()
    with pytest.raises(Unavailable, match="the disk is full"):
        adopt(folders, path)
    assert path.read_bytes() == CONTENT


def test_a_stored_archive_is_verified_by_its_content(folders):
    with pytest.raises(Rejected, match="missing"):
        folders.store.verify(SHA)
    stored = adopt(folders, folders.drop())
    assert folders.store.verify(SHA) == stored
    stored.write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(Rejected, match="changed or damaged"):
        folders.store.verify(SHA)


@pytest.mark.parametrize("sha", ["", "../../x", "A" * 64, "a" * 63, "a" * 65])
def test_only_a_digest_names_a_file(folders, sha):
    with pytest.raises(Rejected, match="not a SHA-256"):
        folders.store.path_of(sha)


def test_rejected_files_keep_their_names_and_overwrite_nothing(folders):
    first = folders.store.reject(folders.drop(), SHA)
    assert first == folders.rejected / "a.zip"
    other = hashlib.sha256(b"other").hexdigest()
    second = folders.store.reject(folders.drop(b"other"), other)
    assert second == folders.rejected / f"a-{other[:8]}.zip"
    assert (first.read_bytes(), second.read_bytes()) == (CONTENT, b"other")
    # The same files again, and a retry after the move.
    assert folders.store.reject(folders.drop(), SHA) == first
    assert folders.store.reject(folders.drop(b"other"), other) == second
    assert folders.store.reject(folders.inbox / "a.zip", other) == second
    assert folders.files() == ["rejected/a-" + other[:8] + ".zip", "rejected/a.zip"]


def test_a_rejected_file_that_is_nowhere_is_worth_retrying(folders):
    with pytest.raises(Unavailable):
        folders.store.reject(folders.inbox / "a.zip", SHA)


def test_two_refused_files_of_one_very_long_name_both_find_a_place(folders):
    name = "\u00e9" * 124 + ".zip"  # 252 bytes of the 255 that a name may have
    aside = []
    for content in (b"one", b"two"):
        path = folders.inbox / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        aside.append(folders.store.reject(path, hashlib.sha256(content).hexdigest()))
    assert [path.read_bytes() for path in aside] == [b"one", b"two"]
    assert len(aside[1].name.encode()) <= 255
