"""The stationary bootstrap against a plain loop, a library's own, and what is known of dependent series."""

from __future__ import annotations

import math

import numpy as np
import pytest
from arch.bootstrap import StationaryBootstrap
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.bootstrap import (
    bootstrap_sharpe,
    bootstrap_sharpe_difference,
    resampled_sums,
    seeded,
    sharpes_of_sums,
    shrinkage,
)

Float = np.typing.NDArray[np.float64]


def plain_resample(fold: Float, rng: np.random.Generator, mean_block: float) -> list[float]:
    """Politis and Romano, bar by bar: go on to the next bar, or with probability 1 / mean_block to any other."""
    out: list[float] = []
    place = int(rng.integers(len(fold)))
    while len(out) < len(fold):
        out.append(float(fold[place]))
        place = int(rng.integers(len(fold))) if rng.random() < 1.0 / mean_block else (place + 1) % len(fold)
    return out


def autoregressive(n: int, phi: float, seed: int) -> Float:
    rng = np.random.default_rng(seed)
    noise = rng.standard_normal(n)
    out = np.empty(n)
    out[0] = noise[0]
    for i in range(1, n):
        out[i] = phi * out[i - 1] + noise[i]
    return out


@pytest.mark.parametrize("mean_block", [1.0, 6.0, 24.0])
def test_sums_are_spread_as_those_of_the_plain_loop(mean_block: float) -> None:
    folds = [autoregressive(90, 0.6, 1), autoregressive(61, 0.6, 2)]
    values = np.concatenate(folds)
    found = resampled_sums(values[None], [90, 61], seeded("x"), n_resamples=4000, mean_block=mean_block)[0]
    rng = np.random.default_rng(5)
    plain = np.array([sum(sum(plain_resample(f, rng, mean_block)) for f in folds) for _ in range(4000)])
    # 4,000 draws: standard error 1.1 % of a spread, 1.6 % of it of a mean
    assert found.std() == pytest.approx(plain.std(), rel=0.06)
    assert found.mean() == pytest.approx(values.sum(), abs=0.07 * plain.std())
    for share in (0.05, 0.5, 0.95):
        # a tail of 4,000 draws: 3.4 % of the spread, of two samples 4.7 %
        assert np.quantile(found, share) == pytest.approx(np.quantile(plain, share), abs=0.2 * plain.std())


def test_spread_is_that_of_arch() -> None:
    returns = autoregressive(1000, 0.5, 3) * 1e-3 + 1e-4
    other = StationaryBootstrap(24, returns, seed=7)
    theirs = other.apply(lambda r: np.array([r.mean() / r.std(ddof=1)]), 2000)
    mine = bootstrap_sharpe(returns, [1000], seeded("arch"))
    assert mine is not None
    assert mine.se == pytest.approx(float(theirs.std(ddof=1)), rel=0.08)


def test_dependence_counts() -> None:
    """The variance of the mean of an AR(1) series is (1 + phi) / (1 - phi) of that of independent returns."""
    phi, n = 0.5, 50_000
    returns = autoregressive(n, phi, 4)
    spread = bootstrap_sharpe(returns, [n], seeded("a"))
    assert spread is not None
    # blocks of 24 bars see nearly all of it: known bias phi / (1 - phi^2) * 2 / 24 of the variance
    assert spread.se * math.sqrt(n) == pytest.approx(math.sqrt((1 + phi) / (1 - phi)), rel=0.08)


def test_independent_returns_have_the_spread_of_theory() -> None:
    returns = np.random.default_rng(6).standard_normal(20_000)
    spread = bootstrap_sharpe(returns, [4000] * 5, seeded("b"))
    assert spread is not None
    assert spread.se * math.sqrt(20_000) == pytest.approx(1.0, rel=0.06)
    centre = returns.mean() / returns.std(ddof=1)
    assert spread.low == pytest.approx(centre - 1.645 * spread.se, abs=0.15 * spread.se)
    assert spread.high == pytest.approx(centre + 1.645 * spread.se, abs=0.15 * spread.se)


def test_nothing_leads_from_one_fold_to_the_next() -> None:
    # every resample of a fold has its own values only: sums are whole multiples of each fold's constant
    values = np.concatenate([np.full(40, 1.0), np.full(30, 100.0)])
    sums = resampled_sums(values[None], [40, 30], seeded("c"), n_resamples=200)[0]
    assert (sums == 40 * 1.0 + 30 * 100.0).all()


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.integers(1, 40), min_size=1, max_size=4),
    st.floats(1.0, 60.0),
    st.integers(0, 2**32),
)
def test_every_resample_has_as_many_bars_as_its_fold(
    lengths: list[int], mean_block: float, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    n = sum(lengths)
    values = np.stack([np.ones(n), rng.integers(-8, 9, n) / 8.0])
    counts, sums = resampled_sums(values, lengths, rng, n_resamples=50, mean_block=mean_block)
    assert (counts == n).all()
    assert (sums >= n * values[1].min()).all()
    assert (sums <= n * values[1].max()).all()


def test_the_same_words_draw_the_same() -> None:
    returns = autoregressive(300, 0.2, 8)
    assert bootstrap_sharpe(returns, [300], seeded("m")) == bootstrap_sharpe(returns, [300], seeded("m"))
    assert bootstrap_sharpe(returns, [300], seeded("m")) != bootstrap_sharpe(returns, [300], seeded("n"))


def test_a_difference_is_of_the_same_bars() -> None:
    """Two models that differ by a little noise: their difference is known far better than either of them."""
    rng = np.random.default_rng(9)
    first = rng.standard_normal(2000)
    second = first + 0.05 * rng.standard_normal(2000)
    alone = bootstrap_sharpe(first, [2000], seeded("d"))
    both = bootstrap_sharpe_difference(first, second, [2000], seeded("d"))
    assert alone is not None
    assert both is not None
    assert both.se < 0.1 * alone.se
    turned = bootstrap_sharpe_difference(second, first, [2000], seeded("d"))
    assert turned is not None
    assert turned.se == pytest.approx(both.se, rel=1e-9)
    assert (turned.low, turned.high) == (pytest.approx(-both.high), pytest.approx(-both.low))


@pytest.mark.parametrize("returns", [[], [0.1], [0.0] * 50, [0.2] * 50])
def test_what_does_not_vary_has_no_spread(returns: list[float]) -> None:
    series = np.array(returns)
    assert bootstrap_sharpe(series, [len(returns)] if returns else [], seeded("e")) is None


def test_the_same_series_twice_has_no_difference() -> None:
    series = autoregressive(100, 0.1, 10)
    assert bootstrap_sharpe_difference(series, series, [100], seeded("f")) is None
    assert bootstrap_sharpe_difference(series, np.zeros(100), [100], seeded("f")) is None


def test_a_resample_that_does_not_move_has_earned_nothing() -> None:
    assert sharpes_of_sums(np.array([0.0, 2.0]), np.array([0.0, 2.0]), 10).tolist() == [
        0.0,
        pytest.approx(0.2 / math.sqrt((2.0 - 0.4) / 9)),
    ]
    rare = np.zeros(500)
    rare[250] = 0.01
    spread = bootstrap_sharpe(rare, [500], seeded("g"))
    assert spread is not None
    assert math.isfinite(spread.se)
    assert spread.low <= 0.0 < spread.high


def test_wrong_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="folds of"):
        resampled_sums(np.ones((1, 5)), [2, 2], seeded("h"))
    with pytest.raises(ValueError, match="mean_block"):
        resampled_sums(np.ones((1, 5)), [5], seeded("h"), mean_block=0.5)


@pytest.mark.parametrize("length", [50, 174, 864])
def test_short_folds_vary_as_much_as_they_should(length: int) -> None:
    """Independent returns: the spread is that of theory whatever the folds' length, on average over many series."""
    spreads = []
    for seed in range(60):
        returns = np.random.default_rng(seed).standard_normal(5 * length)
        spread = bootstrap_sharpe(returns, [length] * 5, seeded(str(seed)))
        assert spread is not None
        spreads.append(spread.se**2 * 5 * length)
    assert np.mean(spreads) == pytest.approx(1.0, abs=0.12)


@pytest.mark.parametrize(("length", "mean_block"), [(60, 6.0), (174, 24.0), (30, 24.0)])
def test_the_shrinkage_is_what_resampling_shows(length: int, mean_block: float) -> None:
    ratios = []
    for seed in range(300):
        values = np.random.default_rng(seed).standard_normal(length)
        sums = resampled_sums(
            values[None], [length], seeded(str(seed)), n_resamples=400, mean_block=mean_block
        )[0]
        ratios.append(sums.var(ddof=1) / length)
    assert np.mean(ratios) == pytest.approx(shrinkage([length], mean_block), abs=0.05)
    assert shrinkage([length], mean_block) < 1.0


def test_known_shrinkages() -> None:
    assert shrinkage([174]) == pytest.approx(0.755, abs=0.02)
    assert shrinkage([864]) == pytest.approx(0.947, abs=0.005)
    # of independent draws the mean alone is lost
    assert shrinkage([10], 1.0) == pytest.approx(0.9)


def test_nine_of_ten_intervals_hold_the_truth() -> None:
    truth, held = 0.08, 0
    for seed in range(300):
        returns = np.random.default_rng(seed).standard_normal(870) + truth
        spread = bootstrap_sharpe(returns, [174] * 5, seeded(str(seed)))
        assert spread is not None
        held += spread.low <= truth <= spread.high
    # binomial: 270 of 300, spread 5.2
    assert 252 <= held <= 288
