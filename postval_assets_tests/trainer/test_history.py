"""Which bars are trained on: what closes by the cut, and nothing later."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from postval_assets.core.bars import Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.folds import PLANS, cut, newest_close
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.trainer.history import BarChoice, training_bars
from postval_assets_tests.trainer.archive_cases import market

FIRST = datetime(2024, 1, 1, tzinfo=UTC)
N = 24 * 20
CLOSE = FIRST + timedelta(hours=N)


@dataclass(frozen=True)
class Hourly:
    """A source with twenty days of hourly bars of everything, but of EMPTY."""

    name: str = "hourly"

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        if timeframe is not Timeframe.HOUR_1:
            raise Rejected(f"no {timeframe} bars of {symbol}")
        n = 0 if symbol == "EMPTY" else N
        ts = np.datetime64(FIRST.replace(tzinfo=None), "us") + np.arange(n) * Timeframe.HOUR_1.delta
        price = 100.0 + np.arange(n, dtype=np.float64)
        return Bars(symbol, timeframe, asset_class, ts, price, price, price, price, np.ones(n))

    def symbols(self) -> tuple[str, ...]:
        return ("BTCUSD",)


ALL = BarChoice(
    timeframe=Timeframe.HOUR_1,
    base_timeframe=Timeframe.HOUR_1,
    regular_session=False,
    now=datetime(2025, 1, 1, tzinfo=UTC),
)


def part(
    choice: BarChoice, symbol: str = "BTCUSD", asset_class: AssetClass = AssetClass.CRYPTO
) -> tuple[datetime, datetime, int, float]:
    """First open, last open, number of bars, days after."""
    found = training_bars(Hourly(), symbol, asset_class, choice)
    first, last = (datetime.fromisoformat(f"{ts}+00:00") for ts in found.bars.ts[[0, -1]])
    return first, last, len(found.bars), found.days_after


def hours(n: int) -> timedelta:
    return timedelta(hours=n)


def test_all_there_is() -> None:
    assert part(ALL) == (FIRST, CLOSE - hours(1), N, 0.0)


@pytest.mark.parametrize("minutes", [0, 1, 59])
def test_until_takes_what_closes_by_then(minutes: int) -> None:
    until = FIRST + timedelta(days=3, minutes=minutes)
    assert part(replace(ALL, until=until)) == (FIRST, FIRST + hours(71), 72, 17.0)


def test_since_takes_what_opens_from_then_on() -> None:
    assert part(replace(ALL, since=FIRST + hours(5)))[0] == FIRST + hours(5)
    assert part(replace(ALL, since=FIRST + hours(5) + timedelta(seconds=1)))[0] == FIRST + hours(6)


def test_an_offset_is_heeded() -> None:
    east = datetime.fromisoformat("2024-01-03T02:00:00+02:00")
    assert part(replace(ALL, until=east))[2] == 48


def test_held_out_days_count_from_each_symbol_s_own_last_close() -> None:
    assert part(replace(ALL, hold_out_days=5)) == (FIRST, CLOSE - timedelta(days=5, hours=1), N - 120, 5.0)
    earlier = replace(ALL, hold_out_days=5, now=CLOSE - timedelta(days=10))
    assert part(earlier)[1] == CLOSE - timedelta(days=15, hours=1)


def test_a_bar_that_is_not_over_yet_is_none() -> None:
    assert part(replace(ALL, now=CLOSE - timedelta(minutes=1)))[2] == N - 1


def test_longer_bars_are_made_of_the_base_ones_and_close_by_the_cut_too() -> None:
    four = replace(ALL, timeframe=Timeframe.HOUR_4, until=FIRST + hours(27))
    first, last, n, days_after = part(four)
    assert (first, last, n) == (FIRST, FIRST + hours(20), 6)
    assert days_after == 19.0
    found = training_bars(Hourly(), "BTCUSD", AssetClass.CRYPTO, four).bars
    assert (found.open[1], found.close[1], found.volume[1]) == (104.0, 107.0, 4.0)


def test_finer_bars_than_the_base_are_the_source_s_own() -> None:
    with pytest.raises(Rejected, match="no 15Min bars of BTCUSD"):
        part(replace(ALL, timeframe=Timeframe.MIN_15))


def test_extended_hours_are_left_out_where_the_settings_say_so() -> None:
    regular = replace(ALL, regular_session=True)
    found = training_bars(Hourly(), "AAPL", AssetClass.EQUITY, regular).bars
    assert set((found.ts.astype("datetime64[h]").astype(int) % 24).tolist()) == set(range(15, 21))
    assert part(regular)[2] == N, "crypto never closes"


@pytest.mark.parametrize(
    ("choice", "words"),
    [
        (
            replace(ALL, until=FIRST),
            "BTCUSD: none of its 480 1Hour bars, from 2024-01-01T00:00Z to 2024-01-21T00:00Z, opens and closes by",
        ),
        (
            replace(ALL, since=CLOSE),
            "opens at 2024-01-21T00:00Z or later and closes by 2024-01-21T00:00Z",
        ),
        (replace(ALL, hold_out_days=20), "closes by 2024-01-01T00:00Z"),
        (replace(ALL, now=FIRST), "BTCUSD: the source hourly has no complete 1Hour bar of it"),
    ],
)
def test_a_part_without_bars_is_refused(choice: BarChoice, words: str) -> None:
    with pytest.raises(Rejected) as error:
        part(choice)
    assert words in str(error.value)


def test_a_symbol_without_bars_is_refused() -> None:
    with pytest.raises(Rejected, match="EMPTY: the source hourly has no complete 1Hour bar"):
        part(ALL, "EMPTY")


@dataclass(frozen=True)
class Damaged(Hourly):
    """The same bars, some of which open at 0."""

    bad: tuple[int, ...] = ()

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        bars = super().fetch(symbol, timeframe, asset_class, start=start, end=end)
        opens, lows = bars.open.copy(), bars.low.copy()
        opens[list(self.bad)] = lows[list(self.bad)] = 0.0
        return replace(bars, open=opens, low=lows)


def test_bars_before_an_impossible_price_are_left_out_and_told() -> None:
    found = training_bars(Damaged(bad=(0, 7)), "BTCUSD", AssetClass.CRYPTO, ALL)
    assert len(found.bars) == N - 8
    assert found.bars.open.min() > 0.0
    assert found.skipped == (
        "2 of 480 bars have a price that is not above 0 and finite, the last one at 2024-01-01T07:00Z: "
        "trained on the 472 bars after it"
    )
    assert training_bars(Hourly(), "BTCUSD", AssetClass.CRYPTO, ALL).skipped is None


def test_an_impossible_price_late_in_the_bars_is_refused() -> None:
    with pytest.raises(Rejected, match=r"BTCUSD: 1 of 480 bars .* less than half of them"):
        training_bars(Damaged(bad=(300,)), "BTCUSD", AssetClass.CRYPTO, ALL)
    # What is after the cut is not looked at.
    early = replace(ALL, until=FIRST + timedelta(hours=250))
    assert len(training_bars(Damaged(bad=(300,)), "BTCUSD", AssetClass.CRYPTO, early).bars) == 250


@dataclass(frozen=True)
class Simulated:
    """Two years and a half of simulated hourly bars of one symbol."""

    bars: Bars
    name: str = "simulated"

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        assert (symbol, timeframe, asset_class) == (self.bars.symbol, Timeframe.HOUR_1, self.bars.asset_class)
        return self.bars

    def symbols(self) -> tuple[str, ...]:
        return (self.bars.symbol,)


@pytest.mark.parametrize(
    ("symbol", "timeframe", "hold_out_days", "too_little"),
    [
        ("BTCUSD", "1Hour", 179, "179 days"),
        ("BTCUSD", "1Hour", 180, None),
        ("BTCUSD", "1Day", 200, "200 days, 180 bars in the last 180"),
        ("BTCUSD", "1Day", 400, "400 days, 180 bars in the last 180, 365 bars in the last 365"),
        # Two bars a trading day: 500 of them are more than 365 days have here.
        ("AAPL", "4Hour", 200, "201 days, 244 bars in the last 180"),
        ("AAPL", "4Hour", 370, "370 days, 244 bars in the last 180, 499 bars in the last 365"),
        ("AAPL", "2Hour", 200, None),
        ("AAPL", "1Hour", 200, None),
    ],
)
def test_what_is_too_little_to_validate_on_is_what_no_plan_takes(
    symbol: str, timeframe: str, hold_out_days: int, too_little: str | None
) -> None:
    bars = market(symbol, days=900)
    choice = BarChoice(Timeframe(timeframe), Timeframe.HOUR_1, True, datetime(2030, 1, 1, tzinfo=UTC))
    source = Simulated(bars)
    everything = training_bars(source, symbol, bars.asset_class, choice).bars
    part = training_bars(source, symbol, bars.asset_class, replace(choice, hold_out_days=hold_out_days))
    assert part.too_little == too_little
    as_of = newest_close(everything, choice.now)
    taken = [
        plan.name
        for plan in PLANS.values()
        for blocks in [cut(everything, plan, as_of, needed_before=100).blocks]
        if not any(b.problem for b in blocks) and everything.ts[blocks[0].start] > part.bars.ts[-1]
    ]
    assert (part.too_little is None) == bool(taken)
