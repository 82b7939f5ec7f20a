"""The stationary bootstrap of returns per bar, within folds: how much a Sharpe ratio would vary.

Here: resampled sums of series that belong together bar by bar, and what follows for one Sharpe ratio or for the
difference of two. Not here: p-values and verdicts (evidence.py), or which returns count (archive_evidence.py).

Returns of a held position depend on each other, so blocks are drawn and not bars: each block starts at a bar drawn
from the fold and ends after each bar with probability 1 / MEAN_BLOCK_BARS, going round from the fold's end to its
start. A fold is resampled from itself alone, because each one starts flat with the full capital.

A fold of few blocks is its own mean: what is drawn from it varies too little, by a share that is known for independent
returns (``shrinkage``; 27 % of the variance for a fold of 174 bars, 5 % for one of 864), and is put back.

Source: Politis, Romano: The stationary bootstrap. Journal of the American Statistical Association 89(428), 1994; the
shrinkage follows from their variance of a resampled mean (lemma 1) with the expected circular autocovariances of
independent returns, -variance / n at every lag.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]

MEAN_BLOCK_BARS = 24
N_RESAMPLES = 2_000
INTERVAL = 0.90
"""Coverage of the percentile intervals."""
# A fold gives at least so many blocks: shorter folds have shorter ones.
_FEWEST_BLOCKS = 4


@dataclass(frozen=True)
class BootstrapInterval:
    """How much a figure varies over resamples.

    Attributes:
        se: standard deviation (ddof 1) of the resampled figures.
        low, high: their percentiles, ``INTERVAL`` between them.
    """

    se: float
    low: float
    high: float


def seeded(*parts: str) -> np.random.Generator:
    """A generator that follows from words alone, such as a model's digest and what is drawn.

    Args:
        parts: any text; other parts give another generator.
    """
    digest = hashlib.sha256("|".join(parts).encode()).digest()
    return np.random.default_rng(int.from_bytes(digest[:16], "big"))


def resampled_sums(
    values: Float,
    fold_lengths: Sequence[int],
    rng: np.random.Generator,
    *,
    n_resamples: int = N_RESAMPLES,
    mean_block: float = MEAN_BLOCK_BARS,
) -> Float:
    """Sums of each series over each resample, the same bars being drawn for all series.

    A block's sum is a difference of two prefix sums, so a resample costs its blocks and not its bars.

    Args:
        values: [series, return], folds one after another.
        fold_lengths: returns in each fold, in order.
        rng: all randomness.
        n_resamples: resamples.
        mean_block: mean length of a block, at least 1; shorter in folds of fewer than four of them.

    Returns:
        [series, resample].

    Raises:
        ValueError: the folds' lengths are not those of the values.
    """
    if values.ndim != 2 or values.shape[1] != sum(fold_lengths) or min(fold_lengths, default=1) < 1:
        raise ValueError(f"folds of {list(fold_lengths)} returns are not values of shape {values.shape}")
    if mean_block < 1.0:
        raise ValueError(f"mean_block is {mean_block}; expected at least 1")
    total = np.zeros((len(values), n_resamples))
    first = 0
    for length in fold_lengths:
        of_fold = _block_of(length, mean_block)
        total += _fold_sums(values[:, first : first + length], rng, n_resamples, of_fold)
        first += length
    return total


def shrinkage(fold_lengths: Sequence[int], mean_block: float = MEAN_BLOCK_BARS) -> float:
    """Variance of a resampled sum over its true one, expected for independent returns; at most 1.

    For a fold of n: ``1 - 1/n - 2/n * sum over k from 1 to n - 1 of (1 - k/n) * (1 - 1/mean_block)^k``; folds weigh by
    their returns.
    """
    kept = 0.0
    for n in fold_lengths:
        lag = np.arange(1, n)
        stays = (1.0 - 1.0 / _block_of(n, mean_block)) ** lag
        kept += n - 1.0 - 2.0 * float(np.sum((1.0 - lag / n) * stays))
    return kept / sum(fold_lengths)


def _block_of(n: int, mean_block: float) -> float:
    return max(1.0, min(mean_block, n / _FEWEST_BLOCKS))


def _fold_sums(values: Float, rng: np.random.Generator, n_resamples: int, mean_block: float) -> Float:
    n = values.shape[1]
    # twice round, so that a block of at most n bars is one range wherever it starts
    prefix = np.concatenate([np.zeros((len(values), 1)), np.cumsum(np.tile(values, 2), axis=1)], axis=1)
    total = np.zeros((len(values), n_resamples))
    left = np.full(n_resamples, n, dtype=np.int64)
    open_ = np.arange(n_resamples)
    while open_.size:
        expected = float(left[open_].max()) / mean_block
        n_blocks = math.ceil(expected + 3.0 * math.sqrt(expected)) + 1
        lengths = rng.geometric(1.0 / mean_block, (open_.size, n_blocks))
        starts = rng.integers(0, n, (open_.size, n_blocks))
        before = np.cumsum(lengths, axis=1) - lengths
        lengths = np.clip(left[open_, None] - before, 0, lengths)
        for series, sums in zip(prefix, total, strict=True):
            sums[open_] += (series[starts + lengths] - series[starts]).sum(axis=1)
        left[open_] -= lengths.sum(axis=1)
        open_ = np.flatnonzero(left)
    return total


def sharpes_of_sums(sums: Float, squares: Float, n_obs: int) -> Float:
    """Sharpe ratios per bar from sums and sums of squares [resample]; 0 where a resample did not move."""
    variance = np.maximum(squares - sums * sums / n_obs, 0.0) / (n_obs - 1)
    still = variance <= 0.0
    return np.where(still, 0.0, (sums / n_obs) / np.sqrt(np.where(still, 1.0, variance)))


def bootstrap_sharpe(
    returns: Float, fold_lengths: Sequence[int], rng: np.random.Generator
) -> BootstrapInterval | None:
    """How much the Sharpe ratio per bar of a model's folds varies.

    Args:
        returns: [return], of the folds one after another.
        fold_lengths: returns in each fold.
        rng: all randomness.

    Returns:
        Per bar; None for fewer than two returns or constant ones.
    """
    if len(returns) < 2 or np.ptp(returns) == 0.0:
        return None
    sums, squares = resampled_sums(np.stack([returns, returns * returns]), fold_lengths, rng)
    figures = sharpes_of_sums(sums, squares, len(returns))
    return _interval(figures, _sharpe(returns), fold_lengths)


def bootstrap_sharpe_difference(
    first: Float, second: Float, fold_lengths: Sequence[int], rng: np.random.Generator
) -> BootstrapInterval | None:
    """How much the difference of two Sharpe ratios per bar (first - second) varies, the same bars drawn for both.

    Args:
        first: [return].
        second: [return] of the same bars.
        fold_lengths: returns in each fold.
        rng: all randomness.

    Returns:
        Per bar; None for fewer than two returns, or where either is constant, or where both are the same.
    """
    if len(first) < 2 or np.ptp(first) == 0.0 or np.ptp(second) == 0.0 or np.array_equal(first, second):
        return None
    values = np.stack([first, first * first, second, second * second])
    sums = resampled_sums(values, fold_lengths, rng)
    n = len(first)
    figures = sharpes_of_sums(sums[0], sums[1], n) - sharpes_of_sums(sums[2], sums[3], n)
    return _interval(figures, _sharpe(first) - _sharpe(second), fold_lengths)


def _sharpe(returns: Float) -> float:
    return float(returns.mean() / returns.std(ddof=1))


def _interval(figures: Float, measured: float, fold_lengths: Sequence[int]) -> BootstrapInterval | None:
    """Spread and percentiles of resampled figures [resample] around the measured one, widened by what they lack."""
    kept = shrinkage(fold_lengths)
    if kept <= 0.0:  # folds of one or two returns
        return None
    widened = measured + (figures - measured) / math.sqrt(kept)
    tail = (1.0 - INTERVAL) / 2.0
    low, high = np.quantile(widened, [tail, 1.0 - tail])
    return BootstrapInterval(float(widened.std(ddof=1)), float(low), float(high))
