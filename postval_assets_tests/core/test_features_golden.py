"""Every reference feature against its formula, written out bar by bar in plain Python.

Nothing here is taken from the implementation: a loop over lists per formula, from the notation in
``postval_assets.core.features.spec``.
"""

import math
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.features.reference import REFERENCE_SPECS, REFERENCE_VERSION, reference_features

N_BARS = 190
NAMES = [spec.name for spec in REFERENCE_SPECS]


def random_frame(seed: int, *, quiet: bool = False) -> pd.DataFrame:
    """Bars with gaps in time and price, some without volume; quiet ones often do not move at all."""
    rng = np.random.default_rng(seed)
    price, when, rows = 37.0, datetime(2024, 2, 26, 4, 30, tzinfo=UTC), []
    for _ in range(N_BARS):
        when += timedelta(hours=int(rng.choice([1, 1, 1, 1, 2, 17, 65])))
        still = quiet and rng.random() < 0.6
        start = price if still else price * math.exp(rng.normal(0, 0.004))
        end = start if still else start * math.exp(rng.normal(0, 0.012))
        high = max(start, end) * (1.0 if still else 1 + abs(rng.normal(0, 0.004)))
        low = min(start, end) * (1.0 if still else 1 - abs(rng.normal(0, 0.004)))
        volume = 0.0 if rng.random() < (0.5 if quiet else 0.1) else float(rng.lognormal(6, 1))
        rows.append((pd.Timestamp(when), start, high, low, end, volume))
        price = end
    return pd.DataFrame(rows, columns=["ts", "open", "high", "low", "close", "volume"])


class Series:
    """The columns as lists, and the notation's words as functions of (values of a bar, t)."""

    def __init__(self, frame: pd.DataFrame) -> None:
        self.ts = [t.to_pydatetime() for t in frame["ts"]]
        self.O, self.H, self.L, self.C, self.V = (
            [float(x) for x in frame[c]] for c in ("open", "high", "low", "close", "volume")
        )

    def typical(self, t: int) -> float:
        return (self.H[t] + self.L[t] + self.C[t]) / 3

    def true_range(self, t: int) -> float:
        return max(self.H[t], self.C[t - 1]) - min(self.L[t], self.C[t - 1])

    def log_return(self, t: int) -> float:
        return math.log(self.C[t] / self.C[t - 1])


def over(t: int, n: int) -> range:
    return range(t - n + 1, t + 1)


def mean(values: Iterable[float]) -> float:
    values = list(values)
    return math.fsum(values) / len(values)


def sd(values: Iterable[float]) -> float:
    values = list(values)
    middle = mean(values)
    return math.sqrt(mean((v - middle) ** 2 for v in values))


def decaying(value: Callable[[int], float], t: int, n_bars: int, decay: float) -> float:
    weights = [decay**k for k in range(n_bars)]
    return math.fsum(w * value(t - k) for k, w in enumerate(weights)) / math.fsum(weights)


def ema(value: Callable[[int], float], t: int, n: int) -> float:
    return decaying(value, t, 4 * n, 1 - 2 / (n + 1))


def wilder(value: Callable[[int], float], t: int, n: int) -> float:
    return decaying(value, t, 4 * n, 1 - 1 / n)


def quotient(a: float, b: float, floor: float = 0.0) -> float:
    return a / b if b > floor else 0.0


def sign(x: float) -> int:
    return (x > 0) - (x < 0)


def relative_volume(s: Series, t: int) -> float:
    average = mean(s.V[i] for i in over(t, 20))
    return math.log(1 + s.V[t] / average) - math.log(2) if average > 0 else 0.0


def rsi(s: Series, t: int) -> float:
    up = wilder(lambda i: max(s.C[i] - s.C[i - 1], 0), t, 14)
    down = wilder(lambda i: max(s.C[i - 1] - s.C[i], 0), t, 14)
    return quotient(up - down, up + down)


def macd(s: Series, t: int) -> float:
    return (ema(s.C.__getitem__, t, 12) - ema(s.C.__getitem__, t, 26)) / s.C[t]


def bollinger(s: Series, t: int) -> float:
    closes = [s.C[i] for i in over(t, 20)]
    return (s.C[t] - mean(closes)) / (2 * sd(closes)) if sd(closes) > 1e-9 * s.C[t] else 0.0


def angle(s: Series, t: int, what: str) -> float:
    day = s.ts[t]
    part = {
        "time_of_day": (day.hour * 60 + day.minute) / 1440,
        "weekday": day.weekday() / 7,
        "season": (day.timetuple().tm_yday - 1) / 365.25,
    }[what]
    return 2 * math.pi * part


def observation(s: Series, t: int) -> float:
    scale = math.sqrt(mean(s.log_return(i) ** 2 for i in over(t, 50)))
    return min(max(quotient(s.log_return(t), scale, 1e-9), -5), 5)


def regimes(s: Series, t: int) -> tuple[list[float], list[int]]:
    """Probabilities after the last of 60 observations, and the most likely regime after each."""
    means, spreads = (-0.4, 0.0, 0.4), (1.2, 0.6, 1.2)
    p, path = [1 / 3, 1 / 3, 1 / 3], []
    for i in over(t, 60):
        z = observation(s, i)
        p = [sum(p[j] * (0.94 if j == k else 0.03) for j in range(3)) for k in range(3)]
        density = [math.exp(-((z - m) ** 2) / (2 * d * d)) / d for m, d in zip(means, spreads, strict=True)]
        p = [a * b for a, b in zip(p, density, strict=True)]
        p = [a / sum(p) for a in p]
        path.append(p.index(max(p)))
    return p, path


def next_regimes(s: Series, t: int) -> list[float]:
    p, _ = regimes(s, t)
    return [sum(p[j] * (0.94 if j == k else 0.03) for j in range(3)) for k in range(3)]


def change(s: Series, t: int, regime: int) -> float:
    return regimes(s, t)[0][regime] - regimes(s, t - 5)[0][regime]


def entropy(s: Series, t: int) -> float:
    return -sum(p * math.log(p) for p in regimes(s, t)[0]) / math.log(3)


def confidence(s: Series, t: int) -> float:
    p = sorted(regimes(s, t)[0])
    return p[2] - p[1]


def age(s: Series, t: int) -> float:
    _, path = regimes(s, t)
    n = 1
    while n < 60 and path[-n - 1] == path[-1]:
        n += 1
    return n / 60


def switches(s: Series, t: int) -> float:
    _, path = regimes(s, t)
    return sum(a != b for a, b in pairwise(path)) / 59


def expected_return(s: Series, t: int) -> float:
    q = next_regimes(s, t)
    return 0.4 * (q[2] - q[0])


def expected_volatility(s: Series, t: int) -> float:
    q = next_regimes(s, t)
    second = (q[0] + q[2]) * (1.2**2 + 0.4**2) + q[1] * 0.6**2
    return math.sqrt(second - expected_return(s, t) ** 2)


def place(s: Series, t: int, n: int) -> float:
    low, high = min(s.L[i] for i in over(t, n)), max(s.H[i] for i in over(t, n))
    return 2 * (s.C[t] - low) / (high - low) - 1 if high > low else 0.0


def cci(s: Series, t: int) -> float:
    values = [s.typical(i) for i in over(t, 20)]
    deviation = mean(abs(v - mean(values)) for v in values)
    return (s.typical(t) - mean(values)) / (1.5 * deviation) if deviation > 1e-9 * s.typical(t) else 0.0


def balance(s: Series, t: int) -> float:
    def plus(i: int) -> float:
        rise, fall = s.H[i] - s.H[i - 1], s.L[i - 1] - s.L[i]
        return rise if rise > fall and rise > 0 else 0.0

    def minus(i: int) -> float:
        rise, fall = s.H[i] - s.H[i - 1], s.L[i - 1] - s.L[i]
        return fall if fall > rise and fall > 0 else 0.0

    p, m = wilder(plus, t, 14), wilder(minus, t, 14)
    return quotient(p - m, p + m)


def money_flow(s: Series, t: int) -> float:
    up = sum(s.typical(i) * s.V[i] for i in over(t, 14) if s.typical(i) > s.typical(i - 1))
    down = sum(s.typical(i) * s.V[i] for i in over(t, 14) if s.typical(i) < s.typical(i - 1))
    return quotient(up - down, up + down)


def traded(s: Series, t: int, per_volume: Callable[[int], float]) -> float:
    return quotient(sum(per_volume(i) * s.V[i] for i in over(t, 20)), sum(s.V[i] for i in over(t, 20)))


def close_place(s: Series, i: int) -> float:
    return quotient(2 * s.C[i] - s.H[i] - s.L[i], s.H[i] - s.L[i])


def vwap_distance(s: Series, t: int) -> float:
    vwap = traded(s, t, s.typical)
    return math.log(s.C[t] / vwap) if vwap > 0 else 0.0


def aroon(s: Series, t: int) -> float:
    since_low = min(k for k in range(26) if s.L[t - k] == min(s.L[i] for i in over(t, 26)))
    since_high = min(k for k in range(26) if s.H[t - k] == max(s.H[i] for i in over(t, 26)))
    return (since_low - since_high) / 25


def keltner(s: Series, t: int) -> float:
    width = 2 * wilder(s.true_range, t, 10)
    return (s.C[t] - ema(s.C.__getitem__, t, 20)) / width if width > 1e-9 * s.C[t] else 0.0


def choppiness(s: Series, t: int) -> float:
    spread = max(s.H[i] for i in over(t, 14)) - min(s.L[i] for i in over(t, 14))
    return math.log(sum(s.true_range(i) for i in over(t, 14)) / spread) / math.log(14) if spread > 0 else 0.0


FORMULAS: dict[str, Callable[[Series, int], float]] = {
    "log_return": lambda s, t: math.log(s.C[t] / s.C[t - 1]),
    "open_gap": lambda s, t: math.log(s.O[t] / s.C[t - 1]),
    "bar_body": lambda s, t: math.log(s.C[t] / s.O[t]),
    "bar_range": lambda s, t: math.log(s.H[t] / s.L[t]),
    "upper_shadow": lambda s, t: math.log(s.H[t] / max(s.O[t], s.C[t])),
    "lower_shadow": lambda s, t: math.log(min(s.O[t], s.C[t]) / s.L[t]),
    "relative_volume_20": relative_volume,
    "rsi_14": rsi,
    "macd_histogram": lambda s, t: macd(s, t) - ema(lambda i: macd(s, i), t, 9),
    "bollinger_position_20": bollinger,
    "atr_14": lambda s, t: wilder(s.true_range, t, 14) / s.C[t],
    "time_of_day_sin": lambda s, t: math.sin(angle(s, t, "time_of_day")),
    "time_of_day_cos": lambda s, t: math.cos(angle(s, t, "time_of_day")),
    "weekday_sin": lambda s, t: math.sin(angle(s, t, "weekday")),
    "weekday_cos": lambda s, t: math.cos(angle(s, t, "weekday")),
    "season_sin": lambda s, t: math.sin(angle(s, t, "season")),
    "season_cos": lambda s, t: math.cos(angle(s, t, "season")),
    "bar_gap": lambda s, t: math.log(1 + (s.ts[t] - s.ts[t - 1]).total_seconds() / 3600),
    "regime_down_prob": lambda s, t: regimes(s, t)[0][0],
    "regime_quiet_prob": lambda s, t: regimes(s, t)[0][1],
    "regime_up_prob": lambda s, t: regimes(s, t)[0][2],
    "regime_down_change_5": lambda s, t: change(s, t, 0),
    "regime_quiet_change_5": lambda s, t: change(s, t, 1),
    "regime_up_change_5": lambda s, t: change(s, t, 2),
    "regime_entropy": entropy,
    "regime_confidence": confidence,
    "regime_age": age,
    "regime_switches": switches,
    "regime_expected_return": expected_return,
    "regime_expected_volatility": expected_volatility,
    "stochastic_k_14": lambda s, t: place(s, t, 14),
    "stochastic_d_14_3": lambda s, t: mean(place(s, i, 14) for i in over(t, 3)),
    "cci_20": cci,
    "adx_14": lambda s, t: wilder(lambda i: abs(balance(s, i)), t, 14),
    "directional_balance_14": balance,
    "money_flow_14": money_flow,
    "volume_balance_20": lambda s, t: traded(s, t, lambda i: sign(s.C[i] - s.C[i - 1])),
    "chaikin_money_flow_20": lambda s, t: traded(s, t, lambda i: close_place(s, i)),
    "vwap_distance_20": vwap_distance,
    "rate_of_change_10": lambda s, t: math.log(s.C[t] / s.C[t - 10]),
    "aroon_25": aroon,
    "keltner_position_20": keltner,
    "parkinson_volatility_20": lambda s, t: math.sqrt(
        mean(math.log(s.H[i] / s.L[i]) ** 2 for i in over(t, 20)) / (4 * math.log(2))
    ),
    "choppiness_14": choppiness,
    **{
        f"sma_distance_{n}": lambda s, t, n=n: math.log(s.C[t] / mean(s.C[i] for i in over(t, n)))
        for n in (20, 50, 100)
    },
    **{f"volatility_{n}": lambda s, t, n=n: sd(s.log_return(i) for i in over(t, n)) for n in (20, 50, 100)},
    **{f"range_position_{n}": lambda s, t, n=n: place(s, t, n) for n in (20, 50, 100)},
}

FRAMES = {
    "moving": random_frame(7),
    "quiet": random_frame(8, quiet=True),
    "flat": random_frame(9).assign(open=37.3, high=37.3, low=37.3, close=37.3, volume=0.0),
}
VALUES = {name: reference_features(frame) for name, frame in FRAMES.items()}


def test_formulas_here_are_those_of_the_reference_set() -> None:
    assert set(FORMULAS) == set(NAMES)


@pytest.mark.parametrize("kind", FRAMES)
@pytest.mark.parametrize("name", NAMES)
def test_feature_is_its_formula(name: str, kind: str) -> None:
    series, column = Series(FRAMES[kind]), VALUES[kind][:, NAMES.index(name)]
    spec = REFERENCE_SPECS[NAMES.index(name)]
    for t in (*range(150, 160), N_BARS - 1):
        expected = min(max(FORMULAS[name](series, t), spec.minimum), spec.maximum)
        assert column[t] == pytest.approx(expected, rel=1e-9, abs=1e-11), f"bar {t}"


def test_golden_series_exercise_every_feature() -> None:
    """A feature that is constant or always at its limit would make the comparison above say nothing."""
    moving = VALUES["moving"][150:160]
    assert [n for i, n in enumerate(NAMES) if len(np.unique(moving[:, i])) < 2] == []
    beyond = [
        spec.name
        for i, spec in enumerate(REFERENCE_SPECS)
        if np.isin(moving[:, i], (spec.minimum, spec.maximum)).all()
    ]
    assert beyond == []


PINNED = {
    "log_return": -0.0029529487,
    "open_gap": -0.0054660973,
    "bar_body": 0.0025131486,
    "bar_range": 0.0061093811,
    "upper_shadow": 0.0021199872,
    "lower_shadow": 0.0014762453,
    "relative_volume_20": -0.40435308,
    "rsi_14": -0.33016601,
    "macd_histogram": -0.0022697342,
    "bollinger_position_20": -0.64864529,
    "atr_14": 0.016492511,
    "time_of_day_sin": 0.38268343,
    "time_of_day_cos": -0.92387953,
    "weekday_sin": 0.43388374,
    "weekday_cos": -0.90096887,
    "season_sin": 0.0794773,
    "season_cos": -0.99683668,
    "bar_gap": 2.8903718,
    "regime_down_prob": 0.67948893,
    "regime_quiet_prob": 0.14707176,
    "regime_up_prob": 0.17343932,
    "regime_down_change_5": -0.097776767,
    "regime_quiet_change_5": 0.046281823,
    "regime_up_change_5": 0.051494944,
    "regime_entropy": 0.7721829,
    "regime_confidence": 0.50604961,
    "regime_age": 0.25,
    "regime_switches": 0.25423729,
    "regime_expected_return": -0.18420206,
    "regime_expected_volatility": 1.167439,
    "stochastic_k_14": -0.65660355,
    "stochastic_d_14_3": -0.74170863,
    "cci_20": -1.1038006,
    "adx_14": 0.38334268,
    "directional_balance_14": -0.42131924,
    "money_flow_14": -0.010630134,
    "volume_balance_20": -0.72611478,
    "chaikin_money_flow_20": -0.46395181,
    "vwap_distance_20": -0.047843265,
    "rate_of_change_10": -0.034377598,
    "aroon_25": -0.52,
    "keltner_position_20": -1.182654,
    "parkinson_volatility_20": 0.0092235666,
    "choppiness_14": 0.28241984,
    "sma_distance_20": -0.039990877,
    "sma_distance_50": -0.10059252,
    "sma_distance_100": -0.15167951,
    "volatility_20": 0.013643425,
    "volatility_50": 0.013281709,
    "volatility_100": 0.011593672,
    "range_position_20": -0.67313625,
    "range_position_50": -0.85595022,
    "range_position_100": -0.87838472,
}


def test_values_of_this_version_have_not_moved() -> None:
    """Results carry the set's version: values that change without it would be taken for current ones."""
    assert REFERENCE_VERSION == "1", "pin the new version's values here"
    row = np.float32(VALUES["moving"][-1])
    assert dict(zip(NAMES, row.tolist(), strict=True)) == pytest.approx(PINNED, rel=1e-5, abs=1e-7)
