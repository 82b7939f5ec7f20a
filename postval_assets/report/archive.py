"""An archive's results as one text: gating table, 30-day backtests, PER-FOLD ANALYSIS, evidence, decisions.

Here: the order of the parts. Not here: their layout (text.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from postval_assets.report.text import (
    backtest_table,
    decision_table,
    evidence_table,
    fold_analysis,
    gating_table,
)

Row = Mapping[str, Any]


def archive_text(
    archive: Row,
    *,
    gating: Sequence[Row],
    backtests: Sequence[Row],
    summaries: Sequence[Row],
    folds: Sequence[Row],
    decisions: Sequence[Row],
    evidence: Sequence[Row],
) -> str:
    """Everything that a person wants to see of an archive, in the order in which it was found out."""
    versions = sorted({r["thresholds_version"] for r in gating if r["thresholds_version"]})
    parts = [
        f"ARCHIVE {archive['archive_id']}  {archive['file_name']}  {archive['n_models']} models, {archive['status']}",
        f"GATING  thresholds {', '.join(versions) or '-'}\n{gating_table(gating)}",
    ]
    if backtests:
        parts.append(f"BACKTEST  last 30 days\n{backtest_table(backtests)}")
    for summary in summaries:
        key = [summary[k] for k in ("symbol", "timeframe", "plan")]
        of_plan = [f for f in folds if [f[k] for k in ("symbol", "timeframe", "plan")] == key]
        parts.append(fold_analysis(summary, of_plan))
    if evidence:
        parts.append(f"EVIDENCE  out-of-sample folds only\n{evidence_table(evidence)}")
    if decisions:
        parts.append(f"DECISIONS  policy {decisions[0]['policy']}\n{decision_table(decisions)}")
    counts: dict[str, int] = {}
    for row in decisions:
        counts[row["decision"]] = counts.get(row["decision"], 0) + 1
    order = ("LIVE", "PAPER", "RETRAIN", "DROP")
    parts.append(", ".join(f"{counts[d]} {d}" for d in order if d in counts) or "no decisions yet")
    return "\n\n".join(parts)
