"""A data directory can be moved and copied, and two of them work side by side."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from postval_assets.commands.home import open_instance
from postval_assets.commands.occupancy import is_held
from postval_assets.definitions import build_definitions
from postval_assets.pipeline.platform import open_platform
from postval_assets.settings import load_settings
from postval_assets_tests.commands.conftest import ARCHIVE, Command
from postval_assets_tests.factories import make_archive, make_summary, review_claims
from postval_assets_tests.platform_process import (
    RunningPlatform,
    Story,
    free_port,
    is_listening,
    postval_environment,
    processes_of,
)

NEXT = "20250401_180000"
SYMBOLS = {"AAPL", "MSFT", "NVDA"}
_TEXTS = """
SELECT table_name AS t, column_name AS c, data_type LIKE '%[]' AS is_list FROM duckdb_columns()
WHERE NOT internal AND data_type LIKE 'VARCHAR%'
"""


def test_no_row_says_where_the_data_directory_lies(validated_directory: Path) -> None:
    platform = open_platform(load_settings(data_dir=validated_directory))
    columns = platform.warehouse.rows(_TEXTS)
    assert len(columns) > 100
    where = f"'{str(validated_directory).replace(chr(39), chr(39) * 2)}'"
    counts = []
    for column in columns:
        name = f'"{column["c"]}"'
        text = f"array_to_string({name}, ' ')" if column["is_list"] else name
        shown = f"'{column['t']}.{column['c']}'"
        counts.append(
            f'SELECT {shown} AS found, count(*) AS n FROM "{column["t"]}" WHERE contains({text}, {where})'  # noqa: S608
        )
    found = platform.warehouse.rows(" UNION ALL ".join(counts))
    assert len(found) == len(columns)
    assert [r["found"] for r in found if r["n"]] == []


def test_a_moved_directory_answers_stages_and_loads(
    elsewhere: Path, validated_directory: Path, tmp_path: Path
) -> None:
    shutil.copytree(validated_directory, tmp_path / "before")
    (tmp_path / "another disk").mkdir()
    shutil.move(tmp_path / "before", tmp_path / "another disk" / "moved")
    moved = Command(tmp_path / "another disk" / "moved")
    decided = moved("sql", "SELECT symbol FROM latest_decisions ORDER BY symbol", "--format", "csv")
    assert decided.out.split() == ["symbol", *sorted(SYMBOLS)]
    staged = moved("stage", "--to", str(tmp_path / "bot"), "--classification", "APPROVED,REVIEW")
    assert staged.code == 0, staged.err
    assert (tmp_path / "bot" / "models" / "rl_symbols" / "AAPL_1Hour.pt").is_file()
    settings = load_settings(data_dir=moved.data_dir)
    assert build_definitions(settings).resolve_job_def("archive_job").name == "archive_job"
    assert set(open_instance(settings).get_dynamic_partitions("symbol")) == SYMBOLS
    assert "stored  COMPLETE" in moved("archives").out


@pytest.fixture
def side_by_side(
    validated_directory: Path, tmp_path: Path
) -> Iterator[tuple[RunningPlatform, RunningPlatform]]:
    """Two platforms, started at once: one on a copy of the validated directory, one on an empty one."""
    shutil.copytree(validated_directory, tmp_path / "copy" / "data")
    both = []
    for name in ("copy", "fresh"):
        data_dir = tmp_path / name / "data"
        env = postval_environment(data_dir, "sample")
        both.append(RunningPlatform(data_dir, env, free_port(), tmp_path / f"{name}.log"))
    try:
        for running in both:
            running.start()
        yield both[0], both[1]
    finally:
        for running in both:
            running.kill_what_is_left()


@pytest.mark.platform
def test_two_directories_side_by_side_share_nothing(
    side_by_side: tuple[RunningPlatform, RunningPlatform], tmp_path: Path
) -> None:
    copied, fresh = side_by_side
    assert is_listening(copied.port)
    assert is_listening(fresh.port)
    for running, other in ((copied, fresh), (fresh, copied)):
        assert is_held(load_settings(data_dir=running.data_dir))
        of_tree = [p.environ() for p in running.tree()[1:]]
        assert {env.get("POSTVAL_DATA_DIR") for env in of_tree} == {str(running.data_dir)}
        assert {env.get("DAGSTER_HOME") for env in of_tree} == {str(running.data_dir / "dagster")}
        assert {p.pid for p in processes_of(running.data_dir)}.isdisjoint(
            p.pid for p in processes_of(other.data_dir)
        )
    # What the copy came with is in its web UI, and only there.
    query = "{ assetNodes { assetKey { path } partitionStats { numMaterialized } } }"
    made = [
        {
            n["assetKey"]["path"][0]: n["partitionStats"]["numMaterialized"]
            for n in each.graphql(query)["assetNodes"]
        }
        for each in (copied, fresh)
    ]
    assert (made[0]["deployment_decisions"], made[1]["deployment_decisions"]) == (len(SYMBOLS), 0)

    # One goes on with what it was given, the other sees nothing of it.
    file = make_archive(
        tmp_path / f"Alpaca_trading_trained_{NEXT}.zip",
        {"AAPL": {"version": "2.3.0", "seed": 1}},
        summary=make_summary({"AAPL": review_claims()}, timestamp=NEXT),
        summary_name=f"training_summary_{NEXT}.json",
    )
    story = Story(copied, tmp_path, open_platform(load_settings(data_dir=copied.data_dir)))
    assert copied.postval("ingest", str(file)).returncode == 0
    story.wait_until_complete(NEXT)
    archives = [line.split()[0] for line in copied.postval("archives").stdout.splitlines()[2:]]
    assert archives == [ARCHIVE, NEXT]
    assert fresh.postval("archives").stdout == "no archive was delivered yet\n"

    said = (copied.data_dir / "logs" / "postval.log").read_text("utf-8")
    assert " INFO postval.evaluation: fold_results: 1/1 models" in said, "also what runs of the daemon say"
    assert not (fresh.data_dir / "logs" / "postval.log").exists() or NEXT not in (
        fresh.data_dir / "logs" / "postval.log"
    ).read_text("utf-8")

    # A third one is told which directory, or which port, is taken.
    refused = copied.postval("up", "--port", str(free_port()))
    assert refused.returncode == 1
    assert f"works on {copied.data_dir}" in refused.stderr
    third = RunningPlatform(
        tmp_path / "third", postval_environment(tmp_path / "third", "sample"), fresh.port, tmp_path
    )
    third.data_dir.mkdir()
    refused = third.postval("up", "--port", str(third.port))
    assert f"port {fresh.port} on 127.0.0.1 is in use" in refused.stderr

    # Stopping one leaves the other at work.
    copied.stop()
    assert not processes_of(copied.data_dir)
    assert is_listening(fresh.port)
    fresh.require_alive()
    fresh.stop()
    assert not is_listening(fresh.port)
