"""The summary of a plan's folds against plain sums, and rows of the rules' table worked out by hand."""

from __future__ import annotations

import dataclasses
import math

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from postval_assets.core.walk_forward import (
    ONE_LUCKY_PERIOD,
    FoldOutcome,
    FoldStatus,
    Grade,
    GradeLimits,
    summarize,
)
from postval_assets_tests.core.fold_cases import missing, ok, plain_folds, plans_of_folds
from postval_assets_tests.core.plain_metrics import plain_summary

LIMITS = GradeLimits()
GRADES = {
    "grade_positive_share": "consistency_grade",
    "grade_sharpe_std": "stability_grade",
    "grade_returns": "profitability_grade",
}


@settings(max_examples=250, deadline=None)
@given(plans_of_folds(), st.floats(100.0, 20_000.0))
def test_agrees_with_plain_sums(made, bars_per_year):
    folds, n_folds = made
    expected = plain_summary(plain_folds(folds, n_folds), bars_per_year)
    std = expected["sharpe_std"]
    assume(std is None or min(abs(std - 1.0), abs(std - 2.0)) > 1e-9)  # the edges are below, exactly
    found = summarize(folds, n_folds, bars_per_year, LIMITS)
    for name, value in expected.items():
        if name in GRADES or name == "one_lucky_period":
            continue
        assert getattr(found, name) == (
            None if value is None else pytest.approx(value, rel=1e-9, abs=1e-12)
        ), name
    for name, ours in GRADES.items():
        # Where nothing was computed the rules grade no returns; nothing is then better than POOR.
        assert getattr(found, ours) == (expected[name] or "POOR"), name
    assert (ONE_LUCKY_PERIOD in found.reasons) == expected["one_lucky_period"]


@settings(max_examples=100, deadline=None)
@given(plans_of_folds(), st.randoms(use_true_random=False))
def test_the_order_of_folds_does_not_matter(made, random):
    folds, n_folds = made
    shuffled = list(folds)
    random.shuffle(shuffled)
    before, after = (summarize(f, n_folds, 2000.0, LIMITS) for f in (folds, shuffled))
    for field in dataclasses.fields(before):
        value = getattr(before, field.name)
        same = pytest.approx(value, rel=1e-9, abs=1e-12) if isinstance(value, float) else value
        assert getattr(after, field.name) == same


@settings(max_examples=100, deadline=None)
@given(plans_of_folds())
def test_figures_keep_their_bounds(made):
    folds, n_folds = made
    s = summarize(folds, n_folds, 2000.0, LIMITS)
    assert 0 <= s.positive_folds <= s.n_computed <= s.n_folds
    if s.n_computed:
        assert s.return_min <= s.return_sum / s.n_computed + 1e-12
        assert s.return_max >= s.return_sum / s.n_computed - 1e-12
    if s.best_fold_share is not None:
        assert 1 / s.positive_folds - 1e-12 <= s.best_fold_share <= 1.0
    assert all(v is None or math.isfinite(v) for v in dataclasses.asdict(s).values() if isinstance(v, float))


def folds_with(positive: int, n_folds: int, sharpes: tuple[float, ...] | None = None) -> list[FoldOutcome]:
    """So many folds that gain 1 %, the others lose 1 %."""
    sharpes = sharpes or (1.0,) * n_folds
    return [
        ok(0.01 if i < positive else -0.01, sharpe=sharpes[i % len(sharpes)], fold=i + 1)
        for i in range(n_folds)
    ]


@pytest.mark.parametrize(
    ("positive", "n_folds", "grade"),
    [
        (5, 5, "GOOD"),
        (4, 5, "GOOD"),
        (3, 5, "MARGINAL"),
        (2, 5, "POOR"),
        (8, 10, "GOOD"),
        (7, 10, "MARGINAL"),
        (6, 10, "MARGINAL"),
        (5, 10, "POOR"),
        (0, 5, "POOR"),
    ],
)
def test_grade_of_the_positive_share(positive: int, n_folds: int, grade: str) -> None:
    assert summarize(folds_with(positive, n_folds), n_folds, 2000.0, LIMITS).consistency_grade == grade


def test_shares_are_compared_as_the_fractions_that_they_are() -> None:
    limits = dataclasses.replace(LIMITS, good_positive_share=0.7, marginal_positive_share=0.1 + 0.2)
    assert summarize(folds_with(7, 10), 10, 2000.0, limits).consistency_grade is Grade.GOOD
    assert summarize(folds_with(3, 10), 10, 2000.0, limits).consistency_grade is Grade.MARGINAL


@pytest.mark.parametrize(
    ("sharpes", "std", "grade"),
    [
        ((1.0, 1.0, 1.0), 0.0, "GOOD"),
        ((0.0, 0.875, 1.75), 0.875, "GOOD"),
        ((0.0, 1.0, 2.0), 1.0, "MARGINAL"),
        ((0.0, 2.0, 4.0), 2.0, "MARGINAL"),
        ((0.0, 2.125, 4.25), 2.125, "POOR"),
        ((1.0, None, None), None, "POOR"),
        ((None, None, None), None, "POOR"),
    ],
)
def test_grade_of_the_sharpe_spread(sharpes, std, grade) -> None:
    found = summarize([ok(0.01, sharpe=s) for s in sharpes], 3, 2000.0, LIMITS)
    assert found.sharpe_std == std
    assert found.stability_grade == grade


@pytest.mark.parametrize(
    ("returns", "grade"),
    [
        ((0.01, 0.02), "GOOD"),
        ((0.01, 0.0), "MARGINAL"),
        ((0.01, -0.01), "MARGINAL"),
        ((0.01, -0.01, -0.02), "POOR"),
        ((-0.01, -0.01, 0.0, 0.0), "MARGINAL"),
        ((-0.01,), "POOR"),
        ((0.0, 0.0), "MARGINAL"),
        ((), "POOR"),
    ],
)
def test_grade_of_the_returns(returns, grade) -> None:
    folds = [ok(r) for r in returns] + [missing()] * (5 - len(returns))
    assert summarize(folds, 5, 2000.0, LIMITS).profitability_grade == grade


@pytest.mark.parametrize(
    ("returns", "lucky"),
    [
        ((0.30, 0.01, -0.01, -0.01, -0.01), True),
        ((0.30, 0.01, 0.01, -0.01, -0.01), False),
        ((0.02, 0.01, -0.01, -0.01, -0.01), False),
        ((0.25, 0.25, -0.25, -0.125, -0.125), False),
        ((0.30, 0.0, 0.0, 0.0, 0.0), True),
    ],
    ids=["two of five", "three of five", "a loss in sum", "nothing in sum", "one of five"],
)
def test_one_lucky_period(returns, lucky) -> None:
    found = summarize([ok(r) for r in returns], 5, 2000.0, LIMITS)
    assert (found.reasons == (ONE_LUCKY_PERIOD,)) == lucky


def test_a_fold_that_is_not_computed_counts_against_the_share() -> None:
    folds = [ok(0.01), ok(0.01), ok(0.01), missing(), missing(FoldStatus.BROKEN_POLICY, 800)]
    found = summarize(folds, 5, 2000.0, LIMITS)
    assert (found.positive_folds, found.n_computed, found.positive_share) == (3, 3, 0.6)
    only_three_rows = summarize(folds[:3], 5, 2000.0, LIMITS)
    assert dataclasses.replace(only_three_rows) == found


def test_the_expected_spread_of_five_folds_over_180_days() -> None:
    """The rules' own example: 3.2 for folds of 36 days, whatever their bars."""
    for bars_per_day in (24, 7):
        folds = [ok(0.01, n_bars=36 * bars_per_day)] * 5
        found = summarize(folds, 5, 365.25 * bars_per_day, LIMITS)
        assert found.sharpe_std_expected == pytest.approx(math.sqrt(365.25 / 36))
        assert round(found.sharpe_std_expected, 1) == 3.2


def test_nothing_computed_leaves_nothing_defined() -> None:
    for folds in ([], [missing(n_bars=0)] * 5):
        found = summarize(folds, 5, 0.0, LIMITS)
        assert (found.n_computed, found.positive_folds, found.positive_share) == (0, 0, 0.0)
        undefined = (
            "sharpe_mean",
            "sharpe_std",
            "sharpe_min",
            "sharpe_std_expected",
            "return_min",
            "return_sum",
        )
        assert [getattr(found, name) for name in undefined] == [None] * 6
        assert found.best_fold_share is None
        assert found.reasons == ()


def test_the_texts_own_example() -> None:
    """Sharpe Range: -3.67 to 2.36, Sharpe Mean: -1.18 (+/- 2.17), Positive Folds: 2/5 are of this shape."""
    sharpes = (-3.67, -2.0, -1.5, 0.31, 2.36)
    folds = [ok(0.01 if s > 0 else -0.01, sharpe=s) for s in sharpes]
    found = summarize(folds, 5, 2000.0, LIMITS)
    assert (found.sharpe_min, found.sharpe_max, found.positive_folds) == (-3.67, 2.36, 2)
    assert found.sharpe_mean == pytest.approx(-0.9)
    # Squared distances from -0.9: 7.6729, 1.21, 0.36, 1.4641, 10.6276; their sum over 4 is 5.33365.
    assert found.sharpe_std == pytest.approx(math.sqrt(5.33365))
    grades = (found.consistency_grade, found.stability_grade, found.profitability_grade)
    assert grades == ("POOR", "POOR", "POOR")
