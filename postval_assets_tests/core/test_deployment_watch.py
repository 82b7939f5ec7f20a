"""The watch of a deployed model: against a plain loop and the exact mixture, and how often it alarms."""

from __future__ import annotations

import dataclasses
import math
import statistics
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from postval_assets.core.bootstrap import bootstrap_sharpe, seeded
from postval_assets.core.deployment_watch import (
    FALSE_ALARM_RATE,
    MIN_RETURNS,
    TIGHTEST_AFTER_DAYS,
    VOLATILITY_BARS,
    FoldReference,
    boundary,
    first_alarms,
    fold_reference,
    shortfall_and_boundary,
    watch,
)
from postval_assets.core.evidence import Float

BARS_PER_YEAR = 2_190.0
REFERENCE = FoldReference(
    mean=2e-4, sd=0.01, variance_ratio=1.3, bars_per_year=BARS_PER_YEAR, sharpe_measured=2.0, n_returns=1_000
)
RHO = 1.3 * 0.01**2 * (TIGHTEST_AFTER_DAYS / 365.25 * BARS_PER_YEAR) / 6.992

paths = hnp.arrays(np.float64, st.integers(1, 400), elements=st.floats(-0.25, 0.25, width=32))


def noise(seed: int, n: int, mean: float = 0.0, sd: float = 0.01) -> Float:
    return np.random.default_rng(seed).normal(mean, sd, n)


# --- the boundary -------------------------------------------------------------------------------------------


def exact(variance: float, rho: float, alpha: float) -> float:
    """The one-sided normal mixture itself: where its supermartingale reaches 1 / alpha, found by halving."""

    def mixture(s: float) -> float:
        total = variance + rho
        return (
            2.0
            * math.sqrt(rho / total)
            * math.exp(s * s / (2.0 * total))
            * NormalDist().cdf(s / math.sqrt(total))
        )

    low, high = 0.0, 40.0 * math.sqrt(variance + rho)
    while high - low > 1e-12 * high:
        middle = (low + high) / 2.0
        low, high = (middle, high) if mixture(middle) < 1.0 / alpha else (low, middle)
    return high


@pytest.mark.parametrize("variance", [1e-3, 0.1, 1.0, 10.0, 1e4])
@pytest.mark.parametrize("alpha", [0.001, 0.01, 0.05])
def test_the_closed_form_is_just_above_the_exact_mixture(variance: float, alpha: float) -> None:
    found = float(boundary(np.array(variance), 0.3, alpha))
    of_mixture = exact(variance, 0.3, alpha)
    assert of_mixture <= found <= 1.05 * of_mixture


def test_it_is_tightest_when_it_says() -> None:
    at = 0.01**2 * 1.3 * TIGHTEST_AFTER_DAYS / 365.25 * BARS_PER_YEAR
    here = float(boundary(np.array(at), RHO))
    others = [float(boundary(np.array(at), RHO * factor)) for factor in (0.5, 0.9, 0.99, 1.01, 1.1, 2.0)]
    assert all(here < other for other in others)
    # a hundredth of rho away the value is flat, so the constant is right to more than its digits say
    assert min(others) == pytest.approx(here, rel=1e-4)


@given(
    st.lists(st.floats(0.0, 1e6), min_size=2, max_size=20),
    st.floats(1e-6, 1e3),
    st.floats(0.001, 0.4),
)
def test_more_variance_never_lowers_the_boundary(variances: list[float], rho: float, alpha: float) -> None:
    found = boundary(np.sort(variances), rho, alpha)
    assert (np.diff(found) >= 0.0).all()
    assert (found > 0.0).all()
    assert (boundary(np.sort(variances), rho, alpha / 2.0) > found).all()


# --- the two curves -----------------------------------------------------------------------------------------


def plain(reference: FoldReference, returns: list[float]) -> tuple[list[float], list[float], int]:
    """Shortfall, boundary and the first alarm, one return after the other, as the module's words have it."""
    n_tight = 90.0 / 365.25 * reference.bars_per_year
    rho = reference.variance_ratio * reference.sd**2 * n_tight / 6.992
    before = [reference.sd**2] * 240
    shortfalls, bounds, alarm = [], [], -1
    shortfall = variance = 0.0
    for i, r in enumerate(returns):
        shortfall += reference.mean - r
        variance += reference.variance_ratio * max(reference.sd**2, statistics.fmean(before[-240:]))
        before.append(r * r)
        total = variance + rho
        bound = math.sqrt(2.0 * total * math.log(math.sqrt(total / rho) / 0.1 + 1.0))
        shortfalls.append(shortfall)
        bounds.append(bound)
        if alarm < 0 and i + 1 >= 50 and shortfall > bound:
            alarm = i
    return shortfalls, bounds, alarm


@pytest.mark.parametrize(
    ("seed", "mean", "sd"), [(1, 0.0, 0.01), (2, -0.002, 0.01), (3, -0.001, 0.03), (4, 0.002, 0.002)]
)
def test_the_curves_are_those_of_a_plain_loop(seed: int, mean: float, sd: float) -> None:
    returns = noise(seed, 700, mean, sd)
    shortfalls, bounds, alarm = plain(REFERENCE, list(returns))
    found = shortfall_and_boundary(REFERENCE, returns)
    assert found[0] == pytest.approx(shortfalls, rel=1e-9, abs=1e-12)
    assert found[1] == pytest.approx(bounds, rel=1e-9)
    assert first_alarms(REFERENCE, returns[None, :]).tolist() == [alarm]


def test_the_cases_above_have_alarms_and_none() -> None:
    cases = [noise(1, 700), noise(2, 700, -0.002), noise(3, 700, -0.001, 0.03), noise(4, 700, 0.002, 0.002)]
    assert {a >= 0 for a in first_alarms(REFERENCE, np.stack(cases)).tolist()} == {True, False}


def test_paths_are_judged_each_alone() -> None:
    several = np.stack([noise(seed, 500, mean) for seed, mean in enumerate((-0.003, 0.0, 0.001, -0.001))])
    together = shortfall_and_boundary(REFERENCE, several)
    for path, shortfall, bound in zip(several, *together, strict=True):
        alone = shortfall_and_boundary(REFERENCE, path)
        assert shortfall == pytest.approx(alone[0], rel=1e-13)
        assert bound == pytest.approx(alone[1], rel=1e-13)


@given(paths, paths)
def test_what_comes_later_changes_no_alarm(returns: Float, later: Float) -> None:
    reference = dataclasses.replace(REFERENCE, mean=0.004)
    [alarm] = first_alarms(reference, returns[None, :])
    [after] = first_alarms(reference, np.concatenate([returns, later])[None, :])
    assert alarm == after if alarm >= 0 else after < 0 or after >= len(returns)
    assert alarm < 0 or alarm >= MIN_RETURNS - 1


@given(paths, st.floats(1e-6, 1e-2))
def test_to_earn_more_on_every_bar_never_raises_the_shortfall(returns: Float, more: float) -> None:
    shortfall, _ = shortfall_and_boundary(REFERENCE, returns)
    less, _ = shortfall_and_boundary(REFERENCE, returns + more)
    assert (less < shortfall).all()


def test_a_wilder_market_moves_the_boundary_and_a_calmer_one_does_not() -> None:
    def last(sd: float) -> float:
        return float(shortfall_and_boundary(REFERENCE, noise(5, 2_000, sd=sd))[1][-1])

    assert last(0.03) > 2.5 * last(0.01)
    assert last(0.001) == pytest.approx(last(0.0001), rel=1e-12)
    assert last(0.01) == pytest.approx(last(0.001), rel=0.05)


def test_a_crash_alarms_when_it_comes_though_it_makes_the_market_wilder() -> None:
    returns = noise(6, 400, 2e-4)
    assert first_alarms(REFERENCE, returns[None, :]).tolist() == [-1]
    returns[300] = -0.9
    assert first_alarms(REFERENCE, returns[None, :]).tolist() == [300]
    _, bound = shortfall_and_boundary(REFERENCE, returns)
    # judged by what was known before it, and the bars after it by what it was
    assert bound[300] < 1.01 * bound[299]
    assert bound[301] - bound[300] > 20 * (bound[300] - bound[299])
    assert VOLATILITY_BARS > 100


# --- what folds promise -------------------------------------------------------------------------------------


def test_the_promise_is_the_lower_end_of_the_bootstrap_interval() -> None:
    returns = noise(7, 1_080, 0.002)
    lengths = [216] * 5
    interval = bootstrap_sharpe(returns, lengths, seeded("model", "180d"))
    found = fold_reference(returns, lengths, BARS_PER_YEAR, "model", "180d")
    assert found is not None
    assert interval is not None
    sd = statistics.stdev(returns)
    assert found.mean == pytest.approx(interval.low * sd, rel=1e-12)
    assert found.sharpe == pytest.approx(interval.low * math.sqrt(BARS_PER_YEAR), rel=1e-12)
    assert found.sharpe_measured == pytest.approx(
        statistics.fmean(returns) / sd * math.sqrt(BARS_PER_YEAR), rel=1e-12
    )
    assert 0.0 < found.sharpe < found.sharpe_measured
    assert found == fold_reference(returns, lengths, BARS_PER_YEAR, "model", "180d"), "seeded by its words"


def test_returns_that_depend_on_each_other_have_a_larger_variance_ratio() -> None:
    independent = noise(8, 2_000, 0.001)
    smoothed = np.convolve(noise(9, 2_007), np.full(8, 1.0 / 8.0), mode="valid") + 0.001
    one = fold_reference(independent, [2_000], BARS_PER_YEAR, "x")
    other = fold_reference(smoothed, [2_000], BARS_PER_YEAR, "x")
    assert one is not None
    assert other is not None
    assert 1.0 <= one.variance_ratio < 1.3
    assert 4.0 < other.variance_ratio < 10.0, "eight in the limit; blocks of 24 bars see most of it"


def test_folds_that_are_consistent_with_a_loss_promise_nothing() -> None:
    found = fold_reference(noise(10, 500, -0.002), [500], BARS_PER_YEAR, "x")
    assert found is not None
    assert (found.mean, found.sharpe) == (0.0, 0.0)
    assert found.sharpe_measured < 0.0


@pytest.mark.parametrize("returns", [noise(11, MIN_RETURNS - 1), np.zeros(500), np.full(500, 0.01)])
def test_too_few_or_constant_returns_are_no_reference(returns: Float) -> None:
    assert fold_reference(returns, [len(returns)], BARS_PER_YEAR, "x") is None


# --- a watch ------------------------------------------------------------------------------------------------


def test_it_is_too_early_before_the_first_look() -> None:
    crash = np.full(MIN_RETURNS, -0.05)
    assert watch(REFERENCE, crash[1:]) is None
    found = watch(REFERENCE, crash)
    assert found is not None
    assert found.alarm_index == MIN_RETURNS - 1
    assert found.sharpe_observed is None, "the returns are constant"
    assert found.total_return == pytest.approx(0.95**MIN_RETURNS - 1.0)


def test_figures_are_those_up_to_the_alarm() -> None:
    returns = noise(12, 3_000, -0.002)
    found = watch(REFERENCE, returns)
    assert found is not None
    assert found.alarm_index is not None
    assert 50 <= found.n_returns == found.alarm_index + 1 < 3_000
    seen = list(returns[: found.n_returns])
    assert found.sharpe_observed == pytest.approx(
        statistics.fmean(seen) / statistics.stdev(seen) * math.sqrt(BARS_PER_YEAR)
    )
    assert found.total_return == pytest.approx(math.prod(1.0 + r for r in seen) - 1.0)
    assert found.statistic == pytest.approx(math.fsum(2e-4 - r for r in seen))
    assert found.statistic > found.boundary
    assert found.sharpe_reference == pytest.approx(0.02 * math.sqrt(BARS_PER_YEAR))
    assert watch(REFERENCE, returns[: found.n_returns]) == found


def test_a_model_that_does_nothing_any_more_alarms_in_the_end() -> None:
    found = watch(dataclasses.replace(REFERENCE, mean=0.0006), np.zeros(20_000))
    assert found is not None
    assert found.alarm_index is not None
    assert found.sharpe_observed is None


# --- error rates --------------------------------------------------------------------------------------------


def test_false_alarms_stay_within_what_is_promised() -> None:
    """At the very edge of the promise, looked at after each of 4,000 bars; and it is not idle."""
    n_paths, alpha = 2_000, FALSE_ALARM_RATE
    reference = dataclasses.replace(REFERENCE, variance_ratio=1.0)
    returns = seeded("false alarms").normal(reference.mean, reference.sd, (n_paths, 4_000))
    rate = float(np.mean(first_alarms(reference, returns) >= 0))
    limit = alpha + 3.0 * math.sqrt(alpha * (1.0 - alpha) / n_paths)
    assert 0.01 < rate <= limit


def test_dependent_returns_do_not_alarm_more_often() -> None:
    """Moving averages over eight bars: the reference is made of folds that show it."""
    rng = seeded("dependent")
    kernel = np.full(8, 1.0 / math.sqrt(8.0))
    alarms = 0
    n_paths = 200
    for path in range(n_paths):
        steps = rng.normal(0.0, 0.01, 3_007)
        returns = np.convolve(steps, kernel, mode="valid")
        folds, future = returns[:1_000] + 0.002, returns[1_000:]
        reference = fold_reference(folds, [200] * 5, BARS_PER_YEAR, str(path))
        assert reference is not None
        promised = dataclasses.replace(reference, mean=0.0)
        alarms += int(first_alarms(promised, future[None, :])[0] >= 0)
        assert reference.variance_ratio > 2.0
    rate = alarms / n_paths
    assert rate <= FALSE_ALARM_RATE + 3.0 * math.sqrt(FALSE_ALARM_RATE * 0.95 / n_paths)


def test_an_edge_that_has_turned_round_is_found_in_most_cases_within_a_year() -> None:
    reference = dataclasses.replace(REFERENCE, mean=0.0006, variance_ratio=1.0)
    rng = seeded("reversed")
    reversed_edge = rng.normal(-reference.mean, reference.sd, (500, int(BARS_PER_YEAR)))
    found = first_alarms(reference, reversed_edge)
    assert np.mean(found >= 0) > 0.95
    assert np.mean(found[found >= 0]) < 0.5 * BARS_PER_YEAR
