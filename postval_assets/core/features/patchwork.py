"""Bars that could have been: real stretches among others, for asking a feature set what it looks at.

Here: which bars are followed by others, and what those are. Not here: running a set on them and naming what differs
(causality.py, core/policy_causality.py).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import PRICE_COLUMNS, Bars

Integers = npt.NDArray[np.int64]
Float = npt.NDArray[np.float64]

# Factors of other bars' prices, by turns: another level, and a swing from bar to bar.
_FACTORS = (1.13, 1.07)
# Spread of noise around the last real close (of the logarithm), and the share of its bars that have no volume: a market
# that no feature is used to, and in which none overflows.
_NOISE, _EMPTY = 0.05, 0.125
# Rows compared at the least before a cut, bars that are others after it, and bars among which its place is chosen.
_ROWS, _OTHERS, _CHOICE = 8, 24, 24
# Steps of this share of a stretch give each patchwork another start (the golden ratio: far from all before).
_STEP = 0.618034


@dataclass(frozen=True, eq=False)
class Patchwork:
    """Bars of which stretches are real, each with more than a look-back, and the bars between are others.

    Attributes:
        bars: all of them, real ones and others.
        places: rows of these bars whose look-back is real, [compared row].
        rows: the same rows in the bars that the stretches come from, [compared row].
        cuts: rows there that are followed by others.
    """

    bars: Bars
    places: Integers
    rows: Integers
    cuts: tuple[int, ...]


class Cutter:
    """Makes one patchwork after another of the same bars, each cut at other bars, the rarest kinds first.

    Kinds are those that features treat apart: hours of the day and the week, bars with and without volume and what
    they are followed by, the first and the last bars before a wait.
    """

    def __init__(self, bars: Bars, look_back: int) -> None:
        self.bars = bars
        self.look_back = look_back
        self.kinds = _kinds(bars)
        self.seen = np.zeros(int(self.kinds.max()) + 1, dtype=np.int64)
        self.used = np.zeros(len(bars), dtype=bool)
        self.n_made = 0

    def next(self) -> Patchwork:
        """Another patchwork; needs more bars than the look-back."""
        self.n_made += 1
        stretch = self.look_back + _ROWS + _CHOICE // 2 + _OTHERS
        start = int(min(stretch, len(self.bars) - self.look_back - 1) * (self.n_made * _STEP % 1.0))
        return patchwork(
            self.bars, self.look_back, start, self._cuts(start), upwards_first=self.n_made % 2 == 1
        )

    def _cuts(self, start: int) -> list[int]:
        """Cuts with a look-back and some rows before each."""
        last, cuts = len(self.bars) - 2, []
        earliest = min(start + self.look_back + _ROWS - 2, last)
        while earliest <= last:
            choice = slice(earliest, min(earliest + _CHOICE, last + 1))
            worth = (1.0 / (1.0 + self.seen[self.kinds[choice]])).sum(axis=1) - 100.0 * self.used[choice]
            cut = earliest + int(np.argmax(worth))
            cuts.append(cut)
            self.seen[self.kinds[cut]] += 1
            self.used[cut] = True
            earliest = cut + _OTHERS + self.look_back + _ROWS - 1
        return cuts


def patchwork(bars: Bars, look_back: int, start: int, cuts: list[int], *, upwards_first: bool) -> Patchwork:
    """Others before ``start`` and after each cut.

    The bar next to a stretch is left out, so that times and places are others too. Others lie above the bar that they
    adjoin and below it by turns.

    Args:
        bars: that the stretches come from.
        look_back: bars that a compared row needs, its own included.
        start: first real bar.
        cuts: last real bars, in order, each a look-back or more after the others of the one before.
        upwards_first: whether the others after the first cut lie above.
    """
    n = len(bars)
    kept, compared = np.ones(n, dtype=bool), np.zeros(n, dtype=bool)
    neighbours = np.full(n, -1, dtype=np.int64)
    factors = np.ones(n)
    neighbours[:start] = start
    factors[:start] = _swing(start, upwards=not upwards_first)
    kept[max(start - 1, 0) : start] = False
    begin = start
    for turn, cut in enumerate(cuts):
        compared[begin + look_back - 1 : cut + 1] = True
        begin = min(cut + 1 + _OTHERS, n)
        neighbours[cut + 1 : begin] = cut
        factors[cut + 1 : begin] = _swing(begin - cut - 1, upwards=upwards_first == (turn % 2 == 0))
        kept[cut + 1 : cut + 2] = False
    compared[begin + look_back - 1 :] = True
    places = np.flatnonzero(neighbours >= 0)
    changed = _replaced(bars, places, neighbours[places], factors[places])
    columns = {name: getattr(changed, name)[kept] for name in ("ts", *PRICE_COLUMNS, "volume")}
    return Patchwork(
        bars=replace(changed, **columns),
        places=np.cumsum(kept)[compared] - 1,
        rows=np.flatnonzero(compared),
        cuts=tuple(cuts),
    )


def with_others(bars: Bars, start: int, stop: int, *, upwards: bool = True) -> Bars:
    """The same bars, with others in the places start .. stop-1, which lie at one end; their times are others too."""
    if stop <= start:
        return bars
    places = np.arange(start, stop)
    neighbours = np.full(len(places), stop if start == 0 else start - 1)
    changed = _replaced(bars, places, neighbours, _swing(len(places), upwards=upwards))
    ts = bars.ts.copy()
    ts[places] += -bars.timeframe.delta if start == 0 else bars.timeframe.delta
    return replace(changed, ts=ts)


def with_noise(bars: Bars, start: int, rng: np.random.Generator) -> Bars:
    """The same bars with noise from ``start`` (1 or later) on, at the same times.

    Every price lies around the last real close, independent of all others; some bars have no volume.

    Args:
        bars: with finite prices above 0.
        start: first bar that is replaced.
        rng: all randomness.
    """
    n = len(bars) - start
    opened, closed = bars.close[start - 1] * np.exp(rng.normal(0.0, _NOISE, (2, n)))
    wicks = np.exp(np.abs(rng.normal(0.0, _NOISE, (2, n))))
    known = bars.volume[bars.volume > 0.0]
    usual = float(np.median(known)) if len(known) else 1000.0
    volume = np.where(rng.random(n) < _EMPTY, 0.0, usual * rng.lognormal(0.0, 1.0, n))
    made = {
        "open": opened,
        "high": np.maximum(opened, closed) * wicks[0],
        "low": np.minimum(opened, closed) / wicks[1],
        "close": closed,
        "volume": volume,
    }
    return replace(bars, **{c: np.r_[getattr(bars, c)[:start], values] for c, values in made.items()})


def _swing(n: int, *, upwards: bool) -> Float:
    swing: Float = np.resize(np.asarray(_FACTORS), n)
    return swing if upwards else 1.0 / swing


def _replaced(bars: Bars, places: Integers, neighbours: Integers, factors: Float) -> Bars:
    """Bars with others in some places: the old ones mirrored at the close of a neighbour, times a factor.

    Every price and volume differs, and all of it could have happened.
    """
    mirror = 2.0 * np.log(bars.close[neighbours])
    prices = {name: getattr(bars, name).copy() for name in PRICE_COLUMNS}
    mirrored = {"open": "open", "high": "low", "low": "high", "close": "close"}
    for name, source in mirrored.items():
        prices[name][places] = np.exp(mirror - np.log(getattr(bars, source)[places])) * factors
    volume = bars.volume.copy()
    known = volume[places] >= 0.0
    volume[places] = np.where(known, 2.0 * volume[places] + 1.0, 1000.0)
    return replace(bars, volume=volume, **prices)


def empty_bars(bars: Bars) -> npt.NDArray[np.bool_]:
    """Bars without volume: 0, or unknown, [bar]."""
    empty: npt.NDArray[np.bool_] = ~(bars.volume > 0.0)
    return empty


def _kinds(bars: Bars) -> Integers:
    """What kinds each bar is of, as numbers that no two kinds share, [bar, kind]."""
    empty = empty_bars(bars).astype(np.int64)
    wait = (np.diff(bars.ts) > bars.timeframe.delta).astype(np.int64)
    rises = np.sign(np.diff(bars.close)).astype(np.int64) + 1
    minutes = bars.ts.astype("datetime64[m]").astype(np.int64)
    time_of_day = minutes % 1440 // bars.timeframe.minutes
    times_per_day = 1440 // bars.timeframe.minutes
    weekday = (minutes // 1440 + 3) % 7  # 1970-01-01 was a Thursday
    columns = [
        time_of_day,
        weekday,
        weekday * times_per_day + time_of_day,
        2 * empty + np.r_[empty[1:], 0],
        2 * np.r_[wait, 0] + np.r_[0, wait],
        np.r_[rises, 1],
    ]
    offsets = np.cumsum([0, *(int(c.max()) + 1 for c in columns[:-1])])
    kinds: Integers = np.column_stack(columns) + offsets
    return kinds
