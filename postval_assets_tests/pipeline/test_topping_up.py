"""A source of the network: only what is missing is asked for, and what was asked is never asked again."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from postval_assets.core.failures import Rejected
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.topping_up import EMPTY
from postval_assets_tests.pipeline.conftest import BUY, END, Bench, MakeBench, bars_frame, network
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
    since,
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


def test_the_first_time_all_of_it_is_asked_and_the_second_time_nothing(
    bench: Bench, exchange: Exchange
) -> None:
    report = top_up(bench, exchange, "AAPL", "BTCUSD")
    assert [(s.symbol, s.n_rows, s.n_current, s.problems) for s in report.symbols] == [
        ("AAPL", N, 0, ()),
        ("BTCUSD", N, 0, ()),
    ]
    asked = (since(bench), newest(bench))
    assert exchange.questions() == [("AAPL", *asked), ("BTCUSD", *asked)]
    assert stored(bench) == expected(exchange, END)
    assert coverage(bench) == [asked]
    before = bench.rows("SELECT * FROM revision")
    report = top_up(bench, exchange, "AAPL", "BTCUSD")
    assert [(s.n_rows, s.n_current) for s in report.symbols] == [(N, N), (N, N)]
    assert exchange.asked == [], "no request"
    assert bench.rows("SELECT * FROM revision") == before, "nothing is written either"


def test_a_load_says_what_it_brought(bench: Bench, exchange: Exchange) -> None:
    top_up(bench, exchange)
    row = bench.one("SELECT * FROM bar_loads")
    assert (row["status"], row["source"], row["n_fetched"], row["n_changed"]) == ("OK", "exchange", N, N)
    assert (row["first_ts"], row["last_ts"]) == (
        exchange.history["AAPL"]["ts"].iloc[0],
        END - 4 * HOURS,
    )
    assert row["fetched_digest"] is None


@pytest.mark.parametrize(("symbol", "overlap"), [("AAPL", 7 * DAY), ("BTCUSD", DAY)])
def test_later_only_new_bars_are_asked_with_a_few_that_are_known(
    bench: Bench, exchange: Exchange, symbol: str, overlap: timedelta
) -> None:
    top_up(bench, exchange, symbol)
    runs = bench.rows("SELECT ts, run_id FROM bars ORDER BY ts")
    ((start, end),) = coverage(bench, symbol)
    exchange.questions()
    later(exchange, bench, symbol=symbol)
    report = top_up(bench, exchange, symbol)
    assert (report.symbols[0].n_rows, report.symbols[0].n_current) == (N + 3, N)
    assert exchange.questions() == [(symbol, end + timedelta(minutes=1) - overlap, newest(bench))]
    assert stored(bench, symbol) == expected(exchange, END + 12 * HOURS, symbol)
    assert bench.rows("SELECT ts, run_id FROM bars ORDER BY ts")[:N] == runs, "what is known is not written"
    assert coverage(bench, symbol) == [(start, newest(bench))]


def test_a_symbol_that_did_not_trade_for_long_is_asked_from_its_newest_bar_on(
    bench: Bench, exchange: Exchange
) -> None:
    exchange.history["AAPL"] = exchange.history["AAPL"].iloc[:20]
    top_up(bench, exchange)
    exchange.questions()
    bench.clock.at += 4 * HOURS
    top_up(bench, exchange)
    newest_bar = exchange.history["AAPL"]["ts"].iloc[-1].to_pydatetime()
    assert exchange.questions() == [("AAPL", newest_bar, newest(bench))]


def test_a_range_that_has_no_bars_is_asked_once_and_told_every_time(bench: Bench, exchange: Exchange) -> None:
    for _ in range(2):
        report = top_up(bench, exchange, "NEW", "AAPL")
        assert report.symbols[0].problems == (f"4Hour: {EMPTY}",)
        assert report.symbols[1].problems == ()
    assert [symbol for symbol, _, _ in exchange.questions()] == ["NEW", "AAPL"]
    row = bench.one("SELECT * FROM bar_loads WHERE symbol = 'NEW'")
    assert (row["status"], row["reason"], row["n_fetched"]) == ("EMPTY", EMPTY, 0)
    # a weekend: hours pass, no bar comes, and what was asked is not asked again but for the overlap
    bench.clock.at += 8 * HOURS
    before = newest(bench)
    top_up(bench, exchange, "NEW", "AAPL")
    assert [end for _, _, end in exchange.questions()] == [before, before]
    top_up(bench, exchange, "NEW", "AAPL")
    assert exchange.asked == []


def test_more_history_asks_for_the_earlier_edge_only(bench: Bench, exchange: Exchange) -> None:
    exchange.history["AAPL"] = bars_frame(n=3 * N)
    top_up(bench, exchange)
    exchange.questions()
    more = bench.configured(history_days=90)
    top_up(more, exchange)
    assert exchange.questions() == [
        ("AAPL", since(bench, 90), since(bench) - timedelta(minutes=1)),
    ]
    assert stored(bench) == expected(exchange, END)
    assert coverage(bench) == [(since(bench, 90), newest(bench))]


def test_a_gap_inside_is_asked_for_and_nothing_else(bench: Bench, exchange: Exchange) -> None:
    top_up(bench, exchange)
    ((start, end),) = coverage(bench)
    exchange.questions()
    series = {"symbol": "AAPL", "timeframe": "4Hour", "source": "exchange"}
    hole = (END - 5 * DAY, END - 3 * DAY)
    pieces = [(start, hole[0] - timedelta(minutes=1)), (hole[1] + timedelta(minutes=1), end)]
    lost = [r["ts"] for r in stored(bench) if hole[0] <= r["ts"] <= hole[1]]
    bench.platform.warehouse.write(
        [
            Replace("bar_coverage", [series], [{**series, "start_ts": a, "end_ts": b} for a, b in pieces]),
            Replace("bars", [{"symbol": "AAPL", "timeframe": "4Hour", "ts": ts} for ts in lost], []),
        ],
        run_id="hole",
        now=END,
    )
    assert top_up(bench, exchange).symbols[0].n_rows == N
    assert exchange.questions() == [("AAPL", *hole)]
    assert stored(bench) == expected(exchange, END)
    assert coverage(bench) == [(start, end)]


def test_a_bar_that_is_not_complete_is_never_stored(bench: Bench, exchange: Exchange) -> None:
    """The source delivers the bar that is being made; its values would be those of a moment."""
    bench.clock.at = END + 10 * timedelta(minutes=1)
    top_up(bench, exchange)
    assert stored(bench) == expected(exchange, END - 8 * HOURS)
    bench.clock.at = END + 2 * HOURS
    top_up(bench, exchange)
    assert stored(bench) == expected(exchange, END)


# --- with other sources, and finer series -------------------------------------------------------------------


def test_bars_of_another_source_are_replaced_and_not_mixed(bench: Bench, exchange: Exchange) -> None:
    # From before what is asked for, until after its newest bar.
    of_file = bench.put_bars("AAPL", n=3 * N, end=END + 20 * HOURS, seed=9)
    bench.load(["AAPL"])
    report = top_up(bench, exchange)
    first_day = of_file["ts"].iloc[0].normalize().to_pydatetime()
    assert first_day < since(bench)
    assert exchange.questions() == [("AAPL", first_day, newest(bench))]
    assert stored(bench) == expected(exchange, END)
    assert report.symbols[0].n_rows == N
    assert bench.rows("SELECT * FROM bar_restatements") == []
    # and back: what the exchange was asked for is no longer what is stored, and neither are its bars
    shorter = bench.put_bars("AAPL", n=20, end=END - 5 * DAY, seed=9)
    report = bench.load(["AAPL"])
    assert coverage(bench) == []
    assert [r["ts"] for r in stored(bench)] == [ts.to_pydatetime() for ts in shorter["ts"]]
    assert report.symbols[0].n_rows == 20
    exchange.questions()
    top_up(bench, exchange)
    assert exchange.questions() == [("AAPL", since(bench), newest(bench))]
    assert stored(bench) == expected(exchange, END)


def test_bars_of_another_feed_are_replaced_and_not_mixed(bench: Bench, exchange: Exchange) -> None:
    top_up(bench, exchange, "AAPL", "BTCUSD")
    exchange.questions()
    of_all = exchange.history["AAPL"]
    exchange.feed, exchange.history["AAPL"] = "iex", bars_frame(n=N, seed=7).iloc[: N - 4]
    top_up(bench, exchange, "AAPL", "BTCUSD")
    assert exchange.questions() == [("AAPL", since(bench), newest(bench))], "a pair has no feed"
    assert stored(bench) == expected(exchange, END)
    assert bench.rows("SELECT DISTINCT source FROM bars WHERE symbol = 'AAPL'") == [
        {"source": "exchange-iex"}
    ]
    assert bench.rows("SELECT * FROM bar_restatements") == []
    top_up(bench, exchange, "AAPL", "BTCUSD")
    assert exchange.questions() == []
    # and back: the first feed's record went with its bars
    exchange.feed, exchange.history["AAPL"] = "", of_all
    top_up(bench, exchange, "AAPL", "BTCUSD")
    assert exchange.questions() == [("AAPL", since(bench), newest(bench))]
    assert stored(bench) == expected(exchange, END)
    assert bench.rows("SELECT DISTINCT source FROM bars WHERE symbol = 'AAPL'") == [{"source": "exchange"}]


def test_simulated_bars_are_refused_beside_real_ones_whatever_the_last_load_said(
    bench: Bench, exchange: Exchange
) -> None:
    top_up(bench, exchange)
    exchange.unknown = frozenset({"AAPL"})
    bench.clock.at += 8 * HOURS
    top_up(bench, exchange)
    assert bench.one("SELECT status FROM bar_loads")["status"] == "REJECTED"
    with pytest.raises(Rejected, match="holds bars from exchange; bars from sample do not belong"):
        bench.configured(bars_source="sample").load(["AAPL"])


def test_a_finer_series_that_a_model_needs_is_topped_up_beside_the_base(
    bench: Bench, exchange: Exchange
) -> None:
    bench.deliver(bench.archive({"AAPL_1Hour": network(BUY), "AAPL_1Day": network(BUY)}))
    top_up(bench, exchange)
    found = bench.rows("SELECT timeframe, end_ts FROM bar_coverage ORDER BY timeframe")
    assert [(r["timeframe"], r["end_ts"]) for r in found] == [
        ("1Hour", newest(bench) + 3 * HOURS),
        ("4Hour", newest(bench)),
    ]


def test_many_bars_are_written_in_several_transactions(
    bench: Bench, exchange: Exchange, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postval_assets.pipeline.topping_up._ROWS_PER_WRITE", 2 * N)
    symbols = [f"S{n}" for n in range(5)]
    exchange.history = {s: bars_frame(n=N, seed=n) for n, s in enumerate(symbols)}
    before = bench.one("SELECT revision FROM revision")["revision"]
    top_up(bench, exchange, *symbols)
    assert bench.one("SELECT revision FROM revision")["revision"] == before + 3
    assert all(stored(bench, s) == expected(exchange, END, s) for s in symbols)
