"""A model against its predecessor: figures against plain computations, and how often the test is wrong."""

from __future__ import annotations

import dataclasses
import math
import random
import statistics
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.bootstrap import MEAN_BLOCK_BARS, seeded, shrinkage
from postval_assets.core.champion import (
    SIGNIFICANCE,
    Comparison,
    Float,
    ModelFold,
    Verdict,
    champion_note,
    compare,
    not_compared,
    whole_returns,
)
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.walk_forward import FoldStatus

HOURLY = 8766.0
N_FOLDS, N_RETURNS = 5, 120


def fold(number: int, returns: Sequence[float] | Float, **how: object) -> ModelFold:
    """A fold that was computed and counts, unless ``how`` says otherwise."""
    values = np.asarray(returns, dtype=np.float64)
    known = ModelFold(
        number,
        FoldStatus.OK,
        TrainingOverlap.OUT_OF_SAMPLE,
        math.prod((1.0 + r) for r in values.tolist()) - 1.0,
        values,
    )
    return dataclasses.replace(known, **how)  # type: ignore[arg-type]


def noise(seed: int, mean: float = 0.0, n_folds: int = N_FOLDS, n: int = N_RETURNS) -> list[Float]:
    rng = np.random.default_rng(seed)
    return [rng.normal(mean, 0.01, n) for _ in range(n_folds)]


def model(parts: Sequence[Float]) -> list[ModelFold]:
    return [fold(number, part) for number, part in enumerate(parts, start=1)]


def run(challenger: Sequence[ModelFold], champion: Sequence[ModelFold], seed: str = "a") -> Comparison:
    return compare(challenger, champion, HOURLY, seeded(seed))


def plain_sharpe(values: Sequence[float]) -> float:
    mean = math.fsum(values) / len(values)
    return mean / math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1))


def plain_differences(a: Sequence[Float], b: Sequence[Float], n_resamples: int) -> list[float]:
    """The stationary bootstrap as its definition says it, bar by bar, with other random numbers."""
    rng = random.Random(7)  # noqa: S311 - not for secrets, and not NumPy's
    pairs = [(x.tolist(), y.tolist()) for x, y in zip(a, b, strict=True)]
    differences = []
    for _ in range(n_resamples):
        first, second = [], []
        for mine, other in pairs:
            at = 0
            for i in range(len(mine)):
                at = (
                    rng.randrange(len(mine))
                    if i == 0 or rng.random() < 1.0 / MEAN_BLOCK_BARS
                    else (at + 1) % len(mine)
                )
                first.append(mine[at])
                second.append(other[at])
        differences.append(plain_sharpe(first) - plain_sharpe(second))
    return differences


# --- figures ------------------------------------------------------------------------------------------------


def test_figures_are_those_of_a_plain_computation() -> None:
    a = noise(1, 0.002)
    b = [0.6 * x + y for x, y in zip(a, noise(2), strict=True)]
    found = run(model(a), model(b))
    annual = math.sqrt(HOURLY)
    flat_a = [float(r) for part in a for r in part]
    flat_b = [float(r) for part in b for r in part]
    assert found.challenger_sharpe == pytest.approx(plain_sharpe(flat_a) * annual)
    assert found.champion_sharpe == pytest.approx(plain_sharpe(flat_b) * annual)
    assert found.sharpe_difference == pytest.approx((plain_sharpe(flat_a) - plain_sharpe(flat_b)) * annual)
    assert found.n_folds_compared == N_FOLDS
    assert found.n_returns == N_FOLDS * N_RETURNS
    totals = [math.prod(1.0 + float(r) for r in part) - 1.0 for part in a]
    assert found.challenger_return == pytest.approx(sum(totals))
    assert found.challenger_positive_folds == sum(t > 0.0 for t in totals)
    assert found.reason is None

    # What is drawn from short folds varies too little, and is widened around what was measured (bootstrap.py).
    measured = plain_sharpe(flat_a) - plain_sharpe(flat_b)
    wider = math.sqrt(shrinkage([N_RETURNS] * N_FOLDS))
    plain = sorted(measured + (d - measured) / wider for d in plain_differences(a, b, 1_000))
    assert found.difference_se == pytest.approx(statistics.stdev(plain) * annual, rel=0.08)
    spread = statistics.stdev(plain) * annual
    assert found.difference_low == pytest.approx(plain[50] * annual, abs=0.2 * spread)
    assert found.difference_high == pytest.approx(plain[-51] * annual, abs=0.2 * spread)
    assert found.sharpe_difference is not None
    assert found.difference_se is not None
    # 2 * (1 - Phi(z)) = erfc(z / sqrt(2))
    z = abs(found.sharpe_difference) / found.difference_se
    assert found.p_value == pytest.approx(math.erfc(z / math.sqrt(2.0)), rel=1e-9)


def test_what_the_market_does_to_both_cancels_out() -> None:
    market = noise(3)
    a = [m + e for m, e in zip(market, noise(4, 0.0005), strict=True)]
    paired = run(model(a), model(market)).difference_se
    apart = run(model(a), model(noise(5))).difference_se
    assert paired is not None
    assert apart is not None
    assert paired < 0.8 * apart


def test_the_same_with_a_steady_gain_in_every_bar_is_better() -> None:
    b = noise(6)
    found = run(model([part + 0.001 for part in b]), model(b))
    assert found.verdict is Verdict.CHALLENGER_BETTER
    assert found.difference_low is not None
    assert found.difference_low > 0.0
    assert run(model(b), model([part + 0.001 for part in b])).verdict is Verdict.CHAMPION_BETTER


def test_models_that_are_alike_are_rarely_told_apart() -> None:
    verdicts = [
        run(model(noise(1000 + 2 * n)), model(noise(1001 + 2 * n)), str(n)).verdict for n in range(200)
    ]
    wrong = sum(v is not Verdict.NO_DIFFERENCE_SHOWN for v in verdicts)
    # Binomial(200, 0.05): 21 or more comes up in less than one case of a thousand.
    assert wrong <= 20
    assert wrong > 0, "a test that never errs has no power"


@settings(max_examples=40, deadline=None)
@given(
    seed=st.integers(0, 2**31),
    mean=st.floats(-0.005, 0.005),
    lengths=st.lists(st.integers(2, 60), min_size=1, max_size=4),
)
def test_exchanging_the_two_turns_the_signs_round(seed: int, mean: float, lengths: list[int]) -> None:
    rng = np.random.default_rng(seed)
    a = model([rng.normal(mean, 0.01, n) for n in lengths])
    b = model([rng.normal(0.0, 0.02, n) for n in lengths])
    one, other = run(a, b), run(b, a)
    swapped = {
        Verdict.CHALLENGER_BETTER: Verdict.CHAMPION_BETTER,
        Verdict.CHAMPION_BETTER: Verdict.CHALLENGER_BETTER,
    }
    assert other.verdict is swapped.get(one.verdict, one.verdict)
    assert other.challenger_sharpe == one.champion_sharpe
    assert other.champion_positive_folds == one.challenger_positive_folds
    if one.verdict is Verdict.NOT_COMPARED:
        return
    assert one.sharpe_difference is not None
    assert one.difference_low is not None
    assert one.difference_high is not None
    assert other.sharpe_difference == pytest.approx(-one.sharpe_difference, abs=1e-9)
    assert other.p_value == pytest.approx(one.p_value, rel=1e-6)
    assert other.difference_se == pytest.approx(one.difference_se, rel=1e-6)
    assert other.difference_low == pytest.approx(-one.difference_high, rel=1e-6)
    assert other.difference_high == pytest.approx(-one.difference_low, rel=1e-6)
    assert (one.p_value <= SIGNIFICANCE) == (one.verdict is not Verdict.NO_DIFFERENCE_SHOWN)  # type: ignore[operator]


# --- which folds --------------------------------------------------------------------------------------------


def test_only_folds_that_count_for_both_are_compared() -> None:
    a, b = model(noise(8)), model(noise(9))
    a[0] = dataclasses.replace(a[0], training_overlap=TrainingOverlap.IN_TRAIN)
    b[1] = dataclasses.replace(b[1], training_overlap=TrainingOverlap.OVERLAP)
    b[2] = dataclasses.replace(
        b[2], status=FoldStatus.INSUFFICIENT_DATA, total_return=None, returns=np.zeros(0)
    )
    b[3] = dataclasses.replace(b[3], training_overlap=TrainingOverlap.UNKNOWN)
    found = run(a, b)
    assert found == run(a[3:], b[3:])
    assert found.n_folds_compared == 2
    assert found.n_returns == 2 * N_RETURNS


def test_folds_of_which_none_counts_for_both_say_why() -> None:
    a, b = model(noise(8)), model(noise(9))
    seen = [dataclasses.replace(f, training_overlap=TrainingOverlap.IN_TRAIN) for f in b]
    found = run(a, seen)
    assert found == not_compared("no fold counts for both: challenger 5 of 5; champion 0 of 5 (5 IN_TRAIN)")
    broken = [dataclasses.replace(f, status=FoldStatus.BROKEN_POLICY) for f in a[:2]]
    assert run([*broken, *seen[2:]], b) == not_compared(
        "no fold of the challenger counts: 0 of 5 (2 BROKEN_POLICY, 3 IN_TRAIN)"
    )
    assert run([], b).verdict is Verdict.NOT_COMPARED


def test_folds_with_other_bars_are_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="have other bars in the two models"):
        run(model(noise(1)), model(noise(1, n=N_RETURNS - 1)))


def test_equal_returns_are_no_comparison() -> None:
    found = run(model(noise(8)), model(noise(8)))
    assert (found.verdict, found.reason) == (Verdict.NOT_COMPARED, "both have the same return in every bar")
    assert found.challenger_sharpe == found.champion_sharpe is not None
    assert found.n_folds_compared == N_FOLDS
    assert found.p_value is None


@pytest.mark.parametrize("swap", [False, True])
def test_a_model_that_never_traded_has_no_sharpe_ratio_to_compare(swap: bool) -> None:
    still = [fold(n, np.zeros(N_RETURNS), status=FoldStatus.NO_TRADES) for n in range(1, N_FOLDS + 1)]
    found = run(model(noise(8)), still) if swap else run(still, model(noise(8)))
    who = "champion" if swap else "challenger"
    assert found.verdict is Verdict.NOT_COMPARED
    assert found.reason == f"no Sharpe ratio of the {who}: its returns are constant"
    assert (found.challenger_sharpe is None) == (not swap)
    assert (found.champion_return if swap else found.challenger_return) == 0.0
    assert found.sharpe_difference is None


def test_a_ruined_fold_has_no_returns_after_its_ruin() -> None:
    assert whole_returns(np.array([100.0, 110.0, 0.0]), 6).tolist() == pytest.approx(
        [0.1, -1.0, 0.0, 0.0, 0.0]
    )
    assert whole_returns(np.array([100.0, 110.0, 99.0]), 3).tolist() == pytest.approx([0.1, -0.1])
    assert whole_returns(np.array([100.0]), 1).tolist() == []
    for equity, n_bars in (([100.0, 110.0], 3), ([], 3), ([100.0, 110.0, 99.0], 2)):
        with pytest.raises(ValueError, match=f"{len(equity)} points of equity in a fold of {n_bars} bars"):
            whole_returns(np.array(equity), n_bars)


def test_a_ruined_model_is_compared_with_one_that_was_not() -> None:
    parts = noise(8, 0.001)
    equity = 100_000.0 * np.cumprod([1.0, *(1.0 + parts[4][:40]), 0.0])
    returns = whole_returns(equity, N_RETURNS + 1)
    ruined = [*model(parts)[:4], fold(5, returns, status=FoldStatus.RUINED)]
    found = run(model(parts), ruined)
    assert found.n_returns == N_FOLDS * N_RETURNS
    assert found.sharpe_difference is not None
    assert found.sharpe_difference > 0.0
    totals = [f.total_return for f in model(parts)[:4] if f.total_return is not None]
    assert found.champion_return == pytest.approx(sum(totals) - 1.0)


# --- words --------------------------------------------------------------------------------------------------

SHOWN = Comparison(
    Verdict.CHALLENGER_BETTER,
    n_folds_compared=5,
    sharpe_difference=1.2,
    difference_low=0.1,
    difference_high=2.3,
    p_value=0.04,
)


@pytest.mark.parametrize(
    ("found", "words"),
    [
        (
            SHOWN,
            "CHAMPION: challenger better than 20241220_221500 by Sharpe 1.20 (90 % 0.10 .. 2.30, p 0.04, 5 folds)",
        ),
        (
            dataclasses.replace(
                SHOWN,
                verdict=Verdict.CHAMPION_BETTER,
                sharpe_difference=-1.2,
                difference_low=-2.3,
                difference_high=-0.1,
                p_value=1e-9,
            ),
            "CHAMPION: champion 20241220_221500 better by Sharpe 1.20 (90 % 0.10 .. 2.30, p < 0.001, 5 folds)",
        ),
        (
            dataclasses.replace(
                SHOWN, verdict=Verdict.NO_DIFFERENCE_SHOWN, difference_low=-0.5, p_value=0.31
            ),
            "CHAMPION: no difference from 20241220_221500 shown: Sharpe +1.20 (90 % -0.50 .. 2.30, p 0.31, 5 folds)",
        ),
        (
            not_compared("it is the same model"),
            "CHAMPION: not compared with 20241220_221500: it is the same model",
        ),
    ],
)
def test_a_comparison_in_words(found: Comparison, words: str) -> None:
    assert champion_note(found, "20241220_221500") == words
