"""Bars as the other stages read them: what is stored, and what a model's bars are.

Here: reading the table in a model's timeframe, and which series a model needs. Not here: how bars get into the table
(loading.py, topping_up.py), resampling and sessions (core).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from postval_assets.core.bars import Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import Timeframe
from postval_assets.core.resampling import resample
from postval_assets.core.sessions import regular_session
from postval_assets.pipeline.platform import Platform

log = logging.getLogger("postval.market")

# The source whose bars are not a market's.
SIMULATED = "sample"

# Bars read at once: bounds memory, and keeps queries few.
_BARS_PER_READ = 200_000


@dataclass(frozen=True)
class StoredSeries:
    """What the warehouse has of a symbol in one timeframe.

    Attributes:
        n_bars: bars.
        reach: nominal close of the newest one.
    """

    n_bars: int
    reach: datetime


def require_one_kind_of_bars(platform: Platform) -> None:
    """Simulated and real bars of one symbol in one series would make results that look real and mean nothing.

    Raises:
        Rejected: where the configured source is missing, or is of the other kind than what is stored.
    """
    source = platform.bar_source()
    source.symbols()
    if not platform.warehouse.path.is_file():
        return
    # The bars themselves: a load that was refused since then changes nothing about them.
    found = platform.warehouse.rows("SELECT DISTINCT source FROM bars ORDER BY source")
    other = [r["source"] for r in found if (r["source"] == SIMULATED) != (source.name == SIMULATED)]
    if other:
        raise Rejected(
            f"{platform.settings.data_dir} holds bars from {', '.join(other)}; bars from {source.name} do not belong "
            "with them (the sample is simulated): use another data directory (--data-dir), or set bars_source back"
        )


def needed_timeframes(platform: Platform, symbols: Sequence[str]) -> dict[str, list[Timeframe]]:
    """By symbol the base timeframe, and the finer ones that models of it have, longest first.

    Models of every archive that was not refused count.
    """
    rows = platform.warehouse.rows(
        """
        SELECT DISTINCT regexp_replace(model, '_[^_]*$', '') AS symbol, regexp_extract(model, '[^_]*$') AS timeframe
        FROM (SELECT unnest(models) AS model FROM training_archives WHERE status IS DISTINCT FROM 'REJECTED')
        """
    )
    of_models: dict[str, set[Timeframe]] = {}
    for row in rows:
        of_models.setdefault(row["symbol"], set()).add(Timeframe(row["timeframe"]))
    base = platform.settings.base_timeframe
    return {
        symbol: [
            base,
            *sorted(
                (t for t in of_models.get(symbol, ()) if t.minutes < base.minutes),
                key=lambda t: t.minutes,
                reverse=True,
            ),
        ]
        for symbol in symbols
    }


def stored_series(platform: Platform, symbols: Sequence[str]) -> dict[str, dict[Timeframe, StoredSeries]]:
    """What is stored of these symbols, by timeframe; a symbol without bars is not in it."""
    rows = platform.warehouse.rows(
        """
        SELECT symbol, timeframe, count(*) AS n_bars, max(ts) AS ts FROM bars
        WHERE list_contains(?, symbol) GROUP BY symbol, timeframe
        """,
        (list(symbols),),
    )
    series: dict[str, dict[Timeframe, StoredSeries]] = {}
    for r in rows:
        timeframe = Timeframe(r["timeframe"])
        reach = r["ts"] + timedelta(minutes=timeframe.minutes)
        series.setdefault(r["symbol"], {})[timeframe] = StoredSeries(int(r["n_bars"]), reach)
    return series


def stored_bars(platform: Platform, symbol: str, timeframe: Timeframe) -> Bars | None:
    """The stored bars of exactly this timeframe; None where there are none."""
    return _read_bars(platform, [symbol], timeframe).get(symbol)


def _read_bars(platform: Platform, symbols: Sequence[str], timeframe: Timeframe) -> dict[str, Bars]:
    """The stored bars of exactly this timeframe, by symbol."""
    frame = platform.warehouse.frame(
        """
        SELECT symbol, ts, open, high, low, close, volume FROM bars
        WHERE symbol IN (SELECT unnest(CAST(? AS VARCHAR[]))) AND timeframe = ? ORDER BY symbol, ts
        """,
        (list(symbols), timeframe.value),
    )
    return {
        str(symbol): Bars.from_frame(
            of_symbol,
            symbol=str(symbol),
            timeframe=timeframe,
            asset_class=platform.asset_class(str(symbol)),
        )
        for symbol, of_symbol in frame.groupby("symbol", sort=False)
    }


def model_bars(
    platform: Platform, symbol: str, timeframe: Timeframe, *, until: datetime | None = None
) -> Bars:
    """The bars of a single model; see ModelBars.read."""
    return ModelBars(platform, [symbol]).read(symbol, timeframe, until=until)


class ModelBars:
    """Bars for the models of some symbols: what is stored is asked once, and read for several symbols together.

    Args:
        platform: settings and warehouse.
        symbols: whose bars will be read, in about this order.
    """

    def __init__(self, platform: Platform, symbols: Sequence[str]) -> None:
        self._platform = platform
        self._symbols = list(symbols)
        self._series = stored_series(platform, symbols)
        # The batch read last of each timeframe, by symbol.
        self._batches: dict[Timeframe, dict[str, Bars]] = {}

    def read(self, symbol: str, timeframe: Timeframe, *, until: datetime | None = None) -> Bars:
        """All stored bars of a symbol in a model's timeframe, the session setting applied.

        Of several stored series that it can be made from, the longest timeframe is taken that reaches ``until``, or,
        without it, as far as any other does. A series that is no longer loaded stays behind, and is not taken for
        what lies after it. One whose next bar is not complete yet does not stay behind.

        Args:
            symbol: whose bars.
            timeframe: of the model.
            until: the instant that an evaluation is frozen at; None for the newest bars.

        Raises:
            Rejected: where there are none, or none from which this timeframe can be made.
        """
        source = self.source_timeframe(symbol, timeframe, until=until)
        if source is None:
            raise Rejected(_why_no_bars(self._platform, symbol, timeframe, self._series.get(symbol, {})))
        return in_timeframe(self.stored(symbol, source), timeframe, self._platform.settings.session)

    def source_timeframe(
        self, symbol: str, timeframe: Timeframe, *, until: datetime | None = None
    ) -> Timeframe | None:
        """The stored series that ``read`` takes for this model timeframe; None where there is none."""
        usable = {
            t: s.reach for t, s in self._series.get(symbol, {}).items() if timeframe.minutes % t.minutes == 0
        }
        if not usable:
            return None
        furthest = max(usable.values())
        goal = furthest if until is None else min(until, furthest)
        reaching = [t for t, reach in usable.items() if goal - reach < timedelta(minutes=t.minutes)]
        return max(reaching, key=lambda t: t.minutes)

    def timeframes(self, symbol: str) -> list[Timeframe]:
        """The timeframes in which this symbol has stored bars, shortest first."""
        return sorted(self._series.get(symbol, {}), key=lambda t: t.minutes)

    def stored(self, symbol: str, timeframe: Timeframe) -> Bars:
        """The stored bars of exactly this timeframe, which the symbol must have."""
        if symbol not in self._batches.get(timeframe, {}):
            self._batches[timeframe] = _read_bars(self._platform, self._batch(symbol, timeframe), timeframe)
        return self._batches[timeframe][symbol]

    def _batch(self, symbol: str, timeframe: Timeframe) -> list[str]:
        """This symbol and those that follow it with such a series, as many as are read at once."""
        batch: list[str] = []
        n_bars = 0
        for name in self._symbols[self._symbols.index(symbol) :]:
            series = self._series.get(name, {}).get(timeframe)
            if series is None:
                continue
            n_bars += series.n_bars
            if batch and n_bars > _BARS_PER_READ:
                break
            batch.append(name)
        return batch


def in_timeframe(bars: Bars, timeframe: Timeframe, session: str) -> Bars:
    """Bars in a model's timeframe: the session setting applied first, then resampled."""
    if session == "regular":
        bars = regular_session(bars)
    resampled = resample(bars, timeframe)
    if resampled.n_straddling:
        log.warning(
            "%s %s: %d bar(s) lie across the edge of two and are left out (their minutes differ within a day)",
            bars.symbol,
            timeframe,
            resampled.n_straddling,
        )
    return resampled.bars


def _why_no_bars(
    platform: Platform, symbol: str, timeframe: Timeframe, stored: Mapping[Timeframe, StoredSeries]
) -> str:
    # What a model's bars are made from: its own timeframe where that is finer than the base, else the base.
    base = platform.settings.base_timeframe
    source = timeframe if timeframe.minutes < base.minutes else base
    loads = platform.warehouse.rows(
        "SELECT reason FROM bar_loads WHERE symbol = ? AND timeframe = ? AND reason IS NOT NULL",
        (symbol, source.value),
    )
    if stored:
        there = ", ".join(t.value for t in Timeframe if t in stored)
        advice = loads[0]["reason"] if loads else "set base_timeframe to a finer one that the source has"
        return f"bars of {symbol} are {there}: {timeframe} bars cannot be made from them; {advice}"
    if loads:
        return f"no bars of {symbol}: {loads[0]['reason']}"
    return f"no bars of {symbol} in the warehouse: materialize bars for it first"
