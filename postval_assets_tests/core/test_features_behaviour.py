"""What docs/features.md says of flat prices, silence, gaps and borders is measured, and is what was to be expected."""

import math
from dataclasses import fields

import numpy as np
import pytest

from postval_assets.core.features.behaviour import GAP, Behaviour, measure_behaviours
from postval_assets.core.features.reference import REFERENCE_SPECS
from postval_assets.core.features.spec import FeatureFamily

FOUND = {b.spec.name: b for b in measure_behaviours()}
CLOCK = {"time_of_day_sin", "time_of_day_cos", "weekday_sin", "weekday_cos", "season_sin", "season_cos"}
OF_VOLUME = {
    "relative_volume_20",
    "money_flow_14",
    "volume_balance_20",
    "chaikin_money_flow_20",
    "vwap_distance_20",
}


def test_every_feature_is_measured_and_finite() -> None:
    assert list(FOUND) == [spec.name for spec in REFERENCE_SPECS]
    for b in FOUND.values():
        values = [b.flat, *(v for v in (b.untraded, b.untraded_bar) if v is not None)]
        values += [getattr(p, f.name) for p in (b.border, b.gap) for f in fields(p)]
        assert np.isfinite(values).all(), b.spec.name


def test_the_clock_and_volume_are_told_apart_from_prices() -> None:
    assert {name for name, b in FOUND.items() if b.is_clock} == CLOCK
    assert {name for name, b in FOUND.items() if b.untraded_bar is not None} == OF_VOLUME
    assert {FOUND[name].untraded for name in OF_VOLUME} == {0.0}


def test_flat_prices_are_neutral() -> None:
    """0 wherever a feature has a middle; the regime filter says quiet, and the clock goes on."""
    not_zero = {name for name, b in FOUND.items() if b.flat != 0.0}
    regimes = {s.name for s in REFERENCE_SPECS if s.family is FeatureFamily.MARKOV}
    assert not_zero - regimes <= {*CLOCK, "bar_gap", "relative_volume_20"}
    assert FOUND["regime_quiet_prob"].flat > 0.9
    assert FOUND["regime_switches"].flat == 0.0


def test_a_border_without_a_gap_is_no_border_but_for_the_clock() -> None:
    assert {name for name, b in FOUND.items() if b.border.n_bars} == {*CLOCK, "bar_gap"}
    border = FOUND["bar_gap"].border
    assert (border.before, border.first) == pytest.approx((math.log(2), math.log(1 + 18)))


def test_a_gap_is_one_move_and_is_felt_no_longer_than_the_look_back() -> None:
    log_return, open_gap = FOUND["log_return"].gap, FOUND["open_gap"].gap
    usual = FOUND["log_return"].border.first
    assert log_return.first == pytest.approx(usual + math.log(GAP))
    assert open_gap.first == pytest.approx(math.log(GAP))
    assert (log_return.n_bars, open_gap.n_bars) == (1, 1)
    for b in FOUND.values():
        assert b.gap.n_bars <= b.spec.look_back - 1, b.spec.name
    assert FOUND["volatility_50"].gap.n_bars == 50
    assert FOUND["macd_histogram"].gap.n_bars == 138
    # These see nothing but what happens within a bar.
    for name in ("bar_body", "bar_range", "upper_shadow", "lower_shadow", "parkinson_volatility_20"):
        assert FOUND[name].gap.n_bars == 0, name


def test_notes_are_said_once_and_end_without_a_stop() -> None:
    notes = [b.spec.note for b in FOUND.values() if b.spec.note]
    assert len(set(notes)) == len(notes) > 5
    assert not any(note.endswith(".") for note in notes)
    assert all(isinstance(b, Behaviour) for b in FOUND.values())
