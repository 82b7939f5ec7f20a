"""How much of a Sharpe ratio is luck: the published formulas, for returns per bar.

Here: moments of a return series, the probabilistic and the deflated Sharpe ratio, the minimum track record length, the
probability of backtest overfitting. Not here: which returns count, or a whole archive (archive_evidence.py).

Throughout: Sharpe ratios are per bar (not annualised), kurtosis is raw (normal: 3), and what is not defined is None,
never NaN, 0 or infinity.

Sources:
    [PSR] Bailey, Lopez de Prado: The Sharpe ratio efficient frontier. Journal of Risk 15(2), 2012.
    [DSR] Bailey, Lopez de Prado: The deflated Sharpe ratio. Journal of Portfolio Management 40(5), 2014.
    [PBO] Bailey, Borwein, Lopez de Prado, Zhu: The probability of backtest overfitting. Journal of Computational
        Finance 20(4), 2017.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

EULER_GAMMA = 0.5772156649015329

_NORMAL = NormalDist()
# Moments of a sample meet kurtosis >= 1 + skew^2 but for rounding.
_MOMENT_TOLERANCE = 1e-9


@dataclass(frozen=True)
class ReturnMoments:
    """Moments of a series of returns per bar.

    Attributes:
        n_obs: number of returns.
        sharpe: mean / standard deviation (ddof 1), per bar.
        skew: third standardised moment of the population.
        kurtosis: fourth standardised moment of the population, raw (normal: 3).
    """

    n_obs: int
    sharpe: float
    skew: float
    kurtosis: float


def return_moments(returns: Float) -> ReturnMoments | None:
    """Moments of returns [bar]; None for fewer than two returns or constant ones.

    Raises:
        ValueError: a return is NaN or infinite.
    """
    if not np.isfinite(returns).all():
        raise ValueError("a return is NaN or infinite")
    if len(returns) < 2 or np.ptp(returns) == 0.0:
        return None
    mean = float(returns.mean())
    deviation = returns - mean
    spread = math.sqrt(float(np.mean(deviation * deviation)))
    if spread == 0.0:  # differences so small that their squares vanish
        return None
    standardised = deviation / spread
    n_obs = len(returns)
    return ReturnMoments(
        n_obs=n_obs,
        sharpe=mean / (spread * math.sqrt(n_obs / (n_obs - 1))),
        skew=float(np.mean(standardised**3)),
        kurtosis=float(np.mean(standardised**4)),
    )


def probabilistic_sharpe_ratio(
    sharpe: float, n_obs: int, skew: float, kurtosis: float, benchmark: float = 0.0
) -> float | None:
    """Probability that the true Sharpe ratio is above ``benchmark``: [PSR], independent returns.

    ``Phi((SR - SR0) * sqrt(T - 1) / sqrt(1 - g3 * SR + (g4 - 1) / 4 * SR^2))``

    Args:
        sharpe: SR, measured, per bar.
        n_obs: T, number of returns.
        skew: g3 of the returns.
        kurtosis: g4 of the returns, raw.
        benchmark: SR0, per bar.

    Returns:
        A probability; None for fewer than two returns, a NaN or infinite argument, or returns of which only two
        values exist such that the spread of SR vanishes.

    Raises:
        ValueError: no returns can have such a kurtosis beside such a skew, as when excess kurtosis is given.
    """
    spread = _sharpe_spread(sharpe, skew, kurtosis)
    if n_obs < 2 or spread is None or not math.isfinite(benchmark):
        return None
    return _NORMAL.cdf((sharpe - benchmark) * math.sqrt(n_obs - 1) / spread)


def expected_maximum_sharpe(n_trials: int, sharpe_variance: float) -> float:
    """The Sharpe ratio that the best of ``n_trials`` without skill is expected to show: SR0 of [DSR].

    ``sqrt(V) * ((1 - gamma) * z(1 - 1/N) + gamma * z(1 - 1/(N e)))``; of a single trial nothing but 0 is expected.

    Args:
        n_trials: N, independent trials.
        sharpe_variance: V, variance of the trials' Sharpe ratios; its frequency is the result's.

    Raises:
        ValueError: N below 1, or V negative, NaN or infinite.
    """
    if n_trials < 1:
        raise ValueError(f"n_trials is {n_trials}; expected at least 1")
    if not (math.isfinite(sharpe_variance) and sharpe_variance >= 0.0):
        raise ValueError(f"sharpe_variance is {sharpe_variance}; expected a number of at least 0")
    if n_trials == 1:
        return 0.0
    # z(1 - p) = -z(p), which loses nothing when p is small
    last, beyond = -_NORMAL.inv_cdf(1.0 / n_trials), -_NORMAL.inv_cdf(1.0 / (n_trials * math.e))
    return math.sqrt(sharpe_variance) * ((1.0 - EULER_GAMMA) * last + EULER_GAMMA * beyond)


def deflated_sharpe_ratio(
    sharpe: float, n_obs: int, skew: float, kurtosis: float, n_trials: int, sharpe_variance: float
) -> float | None:
    """The probabilistic Sharpe ratio against the luck of the best of ``n_trials``: [DSR].

    Args:
        sharpe: measured, per bar.
        n_obs: number of returns.
        skew: of the returns.
        kurtosis: of the returns, raw.
        n_trials: trials among which this one was found; with 1 this is the probabilistic Sharpe ratio against 0.
        sharpe_variance: variance of the trials' Sharpe ratios per bar.

    Returns:
        A probability; None where the probabilistic Sharpe ratio is None.

    Raises:
        ValueError: as expected_maximum_sharpe and probabilistic_sharpe_ratio.
    """
    benchmark = expected_maximum_sharpe(n_trials, sharpe_variance)
    return probabilistic_sharpe_ratio(sharpe, n_obs, skew, kurtosis, benchmark)


def minimum_track_record_length(
    sharpe: float, skew: float, kurtosis: float, benchmark: float = 0.0, confidence: float = 0.95
) -> float | None:
    """Returns needed for the probabilistic Sharpe ratio to reach ``confidence``: MinTRL of [PSR].

    ``1 + (1 - g3 * SR + (g4 - 1) / 4 * SR^2) * (z(confidence) / (SR - SR0))^2``

    Args:
        sharpe: SR, measured, per bar.
        skew: g3 of the returns.
        kurtosis: g4 of the returns, raw.
        benchmark: SR0, per bar.
        confidence: wanted, at least 0.5 and below 1.

    Returns:
        A number of returns, not rounded; None where no length is enough (SR is not above SR0), where an argument is
        NaN or infinite, or where the spread of SR vanishes.

    Raises:
        ValueError: a confidence outside [0.5, 1), or a kurtosis that no returns can have beside such a skew.
    """
    if not 0.5 <= confidence < 1.0:
        raise ValueError(f"confidence is {confidence}; expected at least 0.5 and below 1")
    spread = _sharpe_spread(sharpe, skew, kurtosis)
    if spread is None or not math.isfinite(benchmark) or sharpe <= benchmark:
        return None
    ratio = spread * _NORMAL.inv_cdf(confidence) / (sharpe - benchmark)
    length = 1.0 + ratio * ratio
    return length if math.isfinite(length) else None


def _sharpe_spread(sharpe: float, skew: float, kurtosis: float) -> float | None:
    """``sqrt(1 - g3 * SR + (g4 - 1) / 4 * SR^2)``: the standard error of SR times sqrt(T - 1)."""
    if not (math.isfinite(sharpe) and math.isfinite(skew) and math.isfinite(kurtosis)):
        return None
    least = 1.0 + skew * skew
    if kurtosis < least - _MOMENT_TOLERANCE * least:
        raise ValueError(
            f"kurtosis is {kurtosis:g} beside a skew of {skew:g}; raw kurtosis (normal: 3) is at least "
            f"1 + skew^2 = {least:g}: was excess kurtosis given?"
        )
    variance = 1.0 - skew * sharpe + (kurtosis - 1.0) / 4.0 * sharpe * sharpe
    return math.sqrt(variance) if 0.0 < variance < math.inf else None


def probability_of_backtest_overfitting(returns: Float, n_blocks: int) -> float | None:
    """How often the model that looks best in one half of the time is no better than the median in the other: [PBO].

    Combinatorially symmetric cross-validation: the bars are cut into S blocks of equal length (the oldest bars that
    are left over are not used). For each choice of half of the blocks, the model with the highest Sharpe ratio in
    them is ranked by the Sharpe ratio in the other half, r of N; with w = r / (N + 1) and lambda = ln(w / (1 - w)),
    the probability is the share of the choices with lambda <= 0. Equal Sharpe ratios share their mean rank; of equal
    best ones the first is chosen.

    A model that does not move over all bars has no Sharpe ratio and is left out. One that moves in some bars but in
    none of a half ranks there by what it earned: as 0 where that is nothing.

    Args:
        returns: [bar, model], all models over the same bars.
        n_blocks: S, even.

    Returns:
        A share of the C(S, S/2) choices; None for fewer than two models that move, or fewer bars than blocks or
        fewer than two in a half.

    Raises:
        ValueError: S is not even and positive, or the returns are not finite numbers [bar, model].
    """
    if n_blocks < 2 or n_blocks % 2:
        raise ValueError(f"n_blocks is {n_blocks}; expected an even number of at least 2")
    if returns.ndim != 2 or not np.isfinite(returns).all():
        raise ValueError(f"returns must be finite numbers [bar, model], not of shape {returns.shape}")
    n_rows = len(returns) // n_blocks
    if n_rows * n_blocks < 4 or n_rows == 0:
        return None
    used = returns[len(returns) - n_rows * n_blocks :]
    used = used[:, np.ptp(used, axis=0) > 0.0]
    n_models = used.shape[1]
    if n_models < 2:
        return None
    blocks = _Blocks.of(used.reshape(n_blocks, n_rows, n_models))
    splits = list(itertools.combinations(range(n_blocks), n_blocks // 2))
    overfit = 0
    for split in splits:
        best = int(np.argmax(blocks.sharpes(split)))
        outside = blocks.sharpes([block for block in range(n_blocks) if block not in split])
        below = int(np.count_nonzero(outside < outside[best]))
        equal = int(np.count_nonzero(outside == outside[best]))
        # rank = below + (equal + 1) / 2, and lambda <= 0 exactly where rank <= (N + 1) / 2
        overfit += 2 * below + equal <= n_models
    return overfit / len(splits)


@dataclass(frozen=True, eq=False)
class _Blocks:
    """What the Sharpe ratios over any choice of blocks are made from; arrays [block, model], centre [model].

    Sums are of deviations from each model's mean over all bars: sums of squares of raw returns would cancel.
    """

    n_rows: int
    centre: Float
    sums: Float
    squares: Float
    lowest: Float
    highest: Float

    @classmethod
    def of(cls, returns: Float) -> _Blocks:
        """From returns [block, row, model]."""
        centre: Float = returns.mean(axis=(0, 1))
        # block by block: no second array of the size of all returns
        deviations = ((block - centre) for block in returns)
        sums, squares = zip(*((d.sum(axis=0), (d * d).sum(axis=0)) for d in deviations), strict=True)
        return cls(
            n_rows=returns.shape[1],
            centre=centre,
            sums=np.stack(sums),
            squares=np.stack(squares),
            lowest=returns.min(axis=1),
            highest=returns.max(axis=1),
        )

    def sharpes(self, chosen: tuple[int, ...] | list[int]) -> Float:
        """Sharpe ratios [model] over these blocks, for ranking only: a series that does not move may be infinite."""
        index = list(chosen)
        n = len(index) * self.n_rows
        total = self.sums[index].sum(axis=0)
        variance = np.maximum(self.squares[index].sum(axis=0) - total * total / n, 0.0) / (n - 1)
        mean = self.centre + total / n
        lowest = self.lowest[index].min(axis=0)
        still = (lowest == self.highest[index].max(axis=0)) | (variance == 0.0)
        moving = mean / np.sqrt(np.where(still, 1.0, variance))
        held = np.where(lowest == 0.0, 0.0, np.copysign(np.inf, lowest))
        return np.where(still, held, moving)
