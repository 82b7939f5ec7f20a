"""Whether a feature set sees only what it may: the bars of its look-back, and nothing later.

Here: running a set again on a part of its bars, or beside other bars, and naming what differs. Not here: the
shape and finiteness of its values (feature_set.py). A set that gets its future from elsewhere than the bars it is
given (a file, a table made from the whole history) cannot be found out this way.

A feature at bar t may use the bars t - look_back + 1 .. t. So its value must be the same
- when the bars after t are left out, or are others;
- when the bars before its look-back are left out, or are others;
- when the same bars are given once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import COLUMNS, PRICE_COLUMNS, Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.features.feature_set import FeatureSet, raw_features, require_prices
from postval_assets.core.features.reference import REFERENCE_SETS

Float32 = npt.NDArray[np.float32]
Columns = npt.NDArray[np.bool_]

# Rows compared at one instant: the instant's own and those just before it.
_ROWS = 8
# Bars beside the look-back that are replaced by others.
_OTHER_BARS = 40
# Factors of their prices, by turns: another level, and a swing from bar to bar.
_FACTORS = (1.13, 1.07)
# Differences up to this share of the value, or of the feature's mean size, are taken for rounding.
_OF_VALUE, _OF_SIZE = 1e-4, 1e-5
# Instants of a whole inspection, and of the check before an evaluation: pairs of neighbours, and ends of sessions.
_PAIRS, _ENDS = 8, 4
_FEW_PAIRS, _FEW_ENDS = 1, 1


class Fault(StrEnum):
    """What a feature does that it may not, the worst first."""

    NOT_REPEATABLE = "differs between two calls on the same bars"
    SEES_LATER = "sees later bars"
    BEYOND_LOOK_BACK = "sees more than its look-back"
    HISTORY_START = "depends on where the history starts"
    NOT_FINITE = "is not finite"


_COMPARED = {
    Fault.NOT_REPEATABLE: "on a second call",
    Fault.SEES_LATER: "when the bars after it are left out or are others",
    Fault.BEYOND_LOOK_BACK: "when the bars before its look-back of {look_back} are left out or are others",
    Fault.HISTORY_START: "when the history starts at another bar",
}


@dataclass(frozen=True)
class FeatureFault:
    """A feature that does not keep to the rule, at the first bar where it was seen.

    Attributes:
        feature: its name.
        fault: what it does.
        bar: index into the bars.
        ts: open of that bar, UTC.
        value: with all bars.
        other: the value that should be the same and is not; NaN for NOT_FINITE.
        look_back: of the set.
    """

    feature: str
    fault: Fault
    bar: int
    ts: np.datetime64
    value: float
    other: float
    look_back: int

    def __str__(self) -> str:
        """One line: the feature, what it does, and where."""
        at = f"at {_shown(self.ts)} (bar {self.bar}) it is {self.value:.6g}"
        if self.fault is Fault.NOT_FINITE:
            return f"{self.feature} {self.fault}: {at}"
        compared = _COMPARED[self.fault].format(look_back=self.look_back)
        return f"{self.feature} {self.fault}: {at}, and {self.other:.6g} {compared}"


@dataclass(frozen=True)
class CausalityReport:
    """What an inspection found.

    Attributes:
        feature_set: name of the set.
        symbol, timeframe, n_bars: of the bars.
        instants: indices of the bars that were looked at closely.
        faults: at most one a feature, the worst; in the order of the features.
        changed_input: what the set did to the frame that it was given; None where it left it alone.
    """

    feature_set: str
    symbol: str
    timeframe: str
    n_bars: int
    instants: tuple[int, ...]
    faults: tuple[FeatureFault, ...]
    changed_input: str | None

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.faults and self.changed_input is None

    def problems(self) -> tuple[str, ...]:
        """What is wrong, a line each; empty where nothing is."""
        changed = () if self.changed_input is None else (_told_change(self.changed_input),)
        return (*changed, *map(str, self.faults))

    def __str__(self) -> str:
        """A line about the whole, then one for each problem."""
        found = "keeps to its look-back" if self.is_clean else f"{len(self.problems())} problem(s)"
        head = (
            f"feature set {self.feature_set} on {self.n_bars} bars of {self.symbol} ({self.timeframe}), "
            f"{len(self.instants)} of them looked at closely: {found}"
        )
        return "\n".join([head, *(f"  {problem}" for problem in self.problems())])


class PromiseBroken(Rejected):
    """A set does not do what every set promises. It lies in the set, not in the bars that happened to show it."""


def inspect_feature_set(feature_set: FeatureSet, bars: Bars) -> CausalityReport:
    """Look closely at a set on some bars: at evenly spread instants and at the ends of sessions.

    Args:
        feature_set: of the reference or of a plug-in.
        bars: more than its look-back.

    Raises:
        Rejected: too few bars, a price that is none, or a set that raises or returns another shape or kind of value.
    """
    if len(bars) <= feature_set.look_back:
        raise Rejected(
            f"feature set {feature_set.name}: {len(bars)} bars of {bars.symbol} ({bars.timeframe}) are too few to "
            f"check it on; expected more than its look-back of {feature_set.look_back}"
        )
    require_prices(bars)
    probe = _Probe(feature_set, bars)
    probe.take_whole(probe.run(bars), again=probe.run(bars))
    instants = _instants(feature_set, bars, _PAIRS, _ENDS)
    for instant in instants:
        probe.look(instant)
    return probe.report(instants)


def require_causal(feature_set: FeatureSet, bars: Bars, features: Float32) -> None:
    """Refuse a plug-in that is seen to look ahead at a few instants; the reference sets are held by tests.

    Costs as many computations of little more than the look-back as there are instants, three at most.

    Args:
        feature_set: that an evaluation is about to use.
        bars: that it reaches.
        features: its values on them, finite from row ``look_back - 1`` on, [bar, market feature].

    Raises:
        PromiseBroken: naming the set, the feature and the bar.
    """
    if feature_set in REFERENCE_SETS or len(bars) <= feature_set.look_back:
        return
    probe = _Probe(feature_set, bars)
    probe.take_whole(features)
    instants = _instants(feature_set, bars, _FEW_PAIRS, _FEW_ENDS)
    for instant in instants:
        probe.glance(instant)
        problems = probe.report(instants).problems()
        if problems:
            more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
            raise PromiseBroken(
                f"feature set {feature_set.name} on bars of {bars.symbol} ({bars.timeframe}): {problems[0]}{more}; "
                f"expected features of the {feature_set.look_back} bars up to each bar alone "
                f"(postval features check {feature_set.name})"
            )


class _Probe:
    """One set on one series: runs it on parts and variants, and keeps the worst fault of each feature."""

    def __init__(self, feature_set: FeatureSet, bars: Bars) -> None:
        self.feature_set = feature_set
        self.bars = bars
        self.whole = np.empty((0, 0), dtype=np.float32)
        self.size = np.empty(0)
        self.faults: dict[str, FeatureFault] = {}
        self.changed_input: str | None = None

    def run(self, bars: Bars) -> Float32:
        """The set's values for bars; what it does to its frame is noted."""
        frame = bars.frame()
        values = raw_features(self.feature_set, bars, frame)
        given = bars.frame()
        if not frame.equals(given):
            columns = [c for c in COLUMNS if c not in frame or not frame[c].equals(given[c])]
            added = [str(c) for c in frame.columns if c not in COLUMNS]
            what = [f"{', '.join(columns)} changed"] if columns else []
            what += [f"{', '.join(added)} added"] if added else []
            self.changed_input = self.changed_input or "; ".join(what) or "its index or order changed"
        return values

    def take_whole(self, whole: Float32, again: Float32 | None = None) -> None:
        """Values on all bars, that all others are held against; a second call's values, if there was one."""
        first = self.feature_set.look_back - 1
        self.whole = whole
        kept = whole[first:].astype(np.float64)
        bad = ~np.isfinite(kept)
        self.size = np.abs(np.where(bad, 0.0, kept)).mean(axis=0)
        self._note(Fault.NOT_FINITE, bad, first, whole[first:], np.full_like(whole[first:], np.nan))
        if again is not None:
            differing = self._differing(whole[first:], again[first:])
            self._note(Fault.NOT_REPEATABLE, differing, first, whole[first:], again[first:])

    def glance(self, instant: int) -> None:
        """One computation on other bars before and after; only where that differs, a closer look."""
        first, start, stop = self._place(instant)
        begin, end = max(start - _OTHER_BARS, 0), min(stop + _OTHER_BARS, len(self.bars))
        surrounded = _with_others(self.bars.slice(begin, end), 0, start - begin)
        surrounded = _with_others(surrounded, stop - begin, end - begin)
        try:
            values = self.run(surrounded)[first - begin : stop - begin]
        except Rejected:
            # It does not like bars that never were: the real ones decide, by themselves.
            self._look_alone(first, start, stop)
            return
        if self._differing(self.whole[first:stop], values).any():
            self.look(instant)

    def look(self, instant: int) -> None:
        """Compare the rows up to an instant with those of the bars up to it alone, and beside other bars."""
        first, start, stop = self._place(instant)
        alone, n_rows = self._look_alone(first, start, stop), stop - first
        expected = self.whole[first:stop]
        end = min(stop + _OTHER_BARS, len(self.bars))
        followed = _with_others(self.bars.slice(start, end), stop - start, end - start)
        later = self._rows(followed, n_rows + end - stop)[:n_rows]
        other = np.where(self._differing(expected, later), later, alone)
        self._note(Fault.SEES_LATER, self._differing(alone, later), first, expected, other)
        begin = max(start - _OTHER_BARS, 0)
        earlier = self._rows(_with_others(self.bars.slice(begin, stop), 0, start - begin), n_rows)
        self._attribute(self._differing(earlier, alone), first, start, stop, alone)

    def _place(self, instant: int) -> tuple[int, int, int]:
        """First row compared, first bar of its look-back, and the bar after the instant."""
        look_back = self.feature_set.look_back
        first = max(instant - _ROWS + 1, look_back - 1)
        return first, first - look_back + 1, instant + 1

    def _look_alone(self, first: int, start: int, stop: int) -> Float32:
        """Compare with the rows of the look-back alone, which are returned."""
        alone = self._rows(self.bars.slice(start, stop), stop - first)
        self._attribute(self._differing(self.whole[first:stop], alone), first, start, stop, alone)
        return alone

    def _attribute(self, differing: Columns, first: int, start: int, stop: int, alone: Float32) -> None:
        """Name why rows differ from those of their look-back alone: later bars, older ones, or their number."""
        if not differing.any():
            return
        expected, n_rows = self.whole[first:stop], stop - first
        again = self._rows(self.bars.slice(start, stop), n_rows)
        unsteady = self._differing(alone, again)
        self._note(Fault.NOT_REPEATABLE, unsteady, first, alone, again)
        until = self._rows(self.bars.slice(0, stop), n_rows)
        later = self._differing(expected, until) & ~unsteady.any(axis=0)
        self._note(Fault.SEES_LATER, later, first, expected, until)
        rest = differing & ~(later | unsteady).any(axis=0)
        if not rest.any():
            return
        try:
            others = self._rows(_with_others(self.bars.slice(0, stop), 0, start), n_rows)
        except PromiseBroken:  # it does not like bars that never were, which is no fault by itself
            others = alone
        older = self._differing(until, others)
        self._note(Fault.BEYOND_LOOK_BACK, older & rest.any(axis=0), first, until, others)
        self._note(Fault.HISTORY_START, rest & ~older.any(axis=0), first, expected, alone)

    def _rows(self, bars: Bars, n_rows: int) -> Float32:
        """The last rows of what the set returns for bars."""
        try:
            return self.run(bars)[-n_rows:]
        except Rejected as error:
            raise PromiseBroken(
                f"{error}; it was given {len(bars)} valid bars, {_shown(bars.ts[0])} to {_shown(bars.ts[-1])}, and "
                f"its look-back is {self.feature_set.look_back}"
            ) from error

    def _differing(self, a: Float32, b: Float32) -> Columns:
        """Where two values are not the same, rounding aside and NaN being the same as NaN; [row, feature]."""
        left, right = a.astype(np.float64), b.astype(np.float64)
        finite = np.isfinite(left) & np.isfinite(right)
        distance = np.abs(np.where(finite, left, 0.0) - np.where(finite, right, 0.0))
        allowed = _OF_VALUE * np.abs(np.where(finite, right, 0.0)) + _OF_SIZE * self.size
        same = (left == right) | (np.isnan(left) & np.isnan(right)) | (finite & (distance <= allowed))
        result: Columns = ~same
        return result

    def _note(self, fault: Fault, where: Columns, first: int, value: Float32, other: Float32) -> None:
        """Keep a fault of each feature that has one, unless a worse one is known."""
        order = list(Fault)
        for column in np.flatnonzero(where.any(axis=0)):
            name = self.feature_set.market_features[column]
            known = self.faults.get(name)
            if known is not None and order.index(known.fault) <= order.index(fault):
                continue
            row = int(np.flatnonzero(where[:, column])[0])
            self.faults[name] = FeatureFault(
                feature=name,
                fault=fault,
                bar=first + row,
                ts=self.bars.ts[first + row],
                value=float(value[row, column]),
                other=float(other[row, column]),
                look_back=self.feature_set.look_back,
            )

    def report(self, instants: Sequence[int]) -> CausalityReport:
        """What is known by now."""
        names = self.feature_set.market_features
        return CausalityReport(
            feature_set=self.feature_set.name,
            symbol=self.bars.symbol,
            timeframe=self.bars.timeframe.value,
            n_bars=len(self.bars),
            instants=tuple(instants),
            faults=tuple(self.faults[name] for name in names if name in self.faults),
            changed_input=self.changed_input,
        )


def _shown(ts: np.datetime64) -> str:
    return f"{ts.astype('datetime64[m]')}Z"


def _told_change(what: str) -> str:
    return f"it changes the frame of bars that it is given ({what}): let it work on a copy"


def _instants(feature_set: FeatureSet, bars: Bars, n_pairs: int, n_ends: int) -> list[int]:
    """Bars to look at: pairs of neighbours spread evenly, and the last bars before the longest times without any.

    Neighbours, because a longer bar that is known from its start shows itself everywhere but at its own last bar.
    """
    first, last = feature_set.look_back - 1, len(bars) - 1
    spread = np.linspace(first, last - 1, n_pairs + 2)[1:-1].round().astype(int)
    waits = np.diff(bars.ts[first:]).astype(np.int64)
    # Of equal waits the latest come first, so that bars without sessions give the ends of the series.
    ends = first + np.argsort(waits, kind="stable")[::-1][:n_ends]
    return sorted({int(t) for t in (*spread, *(spread + 1), *ends)})


def _with_others(bars: Bars, start: int, stop: int) -> Bars:
    """The same bars, with others in the places start .. stop-1, which lie at one end.

    Others are the old ones mirrored at the price of the bar that they adjoin, on another level, swinging from bar to
    bar, with other volumes, and one bar's time further off: every column differs, and all of it could have happened.
    """
    if stop <= start:
        return bars
    places = slice(start, stop)
    neighbour = stop if start == 0 else start - 1
    mirror = 2.0 * np.log(bars.close[neighbour])
    swing = np.log(np.resize(_FACTORS, stop - start))
    prices = {name: getattr(bars, name).copy() for name in PRICE_COLUMNS}
    mirrored = {"open": "open", "high": "low", "low": "high", "close": "close"}
    for name, source in mirrored.items():
        prices[name][places] = np.exp(mirror - np.log(getattr(bars, source)[places]) + swing)
    volume, ts = bars.volume.copy(), bars.ts.copy()
    known = volume[places] >= 0.0
    volume[places] = np.where(known, 2.0 * volume[places] + 1.0, 1000.0)
    ts[places] += -bars.timeframe.delta if start == 0 else bars.timeframe.delta
    return replace(bars, ts=ts, volume=volume, **prices)
