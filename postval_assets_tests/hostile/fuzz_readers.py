"""The three readers of what comes in, each with valid files to change and a way to read the result.

Here: what is changed and what reads it. Not here: how it is changed (mutations.py), or the loop (fuzz.py).
"""

from __future__ import annotations

import functools
import io
import json
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from postval_assets.core.archive import ArchiveLimits
from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.summary import parse_summary
from postval_assets.io.archive_file import open_archive
from postval_assets.io.model_store import ModelStore
from postval_assets_tests.factories import good_claims, make_checkpoint, make_summary
from postval_assets_tests.hostile import checkpoint_bytes
from postval_assets_tests.hostile.checkpoint_runs import harm_in
from postval_assets_tests.hostile.grown_checkpoints import grown_checkpoint, grown_instructions
from postval_assets_tests.hostile.mutations import changed_bytes, changed_json, changed_pickle, changed_zip
from postval_assets_tests.hostile.zip_bytes import FOLDER, STORED, SUMMARY, Part, zip_bytes

# Small, so that a reader that goes by them is noticed and that what honest files cost is not.
_LIMITS = ArchiveLimits(max_summary_bytes=2**20, max_checkpoint_bytes=2**20)


@dataclass(frozen=True)
class Reader:
    """One reader.

    Attributes:
        name: of it.
        change: a changed file.
        read: reads one below an empty folder, and returns what of the result could do harm.
    """

    name: str
    change: Callable[[Random], bytes]
    read: Callable[[bytes, Path], Sequence[str]]


# --- summaries


@functools.cache
def _summaries() -> tuple[bytes, ...]:
    models = {"AAPL_1Hour": good_claims(), "BTCUSD": good_claims()}
    shapes = ("symbols", "results-list", "top", "list")
    whole = [make_summary(models, shape=shape, seed=3, n_trials=20) for shape in shapes[:3]]
    return tuple(
        json.dumps(found).encode() for found in (*whole, make_summary(models, shape="list", nested=False))
    )


def _changed_summary(rng: Random) -> bytes:
    data = rng.choice(_summaries())
    return changed_bytes(rng, data, _summaries()) if rng.random() < 0.4 else changed_json(rng, data)


def _read_summary(data: bytes, _: Path) -> Sequence[str]:
    summary = parse_summary(data)
    texts = [*summary.notes, *(word for pair in summary.unusable for word in pair)]
    texts += [claims.problem or "" for claims in summary.claims.values()]
    texts += [claims.symbol for claims in summary.claims.values()]
    return [
        f"text that is not plain: {found!a}"
        for found in texts
        if not (found.isascii() and found.isprintable())
    ]


# --- checkpoints


@functools.cache
def _checkpoints() -> tuple[bytes, ...]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "checkpoint.pt"
        saved = [
            make_checkpoint(path, version=version, hidden=(2, 2), window=20, layer_norm=norm).read_bytes()
            for version, norm in (("2.3.0", False), ("2.7.0", True))
        ]
    return (*saved, checkpoint_bytes.file_of(), checkpoint_bytes.file_of(large={}))


@functools.cache
def _records(checkpoint: bytes) -> tuple[tuple[str, bytes], ...]:
    with zipfile.ZipFile(io.BytesIO(checkpoint)) as file:
        return tuple((info.filename, file.read(info)) for info in file.infolist())


@functools.cache
def _pickles() -> tuple[bytes, ...]:
    """Valid instructions, and hostile ones: a change of an attack is another attack."""
    from postval_assets_tests.hostile.checkpoint_cases import CASES

    valid = tuple(
        content for file in _checkpoints() for key, content in _records(file) if key.endswith("data.pkl")
    )
    with tempfile.TemporaryDirectory() as folder:
        chosen = [case for case in CASES if case.family.startswith("pickle:") or case.family == "fields"]
        files = [case.build(Path(folder)).read_bytes() for case in chosen[::5] if "protocol" not in case.name]
    hostile = [content for file in files for key, content in _records(file) if key.endswith("data.pkl")]
    return (*valid, *(found for found in hostile if len(found) < 2**14))


def _changed_checkpoint(rng: Random) -> bytes:
    if rng.random() < 0.5:
        return grown_checkpoint(rng)
    file = rng.choice(_checkpoints())
    match rng.randrange(8):
        case 0:
            return changed_bytes(rng, file, _checkpoints())
        case 1:
            return changed_zip(rng, file)
        case 2:
            return changed_zip(rng, changed_bytes(rng, file, _checkpoints()))
        case 3:
            return _written(_other_records(rng, list(_records(file))))
        case _:
            records = list(_records(file))
            for at, (name, content) in enumerate(records):
                if name.endswith("data.pkl"):
                    starts = (content, content, rng.choice(_pickles()), grown_instructions(rng))
                    records[at] = (name, changed_pickle(rng, rng.choice(starts), _pickles()))
            return _written(records)


def _other_records(rng: Random, records: list[tuple[str, bytes]]) -> list[tuple[str, bytes]]:
    """One record taken away, doubled, renamed or changed: the directory says the truth about it."""
    at = rng.randrange(len(records))
    match rng.randrange(4):
        case 0:
            del records[at]
        case 1:
            records.append(rng.choice(records))
        case 2:
            names = ("a/b", "archive/DATA.PKL", "archive/data/0", "\x1b", "archive/version")
            records[at] = (rng.choice(names), records[at][1])
        case _:
            start = records[at][1][:4096]
            records[at] = (records[at][0], changed_bytes(rng, start, [start]))
    return records


def _written(records: Sequence[tuple[str, bytes]]) -> bytes:
    return zip_bytes([Part(name, content, STORED) for name, content in records])


def _read_checkpoint(data: bytes, folder: Path) -> Sequence[str]:
    path = folder / "checkpoint.pt"
    path.write_bytes(data)
    return harm_in(read_checkpoint(path), ModelStore(folder / "models"))


# --- archives


@functools.cache
def _archives() -> tuple[tuple[Part, ...], ...]:
    model = checkpoint_bytes.file_of()[:3000]
    summary = Part(SUMMARY, _summaries()[0])
    models = tuple(Part(f"{FOLDER}{symbol}.pt", model) for symbol in ("AAPL_1Hour", "BRK.B_1Day", "BTCUSD"))
    inner = tuple(replace(part, name=f"Alpaca_trading/{part.name!s}") for part in (summary, *models))
    stored = tuple(replace(part, method=STORED) for part in (summary, *models))
    return ((summary, *models), inner, (*stored, Part("notebooks/a.ipynb", b"{}")))


def _changed_archive(rng: Random) -> bytes:
    parts = list(rng.choice(_archives()))
    whole = [zip_bytes(found) for found in _archives()]
    match rng.randrange(6):
        case 0:
            return changed_bytes(rng, zip_bytes(parts), whole)
        case 1 | 2:
            return changed_zip(rng, zip_bytes(parts, large={} if rng.random() < 0.3 else None))
        case 3:
            return changed_zip(rng, changed_bytes(rng, zip_bytes(parts), whole))
        case 4:
            # A summary that is another one, in a zip file that is whole.
            return zip_bytes(
                [replace(p, content=_changed_summary(rng)) if SUMMARY in str(p.name) else p for p in parts]
            )
        case _:
            return zip_bytes(_other_parts(rng, parts))


def _other_parts(rng: Random, parts: list[Part]) -> list[Part]:
    at = rng.randrange(len(parts))
    lie = {
        rng.choice(
            ("packed_bytes", "size_bytes", "offset", "method", "flags", "crc", "attributes", "disk")
        ): rng.choice((0, 1, 8, 9, 2**16 - 1, 2**15))
    }
    match rng.randrange(5):
        case 0:
            del parts[at]
        case 1:
            parts.append(parts[at])
        case 2:
            name = changed_bytes(
                rng, str(parts[at].name).encode(), [b"../../etc/passwd", b"C:\\a", b"\0.pt", b"_1Hour.pt"]
            )
            parts[at] = replace(parts[at], name=name[:60_000])
        case 3:
            parts[at] = replace(parts[at], listed=lie)
        case _:
            parts[at] = replace(
                parts[at], own={key: value for key, value in lie.items() if key not in ("offset", "disk")}
            )
    return parts


def _read_archive(data: bytes, folder: Path) -> Sequence[str]:
    path = folder / "archive.zip"
    path.write_bytes(data)
    harm = []
    with open_archive(path, _LIMITS) as archive:
        archive.summary()
        for model in archive.plan.models:
            target = folder / "checkpoint.pt"
            archive.copy_entry_to(model.entry, target)
            if target.stat().st_size > _LIMITS.max_checkpoint_bytes:
                harm.append(f"{target.stat().st_size} bytes were unpacked")
            target.unlink()
        told = [text for rejected in archive.plan.rejected for text in (rejected.name, rejected.reason)]
    return harm + [
        f"text that is not plain: {found!a}"
        for found in told
        if not (found.isascii() and found.isprintable())
    ]


READERS = {
    reader.name: reader
    for reader in (
        Reader("archive", _changed_archive, _read_archive),
        Reader("summary", _changed_summary, _read_summary),
        Reader("checkpoint", _changed_checkpoint, _read_checkpoint),
    )
}
