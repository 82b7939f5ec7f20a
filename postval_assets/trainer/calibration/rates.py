"""Shares with their intervals, and what is possible at all.

Here: formulas and counts over judged models. Not here: tables and words (page.py).

Sources:
    Clopper, Pearson: The use of confidence or fiducial limits illustrated in the case of the binomial. Biometrika 26,
        1934. It covers at least 95 %, also for the few events that are counted here.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from statistics import NormalDist, median

from postval_assets.core.metrics import DAYS_PER_YEAR
from postval_assets.trainer.calibration.records import Judged

COVERAGE = 0.95
SIGNIFICANCE = 0.05
"""Largest ``p_value_archive`` that is LIVE, for the table of what is possible."""

_NORMAL = NormalDist()
_HALVINGS = 60  # of an interval of length 1: below the spacing of float64


@dataclass(frozen=True)
class Rate:
    """A share of a count with its interval.

    Attributes:
        events, n: counts.
        low, high: of the share, 95 % (Clopper-Pearson); 0 and 1 for an n of 0.
    """

    events: int
    n: int
    low: float
    high: float

    @property
    def share(self) -> float | None:
        """None for an n of 0."""
        return self.events / self.n if self.n else None


def rate(events: int, n: int) -> Rate:
    """A share with its interval."""
    low, high = clopper_pearson(events, n)
    return Rate(events, n, low, high)


def clopper_pearson(events: int, n: int, coverage: float = COVERAGE) -> tuple[float, float]:
    """The exact binomial interval of a share.

    Args:
        events: 0 to n.
        n: independent trials; 0 gives (0, 1).
        coverage: at least this.
    """
    if not 0 <= events <= n:
        raise ValueError(f"{events} of {n} is no share")
    tail = (1.0 - coverage) / 2.0
    low = 0.0 if events == 0 else _where(lambda p: 1.0 - _binomial_cdf(events - 1, n, p) >= tail)
    high = 1.0 if events == n else _where(lambda p: _binomial_cdf(events, n, p) <= tail)
    return low, high


def _where(reached: Callable[[float], bool]) -> float:
    """The smallest share for which it is so, for a condition that stays true once it is."""
    low, high = 0.0, 1.0
    for _ in range(_HALVINGS):
        middle = (low + high) / 2.0
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high


def _binomial_cdf(k: int, n: int, p: float) -> float:
    """P(X <= k) of a binomial distribution."""
    if p <= 0.0 or p >= 1.0:
        return 1.0 if p <= 0.0 or k >= n else 0.0
    log_p, log_q, of_n = math.log(p), math.log1p(-p), math.lgamma(n + 1)
    return math.fsum(
        math.exp(of_n - math.lgamma(i + 1) - math.lgamma(n - i + 1) + i * log_p + (n - i) * log_q)
        for i in range(k + 1)
    )


def level_of_one(n_trials: int, significance: float = SIGNIFICANCE) -> float:
    """Largest p-value of each of so many independent models of which any is below it that often: Sidak."""
    return -math.expm1(math.log1p(-significance) / n_trials)


def possible_power(
    annual_sharpe: float, days: int, n_trials: int, significance: float = SIGNIFICANCE
) -> float:
    """How often a model of that true Sharpe ratio can be told from the best of N worthless ones at all.

    One-sided test of the mean of independent returns at the level of Sidak: no rule that keeps the size can do better
    with these returns alone. All other conditions of a policy only take from it.

    Args:
        annual_sharpe: true.
        days: of returns.
        n_trials: models tried.
        significance: for all of them together.
    """
    needed = -_NORMAL.inv_cdf(level_of_one(n_trials, significance))
    return 1.0 - _NORMAL.cdf(needed - annual_sharpe * math.sqrt(days / DAYS_PER_YEAR))


def decided(models: Iterable[Judged], policy: str, decision: str) -> Rate:
    """How often a policy (``standard`` or ``evidence``) said so."""
    said = [getattr(model, policy) == decision for model in models]
    return rate(sum(said), len(said))


def archives_with(archives: Sequence[Sequence[Judged]], policy: str, decision: str) -> Rate:
    """In how many archives a policy said so of at least one model."""
    return rate(sum(any(getattr(m, policy) == decision for m in a) for a in archives), len(archives))


def decided_at(models: Sequence[Judged], n_trials: int, decision: str) -> Rate:
    """How often policy evidence would say so in an archive of that size."""
    return rate(sum(dict(m.by_trials)[n_trials] == decision for m in models), len(models))


@dataclass(frozen=True)
class MeanOf:
    """Mean of a figure with its standard error; None where there are too few values."""

    mean: float | None
    standard_error: float | None
    n: int


def mean_of(values: Iterable[float | None]) -> MeanOf:
    """Over the values that are defined."""
    known = [v for v in values if v is not None]
    n = len(known)
    if not n:
        return MeanOf(None, None, 0)
    mean = math.fsum(known) / n
    if n == 1:
        return MeanOf(mean, None, 1)
    variance = math.fsum((v - mean) ** 2 for v in known) / (n - 1)
    return MeanOf(mean, math.sqrt(variance / n), n)


def median_of(values: Iterable[float]) -> float | None:
    """The middle value; None without values."""
    known = list(values)
    return median(known) if known else None
