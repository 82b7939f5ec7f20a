"""Alpaca's own clients against a real server: what one request asks, and what an answer holds."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import numpy as np
import pytest

from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.alpaca_bars import MAX_GROUP_BARS, MAX_SYMBOLS_LENGTH
from postval_assets.io.bar_source import BarAsk, is_remote, open_bar_source
from postval_assets.io.sample_bars import SampleBars
from postval_assets.settings import load_settings
from postval_assets_tests.io.alpaca_cases import END, NOW, START, ask, hourly, source_on
from postval_assets_tests.io.alpaca_server import DESCRIPTION, KEY_ID, SECRET, AlpacaServer, Fault, deviations

EQUITY, CRYPTO = AssetClass.EQUITY, AssetClass.CRYPTO
HOUR = Timeframe.HOUR_1


# --- what comes back ----------------------------------------------------------------------------------------


def test_bars_arrive_as_alpaca_has_them() -> None:
    with AlpacaServer({"AAPL": hourly(3)}) as server:
        [answer] = source_on(server).answer([ask("AAPL")], HOUR, EQUITY)
    bars = answer.bars
    assert (bars.symbol, bars.timeframe, bars.asset_class) == ("AAPL", HOUR, EQUITY)
    assert bars.ts.tolist() == [datetime(2024, 1, 1, hour) for hour in range(3)]  # noqa: DTZ001 - naive UTC
    assert bars.open.tolist() == [100, 101, 102]
    assert bars.high.tolist() == [102, 103, 104]
    assert bars.low.tolist() == [99, 100, 101]
    assert bars.close.tolist() == [100.5, 101.5, 102.5]
    assert bars.volume.tolist() == [10, 11, 12]


def test_full_pages_of_ten_thousand_over_several_symbols() -> None:
    bars = {"AAPL": hourly(9_000), "BRK.B": hourly(9_000, price=400.0), "MSFT": hourly(7_000, price=300.0)}
    with AlpacaServer(bars) as server:
        asks = [ask("MSFT"), ask("AAPL"), ask("BRK.B")]
        answers = list(source_on(server).answer(asks, HOUR, EQUITY))
    assert [len(a.bars) for a in answers] == [7_000, 9_000, 9_000]
    for answer in answers:
        assert answer.bars.close.tolist() == [bar["c"] for bar in bars[answer.ask.symbol]]
    assert len(server.requests) == 3, "25,000 bars are three pages"
    assert {r.params["limit"] for r in server.requests} == {"10000"}


def test_start_and_end_are_both_in_the_answer() -> None:
    with AlpacaServer({"AAPL": hourly(10)}) as server:
        first, last = START + timedelta(hours=2), START + timedelta(hours=5)
        [answer] = source_on(server).answer([ask("AAPL", first, last)], HOUR, EQUITY)
    assert len(answer.bars) == 4
    assert answer.bars.ts[[0, -1]].tolist() == [first.replace(tzinfo=None), last.replace(tzinfo=None)]


def test_a_bar_that_is_not_complete_is_not_taken() -> None:
    until_now = hourly(14, start=datetime(2025, 3, 1, tzinfo=UTC))  # to 13:00
    with AlpacaServer({"BTC/USD": until_now}) as server:
        source = source_on(server, now=datetime(2025, 3, 1, 13, 14, tzinfo=UTC))
        bars = source.fetch("BTCUSD", HOUR, CRYPTO, start=START, end=None)
        [asked] = source.answer([ask("BTCUSD", end=datetime(2026, 1, 1, tzinfo=UTC))], HOUR, CRYPTO)
    assert bars.ts[-1] == np.datetime64("2025-03-01T11"), "12:00 is complete, but only since 14 minutes"
    assert len(asked.bars) == len(bars)


@pytest.mark.parametrize(
    ("timeframe", "now", "newest"),
    [
        (Timeframe.HOUR_1, "2025-03-01T13:15:00", "2025-03-01T12:00:00"),
        (Timeframe.HOUR_1, "2025-03-01T13:14:59", "2025-03-01T11:00:00"),
        (Timeframe.MIN_15, "2025-03-01T13:15:00", "2025-03-01T12:45:00"),
        (Timeframe.MIN_30, "2025-03-01T13:15:00", "2025-03-01T12:30:00"),
        (Timeframe.HOUR_4, "2025-03-01T13:15:00", "2025-03-01T09:00:00"),
        (Timeframe.DAY_1, "2025-03-01T05:15:00", "2025-02-28T05:00:00"),  # midnight in New York
    ],
)
def test_the_newest_bar_is_complete_and_old_enough_for_free_accounts(
    timeframe: Timeframe, now: str, newest: str
) -> None:
    with AlpacaServer({}) as server:
        source = source_on(server)
    moment = datetime.fromisoformat(now).replace(tzinfo=UTC)
    for asset_class in AssetClass:
        assert source.newest_complete(timeframe, asset_class, moment).isoformat() == f"{newest}+00:00"


def test_no_request_reaches_into_the_last_fifteen_minutes() -> None:
    with AlpacaServer({"AAPL": hourly(24 * 500)}, now=NOW) as server:
        bars = source_on(server).fetch("AAPL", HOUR, EQUITY, start=None, end=None)
    assert bars.ts[-1] == np.datetime64("2025-03-01T11")
    assert all(
        datetime.fromisoformat(r.params["end"]) <= NOW - timedelta(minutes=15) for r in server.requests
    )


def test_a_range_that_lies_ahead_makes_no_request() -> None:
    with AlpacaServer({"AAPL": hourly(5)}) as server:
        ahead = ask("AAPL", NOW, NOW + timedelta(days=1))
        [answer] = source_on(server).answer([ahead], HOUR, EQUITY)
    assert (len(answer.bars), answer.problem, server.requests) == (0, None, [])


def test_a_bar_without_a_finite_price_is_a_problem_of_its_symbol_alone() -> None:
    broken = hourly(3)
    broken[1]["h"] = float("nan")
    with AlpacaServer({"AAPL": broken, "MSFT": hourly(3)}, validate=False) as server:
        first, second = source_on(server).answer([ask("AAPL"), ask("MSFT")], HOUR, EQUITY)
    assert first.problem is not None
    assert first.problem.startswith("AAPL: Alpaca's bar at 2024-01-01T01:00:00Z has open 101.0, high nan")
    assert (len(first.bars), len(second.bars), second.problem) == (0, 3, None)


def test_bars_in_any_order_become_a_series_and_the_last_of_two_counts() -> None:
    first, second, third = hourly(3)
    mended = {**first, "c": 7.0, "t": first["t"].replace("Z", ".000Z")}
    zoned = {**third, "t": third["t"].replace("Z", "+00:00")}

    class Untidy(AlpacaServer):
        def _page(self, request):
            return 200, {"bars": {"AAPL": [zoned, first, second, mended]}, "next_page_token": None}

    with Untidy({}) as server:
        [answer] = source_on(server).answer([ask("AAPL")], HOUR, EQUITY)
    assert answer.bars.close.tolist() == [7.0, second["c"], third["c"]]


# --- what is asked ------------------------------------------------------------------------------------------


def test_stocks_are_adjusted_and_the_feed_is_alpaca_s_choice() -> None:
    with AlpacaServer({"AAPL": hourly(3)}) as server:
        list(source_on(server).answer([ask("AAPL")], HOUR, EQUITY))
        list(source_on(server, feed="iex").answer([ask("AAPL")], HOUR, EQUITY))
    plain, iex = server.requests
    assert plain.path == "/v2/stocks/bars"
    assert plain.params["adjustment"] == "all"
    assert "feed" not in plain.params
    assert iex.params["feed"] == "iex"
    assert (plain.key_id, plain.secret) == (KEY_ID, SECRET)


def test_crypto_is_asked_with_slashes_and_without_adjustment() -> None:
    with AlpacaServer({"BTC/USD": hourly(3), "UNI/USDT": hourly(2), "USDC/USD": hourly(4)}) as server:
        asks = [ask("BTCUSD"), ask("UNIUSDT"), ask("USDCUSD")]
        answers = list(source_on(server, feed="iex").answer(asks, HOUR, CRYPTO))
    [request] = server.requests
    assert request.path == "/v1beta3/crypto/us/bars"
    assert request.symbols == ("BTC/USD", "UNI/USDT", "USDC/USD")
    assert not {"adjustment", "feed"} & set(request.params)
    assert [(a.ask.symbol, a.bars.symbol, len(a.bars)) for a in answers] == [
        ("BTCUSD", "BTCUSD", 3),
        ("UNIUSDT", "UNIUSDT", 2),
        ("USDCUSD", "USDCUSD", 4),
    ]


@pytest.mark.parametrize("timeframe", list(Timeframe))
def test_timeframes_are_asked_by_their_names(timeframe: Timeframe) -> None:
    with AlpacaServer({"AAPL": hourly(3)}) as server:
        list(source_on(server).answer([ask("AAPL")], timeframe, EQUITY))
    assert server.requests[0].params["timeframe"] == timeframe.value


def test_questions_of_one_range_are_one_request_and_others_are_not() -> None:
    later = START + timedelta(hours=3)
    with AlpacaServer({"AAPL": hourly(9), "MSFT": hourly(9), "SPY": hourly(9)}) as server:
        asks = [ask("AAPL"), ask("MSFT", later), ask("SPY"), ask("AAPL", later)]
        answers = list(source_on(server).answer(asks, HOUR, EQUITY))
    assert [r.symbols for r in server.requests] == [("AAPL", "SPY"), ("MSFT", "AAPL")]
    assert [(a.ask.symbol, len(a.bars)) for a in answers] == [
        ("AAPL", 9),
        ("SPY", 9),
        ("MSFT", 6),
        ("AAPL", 6),
    ]


def test_the_same_question_twice_has_two_answers() -> None:
    with AlpacaServer({"AAPL": hourly(9)}) as server:
        answers = list(source_on(server).answer([ask("AAPL"), ask("AAPL")], HOUR, EQUITY))
    assert [len(a.bars) for a in answers] == [9, 9]


def test_a_request_s_address_stays_short_however_many_symbols() -> None:
    symbols = [f"{a}{b}{c}Q.B" for a in "ABCDEFGHIJ" for b in "ABCDEFGHIJ" for c in "ABCDEFGHIJ"]
    bars = {symbol: hourly(1) for symbol in symbols}
    with AlpacaServer(bars) as server:
        asks = [ask(symbol, END - timedelta(days=1)) for symbol in symbols]
        answers = list(source_on(server).answer(asks, HOUR, EQUITY))
    assert {a.ask.symbol for a in answers} == set(symbols)
    assert max(r.length for r in server.requests) < MAX_SYMBOLS_LENGTH + 300
    assert len(server.requests) == 3, "1000 symbols of 6 characters and a comma: 444 a request"


def test_a_group_of_requests_is_bounded_in_bars_also() -> None:
    symbols = [f"AA{a}{b}" for a in "ABCDEFGHIJ" for b in "ABCDEFGHIJ"]
    years = BarAsk("AAPL", END - timedelta(days=2000), END)
    with AlpacaServer({symbol: hourly(1) for symbol in symbols}) as server:
        asks = [BarAsk(symbol, years.start, years.end) for symbol in symbols]
        answers = source_on(server).answer(asks, HOUR, EQUITY)
        next(answers)
        assert len(server.requests) == 1
        expected = 2000 * 24 * (16 * 5) / (24 * 7) * len(server.requests[0].symbols)
        assert 0.9 * MAX_GROUP_BARS < expected <= MAX_GROUP_BARS
        assert len(list(answers)) == len(symbols) - 1


@pytest.mark.parametrize("slashes", ["", "/", "//"])
def test_a_slash_behind_the_host_changes_nothing(monkeypatch: pytest.MonkeyPatch, slashes: str) -> None:
    with AlpacaServer({"AAPL": hourly(3)}) as server:
        monkeypatch.setenv("POSTVAL_ALPACA_URL", server.url + slashes)
        monkeypatch.setenv("APCA_API_KEY_ID", KEY_ID)
        monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
        settings = load_settings(bars_source="alpaca")
        source = open_bar_source(settings.bars_source, sample_dir=settings.sample_dir, alpaca=settings)
        bars = source.fetch("AAPL", HOUR, EQUITY, start=START, end=END)
    assert len(bars) == 3
    assert server.requests[0].path == "/v2/stocks/bars"
    assert (source.name, is_remote(source)) == ("alpaca", True)
    assert not is_remote(SampleBars(settings.sample_dir))


# --- symbols that Alpaca does not know ----------------------------------------------------------------------


def test_an_unknown_pair_is_a_problem_that_names_it() -> None:
    with AlpacaServer({"BTC/USD": hourly(3)}) as server:
        known, unknown = source_on(server).answer([ask("BTCUSD"), ask("FOOUSD")], HOUR, CRYPTO)
    assert (len(known.bars), known.problem) == (3, None)
    assert unknown.problem is not None
    assert unknown.problem.startswith(
        "FOOUSD: Alpaca has no bars of this symbol at any time (asked for as FOO/USD)"
    )
    assert len(server.requests) == 2


def test_fetching_an_unknown_pair_is_refused() -> None:
    with AlpacaServer({}) as server, pytest.raises(Rejected, match=r"^FOOUSD: Alpaca has no bars"):
        source_on(server).fetch("FOO/USD", HOUR, CRYPTO, start=START, end=END)


def test_a_pair_without_bars_in_the_range_is_known_all_the_same() -> None:
    with AlpacaServer({"BTC/USD": hourly(3, start=datetime(2022, 5, 1, tzinfo=UTC))}) as server:
        [answer] = source_on(server).answer([ask("BTCUSD")], HOUR, CRYPTO)
    assert (len(answer.bars), answer.problem) == (0, None)


def test_a_weekend_without_stocks_costs_one_request_and_is_no_problem() -> None:
    saturday = datetime(2025, 2, 22, tzinfo=UTC)
    with AlpacaServer({"AAPL": hourly(3)}) as server:
        [answer] = source_on(server).answer(
            [ask("AAPL", saturday, saturday + timedelta(days=1))], HOUR, EQUITY
        )
    assert (len(answer.bars), answer.problem, len(server.requests)) == (0, None, 1)


def test_an_unknown_stock_is_a_problem_that_names_it() -> None:
    with AlpacaServer({"AAPL": hourly(3)}) as server:
        _, unknown = source_on(server).answer([ask("AAPL"), ask("AAPLE")], HOUR, EQUITY)
    assert unknown.problem is not None
    assert unknown.problem.startswith(
        "AAPLE: Alpaca has no bars of this symbol at any time: is it spelt right"
    )


def test_a_symbol_that_alpaca_refuses_does_not_spoil_its_neighbours() -> None:
    class Choosy(AlpacaServer):
        def _page(self, request):
            if "BAD.X" in request.symbols:
                return 400, {"message": "code=400, message=invalid symbol: BAD.X"}
            return super()._page(request)

    with Choosy({"AAPL": hourly(3), "MSFT": hourly(4)}) as server:
        answers = list(source_on(server).answer([ask("AAPL"), ask("BAD.X"), ask("MSFT")], HOUR, EQUITY))
    assert [(len(a.bars), a.problem is None) for a in answers] == [(3, True), (0, False), (4, True)]
    assert "BAD.X" in str(answers[1].problem)
    assert len(server.requests) == 2


@pytest.mark.parametrize(
    "said",
    ["invalid symbol: BAD.X.", "Invalid symbols: 'BAD.X', 'WORSE'", "code=400, message=invalid symbol WORSE"],
)
def test_refused_symbols_are_found_however_they_are_named(said: str) -> None:
    class Choosy(AlpacaServer):
        def _page(self, request):
            bad = {"BAD.X", "WORSE"} & set(request.symbols)
            named = [name for name in bad if name in said]
            return (400, {"message": said}) if named else super()._page(request)

    with Choosy({"AAPL": hourly(3), "BAD.X": hourly(1), "WORSE": hourly(1)}) as server:
        answers = list(source_on(server).answer([ask("AAPL"), ask("BAD.X"), ask("WORSE")], HOUR, EQUITY))
    assert {a.ask.symbol for a in answers if a.problem} == {n for n in ("BAD.X", "WORSE") if n in said}
    assert len(server.requests) == 2


def test_bars_of_a_feed_that_is_set_are_recorded_as_its_own() -> None:
    with AlpacaServer({}) as server:
        plain, iex = source_on(server), source_on(server, feed="iex")
    assert [plain.recorded_as(a) for a in (EQUITY, CRYPTO)] == ["alpaca", "alpaca"]
    assert [iex.recorded_as(a) for a in (EQUITY, CRYPTO)] == ["alpaca-iex", "alpaca"]


def test_another_refusal_is_told_as_the_server_says_it() -> None:
    class Strict(AlpacaServer):
        def _page(self, request):
            return 422, {"message": "end should not be before start"}

    with Strict({}) as server, pytest.raises(Rejected, match=r"HTTP 422: end should not be before start"):
        list(source_on(server).answer([ask("AAPL")], HOUR, EQUITY))
    assert len(server.requests) == 1


def test_a_wrong_path_asks_whether_the_address_is_right() -> None:
    with AlpacaServer({}) as server:
        source = source_on(server)
        wrong = type(source)(url=f"{server.url}/v2", keys=source.keys, now=source.now, clock=source.clock)
        with pytest.raises(Rejected, match=r"HTTP 404: Not Found\); is POSTVAL_ALPACA_URL right\?"):
            list(wrong.answer([ask("AAPL")], HOUR, EQUITY))


# --- the server itself --------------------------------------------------------------------------------------


@pytest.mark.shared_data
@pytest.mark.skipif(not DESCRIPTION.is_file(), reason="Alpaca's description of its API is not here")
def test_answers_are_held_against_alpaca_s_description() -> None:
    good = {"bars": {"AAPL": hourly(1)}, "next_page_token": None}
    assert deviations(good, "stock_bars_resp") == []
    bar = hourly(1)[0]
    bad = [
        {"bars": {"AAPL": [{**bar, "v": 0.5}]}, "next_page_token": None},
        {"bars": {"AAPL": [{k: v for k, v in bar.items() if k != "vw"}]}, "next_page_token": None},
        {"bars": {"AAPL": [{**bar, "t": "yesterday"}]}, "next_page_token": None},
        {"bars": {"AAPL": [{**bar, "x": 1}]}, "next_page_token": None},
        {"bars": None, "next_page_token": None},
        {"bars": {}},
        {"bars": {}, "next_page_token": 7},
    ]
    for answer in bad:
        assert deviations(answer, "stock_bars_resp") != [], answer
    half = {"bars": {"BTC/USD": [{**bar, "v": 0.5}]}, "next_page_token": None}
    assert deviations(half, "crypto_bars_resp") == [], "quantities of crypto have fractions"


def test_what_the_server_was_asked_is_all_there() -> None:
    with AlpacaServer({"AAPL": hourly(3)}, faults={0: Fault.ERROR_500}) as server:
        list(source_on(server).answer([ask("AAPL")], HOUR, EQUITY))
    assert [r.fault for r in server.requests] == [Fault.ERROR_500, None]
    assert len(server.pages) == 1
