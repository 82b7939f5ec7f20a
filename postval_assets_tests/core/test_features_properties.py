"""What holds for every reference feature on any bars: look-back, causality, finiteness, no units."""

import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.bars import Bars
from postval_assets.core.features.causality import inspect_feature_set
from postval_assets.core.features.feature_set import compute_features
from postval_assets.core.features.reference import REFERENCE_53, REFERENCE_SPECS, reference_features
from postval_assets.core.features.spec import FeatureFamily
from postval_assets.core.instruments import Timeframe, asset_class_of

REAL_BARS = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "bars"
LOOK_BACK = REFERENCE_53.look_back
PRICES = ["open", "high", "low", "close"]
NAMES = [spec.name for spec in REFERENCE_SPECS]
VOLUME_FEATURES = {
    "relative_volume_20",
    "money_flow_14",
    "volume_balance_20",
    "chaikin_money_flow_20",
    "vwap_distance_20",
}


@st.composite
def frames(draw: st.DrawFn, *, n_bars: int = LOOK_BACK + 25) -> pd.DataFrame:
    """Valid bars of every temper: calm, wild, flat, stale, jumping, without volume, with closed markets.

    The shape is drawn; the numbers come from a drawn seed, because thousands of drawn floats shrink badly.
    """
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([0.0, 1e-12, 1e-7, 1e-3, 0.02, 0.3]))
    start = draw(st.sampled_from([1e-7, 0.9999, 37.25, 126_099.0]))
    stale = draw(st.sampled_from([0.0, 0.3, 0.95]))
    jump = draw(st.sampled_from([0.0, 2.0]))
    moves = rng.standard_t(3, n_bars).clip(-8, 8) * scale
    moves[rng.random(n_bars) < stale] = 0.0
    moves[rng.integers(n_bars)] += jump
    close = start * np.exp(np.cumsum(moves).clip(-30, 30))
    gap = np.where(rng.random(n_bars) < 0.5, np.exp(rng.normal(0, scale / 3, n_bars)), 1.0)
    open_ = np.concatenate([[start], close[:-1]]) * gap
    wick = np.abs(rng.normal(0, scale, (2, n_bars))) * (moves != 0.0)
    volume = rng.lognormal(6, 2, n_bars)
    volume[rng.random(n_bars) < draw(st.sampled_from([0.0, 0.3, 1.0]))] = 0.0
    volume[rng.random(n_bars) < draw(st.sampled_from([0.0, 0.02, 1.0]))] = np.nan
    minutes = rng.choice([15, 60, 60, 60, 1020, 5000], n_bars).cumsum()
    return pd.DataFrame(
        {
            "ts": pd.Timestamp("2023-12-29 13:30", tz="UTC") + pd.to_timedelta(minutes, unit="min"),
            "open": open_,
            "high": np.maximum(open_, close) * np.exp(wick[0]),
            "low": np.minimum(open_, close) * np.exp(-wick[1]),
            "close": close,
            "volume": volume,
        }
    )


def moving_frame(seed: int, *, n_bars: int = LOOK_BACK + 25) -> pd.DataFrame:
    """Bars that move like a market, all with volume."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, n_bars)))
    open_ = np.concatenate([[100.0], close[:-1]]) * np.exp(rng.normal(0.0, 0.001, n_bars))
    wick = np.exp(np.abs(rng.normal(0.0, 0.003, (2, n_bars))))
    return pd.DataFrame(
        {
            "ts": pd.date_range("2024-01-01", periods=n_bars, freq="h", tz="UTC"),
            "open": open_,
            "high": np.maximum(open_, close) * wick[0],
            "low": np.minimum(open_, close) / wick[1],
            "close": close,
            "volume": rng.lognormal(6.0, 1.0, n_bars),
        }
    )


def bars_of(frame: pd.DataFrame, symbol: str = "UNIUSD") -> Bars:
    return Bars.from_frame(
        frame, symbol=symbol, timeframe=Timeframe.HOUR_1, asset_class=asset_class_of(symbol)
    )


def same_bits(a: np.ndarray, b: np.ndarray) -> bool:
    return np.ascontiguousarray(a).tobytes() == np.ascontiguousarray(b).tobytes()


def test_there_are_53_features_in_six_families() -> None:
    counts = {family: sum(spec.family is family for spec in REFERENCE_SPECS) for family in FeatureFamily}
    assert list(counts.values()) == [7, 4, 7, 12, 14, 9]
    assert len(set(NAMES)) == 53
    assert [spec.family for spec in REFERENCE_SPECS] == sorted(
        (spec.family for spec in REFERENCE_SPECS), key=list(FeatureFamily).index
    )
    assert LOOK_BACK == 139


@settings(max_examples=40, deadline=None)
@given(frames())
def test_values_are_finite_and_in_their_range(frame: pd.DataFrame) -> None:
    values = reference_features(frame)
    for i, spec in enumerate(REFERENCE_SPECS):
        column = values[spec.look_back - 1 :, i]
        assert np.isfinite(column).all(), spec.name
        assert column.min() >= spec.minimum, spec.name
        assert column.max() <= spec.maximum, spec.name
        assert np.isnan(values[: spec.look_back - 1, i]).all(), spec.name


@settings(max_examples=40, deadline=None)
@given(
    st.integers(0, 2**32 - 1),
    st.sampled_from([1e-12, 1e-6, 1.0, 1e6, 1e12]),
    st.sampled_from([1e-3, 1e3]),
    st.sampled_from([0.0, 1e-9, 1.0, 1e15]),
)
def test_values_are_finite_at_extremes(seed: int, level: float, spike: float, lot: float) -> None:
    """Prices and volumes of any size, and bars that jump a thousandfold and back."""
    frame = moving_frame(seed)
    frame[PRICES] *= level
    frame["volume"] *= lot
    rng = np.random.default_rng(seed)
    struck = rng.choice(len(frame), 5, replace=False)
    for name in PRICES:
        frame.loc[struck, name] *= spike
    frame.loc[rng.choice(len(frame), 3, replace=False), "volume"] = np.nan
    values = reference_features(frame)
    for i, spec in enumerate(REFERENCE_SPECS):
        column = values[spec.look_back - 1 :, i]
        assert np.isfinite(column).all(), spec.name
        assert column.min() >= spec.minimum, spec.name
        assert column.max() <= spec.maximum, spec.name


@settings(max_examples=40, deadline=None)
@given(frames(), st.integers(1, LOOK_BACK + 20), st.integers(0, 2**32 - 1))
def test_later_bars_change_nothing(frame: pd.DataFrame, n_kept: int, seed: int) -> None:
    changed = frame.copy()
    factor = np.exp(np.random.default_rng(seed).normal(0, 0.1, (len(frame) - n_kept, 1)))
    changed.loc[n_kept:, PRICES] = frame.loc[n_kept:, PRICES].to_numpy() * factor
    changed.loc[n_kept:, "volume"] = 1.0
    changed.loc[n_kept:, "ts"] += pd.Timedelta(days=3, minutes=35)
    before, after = reference_features(frame), reference_features(changed)
    assert same_bits(before[:n_kept], after[:n_kept])
    assert same_bits(before[:n_kept], reference_features(frame.iloc[:n_kept]))


@settings(max_examples=15, deadline=None)
@given(frames(), st.integers(0, 24))
def test_each_feature_is_a_function_of_exactly_its_look_back(frame: pd.DataFrame, from_end: int) -> None:
    row = len(frame) - 1 - from_end
    whole = reference_features(frame)
    for look_back in {spec.look_back for spec in REFERENCE_SPECS}:
        columns = [i for i, spec in enumerate(REFERENCE_SPECS) if spec.look_back == look_back]
        alone = reference_features(frame.iloc[row - look_back + 1 : row + 1])
        assert same_bits(alone[-1, columns], whole[row, columns]), look_back


@settings(max_examples=15, deadline=None)
@given(frames(), st.integers(0, 24), st.integers(0, 2**32 - 1))
def test_bars_before_the_look_back_change_nothing(frame: pd.DataFrame, from_end: int, seed: int) -> None:
    row = len(frame) - 1 - from_end
    rng = np.random.default_rng(seed)
    whole = reference_features(frame)
    for look_back in {spec.look_back for spec in REFERENCE_SPECS}:
        older = slice(0, row - look_back)  # .loc takes the stop, too
        changed = frame.copy()
        changed.loc[older, PRICES] = frame.loc[older, PRICES].to_numpy() * rng.uniform(0.2, 5.0)
        changed.loc[older, "volume"] = rng.lognormal(9, 3)
        changed.loc[older, "ts"] -= pd.Timedelta(days=11, minutes=50)
        columns = [i for i, spec in enumerate(REFERENCE_SPECS) if spec.look_back == look_back]
        after = reference_features(changed)
        assert same_bits(whole[row:, columns], after[row:, columns]), look_back


def test_each_feature_needs_the_oldest_bar_of_its_look_back() -> None:
    """A look-back that is stated too long would cost history for nothing."""
    rng = np.random.default_rng(5)
    reached = dict.fromkeys(NAMES, False)
    for drift in (0.0, 0.0, 0.0, 0.02):
        close = 50.0 * np.exp(np.cumsum(rng.normal(drift, 0.01 if drift == 0.0 else 0.001, LOOK_BACK)))
        wick = np.exp(np.abs(rng.normal(0, 0.003, (2, LOOK_BACK))))
        frame = pd.DataFrame(
            {
                "ts": pd.date_range("2024-01-01", periods=LOOK_BACK, freq="h", tz="UTC"),
                "open": close,
                "high": close * wick[0],
                "low": close / wick[1],
                "close": close,
                "volume": rng.lognormal(6, 1, LOOK_BACK),
            }
        )
        for look_back in {spec.look_back for spec in REFERENCE_SPECS}:
            whole = frame.tail(look_back).reset_index(drop=True)
            before = reference_features(whole)[-1]
            for other in ([0.5, 0.6, 0.4, 0.45], [2.0, 2.4, 1.8, 2.2]):
                changed = whole.copy()
                changed.loc[0, PRICES] *= other
                changed.loc[0, "volume"] *= 3.0
                changed.loc[0, "ts"] -= pd.Timedelta(days=40, minutes=20)
                after = reference_features(changed)[-1]
                for name, spec, hit in zip(NAMES, REFERENCE_SPECS, after != before, strict=True):
                    reached[name] |= bool(hit) and spec.look_back == look_back
    assert [name for name, hit in reached.items() if not hit] == []


@settings(max_examples=20, deadline=None)
@given(frames(), st.integers(1, 40))
def test_values_do_not_depend_on_where_the_history_starts(frame: pd.DataFrame, dropped: int) -> None:
    """Nor on the place in memory: the same rows through the checked, float32 way, at another offset."""
    bars = bars_of(frame)
    whole = compute_features(REFERENCE_53, bars)
    later = compute_features(REFERENCE_53, bars.slice(dropped, len(bars)))
    assert same_bits(whole[LOOK_BACK - 1 + dropped :], later[LOOK_BACK - 1 :])


@settings(max_examples=25, deadline=None)
@given(frames(), st.integers(-20, 20), st.integers(-20, 20))
def test_values_have_no_units(frame: pd.DataFrame, price_power: int, volume_power: int) -> None:
    """Another currency or another lot is the same market: powers of two, which scale without rounding."""
    scaled = frame.copy()
    scaled[PRICES] *= 2.0**price_power
    scaled["volume"] *= 2.0**volume_power
    assert same_bits(reference_features(frame), reference_features(scaled))


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**32 - 1), st.floats(1e-6, 1e6), st.floats(1e-6, 1e6))
def test_any_factor_of_prices_and_volumes_leaves_values_up_to_rounding(
    seed: int, price_factor: float, volume_factor: float
) -> None:
    frame = moving_frame(seed)
    scaled = frame.copy()
    scaled[PRICES] *= price_factor
    scaled["volume"] *= volume_factor
    before, after = reference_features(frame), reference_features(scaled)
    for i, spec in enumerate(REFERENCE_SPECS):
        rows = slice(spec.look_back - 1, None)
        np.testing.assert_allclose(after[rows, i], before[rows, i], rtol=1e-6, atol=1e-9, err_msg=spec.name)


@settings(max_examples=15, deadline=None)
@given(frames(), st.sampled_from([np.nan, -1.0, np.inf]))
def test_unknown_volume_makes_volume_features_neutral(frame: pd.DataFrame, unknown: float) -> None:
    known = frame.assign(volume=np.where(frame["volume"] >= 0.0, frame["volume"], 0.0))
    blinded = known.copy()
    blinded.loc[LOOK_BACK, "volume"] = unknown
    before, after = reference_features(known), reference_features(blinded)
    for i, spec in enumerate(REFERENCE_SPECS):
        touched = slice(LOOK_BACK, LOOK_BACK + 14)
        if spec.name in VOLUME_FEATURES:
            assert (after[touched, i] == 0.0).all(), spec.name
        else:
            assert same_bits(before[:, i], after[:, i]), spec.name


def test_a_year_of_hourly_bars_costs_well_under_a_second() -> None:
    """About 0.03 s on a machine that does nothing else; the best of three, so that one which does passes, too."""
    frame = moving_frame(1, n_bars=8766)
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        reference_features(frame)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 0.5


@pytest.mark.parametrize("seed", range(3))
def test_the_reference_set_passes_its_own_inspection(seed: int) -> None:
    """The evaluation does not look at the reference sets again: this is why it need not."""
    report = inspect_feature_set(REFERENCE_53, bars_of(moving_frame(seed, n_bars=600)))
    assert report.problems() == ()
    assert len(report.instants) > 15


@pytest.mark.shared_data
@pytest.mark.skipif(not REAL_BARS.exists(), reason="real data is not here")
@pytest.mark.parametrize("symbol", ["GRTUSD", "SPY", "MSFT"])
def test_real_bars(symbol: str) -> None:
    """A flat, often untraded coin; extended hours with nights between; bars that open at half past."""
    frame = pd.read_parquet(REAL_BARS / f"{symbol}_1Hour.parquet")
    bars = bars_of(frame.tail(9_000), symbol)
    features = compute_features(REFERENCE_53, bars)
    assert features.shape == (len(bars), 53)
    assert features.dtype == np.float32
    assert features.flags.c_contiguous
    assert np.isnan(features[: LOOK_BACK - 1]).all()
    assert np.isfinite(features[LOOK_BACK - 1 :]).all()
    spread = features[LOOK_BACK - 1 :].std(axis=0)
    # A market that never closes has no gap in time; a source may write every open as the close before it.
    still = [name for name, sd in zip(NAMES, spread, strict=True) if sd == 0.0]
    assert set(still) <= {"bar_gap", "open_gap"}
    rng = np.random.default_rng(1)
    for row in rng.integers(LOOK_BACK - 1, len(bars), 25):
        alone = compute_features(REFERENCE_53, bars.slice(row - LOOK_BACK + 1, row + 1))
        assert same_bits(alone[-1], features[row])
