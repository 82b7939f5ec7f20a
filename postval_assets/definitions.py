"""The Dagster code location: build_definitions(settings) and defs, nothing else."""

import dagster as dg

from postval_assets.defs.assets import ASSETS
from postval_assets.defs.checks import CHECKS
from postval_assets.defs.jobs import JOBS
from postval_assets.defs.resources import PlatformResource
from postval_assets.defs.schedules import SCHEDULES
from postval_assets.defs.sensors import SENSORS
from postval_assets.settings import Settings


def build_definitions(settings: Settings | None = None) -> dg.Definitions:
    """Everything declared, for given settings; without any, they are read when first needed."""
    platform = PlatformResource() if settings is None else PlatformResource.of(settings)
    return dg.Definitions(
        assets=ASSETS,
        asset_checks=CHECKS,
        jobs=JOBS,
        schedules=SCHEDULES,
        sensors=SENSORS,
        resources={"platform": platform},
        executor=dg.in_process_executor,
    )


defs = build_definitions()
