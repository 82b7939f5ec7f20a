"""The queue sensor's ticks: wait while runs are unfinished, bring decisions up to the folds, publish."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from postval_assets.definitions import defs
from postval_assets.defs.assets import fold_results
from postval_assets.defs.jobs import RANGE_END_TAG, RANGE_START_TAG
from postval_assets.defs.resources import PlatformResource
from postval_assets.io.warehouse import query_replica
from postval_assets_tests.defs.conftest import DECIDED, Home, archive_of, opened_home


def message(result: dg.SensorResult | dg.SkipReason) -> str:
    assert isinstance(result, dg.SkipReason), result
    return str(result.skip_message)


def backfill(home: Home, *keys: str) -> None:
    """Folds as the UI materializes them: each in a run of its own, without tags of ours."""
    resources = {"platform": PlatformResource.of(home.settings)}
    for key in keys:
        done = dg.materialize([fold_results], instance=home.instance, resources=resources, partition_key=key)
        assert done.success


def test_an_unfinished_run_of_any_kind_is_waited_for(decided: Home) -> None:
    backfill(decided, "365d-01|AAPL")
    run = decided.instance.create_run_for_job(
        defs.resolve_job_def("archive_job"), status=dg.DagsterRunStatus.STARTED
    )
    before = decided.platform.replica.stat().st_mtime_ns
    assert message(decided.queue_tick()[0]) == "1 run(s) are queued or running"
    assert decided.platform.replica.stat().st_mtime_ns == before
    decided.instance.report_run_canceled(run)
    assert isinstance(decided.queue_tick()[0], dg.SensorResult)


def test_without_anything_to_do_the_database_is_published_once(home: Home, tmp_path: Path) -> None:
    home.take(archive_of(tmp_path / "made", DECIDED, ["AAPL"]))
    first, cursor = home.queue_tick()
    assert message(first) == "PUBLISHED: postval.duckdb"
    assert message(home.queue_tick(cursor)[0]) == "UNCHANGED: postval.duckdb"
    _, rows = query_replica(home.platform.replica, "SELECT archive_id FROM training_archives")
    assert rows == [(DECIDED,)]


def test_folds_newer_than_their_summaries_bring_a_run_for_exactly_their_symbols(decided: Home) -> None:
    _, cursor = decided.queue_tick()
    backfill(decided, "365d-01|AAPL", "365d-02|AAPL", "365d-01|NVDA")
    result, cursor = decided.queue_tick(cursor)
    assert isinstance(result, dg.SensorResult)
    requests = result.run_requests or ()
    assert {request.job_name for request in requests} == {"decision_job"}
    ranges = [(r.tags[RANGE_START_TAG], r.tags[RANGE_END_TAG]) for r in requests]
    assert ranges == [("AAPL", "AAPL"), ("NVDA", "NVDA")]
    assert {r.tags["postval/archive_id"] for r in requests} == {DECIDED}
    assert len({r.run_key for r in requests}) == 2

    decided.run_requested(result)
    decided.settle(cursor)
    found = decided.rows(
        "SELECT symbol, n_computed FROM walk_forward_summaries WHERE plan = '365d' ORDER BY 1"
    )
    assert found == [{"symbol": "AAPL", "n_computed": 2}, {"symbol": "NVDA", "n_computed": 1}]
    _, rows = query_replica(
        decided.platform.replica,
        "SELECT DISTINCT symbol FROM deployment_decisions WHERE plan = '365d' ORDER BY 1",
    )
    assert rows == [("AAPL",), ("NVDA",)]


def test_a_follow_up_that_changes_nothing_is_not_asked_for_again_and_again(decided: Home) -> None:
    # As if postval.toml had been edited while the daemon runs: runs read it anew, the daemon does not.
    _, cursor = decided.queue_tick()
    backfill(decided, "365d-01|AAPL")
    asked = 0
    for _ in range(5):
        result, cursor = decided.queue_tick(cursor)
        if isinstance(result, dg.SkipReason):
            continue
        for request in result.run_requests or ():
            asked += request.job_name == "decision_job"
            job = str(request.job_name)
            assert decided.run(job, request.tags, request.partition_key, good_sharpe_std=0.9).success
    assert asked <= 2, "once for the folds, once for what the other settings made of their neighbours"
    assert message(decided.queue_tick(cursor)[0]) == "UNCHANGED: postval.duckdb"


def test_a_failed_run_is_followed_by_a_publication_too(home: Home, tmp_path: Path) -> None:
    home.queue_tick()
    taken, _ = home.take(archive_of(tmp_path / "made", DECIDED, ["AAPL"]))
    [request] = taken.run_requests or ()
    (home.settings.inbox / f"Alpaca_trading_trained_{DECIDED}.zip").unlink()
    assert not home.run("archive_job", request.tags).success
    assert message(home.queue_tick()[0]) == "PUBLISHED: postval.duckdb"


@pytest.fixture
def held(tmp_path: Path) -> Iterator[Home]:
    """A home whose warehouse is waited for only briefly."""
    with opened_home(tmp_path / "data", lock_timeout_s=0.2) as opened:
        yield opened


def test_a_warehouse_that_is_held_is_said_by_the_tick(held: Home) -> None:
    held.queue_tick()
    with held.platform.warehouse._locked("a test"):
        assert "warehouse.duckdb.lock was held for" in message(held.queue_tick()[0])
