"""The quality of a series of bars: what each check measures, its limits, and the verdict.

Here: measures over the bars of one symbol in one timeframe, their default limits, and severity. Not here: where bars,
sessions and the clock come from (pipeline/bar_checks.py), or what a verdict does (pipeline/evaluation.py, decision.py).

A check looks at every unit of the series (a bar, an expected bar, a run of bars, a step from one bar to the next) and
gives it a number that is 0 where nothing is wrong. Its value is the share of units that are wrong, or the largest
number. The value is taken over all bars, and over the recent ones, which is as far as evaluations reach: only what is
wrong there is an ERROR.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import PRICE_COLUMNS, Bars, Float, Timestamps
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.price_moves import price_steps, reversals
from postval_assets.core.resampling import local_time_of_day
from postval_assets.core.sessions import Flags, Sessions, expected_bars, regular_bars

HOUR = np.timedelta64(3_600_000_000, "us")
DAY = 24 * HOUR
# High and low may miss open and close by this share of the price: adjusted prices are rounded quotients.
BRACKET_TOLERANCE = 1e-6


class Check(StrEnum):
    """The checks, in the order in which they are shown."""

    GAPS = "gaps"
    LONGEST_GAP = "longest_gap"
    ZERO_VOLUME = "zero_volume"
    ZERO_VOLUME_RUN = "zero_volume_run"
    UNKNOWN_VOLUME = "unknown_volume"
    FLAT_BARS = "flat_bars"
    BRACKETS = "brackets"
    NON_POSITIVE_PRICES = "non_positive_prices"
    JUMPS = "jumps"
    SPIKES = "spikes"
    DUPLICATES = "duplicates"
    REPEATED_BARS = "repeated_bars"
    MISALIGNMENT = "misalignment"
    OPEN_IS_PREVIOUS_CLOSE = "open_is_previous_close"
    STALE = "stale"
    EXTENDED_HOURS = "extended_hours"


class Severity(StrEnum):
    """The verdict of a check, best first."""

    OK = "OK"
    WARN = "WARN"
    ERROR = "ERROR"


@dataclass(frozen=True)
class QualityLimit:
    """A value above ``warn`` is a WARN, above ``error`` an ERROR; None: never."""

    warn: float | None = None
    error: float | None = None


@dataclass(frozen=True)
class CheckMeaning:
    """What a check measures.

    Attributes:
        about: what its value is, in words.
        unit: ``share`` of units that are wrong, else the unit of the largest number.
        limit: the default limits; docs/bar-quality.md says where they come from.
    """

    about: str
    unit: str
    limit: QualityLimit


CHECKS: Mapping[Check, CheckMeaning] = {
    Check.GAPS: CheckMeaning(
        "expected bars of the regular session that are missing", "share", QualityLimit(0.01, 0.25)
    ),
    Check.LONGEST_GAP: CheckMeaning(
        "longest run of missing bars, trading time", "h", QualityLimit(3.0, 72.0)
    ),
    Check.ZERO_VOLUME: CheckMeaning(
        "bars of the regular session with volume 0", "share", QualityLimit(0.15, 0.60)
    ),
    Check.ZERO_VOLUME_RUN: CheckMeaning(
        "longest run of bars with volume 0, trading time", "h", QualityLimit(8.0, 72.0)
    ),
    Check.UNKNOWN_VOLUME: CheckMeaning(
        "bars of an equity's regular session whose price moves at volume 0: the volume is missing",
        "share",
        QualityLimit(0.0, None),
    ),
    Check.FLAT_BARS: CheckMeaning(
        "bars of the regular session whose high is their low", "share", QualityLimit(0.10, 0.60)
    ),
    Check.BRACKETS: CheckMeaning(
        "bars whose open or close lies outside low .. high", "share", QualityLimit(0.0, 0.01)
    ),
    Check.NON_POSITIVE_PRICES: CheckMeaning(
        "bars with a price that is not finite and above 0", "share", QualityLimit(0.0, 0.0)
    ),
    Check.JUMPS: CheckMeaning(
        "largest move from close to close, in standard deviations of its time", "sd", QualityLimit(25.0, None)
    ),
    Check.SPIKES: CheckMeaning(
        "largest move that the next bar takes back, as a share of the price",
        "of price",
        QualityLimit(0.0, 0.5),
    ),
    Check.DUPLICATES: CheckMeaning(
        "bars that begin before the one before them has ended", "share", QualityLimit(0.0, 0.10)
    ),
    Check.REPEATED_BARS: CheckMeaning(
        "bars with the prices and the volume (not 0) of the one before", "share", QualityLimit(0.001, 0.10)
    ),
    Check.MISALIGNMENT: CheckMeaning(
        "bars that do not begin at the minute at which most bars begin", "share", QualityLimit(0.0, None)
    ),
    Check.OPEN_IS_PREVIOUS_CLOSE: CheckMeaning(
        "bars right after another that open at exactly its close", "share", QualityLimit(0.80, None)
    ),
    Check.STALE: CheckMeaning("time from the end of the newest bar until now", "d", QualityLimit(5.0, None)),
    Check.EXTENDED_HOURS: CheckMeaning("bars outside the regular session", "share", QualityLimit()),
}
DEFAULT_LIMITS: Mapping[Check, QualityLimit] = {check: meaning.limit for check, meaning in CHECKS.items()}


def limit_problem(check: Check, *, warn: float | None, error: float | None) -> str | None:
    """What is wrong with limits of a check that a person gave, in one line; None where nothing is.

    A limit that is not given (None) is the default; ``inf`` is never. An error alone may be below the default warn:
    then what would be a WARN is an ERROR.
    """
    for name, given in (("warn", warn), ("error", error)):
        if given is not None and CHECKS[check].unit == "share" and 1.0 < given < float("inf"):
            return (
                f"{check}: {name} is {given:g}, and no share is above 1: expected a fraction such as 0.02 for 2 % "
                "(or inf for never)"
            )
    upper = CHECKS[check].limit.error if error is None else error
    if warn is None or upper is None or warn <= upper or warn == float("inf"):
        return None
    default = ", its default" if error is None else ""
    return (
        f"{check}: warn is {warn:g}, above error ({upper:g}{default}), so nothing could ever be a WARN: "
        "expected warn up to error (or inf for never)"
    )


@dataclass(frozen=True)
class Finding:
    """The verdict of one check.

    Attributes:
        check: which.
        severity: by the limits.
        value: over all bars; None where the check does not apply.
        recent_value: over the recent bars.
        limit: the limits in force.
        detail: how many, where first and last, where worst.
        error_from: of an ERROR, when the first thing that is wrong begins: evaluations up to then do not see it.
    """

    check: Check
    severity: Severity
    value: float | None
    recent_value: float | None
    limit: QualityLimit
    detail: str
    error_from: np.datetime64 | None = None

    def words(self) -> str:
        """The finding in one line."""
        return f"{self.check}: {self.detail}"


@dataclass(frozen=True, eq=False)
class Measure:
    """What a check saw, axis [unit].

    Attributes:
        ts: when each unit begins, in time order.
        wrong: 0 where nothing is wrong; 1, or how much, where something is.
        what: the units in words.
        note: what else is to be said of them.
    """

    ts: Timestamps
    wrong: Float
    what: str
    note: str = ""

    def since(self, start: np.datetime64) -> Measure:
        """The units that begin at ``start`` or later."""
        first = int(np.searchsorted(self.ts, start, side="left"))
        return Measure(self.ts[first:], self.wrong[first:], self.what, self.note)

    def value(self, unit: str) -> float:
        """The share of units that are wrong, or the largest number; 0 where there is no unit."""
        if not len(self.wrong):
            return 0.0
        return float(self.wrong.mean() if unit == "share" else self.wrong.max())


def examine(
    bars: Bars,
    sessions: Sessions,
    *,
    recent_from: np.datetime64,
    now: np.datetime64 | None,
    limits: Mapping[Check, QualityLimit] = DEFAULT_LIMITS,
) -> tuple[Finding, ...]:
    """Every check over one series, in the order of ``Check``.

    Args:
        bars: as they are stored; at least one.
        sessions: regular sessions from the first bar's open to the last one's end; one around the clock for crypto.
        recent_from: where the recent bars begin.
        now: the present, for STALE; None where the bars are of no present (simulated ones).
        limits: of every check.
    """
    measures = _measures(bars, sessions)
    findings = [
        _judge(check, measures[check], recent_from, limits[check])
        for check in Check
        if check is not Check.STALE
    ]
    stale = _stale(bars, now, limits[Check.STALE])
    place = list(Check).index(Check.STALE)
    return (*findings[:place], stale, *findings[place:])


def worst(findings: Sequence[Finding]) -> Severity:
    """The worst severity; OK where there is none."""
    order = list(Severity)
    return max((f.severity for f in findings), key=order.index, default=Severity.OK)


def _judge(check: Check, measure: Measure | None, recent_from: np.datetime64, limit: QualityLimit) -> Finding:
    if measure is None:
        return Finding(check, Severity.OK, None, None, limit, "does not apply")
    unit = CHECKS[check].unit
    recent = measure.since(recent_from)
    value, recent_value = measure.value(unit), recent.value(unit)
    if limit.error is not None and recent_value > limit.error:
        bar = 0.0 if unit == "share" else limit.error
        error_from = recent.ts[int(np.argmax(recent.wrong > bar))]
        words = _detail(recent, unit, recent=True)
        return Finding(check, Severity.ERROR, value, recent_value, limit, words, error_from)
    warned = limit.warn is not None and max(value, recent_value) > limit.warn
    counts_recent = limit.warn is not None and value <= limit.warn < recent_value
    words = _detail(recent if counts_recent else measure, unit, recent=counts_recent)
    severity = Severity.WARN if warned else Severity.OK
    return Finding(check, severity, value, recent_value, limit, words)


def _stale(bars: Bars, now: np.datetime64 | None, limit: QualityLimit) -> Finding:
    end = bars.ts[-1] + bars.timeframe.delta
    words = f"the newest bar ends {_when(end)}"
    if now is None:
        return Finding(
            Check.STALE, Severity.OK, None, None, limit, f"{words}; simulated bars have no present"
        )
    age = max(float((now - end) / DAY), 0.0)
    if limit.error is not None and age > limit.error:
        return Finding(Check.STALE, Severity.ERROR, age, age, limit, words, end)
    warned = limit.warn is not None and age > limit.warn
    return Finding(Check.STALE, Severity.WARN if warned else Severity.OK, age, age, limit, words)


def _measures(bars: Bars, sessions: Sessions) -> dict[Check, Measure | None]:
    is_equity = bars.asset_class is AssetClass.EQUITY
    regular = regular_bars(bars, sessions)
    return {
        **_gaps(bars, sessions),
        **_volume(bars, regular, is_equity=is_equity),
        **_prices(bars, regular),
        **_moves(bars),
        **_times(bars),
        Check.EXTENDED_HOURS: _extended(bars, regular) if is_equity else None,
    }


def _extended(bars: Bars, regular: Flags) -> Measure:
    flat = int(np.count_nonzero((bars.high == bars.low) & ~regular))
    return Measure(bars.ts, _number(~regular), "bars", f"; {flat} of them flat" if flat else "")


def _gaps(bars: Bars, sessions: Sessions) -> dict[Check, Measure | None]:
    expected = expected_bars(bars, sessions)
    missing = ~expected.is_there
    hours = (expected.stop - expected.start) / HOUR
    return {
        Check.GAPS: Measure(expected.ts, _number(missing), "expected bars"),
        Check.LONGEST_GAP: _runs(expected.ts, missing, hours),
    }


def _volume(bars: Bars, regular: Flags, *, is_equity: bool) -> dict[Check, Measure | None]:
    ts, none = bars.ts[regular], bars.volume[regular] == 0.0
    moves = (bars.high != bars.low)[regular]
    # A stock's bar is made of trades, so one that moves had some; Alpaca's crypto bars move with the quotes.
    unknown = Measure(ts, _number(none & moves), "bars") if is_equity else None
    return {
        Check.ZERO_VOLUME: Measure(ts, _number(none), "bars"),
        Check.ZERO_VOLUME_RUN: _runs(ts, none, np.full(len(ts), bars.timeframe.delta / HOUR)),
        Check.UNKNOWN_VOLUME: unknown,
    }


def _prices(bars: Bars, regular: Flags) -> dict[Check, Measure | None]:
    prices = np.stack([getattr(bars, name) for name in PRICE_COLUMNS])
    usable = np.all(np.isfinite(prices) & (prices > 0.0), axis=0)
    body_high, body_low = np.maximum(bars.open, bars.close), np.minimum(bars.open, bars.close)
    outside = (bars.high * (1.0 + BRACKET_TOLERANCE) < body_high) | (
        bars.low * (1.0 - BRACKET_TOLERANCE) > body_low
    )
    follows = np.r_[False, np.diff(bars.ts) == bars.timeframe.delta]
    same = np.r_[False, bars.open[1:] == bars.close[:-1]]
    again = (
        np.all(prices[:, 1:] == prices[:, :-1], axis=0)
        & (bars.volume[1:] == bars.volume[:-1])
        & (bars.volume[1:] > 0.0)
    )
    return {
        Check.FLAT_BARS: Measure(bars.ts[regular], _number(bars.high == bars.low)[regular], "bars"),
        Check.BRACKETS: Measure(bars.ts, _number(outside & usable), "bars"),
        Check.NON_POSITIVE_PRICES: Measure(bars.ts, _number(~usable), "bars"),
        Check.REPEATED_BARS: Measure(bars.ts[1:], _number(again), "bars"),
        Check.OPEN_IS_PREVIOUS_CLOSE: Measure(bars.ts[follows], _number(same[follows]), "bars"),
    }


def _moves(bars: Bars) -> dict[Check, Measure | None]:
    steps = price_steps(bars)
    return {
        Check.JUMPS: Measure(steps.ts, np.abs(steps.standardised), "steps"),
        Check.SPIKES: Measure(steps.ts, reversals(steps), "steps"),
    }


def _times(bars: Bars) -> dict[Check, Measure | None]:
    overlapping = np.diff(bars.ts) < bars.timeframe.delta
    if bars.timeframe.minutes > Timeframe.HOUR_1.minutes:
        # Where days begin by a local clock, one of 23 hours a year is no overlap.
        overlapping &= _elapsed_locally(bars.ts) < bars.timeframe.delta
    return {
        Check.DUPLICATES: Measure(bars.ts[1:], _number(overlapping), "bars"),
        Check.MISALIGNMENT: Measure(bars.ts, _number(_off_grid(bars)), "bars"),
    }


def _elapsed_locally(ts: Timestamps) -> npt.NDArray[np.timedelta64]:
    """Time from each bar's open to the next on New York's clock, axis [bar - 1]."""
    elapsed = np.diff(ts)
    turned = (np.diff(local_time_of_day(ts)) - elapsed + DAY // 2) % DAY - DAY // 2
    return np.asarray(elapsed + turned)


def _off_grid(bars: Bars) -> Flags:
    """Bars whose open is off the grid of most bars; in UTC or in New York, where the clock changes, whichever fits."""
    epoch = bars.ts - np.datetime64(0, "us")
    clocks = [epoch]
    # Up to an hour, New York's clock says the same as UTC's. Days of pairs may begin by a local clock, too.
    if bars.timeframe.minutes > Timeframe.HOUR_1.minutes:
        clocks.append(local_time_of_day(bars.ts))
    candidates = []
    for clock in clocks:
        _phases, of_bar, counts = np.unique(
            clock % bars.timeframe.delta, return_inverse=True, return_counts=True
        )
        candidates.append(np.asarray(of_bar != int(np.argmax(counts))))
    return min(candidates, key=np.count_nonzero)


def _runs(ts: Timestamps, flagged: Flags, hours: Float) -> Measure:
    """Runs of flagged units: when each begins, and how many hours it has."""
    edges = np.diff(np.r_[False, flagged, False].astype(np.int8))
    starts, stops = np.flatnonzero(edges == 1), np.flatnonzero(edges == -1)
    total = np.r_[0.0, np.cumsum(np.where(flagged, hours, 0.0))]
    return Measure(ts[starts], np.asarray(total[stops] - total[starts]), "runs")


def _number(flags: npt.NDArray[np.bool_]) -> Float:
    return flags.astype(np.float64)


def _detail(measure: Measure, unit: str, *, recent: bool = False) -> str:
    """What was found, in words; ``recent`` where the recent value is the one that counts."""
    hit = np.flatnonzero(measure.wrong > 0.0)
    if not len(measure.ts) or not hit.size:
        return f"none in {len(measure.ts)} {measure.what}" if unit == "share" else "none"
    if unit == "share":
        ends = _when(measure.ts[hit[0]])
        if hit.size > 1:
            ends = f"first {ends}, last {_when(measure.ts[hit[-1]])}"
        of = "recent " if recent else ""
        return f"{hit.size} of {len(measure.ts)} {of}{measure.what}, {ends}{measure.note}"
    at = int(np.argmax(measure.wrong))
    return f"{measure.wrong[at]:.3g} {unit} at {_when(measure.ts[at])}" + (" (recent)" if recent else "")


def _when(ts: np.datetime64) -> str:
    return str(ts.astype("datetime64[m]")).replace("T", " ")
