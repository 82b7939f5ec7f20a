"""Archives that are cheap to send and dear to read: much from little, more of everything than allowed."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
import zlib

from postval_assets_tests.factories import good_claims
from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.zip_bytes import (
    DEFLATED,
    FOLDER,
    STORED,
    SUMMARY,
    Part,
    archive,
    good_parts,
    writes,
    zip_bytes,
)

REFUSED, QUARANTINED = Outcome.REFUSED, Outcome.QUARANTINED

_MB = 2**20
_SPY = f"{FOLDER}SPY_1Hour.pt"


def _deflated_zeros(n_bytes: int) -> bytes:
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    return packer.compress(bytes(n_bytes)) + packer.flush()


def _model(content: bytes = b"", **changes: object) -> bytes:
    return archive(Part(_SPY, content, **changes))  # type: ignore[arg-type]


def _small_by_the_directory(size_bytes: int, packed_bytes: int | None = None) -> bytes:
    """64 MB of zeros in a stream that is said to hold little, in both headers."""
    packed = _deflated_zeros(64 * _MB)
    lies = {"size_bytes": size_bytes, "crc": zlib.crc32(bytes(size_bytes))}
    if packed_bytes is not None:
        lies["packed_bytes"] = packed_bytes
    return _model(packed=packed, own=lies, listed=lies)


def _nested(levels: int, width: int) -> bytes:
    """42.zip's way: a zip of zips of zips, each level the same file many times."""
    content = bytes(_MB)
    for _ in range(levels):
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
            for n in range(width):
                file.writestr(f"{n}.zip", content)
        content = packed.getvalue()
    return content


def _same_bytes(n: int) -> bytes:
    """Many lines of the directory over one block of data."""
    block = Part(_SPY, bytes(4 * _MB), STORED)
    at = len(zip_bytes(good_parts())) - _directory_bytes(good_parts())
    twins = [
        Part(
            f"{FOLDER}A{i}.pt",
            b"",
            STORED,
            packed=b"",
            listed={"offset": at, "crc": 0, "packed_bytes": 4 * _MB, "size_bytes": 4 * _MB},
        )
        for i in range(n)
    ]
    return archive(block, *twins)


def _quoted(n: int) -> bytes:
    """David Fifield's better zip bomb: each entry's data begin with the next entry's header, as a stored block.

    (A better zip bomb, WOOT 2019.) All of them end in one kernel of compressed zeros; nothing is there twice, and the
    sizes of the lines add up to far more than the file.
    """
    kernel = _deflated_zeros(_MB)
    crc = zlib.crc32(bytes(_MB))
    bodies: list[bytes] = []
    sizes: list[tuple[int, int, int]] = []
    following, size = kernel, _MB
    for number in reversed(range(n)):
        name = f"{FOLDER}Q{number}_1Hour.pt".encode()
        head = (
            struct.pack("<4s5H3I2H", b"PK\x03\x04", 20, 0, 8, 0, 33, crc, len(following), size, len(name), 0)
            + name
        )
        bodies.append(head)
        sizes.append((len(following), size, crc))
        # The block that quotes this header, in front of what follows it, is the data of the entry before.
        following = struct.pack("<BHH", 0, len(head), len(head) ^ 0xFFFF) + head + following
        size += len(head)
    first = zip_bytes(good_parts())
    offset = len(first) - _directory_bytes(good_parts()) - 22
    data, parts, at = b"", good_parts(), offset
    for number in range(n):
        head, (packed_bytes, size_bytes, crc) = bodies[n - 1 - number], sizes[n - 1 - number]
        data += head if number == 0 else struct.pack("<BHH", 0, len(head), len(head) ^ 0xFFFF) + head
        listed = {"offset": at, "crc": crc, "packed_bytes": packed_bytes, "size_bytes": size_bytes}
        parts.append(Part(f"{FOLDER}Q{number}_1Hour.pt", b"", DEFLATED, packed=b"", listed=listed))
        at = offset + len(data) + 5
    return _with_shared_data(parts, len(good_parts()), data + kernel)


def _with_shared_data(parts: list[Part], n_own: int, data: bytes) -> bytes:
    """An archive whose first entries are written one by one, and whose others all lie in one run of bytes."""
    own = parts[:n_own]
    plain = zip_bytes(own)
    body = plain[: len(plain) - _directory_bytes(own) - 22]
    everything = zip_bytes(parts)
    lines = everything[-_directory_bytes(parts) - 22 : -22]
    end = struct.pack(
        "<4s4H2IH", b"PK\x05\x06", 0, 0, len(parts), len(parts), len(lines), len(body + data), 0
    )
    return body + data + lines + end


def _directory_bytes(parts: list[Part]) -> int:
    found: int = struct.unpack_from("<I", zip_bytes(parts), len(zip_bytes(parts)) - 10)[0]
    return found


def _many_claims(n: int) -> bytes:
    symbols = {f"S{n}_1Hour": {"metrics": {k: v[-1:] for k, v in good_claims().items()}} for n in range(n)}
    return zip_bytes([Part(SUMMARY, json.dumps({"symbols": symbols}).encode()), good_parts()[1]])


def _summary(content: bytes, **changes: object) -> bytes:
    return zip_bytes([Part(SUMMARY, content, **changes), good_parts()[1]])  # type: ignore[arg-type]


def _two_of_700_mb() -> bytes:
    """Sizes that are said, over data that are there for a ratio of 100."""
    data = os.urandom(7 * _MB)
    lies = {"size_bytes": 700 * _MB}
    parts = [Part(f"{FOLDER}{s}_1Hour.pt", b"", packed=data, own=lies, listed=lies) for s in ("SPY", "QQQ")]
    return archive(*parts)


_BOMBS = (
    (
        "a model of zeros",
        lambda: _model(bytes(16 * _MB)),
        QUARANTINED,
        r"it unpacks to \d+ times its size; at most 200",
    ),
    (
        "a summary of blanks",
        lambda: _summary(b" " * (8 * _MB)),
        REFUSED,
        f"{SUMMARY} cannot be read: it unpacks to .* times its size; at most 200",
    ),
    (
        "a summary of 17 MB",
        lambda: _summary(os.urandom(17 * _MB).hex().encode()[: 17 * _MB], method=STORED),
        REFUSED,
        f"{SUMMARY} cannot be read: it unpacks to 17825792 bytes; at most 16777216",
    ),
    (
        "zips in zips in zips as a model",
        lambda: _model(_nested(4, 16)),
        QUARANTINED,
        "SPY_1Hour|torch.save|checkpoint",
    ),
    (
        "many lines over the same bytes",
        lambda: _same_bytes(100),
        REFUSED,
        "overlap: .*A0.pt|overlap: .*expected entries",
    ),
    (
        "headers quoted in each other's data",
        lambda: _quoted(60),
        REFUSED,
        "overlap: .*Q0_1Hour.pt would reach to byte",
    ),
    (
        "64 MB that are said to be a thousand bytes",
        lambda: _small_by_the_directory(1000),
        QUARANTINED,
        f"{_SPY} in .* is damaged",
    ),
    (
        "64 MB that are said to be none",
        lambda: _small_by_the_directory(0),
        QUARANTINED,
        f"{_SPY} in .* is damaged",
    ),
    (
        "64 MB that are said to be packed in ten bytes",
        lambda: _small_by_the_directory(1000, packed_bytes=10),
        QUARANTINED,
        f"{_SPY} in .* is damaged",
    ),
    (
        "a model that is said to be 3 GB",
        lambda: _model(b"x", own={"size_bytes": 3 * 2**30}, listed={"size_bytes": 3 * 2**30}),
        QUARANTINED,
        "it unpacks to 3221225472 bytes; at most 2147483648 are read",
    ),
    (
        "5,001 entries",
        lambda: archive(*[Part(f"{n}", b"") for n in range(4_999)]),
        REFUSED,
        "has 5001 entries; at most 5000 are read",
    ),
    (
        "10,000 entries that are said to be three",
        lambda: archive(*[Part(f"{n}", b"") for n in range(9_998)], end={"n_here": 3, "n_entries": 3}),
        REFUSED,
        r"its directory has \d+ bytes; its 3 lines take \d+",
    ),
    (
        "fields of 60 KB in each of a hundred lines",
        lambda: archive(*[Part(f"{n}", b"", listed={"extra": _empty_fields(60_000)}) for n in range(100)]),
        REFUSED,
        r"directory of .* takes \d+ bytes; at most 5000 entries are read",
    ),
    (
        "501 models",
        lambda: archive(*[Part(f"{FOLDER}S{n}.pt", b"x") for n in range(500)]),
        REFUSED,
        "has 501 models; at most 500 are read",
    ),
    (
        "a summary of 2,001 models",
        lambda: _many_claims(2_001),
        REFUSED,
        "speaks of more than 2000 models; at most so many are read",
    ),
)


def _empty_fields(n_bytes: int) -> bytes:
    return struct.pack("<HH", 0xCAFE, 0) * (n_bytes // 4)


CASES: tuple[Case, ...] = (
    *(Case(name, "bombs", writes(make), expected, says) for name, make, expected, says in _BOMBS),
    Case(
        "models of 700 MB each where 1 GB is allowed",
        "bombs",
        writes(_two_of_700_mb),
        REFUSED,
        r"the archive unpacks to \d+ bytes; at most 1073741824 are read",
        settings={"max_archive_gb": 1},
    ),
    Case(
        "three entries where two are allowed",
        "bombs",
        writes(lambda: archive(Part("notes", b"x"))),
        REFUSED,
        "has 3 entries; at most 2 are read",
        settings={"max_entries": 2},
    ),
    Case(
        "a ratio of 30 where 20 is allowed",
        "bombs",
        writes(lambda: _model(os.urandom(64_000) + bytes(3 * _MB))),
        QUARANTINED,
        "times its size; at most 20 times is read",
        settings={"max_ratio": 20},
    ),
)
