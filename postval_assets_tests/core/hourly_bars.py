"""Made hourly bars, for tests of what a feature set looks at."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from postval_assets.core.bars import Bars
from postval_assets.core.instruments import AssetClass, Timeframe


def some_bars(n: int = 400, *, sessions: bool = False, sd: float = 0.004, seed: int = 1) -> Bars:
    """Hourly bars round the clock, or in sessions of 7 hours with nights between."""
    rng = np.random.default_rng(seed)
    close = 50.0 * np.exp(np.cumsum(rng.normal(0.0, sd, n)))
    opened = np.r_[50.0, close[:-1]]
    place = np.arange(n)
    hours = place // 7 * 24 + place % 7 if sessions else place
    frame = pd.DataFrame(
        {
            "ts": pd.Timestamp("2024-01-01 14:00", tz="UTC") + pd.to_timedelta(hours, unit="h"),
            "open": opened,
            "high": np.maximum(opened, close) * 1.001,
            "low": np.minimum(opened, close) * 0.999,
            "close": close,
            "volume": rng.lognormal(6.0, 1.0, n),
        }
    )
    return Bars.from_frame(frame, symbol="AAPL", timeframe=Timeframe.HOUR_1, asset_class=AssetClass.EQUITY)


def with_empty_bars(bars: Bars, share: float = 0.12) -> Bars:
    """The same bars, some of them without volume."""
    empty = np.random.default_rng(7).random(len(bars)) < share
    return replace(bars, volume=np.where(empty, 0.0, bars.volume))
