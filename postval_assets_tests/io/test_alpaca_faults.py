"""Whatever Alpaca's server does to a request: no bar is lost, none comes twice, and requests are counted."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import timedelta
from http.server import BaseHTTPRequestHandler
from typing import Any

import pytest

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.alpaca_bars import AlpacaBars
from postval_assets.io.alpaca_http import RATE_LIMITED_TRIES, TRIES, TokenBucket
from postval_assets_tests.io.alpaca_cases import START, FakeClock, ask, hourly, source_on
from postval_assets_tests.io.alpaca_server import AlpacaServer, Fault, Request, _send

# 25 bars in pages of 10: AAPL 10 | AAPL 2, MSFT 8 | MSFT 5.
BARS = {"AAPL": hourly(12), "MSFT": hourly(13, price=300.0)}
N_PAGES = 3


def closes(source: AlpacaBars) -> dict[str, list[float]]:
    asks = [ask("AAPL"), ask("MSFT")]
    answers = list(source.answer(asks, Timeframe.HOUR_1, AssetClass.EQUITY))
    assert [a.problem for a in answers] == [None, None]
    return {a.ask.symbol: a.bars.close.tolist() for a in answers}


class Says(AlpacaServer):
    """A server whose first answers are given, byte for byte or as JSON."""

    def __init__(
        self,
        bars: Any,
        *,
        bodies: Sequence[object],
        status: int = 200,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(bars, validate=False)
        self.bodies, self.status, self.headers = list(bodies), status, headers

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        if len(self.requests) >= len(self.bodies):
            super()._answer(handler)
            return
        body = self.bodies[len(self.requests)]
        self.requests.append(Request(handler.path, (), {}, None, None, None, len(handler.path), None))
        _send(
            handler, self.status, body if isinstance(body, bytes) else json.dumps(body).encode(), self.headers
        )


EXPECTED = {symbol: [bar["c"] for bar in series] for symbol, series in BARS.items()}

PASSING = [
    Fault.RATE_LIMIT,
    Fault.ERROR_500,
    Fault.HANG,
    Fault.HANG_IN_PAGE,
    Fault.BROKEN_JSON,
    Fault.CUT,
    Fault.RESET,
]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("page", [0, 1, 2])
@pytest.mark.parametrize("fault", PASSING)
def test_the_page_that_failed_is_repeated_and_no_other(fault: Fault, page: int, *, packed: bool) -> None:
    with AlpacaServer(BARS, faults={page: fault}, page_size=10, packed=packed) as server:
        assert closes(source_on(server, timeout_s=0.3)) == EXPECTED
    assert len(server.requests) == N_PAGES + 1
    assert server.requests[page].fault is fault
    assert server.requests[page + 1].page_token == server.requests[page].page_token
    tokens = [r.page_token for r in server.pages]
    assert len(set(tokens)) == len(tokens) == N_PAGES


def test_without_faults_there_is_one_request_a_page() -> None:
    with AlpacaServer(BARS, page_size=10) as server:
        assert closes(source_on(server)) == EXPECTED
    assert len(server.requests) == N_PAGES


def test_every_page_may_fail_in_its_own_way() -> None:
    # One fault after the other, each followed by the page.
    faults = [
        Fault.ERROR_500,
        Fault.CUT,
        None,
        Fault.RATE_LIMIT,
        Fault.BROKEN_JSON,
        Fault.RESET,
        None,
        Fault.ERROR_500,
    ]
    fake = FakeClock()
    with AlpacaServer(BARS, faults=faults, page_size=10) as server:
        assert closes(source_on(server, fake)) == EXPECTED
    assert len(server.requests) == N_PAGES + 6


def test_pauses_grow_and_end() -> None:
    fake = FakeClock()
    with (
        AlpacaServer(BARS, faults=[Fault.ERROR_500] * 50) as server,
        pytest.raises(
            Unavailable, match=rf"did not answer a request in {TRIES} tries, the last time: HTTP 500"
        ),
    ):
        closes(source_on(server, fake))
    assert len(server.requests) == TRIES
    assert fake.waits == [1, 2, 4, 8, 16]


def test_the_rate_limit_s_header_says_how_long_to_wait() -> None:
    fake = FakeClock()
    with AlpacaServer(BARS, faults=[Fault.RATE_LIMIT], reset_after_s=37) as server:
        assert closes(source_on(server, fake)) == EXPECTED
    # Counted in the server's time: the clock here stands at another year. One more, for its whole seconds.
    assert [round(wait) for wait in fake.waits] in ([38], [39])


def test_a_header_of_another_world_does_not_stop_everything() -> None:
    fake = FakeClock()
    with AlpacaServer(BARS, faults=[Fault.RATE_LIMIT], reset_after_s=10**6) as server:
        assert closes(source_on(server, fake)) == EXPECTED
    assert fake.waits == [120.0]


@pytest.mark.parametrize("reset", [None, "0", "nan", "soon", "-1e400"])
def test_a_rate_limit_without_a_usable_header_is_waited_for_longer_than_a_minute(reset: str | None) -> None:
    """The limit is one of a minute: ten tries, a second apart, would all fall into the same one."""
    fake = FakeClock()
    headers = {} if reset is None else {"X-RateLimit-Reset": reset}
    with Says(BARS, bodies=[b"{}"] * 8, status=429, headers=headers) as server:
        assert closes(source_on(server, fake)) == EXPECTED
    assert len(server.requests) == 9
    assert fake.waits == [1, 2, 4, 8, 16, 16, 16, 16]


def test_a_rate_limit_that_never_ends_is_unavailable() -> None:
    with (
        AlpacaServer(BARS, faults=[Fault.RATE_LIMIT] * 50) as server,
        pytest.raises(Unavailable, match="HTTP 429, too many requests"),
    ):
        closes(source_on(server))
    assert len(server.requests) == RATE_LIMITED_TRIES


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault.HANG, "nothing came for 0.2 s"),
        (Fault.HANG_IN_PAGE, "nothing came for 0.2 s"),
        (Fault.BROKEN_JSON, "not JSON"),
        (Fault.CUT, "the connection broke"),
        (Fault.RESET, "the connection broke"),
    ],
)
def test_what_never_works_is_unavailable_and_says_how(fault: Fault, said: str) -> None:
    with (
        AlpacaServer(BARS, faults=[fault] * 50) as server,
        pytest.raises(Unavailable, match=said) as caught,
    ):
        closes(source_on(server, timeout_s=0.2))
    assert len(server.requests) == TRIES
    assert "\n" not in str(caught.value)


def test_nobody_there_is_unavailable() -> None:
    with AlpacaServer(BARS) as server:
        source = source_on(server)
    with pytest.raises(Unavailable, match="the connection was refused"):
        closes(source)


def test_null_bars_are_no_bars() -> None:
    with AlpacaServer({}, faults={0: Fault.NULL_BARS}) as server:
        [answer] = source_on(server).answer(
            [ask("AAPL", end=ask("AAPL").start)], Timeframe.HOUR_1, AssetClass.EQUITY
        )
    assert len(answer.bars) == 0
    assert answer.problem is None
    assert len(server.requests) == 1


def test_a_page_that_is_none_is_unavailable() -> None:
    with (
        AlpacaServer(BARS, faults=[Fault.NO_PAGE]) as server,
        pytest.raises(Unavailable, match="a page whose bars are a list"),
    ):
        closes(source_on(server))


def test_a_page_without_bars_is_unavailable_and_not_an_empty_range() -> None:
    with (
        Says(BARS, bodies=[{"message": "hello from a proxy", "next_page_token": None}]) as server,
        pytest.raises(Unavailable, match="a page without bars"),
    ):
        closes(source_on(server))


@pytest.mark.parametrize(
    ("bar", "wrong"),
    [
        ({"t": "2024-01-01T00:00:00Z", "o": 1.0}, "KeyError in h"),
        ({**hourly(1)[0], "c": 10**400}, "OverflowError in c"),
        ({**hourly(1)[0], "v": "many"}, "ValueError in v"),
        ({**hourly(1)[0], "t": "yesterday at noon ....Z"}, "in t"),
        ({**hourly(1)[0], "t": None}, "TypeError in t"),
        ("no bar", "TypeError in t"),
    ],
)
def test_a_bar_that_is_none_is_a_problem_of_its_symbol_alone(bar: object, wrong: str) -> None:
    bodies = [{"bars": {"AAPL": [bar], "MSFT": BARS["MSFT"]}, "next_page_token": None}]
    with Says(BARS, bodies=bodies) as server:
        first, second = source_on(server).answer(
            [ask("AAPL"), ask("MSFT")], Timeframe.HOUR_1, AssetClass.EQUITY
        )
    assert first.problem is not None
    assert first.problem.startswith("AAPL: Alpaca sent a bar that is none (")
    assert wrong in first.problem
    assert (len(first.bars), second.problem, second.bars.close.tolist()) == (0, None, EXPECTED["MSFT"])


@pytest.mark.parametrize("fault", [Fault.UNAUTHORIZED, Fault.FORBIDDEN])
def test_refused_keys_are_told_in_one_line_at_once(fault: Fault) -> None:
    with (
        AlpacaServer(BARS, faults=[fault]) as server,
        pytest.raises(Rejected, match=r"refuses the keys .*APCA_API_KEY_ID.*ALPACA_KEYS_FILE") as caught,
    ):
        closes(source_on(server))
    assert len(server.requests) == 1
    assert "\n" not in str(caught.value)


def test_recent_sip_data_is_worth_another_try_later() -> None:
    with (
        AlpacaServer(BARS, faults=[None, Fault.RECENT_SIP], page_size=10) as server,
        pytest.raises(Unavailable, match=r"bars so recent .*alpaca_feed to iex"),
    ):
        closes(source_on(server))
    assert len(server.requests) == 2


def test_what_came_before_a_failure_stays() -> None:
    asks = [ask("AAPL"), ask("MSFT", end=ask("AAPL").start)]  # two ranges: two requests
    with AlpacaServer(BARS, faults={1: Fault.UNAUTHORIZED}) as server:
        answers = source_on(server).answer(asks, Timeframe.HOUR_1, AssetClass.EQUITY)
        assert next(answers).bars.close.tolist() == EXPECTED["AAPL"]
        with pytest.raises(Rejected):
            next(answers)


def test_pages_that_go_round_are_seen() -> None:
    # Each page names the first one's end as its successor: the server forgets where it was.
    class Round(AlpacaServer):
        def _page(self, request):
            status, body = super()._page(request)
            return status, {**body, "next_page_token": "QUFQTHw="}

    with Round(BARS, page_size=10, validate=False) as server, pytest.raises(Unavailable, match="go round"):
        closes(source_on(server))
    assert len(server.requests) == 2


def test_pages_that_go_round_by_way_of_others_are_seen() -> None:
    bodies = [{"bars": {"AAPL": BARS["AAPL"][:1]}, "next_page_token": token} for token in "ABCA"]
    with Says(BARS, bodies=bodies * 100) as server, pytest.raises(Unavailable, match="go round"):
        closes(source_on(server))
    assert len(server.requests) == 4


@pytest.mark.parametrize("bars", [{}, None, {"AAPL": BARS["AAPL"]}])
def test_pages_that_never_end_are_seen(bars: object) -> None:
    bodies = [{"bars": bars, "next_page_token": f"page {n}"} for n in range(10_000)]
    few = [ask("AAPL", end=START + timedelta(hours=11))]
    with Says(BARS, bodies=bodies) as server, pytest.raises(Unavailable, match="do not end"):
        list(source_on(server).answer(few, Timeframe.HOUR_1, AssetClass.EQUITY))
    assert len(server.requests) < 110


def test_an_empty_name_of_a_next_page_names_none() -> None:
    with Says(BARS, bodies=[{"bars": BARS, "next_page_token": ""}]) as server:
        assert closes(source_on(server)) == EXPECTED
    assert len(server.requests) == 1


@pytest.mark.parametrize(
    "body", [b"[" * 100_000, b'{"bars": {}, "x": "' + b"x" * 5_000 + b'"}', b"1" * 5_000]
)
def test_answers_that_no_page_can_be_are_unavailable(monkeypatch: pytest.MonkeyPatch, body: bytes) -> None:
    monkeypatch.setattr("postval_assets.io.alpaca_http._LARGEST_BODY", 4_000 if b"x" in body else 10**6)
    said = "more than" if b"x" in body else "not JSON"
    with Says(BARS, bodies=[body] * 50) as server, pytest.raises(Unavailable, match=said):
        closes(source_on(server))
    assert len(server.requests) == TRIES


@pytest.mark.parametrize("proxy", ["http://", "socks9://name:pAsSwOrD@127.0.0.1:9"])
def test_a_proxy_that_is_none_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch, proxy: str) -> None:
    for name in ("no_proxy", "NO_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("http_proxy", proxy)
    with AlpacaServer(BARS) as server, pytest.raises(Rejected, match="proxy settings") as caught:
        closes(source_on(server))
    assert server.requests == []
    assert "pAsSwOrD" not in str(caught.value)


# --- our own limit ------------------------------------------------------------------------------------------


def test_no_minute_has_more_requests_than_allowed() -> None:
    fake = FakeClock()
    bucket = TokenBucket(200, fake.clock)
    times = []
    for _ in range(1000):
        bucket.take()
        fake.seconds += 0.05
        times.append(fake.seconds)
    for index in range(len(times) - 200):
        assert times[index + 200] - times[index] > 60
    assert times[-1] - times[0] < 5 * 62


def test_requests_wait_for_the_bucket() -> None:
    fake = FakeClock()
    with AlpacaServer(BARS, page_size=5) as server:
        assert closes(source_on(server, fake, per_minute=2)) == EXPECTED
    assert len(server.requests) == 5
    assert fake.waits == [61, 61]  # two at once, two a minute later, the fifth after another


def test_no_request_while_the_server_says_that_none_is_left() -> None:
    fake = FakeClock()
    bucket = TokenBucket(200, fake.clock)
    bucket.close_for(12)
    bucket.take()
    assert fake.waits == [12]


def test_an_answer_that_says_that_none_is_left_makes_the_next_request_wait() -> None:
    fake = FakeClock()
    with AlpacaServer(BARS, page_size=10, left=2, reset_after_s=20) as server:
        assert closes(source_on(server, fake)) == EXPECTED
    assert len(server.requests) == N_PAGES
    assert [round(wait) for wait in fake.waits] in ([21], [22])  # before the third page
