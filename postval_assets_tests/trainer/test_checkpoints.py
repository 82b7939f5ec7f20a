"""The networks of all validations: where they lie, what they are good for, and what a disk that refuses costs."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.failures import Unavailable
from postval_assets.core.instruments import Timeframe
from postval_assets.core.resampling import resample
from postval_assets.pipeline.platform import open_platform
from postval_assets.pipeline.single_model import backtest_model
from postval_assets.settings import load_settings
from postval_assets.trainer.run import TrainingPlan, archive_path, best_update, train_archive
from postval_assets_tests.trainer.archive_cases import (
    ARCHIVE,
    BITCOIN,
    CHECKPOINTS,
    UNISWAP,
    market,
    plan_in,
)


@pytest.fixture
def plan(tmp_path: Path) -> TrainingPlan:
    return plan_in(tmp_path / "out")


def meanwhile(act: Callable[[], None]) -> Callable[[], bool]:
    """Does something once the command has begun; never a wish to stop."""
    todo = [act]

    def should_stop() -> bool:
        while todo:
            todo.pop()()
        return False

    return should_stop


def test_every_validation_s_network_is_kept(plan: TrainingPlan) -> None:
    report = train_archive([UNISWAP], plan)
    assert report.checkpoints == plan.out / CHECKPOINTS
    kept = sorted(p for p in report.checkpoints.rglob("*") if p.is_file())
    assert [p.relative_to(report.checkpoints).as_posix() for p in kept] == [
        "UNIUSD_1Hour/update_00002/UNIUSD_1Hour.pt",
        "UNIUSD_1Hour/update_00004/UNIUSD_1Hour.pt",
    ]
    assert read_checkpoint(kept[0]).spec.feature_set == "reference-59"
    assert kept[0].read_bytes() != kept[1].read_bytes()


def test_none_is_kept_where_none_is_wanted(plan: TrainingPlan) -> None:
    report = train_archive([UNISWAP], dataclasses.replace(plan, keep_checkpoints=False))
    assert report.checkpoints is None
    assert [p.name for p in plan.out.iterdir()] == [ARCHIVE]


def test_a_kept_network_is_traded_in_the_timeframe_that_it_was_trained_in(
    plan: TrainingPlan, tmp_path: Path
) -> None:
    hourly = market("BTCUSD", days=150)
    (tmp_path / "bars").mkdir()
    hourly.frame().to_parquet(tmp_path / "bars" / "BTCUSD_1Hour.parquet")
    report = train_archive([resample(hourly, Timeframe.HOUR_4).bars], plan)
    assert report.checkpoints is not None
    file = max(report.checkpoints.rglob("*.pt"))
    platform = open_platform(
        load_settings(data_dir=tmp_path / "data", bars_source=f"parquet:{tmp_path / 'bars'}")
    )
    done = backtest_model(platform, file, days=30, n_folds=1)
    assert (done.summary["symbol"], done.summary["timeframe"]) == ("BTCUSD", "4Hour")
    assert [fold["n_bars"] for fold in done.folds] == [30 * 6]


def test_a_checkpoint_that_cannot_be_written_stops_nothing_and_is_told_once(
    plan: TrainingPlan, caplog: pytest.LogCaptureFixture
) -> None:
    whole = train_archive([UNISWAP], dataclasses.replace(plan, out=plan.out / "whole"))

    def block() -> None:
        (plan.out / CHECKPOINTS).mkdir()
        (plan.out / CHECKPOINTS / "UNIUSD_1Hour").write_bytes(b"a file where a folder should be")

    with caplog.at_level(logging.WARNING, "postval.train"):
        report = train_archive([UNISWAP, BITCOIN], plan, meanwhile(block))
    assert report.failures == ()
    assert [d.model.name for d in report.delivered] == ["UNIUSD_1Hour", "BTCUSD_1Hour"]
    assert report.delivered[0].model.claims == whole.delivered[0].model.claims
    [line] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert line.startswith("UNIUSD_1Hour  no checkpoint from update 2 on, the training goes on: ")
    assert "could not be written" in line
    assert len(list((plan.out / CHECKPOINTS).rglob("BTCUSD_1Hour.pt"))) == 2


def test_nothing_unfinished_is_left_among_checkpoints(plan: TrainingPlan) -> None:
    folder = plan.out / CHECKPOINTS / "UNIUSD_1Hour"

    def block() -> None:
        (folder / "update_00002" / "UNIUSD_1Hour.pt" / "in the way").mkdir(parents=True)
        (folder / "update_00099").mkdir()
        (folder / "update_00099" / ".UNIUSD_1Hour.pt.part").write_bytes(b"of a process that died")

    report = train_archive([UNISWAP], plan, meanwhile(block))
    assert report.archive is not None
    assert not list(plan.out.rglob("*.part"))
    assert not (folder / "update_00099").exists()


def test_where_the_archive_cannot_be_written_it_is_said_where_its_networks_lie(plan: TrainingPlan) -> None:
    plan = dataclasses.replace(plan, n_restarts=2)
    whole = train_archive([UNISWAP], dataclasses.replace(plan, out=plan.out / "whole"))
    with pytest.raises(Unavailable) as error:
        train_archive([UNISWAP], plan, meanwhile(archive_path(plan).mkdir))
    update = best_update(whole.delivered[0].model)
    name = f"UNIUSD_1Hour/update_{update:05d}/UNIUSD_1Hour.pt"
    assert str(error.value).endswith(f"; its networks lie in {plan.out / CHECKPOINTS}: {name}")
    assert "could not be written" in str(error.value)
    # Of two restarts too it lies where the message says, and is the one that would have been delivered.
    assert whole.checkpoints is not None
    assert (plan.out / CHECKPOINTS / name).read_bytes() == (whole.checkpoints / name).read_bytes()
    assert not list(plan.out.glob("*.part"))


def test_where_nothing_was_kept_that_is_said_too(plan: TrainingPlan) -> None:
    plan = dataclasses.replace(plan, keep_checkpoints=False)
    with pytest.raises(Unavailable, match=r"could not be written: .*; not kept: UNIUSD_1Hour$"):
        train_archive([UNISWAP], plan, meanwhile(archive_path(plan).mkdir))
