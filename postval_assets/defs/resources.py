"""The one resource: the platform of a data directory.

Here: how an asset gets at settings, stores and warehouse, and which archive and instant its run is about.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property

import dagster as dg
from pydantic import PrivateAttr

from postval_assets.core.failures import Rejected
from postval_assets.core.folds import Plan, plan_named
from postval_assets.io.log_file import log_to_file
from postval_assets.pipeline.archives import archives_of
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.settings import Settings, load_settings

from .run_records import add_tags, write_process

ARCHIVE_TAG = "postval/archive_id"
AS_OF_TAG = "postval/as_of"
PLANS_TAG = "postval/plans"
SHA_TAG = "postval/archive_sha256"
# Dagster's own tags of a run's partition, or of the first of a range of them.
_PARTITION_TAGS = ("dagster/partition", "dagster/asset_partition_range_start")
_NO_PARTITION = (
    "this run was launched without a partition, so nothing says what it is about: choose symbols (or an archive) with "
    "Materialize in the web UI, or run postval bars, validate or backfill"
)


@dataclass(frozen=True)
class RunScope:
    """What a run is about.

    Attributes:
        run_id: of Dagster's run.
        archives: archive_id by symbol; symbols without a model are left out.
        plans: walk-forward plans to evaluate.
        as_of: evaluate at the newest bar complete by then; None for the model's newest evaluation, else now.
    """

    run_id: str
    archives: dict[str, str]
    plans: tuple[Plan, ...]
    as_of: datetime | None


class PlatformResource(dg.ConfigurableResource["PlatformResource"]):
    """Settings, stores and warehouse of the data directory; read once in each process."""

    settings_json: str = ""

    _platform: Platform | None = PrivateAttr(default=None)

    @classmethod
    def of(cls, settings: Settings) -> "PlatformResource":
        """The resource of given settings."""
        return cls(settings_json=settings.model_dump_json())

    @property
    def platform(self) -> Platform:
        """The platform, opened at first use."""
        if self._platform is None:
            settings = (
                Settings.model_validate_json(self.settings_json) if self.settings_json else load_settings()
            )
            log_to_file(settings.data_dir, secrets=settings.secrets)
            self._platform = open_platform(settings)
        return self._platform

    def setup_for_execution(self, context: dg.InitResourceContext) -> None:
        """Write the process into its run, so that a run whose process was killed can be told from a slow one.

        Raises:
            dg.Failure: for a run without a partition. Here, because Dagster's own words come before any asset's body.
        """
        if context.run is not None and not _says_what_it_is_about(context.run):
            raise dg.Failure(_NO_PARTITION, allow_retries=False)
        if context.run is not None and context.instance is not None:
            write_process(context.instance, context.run.run_id)

    @cached_property
    def settings(self) -> Settings:
        """The settings in force."""
        return self.platform.settings

    def scope(self, context: dg.AssetExecutionContext, symbols: Iterable[str]) -> RunScope:
        """Which archive, plans and instant this run is about; records the archive on a run started without one.

        Raises:
            dg.Failure: for an unknown archive, plan or time, without retrying.
        """
        # As stored, not as the run was started with: an earlier step may have recorded the archive.
        run = context.instance.get_run_by_id(context.run.run_id) or context.run
        tags = run.tags
        wanted: Sequence[str] = list(dict.fromkeys(symbols))
        try:
            archives = _archives_of_tag(self.platform, wanted, tags.get(ARCHIVE_TAG))
            plans = tuple(
                plan_named(p) for p in tags.get(PLANS_TAG, ",".join(self.settings.plans)).split(",")
            )
            as_of = parse_instant(tags[AS_OF_TAG]) if AS_OF_TAG in tags else None
        except Rejected as error:
            raise dg.Failure(str(error), allow_retries=False) from error
        if ARCHIVE_TAG not in tags and archives:
            newest = ",".join(sorted(set(archives.values())))
            add_tags(context.instance, context.run.run_id, {ARCHIVE_TAG: newest})
        return RunScope(context.run.run_id, archives, plans, as_of)


def _says_what_it_is_about(run: dg.DagsterRun) -> bool:
    """Whether a run has a partition, or needs none: every asset is partitioned, and checks alone are not."""
    if run.asset_check_selection and not run.asset_selection:
        return True
    return any(tag in run.tags for tag in _PARTITION_TAGS)


def _archives_of_tag(platform: Platform, symbols: Sequence[str], tag: str | None) -> dict[str, str]:
    """The archive of each symbol; of a tag that names several, separated by commas, its newest among these.

    A run started without the tag over symbols of different archives records all of them, and can be run again.
    """
    if tag is None:
        return archives_of(platform, symbols, None)
    found: dict[str, str] = {}
    for archive_id in sorted(tag.split(",")):
        found |= archives_of(platform, symbols, archive_id)
    return {symbol: found[symbol] for symbol in symbols if symbol in found}


def parse_instant(text: str) -> datetime:
    """An ISO 8601 time with its offset; raises Rejected otherwise."""
    try:
        instant = datetime.fromisoformat(text)
    except ValueError:
        raise Rejected(
            f"time {ascii(text)[:40]} cannot be read: expected e.g. 2025-03-01T00:00:00Z"
        ) from None
    if instant.tzinfo is None:
        raise Rejected(f"time {text} has no offset: expected e.g. 2025-03-01T00:00:00Z")
    return instant
