"""What a source of the network is to be asked for: the series, what is missing of them, and what is compared.

Here: reading what is stored and covered, and the questions that follow. Not here: sets of ranges (core/coverage.py),
asking, and what is done with the answers (topping_up.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import pandas as pd

from postval_assets.core.bar_changes import CloseComparison
from postval_assets.core.coverage import TimeRange, missing, union, with_overlap
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.bar_source import RemoteBarSource
from postval_assets.pipeline.market import needed_timeframes, stored_bars, stored_series
from postval_assets.pipeline.platform import Platform

# What is asked again with new bars. Of equities a week, so that an adjustment that the source makes some days late is
# still seen; of crypto a day, for bars that were corrected.
OVERLAP = {AssetClass.EQUITY: timedelta(days=7), AssetClass.CRYPTO: timedelta(days=1)}


@dataclass(eq=False)
class Series:
    """One series in this pass: what the warehouse has of it, and what came of it so far.

    ``source`` is what its bars are recorded as, and ``covered`` what was asked of exactly that.
    """

    symbol: str
    timeframe: Timeframe
    asset_class: AssetClass
    source: str
    n_stored: int
    newest_bar: datetime | None
    covered: tuple[TimeRange, ...]
    n_new: int = 0
    n_fetched: int = 0
    n_changed: int = 0
    first_ts: datetime | None = None
    last_ts: datetime | None = None
    problem: str | None = None
    said: list[str] = field(default_factory=list)

    @property
    def n_bars(self) -> int:
        """Bars that are stored when this pass is written."""
        return self.n_stored + self.n_new

    @property
    def key(self) -> dict[str, object]:
        """Columns that name the series."""
        return {"symbol": self.symbol, "timeframe": self.timeframe.value}


@dataclass(frozen=True, eq=False)
class Question:
    """One ask, and what is done with its answer.

    Attributes:
        series: whose bars.
        range: the opens that are asked for.
        stored: bars of the range that are stored, or all of them where ``whole``; None where there are none.
        whole: the answer takes the place of everything that is stored.
        shift: what was seen that made the symbol be asked whole again; None for another reason.
    """

    series: Series
    range: TimeRange
    stored: pd.DataFrame | None = None
    whole: bool = False
    shift: CloseComparison | None = None


def read_series(platform: Platform, source: RemoteBarSource, symbols: Sequence[str]) -> list[Series]:
    """The series of these symbols as the warehouse has them."""
    rows = platform.warehouse.rows(
        """
        SELECT symbol, timeframe, source, start_ts, end_ts FROM bar_coverage WHERE list_contains(?, symbol)
        """,
        (list(symbols),),
    )
    covered: dict[tuple[str, Timeframe, str], list[TimeRange]] = {}
    for r in rows:
        covered.setdefault((r["symbol"], Timeframe(r["timeframe"]), r["source"]), []).append(
            TimeRange(r["start_ts"], r["end_ts"])
        )
    stored = stored_series(platform, symbols)
    found = []
    for symbol, timeframes in needed_timeframes(platform, symbols).items():
        for timeframe in timeframes:
            known = stored.get(symbol, {}).get(timeframe)
            asset_class = platform.asset_class(symbol)
            recorded_as = source.recorded_as(asset_class)
            found.append(
                Series(
                    symbol=symbol,
                    timeframe=timeframe,
                    asset_class=asset_class,
                    source=recorded_as,
                    n_stored=known.n_bars if known is not None else 0,
                    newest_bar=known.reach - timedelta(minutes=timeframe.minutes) if known else None,
                    covered=union(covered.get((symbol, timeframe, recorded_as), ())),
                )
            )
    return found


def questions(platform: Platform, members: Sequence[Series], wanted: TimeRange) -> list[Question]:
    """What is missing of these series of one timeframe; at the newer edge with a piece of what is stored."""
    asked: list[Question] = []
    overlapping: dict[Series, TimeRange] = {}
    for series in members:
        if not series.covered and series.n_stored:
            # Bars of another source or feed: this one's take their place, so that no series is of two.
            asked.append(question_again(platform, series, wanted))
            continue
        for gap in missing(wanted, series.covered):
            longer = gap
            if gap.end == wanted.end:
                overlap = OVERLAP[series.asset_class]
                longer = with_overlap(gap, series.covered, newest_bar=series.newest_bar, overlap=overlap)
            if longer == gap:
                asked.append(Question(series, gap))
            else:
                overlapping[series] = longer
    stored = _stored_since(platform, {s: longer.start for s, longer in overlapping.items()})
    return asked + [Question(s, longer, stored.get(s.symbol)) for s, longer in overlapping.items()]


def question_again(
    platform: Platform, series: Series, wanted: TimeRange, shift: CloseComparison | None = None
) -> Question:
    """The whole series once more, at least over what was asked before and what is stored."""
    starts = [wanted.start, *(one.start for one in series.covered)]
    bars = stored_bars(platform, series.symbol, series.timeframe)
    stored = bars.frame() if bars is not None else None
    if stored is not None and stored["ts"].iloc[0] < min(starts):
        # The day's beginning: symbols that are asked for the same range share requests.
        starts.append(stored["ts"].iloc[0].normalize().to_pydatetime())
    return Question(series, TimeRange(min(starts), wanted.end), stored, whole=True, shift=shift)


def _stored_since(platform: Platform, starts: Mapping[Series, datetime]) -> dict[str, pd.DataFrame]:
    """The stored bars from these opens on, by symbol; the series are of one timeframe."""
    if not starts:
        return {}
    frame = platform.warehouse.frame(
        """
        SELECT b.symbol, b.ts, b.open, b.high, b.low, b.close, b.volume FROM bars b
        JOIN (SELECT unnest(CAST(? AS VARCHAR[])) AS symbol, unnest(CAST(? AS TIMESTAMPTZ[])) AS start) s
          ON b.symbol = s.symbol AND b.ts >= s.start
        WHERE b.timeframe = ? ORDER BY b.symbol, b.ts
        """,
        ([s.symbol for s in starts], list(starts.values()), next(iter(starts)).timeframe.value),
    )
    return {str(symbol): part.drop(columns="symbol") for symbol, part in frame.groupby("symbol")}
