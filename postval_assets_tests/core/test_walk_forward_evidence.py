"""What folds prove: figures worked out by hand, each condition at its border, and how often luck passes."""

from __future__ import annotations

import math
from dataclasses import replace
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.bootstrap import bootstrap_sharpe, seeded
from postval_assets.core.evidence import (
    minimum_track_record_length,
    probabilistic_sharpe_ratio,
    return_moments,
)
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.walk_forward import FoldOutcome, FoldStatus
from postval_assets.core.walk_forward_evidence import (
    Evidence,
    EvidenceLimits,
    SharpeEvidence,
    best_of,
    consistency_ratio,
    p_value_needed,
    sharpe_evidence,
    weighed,
)
from postval_assets_tests.core.evidence_cases import FOLDS, REPLAYS, RETURNS, proven
from postval_assets_tests.core.fold_cases import missing, ok

LIMITS = EvidenceLimits()
PER_YEAR = 8766.0
Float = np.typing.NDArray[np.float64]


def curve(returns: Float) -> Float:
    return 100_000.0 * np.cumprod(np.r_[1.0, 1.0 + returns])


def weigh_returns(
    parts: list[Float], outcomes: list[FoldOutcome] | None = None, n_trials: int = 1, model: str = "m"
) -> SharpeEvidence:
    folds = outcomes or [
        ok(float(np.prod(1.0 + part) - 1.0), sharpe=1.0, fold=i, n_bars=len(part) + 1)
        for i, part in enumerate(parts, 1)
    ]
    return sharpe_evidence(
        folds,
        {i: curve(part) for i, part in enumerate(parts, 1)},
        bars_per_year=PER_YEAR,
        model_sha256=model,
        n_trials=n_trials,
        limits=LIMITS,
    )


def random_parts(seed: int, n_folds: int = 5, length: int = 200, mean: float = 0.0) -> list[Float]:
    rng = np.random.default_rng(seed)
    return [0.002 * rng.standard_normal(length) + mean for _ in range(n_folds)]


def test_figures_are_those_of_the_formulas() -> None:
    parts = random_parts(1, mean=2e-4)
    found = weigh_returns(parts, n_trials=50)
    returns = np.concatenate(parts)
    sharpe = returns.mean() / returns.std(ddof=1)
    spread = bootstrap_sharpe(returns, [200] * 5, seeded("m", "bootstrap"))
    moments = return_moments(returns)
    assert spread is not None
    assert moments is not None
    assert found.n_returns == 1000
    assert found.sharpe == pytest.approx(sharpe * math.sqrt(PER_YEAR))
    assert found.bootstrap_se == pytest.approx(spread.se * math.sqrt(PER_YEAR))
    assert found.bootstrap_low == pytest.approx(spread.low * math.sqrt(PER_YEAR))
    assert found.bootstrap_high == pytest.approx(spread.high * math.sqrt(PER_YEAR))
    p = 1.0 - NormalDist().cdf(sharpe / spread.se)
    assert found.p_value == pytest.approx(p, rel=1e-9)
    assert found.p_value_archive == pytest.approx(1.0 - (1.0 - p) ** 50, rel=1e-9)
    psr = probabilistic_sharpe_ratio(moments.sharpe, 1000, moments.skew, moments.kurtosis)
    assert found.psr == pytest.approx(psr, rel=1e-9)
    assert found.track_record_days == pytest.approx(1000 / PER_YEAR * 365.25)
    z = NormalDist().inv_cdf(0.95 ** (1 / 50))
    assert found.min_track_record_days == pytest.approx(
        found.track_record_days * (z * spread.se / sharpe) ** 2
    )


def test_sidak_known_values() -> None:
    assert best_of(0.001, 50) == pytest.approx(0.048794372, abs=1e-9)
    assert best_of(0.05, 1) == pytest.approx(0.05)
    assert best_of(1.0, 50) == 1.0
    assert best_of(0.0, 50) == 0.0
    # where 1 - (1 - p)^N would be rounded to nothing
    assert best_of(1e-18, 50) == pytest.approx(5e-17)
    assert p_value_needed(0.05, 50) == pytest.approx(1.0253e-3, rel=1e-4)


@given(st.floats(1e-9, 0.999), st.integers(1, 500))
def test_sidak_there_and_back(p_value_archive: float, n_trials: int) -> None:
    needed = p_value_needed(p_value_archive, n_trials)
    assert best_of(needed, n_trials) == pytest.approx(p_value_archive, rel=1e-9)


def test_days_needed_and_the_limit_agree() -> None:
    """The p-value of the archive is below its limit exactly where the days at hand are enough."""
    for seed in range(40):
        found = weigh_returns(random_parts(seed, mean=1.5e-4), n_trials=20, model=str(seed))
        if found.min_track_record_days is None or found.p_value_archive is None:
            assert found.sharpe is None or found.sharpe <= 0.0
            continue
        assert found.track_record_days is not None
        enough = found.track_record_days >= found.min_track_record_days
        assert (found.p_value_archive <= 0.05) == enough


def test_days_needed_are_the_published_length_for_independent_returns() -> None:
    """With the bootstrap's spread near its theory, one trial needs about what [PSR] says."""
    parts = random_parts(3, length=4000, mean=1.2e-4)
    found = weigh_returns(parts)
    moments = return_moments(np.concatenate(parts))
    assert moments is not None
    published = minimum_track_record_length(moments.sharpe, moments.skew, moments.kurtosis)
    assert published is not None
    assert found.min_track_record_days == pytest.approx(published / PER_YEAR * 365.25, rel=0.12)


def test_a_sharpe_that_is_not_positive_never_has_days_enough() -> None:
    found = weigh_returns(random_parts(4, mean=-3e-4))
    assert found.min_track_record_days is None
    assert found.p_value is not None
    assert found.p_value > 0.9


def test_only_folds_that_count_are_counted() -> None:
    parts = random_parts(5)
    labels = [
        TrainingOverlap.OUT_OF_SAMPLE,
        TrainingOverlap.UNKNOWN,
        TrainingOverlap.IN_TRAIN,
        TrainingOverlap.OVERLAP,
        TrainingOverlap.BEFORE_TRAIN,
    ]
    folds = [
        ok(0.01 * i, sharpe=float(i), fold=i, training_overlap=label, n_bars=201)
        for i, label in enumerate(labels, 1)
    ]
    found = weigh_returns(parts, folds)
    assert (found.n_counted, found.n_out_of_sample, found.n_returns) == (2, 1, 400)
    assert found.counted_return == pytest.approx(0.03)
    alone = weigh_returns(parts[:2], folds[:2])
    assert found == alone
    said = weighed(found, REPLAYS, folds, n_folds=5, limits=LIMITS).reasons[0]
    assert said == "NOT_COUNTED: 3 of 5 folds are not out of sample (BEFORE_TRAIN, IN_TRAIN, OVERLAP)"
    short = weighed(found, REPLAYS, folds[:4], n_folds=5, limits=LIMITS).reasons[0]
    assert short.endswith("; 1 of 5 folds were not computed")


def test_a_ruined_fold_counts_to_its_end() -> None:
    lost = np.array([100_000.0, 50_000.0, 0.0])
    folds = [
        ok(-1.0, sharpe=-9.0, fold=1, status=FoldStatus.RUINED, n_bars=100),
        ok(0.01, sharpe=1.0, fold=2, n_bars=101),
    ]
    found = sharpe_evidence(
        folds,
        {1: lost, 2: curve(random_parts(6)[0][:100])},
        bars_per_year=PER_YEAR,
        model_sha256="m",
        n_trials=1,
        limits=LIMITS,
    )
    assert found.n_returns == 102
    assert found.counted_return == pytest.approx(-0.99)


@pytest.mark.parametrize("parts", [[], [np.zeros(50)]])
def test_what_says_nothing_is_undefined_and_fails_every_condition(parts: list[Float]) -> None:
    found = weigh_returns(parts, None if parts else [missing()])
    for name in ("sharpe", "bootstrap_se", "p_value", "p_value_archive", "psr", "min_track_record_days"):
        assert getattr(found, name) is None, name
    nothing = weighed(found, None, [missing()], n_folds=5, limits=LIMITS)
    words = [reason.partition(":")[0] for reason in nothing.reasons]
    assert words == [
        "NOT_COUNTED",
        "P_VALUE_ARCHIVE",
        "POSITIVE_SHARE",
        "CONSISTENCY_RATIO",
        "NULL_PERCENTILE",
        "BREAK_EVEN_COST",
        "LAG_RETURN",
    ]
    assert all("undefined" in reason for reason in nothing.reasons[1:])
    assert nothing.evidence is Evidence.INSUFFICIENT


def test_consistency_by_hand() -> None:
    folds = [ok(0.0, sharpe=s, n_bars=n) for s, n in ((1.0, 100), (5.0, 101), (3.0, 99))]
    # standard deviation 2, expected sqrt(8766 / 100)
    assert consistency_ratio(folds, 8766.0) == pytest.approx(2.0 / math.sqrt(87.66))
    assert consistency_ratio(folds[:1], 8766.0) is None
    assert consistency_ratio([ok(0.0, sharpe=None), ok(0.0, sharpe=1.0)], 8766.0) is None


def test_everything_holds() -> None:
    assert (proven().evidence, proven().reasons) == (Evidence.SHOWN, ())


BORDERS = [
    ("p_value_archive", 0.05, 0.0501, "P_VALUE_ARCHIVE: 0.0501 of 50 trials, at most 0.05 needed"),
    ("consistency_ratio", 1.5, 1.51, "CONSISTENCY_RATIO: 1.51, at most 1.5 needed"),
    ("null_percentile", 0.95, 0.945, "NULL_PERCENTILE: 0.945, at least 0.95 needed"),
    ("break_even_cost_bps", 60.0, 59.9, "BREAK_EVEN_COST: 59.9 bps a side, at least 60 bps needed"),
    ("lag_return", 1e-9, 0.0, "LAG_RETURN: +0.00% with orders a bar later, above 0 needed"),
]


@pytest.mark.parametrize(("name", "holds", "fails", "reason"), BORDERS, ids=[b[0] for b in BORDERS])
def test_each_condition_alone(name: str, holds: float, fails: float, reason: str) -> None:
    assert proven(**{name: holds}).reasons == ()
    failed = proven(**{name: fails})
    assert failed.reasons == (reason,)
    assert failed.evidence is Evidence.WEAK
    (undefined,) = proven(**{name: None}).reasons
    assert undefined.startswith(reason.partition(":")[0])
    assert "undefined" in undefined


def test_the_positive_share_is_of_the_folds_that_count() -> None:
    three = [*FOLDS[:3], ok(-0.01), ok(-0.01)]
    assert proven(three).reasons == ()
    two = [*FOLDS[:2], ok(-0.01), ok(-0.01), ok(-0.01)]
    assert proven(two).reasons == ("POSITIVE_SHARE: 0.4, at least 0.6 needed",)


def test_the_word_by_cases() -> None:
    assert proven(p_value_archive=0.3, min_track_record_days=400.0).evidence is Evidence.INSUFFICIENT
    assert proven(bootstrap_high=-0.1).evidence is Evidence.CONTRADICTED
    losing = [ok(-0.01, fold=i) for i in range(1, 6)]
    assert proven(losing).evidence is Evidence.CONTRADICTED
    assert proven(p_value_archive=1.0, min_track_record_days=None, sharpe=-0.5).evidence is Evidence.WEAK


def test_actions_that_cannot_be_replayed_are_a_reason() -> None:
    found = weighed(
        RETURNS, None, FOLDS, n_folds=5, limits=LIMITS, problem="the bar at X is not stored any more"
    )
    assert found.reasons[-1] == "REPLAY_DIFFERS: the bar at X is not stored any more"
    assert found.evidence is Evidence.WEAK


def test_limits_are_limits() -> None:
    loose = replace(LIMITS, live_p_value_archive=0.5)
    found = replace(RETURNS, p_value_archive=0.4)
    assert weighed(found, REPLAYS, FOLDS, n_folds=5, limits=loose).evidence is Evidence.SHOWN
    assert weighed(found, REPLAYS, FOLDS, n_folds=5, limits=LIMITS).evidence is not Evidence.SHOWN


def test_luck_passes_about_as_often_as_the_p_value_says() -> None:
    """1,000 worthless series: p <= 0.05 in about 5 of 100, p <= 0.001 in about 1 of 1,000."""
    p_values = np.array([weigh_returns(random_parts(s, 5, 100), model=str(s)).p_value for s in range(1000)])
    # binomial: 1,000 draws at 5 % spread by 0.7 %
    assert 0.025 <= np.mean(p_values <= 0.05) <= 0.08
    assert np.mean(p_values <= 0.001) <= 0.006
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.04)


def test_permuting_returns_proves_nothing() -> None:
    """The final return of permuted returns is always the same, so they are no null; permuted actions are one."""
    returns = random_parts(7)[0]
    rng = np.random.default_rng(1)
    finals = [curve(rng.permutation(returns))[-1] for _ in range(20)]
    assert np.ptp(finals) < 1e-6
    sharpes = {round(float(p.mean() / p.std()), 12) for p in (rng.permutation(returns) for _ in range(20))}
    assert len(sharpes) == 1
