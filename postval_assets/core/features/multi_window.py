"""The 9 multi-window features: trend, volatility and place in the range over 20, 50 and 100 bars.

Not here: indicators with one customary window (technical.py, extended.py).
"""

from __future__ import annotations

import numpy as np

from postval_assets.core.features.spec import BarArrays, FeatureFamily, FeatureSpec, Float, assemble
from postval_assets.core.features.windows import (
    equal_weights,
    lag,
    ratio,
    relative_mean,
    window_max,
    window_min,
    window_sd,
)

WINDOWS = (20, 50, 100)


def _spec(name: str, formula: str, n: int, look_back: int, minimum: float, maximum: float) -> FeatureSpec:
    return FeatureSpec(
        f"{name}_{n}", FeatureFamily.MULTI_WINDOW, formula.format(n=n), look_back, minimum, maximum
    )


SPECS: tuple[FeatureSpec, ...] = (
    *(_spec("sma_distance", "ln(C / mean_{n}(C))", n, n, -1.0, 1.0) for n in WINDOWS),
    *(_spec("volatility", "sd_{n}(r)", n, n + 1, 0.0, 1.0) for n in WINDOWS),
    *(
        _spec("range_position", "2 * (C - min_{n}(L)) / (max_{n}(H) - min_{n}(L)) - 1", n, n, -1.0, 1.0)
        for n in WINDOWS
    ),
)


def multi_window_features(bars: BarArrays) -> Float:
    """The features of SPECS: [bar, feature]."""
    log_return = np.log(bars.close / lag(bars.close, 1))
    columns: dict[str, Float] = {}
    for n in WINDOWS:
        lowest = window_min(bars.low, n)
        spread = window_max(bars.high, n) - lowest
        columns[f"sma_distance_{n}"] = -np.log1p(relative_mean(bars.close, equal_weights(n)))
        columns[f"volatility_{n}"] = window_sd(log_return, n)
        columns[f"range_position_{n}"] = ratio(2.0 * (bars.close - lowest) - spread, spread)
    return assemble(SPECS, columns)
