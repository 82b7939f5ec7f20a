"""Zip files put together byte by byte, so that every field can lie.

Here: the bytes of entries, directory and end records (PKWARE's APPNOTE 6.3.10). Not here: which lies are told
(zip_cases.py, name_cases.py).
"""

from __future__ import annotations

import functools
import json
import struct
import tempfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from postval_assets_tests.factories import good_claims, make_checkpoint, make_summary

STORED, DEFLATED = 0, 8
STAMP = "20250201_000000"
SUMMARY = f"training_summary_{STAMP}.json"
FOLDER = "models/rl_symbols/"
FILE_NAME = f"Alpaca_trading_trained_{STAMP}.zip"
UTF8 = 0x800

Fields = Mapping[str, Any]


@dataclass(frozen=True)
class Part:
    """One entry.

    Attributes:
        name: text is written as UTF-8 with the flag that says so where it is not ASCII; bytes as they are.
        content: unpacked.
        method: of compression; methods that cannot be made here keep the content as it is.
        flags: of the entry.
        own: what its own header says otherwise: name, flags, method, crc, packed_bytes, size_bytes, extra.
        listed: what the directory says otherwise: the same, and attributes, disk, offset, version.
        packed: its bytes in the file; made from the content where None.
        trailer: bytes after them.
    """

    name: str | bytes
    content: bytes = b""
    method: int = DEFLATED
    flags: int = 0
    own: Fields = field(default_factory=dict)
    listed: Fields = field(default_factory=dict)
    packed: bytes | None = None
    trailer: bytes = b""


def zip_bytes(
    parts: Sequence[Part],
    *,
    before: bytes = b"",
    shifted: bool = False,
    end: Fields | None = None,
    large: Fields | None = None,
    comment: bytes = b"",
    after: bytes = b"",
) -> bytes:
    """A zip file.

    Args:
        parts: entries, in order.
        before: bytes before the first one.
        shifted: whether the offsets count these bytes.
        end: what the end record says otherwise: disk, first_disk, n_here, n_entries, size_bytes, offset, comment_bytes.
        large: a 64-bit end record, and what it says otherwise: the same, record_bytes, at (what the locator says),
            n_disks; None for none.
        comment: of the archive.
        after: bytes after everything.
    """
    base = len(before) if shifted else 0
    body, lines = b"", b""
    for part in parts:
        fields = _fields(part)
        offset = base + len(body)
        body += _own_header({**fields, **part.own}) + fields["packed"] + part.trailer
        lines += _line({"offset": offset, "attributes": 0o100644 << 16, "disk": 0, **fields, **part.listed})
    stated = {
        "disk": 0,
        "first_disk": 0,
        "n_here": len(parts),
        "n_entries": len(parts),
        "size_bytes": len(lines),
        "offset": base + len(body),
        "comment_bytes": len(comment),
    }
    records = b""
    if large is not None:
        at = len(before) + len(body) + len(lines)
        records = _large_end({"record_bytes": 44, "at": at, "n_disks": 1, **stated, **large})
    return before + body + lines + records + _end({**stated, **(end or {})}) + comment + after


def archive(*parts: Part, **changes: Any) -> bytes:
    """A training archive of the good model AAPL, a summary of it, and these entries."""
    return zip_bytes([*good_parts(), *parts], **changes)


def good_parts(*symbols: str, summary: bytes | None = None) -> list[Part]:
    """The summary and the models of an honest archive; AAPL alone where no symbol is named."""
    symbols = symbols or ("AAPL",)
    text = good_summary(*symbols) if summary is None else summary
    return [Part(SUMMARY, text), *(Part(f"{FOLDER}{s}_1Hour.pt", good_model()) for s in symbols)]


def good_summary(*symbols: str) -> bytes:
    """Claims that the gate approves."""
    content = make_summary({f"{s}_1Hour": good_claims() for s in symbols or ("AAPL",)}, timestamp=STAMP)
    return json.dumps(content).encode()


@functools.cache
def good_model() -> bytes:
    """A small checkpoint with nothing wrong."""
    with tempfile.TemporaryDirectory() as folder:
        path = make_checkpoint(
            Path(folder) / "good.pt", window=8, overrides={"window": 8, "feature_set": "reference-59"}
        )
        return path.read_bytes()


def writes(make: Callable[[], bytes], file_name: str = FILE_NAME) -> Callable[[Path], Path]:
    """A case's ``build``: the bytes, made when they are asked for, as a file of that name."""

    def build(folder: Path) -> Path:
        path = folder / file_name
        path.write_bytes(make())
        return path

    return build


def _fields(part: Part) -> dict[str, Any]:
    packed = part.packed
    if packed is None:
        packed = _deflated(part.content) if part.method == DEFLATED else part.content
    name = part.name if isinstance(part.name, bytes) else part.name.encode()
    flags = part.flags | (UTF8 if isinstance(part.name, str) and not part.name.isascii() else 0)
    return {
        "name": name,
        "flags": flags,
        "method": part.method,
        "crc": zlib.crc32(part.content),
        "extra": b"",
        "packed": packed,
        "packed_bytes": len(packed),
        "size_bytes": len(part.content),
        "version": 20,
    }


def _deflated(content: bytes) -> bytes:
    packer = zlib.compressobj(6, zlib.DEFLATED, -15)
    return packer.compress(content) + packer.flush()


def _own_header(f: Fields) -> bytes:
    head = struct.pack(
        "<4s5H3I2H",
        *(b"PK\x03\x04", f["version"], f["flags"], f["method"], 0, 33),
        *(f["crc"], f["packed_bytes"], f["size_bytes"], len(f["name"]), len(f["extra"])),
    )
    return head + f["name"] + f["extra"]


def _line(f: Fields) -> bytes:
    head = struct.pack(
        "<4s6H3I5H2I",
        *(b"PK\x01\x02", 0x0314, f["version"], f["flags"], f["method"], 0, 33),
        *(f["crc"], f["packed_bytes"], f["size_bytes"], len(f["name"]), len(f["extra"]), 0, f["disk"], 0),
        *(f["attributes"], f["offset"]),
    )
    return head + f["name"] + f["extra"]


def _end(f: Fields) -> bytes:
    return struct.pack(
        "<4s4H2IH",
        *(b"PK\x05\x06", f["disk"], f["first_disk"], f["n_here"], f["n_entries"]),
        *(f["size_bytes"], f["offset"], f["comment_bytes"]),
    )


def _large_end(f: Fields) -> bytes:
    record = struct.pack(
        "<4sQ2H2I4Q",
        *(b"PK\x06\x06", f["record_bytes"], 45, 45, f["disk"], f["first_disk"]),
        *(f["n_here"], f["n_entries"], f["size_bytes"], f["offset"]),
    )
    return record + struct.pack("<4sIQI", b"PK\x06\x07", 0, f["at"], f["n_disks"])
