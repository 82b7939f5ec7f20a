"""Where bars come from: the interface, and the one place that turns a setting into a source.

Here: what every source promises, and what all of them share. Not here: any particular source (file_bars.py,
sample_bars.py), or longer timeframes than the source has (core/resampling.py).
"""

from __future__ import annotations

from datetime import datetime
from pathlib import Path
from typing import Protocol

from postval_assets.core.bars import Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.file_bars import CsvBars, ParquetBars
from postval_assets.io.sample_bars import SampleBars

_EXAMPLES = "parquet:DIR (DIR/AAPL_1Hour.parquet), csv:DIR (DIR/AAPL_1Hour.csv) or sample"


class BarSource(Protocol):
    """Something that has bars of symbols."""

    @property
    def name(self) -> str:
        """Short name, written beside every bar (``bars.source``)."""
        ...

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        """The bars with ``start <= ts <= end``, as the source has them: nothing filled, nothing repaired.

        Args:
            symbol: as parse_symbol spells it.
            timeframe: length of the bars; a source does not resample.
            asset_class: carried into the result.
            start: open of the first bar wanted, naive means UTC; None for all there is.
            end: open of the last bar wanted, naive means UTC; None for all there is.

        Returns:
            Bars, of length 0 where the source knows the symbol but has nothing in the range.

        Raises:
            Rejected: where the source has no such series, or what it has is not one; says which and where.
            Unavailable: where the source did not answer this time.
        """
        ...

    def symbols(self) -> tuple[str, ...]:
        """The symbols the source has, in any timeframe, sorted; raises like fetch."""
        ...


def open_bar_source(spec: str, *, sample_dir: Path) -> BarSource:
    r"""The source that a setting names: ``parquet:DIR``, ``csv:DIR`` or ``sample``.

    Args:
        spec: DIR may be relative to the working directory, and may contain colons (``parquet:C:\bars``).
        sample_dir: where the bundled sample lies.

    Raises:
        Rejected: where the setting names no source of this version. Whether DIR exists is only looked at when
            something is fetched.
    """
    kind, _, rest = spec.strip().partition(":")
    directory = rest.strip()
    match kind:
        case "parquet" | "csv":
            if not directory:
                raise Rejected(f"bars source {kind!r} names no folder: expected {_EXAMPLES}")
            folder = Path(directory).absolute()
            return ParquetBars(folder) if kind == "parquet" else CsvBars(folder)
        case "sample" if not directory:
            return SampleBars(sample_dir)
        case "alpaca":
            raise Rejected(f"bars source 'alpaca' is not available in this version: expected {_EXAMPLES}")
        case _:
            raise Rejected(f"bars source {ascii(spec)[:80]} is unknown: expected {_EXAMPLES}")
