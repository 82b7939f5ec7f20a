"""Deployed models as text: what each promised, what it has earned since, and whether the edge is lost.

Here: layout. Not here: the test (core.deployment_watch), or its rows (pipeline/watching.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from postval_assets.report.text import instant, safe, table

Row = Mapping[str, Any]

NOTHING_LIVE = "no model is LIVE: there is nothing to watch"


def watch_text(rows: Sequence[Row]) -> str:
    """A line for each model and plan that went LIVE, and below in words what is not as it should be.

    Args:
        rows: as pipeline.watched.watches has them.
    """
    if not rows:
        return NOTHING_LIVE
    headers = (
        *("symbol", "timeframe", "plan", "archive", "LIVE since", "until", "bars", "at least", "observed"),
        *("return", "shortfall", "alarm above", "state"),
    )
    body = [
        (
            *(r["symbol"], r["timeframe"], r["plan"], r["archive_id"], instant(r["as_of"])),
            *(instant(r["alarm_ts"] if r["alarm"] else r["watched_until"]), r["n_returns"]),
            *(_number(r["sharpe_reference"]), _number(r["sharpe_observed"])),
            *(_percent(r["return_since"], sign="+"), _percent(r["statistic"]), _percent(r["boundary"])),
            state(r),
        )
        for r in rows
    ]
    words = [
        safe(f"{r['symbol']} {r['timeframe']} {r['plan']}: {r['reason']}")
        for r in rows
        if r["reason"] and state(r) != "holds"
    ]
    return "\n\n".join([table(headers, body), *(["\n".join(words)] if words else [])])


def state(row: Row) -> str:
    """What the watch says of a model, in a word or two."""
    if row["alarm"]:
        return "EDGE LOST"
    words = {"WATCHED": "holds", "TOO_EARLY": "too early", "NOT_WATCHED": "NOT WATCHED"}
    return words.get(row["status"], "not looked at yet")


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None, *, sign: str = "") -> str:
    return "-" if value is None else f"{value * 100:{sign}.2f}%"
