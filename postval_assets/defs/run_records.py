"""Runs as Dagster's instance records them: which are unfinished, which have lost their process.

Here: every use of the instance's run records, and the three methods of it that Dagster does not document as public
(adding tags to a run, failing a run, the states of schedules), so that one file changes when they do.

A run is worked on by one process. Dagster does not notice when that process is killed (its default launcher cannot
tell), and with one run at a time a dead run would hold the queue for ever. So each process writes itself into its run,
and a run whose process is gone is failed; Dagster's own retries then repeat it.

A run exists a moment before it is begun. One that a command makes in its own process says so from the start; one that
the daemon makes is begun within seconds, also by a daemon that is started again after a crash in that moment.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta

import dagster as dg

from postval_assets.io.process_identity import is_alive, this_process

PROCESS_TAG = "postval/process"
COMMAND_TAG = "postval/command_process"
# A daemon takes up what an earlier one had made and not begun as soon as it has loaded its definitions.
_LEFT_ALONE = timedelta(minutes=10)

UNFINISHED = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]
FINISHED = [dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED]
# States in which a process has to be there.
WORKED_ON = [dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED, dg.DagsterRunStatus.CANCELING]


def runs(
    instance: dg.DagsterInstance,
    statuses: Sequence[dg.DagsterRunStatus],
    tags: Mapping[str, str] | None = None,
    limit: int | None = None,
) -> list[dg.DagsterRun]:
    """Runs in one of these states, newest first."""
    filters = dg.RunsFilter(statuses=list(statuses), tags=dict(tags or {}))
    return [record.dagster_run for record in instance.get_run_records(filters, limit=limit)]


def made_here() -> dict[str, str]:
    """Tags of a run that a command makes and works on in this process."""
    return {COMMAND_TAG: this_process()}


def write_process(instance: dg.DagsterInstance, run_id: str) -> None:
    """Write this process into its run."""
    # With the run's id: a retry inherits the tags of the run that it repeats.
    add_tags(instance, run_id, {PROCESS_TAG: f"{run_id} {this_process()}"})


def add_tags(instance: dg.DagsterInstance, run_id: str, tags: Mapping[str, str]) -> None:
    """Add tags to a run."""
    instance.add_run_tags(run_id, dict(tags))


def has_lost_its_process(run: dg.DagsterRun) -> bool | None:
    """Whether the process that worked on a run is gone; None where the run has not written one yet."""
    run_id, _, process = run.tags.get(PROCESS_TAG, "").partition(" ")
    if run_id == run.run_id:
        return not is_alive(process)
    # A run that is repeated from the web page inherits its tags, and is no command's.
    if COMMAND_TAG in run.tags and run.parent_run_id is None:
        return not is_alive(run.tags[COMMAND_TAG])
    return None


def orphans(instance: dg.DagsterInstance, *, nobody_else_works: bool) -> list[dg.DagsterRun]:
    """Runs that nobody works on any more.

    Args:
        instance: of a data directory.
        nobody_else_works: whether it is certain that no daemon runs here, so that a run that a daemon started and
            that has not written its process yet is one of them, too.
    """
    gone = []
    for run in runs(instance, WORKED_ON):
        lost = has_lost_its_process(run)
        if lost or (lost is None and nobody_else_works):
            gone.append(run)
    made = instance.get_run_records(dg.RunsFilter(statuses=[dg.DagsterRunStatus.NOT_STARTED]))
    for record in made:
        lost = has_lost_its_process(record.dagster_run)
        if lost or (lost is None and datetime.now(UTC) - record.create_timestamp > _LEFT_ALONE):
            gone.append(record.dagster_run)
    return gone


def fail_orphans(instance: dg.DagsterInstance, *, nobody_else_works: bool) -> list[str]:
    """Fail every run that nobody works on; Dagster's retries repeat those that a daemon started. Their run ids."""
    failed = []
    for run in orphans(instance, nobody_else_works=nobody_else_works):
        instance.report_run_failed(run, "its process was stopped or killed; what it had finished stays")
        failed.append(run.run_id)
    return failed


def schedules_on(instance: dg.DagsterInstance) -> list[str]:
    """Names of the schedules that are turned on here."""
    states = instance.all_instigator_state()
    return sorted(
        {s.name for s in states if s.instigator_type.value == "SCHEDULE" and s.status.value == "RUNNING"}
    )
