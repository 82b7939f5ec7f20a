"""The jobs: which assets run together.

Here: selections and run requests over ranges of symbols. One process does all steps of a run (it uses every core
itself), and the queue lets one run through at a time.
"""

from collections.abc import Mapping, Sequence

import dagster as dg

from .assets import (
    archive_evidence,
    backtest_results,
    bars,
    champion_comparisons,
    claim_reproductions,
    deployment_decisions,
    deployment_watches,
    extracted_models,
    gating_scores,
    walk_forward_evaluations,
    walk_forward_summaries,
)
from .partitions import contiguous_blocks

RANGE_START_TAG = "dagster/asset_partition_range_start"
RANGE_END_TAG = "dagster/asset_partition_range_end"

archive_job = dg.define_asset_job(
    "archive_job",
    selection=dg.AssetSelection.assets(
        extracted_models,
        gating_scores,
        bars,
        backtest_results,
        walk_forward_evaluations,
        claim_reproductions,
        walk_forward_summaries,
        champion_comparisons,
        deployment_watches,
        deployment_decisions,
    ),
    description="Everything that an arriving archive needs, for a range of its symbols.",
)

bars_job = dg.define_asset_job(
    "bars_job",
    selection=dg.AssetSelection.assets(bars),
    description="Bars alone: what is missing of them up to now.",
)

evaluation_job = dg.define_asset_job(
    "evaluation_job",
    selection=dg.AssetSelection.assets(
        bars,
        backtest_results,
        walk_forward_evaluations,
        claim_reproductions,
        walk_forward_summaries,
        champion_comparisons,
        deployment_watches,
        deployment_decisions,
    ),
    description=(
        "Folds of further plans or newer bars for known models, their 30-day backtest, their claims against training "
        "bars, and the decisions that follow."
    ),
)

decision_job = dg.define_asset_job(
    "decision_job",
    selection=dg.AssetSelection.assets(
        walk_forward_summaries, champion_comparisons, deployment_watches, deployment_decisions
    ),
    description="Summaries, comparisons and decisions again, after folds were backfilled.",
)

watch_job = dg.define_asset_job(
    "watch_job",
    selection=dg.AssetSelection.assets(deployment_watches, deployment_decisions),
    description="Models that went LIVE against the bars since then, and the decisions that follow.",
)

evidence_job = dg.define_asset_job(
    "evidence_job",
    selection=dg.AssetSelection.assets(archive_evidence),
    description="The evidence of one archive, once all its models are decided.",
)

JOBS = [archive_job, bars_job, evaluation_job, decision_job, watch_job, evidence_job]


def range_tags(
    symbols: Sequence[str], ordered: Sequence[str], most: int, tags: Mapping[str, str]
) -> list[dict[str, str]]:
    """The tags of the runs that together cover these symbols, one for each contiguous range.

    Args:
        symbols: wanted.
        ordered: all symbol partitions in the order that they were added in.
        most: symbols in a run.
        tags: of every run.
    """
    return [
        {**tags, RANGE_START_TAG: first, RANGE_END_TAG: last}
        for first, last in contiguous_blocks(symbols, ordered, most)
    ]
