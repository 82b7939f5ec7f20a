"""The regime filter: forward only, from the priors and parameters that docs/features.md states."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.features.markov import (
    FILTER_BARS,
    STANDARDISING_BARS,
    filter_regimes,
    standardised_returns,
)

# As docs/features.md states them; not taken from the code.
PRIOR = np.full(3, 1 / 3)
MEANS, SPREADS = np.array([-0.4, 0.0, 0.4]), np.array([1.2, 0.6, 1.2])
STAYS = 0.94
CHANGES = np.where(np.eye(3, dtype=bool), STAYS, (1 - STAYS) / 2)
N_FILTERED = 60

OBSERVATIONS = st.integers(0, 2**32 - 1).map(
    lambda seed: np.random.default_rng(seed).standard_t(3, N_FILTERED + 30).clip(-5, 5)
)


def forward(observations: np.ndarray, prior: np.ndarray) -> np.ndarray:
    """Hamilton's filter by matrices, from a prior of the bar before the first observation."""
    p = prior
    for z in observations:
        p = (p @ CHANGES) * np.exp(-(((z - MEANS) / SPREADS) ** 2) / 2) / SPREADS
        p = p / p.sum()
    return p


def smoothed(observations: np.ndarray, t: int) -> np.ndarray:
    """The probabilities at t that also know what came after it: what the features must not be."""
    backward = np.ones(3)
    for z in observations[:t:-1]:
        backward = CHANGES @ (np.exp(-(((z - MEANS) / SPREADS) ** 2) / 2) / SPREADS * backward)
        backward = backward / backward.sum()
    joint = forward(observations[: t + 1], PRIOR) * backward
    return joint / joint.sum()


def probabilities(observations: np.ndarray) -> np.ndarray:
    """Of the three regimes, [bar, regime]."""
    return np.column_stack(filter_regimes(observations).probabilities)


@settings(max_examples=30, deadline=None)
@given(OBSERVATIONS)
def test_probabilities_are_the_stated_filter_from_the_stated_prior(observations: np.ndarray) -> None:
    found = probabilities(observations)
    assert np.isnan(found[: N_FILTERED - 1]).all()
    for t in range(N_FILTERED - 1, len(observations)):
        window = observations[t - N_FILTERED + 1 : t + 1]
        np.testing.assert_allclose(found[t], forward(window, PRIOR), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("prior", [(1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.5, 0.0, 0.5), (0.3, 0.4, 0.3)])
def test_another_prior_would_be_seen(prior: tuple[float, ...]) -> None:
    """Observations that speak for no regime, by turns 0.848 and -0.848: 60 of them do not wash the prior out."""
    undecided = np.resize([0.848, -0.848], N_FILTERED)
    found = probabilities(undecided)[-1]
    np.testing.assert_allclose(found, forward(undecided, PRIOR), rtol=1e-12)
    assert np.abs(found - forward(undecided, np.array(prior))).max() > 1e-4


def test_the_prior_is_the_one_that_stays_as_it_is() -> None:
    np.testing.assert_allclose(PRIOR @ CHANGES, PRIOR, rtol=1e-15)


@settings(max_examples=30, deadline=None)
@given(OBSERVATIONS, st.integers(N_FILTERED, N_FILTERED + 29), st.integers(0, 2**32 - 1))
def test_it_only_goes_forward(observations: np.ndarray, n_kept: int, seed: int) -> None:
    """To the bit: the same whatever is observed later, in every number of the state."""
    other = observations.copy()
    other[n_kept:] = np.random.default_rng(seed).normal(0.0, 3.0, len(other) - n_kept)
    before, after, cut = (filter_regimes(x) for x in (observations, other, observations[:n_kept]))
    for state in (after, cut):
        for a, b in zip(
            (*before.probabilities, before.age, before.switches),
            (*state.probabilities, state.age, state.switches),
            strict=True,
        ):
            assert a[:n_kept].tobytes() == b[:n_kept].tobytes()


def test_what_a_smoother_would_say_is_something_else() -> None:
    """Otherwise the test above could not tell the two apart: a quiet bar before a storm is not known as stormy."""
    observations = np.r_[np.zeros(N_FILTERED), np.full(20, 4.0)]
    t = N_FILTERED - 1
    found = probabilities(observations)[t]
    assert np.abs(found - smoothed(observations, t)).max() > 0.05
    assert found[1] > 0.9


def test_observations_are_standardised_by_what_is_known_by_then() -> None:
    rng = np.random.default_rng(4)
    close = 20.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, 120)))
    r = np.diff(np.log(close))
    found = standardised_returns(close)
    assert np.isnan(found[:50]).all()
    for t in range(50, 120):
        scale = np.sqrt(np.mean(r[t - 50 : t] ** 2))  # r[t - 1] is the return of bar t
        assert found[t] == pytest.approx(np.clip(r[t - 1] / scale, -5.0, 5.0), rel=1e-12)
    assert (FILTER_BARS, STANDARDISING_BARS) == (60, 50)
