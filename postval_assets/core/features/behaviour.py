"""What the reference features do where a market is dull or broken off, measured on small bars made for it.

Here: the bars, and the values of each feature on them. Not here: how they are shown (commands/reference_pages.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from postval_assets.core.features.reference import REFERENCE_SPECS, reference_features
from postval_assets.core.features.spec import FeatureSpec, Float

GAP = 1.10
"""Factor of all prices from the gap on."""

# Whole look-backs before and after the bars that are looked at; sessions of 7 hours, as a stock has.
_BARS_PER_SESSION = 7
_BEFORE = 21 * _BARS_PER_SESSION
_AFTER = 21 * _BARS_PER_SESSION
# Log returns of the moving prices, over and over; no two alike, so that no indicator stands still by chance.
_STEPS = (0.0041, -0.0067, 0.0093, -0.0029, 0.0057, -0.0083, 0.0012, -0.0035, 0.0061, -0.0044, 0.0019)
# Equal up to this, two values are the same: other processors may compute another last bit.
_SAME = 1e-12


@dataclass(frozen=True)
class Passage:
    """A feature over a border: its values on the last bar before and the first two after.

    Attributes:
        before, first, second: values.
        n_bars: number of bars on which it is another than it would be without the border.
    """

    before: float
    first: float
    second: float
    n_bars: int


@dataclass(frozen=True)
class Behaviour:
    """One feature at the edges.

    Attributes:
        spec: the feature.
        is_clock: whether it depends on nothing but the time of its own bar.
        flat: where no price ever moved, with volume.
        untraded: where prices move and no bar has any volume; None where it is as with volume.
        untraded_bar: where this one bar has none and the others have; None where it is as with volume.
        border: from one session to the next, with no gap in price.
        gap: the same with GAP in price.
    """

    spec: FeatureSpec
    is_clock: bool
    flat: float
    untraded: float | None
    untraded_bar: float | None
    border: Passage
    gap: Passage


def measure_behaviours() -> tuple[Behaviour, ...]:
    """Every reference feature at the edges, in their order."""
    last = _BEFORE - 1
    through = _moving(_hourly(_BEFORE + _AFTER))
    sessions = _moving(_in_sessions(_BEFORE + _AFTER))
    gapped = sessions.copy()
    prices = ["open", "high", "low", "close"]
    gapped.loc[_BEFORE:, prices] *= GAP
    flat = through.assign(open=100.0, high=100.0, low=100.0, close=100.0)
    silent_bar = through.copy()
    silent_bar.loc[last, "volume"] = 0.0
    plain = reference_features(through)
    still = reference_features(flat)
    untraded = reference_features(through.assign(volume=0.0))
    untraded_bar = reference_features(silent_bar)
    # What a border of sessions does, apart from the clock, is measured against the same bars hour by hour; what
    # the gap does, against the border alone.
    border, over_gap = reference_features(sessions), reference_features(gapped)
    other_times = reference_features(through.assign(ts=through["ts"] + pd.Timedelta(days=40, hours=5)))
    found = []
    for i, spec in enumerate(REFERENCE_SPECS):
        found.append(
            Behaviour(
                spec=spec,
                is_clock=not _same(plain[last, i], other_times[last, i]),
                flat=float(still[last, i]),
                untraded=_unless_same(untraded[last, i], plain[last, i]),
                untraded_bar=_unless_same(untraded_bar[last, i], plain[last, i]),
                border=_passage(border[:, i], plain[:, i]),
                gap=_passage(over_gap[:, i], border[:, i]),
            )
        )
    return tuple(found)


def _passage(values: Float, without: Float) -> Passage:
    differing = ~np.isclose(values[_BEFORE:], without[_BEFORE:], rtol=0.0, atol=_SAME)
    return Passage(
        before=float(values[_BEFORE - 1]),
        first=float(values[_BEFORE]),
        second=float(values[_BEFORE + 1]),
        n_bars=int(differing.sum()),
    )


def _unless_same(value: float, usual: float) -> float | None:
    return None if _same(value, usual) else float(value)


def _same(a: float, b: float) -> bool:
    return abs(float(a) - float(b)) <= _SAME


def _hourly(n_bars: int) -> pd.DatetimeIndex:
    return pd.date_range("2024-03-04 14:00", periods=n_bars, freq="h", tz="UTC")


def _in_sessions(n_bars: int) -> pd.DatetimeIndex:
    """Hours from 14:00 to 20:00 UTC of each day; weekends are left in, so that all borders are alike."""
    place = np.arange(n_bars)
    hours = place // _BARS_PER_SESSION * 24 + place % _BARS_PER_SESSION
    return pd.Timestamp("2024-03-04 14:00", tz="UTC") + pd.to_timedelta(hours, unit="h")


def _moving(ts: pd.DatetimeIndex) -> pd.DataFrame:
    """Bars that open at the close before and go up and down without direction."""
    close = 100.0 * np.exp(np.cumsum(np.resize(_STEPS, len(ts))))
    opened = np.concatenate([[100.0], close[:-1]])
    return pd.DataFrame(
        {
            "ts": ts,
            "open": opened,
            "high": np.maximum(opened, close) * 1.0013,
            "low": np.minimum(opened, close) * 0.9989,
            "close": close,
            "volume": np.resize((1000.0, 1300.0, 900.0, 1700.0), len(ts)),
        }
    )
