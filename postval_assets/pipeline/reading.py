"""What people are shown: the tables of an archive, read from the warehouse.

Here: queries for reports. Not here: their layout (report), or anything that writes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
    platform: Platform, archive_id: str, symbols: Sequence[str] | None = None, policy: str = "standard"
) -> ArchiveResults:
    """The newest results of an archive.

    Args:
        platform: settings and warehouse.
        archive_id: which.
        symbols: only these; None for all.
        policy: whose decisions.
    """
    chosen = list(symbols) if symbols is not None else None
    of_archive = "x.archive_id = ? AND (? IS NULL OR list_contains(?, x.symbol))"
    newest = """
        x.as_of = (SELECT max(e.as_of) FROM evaluations e WHERE e.archive_id = x.archive_id
                   AND e.symbol = x.symbol AND e.timeframe = x.timeframe)
    """
    params = (archive_id, chosen, chosen or [])
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
            params,
        ),
        folds=read(
            f"SELECT x.* FROM fold_results x WHERE {of_archive} AND {newest} ORDER BY symbol, timeframe, plan, fold",
            params,
        ),
        backtests=read(
            f"SELECT x.* FROM backtest_results x WHERE {of_archive} AND {newest} ORDER BY symbol, timeframe",
            params,
        ),
        decisions=read(
            f"""
            SELECT x.* FROM deployment_decisions x WHERE {of_archive} AND x.policy = ?
            AND x.as_of IS NOT DISTINCT FROM (SELECT max(e.as_of) FROM evaluations e WHERE e.archive_id = x.archive_id
                                              AND e.symbol = x.symbol AND e.timeframe = x.timeframe)
            QUALIFY row_number() OVER (PARTITION BY x.symbol, x.timeframe, x.plan ORDER BY x.created_at DESC) = 1
            ORDER BY symbol, timeframe, plan
            """,
            (*params, policy),
        ),
        evidence=read(
            f"""
            SELECT x.*, a.n_trials
            FROM archive_evidence_models x JOIN archive_evidence a USING (archive_id, plan, as_of)
            WHERE {of_archive}
            QUALIFY x.as_of = max(x.as_of) OVER (PARTITION BY x.plan)
            ORDER BY plan, symbol, timeframe
            """,
            params,
        ),
    )


def newest_archive(platform: Platform) -> str | None:
    """The newest archive that was not refused; None where there is none."""
    found = platform.warehouse.rows(
        "SELECT max(archive_id) AS a FROM training_archives WHERE status <> 'REJECTED'"
    )
    newest = found[0]["a"]
    return str(newest) if newest is not None else None


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
