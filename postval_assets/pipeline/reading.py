"""What people are shown: the tables of an archive, read from the warehouse.

Here: queries for reports. Not here: their layout (report), or anything that writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.pipeline.platform import Platform

Rows = list[dict[str, Any]]


@dataclass(frozen=True)
class ArchiveResults:
    """Everything that is shown of an archive; rows are dicts by column name.

    Attributes:
        archive: its row.
        gating: a row a model, intake and gate together.
        summaries: a row a model and plan.
        folds: a row a fold.
        backtests: a row a model.
        decisions: a row a model and plan, the newest one.
        evidence: a row a model and plan, with the number of trials; empty until the archive was weighed.
    """

    archive: dict[str, Any]
    gating: Rows
    summaries: Rows
    folds: Rows
    backtests: Rows
    decisions: Rows
    evidence: Rows


def archive_results(
    platform: Platform,
    archive_id: str,
    symbols: Sequence[str] | None = None,
    policy: str = "standard",
    until: datetime | None = None,
) -> ArchiveResults:
    """The newest results of an archive, or those of its newest evaluation up to some instant.

    Args:
        platform: settings and warehouse.
        archive_id: which.
        symbols: only these; None for all.
        policy: whose decisions.
        until: evaluations after it are not looked at.
    """
    chosen = list(symbols) if symbols is not None else None
    of_archive = "x.archive_id = ? AND (? IS NULL OR list_contains(?, x.symbol))"
    newest = """
        x.as_of IS NOT DISTINCT FROM (
            SELECT max(e.as_of) FROM evaluations e WHERE e.archive_id = x.archive_id AND e.symbol = x.symbol
            AND e.timeframe = x.timeframe AND e.as_of <= coalesce(CAST(? AS TIMESTAMPTZ), e.as_of))
    """
    params = (archive_id, chosen, chosen or [])
    dated = (*params, until)
    read = platform.warehouse.rows
    return ArchiveResults(
        archive=read("SELECT * FROM training_archives WHERE archive_id = ?", (archive_id,))[0],
        gating=read(
            f"""
            SELECT x.symbol, x.timeframe, x.model_version, x.status, x.reason, x.feature_set, x.feature_set_basis,
                   x.activation_basis, g.fitness, g.profit_factor, g.consistency, g.max_drawdown, g.classification,
                   g.flags, g.use_checkpoint, g.checkpoint_index, g.checkpoint_update, g.thresholds_version,
                   g.reason AS gate_reason
            FROM extracted_models x LEFT JOIN gating_scores g USING (archive_id, symbol, timeframe)
            WHERE {of_archive} ORDER BY x.symbol, x.timeframe
            """,
            params,
        ),
        summaries=read(
            f"""
            SELECT x.* FROM walk_forward_summaries x WHERE {of_archive} AND {newest}
            ORDER BY symbol, timeframe, plan
            """,
            dated,
        ),
        folds=read(
            f"SELECT x.* FROM fold_results x WHERE {of_archive} AND {newest} ORDER BY symbol, timeframe, plan, fold",
            dated,
        ),
        backtests=read(
            f"SELECT x.* FROM backtest_results x WHERE {of_archive} AND {newest} ORDER BY symbol, timeframe",
            dated,
        ),
        decisions=read(
            f"""
            SELECT x.* FROM deployment_decisions x WHERE {of_archive} AND {newest} AND x.policy = ?
            QUALIFY row_number() OVER (PARTITION BY x.symbol, x.timeframe, x.plan ORDER BY x.created_at DESC) = 1
            ORDER BY symbol, timeframe, plan
            """,
            (*dated, policy),
        ),
        evidence=read(
            f"""
            SELECT x.*, a.n_trials
            FROM archive_evidence_models x JOIN archive_evidence a USING (archive_id, plan, as_of)
            WHERE {of_archive} AND x.as_of <= coalesce(CAST(? AS TIMESTAMPTZ), x.as_of)
            QUALIFY x.as_of = max(x.as_of) OVER (PARTITION BY x.plan)
            ORDER BY plan, symbol, timeframe
            """,
            dated,
        ),
    )


def newest_archive(platform: Platform) -> str | None:
    """The newest archive that was not refused; None where there is none."""
    found = platform.warehouse.rows(
        "SELECT max(archive_id) AS a FROM training_archives WHERE status <> 'REJECTED'"
    )
    newest = found[0]["a"]
    return str(newest) if newest is not None else None


def missing_plans(platform: Platform, archives: Mapping[str, str], plans: Sequence[str]) -> list[str]:
    """Models of these symbols without any computed fold of a plan, as ``SYMBOL_TIMEFRAME PLAN: why``."""
    missing = []
    for symbol, archive_id in archives.items():
        rows = platform.warehouse.rows(
            """
            SELECT m.symbol || '_' || m.timeframe AS model, p.plan, m.status, m.reason, g.classification,
                   (SELECT any_value(f.reason) FROM fold_results f WHERE f.archive_id = m.archive_id
                    AND f.symbol = m.symbol AND f.timeframe = m.timeframe AND f.plan = p.plan) AS fold_reason
            FROM extracted_models m
            LEFT JOIN gating_scores g USING (archive_id, symbol, timeframe)
            CROSS JOIN (SELECT unnest(?) AS plan) p
            WHERE m.archive_id = ? AND m.symbol = ? AND NOT EXISTS (
                SELECT 1 FROM fold_results f WHERE f.archive_id = m.archive_id AND f.symbol = m.symbol
                AND f.timeframe = m.timeframe AND f.plan = p.plan AND f.total_return IS NOT NULL)
            ORDER BY ALL
            """,
            (list(plans), archive_id, symbol),
        )
        for r in rows:
            if r["status"] != "OK":
                why = f"{r['status']}, {r['reason']}"
            elif r["classification"] not in ("APPROVED", "REVIEW"):
                why = f"the gate says {r['classification']} (set include_dropped to evaluate it all the same)"
            else:
                why = r["fold_reason"] or "see the messages above, or the check folds_are_computed"
            missing.append(f"{r['model']} {r['plan']}: {why}")
    return missing


def undecided_models(platform: Platform, archive_id: str, symbols: Sequence[str]) -> list[str]:
    """Models of these symbols without a decision, as ``SYMBOL_TIMEFRAME``."""
    rows = platform.warehouse.rows(
        """
        SELECT model FROM (SELECT unnest(models) AS model FROM training_archives WHERE archive_id = ?)
        WHERE list_contains(?, regexp_replace(model, '_[^_]*$', ''))
          AND model NOT IN (SELECT symbol || '_' || timeframe FROM deployment_decisions WHERE archive_id = ?)
        ORDER BY model
        """,
        (archive_id, list(symbols), archive_id),
    )
    return [r["model"] for r in rows]
