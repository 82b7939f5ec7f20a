"""Feature sets that see what they may not are found out and named, and honest ones are left in peace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.failures import Rejected
from postval_assets.core.features.causality import PromiseBroken, inspect_feature_set, require_causal
from postval_assets.core.features.faults import CausalityReport, Fault
from postval_assets.core.features.feature_set import FeatureSet, compute_features
from postval_assets.core.features.reference import REFERENCE_53, REFERENCE_59, reference_features
from postval_assets_tests.core.hourly_bars import some_bars, with_empty_bars

LOOK_BACK = 30
Column = Callable[[pd.DataFrame], "np.ndarray | pd.Series"]


def with_column(column: Column, look_back: int = LOOK_BACK) -> FeatureSet:
    """A set of an honest feature and another one."""

    def compute(frame: pd.DataFrame) -> np.ndarray:
        honest = np.log(frame["close"] / frame["close"].shift(5))
        return np.column_stack([honest, np.asarray(column(frame), dtype=np.float64)])

    return FeatureSet("acme", "1", ("honest", "suspect"), (), look_back, compute)


def shifted(frame: pd.DataFrame) -> pd.Series:
    return np.log(frame["close"].shift(-1) / frame["close"])


def shifted_and_filled(frame: pd.DataFrame) -> pd.Series:
    return shifted(frame).fillna(0.0)


def normalised_over_all(frame: pd.DataFrame) -> pd.Series:
    return (frame["close"] - frame["close"].mean()) / frame["close"].std()


def share_of_the_best(frame: pd.DataFrame) -> pd.Series:
    return frame["close"] / frame["close"].max()


def ranked_over_all(frame: pd.DataFrame) -> pd.Series:
    return frame["volume"].rank(pct=True)


def centred(frame: pd.DataFrame) -> pd.Series:
    return frame["close"].rolling(5, center=True, min_periods=1).mean() / frame["close"]


def longer_bar_from_its_start(frame: pd.DataFrame) -> np.ndarray:
    longer = frame.set_index("ts")["close"].resample("4h").last()
    return np.log(longer.reindex(frame["ts"].dt.floor("4h")).to_numpy())


def day_from_its_start(frame: pd.DataFrame) -> pd.Series:
    return np.log(frame.groupby(frame["ts"].dt.floor("D"))["high"].transform("max") / frame["close"])


def time_until_the_next_bar(frame: pd.DataFrame) -> pd.Series:
    return frame["ts"].diff().shift(-1).dt.total_seconds().fillna(3600.0) / 3600.0


def backfilled(frame: pd.DataFrame) -> pd.Series:
    every_third = frame["close"].where(np.arange(len(frame)) % 3 == 0)
    return np.log(every_third.bfill().ffill())


def warned_of_jumps(frame: pd.DataFrame) -> np.ndarray:
    """0 throughout on these bars: only other later bars show what it would do."""
    return (frame["close"].shift(-1) > 1.04 * frame["close"]).to_numpy(dtype=np.float64)


LOOKS_AHEAD: tuple[Column, ...] = (
    shifted,
    shifted_and_filled,
    normalised_over_all,
    share_of_the_best,
    ranked_over_all,
    centred,
    longer_bar_from_its_start,
    day_from_its_start,
    time_until_the_next_bar,
    backfilled,
    warned_of_jumps,
)


def expanding(frame: pd.DataFrame) -> pd.Series:
    return frame["close"] / frame["close"].expanding().mean()


def endless_average(frame: pd.DataFrame) -> pd.Series:
    return frame["close"] / frame["close"].ewm(span=60, adjust=False).mean()


def too_long(frame: pd.DataFrame) -> pd.Series:
    return frame["close"] / frame["close"].shift(LOOK_BACK).bfill()


def age(frame: pd.DataFrame) -> np.ndarray:
    return np.arange(len(frame)) / 1000.0


def every_other(frame: pd.DataFrame) -> np.ndarray:
    return np.arange(len(frame)) % 2.0


def random(frame: pd.DataFrame) -> np.ndarray:
    return np.random.default_rng().normal(size=len(frame))


def backfilled_where_empty(frame: pd.DataFrame) -> pd.Series:
    return np.log(frame["close"].where(frame["volume"] > 0).bfill().fillna(frame["close"]) / frame["close"])


def shifted_at_three(frame: pd.DataFrame) -> pd.Series:
    return shifted_and_filled(frame).where(frame["ts"].dt.hour == 15, 0.0)


def direction_at_three(frame: pd.DataFrame) -> pd.Series:
    return np.sign(shifted_at_three(frame))


def shifted_on_mondays_at_nine(frame: pd.DataFrame) -> pd.Series:
    return shifted_and_filled(frame).where(
        (frame["ts"].dt.hour == 9) & (frame["ts"].dt.day_of_week == 0), 0.0
    )


def next_bar_is_empty(frame: pd.DataFrame) -> np.ndarray:
    return (frame["volume"].shift(-1) == 0.0).to_numpy(dtype=np.float64)


SELDOM_LOOKS_AHEAD: tuple[Column, ...] = (
    backfilled_where_empty,
    shifted_at_three,
    direction_at_three,
    next_bar_is_empty,
)


def only_fault(report: CausalityReport) -> tuple[str, Fault]:
    [fault] = report.faults
    return fault.feature, fault.fault


@pytest.mark.parametrize("sessions", [False, True], ids=["round the clock", "sessions"])
@pytest.mark.parametrize("column", LOOKS_AHEAD, ids=lambda c: c.__name__)
def test_what_sees_later_bars_is_named(column: Column, sessions: bool) -> None:
    report = inspect_feature_set(with_column(column), some_bars(sessions=sessions))
    assert only_fault(report) == ("suspect", Fault.SEES_LATER)
    assert not report.is_clean
    assert report.problems()[0].startswith("suspect sees later bars: at 2024-")
    assert f"(bar {report.faults[0].bar})" in str(report)


@pytest.mark.parametrize(
    "column", [*SELDOM_LOOKS_AHEAD, shifted_on_mondays_at_nine], ids=lambda c: c.__name__
)
def test_what_sees_later_bars_at_some_bars_only_is_named(column: Column) -> None:
    bars = with_empty_bars(some_bars(4000))
    report = inspect_feature_set(with_column(column, 139), bars)
    assert only_fault(report) == ("suspect", Fault.SEES_LATER)
    assert len(report.instants) > 400


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("column", SELDOM_LOOKS_AHEAD, ids=lambda c: c.__name__)
def test_an_evaluation_refuses_what_looks_ahead_at_some_bars_only(column: Column, seed: int) -> None:
    ahead, bars = with_column(column, 139), with_empty_bars(some_bars(4500, seed=seed))
    with pytest.raises(PromiseBroken, match="suspect sees later bars"):
        require_causal(ahead, bars, compute_features(ahead, bars))


@pytest.mark.parametrize(
    ("column", "fault"),
    [
        (expanding, Fault.BEYOND_LOOK_BACK),
        (endless_average, Fault.BEYOND_LOOK_BACK),
        (too_long, Fault.BEYOND_LOOK_BACK),
        (age, Fault.HISTORY_START),
        (every_other, Fault.HISTORY_START),
        (random, Fault.NOT_REPEATABLE),
    ],
    ids=lambda c: getattr(c, "__name__", ""),
)
def test_what_else_a_feature_may_not_is_named(column: Column, fault: Fault) -> None:
    report = inspect_feature_set(with_column(column), some_bars())
    assert only_fault(report) == ("suspect", fault)
    assert f"suspect {fault}: at 2024-" in str(report)


def test_the_bar_and_both_values_that_are_told_can_be_looked_up() -> None:
    bars = some_bars()
    [fault] = inspect_feature_set(with_column(shifted_and_filled), bars).faults
    assert fault.ts == bars.ts[fault.bar]
    assert fault.value == pytest.approx(np.log(bars.close[fault.bar + 1] / bars.close[fault.bar]), rel=1e-5)
    assert fault.other == 0.0


@pytest.mark.parametrize("look_back", [1, 5, LOOK_BACK])
def test_a_look_back_that_is_stated_too_short_is_told_and_the_true_one_is_not(look_back: int) -> None:
    def reaching(frame: pd.DataFrame) -> np.ndarray:
        return (frame["close"] / frame["close"].shift(look_back - 1).bfill()).to_numpy()

    def compute(frame: pd.DataFrame) -> np.ndarray:
        return reaching(frame)[:, None]

    honest = FeatureSet("acme", "1", ("reaching",), (), look_back, compute)
    assert inspect_feature_set(honest, some_bars()).is_clean
    if look_back > 1:
        short = replace(honest, look_back=look_back - 1)
        assert only_fault(inspect_feature_set(short, some_bars())) == ("reaching", Fault.BEYOND_LOOK_BACK)


def smoothed(frame: pd.DataFrame) -> np.ndarray:
    return (frame["close"].rolling(20).mean() / frame["close"]).fillna(0.0).to_numpy()


def rolling_spread(frame: pd.DataFrame) -> np.ndarray:
    """A running sum carries its rounding along: other last digits, and no fault."""
    return frame["volume"].rolling(20).std().fillna(0.0).to_numpy()


def finished_longer_bar(frame: pd.DataFrame) -> np.ndarray:
    """The last longer bar that was finished before this one opened."""
    longer = frame.set_index("ts")["close"].resample("4h").last().shift(1)
    return np.log(longer.reindex(frame["ts"].dt.floor("4h")).bfill().to_numpy())


@pytest.mark.parametrize("sd", [0.0, 1e-6, 0.004, 0.1])
@pytest.mark.parametrize("column", [smoothed, rolling_spread, finished_longer_bar], ids=lambda c: c.__name__)
def test_honest_features_are_left_in_peace(column: Column, sd: float) -> None:
    bars = some_bars(sd=sd)
    honest = with_column(column)
    assert inspect_feature_set(honest, bars).problems() == ()
    require_causal(honest, bars, compute_features(honest, bars))


def test_only_the_features_at_fault_are_named() -> None:
    def compute(frame: pd.DataFrame) -> np.ndarray:
        values = reference_features(frame)
        values[:, 3] = shifted_and_filled(frame)
        values[:, 50] = age(frame)
        return values

    names = REFERENCE_53.market_features
    report = inspect_feature_set(replace(REFERENCE_53, name="acme", compute=compute), some_bars())
    assert [(f.feature, f.fault) for f in report.faults] == [
        (names[3], Fault.SEES_LATER),
        (names[50], Fault.HISTORY_START),
    ]


@pytest.mark.parametrize(
    ("spoil", "told"),
    [
        (lambda f: f.__setitem__("close", f["close"].rolling(3).mean().bfill()), "close changed"),
        (lambda f: f.__setitem__("ema", 1.0), "ema added"),
        (lambda f: f.__delitem__("volume"), "volume changed"),
    ],
    ids=["a column", "a new column", "a column less"],
)
def test_a_set_that_changes_its_input_is_told(spoil: Callable[[pd.DataFrame], None], told: str) -> None:
    def compute(frame: pd.DataFrame) -> np.ndarray:
        values = np.column_stack([frame["open"], frame["high"]])
        spoil(frame)
        return values

    spoiling = FeatureSet("acme", "1", ("a", "b"), (), 2, compute)
    bars = some_bars()
    [problem] = inspect_feature_set(spoiling, bars).problems()
    assert problem.startswith("it changes the frame of bars that it is given (")
    assert told in problem
    with pytest.raises(PromiseBroken, match=r"feature set acme .* changes the frame of bars"):
        require_causal(spoiling, bars, compute_features(spoiling, bars))


def test_values_that_are_not_finite_are_told_where_nothing_worse_is() -> None:
    silent = with_column(lambda f: np.where(f["volume"] > 2000.0, np.nan, 1.0))
    [fault] = inspect_feature_set(silent, some_bars()).faults
    assert fault.fault is Fault.NOT_FINITE
    assert str(fault).endswith("it is nan")
    of_all = with_column(lambda f: np.where(f["volume"] > f["volume"].quantile(0.5), np.nan, 1.0))
    assert only_fault(inspect_feature_set(of_all, some_bars())) == ("suspect", Fault.SEES_LATER)


def test_a_set_that_needs_more_bars_than_it_says_is_told_with_what_it_was_given() -> None:
    def demanding(frame: pd.DataFrame) -> np.ndarray:
        if len(frame) < 200:
            raise ValueError("at least 200 bars, please")
        return frame["close"].to_numpy()

    with pytest.raises(
        PromiseBroken, match=r"feature set acme .* at least 200 bars, please; it was given 37 valid"
    ):
        inspect_feature_set(with_column(demanding), some_bars())
    bars = some_bars()
    with pytest.raises(PromiseBroken, match="at least 200 bars"):
        require_causal(with_column(demanding), bars, compute_features(with_column(demanding), bars))


def test_too_few_bars_to_check_on_are_rejected() -> None:
    with pytest.raises(Rejected, match=r"feature set acme: 30 bars of AAPL .* too few .* look-back of 30"):
        inspect_feature_set(with_column(smoothed), some_bars(30))
    assert inspect_feature_set(with_column(smoothed), some_bars(31)).is_clean


# --- before an evaluation


@pytest.mark.parametrize("n", [60, 230, 1500])
@pytest.mark.parametrize(
    "column", [c for c in LOOKS_AHEAD if c is not shifted], ids=lambda c: getattr(c, "__name__", "")
)
def test_an_evaluation_refuses_what_looks_ahead_by_name(column: Column, n: int) -> None:
    ahead, bars = with_column(column), some_bars(n, sessions=True)
    with pytest.raises(PromiseBroken, match=r"feature set acme on bars of AAPL .*: suspect sees later bars"):
        require_causal(ahead, bars, compute_features(ahead, bars))


@pytest.mark.parametrize("column", [expanding, endless_average, age, random], ids=lambda c: c.__name__)
def test_an_evaluation_refuses_what_depends_on_older_bars_or_chance(column: Column) -> None:
    ahead, bars = with_column(column), some_bars()
    with pytest.raises(PromiseBroken, match=r"feature set acme on bars of AAPL .*: suspect "):
        require_causal(ahead, bars, compute_features(ahead, bars))


def test_an_evaluation_asks_a_plug_in_four_times_more_and_a_reference_set_not_at_all() -> None:
    sizes: list[int] = []

    def counting(frame: pd.DataFrame) -> np.ndarray:
        sizes.append(len(frame))
        return reference_features(frame)

    bars = some_bars(2000, sessions=True)
    plugged = replace(REFERENCE_59, name="acme", compute=counting)
    values = compute_features(plugged, bars)
    require_causal(plugged, bars, values)
    assert sizes[0] == 2000
    assert len(sizes) == 5
    assert sizes[1] < 2 * REFERENCE_59.look_back
    assert all(1900 < size < 2000 for size in sizes[2:])
    del sizes[:]
    many = some_bars(9000)
    require_causal(plugged, many, compute_features(plugged, many))
    assert len(sizes) == 3  # the values themselves, a short stretch, and all bars once more
    # What is no reference set's own is no reference set, whatever it calls itself.
    with pytest.raises(PromiseBroken):
        require_causal(replace(REFERENCE_59, compute=lambda f: counting(f)[::-1]), bars, values)
    require_causal(REFERENCE_59, bars, np.full_like(values, np.nan))


def test_a_set_that_dislikes_bars_that_never_were_is_judged_on_the_real_ones() -> None:
    bars = some_bars(sd=0.001)

    def sober(frame: pd.DataFrame) -> np.ndarray:
        if frame["close"].pct_change().abs().max() > 0.04:
            raise ValueError("such bars do not exist")
        return frame["close"].to_numpy()

    require_causal(with_column(sober), bars, compute_features(with_column(sober), bars))

    def sober_ahead(frame: pd.DataFrame) -> np.ndarray:
        return sober(frame) / frame["close"].max()

    ahead = with_column(sober_ahead)
    with pytest.raises(PromiseBroken, match=r"suspect sees (later bars|more than)"):
        require_causal(ahead, bars, compute_features(ahead, bars))
