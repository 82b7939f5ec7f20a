"""The 7 base features: what one bar did against the bar before it. Not here: indicators."""

from __future__ import annotations

import math

import numpy as np

from postval_assets.core.features.spec import BarArrays, FeatureFamily, FeatureSpec, Float, assemble
from postval_assets.core.features.windows import lag, ratio, window_mean

_BASE = FeatureFamily.BASE

SPECS: tuple[FeatureSpec, ...] = (
    FeatureSpec("log_return", _BASE, "ln(C / C[1])", 2, -1.0, 1.0),
    FeatureSpec(
        "open_gap",
        _BASE,
        "ln(O / C[1])",
        2,
        -1.0,
        1.0,
        note="always 0 where a source writes each open as the close before",
    ),
    FeatureSpec("bar_body", _BASE, "ln(C / O)", 1, -1.0, 1.0),
    FeatureSpec("bar_range", _BASE, "ln(H / L)", 1, 0.0, 1.0),
    FeatureSpec("upper_shadow", _BASE, "ln(H / max(O, C))", 1, 0.0, 1.0),
    FeatureSpec("lower_shadow", _BASE, "ln(min(O, C) / L)", 1, 0.0, 1.0),
    FeatureSpec(
        "relative_volume_20",
        _BASE,
        "ln(1 + V / mean_20(V)) - ln 2; 0 where mean_20(V) = 0",
        20,
        -0.7,
        2.4,
        note="a bar without volume among others with some has the lowest value there is, -ln 2",
    ),
)


def base_features(bars: BarArrays) -> Float:
    """The features of SPECS: [bar, feature]."""
    before = lag(bars.close, 1)
    mean_volume = window_mean(bars.volume, 20)
    relative_volume = np.log1p(ratio(bars.volume, mean_volume)) - math.log(2.0)
    return assemble(
        SPECS,
        {
            "log_return": np.log(bars.close / before),
            "open_gap": np.log(bars.open / before),
            "bar_body": np.log(bars.close / bars.open),
            "bar_range": np.log(bars.high / bars.low),
            "upper_shadow": np.log(bars.high / np.maximum(bars.open, bars.close)),
            "lower_shadow": np.log(np.minimum(bars.open, bars.close) / bars.low),
            "relative_volume_20": np.where(mean_volume > 0.0, relative_volume, 0.0),
        },
    )
