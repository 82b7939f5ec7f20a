"""The strict layout lets through what honest programs write, and names what it does not let through."""

from __future__ import annotations

import io
import shutil
import struct
import subprocess
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.archive import ArchiveLimits
from postval_assets.core.failures import Rejected
from postval_assets.io.archive_file import open_archive
from postval_assets_tests.hostile.zip_bytes import FOLDER, SUMMARY, good_parts, zip_bytes

LIMITS = ArchiveLimits()
CONTENT = {SUMMARY: b'{"symbols": {"AAPL": {"metrics": {}}}}', f"{FOLDER}AAPL.pt": bytes(range(256)) * 99}


class OneWay(io.RawIOBase):
    """A pipe to a file: nothing that was written can be gone back to."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")

    def writable(self) -> bool:
        return True

    def write(self, data: object) -> int:
        return self._file.write(data)  # type: ignore[arg-type]

    def close(self) -> None:
        self._file.close()
        super().close()


def by_zipfile(**options: object) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        with zipfile.ZipFile(path, "w", **options) as file:  # type: ignore[call-overload]
            for name, content in CONTENT.items():
                file.writestr(name, content)

    return write


def in_large_form(path: Path) -> None:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in CONTENT.items():
            with file.open(name, "w", force_zip64=True) as entry:
                entry.write(content)


def into_a_pipe(path: Path) -> None:
    with OneWay(path) as pipe, zipfile.ZipFile(pipe, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in CONTENT.items():
            file.writestr(name, content)


def appended(path: Path) -> None:
    by_zipfile()(path)
    with zipfile.ZipFile(path, "a") as file:
        file.writestr("notes/übersicht.txt", b"appended")
        file.comment = b"trained on a Tuesday"


def with_folders(path: Path) -> None:
    root = path.with_suffix("")
    for name, content in CONTENT.items():
        (root / "Alpaca trading" / name).parent.mkdir(parents=True, exist_ok=True)
        (root / "Alpaca trading" / name).write_bytes(content)
    shutil.make_archive(str(root), "zip", root)


def by_info_zip(path: Path) -> None:
    if shutil.which("zip") is None:
        pytest.skip("needs Info-ZIP's zip")
    with_folders(path)
    path.unlink()
    subprocess.run(["zip", "-q", "-r", str(path), "Alpaca trading"], cwd=path.with_suffix(""), check=True)


def with_a_zip_inside_at_the_end(path: Path) -> None:
    """A stored checkpoint is a zip, too: its end record lies right before the directory."""
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w") as file:
        file.writestr("data.pkl", b"x" * 50)
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(SUMMARY, CONTENT[SUMMARY])
        file.writestr(f"{FOLDER}AAPL.pt", inner.getvalue())


HONEST = {
    "stored": by_zipfile(),
    "deflated": by_zipfile(compression=zipfile.ZIP_DEFLATED, compresslevel=9),
    "64-bit sizes": in_large_form,
    "a pipe": into_a_pipe,
    "appended": appended,
    "folders": with_folders,
    "Info-ZIP": by_info_zip,
    "a zip in the zip": with_a_zip_inside_at_the_end,
}


@pytest.mark.parametrize("way", HONEST)
def test_what_honest_programs_write_is_read(way: str, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    HONEST[way](path)
    with open_archive(path, LIMITS) as archive, zipfile.ZipFile(path) as expected:
        (model,) = archive.plan.models
        archive.copy_entry_to(model.entry, tmp_path / "m.pt")
        assert (tmp_path / "m.pt").read_bytes() == expected.read(model.entry.name)
        assert archive.read_summary() == CONTENT[SUMMARY]


@pytest.mark.parametrize("n_bytes", [0, 1, 65_535])
def test_a_comment_of_any_length_is_read_over(n_bytes: int, tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_bytes(good_parts(), comment=b"c" * n_bytes))
    with open_archive(path, LIMITS) as archive:
        assert len(archive.plan.models) == 1


def test_a_limit_lets_through_what_is_just_below_it(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    path.write_bytes(zip_bytes(good_parts("AAPL", "SPY")))
    with open_archive(path, ArchiveLimits(max_entries=3)) as archive:
        assert len(archive.plan.models) == 2
    size = path.stat().st_size
    for limits, said in (
        (ArchiveLimits(max_entries=2), "has 3 entries; at most 2 are read"),
        (ArchiveLimits(max_total_bytes=size - 1), f"has {size} bytes; at most {size - 1} are read"),
    ):
        with pytest.raises(Rejected, match=said), open_archive(path, limits):
            pass


WHOLE = zip_bytes(good_parts())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_any_change_is_read_or_refused(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """The fields of the directory and the end, set to anything."""
    first = WHOLE.index(b"PK\x01\x02")
    changed = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(first, len(WHOLE) - 4))
        struct.pack_into(
            "<I", changed, at, data.draw(st.sampled_from([0, 1, 0xFFFF, 2**31, 2**32 - 1, 0x06054B50]))
        )
    path = tmp_path_factory.mktemp("zip") / "a.zip"
    path.write_bytes(changed)
    try:
        with open_archive(path, LIMITS) as archive:
            archive.read_summary()
            for model in archive.plan.models:
                archive.copy_entry_to(model.entry, path.with_suffix(".pt"))
    except Rejected:
        return
