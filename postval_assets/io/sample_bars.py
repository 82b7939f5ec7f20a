"""The bundled sample bars. Here: where they lie and what they are called. Not here: how they were made."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from postval_assets.core.bars import Bars
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.file_bars import ParquetBars


@dataclass(frozen=True)
class SampleBars:
    """Bars of the sample: Parquet files in ``bars`` under the sample's folder."""

    sample_dir: Path
    name: str = "sample"

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        """See BarSource.fetch."""
        return self._files.fetch(symbol, timeframe, asset_class, start=start, end=end)

    def symbols(self) -> tuple[str, ...]:
        """See BarSource.symbols."""
        return self._files.symbols()

    @property
    def _files(self) -> ParquetBars:
        return ParquetBars(self.sample_dir / "bars")
