"""What a replay reads a model and its claims from: the stored archive, or, where that is gone, tables and weights.

Here: reading them once more, weights into a temporary folder, and what is wrong with what is stored. Not here: folds
and decisions (replaying.py).
"""

from __future__ import annotations

import dataclasses
import hashlib
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from postval_assets.core.failures import PostvalError, Rejected, Unavailable
from postval_assets.core.gating import Thresholds
from postval_assets.core.summary import TrainingSummary
from postval_assets.io.archive_file import ArchiveFile, open_archive
from postval_assets.pipeline.archives import ListedModel, archive_limits, archive_row, list_models
from postval_assets.pipeline.extraction import model_row
from postval_assets.pipeline.gate import claims_of, gate_row, stored_claims
from postval_assets.pipeline.looking_ahead import as_known, stored_findings, was_rejected_for_it
from postval_assets.pipeline.market import SIMULATED
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.removals import Kind, why_removed
from postval_assets.pipeline.replay_differences import Difference, short

Row = Mapping[str, Any]

_FACTS = (
    *("status", "reason", "model_sha256", "model_version", "feature_set", "feature_set_version"),
    *("feature_set_basis", "activation", "activation_basis", "train_start", "train_end"),
)
_STORED = """
SELECT * FROM extracted_models WHERE archive_id = ? AND symbol = ? AND timeframe = ?
"""
_IS_SIMULATED = """
SELECT count(*) > 0 AS found FROM bar_loads WHERE symbol = ? AND status = 'OK' AND source = ?
"""
MISSING = "missing from the store"


@dataclass(frozen=True, eq=False)
class ReplaySource:
    """Where models and claims of an archive are read again.

    Attributes:
        row: of the archive.
        folder: to extract into.
        problem: why the stored archive cannot be read; then the tables and the stored weights are taken.
        file, summary, listed: the archive, where it can be read.
    """

    row: Row
    folder: Path
    problem: str | None = None
    file: ArchiveFile | None = None
    summary: TrainingSummary | None = None
    listed: Mapping[tuple[str, str], ListedModel] = dataclasses.field(default_factory=dict)

    @property
    def archive_id(self) -> str:
        """Of the archive."""
        return str(self.row["archive_id"])

    def differences(self) -> tuple[Difference, ...]:
        """What is wrong with the archive."""
        return (Difference("archive", short(self.row["sha256"]), self.problem),) if self.problem else ()


@contextmanager
def open_source(platform: Platform, archive_id: str) -> Iterator[ReplaySource]:
    """An archive to read models from, whole and unchanged or not at all.

    Raises:
        Rejected: for an archive that is not known.
    """
    row = archive_row(platform, archive_id)
    with tempfile.TemporaryDirectory(prefix="postval-replay-") as folder, ExitStack() as stack:
        source = ReplaySource(row, Path(folder))
        try:
            if not platform.archives.path_of(row["sha256"]).is_file():
                raise Rejected(why_removed(platform, archive_id, Kind.ARCHIVE) or MISSING)
            path = platform.archives.verify(row["sha256"])
            file = stack.enter_context(open_archive(path, archive_limits(platform)))
            summary = file.summary()
            listed = {(m.symbol, m.timeframe): m for m in list_models(file.plan, summary)}
            source = dataclasses.replace(source, file=file, summary=summary, listed=listed)
        except PostvalError as error:
            source = dataclasses.replace(source, problem=str(error))
        yield source


def model_facts(
    platform: Platform,
    stored_on: Platform,
    source: ReplaySource,
    symbol: str,
    timeframe: str,
    thresholds: Thresholds | None,
) -> tuple[Row, tuple[Difference, ...]]:
    """What a decision is told of a model (DecisionBasis.model), and what is wrong with its stored weights.

    Args:
        platform: settings to read it under; weights go into its store of models.
        stored_on: the data directory, whose stored weights are looked at.
        source: of its archive.
        symbol: of the model.
        timeframe: of the model.
        thresholds: of its gate; None where it had none.

    Raises:
        Rejected, Unavailable: the archive is gone, and so are the weights.
    """
    facts = _read_again(platform, source, symbol, timeframe)
    problem = _weights_problem(stored_on, source.archive_id, facts)
    if problem and source.file is None:
        sha256 = short(facts["model_sha256"])
        raise Rejected(f"archive: {source.problem}; weights {sha256}: {problem}")
    found = (Difference("weights", short(facts["model_sha256"]), problem),) if problem else ()
    simulated = stored_on.warehouse.rows(_IS_SIMULATED, (symbol, SIMULATED))[0]["found"]
    gate = _gate(stored_on, source, symbol, timeframe, thresholds)
    return {
        "archive_id": source.archive_id,
        "symbol": symbol,
        "timeframe": timeframe,
        **facts,
        "archive_sha256": source.row["sha256"],
        "simulated_bars": simulated,
        "classification": gate.get("classification"),
        "gate_reason": gate.get("reason"),
        "flags": gate.get("flags"),
        "thresholds_version": gate.get("thresholds_version"),
        "gate_digest": gate.get("inputs_digest"),
        "claims_digest": gate.get("claims_digest"),
        "thresholds_digest": gate.get("thresholds_digest"),
    }, found


def with_findings(platform: Platform, facts: Row, known_by: datetime) -> Row:
    """What ``model_facts`` gave, under what evaluations had found of the model: that it looks ahead.

    Args:
        platform: the data directory that has the findings.
        facts: of the model as its archive has it, or the table.
        known_by: what was found later does not count.
    """
    if was_rejected_for_it(facts):
        # So the table has it, where the archive is gone; whether it was so by then is for the findings to say.
        facts = {**facts, "status": "OK", "reason": None}
    symbol, archive_id = str(facts["symbol"]), str(facts["archive_id"])
    findings = stored_findings(platform, {symbol: archive_id}, known_by=known_by)
    return as_known(facts, findings.get((archive_id, symbol, str(facts["timeframe"])), ()))


def _read_again(platform: Platform, source: ReplaySource, symbol: str, timeframe: str) -> dict[str, Any]:
    row: Row
    if source.file is None:
        found = platform.warehouse.rows(_STORED, (source.archive_id, symbol, timeframe))
        if not found:
            raise Rejected(f"archive: {source.problem}; extracted_models has no such model")
        row, window = found[0], source.row
        start, end = window["train_start"], window["train_end"]
    else:
        listed = source.listed.get((symbol, timeframe))
        if listed is None:
            row = {"status": "REJECTED", "reason": "the archive speaks of no such model"}
        else:
            row = model_row(platform, source.archive_id, str(source.row["sha256"]), source.file, listed)
        summary = source.summary
        start, end = (summary.train_start, summary.train_end) if summary is not None else (None, None)
    facts = {name: row.get(name) for name in _FACTS}
    return {
        **facts,
        "train_start": facts["train_start"] or start,
        "train_end": facts["train_end"] or end,
    }


def _weights_problem(platform: Platform, archive_id: str, facts: Row) -> str | None:
    sha256 = facts["model_sha256"]
    if sha256 is None:
        return None
    path = platform.models.path_of(sha256)
    try:
        if not path.is_file():
            return why_removed(platform, archive_id, Kind.WEIGHTS) or MISSING
        with path.open("rb") as file:
            whole = hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except OSError as error:
        raise Unavailable(f"weights {path} could not be read: {error}") from error
    return None if whole else "damaged: the stored file does not hold its digest"


def _gate(
    platform: Platform, source: ReplaySource, symbol: str, timeframe: str, thresholds: Thresholds | None
) -> Row:
    """The row of the gate; empty where there was none."""
    if thresholds is None:
        return {}
    if source.summary is not None:
        claims: Row | None = claims_of(source.summary, source.archive_id, symbol, timeframe)
    else:
        claims = stored_claims(platform, source.archive_id, symbol, timeframe)
    return gate_row(claims, thresholds) if claims is not None else {}
