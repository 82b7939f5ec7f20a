"""Stage ``bars``: from a source into one table, and out of it in a model's timeframe.

Here: merging, and what a model's bars are. Not here: sources (io), resampling and sessions (core).
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta

import pandas as pd

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.instruments import Timeframe
from postval_assets.core.resampling import resample
from postval_assets.core.sessions import regular_session
from postval_assets.io.bar_source import BarSource
from postval_assets.io.warehouse import Merge, Replace
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport

log = logging.getLogger("postval.market")


def load_bars(platform: Platform, symbols: Sequence[str], *, run_id: str) -> StageReport:
    """Bring the bars of these symbols up to what the source has; what is stored stays, new rows are merged.

    Raises:
        Unavailable: once, after all symbols were tried, where the source did not answer for some.
    """
    source = platform.bar_source()
    reports = []
    unavailable: list[str] = []
    for symbol in symbols:
        try:
            reports.append(_load_symbol(platform, source, symbol, run_id))
        except Rejected as error:
            timeframe = _base_timeframe(platform, symbol)
            row: dict[str, object] = {
                "symbol": symbol,
                "timeframe": timeframe.value,
                "source": source.name,
                "status": "REJECTED",
                "reason": str(error),
            }
            _write_load(platform, symbol, [row], run_id)
            n_stored = int(
                platform.warehouse.rows("SELECT count(*) AS n FROM bars WHERE symbol = ?", (symbol,))[0]["n"]
            )
            reports.append(SymbolReport(symbol, n_stored, n_stored, (str(error),)))
        except Unavailable as error:
            unavailable.append(f"{symbol}: {error}")
    if unavailable:
        raise Unavailable(
            f"bars of {len(unavailable)} symbol(s) could not be read: " + "; ".join(unavailable)
        )
    return StageReport(tuple(reports))


def _load_symbol(platform: Platform, source: BarSource, symbol: str, run_id: str) -> SymbolReport:
    timeframe = _base_timeframe(platform, symbol)
    fetched = source.fetch(symbol, timeframe, platform.asset_class(symbol), start=None, end=None)
    stored = stored_bars(platform, symbol, timeframe)
    fresh = _changed(fetched.frame(), stored.frame() if stored is not None else None)
    changes: list[Merge | Replace] = []
    if len(fresh):
        rows = fresh.assign(symbol=symbol, timeframe=timeframe.value, source=source.name)
        changes.append(Merge("bars", rows))
    n_stored = len(stored) if stored is not None else 0
    n_new = len(fresh) if stored is None else int((~fresh["ts"].isin(stored.frame()["ts"])).sum())
    load = {
        "symbol": symbol,
        "timeframe": timeframe.value,
        "source": source.name,
        "status": "OK",
        "n_fetched": len(fetched),
        "n_changed": len(fresh),
        "first_ts": fetched.frame()["ts"].iloc[0].to_pydatetime(),
        "last_ts": fetched.frame()["ts"].iloc[-1].to_pydatetime(),
    }
    changes.append(Replace("bar_loads", [{"symbol": symbol}], [load]))
    platform.warehouse.write(changes, run_id=run_id, now=platform.now())
    return SymbolReport(symbol, n_stored + n_new, n_stored)


def _write_load(platform: Platform, symbol: str, rows: list[dict[str, object]], run_id: str) -> None:
    platform.warehouse.write(
        [Replace("bar_loads", [{"symbol": symbol}], rows)], run_id=run_id, now=platform.now()
    )


def _changed(fetched: pd.DataFrame, stored: pd.DataFrame | None) -> pd.DataFrame:
    """The fetched rows that are new or differ from what is stored (NaN equals NaN)."""
    if stored is None:
        return fetched
    known = stored.set_index("ts").reindex(fetched["ts"]).reset_index()
    values = list(COLUMNS[1:])
    same = (known[values].eq(fetched[values]) | (known[values].isna() & fetched[values].isna())).all(axis=1)
    return fetched[~same]


def _base_timeframe(platform: Platform, symbol: str) -> Timeframe:
    """The setting, or the finest timeframe that a model of this symbol has where that is finer."""
    rows = platform.warehouse.rows(
        """
        SELECT DISTINCT regexp_extract(model, '[^_]*$') AS timeframe
        FROM (SELECT unnest(models) AS model FROM training_archives) WHERE regexp_replace(model, '_[^_]*$', '') = ?
        """,
        (symbol,),
    )
    wanted = [Timeframe(r["timeframe"]) for r in rows]
    return min([platform.settings.base_timeframe, *wanted], key=lambda t: t.minutes)


def stored_bars(platform: Platform, symbol: str, timeframe: Timeframe) -> Bars | None:
    """The stored bars of exactly this timeframe; None where there are none."""
    frame = platform.warehouse.frame(
        "SELECT ts, open, high, low, close, volume FROM bars WHERE symbol = ? AND timeframe = ? ORDER BY ts",
        (symbol, timeframe.value),
    )
    if frame.empty:
        return None
    return Bars.from_frame(
        frame, symbol=symbol, timeframe=timeframe, asset_class=platform.asset_class(symbol)
    )


def model_bars(
    platform: Platform, symbol: str, timeframe: Timeframe, *, until: datetime | None = None
) -> Bars:
    """All stored bars of a symbol in a model's timeframe, the session setting applied.

    Of several stored series that it can be made from, the longest timeframe is taken that reaches ``until``;
    where none does, the one that reaches furthest, since a series that is no longer loaded stays behind.

    Args:
        platform: settings and warehouse.
        symbol: whose bars.
        timeframe: of the model.
        until: the instant that an evaluation is frozen at; None for the newest bars.

    Raises:
        Rejected: where there are none, or none from which this timeframe can be made.
    """
    rows = platform.warehouse.rows(
        "SELECT timeframe, max(ts) AS ts FROM bars WHERE symbol = ? GROUP BY timeframe", (symbol,)
    )
    reach = {t: r["ts"] + timedelta(minutes=t.minutes) for r in rows for t in [Timeframe(r["timeframe"])]}
    stored = sorted(reach, key=lambda t: t.minutes, reverse=True)
    usable = [t for t in stored if timeframe.minutes % t.minutes == 0]
    reaching = [t for t in usable if until is not None and reach[t] >= until]
    chosen = reaching[0] if reaching else max(usable, key=lambda t: (reach[t], t.minutes), default=None)
    bars = stored_bars(platform, symbol, chosen) if chosen is not None else None
    if bars is None:
        raise Rejected(_why_no_bars(platform, symbol, timeframe, stored))
    return in_timeframe(bars, timeframe, platform.settings.session)


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


def _why_no_bars(platform: Platform, symbol: str, timeframe: Timeframe, stored: Sequence[Timeframe]) -> str:
    if stored:
        return (
            f"bars of {symbol} are {', '.join(stored)}: {timeframe} bars cannot be made from them; "
            "set base_timeframe to a finer one that the source has"
        )
    loads = platform.warehouse.rows(
        "SELECT reason FROM bar_loads WHERE symbol = ? AND reason IS NOT NULL", (symbol,)
    )
    if loads:
        return f"no bars of {symbol}: {loads[0]['reason']}"
    return f"no bars of {symbol} in the warehouse: materialize bars for it first"


def resolve_as_of(
    platform: Platform, archive_id: str, symbol: str, timeframe: Timeframe, *, until: datetime | None = None
) -> datetime | None:
    """The newest instant (up to ``until``) at which this model was evaluated; None where it never was."""
    found = platform.warehouse.rows(
        """
        SELECT max(as_of) AS as_of FROM evaluations
        WHERE archive_id = ? AND symbol = ? AND timeframe = ? AND as_of <= coalesce(CAST(? AS TIMESTAMPTZ), as_of)
        """,
        (archive_id, symbol, timeframe.value, until),
    )[0]["as_of"]
    return found if isinstance(found, datetime) else None
