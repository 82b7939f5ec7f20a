"""What the settings keep no longer: zips, weights, refused files, backups of the warehouse, and left-overs.

Here: the rules, and the removal of what they name. Rows are never removed. Not here: Dagster's records of runs
(commands/run_history.py), or what people are told.

What is kept whatever the settings say: the newest archive of each model, the newest decided one that holds a usable
checkpoint of it, the newest decided archive of all, and every archive that is not decided yet. What is left is
superseded, whatever was decided about it (LIVE and PAPER too), and goes by its age.

A removal is written down before the files go. One that is killed in the middle is finished by the next.
"""

from __future__ import annotations

import shutil
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any

from postval_assets.core.failures import Rejected
from postval_assets.io.backups import list_backups
from postval_assets.io.replica import remove, staging_of, wal_of
from postval_assets.pipeline.archives import archive_row
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.removals import BY_HAND, Kind, Removal, note_removals

Row = Mapping[str, Any]

# What is written lies beside its place for minutes; what is this old belongs to a process that was killed.
_LEFT_OVER_AFTER = timedelta(days=1)

_ARCHIVES = """
SELECT a.archive_id, a.sha256, a.received_at, a.status, a.models, coalesce(u.models, []) AS usable
FROM training_archives AS a
LEFT JOIN (
    SELECT archive_id, list(symbol || '_' || timeframe) AS models FROM extracted_models WHERE status = 'OK'
    GROUP BY archive_id
) AS u ON u.archive_id = a.archive_id
WHERE a.status <> 'REJECTED' ORDER BY a.archive_id
"""
# Also what results were computed with earlier: extracting again may have given other weights.
_WEIGHTS = """
SELECT archive_id, model_sha256 FROM extracted_models WHERE model_sha256 IS NOT NULL
UNION SELECT archive_id, model_sha256 FROM backtest_results WHERE model_sha256 IS NOT NULL
UNION SELECT archive_id, model_sha256 FROM fold_results WHERE model_sha256 IS NOT NULL
UNION SELECT archive_id, model_sha256 FROM claim_reproductions WHERE model_sha256 IS NOT NULL
UNION SELECT archive_id, model_sha256 FROM deployment_decisions WHERE model_sha256 IS NOT NULL
"""


class Rule(StrEnum):
    """What names a file; the order is the one in which they are shown."""

    ARCHIVES = "archives"
    WEIGHTS = "weights"
    REJECTED = "rejected"
    BACKUPS = "backups"
    LEFT_OVERS = "left-overs"


_KINDS = {Rule.ARCHIVES: Kind.ARCHIVE, Rule.REJECTED: Kind.ARCHIVE, Rule.WEIGHTS: Kind.WEIGHTS}


@dataclass(frozen=True)
class Removable:
    """Files that go together.

    Attributes:
        rule: what named them.
        name: archive_id, or path below the data directory.
        why: in words.
        files: files, or a folder with everything in it.
        size_bytes: together.
        archive_id: whose; None where they are no archive's.
    """

    rule: Rule
    name: str
    why: str
    files: tuple[Path, ...]
    size_bytes: int
    archive_id: str | None = None


def removable(platform: Platform, *, busy: Collection[str] = ()) -> list[Removable]:
    """Everything that the settings keep no longer; nothing is touched.

    Args:
        platform: settings, stores and warehouse.
        busy: archives with unfinished runs, which are left alone.
    """
    now, settings = platform.now(), platform.settings
    found: list[Removable] = []
    if platform.warehouse.path.is_file():
        rows = platform.warehouse.rows(_ARCHIVES)
        old = [r for r in superseded(rows) if r["archive_id"] not in busy]
        found += _zips(platform, _older(old, now, settings.keep_archives_days))
        found += _weights(platform, _older(old, now, settings.keep_weights_days))
        found += _rejected(platform, now)
    found += _backups(platform)
    found += _left_overs(platform, now - _LEFT_OVER_AFTER)
    return found


def superseded(archives: Sequence[Row]) -> list[Row]:
    """Decided archives that are nobody's newest (see the module's docstring), in the given order.

    Args:
        archives: with archive_id, status, models and usable (both ``SYMBOL_TIMEFRAME``), by archive_id ascending.
    """
    newest: dict[str, str] = {}
    for row in archives:
        decided = row["status"] == "COMPLETE"
        # Later ones overwrite earlier ones.
        newest |= {f"listed {model}": row["archive_id"] for model in row["models"] or ()}
        newest |= {f"usable {model}": row["archive_id"] for model in row["usable"] if decided}
        newest |= {"decided": row["archive_id"]} if decided else {}
    kept = set(newest.values())
    return [r for r in archives if r["status"] == "COMPLETE" and r["archive_id"] not in kept]


def files_of_archive(platform: Platform, archive_id: str) -> list[Removable]:
    """The zip (or the refused file) of one archive, and those of its weights that no other archive needs.

    Raises:
        Rejected: for an unknown archive.
    """
    row = archive_row(platform, archive_id)
    if row["status"] == "REJECTED":
        path = platform.settings.data_dir / row["stored_path"] if row["stored_path"] else None
        if path is None or not path.is_file():
            return []
        return [Removable(Rule.REJECTED, archive_id, BY_HAND, (path,), path.lstat().st_size, archive_id)]
    return [*_zips(platform, [row], BY_HAND), *_weights(platform, [row], BY_HAND)]


def remove_files(platform: Platform, items: Sequence[Removable], *, run_id: str) -> list[str]:
    """Remove these files, written down first; what could not be removed, in words.

    Args:
        platform: warehouse.
        items: what goes.
        run_id: goes into the rows.
    """
    removals = [
        Removal(item.archive_id, _KINDS[item.rule], len(item.files), item.size_bytes, item.why)
        for item in items
        if item.archive_id is not None
    ]
    note_removals(platform, removals, run_id=run_id)
    return delete(file for item in items for file in item.files)


def delete(paths: Iterable[Path]) -> list[str]:
    """Remove files, and folders with everything in them; what could not be removed, in words."""
    failures = []
    for path in paths:
        try:
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                # A link goes itself; what it points at is not ours.
                remove(path)
        except OSError as error:
            failures.append(f"{path} could not be removed: {error.strerror or error}")
    return failures


def require_idle(archive_id: str, busy: Collection[str]) -> None:
    """Raises Rejected where an archive has unfinished runs."""
    if archive_id in busy:
        raise Rejected(f"archive {archive_id} is being worked on: try again when its runs have ended")


def size_of(paths: Iterable[Path]) -> int:
    """Bytes of files, and of everything in folders; what vanishes meanwhile counts nothing."""
    return sum(_size(path) for path in paths)


def _older(rows: Sequence[Row], now: datetime, days: float | None) -> list[Row]:
    """Archives received longer ago than the setting keeps them; none where it keeps them for ever."""
    if days is None:
        return []
    return [r for r in rows if r["received_at"] is not None and _is_older(r["received_at"], now, days)]


def _is_older(at: datetime, now: datetime, days: float) -> bool:
    return now - at > timedelta(days=days)


def _zips(platform: Platform, rows: Sequence[Row], why: str | None = None) -> Iterator[Removable]:
    for row in rows:
        path = platform.archives.path_of(row["sha256"])
        if path.is_file():
            said = why or _superseded_words(row)
            yield Removable(
                Rule.ARCHIVES, row["archive_id"], said, (path,), path.lstat().st_size, row["archive_id"]
            )


def _weights(platform: Platform, rows: Sequence[Row], why: str | None = None) -> Iterator[Removable]:
    """Weights of these archives that no other archive names; equal networks of several are one file."""
    going = {row["archive_id"] for row in rows}
    if not going:
        return
    named = platform.warehouse.rows(_WEIGHTS)
    # An archive whose weights went before does not hold back those that it shares.
    gone = {
        r["archive_id"]
        for r in platform.warehouse.rows(
            "SELECT DISTINCT archive_id FROM removed_files WHERE kind = 'WEIGHTS'"
        )
    }
    taken = {r["model_sha256"] for r in named if r["archive_id"] not in going | gone}
    for row in rows:
        mine = sorted({r["model_sha256"] for r in named if r["archive_id"] == row["archive_id"]} - taken)
        files = tuple(p for p in map(platform.models.path_of, mine) if p.is_file())
        taken |= set(mine)
        if files:
            said = why or _superseded_words(row)
            yield Removable(Rule.WEIGHTS, row["archive_id"], said, files, size_of(files), row["archive_id"])


def _superseded_words(row: Row) -> str:
    return f"superseded, received {row['received_at']:%Y-%m-%d}"


def _rejected(platform: Platform, now: datetime) -> Iterator[Removable]:
    """Refused files by their row's time; those that no row names by their own."""
    days = platform.settings.keep_rejected_days
    folder = platform.settings.data_dir / "archives" / "rejected"
    if days is None or not folder.is_dir():
        return
    rows = platform.warehouse.rows(
        "SELECT archive_id, stored_path, received_at FROM training_archives WHERE status = 'REJECTED'"
    )
    known = {row["stored_path"]: row for row in rows}
    for path in sorted(p for p in folder.iterdir() if p.is_file() and not _is_part(p)):
        name = _shown(platform, path)
        row = known.get(name)
        at = (
            row["received_at"]
            if row is not None
            else datetime.fromtimestamp(path.lstat().st_mtime, now.tzinfo)
        )
        if _is_older(at, now, days):
            archive_id = row["archive_id"] if row is not None else None
            size = path.lstat().st_size
            yield Removable(Rule.REJECTED, name, f"refused {at:%Y-%m-%d}", (path,), size, archive_id)


def _backups(platform: Platform) -> Iterator[Removable]:
    n_kept = platform.settings.keep_backups
    for backup in list_backups(platform.warehouse.backups)[:-n_kept]:
        said = f"made {backup.made_at:%Y-%m-%d}, not among the newest {n_kept}"
        yield Removable(Rule.BACKUPS, _shown(platform, backup.path), said, (backup.path,), backup.size_bytes)


def _left_overs(platform: Platform, oldest: datetime) -> Iterator[Removable]:
    """What killed processes left: half-written files, scratch folders, and weights that no row came to name."""
    data = platform.settings.data_dir
    replica = staging_of(platform.replica)
    places: list[tuple[Iterable[Path], str]] = [
        (_listed(data / "scratch", "*"), "of a run that was killed"),
        (
            [
                *(p for name in ("archives", "archives/rejected") for p in _listed(data / name, ".*")),
                *_listed(data / "weights", "*/.*"),
                *_listed(platform.settings.inbox, ".*"),
                *_listed(platform.warehouse.backups, ".*"),
            ],
            "half a file",
        ),
        ((p for p in (replica, wal_of(replica)) if p.is_file()), "half a publication"),
        (_unnamed_weights(platform), "no result was computed with it"),
    ]
    for paths, why in places:
        for path in paths:
            if why == "half a file" and not _is_part(path):
                continue
            if path.lstat().st_mtime < oldest.timestamp():
                yield Removable(Rule.LEFT_OVERS, _shown(platform, path), why, (path,), _size(path))


def _unnamed_weights(platform: Platform) -> list[Path]:
    if not platform.warehouse.path.is_file():
        # Without rows nothing says which weights are whose.
        return []
    named = {r["model_sha256"] for r in platform.warehouse.rows(_WEIGHTS)}
    stored = _listed(platform.settings.data_dir / "weights", "*/*.safetensors")
    return [path for path in stored if path.stem not in named and not path.name.startswith(".")]


def _listed(folder: Path, pattern: str) -> list[Path]:
    return sorted(folder.glob(pattern)) if folder.is_dir() else []


def _is_part(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".part")


def _shown(platform: Platform, path: Path) -> str:
    """A path as people are told it: below the data directory where it lies there."""
    data = platform.settings.data_dir
    return path.relative_to(data).as_posix() if path.is_relative_to(data) else str(path)


def _size(path: Path) -> int:
    try:
        if path.is_dir() and not path.is_symlink():
            return sum(_size(inner) for inner in path.iterdir())
        return path.lstat().st_size
    except FileNotFoundError:
        return 0
