"""Where seconds go: nested parts counted once, threads added up, a line a stage whatever becomes of it."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from postval_assets.core.failures import Rejected
from postval_assets.pipeline.stopwatch import Stopwatch, timed_stage


class Clock:
    """Seconds that pass when they are told to."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Platform:
    timings: Path | None = None
    clock: Clock = field(default_factory=Clock)
    stopwatch: Stopwatch = field(init=False)

    def __post_init__(self) -> None:
        self.stopwatch = Stopwatch(self.clock)


def test_a_part_inside_another_is_not_counted_in_it() -> None:
    clock = Clock()
    watch = Stopwatch(clock)
    with watch.part("accounting"):
        clock.now += 1.0
        for _ in range(2):
            with watch.part("inference"):
                clock.now += 10.0
        clock.now += 2.0
    assert watch.seconds() == {"accounting": 3.0, "inference": 20.0}


def test_a_part_that_raises_is_counted() -> None:
    clock = Clock()
    watch = Stopwatch(clock)

    @watch.part("checkpoint")
    def fail() -> None:
        clock.now += 1.5
        raise Rejected("no checkpoint")

    with pytest.raises(Rejected):
        fail()
    with watch.part("checkpoint"):
        clock.now += 0.5
    assert watch.seconds() == {"checkpoint": 2.0}


def test_threads_are_added_up_and_do_not_nest_in_each_other() -> None:
    clock = Clock()
    watch = Stopwatch(clock)

    def inside() -> None:
        with watch.part("inference"):
            clock.now += 4.0

    with watch.part("bars"):
        thread = threading.Thread(target=inside)
        thread.start()
        thread.join()
    assert watch.seconds() == {"bars": 4.0, "inference": 4.0}


@timed_stage("extracted_models")
def stage(platform: Platform, seconds: float, *, fail: bool = False) -> float:
    with platform.stopwatch.part("inflating"):
        platform.clock.now += seconds
    if fail:
        raise Rejected("no archive")
    return seconds


def test_each_stage_adds_its_own_line(tmp_path: Path) -> None:
    platform = Platform(tmp_path / "timings.jsonl")
    assert stage(platform, 2.0) == 2.0
    with pytest.raises(Rejected):
        stage(platform, 3.0, fail=True)
    assert platform.timings is not None
    lines = [json.loads(line) for line in platform.timings.read_text().splitlines()]
    assert [(line["stage"], line["parts"]) for line in lines] == [
        ("extracted_models", {"inflating": 2.0}),
        ("extracted_models", {"inflating": 3.0}),
    ]
    assert all(line["wall_s"] >= 0 and line["pid"] > 0 and line["started_at"] > 0 for line in lines)


def test_without_a_file_nothing_is_written(tmp_path: Path) -> None:
    assert stage(Platform(), 2.0) == 2.0
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_cannot_be_written_stops_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    assert stage(Platform(tmp_path / "gone" / "timings.jsonl"), 2.0) == 2.0
    assert "could not be written" in caplog.text
