"""A deployed model's returns against its own folds: a test that may be looked at after every bar.

Here: what the folds promise at the least, the test, and its first alarm. Not here: where returns come from
(pipeline/watching.py), or what an alarm does (decision.py).

The claim that is tested: per bar, the model earns at least what its folds are still consistent with, the lower end of
the bootstrap interval of their Sharpe ratio. Not what they measured: a LIVE model was chosen for a high measurement,
which its future does not repeat even where nothing has changed.

With S the shortfall so far, the sum of (promised - earned), and V the variance that this sum has, the alarm is the
first bar with S above ``u(V) = sqrt(2 (V + rho) log(sqrt((V + rho) / rho) / (2 alpha) + 1))``. For a model that keeps
the promise, S passes u at any time, in all the future, with a probability of about alpha at most: daily looks need no
correction. The guarantee is exact for normal returns of known variance; for others it is asymptotic.

Source: Howard, Ramdas, McAuliffe, Sekhon: Time-uniform, nonparametric, nonasymptotic confidence sequences. Annals of
Statistics 49(2), 2021: the one-sided normal mixture, in its closed form, which lies a little above the exact one.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from postval_assets.core.bootstrap import bootstrap_sharpe, seeded
from postval_assets.core.folds import MIN_BLOCK_BARS
from postval_assets.core.metrics import DAYS_PER_YEAR

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

FALSE_ALARM_RATE = 0.05
"""Of a model that keeps the promise, over its whole future."""

TIGHTEST_AFTER_DAYS = 90.0
"""When the boundary is as tight as it can be: a model is retrained a few times a year, and an alarm after that is of
no use; a test that is at its best in the first weeks has nothing to see yet."""

MIN_RETURNS = MIN_BLOCK_BARS
"""Before the first look, and in the folds: as many bars as a block must have to be evaluated at all."""

VOLATILITY_BARS = 240
"""Returns before a bar that say how much it may vary: ten days of hours. Fewer make the largest of two estimates too
large by their own noise, more notice a wilder market too late."""

# V / rho at which u(V) is smallest of all rho, for alpha = 0.05; it is the root of an equation without a closed form.
_TIGHTEST_AT = 6.992


@dataclass(frozen=True)
class FoldReference:
    """What a model's folds promise.

    Attributes:
        mean: return per bar that they are consistent with at the lower end, at least 0.
        sd: standard deviation (ddof 1) of their returns per bar.
        variance_ratio: long-run variance of a return / its variance, at least 1; above 1 where returns that follow
            each other depend on each other.
        bars_per_year: what annualises.
        sharpe_measured: Sharpe ratio of the folds, annualised.
        n_returns: of the folds.
    """

    mean: float
    sd: float
    variance_ratio: float
    bars_per_year: float
    sharpe_measured: float
    n_returns: int

    @property
    def sharpe(self) -> float:
        """The promised Sharpe ratio, annualised."""
        return self.mean / self.sd * math.sqrt(self.bars_per_year)


@dataclass(frozen=True)
class WatchResult:
    """What the test says of a model, up to its first alarm or, without one, up to now.

    Attributes:
        n_returns: returns seen.
        sharpe_reference: promised at the least, annualised.
        sharpe_observed: of the returns seen, annualised; None where they are constant.
        total_return: of the returns seen, compounded, a fraction.
        statistic: shortfall, the sum of (promised - earned) returns.
        boundary: the shortfall above which it alarms.
        alarm_index: the return at which it alarmed, the last one seen; None without an alarm.
    """

    n_returns: int
    sharpe_reference: float
    sharpe_observed: float | None
    total_return: float
    statistic: float
    boundary: float
    alarm_index: int | None


def fold_reference(
    returns: Float, fold_lengths: Sequence[int], bars_per_year: float, *seed: str
) -> FoldReference | None:
    """What the folds of a model promise at the least.

    Dependence between returns and all that makes a Sharpe ratio uncertain is in the bootstrap's standard error, so it
    is in the reference (which it lowers) and in the boundary (which it raises). A lower end below 0 counts as 0: folds
    that are consistent with a loss make no promise, but a deployed model is not there to lose.

    Args:
        returns: [return], of the folds that count, one after another.
        fold_lengths: returns in each fold.
        bars_per_year: measured, as in the folds.
        seed: words that the resamples follow from, such as the model's digest and the plan.

    Returns:
        None for fewer than MIN_RETURNS returns, or constant ones.
    """
    if len(returns) < MIN_RETURNS:
        return None
    interval = bootstrap_sharpe(returns, fold_lengths, seeded(*seed))
    if interval is None:
        return None
    sd = float(returns.std(ddof=1))
    return FoldReference(
        mean=max(interval.low, 0.0) * sd,
        sd=sd,
        variance_ratio=max(interval.se**2 * len(returns), 1.0),
        bars_per_year=bars_per_year,
        sharpe_measured=float(returns.mean()) / sd * math.sqrt(bars_per_year),
        n_returns=len(returns),
    )


def boundary(variance: Float, rho: float, alpha: float = FALSE_ALARM_RATE) -> Float:
    """The closed form of the one-sided normal mixture boundary.

    Args:
        variance: of the sum, any shape, at least 0.
        rho: of the mixture, positive, in the unit of the variance: decides where the boundary is tight.
        alpha: probability of ever passing it.
    """
    total = variance + rho
    bound: Float = np.sqrt(2.0 * total * np.log(np.sqrt(total / rho) / (2.0 * alpha) + 1.0))
    return bound


def shortfall_and_boundary(reference: FoldReference, returns: Float) -> tuple[Float, Float]:
    """The test's two curves after each return; what comes later changes nothing about them.

    The variance of a return is the larger of two: that of the folds, and the mean square of the VOLATILITY_BARS
    returns before it (the folds' own in place of those before deployment). So a market that has become wilder does not
    alarm by itself, while a loss beyond anything seen before does: it is judged by what was known when it came.

    Args:
        reference: what was promised.
        returns: [..., return], per bar since deployment, simple.

    Returns:
        Shortfall and boundary, both [..., return].
    """
    n = returns.shape[-1]
    folds = reference.sd**2
    lead = np.full((*returns.shape[:-1], VOLATILITY_BARS), folds)
    # Sums of what lies in each window: cumulative sums of squares, all of one sign, so a difference loses nothing here.
    sums = np.cumsum(np.concatenate([np.zeros_like(lead[..., :1]), lead, returns**2], axis=-1), axis=-1)
    recent = (sums[..., VOLATILITY_BARS : VOLATILITY_BARS + n] - sums[..., :n]) / VOLATILITY_BARS
    variance = reference.variance_ratio * np.cumsum(np.maximum(recent, folds), axis=-1)
    shortfall: Float = np.cumsum(reference.mean - returns, axis=-1)
    return shortfall, boundary(variance, _rho(reference))


def _rho(reference: FoldReference) -> float:
    n = TIGHTEST_AFTER_DAYS / DAYS_PER_YEAR * reference.bars_per_year
    return reference.variance_ratio * reference.sd**2 * n / _TIGHTEST_AT


def first_alarms(reference: FoldReference, returns: Float) -> Int:
    """Where each path alarms first.

    Args:
        reference: what was promised.
        returns: [path, return].

    Returns:
        [path], index of the return, from 0; -1 where it never does.
    """
    shortfall, limit = shortfall_and_boundary(reference, returns)
    passed = shortfall > limit
    passed[..., : MIN_RETURNS - 1] = False
    if passed.shape[-1] == 0:
        return np.full(passed.shape[:-1], -1, dtype=np.int64)
    return np.where(passed.any(axis=-1), passed.argmax(axis=-1), -1)


def watch(reference: FoldReference, returns: Float) -> WatchResult | None:
    """Whether a deployed model has alarmed, and how it has done.

    Args:
        reference: what its folds promised.
        returns: [return], per bar since deployment, simple.

    Returns:
        None for fewer than MIN_RETURNS returns: it is too early.
    """
    if len(returns) < MIN_RETURNS:
        return None
    [alarm] = first_alarms(reference, returns[None, :])
    seen = returns[: alarm + 1] if alarm >= 0 else returns
    shortfall, limit = shortfall_and_boundary(reference, seen)
    sharpe = None
    if np.ptp(seen) > 0.0:
        sharpe = float(seen.mean() / seen.std(ddof=1)) * math.sqrt(reference.bars_per_year)
    return WatchResult(
        n_returns=len(seen),
        sharpe_reference=reference.sharpe,
        sharpe_observed=sharpe,
        total_return=float(np.prod(1.0 + seen)) - 1.0,
        statistic=float(shortfall[-1]),
        boundary=float(limit[-1]),
        alarm_index=int(alarm) if alarm >= 0 else None,
    )
