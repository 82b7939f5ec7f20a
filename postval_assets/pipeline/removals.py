"""Files of archives that were removed on purpose: the record of it, and what it means for who asks for one again.

Here: rows of ``removed_files``. Not here: which files are to go (retention.py), or removing them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Any

from postval_assets.io.warehouse import Append
from postval_assets.pipeline.platform import Platform

BY_HAND = "by hand"


class Kind(StrEnum):
    """What of an archive was removed: its zip (or the refused file), or its models' weights."""

    ARCHIVE = "ARCHIVE"
    WEIGHTS = "WEIGHTS"


@dataclass(frozen=True)
class Removal:
    """Files of one archive that are removed together.

    Attributes:
        archive_id: whose.
        kind: what they are.
        n_files: how many.
        size_bytes: together.
        reason: the rule that named them, in words.
    """

    archive_id: str
    kind: Kind
    n_files: int
    size_bytes: int
    reason: str


def note_removals(platform: Platform, removals: Sequence[Removal], *, run_id: str) -> None:
    """Write down what is removed; before it is, so that no file is ever gone without a word."""
    now = platform.now()
    rows = [
        {
            "archive_id": r.archive_id,
            "kind": r.kind.value,
            "n_files": r.n_files,
            "size_bytes": r.size_bytes,
            "reason": r.reason,
            "removed_at": now,
        }
        for r in removals
    ]
    if rows:
        platform.warehouse.write([Append("removed_files", rows)], run_id=run_id, now=now)


def removed_at(platform: Platform) -> dict[tuple[str, Kind], datetime]:
    """When something was last removed, by archive_id and kind; it may have been delivered again since."""
    rows = platform.warehouse.rows(
        "SELECT archive_id, kind, max(removed_at) AS removed_at FROM removed_files GROUP BY archive_id, kind"
    )
    return {(r["archive_id"], Kind(r["kind"])): r["removed_at"] for r in rows}


def why_removed(platform: Platform, archive_id: str, kind: Kind) -> str | None:
    """For a file that is not there: when and why it was removed, and what to do; None where it was not on purpose."""
    rows = platform.warehouse.rows(
        "SELECT reason, removed_at FROM removed_files WHERE archive_id = ? AND kind = ? "
        "ORDER BY removed_at DESC LIMIT 1",
        (archive_id, kind.value),
    )
    if not rows:
        return None
    what = (
        f"archive {archive_id} was" if kind is Kind.ARCHIVE else f"the weights of archive {archive_id} were"
    )
    return f"{what} pruned on {rows[0]['removed_at']:%Y-%m-%d} ({rows[0]['reason']}); drop the archive again"


def lacks_removed_files(platform: Platform, archive: Mapping[str, Any]) -> bool:
    """Whether an archive's zip or some of its weights were removed on purpose and have not come back.

    Args:
        platform: stores and warehouse.
        archive: its row of training_archives.
    """
    if not platform.warehouse.rows(
        "SELECT 1 FROM removed_files WHERE archive_id = ? LIMIT 1", (archive["archive_id"],)
    ):
        return False
    if not platform.archives.path_of(archive["sha256"]).is_file():
        return True
    weights = platform.warehouse.rows(
        "SELECT DISTINCT model_sha256 FROM extracted_models WHERE archive_id = ? AND status = 'OK'",
        (archive["archive_id"],),
    )
    return not all(platform.models.path_of(r["model_sha256"]).is_file() for r in weights)
