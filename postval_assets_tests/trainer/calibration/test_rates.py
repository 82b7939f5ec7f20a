"""Intervals and what is possible: published values, and the definition of the interval itself."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.trainer.calibration.rates import (
    archives_with,
    clopper_pearson,
    decided,
    decided_at,
    level_of_one,
    mean_of,
    possible_power,
    rate,
)
from postval_assets_tests.trainer.calibration.calibration_cases import judged


@pytest.mark.parametrize(
    ("events", "n", "low", "high"),
    [
        # Tables of the exact binomial interval, as binom.test of R gives them.
        (0, 10, 0.0, 0.3084971),
        (10, 10, 0.6915029, 1.0),
        (5, 10, 0.1870860, 0.8129140),
        (1, 20, 0.001265089, 0.2487328),
        (4, 100, 0.01100449, 0.09925716),
    ],
)
def test_interval_is_the_published_one(events: int, n: int, low: float, high: float) -> None:
    assert clopper_pearson(events, n) == pytest.approx((low, high), abs=5e-8)


def test_nothing_of_nothing_says_nothing() -> None:
    assert clopper_pearson(0, 0) == (0.0, 1.0)
    assert rate(0, 0).share is None


def test_what_is_no_share_is_refused() -> None:
    with pytest.raises(ValueError, match="no share"):
        clopper_pearson(3, 2)


@given(st.integers(1, 300).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_each_end_leaves_two_and_a_half_percent(case: tuple[int, int]) -> None:
    events, n = case
    low, high = clopper_pearson(events, n)

    def chance(p: float, counts: range) -> float:
        return math.fsum(math.comb(n, k) * p**k * (1.0 - p) ** (n - k) for k in counts)

    if events > 0:
        assert chance(low, range(events, n + 1)) == pytest.approx(0.025, rel=1e-6)
    if events < n:
        assert chance(high, range(events + 1)) == pytest.approx(0.025, rel=1e-6)
    assert low <= events / n <= high


@pytest.mark.parametrize(
    ("days", "powers"),
    [(180, (0.05, 0.16, 0.39, 0.87)), (365, (0.14, 0.47, 0.82, 0.998))],
)
def test_possible_power_is_the_table_of_the_evidence_page(days: int, powers: tuple[float, ...]) -> None:
    for sharpe, power in zip((2.0, 3.0, 4.0, 6.0), powers, strict=True):
        assert possible_power(sharpe, days, 50) == pytest.approx(
            power, abs=0.0051 if power < 0.99 else 0.0005
        )


def test_possible_power_without_an_edge_is_the_level_of_one() -> None:
    assert possible_power(0.0, 180, 50) == pytest.approx(level_of_one(50))
    # Fifty independent models at that level: any of them in 5 % of archives.
    assert 1.0 - (1.0 - level_of_one(50)) ** 50 == pytest.approx(0.05)


def test_an_archive_counts_once_however_many_of_its_models_are_live() -> None:
    archives = [[judged("LIVE"), judged("LIVE")], [judged("DROP"), judged("PAPER")], [judged("DROP")]]
    assert (
        archives_with(archives, "evidence", "LIVE").events,
        archives_with(archives, "evidence", "LIVE").n,
    ) == (1, 3)
    models = [m for a in archives for m in a]
    assert (decided(models, "evidence", "LIVE").events, decided(models, "evidence", "LIVE").n) == (2, 5)
    assert decided(models, "standard", "LIVE").events == 0


def test_decisions_of_another_size_are_those_of_that_size() -> None:
    model = judged("RETRAIN", by_trials=((1, "LIVE"), (10, "PAPER"), (50, "RETRAIN"), (200, "RETRAIN")))
    assert decided_at([model], 1, "LIVE").events == 1
    assert decided_at([model], 50, "LIVE").events == 0


def test_mean_leaves_out_what_is_not_defined() -> None:
    found = mean_of([1.0, None, 3.0])
    assert (found.mean, found.n) == (2.0, 2)
    assert found.standard_error == pytest.approx(1.0)
    assert mean_of([None]).mean is None
    assert mean_of([2.0]).standard_error is None
