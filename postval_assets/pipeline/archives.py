"""Stage ``training_archives``: a file becomes a known archive, and known archives are found again.

Here: registering deliveries (accepted, again, duplicate, rejected), the list of an archive's models, and which archive
a symbol's work belongs to. Not here: looking into the inbox (io.inbox) or into checkpoints (extraction.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from postval_assets.core.archive import ArchiveLimits, ArchivePlan, ModelEntry, trained_at
from postval_assets.core.failures import Rejected
from postval_assets.core.summary import TrainingSummary
from postval_assets.io.inbox import ReadyArchive, UnreadableArchive
from postval_assets.io.warehouse import Append, Change, Replace, Update
from postval_assets.pipeline.deciding import finish_archive
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.removals import Kind, lacks_removed_files, why_removed

_UNKNOWN_TIMEFRAME = "unknown"


class Outcome(StrEnum):
    """What was made of a delivered file."""

    ACCEPTED = "ACCEPTED"
    RETRY = "RETRY"
    DUPLICATE = "DUPLICATE"
    REJECTED = "REJECTED"


@dataclass(frozen=True)
class Delivery:
    """A file that was delivered, and what was made of it.

    Attributes:
        outcome: ACCEPTED and RETRY want to be run.
        archive_id: of the archive; a rejected file has one too.
        sha256: of the file.
        attempt: number of the attempt at this content, from 1.
        symbols: partitions of the archive's models.
        file_name: as delivered.
        n_models: models, usable or not.
        reason: why it was not accepted.
    """

    outcome: Outcome
    archive_id: str
    sha256: str
    attempt: int
    symbols: tuple[str, ...]
    file_name: str
    n_models: int
    reason: str | None = None


@dataclass(frozen=True)
class ListedModel:
    """A model that an archive speaks of.

    Attributes:
        symbol: without a slash; as shown to people where it is not usable as a symbol.
        timeframe: its name, or ``unknown``.
        entry: the checkpoint; None where there is none to be read.
        problem: why there is none.
        addressable: whether symbol and timeframe are usable, so that it belongs to a partition.
    """

    symbol: str
    timeframe: str
    entry: ModelEntry | None
    problem: str | None
    addressable: bool


def archive_limits(platform: Platform) -> ArchiveLimits:
    """Limits of an archive, from the settings."""
    s = platform.settings
    return ArchiveLimits(
        max_models=s.max_models,
        max_entries=s.max_entries,
        max_summary_bytes=s.max_summary_mb * 2**20,
        max_ratio=s.max_ratio,
        max_checkpoint_bytes=s.max_checkpoint_mb * 2**20,
        max_total_bytes=s.max_archive_gb * 2**30,
    )


def list_models(plan: ArchivePlan, summary: TrainingSummary) -> tuple[ListedModel, ...]:
    """Every model of an archive: with a checkpoint, with a refused one, or with metrics only."""
    listed: dict[tuple[str, str], ListedModel] = {}
    for model in plan.models:
        key = (model.symbol, model.timeframe.value)
        listed[key] = ListedModel(*key, entry=model, problem=None, addressable=True)
    for rejected in plan.rejected:
        if rejected.symbol is None or rejected.timeframe is None:
            _add(listed, rejected.symbol_shown, _UNKNOWN_TIMEFRAME, rejected.reason, addressable=False)
        else:
            _add(listed, rejected.symbol, rejected.timeframe.value, rejected.reason, addressable=True)
    for symbol, frame in summary.claims:
        if (symbol, frame.value) not in listed:
            problem = (
                "the training summary has metrics, but the archive holds no checkpoint "
                f"models/rl_symbols/{symbol}_{frame.value}.pt"
            )
            listed[symbol, frame.value] = ListedModel(symbol, frame.value, None, problem, addressable=True)
    for shown, reason in summary.unusable:
        _add(listed, shown, _UNKNOWN_TIMEFRAME, f"in the training summary: {reason}", addressable=False)
    return tuple(listed.values())


def _add(
    listed: dict[tuple[str, str], ListedModel],
    symbol: str,
    timeframe: str,
    problem: str,
    *,
    addressable: bool,
) -> None:
    before = listed.get((symbol, timeframe))
    if before is not None and before.problem and before.problem != problem:
        problem = f"{before.problem}; {problem}"
    listed[symbol, timeframe] = ListedModel(symbol, timeframe, None, problem, addressable)


def register(
    platform: Platform, ready: ReadyArchive, *, run_id: str, busy: Callable[[str], bool]
) -> Delivery:
    """Make a readable file a known archive, by content.

    Args:
        platform: settings and warehouse.
        ready: what the inbox found.
        run_id: goes into the rows.
        busy: whether an archive with this SHA-256 has unfinished runs.
    """
    # A file that was refused may be accepted today (the limits are settings): it is then an archive of its own.
    known = platform.warehouse.rows(
        "SELECT * FROM training_archives WHERE sha256 = ? AND status <> 'REJECTED'", (ready.sha256,)
    )
    models = list_models(ready.plan, ready.summary)
    symbols = tuple(dict.fromkeys(m.symbol for m in models if m.addressable))
    attempts = _attempts(platform, ready.sha256)
    # One whose files were pruned is worked on again: what is current stays, and its files come back.
    if known and known[0]["status"] == "COMPLETE" and not lacks_removed_files(platform, known[0]):
        reason = f"the same content was delivered before, as archive {known[0]['archive_id']}, and is decided"
        delivery = _delivery(
            ready, Outcome.DUPLICATE, known[0]["archive_id"], attempts, symbols, models, reason
        )
        _record(platform, delivery, ready.size_bytes, [], run_id)
        return delivery
    if known and busy(ready.sha256):
        reason = f"archive {known[0]['archive_id']} with the same content is being worked on"
        delivery = _delivery(
            ready, Outcome.DUPLICATE, known[0]["archive_id"], attempts, symbols, models, reason
        )
        _record(platform, delivery, ready.size_bytes, [], run_id)
        return delivery
    archive_id = known[0]["archive_id"] if known else _free_id(platform, ready.archive_id, ready.sha256)
    outcome = Outcome.RETRY if known else Outcome.ACCEPTED
    delivery = _delivery(ready, outcome, archive_id, attempts + 1, symbols, models, None)
    rows = _archive_changes(
        platform, ready, archive_id, models, stored=known[0]["stored_path"] if known else None
    )
    _record(platform, delivery, ready.size_bytes, rows, run_id)
    if not symbols:
        # No run will come by: nothing in it belongs to a partition.
        finish_archive(platform, archive_id, run_id=run_id)
    return delivery


def register_rejected(platform: Platform, found: UnreadableArchive, *, run_id: str) -> Delivery:
    """Record a file that is no archive; the caller then moves it aside and says where (``note_stored``).

    The rows come first, so that nothing that stops the move can lose them. A file whose row says no place yet was
    recorded before and is still to be moved: recording it again changes nothing.
    """
    archive_id = f"rejected-{found.sha256[:12]}"
    attempts = _attempts(platform, found.sha256)
    pending = platform.warehouse.rows(
        "SELECT reason FROM training_archives "
        "WHERE archive_id = ? AND sha256 = ? AND file_name = ? AND stored_path IS NULL",
        (archive_id, found.sha256, found.path.name),
    )
    if pending:
        reason = pending[0]["reason"]
        return Delivery(Outcome.REJECTED, archive_id, found.sha256, attempts, (), found.path.name, 0, reason)
    delivery = Delivery(
        Outcome.REJECTED, archive_id, found.sha256, attempts + 1, (), found.path.name, 0, found.reason
    )
    row = {
        "archive_id": archive_id,
        "sha256": found.sha256,
        "file_name": found.path.name,
        "size_bytes": found.size_bytes,
        "received_at": platform.now(),
        "n_models": 0,
        "n_rejected": 0,
        "models": [],
        "status": "REJECTED",
        "reason": found.reason,
        "stored_path": None,
    }
    changes: list[Change] = [Replace("training_archives", [{"archive_id": archive_id}], [row])]
    _record(platform, delivery, found.size_bytes, changes, run_id)
    return delivery


def note_stored(platform: Platform, places: Mapping[str, Path], *, run_id: str) -> None:
    """Say in the archives' rows where their files lie, by archive_id."""
    changes = [
        Update("training_archives", {"archive_id": archive_id}, {"stored_path": relative(platform, path)})
        for archive_id, path in places.items()
    ]
    if changes:
        platform.warehouse.write(changes, run_id=run_id, now=platform.now())


def relative(platform: Platform, path: Path) -> str:
    """A path as tables hold it: relative to the data directory, with forward slashes."""
    return path.relative_to(platform.settings.data_dir).as_posix()


def _archive_changes(
    platform: Platform,
    ready: ReadyArchive,
    archive_id: str,
    models: Sequence[ListedModel],
    *,
    stored: str | None,
) -> list[Change]:
    summary = ready.summary
    row = {
        "archive_id": archive_id,
        "sha256": ready.sha256,
        "file_name": ready.path.name,
        "size_bytes": ready.size_bytes,
        "received_at": platform.now(),
        "trained_at": trained_at(ready.archive_id),
        "train_start": summary.train_start,
        "train_end": summary.train_end,
        "reward_scale": summary.reward_scale,
        "validation_interval": summary.validation_interval,
        "n_trials": summary.n_trials,
        "n_models": len(models),
        "n_rejected": sum(m.entry is None for m in models),
        "models": [f"{m.symbol}_{m.timeframe}" for m in models if m.addressable],
        "status": "RECEIVED",
        "reason": "; ".join(summary.notes) or None,
        "stored_path": stored,
    }
    lost = [
        {
            "archive_id": archive_id,
            "symbol": m.symbol,
            "timeframe": m.timeframe,
            "status": "REJECTED",
            "reason": m.problem,
        }
        for m in models
        if not m.addressable
    ]
    return [
        Replace("training_archives", [{"archive_id": archive_id}], [row]),
        Replace(
            "extracted_models", [{k: r[k] for k in ("archive_id", "symbol", "timeframe")} for r in lost], lost
        ),
    ]


def _delivery(
    ready: ReadyArchive,
    outcome: Outcome,
    archive_id: str,
    attempt: int,
    symbols: tuple[str, ...],
    models: Sequence[ListedModel],
    reason: str | None,
) -> Delivery:
    return Delivery(outcome, archive_id, ready.sha256, attempt, symbols, ready.path.name, len(models), reason)


def _record(
    platform: Platform, delivery: Delivery, size_bytes: int, changes: Sequence[Change], run_id: str
) -> None:
    row = {
        "sha256": delivery.sha256,
        "file_name": delivery.file_name,
        "size_bytes": size_bytes,
        "seen_at": platform.now(),
        "outcome": delivery.outcome.value,
        "attempt": delivery.attempt,
        "archive_id": delivery.archive_id,
        "reason": delivery.reason,
    }
    platform.warehouse.write(
        [*changes, Append("archive_deliveries", [row])], run_id=run_id, now=platform.now()
    )


def _attempts(platform: Platform, sha256: str) -> int:
    found = platform.warehouse.rows(
        "SELECT coalesce(max(attempt), 0) AS n FROM archive_deliveries WHERE sha256 = ?", (sha256,)
    )
    return int(found[0]["n"])


def _free_id(platform: Platform, archive_id: str, sha256: str) -> str:
    taken = platform.warehouse.rows("SELECT 1 FROM training_archives WHERE archive_id = ?", (archive_id,))
    return f"{archive_id}-{sha256[:8]}" if taken else archive_id


def archive_row(platform: Platform, archive_id: str) -> dict[str, Any]:
    """The row of an archive; raises Rejected, naming the newest ones, for an unknown id."""
    found = platform.warehouse.rows("SELECT * FROM training_archives WHERE archive_id = ?", (archive_id,))
    if found:
        return found[0]
    newest = platform.warehouse.rows(
        "SELECT archive_id FROM training_archives WHERE status <> 'REJECTED' ORDER BY archive_id DESC LIMIT 5"
    )
    known = ", ".join(r["archive_id"] for r in newest) or "none so far"
    raise Rejected(f"archive {ascii(archive_id)[:60]} is unknown: expected an archive_id such as {known}")


def archive_symbols(platform: Platform, archive_id: str) -> tuple[str, ...]:
    """The partitions of an archive's models, in the archive's order."""
    return tuple(dict.fromkeys(m.rsplit("_", 1)[0] for m in archive_row(platform, archive_id)["models"]))


def archives_of(platform: Platform, symbols: Iterable[str], archive_id: str | None) -> dict[str, str]:
    """The archive that work on each symbol belongs to.

    Args:
        platform: settings and warehouse.
        symbols: partitions.
        archive_id: the run's; None for each symbol's newest archive by archive_id.

    Returns:
        archive_id by symbol, in the given order; symbols without a model there are left out.

    Raises:
        Rejected: for an unknown archive_id.
    """
    wanted = list(dict.fromkeys(symbols))
    if archive_id is not None:
        held = set(archive_symbols(platform, archive_id))
        return {symbol: archive_id for symbol in wanted if symbol in held}
    rows = platform.warehouse.rows(
        """
        SELECT regexp_replace(model, '_[^_]*$', '') AS symbol, max(archive_id) AS archive_id
        FROM (SELECT archive_id, unnest(models) AS model FROM training_archives WHERE status <> 'REJECTED')
        GROUP BY ALL
        """
    )
    newest = {r["symbol"]: r["archive_id"] for r in rows}
    return {symbol: newest[symbol] for symbol in wanted if symbol in newest}


def verify_archive(platform: Platform, archive_id: str) -> dict[str, Any]:
    """The archive's row, once its stored file is known to be what its row says.

    Raises:
        Rejected: for an unknown archive, or a stored file that is missing or was changed.
    """
    row = archive_row(platform, archive_id)
    if row["status"] != "REJECTED" and row["stored_path"] is not None:
        if not platform.archives.path_of(row["sha256"]).is_file():
            removed = why_removed(platform, archive_id, Kind.ARCHIVE)
            if removed is not None:
                raise Rejected(removed)
        platform.archives.verify(row["sha256"])
    return row
