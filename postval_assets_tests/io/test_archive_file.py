from __future__ import annotations

import struct
import zipfile
from pathlib import Path

import pytest

from postval_assets.core.archive import ArchiveLimits
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.archive_file import Damaged, open_archive
from postval_assets_tests.factories import make_archive

LIMITS = ArchiveLimits()
CONTENT = bytes(range(256)) * 20


@pytest.fixture
def archive(tmp_path) -> Path:
    return make_archive(tmp_path / "a.zip", {"AAPL_1Hour": CONTENT, "SPY_1Hour": b"spy" * 100})


def copied(path: Path, target: Path, symbol: str = "AAPL") -> bytes:
    with open_archive(path, LIMITS) as opened:
        model = next(m for m in opened.plan.models if m.symbol == symbol)
        opened.copy_entry_to(model.entry, target)
    return target.read_bytes()


def patch(path: Path, before: bytes, after: bytes, *, last: bool) -> None:
    """Replace one occurrence: the last one is in the directory, the first in the entry itself."""
    data = path.read_bytes()
    at = data.rfind(before) if last else data.find(before)
    assert at >= 0
    path.write_bytes(data[:at] + after + data[at + len(before) :])


def test_summary_and_models_are_read(archive, tmp_path):
    with open_archive(archive, LIMITS) as opened:
        assert opened.read_summary().startswith(b'{"timestamp"')
        assert [m.symbol for m in opened.plan.models] == ["AAPL", "SPY"]
    assert copied(archive, tmp_path / "m.pt") == CONTENT
    # Closed again: on Windows an open file could not be removed.
    archive.unlink()


def test_only_the_given_target_is_written(tmp_path):
    names = ["evil.txt", "a/evil.txt", "a\\evil.txt", "models/rl_symbols/evil.sh"]
    path = make_archive(tmp_path / "a.zip", {"AAPL": CONTENT}, extra=dict.fromkeys(names, b"evil"))
    folder = tmp_path / "out"
    folder.mkdir()
    before = set(tmp_path.rglob("*"))
    assert copied(path, folder / "m.pt") == CONTENT
    assert set(tmp_path.rglob("*")) - before == {folder / "m.pt"}


def test_an_existing_target_is_not_overwritten(archive, tmp_path):
    target = tmp_path / "m.pt"
    target.write_bytes(b"mine")
    with pytest.raises(Unavailable):
        copied(archive, target)
    assert target.read_bytes() == b"mine"


def test_a_wrong_checksum_is_damage_of_that_entry(archive, tmp_path):
    info = zipfile.ZipFile(archive).getinfo("Alpaca_trading/models/rl_symbols/AAPL_1Hour.pt")
    checksum = struct.pack("<I", info.CRC)
    patch(archive, checksum, struct.pack("<I", info.CRC ^ 1), last=True)
    with pytest.raises(Damaged, match=r"AAPL_1Hour\.pt in a\.zip is damaged"):
        copied(archive, tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()
    assert copied(archive, tmp_path / "n.pt", "SPY") == b"spy" * 100


@pytest.mark.parametrize("declared", [len(CONTENT) - 1, len(CONTENT) + 1, 0])
def test_a_size_that_lies_is_damage_of_that_entry(archive, tmp_path, declared):
    info = zipfile.ZipFile(archive).getinfo("Alpaca_trading/models/rl_symbols/AAPL_1Hour.pt")
    sizes = struct.pack("<III", info.CRC, info.compress_size, info.file_size)
    patch(archive, sizes, struct.pack("<III", info.CRC, info.compress_size, declared), last=True)
    with pytest.raises(Damaged, match="is damaged"):
        copied(archive, tmp_path / "m.pt")
    assert not (tmp_path / "m.pt").exists()


def test_a_damaged_stream_is_damage(archive, tmp_path):
    info = zipfile.ZipFile(archive).getinfo("Alpaca_trading/models/rl_symbols/AAPL_1Hour.pt")
    data = bytearray(archive.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    data[start : start + 40] = b"\xff" * 40
    archive.write_bytes(data)
    with pytest.raises(Damaged):
        copied(archive, tmp_path / "m.pt")


def test_two_entries_of_one_name_are_told_apart(tmp_path):
    path = make_archive(tmp_path / "a.zip", {"SPY": b"spy"})
    name = "Alpaca_trading/models/rl_symbols/AAPL.pt"
    with zipfile.ZipFile(path, "a") as file:
        file.writestr(name, b"one")
        with pytest.warns(UserWarning, match="Duplicate"):
            file.writestr(name, b"two")
    with open_archive(path, LIMITS) as opened:
        assert [m.symbol for m in opened.plan.models] == ["SPY"]
        assert [r.symbol_shown for r in opened.plan.rejected] == ["AAPL", "AAPL"]


def test_an_encrypted_model_is_rejected_and_not_its_neighbour(archive):
    info = zipfile.ZipFile(archive).getinfo("Alpaca_trading/models/rl_symbols/AAPL_1Hour.pt")
    data = bytearray(archive.read_bytes())
    at = data.rfind(b"PK\x01\x02", 0, data.rfind(info.filename.encode()))
    data[at + 8] |= 1
    archive.write_bytes(data)
    with open_archive(archive, LIMITS) as opened:
        assert [m.symbol for m in opened.plan.models] == ["SPY"]
        assert "encrypted" in opened.plan.rejected[0].reason


@pytest.mark.parametrize("n_bytes", [0, 1, 21, 22, 100, -1, -30])
def test_a_file_cut_short_is_not_an_archive_yet(archive, n_bytes):
    archive.write_bytes(archive.read_bytes()[:n_bytes])
    with pytest.raises(Damaged, match="not a complete zip file"), open_archive(archive, LIMITS):
        pass


def test_another_format_is_not_an_archive(tmp_path):
    path = tmp_path / "a.zip"
    path.write_bytes(b"Rar!\x1a\x07" + bytes(10_000))
    with pytest.raises(Damaged), open_archive(path, LIMITS):
        pass


def test_a_huge_directory_is_not_read(tmp_path):
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as file:
        for n in range(300):
            file.writestr(f"{n:0>1004}", b"")
    with (
        pytest.raises(Rejected, match=r"directory of a\.zip takes 31\d+ bytes; at most 300 entries are read"),
        open_archive(path, ArchiveLimits(max_entries=300)),
    ):
        pass


def test_a_directory_of_the_64_bit_form_is_measured(tmp_path):
    path = make_archive(tmp_path / "a.zip", {"AAPL": CONTENT})
    data = path.read_bytes()
    end = data.rfind(b"PK\x05\x06")
    record = struct.pack("<4sQHHIIQQQQ", b"PK\x06\x06", 44, 45, 45, 0, 0, 4, 4, 10**9, 0)
    locator = struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1)
    marks = struct.pack("<4sHHHHIIH", b"PK\x05\x06", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    path.write_bytes(data[:end] + record + locator + marks)
    with pytest.raises(Rejected, match="takes 1000000000 bytes"), open_archive(path, LIMITS):
        pass


def test_entries_that_share_their_bytes_are_rejected(tmp_path):
    """Many directory lines over one compressed block: small to send, large to unpack."""
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as file:
        file.writestr("training_summary_20250101_000000.json", b"{}")
        file.writestr("models/rl_symbols/AAPL.pt", bytes(100_000))
        for n in range(5):
            twin = zipfile.ZipInfo(f"models/rl_symbols/A{n}.pt")
            original = file.getinfo("models/rl_symbols/AAPL.pt")
            twin.header_offset, twin.CRC = original.header_offset, original.CRC
            twin.file_size = twin.compress_size = original.file_size
            file.filelist.append(twin)
    with pytest.raises(Rejected, match="overlap"), open_archive(path, LIMITS):
        pass


def test_a_missing_file_is_worth_retrying(tmp_path):
    with pytest.raises(Unavailable), open_archive(tmp_path / "none.zip", LIMITS):
        pass
