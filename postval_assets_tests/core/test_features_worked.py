"""A worked example of every reference feature: a quiet market and three bars, and the arithmetic done by hand.

160 bars of an hour: O = C = 100, H = 101, L = 99, V = 1000; only the low of bar t-60 is 90. Then, 3 hours apart,

    bar    O    H    L    C     V    TP      TR
    t-2   100  105   99  104  2000  308/3    6
    t-1   103  104   97   98  3000  299/3    7
    t      99  107   98  105  1500  310/3    9

So nearly every window is "so many times 100, and three values", and the sums below have three terms.
test_features_golden.py
compares with loops over random bars; here a person can follow each number.
"""

import math
from itertools import accumulate, repeat

import pandas as pd
import pytest

from postval_assets.core.features.reference import REFERENCE_SPECS, reference_features

ln, sqrt = math.log, math.sqrt
N_QUIET = 160
LAST_OPEN = pd.Timestamp("2024-03-05 14:30", tz="UTC")  # a Tuesday


def worked_frame() -> pd.DataFrame:
    rows = [(100.0, 101.0, 99.0, 100.0, 1000.0)] * N_QUIET
    rows += [(100, 105, 99, 104, 2000), (103, 104, 97, 98, 3000), (99, 107, 98, 105, 1500)]
    frame = pd.DataFrame(rows, columns=["open", "high", "low", "close", "volume"], dtype="float64")
    frame.loc[len(frame) - 1 - 60, "low"] = 90.0
    hours = [*range(-9 - N_QUIET + 1, -8), -6, -3, 0]
    frame.insert(0, "ts", [LAST_OPEN + pd.Timedelta(hours=h) for h in hours])
    return frame


def ema(n: int, *values: float) -> float:
    """Exponential average of 4n bars, newest first, where all older ones are 0: the weights are geometric."""
    a = 1 - 2 / (n + 1)
    return sum(v * a**k for k, v in enumerate(values)) * (1 - a) / (1 - a ** (4 * n))


def wilder(n: int, *values: float) -> float:
    """The same with weights (1 - 1/n)^k."""
    q = 1 - 1 / n
    return sum(v * q**k for k, v in enumerate(values)) * (1 - q) / (1 - q ** (4 * n))


q = 13 / 14
# Closes from 100: +5, -2, +4. The MACD line of the last three bars; before, it is 0.
M0 = (ema(12, 5, -2, 4) - ema(26, 5, -2, 4)) / 105
M1 = (ema(12, -2, 4) - ema(26, -2, 4)) / 98
M2 = (ema(12, 4) - ema(26, 4)) / 104

# Log returns of the last three bars.
R0, R1, R2 = ln(105 / 98), ln(98 / 104), ln(104 / 100)


def returns_sd(n: int) -> float:
    return sqrt((R0**2 + R1**2 + R2**2) / n - (ln(105 / 100) / n) ** 2)


# Regimes. While nothing moves z = 0: down and up are alike with density A, and quiet has B, so one number a, the
# probability of each of the two, says all. It starts from 1/3.
A, B = math.exp(-((0.4 / 1.2) ** 2) / 2) / 1.2, 1 / 0.6


def quietly(a: float, _: int) -> float:
    ahead = 0.03 + 0.91 * a
    return ahead * A / (2 * ahead * A + (1 - 2 * ahead) * B)


AFTER = list(accumulate(repeat(0, 60), quietly, initial=1 / 3))


def bayes(p: tuple[float, ...], z: float) -> tuple[float, ...]:
    joint = [
        (0.03 + 0.91 * p_i) * math.exp(-(((z - mean) / sd) ** 2) / 2) / sd
        for p_i, mean, sd in zip(p, (-0.4, 0.0, 0.4), (1.2, 0.6, 1.2), strict=True)
    ]
    return tuple(j / sum(joint) for j in joint)


# Of the 60 observations 57 are quiet. The first move is sqrt(50) of its own root mean square, clipped to 5; the second
# is -5.9 and clipped, too; the third is 4.92.
_BEFORE = (AFTER[57], 1 - 2 * AFTER[57], AFTER[57])
DOWN, QUIET, UP = bayes(bayes(bayes(_BEFORE, 5), -5), R0 / sqrt((R0**2 + R1**2 + R2**2) / 50))
Q_DOWN, Q_QUIET, Q_UP = (0.03 + 0.91 * p for p in (DOWN, QUIET, UP))
M = 0.4 * (Q_UP - Q_DOWN)

# Directional movement: up 4, down 2, up 3; and 60 bars ago down 9, which only bars from t-5 back reach with 56 bars.
BALANCE_0 = (3 - 2 * q + 4 * q**2) / (3 + 2 * q + 4 * q**2)
BALANCE_1 = (-2 + 4 * q) / (2 + 4 * q)
BALANCE_2 = 1.0
FROM_5_TO_55 = (q**5 - q**56) / (1 - q**56)

VOLUME_20 = 17 * 1000 + 2000 + 3000 + 1500
VWAP = (17 * 1000 * 100 + 2000 * 308 / 3 + 3000 * 299 / 3 + 1500 * 310 / 3) / VOLUME_20

WORKED = {
    "log_return": ln(105 / 98),
    "open_gap": ln(99 / 98),
    "bar_body": ln(105 / 99),
    "bar_range": ln(107 / 98),
    "upper_shadow": ln(107 / 105),
    "lower_shadow": ln(99 / 98),
    "relative_volume_20": ln(1 + 1500 / 1175) - ln(2),
    # Up 7 now, down 6 before, up 4 before that.
    "rsi_14": (7 - 6 * q + 4 * q**2) / (7 + 6 * q + 4 * q**2),
    "macd_histogram": M0 - ema(9, M0, M1, M2),
    # mean 100.35, mean square deviation 45/20 - 0.35^2
    "bollinger_position_20": (105 - 100.35) / (2 * sqrt(2.1275)),
    "atr_14": (2 + wilder(14, 7, 5, 4)) / 105,
    "time_of_day_sin": math.sin(2 * math.pi * 870 / 1440),
    "time_of_day_cos": math.cos(2 * math.pi * 870 / 1440),
    "weekday_sin": math.sin(2 * math.pi / 7),
    "weekday_cos": math.cos(2 * math.pi / 7),
    "season_sin": math.sin(2 * math.pi * (31 + 29 + 4) / 365.25),
    "season_cos": math.cos(2 * math.pi * (31 + 29 + 4) / 365.25),
    "bar_gap": ln(1 + 3),
    "regime_down_prob": DOWN,
    "regime_quiet_prob": QUIET,
    "regime_up_prob": UP,
    # Five bars ago all 60 observations were quiet.
    "regime_down_change_5": DOWN - AFTER[60],
    "regime_quiet_change_5": QUIET - (1 - 2 * AFTER[60]),
    "regime_up_change_5": UP - AFTER[60],
    "regime_entropy": -(DOWN * ln(DOWN) + QUIET * ln(QUIET) + UP * ln(UP)) / ln(3),
    "regime_confidence": UP - DOWN,
    # 57 times quiet, then up, down, up.
    "regime_age": 1 / 60,
    "regime_switches": 3 / 59,
    "regime_expected_return": M,
    "regime_expected_volatility": sqrt((Q_DOWN + Q_UP) * (1.44 + 0.16) + Q_QUIET * 0.36 - M**2),
    "stochastic_k_14": 2 * (105 - 97) / (107 - 97) - 1,
    "stochastic_d_14_3": (0.6 + (2 * (98 - 97) / (105 - 97) - 1) + (2 * (104 - 99) / (105 - 99) - 1)) / 3,
    # mean 100 + 17/60; deviations in sixtieths: 17 of 17, then 143, 37 and 183
    "cci_20": (183 / 60) / (1.5 * (17 * 17 + 143 + 37 + 183) / 60 / 20),
    "adx_14": wilder(14, BALANCE_0, BALANCE_1, BALANCE_2) + FROM_5_TO_55,
    "directional_balance_14": BALANCE_0,
    # thousands of price times volume, times 3: +616, -897, +465
    "money_flow_14": (616 - 897 + 465) / (616 + 897 + 465),
    "volume_balance_20": (2000 - 3000 + 1500) / VOLUME_20,
    "chaikin_money_flow_20": (2000 * 4 / 6 - 3000 * 5 / 7 + 1500 * 5 / 9) / VOLUME_20,
    "vwap_distance_20": ln(105 / VWAP),
    "rate_of_change_10": ln(105 / 100),
    # The low was a bar ago, the high is now.
    "aroon_25": (1 - 0) / 25,
    "keltner_position_20": (5 - ema(20, 5, -2, 4)) / (2 * (2 + wilder(10, 7, 5, 4))),
    "parkinson_volatility_20": sqrt(
        (17 * ln(101 / 99) ** 2 + ln(105 / 99) ** 2 + ln(104 / 97) ** 2 + ln(107 / 98) ** 2)
        / 20
        / (4 * ln(2))
    ),
    "choppiness_14": ln((11 * 2 + 6 + 7 + 9) / (107 - 97)) / ln(14),
    "sma_distance_20": ln(105 / (100 + 7 / 20)),
    "sma_distance_50": ln(105 / (100 + 7 / 50)),
    "sma_distance_100": ln(105 / (100 + 7 / 100)),
    "volatility_20": returns_sd(20),
    "volatility_50": returns_sd(50),
    "volatility_100": returns_sd(100),
    "range_position_20": 2 * (105 - 97) / (107 - 97) - 1,
    "range_position_50": 2 * (105 - 97) / (107 - 97) - 1,
    # Reaches the low of 60 bars ago.
    "range_position_100": 2 * (105 - 90) / (107 - 90) - 1,
}

VALUES = reference_features(worked_frame())[-1]


def test_every_feature_is_worked() -> None:
    assert list(WORKED) == [spec.name for spec in REFERENCE_SPECS]


@pytest.mark.parametrize("number", range(len(REFERENCE_SPECS)), ids=lambda i: REFERENCE_SPECS[i].name)
def test_feature_is_what_the_hand_makes_it(number: int) -> None:
    spec = REFERENCE_SPECS[number]
    expected = WORKED[spec.name]
    assert spec.minimum < expected < spec.maximum, "a clipped value would say nothing"
    assert VALUES[number] == pytest.approx(expected, rel=1e-9, abs=1e-12)
