"""What every stage is given: settings, stores, the warehouse and a clock.

Here: putting the adapters together, and the report that a stage returns. Not here: any stage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.features.registry import registered_feature_sets
from postval_assets.core.instruments import AssetClass, asset_class_of
from postval_assets.io.archive_store import ArchiveStore
from postval_assets.io.bar_source import BarSource, open_bar_source
from postval_assets.io.model_store import ModelStore
from postval_assets.io.warehouse import Warehouse
from postval_assets.pipeline.stopwatch import Stopwatch
from postval_assets.settings import Settings


@dataclass(frozen=True)
class SymbolReport:
    """What a stage did for one symbol.

    Attributes:
        symbol: the partition.
        n_rows: rows of the stage's table that this symbol now has from this stage.
        n_current: of these, rows that were current and not computed again.
        problems: what is wrong, in words; empty where all is well.
        said: results worth reading in the asset catalogue.
    """

    symbol: str
    n_rows: int
    n_current: int = 0
    problems: tuple[str, ...] = ()
    said: tuple[str, ...] = ()


@dataclass(frozen=True)
class StageReport:
    """What a stage did, a SymbolReport for each symbol that it was asked for."""

    symbols: tuple[SymbolReport, ...]

    @property
    def n_rows(self) -> int:
        """Rows over all symbols."""
        return sum(s.n_rows for s in self.symbols)


@dataclass(frozen=True)
class Platform:
    """Settings and adapters of one data directory."""

    settings: Settings
    warehouse: Warehouse
    archives: ArchiveStore
    models: ModelStore
    feature_sets: Mapping[str, FeatureSet]
    now: Callable[[], datetime]
    stopwatch: Stopwatch = field(default_factory=Stopwatch)

    @property
    def timings(self) -> Path | None:
        """Where each stage notes its seconds; None for nowhere."""
        return self.settings.timings

    @property
    def replica(self) -> Path:
        """The database for people."""
        return self.settings.data_dir / "postval.duckdb"

    @property
    def scratch(self) -> Path:
        """Where checkpoints are inflated for reading; nothing in it outlives a stage."""
        return self.settings.data_dir / "scratch"

    def bar_source(self) -> BarSource:
        """The configured source of bars."""
        settings = self.settings
        return open_bar_source(settings.bars_source, sample_dir=settings.sample_dir, alpaca=settings)

    def asset_class(self, symbol: str) -> AssetClass:
        """Asset class by name, exceptions from the settings."""
        return asset_class_of(symbol, self.settings.symbol_classes)

    def device(self) -> str:
        """The torch device of inference: CUDA where the setting is auto and there is one."""
        if self.settings.device != "auto":
            return self.settings.device
        import torch

        return "cuda" if torch.cuda.is_available() else "cpu"


def open_platform(settings: Settings, now: Callable[[], datetime] | None = None) -> Platform:
    """The adapters of a data directory; nothing is touched before it is used.

    Args:
        settings: with an absolute data directory.
        now: the clock; the system's where not given.
    """
    data = settings.data_dir
    return Platform(
        settings=settings,
        warehouse=Warehouse(data / "warehouse" / "warehouse.duckdb", lock_timeout_s=settings.lock_timeout_s),
        archives=ArchiveStore(data / "archives", data / "archives" / "rejected"),
        models=ModelStore(data / "weights"),
        feature_sets=registered_feature_sets(),
        now=now or (lambda: datetime.now(UTC)),
    )
