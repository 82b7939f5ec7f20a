"""Deployed models as the warehouse has them: since when, what the watch says of each, and which have newer bars.

Here: questions about the tables. Not here: making the rows (watching.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from postval_assets.core.decision import Reason
from postval_assets.core.evaluation import digest_of
from postval_assets.core.instruments import Timeframe
from postval_assets.pipeline.instants import WANTED, wanted
from postval_assets.pipeline.market import stored_series
from postval_assets.pipeline.platform import Platform

DEPLOYED = """
WITH newest AS (
    SELECT archive_id, symbol, timeframe, plan, decision FROM deployment_decisions
    WHERE plan IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY archive_id, symbol, timeframe, plan, policy
        ORDER BY as_of DESC NULLS LAST, revision DESC NULLS LAST, created_at DESC, run_id DESC
    ) = 1
),
first_live AS (
    SELECT archive_id, symbol, timeframe, plan, as_of FROM deployment_decisions
    WHERE decision = 'LIVE' AND as_of IS NOT NULL AND plan IS NOT NULL
    QUALIFY row_number() OVER (
        PARTITION BY archive_id, symbol, timeframe, plan ORDER BY revision NULLS FIRST, created_at, run_id, as_of
    ) = 1
)
SELECT l.archive_id, l.symbol, l.timeframe, l.as_of, l.plan, bool_or(n.decision = 'LIVE') AS is_live,
       any_value(w.alarm) AS alarm, any_value(w.watched_until) AS watched_until
FROM first_live l
JOIN newest n USING (archive_id, symbol, timeframe, plan)
LEFT JOIN deployment_watches w USING (archive_id, symbol, timeframe, as_of, plan)
GROUP BY ALL
HAVING is_live OR any_value(w.alarm)
"""
"""Models and plans of which the newest decision of some policy is LIVE, or that have alarmed; ``as_of`` is that of the
first decision that was LIVE, whichever policy made it."""

_EDGES_LOST = f"""
SELECT archive_id, symbol, timeframe, plan, reason FROM deployment_watches JOIN {WANTED} t USING (archive_id, symbol)
WHERE alarm ORDER BY created_at
"""  # noqa: S608 - constants
_WATCHES = f"""
SELECT d.archive_id, d.symbol, d.timeframe, d.plan, d.as_of, d.is_live, w.watched_until, w.n_returns,
       w.sharpe_reference, w.sharpe_observed, w.return_since, w.statistic, w.boundary,
       coalesce(w.alarm, false) AS alarm, w.alarm_ts, w.status, w.reason
FROM ({DEPLOYED}) d
LEFT JOIN deployment_watches w USING (archive_id, symbol, timeframe, as_of, plan)
ORDER BY d.symbol, d.timeframe, d.archive_id, d.plan
"""  # noqa: S608 - constants


def deployed_models(platform: Platform, symbols: Collection[str] | None = None) -> list[dict[str, Any]]:
    """Rows of DEPLOYED, of these symbols or of all."""
    rows = platform.warehouse.rows(f"{DEPLOYED} ORDER BY ALL")
    return [r for r in rows if symbols is None or r["symbol"] in symbols]


def watches(platform: Platform, symbols: Collection[str] | None = None) -> list[dict[str, Any]]:
    """What the watch says of each deployed model and plan; NULLs where it was not looked at yet."""
    rows = platform.warehouse.rows(_WATCHES)
    return [r for r in rows if symbols is None or r["symbol"] in symbols]


def edges_lost(platform: Platform, archives: Mapping[str, str]) -> dict[tuple[str, str, str, str], str]:
    """Why models of these symbols may no longer be LIVE.

    Args:
        platform: warehouse.
        archives: archive_id by symbol.

    Returns:
        By archive_id, symbol, timeframe and plan the reason, its word first.
    """
    return {
        (r["archive_id"], r["symbol"], r["timeframe"], r["plan"]): f"{Reason.EDGE_LOST}: {r['reason']}"
        for r in platform.warehouse.rows(_EDGES_LOST, wanted(archives))
    }


@dataclass(frozen=True)
class DueWatches:
    """Symbols of an archive whose deployed models are to be looked at again.

    Attributes:
        archive_id: which archive.
        symbols: sorted.
        state: digest of what is new about them: the same state is worth one attempt, not one every few seconds.
    """

    archive_id: str
    symbols: tuple[str, ...]
    state: str


def watches_due(platform: Platform) -> tuple[DueWatches, ...]:
    """LIVE models with bars that the watch has not seen, or with an alarm that no decision was made of; by archive."""
    live = [r for r in deployed_models(platform) if r["is_live"]]
    if not live:
        return ()
    series = stored_series(platform, sorted({r["symbol"] for r in live}))
    due: dict[str, dict[str, list[str]]] = {}
    for r in live:
        timeframe = Timeframe(r["timeframe"])
        reaches = [
            s.reach for t, s in series.get(r["symbol"], {}).items() if timeframe.minutes % t.minutes == 0
        ]
        new = _what_is_new(r, timeframe, max(reaches, default=None))
        if new is not None:
            words = f"{timeframe} {r['plan']} {r['as_of'].isoformat()} {new}"
            due.setdefault(r["archive_id"], {}).setdefault(r["symbol"], []).append(words)
    return tuple(
        DueWatches(archive_id, tuple(sorted(symbols)), digest_of({"due": symbols}))
        for archive_id, symbols in due.items()
    )


def _what_is_new(row: Mapping[str, Any], timeframe: Timeframe, reach: datetime | None) -> str | None:
    if row["alarm"]:
        return "alarm"
    seen = row["watched_until"] or row["as_of"]
    if reach is None or reach < seen + timedelta(minutes=timeframe.minutes):
        return None
    return reach.isoformat()
