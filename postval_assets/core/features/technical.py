"""The 4 classic indicators: RSI, MACD, Bollinger bands, ATR. Not here: the other indicators (extended.py)."""

from __future__ import annotations

import numpy as np

from postval_assets.core.features.spec import FLAT, BarArrays, FeatureFamily, FeatureSpec, Float, assemble
from postval_assets.core.features.windows import (
    ema_weights,
    equal_weights,
    lag,
    ratio,
    relative_mean,
    relative_sd,
    true_range,
    weighted_mean,
    wilder_weights,
)

_TECHNICAL = FeatureFamily.TECHNICAL

SPECS: tuple[FeatureSpec, ...] = (
    FeatureSpec(
        "rsi_14",
        _TECHNICAL,
        "(U - D) / (U + D), U = wilder_14(max(C - C[1], 0)), D = wilder_14(max(C[1] - C, 0)); "
        "Wilder's RSI / 50 - 1",
        57,
        -1.0,
        1.0,
    ),
    FeatureSpec(
        "macd_histogram",
        _TECHNICAL,
        "m - ema_9(m), m = (ema_12(C) - ema_26(C)) / C",
        139,
        -1.0,
        1.0,
    ),
    FeatureSpec("bollinger_position_20", _TECHNICAL, "(C - mean_20(C)) / (2 * sd_20(C))", 20, -2.5, 2.5),
    FeatureSpec("atr_14", _TECHNICAL, "wilder_14(TR) / C", 57, 0.0, 1.0),
)


def technical_features(bars: BarArrays) -> Float:
    """The features of SPECS: [bar, feature]."""
    close = bars.close
    change = close - lag(close, 1)
    up = weighted_mean(np.maximum(change, 0.0), wilder_weights(14))
    down = weighted_mean(np.maximum(-change, 0.0), wilder_weights(14))
    macd = relative_mean(close, ema_weights(12)) - relative_mean(close, ema_weights(26))
    return assemble(
        SPECS,
        {
            "rsi_14": ratio(up - down, up + down),
            "macd_histogram": macd - weighted_mean(macd, ema_weights(9)),
            "bollinger_position_20": ratio(
                -relative_mean(close, equal_weights(20)), 2.0 * relative_sd(close, 20), FLAT
            ),
            "atr_14": weighted_mean(true_range(bars.high, bars.low, close), wilder_weights(14)) / close,
        },
    )
