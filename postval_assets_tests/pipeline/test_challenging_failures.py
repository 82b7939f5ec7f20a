"""Champions that cannot be run, or not any more: what the row says, and that nobody else is stopped."""

from __future__ import annotations

import dataclasses
from dataclasses import replace
from typing import Any

import pytest

from postval_assets.core.failures import Unavailable
from postval_assets.io.model_store import ModelStore
from postval_assets.pipeline.challenging import compare_champions
from postval_assets.pipeline.removals import Kind
from postval_assets.pipeline.retention import files_of_archive, remove_files
from postval_assets_tests.pipeline.champion_cases import (
    EARLIER,
    FIRST,
    OLDEST,
    SECOND,
    compared,
    comparisons,
    count_runs,
    notes,
    one_model,
    only,
    taken,
    two_archives,
    with_bars,
)
from postval_assets_tests.pipeline.conftest import (
    Bench,
    network,
)


@pytest.fixture
def market(bench: Bench) -> Bench:
    """A data directory with the bars of one symbol."""
    return with_bars(bench)


@pytest.fixture
def both(market: Bench) -> dict[str, str]:
    """Two archives, of which the newer one is evaluated; its archive_id by symbol."""
    return two_archives(market)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that the stage runs."""
    return count_runs(monkeypatch)


def pruned(bench: Bench, archive_id: str, *kinds: Kind) -> None:
    items = files_of_archive(bench.platform, archive_id)
    wanted = [i for i in items if {"archives": Kind.ARCHIVE, "weights": Kind.WEIGHTS}[i.rule.value] in kinds]
    assert wanted
    assert remove_files(bench.platform, wanted, run_id="prune") == []


def test_a_pruned_champion_is_not_run_and_not_brought_back(
    market: Bench, both: dict[str, str], runs: list[str]
) -> None:
    pruned(market, FIRST, Kind.WEIGHTS)
    compared(market, both)
    row = only(market)
    assert (row["verdict"], row["champion_archive_id"]) == ("NOT_COMPARED", FIRST)
    assert "pruned on" in row["reason"]
    assert runs == []
    assert not market.platform.models.path_of(row["champion_model_sha256"]).exists()


def test_a_comparison_outlives_its_champion(market: Bench, both: dict[str, str]) -> None:
    compared(market, both)
    row = only(market)
    pruned(market, FIRST, Kind.WEIGHTS, Kind.ARCHIVE)
    assert compared(market, both).symbols[0].n_current == 1
    assert only(market) == row


def test_where_the_newest_was_pruned_the_one_before_it_is_compared(
    market: Bench, both: dict[str, str]
) -> None:
    one_model(market, OLDEST, 5)
    pruned(market, FIRST, Kind.WEIGHTS)
    compared(market, both)
    row = only(market)
    assert (row["champion_archive_id"], row["n_folds_compared"]) == (OLDEST, 5)
    assert row["verdict"] != "NOT_COMPARED"
    assert row["reason"].startswith(f"passed over: the weights of archive {FIRST} were pruned on")
    assert compared(market, both).symbols[0].n_current == 1


def test_weights_that_were_lost_come_back_from_the_archive_or_are_named(
    market: Bench, both: dict[str, str]
) -> None:
    sha = market.one("SELECT model_sha256 FROM extracted_models WHERE archive_id = ?", FIRST)["model_sha256"]
    weights = market.platform.models.path_of(sha)
    zipped = market.one("SELECT sha256 FROM training_archives WHERE archive_id = ?", FIRST)["sha256"]
    weights.unlink()
    compared(market, both)
    assert only(market)["verdict"] != "NOT_COMPARED"
    assert weights.is_file()

    market.platform.archives.path_of(zipped).unlink()
    weights.unlink()
    market.evaluate(both, as_of=EARLIER)
    compared(market, both, as_of=EARLIER)
    row = comparisons(market)[0]
    assert (row["as_of"], row["verdict"]) == (EARLIER, "NOT_COMPARED")
    assert "deliver it again" in row["reason"]


def test_a_champion_whose_features_are_gone_stops_nobody(market: Bench) -> None:
    market.put_bars("OTHUSD", seed=4)
    market.load(["OTHUSD"])
    old = {"UPPUSD_4Hour": network(seed=1, version="2.3.0"), "OTHUSD_4Hour": network(seed=2)}
    taken(market, FIRST, old)
    archives = taken(market, SECOND, {s: network(seed=8) for s in old})
    market.evaluate(archives)
    sets = {k: v for k, v in market.platform.feature_sets.items() if k != "reference-53"}
    compared(replace(market, platform=replace(market.platform, feature_sets=sets)), archives)
    other, gone = comparisons(market)
    assert (other["symbol"], other["reason"]) == ("OTHUSD", None)
    assert gone["verdict"] == "NOT_COMPARED"
    assert "feature set reference-53 is no longer registered" in gone["reason"]


def test_a_disk_that_does_not_answer_is_told_once_after_the_others(
    market: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    market.put_bars("OTHUSD", seed=4)
    market.load(["OTHUSD"])
    names = ("UPPUSD_4Hour", "OTHUSD_4Hour")
    taken(market, FIRST, {name: network(seed=n) for n, name in enumerate(names)})
    archives = taken(market, SECOND, {name: network(seed=8) for name in names})
    market.evaluate(archives)
    bad = market.one(
        "SELECT model_sha256 FROM extracted_models WHERE archive_id = ? AND symbol = 'UPPUSD'", FIRST
    )["model_sha256"]
    honest = ModelStore.open

    def failing(self: ModelStore, sha256: str) -> Any:
        if sha256 == bad:
            raise Unavailable("the disk is asleep")
        return honest(self, sha256)

    monkeypatch.setattr(ModelStore, "open", failing)
    with pytest.raises(Unavailable, match=r"1 model\(s\) could not be compared .*UPPUSD 4Hour: the disk"):
        compared(market, archives)
    assert [r["symbol"] for r in comparisons(market)] == ["OTHUSD"]
    monkeypatch.undo()
    compared(market, archives)
    assert [r["symbol"] for r in comparisons(market)] == ["OTHUSD", "UPPUSD"]


def test_missing_points_of_a_curve_are_noticed(market: Bench, both: dict[str, str]) -> None:
    whole = market.platform.warehouse

    class Holed:
        """The warehouse without the last point of a fold."""

        def __getattr__(self, name: str) -> Any:
            return getattr(whole, name)

        def frame(self, sql: str, params: Any = ()) -> Any:
            found = whole.frame(sql, params)
            return found.iloc[:-1] if "FROM equity_curves" in sql else found

    platform: Any = dataclasses.replace(market.platform, warehouse=Holed())  # type: ignore[arg-type]
    compare_champions(platform, both, run_id="holed")
    row = only(market)
    assert row["verdict"] == "NOT_COMPARED"
    assert row["reason"].startswith("the challenger's fold 5: 215 points of equity in a fold of 216 bars")


def test_no_symbols_is_nothing_to_do(market: Bench) -> None:
    assert compared(market, {}).symbols == ()
    assert notes(market, {}) == {}
