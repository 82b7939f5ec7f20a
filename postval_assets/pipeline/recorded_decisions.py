"""Decisions as they were recorded: found by their name, with their inputs and the folds that they were made from.

Here: reading. Not here: recomputing them (replaying.py), or writing them (deciding.py).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.failures import Rejected
from postval_assets.pipeline.decision_rows import ID_DIGITS, NamedInput
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.recording import Kind, kept_contents

Row = Mapping[str, Any]

_SHORTEST_ID = 6
# The one that counts of each model, plan, instant and policy.
_COUNTING = """
SELECT * FROM deployment_decisions
WHERE (? IS NULL OR archive_id = ?)
QUALIFY row_number() OVER (
    PARTITION BY archive_id, symbol, timeframe, plan, as_of, policy
    ORDER BY revision DESC NULLS LAST, created_at DESC, run_id DESC
) = 1
ORDER BY archive_id, symbol, timeframe, plan, as_of, policy
"""
EXPECTED = (
    "expected a decision_id, as latest_decisions and the printed decisions have it, or "
    "ARCHIVE SYMBOL TIMEFRAME PLAN [AS_OF] [POLICY]"
)


@dataclass(frozen=True, eq=False)
class RecordedDecision:
    """A decision with everything that was recorded of it.

    Attributes:
        row: of ``deployment_decisions``.
        inputs: by name. Of a decision from before inputs were recorded only those that its row has.
        is_detailed: whether its inputs were recorded.
        contents: what digests stand for, by kind and digest.
        folds: that it was made from, in order; empty where there were none, None where they were not kept.
    """

    row: Row
    inputs: Mapping[str, NamedInput]
    is_detailed: bool
    contents: Mapping[tuple[str, str], Mapping[str, Any]]
    folds: tuple[Row, ...] | None

    def content(self, kind: Kind, digest: str | None = None) -> Mapping[str, Any] | None:
        """What an input of that kind was; None where that was not recorded."""
        if digest is None:
            found = self.inputs.get(kind.value)
            digest = found.digest if found is not None else None
        return self.contents.get((kind.value, digest)) if digest is not None else None

    def value(self, name: str) -> Any:
        """An input's value; None where it was not recorded."""
        found = self.inputs.get(name)
        return found.value if found is not None else None


def find_decision(platform: Platform, words: Sequence[str]) -> Row:
    """The row of the decision that these words name.

    Args:
        platform: warehouse.
        words: a decision_id, whole or its first six digits or more; or archive_id, symbol, timeframe and plan, and
            where there are several as_of (ISO 8601, or ``none``) and policy.

    Raises:
        Rejected: for words that name none, or several.
    """
    if len(words) == 1:
        return _by_id(platform, words[0])
    if not 4 <= len(words) <= 6:
        raise Rejected(f"{len(words)} words do not name a decision: {EXPECTED}")
    return _by_key(platform, words)


def counting_decisions(platform: Platform, archive_id: str | None = None) -> list[dict[str, Any]]:
    """The newest decision of each model, plan, instant and policy; of one archive, or of all."""
    return platform.warehouse.rows(_COUNTING, (archive_id, archive_id))


def _by_id(platform: Platform, name: str) -> Row:
    if not re.fullmatch(f"[0-9a-f]{{{_SHORTEST_ID},{ID_DIGITS}}}", name):
        raise Rejected(f"{ascii(name)[:60]} is no decision_id ({ID_DIGITS} of 0-9 and a-f): {EXPECTED}")
    found = platform.warehouse.rows(
        "SELECT * FROM deployment_decisions WHERE starts_with(decision_id, ?) ORDER BY created_at", (name,)
    )
    if not found:
        raise Rejected(f"no decision is called {name}: {EXPECTED}")
    if len(found) > 1:
        raise Rejected(f"{name} is the beginning of {len(found)} decisions: {_listed(found)}")
    return found[0]


def _by_key(platform: Platform, words: Sequence[str]) -> Row:
    archive_id, symbol, timeframe, plan, *more = words
    policy = next((w for w in more if w.isidentifier() and w != "none"), None)
    instants = [w for w in more if w != policy]
    if len(instants) > 1:
        raise Rejected(f"{' '.join(map(ascii, instants))[:80]}: one as_of and one policy at most; {EXPECTED}")
    found = [
        row
        for row in counting_decisions(platform, archive_id)
        if (row["symbol"], row["timeframe"], row["plan"]) == (symbol, timeframe, plan)
        and (policy is None or row["policy"] == policy)
        and (not instants or row["as_of"] == _instant(instants[0]))
    ]
    if not found:
        raise Rejected(f"no decision is recorded for {' '.join(ascii(w)[1:-1][:40] for w in words)}")
    # Without an as_of the newest evaluation is meant, as everywhere; a model that had none is before all others.
    newest = max((row["as_of"] for row in found if row["as_of"] is not None), default=None)
    found = [row for row in found if row["as_of"] == (found[0]["as_of"] if instants else newest)]
    if policy is None and len(found) > 1:
        acted_on = [row for row in found if row["policy"] == platform.settings.decision_policy]
        found = acted_on or found
    if len(found) > 1:
        raise Rejected(f"that names {len(found)} decisions, say the policy as well: {_listed(found)}")
    return found[0]


def _instant(text: str) -> datetime | None:
    if text == "none":
        return None
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        instant = None
    if instant is None or instant.tzinfo is None:
        raise Rejected(f"{ascii(text)[:40]} is no as_of: expected e.g. 2025-03-01T00:00:00Z, or none")
    return instant


def _listed(rows: Sequence[Row]) -> str:
    shown = [
        f"{r['decision_id']} ({r['symbol']} {r['timeframe']} {r['plan']}, {r['policy']}, {r['created_at']:%Y-%m-%d})"
        for r in rows[:5]
    ]
    return ", ".join(shown) + (f" and {len(rows) - 5} more" if len(rows) > 5 else "")


def recorded_decisions(platform: Platform, rows: Sequence[Row]) -> list[RecordedDecision]:
    """Everything that was recorded of these decisions, in their order."""
    inputs: dict[str, dict[str, NamedInput]] = {}
    ids = [str(row["decision_id"]) for row in rows]
    for r in platform.warehouse.rows(
        "SELECT decision_id, input, digest, value FROM decision_inputs WHERE list_contains(?, decision_id)",
        (ids,),
    ):
        value = None if r["value"] is None else json.loads(r["value"])
        inputs.setdefault(r["decision_id"], {})[r["input"]] = NamedInput(r["input"], r["digest"], value)
    folds: dict[str, list[Row]] = {}
    wanted = sorted({str(row["folds_digest"]) for row in rows if row["folds_digest"] is not None})
    for r in platform.warehouse.rows(
        "SELECT * FROM decided_folds WHERE list_contains(?, folds_digest) ORDER BY folds_digest, fold",
        (wanted,),
    ):
        folds.setdefault(r["folds_digest"], []).append(r)
    digests = {i.digest for named in inputs.values() for i in named.values() if i.digest is not None}
    digests |= {str(f["settings_digest"]) for kept in folds.values() for f in kept}
    contents = kept_contents(platform, sorted(digests))
    recorded = []
    for row in rows:
        named = inputs.get(str(row["decision_id"]), {})
        kept = folds.get(str(row["folds_digest"]))
        recorded.append(
            RecordedDecision(
                row=row,
                inputs=named or {i.name: i for i in _of_row(row)},
                is_detailed=bool(named),
                contents=contents,
                folds=() if row["folds_digest"] is None else (tuple(kept) if kept else None),
            )
        )
    return recorded


def _of_row(row: Row) -> tuple[NamedInput, ...]:
    """The inputs that a decision's own row has."""
    return (
        NamedInput("archive", row["archive_sha256"]),
        NamedInput("weights", row["model_sha256"]),
        NamedInput(Kind.THRESHOLDS.value, None, row["thresholds_version"]),
        NamedInput("bars", row["bars_digest"]),
        NamedInput("folds", row["folds_digest"]),
        NamedInput(Kind.SETTINGS.value, row["settings_digest"]),
        NamedInput("code", value=row["code_version"]),
        NamedInput("policy", value={"name": row["policy"], "version": row["policy_version"]}),
    )
