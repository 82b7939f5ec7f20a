"""Folds and backtests: their rows, what is computed again and what is not, and models that cannot be evaluated."""

from __future__ import annotations

import itertools
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.failures import Unavailable
from postval_assets.core.features.reference import REFERENCE_59
from postval_assets.core.folds import PLANS, to_datetime64
from postval_assets.pipeline.evaluation import evaluate_backtests, evaluate_folds
from postval_assets.pipeline.fold_jobs import FoldSelection
from postval_assets_tests.factories import drop_claims, good_claims, make_policy, make_summary
from postval_assets_tests.pipeline.conftest import (
    BUY,
    END,
    LOOK_BACK,
    N_BARS,
    WINDOW,
    Bench,
    MakeBench,
    bars_frame,
    network,
)

YEAR = 365 * 6 + WINDOW + LOOK_BACK + 20
HOUR_4 = timedelta(hours=4)


def ready(bench: Bench, *symbols: str, action: str | None = None) -> dict[str, str]:
    """An archive with a network for each symbol, gated, with bars loaded."""
    for n, symbol in enumerate(symbols):
        if not (bench.bars / f"{symbol}_4Hour.parquet").exists():
            bench.put_bars(symbol, seed=n + 1)
    models = {f"{s}_4Hour": network(action, seed=n) for n, s in enumerate(symbols)}
    archives = bench.intake(bench.deliver(bench.archive(models)))
    bench.load(symbols)
    return archives


def by_fold(bench: Bench, symbol: str = "BTCUSD", plan: str = "180d") -> list[tuple[str, str]]:
    """Which run wrote each fold, and its digest."""
    return [(r["run_id"], r["inputs_digest"]) for r in bench.folds(symbol, plan)]


# --- rows ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(tmp_path_factory: pytest.TempPathFactory, make_bench: MakeBench) -> Bench:
    """A crypto and an equity model over both plans, and their backtests."""
    bench = make_bench(tmp_path_factory.mktemp("evaluated"))
    for n, symbol in enumerate(("BTCUSD", "AAPL")):
        bench.put_bars(symbol, n=YEAR, seed=n + 1)
    archives = ready(bench, "BTCUSD", "AAPL")
    evaluate_backtests(bench.platform, archives, run_id="backtests")
    report = bench.evaluate(archives, ("180d", "365d"))
    assert [(s.symbol, s.n_rows, s.n_current, s.problems) for s in report.symbols] == [
        ("AAPL", 15, 0, ()),
        ("BTCUSD", 15, 0, ()),
    ]
    assert len(report.folds) == 30
    return bench


@pytest.mark.parametrize(("plan", "n_folds"), [("180d", 5), ("365d", 10)])
@pytest.mark.parametrize("symbol", ["BTCUSD", "AAPL"])
def test_folds_of_both_plans(evaluated: Bench, symbol: str, plan: str, n_folds: int) -> None:
    rows = evaluated.folds(symbol, plan)
    assert [r["fold"] for r in rows] == list(range(1, n_folds + 1))
    assert {(r["n_folds"], r["as_of"], r["status"]) for r in rows} == {(n_folds, END, "OK")}
    assert rows[0]["start_ts"] == END - timedelta(days=PLANS[plan].days)
    assert rows[-1]["end_ts"] == END - HOUR_4
    assert {after["start_ts"] - before["end_ts"] for before, after in itertools.pairwise(rows)} == {HOUR_4}
    assert {r["n_bars"] for r in rows} == {PLANS[plan].days * 6 // n_folds}
    last_trained = datetime(2024, 6, 1, tzinfo=UTC)
    for r in rows:
        trained = "IN_TRAIN" if r["end_ts"] <= last_trained else "OVERLAP"
        assert r["training_overlap"] == ("OUT_OF_SAMPLE" if r["start_ts"] > last_trained else trained)
    for name in ("model_sha256", "bars_digest", "settings_digest", "code_version", "inputs_digest"):
        assert all(r[name] for r in rows), name
    assert all(r["bars_per_year"] == pytest.approx(6 * 365.25) for r in rows)


@pytest.mark.parametrize("symbol", ["BTCUSD", "AAPL"])
def test_every_figure_can_be_computed_again_from_the_tables(evaluated: Bench, symbol: str) -> None:
    fee_rate = 25e-4 if symbol == "BTCUSD" else 0.0
    for row in evaluated.folds(symbol):
        where = "symbol = ? AND plan = '180d' AND fold = ?"
        curve = evaluated.rows(f"SELECT * FROM equity_curves WHERE {where} ORDER BY ts", symbol, row["fold"])  # noqa: S608
        trips = evaluated.rows(f"SELECT * FROM trades WHERE {where} ORDER BY trade", symbol, row["fold"])  # noqa: S608
        equity = np.array([c["equity"] for c in curve])
        assert (len(curve), curve[0]["ts"], curve[-1]["ts"]) == (
            row["n_bars"],
            row["start_ts"],
            row["end_ts"],
        )
        assert equity[0] == 100_000.0
        assert row["total_return"] == pytest.approx(equity[-1] / 100_000.0 - 1.0)
        returns = equity[1:] / equity[:-1] - 1.0
        assert row["sharpe"] == pytest.approx(
            returns.mean() / returns.std(ddof=1) * np.sqrt(row["bars_per_year"])
        )
        peak = np.maximum.accumulate(equity)
        assert row["max_drawdown"] == pytest.approx(((peak - equity) / peak).max())
        assert [c["action"] is None for c in curve] == [False] * (row["n_bars"] - 1) + [True]
        assert curve[-1]["position"] == 0.0
        assert row["exposure"] == pytest.approx(sum(c["position"] != 0.0 for c in curve) / row["n_bars"])
        assert row["n_trades"] == len(trips) > 0
        assert sum(t["pnl"] for t in trips) == pytest.approx(equity[-1] - 100_000.0, abs=1e-5)
        assert sum(t["fees"] for t in trips) == pytest.approx(row["fees"], abs=1e-9)
        assert row["win_rate"] == pytest.approx(sum(t["pnl"] > 0 for t in trips) / len(trips))
        assert [t["trade"] for t in trips] == list(range(1, len(trips) + 1))
        close = evaluated.rows(
            "SELECT close FROM bars WHERE symbol = ? AND ts IN (?, ?) ORDER BY ts",
            symbol,
            row["start_ts"],
            row["end_ts"],
        )
        cost = (1 - 5e-4) * (1 - fee_rate) / ((1 + 5e-4) * (1 + fee_rate))
        hold = close[1]["close"] / close[0]["close"] * cost - 1.0
        assert row["buy_and_hold_return"] == pytest.approx(hold)
        assert row["excess_return"] == pytest.approx(row["total_return"] - hold)
    sides = {t["side"] for t in evaluated.rows("SELECT DISTINCT side FROM trades WHERE symbol = ?", symbol)}
    assert sides == ({"LONG"} if symbol == "BTCUSD" else {"LONG", "SHORT"})


def test_the_backtest_is_the_last_30_days(evaluated: Bench) -> None:
    row = evaluated.one("SELECT * FROM backtest_results WHERE symbol = 'BTCUSD'")
    assert (row["start_ts"], row["end_ts"], row["n_bars"]) == (END - timedelta(days=30), END - HOUR_4, 180)
    assert (row["status"], row["as_of"], row["training_overlap"]) == ("OK", END, "OUT_OF_SAMPLE")
    assert row["total_return"] is not None
    assert evaluated.one("SELECT count(*) AS n FROM evaluations")["n"] == 2, "one instant for all of them"


# --- again --------------------------------------------------------------------------------------------------


def test_what_is_current_is_not_computed_again(bench: Bench) -> None:
    archives = ready(bench, "BTCUSD", "ETHUSD")
    evaluate_backtests(bench.platform, archives, run_id="b1")
    bench.evaluate(archives)
    tables = ("fold_results", "equity_curves", "trades", "backtest_results", "evaluations")
    before = {t: bench.rows(f"SELECT * FROM {t} ORDER BY ALL") for t in tables}  # noqa: S608
    report = bench.evaluate(archives)
    again = evaluate_backtests(bench.platform, archives, run_id="b2")
    assert [(s.n_rows, s.n_current) for s in report.symbols] == [(5, 5), (5, 5)]
    assert [(s.n_rows, s.n_current) for s in again.symbols] == [(1, 1), (1, 1)]
    assert {f.statuses for f in report.folds} == {("OK",)}
    assert {t: bench.rows(f"SELECT * FROM {t} ORDER BY ALL") for t in tables} == before  # noqa: S608


def test_changed_bars_recompute_exactly_the_folds_that_see_them(bench: Bench) -> None:
    archives = ready(bench, "BTCUSD", "ETHUSD")
    bench.evaluate(archives)
    before, neighbour = by_fold(bench), by_fold(bench, "ETHUSD")
    counts = bench.rows("SELECT symbol, fold, count(*) AS n FROM equity_curves GROUP BY ALL ORDER BY ALL")
    frame = bars_frame(seed=1)
    early_in_fold_4 = N_BARS - 2 * 216 + 3
    frame.loc[early_in_fold_4, "volume"] = 7.0
    bench.put_bars("BTCUSD", frame)
    bench.load(["BTCUSD"])
    report = bench.evaluate(archives)
    assert [(s.n_rows, s.n_current) for s in report.symbols] == [(5, 4), (5, 5)]
    after = by_fold(bench)
    assert [x == y for x, y in zip(before, after, strict=True)] == [True, True, True, False, True]
    assert by_fold(bench, "ETHUSD") == neighbour
    assert (
        bench.rows("SELECT symbol, fold, count(*) AS n FROM equity_curves GROUP BY ALL ORDER BY ALL")
        == counts
    )


def test_changed_settings_recompute_everything_and_others_nothing(bench: Bench) -> None:
    archives = ready(bench, "BTCUSD")
    bench.evaluate(archives)
    before = bench.folds("BTCUSD")
    cheap = bench.configured(crypto_fee_bps=0.0)
    assert cheap.evaluate(archives).symbols[0].n_current == 0
    after = bench.folds("BTCUSD")
    assert len(after) == 5
    for x, y in zip(before, after, strict=True):
        assert y["settings_digest"] != x["settings_digest"]
        assert (y["fees"], x["fees"] > 0.0) == (0.0, True)
    assert cheap.configured(good_sharpe_std=0.5, port=3001).evaluate(archives).symbols[0].n_current == 5


def test_single_folds_can_be_asked_for(bench: Bench) -> None:
    archives = ready(bench, "BTCUSD")
    wanted = {"BTCUSD": [FoldSelection(PLANS["180d"], frozenset({2, 5}))]}
    report = evaluate_folds(bench.platform, archives, wanted, run_id="some")
    assert [f.fold_key for f in report.folds] == ["180d-2", "180d-5"]
    assert [r["fold"] for r in bench.folds("BTCUSD")] == [2, 5]
    assert bench.evaluate(archives).symbols[0].n_current == 2
    assert len(bench.folds("BTCUSD")) == 5


# --- as_of --------------------------------------------------------------------------------------------------


def test_as_of_stays_when_newer_bars_arrive(bench: Bench) -> None:
    archives = ready(bench, "BTCUSD")
    bench.evaluate(archives)
    before = by_fold(bench)
    later = END + timedelta(days=60)
    # The same prices, and two months more of them.
    grown = pd.concat([bars_frame(seed=1), bars_frame(n=360, end=later, seed=5)], ignore_index=True)
    bench.put_bars("BTCUSD", grown)
    bench.clock.at = later + timedelta(days=1)
    bench.load(["BTCUSD"])
    assert bench.evaluate(archives).symbols[0].n_current == 5
    assert by_fold(bench) == before

    report = bench.evaluate(archives, as_of=later)
    assert report.symbols[0].n_current == 0
    rows = bench.folds("BTCUSD")
    assert [r["as_of"] for r in rows] == [END] * 5 + [later] * 5
    assert [(r["run_id"], r["inputs_digest"]) for r in rows[:5]] == before, "both stay"
    assert [r["as_of"] for r in bench.rows("SELECT as_of FROM evaluations ORDER BY as_of")] == [END, later]
    assert bench.evaluate(archives).symbols[0].n_current == 5, "the newest evaluation is now the model's"
    assert bench.evaluate(archives, as_of=END).symbols[0].n_current == 5


def test_as_of_is_the_newest_bar_complete_by_then(bench: Bench) -> None:
    archives = ready(bench, "BTCUSD")
    asked = END - timedelta(days=3, hours=2)
    bench.evaluate(archives, as_of=asked)
    rows = bench.folds("BTCUSD")
    assert {r["as_of"] for r in rows} == {asked - timedelta(hours=2)}
    assert rows[-1]["end_ts"] == asked - timedelta(hours=6)
    bench.clock.at = END - timedelta(days=2)
    other = bench.intake(
        bench.deliver(bench.archive({"BTCUSD_4Hour": network(seed=9)}, stamp="20250202_000000"))
    )
    bench.evaluate(other)
    newest = bench.one("SELECT as_of FROM evaluations WHERE archive_id = '20250202_000000'")["as_of"]
    assert newest == END - timedelta(days=2), "what the clock has not reached is not known yet"


# --- models that cannot be evaluated ------------------------------------------------------------------------


def test_what_cannot_be_evaluated_says_why_and_harms_nobody(bench: Bench) -> None:
    bench.put_bars("SHORTUSD", n=500)
    doge = bars_frame()
    doge.loc[0, ["open", "low"]] = 0.0
    bench.put_bars("DOGEUSD", doge)
    holed = bars_frame(seed=4)
    holed.loc[N_BARS - 3 * 216 + 3, "low"] = 0.0
    bench.put_bars("HOLEUSD", holed)
    tight = bars_frame(n=180 * 6 + 20)
    bench.put_bars("TIGHTUSD", tight)
    archives = ready(bench, "BTCUSD", "SHORTUSD", "DOGEUSD", "HOLEUSD", "TIGHTUSD", action=BUY)
    archives |= bench.intake(
        bench.deliver(bench.archive({"NONEUSD_4Hour": network()}, stamp="20250203_000000"))
    )
    bench.load(["NONEUSD"])
    report = bench.evaluate(archives)

    def statuses(symbol: str) -> list[str]:
        return [r["status"] for r in bench.folds(symbol)]

    assert statuses("BTCUSD") == statuses("DOGEUSD") == ["OK"] * 5
    assert statuses("SHORTUSD") == ["INSUFFICIENT_DATA"] * 5
    assert statuses("HOLEUSD") == ["OK", "OK", "INVALID_BARS", "OK", "OK"]
    assert statuses("TIGHTUSD") == ["INSUFFICIENT_DATA", "OK", "OK", "OK", "OK"]
    assert statuses("NONEUSD") == []
    short, hole, tight_row = bench.folds("SHORTUSD")[0], bench.folds("HOLEUSD")[2], bench.folds("TIGHTUSD")[0]
    assert "plan 180d needs it from 2024-08-05T00:00:00+00:00" in short["reason"]
    assert "low of the bar at" in hole["reason"]
    assert tight_row["reason"] == "20 bars before the block, 147 needed (window plus look-back)"
    for row in (short, hole, tight_row):
        assert row["total_return"] is row["sharpe"] is row["n_trades"] is row["fees"] is None
        assert row["n_bars"] > 0
    problems = {s.symbol: s.problems for s in report.symbols}
    assert problems["BTCUSD"] == problems["DOGEUSD"] == ()
    assert problems["HOLEUSD"] == (f"4Hour 180d-3: INVALID_BARS, {hole['reason']}",)
    assert "no bars of NONEUSD: no 4Hour bars of NONEUSD in" in problems["NONEUSD"][0]
    again = {s.symbol: s.problems for s in bench.evaluate(archives).symbols}
    assert again == problems, "a problem that stays is told again"


def test_bars_that_turn_bad_take_the_results_with_them(bench: Bench) -> None:
    archives = ready(bench, "BTCUSD")
    bench.evaluate(archives)
    frame = bars_frame(seed=1)
    frame.loc[N_BARS - 3, "close"] = -1.0
    bench.put_bars("BTCUSD", frame)
    bench.load(["BTCUSD"])
    bench.evaluate(archives)
    row = bench.folds("BTCUSD")[-1]
    assert (row["status"], row["total_return"]) == ("INVALID_BARS", None)
    left = [r["fold"] for r in bench.rows("SELECT DISTINCT fold FROM equity_curves ORDER BY fold")]
    assert (
        left
        == [r["fold"] for r in bench.rows("SELECT DISTINCT fold FROM trades ORDER BY fold")]
        == [1, 2, 3, 4]
    )


def test_a_policy_that_breaks_keeps_its_curve_up_to_there(bench: Bench) -> None:
    bench.put_bars("BTCUSD")
    state = make_policy(window=WINDOW)
    for value in state.values():
        value[:] = 3e38
    models = {"BTCUSD_4Hour": network(policy_state_dict=state)}
    archives = bench.intake(bench.deliver(bench.archive(models)))
    bench.load(["BTCUSD"])
    problems = bench.evaluate(archives).symbols[0].problems
    assert [r["status"] for r in bench.folds("BTCUSD")] == ["BROKEN_POLICY"] * 5
    assert (
        problems[0] == "4Hour 180d-1: BROKEN_POLICY, the policy's output was NaN or infinite at bar 1 of 216"
    )
    assert bench.evaluate(archives).symbols[0].problems == problems
    assert bench.folds("BTCUSD")[0]["total_return"] is None
    curve = bench.rows("SELECT * FROM equity_curves ORDER BY fold")
    assert [(c["fold"], c["equity"], c["action"]) for c in curve] == [
        (n, 100_000.0, None) for n in range(1, 6)
    ]


def test_a_feature_set_that_fails_is_told_in_every_fold(bench: Bench) -> None:
    archives = ready(bench, "BTCUSD")
    sets = bench.platform.feature_sets
    broken = replace(REFERENCE_59, version="2", compute=lambda frame: np.full((len(frame), 53), np.inf))
    failing = replace(bench, platform=replace(bench.platform, feature_sets={**sets, "reference-59": broken}))
    report = failing.evaluate(archives)
    rows = bench.folds("BTCUSD")
    assert [r["status"] for r in rows] == ["NOT_EVALUATED"] * 5
    assert "feature set reference-59 on bars of BTCUSD (4Hour)" in rows[0]["reason"]
    assert len(report.symbols[0].problems) == 5
    gone = replace(bench, platform=replace(bench.platform, feature_sets={}))
    assert (
        "feature set reference-59 is no longer registered" in gone.evaluate(archives).symbols[0].problems[0]
    )
    assert bench.evaluate(archives).symbols[0].problems == ()
    assert [r["status"] for r in bench.folds("BTCUSD")] == ["OK"] * 5


def test_weights_that_cannot_be_read_are_told_after_the_others_are_done(bench: Bench) -> None:
    archives = ready(bench, "BTCUSD", "ETHUSD")
    weights = bench.one("SELECT weights_path FROM extracted_models WHERE symbol = 'BTCUSD'")["weights_path"]
    (bench.platform.settings.data_dir / weights).unlink()
    stored = bench.one(
        "SELECT a.stored_path FROM training_archives a JOIN extracted_models USING (archive_id) WHERE symbol = 'BTCUSD'"
    )
    (bench.platform.settings.data_dir / stored["stored_path"]).unlink()
    with pytest.raises(Unavailable, match=r"1 model\(s\) could not be evaluated: BTCUSD 4Hour: weights"):
        bench.evaluate(archives)
    assert bench.folds("BTCUSD") == []
    assert len(bench.folds("ETHUSD")) == 5
    bench.intake(bench.deliver(next(iter((bench.root / "delivered").iterdir()))))
    assert bench.evaluate(archives).symbols[1].n_current == 5


def test_dropped_models_are_evaluated_where_the_setting_says_so(bench: Bench) -> None:
    summary = make_summary({"BTCUSD_4Hour": drop_claims()})
    bench.put_bars("BTCUSD")
    models = {"BTCUSD_4Hour": network(BUY), "ETHUSD_4Hour": network(BUY)}
    archives = bench.intake(bench.deliver(bench.archive(models, summary=summary)))
    bench.load(["BTCUSD"])
    assert [(s.n_rows, s.problems) for s in bench.evaluate(archives).symbols] == [(0, ()), (0, ())]
    every = bench.configured(include_dropped=True).evaluate({"BTCUSD": archives["BTCUSD"]})
    assert every.symbols[0].n_rows == len(bench.folds("BTCUSD")) == 5


# --- timeframes and training --------------------------------------------------------------------------------


def test_models_of_two_timeframes_on_the_same_bars(bench: Bench) -> None:
    hourly = bench.configured(base_timeframe="1Hour")
    hourly.put_bars("BTCUSD", timeframe="1Hour", n=4 * N_BARS, hours=1)
    models = {"BTCUSD_1Hour": network(seed=1), "BTCUSD_4Hour": network(seed=2)}
    archives = hourly.intake(hourly.deliver(hourly.archive(models)))
    hourly.load(["BTCUSD"])
    report = hourly.evaluate(archives)
    assert (report.symbols[0].n_rows, len(report.folds), report.folds[0].statuses) == (10, 5, ("OK", "OK"))
    rows = hourly.rows("SELECT timeframe, n_bars, count(*) AS n FROM fold_results GROUP BY ALL ORDER BY ALL")
    assert [tuple(r.values()) for r in rows] == [("1Hour", 864, 5), ("4Hour", 216, 5)]


def test_the_checkpoints_own_training_window_wins(bench: Bench) -> None:
    inside = {"train_start": "2024-08-01T00:00:00Z", "train_end": "2024-11-01T00:00:00Z"}
    models = {
        "AAAUSD_4Hour": network(BUY, **inside),
        "BBBUSD_4Hour": network(BUY),
        "CCCUSD_4Hour": network(BUY, train_end="2024-11-01T00:00:00Z"),
    }
    summary = make_summary({name: good_claims() for name in models}, train=None)
    archives = bench.intake(bench.deliver(bench.archive(models, summary=summary)))
    for symbol in archives:
        bench.put_bars(symbol)
    bench.load(list(archives))
    bench.evaluate(archives)
    labels = {s: [r["training_overlap"] for r in bench.folds(s)] for s in archives}
    expected = ["IN_TRAIN", "IN_TRAIN", "OVERLAP", "OUT_OF_SAMPLE", "OUT_OF_SAMPLE"]
    assert labels == {"AAAUSD": expected, "BBBUSD": ["UNKNOWN"] * 5, "CCCUSD": expected}
    ends = [to_datetime64(r["end_ts"]) for r in bench.folds("AAAUSD")]
    assert ends[1] <= np.datetime64("2024-11-01") < ends[2]
