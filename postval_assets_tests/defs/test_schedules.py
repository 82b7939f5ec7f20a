"""The schedules: off until somebody turns them on; what they ask for runs, and lets the record of a model grow."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import dagster as dg
import pytest

from postval_assets.defs.jobs import RANGE_END_TAG, RANGE_START_TAG
from postval_assets.defs.resources import PlatformResource
from postval_assets.defs.schedules import SCHEDULES, evaluate_newest, top_up_bars
from postval_assets_tests.defs.conftest import DECIDED, Home, archive_of

AT = datetime(2025, 3, 8, 3, 30, tzinfo=UTC)


def tick(home: Home, schedule: dg.ScheduleDefinition, at: datetime = AT) -> dg.ScheduleExecutionData:
    """What a schedule asks for at a time."""
    resources = {"platform": PlatformResource.of(home.settings)}
    with dg.build_schedule_context(
        home.instance, scheduled_execution_time=at, resources=resources
    ) as context:
        return schedule.evaluate_tick(context)


def ranges(data: dg.ScheduleExecutionData) -> list[tuple[str, str]]:
    requests = data.run_requests or ()
    return [(r.tags[RANGE_START_TAG], r.tags[RANGE_END_TAG]) for r in requests]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_a_schedule_is_off_until_it_is_turned_on(schedule: dg.ScheduleDefinition) -> None:
    assert schedule.default_status is dg.DefaultScheduleStatus.STOPPED
    assert schedule.execution_timezone == "UTC"
    assert len(str(schedule.cron_schedule).split()) == 5


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_without_symbols_there_is_nothing_to_do(home: Home, schedule: dg.ScheduleDefinition) -> None:
    assert "an archive brings them" in str(tick(home, schedule).skip_message)


def test_bars_of_all_symbols_are_topped_up_in_ranges(decided: Home) -> None:
    data = tick(decided, top_up_bars)
    assert ranges(data) == [("AAPL", "NVDA")]
    [request] = data.run_requests or ()
    done = decided.run("bars_job", request.tags)
    assert done.success
    assert {e.step_key for e in done.all_events if e.is_step_success} == {"bars"}
    few = Home(decided.settings.model_copy(update={"symbols_per_run": 2}), decided.platform, decided.instance)
    two = tick(few, top_up_bars)
    assert ranges(two) == [("AAPL", "MSFT"), ("NVDA", "NVDA")]
    keys = [r.run_key for r in two.run_requests or ()]
    assert len(set(keys)) == 2
    assert keys == [r.run_key for r in tick(few, top_up_bars).run_requests or ()], "one tick asks once"
    other = tick(few, top_up_bars, AT.replace(day=9)).run_requests or ()
    assert not set(keys) & {r.run_key for r in other}


def test_each_symbol_is_evaluated_in_its_newest_archive(decided: Home, tmp_path: Path) -> None:
    newer = "20250302_180000"
    taken, _ = decided.take(archive_of(tmp_path / "made", newer, ["MSFT", "SPY"]))
    decided.run_requested(taken)
    requests = tick(decided, evaluate_newest).run_requests or ()
    assert [
        (r.tags["postval/archive_id"], r.tags[RANGE_START_TAG], r.tags[RANGE_END_TAG]) for r in requests
    ] == [
        (DECIDED, "AAPL", "AAPL"),
        (DECIDED, "NVDA", "NVDA"),
        (newer, "MSFT", "MSFT"),
        (newer, "SPY", "SPY"),
    ]
    assert {r.tags["postval/as_of"] for r in requests} == {AT.isoformat()}
    assert len({r.run_key for r in requests}) == 4


def test_an_evaluation_on_newer_bars_is_a_new_one_and_the_earlier_one_stays(
    home: Home, tmp_path: Path
) -> None:
    taken, cursor = home.take(archive_of(tmp_path / "made", DECIDED, ["AAPL"]))
    [first] = taken.run_requests or ()
    newest = home.run("bars_job", first.tags)
    assert newest.success
    end = home.rows("SELECT max(ts) AS ts FROM bars")[0]["ts"]
    early = end.replace(day=1)
    assert home.run("archive_job", {**first.tags, "postval/as_of": early.isoformat()}).success
    evaluated = home.rows("SELECT as_of FROM evaluations")
    before = home.rows("SELECT * FROM fold_results ORDER BY fold")
    assert [r["as_of"] <= early for r in evaluated] == [True]

    [request] = tick(home, evaluate_newest, datetime.now(UTC)).run_requests or ()
    assert home.run("evaluation_job", request.tags).success
    after = home.rows("SELECT * FROM fold_results ORDER BY as_of, fold")
    assert after[: len(before)] == before
    assert len(after) == 2 * len(before)
    assert len(home.rows("SELECT DISTINCT as_of FROM deployment_decisions WHERE policy = 'standard'")) == 2
    assert len(home.rows("SELECT DISTINCT as_of FROM backtest_results")) == 2
    # the next week without newer bars brings nothing
    [again] = tick(home, evaluate_newest, datetime.now(UTC)).run_requests or ()
    assert home.run("evaluation_job", again.tags).success
    assert home.rows("SELECT * FROM fold_results ORDER BY as_of, fold") == after
    home.settle(cursor)
