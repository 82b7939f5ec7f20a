"""Arithmetic over trailing windows whose result does not depend on what lies outside the window.

Here: sums, averages, spreads and extremes over the bars t-n+1 .. t, for every t at once, axis [bar]. Not
here: features. Rows with fewer than n bars are NaN, and a NaN within a window makes its result NaN.

Every window is accumulated from its newest bar to its oldest in one fixed order, one elementwise operation
over the whole series for each of its n places. Cumulative sums, convolutions and library rolling means would
carry rounding over from bars before the window (and pairwise summation from the position in memory), so that
the same bars gave other last bits with a longer history; here the value is the same to the bit.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

from postval_assets.core.features.spec import Float


def lag(x: Float, n: int) -> Float:
    """The value n bars earlier."""
    out = np.full(len(x), np.nan)
    if n < len(x):
        out[n:] = x[: len(x) - n]
    return out


def _windowed(x: Float, n: int, accumulate: Callable[[Float, int, Float], None]) -> Float:
    """Calls accumulate(total, k, x of k bars ago) for k = 0 .. n-1 over all bars that have a whole window."""
    out = np.full(len(x), np.nan)
    rows = len(x) - n + 1
    if rows > 0:
        total = np.zeros(rows)
        for k in range(n):
            start = n - 1 - k
            accumulate(total, k, x[start : start + rows])
        out[n - 1 :] = total
    return out


def window_sum(x: Float, n: int) -> Float:
    """Sum over the last n bars."""

    def add(total: Float, _: int, past: Float) -> None:
        total += past

    return _windowed(x, n, add)


def window_mean(x: Float, n: int) -> Float:
    """Mean over the last n bars."""
    return window_sum(x, n) / n


def window_max(x: Float, n: int) -> Float:
    """Largest of the last n bars."""

    def keep(total: Float, k: int, past: Float) -> None:
        np.maximum(past if k == 0 else total, past, out=total)

    return _windowed(x, n, keep)


def window_min(x: Float, n: int) -> Float:
    """Smallest of the last n bars."""
    return -window_max(-x, n)


def bars_since_max(x: Float, n: int) -> Float:
    """How many bars ago the largest of the last n was, 0 .. n-1; the most recent one on ties."""
    highest = window_max(x, n)[n - 1 :]

    def note(total: Float, k: int, past: Float) -> None:
        # Only the first hit counts, because the loop runs from the newest bar to the oldest.
        total[(past == highest) & (total == 0.0)] = k + 1.0

    return _windowed(x, n, note) - 1.0


def window_sd(x: Float, n: int) -> Float:
    """Population standard deviation over the last n bars, in two passes."""
    mean = window_mean(x, n)[n - 1 :]

    def add(total: Float, _: int, past: Float) -> None:
        deviation = past - mean
        total += deviation * deviation

    return np.sqrt(_windowed(x, n, add) / n)


def weighted_mean(x: Float, weights: Sequence[float]) -> Float:
    """Sum of weights[k] * x of k bars ago."""

    def add(total: Float, k: int, past: Float) -> None:
        total += weights[k] * past

    return _windowed(x, len(weights), add)


def relative_mean(x: Float, weights: Sequence[float]) -> Float:
    """Weighted mean of the window relative to its last value: sum of weights[k] * (x[k] / x - 1).

    Exactly 0 for a flat window, which the difference of an average and the price is not.
    """
    n = len(weights)
    last = x[n - 1 :]

    def add(total: Float, k: int, past: Float) -> None:
        total += weights[k] * (past / last - 1.0)

    return _windowed(x, n, add)


def relative_sd(x: Float, n: int) -> Float:
    """Population standard deviation of the window relative to its last value: that of x[k] / x - 1."""
    last, mean = x[n - 1 :], relative_mean(x, equal_weights(n))[n - 1 :]

    def add(total: Float, _: int, past: Float) -> None:
        deviation = past / last - 1.0 - mean
        total += deviation * deviation

    return np.sqrt(_windowed(x, n, add) / n)


def relative_mean_deviation(x: Float, n: int) -> Float:
    """Mean absolute deviation from the mean of the window, relative to its last value."""
    last, mean = x[n - 1 :], relative_mean(x, equal_weights(n))[n - 1 :]

    def add(total: Float, _: int, past: Float) -> None:
        total += np.abs(past / last - 1.0 - mean)

    return _windowed(x, n, add) / n


def equal_weights(n: int) -> tuple[float, ...]:
    """Weights of a simple mean."""
    return (1.0 / n,) * n


def ema_weights(n: int) -> tuple[float, ...]:
    """Weights of an exponential average of span n over 4n bars, newest first, sum 1; it cuts off e^-8."""
    return _decaying(1.0 - 2.0 / (n + 1.0), 4 * n)


def wilder_weights(n: int) -> tuple[float, ...]:
    """Weights of Wilder's average of n over 4n bars, newest first, sum 1; it cuts off e^-4."""
    return _decaying(1.0 - 1.0 / n, 4 * n)


def _decaying(decay: float, n: int) -> tuple[float, ...]:
    weights = [decay**k for k in range(n)]
    total = sum(weights)
    return tuple(w / total for w in weights)


def ratio(numerator: Float, denominator: Float, floor: float = 0.0) -> Float:
    """The quotient, and 0 where the denominator is not above the floor (or unknown: NaN)."""
    return np.divide(numerator, denominator, out=np.zeros(len(denominator)), where=denominator > floor)


def true_range(high: Float, low: Float, close: Float) -> Float:
    """Range of a bar including the gap from the close before it: max(H, C[1]) - min(L, C[1])."""
    before = lag(close, 1)
    return np.maximum(high, before) - np.minimum(low, before)
