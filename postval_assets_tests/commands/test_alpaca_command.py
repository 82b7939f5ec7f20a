"""``postval --bars alpaca``: a whole run over the network's bars, and that the keys stay out of all that it leaves."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest

from postval_assets_tests.commands.conftest import Command
from postval_assets_tests.io.alpaca_server import KEY_ID, SECRET, AlpacaServer, Bar

_WRONG = "wRoNgWrOnGwRoNgWrOnG"


def _sessions(symbol: str) -> list[Bar]:
    """Bars of New York's mornings and afternoons until yesterday, a random walk of its own for each symbol."""
    noise = np.random.default_rng(sum(map(ord, symbol)))
    today = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    days = [today - timedelta(days=n) for n in range(420, 0, -1)]
    times = [day + timedelta(hours=h) for day in days if day.weekday() < 5 for h in range(13, 21)]
    closes = 100 * np.exp(np.cumsum(noise.normal(0, 0.004, len(times))))
    opens = np.append(100.0, closes[:-1] * np.exp(noise.normal(0, 0.0005, len(times) - 1)))
    return [
        {
            "t": f"{t:%Y-%m-%dT%H:%M:%SZ}",
            "o": o,
            "h": max(o, c) * 1.001,
            "l": min(o, c) * 0.999,
            "c": c,
            "v": 1000,
            "n": 9,
            "vw": c,
        }
        for t, o, c in zip(times, opens.tolist(), closes.tolist(), strict=True)
    ]


@pytest.fixture
def alpaca(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> AlpacaServer:
    """A server that knows one pair of keys, and an environment that has them."""
    monkeypatch.setenv("APCA_API_KEY_ID", KEY_ID)
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRET)
    monkeypatch.delenv("ALPACA_KEYS_FILE", raising=False)
    return AlpacaServer({s: _sessions(s) for s in ("AAPL", "MSFT", "NVDA")}, keys=(KEY_ID, SECRET))


def test_an_archive_is_validated_on_alpaca_s_bars_and_no_key_stays_behind(
    postval: Command, made_archive: Path, alpaca: AlpacaServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    with alpaca:
        monkeypatch.setenv("POSTVAL_ALPACA_URL", alpaca.url)
        done = postval("--bars", "alpaca", "validate", str(made_archive))
        n_requests = len(alpaca.requests)
        monkeypatch.setenv("APCA_API_SECRET_KEY", _WRONG)
        monkeypatch.setenv("POSTVAL_HISTORY_DAYS", "5000")  # so that there is something to ask for
        refused = postval("--bars", "alpaca", "validate", str(made_archive))
    assert done.code == 0, done
    assert n_requests > 0
    assert postval.rows("SELECT DISTINCT symbol, source FROM bars ORDER BY symbol") == [
        {"symbol": symbol, "source": "alpaca"} for symbol in ("AAPL", "MSFT", "NVDA")
    ]
    assert postval.rows("SELECT count(*) AS n FROM fold_results WHERE status = 'OK'")[0]["n"] > 0
    assert refused.code == 1
    assert "refuses the keys (HTTP 403: forbidden.)" in refused.err + refused.out

    shown = done.out + done.err + refused.out + refused.err
    left = [(path, path.read_bytes()) for path in postval.data_dir.rglob("*") if path.is_file()]
    assert any(b"refuses the keys" in content for _, content in left), "the events hold the failure"
    for secret in (KEY_ID, SECRET, _WRONG):
        assert secret not in shown
        assert [path for path, content in left if secret.encode() in content] == []
        # DuckDB compresses text, so its tables are read.
        for row in postval.rows("SELECT table_name FROM duckdb_tables() WHERE NOT internal"):
            table = row["table_name"]
            found = postval.rows(f'SELECT * FROM "{table}" AS t WHERE contains(t::TEXT, ?)', secret)  # noqa: S608
            assert found == [], table


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ("APCA_API_SECRET_KEY", "APCA_API_KEY_ID is set but APCA_API_SECRET_KEY is not"),
        ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY is set but APCA_API_KEY_ID is not"),
    ],
)
def test_half_a_pair_of_keys_stops_before_anything_is_done(
    postval: Command,
    made_archive: Path,
    alpaca: AlpacaServer,
    monkeypatch: pytest.MonkeyPatch,
    variable: str,
    said: str,
) -> None:
    with alpaca:
        monkeypatch.setenv("POSTVAL_ALPACA_URL", alpaca.url)
        monkeypatch.delenv(variable)
        assert said in postval.refused("--bars", "alpaca", "validate", str(made_archive))
    assert alpaca.requests == []


@pytest.mark.parametrize(
    "command",
    [
        ("train", "--symbols", "all", "--out", "made"),
        ("features", "check", "reference-53"),
    ],
)
def test_alpaca_s_symbols_have_to_be_named(
    postval: Command, alpaca: AlpacaServer, command: tuple[str, ...]
) -> None:
    assert "bars source alpaca does not list its symbols" in postval.refused("--bars", "alpaca", *command)
