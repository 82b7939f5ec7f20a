"""Models that went LIVE, and the bars after it: who is watched, from when, and what becomes of the rows."""

from __future__ import annotations

import dataclasses
import shutil
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.deployment_watch import MIN_RETURNS
from postval_assets.core.evaluation import evaluate
from postval_assets.core.walk_forward import FoldStatus
from postval_assets.io.warehouse import Append, Replace
from postval_assets.pipeline import watching
from postval_assets.pipeline.platform import StageReport
from postval_assets.pipeline.watched import deployed_models, edges_lost, watches, watches_due
from postval_assets.pipeline.watching import watch_deployed
from postval_assets_tests.pipeline.conftest import BUY, END, HOLD, Bench, bars_frame, network

ARCHIVE = "20250201_000000"
MODEL = "UPPUSD_4Hour"
BAR = timedelta(hours=4)


def later(frame: pd.DataFrame, n: int, drift: float) -> pd.DataFrame:
    """The same bars with ``n`` more, which drift by so much a bar and swing as the earlier ones do."""
    t = np.arange(1, n + 1)
    close = frame["close"].iloc[-1] * np.exp(drift * t + 0.01 * np.sin(t * np.pi / 27))
    opened = np.r_[frame["close"].iloc[-1], close[:-1]]
    more = pd.DataFrame(
        {
            "ts": [frame["ts"].iloc[-1] + BAR * int(i) for i in t],
            "open": opened,
            "high": np.maximum(opened, close) * 1.001,
            "low": np.minimum(opened, close) * 0.999,
            "close": close,
            "volume": 1000.0,
        }
    )
    return pd.concat([frame, more], ignore_index=True)


def evaluated(bench: Bench, action: str = BUY, **arguments: Any) -> dict[str, str]:
    """A model that always buys in a market that rises steadily, evaluated and decided at END."""
    bench.put_bars("UPPUSD", market="rising")
    file = bench.archive({MODEL: network(action, **arguments)})
    delivery = bench.validate(file)
    return dict.fromkeys(delivery.symbols, delivery.archive_id)


def plant(bench: Bench, decision: str, as_of: datetime | None = END, **changes: Any) -> None:
    """A decision as some policy might have made it."""
    row = {
        "archive_id": ARCHIVE,
        "symbol": "UPPUSD",
        "timeframe": "4Hour",
        "plan": "180d",
        "as_of": as_of,
        "policy": "standard",
        "decision": decision,
        "reasons": ["PLANTED"],
        "decision_id": "0" * 12,
        **changes,
    }
    bench.platform.warehouse.write(
        [Append("deployment_decisions", [row])], run_id="plant", now=bench.platform.now()
    )


def accrue(bench: Bench, n: int, drift: float) -> datetime:
    """``n`` bars after END are there, the clock is a minute after the last one; its close."""
    bench.put_bars("UPPUSD", later(bars_frame("rising"), n, drift))
    until = END + n * BAR
    bench.clock.at = until + timedelta(minutes=1)
    bench.load(["UPPUSD"])
    return until


def look(bench: Bench, archives: dict[str, str], **how: Any) -> StageReport:
    return watch_deployed(bench.platform, archives, run_id=bench.run_id("watch"), **how)


def row(bench: Bench) -> dict[str, Any]:
    return bench.one("SELECT * FROM deployment_watches WHERE plan = '180d'")


# --- who is watched -----------------------------------------------------------------------------------------


def test_where_nothing_is_live_nothing_is_written(bench: Bench) -> None:
    archives = evaluated(bench, HOLD)
    assert {d["decision"] for d in bench.decisions("UPPUSD")} == {"RETRAIN"}
    accrue(bench, 60, 4e-4)
    report = look(bench, archives)
    assert [(s.symbol, s.n_rows, s.problems) for s in report.symbols] == [("UPPUSD", 0, ())]
    assert bench.rows("SELECT * FROM deployment_watches") == []
    assert watches_due(bench.platform) == ()
    assert edges_lost(bench.platform, archives) == {}


def test_a_steady_model_goes_live_and_is_watched_from_its_evaluation_on(bench: Bench) -> None:
    archives = evaluated(bench)
    assert bench.decisions("UPPUSD")[-1]["decision"] == "LIVE"
    assert watches_due(bench.platform) == (), "there is no bar after it yet"
    until = accrue(bench, 200, 4e-4)
    assert [d.symbols for d in watches_due(bench.platform)] == [("UPPUSD",)]
    report = look(bench, archives)
    found = row(bench)
    assert (found["as_of"], found["watched_until"], found["status"]) == (END, until, "WATCHED")
    assert found["n_returns"] == 200 - 2, "the first bar has no return, the last one closes the block"
    assert (found["alarm"], found["alarm_ts"]) == (False, None)
    assert found["return_since"] > 0
    assert found["sharpe_observed"] > found["sharpe_reference"] > 0
    assert found["statistic"] < 0 < found["boundary"]
    assert report.symbols[0].problems == ()
    assert watches_due(bench.platform) == ()
    assert [(w["alarm"], w["is_live"]) for w in watches(bench.platform)] == [(False, True)]


def test_any_policy_that_says_live_is_enough_and_the_newest_word_of_each_counts(bench: Bench) -> None:
    archives = evaluated(bench, HOLD)
    accrue(bench, 60, 0.0)
    plant(bench, "LIVE", policy="evidence")
    assert len(deployed_models(bench.platform)) == 1
    plant(bench, "PAPER", policy="evidence")
    assert deployed_models(bench.platform) == []
    look(bench, archives)
    assert bench.rows("SELECT * FROM deployment_watches") == []
    # anew of an older evaluation: that is not the newest word
    plant(bench, "PAPER", END + timedelta(days=7), policy="evidence")
    plant(bench, "LIVE", END, policy="evidence")
    assert deployed_models(bench.platform) == []
    plant(bench, "LIVE", END + timedelta(days=7), policy="evidence")
    [model] = deployed_models(bench.platform)
    assert model["as_of"] == END, "the first one that was LIVE"


def test_evaluating_again_every_week_does_not_move_where_it_is_watched_from(bench: Bench) -> None:
    archives = evaluated(bench)
    for week in (1, 2):
        until = accrue(bench, 42 * week, 4e-4)
        bench.evaluate(archives, as_of=until)
        bench.decide(archives, as_of=until)
        assert bench.decisions("UPPUSD")[-1]["as_of"] == until
        look(bench, archives)
        found = row(bench)
        assert (found["as_of"], found["watched_until"]) == (END, until)
    assert found["n_returns"] == 84 - 2


# --- alarms -------------------------------------------------------------------------------------------------


def test_a_lost_edge_alarms_and_stays_as_it_was(bench: Bench) -> None:
    archives = evaluated(bench)
    accrue(bench, 250, -3e-3)
    report = look(bench, archives)
    found = row(bench)
    assert found["alarm"]
    assert MIN_RETURNS <= found["n_returns"] < 248
    # the first return is that of the second bar
    assert found["alarm_ts"] == END + (found["n_returns"] + 1) * BAR
    assert found["statistic"] > found["boundary"]
    assert found["return_since"] < 0
    [problem] = report.symbols[0].problems
    assert "sequential test alarmed at" in problem
    [(key, reason)] = edges_lost(bench.platform, archives).items()
    assert key == (ARCHIVE, "UPPUSD", "4Hour", "180d")
    assert reason == (
        f"EDGE_LOST: since 2025-02-01 Sharpe {found['sharpe_observed']:.2f} over {found['n_returns']} bars, at least "
        f"{found['sharpe_reference']:.2f} expected; sequential test alarmed at {found['alarm_ts']:%Y-%m-%d} "
        "(5 % false alarms)"
    )
    # LIVE until a decision is made of it: that is worth one run
    assert [d.symbols for d in watches_due(bench.platform)] == [("UPPUSD",)]
    plant(bench, "RETRAIN")
    assert watches_due(bench.platform) == ()

    # it recovers, and is a lost edge all the same
    bench.put_bars("UPPUSD", later(later(bars_frame("rising"), 250, -3e-3), 300, 6e-3))
    bench.clock.at = END + 550 * BAR + timedelta(minutes=1)
    bench.load(["UPPUSD"])
    again = look(bench, archives)
    assert (again.symbols[0].n_rows, again.symbols[0].n_current) == (1, 1)
    assert row(bench) == found
    assert again.symbols[0].problems == (problem,)


def test_looks_in_between_come_to_the_same_alarm_as_one_at_the_end(bench: Bench) -> None:
    archives = evaluated(bench)
    first: dict[str, Any] = {}
    for n in (40, 80, 120, 180, 250):
        accrue(bench, n, -3e-3)
        look(bench, archives)
        found = row(bench)
        if found["alarm"]:
            first = first or found
            assert found == first
        elif n < MIN_RETURNS + 2:
            assert found["status"] == "TOO_EARLY"
    assert first
    bench.platform.warehouse.write(
        [Replace("deployment_watches", [{"archive_id": ARCHIVE}], [])], run_id="x", now=bench.platform.now()
    )
    look(bench, archives)
    whole = row(bench)
    same = ("alarm_ts", "n_returns", "statistic", "boundary", "sharpe_observed", "sharpe_reference", "reason")
    assert {name: whole[name] for name in same} == {name: first[name] for name in same}


def test_a_policy_that_breaks_is_an_alarm(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = evaluated(bench)
    accrue(bench, 100, 4e-4)
    of_engine = evaluate

    def broken(*arguments: Any) -> Any:
        [[done]] = of_engine(*arguments)
        assert done.run is not None
        cut = dataclasses.replace(done.run, equity=done.run.equity[:30])
        status = FoldStatus.BROKEN_POLICY
        return [[dataclasses.replace(done, status=status, reason="NaN at bar 30", run=cut)]]

    monkeypatch.setattr(watching, "evaluate", broken)
    look(bench, archives)
    found = row(bench)
    assert found["alarm"]
    assert (found["n_returns"], found["alarm_ts"]) == (29, END + 30 * BAR)
    assert found["reason"] == "since 2025-02-01 BROKEN_POLICY at 2025-02-06: NaN at bar 30"


# --- what there is to do ------------------------------------------------------------------------------------


def test_what_is_current_is_not_computed_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    archives = evaluated(bench)
    accrue(bench, 100, 4e-4)
    look(bench, archives)
    before = row(bench)
    monkeypatch.setattr(watching, "evaluate", None)
    report = look(bench, archives)
    assert (report.symbols[0].n_rows, report.symbols[0].n_current) == (1, 1)
    assert report.symbols[0].said == ()
    assert row(bench) == before
    # what was seen later stays, whatever an earlier instant would have shown
    look(bench, archives, now=END + 80 * BAR)
    assert row(bench) == before


def test_too_few_bars_for_a_first_look(bench: Bench) -> None:
    archives = evaluated(bench)
    until = accrue(bench, 30, -0.01)
    look(bench, archives)
    found = row(bench)
    assert (found["status"], found["n_returns"], found["alarm"]) == ("TOO_EARLY", 28, False)
    assert found["reason"] == "28 of the 50 bars that the first look needs"
    assert found["sharpe_reference"] > 0
    assert (found["sharpe_observed"], found["statistic"], found["watched_until"]) == (None, None, until)


def test_a_bar_that_is_not_complete_does_not_exist(bench: Bench) -> None:
    archives = evaluated(bench)
    accrue(bench, 100, 4e-4)
    look(bench, archives, now=END + 90 * BAR - timedelta(minutes=1))
    assert row(bench)["n_returns"] == 89 - 2


def test_weights_that_are_gone_with_their_archive_are_said_and_looked_for_again(bench: Bench) -> None:
    archives = evaluated(bench)
    accrue(bench, 100, 4e-4)
    weights, store = bench.root / "data" / "weights", bench.root / "data" / "archives"
    shutil.move(weights, bench.root / "aside")
    shutil.move(store, bench.root / "aside-archives")
    report = look(bench, archives)
    found = row(bench)
    assert (found["status"], found["alarm"], found["n_returns"]) == ("NOT_WATCHED", False, None)
    assert "weights" in found["reason"]
    assert "are not there" in found["reason"]
    assert report.symbols[0].problems != ()
    shutil.move(bench.root / "aside", weights)
    look(bench, archives)
    assert row(bench)["status"] == "WATCHED"


def test_weights_that_the_archive_still_has_are_made_anew(bench: Bench) -> None:
    archives = evaluated(bench)
    accrue(bench, 100, 4e-4)
    shutil.rmtree(bench.root / "data" / "weights")
    look(bench, archives)
    assert row(bench)["status"] == "WATCHED"


def test_folds_without_returns_are_nothing_to_hold_it_against(bench: Bench) -> None:
    archives = evaluated(bench, HOLD)
    accrue(bench, 100, 4e-4)
    plant(bench, "LIVE", policy="evidence")
    look(bench, archives)
    found = row(bench)
    assert (found["status"], found["sharpe_reference"]) == ("NOT_WATCHED", None)
    assert "nothing to hold it against" in found["reason"]


def test_a_model_does_not_stop_its_neighbours(bench: Bench) -> None:
    frame = bench.put_bars("UPPUSD", market="rising")
    bench.put_bars("UPBUSD", frame)
    other = network(BUY)
    other["overrides"]["policy_state_dict"]["actor_head.bias"][3] = 2.0
    delivery = bench.validate(bench.archive({"UPBUSD_4Hour": other, MODEL: network(BUY)}))
    archives = dict.fromkeys(delivery.symbols, delivery.archive_id)
    assert {bench.decisions(s)[-1]["decision"] for s in archives} == {"LIVE"}
    more = later(frame, 100, 4e-4)
    bench.put_bars("UPPUSD", more)
    bench.put_bars("UPBUSD", more)
    bench.clock.at = END + 100 * BAR + timedelta(minutes=1)
    bench.load(list(archives))
    gone = bench.one("SELECT model_sha256 FROM extracted_models WHERE symbol = 'UPBUSD'")["model_sha256"]
    bench.platform.models.path_of(gone).unlink()
    for file in (bench.root / "data" / "archives").glob("*.zip"):
        file.unlink()
    report = look(bench, archives)
    states = {r["symbol"]: r["status"] for r in bench.rows("SELECT symbol, status FROM deployment_watches")}
    assert states == {"UPBUSD": "NOT_WATCHED", "UPPUSD": "WATCHED"}
    assert {s.symbol: bool(s.problems) for s in report.symbols} == {"UPBUSD": True, "UPPUSD": False}
