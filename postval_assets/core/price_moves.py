"""Moves of a price from bar to bar, measured by the volatility of their time.

Here: steps from close to close, standardised, and steps that the next one takes back. Not here: which of them is too
large (bar_quality.py).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from postval_assets.core.bars import Bars, Float, Timestamps
from postval_assets.core.sessions import Flags

# Steps before a step that say what is usual: ten days of crypto, seven weeks of a stock's regular hours.
TRAILING_STEPS = 240
# Steps over a break (a night, a weekend, a gap) are compared with each other where there are this many.
TRAILING_BREAKS = 60
MIN_STEPS = 20
# Mean of |x| to standard deviation, for normal x: a single outlier moves it less than a root mean square.
MEAN_ABS_TO_SD = float(np.sqrt(np.pi / 2.0))
# A spike: so many standard deviations out, and back to within this share of the way by the next bar's close.
SPIKE_SD = 15.0
SPIKE_LEFT_OVER = 0.25
_LARGEST = 700.0  # of an exponent


@dataclass(frozen=True, eq=False)
class PriceSteps:
    """Steps from one close to the next, axis [step]; steps from or to a price that is no price are left out.

    Attributes:
        ts: open of the later bar.
        log_return: ln(close / close before).
        standardised: the same over the standard deviation of its time.
        joins: whether the step follows the one before without a bar in between left out.
    """

    ts: Timestamps
    log_return: Float
    standardised: Float
    joins: Flags


def price_steps(bars: Bars) -> PriceSteps:
    """Steps with what is usual before each: the mean size of the trailing steps, not below that of the whole series.

    The first steps are measured by the whole series. A step over a break is compared with trailing steps over breaks;
    where there are too few of those, with ordinary ones times the root of the time that it took.
    """
    usable = np.isfinite(bars.close) & (bars.close > 0.0)
    index = np.flatnonzero(usable)
    if len(index) < 2:
        none = np.empty(0)
        return PriceSteps(bars.ts[:0], none, none, np.zeros(0, dtype=np.bool_))
    ts = bars.ts[index]
    log_return = np.diff(np.log(bars.close[index]))
    elapsed = np.diff(ts) / bars.timeframe.delta
    is_break = elapsed > 1.0
    size = np.abs(log_return)

    usual = np.full(len(size), np.nan)
    usual[~is_break] = _trailing_mean(size[~is_break], TRAILING_STEPS)
    if np.count_nonzero(is_break) >= MIN_STEPS:
        usual[is_break] = _trailing_mean(size[is_break], TRAILING_BREAKS)
    else:
        ordinary = float(size[~is_break].mean()) if not is_break.all() else float(size.mean())
        usual[is_break] = ordinary * np.sqrt(elapsed[is_break])
    sd = usual * MEAN_ABS_TO_SD
    standardised = np.divide(log_return, sd, out=np.zeros_like(log_return), where=sd > 0.0)
    joins = np.r_[False, np.diff(index[1:]) == 1]
    return PriceSteps(ts[1:], log_return, standardised, joins)


def reversals(steps: PriceSteps) -> Float:
    """How far each step went, as a share of the price, where it was a spike; 0 elsewhere. Axis [step].

    A spike is far out for its time, and the next step takes nearly all of it back.
    """
    out = np.zeros(len(steps.ts))
    if len(out) < 2:
        return out
    there, back = steps.log_return[:-1], steps.log_return[1:]
    spike = (
        (np.abs(steps.standardised[:-1]) > SPIKE_SD)
        & (np.sign(there) == -np.sign(back))
        & (np.abs(there + back) <= SPIKE_LEFT_OVER * np.abs(there))
        & steps.joins[1:]
    )
    out[:-1] = np.where(spike, np.abs(np.expm1(np.minimum(there, _LARGEST))), 0.0)
    return out


def _trailing_mean(size: Float, n: int) -> Float:
    """Mean of the n values before each one, not below half of the mean of all; that of all where there are fewer."""
    whole = float(size.mean()) if len(size) else 0.0
    out = np.full(len(size), whole)
    if len(size) > n:
        # One window a step: a running sum would carry a rounding error of the largest step along.
        out[n:] = np.lib.stride_tricks.sliding_window_view(size, n)[:-1].mean(axis=1)
    return np.asarray(np.maximum(out, 0.5 * whole))
