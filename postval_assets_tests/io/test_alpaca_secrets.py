"""The keys are in the requests and nowhere else: not in logs, errors, tracebacks or what objects show of themselves."""

from __future__ import annotations

import logging
import traceback
from http.server import BaseHTTPRequestHandler

import pytest

from postval_assets.core.failures import PostvalError, Rejected
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.alpaca_bars import AlpacaBars
from postval_assets.io.alpaca_keys import AlpacaKeys
from postval_assets_tests.io.alpaca_cases import FakeClock, ask, hourly, source_on
from postval_assets_tests.io.alpaca_server import KEY_ID, SECRET, AlpacaServer, Fault, _send

BARS = {"AAPL": hourly(5), "BTC/USD": hourly(5)}


def ask_for(source: AlpacaBars, asset_class: AssetClass) -> str:
    """Ask, and everything that an error would show of itself."""
    symbol = "BTCUSD" if asset_class is AssetClass.CRYPTO else "AAPL"
    try:
        answers = list(source.answer([ask(symbol)], Timeframe.HOUR_1, asset_class))
    except PostvalError as error:
        return f"{error} {error!r} {''.join(traceback.format_exception(error))}"
    return repr(answers)


@pytest.mark.parametrize("asset_class", list(AssetClass))
@pytest.mark.parametrize("fault", [None, *Fault])
def test_no_fault_brings_a_key_to_light(
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    fault: Fault | None,
    asset_class: AssetClass,
) -> None:
    caplog.set_level(logging.DEBUG)
    with AlpacaServer(BARS, faults=[fault] * 50) as server:
        source = source_on(server, timeout_s=0.1)
        shown = ask_for(source, asset_class) + repr(source) + str(source)
    sent = {(r.key_id, r.secret) for r in server.requests}
    assert sent == {(KEY_ID, SECRET)}, "the server did get them"
    out, err = capfd.readouterr()
    logged = "\n".join(f"{record.getMessage()} {record.args} {record.exc_text}" for record in caplog.records)
    assert logged, "there is something to look through"
    for secret in (KEY_ID, SECRET):
        assert secret not in shown + logged + caplog.text + out + err


def test_what_the_server_repeats_is_hidden_even_where_it_is_cut() -> None:
    class Talkative(AlpacaServer):
        def _page(self, request):
            return 403, {"message": "x" * 190 + str(request.secret)}

    with Talkative(BARS) as server, pytest.raises(Rejected) as caught:
        list(source_on(server).answer([ask("AAPL")], Timeframe.HOUR_1, AssetClass.EQUITY))
    assert "x" * 190 in str(caught.value)
    assert SECRET[:8] not in str(caught.value)


def test_a_key_that_the_server_writes_in_another_way_is_hidden_as_well() -> None:
    escaped = "".join(f"\\u{ord(c):04x}" for c in SECRET)

    class Escaping(AlpacaServer):
        def _answer(self, handler: BaseHTTPRequestHandler) -> None:
            _send(handler, 403, f'{{"message": "no: {escaped}"}}'.encode())

    with Escaping(BARS) as server, pytest.raises(Rejected, match=r"HTTP 403: no: \(secret\)") as caught:
        list(source_on(server).answer([ask("AAPL")], Timeframe.HOUR_1, AssetClass.EQUITY))
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("asset_class", list(AssetClass))
def test_without_keys_no_request_is_made(asset_class: AssetClass) -> None:
    def none() -> AlpacaKeys:
        raise Rejected("Alpaca keys are missing")

    with AlpacaServer(BARS) as server:
        source = AlpacaBars(url=server.url, keys=none, clock=FakeClock().clock)
        with pytest.raises(Rejected, match="keys are missing"):
            list(source.answer([ask("AAPL")], Timeframe.HOUR_1, asset_class))
        with pytest.raises(Rejected, match="keys are missing"):
            source.symbols()
    assert server.requests == []
