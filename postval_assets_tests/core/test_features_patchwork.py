"""The bars that a feature set is tried on: real stretches, others beside them, and where the cuts come."""

from __future__ import annotations

import numpy as np
import pytest

from postval_assets.core.bars import Bars
from postval_assets.core.features.patchwork import Cutter, Patchwork, empty_bars
from postval_assets_tests.core.hourly_bars import some_bars, with_empty_bars

LOOK_BACK = 30


def patchworks(bars: Bars, look_back: int, n: int) -> list[Patchwork]:
    cutter = Cutter(bars, look_back)
    return [cutter.next() for _ in range(n)]


@pytest.mark.parametrize("n", [31, 32, 40, 61, 100, 400])
@pytest.mark.parametrize("sessions", [False, True], ids=["round the clock", "sessions"])
def test_rows_that_are_compared_have_their_look_back_from_the_real_bars_and_others_beside_it(
    n: int, sessions: bool
) -> None:
    bars = some_bars(n, sessions=sessions)
    for patched in patchworks(bars, LOOK_BACK, 5):
        assert len(patched.rows) > 0
        assert len(patched.bars) < n
        for place, row in zip(patched.places, patched.rows, strict=True):
            real, given = (b.slice(i - LOOK_BACK + 1, i + 1) for b, i in ((bars, row), (patched.bars, place)))
            assert real.digest() == given.digest()
        places = dict(zip(patched.rows.tolist(), patched.places.tolist(), strict=True))
        for cut in patched.cuts:
            after = places[cut] + 1
            assert after == len(patched.bars) or patched.bars.ts[after] > bars.ts[cut + 1]
            if after < len(patched.bars):
                assert abs(np.log(patched.bars.close[after] / bars.close[cut])) > 0.02
                assert patched.bars.volume[after] not in bars.volume


def test_cuts_come_at_all_hours_of_the_week_and_at_bars_without_volume() -> None:
    bars = with_empty_bars(some_bars(6000), share=0.02)
    first = patchworks(bars, 139, 1)[0]
    hours = {int(h) for h in bars.ts[list(first.cuts)].astype("datetime64[h]").astype(int) % 24}
    assert len(hours) == 24
    cuts = [c for p in patchworks(bars, 139, 20) for c in p.cuts]
    assert len(set(cuts)) == len(cuts)
    assert len({int(h) for h in bars.ts[cuts].astype("datetime64[h]").astype(int) % 168}) == 168
    empty = empty_bars(bars)
    assert empty[cuts].mean() > 5 * empty.mean()
    assert empty[np.add(cuts, 1)].mean() > 5 * empty.mean()
