"""Where bars come from: the interfaces, and the one place that turns a setting into a source.

Here: what every source promises, what a source promises besides whose answers cost requests, and what all of them
share. Not here: any particular source (file_bars.py, sample_bars.py, alpaca_bars.py), or longer timeframes than the
source has (core/resampling.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol, TypeGuard

from pydantic import SecretStr

from postval_assets.core.bars import Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.file_bars import CsvBars, ParquetBars
from postval_assets.io.sample_bars import SampleBars

_KINDS = ("parquet", "csv", "alpaca", "sample")
_EXAMPLES = "parquet:DIR (DIR/AAPL_1Hour.parquet), csv:DIR (DIR/AAPL_1Hour.csv), alpaca or sample"


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
        """The symbols the source has, in any timeframe, sorted; raises like fetch.

        Empty for a source that cannot list them (is_remote); it only looks whether it could be asked at all.
        """
        ...


@dataclass(frozen=True)
class BarAsk:
    """A question for the bars of one symbol with ``start <= ts <= end``.

    Attributes:
        symbol: as parse_symbol spells it.
        start, end: bar opens, aware, both inclusive.
    """

    symbol: str
    start: datetime
    end: datetime

    def __post_init__(self) -> None:
        """Naive times would be read as whatever the machine's clock is set to."""
        if self.start.tzinfo is None or self.end.tzinfo is None:
            raise ValueError(f"{self.symbol}: start and end must be aware")


@dataclass(frozen=True, eq=False)
class BarAnswer:
    """The complete answer to one question.

    Attributes:
        ask: what was asked.
        bars: every bar there is, of length 0 where there are none.
        problem: what is wrong with the question, naming the symbol, such as a pair that does not exist; final, and
            ``bars`` is empty then.
    """

    ask: BarAsk
    bars: Bars
    problem: str | None = None


class RemoteBarSource(BarSource, Protocol):
    """A source whose history costs requests: it is topped up, never read whole."""

    def answer(
        self, asks: Sequence[BarAsk], timeframe: Timeframe, asset_class: AssetClass
    ) -> Iterator[BarAnswer]:
        """Each question's complete answer, as soon as its group of requests is complete.

        Questions with the same range are asked together, so a caller can store what has come before the next
        request is made. Answers come in the order of the groups, not of the questions.

        Raises:
            Unavailable: where the source does not answer this time; what was yielded before stays valid.
            Rejected: for keys that are wrong or missing, before the first request where that can be seen.
        """
        ...

    def recorded_as(self, asset_class: AssetClass) -> str:
        """What is written beside bars, and beside what was asked: bars of two such names never make one series."""
        ...

    def reach(self) -> None:
        """Ask something small once, to see whether the source answers; within seconds, whatever it does.

        Raises:
            Unavailable: where it does not answer.
            Rejected: where it refuses the keys, or they are missing.
        """
        ...

    def newest_complete(self, timeframe: Timeframe, asset_class: AssetClass, now: datetime) -> datetime:
        """The newest open, at ``now``, up to which every bar is complete and may be seen; aware, UTC."""
        ...


def is_remote(source: BarSource) -> TypeGuard[RemoteBarSource]:
    """Whether the source is asked for what is missing, instead of read whole."""
    return callable(getattr(source, "answer", None))


class AlpacaAccess(Protocol):
    """How Alpaca is reached; the settings have it."""

    @property
    def alpaca_url(self) -> str | None:
        """Data host instead of Alpaca's own."""
        ...

    @property
    def alpaca_feed(self) -> str | None:
        """Feed of stocks; None for the best one that the account has."""
        ...

    @property
    def alpaca_requests_per_minute(self) -> int:
        """Requests in any 60 seconds."""
        ...

    @property
    def alpaca_timeout_s(self) -> float:
        """Longest silence of the server, seconds."""
        ...

    @property
    def alpaca_variables(self) -> Mapping[str, SecretStr]:
        """Those of alpaca_keys.VARIABLES that the environment has."""
        ...


def open_bar_source(spec: str, *, sample_dir: Path, alpaca: AlpacaAccess | None = None) -> BarSource:
    r"""The source that a setting names: ``alpaca``, ``parquet:DIR``, ``csv:DIR`` or ``sample``.

    Args:
        spec: DIR may be relative to the working directory, and may contain colons (``parquet:C:\bars``).
        sample_dir: where the bundled sample lies.
        alpaca: how Alpaca is reached; without it, ``alpaca`` is refused.

    Raises:
        Rejected: where the setting names no source of this version. Whether DIR exists, and whether keys are there,
            is only looked at when something is asked.
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
        case "alpaca" if not directory:
            if alpaca is None:
                raise Rejected("bars source 'alpaca' is not for this: nothing says how it is reached")
            from postval_assets.io.alpaca_bars import open_alpaca  # alpaca-py takes a second to import

            return open_alpaca(alpaca)
        case "alpaca":
            raise Rejected(
                "bars source 'alpaca' takes nothing behind it: the feed of stocks is the setting alpaca_feed "
                "(POSTVAL_ALPACA_FEED=iex), another host is alpaca_url"
            )
        case _:
            lower = kind.lower()
            hint = f" (names are lower case: {lower})" if kind != lower and lower in _KINDS else ""
            raise Rejected(f"bars source {ascii(spec)[:80]} is unknown{hint}: expected {_EXAMPLES}")
