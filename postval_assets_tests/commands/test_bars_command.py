"""``postval bars``: loads, tops up and shows bars, also of symbols that no archive has; and looks that use them."""

from __future__ import annotations

from datetime import UTC, date, datetime, time, timedelta, tzinfo
from pathlib import Path

import pytest

from postval_assets.commands.home import open_instance
from postval_assets.defs.partitions import SYMBOL
from postval_assets_tests.commands.conftest import Command
from postval_assets_tests.commands.test_alpaca_command import alpaca
from postval_assets_tests.factories import make_checkpoint
from postval_assets_tests.io.alpaca_server import AlpacaServer

__all__ = ["alpaca"]  # a fixture


def table_of(out: str) -> dict[str, list[str]]:
    """Cells of each row by its symbol."""
    return {cells[0]: cells for line in out.splitlines()[2:] if (cells := line.split())}


def partitions(postval: Command) -> set[str]:
    with open_instance(postval.platform.settings) as instance:
        return set(instance.get_dynamic_partitions(SYMBOL))


def test_named_symbols_are_loaded_without_an_archive(postval: Command) -> None:
    done = postval("bars", "--symbols", "AAPL,BTC/USD")
    assert done.code == 0, done
    shown = table_of(done.out)
    [stored] = postval.rows(
        "SELECT count(*) AS n, min(ts) AS a, max(ts) AS b FROM bars WHERE symbol = 'AAPL'"
    )
    assert shown["AAPL"][1:3] == ["1Hour", str(stored["n"])]
    assert shown["AAPL"][3:5] == [f"{stored['a']:%Y-%m-%d}", f"{stored['a']:%H:%MZ}"]
    assert shown["AAPL"][5:] == [f"{stored['b']:%Y-%m-%d}", f"{stored['b']:%H:%MZ}", "sample", "OK"]
    assert shown["BTCUSD"][-1] == "OK"
    assert partitions(postval) == {"AAPL", "BTCUSD"}
    # Published, and all that are known the next time.
    assert "AAPL" in postval("sql", "SELECT DISTINCT symbol FROM bars").out
    assert set(table_of(postval("bars").out)) == {"AAPL", "BTCUSD"}


def test_a_symbol_without_bars_is_told_and_forgotten(postval: Command) -> None:
    done = postval("bars", "--symbols", "APPL,AAPL")
    assert done.code == 1
    assert "Error: no bars of APPL" in done.err
    assert table_of(done.out)["APPL"][2:6] == ["0", "-", "-", "sample"]
    assert "last load REJECTED: no 1Hour bars of APPL" in done.out
    assert partitions(postval) == {"AAPL"}, "it would be asked for every day"
    assert postval.rows("SELECT symbol FROM bar_loads") == [{"symbol": "AAPL"}]


def test_a_verdict_is_shown_with_the_first_thing_that_is_wrong(
    validated: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTVAL_QUALITY", '{"jumps": {"warn": 1, "error": 2}, "extended_hours": {"warn": 0}}')
    done = validated("bars", "--symbols", "AAPL")
    assert done.code == 0
    [line] = [line for line in done.out.splitlines() if line.startswith("AAPL")]
    assert "  ERROR  " in line
    assert "jumps: " in line
    told = [line for line in done.err.splitlines() if "AAPL is not evaluated until" in line]
    assert len(told) == 1
    assert "ERROR 1Hour jumps: " in told[0]


def test_what_is_refused(postval: Command) -> None:
    assert "no symbol is known yet: name some with --symbols" in postval.refused("bars")
    assert "A|B" in postval.refused("bars", "--symbols", "A|B")


def test_of_the_network_only_what_is_missing_is_fetched_and_looks_use_it(
    postval: Command, alpaca: AlpacaServer, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Noon(datetime):
        """Yesterday's: no bar becomes complete between one command and the next."""

        @classmethod
        def now(cls, tz: tzinfo | None = None) -> Noon:
            yesterday = datetime.now(UTC).date() - timedelta(days=1)
            return cls.combine(yesterday, time(12, 40), tzinfo=tz)

    monkeypatch.setattr("postval_assets.pipeline.platform.datetime", Noon)
    file = make_checkpoint(tmp_path / "AAPL_1Hour.pt")
    backtest = ("--bars", "alpaca", "backtest", "--model", str(file), "--days", "60")
    check = ("--bars", "alpaca", "features", "check", "reference-59", "--symbol", "AAPL")
    with alpaca:
        monkeypatch.setenv("POSTVAL_ALPACA_URL", alpaca.url)
        monkeypatch.setenv("POSTVAL_HISTORY_DAYS", "300")
        # Nothing is stored yet: as much is asked for as is needed, and never more than history_days.
        before = postval(*backtest)
        assert before.code == 0, before
        assert len(alpaca.requests) == 1
        assert not (postval.data_dir / "warehouse").exists(), "nothing is stored"
        assert postval(*check).code == 0
        days = [(r.params["start"][:10], r.params["end"][:10]) for r in alpaca.requests]
        assert 60 < span(*days[0]) < 200
        assert span(*days[1]) == 300

        del alpaca.requests[:]
        assert postval("--bars", "alpaca", "bars", "--symbols", "AAPL").code == 0
        assert alpaca.requests
        del alpaca.requests[:]
        again = postval("--bars", "alpaca", "bars")
        assert (again.code, table_of(again.out)["AAPL"][7]) == (0, "alpaca")
        after = postval(*backtest)
        assert after.out == before.out
        assert postval(*check).code == 0
        assert alpaca.requests == [], "stored bars do"
        monkeypatch.setenv("POSTVAL_HISTORY_DAYS", "400")
        assert postval(*check).code == 0
        assert len(alpaca.requests) == 1, "earlier days are not stored"


def span(start: str, end: str) -> int:
    """Days between two dates."""
    return (date.fromisoformat(end) - date.fromisoformat(start)).days
