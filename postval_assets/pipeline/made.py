"""What the warehouse shows to have been made: partitions, their rows, and what was found wrong with them.

Here: queries over every stage's table, for an asset catalogue that was lost. Not here: the catalogue
(commands/rebuilding.py).

A symbol that has a decision went through every stage, also through those that left no row of it (the folds of a model
that the gate dropped). Without one, it counts for the stages of which it has rows.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.folds import PLANS
from postval_assets.core.walk_forward import COMPUTED
from postval_assets.pipeline.platform import Platform

FoldKey = tuple[str, str]
"""symbol and fold, such as 365d-01."""

# By asset: its rows by symbol, without names that are no partition (models of which not even the symbol is usable).
_LISTED = "list_contains(a.models, t.symbol || '_' || t.timeframe)"
_OF_MODELS = """
SELECT t.symbol, count(*) AS n_rows, max(t.created_at) AS written_at
FROM {table} AS t JOIN training_archives AS a ON a.archive_id = t.archive_id WHERE {listed} GROUP BY t.symbol
"""
_TABLES = {
    "extracted_models": "extracted_models",
    "gating_scores": "gating_scores",
    "backtest_results": "backtest_results",
    "walk_forward_evaluations": "fold_results",
    "claim_reproductions": "claim_reproductions",
    "walk_forward_summaries": "walk_forward_summaries",
    "champion_comparisons": "champion_comparisons",
    "deployment_watches": "deployment_watches",
    "deployment_decisions": "deployment_decisions",
}
_BARS = """
SELECT l.symbol, coalesce(any_value(b.n_rows), 0) AS n_rows, max(l.created_at) AS written_at
FROM bar_loads AS l
LEFT JOIN (SELECT symbol, count(*) AS n_rows FROM bars GROUP BY symbol) AS b ON b.symbol = l.symbol
GROUP BY l.symbol
"""
_FOLDS = """
SELECT symbol, plan, fold, count(*) AS n_rows, max(created_at) AS written_at
FROM fold_results GROUP BY symbol, plan, fold
"""
_ARCHIVES = """
SELECT a.archive_id, a.models, 1 AS n_rows, coalesce(d.first_seen, a.created_at) AS first_seen,
       a.created_at AS written_at
FROM training_archives AS a
LEFT JOIN (
    SELECT archive_id, min(seen_at) AS first_seen FROM archive_deliveries GROUP BY archive_id
) AS d ON d.archive_id = a.archive_id
ORDER BY first_seen, a.archive_id
"""
_EVIDENCE = """
SELECT archive_id, count(*) AS n_rows, max(created_at) AS written_at FROM archive_evidence GROUP BY archive_id
"""
# By check: its asset, and what was wrong, model by model of each symbol's newest archive.
_NEWEST = """
WITH newest AS (
    SELECT regexp_replace(model, '_[^_]*$', '') AS symbol, max(archive_id) AS archive_id
    FROM (SELECT archive_id, unnest(models) AS model FROM training_archives WHERE status <> 'REJECTED') GROUP BY ALL
)
"""
_MODEL_PROBLEMS = {
    ("extracted_models", "models_are_usable"): """
        SELECT t.symbol, t.timeframe || ': ' || t.status || ', ' || coalesce(t.reason, '') AS problem
        FROM extracted_models AS t JOIN newest AS n ON n.symbol = t.symbol AND n.archive_id = t.archive_id
        WHERE t.status <> 'OK' ORDER BY ALL""",
    ("gating_scores", "claims_are_valid"): """
        SELECT t.symbol, t.timeframe || ': INVALID, ' || coalesce(t.reason, '') AS problem
        FROM gating_scores AS t JOIN newest AS n ON n.symbol = t.symbol AND n.archive_id = t.archive_id
        WHERE t.classification = 'INVALID' ORDER BY ALL""",
    ("bars", "symbols_have_bars"): """
        SELECT symbol, timeframe || ': ' || status || ', ' || coalesce(reason, '') AS problem
        FROM bar_loads WHERE status <> 'OK' ORDER BY ALL""",
    ("bars", "bars_are_sound"): """
        SELECT symbol, severity || ': ' || timeframe || ' ' || check_name || ', ' || coalesce(detail, '') AS problem
        FROM bar_quality WHERE severity <> 'OK' ORDER BY ALL""",
    ("backtest_results", "backtests_are_computed"): """
        SELECT t.symbol, t.timeframe || ': ' || t.status || ', ' || coalesce(t.reason, '') AS problem
        FROM backtest_results AS t JOIN newest AS n ON n.symbol = t.symbol AND n.archive_id = t.archive_id
        JOIN newest_evaluations AS e ON e.archive_id = t.archive_id AND e.symbol = t.symbol
            AND e.timeframe = t.timeframe AND e.as_of = t.as_of
        WHERE NOT list_contains(?, t.status) ORDER BY ALL""",
    ("claim_reproductions", "claims_are_reproduced"): """
        SELECT t.symbol, t.timeframe || ': CLAIM_NOT_REPRODUCED: ' || coalesce(t.reason, '') AS problem
        FROM claim_reproductions AS t JOIN newest AS n ON n.symbol = t.symbol AND n.archive_id = t.archive_id
        WHERE t.status = 'DISAGREES' ORDER BY ALL""",
    ("walk_forward_evaluations", "folds_are_computed"): """
        SELECT t.symbol, t.timeframe || ' ' || t.plan || '-' || t.fold || ': ' || t.status || ', '
            || coalesce(t.reason, '') AS problem
        FROM fold_results AS t JOIN newest AS n ON n.symbol = t.symbol AND n.archive_id = t.archive_id
        JOIN newest_evaluations AS e ON e.archive_id = t.archive_id AND e.symbol = t.symbol
            AND e.timeframe = t.timeframe AND e.as_of = t.as_of
        WHERE NOT list_contains(?, t.status) ORDER BY ALL""",
    ("deployment_watches", "edges_hold"): """
        SELECT t.symbol, t.timeframe || ' ' || t.plan || ': ' || t.status || ', ' || coalesce(t.reason, '') AS problem
        FROM deployment_watches AS t JOIN newest AS n ON n.symbol = t.symbol AND n.archive_id = t.archive_id
        WHERE t.alarm OR t.status = 'NOT_WATCHED' ORDER BY ALL""",
}


@dataclass(frozen=True)
class Rows:
    """What a table holds of a partition: how many rows, and when the newest was written, UTC."""

    n_rows: int
    written_at: datetime


@dataclass(frozen=True)
class Made:
    """Everything that was made.

    Attributes:
        archives: archive_ids in the order in which they were first delivered.
        symbols: in that order too, as each archive lists them; then those that only have bars, by name.
        by_symbol: of each asset that is partitioned by symbol, rows by symbol.
        by_archive: of each asset that is partitioned by archive, rows by archive_id.
        folds: of fold_results, rows by symbol and fold.
        problems: of each (asset, check), what was wrong by symbol; empty where nothing was.
    """

    archives: tuple[str, ...]
    symbols: tuple[str, ...]
    by_symbol: Mapping[str, Mapping[str, Rows]]
    by_archive: Mapping[str, Mapping[str, Rows]]
    folds: Mapping[FoldKey, Rows]
    problems: Mapping[tuple[str, str], Mapping[str, tuple[str, ...]]]


def what_was_made(platform: Platform) -> Made:
    """Read it from the warehouse, which need not be complete."""
    read = platform.warehouse.rows
    archives = read(_ARCHIVES)
    by_symbol = {
        asset: _by(read(_OF_MODELS.format(table=table, listed=_LISTED)), "symbol")
        for asset, table in _TABLES.items()
    }
    by_symbol["bars"] = _by(read(_BARS), "symbol")
    for symbol, decided in by_symbol["deployment_decisions"].items():
        for rows in by_symbol.values():
            rows.setdefault(symbol, Rows(0, decided.written_at))
    folds = {
        (row["symbol"], PLANS[row["plan"]].fold_keys()[row["fold"] - 1]): _rows(row)
        for row in read(_FOLDS)
        if row["plan"] in PLANS and 1 <= row["fold"] <= PLANS[row["plan"]].n_folds
    }
    of_archives = [m.rpartition("_")[0] for row in archives for m in row["models"] or ()]
    only_bars = sorted(set(by_symbol["bars"]) - set(of_archives))
    return Made(
        archives=tuple(row["archive_id"] for row in archives),
        symbols=tuple(dict.fromkeys([*of_archives, *only_bars])),
        by_symbol=by_symbol,
        by_archive={
            "training_archives": _by(archives, "archive_id"),
            "archive_evidence": _by(read(_EVIDENCE), "archive_id"),
        },
        folds=folds,
        problems={check: _problems(platform, sql) for check, sql in _MODEL_PROBLEMS.items()},
    )


def _by(rows: list[dict[str, Any]], name: str) -> dict[str, Rows]:
    return {str(row[name]): _rows(row) for row in rows}


def _rows(row: Mapping[str, Any]) -> Rows:
    return Rows(int(row["n_rows"]), row["written_at"])


def _problems(platform: Platform, sql: str) -> dict[str, tuple[str, ...]]:
    params = ([status.value for status in COMPUTED],) if "?" in sql else ()
    found: dict[str, tuple[str, ...]] = {}
    for row in platform.warehouse.rows(f"{_NEWEST} {sql}", params):
        found[row["symbol"]] = (*found.get(row["symbol"], ()), row["problem"])
    return found
