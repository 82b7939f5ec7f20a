"""The training archive: which of its entries count, and what it is called.

Here: deciding from a zip's directory listing alone. Not here: opening files (io/archive_file.py), the
summary's content (summary.py), the checkpoints' content (checkpoint.py).
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import (
    Timeframe,
    is_device_name,
    parse_symbol,
    parse_timeframe,
    symbol_as_text,
)

_GIB = 2**30
_STORED, _DEFLATED = 0, 8
# Below this size a high compression ratio harms nobody: an empty notebook has one.
_RATIO_MATTERS_FROM_BYTES = 2**20

_MODELS_FOLDER = ("models", "rl_symbols")
_SUMMARY = re.compile(r"training_summary.*\.json\Z", re.DOTALL)
_CHECKPOINT = ".pt"
# What would be a checkpoint's name to a disk that ignores case, dots and spaces at the end, or ":" and what follows.
_LIKE_CHECKPOINT = re.compile(r"\.pt[ .]*(:.*)?\Z", re.IGNORECASE | re.DOTALL)
_DRIVE = re.compile(r"[A-Za-z]:")
# Never in a folder's name on Windows, and in nobody's on purpose.
_NOT_IN_FOLDERS = frozenset('<>:"|?*')
_MAX_FOLDER = 255
# Entries that are named in one message; an archive may have thousands of the same.
_MOST_NAMED = 3
# A number of the summary as JSON writes it takes about this many bytes; fewer would be a summary of small change.
_BYTES_PER_VALUE = 16
# Models that a summary may speak of for each one that the archive may hold: failed and left out ones count too.
_CLAIMS_PER_MODEL = 4
_MOST_AHEAD = timedelta(days=366)
_STAMP = re.compile(r"(?<![0-9])[0-9]{8}_[0-9]{6}(?![0-9])")
_EXPECTED = (
    "expected training_summary_YYYYMMDD_HHMMSS.json and models/rl_symbols/SYMBOL_TIMEFRAME.pt, "
    "at the root or under one leading folder of a plain name"
)


@dataclass(frozen=True)
class ArchiveLimits:
    """What an archive may cost; the defaults fit 500 production models of 80 MB with 500 validations each.

    Attributes:
        max_models: models in one archive.
        max_entries: entries of any kind.
        max_checkpoint_bytes: one model, decompressed.
        max_summary_bytes: the summary, decompressed.
        max_total_bytes: everything that is read, decompressed; also the file itself.
        max_ratio: decompressed size / compressed size of one entry.
    """

    max_models: int = 500
    max_entries: int = 5_000
    max_checkpoint_bytes: int = 2 * _GIB
    max_summary_bytes: int = 16 * 2**20
    max_total_bytes: int = 200 * _GIB
    max_ratio: float = 200.0

    @property
    def max_summary_values(self) -> int:
        """Values in the summary: each costs many times its bytes once it is read."""
        return self.max_summary_bytes // _BYTES_PER_VALUE

    @property
    def max_claims(self) -> int:
        """Models that the summary may speak of."""
        return self.max_models * _CLAIMS_PER_MODEL


@dataclass(frozen=True)
class ArchiveEntry:
    """One line of a zip's directory.

    Attributes:
        name: as written in the archive; never used as a path.
        size_bytes: decompressed size, as declared.
        compressed_bytes: size in the archive, as declared.
        compression: the zip format's number of the method.
        encrypted: whether a password would be needed.
        is_plain: whether it is a file's content, by its attributes; others are links, devices and pipes.
        position: place in the directory, which tells entries of one name apart.
    """

    name: str
    size_bytes: int
    compressed_bytes: int
    compression: int = _DEFLATED
    encrypted: bool = False
    is_plain: bool = True
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
        symbol_shown: the part of the name that stands for the symbol, in the letters of symbols alone.
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
    for entry in entries:
        _refuse_outside(entry.name)
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


def require_past(archive: str, now: datetime) -> None:
    """Refuse an archive from a far future: it would be the newest of its symbols for good.

    Args:
        archive: its id.
        now: with a time zone. Clocks of rented machines are wrong by hours and days; a year ahead is no clock.

    Raises:
        Rejected: it says to be trained more than a year after ``now``.
    """
    if trained_at(archive) - now > _MOST_AHEAD:
        raise Rejected(
            f"the archive says that it was trained on {trained_at(archive):%Y-%m-%d}, and it is {now:%Y-%m-%d}: "
            "expected the time of the training as YYYYMMDD_HHMMSS in the summary's name"
        )


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
    if len(outer) == 1 and outer[0] not in {"", ".", "..", "__MACOSX"} and _is_plain_folder(outer[0]):
        return outer[0]
    return None


def _is_plain_folder(name: str) -> bool:
    """Whether a folder's name can be shown anywhere; it is kept with the names of the models in it."""
    return len(name) <= _MAX_FOLDER and name.isprintable() and _NOT_IN_FOLDERS.isdisjoint(name)


def _refuse_outside(name: str) -> None:
    """No entry may have a name that leads out of the folder that somebody unpacks the archive into.

    Nothing here unpacks by name; whoever writes such an archive means harm to somebody who does.
    """
    segments = _segments(name)
    if "\0" in name:
        why = "holds a NUL"
    elif _DRIVE.match(name):
        why = "names a drive"
    elif not segments[0] and len(segments) > 1:
        why = "is absolute"
    elif any(len(part) > 1 and not part.strip(" .") and "." in part for part in segments):
        why = "leads to a parent folder"
    else:
        return
    raise Rejected(
        f"the archive has an entry whose name {why}, {shown(name)}: expected names below the archive's own folder"
    )


def _to_disk(folder: str) -> str:
    """A folder's name as a disk sees it that ignores case, and dots and spaces at the end."""
    return folder.rstrip(" .").lower()


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
    if (_to_disk(models), _to_disk(rl_symbols)) != _MODELS_FOLDER or file.startswith("."):
        return None
    if _LIKE_CHECKPOINT.search(file) is None:
        return None
    return _leading_folder(outer[3:])


def _sorted_out(
    entries: Sequence[ArchiveEntry], limits: ArchiveLimits
) -> tuple[list[ModelEntry], list[RejectedEntry]]:
    by_model: Mapping[tuple[str, Timeframe], list[ArchiveEntry]] = defaultdict(list)
    rejected: list[RejectedEntry] = []
    for entry in entries:
        problem = _name_problem(entry.name)
        if problem:
            rejected.append(_rejected(entry, problem))
            continue
        try:
            by_model[_model_name(entry)].append(entry)
        except Rejected as error:
            rejected.append(_rejected(entry, str(error)))
    models: list[ModelEntry] = []
    for (symbol, timeframe), claimants in sorted(by_model.items()):
        if len(claimants) > 1:
            names = " and ".join(shown(entry.name) for entry in claimants[:_MOST_NAMED])
            names += f" and {len(claimants) - _MOST_NAMED} more" if len(claimants) > _MOST_NAMED else ""
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
    stem = _stem(entry.name)
    symbol, separator, timeframe = stem.rpartition("_")
    if not separator:
        return parse_symbol(stem), Timeframe.HOUR_1
    return parse_symbol(symbol), parse_timeframe(timeframe)


def _stem(name: str) -> str:
    return _LIKE_CHECKPOINT.sub("", _segments(name)[-1])


def _name_problem(name: str) -> str | None:
    """Why a name that would be a model's on some disk is none; None for a plain one."""
    *_, models, rl_symbols, file = _segments(name)
    if (models, rl_symbols) != _MODELS_FOLDER:
        return f"it is in {shown(models)}/{shown(rl_symbols)}; expected {'/'.join(_MODELS_FOLDER)}, spelt like that"
    if not file.endswith(_CHECKPOINT):
        found = _LIKE_CHECKPOINT.search(file)
        ending = found[0] if found else ""
        return f"its name ends in {shown(ending)!r}; expected {_CHECKPOINT}, and nothing after it"
    if is_device_name(file):
        return f"{shown(file)} is the name of a device on Windows; expected SYMBOL_TIMEFRAME.pt"
    return None


def _entry_problem(entry: ArchiveEntry, max_bytes: int, max_ratio: float) -> str | None:
    if not entry.is_plain:
        return "it is a link, a device or a folder by its attributes; expected a file"
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
    stem = _stem(entry.name)
    symbol: str | None
    timeframe: Timeframe | None
    try:
        symbol, timeframe = _model_name(entry)
    except Rejected:
        symbol, timeframe = None, None
    symbol_shown = symbol_as_text(stem.rpartition("_")[0] or stem)
    return RejectedEntry(shown(entry.name), reason, symbol_shown, symbol, timeframe)
