"""The 14 extended technical features: oscillators, directional movement, volume flow, range volatility.

Not here: the four classic indicators (technical.py) and those computed over several windows
(multi_window.py).
"""

from __future__ import annotations

import math

import numpy as np

from postval_assets.core.features.spec import FLAT, BarArrays, FeatureFamily, FeatureSpec, Float, assemble
from postval_assets.core.features.windows import (
    bars_since_max,
    ema_weights,
    equal_weights,
    lag,
    ratio,
    relative_mean,
    relative_mean_deviation,
    true_range,
    weighted_mean,
    wilder_weights,
    window_max,
    window_mean,
    window_min,
    window_sum,
)

_EXTENDED = FeatureFamily.EXTENDED
_DIRECTIONAL = (
    "P = wilder_14(H - H[1] where that is > 0 and > L[1] - L, else 0), "
    "M = wilder_14(L[1] - L where that is > 0 and > H - H[1], else 0)"
)

SPECS: tuple[FeatureSpec, ...] = (
    FeatureSpec(
        "stochastic_k_14", _EXTENDED, "2 * (C - min_14(L)) / (max_14(H) - min_14(L)) - 1", 14, -1.0, 1.0
    ),
    FeatureSpec("stochastic_d_14_3", _EXTENDED, "mean_3(stochastic_k_14)", 16, -1.0, 1.0),
    FeatureSpec(
        "cci_20",
        _EXTENDED,
        "(TP - mean_20(TP)) / (1.5 * mean_20(|TP - its mean_20 of bar t|))",
        20,
        -5.0,
        5.0,
    ),
    FeatureSpec("adx_14", _EXTENDED, f"wilder_14(|P - M| / (P + M)), {_DIRECTIONAL}", 112, 0.0, 1.0),
    FeatureSpec("directional_balance_14", _EXTENDED, f"(P - M) / (P + M), {_DIRECTIONAL}", 57, -1.0, 1.0),
    FeatureSpec(
        "money_flow_14",
        _EXTENDED,
        "sum_14(sign(TP - TP[1]) * TP * V) / sum_14(|sign(TP - TP[1])| * TP * V); "
        "the money flow index / 50 - 1",
        15,
        -1.0,
        1.0,
    ),
    FeatureSpec(
        "volume_balance_20",
        _EXTENDED,
        "sum_20(sign(C - C[1]) * V) / sum_20(V)",
        21,
        -1.0,
        1.0,
        note="only the direction counts: a gap matters where it turns a falling bar into a rising one",
    ),
    FeatureSpec(
        "chaikin_money_flow_20", _EXTENDED, "sum_20((2 C - H - L) / (H - L) * V) / sum_20(V)", 20, -1.0, 1.0
    ),
    FeatureSpec("vwap_distance_20", _EXTENDED, "ln(C / (sum_20(TP * V) / sum_20(V)))", 20, -1.0, 1.0),
    FeatureSpec("rate_of_change_10", _EXTENDED, "ln(C / C[10])", 11, -1.0, 1.0),
    FeatureSpec(
        "aroon_25",
        _EXTENDED,
        "(bars since the lowest L - bars since the highest H) / 25, of the last 26 bars, the latest on ties",
        26,
        -1.0,
        1.0,
        note="only the places of the extremes count: after a gap upwards the high is young, the low grows old",
    ),
    FeatureSpec("keltner_position_20", _EXTENDED, "(C - ema_20(C)) / (2 * wilder_10(TR))", 80, -5.0, 5.0),
    FeatureSpec(
        "parkinson_volatility_20",
        _EXTENDED,
        "sqrt(mean_20(ln(H / L)^2) / (4 ln 2))",
        20,
        0.0,
        1.0,
        note="sees ranges within bars only: what happens overnight is none of it",
    ),
    FeatureSpec(
        "choppiness_14",
        _EXTENDED,
        "ln(sum_14(TR) / (max_14(H) - min_14(L))) / ln 14; 0 for no range",
        15,
        0.0,
        1.0,
        note="a gap is part of the range and of the sum, so it reads as a straight trend",
    ),
)


def extended_features(bars: BarArrays) -> Float:
    """The features of SPECS: [bar, feature]."""
    return assemble(
        SPECS, {**_oscillators(bars), **_directional(bars), **_volume_flow(bars), **_ranges(bars)}
    )


def _oscillators(bars: BarArrays) -> dict[str, Float]:
    typical = _typical(bars)
    lowest = window_min(bars.low, 14)
    # 2 (C - low) - range over the range, so that a window without a range is 0 and not -1.
    spread = window_max(bars.high, 14) - lowest
    stochastic = ratio(2.0 * (bars.close - lowest) - spread, spread)
    cci = ratio(-relative_mean(typical, equal_weights(20)), relative_mean_deviation(typical, 20), FLAT) / 1.5
    since_low, since_high = bars_since_max(-bars.low, 26), bars_since_max(bars.high, 26)
    return {
        "stochastic_k_14": stochastic,
        "stochastic_d_14_3": window_mean(stochastic, 3),
        "cci_20": cci,
        "rate_of_change_10": np.log(bars.close / lag(bars.close, 10)),
        "aroon_25": (since_low - since_high) / 25.0,
    }


def _directional(bars: BarArrays) -> dict[str, Float]:
    rise, fall = bars.high - lag(bars.high, 1), lag(bars.low, 1) - bars.low
    plus = _wilder_14(np.where((rise > fall) & (rise > 0.0), rise, 0.0 * rise))
    minus = _wilder_14(np.where((fall > rise) & (fall > 0.0), fall, 0.0 * fall))
    balance = ratio(plus - minus, plus + minus)
    return {"adx_14": _wilder_14(np.abs(balance)), "directional_balance_14": balance}


def _volume_flow(bars: BarArrays) -> dict[str, Float]:
    typical, volume, spread = _typical(bars), bars.volume, bars.high - bars.low
    flow_sign = np.sign(typical - lag(typical, 1))
    money = typical * volume
    traded = window_sum(volume, 20)
    close_place = ratio(2.0 * bars.close - bars.high - bars.low, spread)
    relative_vwap = ratio(window_sum(money, 20), traded * bars.close)
    known = relative_vwap > 0.0
    return {
        "money_flow_14": ratio(window_sum(flow_sign * money, 14), window_sum(np.abs(flow_sign) * money, 14)),
        "volume_balance_20": ratio(window_sum(np.sign(bars.close - lag(bars.close, 1)) * volume, 20), traded),
        "chaikin_money_flow_20": ratio(window_sum(close_place * volume, 20), traded),
        "vwap_distance_20": -np.log(np.where(known, relative_vwap, 1.0)),
    }


def _ranges(bars: BarArrays) -> dict[str, Float]:
    width = true_range(bars.high, bars.low, bars.close)
    relative_atr = weighted_mean(width, wilder_weights(10)) / bars.close
    log_range = np.log(bars.high / bars.low)
    spread = window_max(bars.high, 14) - window_min(bars.low, 14)
    chop = ratio(window_sum(width, 14), spread)
    moved = chop > 0.0
    return {
        "keltner_position_20": ratio(-relative_mean(bars.close, ema_weights(20)), 2.0 * relative_atr, FLAT),
        "parkinson_volatility_20": np.sqrt(window_mean(log_range * log_range, 20) / (4.0 * math.log(2.0))),
        "choppiness_14": np.log(np.where(moved, chop, 1.0)) / math.log(14.0),
    }


def _typical(bars: BarArrays) -> Float:
    return (bars.high + bars.low + bars.close) / 3.0


def _wilder_14(x: Float) -> Float:
    return weighted_mean(x, wilder_weights(14))
