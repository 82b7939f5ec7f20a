"""A source of the network that fails, or whose history shifts: what is stored is always one history, and complete."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.bar_source import BarAnswer
from postval_assets.pipeline.market import model_bars
from postval_assets_tests.pipeline.conftest import END, Bench, MakeBench, bars_frame
from postval_assets_tests.pipeline.exchange import (
    DAY,
    HOURS,
    Exchange,
    N,
    coverage,
    expected,
    later,
    newest,
    opened,
    stored,
    top_up,
)


@pytest.fixture
def bench(tmp_path: Path, make_bench: MakeBench) -> Bench:
    """Two hours after the end of the bars: the newest one is complete."""
    return opened(tmp_path, make_bench)


@pytest.fixture
def exchange() -> Exchange:
    return Exchange({"AAPL": bars_frame(n=N), "BTCUSD": bars_frame(n=N, seed=2)})


def test_what_was_answered_before_a_failure_is_kept_and_not_asked_again(
    bench: Bench, exchange: Exchange
) -> None:
    symbols = ["AAPL", "MSFT", "NVDA"]
    exchange.history |= {s: bars_frame(n=N, seed=n) for n, s in enumerate(symbols)}
    exchange.answers_left = 2
    with pytest.raises(Unavailable, match=r"exchange did not answer for some bars .*: it fell silent"):
        top_up(bench, exchange, *symbols)
    assert [len(stored(bench, s)) for s in symbols] == [N, N, 0]
    exchange.questions()
    exchange.answers_left = None
    top_up(bench, exchange, *symbols)
    assert [symbol for symbol, _, _ in exchange.questions()] == ["NVDA"]
    assert all(stored(bench, s) == expected(exchange, END, s) for s in symbols)


def test_one_asset_class_that_does_not_answer_leaves_the_other(bench: Bench, exchange: Exchange) -> None:
    answer = exchange.answer

    def broken(asks: Any, timeframe: Timeframe, asset_class: AssetClass) -> Iterator[BarAnswer]:
        if asset_class is AssetClass.EQUITY:
            raise Unavailable("no answer")
        return answer(asks, timeframe, asset_class)

    exchange.answer = broken  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="4Hour bars of equity: no answer"):
        top_up(bench, exchange, "AAPL", "BTCUSD")
    assert len(stored(bench, "BTCUSD")) == N


def test_a_symbol_that_the_source_does_not_know_is_named_and_its_neighbours_are_loaded(
    bench: Bench, exchange: Exchange
) -> None:
    exchange.unknown = frozenset({"NOPEUSD"})
    report = top_up(bench, exchange, "NOPEUSD", "BTCUSD")
    assert report.symbols[0].problems == ("4Hour: it is not known",)
    assert report.symbols[1].n_rows == N
    row = bench.one("SELECT * FROM bar_loads WHERE symbol = 'NOPEUSD'")
    assert (row["status"], row["reason"]) == ("REJECTED", "it is not known")
    with pytest.raises(Rejected, match=r"^no bars of NOPEUSD: it is not known$"):
        model_bars(bench.platform, "NOPEUSD", Timeframe.HOUR_4)
    assert coverage(bench, "NOPEUSD") == [], "it may be listed one day"


def test_keys_that_are_refused_stop_the_stage(
    bench: Bench, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(*_: object) -> Iterator[BarAnswer]:
        raise Rejected("the keys are wrong")

    monkeypatch.setattr(exchange, "answer", refused, raising=False)
    with pytest.raises(Rejected, match="the keys are wrong"):
        top_up(bench, exchange, "AAPL", "BTCUSD")


def test_a_refusal_leaves_the_other_asset_class_and_is_told(bench: Bench, exchange: Exchange) -> None:
    answer = exchange.answer

    def refused(asks: Any, timeframe: Timeframe, asset_class: AssetClass) -> Iterator[BarAnswer]:
        if asset_class is AssetClass.EQUITY:
            raise Rejected("the account may not see this feed")
        return answer(asks, timeframe, asset_class)

    exchange.answer = refused  # type: ignore[method-assign]
    with pytest.raises(Rejected, match="the account may not see this feed"):
        top_up(bench, exchange, "AAPL", "BTCUSD")
    assert len(stored(bench, "BTCUSD")) == N


def test_an_answer_without_anything_that_is_known_is_not_believed(bench: Bench, exchange: Exchange) -> None:
    top_up(bench, exchange)
    covered, whole = coverage(bench), exchange.history["AAPL"]
    later(exchange, bench)
    complete, exchange.history["AAPL"] = exchange.history["AAPL"], whole.iloc[:0]
    problem = top_up(bench, exchange).symbols[0].problems[0]
    assert "no longer has the 42 stored bar(s)" in problem
    assert coverage(bench) == covered, "or a moment's silence would be a gap for ever"
    exchange.history["AAPL"] = complete
    assert top_up(bench, exchange).symbols[0].problems == ()
    assert stored(bench) == expected(exchange, END + 12 * HOURS)


@pytest.mark.parametrize("seed", range(6))
def test_whatever_fails_on_the_way_the_table_comes_out_the_same(
    make_bench: MakeBench, tmp_path: Path, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    symbols = ["AAPL", "MSFT", "BTCUSD", "ETHUSD", "NVDA"]
    ends = [END + 2 * HOURS + int(h) * HOURS for h in rng.integers(1, 200, 5).cumsum()]
    history = {s: bars_frame(n=500, end=END + 400 * HOURS, seed=n) for n, s in enumerate(symbols)}
    tables = []
    for disturbed in (True, False):
        made = opened(tmp_path / str(disturbed), make_bench)
        exchange = Exchange(dict(history))
        for at in ends:
            made.clock.at = at
            exchange.answers_left = int(rng.integers(0, 7)) if disturbed else None
            try:
                top_up(made, exchange, *symbols)
            except Unavailable:
                assert disturbed
        exchange.answers_left = None
        top_up(made, exchange, *symbols)
        table = made.rows("SELECT symbol, timeframe, ts, open, close, volume FROM bars ORDER BY ALL")
        tables.append((table, [coverage(made, s) for s in symbols]))
    (disturbed_bars, disturbed_ranges), (plain_bars, plain_ranges) = tables
    # A run that failed altogether may have begun its history at a later day.
    starts = {s: r[0][0] for s, r in zip(symbols, disturbed_ranges, strict=True)}
    assert [r for r in plain_bars if r["ts"] >= starts[r["symbol"]]] == disturbed_bars
    assert [r[-1][1] for r in disturbed_ranges] == [r[-1][1] for r in plain_ranges]
    assert all(len(r) == 1 for r in disturbed_ranges)


# --- history that shifts ------------------------------------------------------------------------------------


def split(exchange: Exchange, ratio: float, symbol: str = "AAPL") -> None:
    """All history so far as it is adjusted after a split or dividend, but for the bars of the newest day."""
    frame = exchange.history[symbol].copy()
    old = frame["ts"] < frame["ts"].iloc[-1] - 12 * HOURS
    for column in ("open", "high", "low", "close"):
        frame.loc[old, column] *= ratio
    frame.loc[old, "volume"] /= ratio
    exchange.history[symbol] = frame


@pytest.mark.parametrize("ratio", [0.25, 10.0, 0.9975])
def test_history_that_was_restated_is_fetched_whole_again_and_recorded(
    bench: Bench, exchange: Exchange, ratio: float
) -> None:
    exchange.history["MSFT"] = bars_frame(n=N, seed=8)
    top_up(bench, exchange, "AAPL", "MSFT")
    later(exchange, bench)
    split(exchange, ratio)
    lost = exchange.history["AAPL"]["ts"].iloc[7]
    exchange.history["AAPL"] = exchange.history["AAPL"].drop(index=7).reset_index(drop=True)
    exchange.questions()
    report = top_up(bench, exchange, "AAPL", "MSFT")
    asked = exchange.questions()
    assert [symbol for symbol, _, _ in asked] == ["AAPL", "MSFT", "AAPL"], "only the one that has shifted"
    (start, _), *_ = coverage(bench)
    assert asked[2] == ("AAPL", start, newest(bench))
    assert stored(bench) == expected(exchange, END + 12 * HOURS)
    assert lost not in [r["ts"] for r in stored(bench)]
    row = bench.one("SELECT * FROM bar_restatements")
    assert (row["symbol"], row["timeframe"], row["source"]) == ("AAPL", "4Hour", "exchange")
    assert row["ratio"] == pytest.approx(ratio)
    assert (row["n_compared"], row["n_differing"]) == (42, 41), "but for the bar of the newest day"
    assert (row["n_bars_before"], row["n_bars_after"], row["n_changed"]) == (N, N + 2, N + 1)
    assert row["first_ts"] == exchange.history["AAPL"]["ts"].iloc[0]
    assert f"shifted by a factor of {ratio:.6g}" in report.symbols[0].said[0]
    assert report.symbols[0].n_rows == N + 2
    assert report.symbols[1].said == ()
    top_up(bench, exchange, "AAPL", "MSFT")
    assert exchange.asked == []


def test_an_adjustment_that_comes_some_days_late_is_seen(bench: Bench, exchange: Exchange) -> None:
    top_up(bench, exchange)
    frame = exchange.history["AAPL"]
    frame.loc[frame["ts"] < END - 6 * DAY, ["open", "high", "low", "close"]] *= 0.5
    later(exchange, bench)
    top_up(bench, exchange)
    assert bench.one("SELECT ratio FROM bar_restatements")["ratio"] == 0.5
    assert stored(bench) == expected(exchange, END + 12 * HOURS)


def test_a_failure_between_seeing_the_shift_and_fetching_keeps_the_old_history_whole(
    bench: Bench, exchange: Exchange
) -> None:
    top_up(bench, exchange)
    before, covered = stored(bench), coverage(bench)
    later(exchange, bench)
    split(exchange, 0.5)
    exchange.answers_left = 1
    with pytest.raises(Unavailable):
        top_up(bench, exchange)
    assert stored(bench) == before, "no bar of the new history beside the old"
    assert coverage(bench) == covered
    assert bench.rows("SELECT * FROM bar_restatements") == []
    exchange.answers_left = None
    top_up(bench, exchange)
    assert stored(bench) == expected(exchange, END + 12 * HOURS)
    assert len(bench.rows("SELECT * FROM bar_restatements")) == 1


def test_a_shift_that_was_seen_before_a_failure_is_not_asked_with_the_next_asset_class(
    bench: Bench, exchange: Exchange
) -> None:
    """The next group has other requests: bars of another length or class would be stored as this series."""
    exchange.history["MSFT"] = bars_frame(n=N, seed=8)
    top_up(bench, exchange, "AAPL", "MSFT", "BTCUSD")
    before = stored(bench)
    later(exchange, bench)
    split(exchange, 0.5)
    answer, asked = exchange.answer, []

    def silent_about_msft(asks: Any, timeframe: Timeframe, asset_class: AssetClass) -> Iterator[BarAnswer]:
        asked.append((asset_class, [one.symbol for one in asks]))
        for one in answer(asks, timeframe, asset_class):
            if one.ask.symbol == "MSFT":
                raise Unavailable("it fell silent")
            yield one

    exchange.answer = silent_about_msft  # type: ignore[method-assign]
    with pytest.raises(Unavailable, match="it fell silent"):
        top_up(bench, exchange, "AAPL", "MSFT", "BTCUSD")
    assert asked == [(AssetClass.EQUITY, ["AAPL", "MSFT"]), (AssetClass.CRYPTO, ["BTCUSD"])]
    assert stored(bench) == before
    exchange.answer = answer  # type: ignore[method-assign]
    top_up(bench, exchange, "AAPL", "MSFT", "BTCUSD")
    assert stored(bench) == expected(exchange, END + 12 * HOURS)


def test_a_shift_whose_history_comes_in_part_changes_nothing(
    bench: Bench, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    top_up(bench, exchange)
    before, covered = stored(bench), coverage(bench)
    later(exchange, bench)
    split(exchange, 0.5)
    answer, calls = exchange.answer, []

    def second_time_in_part(*arguments: Any) -> Iterator[BarAnswer]:
        calls.append(arguments)
        for one in answer(*arguments):
            n_less = 0 if len(calls) == 1 else len(one.bars) - 50
            yield BarAnswer(one.ask, one.bars.slice(n_less, len(one.bars)), None)

    monkeypatch.setattr(exchange, "answer", second_time_in_part, raising=False)
    problem = top_up(bench, exchange).symbols[0].problems[0]
    assert f"no longer has {N - 47} of the {N} stored bar(s)" in problem
    assert (stored(bench), coverage(bench)) == (before, covered)


def test_a_shift_whose_whole_history_is_not_delivered_changes_nothing(
    bench: Bench, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    top_up(bench, exchange)
    before = stored(bench)
    later(exchange, bench)
    split(exchange, 0.5)
    answer, calls = exchange.answer, []

    def second_time_empty(*arguments: Any) -> Iterator[BarAnswer]:
        calls.append(arguments)
        for one in answer(*arguments):
            yield one if len(calls) == 1 else BarAnswer(one.ask, one.bars.slice(0, 0), None)

    monkeypatch.setattr(exchange, "answer", second_time_empty, raising=False)
    assert "no longer has" in top_up(bench, exchange).symbols[0].problems[0]
    assert stored(bench) == before


def test_a_bar_of_crypto_that_was_corrected_is_replaced_without_a_new_history(
    bench: Bench, exchange: Exchange
) -> None:
    top_up(bench, exchange, "BTCUSD")
    exchange.history["BTCUSD"].loc[N - 1, "close"] *= 1.01
    later(exchange, bench, symbol="BTCUSD")
    exchange.questions()
    top_up(bench, exchange, "BTCUSD")
    assert len(exchange.questions()) == 1
    assert stored(bench, "BTCUSD") == expected(exchange, END + 12 * HOURS, "BTCUSD")
    assert bench.rows("SELECT * FROM bar_restatements") == []
    assert bench.one("SELECT n_changed FROM bar_loads")["n_changed"] == 4
