"""The schedules: one keeps bars up to date, one lets each model's record after its training grow. Both are off.

Here: ticks that ask for runs. Not here: what the runs do (jobs.py), or runs that follow from other runs (sensors.py).
They are turned on in the web UI, or not: nothing else relies on them.
"""

import dagster as dg

from postval_assets.core.failures import PostvalError
from postval_assets.pipeline.archives import archives_of

from .jobs import bars_job, evaluation_job, range_tags
from .partitions import SYMBOL
from .resources import ARCHIVE_TAG, AS_OF_TAG, PlatformResource

UTC_ZONE = "UTC"
_TEMPORARY = "this Dagster instance is temporary: set DAGSTER_HOME (postval up does)"
_NO_SYMBOLS = "there is no symbol yet: an archive brings them"

Requests = list[dg.RunRequest] | dg.SkipReason


@dg.schedule(
    name="top_up_bars",
    job=bars_job,
    # After the extended hours of New York, in summer and in winter.
    cron_schedule="30 2 * * *",
    execution_timezone=UTC_ZONE,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description="Every day at 02:30 UTC: the bars of all symbols up to the newest complete ones.",
)
def top_up_bars(context: dg.ScheduleEvaluationContext, platform: PlatformResource) -> Requests:
    if context.instance.is_ephemeral:
        return dg.SkipReason(_TEMPORARY)
    symbols = list(context.instance.get_dynamic_partitions(SYMBOL))
    if not symbols:
        return dg.SkipReason(_NO_SYMBOLS)
    at = context.scheduled_execution_time.isoformat()
    ranges = range_tags(symbols, symbols, platform.settings.symbols_per_run, {})
    return [
        dg.RunRequest(run_key=f"top_up_bars:{at}:{block}", tags=tags) for block, tags in enumerate(ranges)
    ]


@dg.schedule(
    name="evaluate_newest",
    job=evaluation_job,
    # When the week's last bars are complete.
    cron_schedule="30 3 * * 6",
    execution_timezone=UTC_ZONE,
    default_status=dg.DefaultScheduleStatus.STOPPED,
    description=(
        "Every Saturday at 03:30 UTC: the models of each symbol's newest archive again, on the bars up to then. "
        "Earlier evaluations stay."
    ),
)
def evaluate_newest(context: dg.ScheduleEvaluationContext, platform: PlatformResource) -> Requests:
    if context.instance.is_ephemeral:
        return dg.SkipReason(_TEMPORARY)
    symbols = list(context.instance.get_dynamic_partitions(SYMBOL))
    try:
        archives = archives_of(platform.platform, symbols, None)
    except PostvalError as error:
        return dg.SkipReason(str(error))
    if not archives:
        return dg.SkipReason(_NO_SYMBOLS)
    at = context.scheduled_execution_time.isoformat()
    requests = []
    for archive_id in sorted(set(archives.values())):
        wanted = [symbol for symbol in symbols if archives.get(symbol) == archive_id]
        tags = {ARCHIVE_TAG: archive_id, AS_OF_TAG: at}
        for block, run_tags in enumerate(
            range_tags(wanted, symbols, platform.settings.symbols_per_run, tags)
        ):
            key = f"evaluate_newest:{at}:{archive_id}:{block}"
            requests.append(dg.RunRequest(run_key=key, tags=run_tags))
    return requests


SCHEDULES = [top_up_bars, evaluate_newest]
