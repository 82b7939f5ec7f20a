"""The checks over real hourly bars whose quirks somebody wrote down: each is found, and nothing stops an evaluation.

What no bar can show is not here: that a pair is quoted in USDT, that a volume is one venue's, that prices are not
adjusted for dividends.
"""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from postval_assets.core.bar_quality import Check
from postval_assets_tests.pipeline.conftest import Bench, MakeBench

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "bars"
SYMBOLS = (
    *("BTCUSD", "UNIUSD", "LTCUSD", "DOGEUSD", "GRTUSD", "USDCUSD", "XTZUSD"),
    *("SPY", "AAPL", "MSFT", "GOOGL", "COST", "UNH"),
)
# Every check that is not OK, by symbol; STALE depends on the clock and is asked for apart.
VERDICTS = {
    "BTCUSD": {"longest_gap"},
    "UNIUSD": {"jumps"},
    "LTCUSD": {"longest_gap", "jumps", "spikes"},
    "DOGEUSD": {"zero_volume_run", "non_positive_prices", "jumps", "open_is_previous_close"},
    "GRTUSD": {"zero_volume", "zero_volume_run", "flat_bars", "open_is_previous_close"},
    "USDCUSD": {"zero_volume_run", "jumps", "spikes", "open_is_previous_close"},
    "XTZUSD": {"zero_volume", "zero_volume_run", "flat_bars", "spikes", "open_is_previous_close"},
    "SPY": set(),
    "AAPL": {"gaps", "unknown_volume", "duplicates", "misalignment"},
    "MSFT": {"longest_gap", "unknown_volume"},
    "GOOGL": {"longest_gap", "unknown_volume"},
    "COST": set(),
    "UNH": {"jumps"},
}
# (symbol, check, value, what the detail says): figures as the data's own notes state them.
QUIRKS = [
    ("BTCUSD", Check.GAPS, 5 / 17520, "5 of 17520 expected bars"),
    ("BTCUSD", Check.LONGEST_GAP, 5.0, "2025-10-25 16:00"),
    ("UNIUSD", Check.GAPS, 1 / 29284, "2023-03-24 13:00"),
    ("UNIUSD", Check.LONGEST_GAP, 1.0, "2023-03-24 13:00"),
    ("UNIUSD", Check.ZERO_VOLUME, 1 / 29283, "2023-03-24 12:00"),
    ("UNIUSD", Check.JUMPS, 54.4, "2024-02-23 14:00"),
    ("LTCUSD", Check.GAPS, 12 / 24000, "12 of 24000 expected bars"),
    ("LTCUSD", Check.LONGEST_GAP, 4.0, "2021-08-13 02:00"),
    ("LTCUSD", Check.ZERO_VOLUME, 1 / 23988, "2023-03-24 12:00"),
    ("DOGEUSD", Check.NON_POSITIVE_PRICES, 1 / 39228, "2021-05-05 12:00"),
    ("DOGEUSD", Check.ZERO_VOLUME, 0.0034, "of 39228 bars"),
    ("DOGEUSD", Check.ZERO_VOLUME_RUN, 10.0, "10 h"),
    ("DOGEUSD", Check.FLAT_BARS, 0.0037, "of 39228 bars"),
    ("DOGEUSD", Check.OPEN_IS_PREVIOUS_CLOSE, 1.0, "39227 of 39227"),
    ("GRTUSD", Check.ZERO_VOLUME, 0.12, "of 10800 recent bars"),
    ("GRTUSD", Check.ZERO_VOLUME_RUN, 13.0, "13 h"),
    ("GRTUSD", Check.FLAT_BARS, 0.1331, "of 33572 bars"),
    ("GRTUSD", Check.OPEN_IS_PREVIOUS_CLOSE, 1.0, "33571 of 33571"),
    ("USDCUSD", Check.ZERO_VOLUME, 0.0223, "of 33572 bars"),
    ("USDCUSD", Check.FLAT_BARS, 0.0485, "of 33572 bars"),
    ("USDCUSD", Check.SPIKES, 0.0503, "2023-01-25 21:00"),
    ("USDCUSD", Check.OPEN_IS_PREVIOUS_CLOSE, 1.0, "33571 of 33571"),
    ("XTZUSD", Check.ZERO_VOLUME, 0.1742, "of 33572 bars"),
    ("XTZUSD", Check.ZERO_VOLUME_RUN, 17.0, "17 h"),
    ("XTZUSD", Check.FLAT_BARS, 0.1785, "of 33572 bars"),
    ("XTZUSD", Check.JUMPS, 23.0, "2025-07-19 17:00"),
    ("XTZUSD", Check.OPEN_IS_PREVIOUS_CLOSE, 1.0, "33571 of 33571"),
    ("SPY", Check.GAPS, 0.0, "none in 12678 expected bars"),
    ("SPY", Check.EXTENDED_HOURS, 0.554, "of 28443 bars"),
    ("AAPL", Check.GAPS, 0.1415, "last 2026-02-19 14:00"),
    ("AAPL", Check.MISALIGNMENT, 110 / 7608, "110 of 7608 bars, first 2026-02-20 14:30"),
    ("AAPL", Check.DUPLICATES, 12 / 7607, "first 2026-02-20 15:00, last 2026-02-20 20:30"),
    ("AAPL", Check.UNKNOWN_VOLUME, 12 / 7598, "first 2026-02-20 14:30"),
    ("MSFT", Check.UNKNOWN_VOLUME, 0.0022, "11 of 5069 bars"),
    ("GOOGL", Check.UNKNOWN_VOLUME, 0.0008, "4 of 5069 bars"),
    ("COST", Check.GAPS, 0.0, "none in 3492 expected bars"),
    ("COST", Check.EXTENDED_HOURS, 0.407, "791 of them flat"),
    ("UNH", Check.GAPS, 0.0, "none in 3492 expected bars"),
    ("UNH", Check.EXTENDED_HOURS, 0.420, "671 of them flat"),
    ("UNH", Check.JUMPS, 27.7, "2025-04-17 10:00"),
]
# Not in the notes: half an hour at the end of every half day, and two days cut short.
FOUND_HERE = [
    ("MSFT", Check.GAPS, 17 / 5086, "first 2023-07-03 16:30, last 2026-02-02 17:30"),
    ("MSFT", Check.LONGEST_GAP, 8.5, "2026-01-30 16:30"),
    ("GOOGL", Check.LONGEST_GAP, 8.5, "2026-01-30 16:30"),
    ("USDCUSD", Check.ZERO_VOLUME_RUN, 13.0, "2023-04-20 20:00"),
]

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATA.exists(), reason="real data is not here"),
]


@pytest.fixture(scope="module")
def checked(tmp_path_factory: pytest.TempPathFactory, make_bench: MakeBench) -> Bench:
    """All of them, loaded and checked."""
    bench = make_bench(
        tmp_path_factory.mktemp("quality"), bars_source=f"parquet:{DATA}", base_timeframe="1Hour"
    )
    bench.clock.at = datetime(2026, 3, 21, tzinfo=UTC)
    bench.load(SYMBOLS)
    bench.check(SYMBOLS)
    return bench


@pytest.mark.parametrize(("symbol", "check", "value", "said"), [*QUIRKS, *FOUND_HERE])
def test_a_quirk_is_found(checked: Bench, symbol: str, check: Check, value: float, said: str) -> None:
    row = checked.one("SELECT * FROM bar_quality WHERE symbol = ? AND check_name = ?", symbol, check.value)
    assert row["value"] == pytest.approx(value, rel=0.02)
    assert said in row["detail"]


@pytest.mark.parametrize("symbol", SYMBOLS)
def test_verdicts(checked: Bench, symbol: str) -> None:
    rows = checked.rows(
        "SELECT * FROM bar_quality WHERE symbol = ? AND severity <> 'OK' AND check_name <> 'stale'", symbol
    )
    assert {r["check_name"] for r in rows} == VERDICTS[symbol]
    assert {r["severity"] for r in rows} <= {"WARN"}, "usable, with what is said of them"


@pytest.mark.parametrize(("symbol", "least", "most"), [("GRTUSD", 0.20, 0.32), ("XTZUSD", 0.25, 0.32)])
def test_thin_markets_got_thinner(checked: Bench, symbol: str, least: float, most: float) -> None:
    row = checked.one("SELECT * FROM bar_quality WHERE symbol = ? AND check_name = 'zero_volume'", symbol)
    assert row["value"] < least < row["recent_value"] < most


def test_what_has_ended_is_stale(checked: Bench) -> None:
    rows = checked.rows("SELECT symbol FROM bar_quality WHERE check_name = 'stale' AND severity = 'OK'")
    assert {r["symbol"] for r in rows} == {"MSFT", "GOOGL"}
