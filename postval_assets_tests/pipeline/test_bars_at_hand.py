"""How much history a look asks for, and what is printed where there is none."""

from __future__ import annotations

import numpy as np
import pytest

from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.calendars import exchange_sessions
from postval_assets.pipeline.bars_at_hand import days_of
from postval_assets.pipeline.single_model import backtest_model
from postval_assets.report.text import fold_analysis
from postval_assets_tests.factories import make_checkpoint
from postval_assets_tests.pipeline.conftest import BUY, Bench, network

DAY = np.timedelta64(1, "D")


@pytest.mark.parametrize("timeframe", list(Timeframe))
@pytest.mark.parametrize("n_bars", [1, 20, 239, 1000])
def test_so_many_days_hold_so_many_bars_of_a_stock(timeframe: Timeframe, n_bars: int) -> None:
    days = days_of(n_bars, timeframe, AssetClass.EQUITY)
    for end in ("2024-01-02", "2024-12-30", "2025-06-10"):
        stop = np.datetime64(end, "us")
        sessions = exchange_sessions(stop - int(days) * DAY, stop)
        minutes = (sessions.closes - sessions.opens) / np.timedelta64(1, "m")
        held = np.maximum(minutes // timeframe.minutes, 1).sum()
        assert held >= n_bars, end
    assert days < 3 * n_bars * timeframe.minutes / 390 + 2 * n_bars + 10, "and not years more"


def test_pairs_trade_around_the_clock() -> None:
    assert 10 < days_of(239, Timeframe.HOUR_1, AssetClass.CRYPTO) < 25
    assert days_of(239, Timeframe.DAY_1, AssetClass.CRYPTO) >= 239


def test_grades_of_nothing_are_not_poor(bench: Bench) -> None:
    bench.put_bars("UPPUSD", n=150)
    file = make_checkpoint(bench.root / "UPPUSD_4Hour.pt", **network(BUY))
    done = backtest_model(bench.platform, file, days=180, n_folds=5)
    assert done.summary["n_computed"] == 0
    text = fold_analysis(done.summary, done.folds)
    assert "POOR" not in text
    assert "  Positive Folds: 0/5  -\n" in text
    bench.put_bars("UPPUSD", market="rising")
    whole = backtest_model(bench.platform, file, days=180, n_folds=5)
    assert "  Positive Folds: 5/5  GOOD\n" in fold_analysis(whole.summary, whole.folds)
