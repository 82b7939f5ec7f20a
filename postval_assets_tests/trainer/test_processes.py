"""Processes that die: what it costs, and whom."""

from __future__ import annotations

import dataclasses
import logging
import multiprocessing
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest

from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.features.registry import registered_feature_sets
from postval_assets.trainer.run import TrainingPlan, train_archive
from postval_assets_tests.trainer.archive_cases import ARCHIVE, BITCOIN, UNISWAP, market, plan_in

DEADLY = market("ETHUSD", days=29)


@pytest.fixture
def plan(tmp_path: Path) -> TrainingPlan:
    return plan_in(tmp_path / "out")


def deadly_feature_sets() -> Mapping[str, FeatureSet]:
    """Ends the process that computes the features of DEADLY."""
    sets = registered_feature_sets()
    reference = sets["reference-59"]

    def compute(frame: pd.DataFrame) -> npt.NDArray[np.floating]:
        if len(frame) == len(DEADLY):
            os._exit(9)
        return reference.compute(frame)

    return {**sets, "deadly-59": dataclasses.replace(reference, name="deadly-59", compute=compute)}


class Unreadable:
    """Ends the process that receives it, before a run of it can begin."""

    def __reduce__(self) -> tuple[Callable[[int], Any], tuple[int]]:
        return os._exit, (9,)

    def __call__(self) -> Mapping[str, FeatureSet]:
        raise AssertionError("nobody has it")


def test_a_process_that_dies_costs_only_the_run_that_it_died_of(
    plan: TrainingPlan, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    config = dataclasses.replace(plan.config, feature_set="deadly-59")
    plan = dataclasses.replace(plan, config=config, feature_sets=deadly_feature_sets)
    others = [BITCOIN, UNISWAP]
    alone = train_archive(others, dataclasses.replace(plan, out=tmp_path / "without"))
    assert alone.archive is not None
    before = set(multiprocessing.active_children())
    with caplog.at_level(logging.WARNING, "postval.train"):
        report = train_archive([BITCOIN, DEADLY, UNISWAP], dataclasses.replace(plan, jobs=2))
    assert set(multiprocessing.active_children()) == before
    assert [name for name, _ in report.failures] == ["ETHUSD_1Hour"]
    assert "a worker process ended by itself" in report.failures[0][1]
    assert [d.model.name for d in report.delivered] == ["BTCUSD_1Hour", "UNIUSD_1Hour"]
    assert (plan.out / ARCHIVE).read_bytes() == alone.archive.read_bytes(), (
        "made again or not, it is the same"
    )
    assert (report.n_trials, report.left_out, report.stopped) == (2, (), False)
    [line] = [line for line in caplog.messages if "Made again after the others, alone: " in line]
    assert "ETHUSD_1Hour" in line.partition("alone: ")[2].split(", ")


def test_where_every_process_dies_nobody_waits_for_ever(plan: TrainingPlan) -> None:
    plan = dataclasses.replace(plan, feature_sets=Unreadable(), jobs=2)
    report = train_archive([BITCOIN, UNISWAP], plan)
    assert [name for name, _ in report.failures] == ["BTCUSD_1Hour", "UNIUSD_1Hour"]
    assert all("a worker process ended by itself" in reason for _, reason in report.failures)
    assert report.archive is None
    assert list(plan.out.iterdir()) == []


def test_nothing_is_begun_again_after_a_wish_to_stop(plan: TrainingPlan) -> None:
    plan = dataclasses.replace(plan, feature_sets=Unreadable(), jobs=2)
    report = train_archive([BITCOIN, UNISWAP], plan, lambda: True)
    assert (report.failures, report.stopped) == ((), True)
    assert report.left_out == ("BTCUSD_1Hour", "UNIUSD_1Hour")
