"""Stage ``bars``: from a source into one table, and out of it in a model's timeframe.

Here: merging, and what a model's bars are. Not here: sources (io), resampling and sessions (core).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

import pandas as pd

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.instruments import Timeframe
from postval_assets.core.resampling import resample
from postval_assets.core.sessions import regular_session
from postval_assets.io.warehouse import Merge, Replace
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport

log = logging.getLogger("postval.market")

# The source whose bars are not a market's.
SIMULATED = "sample"

EMPTY = "the source has no bars"

# Bars kept back before they are written: bounds memory, and keeps transactions few.
_ROWS_PER_WRITE = 200_000
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


def load_bars(platform: Platform, symbols: Sequence[str], *, run_id: str) -> StageReport:
    """Bring the bars of these symbols up to what the source has; what is stored stays, new rows are merged.

    A symbol's bars are loaded in the base timeframe of the settings, and beside it in each finer one that a model of
    it has; what is wrong with one of these series is no matter of the others.

    Raises:
        Unavailable: once, after all symbols were tried, where the source did not answer for some.
    """
    require_one_kind_of_bars(platform)
    loading = _Loading(platform, symbols, run_id)
    reports = []
    for symbol in symbols:
        n_stored = n_new = 0
        problems = []
        for timeframe in loading.timeframes(symbol):
            stored, new, problem = loading.load(symbol, timeframe)
            n_stored, n_new = n_stored + stored, n_new + new
            problems += [problem] if problem is not None else []
        reports.append(SymbolReport(symbol, n_stored + n_new, n_stored, tuple(problems)))
    loading.write()
    if loading.unavailable:
        raise Unavailable(
            f"bars of {len(loading.unavailable)} symbol(s) could not be read: "
            + "; ".join(f"{symbol} {why}" for symbol, why in loading.unavailable.items())
        )
    return StageReport(tuple(reports))


def require_one_kind_of_bars(platform: Platform) -> None:
    """Simulated and real bars of one symbol in one series would make results that look real and mean nothing.

    Raises:
        Rejected: where the configured source is missing, or is of the other kind than what is stored.
    """
    source = platform.bar_source()
    source.symbols()
    if not platform.warehouse.path.is_file():
        return
    found = platform.warehouse.rows(
        "SELECT DISTINCT source FROM bar_loads WHERE status = 'OK' ORDER BY source"
    )
    other = [r["source"] for r in found if (r["source"] == SIMULATED) != (source.name == SIMULATED)]
    if other:
        raise Rejected(
            f"{platform.settings.data_dir} holds bars from {', '.join(other)}; bars from {source.name} do not belong "
            "with them (the sample is simulated): use another data directory (--data-dir), or set bars_source back"
        )


class _Loading:
    """One pass over some symbols, writing in batches."""

    def __init__(self, platform: Platform, symbols: Sequence[str], run_id: str) -> None:
        self.platform = platform
        self.run_id = run_id
        self.source = platform.bar_source()
        self.stored = stored_series(platform, symbols)
        self.needed = _model_timeframes(platform)
        self.digests = _fetched_digests(platform, symbols)
        self.unavailable: dict[str, str] = {}
        self.fresh: list[pd.DataFrame] = []
        self.loads: list[dict[str, object]] = []

    def timeframes(self, symbol: str) -> list[Timeframe]:
        """The base timeframe, and the finer ones that models of the symbol have, longest first."""
        base = self.platform.settings.base_timeframe
        finer = {t for t in self.needed.get(symbol, ()) if t.minutes < base.minutes}
        return [base, *sorted(finer, key=lambda t: t.minutes, reverse=True)]

    def load(self, symbol: str, timeframe: Timeframe) -> tuple[int, int, str | None]:
        """Fetch one series and keep what is new for writing; bars stored before, bars added, and what is wrong."""
        known = self.stored.get(symbol, {}).get(timeframe)
        n_stored = known.n_bars if known is not None else 0
        # What was stored of the last delivery is still there after one that brought nothing.
        digest = self.digests.get((symbol, timeframe))
        load: dict[str, object] = {
            "symbol": symbol,
            "timeframe": timeframe.value,
            "source": self.source.name,
            "fetched_digest": digest,
        }
        try:
            asset_class = self.platform.asset_class(symbol)
            fetched = self.source.fetch(symbol, timeframe, asset_class, start=None, end=None)
        except Unavailable as error:
            before = self.unavailable.get(symbol)
            self.unavailable[symbol] = (
                f"{before}; {timeframe}: {error}" if before else f"{timeframe}: {error}"
            )
            return n_stored, 0, None
        except Rejected as error:
            self.loads.append({**load, "status": "REJECTED", "reason": str(error)})
            return n_stored, 0, str(error)
        if not len(fetched):
            self.loads.append({**load, "status": "EMPTY", "reason": EMPTY, "n_fetched": 0, "n_changed": 0})
            return n_stored, 0, f"{timeframe}: {EMPTY}"
        n_changed = n_new = 0
        if fetched.digest() != digest or n_stored < len(fetched):
            stored = stored_bars(self.platform, symbol, timeframe) if n_stored else None
            fresh, n_new = _changed(fetched.frame(), stored.frame() if stored is not None else None)
            n_changed = len(fresh)
            self.fresh.append(fresh.assign(symbol=symbol, timeframe=timeframe.value, source=self.source.name))
        first, last = fetched.frame()["ts"].iloc[[0, -1]]
        self.loads.append(
            {
                **load,
                "status": "OK",
                "n_fetched": len(fetched),
                "n_changed": n_changed,
                "first_ts": first.to_pydatetime(),
                "last_ts": last.to_pydatetime(),
                "fetched_digest": fetched.digest(),
            }
        )
        if sum(map(len, self.fresh)) >= _ROWS_PER_WRITE:
            self.write()
        return n_stored, n_new, None

    def write(self) -> None:
        """Write what was kept back."""
        keys = [{"symbol": load["symbol"], "timeframe": load["timeframe"]} for load in self.loads]
        changes: list[Merge | Replace] = [Replace("bar_loads", keys, self.loads)] if keys else []
        if sum(map(len, self.fresh)):
            changes.append(Merge("bars", pd.concat(self.fresh, ignore_index=True)))
        if changes:
            self.platform.warehouse.write(changes, run_id=self.run_id, now=self.platform.now())
        self.fresh, self.loads = [], []


def _changed(fetched: pd.DataFrame, stored: pd.DataFrame | None) -> tuple[pd.DataFrame, int]:
    """The fetched rows that are new or differ from what is stored (NaN equals NaN), and how many are new."""
    if stored is None:
        return fetched, len(fetched)
    known = stored.set_index("ts").reindex(fetched["ts"]).reset_index()
    values = list(COLUMNS[1:])
    same = (known[values].eq(fetched[values]) | (known[values].isna() & fetched[values].isna())).all(axis=1)
    return fetched[~same], int((~fetched["ts"].isin(stored["ts"])).sum())


def _model_timeframes(platform: Platform) -> dict[str, set[Timeframe]]:
    """By symbol the timeframes of its models, over all archives that were not refused."""
    rows = platform.warehouse.rows(
        """
        SELECT DISTINCT regexp_replace(model, '_[^_]*$', '') AS symbol, regexp_extract(model, '[^_]*$') AS timeframe
        FROM (SELECT unnest(models) AS model FROM training_archives WHERE status IS DISTINCT FROM 'REJECTED')
        """
    )
    needed: dict[str, set[Timeframe]] = {}
    for row in rows:
        needed.setdefault(row["symbol"], set()).add(Timeframe(row["timeframe"]))
    return needed


def _fetched_digests(platform: Platform, symbols: Sequence[str]) -> dict[tuple[str, Timeframe], str]:
    rows = platform.warehouse.rows(
        """
        SELECT symbol, timeframe, fetched_digest FROM bar_loads
        WHERE list_contains(?, symbol) AND fetched_digest IS NOT NULL
        """,
        (list(symbols),),
    )
    return {(r["symbol"], Timeframe(r["timeframe"])): r["fetched_digest"] for r in rows}


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
        stored = self._series.get(symbol, {})
        usable = {t: s.reach for t, s in stored.items() if timeframe.minutes % t.minutes == 0}
        if not usable:
            raise Rejected(_why_no_bars(self._platform, symbol, timeframe, stored))
        furthest = max(usable.values())
        goal = furthest if until is None else min(until, furthest)
        reaching = [t for t, reach in usable.items() if goal - reach < timedelta(minutes=t.minutes)]
        bars = self._read(symbol, max(reaching, key=lambda t: t.minutes))
        return in_timeframe(bars, timeframe, self._platform.settings.session)

    def _read(self, symbol: str, timeframe: Timeframe) -> Bars:
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
