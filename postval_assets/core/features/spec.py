"""What a feature is: its name, formula, look-back and range, and how columns become the array of a family.

Here: the description of features and the arrays that they are computed from. Not here: any formula (the
family modules), sets of features (feature_set.py, reference.py).

Notation of the formulas:
- O, H, L, C, V are open, high, low, close and volume of bar t; X[k] is X at k bars before t.
- sum_n, mean_n, max_n, min_n run over the bars t-n+1 .. t; so does sd_n, the population standard deviation.
- TP = (H + L + C) / 3 is the typical price, TR = max(H, C[1]) - min(L, C[1]) the true range,
  r = ln(C / C[1]) the log return.
- ema_n is the exponential average with weights (1 - 2/(n+1))^k, wilder_n the one with (1 - 1/n)^k, each over
  exactly the last 4n bars and normalised to weights that sum to 1.
- A quotient whose denominator is 0 is 0: "nothing moved" and "nothing was traded" are the neutral value. A
  spread (sd, mean deviation, wilder_10(TR)) of at most FLAT times the price counts as 0: it is rounding.
- An unknown volume (NaN, negative or infinite) within its look-back makes a volume feature 0.
- Every value is clipped to its range.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt
import pandas as pd

Float = npt.NDArray[np.float64]

FLAT = 1e-9
"""A spread relative to the price (1e-9 = 0.00001 bps) at or below this is no movement."""


class FeatureFamily(StrEnum):
    """The families of market features, in the order in which an observation has them."""

    BASE = "base"
    TECHNICAL = "technical"
    TEMPORAL = "temporal"
    MARKOV = "markov"
    EXTENDED = "extended"
    MULTI_WINDOW = "multi_window"


@dataclass(frozen=True)
class FeatureSpec:
    """One market feature.

    Attributes:
        name: unique in its set.
        family: where it belongs.
        formula: in the notation of this module.
        look_back: number of bars, the current one included, that the value is a function of.
        minimum, maximum: the range that values are clipped to.
        note: at borders and in dull markets, what neither the formula nor a measured value says.
    """

    name: str
    family: FeatureFamily
    formula: str
    look_back: int
    minimum: float
    maximum: float
    note: str = ""


@dataclass(frozen=True, eq=False)
class BarArrays:
    """The columns of a bars frame as contiguous arrays, axis [bar].

    Contiguous, because numpy may compute a logarithm of a strided array by another routine, with another last
    bit.
    """

    ts: npt.NDArray[np.datetime64]
    open: Float
    high: Float
    low: Float
    close: Float
    volume: Float

    def __len__(self) -> int:
        """Number of bars."""
        return len(self.close)

    @classmethod
    def from_frame(cls, frame: pd.DataFrame) -> BarArrays:
        """The frame's columns (ts UTC, prices > 0, volume or NaN); unknown volumes become NaN."""
        ts = frame["ts"].dt.tz_convert("UTC").dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
        prices = {
            name: np.ascontiguousarray(frame[name].to_numpy(dtype=np.float64))
            for name in ("open", "high", "low", "close")
        }
        volume = frame["volume"].to_numpy(dtype=np.float64, na_value=np.nan)
        known = (volume >= 0.0) & (volume < np.inf)
        return cls(ts=np.ascontiguousarray(ts), volume=np.where(known, volume, np.nan), **prices)


def assemble(specs: Sequence[FeatureSpec], columns: Mapping[str, Float]) -> Float:
    """The columns in the order of the specs, clipped to their ranges: [bar, feature].

    The first look_back - 1 rows of a feature are NaN: there is too little history to say anything.

    Raises:
        KeyError: a feature was described but not computed.
    """
    n_bars = len(next(iter(columns.values())))
    values = np.empty((n_bars, len(specs)), dtype=np.float64)
    for i, spec in enumerate(specs):
        values[:, i] = np.clip(columns[spec.name], spec.minimum, spec.maximum)
        values[: spec.look_back - 1, i] = np.nan
    return values
