"""Regular sessions against New York's clock, asked bar by bar."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.sessions import regular_session

NEW_YORK = ZoneInfo("America/New_York")


def bars_at(opens: list[datetime], asset_class: AssetClass = AssetClass.EQUITY) -> Bars:
    ts = np.array([o.replace(tzinfo=None) for o in opens], dtype="datetime64[us]")
    values = {name: np.arange(len(ts), dtype=np.float64) + i for i, name in enumerate(COLUMNS[1:])}
    return Bars("SPY", Timeframe.MIN_15, asset_class, ts, **values)


def every_quarter(day: datetime) -> list[datetime]:
    return [day + i * timedelta(minutes=15) for i in range(96)]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 6 * 365 * 96))
def test_bars_are_kept_by_the_wall_clock(quarter):
    opens = every_quarter(datetime(2020, 1, 1, tzinfo=UTC) + quarter * timedelta(minutes=15))
    expected = []
    for o in opens:
        local = o.astimezone(NEW_YORK)
        if (9, 30) <= (local.hour, local.minute) < (16, 0):
            expected.append(o.replace(tzinfo=None))
    assert regular_session(bars_at(opens)).ts.astype(object).tolist() == expected


@pytest.mark.parametrize(
    ("day", "first_utc"),
    [
        (datetime(2024, 3, 8, tzinfo=UTC), "14:30"),
        (datetime(2024, 3, 11, tzinfo=UTC), "13:30"),
        (datetime(2024, 11, 1, tzinfo=UTC), "13:30"),
        (datetime(2024, 11, 4, tzinfo=UTC), "14:30"),
    ],
    ids=["winter", "after the clocks went forward", "summer", "after they went back"],
)
def test_summer_time_is_new_yorks(day: datetime, first_utc: str) -> None:
    kept = regular_session(bars_at(every_quarter(day)))
    assert len(kept) == 26, "six and a half hours"
    assert str(kept.ts[0])[11:16] == first_utc


def test_the_edges_and_the_other_columns() -> None:
    edges = ("09:29", "09:30", "15:59", "16:00")
    opens = [datetime.fromisoformat(f"2024-07-02T{e}:00").replace(tzinfo=NEW_YORK) for e in edges]
    bars = bars_at([o.astimezone(UTC) for o in opens])
    kept = regular_session(bars)
    for name in COLUMNS:
        assert getattr(kept, name).tolist() == getattr(bars, name)[1:3].tolist()
    assert (kept.symbol, kept.timeframe, kept.asset_class) == (bars.symbol, bars.timeframe, bars.asset_class)


def test_crypto_never_closes() -> None:
    bars = bars_at(every_quarter(datetime(2024, 7, 6, tzinfo=UTC)), AssetClass.CRYPTO)
    assert regular_session(bars) is bars
    assert len(regular_session(bars_at([]))) == 0
