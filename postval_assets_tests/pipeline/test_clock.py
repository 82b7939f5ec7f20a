"""A clock that jumps: what was decided last counts, whatever the times say, and nothing is done twice or left out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from postval_assets.io.warehouse import Append, Warehouse, query_replica
from postval_assets.pipeline.reading import archive_results
from postval_assets_tests.factories import good_claims, make_summary
from postval_assets_tests.pipeline.conftest import BUY, END, Bench, network

ARCHIVE = "20250201_000000"
BACK = [timedelta(hours=-3), timedelta(days=-9_000)]


def decision(decided: str, **given: object) -> dict[str, object]:
    row = {"archive_id": ARCHIVE, "symbol": "UPPUSD", "timeframe": "4Hour", "plan": "180d", "as_of": END}
    return {**row, "policy": "standard", "decision": decided, "reasons": [decided], **given}


@pytest.mark.parametrize("back", BACK)
@pytest.mark.parametrize("policy", ["standard", "evidence"])
def test_a_decision_made_after_the_clock_went_back_is_the_newest_one(
    bench: Bench, back: timedelta, policy: str
) -> None:
    warehouse, now = bench.platform.warehouse, datetime(2025, 3, 1, tzinfo=UTC)
    for n, decided in enumerate(("LIVE", "PAPER", "DROP")):
        rows = [decision(decided, policy=policy)]
        if policy != "standard":
            rows.append(decision("PAPER"))
        warehouse.write([Append("deployment_decisions", rows)], run_id=f"run-{3 - n}", now=now + n * back)
    column = "decision" if policy == "standard" else "decision_evidence"
    for view in ("latest_decisions", "leaderboard"):
        assert [r[column] for r in bench.rows(f"SELECT * FROM {view}")] == ["DROP"], view  # noqa: S608
    if policy == "standard":
        assert bench.rows("SELECT decision FROM symbol_history") == [{"decision": "DROP"}]
    warehouse.publish(bench.platform.replica)
    names, [row] = query_replica(bench.platform.replica, "SELECT * FROM latest_decisions")
    assert dict(zip(names, row, strict=True))[column] == "DROP"


def test_the_stages_go_on_from_the_last_decision_though_the_clock_went_back(bench: Bench) -> None:
    """Decided with thresholds of its own, then, years earlier by the clock, as before: the last one counts."""
    summary = make_summary({"UPPUSD_4Hour": good_claims()}, timestamp=ARCHIVE)
    archives = bench.intake(bench.deliver(bench.archive({"UPPUSD_4Hour": network(BUY)}, summary=summary)))
    bench.put_bars("UPPUSD", market="rising")
    bench.load(list(archives))
    bench.evaluate(archives)
    bench.decide(archives)
    strict = bench.configured(good_positive_share=2.0)
    bench.clock.at += timedelta(days=400)
    strict.decide(archives)
    assert len(bench.decisions("UPPUSD")) == 2
    bench.clock.at -= timedelta(days=4_000)
    bench.decide(archives)
    made = bench.rows(
        "SELECT decision, revision, created_at FROM deployment_decisions WHERE policy = 'standard' ORDER BY revision"
    )
    assert len(made) == 3, "what was decided last was not the same, so it is decided again"
    assert made[2]["created_at"] < made[0]["created_at"] < made[1]["created_at"]
    assert made[2]["decision"] == made[0]["decision"] == "LIVE" != made[1]["decision"]
    assert bench.one("SELECT decision FROM latest_decisions")["decision"] == "LIVE"
    results = archive_results(bench.platform, ARCHIVE, None)
    assert [r["decision"] for r in results.decisions] == ["LIVE"]
    bench.decide(archives)
    assert len(bench.decisions("UPPUSD")) == 3, "and not again and again"


def test_decisions_of_before_the_column_come_after_those_that_have_it(bench: Bench) -> None:
    """As after the migration: rows without a number are older than any row with one; among them the time counts."""
    warehouse: Warehouse = bench.platform.warehouse
    late = datetime(2030, 1, 1, tzinfo=UTC)
    for n, decided in enumerate(("LIVE", "RETRAIN")):
        warehouse.write(
            [Append("deployment_decisions", [decision(decided)])], run_id="old", now=late + timedelta(days=n)
        )
    with warehouse._session("a test") as connection:
        connection.execute("UPDATE deployment_decisions SET revision = NULL")
    assert bench.one("SELECT decision FROM latest_decisions")["decision"] == "RETRAIN"
    warehouse.write(
        [Append("deployment_decisions", [decision("PAPER")])], run_id="new", now=late - timedelta(days=99)
    )
    assert bench.one("SELECT decision FROM latest_decisions")["decision"] == "PAPER"


@pytest.mark.parametrize("jump", [*BACK, timedelta(days=9_000)])
def test_an_archive_dropped_again_after_a_jump_is_a_duplicate_and_nothing_is_computed_again(
    bench: Bench, jump: timedelta
) -> None:
    summary = make_summary({"UPPUSD_4Hour": good_claims()}, timestamp=ARCHIVE)
    file = bench.archive({"UPPUSD_4Hour": network(BUY)}, summary=summary)
    archives = bench.intake(bench.deliver(file))
    bench.put_bars("UPPUSD", market="rising")
    bench.load(list(archives))
    bench.evaluate(archives)
    bench.decide(archives)
    before = results(bench)
    bench.clock.at += jump
    again = bench.deliver(file)
    assert (again.outcome, again.attempt) == ("DUPLICATE", 1)
    bench.load(list(archives))
    bench.evaluate(archives)
    bench.decide(archives)
    assert results(bench) == before


def results(bench: Bench) -> list[list[dict[str, object]]]:
    """What the stages made; summaries are made anew from the same folds each time, so without when that was."""
    return [
        bench.rows("SELECT * FROM fold_results ORDER BY ALL"),
        bench.rows("SELECT * EXCLUDE (run_id, created_at) FROM walk_forward_summaries ORDER BY ALL"),
        bench.rows("SELECT * FROM deployment_decisions ORDER BY ALL"),
        bench.rows("SELECT * FROM evaluations ORDER BY ALL"),
    ]
