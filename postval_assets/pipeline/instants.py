"""Which models a stage is about, and which of their evaluations: asked for many models at once.

Here: the SQL that both questions share between stages. Not here: what a stage reads of those models. The newest
evaluation of all is also a view for people (``newest_evaluations`` in views.sql); here it is the newest one up to
some instant.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.pipeline.platform import Platform

ModelKey = tuple[str, str, str]
"""archive_id, symbol, timeframe."""

PlanKey = tuple[str, str, str, datetime, str]
"""archive_id, symbol, timeframe, as_of and plan."""

WANTED = "(SELECT unnest(CAST(? AS VARCHAR[])) AS archive_id, unnest(CAST(? AS VARCHAR[])) AS symbol)"
"""Pairs of archive and symbol, to be joined; its two parameters are ``wanted(archives)``."""

NEWEST_UNTIL = """
SELECT e.archive_id, e.symbol, e.timeframe,
       coalesce(max(e.as_of) FILTER (WHERE f.has_folds), max(e.as_of)) AS as_of,
       coalesce(bool_or(f.has_folds), false) AS has_folds
FROM evaluations e
LEFT JOIN (SELECT DISTINCT archive_id, symbol, timeframe, as_of, true AS has_folds FROM fold_results) f
  ON f.archive_id = e.archive_id AND f.symbol = e.symbol AND f.timeframe = e.timeframe AND f.as_of = e.as_of
WHERE e.as_of <= coalesce(CAST(? AS TIMESTAMPTZ), e.as_of)
GROUP BY e.archive_id, e.symbol, e.timeframe
"""
"""The view newest_evaluations, up to the instant that is its parameter; all of them where that is NULL."""


@dataclass(frozen=True)
class Instant:
    """A model's newest evaluation: when, and whether there are folds at it or only a backtest."""

    as_of: datetime
    has_folds: bool


def wanted(archives: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """The parameters of WANTED, from archive_id by symbol."""
    return list(archives.values()), list(archives)


def newest_instants(
    platform: Platform, archives: Mapping[str, str], *, until: datetime | None = None
) -> dict[ModelKey, Instant]:
    """The newest evaluation (up to ``until``) of each model of these symbols; one never evaluated is not in it."""
    rows = platform.warehouse.rows(
        f"SELECT n.* FROM ({NEWEST_UNTIL}) n JOIN {WANTED} w USING (archive_id, symbol)",  # noqa: S608 - constants
        (until, *wanted(archives)),
    )
    return {model_key(r): Instant(r["as_of"], r["has_folds"]) for r in rows}


def model_key(row: Mapping[str, object]) -> ModelKey:
    """The key of the model that a row is about."""
    return str(row["archive_id"]), str(row["symbol"]), str(row["timeframe"])


def plan_key(row: Mapping[str, Any]) -> PlanKey:
    """The key of the model, evaluation and plan that a row is about."""
    return (*model_key(row), row["as_of"], str(row["plan"]))
