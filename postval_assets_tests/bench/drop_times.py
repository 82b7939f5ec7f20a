"""Where the seconds between a drop and the last decision went: Dagster's records and the product's own timings.

Here: reading both and taking the time apart. Not here: making the runs (drop_bench.py), or printing (drop_tables.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg

_STEP_ENDS = (dg.DagsterEventType.STEP_SUCCESS, dg.DagsterEventType.STEP_FAILURE)


@dataclass(frozen=True)
class RunTimes:
    """One run as Dagster recorded it; instants are seconds since 1970.

    Attributes:
        created: when it was asked for.
        first_step: when its first step began to work.
        ended: when it was over.
        steps: seconds of each step, by its name.
    """

    created: float
    first_step: float
    ended: float
    steps: Mapping[str, float]


@dataclass(frozen=True)
class StageTime:
    """One pass of a stage, as the product timed itself.

    Attributes:
        stage: its name, that of its step.
        wall_s: from beginning to end.
        parts: seconds by part, summed over threads: together they may be more than ``wall_s``.
    """

    stage: str
    wall_s: float
    parts: Mapping[str, float]


def run_times(instance: dg.DagsterInstance, tags: Mapping[str, str], job: str) -> list[RunTimes]:
    """The finished runs of a job with these tags, in the order in which they worked."""
    found = []
    for record in instance.get_run_records(dg.RunsFilter(job_name=job, tags=dict(tags))):
        began: dict[str, float] = {}
        steps: dict[str, float] = {}
        for entry in instance.all_logs(
            record.dagster_run.run_id, of_type={dg.DagsterEventType.STEP_START, *_STEP_ENDS}
        ):
            event = entry.dagster_event
            if event is None or event.step_key is None:
                continue
            if event.event_type is dg.DagsterEventType.STEP_START:
                began[event.step_key] = entry.timestamp
            else:
                steps[event.step_key] = entry.timestamp - began[event.step_key]
        if record.end_time is not None and began:
            created = record.create_timestamp.timestamp()
            found.append(RunTimes(created, min(began.values()), record.end_time, steps))
    return sorted(found, key=lambda r: r.first_step)


def stage_times(file: Path) -> list[StageTime]:
    """What the product wrote to its file of timings; empty where it wrote none."""
    if not file.is_file():
        return []
    rows = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
    return [StageTime(row["stage"], float(row["wall_s"]), row.get("parts", {})) for row in rows]


def split(
    dropped_at: float, decided_at: float, runs: Sequence[RunTimes], timed: Sequence[StageTime]
) -> dict[str, Any]:
    """The time between two instants, taken apart; the first four of these make up ``seconds``.

    Args:
        dropped_at: when the archive was there.
        decided_at: when the last decision was written.
        runs: of the archive, in the order in which they worked; one at a time.
        timed: what the product timed; a step without such a time counts with its whole length.

    Returns:
        ``waiting_s``: until the first run was asked for; ``starting_s``: from there, and from the end of a run
        before, to the first step; ``stages_s``: the product's own stages; ``events_s``: what is left, Dagster's
        events and the ways between steps. ``stages`` and ``steps`` are seconds by name, the steps being
        Dagster's view of the stages; ``parts`` are seconds by part over all threads.
    """
    seconds = decided_at - dropped_at
    waiting = runs[0].created - dropped_at if runs else seconds
    starting, free_from = 0.0, 0.0
    steps: dict[str, float] = {}
    for run in runs:
        starting += run.first_step - max(run.created, free_from)
        free_from = run.ended
        for name, length in run.steps.items():
            steps[name] = steps.get(name, 0.0) + length
    walls: dict[str, float] = {}
    parts: dict[str, float] = {}
    for each in timed:
        walls[each.stage] = walls.get(each.stage, 0.0) + each.wall_s
        for name, length in each.parts.items():
            parts[name] = parts.get(name, 0.0) + length
    stages = {name: walls.get(name, length) for name, length in steps.items()}
    worked = sum(stages.values())
    return {
        "seconds": round(seconds, 2),
        "waiting_s": round(waiting, 2),
        "starting_s": round(starting, 2),
        "stages_s": round(worked, 2),
        "events_s": round(seconds - waiting - starting - worked, 2),
        "runs": len(runs),
        "stages": {name: round(length, 2) for name, length in stages.items()},
        "steps": {name: round(length, 2) for name, length in steps.items()},
        "parts": {name: round(length, 2) for name, length in parts.items()},
    }
