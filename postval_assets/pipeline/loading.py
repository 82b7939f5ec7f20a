"""Stage ``bars``: from a source into one table.

Here: sources that are read whole each time (files, the sample), and merging what they deliver. Not here: sources of the
network (topping_up.py), the sources themselves (io), what a model's bars are (market.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from postval_assets.core.bar_changes import changed_rows
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.instruments import Timeframe
from postval_assets.io.bar_source import BarSource, is_remote
from postval_assets.io.warehouse import Merge, Replace
from postval_assets.pipeline.market import (
    needed_timeframes,
    require_one_kind_of_bars,
    stored_bars,
    stored_series,
)
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.stopwatch import timed_stage
from postval_assets.pipeline.topping_up import EMPTY, top_up_bars

# Bars kept back before they are written: bounds memory, and keeps transactions few.
_ROWS_PER_WRITE = 200_000


@timed_stage("bars")
def load_bars(platform: Platform, symbols: Sequence[str], *, run_id: str) -> StageReport:
    """Bring the bars of these symbols up to what the source has; what is stored stays, new rows are merged.

    A symbol's bars are loaded in the base timeframe of the settings, and beside it in each finer one that a model of
    it has; what is wrong with one of these series is no matter of the others.

    Raises:
        Unavailable: once, after all symbols were tried, where the source did not answer for some.
    """
    require_one_kind_of_bars(platform)
    source = platform.bar_source()
    if is_remote(source):
        return top_up_bars(platform, source, symbols, run_id=run_id)
    loading = _Loading(platform, source, symbols, run_id)
    reports = []
    for symbol in symbols:
        n_stored = n_new = 0
        problems = []
        for timeframe in loading.needed[symbol]:
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


class _Loading:
    """One pass over some symbols, writing in batches."""

    def __init__(self, platform: Platform, source: BarSource, symbols: Sequence[str], run_id: str) -> None:
        self.platform = platform
        self.run_id = run_id
        self.source = source
        self.stored = stored_series(platform, symbols)
        self.needed = needed_timeframes(platform, symbols)
        self.digests = _fetched_digests(platform, symbols)
        self.of_network = _asked_of_network(platform, symbols)
        self.unavailable: dict[str, str] = {}
        self.fresh: list[pd.DataFrame] = []
        self.loads: list[dict[str, object]] = []
        self.gone: list[dict[str, object]] = []

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
            fresh, n_new = changed_rows(fetched.frame(), stored.frame() if stored is not None else None)
            n_changed = len(fresh)
            if n_changed and stored is not None and (symbol, timeframe) in self.of_network:
                # No series is of two sources: these may be adjusted otherwise.
                key = {"symbol": symbol, "timeframe": timeframe.value}
                lost = stored.frame()["ts"]
                lost = lost[~lost.isin(fetched.frame()["ts"])]
                self.gone += [{**key, "ts": ts} for ts in lost]
                n_stored -= len(lost)
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
        if self.gone:
            changes.append(Replace("bars", self.gone, []))
        if sum(map(len, self.fresh)):
            changes.append(Merge("bars", pd.concat(self.fresh, ignore_index=True)))
            # What a source of the network was asked for before is no longer what is stored.
            of_fresh = [key for key, load in zip(keys, self.loads, strict=True) if load.get("n_changed")]
            changes.append(Replace("bar_coverage", of_fresh, []))
        if changes:
            self.platform.warehouse.write(changes, run_id=self.run_id, now=self.platform.now())
        self.fresh, self.loads, self.gone = [], [], []


def _asked_of_network(platform: Platform, symbols: Sequence[str]) -> set[tuple[str, Timeframe]]:
    """The series whose stored bars came from a source of the network."""
    rows = platform.warehouse.rows(
        "SELECT DISTINCT symbol, timeframe FROM bar_coverage WHERE list_contains(?, symbol)", (list(symbols),)
    )
    return {(r["symbol"], Timeframe(r["timeframe"])) for r in rows}


def _fetched_digests(platform: Platform, symbols: Sequence[str]) -> dict[tuple[str, Timeframe], str]:
    rows = platform.warehouse.rows(
        """
        SELECT symbol, timeframe, fetched_digest FROM bar_loads
        WHERE list_contains(?, symbol) AND fetched_digest IS NOT NULL
        """,
        (list(symbols),),
    )
    return {(r["symbol"], Timeframe(r["timeframe"])): r["fetched_digest"] for r in rows}
