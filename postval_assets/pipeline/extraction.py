"""Stage ``extracted_models``: checkpoints out of the stored archive, weights into the store, a row for every model.

Here: the order of it, what each row holds, and which rows are current. Not here: reading a zip, a summary or a
checkpoint safely (io, core).
"""

from __future__ import annotations

import logging
import shutil
import tempfile
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.evaluation import code_version, digest_of
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.features.registry import FeatureSetBasis, resolve_feature_set
from postval_assets.core.model_spec import Incompatible, ModelSpec
from postval_assets.core.summary import TrainingSummary, parse_summary
from postval_assets.io.archive_file import ArchiveFile, Damaged, open_archive
from postval_assets.io.warehouse import Change, Replace, Update
from postval_assets.pipeline.archives import ListedModel, archive_limits, archive_row, list_models, relative
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport

log = logging.getLogger("postval.extraction")

Row = dict[str, object]

# Checkpoints read before their rows are written: what a killed run loses at most, and what keeps transactions few.
_MODELS_PER_WRITE = 10
# A checkpoint lies in the scratch folder for seconds; what is this old belongs to a run that was killed.
_SCRATCH_LIFETIME = timedelta(days=1)


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
            raise Rejected(
                f"archive {archive_id} ({row['file_name']}) is neither in the inbox nor in the store: deliver it again"
            )
        path = platform.archives.adopt(delivered, row["sha256"], row["size_bytes"])
    stored = relative(platform, path)
    if row["stored_path"] != stored:
        change = Update("training_archives", {"archive_id": archive_id}, {"stored_path": stored})
        platform.warehouse.write([change], run_id=run_id, now=platform.now())
    return path


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
    _clear_scratch(platform)
    by_archive: dict[str, list[str]] = {}
    for symbol, archive_id in archives.items():
        by_archive.setdefault(archive_id, []).append(symbol)
    reports: list[SymbolReport] = []
    unavailable: list[str] = []
    for archive_id, symbols in by_archive.items():
        path = store_archive(platform, archive_id, run_id=run_id)
        sha256 = archive_row(platform, archive_id)["sha256"]
        with open_archive(path, archive_limits(platform)) as archive:
            summary = parse_summary(archive.read_summary())
            listed = list_models(archive.plan, summary)
            changes: list[Change] = []
            n_unwritten = 0
            for symbol in symbols:
                stored = _stored_rows(platform, archive_id, symbol)
                rows: list[Row] = []
                n_current = 0
                for model in (m for m in listed if m.symbol == symbol):
                    known = stored.get(model.timeframe)
                    if known is not None and _is_current(platform, archive_id, sha256, model, known):
                        rows.append(known)
                        n_current += 1
                        continue
                    try:
                        rows.append(_model_row(platform, archive_id, sha256, archive, model))
                    except (Unavailable, OSError) as error:
                        unavailable.append(f"{symbol} {model.timeframe}: {error}")
                keys = [{"archive_id": archive_id, "symbol": symbol}]
                changes.append(Replace("extracted_models", keys, rows))
                changes.append(Replace("training_claims", keys, _claim_rows(archive_id, symbol, summary)))
                problems = tuple(
                    f"{r['timeframe']}: {r['status']}, {r['reason']}" for r in rows if r["status"] != "OK"
                )
                reports.append(SymbolReport(symbol, len(rows), n_current, problems))
                n_unwritten += len(rows) - n_current
                if n_unwritten >= _MODELS_PER_WRITE:
                    platform.warehouse.write(changes, run_id=run_id, now=platform.now())
                    changes, n_unwritten = [], 0
        if changes:
            platform.warehouse.write(changes, run_id=run_id, now=platform.now())
        _count(platform, archive_id, run_id)
    if unavailable:
        raise Unavailable(f"{len(unavailable)} model(s) could not be extracted: " + "; ".join(unavailable))
    return StageReport(tuple(reports))


def _clear_scratch(platform: Platform) -> None:
    """Remove what killed runs left in the scratch folder; what cannot be removed is said and left."""
    oldest = (platform.now() - _SCRATCH_LIFETIME).timestamp()
    try:
        entries = list(platform.scratch.iterdir()) if platform.scratch.is_dir() else []
    except OSError as error:
        log.warning("%s could not be looked into: %s", platform.scratch, error)
        return
    for entry in entries:
        try:
            if entry.lstat().st_mtime >= oldest:
                continue
            if entry.is_dir() and not entry.is_symlink():
                shutil.rmtree(entry)
            else:
                # A link goes itself; what it points at is not ours.
                entry.unlink(missing_ok=True)
        except OSError as error:
            log.warning("%s is left over from a stopped run and could not be removed: %s", entry, error)


def _stored_rows(platform: Platform, archive_id: str, symbol: str) -> dict[str, dict[str, Any]]:
    """A symbol's rows by timeframe; written again, they get the stamps of the run that does it."""
    found = platform.warehouse.rows(
        "SELECT * FROM extracted_models WHERE archive_id = ? AND symbol = ?", (archive_id, symbol)
    )
    return {r["timeframe"]: r for r in found}


def _is_current(
    platform: Platform, archive_id: str, archive_sha256: str, model: ListedModel, stored: Mapping[str, Any]
) -> bool:
    """Whether reading the model again would give the stored row and a weights file that is there."""
    digest = _inputs_digest(platform, archive_id, archive_sha256, model, stored["model_version"])
    if stored["inputs_digest"] != digest:
        return False
    weights = platform.settings.data_dir / str(stored["weights_path"])
    return stored["status"] != "OK" or weights.is_file()


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


def _model_row(
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
    settings = platform.settings
    platform.scratch.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=platform.scratch) as folder:
        # The file's name is ours: nothing of the archive's reaches the disk but the bytes.
        file = Path(folder) / "checkpoint.pt"
        archive.copy_entry_to(model.entry.entry, file)
        try:
            checkpoint = read_checkpoint(
                file,
                allowed_config_prefixes=settings.config_prefixes,
                default_activation=settings.default_activation,
            )
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
