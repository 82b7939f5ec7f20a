from __future__ import annotations

import math

import numpy as np
import pytest

from postval_assets.core.archive_evidence import (
    FoldReturns,
    archive_reasons,
    common_calendar,
    deflate,
    fold_counts,
    fold_returns,
    model_reasons,
    on_calendar,
    overfitting,
)
from postval_assets.core.evidence import (
    Float,
    ReturnMoments,
    expected_maximum_sharpe,
    probabilistic_sharpe_ratio,
    probability_of_backtest_overfitting,
)
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.walk_forward import FoldStatus

START = np.datetime64("2025-01-01T00", "us")
NORMAL = ReturnMoments(n_obs=1001, sharpe=0.05, skew=0.0, kurtosis=3.0)


def hours(*numbers: int) -> np.ndarray:
    return START + np.array(numbers) * np.timedelta64(1, "h")


def noise(n_bars: int, seed: int) -> Float:
    return np.random.default_rng(seed).standard_normal(n_bars) * 0.01


# --- which returns count ------------------------------------------------------------------------------------


def test_no_return_leads_from_fold_to_fold() -> None:
    found = fold_returns(
        np.array([1, 1, 1, 2, 2]), hours(1, 2, 3, 4, 5), np.array([100.0, 110.0, 99.0, 100.0, 150.0])
    )
    assert found.returns == pytest.approx([0.1, -0.1, 0.5])
    assert list(found.closes) == list(hours(2, 3, 5))


def test_a_fold_may_end_in_ruin_and_the_next_begins_anew() -> None:
    found = fold_returns(np.array([1, 1, 2, 2]), hours(1, 2, 3, 4), np.array([100.0, 0.0, 100.0, 101.0]))
    assert found.returns == pytest.approx([-1.0, 0.01])
    assert len(fold_returns(np.array([], np.int64), hours(), np.array([])).returns) == 0


@pytest.mark.parametrize("overlap", TrainingOverlap)
def test_only_computed_folds_on_unseen_bars_count(overlap: TrainingOverlap) -> None:
    unseen = overlap in ("OUT_OF_SAMPLE", "UNKNOWN")
    for status in FoldStatus:
        assert fold_counts(status, overlap) == (unseen and status in ("OK", "NO_TRADES", "RUINED"))


# --- deflation ----------------------------------------------------------------------------------------------


def test_a_single_trial_is_not_deflated() -> None:
    [found] = deflate([NORMAL], [252.0], n_trials=1)
    assert found.sharpe == pytest.approx(0.05 * math.sqrt(252))
    assert found.benchmark == 0.0
    assert found.dsr == probabilistic_sharpe_ratio(0.05, 1001, 0.0, 3.0)


def test_the_variance_is_taken_over_annual_sharpes_and_brought_to_each_frequency() -> None:
    """Hourly crypto and hourly equities with annual Sharpes of 4 and 0 have one annual benchmark."""
    per_year = [8766.0, 1700.0]
    models = [
        ReturnMoments(4000, 4 / math.sqrt(8766), 0.0, 3.0),
        ReturnMoments(900, 0.0, 0.0, 3.0),
    ]
    found = deflate(models, per_year, n_trials=20)
    annual_variance = 8.0  # of 4 and 0, ddof 1
    for one, model, frequency in zip(found, models, per_year, strict=True):
        benchmark = expected_maximum_sharpe(20, annual_variance)
        assert one.benchmark == pytest.approx(benchmark)
        assert one.dsr == pytest.approx(
            probabilistic_sharpe_ratio(model.sharpe, model.n_obs, 0.0, 3.0, benchmark / math.sqrt(frequency))
        )


def test_models_that_resemble_each_other_do_not_make_luck_smaller() -> None:
    found = deflate([NORMAL, NORMAL, NORMAL], [252.0] * 3, n_trials=3)
    least = expected_maximum_sharpe(3, 1 / 1000)
    assert [f.benchmark for f in found] == pytest.approx([least * math.sqrt(252)] * 3)
    assert found[0].dsr == pytest.approx(probabilistic_sharpe_ratio(0.05, 1001, 0.0, 3.0, least))
    # one evaluated model of many tried ones: its own sampling variance is all that is known
    [alone] = deflate([NORMAL], [252.0], n_trials=3)
    assert alone == found[0]
    assert deflate([], [], n_trials=3) == []


# --- one calendar -------------------------------------------------------------------------------------------


def test_models_on_the_same_bars_keep_their_returns() -> None:
    model = FoldReturns(hours(2, 3, 4, 6, 7), noise(5, 1))
    calendar = common_calendar(model, hours(1)[0], hours(7)[0])
    assert list(calendar) == list(hours(1, 2, 3, 4, 6, 7))
    assert on_calendar(model, calendar) == pytest.approx(model.returns, abs=1e-15)


def test_a_denser_model_s_returns_fall_into_the_sparser_one_s_bars() -> None:
    sparse = FoldReturns(hours(10, 20, 30), np.array([0.5, 0.5, 0.5]))
    dense = FoldReturns(hours(4, 9, 10, 11, 20, 29, 35), np.array([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0]))
    calendar = common_calendar(sparse, hours(4)[0], hours(30)[0])
    assert list(calendar) == list(hours(4, 10, 20, 30))
    # the first one was earned before all models had begun, the last one after one had ended
    assert list(on_calendar(dense, calendar)) == [6.0, 24.0, 32.0]


def test_pbo_is_that_of_the_models_side_by_side() -> None:
    columns = [noise(160, seed) for seed in range(10)]
    found = overfitting(columns, n_evaluated=12)
    assert found.reason is None
    assert found.pbo is not None
    assert found.pbo == probability_of_backtest_overfitting(np.column_stack(columns), 8)


def test_pbo_says_what_it_lacks() -> None:
    columns = [noise(160, seed) for seed in range(9)]
    few = overfitting([*columns, np.zeros(160)], n_evaluated=12)
    assert few.pbo is None
    assert few.reason is not None
    assert few.reason.startswith("TOO_FEW_MODELS: 9 of 12 ")
    assert "10 needed" in few.reason
    assert overfitting([], n_evaluated=0).reason is not None
    short = overfitting([noise(79, seed) for seed in range(10)], n_evaluated=10)
    assert short.pbo is None
    assert short.reason == "NO_COMMON_CALENDAR: 79 bars are common to 10 models, 80 needed for pbo"
    assert overfitting([np.array([])] * 10, n_evaluated=10).pbo is None


# --- reasons ------------------------------------------------------------------------------------------------


def test_reasons_of_a_model() -> None:
    ok, oos = FoldStatus.OK, TrainingOverlap.OUT_OF_SAMPLE
    assert model_reasons([(ok, oos)] * 5, 5, NORMAL) == ()
    assert model_reasons([(ok, oos)] * 5, 5, None) == ("CONSTANT_RETURNS: no Sharpe ratio",)
    mixed = [
        (ok, TrainingOverlap.IN_TRAIN),
        (ok, TrainingOverlap.OVERLAP),
        (ok, TrainingOverlap.UNKNOWN),
        (FoldStatus.BROKEN_POLICY, oos),
    ]
    assert model_reasons(mixed, 5, NORMAL) == (
        "NOT_OUT_OF_SAMPLE: 2 of 5 folds (IN_TRAIN, OVERLAP)",
        "INCOMPLETE: 3 of 5 folds computed",
        "TRAINING_WINDOW_UNKNOWN",
    )
    # a fold without bars has no window to be known
    none = [(FoldStatus.INSUFFICIENT_DATA, TrainingOverlap.UNKNOWN)] * 5
    assert model_reasons(none, 5, None) == (
        "NO_EVIDENCE: 0 of 5 folds count",
        "INCOMPLETE: 0 of 5 folds computed",
    )


def test_reasons_of_an_archive_count_models() -> None:
    models = [
        ["INCOMPLETE: 3 of 5 folds computed", "TRAINING_WINDOW_UNKNOWN"],
        ["TRAINING_WINDOW_UNKNOWN"],
        [],
    ]
    assert archive_reasons(models) == (
        "INCOMPLETE: 1 of 3 models with folds",
        "TRAINING_WINDOW_UNKNOWN: 2 of 3 models with folds",
    )
    assert archive_reasons([]) == ()
