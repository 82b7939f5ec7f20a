"""Regular trading sessions.

Here: which bars belong to the regular session, by New York wall-clock hours. Not here: holidays and early closes,
which need an exchange's calendar; on a half day the afternoon's extended-hours bars still count as regular.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.instruments import AssetClass
from postval_assets.core.resampling import EXCHANGE_TIMEZONE

OPEN_MINUTE = 9 * 60 + 30
CLOSE_MINUTE = 16 * 60


def regular_session(bars: Bars) -> Bars:
    """The bars that open from 09:30 until before 16:00 New York time; all bars for crypto, which never closes."""
    if bars.asset_class is AssetClass.CRYPTO:
        return bars
    local = pd.DatetimeIndex(bars.ts, tz="UTC").tz_convert(EXCHANGE_TIMEZONE)
    minute = np.asarray(local.hour * 60 + local.minute)
    kept = (minute >= OPEN_MINUTE) & (minute < CLOSE_MINUTE)
    columns = {name: getattr(bars, name)[kept] for name in COLUMNS}
    return Bars(symbol=bars.symbol, timeframe=bars.timeframe, asset_class=bars.asset_class, **columns)
