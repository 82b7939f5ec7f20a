"""Claims against training bars: figures of a walk-forward there, the flag, and what is in the way."""

from __future__ import annotations

import dataclasses
import itertools
import re
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pytest

from postval_assets.core.failures import Unavailable
from postval_assets.io.warehouse import Update
from postval_assets.pipeline.gate import gate_models
from postval_assets.pipeline.instants import model_key
from postval_assets.pipeline.notes import claim_notes
from postval_assets.pipeline.platform import StageReport
from postval_assets.pipeline.reading import archive_results
from postval_assets.pipeline.recorded_decisions import counting_decisions
from postval_assets.pipeline.replaying import Outcome, replay
from postval_assets.pipeline.reproducing import reproduce_claims
from postval_assets_tests.core.plain_metrics import plain_max_drawdown, plain_sharpe
from postval_assets_tests.factories import claims, good_claims, make_policy, make_summary
from postval_assets_tests.pipeline.conftest import (
    BUY,
    HOLD,
    N_BARS,
    WINDOW,
    Bench,
    MakeBench,
    bars_frame,
    network,
)

ARCHIVE = "20250201_000000"
HOUR_4 = timedelta(hours=4)
# Opens of the first and last training bar, a month before the bars end.
TRAINED = ("2022-01-01T00:00:00Z", "2024-12-31T20:00:00Z")
TRAINED_UNTIL = datetime(2025, 1, 1, tzinfo=UTC)
# Trades often, and loses its costs.
LOSER = network(seed=2)
WITH_TRAINING = N_BARS + 31 * 6
FLAG = "CLAIM_NOT_REPRODUCED"


def taken_in(
    bench: Bench, models: dict[str, Any], *, train: Any = TRAINED, n: int = WITH_TRAINING, **by_symbol: Any
) -> dict[str, str]:
    """An archive taken in, with the same noise for each symbol's bars; claims are good ones unless given by symbol."""
    named = {f"{symbol}_4Hour": model for symbol, model in models.items()}
    summary = make_summary(
        {f"{symbol}_4Hour": by_symbol.get(symbol, good_claims()) for symbol in models},
        timestamp=ARCHIVE,
        train=train,
    )
    archives = bench.intake(bench.deliver(bench.archive(named, summary=summary)))
    for symbol in models:
        bench.put_bars(symbol, n=n)
    bench.load(list(archives))
    return archives


def reproduced(bench: Bench, archives: dict[str, str]) -> StageReport:
    return reproduce_claims(bench.platform, archives, run_id=bench.run_id("claims"))


def row(bench: Bench, symbol: str) -> dict[str, Any]:
    return bench.one("SELECT * FROM claim_reproductions WHERE symbol = ?", symbol)


def flags(bench: Bench, symbol: str) -> list[str]:
    return list(bench.one("SELECT flags FROM gating_scores WHERE symbol = ?", symbol)["flags"])


@pytest.fixture(scope="module")
def compared(tmp_path_factory: pytest.TempPathFactory, make_bench: MakeBench) -> Bench:
    """Random networks, which lose their costs: one that boasts, one that says about what it does, one of no trade."""
    bench = make_bench(tmp_path_factory.mktemp("compared"), include_dropped=True)
    models = {"LOUDUSD": LOSER, "PLAINUSD": LOSER, "IDLEUSD": network(HOLD)}
    archives = taken_in(bench, models, PLAINUSD=claims(0.3, 0.7, 0.2, 0.1))
    report = reproduced(bench, archives)
    assert {s.symbol: (s.n_rows, s.n_current, len(s.problems)) for s in report.symbols} == {
        "LOUDUSD": (1, 0, 1),
        "PLAINUSD": (1, 0, 0),
        "IDLEUSD": (1, 0, 1),
    }
    return bench


def test_the_boast_disagrees_and_the_same_network_with_honest_claims_does_not(compared: Bench) -> None:
    loud, plain = row(compared, "LOUDUSD"), row(compared, "PLAINUSD")
    assert (loud["status"], plain["status"]) == ("DISAGREES", "REPRODUCED")
    assert plain["reason"] is None
    measured = [n for n in loud if n.startswith("reproduced_") and n != "reproduced_profit_factor_high"]
    assert {n: loud[n] for n in measured} == {n: plain[n] for n in measured}
    given = {n: loud[f"claimed_{n}"] for n in ("fitness", "profit_factor", "consistency", "max_drawdown")}
    assert given == {"fitness": 0.8, "profit_factor": 2.1, "consistency": 0.92, "max_drawdown": 0.05}
    assert loud["reason"].startswith(
        f"profit factor 2.10 claimed, {loud['reproduced_profit_factor']:.2f} reproduced"
    )
    assert f"over 180 days to 2025-01-01 ({loud['n_trades']} round trips)" in loud["reason"]
    idle = row(compared, "IDLEUSD")
    assert (idle["status"], idle["n_trades"], idle["reproduced_profit_factor"]) == ("DISAGREES", 0, None)
    assert idle["reason"].endswith("none reproduced: no round trip in 180 days to 2025-01-01")


def test_figures_are_those_of_a_walk_forward_that_ends_with_training(compared: Bench) -> None:
    """The same blocks, as the other stage trades and stores them; put together here by plain sums."""
    found = row(compared, "LOUDUSD")
    compared.evaluate({"LOUDUSD": ARCHIVE}, as_of=TRAINED_UNTIL)
    folds = compared.folds("LOUDUSD")
    assert {(f["as_of"], f["training_overlap"]) for f in folds} == {(TRAINED_UNTIL, "IN_TRAIN")}
    assert (found["start_ts"], found["end_ts"]) == (folds[0]["start_ts"], folds[-1]["end_ts"])
    assert (found["n_blocks"], found["n_bars"]) == (5, sum(f["n_bars"] for f in folds)) == (5, 1080)
    pnl = [t["pnl"] for t in compared.rows("SELECT pnl FROM trades WHERE symbol = 'LOUDUSD'")]
    assert found["n_trades"] == len(pnl) >= 10
    profit, loss = sum(p for p in pnl if p > 0), -sum(p for p in pnl if p < 0)
    assert found["reproduced_profit_factor"] == pytest.approx(profit / loss)
    assert found["reproduced_profit_factor_high"] > found["reproduced_profit_factor"]
    assert found["reproduced_consistency"] == sum(f["total_return"] > 0 for f in folds) / 5
    assert found["reproduced_return"] == pytest.approx(np.prod([1 + f["total_return"] for f in folds]) - 1)
    walk, returns, value = [1.0], [], 1.0
    for fold in (1, 2, 3, 4, 5):
        where = "symbol = 'LOUDUSD' AND fold = ? ORDER BY ts"
        curve = [p["equity"] for p in compared.rows(f"SELECT equity FROM equity_curves WHERE {where}", fold)]  # noqa: S608
        walk += [value * e / 100_000.0 for e in curve]
        returns += [b / a - 1 for a, b in itertools.pairwise(curve)]
        value = walk[-1]
    assert found["reproduced_max_drawdown"] == pytest.approx(plain_max_drawdown(walk))
    assert found["reproduced_sharpe"] == pytest.approx(plain_sharpe(returns, 6 * 365.25))


def test_the_flag_stands_last_on_the_gate_changes_no_class_and_stays_when_the_gate_is_run_again(
    compared: Bench,
) -> None:
    assert flags(compared, "LOUDUSD") == flags(compared, "IDLEUSD") == [FLAG]
    assert FLAG not in flags(compared, "PLAINUSD")
    columns = "symbol, classification, reason, claims_digest, thresholds_digest, inputs_digest, flags"
    before = compared.rows(f"SELECT {columns} FROM gating_scores ORDER BY symbol")  # noqa: S608
    assert [r["classification"] for r in before] == ["APPROVED", "APPROVED", "DROP"]
    gate_models(compared.platform, dict.fromkeys(("LOUDUSD", "PLAINUSD", "IDLEUSD"), ARCHIVE), run_id="again")
    assert compared.rows(f"SELECT {columns} FROM gating_scores ORDER BY symbol") == before  # noqa: S608


def test_people_are_told_with_both_numbers(compared: Bench) -> None:
    archives = dict.fromkeys(("LOUDUSD", "PLAINUSD", "IDLEUSD"), ARCHIVE)
    notes = claim_notes(compared.platform, archives)
    assert set(notes) == {(ARCHIVE, symbol, "4Hour") for symbol in ("LOUDUSD", "IDLEUSD")}
    assert notes[ARCHIVE, "LOUDUSD", "4Hour"] == f"{FLAG}: {row(compared, 'LOUDUSD')['reason']}"
    assert set(claim_notes(compared.platform, {"PLAINUSD": ARCHIVE})) == set()
    gating = {r["symbol"]: r for r in archive_results(compared.platform, ARCHIVE).gating}
    assert gating["LOUDUSD"]["claim_reason"] == row(compared, "LOUDUSD")["reason"]
    assert (gating["PLAINUSD"]["claim_status"], gating["PLAINUSD"]["claim_reason"]) == ("REPRODUCED", None)


# --- again --------------------------------------------------------------------------------------------------


def test_what_is_current_is_left_as_it_is_and_what_changed_is_compared_again(bench: Bench) -> None:
    archives = taken_in(bench, {"AAAUSD": LOSER, "BBBUSD": LOSER})
    reproduced(bench, archives)
    before = bench.rows("SELECT * FROM claim_reproductions ORDER BY symbol")
    assert [s.n_current for s in reproduced(bench, archives).symbols] == [1, 1]
    assert bench.rows("SELECT * FROM claim_reproductions ORDER BY symbol") == before
    # Bars after the training window are none of its.
    frame = bars_frame(n=WITH_TRAINING)
    frame.loc[frame.index[-5], "volume"] = 7.0
    bench.put_bars("AAAUSD", frame)
    bench.load(["AAAUSD"])
    assert [s.n_current for s in reproduced(bench, archives).symbols] == [1, 1]
    frame.loc[frame.index[-400], "volume"] = 7.0
    bench.put_bars("AAAUSD", frame)
    bench.load(["AAAUSD"])
    assert [s.n_current for s in reproduced(bench, archives).symbols] == [0, 1]
    after = bench.rows("SELECT * FROM claim_reproductions ORDER BY symbol")
    assert after[0]["bars_digest"] != before[0]["bars_digest"]
    assert after[1] == before[1]
    assert [s.n_current for s in reproduced(bench.configured(slippage_bps=6.0), archives).symbols] == [0, 0]
    assert [
        s.n_current for s in reproduced(bench.configured(thresholds_version="v4.1.0"), archives).symbols
    ] == [0, 0]


def test_the_flag_goes_with_its_reason(bench: Bench) -> None:
    archives = taken_in(bench, {"AAAUSD": LOSER})
    reproduced(bench, archives)
    assert flags(bench, "AAAUSD") == [FLAG]
    # Whatever took it off, an unchanged disagreement puts it back.
    keys = {"archive_id": ARCHIVE, "symbol": "AAAUSD"}
    bench.platform.warehouse.write(
        [Update("gating_scores", keys, {"flags": []})], run_id="x", now=bench.clock()
    )
    assert reproduced(bench, archives).symbols[0].n_current == 1
    assert flags(bench, "AAAUSD") == [FLAG]
    frame = bars_frame(n=WITH_TRAINING)
    frame.loc[frame.index[-400], "close"] = 0.0
    bench.put_bars("AAAUSD", frame)
    bench.load(["AAAUSD"])
    reproduced(bench, archives)
    assert (row(bench, "AAAUSD")["status"], flags(bench, "AAAUSD")) == ("NOT_REPRODUCIBLE", [])
    assert "INVALID_BARS" in row(bench, "AAAUSD")["reason"]
    assert reproduced(bench, archives).symbols[0].n_current == 1
    gate_models(bench.platform, archives, run_id="again")
    assert flags(bench, "AAAUSD") == []


def test_the_gate_drops_a_flag_that_is_about_other_weights(bench: Bench) -> None:
    archives = taken_in(bench, {"AAAUSD": LOSER})
    reproduced(bench, archives)
    keys = {"archive_id": ARCHIVE, "symbol": "AAAUSD"}
    change = Update("claim_reproductions", keys, {"model_sha256": "others"})
    bench.platform.warehouse.write([change], run_id="x", now=bench.clock())
    gate_models(bench.platform, archives, run_id="again")
    assert flags(bench, "AAAUSD") == []
    assert claim_notes(bench.platform, archives) == {}
    assert archive_results(bench.platform, ARCHIVE).gating[0]["claim_reason"] is None


def test_decisions_say_it_and_are_what_they_were(bench: Bench) -> None:
    archives = taken_in(bench, {"AAAUSD": LOSER, "BUYSUSD": network(BUY)})
    bench.evaluate(archives)
    bench.decide(archives)
    reproduced(bench, archives)
    assert flags(bench, "AAAUSD") == [FLAG]
    before = bench.decisions("AAAUSD")[-1]
    made = {s.symbol: s.n_rows - s.n_current for s in bench.decide(archives).symbols}
    assert made == {"AAAUSD": 2, "BUYSUSD": 0}, "one of each policy, with the note"
    after = bench.decisions("AAAUSD")[-1]
    assert after["decision"] == before["decision"]
    assert after["reasons"] == [*before["reasons"], claim_notes(bench.platform, archives)[model_key(after)]]
    found = list(replay(bench.platform, counting_decisions(bench.platform)))
    assert len(found) >= 2
    assert {(f.outcome, f.inputs, f.figures) for f in found} == {(Outcome.SAME, (), ())}


# --- what is in the way -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"train": None}, "the training window is unknown"),
        (
            {"train": ("2022-01-01T00:00:00Z", "2024-06-01T00:00:00Z")},
            "no complete 4Hour bar by 2024-06-01T04:00",
        ),
        ({"n": N_BARS}, ""),
        ({"n": 31 * 6 + 300}, r"153 stored bars of the training window to 2025-01-01 .* 250 are needed"),
    ],
)
def test_without_known_or_stored_training_bars_nothing_is_flagged(
    bench: Bench, given: dict[str, Any], why: str
) -> None:
    archives = taken_in(bench, {"AAAUSD": LOSER}, **given)
    report = reproduced(bench, archives)
    found = row(bench, "AAAUSD")
    if not why:
        days = (found["end_ts"] + HOUR_4 - found["start_ts"]).days
        assert (found["status"], days) == ("DISAGREES", 155), (
            "a shorter stored history is compared over what it has"
        )
        return
    assert (report.symbols[0].n_rows, report.symbols[0].problems, flags(bench, "AAAUSD")) == (1, (), [])
    assert found["status"] == "NOT_REPRODUCIBLE"
    assert found["claimed_profit_factor"] == 2.1
    assert found["reproduced_profit_factor"] is None
    assert re.search(why, found["reason"])
    assert reproduced(bench, archives).symbols[0].n_current == 1


def test_what_was_refused_for_another_reason_is_tried_anew(bench: Bench) -> None:
    archives = taken_in(bench, {"AAAUSD": LOSER})
    without = dataclasses.replace(bench.platform, feature_sets={})
    reproduce_claims(without, archives, run_id="without")
    assert "no longer registered" in row(bench, "AAAUSD")["reason"]
    assert reproduced(bench, archives).symbols[0].n_current == 0
    assert row(bench, "AAAUSD")["status"] == "DISAGREES"


def test_bars_that_are_not_sound_are_not_compared_with(bench: Bench) -> None:
    archives = taken_in(bench, {"AAAUSD": LOSER})
    strict = bench.configured(quality={"zero_volume": {"warn": 0.0, "error": 0.0}})
    frame = bars_frame(n=WITH_TRAINING)
    frame.loc[frame.index[-400], "volume"] = 0.0
    strict.put_bars("AAAUSD", frame)
    strict.load(["AAAUSD"])
    strict.check(["AAAUSD"])
    reproduced(strict, archives)
    assert "BAR_QUALITY: ERROR" in row(bench, "AAAUSD")["reason"]


def test_only_what_the_gate_lets_through_is_compared(bench: Bench) -> None:
    archives = taken_in(bench, {"AAAUSD": LOSER, "BADUSD": LOSER}, BADUSD=claims(0.2, 0.9, 0.2, 0.3))
    assert {s.symbol: s.n_rows for s in reproduced(bench, archives).symbols} == {"AAAUSD": 1, "BADUSD": 0}
    every = reproduced(bench.configured(include_dropped=True), archives)
    assert {s.symbol: s.n_rows for s in every.symbols} == {"AAAUSD": 1, "BADUSD": 1}


def test_claims_that_cannot_be_judged_are_not_compared(bench: Bench) -> None:
    broken = {**good_claims(), "consistency": [85.0] * 10}
    every = bench.configured(include_dropped=True)
    archives = taken_in(every, {"AAAUSD": LOSER}, AAAUSD=broken)
    reproduced(every, archives)
    found = row(bench, "AAAUSD")
    assert (found["status"], found["claimed_fitness"], flags(bench, "AAAUSD")) == (
        "NOT_REPRODUCIBLE",
        None,
        [],
    )
    assert "the claims cannot be judged" in found["reason"]


def test_a_bad_neighbour_costs_nobody_else(bench: Bench) -> None:
    state = make_policy(version="2.7.0", window=WINDOW)
    for name, weights in state.items():
        if name.endswith("weight"):
            weights[:] = 3e37
    loud = {**network(), "overrides": {**network()["overrides"], "policy_state_dict": state}}
    archives = taken_in(bench, {"AAAUSD": LOSER, "NANUSD": loud, "LOSTUSD": network(seed=4), "ZZZUSD": LOSER})
    lost = bench.one("SELECT model_sha256 AS sha FROM extracted_models WHERE symbol = 'LOSTUSD'")["sha"]
    archive = bench.one("SELECT sha256 FROM training_archives")["sha256"]
    bench.platform.models.path_of(lost).unlink()
    bench.platform.archives.path_of(archive).unlink()
    with pytest.raises(Unavailable, match=r"1 model\(s\) could not be compared: LOSTUSD 4Hour"):
        reproduced(bench, archives)
    found = {r["symbol"]: r for r in bench.rows("SELECT * FROM claim_reproductions")}
    assert set(found) == {"AAAUSD", "NANUSD", "ZZZUSD"}
    assert found["NANUSD"]["status"] == "NOT_REPRODUCIBLE"
    assert "BROKEN_POLICY" in found["NANUSD"]["reason"]
    assert found["AAAUSD"]["status"] == found["ZZZUSD"]["status"] == "DISAGREES"
    assert flags(bench, "AAAUSD") == [FLAG]
