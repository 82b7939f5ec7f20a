"""The evidence columns of ``walk_forward_summaries``: from evidence to a row and back.

Here: pure functions. Not here: where the evidence comes from (weighing.py), or the figures (core).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any

from postval_assets.core.action_replays import ReplayFigures
from postval_assets.core.evaluation import digest_of
from postval_assets.core.walk_forward_evidence import (
    METHOD_VERSION,
    Evidence,
    EvidenceLimits,
    SharpeEvidence,
    WalkForwardEvidence,
)

_OF_RETURNS = tuple(f.name for f in fields(SharpeEvidence))
_OF_REPLAYS = tuple(f.name for f in fields(ReplayFigures) if f.name != "own_returns")


def evidence_columns(evidence: WalkForwardEvidence) -> dict[str, object]:
    """The columns of a row, but for the digest."""
    replays = asdict(evidence.replays) if evidence.replays is not None else {}
    return {
        **asdict(evidence.returns),
        **{name: replays.get(name) for name in _OF_REPLAYS},
        "evidence": evidence.evidence.value,
        "evidence_reasons": list(evidence.reasons),
    }


def evidence_of(row: Mapping[str, Any]) -> WalkForwardEvidence | None:
    """What a row's columns say; None where it was not weighed."""
    if row["evidence"] is None:
        return None
    replays = None
    if row["null_percentile"] is not None:
        replays = ReplayFigures(own_returns=(), **{name: row[name] for name in _OF_REPLAYS})
    return WalkForwardEvidence(
        returns=SharpeEvidence(**{name: row[name] for name in _OF_RETURNS}),
        replays=replays,
        evidence=Evidence(row["evidence"]),
        reasons=tuple(row["evidence_reasons"] or ()),
    )


def evidence_digest(folds_digest: str, n_trials: int, limits: EvidenceLimits) -> str:
    """Digest of what a plan's evidence is made from."""
    return digest_of(
        {"folds": folds_digest, "n_trials": n_trials, "limits": repr(limits), "method": METHOD_VERSION}
    )
