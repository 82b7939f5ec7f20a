"""``postval watch``: a table of the models that went LIVE, or a line that says that there is none."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest

from postval_assets.io.warehouse import Append
from postval_assets.report.watch import NOTHING_LIVE, state, watch_text
from postval_assets_tests.commands.conftest import Command

SINCE = datetime(2025, 1, 3, tzinfo=UTC)
ROW: dict[str, Any] = {
    "archive_id": "20250101_000000",
    "symbol": "AAPL",
    "timeframe": "1Hour",
    "plan": "180d",
    "as_of": SINCE,
    "is_live": True,
    "watched_until": datetime(2025, 3, 1, 12, tzinfo=UTC),
    "n_returns": 412,
    "sharpe_reference": 1.9,
    "sharpe_observed": 2.351,
    "return_since": 0.0312,
    "statistic": -0.0101,
    "boundary": 0.0456,
    "alarm": False,
    "alarm_ts": None,
    "status": "WATCHED",
    "reason": "since 2025-01-03 ...",
}
LOST = {
    **ROW,
    "symbol": "NVDA",
    "alarm": True,
    "alarm_ts": datetime(2025, 2, 10, tzinfo=UTC),
    "reason": "gone",
}
EMPTY = dict.fromkeys(("watched_until", "n_returns", "sharpe_reference", "sharpe_observed"), None)
NEW = {
    **ROW,
    **EMPTY,
    "return_since": None,
    "statistic": None,
    "boundary": None,
    "status": None,
    "reason": None,
}


def test_a_line_for_each_and_words_for_what_is_not_as_it_should_be() -> None:
    text = watch_text([ROW, LOST, NEW])
    table, _, words = text.partition("\n\n")
    head, _, *lines = [line.split("  ") for line in table.splitlines()]
    assert "shortfall" in " ".join(head)
    cells = [[c.strip() for c in line if c.strip()] for line in lines]
    assert cells[0] == [
        *("AAPL", "1Hour", "180d", "20250101_000000", "2025-01-03 00:00Z", "2025-03-01 12:00Z", "412"),
        *("1.90", "2.35", "+3.12%", "-1.01%", "4.56%", "holds"),
    ]
    assert cells[1][5] == "2025-02-10 00:00Z"
    assert cells[1][-1] == "EDGE LOST"
    assert cells[2][5:] == ["-", "-", "-", "-", "-", "-", "-", "not looked at yet"]
    assert words == "NVDA 1Hour 180d: gone"


def test_names_out_of_archives_do_not_steer_the_terminal() -> None:
    text = watch_text([{**LOST, "reason": "a\x1b[2Jb"}])
    assert "\x1b" not in text


@pytest.mark.parametrize(
    ("status", "word"), [("TOO_EARLY", "too early"), ("NOT_WATCHED", "NOT WATCHED"), ("WATCHED", "holds")]
)
def test_states(status: str, word: str) -> None:
    assert state({**ROW, "status": status}) == word


def test_a_data_directory_without_anything_is_refused(postval: Command) -> None:
    assert "nothing was decided in this data directory" in postval.refused("watch")


def test_without_a_live_model_it_says_so(validated: Command) -> None:
    done = validated("watch")
    assert (done.code, done.out.strip()) == (0, NOTHING_LIVE)
    assert "nonsense!" in validated.refused("watch", "--symbols", "nonsense!")


def test_a_live_model_is_looked_at_and_decided_again(validated: Command) -> None:
    [row] = validated.rows(
        "SELECT archive_id, symbol, timeframe, plan, as_of FROM deployment_decisions WHERE symbol = 'AAPL' LIMIT 1"
    )
    # Of a policy that this code does not have: the decisions that follow leave it as it is.
    live = {**row, "policy": "planted", "decision": "LIVE", "reasons": ["PLANTED"], "decision_id": "0" * 12}
    platform = validated.platform
    platform.warehouse.write([Append("deployment_decisions", [live])], run_id="test", now=platform.now())
    assert validated("watch", "--symbols", "MSFT").out.strip() == NOTHING_LIVE
    assert validated.rows("SELECT * FROM deployment_watches") == []
    done = validated("watch", "--symbols", "AAPL,MSFT")
    assert done.code == 0, done
    [found] = validated.rows("SELECT * FROM deployment_watches")
    assert (found["symbol"], found["plan"], found["as_of"]) == ("AAPL", row["plan"], row["as_of"])
    assert found["n_returns"] == 0, "no bar is newer than its evaluation"
    assert "AAPL" in done.out
    assert found["reason"] in done.out
    [run] = validated.rows("SELECT DISTINCT run_id FROM deployment_watches")
    assert run["run_id"] == found["run_id"]
