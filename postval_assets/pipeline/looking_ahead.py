"""Models that look ahead: the row of what was found, and what follows from it for the model.

Here: table ``policy_causality`` and the status that a model gets by it. Not here: the test
(core.policy_causality), or when it is made (fold_jobs.py, evaluation.py).

The finding is kept by what it is about: these weights, this version of the feature set, this code. A model that is
extracted again stays REJECTED as long as all three are the same; a mended set with another version is tried anew.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from postval_assets.core.evaluation import EvaluatedModel, code_version
from postval_assets.core.folds import to_datetime
from postval_assets.core.policy_causality import LOOKS_AHEAD, CausalityStatus, PolicyCausality
from postval_assets.io.warehouse import Update
from postval_assets.pipeline.instants import WANTED, ModelKey, model_key, wanted
from postval_assets.pipeline.platform import Platform

Row = Mapping[str, Any]
Findings = Mapping[ModelKey, Sequence[Row]]
"""Rows of policy_causality by model, the oldest first."""

_FINDINGS = f"""
SELECT c.archive_id, c.symbol, c.timeframe, c.as_of, c.status, c.reason, c.model_sha256, c.feature_set,
       c.feature_set_version, c.code_version
FROM policy_causality c JOIN {WANTED} w USING (archive_id, symbol)
WHERE c.created_at <= coalesce(CAST(? AS TIMESTAMPTZ), c.created_at)
ORDER BY c.created_at, c.as_of
"""  # noqa: S608 - constants


def stored_findings(
    platform: Platform, archives: Mapping[str, str], *, known_by: datetime | None = None
) -> Findings:
    """What is stored of these symbols' models.

    Args:
        platform: the warehouse.
        archives: archive_id by symbol.
        known_by: leaves out what was found later.
    """
    found: dict[ModelKey, list[Row]] = {}
    for row in platform.warehouse.rows(_FINDINGS, (*wanted(archives), known_by)):
        found.setdefault(model_key(row), []).append(row)
    return found


def causality_row(
    keys: Mapping[str, object], model: EvaluatedModel, found: PolicyCausality
) -> dict[str, object]:
    """The row of ``policy_causality``; ``keys`` are those of an evaluation."""
    return {
        **keys,
        "n_instants": found.n_instants,
        "first_ts": None if found.first_ts is None else to_datetime(found.first_ts),
        "last_ts": None if found.last_ts is None else to_datetime(found.last_ts),
        "n_ties": found.n_ties,
        "status": found.status.value,
        "feature": found.feature,
        "reason": found.reason,
        "model_sha256": model.model_sha256,
        "feature_set": model.feature_set.name,
        "feature_set_version": model.feature_set.version,
        "code_version": code_version(),
        "inputs_digest": found.inputs_digest,
    }


def is_news(row: Row, stored: Sequence[Row]) -> bool:
    """Whether a row is to be written: that blocks could not be tested is no reason to forget that others were."""
    if row["status"] != CausalityStatus.NOT_CHECKED:
        return True
    return not any(
        s["as_of"] == row["as_of"] and s["status"] != CausalityStatus.NOT_CHECKED and _is_about(s, row)
        for s in stored
    )


def rejection(keys: Mapping[str, object], model: EvaluatedModel, reason: str | None) -> Update:
    """The model's status after it was seen to look ahead; nothing where it was extracted anew meanwhile."""
    name = {column: keys[column] for column in ("archive_id", "symbol", "timeframe")}
    return Update(
        "extracted_models",
        {**name, "model_sha256": model.model_sha256, "feature_set_version": model.feature_set.version},
        {"status": "REJECTED", "reason": reason},
    )


def as_found(model: Row, stored: Sequence[Row]) -> dict[str, Any]:
    """A row of ``extracted_models`` under what is known of the model: REJECTED where it was seen to look ahead.

    Args:
        model: as it was read.
        stored: findings about it; those of another code do not count, they are tried again.
    """
    about = {**model, "code_version": code_version()} if model["status"] == "OK" else {}
    ahead = [s for s in stored if s["status"] == CausalityStatus.LOOKS_AHEAD and _is_about(s, about)]
    return _with_finding(model, ahead[-1] if ahead else None)


def as_known(model: Row, stored: Sequence[Row]) -> dict[str, Any]:
    """The same for a decision of then: the newest finding decides, whatever code it was made with."""
    about = model if model["status"] == "OK" else {}
    found = [s for s in stored if _is_about(s, {**about, "code_version": s["code_version"]})]
    ahead = found and found[-1]["status"] == CausalityStatus.LOOKS_AHEAD
    return _with_finding(model, found[-1] if ahead else None)


def _with_finding(model: Row, found: Row | None) -> dict[str, Any]:
    return {**model, "status": "REJECTED", "reason": found["reason"]} if found is not None else dict(model)


def was_rejected_for_it(model: Row) -> bool:
    """Whether a row of ``extracted_models`` is REJECTED because the model looks ahead."""
    return model["status"] == "REJECTED" and str(model["reason"]).startswith(LOOKS_AHEAD)


def _is_about(stored: Row, model: Row) -> bool:
    """Whether a finding is about the same weights, feature set and code."""
    names = ("model_sha256", "feature_set", "feature_set_version", "code_version")
    return all(name in model and stored[name] == model[name] for name in names)
