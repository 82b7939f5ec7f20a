"""Verdicts on stored bars: their rows, and what an ERROR and a WARN do to evaluations and decisions."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from postval_assets.core.bar_quality import DEFAULT_LIMITS, Check, QualityLimit, Severity
from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import Timeframe
from postval_assets.io.sample_bars import SampleBars
from postval_assets.io.warehouse import Update
from postval_assets.pipeline.bar_checks import BarVerdicts
from postval_assets.pipeline.evaluation import evaluate_backtests
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.platform import open_platform
from postval_assets.settings import Settings, load_settings
from postval_assets_tests.pipeline.conftest import BUY, END, N_BARS, Bench, bars_frame, network

HOUR_4 = timedelta(hours=4)


def without_gaps(market: str = "noisy", **made: Any) -> pd.DataFrame:
    """Bars that no check has anything against: not every open is the close before."""
    frame = bars_frame(market, **made)
    return frame.assign(open=frame["open"] * 1.0003)


def with_zero(frame: pd.DataFrame, place: int) -> pd.DataFrame:
    """One price of zero."""
    low = frame["low"].copy()
    low.iloc[place] = 0.0
    return frame.assign(low=low)


def ready(bench: Bench, **frames: pd.DataFrame) -> dict[str, str]:
    """Models of these symbols, gated, their bars loaded and checked."""
    for symbol, frame in frames.items():
        bench.put_bars(symbol, frame)
    models = {f"{symbol}_4Hour": network(BUY) for symbol in frames}
    archives = bench.intake(bench.deliver(bench.archive(models)))
    bench.load(list(frames))
    bench.check(list(frames))
    return archives


def verdict(bench: Bench, symbol: str, check: Check) -> dict[str, object]:
    return bench.one("SELECT * FROM bar_quality WHERE symbol = ? AND check_name = ?", symbol, check.value)


def statuses(bench: Bench, symbol: str) -> list[str]:
    return [f["status"] for f in bench.folds(symbol)]


# --- rows -------------------------------------------------------------------------------------------------------


def test_every_check_has_a_row(bench: Bench) -> None:
    ready(bench, BTCUSD=without_gaps(), ETHUSD=bars_frame(seed=2))
    rows = bench.rows("SELECT * FROM bar_quality ORDER BY symbol")
    assert {(r["symbol"], r["timeframe"], r["check_name"]) for r in rows} == {
        (symbol, "4Hour", check.value) for symbol in ("BTCUSD", "ETHUSD") for check in Check
    }
    assert {(r["symbol"], r["check_name"]) for r in rows if r["severity"] != "OK"} == {
        ("ETHUSD", "open_is_previous_close")
    }
    row = verdict(bench, "ETHUSD", Check.OPEN_IS_PREVIOUS_CLOSE)
    assert (row["severity"], row["value"], row["recent_value"], row["unit"]) == ("WARN", 1.0, 1.0, "share")
    assert (row["limit_warn"], row["limit_error"], row["n_bars"]) == (0.8, None, N_BARS)
    assert (row["first_ts"], row["last_ts"]) == (END - N_BARS * HOUR_4, END - HOUR_4)
    stale = verdict(bench, "BTCUSD", Check.STALE)
    assert stale["value"] == pytest.approx(1.0, abs=0.001)


def test_rows_are_written_when_something_has_changed(bench: Bench) -> None:
    ready(bench, BTCUSD=without_gaps())
    before = bench.rows("SELECT * FROM bar_quality ORDER BY check_name")
    bench.clock.at += timedelta(days=2)
    bench.check(["BTCUSD"])
    assert bench.rows("SELECT * FROM bar_quality ORDER BY check_name") == before, "only its age has grown"
    bench.clock.at += timedelta(days=3)
    bench.check(["BTCUSD"])
    assert verdict(bench, "BTCUSD", Check.STALE)["severity"] == "WARN"
    bench.put_bars("BTCUSD", without_gaps(end=END + timedelta(days=5), n=N_BARS + 30))
    bench.load(["BTCUSD"])
    bench.check(["BTCUSD"])
    after = verdict(bench, "BTCUSD", Check.STALE)
    assert (after["severity"], after["n_bars"]) == ("OK", N_BARS + 30)
    assert len(bench.rows("SELECT * FROM bar_quality")) == len(Check)


def test_other_recent_days_are_other_values(bench: Bench) -> None:
    # Few and apart from each other: no verdict is another one.
    early = [float(n % 10 > 0 or n >= 600) for n in range(N_BARS)]
    ready(bench, BTCUSD=without_gaps().assign(volume=early))
    assert verdict(bench, "BTCUSD", Check.ZERO_VOLUME)["recent_value"] == 60 / N_BARS
    fewer = bench.configured(quality_recent_days=10)
    fewer.check(["BTCUSD"])
    assert verdict(bench, "BTCUSD", Check.ZERO_VOLUME)["recent_value"] == 0.0


def test_a_symbol_without_bars_has_no_verdict(bench: Bench) -> None:
    (quality,) = bench.check(["NONE"])
    assert (quality.series, quality.severity, quality.problems()) == ((), Severity.OK, ())
    assert bench.rows("SELECT * FROM bar_quality") == []


def test_limits_are_settings(bench: Bench) -> None:
    ready(bench, BTCUSD=bars_frame())
    strict = bench.configured(quality={Check.OPEN_IS_PREVIOUS_CLOSE: {"error": 0.5}})
    (quality,) = strict.check(["BTCUSD"])
    assert quality.severity is Severity.ERROR
    assert quality.problems()[0].startswith("ERROR: 4Hour open_is_previous_close: ")
    row = verdict(bench, "BTCUSD", Check.OPEN_IS_PREVIOUS_CLOSE)
    assert (row["severity"], row["limit_warn"], row["limit_error"]) == ("ERROR", 0.8, 0.5)
    never = bench.configured(quality={Check.OPEN_IS_PREVIOUS_CLOSE: {"warn": float("inf")}})
    assert never.check(["BTCUSD"])[0].severity is Severity.OK


def test_never_survives_the_way_to_another_process(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "postval.toml"
    file.write_text("[quality.jumps]\nwarn = inf\n[quality.gaps]\nerror = 0.5\n", encoding="utf-8")
    monkeypatch.setenv("POSTVAL_SETTINGS_FILE", str(file))
    there = Settings.model_validate_json(load_settings().model_dump_json())
    assert there.quality_limits[Check.JUMPS] == QualityLimit(None, None)
    assert there.quality_limits[Check.GAPS] == QualityLimit(0.01, 0.5)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ('{"gaps": {"warn": 0.5}}', "gaps: warn is 0.5, above error (0.25, its default)"),
        ('{"jumps": {"warn": 30, "error": 20}}', "jumps: warn is 30, above error (20)"),
        (
            '{"gaps": {"warn": 2, "error": 3}}',
            "gaps: warn is 2, and no share is above 1: expected a fraction",
        ),
        ('{"zero_volume": {"error": 60}}', "zero_volume: error is 60, and no share is above 1"),
        ('{"gapz": {"warn": 1}}', "quality.gapz: unknown; expected 'gaps', 'longest_gap'"),
    ],
)
def test_limits_that_cannot_be_meant_are_refused_in_one_line(
    monkeypatch: pytest.MonkeyPatch, table: str, said: str
) -> None:
    monkeypatch.setenv("POSTVAL_QUALITY", table)
    with pytest.raises(Rejected) as refused:
        load_settings()
    assert str(refused.value).startswith("settings: quality")
    assert said in str(refused.value)
    assert "[key]" not in str(refused.value)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "table",
    [
        '{"gaps": {"error": 0.005}}',  # below the default warn: then it is an ERROR at once
        '{"gaps": {"warn": 0.3, "error": 0.3}}',
        '{"jumps": {"warn": 100, "error": "inf"}}',
        '{"gaps": {"warn": "inf"}}',
        '{"spikes": {"error": 2}}',  # of the price, no share
    ],
)
def test_limits_that_can_be_meant_are_taken(monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    monkeypatch.setenv("POSTVAL_QUALITY", table)
    assert load_settings().quality


def test_settings_refuse_what_is_no_check(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POSTVAL_QUALITY", '{"gaps": {"warn": 0.02}}')
    limits = load_settings().quality_limits
    assert limits[Check.GAPS] == QualityLimit(0.02, DEFAULT_LIMITS[Check.GAPS].error)
    assert limits[Check.JUMPS] == DEFAULT_LIMITS[Check.JUMPS]
    for wrong in ('{"gapz": {"warn": 1}}', '{"gaps": {"warm": 1}}', '{"gaps": {"warn": -1}}'):
        monkeypatch.setenv("POSTVAL_QUALITY", wrong)
        with pytest.raises(Rejected, match="quality"):
            load_settings()


# --- an ERROR ---------------------------------------------------------------------------------------------------


def test_an_error_is_told_in_one_line_and_a_warning_is_not(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    ready(
        bench, BADUSD=with_zero(without_gaps(), -30), ETHUSD=bars_frame(seed=2), BTCUSD=without_gaps(seed=2)
    )
    told = [r.getMessage() for r in caplog.records if "not evaluated" in r.getMessage()]
    words = f"ERROR 4Hour non_positive_prices: 1 of {N_BARS} recent bars, 2025-01-27 00:00"
    assert told == [f"BADUSD is not evaluated until its bars are mended: {words}"]
    assert verdict(bench, "ETHUSD", Check.OPEN_IS_PREVIOUS_CLOSE)["severity"] == "WARN"
    caplog.clear()
    # Bars that only end early stop nothing.
    bench.configured(quality={Check.STALE: {"error": 0.0}}).check(["BTCUSD"])
    assert verdict(bench, "BTCUSD", Check.STALE)["severity"] == "ERROR"
    assert not [r for r in caplog.records if "not evaluated" in r.getMessage()]


def test_an_error_stops_the_symbol_and_nobody_else(bench: Bench) -> None:
    archives = ready(bench, BADUSD=with_zero(without_gaps(), -30), BTCUSD=without_gaps(seed=2))
    report = bench.evaluate(archives)
    evaluate_backtests(bench.platform, archives, run_id="backtests")
    bench.decide(archives)
    # The last fold has the bar itself, and its own word for it.
    assert statuses(bench, "BADUSD") == ["NOT_EVALUATED"] * 4 + ["INVALID_BARS"]
    reason = f"BAR_QUALITY: ERROR: non_positive_prices: 1 of {N_BARS} recent bars, 2025-01-27 00:00"
    assert bench.folds("BADUSD")[0]["reason"] == reason
    assert set(statuses(bench, "BTCUSD")) <= {"OK", "NO_TRADES"}
    assert any(reason in p for s in report.symbols for p in s.problems if s.symbol == "BADUSD")
    (row,) = bench.decisions("BADUSD")
    assert row["decision"] == "RETRAIN"
    assert row["reasons"][0] == f"NO_EVIDENCE: NOT_EVALUATED, {reason}"
    assert bench.decisions("BTCUSD")[0]["reasons"][0] != row["reasons"][0]


def test_mended_bars_are_evaluated(bench: Bench) -> None:
    archives = ready(bench, BADUSD=with_zero(without_gaps(), -30))
    bench.evaluate(archives)
    bench.put_bars("BADUSD", without_gaps())
    bench.load(["BADUSD"])
    bench.check(["BADUSD"])
    bench.evaluate(archives)
    assert set(statuses(bench, "BADUSD")) == {"OK"}


def test_an_error_after_as_of_does_not_stop(bench: Bench) -> None:
    archives = ready(bench, BADUSD=with_zero(without_gaps(n=N_BARS + 60), -30))
    until = END - 30 * HOUR_4
    bench.evaluate(archives, as_of=until)
    bench.decide(archives, as_of=until)
    assert set(statuses(bench, "BADUSD")) == {"OK"}, "its bars end before the bad one"
    assert not any("BAR_QUALITY" in reason for d in bench.decisions("BADUSD") for reason in d["reasons"])


def test_an_old_defect_only_warns(bench: Bench) -> None:
    archives = ready(bench, BTCUSD=with_zero(without_gaps(n=N_BARS + 3000), 5))
    assert verdict(bench, "BTCUSD", Check.NON_POSITIVE_PRICES)["severity"] == "WARN"
    bench.evaluate(archives)
    assert set(statuses(bench, "BTCUSD")) == {"OK"}


def test_what_was_computed_before_stays_and_is_not_live(bench: Bench) -> None:
    archives = ready(bench, UPPUSD=without_gaps("rising"))
    bench.evaluate(archives)
    bench.decide(archives)
    before = bench.folds("UPPUSD")
    strict = bench.configured(quality={Check.STALE: {"error": 0.0}})
    strict.check(["UPPUSD"])
    strict.evaluate(archives)
    assert bench.folds("UPPUSD") == before, "the bars that it reaches end before the error"
    stricter = bench.configured(quality={Check.JUMPS: {"error": 0.001}})
    stricter.check(["UPPUSD"])
    stricter.evaluate(archives)
    stricter.decide(archives)
    assert bench.folds("UPPUSD") == before, "current"
    first, last = bench.decisions("UPPUSD")[0], bench.decisions("UPPUSD")[-1]
    assert not any("BAR_QUALITY" in reason for reason in first["reasons"])
    assert any(reason.startswith("BAR_QUALITY: ERROR: jumps ") for reason in last["reasons"])
    assert last["decision"] != "LIVE"


# --- a WARN -----------------------------------------------------------------------------------------------------


def test_a_warning_goes_into_the_reasons_once(bench: Bench) -> None:
    archives = ready(bench, BTCUSD=bars_frame())
    bench.evaluate(archives)
    bench.decide(archives)
    (row,) = bench.decisions("BTCUSD")
    assert row["reasons"][-1] == "BAR_QUALITY: open_is_previous_close 100.00%"
    # A figure that moves is no new decision, another check is.
    moved = Update(
        "bar_quality", {"check_name": "open_is_previous_close"}, {"value": 0.97, "recent_value": 0.98}
    )
    bench.platform.warehouse.write([moved], run_id="moved", now=END)
    bench.decide(archives)
    assert len(bench.decisions("BTCUSD")) == 1
    bench.configured(quality={Check.JUMPS: {"warn": 0.001}}).check(["BTCUSD"])
    bench.decide(archives)
    newest = bench.decisions("BTCUSD")[-1]
    assert newest["reasons"][-1].startswith("BAR_QUALITY: jumps ")
    assert newest["decision"] == row["decision"]


def test_what_rounds_to_nothing_is_shown(bench: Bench) -> None:
    archives = ready(bench, BTCUSD=bars_frame())
    bench.evaluate(archives)
    key = {"check_name": "open_is_previous_close"}
    for value, recent, limit, said in [
        (0.00002, 0.2, 0.0, "open_is_previous_close <0.01%"),
        (0.00012, 0.0, 0.0, "open_is_previous_close 0.01%"),
        (0.00012, 0.2, 0.1, "open_is_previous_close 20.00% (recent)"),
        (0.0, 0.00001, 0.0, "open_is_previous_close <0.01% (recent)"),
    ]:
        figures = {"value": value, "recent_value": recent, "limit_warn": limit}
        changed = Update("bar_quality", key, figures)
        bench.platform.warehouse.write([changed], run_id="other", now=END)
        verdicts = BarVerdicts.stored(bench.platform, ModelBars(bench.platform, ["BTCUSD"]), ["BTCUSD"])
        assert verdicts.warnings("BTCUSD", Timeframe.HOUR_4, END) == (said,)


def test_where_the_recent_value_counts_both_tables_say_so(bench: Bench) -> None:
    # Little of it over all bars, too much lately.
    volumes = [0.0 if n >= N_BARS - 120 and n % 2 else 1.0 for n in range(N_BARS)]
    archives = ready(bench, BTCUSD=without_gaps().assign(volume=volumes))
    lately = bench.configured(quality_recent_days=20)
    lately.check(["BTCUSD"])
    row = verdict(bench, "BTCUSD", Check.ZERO_VOLUME)
    assert (row["severity"], row["recent_value"]) == ("WARN", 0.5)
    assert row["value"] < row["limit_warn"]
    assert str(row["detail"]).startswith("60 of 120 recent bars, first ")
    lately.evaluate(archives)
    lately.decide(archives)
    assert bench.decisions("BTCUSD")[-1]["reasons"][-1] == "BAR_QUALITY: zero_volume 50.00% (recent)"


def test_old_bars_are_a_reason_only_at_the_newest_of_them(bench: Bench) -> None:
    archives = ready(bench, BTCUSD=without_gaps(n=N_BARS + 60))
    bench.clock.at += timedelta(days=30)
    bench.check(["BTCUSD"])
    assert verdict(bench, "BTCUSD", Check.STALE)["severity"] == "WARN"
    past = END - 30 * HOUR_4
    bench.evaluate(archives, as_of=past)
    bench.decide(archives, as_of=past)
    assert not [r for r in bench.decisions("BTCUSD")[-1]["reasons"] if "stale" in r]
    bench.evaluate(archives, as_of=END)
    bench.decide(archives, as_of=END)
    newest = bench.decisions("BTCUSD")[-1]
    assert newest["as_of"] == END
    assert newest["reasons"][-1] == "BAR_QUALITY: stale (the newest bar ends 2025-02-01 00:00)"


def test_a_models_verdict_is_that_of_the_series_it_is_made_from(bench: Bench) -> None:
    ready(bench, BTCUSD=without_gaps())
    finer = bench.configured(base_timeframe="1Hour")
    hourly = without_gaps(n=4 * N_BARS, hours=1)
    finer.put_bars("BTCUSD", hourly.drop(range(0, len(hourly) - 1, 3)), timeframe="1Hour")
    finer.load(["BTCUSD"])
    finer.check(["BTCUSD"])
    stored = ModelBars(finer.platform, ["BTCUSD"])
    assert stored.timeframes("BTCUSD") == [Timeframe.HOUR_1, Timeframe.HOUR_4]
    verdicts = BarVerdicts.stored(finer.platform, stored, ["BTCUSD"])
    assert verdicts.stops("BTCUSD", Timeframe.HOUR_4, END) is None
    assert "gaps" in (verdicts.stops("BTCUSD", Timeframe.HOUR_1, END) or "")


# --- the bundled sample -----------------------------------------------------------------------------------------


def test_the_sample_is_sound(bench: Bench) -> None:
    given = load_settings(data_dir=bench.root / "sample", bars_source="sample")
    sample = Bench(bench.root, bench.clock, open_platform(given, now=bench.clock))
    symbols = SampleBars(given.sample_dir).symbols()
    sample.load(symbols)
    quality = sample.check(symbols)
    assert [q.symbol for q in quality] == list(symbols)
    assert {q.symbol: q.problems() for q in quality} == dict.fromkeys(symbols, ())
    ages = sample.rows("SELECT value, detail FROM bar_quality WHERE check_name = 'stale'")
    assert all(r["value"] is None and "simulated" in r["detail"] for r in ages)
