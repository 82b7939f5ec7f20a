"""The platform as a person runs it: ``postval up``, zips dropped into the inbox, the web UI, ``postval sql``.

One running platform is shared by the tests of this file; each asks for the part of the story that it needs, in the
order in which it happens. Here: the real daemon, web server, sensor, DuckDB files and browser. Not here: numbers.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from postval_assets.pipeline.platform import open_platform
from postval_assets.settings import load_settings
from postval_assets_tests.factories import STAMP, make_archive
from postval_assets_tests.lineage_page import CHROMIUM, draw_lineage
from postval_assets_tests.platform_process import (
    REPOSITORY,
    Holder,
    RepeatedQuery,
    RunningPlatform,
    Story,
    free_port,
    holding_open,
    is_listening,
    postval_environment,
    processes_of,
    run_postval,
)

pytestmark = pytest.mark.platform

SAMPLE = REPOSITORY / "data" / "sample"
FIRST = SAMPLE / "Alpaca_trading_trained_20240629_060000.zip"
FIRST_ID = "20240629_060000"
FIRST_SYMBOLS = {"AAPL", "BTCUSD", "ETHUSD", "MSFT", "NVDA", "SPY", "UNIUSD"}
FIRST_MODELS = 8
FAILING_ID = "20250401_120000"
# What each asset is made from, as the documentation draws it.
LINEAGE = {
    "training_archives": set(),
    "extracted_models": {"training_archives"},
    "gating_scores": {"extracted_models"},
    "bars": set(),
    "backtest_results": {"gating_scores", "bars"},
    "walk_forward_evaluations": {"gating_scores", "bars"},
    "fold_results": {"gating_scores", "bars"},
    "claim_reproductions": {"gating_scores", "bars"},
    "walk_forward_summaries": {"walk_forward_evaluations", "fold_results"},
    "champion_comparisons": {"walk_forward_evaluations", "fold_results"},
    "deployment_watches": {"bars", "walk_forward_evaluations"},
    "deployment_decisions": {
        *("walk_forward_summaries", "champion_comparisons", "gating_scores"),
        *("claim_reproductions", "deployment_watches"),
    },
    "archive_evidence": {"deployment_decisions", "fold_results"},
}


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Story]:
    """A platform that has just been started, over bars that a test may take away."""
    root = tmp_path_factory.mktemp("platform")
    bars_dir = root / "bars"
    shutil.copytree(SAMPLE / "bars", bars_dir)
    data_dir = root / "data"
    source = f"parquet:{bars_dir}"
    running = RunningPlatform(data_dir, postval_environment(data_dir, source), free_port(), root / "up.log")
    settings = load_settings(data_dir=data_dir, bars_source=source)
    try:
        running.start()
        yield Story(running, bars_dir, open_platform(settings))
    finally:
        running.kill_what_is_left()


@pytest.fixture(scope="module")
def reading(story: Story) -> Iterator[RepeatedQuery]:
    """Somebody who asks for the decisions again and again, from before the first archive on."""
    story.running.wait_for("a first publication", story.running.replica.is_file, timeout_s=120)
    query = RepeatedQuery(story.running, "SELECT * FROM latest_decisions")
    with query.repeated():
        yield query


@pytest.fixture(scope="module")
def slow_copy(story: Story, reading: RepeatedQuery, reader: Holder) -> list[str]:
    """The first archive, written into the inbox piece by piece; what the sensor said meanwhile."""
    content = FIRST.read_bytes()
    third = len(content) // 3
    pieces = [content[:third], content[third : 2 * third], content[2 * third :]]
    said: list[str] = []
    with (story.running.inbox / FIRST.name).open("wb") as target:
        for number, piece in enumerate(pieces):
            target.write(piece)
            target.flush()
            os.fsync(target.fileno())
            if number < 2:
                # Two ticks at the first piece: the file stands still, and only its end is missing.
                ticks = story.wait_for_ticks(2 - number)
                said += [str(tick["skipReason"]) for tick in reversed(ticks)]
                assert story.status(FIRST_ID) is None, "half a file was taken"
    return said


@pytest.fixture(scope="module")
def both_archives(story: Story, slow_copy: list[str], tmp_path_factory: pytest.TempPathFactory) -> str:
    """A second archive, dropped while the first one's run is going on; what the first run did just then."""
    second = make_archive(
        tmp_path_factory.mktemp("second") / f"Alpaca_trading_trained_{STAMP}.zip", {"SPY": {}, "NVDA": {}}
    )
    going_on = ("STARTING", "STARTED")
    story.running.wait_for(
        "the first archive's run has started",
        lambda: any(run["status"] in going_on for run in story.runs_of(FIRST_ID)),
        timeout_s=60,
    )
    assert story.running.postval("ingest", str(second)).returncode == 0
    [status] = [str(run["status"]) for run in story.runs_of(FIRST_ID)]
    story.wait_until_complete(FIRST_ID)
    story.wait_until_complete(STAMP)
    weighed = "SELECT DISTINCT archive_id FROM archive_evidence"
    story.running.wait_for("both are weighed", lambda: len(story.rows(weighed)) == 2, timeout_s=240)
    story.running.wait_for(
        "their runs have ended", lambda: not story.unfinished(FIRST_ID, STAMP), timeout_s=120
    )
    return status


@pytest.fixture(scope="module")
def reader(story: Story, reading: RepeatedQuery) -> Iterator[Holder]:
    """A program that has the database open for reading since before the first archive."""
    with holding_open(story.running.replica, read_only=True) as holder:
        yield holder


@pytest.fixture(scope="module")
def writer(story: Story, reader: Holder, both_archives: str) -> Iterator[Holder]:
    """A program that has the database open for writing, and scribbles in it, since the first archives."""
    with holding_open(story.running.replica, read_only=False) as holder:
        yield holder


def disk_breaks(story: Story) -> None:
    """MSFT's bars are there and cannot be read, as on a disk that does not answer."""
    series = story.bars_dir / "MSFT_1Hour.parquet"
    series.rename(story.bars_dir / "kept.parquet")
    series.mkdir()


def disk_answers_again(story: Story) -> None:
    """MSFT's bars are there as before."""
    series = story.bars_dir / "MSFT_1Hour.parquet"
    series.rmdir()
    (story.bars_dir / "kept.parquet").rename(series)


@pytest.fixture(scope="module")
def failing(story: Story, both_archives: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive that was dropped while the bars of one of its symbols cannot be read."""
    file = make_archive(
        tmp_path_factory.mktemp("third") / f"Alpaca_trading_trained_{FAILING_ID}.zip",
        {"MSFT": {}, "NVDA": {}},
        summary_name=f"training_summary_{FAILING_ID}.json",
    )
    disk_breaks(story)
    assert story.running.postval("ingest", str(file)).returncode == 0
    return file


@pytest.fixture(scope="module")
def duplicate(story: Story, both_archives: str) -> Path:
    """The first archive under another name, dropped again after it was decided; where it was dropped."""
    target = story.running.inbox / "again.zip"
    shutil.copyfile(FIRST, target)
    return target


def test_the_graph_in_the_web_server_is_the_documented_one(story: Story) -> None:
    nodes = story.running.graphql(
        """{ assetNodes { assetKey { path } dependencyKeys { path } groupName description isPartitioned
             kinds hasMaterializePermission } }"""
    )["assetNodes"]
    found = {n["assetKey"]["path"][0]: {d["path"][0] for d in n["dependencyKeys"]} for n in nodes}
    assert found == LINEAGE
    assert all(n["isPartitioned"] and "duckdb" in n["kinds"] for n in nodes)
    assert all("One row" in n["description"] for n in nodes)


def test_every_server_listens_on_this_machine_only(story: Story) -> None:
    listening = []
    for process in story.running.tree():
        with contextlib.suppress(psutil.NoSuchProcess):
            found = process.net_connections(kind="inet")
            listening += [c.laddr for c in found if c.status == psutil.CONN_LISTEN]
    assert story.running.port in {address.port for address in listening}, "the web UI is one of them"
    assert {address.ip for address in listening} <= {"127.0.0.1", "::1"}


def test_an_archive_copied_slowly_is_decided_without_any_further_action(
    story: Story, slow_copy: list[str], both_archives: str
) -> None:
    assert any("is new or has changed" in reason for reason in slow_copy)
    assert any("may still be growing" in reason for reason in slow_copy)
    decided = story.rows(
        "SELECT symbol, timeframe FROM deployment_decisions WHERE archive_id = ? AND policy = 'standard'",
        FIRST_ID,
    )
    assert len(decided) == FIRST_MODELS
    ended = {(run["jobName"], run["status"]) for run in story.runs_of(FIRST_ID)}
    assert ended == {("archive_job", "SUCCESS"), ("evidence_job", "SUCCESS")}
    assert not list(story.running.inbox.iterdir()), "the archive has moved into the store"
    outcomes = story.rows("SELECT outcome, attempt FROM archive_deliveries WHERE archive_id = ?", FIRST_ID)
    assert outcomes == [{"outcome": "ACCEPTED", "attempt": 1}]


def test_a_second_archive_dropped_while_the_first_is_running_is_decided_too(
    story: Story, both_archives: str
) -> None:
    assert both_archives in ("STARTING", "STARTED"), "the second one came too late to show anything"
    assert {run["status"] for run in story.runs_of(STAMP)} == {"SUCCESS"}
    newest = story.rows("SELECT symbol, archive_id FROM latest_decisions WHERE symbol IN ('SPY', 'AAPL')")
    assert {r["symbol"]: r["archive_id"] for r in newest} == {"SPY": STAMP, "AAPL": FIRST_ID}


def test_partitions_are_materialized_and_checks_have_results(story: Story, both_archives: str) -> None:
    folds = [f"180d-{n}|ETHUSD" for n in range(1, 6)]
    nodes = story.running.graphql(
        """query($folds: [String!]!) { assetNodes { assetKey { path }
             partitionStats { numMaterialized numFailed }
             assetMaterializations(partitions: $folds) { partition }
             assetChecksOrError { ... on AssetChecks { checks {
               name executionForLatestMaterialization { status evaluation { success } } } } } } }""",
        folds=folds,
    )["assetNodes"]
    by_name = {n["assetKey"]["path"][0]: n for n in nodes}
    materialized = {name: n["partitionStats"]["numMaterialized"] for name, n in by_name.items()}
    passed = story.rows(
        "SELECT DISTINCT symbol FROM gating_scores WHERE classification IN ('APPROVED', 'REVIEW')"
    )
    assert {"ETHUSD"} < {r["symbol"] for r in passed} < FIRST_SYMBOLS, "some pass the gate, and some do not"
    n_folds = 5 * len(passed)
    others = {"training_archives": 2, "archive_evidence": 2, "fold_results": n_folds}
    assert materialized == {**dict.fromkeys(LINEAGE, len(FIRST_SYMBOLS)), **others}
    assert all(n["partitionStats"]["numFailed"] == 0 for n in nodes)
    reported = {m["partition"] for m in by_name["fold_results"]["assetMaterializations"]}
    assert reported == set(folds)
    checks = {c["name"]: c for n in nodes for c in n["assetChecksOrError"]["checks"]}
    assert set(checks) == {
        "models_are_usable",
        "claims_are_valid",
        "symbols_have_bars",
        "bars_are_sound",
        "backtests_are_computed",
        "folds_are_computed",
        "inputs_are_current",
        "claims_are_reproduced",
        "edges_hold",
    }
    results = {name: c["executionForLatestMaterialization"] for name, c in checks.items()}
    stale = results.pop("bars_are_sound")
    assert not stale["evaluation"]["success"], "the sample's bars, given as somebody's own, ended long ago"
    of_runs = {name: r for name, r in results.items() if name != "inputs_are_current"}
    assert all(r["evaluation"]["success"] for r in of_runs.values()), of_runs


def test_a_backfill_from_the_web_ui_is_followed_by_summaries_and_decisions(
    story: Story, both_archives: str, writer: Holder, duplicate: Path, failing: Path
) -> None:
    symbols = ("ETHUSD", "UNIUSD")
    keys = [f"365d-{n:02}|{symbol}" for symbol in symbols for n in range(1, 11)]
    launched = story.running.graphql(
        """mutation($params: LaunchBackfillParams!) { launchPartitionBackfill(backfillParams: $params) {
             __typename ... on LaunchBackfillSuccess { backfillId } ... on PythonError { message } } }""",
        params={
            "assetSelection": [{"path": ["fold_results"]}],
            "partitionNames": keys,
            "fromFailure": False,
            "tags": [],
        },
    )["launchPartitionBackfill"]
    assert launched["__typename"] == "LaunchBackfillSuccess", launched

    def status() -> str:
        found = story.running.graphql(
            "query($id: String!) { partitionBackfillOrError(backfillId: $id) { ... on PartitionBackfill { status } } }",
            id=launched["backfillId"],
        )
        return str(found["partitionBackfillOrError"]["status"])

    def decided() -> bool:
        found = story.rows(
            """SELECT DISTINCT symbol FROM deployment_decisions
               WHERE plan = '365d' AND policy = 'standard' AND as_of IS NOT NULL"""
        )
        return {r["symbol"] for r in found} == set(symbols)

    story.running.wait_for("365d decisions of both symbols", decided, timeout_s=240)
    summaries = story.rows("SELECT symbol, n_computed FROM walk_forward_summaries WHERE plan = '365d'")
    assert {r["symbol"]: r["n_computed"] for r in summaries} == dict.fromkeys(symbols, 10)
    ended = story.running.wait_for(
        "the backfill ends", lambda: s if (s := status()) != "REQUESTED" else None, timeout_s=240
    )
    assert ended == "COMPLETED_SUCCESS"
    runs = story.runs(**{"dagster/backfill": launched["backfillId"]})
    assert {run["status"] for run in runs} == {"SUCCESS"}
    assert {run["tags"]["postval/archive_id"] for run in runs} == {FIRST_ID}


def test_a_failed_archive_dropped_again_is_a_new_attempt_and_completes(story: Story, failing: Path) -> None:
    story.running.wait_for(
        "the run has failed",
        lambda: any(run["status"] == "FAILURE" for run in story.runs_of(FAILING_ID)),
        timeout_s=120,
    )
    assert story.status(FAILING_ID) == "EXTRACTED"

    disk_answers_again(story)
    assert story.running.postval("ingest", str(failing)).returncode == 0
    story.wait_until_complete(FAILING_ID)

    def attempts() -> dict[str, str]:
        runs = [run for run in story.runs_of(FAILING_ID) if run["jobName"] == "archive_job"]
        return {run["tags"]["postval/attempt"]: run["status"] for run in runs}

    ended = {"1": "FAILURE", "2": "SUCCESS"}
    story.running.wait_for("the second run succeeds", lambda: attempts() == ended, timeout_s=120)
    outcomes = story.rows(
        "SELECT outcome FROM archive_deliveries WHERE archive_id = ? ORDER BY attempt", FAILING_ID
    )
    assert [r["outcome"] for r in outcomes] == ["ACCEPTED", "RETRY"]


def test_the_same_content_delivered_again_is_a_duplicate(story: Story, duplicate: Path) -> None:
    delivered = "SELECT reason FROM archive_deliveries WHERE file_name = ? AND outcome = 'DUPLICATE'"
    [found] = story.running.wait_for(
        "the duplicate is recorded", lambda: story.rows(delivered, duplicate.name), timeout_s=120
    )
    assert FIRST_ID in found["reason"]
    story.running.wait_for("it is gone from the inbox", lambda: not duplicate.exists(), timeout_s=60)


def test_sql_answers_while_runs_write_and_others_hold_the_database_open(
    story: Story, reading: RepeatedQuery, reader: Holder, writer: Holder
) -> None:
    running = story.running

    def is_fresh() -> bool:
        query = """SELECT (SELECT count(*) FROM deployment_decisions) AS n,
                   (SELECT count(*) FROM duckdb_tables() WHERE table_name = 'scribble') AS scribbles"""
        [row] = json.loads(running.postval("sql", query, "--format", "json").stdout)
        return bool(
            row == {**story.rows("SELECT count(*) AS n FROM deployment_decisions")[0], "scribbles": 0}
        )

    running.wait_for("the replica is fresh beside both", is_fresh, timeout_s=120)
    assert reader.ask() == 0, "an open connection keeps its old copy"
    assert writer.ask() >= FIRST_MODELS
    writer.crash()
    reader.crash()
    running.wait_for("the replica is fresh after both have gone", is_fresh, timeout_s=120)
    assert not running.replica.with_name("postval.duckdb.wal").exists()
    reading.stop()
    failed = [o.stderr for o in reading.outcomes if o.returncode != 0]
    assert not failed, f"{len(failed)} of {len(reading.outcomes)} queries failed: {failed[0]}"
    counts = [len(json.loads(o.stdout)) for o in reading.outcomes]
    assert counts == sorted(counts), "models never disappear from the decisions"
    assert counts[0] == 0
    assert counts[-1] == FIRST_MODELS


@pytest.mark.skipif(
    not CHROMIUM.exists() and "CI" not in os.environ,
    reason="needs Debian's chromium: apt-get install chromium",
)
def test_the_lineage_page_draws_all_assets(story: Story, both_archives: str, tmp_path: Path) -> None:
    picture = tmp_path / "lineage.png"
    draw_lineage(story.running.url, LINEAGE, f"{len(FIRST_SYMBOLS)} partitions", picture)
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_stopping_leaves_no_process_and_frees_the_port(story: Story) -> None:
    tree = story.running.tree()
    assert len(tree) >= 4, "command, dagster dev, web server, daemon, code server"
    assert story.running.stop(signal.SIGINT) == 0
    assert not [p for p in tree if p.is_running() and p.status() != psutil.STATUS_ZOMBIE]
    assert not processes_of(story.running.data_dir)
    assert not is_listening(story.running.port)


def test_the_demo_ends_with_a_decision_for_every_model_and_leaves_nothing_running(tmp_path: Path) -> None:
    done = run_postval("demo", env=postval_environment(tmp_path, "sample"), cwd=tmp_path, timeout_s=420)
    assert done.returncode == 0, done.stderr
    for part in (
        "GATING  thresholds v2.4.5",
        "PER-FOLD ANALYSIS",
        "Positive Folds:",
        "DECISIONS  policy standard",
    ):
        assert part in done.stdout
    gating = done.stdout.partition("GATING")[2].partition("\n\n")[0]
    n_passed = sum(bool({"APPROVED", "REVIEW"} & set(line.split())) for line in gating.splitlines())
    assert done.stdout.count("PER-FOLD ANALYSIS") == n_passed > 0
    decisions = done.stdout.partition("DECISIONS")[2]
    decided = [line.split() for line in decisions.splitlines() if " 180d " in line]
    assert len(decided) == FIRST_MODELS
    assert {words[0] for words in decided} == FIRST_SYMBOLS
    assert all({"LIVE", "PAPER", "RETRAIN", "DROP"} & set(words) for words in decided)
    assert not processes_of(tmp_path)
