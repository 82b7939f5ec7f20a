"""The second half of stage ``bars``: the quality of what is stored, before anything is computed on it.

Here: which series are checked, the rows of ``bar_quality``, and what these verdicts say to an evaluation and to a
decision. Not here: the checks and their limits (core.bar_quality).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import numpy as np

from postval_assets.core.bar_quality import CHECKS, Check, Finding, Severity, examine, worst
from postval_assets.core.bars import Bars
from postval_assets.core.decision import Reason
from postval_assets.core.folds import to_datetime, to_datetime64
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.sessions import Sessions
from postval_assets.io.calendars import exchange_sessions
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.market import SIMULATED, ModelBars
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.stopwatch import timed_stage

Row = Mapping[str, Any]

log = logging.getLogger("postval.market")

# An evaluation that ends so near the newest stored bar is one of the newest bars: the session setting, or a longer
# timeframe, may leave out the last ones.
_NEWEST_WITHIN = timedelta(days=1)

_STORED = """
SELECT symbol, timeframe, check_name, severity, value, recent_value, limit_warn, limit_error, n_bars, detail,
       error_from, bars_digest
FROM bar_quality WHERE list_contains(?, symbol)
"""
_BAD = """
SELECT symbol, timeframe, check_name, severity, value, recent_value, unit, limit_warn, detail, error_from,
       last_ts
FROM bar_quality WHERE list_contains(?, symbol) AND severity <> 'OK'
"""
_CHECKED = """
SELECT symbol, timeframe, any_value(first_ts) AS first_ts, any_value(last_ts) AS last_ts,
       any_value(bars_digest) AS bars_digest,
       CASE WHEN bool_or(check_name = 'stale' AND value IS NOT NULL) THEN max(created_at) END AS checked_at
FROM bar_quality WHERE list_contains(?, symbol) GROUP BY symbol, timeframe
"""
_COMPARED = ("severity", "limit_warn", "limit_error", "n_bars", "detail", "error_from", "bars_digest")


@dataclass(frozen=True)
class SeriesQuality:
    """What the checks found in one stored series."""

    timeframe: Timeframe
    findings: tuple[Finding, ...]


@dataclass(frozen=True)
class SymbolQuality:
    """What the checks found in the stored bars of a symbol."""

    symbol: str
    series: tuple[SeriesQuality, ...]

    @property
    def severity(self) -> Severity:
        """The worst one."""
        return worst([f for s in self.series for f in s.findings])

    def problems(self) -> tuple[str, ...]:
        """Findings that are not OK, in words, errors first."""
        found = [(s.timeframe, f) for s in self.series for f in s.findings if f.severity is not Severity.OK]
        found.sort(key=lambda x: x[1].severity is not Severity.ERROR)
        return tuple(f"{f.severity}: {timeframe} {f.words()}" for timeframe, f in found)

    def stopping(self) -> tuple[str, ...]:
        """Findings that stop evaluations at the newest bars, in words; a series that only ends early stops none."""
        return tuple(
            f"ERROR {s.timeframe} {f.words()}"
            for s in self.series
            for f in s.findings
            if f.severity is Severity.ERROR and f.check is not Check.STALE
        )


@timed_stage("bar_quality")
def check_bars(platform: Platform, symbols: Sequence[str], *, run_id: str) -> tuple[SymbolQuality, ...]:
    """Check every stored series of these symbols and keep the verdicts in ``bar_quality``.

    Rows are only written where a verdict, its limits or the bars are others than before.
    """
    stored = ModelBars(platform, symbols)
    known: dict[str, dict[tuple[str, str], Row]] = {}
    for row in platform.warehouse.rows(_STORED, (list(symbols),)):
        known.setdefault(row["symbol"], {})[(row["timeframe"], row["check_name"])] = row
    now = platform.now()
    simulated = platform.settings.bars_source == SIMULATED
    quality, keys, rows = [], [], []
    for symbol in symbols:
        series, fresh = [], []
        for timeframe in stored.timeframes(symbol):
            bars = stored.stored(symbol, timeframe)
            findings = _findings(platform, bars, None if simulated else now)
            series.append(SeriesQuality(timeframe, findings))
            fresh += _rows(bars, findings)
        quality.append(SymbolQuality(symbol, tuple(series)))
        if stopping := quality[-1].stopping():
            log.warning("%s is not evaluated until its bars are mended: %s", symbol, "; ".join(stopping))
        if _differs(fresh, known.get(symbol, {})):
            keys.append({"symbol": symbol})
            rows += fresh
    if keys:
        platform.warehouse.write([Replace("bar_quality", keys, rows)], run_id=run_id, now=platform.now())
    return tuple(quality)


def examined(platform: Platform, bars: Bars, now: datetime | None) -> list[dict[str, object]]:
    """The rows that ``bar_quality`` would have of a series; nothing is written.

    Args:
        platform: limits.
        bars: the series.
        now: the present, for its age; None where the bars are of no present (simulated ones).
    """
    return _rows(bars, _findings(platform, bars, now))


def _findings(platform: Platform, bars: Bars, now: datetime | None) -> tuple[Finding, ...]:
    settings = platform.settings
    start, stop = bars.ts[0], bars.ts[-1] + bars.timeframe.delta
    is_crypto = bars.asset_class is AssetClass.CRYPTO
    sessions = Sessions.around_the_clock(start, stop) if is_crypto else exchange_sessions(start, stop)
    return examine(
        bars,
        sessions,
        recent_from=stop - np.timedelta64(settings.quality_recent_days, "D"),
        now=None if now is None else to_datetime64(now),
        limits=settings.quality_limits,
    )


def _rows(bars: Bars, findings: Sequence[Finding]) -> list[dict[str, object]]:
    digest = bars.digest()
    return [
        {
            "symbol": bars.symbol,
            "timeframe": bars.timeframe.value,
            "check_name": f.check.value,
            "severity": f.severity.value,
            "value": f.value,
            "recent_value": f.recent_value,
            "unit": CHECKS[f.check].unit,
            "limit_warn": f.limit.warn,
            "limit_error": f.limit.error,
            "n_bars": len(bars),
            "first_ts": to_datetime(bars.ts[0]),
            "last_ts": to_datetime(bars.ts[-1]),
            "detail": f.detail,
            "error_from": to_datetime(f.error_from) if f.error_from is not None else None,
            "bars_digest": digest,
        }
        for f in findings
    ]


def _differs(fresh: Sequence[Row], known: Mapping[tuple[str, str], Row]) -> bool:
    if len(fresh) != len(known):
        return True
    before = [known.get((str(row["timeframe"]), str(row["check_name"]))) for row in fresh]
    return any(
        old is None or any(row[name] != old[name] for name in _compared(row))
        for row, old in zip(fresh, before, strict=True)
    )


def _compared(row: Row) -> Sequence[str]:
    """What makes a row worth writing again; the age of a series grows by itself."""
    return _COMPARED if row["check_name"] == Check.STALE else (*_COMPARED, "value", "recent_value")


@dataclass(frozen=True)
class CheckedSeries:
    """Which stored bars the checks saw.

    Attributes:
        timeframe: of the series.
        first_ts, last_ts: opens of its first and last bar.
        bars_digest: of all of it.
        checked_at: the present that its age was told by; None for simulated bars, which have none.
    """

    timeframe: Timeframe
    first_ts: datetime
    last_ts: datetime
    bars_digest: str
    checked_at: datetime | None


class BarVerdicts:
    """What checks say against the bars of some symbols' models.

    Args:
        bars: says which stored series a model's bars are made from.
        rows: as in ``bar_quality``; those that are OK say nothing.
        checked: which bars were checked, by symbol and timeframe.
    """

    def __init__(
        self, bars: ModelBars, rows: Sequence[Row], checked: Mapping[tuple[str, str], CheckedSeries]
    ) -> None:
        self._bars = bars
        self._checked = checked
        self._rows: dict[tuple[str, str], list[Row]] = {}
        for row in rows:
            if row["severity"] != Severity.OK:
                self._rows.setdefault((row["symbol"], row["timeframe"]), []).append(row)
        order = list(Check)
        for found in self._rows.values():
            found.sort(key=lambda r: order.index(Check(r["check_name"])))

    @classmethod
    def stored(cls, platform: Platform, bars: ModelBars, symbols: Sequence[str]) -> BarVerdicts:
        """What ``bar_quality`` has of these symbols."""
        checked = {
            (r["symbol"], r["timeframe"]): CheckedSeries(
                Timeframe(r["timeframe"]), r["first_ts"], r["last_ts"], r["bars_digest"], r["checked_at"]
            )
            for r in platform.warehouse.rows(_CHECKED, (list(symbols),))
        }
        return cls(bars, platform.warehouse.rows(_BAD, (list(symbols),)), checked)

    def checked(self, symbol: str, timeframe: Timeframe, as_of: datetime) -> CheckedSeries | None:
        """The checked series that this model's bars are made from; None where it was not checked."""
        source = self._bars.source_timeframe(symbol, timeframe, until=as_of)
        return self._checked.get((symbol, source.value)) if source is not None else None

    def stops(self, symbol: str, timeframe: Timeframe, as_of: datetime) -> str | None:
        """Why this model is not to be evaluated at ``as_of``; None where no check says ERROR."""
        errors = self._errors(symbol, timeframe, as_of)
        if not errors:
            return None
        said = "; ".join(f"{r['check_name']}: {r['detail']}" for r in errors)
        return f"{Reason.BAR_QUALITY}: {Severity.ERROR}: {said}"

    def errors(self, symbol: str, timeframe: Timeframe, as_of: datetime) -> tuple[str, ...]:
        """The checks that say ERROR of bars before ``as_of``, with their recent values."""
        return tuple(_figure(r) for r in self._errors(symbol, timeframe, as_of))

    def warnings(self, symbol: str, timeframe: Timeframe, as_of: datetime) -> tuple[str, ...]:
        """The checks that say WARN, with their values; ``stale`` only of an evaluation at the newest bars."""
        return tuple(
            _figure(r)
            for r in self._of(symbol, timeframe, as_of)
            if r["severity"] == Severity.WARN and not (r["check_name"] == Check.STALE and _is_past(r, as_of))
        )

    def _errors(self, symbol: str, timeframe: Timeframe, as_of: datetime) -> list[Row]:
        # Evaluations reach back from as_of: what went wrong after it is not in them.
        return [
            r
            for r in self._of(symbol, timeframe, as_of)
            if r["severity"] == Severity.ERROR and r["error_from"] < as_of
        ]

    def _of(self, symbol: str, timeframe: Timeframe, as_of: datetime) -> Sequence[Row]:
        source = self._bars.source_timeframe(symbol, timeframe, until=as_of)
        return self._rows.get((symbol, source.value), ()) if source is not None else ()


def _is_past(row: Row, as_of: datetime) -> bool:
    """Whether an evaluation at ``as_of`` leaves out newer bars that are there: how old these are says nothing of it."""
    length = timedelta(minutes=Timeframe(row["timeframe"]).minutes)
    return bool(row["last_ts"] + length - as_of >= _NEWEST_WITHIN)


def _figure(row: Row) -> str:
    """The check and the value that counts, as in ``bar_quality.detail``."""
    unit = str(row["unit"])
    if unit == "d":
        # Its age grows with the clock, and a decision would be another one every day.
        return f"{row['check_name']} ({row['detail']})"
    is_recent = row["severity"] == Severity.ERROR or row["value"] <= row["limit_warn"]
    value = row["recent_value"] if is_recent else row["value"]
    if unit in ("share", "of price"):
        # What rounds to nothing is there all the same.
        shown = "<0.01%" if 0 < value < 0.00005 else f"{value:.2%}"
    else:
        shown = f"{value:.1f} {unit}"
    return f"{row['check_name']} {shown}" + (" (recent)" if is_recent else "")
