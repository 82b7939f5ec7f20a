"""Regular sessions against New York's clock, asked bar by bar, and the bars that a calendar's sessions should have."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.sessions import Sessions, expected_bars, regular_bars, regular_session

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


# --- by a calendar's opens and closes ---------------------------------------------------------------------------


def instants(*texts: str) -> np.ndarray:
    return np.array(texts, dtype="datetime64[us]")


# Wednesday, the half day after Thanksgiving, Monday: 14:30 to 21:00 UTC, the half day until 18:00.
WEEK = Sessions(
    instants("2024-11-27T14:30", "2024-11-29T14:30", "2024-12-02T14:30"),
    instants("2024-11-27T21:00", "2024-11-29T18:00", "2024-12-02T21:00"),
)


def series(opens: list[str], timeframe: Timeframe = Timeframe.HOUR_1) -> Bars:
    ts = instants(*opens)
    ones = np.ones(len(ts))
    return Bars("SPY", timeframe, AssetClass.EQUITY, ts, ones, ones, ones, ones, ones)


def hours(day: str, first: str, n: int, step: int = 60) -> list[str]:
    start = datetime.fromisoformat(f"{day}T{first}")
    return [(start + i * timedelta(minutes=step)).isoformat() for i in range(n)]


def test_half_days_are_seen() -> None:
    assert WEEK.close_early.tolist() == [False, True, False]
    assert WEEK.trading_time(WEEK.opens[0], WEEK.closes[-1]) == np.timedelta64(16 * 60 + 30, "m")
    cut = WEEK.between(*instants("2024-11-27T20:00", "2024-11-29T15:00"))
    assert (len(cut), str(cut.opens[0]), str(cut.closes[1])) == (
        2,
        "2024-11-27T20:00:00.000000",
        "2024-11-29T15:00:00.000000",
    )


@pytest.mark.parametrize(
    ("first", "n_usual", "n_half"),
    [("14:30", 7, 4), ("14:00", 7, 4)],
    ids=[
        "bars open at :30, the last one half an hour",
        "bars open on the hour, the first one holds the open",
    ],
)
def test_a_complete_week_has_every_expected_bar(first: str, n_usual: int, n_half: int) -> None:
    opens = [
        *hours("2024-11-27", first, n_usual),
        *hours("2024-11-29", first, n_half),
        *hours("2024-12-02", first, n_usual),
    ]
    expected = expected_bars(series(opens), WEEK)
    assert expected.ts.tolist() == instants(*opens).tolist()
    assert expected.is_there.all()
    assert regular_bars(series(opens), WEEK).all()
    in_session = (expected.stop - expected.start).sum()
    assert in_session == np.timedelta64(16 * 60 + 30, "m"), "the parts outside the session are none of it"


def test_extended_hours_are_marked_and_never_missed() -> None:
    extended = hours("2024-11-27", "09:00", 5)
    regular = hours("2024-11-27", "14:00", 7)
    after = [*hours("2024-11-27", "21:00", 4), *hours("2024-11-29", "18:00", 6)]
    bars = series([*extended, *regular, *after])
    marked = regular_bars(bars, WEEK)
    assert bars.ts[marked].tolist() == instants(*regular).tolist()
    missing = expected_bars(bars, WEEK)
    assert missing.session[~missing.is_there].tolist() == [1] * 4 + [2] * 7


def test_a_session_without_bars_has_the_grid_of_the_one_before() -> None:
    bars = series([*hours("2024-11-27", "14:30", 7), *hours("2024-12-02", "14:00", 7)])
    expected = expected_bars(bars, WEEK)
    minutes = (expected.ts.astype("datetime64[m]").astype(int) % 60).tolist()
    assert minutes == [30] * 7 + [30] * 4 + [0] * 7
    assert (~expected.is_there).sum() == 4


def test_days_are_one_expected_bar_each_in_summer_and_winter() -> None:
    # New York's midnight; the clocks go back on 2024-11-03.
    sessions = Sessions(
        instants("2024-11-01T13:30", "2024-11-04T14:30", "2024-11-05T14:30"),
        instants("2024-11-01T20:00", "2024-11-04T21:00", "2024-11-05T21:00"),
    )
    bars = series(["2024-11-01T04:00", "2024-11-05T05:00"], Timeframe.DAY_1)
    expected = expected_bars(bars, sessions)
    assert expected.session.tolist() == [0, 1, 2]
    assert expected.is_there.tolist() == [True, False, True]


def test_around_the_clock_every_hour_is_expected() -> None:
    bars = series(["2024-11-30T00:00", "2024-11-30T01:00", "2024-11-30T05:00"])
    expected = expected_bars(bars, Sessions.around_the_clock(bars.ts[0], instants("2024-11-30T06:00")[0]))
    assert expected.is_there.tolist() == [True, True, False, False, False, True]


def test_sessions_out_of_order_are_refused() -> None:
    with pytest.raises(Rejected, match="time order"):
        Sessions(WEEK.opens[::-1], WEEK.closes[::-1])
    with pytest.raises(Rejected, match="as many"):
        Sessions(WEEK.opens, WEEK.closes[:2])


def test_without_sessions_nothing_is_expected() -> None:
    none = WEEK.between(*instants("2024-11-30T00:00", "2024-12-01T00:00"))
    bars = series(hours("2024-11-30", "10:00", 3))
    assert (len(none), len(expected_bars(bars, none)), bool(regular_bars(bars, none).any())) == (0, 0, False)
