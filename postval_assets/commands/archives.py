"""``postval archives``: what was delivered, what became of it, and what of it lies where.

Here: the list, and the removal of one archive's files. Not here: the rules of retention (pipeline/retention.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from postval_assets.commands.home import open_instance
from postval_assets.commands.pruning import size_text
from postval_assets.commands.run_history import busy_archives
from postval_assets.core.failures import Unavailable
from postval_assets.pipeline.archives import archive_row
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.removals import Kind, removed_at
from postval_assets.pipeline.retention import (
    Removable,
    files_of_archive,
    remove_files,
    require_idle,
    size_of,
    superseded,
)
from postval_assets.report.text import instant, table

RUN_ID = "archives --remove"

_BEST_FIRST = ("LIVE", "PAPER", "RETRAIN", "DROP")

_ARCHIVES = """
SELECT a.archive_id, a.file_name, a.sha256, a.received_at, a.n_models, a.models, a.status, a.stored_path, a.reason,
       coalesce(w.weights, []) AS weights, coalesce(w.usable, []) AS usable
FROM training_archives AS a
LEFT JOIN (
    SELECT archive_id, list(DISTINCT model_sha256) AS weights, list(symbol || '_' || timeframe) AS usable
    FROM extracted_models WHERE status = 'OK' GROUP BY archive_id
) AS w ON w.archive_id = a.archive_id
ORDER BY a.archive_id
"""
# Each model counts once, with its worst decision over the plans of its newest evaluation, as in latest_decisions.
_DECISIONS = """
WITH newest AS (
    SELECT archive_id, symbol, timeframe, max(as_of) AS as_of FROM deployment_decisions GROUP BY ALL
),
made AS (
    SELECT d.* FROM deployment_decisions AS d
    JOIN newest AS n ON n.archive_id = d.archive_id AND n.symbol = d.symbol AND n.timeframe = d.timeframe
        AND n.as_of IS NOT DISTINCT FROM d.as_of
    WHERE d.policy = ?
    QUALIFY row_number() OVER (
        PARTITION BY d.archive_id, d.symbol, d.timeframe, d.plan ORDER BY d.revision DESC NULLS LAST, d.created_at DESC
    ) = 1
),
models AS (
    SELECT archive_id,
           arg_min(decision, list_position(['DROP', 'RETRAIN', 'PAPER', 'LIVE'], decision)) AS decision
    FROM made GROUP BY archive_id, symbol, timeframe
)
SELECT archive_id, decision, count(*) AS n FROM models GROUP BY archive_id, decision
"""


@dataclass(frozen=True)
class ArchiveEntry:
    """One delivered archive.

    Attributes:
        archive_id: its id.
        file_name: as delivered.
        received_at: when (the newest attempt), UTC.
        n_models: models, usable or not.
        decisions: number of models by decision of the policy acted on.
        zip_bytes: of the zip (or the refused file) as it lies there; 0 where it does not.
        weights_bytes: of its models' weights; networks that several archives share count for each.
        where: stored, inbox, rejected, pruned or missing.
        removed_at: when its zip was last removed on purpose; None where it never was.
        status: RECEIVED, EXTRACTED, COMPLETE or REJECTED.
        is_newest: whether any model's newest archive is this one, so that `postval prune` keeps it.
        reason: of the status.
    """

    archive_id: str
    file_name: str
    received_at: datetime | None
    n_models: int
    decisions: dict[str, int]
    zip_bytes: int
    weights_bytes: int
    where: str
    removed_at: datetime | None
    status: str
    is_newest: bool
    reason: str | None

    def as_json(self) -> dict[str, Any]:
        """Everything as JSON takes it."""
        times = {"received_at": self.received_at, "removed_at": self.removed_at}
        return {**asdict(self), **{k: None if v is None else v.isoformat() for k, v in times.items()}}


def list_archives(platform: Platform) -> list[ArchiveEntry]:
    """Every archive that was ever delivered, refused ones too, by archive_id; none where nothing was."""
    if not platform.warehouse.path.is_file():
        return []
    rows = platform.warehouse.rows(_ARCHIVES)
    decided: dict[str, dict[str, int]] = {}
    for row in platform.warehouse.rows(_DECISIONS, (platform.settings.decision_policy,)):
        decided.setdefault(row["archive_id"], {})[row["decision"]] = int(row["n"])
    removed = removed_at(platform)
    accepted = [r for r in rows if r["status"] != "REJECTED"]
    old = {r["archive_id"] for r in superseded(accepted)}
    newest = {r["archive_id"] for r in accepted} - old
    return [
        _entry(
            platform,
            row,
            decided.get(row["archive_id"], {}),
            removed.get((row["archive_id"], Kind.ARCHIVE)),
            is_newest=row["archive_id"] in newest,
        )
        for row in rows
    ]


def archives_text(entries: Sequence[ArchiveEntry]) -> str:
    """The list as a table."""
    headers = ("archive", "received", "models", "decisions", "zip", "weights", "where", "status")
    rows = [
        (
            e.archive_id,
            instant(e.received_at),
            e.n_models,
            ", ".join(f"{n} {name}" for name, n in e.decisions.items()),
            size_text(e.zip_bytes) if e.zip_bytes else "",
            size_text(e.weights_bytes) if e.weights_bytes else "",
            f"pruned {e.removed_at:%Y-%m-%d}" if e.where == "pruned" and e.removed_at else e.where,
            e.status,
        )
        for e in entries
    ]
    return table(headers, rows) if rows else "no archive was delivered yet"


@dataclass(frozen=True)
class ArchiveRemoval:
    """What goes with one archive's files.

    Attributes:
        archive_id: whose.
        items: its zip and its weights.
        newest_of: models of which it is the newest archive.
    """

    archive_id: str
    items: tuple[Removable, ...]
    newest_of: tuple[str, ...]


def find_removal(platform: Platform, archive_id: str) -> ArchiveRemoval:
    """What removing an archive would free; nothing is touched.

    Raises:
        Rejected: for an unknown archive, or one that runs are working on.
    """
    row = archive_row(platform, archive_id)
    if (platform.settings.data_dir / "dagster" / "dagster.yaml").is_file():
        require_idle(archive_id, busy_archives(open_instance(platform.settings)))
    others = platform.warehouse.rows(
        "SELECT DISTINCT unnest(models) AS model FROM training_archives "
        "WHERE status <> 'REJECTED' AND archive_id > ?",
        (archive_id,),
    )
    newest_of = sorted(set(row["models"] or ()) - {r["model"] for r in others})
    return ArchiveRemoval(archive_id, tuple(files_of_archive(platform, archive_id)), tuple(newest_of))


def removal_text(found: ArchiveRemoval) -> str:
    """What would go, and what that means."""
    if not found.items:
        return f"archive {found.archive_id} has no files any more; its results stay"
    lines = [
        f"{item.rule.value}: {len(item.files)} file(s), {size_text(item.size_bytes)}" for item in found.items
    ]
    if found.newest_of:
        shown = ", ".join(found.newest_of[:5]) + (", ..." if len(found.newest_of) > 5 else "")
        lines.append(
            f"note: it is the newest archive of {shown}: without it they can be neither staged nor evaluated again"
        )
    return "\n".join([f"archive {found.archive_id}:", *lines])


def remove_archive(platform: Platform, found: ArchiveRemoval) -> None:
    """Remove an archive's zip and weights; its rows stay, with a record of this.

    Raises:
        Unavailable: with what could not be removed.
    """
    failures = remove_files(platform, found.items, run_id=RUN_ID)
    platform.warehouse.publish(platform.replica)
    if failures:
        raise Unavailable("; ".join(failures[:5]))


def _entry(
    platform: Platform,
    row: dict[str, Any],
    decisions: dict[str, int],
    removed: datetime | None,
    *,
    is_newest: bool,
) -> ArchiveEntry:
    place, path = _place(platform, row)
    if path is None and removed is not None:
        place = "pruned"
    weights = (platform.models.path_of(sha256) for sha256 in row["weights"])
    return ArchiveEntry(
        archive_id=row["archive_id"],
        file_name=row["file_name"],
        received_at=row["received_at"],
        n_models=int(row["n_models"] or 0),
        decisions={name: decisions[name] for name in _BEST_FIRST if name in decisions},
        zip_bytes=size_of([path]) if path is not None else 0,
        weights_bytes=size_of(p for p in weights if p.is_file()),
        where=place,
        removed_at=removed,
        status=row["status"],
        is_newest=is_newest,
        reason=row["reason"],
    )


def _place(platform: Platform, row: dict[str, Any]) -> tuple[str, Path | None]:
    """Where an archive's file lies, in a word, and its path."""
    settings = platform.settings
    if row["status"] == "REJECTED":
        refused = settings.data_dir / row["stored_path"] if row["stored_path"] else None
        places = [("rejected", refused), ("inbox", settings.inbox / row["file_name"])]
    else:
        stored = platform.archives.path_of(row["sha256"])
        places = [("stored", stored), ("inbox", settings.inbox / row["file_name"])]
        if row["stored_path"]:
            # It has left the inbox; another file of that name may lie there now.
            places = places[:1]
    return next(
        ((word, path) for word, path in places if path is not None and path.is_file()), ("missing", None)
    )
