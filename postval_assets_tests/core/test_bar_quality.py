"""Each check over bars that have exactly what it is for, and over bars that must not be blamed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.bar_quality import (
    CHECKS,
    DEFAULT_LIMITS,
    Check,
    Finding,
    QualityLimit,
    Severity,
    examine,
    worst,
)
from postval_assets.core.bars import Bars
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.sessions import Sessions

HOUR = np.timedelta64(3_600_000_000, "us")
START = np.datetime64("2024-01-01T00:00", "us")
N = 2000
PAGE = Path(__file__).resolve().parents[2] / "docs" / "bar-quality.md"


def sound_bars(n: int = N, asset_class: AssetClass = AssetClass.CRYPTO, seed: int = 3) -> Bars:
    """A random walk that no check has anything against."""
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(rng.normal(0.0, 0.005, n).cumsum())
    opened = np.r_[100.0, close[:-1]] * np.exp(rng.normal(0.0, 0.001, n))
    high, low = np.maximum(opened, close) * 1.001, np.minimum(opened, close) * 0.999
    ts = START + np.arange(n) * HOUR
    volume = rng.uniform(1.0, 2.0, n)
    return Bars("UNIUSD", Timeframe.HOUR_1, asset_class, ts, opened, high, low, close, volume)


def take(bars: Bars, kept: np.ndarray) -> Bars:
    columns = {name: getattr(bars, name)[kept] for name in ("ts", "open", "high", "low", "close", "volume")}
    return replace(bars, **columns)


def changed(bars: Bars, where: slice | int, **columns: float | np.ndarray) -> Bars:
    out = {}
    for name, value in columns.items():
        column = getattr(bars, name).copy()
        column[where] = value
        out[name] = column
    return replace(bars, **out)


def findings(
    bars: Bars,
    *,
    recent_bars: int = N,
    now: np.datetime64 | None = None,
    sessions: Sessions | None = None,
    limits: dict[Check, QualityLimit] | None = None,
) -> dict[Check, Finding]:
    end = bars.ts[-1] + bars.timeframe.delta
    found = examine(
        bars,
        sessions or Sessions.around_the_clock(bars.ts[0], end),
        recent_from=end - recent_bars * HOUR,
        now=now,
        limits={**DEFAULT_LIMITS, **(limits or {})},
    )
    assert [f.check for f in found] == list(Check)
    return {f.check: f for f in found}


def blamed(found: dict[Check, Finding]) -> dict[str, str]:
    return {check.value: f.severity.value for check, f in found.items() if f.severity is not Severity.OK}


def without_hours(start: int, n: int) -> Callable[[Bars], Bars]:
    return lambda bars: take(bars, np.r_[0:start, start + n : N])


def flat(start: int, n: int) -> Callable[[Bars], Bars]:
    """Hours without a trade as thin venues write them."""

    def change(bars: Bars) -> Bars:
        price = bars.close[start - 1]
        where = slice(start, start + n)
        return changed(bars, where, open=price, high=price, low=price, close=price, volume=0.0)

    return change


def print_at(place: int, factor: float) -> Callable[[Bars], Bars]:
    """A close far from its neighbours; high and low make room for it."""

    def change(bars: Bars) -> Bars:
        price = bars.close[place] * factor
        high, low = max(price, bars.high[place]), min(price, bars.low[place])
        return changed(bars, place, close=price, high=high, low=low)

    return change


def level_from(place: int, factor: float) -> Callable[[Bars], Bars]:
    """All prices higher from a bar on, as an unadjusted split makes them."""

    def change(bars: Bars) -> Bars:
        where = slice(place, None)
        return changed(
            bars, where, **{c: getattr(bars, c)[where] * factor for c in ("open", "high", "low", "close")}
        )

    return change


def half_an_hour_late(bars: Bars) -> Bars:
    return replace(bars, ts=np.r_[bars.ts[:-10], bars.ts[-10:] + HOUR // 2])


def second_grid(bars: Bars) -> Bars:
    """Ten bars more, half an hour beside others, as a splice of two sources has them."""
    extra = take(bars, np.arange(1000, 1010))
    extra = replace(extra, volume=2.0 * extra.volume)
    both = {c: np.r_[getattr(bars, c), getattr(extra, c)] for c in ("open", "high", "low", "close", "volume")}
    ts = np.r_[bars.ts, extra.ts + HOUR // 2]
    order = np.argsort(ts)
    return replace(bars, ts=ts[order], **{c: v[order] for c, v in both.items()})


def repeated(bars: Bars) -> Bars:
    """A feed that hangs: the same bar five times, with its volume."""
    where = slice(1500, 1505)
    columns = ("open", "high", "low", "close", "volume")
    return changed(bars, where, **{c: getattr(bars, c)[1499] for c in columns})


def at_previous_close(bars: Bars) -> Bars:
    opened = np.r_[bars.open[0], bars.close[:-1]]
    return replace(bars, open=opened, high=np.maximum(bars.high, opened), low=np.minimum(bars.low, opened))


# (what is done to sound bars, what is blamed, value of the first of these, whose detail says where)
DEFECTS: dict[str, tuple[Callable[[Bars], Bars], dict[str, str], float, str]] = {
    "five hours missing": (without_hours(1000, 5), {"longest_gap": "WARN"}, 5.0, "5 h at 2024-02-11 16:00"),
    "a twentieth missing": (
        lambda b: take(b, np.arange(N) % 20 != 7),
        {"gaps": "WARN"},
        0.05,
        "100 of 2000 expected bars, first 2024-01-01 07:00",
    ),
    "every other hour missing": (
        lambda b: take(b, np.arange(N) % 2 == 0),
        {"gaps": "ERROR"},
        0.5,
        "expected bars",
    ),
    "four days missing": (
        without_hours(500, 96),
        {"longest_gap": "ERROR", "gaps": "WARN"},
        96.0,
        "96 h at 2024-01-21 20:00",
    ),
    "ten hours without a trade": (
        flat(700, 10),
        {"zero_volume_run": "WARN"},
        10.0,
        "10 h at 2024-01-30 04:00",
    ),
    "no trade in a fifth": (
        lambda b: changed(b, slice(None), volume=np.where(np.arange(N) % 5 == 2, 0.0, 1.0)),
        {"zero_volume": "WARN"},
        0.2,
        "400 of 2000 bars",
    ),
    "a low above the close": (
        lambda b: changed(b, 5, low=b.close[5] * 1.01),
        {"brackets": "WARN"},
        1 / N,
        "1 of 2000 bars, 2024-01-01 05:00",
    ),
    "a price of zero": (
        lambda b: changed(b, 1200, open=0.0, low=0.0),
        {"non_positive_prices": "ERROR"},
        1 / N,
        "1 of 2000 recent bars, 2024-02-20 00:00",
    ),
    "a price that is no number": (
        lambda b: changed(b, 1200, close=np.nan),
        {"non_positive_prices": "ERROR"},
        1 / N,
        "1 of 2000 recent bars, 2024-02-20 00:00",
    ),
    "an unadjusted split": (level_from(1300, 0.5), {"jumps": "WARN"}, 138.0, "at 2024-02-24 04:00"),
    "a thin print": (print_at(900, 1.12), {"spikes": "WARN"}, 0.12, "of price at 2024-02-07 12:00"),
    "a slip of the decimal point": (
        print_at(900, 10.0),
        {"spikes": "ERROR", "jumps": "WARN"},
        9.0,
        "of price at 2024-02-07 12:00",
    ),
    "ten bars half an hour late": (
        half_an_hour_late,
        {"misalignment": "WARN"},
        10 / N,
        "10 of 2000 bars, first 2024-03-23 22:30",
    ),
    "two grids for ten hours": (
        second_grid,
        {"duplicates": "WARN", "misalignment": "WARN"},
        20 / (N + 9),
        "20 of 2009 bars, first 2024-02-11 16:30",
    ),
    "a feed that hangs": (repeated, {"repeated_bars": "WARN"}, 5 / (N - 1), "5 of 1999 bars"),
    "open at the previous close": (
        at_previous_close,
        {"open_is_previous_close": "WARN"},
        1.0,
        "1999 of 1999 bars",
    ),
}


def test_sound_bars_are_sound() -> None:
    found = findings(sound_bars())
    assert blamed(found) == {}
    assert worst(list(found.values())) is Severity.OK


@pytest.mark.parametrize("name", DEFECTS)
def test_what_is_wrong_is_blamed_and_nothing_else(name: str) -> None:
    defect, expected, value, where = DEFECTS[name]
    found = findings(defect(sound_bars()))
    assert blamed(found) == expected
    first = found[Check(next(iter(expected)))]
    assert first.value == pytest.approx(value, rel=0.10)
    assert where in first.detail
    assert worst(list(found.values())).value == max(expected.values(), key=["WARN", "ERROR"].index)


def test_an_error_is_of_the_recent_bars_only() -> None:
    bars = changed(sound_bars(), 1200, close=0.0)
    new, old = (findings(bars, recent_bars=n)[Check.NON_POSITIVE_PRICES] for n in (N - 1200, N - 1201))
    assert (new.severity, new.recent_value) == (Severity.ERROR, 1 / 800)
    assert new.error_from == bars.ts[1200]
    assert (old.severity, old.recent_value, old.value) == (Severity.WARN, 0.0, 1 / N)
    assert old.error_from is None


def test_an_error_by_size_begins_with_what_is_too_large() -> None:
    bars = take(sound_bars(), np.r_[0:100, 102:500, 600:N])
    gap = findings(bars)[Check.LONGEST_GAP]
    assert (gap.severity, gap.value) == (Severity.ERROR, 100.0)
    assert gap.error_from == START + 500 * HOUR, "the two hours before are no error"


def test_limits_are_what_is_given() -> None:
    bars = without_hours(1000, 5)(sound_bars())
    for limit, severity in (
        (QualityLimit(), Severity.OK),
        (QualityLimit(5.0, 6.0), Severity.OK),
        (QualityLimit(4.9, 5.0), Severity.WARN),
        (QualityLimit(1.0, 4.9), Severity.ERROR),
    ):
        found = findings(bars, limits={Check.LONGEST_GAP: limit})[Check.LONGEST_GAP]
        assert (found.severity, found.limit) == (severity, limit)


def test_the_age_of_the_newest_bar() -> None:
    bars = sound_bars()
    end = bars.ts[-1] + HOUR
    for hours, severity in ((0, Severity.OK), (120, Severity.OK), (121, Severity.WARN)):
        found = findings(bars, now=end + hours * HOUR)[Check.STALE]
        assert (found.severity, found.value) == (severity, hours / 24)
        assert found.detail == "the newest bar ends 2024-03-24 08:00", "no word of the clock"
    assert findings(bars)[Check.STALE].value is None, "simulated bars"


def test_unknown_volume_is_no_defect() -> None:
    assert blamed(findings(changed(sound_bars(), slice(None), volume=np.nan))) == {}


def stock(days: int = 60) -> tuple[Bars, Sessions]:
    """A stock's sessions, 7 bars each from 14:30 UTC, on consecutive days."""
    bars = sound_bars(days * 7, AssetClass.EQUITY)
    opens = START + (np.arange(days) * 24 + 14) * HOUR + HOUR // 2
    ts = (opens[:, None] + np.arange(7) * HOUR).ravel()
    return replace(bars, symbol="MSFT", ts=ts), Sessions(opens, opens + 6 * HOUR + HOUR // 2)


def test_nights_and_the_half_hour_at_the_end_are_no_gaps() -> None:
    bars, sessions = stock()
    assert blamed(findings(bars, sessions=sessions)) == {}


def test_a_night_is_measured_by_other_nights() -> None:
    bars, sessions = stock()
    factor = np.exp(np.where(np.arange(60) % 2, 0.04, -0.04)[:, None] * np.ones(7)).ravel()
    columns = {c: getattr(bars, c) * factor for c in ("open", "high", "low", "close")}
    jumpy = replace(bars, **columns)
    value = findings(jumpy, sessions=sessions)[Check.JUMPS].value
    assert value is not None
    assert value < 8.0


def test_a_stock_without_a_session_of_bars() -> None:
    bars, sessions = stock()
    gone = take(bars, np.r_[0:70, 77 : len(bars)])
    found = findings(gone, sessions=sessions)
    assert blamed(found) == {"gaps": "WARN", "longest_gap": "WARN"}
    assert found[Check.LONGEST_GAP].value == 6.5, "trading hours"


def test_a_stocks_price_that_moves_without_volume() -> None:
    bars, sessions = stock()
    silent = changed(bars, 30, volume=0.0)
    assert blamed(findings(silent, sessions=sessions)) == {"unknown_volume": "WARN"}
    crypto = changed(sound_bars(), 30, volume=0.0)
    assert blamed(findings(crypto)) == {}, "quotes move it"


def test_extended_hours_are_counted_and_not_blamed() -> None:
    bars, sessions = stock()
    evening = take(bars, np.arange(0, len(bars), 7))
    evening = replace(
        evening, ts=evening.ts + 8 * HOUR, high=evening.close, low=evening.close, open=evening.close
    )
    both = {
        c: np.r_[getattr(bars, c), getattr(evening, c)] for c in ("open", "high", "low", "close", "volume")
    }
    ts = np.r_[bars.ts, evening.ts]
    order = np.argsort(ts)
    mixed = replace(bars, ts=ts[order], **{c: v[order] for c, v in both.items()})
    found = findings(mixed, sessions=sessions)
    assert found[Check.EXTENDED_HOURS].value == 1 / 8
    assert found[Check.EXTENDED_HOURS].detail.endswith("; 60 of them flat")
    assert found[Check.FLAT_BARS].value == 0.0


def test_long_bars_are_aligned_by_the_clock_that_fits() -> None:
    # New York's midnight is 05:00 UTC in winter and 04:00 in summer.
    days = np.arange(200)
    ts = START + days * 24 * HOUR + np.where(days < 70, 5, 4) * HOUR
    bars = replace(sound_bars(200, AssetClass.EQUITY), timeframe=Timeframe.DAY_1, ts=ts)
    assert findings(bars)[Check.MISALIGNMENT].value == 0.0
    utc = replace(bars, ts=START + days * 24 * HOUR)
    assert findings(utc)[Check.MISALIGNMENT].value == 0.0
    late = np.r_[ts[:-1], ts[-1] + HOUR]
    assert findings(replace(bars, ts=late))[Check.MISALIGNMENT].value == pytest.approx(1 / 200)


def test_days_that_begin_by_a_local_clock_are_not_blamed_for_it() -> None:
    """Alpaca's days of pairs: 06:00 UTC in winter, 05:00 in summer, and twice a year one of 23 or 25 hours."""
    days = np.arange(400)
    summer = (days >= 70) & (days < 308)  # of 2024, from the midnight after the clock was turned
    ts = START + days * 24 * HOUR + np.where(summer, 5, 6) * HOUR
    bars = replace(sound_bars(400), timeframe=Timeframe.DAY_1, ts=ts)
    found = findings(bars, recent_bars=400)
    assert [found[c].value for c in (Check.MISALIGNMENT, Check.DUPLICATES, Check.GAPS)] == [0.0, 0.0, 0.0]
    twice = changed(bars, 200, ts=ts[199] + 3 * HOUR)
    assert findings(twice)[Check.DUPLICATES].value == pytest.approx(1 / 399)


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 60), st.integers(0, 2**32 - 1), st.booleans())
def test_any_bars_get_a_verdict(n: int, seed: int, is_equity: bool) -> None:
    rng = np.random.default_rng(seed)
    values = rng.choice([0.0, -1.0, np.nan, np.inf, 1.0, 2.0, 1e308, 5e-324], size=(5, n))
    ts = START + np.unique(rng.integers(0, 4 * n, n)) * (HOUR // 2)
    columns = {
        c: v[: len(ts)] for c, v in zip(("open", "high", "low", "close", "volume"), values, strict=True)
    }
    asset_class = AssetClass.EQUITY if is_equity else AssetClass.CRYPTO
    bars = Bars("AAPL", Timeframe.HOUR_1, asset_class, ts, **columns)
    for f in findings(bars, now=ts[-1]).values():
        assert (f.value is None) == (f.recent_value is None)
        assert f.value is None or (np.isfinite(f.value) and f.value >= 0.0), f
        assert CHECKS[f.check].unit != "share" or f.value is None or f.value <= 1.0
        assert (f.error_from is None) == (f.severity is not Severity.ERROR)


def test_the_page_has_every_check_with_its_limits() -> None:
    rows = [
        line.split(" | ") for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| `")
    ]
    documented = {row[0].strip("| `"): (row[1], row[2]) for row in rows if len(row) >= 4}
    expected = {}
    for check, meaning in CHECKS.items():
        unit = "%" if meaning.unit in ("share", "of price") else f" {meaning.unit}"
        scale = 100.0 if unit == "%" else 1.0
        shown = [
            "-" if x is None else f"{x * scale:g}{' %' if unit == '%' else unit}"
            for x in (meaning.limit.warn, meaning.limit.error)
        ]
        expected[check.value] = tuple(shown)
    assert {name: documented.get(name) for name in expected} == expected
