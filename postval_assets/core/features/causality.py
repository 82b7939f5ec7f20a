"""Whether a feature set sees only what it may: the bars of its look-back, and nothing later.

Here: running a set again on a part of its bars, or beside other bars, and naming what differs. Not here: those other
bars (patchwork.py), the words for what was found (faults.py), the shape and finiteness of values (feature_set.py).
Two things cannot be found out this way: a set that gets its future from elsewhere than the bars it is given (a file, a
table made from the whole history), and one that looks ahead so seldom that no bar where it does is among those tried.

A feature at bar t may use the bars t - look_back + 1 .. t. So its value must be the same
- when the bars after t are left out, or are others;
- when the bars before its look-back are left out, or are others;
- when the same bars are given once more.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.features.faults import CausalityReport, Fault, FeatureFault, shown_time
from postval_assets.core.features.feature_set import FeatureSet, raw_features, require_prices
from postval_assets.core.features.patchwork import Cutter, Patchwork, with_others
from postval_assets.core.features.reference import REFERENCE_SETS

Float32 = npt.NDArray[np.float32]
Columns = npt.NDArray[np.bool_]

# Rows compared at one instant: the instant's own and those just before it.
_ROWS = 8
# Bars beside the look-back that are replaced by others.
_OTHER_BARS = 40
# Differences up to this share of the value, or of the feature's mean size, are taken for rounding.
_OF_VALUE, _OF_SIZE = 1e-4, 1e-5
# Instants of a whole inspection that are looked at closely: pairs of neighbours, and ends of sessions.
_PAIRS, _ENDS = 8, 4
# Bars computed at most in the patchworks of a whole inspection, and how many patchworks at most and at least.
_SWEPT_BARS, _MOST_SWEEPS, _FEWEST_SWEEPS = 500_000, 24, 4
# The same in the check before an evaluation.
_FEW_SWEPT_BARS, _FEW_SWEEPS = 15_000, 3
# Cuts of a patchwork that are looked at alone, where a set refuses it.
_CUTS_ALONE = 3
# Rows where a patchwork differs that are looked at closely, for each feature: rounding must not cost more.
_CLOSER_LOOKS = 3


class PromiseBroken(Rejected):
    """A set does not do what every set promises. It lies in the set, not in the bars that happened to show it.

    Attributes:
        look_ahead: the first feature that is seen to look ahead; None where that is not what is wrong.
    """

    def __init__(self, message: str, look_ahead: FeatureFault | None = None) -> None:
        """Where a feature looks ahead, ``look_ahead`` says which."""
        super().__init__(message)
        self.look_ahead = look_ahead


def inspect_feature_set(feature_set: FeatureSet, bars: Bars) -> CausalityReport:
    """Look closely at a set on some bars, and at many more bars less closely.

    The close looks are at evenly spread instants and at ends of sessions. Then patchworks of the bars are computed,
    with cuts at all hours of the week and at bars without volume; where one differs, a close look decides.

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
    instants = _instants(feature_set, bars)
    for instant in instants:
        probe.look(instant)
    n_sweeps = min(max(_SWEPT_BARS // len(bars), _FEWEST_SWEEPS), _MOST_SWEEPS)
    cutter = Cutter(bars, feature_set.look_back)
    for _ in range(n_sweeps):
        instants += probe.sweep(cutter.next())
    return probe.report(sorted(set(instants)))


def require_causal(feature_set: FeatureSet, bars: Bars, features: Float32) -> None:
    """Refuse a plug-in that is seen to look ahead at some instants; the reference sets are held by tests.

    Costs one computation of little more than the look-back, and three of all bars (one, where there are many).

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
    probe.glance((feature_set.look_back - 1 + len(bars) - 2) // 2)
    cutter = Cutter(bars, feature_set.look_back)
    n_sweeps = min(max(_FEW_SWEPT_BARS // len(bars), 1), _FEW_SWEEPS)
    while not probe.report(()).problems() and cutter.n_made < n_sweeps:
        probe.sweep(cutter.next())
    report = probe.report(())
    problems = report.problems()
    if problems:
        more = f" (and {len(problems) - 1} more)" if len(problems) > 1 else ""
        raise PromiseBroken(
            f"feature set {feature_set.name} on bars of {bars.symbol} ({bars.timeframe}): {problems[0]}{more}; "
            f"expected features of the {feature_set.look_back} bars up to each bar alone "
            f"(postval features check {feature_set.name})",
            next((f for f in report.faults if f.fault is Fault.SEES_LATER), None),
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
        self.n_closer = np.zeros(len(feature_set.market_features), dtype=np.int64)

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
        surrounded = with_others(self.bars.slice(begin, end), 0, start - begin)
        surrounded = with_others(surrounded, stop - begin, end - begin)
        try:
            values = self.run(surrounded)[first - begin : stop - begin]
        except Rejected:
            # It does not like bars that never were: the real ones decide, by themselves.
            self._look_alone(first, start, stop)
            return
        if self._differing(self.whole[first:stop], values).any():
            self.look(instant)

    def sweep(self, patchwork: Patchwork) -> tuple[int, ...]:
        """Compare every row whose look-back is real in a patchwork; where one differs, a closer look decides.

        Returns:
            The bars that were followed by others or by nothing: a few, where the set refuses bars that never were.
        """
        try:
            values = self.run(patchwork.bars)[patchwork.places]
        except Rejected:
            few = patchwork.cuts[:_CUTS_ALONE]
            for cut in few:
                self._look_alone(*self._place(cut))
            return few
        expected = self.whole[patchwork.rows]
        differing = self._differing(expected, values)
        for column in np.flatnonzero(differing.any(axis=0)):
            if (
                self.feature_set.market_features[column] in self.faults
                or self.n_closer[column] == _CLOSER_LOOKS
            ):
                continue
            self.n_closer[column] += 1
            # The greatest difference is the least likely to be rounding; a value that is missing is none.
            size = np.abs(expected[:, column].astype(np.float64) - values[:, column])
            row = int(np.argmax(np.where(differing[:, column], np.nan_to_num(size, nan=np.inf), -1.0)))
            self.look(int(patchwork.rows[row]), n_rows=1)
            self._look_within(patchwork, row)
        return patchwork.cuts

    def _look_within(self, patchwork: Patchwork, row: int) -> None:
        """Compare one row of a patchwork with that of the bars up to it: some look ahead there and nowhere else."""
        place, first = int(patchwork.places[row]), int(patchwork.rows[row])
        begin = max(place - self.feature_set.look_back + 1 - _OTHER_BARS, 0)
        around = patchwork.bars.slice(begin, min(place + 1 + _OTHER_BARS, len(patchwork.bars)))
        until = self._rows(around.slice(0, place + 1 - begin), 1)
        later = self._rows(around, len(around) - (place - begin))[:1]
        self._note(Fault.SEES_LATER, self._differing(until, later), first, until, later)

    def look(self, instant: int, n_rows: int = _ROWS) -> None:
        """Compare the rows up to an instant with those of the bars up to it alone, and beside other bars."""
        first, start, stop = self._place(instant, n_rows)
        alone, n_rows = self._look_alone(first, start, stop), stop - first
        expected = self.whole[first:stop]
        end = min(stop + _OTHER_BARS, len(self.bars))
        for upwards in (True, False):
            followed = with_others(self.bars.slice(start, end), stop - start, end - start, upwards=upwards)
            later = self._rows(followed, n_rows + end - stop)[:n_rows]
            other = np.where(self._differing(expected, later), later, alone)
            self._note(Fault.SEES_LATER, self._differing(alone, later), first, expected, other)
        begin = max(start - _OTHER_BARS, 0)
        earlier = self._rows(with_others(self.bars.slice(begin, stop), 0, start - begin), n_rows)
        self._attribute(self._differing(earlier, alone), first, start, stop, alone)

    def _place(self, instant: int, n_rows: int = _ROWS) -> tuple[int, int, int]:
        """First row compared, first bar of its look-back, and the bar after the instant."""
        look_back = self.feature_set.look_back
        first = max(instant - n_rows + 1, look_back - 1)
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
            others = self._rows(with_others(self.bars.slice(0, stop), 0, start), n_rows)
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
                f"{error}; it was given {len(bars)} valid bars, {shown_time(bars.ts[0])} to "
                f"{shown_time(bars.ts[-1])}, and its look-back is {self.feature_set.look_back}"
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


def _instants(feature_set: FeatureSet, bars: Bars) -> list[int]:
    """Bars to look at: pairs of neighbours spread evenly, and the last bars before the longest times without any.

    Neighbours, because a longer bar that is known from its start shows itself everywhere but at its own last bar.
    """
    first, last = feature_set.look_back - 1, len(bars) - 1
    spread = np.linspace(first, last - 1, _PAIRS + 2)[1:-1].round().astype(int)
    waits = np.diff(bars.ts[first:]).astype(np.int64)
    # Of equal waits the latest come first, so that bars without sessions give the ends of the series.
    ends = first + np.argsort(waits, kind="stable")[::-1][:_ENDS]
    return sorted({int(t) for t in (*spread, *(spread + 1), *ends)})
