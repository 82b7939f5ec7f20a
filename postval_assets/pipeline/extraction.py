"""Stage ``extracted_models``: checkpoints out of the stored archive, weights into the store, a row for every model.

Here: the order of it, what each row holds, and which rows are current. Not here: reading a zip, a summary or a
checkpoint safely (io, core).
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postval_assets.core.archive import ModelEntry
from postval_assets.core.checkpoint import Checkpoint, read_checkpoint
from postval_assets.core.evaluation import code_version, digest_of
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.features.registry import FeatureSetBasis, resolve_feature_set
from postval_assets.core.model_spec import Incompatible, ModelSpec
from postval_assets.core.summary import TrainingSummary
from postval_assets.io.archive_file import ArchiveFile, Damaged, open_archive
from postval_assets.io.model_store import LostWeights
from postval_assets.io.warehouse import Change, Replace, Update
from postval_assets.pipeline.archives import ListedModel, archive_limits, archive_row, list_models, relative
from postval_assets.pipeline.looking_ahead import as_found, stored_findings
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.removals import Kind, why_removed
from postval_assets.pipeline.scratch import clear_left_over, scratch_folder
from postval_assets.pipeline.stopwatch import timed_stage
from postval_assets.pipeline.workers import in_order, torch_threads, workers_for

log = logging.getLogger("postval.extraction")

Row = dict[str, object]

# Checkpoints read before their rows are written: what a killed run loses at most, and what keeps transactions few.
_MODELS_PER_WRITE = 10


def store_archive(platform: Platform, archive_id: str, *, run_id: str) -> Path:
    """The archive's file in the store, moved there from the inbox where it has not been yet.

    Raises:
        Rejected: for an unknown archive, or a file that is in neither place.
    """
    row = archive_row(platform, archive_id)
    path = platform.archives.path_of(row["sha256"])
    if not path.is_file():
        delivered = platform.settings.inbox / row["file_name"]
        if not delivered.is_file():
            removed = why_removed(platform, archive_id, Kind.ARCHIVE)
            raise Rejected(
                removed
                or f"archive {archive_id} ({row['file_name']}) is neither in the inbox nor in the store: "
                "deliver it again"
            )
        path = platform.archives.adopt(delivered, row["sha256"], row["size_bytes"])
    stored = relative(platform, path)
    if row["stored_path"] != stored:
        change = Update("training_archives", {"archive_id": archive_id}, {"stored_path": stored})
        platform.warehouse.write([change], run_id=run_id, now=platform.now())
    return path


@timed_stage("extracted_models")
def extract_models(platform: Platform, archives: Mapping[str, str], *, run_id: str) -> StageReport:
    """Read every model of these symbols out of its archive; a bad one is a row with its reason.

    A model whose stored row was made from the same inputs is not read again. Rows are written every few models, so
    that a run that is stopped leaves to the next one only what it had not got to.

    Args:
        platform: settings, stores and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows, those that were current too.

    Raises:
        Unavailable: once, after all other models are done.
    """
    clear_left_over(platform)
    by_archive: dict[str, list[str]] = {}
    for symbol, archive_id in archives.items():
        by_archive.setdefault(archive_id, []).append(symbol)
    reports: list[SymbolReport] = []
    unavailable: list[str] = []
    for archive_id, symbols in by_archive.items():
        path = store_archive(platform, archive_id, run_id=run_id)
        sha256 = archive_row(platform, archive_id)["sha256"]
        with open_archive(path, archive_limits(platform)) as archive:
            summary = archive.summary()
            source = _Source(platform, archive_id, sha256, archive)
            listed = [m for m in list_models(archive.plan, summary) if m.symbol in set(symbols)]
            writer = _Writer(platform, archive_id, summary, run_id)
            n_workers = workers_for(platform.settings.workers, len(listed))
            models = source.with_stored_rows(sorted(listed, key=lambda m: symbols.index(m.symbol)))
            with torch_threads(n_workers) as divide:
                rows = in_order(models, functools.partial(source.row_of, prepare=divide), n_workers)
                done = next(rows, None)
                for symbol in symbols:
                    writer.begin(symbol)
                    while done is not None and done[0].listed.symbol == symbol:
                        try:
                            writer.add(done[1].result(), is_current=done[0].is_current)
                        except (Unavailable, OSError) as error:
                            unavailable.append(f"{symbol} {done[0].listed.timeframe}: {error}")
                        except (
                            Exception
                        ) as error:  # a fault of the program must not cost the neighbours their rows
                            name = f"{symbol} {done[0].listed.timeframe}"
                            log.exception("%s could not be read from archive %s", name, archive_id)
                            unavailable.append(f"{name}: {type(error).__name__}: {error}")
                        done = next(rows, None)
                    reports.append(writer.end())
            writer.flush()
        _count(platform, archive_id, run_id)
    if unavailable:
        raise Unavailable(f"{len(unavailable)} model(s) could not be extracted: " + "; ".join(unavailable))
    return StageReport(tuple(reports))


@dataclass(frozen=True)
class _Wanted:
    """A model of the archive, with the row that the warehouse has of it, and what evaluations have found of it."""

    listed: ListedModel
    stored: Row | None
    is_current: bool
    findings: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, eq=False)
class _Source:
    """An open archive, and the rows of its models."""

    platform: Platform
    archive_id: str
    sha256: str
    archive: ArchiveFile

    def with_stored_rows(self, models: Sequence[ListedModel]) -> list[_Wanted]:
        """Each model with its stored row and whether it is current."""
        found = self.platform.warehouse.rows(
            "SELECT * FROM extracted_models WHERE archive_id = ? AND list_contains(?, symbol)",
            (self.archive_id, sorted({m.symbol for m in models})),
        )
        stored = {(r["symbol"], r["timeframe"]): r for r in found}
        findings = stored_findings(self.platform, {m.symbol: self.archive_id for m in models})
        wanted = []
        for model in models:
            row = stored.get((model.symbol, model.timeframe))
            is_current = row is not None and self._is_current(model, row)
            about = findings.get((self.archive_id, model.symbol, model.timeframe), ())
            wanted.append(_Wanted(model, row, is_current, about))
        return wanted

    def row_of(self, model: _Wanted, prepare: Callable[[], None]) -> Row:
        """The model's row: the stored one where it is current, else made anew. Several threads may ask at once.

        Args:
            model: which.
            prepare: called before torch is used.
        """
        if model.stored is not None and model.is_current:
            return as_found(model.stored, model.findings)
        prepare()
        row = model_row(self.platform, self.archive_id, self.sha256, self.archive, model.listed)
        return as_found(row, model.findings)

    def _is_current(self, model: ListedModel, stored: Mapping[str, Any]) -> bool:
        """Whether reading the model again would give the stored row and a weights file that is there."""
        digest = _inputs_digest(self.platform, self.archive_id, self.sha256, model, stored["model_version"])
        if stored["inputs_digest"] != digest:
            return False
        return stored["status"] != "OK" or self._has_weights(model, stored)

    def _has_weights(self, model: ListedModel, stored: Mapping[str, Any]) -> bool:
        """Whether the weights are there as a file that can be opened; all of it is read by who computes with it."""
        try:
            self.platform.models.open(stored["model_sha256"])
        except (Rejected, LostWeights) as error:
            name = f"{model.symbol}_{model.timeframe}"
            log.warning("%s (%s): read again from archive %s", error, name, self.archive_id)
            return False
        return True


class _Writer:
    """Rows of one archive, kept back and written every few models; a symbol's rows are written together."""

    def __init__(self, platform: Platform, archive_id: str, summary: TrainingSummary, run_id: str) -> None:
        self._platform = platform
        self._archive_id = archive_id
        self._summary = summary
        self._run_id = run_id
        self._changes: list[Change] = []
        self._n_unwritten = 0
        self._symbol = ""
        self._rows: list[Row] = []
        self._n_current = 0

    def begin(self, symbol: str) -> None:
        """The rows that follow are this symbol's."""
        self._symbol, self._rows, self._n_current = symbol, [], 0

    def add(self, row: Row, *, is_current: bool) -> None:
        """One model's row; written again where it was current, it gets the stamps of the run that does it."""
        self._rows.append(row)
        self._n_current += is_current

    def end(self) -> SymbolReport:
        """The symbol is complete."""
        keys = [{"archive_id": self._archive_id, "symbol": self._symbol}]
        claims = _claim_rows(self._archive_id, self._symbol, self._summary)
        self._changes.append(Replace("extracted_models", keys, self._rows))
        self._changes.append(Replace("training_claims", keys, claims))
        self._n_unwritten += len(self._rows) - self._n_current
        if self._n_unwritten >= _MODELS_PER_WRITE:
            self.flush()
        problems = (
            f"{r['timeframe']}: {r['status']}, {r['reason']}" for r in self._rows if r["status"] != "OK"
        )
        return SymbolReport(self._symbol, len(self._rows), self._n_current, tuple(problems))

    def flush(self) -> None:
        """Write what was kept back."""
        if self._changes:
            with self._platform.stopwatch.part("writing"):
                self._platform.warehouse.write(self._changes, run_id=self._run_id, now=self._platform.now())
        self._changes, self._n_unwritten = [], 0


def _inputs_digest(
    platform: Platform,
    archive_id: str,
    archive_sha256: str,
    model: ListedModel,
    model_version: str | None,
) -> str:
    """Digest of everything that a model's row depends on.

    Args:
        platform: settings and feature sets.
        archive_id: the settings may map it to a feature set.
        archive_sha256: of the archive's content.
        model: which.
        model_version: as its row has it, None where it could not be read; the settings may map it as well.
    """
    entry = model.entry.entry if model.entry else None
    settings = platform.settings
    return digest_of(
        {
            "archive": archive_sha256,
            "entry": [entry.name, entry.position, entry.size_bytes, entry.compressed_bytes]
            if entry
            else None,
            "problem": model.problem,
            "config_prefixes": list(settings.config_prefixes),
            "default_activation": settings.default_activation,
            "configured": _configured(settings.feature_sets, archive_id, model_version),
            "registered": sorted([s.name, s.version] for s in platform.feature_sets.values()),
            "code": code_version(),
        }
    )


def model_row(
    platform: Platform, archive_id: str, archive_sha256: str, archive: ArchiveFile, model: ListedModel
) -> Row:
    """The row of one model, with the digest of what it was made from."""
    try:
        row = _read_model(platform, archive_id, archive, model)
    except Damaged as error:
        # No digest: where the stored file was damaged, a second delivery brings the same archive back whole.
        return {**_row_keys(archive_id, model), "status": "REJECTED", "reason": str(error)}
    version = row.get("model_version")
    digest = _inputs_digest(platform, archive_id, archive_sha256, model, str(version) if version else None)
    return {**row, "inputs_digest": digest}


def _row_keys(archive_id: str, model: ListedModel) -> Row:
    entry_name = model.entry.entry.name if model.entry else None
    return {
        "archive_id": archive_id,
        "symbol": model.symbol,
        "timeframe": model.timeframe,
        "entry_name": entry_name,
    }


def _read_model(platform: Platform, archive_id: str, archive: ArchiveFile, model: ListedModel) -> Row:
    keys = _row_keys(archive_id, model)
    if model.entry is None:
        return {**keys, "status": "REJECTED", "reason": model.problem}
    try:
        checkpoint = read_entry(platform, archive, model.entry)
    except Damaged:
        raise
    except Incompatible as error:
        return {**keys, "status": "INCOMPATIBLE", "reason": str(error)}
    except Rejected as error:
        return {**keys, "status": "REJECTED", "reason": str(error)}
    spec = checkpoint.spec
    facts = {**keys, **spec_columns(spec)}
    try:
        feature_set, basis = choose_feature_set(platform, spec, archive_id)
    except Rejected as error:
        return {**facts, "status": "INCOMPATIBLE", "reason": str(error)}
    with platform.stopwatch.part("weights"):
        stored = platform.models.put(checkpoint.tensors, spec)
    return {
        **facts,
        "model_sha256": stored.sha256,
        "weights_path": relative(platform, platform.models.path_of(stored.sha256)),
        "feature_set": feature_set.name,
        "feature_set_version": feature_set.version,
        "feature_set_basis": basis.value,
        "status": "OK",
        "reason": "; ".join(checkpoint.notes) or None,
    }


def read_entry(platform: Platform, archive: ArchiveFile, entry: ModelEntry) -> Checkpoint:
    """A checkpoint out of an open archive.

    Raises:
        Damaged: the archive's bytes are not what its directory says.
        Rejected: the checkpoint cannot be used; Incompatible where its version does not fit.
        Unavailable: the disk refused.
    """
    settings = platform.settings
    with scratch_folder(platform) as folder:
        # The file's name is ours: nothing of the archive's reaches the disk but the bytes.
        file = folder / "checkpoint.pt"
        with platform.stopwatch.part("inflating"):
            archive.copy_entry_to(entry.entry, file)
        with platform.stopwatch.part("checkpoint"):
            return read_checkpoint(
                file,
                allowed_config_prefixes=settings.config_prefixes,
                default_activation=settings.default_activation,
            )


def choose_feature_set(
    platform: Platform, spec: ModelSpec, archive_id: str | None = None
) -> tuple[FeatureSet, FeatureSetBasis]:
    """The feature set that a model is fed with, and how it was found.

    Args:
        platform: registered sets, and the user's mapping of archives and versions to them.
        spec: what the checkpoint says.
        archive_id: its archive; None for a file of its own.

    Raises:
        Rejected: where no registered set fits.
    """
    return resolve_feature_set(
        platform.feature_sets,
        named=spec.feature_set,
        feature_names=spec.feature_names,
        configured=_configured(platform.settings.feature_sets, archive_id, spec.model_version),
        n_features=spec.n_features,
        account_features=spec.account_features,
    )


def _configured(
    feature_sets: Mapping[str, str], archive_id: str | None, model_version: str | None
) -> str | None:
    """The set that the user mapped this archive or version to; the archive is the closer word."""
    of_version = feature_sets.get(model_version) if model_version is not None else None
    of_archive = feature_sets.get(archive_id) if archive_id is not None else None
    return of_archive or of_version


def spec_columns(spec: ModelSpec) -> Row:
    """A model's facts as columns."""
    return {
        "model_version": spec.model_version,
        "model_version_basis": spec.model_version_basis.value,
        "activation": spec.activation,
        "activation_basis": spec.activation_basis.value,
        "n_features": spec.n_features,
        "n_actions": spec.n_actions,
        "obs_dim": spec.obs_dim,
        "window": spec.window,
        "hidden_dims": list(spec.hidden_dims),
        "n_parameters": spec.n_parameters,
        "global_step": spec.global_step,
        "train_start": spec.train_start,
        "train_end": spec.train_end,
    }


def _claim_rows(archive_id: str, symbol: str, summary: TrainingSummary) -> list[Row]:
    return [
        {
            "archive_id": archive_id,
            "symbol": symbol,
            "timeframe": claims.timeframe.value,
            "fitness_history": list(claims.fitness_score),
            "profit_factor_history": list(claims.profit_factor),
            "consistency_history": list(claims.consistency),
            "max_drawdown_history": list(claims.max_drawdown),
            "problem": claims.problem,
        }
        for claims in summary.claims.values()
        if claims.symbol == symbol
    ]


def _count(platform: Platform, archive_id: str, run_id: str) -> None:
    """Bring the archive's row up to what was extracted so far."""
    found = platform.warehouse.rows(
        """
        SELECT len(a.models) AS n_listed, a.status,
               (SELECT count(*) FROM extracted_models m WHERE m.archive_id = a.archive_id
                AND list_contains(a.models, m.symbol || '_' || m.timeframe)) AS n_extracted,
               (SELECT count(*) FROM extracted_models m
                WHERE m.archive_id = a.archive_id AND m.status <> 'OK') AS n_rejected
        FROM training_archives a WHERE a.archive_id = ?
        """,
        (archive_id,),
    )[0]
    values: dict[str, object] = {"n_rejected": found["n_rejected"]}
    if found["n_extracted"] == found["n_listed"] and found["status"] == "RECEIVED":
        values["status"] = "EXTRACTED"
    change = Update("training_archives", {"archive_id": archive_id}, values)
    platform.warehouse.write([change], run_id=run_id, now=platform.now())
