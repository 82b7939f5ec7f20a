"""After bars have been topped up, LIVE models are watched by themselves: asked for once for each state."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import dagster as dg
import numpy as np
import pandas as pd
import pytest

from postval_assets.defs.jobs import RANGE_END_TAG, RANGE_START_TAG
from postval_assets.io.warehouse import Append, Merge
from postval_assets_tests.defs.conftest import DECIDED, Home, over, step_failures


def make_live(home: Home, symbol: str) -> dict[str, Any]:
    """The newest decision of a symbol, with LIVE after it, as another policy might say."""
    [row] = home.rows(
        """
        SELECT archive_id, symbol, timeframe, plan, as_of, folds_digest FROM deployment_decisions
        WHERE symbol = ? AND as_of IS NOT NULL ORDER BY created_at DESC LIMIT 1
        """,
        symbol,
    )
    live = {**row, "policy": "standard", "decision": "LIVE", "reasons": ["PLANTED"], "decision_id": "0" * 12}
    write(home, Append("deployment_decisions", [live]))
    return row


def write(home: Home, change: Append | Merge) -> None:
    home.platform.warehouse.write([change], run_id="test", now=home.platform.now())


def add_bars(home: Home, symbol: str, n: int) -> None:
    """``n`` more bars after the newest one, each an hour, without a move."""
    [last] = home.rows(
        "SELECT * FROM bars WHERE symbol = ? AND timeframe = '1Hour' ORDER BY ts DESC LIMIT 1", symbol
    )
    del last["run_id"], last["created_at"]
    rng = np.random.default_rng(1)
    rows = []
    for hour in range(1, n + 1):
        price = last["close"] * float(np.exp(rng.normal(0.0, 0.005)))
        prices = dict.fromkeys(("open", "high", "low", "close"), price)
        rows.append({**last, **prices, "ts": last["ts"] + timedelta(hours=hour)})
    write(home, Merge("bars", rows))


def finish_any_run(home: Home) -> None:
    """As after the daily top-up: the sensor looks for what follows when another run has finished."""
    done = home.run("decision_job", over("MSFT", "MSFT"))
    assert done.success, step_failures(done)


def asked(result: dg.SensorResult | dg.SkipReason) -> list[tuple[str | None, str, str]]:
    if isinstance(result, dg.SkipReason):
        return []
    return [(r.job_name, r.tags[RANGE_START_TAG], r.tags[RANGE_END_TAG]) for r in result.run_requests or ()]


def test_newer_bars_of_a_live_model_bring_one_watch(decided: Home) -> None:
    cursor = decided.settle()
    live = make_live(decided, "AAPL")
    finish_any_run(decided)
    result, cursor = decided.queue_tick(cursor)
    assert asked(result) == [], "no bar is newer than its evaluation"

    add_bars(decided, "AAPL", 70)
    add_bars(decided, "NVDA", 70)
    finish_any_run(decided)
    result, cursor = decided.queue_tick(cursor)
    assert asked(result) == [("watch_job", "AAPL", "AAPL")], "NVDA is not LIVE"
    assert isinstance(result, dg.SensorResult)
    assert [r.tags["postval/archive_id"] for r in result.run_requests or ()] == [DECIDED]
    decided.run_requested(result)
    [row] = decided.rows("SELECT * FROM deployment_watches")
    assert (row["symbol"], row["plan"], row["as_of"]) == ("AAPL", live["plan"], live["as_of"])
    assert row["status"] in ("WATCHED", "NOT_WATCHED"), "flat folds are nothing to hold it against"
    assert row["watched_until"] == live["as_of"] + timedelta(hours=70)
    decided.settle(cursor)


def test_a_watch_that_fails_is_not_asked_for_again_for_the_same_bars(
    decided: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    cursor = decided.settle()
    make_live(decided, "AAPL")
    add_bars(decided, "AAPL", 70)
    finish_any_run(decided)
    result, cursor = decided.queue_tick(cursor)
    assert asked(result) == [("watch_job", "AAPL", "AAPL")]
    # the run is not executed; another one ends, and nothing has changed
    finish_any_run(decided)
    result, cursor = decided.queue_tick(cursor)
    assert asked(result) == []
    add_bars(decided, "AAPL", 1)
    finish_any_run(decided)
    assert asked(decided.queue_tick(cursor)[0]) == [("watch_job", "AAPL", "AAPL")]


def test_every_job_that_decides_watches_first(decided: Home) -> None:
    make_live(decided, "AAPL")
    add_bars(decided, "AAPL", 70)
    done = decided.run("decision_job", over("AAPL", "MSFT"))
    assert done.success, step_failures(done)
    order = [e.step_key for e in done.all_events if e.is_step_success]
    assert order.index("deployment_watches") < order.index("deployment_decisions")
    counts = {
        e.partition: e.step_materialization_data.materialization.metadata["dagster/partition_row_count"].value
        for e in done.all_events
        if e.is_step_materialization and e.step_key == "deployment_watches"
    }
    assert counts == {"AAPL": 1, "MSFT": 0}
    assert pd.notna(decided.rows("SELECT watched_until FROM deployment_watches")[0]["watched_until"])
