"""``postval doctor`` on bars: whether the source answers, and what is wrong with what is stored."""

from __future__ import annotations

import pytest

from postval_assets.commands.finding import Finding, Severity
from postval_assets.io.warehouse import Append, Update
from postval_assets_tests.commands.conftest import Command
from postval_assets_tests.commands.test_doctor import findings
from postval_assets_tests.io.alpaca_server import KEY_ID, SECRET, AlpacaServer, Fault

DAY = {"t": "2024-01-02T05:00:00Z", "o": 1.0, "h": 1.0, "l": 1.0, "c": 1.0, "v": 1, "n": 1, "vw": 1.0}


def asked(
    postval: Command,
    monkeypatch: pytest.MonkeyPatch,
    *faults: Fault,
    keys: tuple[str, str] = (KEY_ID, SECRET),
    **settings: object,
) -> tuple[Finding, AlpacaServer]:
    """What the doctor says of a server that knows these keys, and the server."""
    monkeypatch.setenv("APCA_API_KEY_ID", KEY_ID)
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
    with AlpacaServer({"AAPL": [DAY]}, faults=faults, keys=keys) as server:
        found = findings(postval, bars_source="alpaca", alpaca_url=server.url, **settings)
    return found["alpaca"][0], server


def test_alpaca_is_asked_once_for_one_bar(postval: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found, server = asked(postval, monkeypatch, alpaca_feed="iex")
    assert (found.severity, found.found) == (Severity.OK, "reachable: it answers, and takes the keys")
    [request] = server.requests
    assert request.symbols == ("AAPL",)
    assert (request.params["timeframe"], request.params["feed"]) == ("1Day", "iex")
    assert not postval.data_dir.exists(), "looking changes nothing"


@pytest.mark.parametrize("fault", [Fault.ERROR_500, Fault.RATE_LIMIT, Fault.CUT, Fault.HANG])
def test_alpaca_that_does_not_answer_is_not_asked_again(
    postval: Command, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    found, server = asked(postval, monkeypatch, fault, alpaca_timeout_s=0.3)
    assert found.severity is Severity.ERROR
    assert found.found.startswith("not reachable: Alpaca (127.0.0.1:")
    assert len(server.requests) == 1


def test_wrong_keys_are_told_as_such_and_not_shown(postval: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    found, server = asked(postval, monkeypatch, keys=("PKOTHER", "other"))
    assert found.severity is Severity.ERROR
    assert "refuses the keys (HTTP 403: forbidden.): check APCA_API_KEY_ID" in found.found
    assert len(server.requests) == 1
    assert KEY_ID not in f"{found}"
    assert SECRET not in f"{found}"


def test_without_keys_nobody_is_asked(postval: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY", "ALPACA_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)
    with AlpacaServer({}) as server:
        found = findings(postval, bars_source="alpaca", alpaca_url=server.url)
    [source] = found["source of bars"]
    assert (source.severity, server.requests) == (Severity.ERROR, [])
    assert source.found.startswith("Alpaca keys are missing")
    assert "alpaca" not in found


def test_bad_bars_are_told_with_what_follows(validated: Command) -> None:
    assert "bar quality" not in findings(validated)

    def judge(symbol: str, check: str, severity: str) -> None:
        change = Update("bar_quality", {"symbol": symbol, "check_name": check}, {"severity": severity})
        validated.platform.warehouse.write([change], run_id="test", now=validated.platform.now())

    judge("MSFT", "gaps", "WARN")
    [warned] = findings(validated)["bar quality"]
    assert (warned.severity, warned.found, warned.mend) == (Severity.OK, "WARN: 1 symbol(s)", None)
    judge("AAPL", "gaps", "ERROR")
    judge("AAPL", "jumps", "ERROR")
    judge("NVDA", "stale", "ERROR")
    [told] = findings(validated)["bar quality"]
    assert told.severity is Severity.NOTE
    assert told.found == (
        "ERROR, so not evaluated: AAPL (1Hour gaps, 1Hour jumps); ERROR: NVDA (stale); WARN: 1 symbol(s)"
    )
    assert told.mend is not None
    assert validated("doctor").code == 0, "bad bars of one symbol are no fault of the installation"


def test_refused_loads_are_told_with_their_reason(validated: Command) -> None:
    assert "bars refused" not in findings(validated)
    key = {"symbol": "AAPL", "timeframe": "1Hour"}
    refused = Update("bar_loads", key, {"status": "REJECTED", "reason": "2 columns are missing"})
    more = [
        {"symbol": f"S{n}", "timeframe": "1Hour", "source": "csv", "status": "REJECTED", "reason": "no file"}
        for n in range(6)
    ]
    validated.platform.warehouse.write(
        [refused, Append("bar_loads", more)], run_id="test", now=validated.platform.now()
    )
    told = findings(validated)["bars refused"]
    assert told[0].found == "AAPL 1Hour from sample: 2 columns are missing"
    assert told[0].mend == "mend it, then postval bars --symbols AAPL"
    assert [f.found for f in told[5:]] == ["and 2 more series"]
    assert {f.severity for f in told} == {Severity.NOTE}
