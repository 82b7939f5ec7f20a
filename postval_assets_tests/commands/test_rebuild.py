"""``postval rebuild``: a lost Dagster directory is no loss of results, and everything goes on after it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from postval_assets.commands.home import open_instance
from postval_assets.commands.occupancy import held
from postval_assets.commands.rebuilding import rebuild
from postval_assets.commands.run_history import asset_names
from postval_assets.definitions import defs
from postval_assets.defs.partitions import ARCHIVE as ARCHIVE_PARTITIONS
from postval_assets.defs.partitions import SYMBOL
from postval_assets.io.warehouse import Append, Update
from postval_assets.pipeline.made import what_was_made
from postval_assets.settings import load_settings
from postval_assets_tests.commands.conftest import ARCHIVE, Command
from postval_assets_tests.defs.conftest import archive_of, opened_home

NEXT = "20250401_180000"


def instance_of(postval: Command) -> dg.DagsterInstance:
    return open_instance(load_settings(data_dir=postval.data_dir))


def statuses(instance: dg.DagsterInstance) -> dict[str, Any]:
    """What the web UI shows of every partition of every asset, and the partitions in their order."""
    shown: dict[str, Any] = {
        name: list(instance.get_dynamic_partitions(name)) for name in (ARCHIVE_PARTITIONS, SYMBOL)
    }
    for name in asset_names():
        key = dg.AssetKey(name)
        partitions = defs.resolve_asset_graph().get(key).partitions_def
        assert partitions is not None
        keys = list(partitions.get_partition_keys(dynamic_partitions_store=instance))
        found = instance.get_status_by_partition(key, keys, partitions) or {}
        shown[name] = {k: None if s is None else s.value for k, s in found.items() if s is not None}
    return shown


def newest_event(instance: dg.DagsterInstance, asset: str) -> Mapping[str, Any]:
    event = instance.get_latest_materialization_event(dg.AssetKey(asset))
    assert event is not None
    assert event.asset_materialization is not None
    return {name: value.value for name, value in event.asset_materialization.metadata.items()}


def verdicts(instance: dg.DagsterInstance, asset: str, check: str) -> dict[str | None, bool]:
    """The newest verdict of a check over all, and of each partition that has one."""
    from dagster import AssetCheckKey

    key = AssetCheckKey(dg.AssetKey(asset), check)
    found: dict[str | None, bool] = {}
    for record in instance.event_log_storage.get_asset_check_execution_history(key, limit=100):
        evaluation = record.evaluation
        if evaluation is not None:
            found.setdefault(evaluation.partition, evaluation.passed)
    return found


def test_it_refuses_beside_a_daemon_and_without_results(postval: Command, validated_directory: Path) -> None:
    assert "nothing to rebuild from" in postval.refused("rebuild")
    assert not postval.data_dir.exists()
    shutil.copytree(validated_directory, postval.data_dir)
    with held(load_settings(data_dir=postval.data_dir)):
        assert "another postval up or demo works on" in postval.refused("rebuild")


def test_where_nothing_is_lost_it_changes_nothing(validated: Command) -> None:
    before = statuses(instance_of(validated))
    assert validated("rebuild").out.startswith("nothing is missing")
    assert statuses(instance_of(validated)) == before


def test_after_a_lost_directory_everything_looks_and_works_as_before(validated: Command) -> None:
    before = statuses(instance_of(validated))
    models = verdicts(instance_of(validated), "extracted_models", "models_are_usable")
    assert before["fold_results"]
    assert before["bars"] == dict.fromkeys(before[SYMBOL], "MATERIALIZED")
    shutil.rmtree(validated.data_dir / "dagster")

    done = validated("rebuild")
    assert done.code == 0, done.err
    assert done.out.startswith("partitions: 1 archive(s), 3 symbol(s)\n")
    assert "turn them on again" in done.out
    instance = instance_of(validated)
    assert statuses(instance) == before
    said = newest_event(instance, "fold_results")
    assert said["rebuilt"] is True
    assert said["dagster/partition_row_count"] == 1
    assert said["written_at"].endswith("+00:00")
    assert verdicts(instance, "extracted_models", "models_are_usable") == models == {None: True}
    assert validated("rebuild").out.startswith("nothing is missing")

    done = validated("backfill", "--symbols", "AAPL", "--plan", "365d")
    assert done.code == 0, done.err
    folds = statuses(instance_of(validated))["fold_results"]
    assert {k for k in folds if k.endswith("|AAPL")} >= {f"365d-{n:02}|AAPL" for n in range(1, 11)}


def test_only_what_is_missing_is_told_again(validated: Command) -> None:
    instance = instance_of(validated)
    before = statuses(instance)
    instance.delete_dynamic_partition(SYMBOL, "MSFT")
    instance.wipe_assets([dg.AssetKey("gating_scores")])
    done = validated("rebuild")
    assert done.code == 0, done.err
    assert done.out.splitlines()[:2] == [
        "partitions: 0 archive(s), 1 symbol(s)",
        "gating_scores: 3 materialization(s)",
    ]
    after = statuses(instance_of(validated))
    assert {k: v for k, v in after.items() if k != SYMBOL} == {k: v for k, v in before.items() if k != SYMBOL}
    assert set(after[SYMBOL]) == set(before[SYMBOL])


def test_the_daemon_s_sensors_go_on_after_it(validated_directory: Path, tmp_path: Path) -> None:
    """A second archive is taken and decided, and the decided one, dropped again, is a duplicate."""
    shutil.copytree(validated_directory, tmp_path / "copy", ignore=shutil.ignore_patterns("dagster"))
    with opened_home(tmp_path / "copy") as home:
        rebuild(home.platform)
        order = list(home.instance.get_dynamic_partitions(SYMBOL))
        first = archive_of(tmp_path / "first", ARCHIVE, ("AAPL", "MSFT", "NVDA"))
        second = archive_of(tmp_path / "second", NEXT, ("NVDA", "SPY"))
        # The same content as the decided archive's: that is what lies in its store.
        [stored] = (tmp_path / "copy" / "archives").glob("*.zip")
        shutil.copyfile(stored, first)
        taken, _ = home.take(first, second)
        outcomes = home.rows(
            "SELECT outcome, archive_id FROM archive_deliveries WHERE seen_at > ? ORDER BY archive_id",
            home.rows("SELECT max(created_at) AS at FROM deployment_decisions")[0]["at"],
        )
        assert outcomes == [
            {"outcome": "DUPLICATE", "archive_id": ARCHIVE},
            {"outcome": "ACCEPTED", "archive_id": NEXT},
        ]
        assert {r.tags["postval/archive_id"] for r in taken.run_requests or ()} == {NEXT}
        home.run_requested(taken)
        assert home.rows("SELECT status FROM training_archives WHERE archive_id = ?", NEXT) == [
            {"status": "COMPLETE"}
        ]
        assert list(home.instance.get_dynamic_partitions(SYMBOL)) == [*order, "SPY"]
        assert set(statuses(home.instance)["deployment_decisions"]) == {"AAPL", "MSFT", "NVDA", "SPY"}


def test_symbols_come_back_in_the_order_of_deliveries_and_verdicts_with_their_words(
    validated: Command,
) -> None:
    """A checkpoint that could not be read, a refused file, and a symbol that has bars and no archive."""
    keys = {"archive_id": ARCHIVE}
    broken = {"status": "REJECTED", "reason": "it is not a checkpoint"}
    refused = {"archive_id": "rejected-0123456789ab", "file_name": "bad.zip", "status": "REJECTED"}
    load = {
        "symbol": "UNIUSD",
        "timeframe": "1Hour",
        "source": "sample",
        "status": "EMPTY",
        "reason": "no bars",
    }
    validated.platform.warehouse.write(
        [
            Update("training_archives", keys, {"models": ["NVDA_1Hour", "AAPL_1Hour", "MSFT_1Hour"]}),
            Update("extracted_models", {**keys, "symbol": "AAPL"}, broken),
            Append("training_archives", [refused]),
            Append("bar_loads", [load]),
        ],
        run_id="test",
        now=validated.platform.now(),
    )
    before = statuses(instance_of(validated))
    shutil.rmtree(validated.data_dir / "dagster")
    assert validated("rebuild").code == 0
    instance = instance_of(validated)
    after = statuses(instance)
    assert list(instance.get_dynamic_partitions(SYMBOL)) == ["NVDA", "AAPL", "MSFT", "UNIUSD"]
    assert list(instance.get_dynamic_partitions(ARCHIVE_PARTITIONS)) == [ARCHIVE, "rejected-0123456789ab"]
    assert after["bars"] == {**before["bars"], "UNIUSD": "MATERIALIZED"}
    assert after["deployment_decisions"] == before["deployment_decisions"] != {}
    assert verdicts(instance, "extracted_models", "models_are_usable") == {None: False, "AAPL": False}
    assert verdicts(instance, "bars", "symbols_have_bars") == {None: False, "UNIUSD": False}
    made = what_was_made(validated.platform)
    said = made.problems["extracted_models", "models_are_usable"]
    assert said == {"AAPL": ("1Hour: REJECTED, it is not a checkpoint",)}


@pytest.mark.parametrize("name", ["extracted_models", "fold_results", "deployment_decisions", "bars"])
def test_an_asset_has_the_rows_that_the_warehouse_has(validated: Command, name: str) -> None:
    made = what_was_made(validated.platform)
    if name == "fold_results":
        assert (
            sum(r.n_rows for r in made.folds.values())
            == validated.rows("SELECT count(*) AS n FROM fold_results")[0]["n"]
        )
        return
    counted = validated.rows(f"SELECT symbol, count(*) AS n FROM {name} GROUP BY symbol")  # noqa: S608
    assert {s: r.n_rows for s, r in made.by_symbol[name].items() if r.n_rows} == {
        r["symbol"]: r["n"] for r in counted
    }
