"""The sensors: one watches the inbox, one does what is left when the queue of runs is empty.

Here: ticks. Each is cheap (ticks die at 60 s) and can be killed at any point: what it has done is in the warehouse,
and the next tick comes to the same end.
"""

import json

import dagster as dg

from postval_assets.core.failures import PostvalError
from postval_assets.io.inbox import FileHasher
from postval_assets.pipeline.archives import Delivery, Outcome
from postval_assets.pipeline.evidencing import archives_to_weigh, weighed_archives
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.reception import Reception, receive
from postval_assets.pipeline.summarizing import stale_summaries
from postval_assets.pipeline.watched import watches_due

from .catalogue import archive_materialization
from .jobs import archive_job, decision_job, evidence_job, range_tags, watch_job
from .partitions import ARCHIVE, SYMBOL, archive_partitions, symbol_partitions
from .resources import ARCHIVE_TAG, SHA_TAG, PlatformResource
from .run_records import FINISHED, UNFINISHED, fail_orphans, runs

ATTEMPT_TAG = "postval/attempt"
HASH_SECONDS_PER_TICK = 20.0
# Dagster's daemon looks at sensors every 5 seconds: with 5 here, a look a moment early would make it every 10.
INTERVAL_SECONDS = 3
# Follow-up runs that were asked for, so that one that failed is not asked for again and again.
REMEMBERED_REQUESTS = 500

# Lives as long as the code server's process: a large file is hashed over several ticks.
_hasher = FileHasher(budget_seconds=HASH_SECONDS_PER_TICK)


def is_busy(instance: dg.DagsterInstance, sha256: str) -> bool:
    """Whether an archive with this content has unfinished runs."""
    return bool(runs(instance, UNFINISHED, {SHA_TAG: sha256}, limit=1))


@dg.sensor(
    name="inbox_sensor",
    jobs=[archive_job],
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Watches the inbox: registers each new archive by its content and starts the runs for its symbols.",
)
def inbox_sensor(
    context: dg.SensorEvaluationContext, platform: PlatformResource
) -> dg.SensorResult | dg.SkipReason:
    if context.instance.is_ephemeral:
        return dg.SkipReason(
            "this Dagster instance is temporary and would lose its history: set DAGSTER_HOME (postval up does)"
        )
    try:
        reception = receive(
            platform.platform,
            context.cursor,
            run_id="inbox_sensor",
            hasher=_hasher,
            busy=lambda sha256: is_busy(context.instance, sha256),
        )
    except PostvalError as error:
        return dg.SkipReason(str(error))
    if not reception.deliveries:
        context.update_cursor(reception.cursor)
        return dg.SkipReason(
            "; ".join(f"{w.name}: {w.reason}" for w in reception.waiting) or "the inbox is empty"
        )
    return reception_result(context.instance, platform.settings.symbols_per_run, reception)


def reception_result(instance: dg.DagsterInstance, most: int, reception: Reception) -> dg.SensorResult:
    """Partitions, catalogue entries and run requests that follow from what was delivered."""
    symbols = list(instance.get_dynamic_partitions(SYMBOL))
    archives = set(instance.get_dynamic_partitions(ARCHIVE))
    added_symbols: list[str] = []
    added_archives: list[str] = []
    requests: list[dg.RunRequest] = []
    for delivery in reception.deliveries:
        new = [s for s in delivery.symbols if s not in symbols]
        symbols += new
        added_symbols += new
        if delivery.archive_id not in archives:
            archives.add(delivery.archive_id)
            added_archives.append(delivery.archive_id)
        if delivery.outcome in (Outcome.ACCEPTED, Outcome.RETRY):
            requests += run_requests(delivery, symbols, most)
    partitions = [
        *([symbol_partitions.build_add_request(added_symbols)] if added_symbols else []),
        *([archive_partitions.build_add_request(added_archives)] if added_archives else []),
    ]
    return dg.SensorResult(
        run_requests=requests,
        dynamic_partitions_requests=partitions,
        asset_events=[archive_materialization(d) for d in reception.deliveries],
        cursor=reception.cursor,
    )


def run_requests(delivery: Delivery, ordered: list[str], most: int) -> list[dg.RunRequest]:
    """One run for each contiguous block of the archive's symbols."""
    tags = {
        ARCHIVE_TAG: delivery.archive_id,
        SHA_TAG: delivery.sha256,
        ATTEMPT_TAG: str(delivery.attempt),
    }
    return [
        dg.RunRequest(run_key=f"{delivery.sha256}:{block}:{delivery.attempt}", tags=run_tags)
        for block, run_tags in enumerate(range_tags(delivery.symbols, ordered, most, tags))
    ]


@dg.sensor(
    name="queue_sensor",
    jobs=[decision_job, watch_job, evidence_job],
    minimum_interval_seconds=INTERVAL_SECONDS,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description=(
        "When the queue of runs is empty: decides again where folds are newer than their summary (after a backfill), "
        "watches LIVE models where there are newer bars, weighs the evidence of decided archives, then publishes the "
        "database for people."
    ),
)
def queue_sensor(
    context: dg.SensorEvaluationContext, platform: PlatformResource
) -> dg.SensorResult | dg.SkipReason:
    instance = context.instance
    if instance.is_ephemeral:
        return dg.SkipReason("this Dagster instance is temporary: set DAGSTER_HOME (postval up does)")
    lost = fail_orphans(instance, nobody_else_works=False)
    unfinished = len(runs(instance, UNFINISHED))
    if unfinished:
        failed = f"; failed {len(lost)} whose process was gone" if lost else ""
        return dg.SkipReason(f"{unfinished} run(s) are queued or running{failed}")
    newest = runs(instance, FINISHED, limit=1)
    run_id = newest[0].run_id if newest else None
    seen = json.loads(context.cursor or "{}")
    asked: list[str] = seen.get("asked", [])
    try:
        if run_id != seen.get("run_id"):
            requests = [r for r in follow_up_requests(instance, platform) if r.run_key not in asked]
            if requests:
                asked = [*asked, *(str(r.run_key) for r in requests)][-REMEMBERED_REQUESTS:]
                cursor = json.dumps({"run_id": seen.get("run_id"), "asked": asked})
                return dg.SensorResult(run_requests=requests, cursor=cursor)
        publication = platform.platform.warehouse.publish(platform.platform.replica)
    except PostvalError as error:
        return dg.SkipReason(str(error))
    context.update_cursor(json.dumps({"run_id": run_id, "asked": asked}))
    why = f", {publication.reason}" if publication.reason else ""
    return dg.SkipReason(f"{publication.status}: {publication.path.name}{why}")


def follow_up_requests(instance: dg.DagsterInstance, platform: PlatformResource) -> list[dg.RunRequest]:
    """Runs that bring what follows from folds and bars up to them, keyed by the state of these.

    Summaries and decisions are up to their folds, watches of LIVE models to the bars, evidence to its folds.
    """
    ordered = instance.get_dynamic_partitions(SYMBOL)
    most = platform.settings.symbols_per_run
    # One kind after the other: LIVE is what is decided as folds stand, and so is what evidence is weighed over.
    for job, found in ((decision_job, stale_summaries), (watch_job, watches_due)):
        requests = [
            dg.RunRequest(run_key=f"{due.archive_id}:{due.state}:{block}", job_name=job.name, tags=run_tags)
            for due in found(platform.platform)
            for block, run_tags in enumerate(
                range_tags(
                    [s for s in due.symbols if s in ordered], ordered, most, {ARCHIVE_TAG: due.archive_id}
                )
            )
        ]
        if requests:
            return requests
    return [
        dg.RunRequest(
            run_key=f"{archive_id}:{state}:evidence",
            job_name=evidence_job.name,
            partition_key=archive_id,
            tags={ARCHIVE_TAG: archive_id},
        )
        for archive_id, state in evidence_due(instance, platform.platform).items()
    ]


def evidence_due(instance: dg.DagsterInstance, platform: Platform) -> dict[str, str]:
    """Archives whose evidence is to be made, with the state of what it is made from.

    Evidence that is there and that Dagster has not heard of is among them: whoever made it was killed in between.
    """
    due = archives_to_weigh(platform)
    told = instance.get_materialized_partitions(dg.AssetKey("archive_evidence"))
    for archive_id in weighed_archives(platform):
        if archive_id not in told:
            due.setdefault(archive_id, "untold")
    known = set(instance.get_dynamic_partitions(ARCHIVE))
    return {archive_id: state for archive_id, state in due.items() if archive_id in known}


SENSORS = [inbox_sensor, queue_sensor]
