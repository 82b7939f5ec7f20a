"""What other stages found of models, as reasons that are shown with their decisions.

Here: the questions, asked of the tables. Not here: the stages that made these (reproducing.py, challenging.py; what the
watch says: watched.py), or the decisions (deciding.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from datetime import datetime

from postval_assets.core.champion import Comparison, Verdict, champion_note
from postval_assets.core.claims import ClaimStatus
from postval_assets.core.gating import Flag
from postval_assets.pipeline.instants import WANTED, ModelKey, PlanKey, model_key, plan_key, wanted
from postval_assets.pipeline.platform import Platform

# Comparisons of the folds that are stored now: one of other folds says nothing about a decision that is made from them.
_NOTED = f"""
WITH folds AS (
    SELECT f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan,
           sha256(string_agg(f.inputs_digest, ',' ORDER BY f.fold)) AS folds_digest
    FROM fold_results f JOIN {WANTED} w USING (archive_id, symbol)
    GROUP BY f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan
)
SELECT c.* FROM champion_comparisons c
JOIN folds USING (archive_id, symbol, timeframe, as_of, plan, folds_digest)
WHERE c.as_of <= coalesce(CAST(? AS TIMESTAMPTZ), c.as_of)
"""  # noqa: S608 - constants
_NOTES = f"""
SELECT r.archive_id, r.symbol, r.timeframe, r.reason
FROM claim_reproductions r
JOIN {WANTED} w USING (archive_id, symbol)
JOIN extracted_models m USING (archive_id, symbol, timeframe)
WHERE r.status = ? AND r.model_sha256 = m.model_sha256
ORDER BY r.archive_id, r.symbol, r.timeframe
"""  # noqa: S608 - constants


def claim_notes(platform: Platform, archives: Mapping[str, str]) -> dict[ModelKey, str]:
    """The models of these symbols that disagree with their claims, in words with both numbers.

    Args:
        platform: the warehouse.
        archives: archive_id by symbol.

    Returns:
        By model ``CLAIM_NOT_REPRODUCED: profit factor 1.90 claimed, 0.94 reproduced ...``.
    """
    rows = platform.warehouse.rows(_NOTES, (*wanted(archives), ClaimStatus.DISAGREES.value))
    return {model_key(r): f"{Flag.CLAIM_NOT_REPRODUCED}: {r['reason']}" for r in rows}


def champion_notes(
    platform: Platform, archives: Mapping[str, str], *, until: datetime | None = None
) -> dict[PlanKey, str]:
    """What the comparisons of these symbols' models say, as reasons of their decisions.

    Only comparisons that were made from the folds that are stored now; nothing where there is no earlier model.

    Args:
        platform: warehouse.
        archives: archive_id by symbol.
        until: of evaluations up to then; default of all.
    """
    rows = platform.warehouse.rows(_NOTED, (*wanted(archives), until))
    names = [f.name for f in dataclasses.fields(Comparison)]
    return {
        plan_key(r): champion_note(
            Comparison(**{**{n: r[n] for n in names}, "verdict": Verdict(r["verdict"])}),
            str(r["champion_archive_id"]),
        )
        for r in rows
    }
