"""What people are shown: the tables of an archive, read from the warehouse.

Here: queries for reports. Not here: their layout (report), or anything that writes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.bar_quality import Check, Severity
from postval_assets.core.instruments import Timeframe
from postval_assets.pipeline.instants import NEWEST_UNTIL, WANTED, newest_instants, wanted
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
        decisions: a row a model and plan, the newest one of the policy, with the decision of the other one.
        evidence: a row a model and plan, with the number of trials and pbo; empty until the archive was weighed.
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
    # To follow the table x: a model that has no folds is decided without an as_of.
    newest = f"LEFT JOIN ({NEWEST_UNTIL}) n USING (archive_id, symbol, timeframe)"
    params = (archive_id, chosen, chosen or [])
    dated = (until, *params)
    read = platform.warehouse.rows
    return ArchiveResults(
        archive=read("SELECT * FROM training_archives WHERE archive_id = ?", (archive_id,))[0],
        gating=read(
            f"""
            SELECT x.symbol, x.timeframe, x.model_version, x.status, x.reason, x.feature_set, x.feature_set_basis,
                   x.activation_basis, g.fitness, g.profit_factor, g.consistency, g.max_drawdown, g.classification,
                   g.flags, g.use_checkpoint, g.checkpoint_index, g.checkpoint_update, g.thresholds_version,
                   g.reason AS gate_reason, c.status AS claim_status, c.reason AS claim_reason
            FROM extracted_models x LEFT JOIN gating_scores g USING (archive_id, symbol, timeframe)
            LEFT JOIN claim_reproductions c ON c.archive_id = x.archive_id AND c.symbol = x.symbol
                AND c.timeframe = x.timeframe AND c.model_sha256 = x.model_sha256
            WHERE {of_archive} ORDER BY x.symbol, x.timeframe
            """,
            params,
        ),
        summaries=read(
            f"""
            SELECT x.* FROM walk_forward_summaries x {newest} WHERE {of_archive} AND x.as_of = n.as_of
            ORDER BY x.symbol, x.timeframe, x.plan
            """,
            dated,
        ),
        folds=read(
            f"""
            SELECT x.* FROM fold_results x {newest} WHERE {of_archive} AND x.as_of = n.as_of
            ORDER BY x.symbol, x.timeframe, x.plan, x.fold
            """,
            dated,
        ),
        backtests=read(
            f"""
            SELECT x.* FROM backtest_results x {newest} WHERE {of_archive} AND x.as_of = n.as_of
            ORDER BY x.symbol, x.timeframe
            """,
            dated,
        ),
        decisions=read(
            f"""
            WITH newest_rows AS (
                SELECT x.* FROM deployment_decisions x {newest}
                WHERE {of_archive} AND x.as_of IS NOT DISTINCT FROM CASE WHEN n.has_folds THEN n.as_of END
                QUALIFY row_number() OVER (
                    PARTITION BY x.symbol, x.timeframe, x.plan, x.policy
                    ORDER BY x.revision DESC NULLS LAST, x.created_at DESC
                ) = 1
            )
            SELECT x.*, o.policy AS other_policy, o.decision AS other_decision
            FROM newest_rows x
            LEFT JOIN newest_rows o ON o.policy <> x.policy AND o.symbol = x.symbol AND o.timeframe = x.timeframe
                AND o.plan IS NOT DISTINCT FROM x.plan
            WHERE x.policy = ?
            ORDER BY x.symbol, x.timeframe, x.plan
            """,
            (*dated, policy),
        ),
        evidence=read(
            f"""
            SELECT x.*, a.n_trials, a.pbo, a.reasons AS plan_reasons
            FROM archive_evidence_models x JOIN archive_evidence a USING (archive_id, plan, as_of)
            WHERE {of_archive} AND x.as_of <= coalesce(CAST(? AS TIMESTAMPTZ), x.as_of)
            QUALIFY x.as_of = max(x.as_of) OVER (PARTITION BY x.plan)
            ORDER BY plan, symbol, timeframe
            """,
            (*params, until),
        ),
    )


def stored_bars_rows(platform: Platform, symbols: Sequence[str]) -> Rows:
    """A row for each stored series of these symbols, with its worst check, and one for each that has no bars.

    Columns: symbol, timeframe, n_bars, first_ts, last_ts, source, severity, found (the first ERROR, else the first
    WARN, of the checks, or why there are no bars); in the order of the symbols, shortest timeframe last.
    """
    rows = platform.warehouse.rows(
        """
        WITH series AS (
            SELECT symbol, timeframe, count(*) AS n_bars, min(ts) AS first_ts, max(ts) AS last_ts,
                   string_agg(DISTINCT source, ', ' ORDER BY source) AS source
            FROM bars WHERE list_contains(?, symbol) GROUP BY symbol, timeframe
        ),
        loads AS (SELECT * FROM bar_loads WHERE list_contains(?, symbol))
        SELECT coalesce(s.symbol, l.symbol) AS symbol, coalesce(s.timeframe, l.timeframe) AS timeframe,
               coalesce(s.n_bars, 0) AS n_bars, s.first_ts, s.last_ts, coalesce(s.source, l.source) AS source,
               l.status, l.reason
        FROM series s FULL JOIN loads l ON l.symbol = s.symbol AND l.timeframe = s.timeframe
        """,
        (list(symbols), list(symbols)),
    )
    checks = platform.warehouse.rows(
        "SELECT symbol, timeframe, check_name, severity, detail FROM bar_quality WHERE list_contains(?, symbol)",
        (list(symbols),),
    )
    verdicts: dict[tuple[str, str], Rows] = {}
    for check in checks:
        verdicts.setdefault((check["symbol"], check["timeframe"]), []).append(check)
    named = {r["symbol"] for r in rows}
    nothing = dict.fromkeys(("first_ts", "last_ts", "source", "status", "reason"))
    base = platform.settings.base_timeframe.value
    rows += [{"symbol": s, "timeframe": base, "n_bars": 0, **nothing} for s in symbols if s not in named]
    place = {symbol: n for n, symbol in enumerate(symbols)}
    rows.sort(key=lambda r: (place[r["symbol"]], -Timeframe(r["timeframe"]).minutes))
    return [_series_row(row, verdicts.get((row["symbol"], row["timeframe"]), [])) for row in rows]


def _series_row(row: dict[str, Any], checks: Rows) -> dict[str, Any]:
    severity = found = None
    if checks:
        order = list(Check)
        severity = max((c["severity"] for c in checks), key=list(Severity).index)
        worst = min(
            (c for c in checks if c["severity"] == severity), key=lambda c: order.index(c["check_name"])
        )
        found = f"{worst['check_name']}: {worst['detail']}" if severity != Severity.OK else None
    if row["status"] in ("REJECTED", "EMPTY"):
        # What was loaded earlier is there all the same.
        found = f"last load {row['status']}: {row['reason']}" + (f"; {found}" if found else "")
    shown = {name: row[name] for name in ("symbol", "timeframe", "n_bars", "first_ts", "last_ts", "source")}
    return {**shown, "severity": severity, "found": found}


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
    rows = platform.warehouse.rows(
        f"""
        SELECT m.symbol, m.symbol || '_' || m.timeframe AS model, p.plan, m.status, m.reason, g.classification,
               (SELECT any_value(f.reason) FROM fold_results f WHERE f.archive_id = m.archive_id
                AND f.symbol = m.symbol AND f.timeframe = m.timeframe AND f.plan = p.plan) AS fold_reason
        FROM extracted_models m
        JOIN {WANTED} w USING (archive_id, symbol)
        LEFT JOIN gating_scores g USING (archive_id, symbol, timeframe)
        CROSS JOIN (SELECT unnest(CAST(? AS VARCHAR[])) AS plan) p
        WHERE NOT EXISTS (
            SELECT 1 FROM fold_results f WHERE f.archive_id = m.archive_id AND f.symbol = m.symbol
            AND f.timeframe = m.timeframe AND f.plan = p.plan AND f.total_return IS NOT NULL)
        ORDER BY model, plan
        """,
        (*wanted(archives), list(plans)),
    )
    place = {symbol: n for n, symbol in enumerate(archives)}
    for r in sorted(rows, key=lambda r: place[r["symbol"]]):
        if r["status"] != "OK":
            why = f"{r['status']}, {r['reason']}"
        elif r["classification"] not in ("APPROVED", "REVIEW"):
            why = f"the gate says {r['classification']} (set include_dropped to evaluate it all the same)"
        else:
            why = r["fold_reason"] or "see the messages above, or the check folds_are_computed"
        missing.append(f"{r['model']} {r['plan']}: {why}")
    return missing


def undecided_models(
    platform: Platform,
    archive_id: str,
    symbols: Sequence[str],
    plans: Sequence[str] | None = None,
    until: datetime | None = None,
) -> list[str]:
    """Models of these symbols without a decision, as ``SYMBOL_TIMEFRAME``.

    Args:
        platform: settings and warehouse.
        archive_id: which archive.
        symbols: whose models.
        plans: a decision over each of these is needed, of the newest evaluation up to ``until``; a model without
            folds is decided over no particular one. None: any decision ever made will do.
        until: evaluations after it are not looked at; of no effect without ``plans``.
    """
    listed = platform.warehouse.rows(
        """
        SELECT model FROM (SELECT unnest(models) AS model FROM training_archives WHERE archive_id = ?)
        WHERE list_contains(?, regexp_replace(model, '_[^_]*$', '')) ORDER BY model
        """,
        (archive_id, list(symbols)),
    )
    decisions = platform.warehouse.rows(
        """
        SELECT DISTINCT symbol || '_' || timeframe AS model, plan, as_of FROM deployment_decisions
        WHERE archive_id = ? AND list_contains(?, symbol)
        """,
        (archive_id, list(symbols)),
    )
    models = [str(r["model"]) for r in listed]
    if plans is None:
        decided = {r["model"] for r in decisions}
        return [model for model in models if model not in decided]
    made: dict[tuple[str, datetime | None], set[str]] = {}
    for r in decisions:
        made.setdefault((r["model"], r["as_of"]), set()).add(r["plan"])
    instants = newest_instants(platform, dict.fromkeys(symbols, archive_id), until=until)
    evaluated = {
        f"{symbol}_{timeframe}": i.as_of for (_, symbol, timeframe), i in instants.items() if i.has_folds
    }
    undecided = []
    for model in models:
        decided_over = made.get((model, evaluated.get(model)), set())
        needed = set(plans) if model in evaluated else set()
        if not decided_over or not needed <= decided_over:
            undecided.append(model)
    return undecided
