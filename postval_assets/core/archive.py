"""The training archive: which of its entries count, and what it is called.

Here: deciding from a zip's directory listing alone. Not here: opening files (io/archive_file.py), the
summary's content (summary.py), the checkpoints' content (checkpoint.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import Timeframe, parse_symbol, parse_timeframe

_GIB = 2**30
_STORED, _DEFLATED = 0, 8
# Below this size a high compression ratio harms nobody: an empty notebook has one.
_RATIO_MATTERS_FROM_BYTES = 2**20

_MODELS_FOLDER = ("models", "rl_symbols")
_SUMMARY = re.compile(r"training_summary.*\.json\Z", re.DOTALL)
_STAMP = re.compile(r"(?<![0-9])[0-9]{8}_[0-9]{6}(?![0-9])")
_EXPECTED = (
    "expected training_summary_YYYYMMDD_HHMMSS.json and models/rl_symbols/SYMBOL_TIMEFRAME.pt, "
    "at the root or under one leading folder"
)


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may cost; the defaults fit 500 production models of 80 MB.

    Attributes:
        max_models: models in one archive.
        max_entries: entries of any kind.
        max_checkpoint_bytes: one model, decompressed.
        max_summary_bytes: the summary, decompressed.
        max_total_bytes: everything that is read, decompressed.
        max_ratio: decompressed size / compressed size of one entry.
    """

    max_models: int = 500
    max_entries: int = 5_000
    max_checkpoint_bytes: int = 2 * _GIB
    max_summary_bytes: int = 64 * 2**20
    max_total_bytes: int = 200 * _GIB
    max_ratio: float = 200.0


@dataclass(frozen=True)
class ArchiveEntry:
    """One line of a zip's directory.

    Attributes:
        name: as written in the archive; never used as a path.
        size_bytes: decompressed size, as declared.
        compressed_bytes: size in the archive, as declared.
        compression: the zip format's number of the method.
        encrypted: whether a password would be needed.
        position: place in the directory, which tells entries of one name apart.
    """

    name: str
    size_bytes: int
    compressed_bytes: int
    compression: int = _DEFLATED
    encrypted: bool = False
    position: int = 0


@dataclass(frozen=True)
class ModelEntry:
    """An entry that is one model's checkpoint."""

    symbol: str
    timeframe: Timeframe
    entry: ArchiveEntry


@dataclass(frozen=True)
class RejectedEntry:
    """An entry that stands where a model should but cannot be taken.

    Attributes:
        name: the entry's name, as harmless text.
        reason: why, and what would be accepted.
        symbol_shown: the part of the name that stands for the symbol, as harmless text.
        symbol, timeframe: of the model that the name says; None where it says no usable one.
    """

    name: str
    reason: str
    symbol_shown: str
    symbol: str | None
    timeframe: Timeframe | None


@dataclass(frozen=True)
class ArchivePlan:
    """What will be read from an archive.

    Attributes:
        summary: the training summary's entry.
        folder: the leading folder, empty for the root.
        models: in order of symbol and timeframe; no two of the same.
        rejected: entries that look like models and are not taken.
    """

    summary: ArchiveEntry
    folder: str
    models: tuple[ModelEntry, ...]
    rejected: tuple[RejectedEntry, ...]


def plan_archive(entries: Sequence[ArchiveEntry], limits: ArchiveLimits) -> ArchivePlan:
    """Find the summary and the models among a zip's entries.

    Raises:
        Rejected: what concerns the archive as a whole. What concerns one model is data in the plan.
    """
    if len(entries) > limits.max_entries:
        raise Rejected(f"the archive has {len(entries)} entries; at most {limits.max_entries} are read")
    summary, folder = _summary(entries, limits)
    candidates = [entry for entry in entries if _model_folder(entry.name) is not None]
    beside = [entry for entry in candidates if _model_folder(entry.name) == folder]
    if not beside:
        elsewhere = f"; {shown(candidates[0].name)} is not beside {shown(summary.name)}" if candidates else ""
        raise Rejected(f"the archive has no models{elsewhere}: {_EXPECTED}")
    if len(candidates) > limits.max_models:
        raise Rejected(f"the archive has {len(candidates)} models; at most {limits.max_models} are read")
    models, rejected = _sorted_out(beside, limits)
    rejected += [
        _rejected(entry, f"it is not beside the summary {shown(summary.name)}")
        for entry in candidates
        if entry not in beside
    ]
    total = summary.size_bytes + sum(model.entry.size_bytes for model in models)
    if total > limits.max_total_bytes:
        raise Rejected(f"the archive unpacks to {total} bytes; at most {limits.max_total_bytes} are read")
    return ArchivePlan(summary=summary, folder=folder, models=tuple(models), rejected=tuple(rejected))


def archive_id(summary_name: str, zip_name: str) -> str:
    """``YYYYMMDD_HHMMSS`` from the summary's file name, else from the zip's.

    Raises:
        Rejected: neither name has one, or the one that has it names no real date and time.
    """
    for name in (summary_name, zip_name):
        found = _STAMP.search(_segments(name)[-1])
        if found:
            trained_at(found[0])
            return found[0]
    raise Rejected(
        f"neither {shown(summary_name)} nor {shown(zip_name)} says when the archive was trained; "
        "expected YYYYMMDD_HHMMSS in one of the names"
    )


def trained_at(archive: str) -> datetime:
    """The time that an archive's id names (UTC); raises Rejected where there is no such date and time."""
    try:
        return datetime.strptime(archive[:15], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    except ValueError:
        raise Rejected(f"{shown(archive)} is not a date and time; expected YYYYMMDD_HHMMSS") from None


def shown(name: str) -> str:
    """A name from an archive as harmless, short text."""
    return ascii(name)[1:-1][:120]


def _segments(name: str) -> list[str]:
    # Some Windows programs write backslashes; Python's zipfile turns them into slashes on Windows only.
    return name.replace("\\", "/").split("/")


def _leading_folder(outer: Sequence[str]) -> str | None:
    """The folder before an archive's content; None where there is more than one or it is no folder's name."""
    if not outer:
        return ""
    if len(outer) == 1 and outer[0] not in {"", ".", "..", "__MACOSX"}:
        return outer[0]
    return None


def _summary(entries: Sequence[ArchiveEntry], limits: ArchiveLimits) -> tuple[ArchiveEntry, str]:
    named = [entry for entry in entries if _SUMMARY.match(_segments(entry.name)[-1])]
    found = [
        (entry, folder)
        for entry in named
        if (folder := _leading_folder(_segments(entry.name)[:-1])) is not None
    ]
    if not found:
        deeper = f" ({shown(named[0].name)} is in the wrong place)" if named else ""
        raise Rejected(f"the archive has no training summary{deeper}: {_EXPECTED}")
    if len(found) > 1:
        names = " and ".join(shown(entry.name) for entry, _ in found[:2])
        raise Rejected(f"the archive has {len(found)} training summaries, {names}: expected exactly one")
    entry, folder = found[0]
    problem = _entry_problem(entry, limits.max_summary_bytes, limits.max_ratio)
    if problem:
        raise Rejected(f"the training summary {shown(entry.name)} cannot be read: {problem}")
    return entry, folder


def _model_folder(name: str) -> str | None:
    """The leading folder of an entry that stands where a model should; None for any other entry."""
    *outer, models, rl_symbols, file = ["", "", "", *_segments(name)]
    if (models, rl_symbols) != _MODELS_FOLDER or not file.endswith(".pt") or file.startswith("."):
        return None
    return _leading_folder(outer[3:])


def _sorted_out(
    entries: Sequence[ArchiveEntry], limits: ArchiveLimits
) -> tuple[list[ModelEntry], list[RejectedEntry]]:
    by_model: Mapping[tuple[str, Timeframe], list[ArchiveEntry]] = defaultdict(list)
    rejected: list[RejectedEntry] = []
    for entry in entries:
        try:
            by_model[_model_name(entry)].append(entry)
        except Rejected as error:
            rejected.append(_rejected(entry, str(error)))
    models: list[ModelEntry] = []
    for (symbol, timeframe), claimants in sorted(by_model.items()):
        if len(claimants) > 1:
            names = " and ".join(shown(entry.name) for entry in claimants)
            reason = f"{symbol} {timeframe} is in the archive {len(claimants)} times: {names}; expected once"
            rejected += [_rejected(entry, reason) for entry in claimants]
            continue
        problem = _entry_problem(claimants[0], limits.max_checkpoint_bytes, limits.max_ratio)
        if problem:
            rejected.append(_rejected(claimants[0], problem))
        else:
            models.append(ModelEntry(symbol, timeframe, claimants[0]))
    return models, rejected


def _model_name(entry: ArchiveEntry) -> tuple[str, Timeframe]:
    stem = _segments(entry.name)[-1].removesuffix(".pt")
    symbol, separator, timeframe = stem.rpartition("_")
    if not separator:
        return parse_symbol(stem), Timeframe.HOUR_1
    return parse_symbol(symbol), parse_timeframe(timeframe)


def _entry_problem(entry: ArchiveEntry, max_bytes: int, max_ratio: float) -> str | None:
    if entry.encrypted:
        return "it is encrypted; expected an archive without a password"
    if entry.compression not in {_STORED, _DEFLATED}:
        return f"its compression method {entry.compression} is not read; expected stored or deflated"
    if entry.size_bytes > max_bytes:
        return f"it unpacks to {entry.size_bytes} bytes; at most {max_bytes} are read"
    ratio = entry.size_bytes / max(entry.compressed_bytes, 1)
    if ratio > max_ratio and entry.size_bytes > _RATIO_MATTERS_FROM_BYTES:
        return f"it unpacks to {ratio:.0f} times its size; at most {max_ratio:.0f} times is read"
    return None


def _rejected(entry: ArchiveEntry, reason: str) -> RejectedEntry:
    stem = _segments(entry.name)[-1].removesuffix(".pt")
    symbol: str | None
    timeframe: Timeframe | None
    try:
        symbol, timeframe = _model_name(entry)
    except Rejected:
        symbol, timeframe = None, None
    symbol_shown = shown(stem.rpartition("_")[0] or stem)[:40]
    return RejectedEntry(shown(entry.name), reason, symbol_shown, symbol, timeframe)
