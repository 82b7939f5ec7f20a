"""The verdict on bars in Dagster: one for each symbol and one over all, and a run that goes on beside it."""

from __future__ import annotations

from pathlib import Path

import dagster as dg

from postval_assets.core.bar_quality import Check
from postval_assets.settings_tables import QualityTable
from postval_assets_tests.defs.conftest import Home, archive_of, step_failures

# The sample's BTCUSD has a step of 14.6 sd among its recent bars, AAPL none above 12.5.
STRICT = {Check.JUMPS: QualityTable(warn=12.0, error=13.0)}


def verdicts(done: dg.ExecuteInProcessResult) -> dict[str | None, dg.AssetCheckEvaluation]:
    found = [e.event_specific_data for e in done.all_events if e.event_type_value == "ASSET_CHECK_EVALUATION"]
    checks = [c for c in found if isinstance(c, dg.AssetCheckEvaluation) and c.check_name == "bars_are_sound"]
    return {c.partition: c for c in checks}


def test_an_error_is_shown_and_stops_its_symbol_only(home: Home, tmp_path: Path) -> None:
    taken, _ = home.take(archive_of(tmp_path / "made", "20250301_180000", ["AAPL", "BTCUSD", "MSFT"]))
    (request,) = taken.run_requests or ()
    done = home.run("archive_job", request.tags, quality=STRICT)
    assert done.success, step_failures(done)
    found = verdicts(done)
    assert {symbol: (c.passed, c.severity.value) for symbol, c in found.items()} == {
        "AAPL": (False, "WARN"),
        "MSFT": (False, "WARN"),
        "BTCUSD": (False, "ERROR"),
        None: (False, "ERROR"),
    }
    assert [symbol for symbol in found if symbol][-1] == "BTCUSD", "the web page shows the last one"
    assert "ERROR: 1Hour jumps: 14.6 sd at 2024-09-26 13:00" in (found["BTCUSD"].description or "")
    assert "| 1Hour | jumps (sd) | ERROR | 14.62 | 14.62 | 12 | 13 |" in str(
        found["BTCUSD"].metadata["checks"].value
    )
    overall = found[None]
    assert (overall.description or "").startswith("BTCUSD ERROR: ")
    assert overall.metadata["symbols with an ERROR"].value == "BTCUSD"
    assert overall.metadata["symbols with a WARN"].value == "AAPL, MSFT"
    statuses = {
        r["symbol"]: r["statuses"]
        for r in home.rows(
            "SELECT symbol, list(DISTINCT status) AS statuses FROM fold_results GROUP BY symbol"
        )
    }
    assert statuses["BTCUSD"] == ["NOT_EVALUATED"]
    assert not {"NOT_EVALUATED"} & set(statuses["AAPL"])
    decided = {r["symbol"]: r["reasons"] for r in home.rows("SELECT symbol, reasons FROM latest_decisions")}
    assert any(
        r.startswith("NO_EVIDENCE: NOT_EVALUATED, BAR_QUALITY: ERROR: jumps") for r in decided["BTCUSD"]
    )
    assert "BAR_QUALITY: jumps 12.5 sd" in decided["AAPL"]


def test_the_sample_is_sound_and_adds_no_reason(decided: Home) -> None:
    rows = decided.rows("SELECT DISTINCT symbol, severity FROM bar_quality ORDER BY symbol")
    assert rows == [{"symbol": s, "severity": "OK"} for s in ("AAPL", "MSFT", "NVDA")]
    reasons = [r for d in decided.rows("SELECT reasons FROM deployment_decisions") for r in d["reasons"]]
    assert reasons
    assert not any("BAR_QUALITY" in r for r in reasons)
