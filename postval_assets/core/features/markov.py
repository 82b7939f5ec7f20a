"""The 12 Markov regime features: a filter over three hidden regimes with fixed, stated parameters.

Here: the model and the features of its state. Not here: estimation; nothing is fitted, so that a value never
depends on data that a model could not have seen.

The model (Hamilton 1989, a Markov-switching normal distribution, filtered forward only). The observation is
the standardised log return z = r / sqrt(mean_50(r^2)), clipped to -5 .. 5 (0 where the root is at most FLAT).
In regime i it is normal with mean MEANS[i] and standard deviation SPREADS[i]. A regime stays for the next bar
with probability STAY, else it changes to each of the other two with equal probability, so the stationary
distribution is 1/3 each. The filter of bar t starts from it and takes the FILTER_BARS observations up to t;
p_i is the probability of regime i after the last one, and q_i = sum_j p_j * P(j -> i) that of the next bar.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from postval_assets.core.features.spec import FLAT, BarArrays, FeatureFamily, FeatureSpec, Float, assemble
from postval_assets.core.features.windows import lag, ratio, window_mean

REGIMES = ("down", "quiet", "up")
MEANS = (-0.4, 0.0, 0.4)
SPREADS = (1.2, 0.6, 1.2)
STAY = 0.94
STANDARDISING_BARS = 50
FILTER_BARS = 60
CHANGE_BARS = 5
_MAX_ABS_OBSERVATION = 5.0

_SWITCH = (1.0 - STAY) / (len(REGIMES) - 1)
# FILTER_BARS observations, the oldest with STANDARDISING_BARS returns, its first one from a close before it.
_LOOK_BACK = FILTER_BARS + STANDARDISING_BARS
_MARKOV = FeatureFamily.MARKOV


def _spec(
    name: str, formula: str, minimum: float, maximum: float, *, more_bars: int = 0, note: str = ""
) -> FeatureSpec:
    return FeatureSpec(f"regime_{name}", _MARKOV, formula, _LOOK_BACK + more_bars, minimum, maximum, note)


SPECS: tuple[FeatureSpec, ...] = (
    _spec("down_prob", "p_down", 0.0, 1.0),
    _spec(
        "quiet_prob",
        "p_quiet",
        0.0,
        1.0,
        note="of all regime features: a gap is one observation, of 5 standard deviations at most, and makes the 49 "
        "returns after it look small; in a flat market every observation is 0, which speaks for the quiet regime",
    ),
    _spec("up_prob", "p_up", 0.0, 1.0),
    _spec("down_change_5", "p_down - p_down[5]", -1.0, 1.0, more_bars=CHANGE_BARS),
    _spec("quiet_change_5", "p_quiet - p_quiet[5]", -1.0, 1.0, more_bars=CHANGE_BARS),
    _spec("up_change_5", "p_up - p_up[5]", -1.0, 1.0, more_bars=CHANGE_BARS),
    _spec("entropy", "-sum_i p_i ln p_i / ln 3", 0.0, 1.0),
    _spec("confidence", "largest p_i - second largest p_i", 0.0, 1.0),
    _spec(
        "age",
        "number of consecutive last observations after which the most likely regime (the first of down, "
        "quiet, up on ties) was the one of now / 60",
        0.0,
        1.0,
    ),
    _spec(
        "switches", "number of changes of the most likely regime within the 60 observations / 59", 0.0, 1.0
    ),
    _spec("expected_return", "m = sum_i q_i MEANS_i, in standard deviations", -1.0, 1.0),
    _spec(
        "expected_volatility",
        "sqrt(sum_i q_i (SPREADS_i^2 + MEANS_i^2) - m^2), in standard deviations",
        0.0,
        2.0,
    ),
)


@dataclass(frozen=True, eq=False)
class FilterState:
    """The filter after each bar's last observation, axis [bar]; NaN where there is too little history.

    Attributes:
        probabilities: of each of REGIMES.
        age: consecutive last observations with the same most likely regime.
        switches: changes of the most likely regime within the window.
    """

    probabilities: tuple[Float, Float, Float]
    age: Float
    switches: Float


def markov_features(bars: BarArrays) -> Float:
    """The features of SPECS: [bar, feature]."""
    state = filter_regimes(standardised_returns(bars.close))
    p = state.probabilities
    q = [_SWITCH + (STAY - _SWITCH) * p_i for p_i in p]
    smallest = np.minimum(np.minimum(p[0], p[1]), p[2])
    largest = np.maximum(np.maximum(p[0], p[1]), p[2])
    middle = p[0] + p[1] + p[2] - largest - smallest
    # Kept away from 0, whose logarithm is infinite; p ln p is below 1e-297 there.
    entropy = -sum((p_i * np.log(np.maximum(p_i, 1e-300)) for p_i in p), start=np.zeros(len(bars)))
    mean = q[0] * MEANS[0] + q[1] * MEANS[1] + q[2] * MEANS[2]
    second_moment = sum(
        (q_i * (s * s + m * m) for q_i, s, m in zip(q, SPREADS, MEANS, strict=True)),
        start=np.zeros(len(bars)),
    )
    columns = {f"regime_{name}_prob": p_i for name, p_i in zip(REGIMES, p, strict=True)}
    columns |= {
        f"regime_{name}_change_{CHANGE_BARS}": p_i - lag(p_i, CHANGE_BARS)
        for name, p_i in zip(REGIMES, p, strict=True)
    }
    columns |= {
        "regime_entropy": entropy / math.log(len(REGIMES)),
        "regime_confidence": largest - middle,
        "regime_age": state.age / FILTER_BARS,
        "regime_switches": state.switches / (FILTER_BARS - 1),
        "regime_expected_return": mean,
        "regime_expected_volatility": np.sqrt(second_moment - mean * mean),
    }
    return assemble(SPECS, columns)


def standardised_returns(close: Float) -> Float:
    """The observations, [bar]: log returns over the root of their mean square of 50 bars, clipped."""
    log_return = np.log(close / lag(close, 1))
    scale = np.sqrt(window_mean(log_return * log_return, STANDARDISING_BARS))
    z = np.clip(ratio(log_return, scale, FLAT), -_MAX_ABS_OBSERVATION, _MAX_ABS_OBSERVATION)
    z[:STANDARDISING_BARS] = np.nan
    return z


def filter_regimes(observations: Float) -> FilterState:
    """The filter over the last FILTER_BARS observations of every bar.

    All bars step through their windows together: step j takes the j-th observation of each window.
    """
    n_bars, first = len(observations), FILTER_BARS - 1
    rows = max(n_bars - first, 0)
    likelihoods = [
        np.exp(-0.5 * ((observations - mean) / spread) ** 2) / spread
        for mean, spread in zip(MEANS, SPREADS, strict=True)
    ]
    p = [np.full(rows, 1.0 / 3.0) for _ in REGIMES]
    most_likely = np.full(rows, -1)
    age, switches = np.zeros(rows), np.zeros(rows)
    for j in range(FILTER_BARS):
        joint = [(_SWITCH + (STAY - _SWITCH) * p[i]) * likelihoods[i][j : j + rows] for i in range(3)]
        total = joint[0] + joint[1] + joint[2]
        p = [joint_i / total for joint_i in joint]
        now = np.where(p[1] > p[0], 1, 0)
        now = np.where(p[2] > np.maximum(p[0], p[1]), 2, now)
        same = now == most_likely
        age = np.where(same, age + 1.0, 1.0)
        if j > 0:
            switches += ~same
        most_likely = now
    return FilterState(
        probabilities=(_padded(p[0], n_bars), _padded(p[1], n_bars), _padded(p[2], n_bars)),
        age=_padded(age, n_bars),
        switches=_padded(switches, n_bars),
    )


def _padded(values: Float, n_bars: int) -> Float:
    out = np.full(n_bars, np.nan)
    if len(values):
        out[n_bars - len(values) :] = values
    return out
