"""Where another future begins, and what it is made of."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.bars import COLUMNS, PRICE_COLUMNS
from postval_assets.core.bootstrap import seeded
from postval_assets.core.engine import Lane
from postval_assets.core.features.patchwork import with_noise
from postval_assets.core.instruments import Timeframe
from postval_assets.core.policy_futures import instants
from postval_assets_tests.core.hourly_bars import some_bars
from postval_assets_tests.core.market_cases import SIZES


def test_instants_follow_from_the_model_and_lie_where_a_lane_decides() -> None:
    bars = some_bars(600, sessions=True)
    lanes = [Lane(bars, start, start + 90, SIZES[7]) for start in (100, 190, 400)]
    chosen = [instants(bars, lanes, seeded("x", str(seed))) for seed in range(60)]
    assert chosen == [instants(bars, lanes, seeded("x", str(seed))) for seed in range(60)]
    assert len(set(chosen)) > 50
    for found in chosen:
        assert all(any(lane.start <= t < lane.stop - 1 for lane in lanes) for t in found)
    places = {t for found in chosen for t in found}
    assert min(places) < 130
    assert max(places) > 460


def test_the_last_bar_before_the_longest_wait_is_one_of_them() -> None:
    bars = some_bars(300)
    ts = bars.ts.copy()
    ts[171:] += np.timedelta64(60, "h")
    bars = replace(bars, ts=ts)
    lanes = [Lane(bars, 50, 300, SIZES[7])]
    assert all(170 in instants(bars, lanes, seeded(str(seed))) for seed in range(20))


@given(
    seed=st.integers(0, 2**32),
    shift=st.integers(0, 200),
    n_bars=st.sampled_from([2, 3, 4, 6, 7, 8, 12, 24]),
    sessions=st.booleans(),
)
@settings(max_examples=100, deadline=None)
def test_no_longer_bar_ends_at_every_instant(seed: int, shift: int, n_bars: int, sessions: bool) -> None:
    bars = some_bars(500, sessions=sessions)
    bars = replace(bars, ts=bars.ts + shift * Timeframe.HOUR_1.delta)
    lanes = [Lane(bars, 60, 260, SIZES[7]), Lane(bars, 260, 500, SIZES[7])]
    found = instants(bars, lanes, seeded(str(seed)))
    hours = bars.ts.astype("datetime64[h]").astype(np.int64)
    # The next bar belongs to another longer bar.
    ends = [hours[t + 1] // n_bars != hours[t] // n_bars for t in found]
    assert not all(ends)


def test_noise_is_bars_that_could_have_been_at_the_same_times() -> None:
    bars = some_bars(400)
    noisy = with_noise(bars, 250, np.random.default_rng(1))
    for name in COLUMNS:
        assert np.array_equal(getattr(noisy, name)[:250], getattr(bars, name)[:250])
    assert np.array_equal(noisy.ts, bars.ts)
    for name in (*PRICE_COLUMNS, "volume"):
        assert (getattr(noisy, name)[250:] != getattr(bars, name)[250:]).all()
    late = noisy.slice(250, 400)
    assert (late.low > 0).all()
    assert (late.high >= np.maximum(late.open, late.close)).all()
    assert (late.low <= np.minimum(late.open, late.close)).all()
    assert np.isfinite(late.high).all()
    assert 0 < (late.volume == 0.0).sum() < 50
    again = with_noise(bars, 250, np.random.default_rng(1))
    assert np.array_equal(again.close, noisy.close)
