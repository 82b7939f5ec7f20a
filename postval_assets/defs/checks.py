"""Asset checks that are their own step: they can be run at any time, on what the warehouse holds now."""

import dagster as dg

from postval_assets.pipeline.summarizing import stale_summaries

from .assets import walk_forward_summaries
from .resources import PlatformResource


@dg.asset_check(
    asset=walk_forward_summaries,
    name="inputs_are_current",
    description="Every summary was made from the folds that the warehouse holds now (their digests are compared).",
)
def inputs_are_current(platform: PlatformResource) -> dg.AssetCheckResult:
    stale = stale_summaries(platform.platform)
    words = [f"{s.archive_id}: {', '.join(s.symbols)}" for s in stale]
    return dg.AssetCheckResult(
        passed=not stale,
        severity=dg.AssetCheckSeverity.WARN,
        description="\n".join(words) or None,
        metadata={"stale_symbols": sum(len(s.symbols) for s in stale)},
    )


CHECKS = [inputs_are_current]
