"""Runs of the jobs: which archive they are about, what they report, and what wrong tags do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from postval_assets.defs.assets import fold_results, training_archives
from postval_assets.defs.checks import inputs_are_current
from postval_assets.defs.resources import PlatformResource
from postval_assets_tests.defs.conftest import (
    DECIDED,
    DECIDED_SYMBOLS,
    Home,
    archive_of,
    over,
    step_failures,
)
from postval_assets_tests.factories import drop_claims, good_claims, make_summary

LATER = "20250601_120000"


@pytest.mark.parametrize(
    ("tag", "value", "words"),
    [
        ("postval_archive_id", "20990101_000000", "archive '20990101_000000' is unknown"),
        ("postval_plans", "90d", "plan '90d' is unknown: expected one of 180d, 365d"),
        ("postval_as_of", "yesterday", "time 'yesterday' cannot be read"),
        ("postval_as_of", "2025-01-01T00:00:00", "has no offset"),
    ],
)
def test_a_wrong_tag_fails_the_run_at_its_start_without_retrying(
    decided: Home, tag: str, value: str, words: str
) -> None:
    done = decided.run("archive_job", over("AAPL", "NVDA", **{tag: value}))
    failures = step_failures(done)
    assert not done.success
    assert any(words in message for message in failures.values()), failures
    assert not [event for event in done.all_events if event.is_step_up_for_retry]
    # Bars belong to no archive and are loaded all the same.
    assert set(failures) == {"extracted_models"}
    written = decided.rows("SELECT count(*) AS n FROM extracted_models WHERE run_id = ?", done.run_id)
    assert written == [{"n": 0}]


@pytest.mark.parametrize(
    "job", ["bars_job", "archive_job", "evaluation_job", "decision_job", "watch_job", "evidence_job"]
)
def test_a_run_without_a_partition_says_what_to_do(decided: Home, job: str) -> None:
    done = decided.run(job, {})
    assert not done.success
    events = [e.dagster_event for e in decided.instance.all_logs(done.run_id) if e.dagster_event is not None]
    [failed] = [e for e in events if e.event_type_value == "RESOURCE_INIT_FAILURE"]
    told = str(failed.engine_event_data.error)
    assert "this run was launched without a partition" in told
    assert "postval bars" in told
    assert not any("Invariant" in str(e) for e in events)
    assert not [e for e in events if e.event_type_value == "STEP_START"], "nothing was begun"


def test_a_run_without_the_tag_takes_each_symbols_newest_archive_and_records_it(
    decided: Home, tmp_path: Path
) -> None:
    decided.take(archive_of(tmp_path / "later", LATER, ["MSFT"]))
    done = decided.run("archive_job", over("AAPL", "NVDA"))
    assert done.success, step_failures(done)
    run = decided.instance.get_run_by_id(done.run_id)
    assert run is not None
    assert run.tags["postval/archive_id"] == f"{DECIDED},{LATER}"
    written = decided.rows(
        "SELECT symbol, archive_id FROM extracted_models WHERE run_id = ? ORDER BY symbol", done.run_id
    )
    assert {r["symbol"]: r["archive_id"] for r in written} == {
        "AAPL": DECIDED,
        "MSFT": LATER,
        "NVDA": DECIDED,
    }

    # Run again as the UI does it: with the tags that the run has by now, whatever has arrived since.
    decided.take(archive_of(tmp_path / "last", "20250701_120000", ["AAPL"]))
    again = decided.run("archive_job", run.tags)
    assert again.success, step_failures(again)
    rewritten = decided.rows(
        "SELECT symbol, archive_id FROM extracted_models WHERE run_id = ? ORDER BY symbol", again.run_id
    )
    assert rewritten == written


def test_a_range_over_a_symbol_that_the_archive_does_not_have_leaves_that_symbol_alone(
    decided: Home, tmp_path: Path
) -> None:
    decided.take(archive_of(tmp_path / "later", LATER, ["AAPL", "NVDA"]))
    done = decided.run("archive_job", over("AAPL", "NVDA", postval_archive_id=LATER))
    assert done.success, step_failures(done)
    models = decided.rows("SELECT symbol FROM extracted_models WHERE archive_id = ? ORDER BY symbol", LATER)
    assert [r["symbol"] for r in models] == ["AAPL", "NVDA"]
    written = decided.rows(
        "SELECT DISTINCT symbol FROM fold_results WHERE run_id = ? ORDER BY 1", done.run_id
    )
    assert [r["symbol"] for r in written] == ["AAPL", "NVDA"]
    assert decided.rows("SELECT status FROM training_archives WHERE archive_id = ?", LATER) == [
        {"status": "COMPLETE"}
    ]


def test_a_later_archive_takes_the_symbol_over_and_the_earlier_rows_stay(
    decided: Home, tmp_path: Path
) -> None:
    before = decided.rows("SELECT * FROM fold_results WHERE archive_id = ? ORDER BY ALL", DECIDED)
    taken, _ = decided.take(archive_of(tmp_path / "later", LATER, {"AAPL": {"seed": 7}}))
    decided.run_requested(taken)
    newest = decided.rows("SELECT symbol, archive_id FROM latest_decisions ORDER BY symbol")
    assert {r["symbol"]: r["archive_id"] for r in newest} == {"AAPL": LATER, "MSFT": DECIDED, "NVDA": DECIDED}
    assert decided.rows("SELECT * FROM fold_results WHERE archive_id = ? ORDER BY ALL", DECIDED) == before
    both = decided.rows(
        "SELECT DISTINCT archive_id FROM deployment_decisions WHERE symbol = 'AAPL' ORDER BY 1"
    )
    assert [r["archive_id"] for r in both] == [DECIDED, LATER]


def test_an_earlier_archive_delivered_later_does_not_take_over(decided: Home, tmp_path: Path) -> None:
    taken, _ = decided.take(archive_of(tmp_path / "earlier", "20240101_000000", ["AAPL"]))
    decided.run_requested(taken)
    newest = decided.rows("SELECT archive_id FROM latest_decisions WHERE symbol = 'AAPL'")
    assert newest == [{"archive_id": DECIDED}]


def checks_of(done: dg.ExecuteInProcessResult, name: str) -> dict[str | None, dg.AssetCheckEvaluation]:
    """The last evaluation of a check for each partition; None for the whole run."""
    return {e.partition: e for e in done.get_asset_check_evaluations() if e.check_name == name}


def test_each_problem_is_told_for_its_symbol_and_a_bad_model_stops_no_neighbour(
    home: Home, tmp_path: Path
) -> None:
    claims = {
        "AAPL": good_claims(),
        "MSFT": {**good_claims(), "consistency": [92.0] * 10},
        "NVDA": drop_claims(),
    }
    file = archive_of(
        tmp_path / "made",
        DECIDED,
        {"AAPL": {}, "MSFT": {}, "NVDA": b"not a checkpoint", "TSLA": {}},
        summary=make_summary({**claims, "TSLA": good_claims()}),
    )
    taken, _ = home.take(file)
    [request] = taken.run_requests or ()
    done = home.run("archive_job", request.tags)
    assert done.success, "data errors never fail a run"

    def passed(name: str) -> dict[str | None, bool]:
        return {partition: e.passed for partition, e in checks_of(done, name).items()}

    assert passed("models_are_usable") == {"NVDA": False, None: False}
    assert passed("claims_are_valid") == {"MSFT": False, None: False}
    assert passed("symbols_have_bars") == {"TSLA": False, None: False}
    assert passed("folds_are_computed") == {"TSLA": False, None: False}
    invalid = checks_of(done, "claims_are_valid")["MSFT"]
    assert invalid.severity is dg.AssetCheckSeverity.WARN
    assert "consistency" in str(invalid.description)
    decisions = home.rows("SELECT symbol, decision, reasons FROM latest_decisions ORDER BY symbol")
    assert [r["symbol"] for r in decisions] == ["AAPL", "MSFT", "NVDA", "TSLA"]
    by_symbol = {r["symbol"]: r for r in decisions}
    assert by_symbol["MSFT"]["decision"] == by_symbol["NVDA"]["decision"] == "DROP"
    assert by_symbol["TSLA"]["decision"] == "RETRAIN"
    assert "NO_EVIDENCE" in by_symbol["TSLA"]["reasons"][0]
    assert "TSLA" in by_symbol["TSLA"]["reasons"][0]


def test_folds_are_reported_as_partitions_of_their_asset(decided: Home) -> None:
    found = decided.instance.get_materialized_partitions(dg.AssetKey("fold_results"))
    assert found == {f"180d-{n}|{symbol}" for symbol in DECIDED_SYMBOLS for n in range(1, 6)}
    assert decided.instance.get_materialized_partitions(dg.AssetKey("training_archives")) == {DECIDED}


def test_a_materialization_says_rows_and_columns(decided: Home) -> None:
    event = decided.instance.get_latest_materialization_event(dg.AssetKey("walk_forward_summaries"))
    assert event is not None
    assert event.asset_materialization is not None
    metadata: dict[str, Any] = {k: v.value for k, v in event.asset_materialization.metadata.items()}
    assert metadata["dagster/row_count"] == len(DECIDED_SYMBOLS)
    assert metadata["dagster/table_name"] == "walk_forward_summaries"
    columns = {c.name: c for c in metadata["dagster/column_schema"].columns}
    stored = decided.rows("SELECT column_name FROM (DESCRIBE walk_forward_summaries)")
    assert set(columns) == {r["column_name"] for r in stored}
    assert all(column.description for column in columns.values())


def test_what_is_current_is_not_computed_again(decided: Home) -> None:
    done = decided.run("archive_job", over("AAPL", "NVDA", postval_archive_id=DECIDED))
    assert done.success, step_failures(done)
    for table in ("fold_results", "backtest_results", "equity_curves", "deployment_decisions", "bars"):
        written = decided.rows(f"SELECT count(*) AS n FROM {table} WHERE run_id = ?", done.run_id)  # noqa: S608
        assert written == [{"n": 0}], table


def test_an_as_of_tag_makes_an_evaluation_of_its_own(decided: Home) -> None:
    tags = over("AAPL", "AAPL", postval_archive_id=DECIDED, postval_as_of="2025-03-01T00:00:00+00:00")
    done = decided.run("evaluation_job", tags)
    assert done.success, step_failures(done)
    found = decided.rows(
        "SELECT as_of, count(*) AS n FROM fold_results WHERE symbol = 'AAPL' GROUP BY as_of ORDER BY as_of"
    )
    assert [r["n"] for r in found] == [5, 5]
    assert found[0]["as_of"].isoformat() <= "2025-03-01T00:00:00+00:00"


def test_the_check_on_summaries_sees_newer_folds(decided: Home) -> None:
    platform = PlatformResource.of(decided.settings)
    assert inputs_are_current(platform=platform).passed
    done = dg.materialize(
        [fold_results],
        instance=decided.instance,
        resources={"platform": platform},
        partition_key="365d-03|AAPL",
    )
    assert done.success
    result = inputs_are_current(platform=platform)
    assert not result.passed
    assert result.description == f"{DECIDED}: AAPL"


def test_an_archive_that_was_changed_in_the_store_is_found_out(decided: Home) -> None:
    platform = PlatformResource.of(decided.settings)

    def verify() -> dg.ExecuteInProcessResult:
        return dg.materialize(
            [training_archives],
            instance=decided.instance,
            resources={"platform": platform},
            partition_key=DECIDED,
            raise_on_error=False,
        )

    assert verify().success
    [row] = decided.rows("SELECT stored_path FROM training_archives")
    path = decided.settings.data_dir / row["stored_path"]
    path.write_bytes(path.read_bytes() + b"x")
    done = verify()
    assert "was changed or damaged" in step_failures(done)["training_archives"]
    assert not [event for event in done.all_events if event.is_step_up_for_retry]
