"""Partition keys and the ranges of runs that cover them."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.failures import Rejected
from postval_assets.defs.jobs import RANGE_END_TAG, RANGE_START_TAG, range_tags
from postval_assets.defs.partitions import (
    contiguous_blocks,
    fold_partition_key,
    selections_by_symbol,
    symbol_fold_partitions,
)


@st.composite
def wanted_of_ordered(draw: st.DrawFn) -> tuple[list[str], list[str], int]:
    ordered = draw(st.permutations([f"S{n}" for n in range(draw(st.integers(1, 40)))]))
    wanted = draw(st.lists(st.sampled_from(ordered)))
    return wanted, list(ordered), draw(st.integers(1, 12))


@given(wanted_of_ordered())
def test_blocks_cover_exactly_the_wanted_keys_in_order_with_as_few_runs_as_possible(
    case: tuple[list[str], list[str], int],
) -> None:
    wanted, ordered, most = case
    blocks = contiguous_blocks(wanted, ordered, most)
    spans = [(ordered.index(first), ordered.index(last)) for first, last in blocks]
    assert all(first <= last for first, last in spans), "a reversed range would run nothing, and succeed"
    covered = [ordered[i] for first, last in spans for i in range(first, last + 1)]
    assert covered == [key for key in ordered if key in set(wanted)]
    assert all(last - first + 1 <= most for first, last in spans)
    stretches = "".join("x" if key in set(wanted) else " " for key in ordered).split()
    assert len(blocks) == sum(math.ceil(len(stretch) / most) for stretch in stretches)


def test_a_key_that_is_no_partition_is_an_error_and_not_an_empty_run() -> None:
    with pytest.raises(ValueError, match=r"not registered as partitions: MSFT, NVDA"):
        contiguous_blocks(["AAPL", "NVDA", "MSFT"], ["AAPL"], 50)


def test_the_order_is_that_of_the_partitions_not_of_the_alphabet() -> None:
    assert contiguous_blocks(["AAPL", "UNIUSD"], ["UNIUSD", "AAPL", "MSFT"], 50) == [("UNIUSD", "AAPL")]


def test_each_run_has_all_tags_and_its_own_range() -> None:
    tags = range_tags(["A", "B", "D"], ["A", "B", "C", "D"], 50, {"postval/archive_id": "x"})
    assert tags == [
        {"postval/archive_id": "x", RANGE_START_TAG: "A", RANGE_END_TAG: "B"},
        {"postval/archive_id": "x", RANGE_START_TAG: "D", RANGE_END_TAG: "D"},
    ]
    assert RANGE_START_TAG == "dagster/asset_partition_range_start"
    assert RANGE_END_TAG == "dagster/asset_partition_range_end"


def test_keys_of_folds_name_fold_and_symbol() -> None:
    assert str(fold_partition_key("BRK.B", "365d-01")) == "365d-01|BRK.B"
    [fold] = [d for d in symbol_fold_partitions.partitions_defs if d.name == "fold"]
    keys = fold.partitions_def.get_partition_keys()
    assert keys == [*(f"180d-{n}" for n in range(1, 6)), *(f"365d-{n:02}" for n in range(1, 11))]


def test_selections_gather_folds_by_symbol_and_plan() -> None:
    keys = [
        "365d-01|AAPL",
        "365d-10|AAPL",
        "180d-3|AAPL",
        "180d-1|BRK.B",
        fold_partition_key("BRK.B", "180d-2"),
    ]
    found = {
        symbol: {(s.plan.name, s.folds) for s in selections}
        for symbol, selections in selections_by_symbol(keys).items()
    }
    assert found == {
        "AAPL": {("365d", frozenset({1, 10})), ("180d", frozenset({3}))},
        "BRK.B": {("180d", frozenset({1, 2}))},
    }


def test_a_fold_that_no_plan_has_is_refused() -> None:
    with pytest.raises(Rejected, match="365d-11"):
        selections_by_symbol(["365d-11|AAPL"])
