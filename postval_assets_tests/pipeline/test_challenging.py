"""Two archives of the same symbols through the real stages: who is compared with whom, and what stays."""

from __future__ import annotations

import numpy as np
import pytest

from postval_assets.io.warehouse import Update
from postval_assets_tests.pipeline.champion_cases import (
    EARLIER,
    FIRST,
    SECOND,
    SEEN,
    compared,
    comparisons,
    count_runs,
    notes,
    one_model,
    only,
    taken,
    two_archives,
    with_bars,
)
from postval_assets_tests.pipeline.conftest import (
    BUY,
    END,
    HOLD,
    LOOK_BACK,
    SELL,
    WINDOW,
    Bench,
    bars_frame,
    network,
)

YEAR = 365 * 6 + WINDOW + LOOK_BACK + 40


@pytest.fixture
def market(bench: Bench) -> Bench:
    """A data directory with the bars of one symbol."""
    return with_bars(bench)


@pytest.fixture
def both(market: Bench) -> dict[str, str]:
    """Two archives, of which the newer one is evaluated; its archive_id by symbol."""
    return two_archives(market)


@pytest.fixture
def runs(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the models that the stage runs."""
    return count_runs(monkeypatch)


# --- the comparison -----------------------------------------------------------------------------------------


def plain_returns(bench: Bench, archive_id: str, plan: str = "180d") -> np.ndarray:
    parts = []
    for fold in bench.rows(
        "SELECT DISTINCT fold FROM equity_curves WHERE archive_id = ? ORDER BY 1", archive_id
    ):
        points = bench.rows(
            "SELECT equity FROM equity_curves WHERE archive_id = ? AND plan = ? AND fold = ? ORDER BY ts",
            archive_id,
            plan,
            fold["fold"],
        )
        equity = np.array([p["equity"] for p in points])
        parts.append(np.diff(equity) / equity[:-1])
    return np.concatenate(parts)


def test_both_are_compared_on_the_same_bars_and_the_earlier_one_gets_no_rows(
    market: Bench, both: dict[str, str]
) -> None:
    report = compared(market, both)
    row = only(market)
    assert market.rows("SELECT DISTINCT archive_id FROM fold_results") == [{"archive_id": SECOND}]
    assert market.rows("SELECT DISTINCT archive_id FROM evaluations") == [{"archive_id": SECOND}]
    assert (row["archive_id"], row["champion_archive_id"], row["plan"]) == (SECOND, FIRST, "180d")
    assert (row["as_of"], row["n_folds_compared"], row["reason"]) == (END, 5, None)

    # What the earlier model would have as rows, had it been evaluated at that instant.
    market.evaluate({"UPPUSD": FIRST}, as_of=END)
    for side, archive_id in (("challenger", SECOND), ("champion", FIRST)):
        totals = [
            r["total_return"]
            for r in market.rows("SELECT total_return FROM fold_results WHERE archive_id = ?", archive_id)
        ]
        returns = plain_returns(market, archive_id)
        per_year = market.folds("UPPUSD")[0]["bars_per_year"]
        assert row[f"{side}_return"] == pytest.approx(sum(totals))
        assert row[f"{side}_positive_folds"] == sum(t > 0.0 for t in totals)
        assert row[f"{side}_sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * per_year**0.5)
        assert row["n_returns"] == len(returns)
    assert row["sharpe_difference"] == pytest.approx(row["challenger_sharpe"] - row["champion_sharpe"])
    assert row["difference_low"] < row["sharpe_difference"] < row["difference_high"]
    assert row["verdict"] in ("CHALLENGER_BETTER", "CHAMPION_BETTER", "NO_DIFFERENCE_SHOWN")
    sha = market.one("SELECT model_sha256 FROM extracted_models WHERE archive_id = ?", FIRST)["model_sha256"]
    assert row["champion_model_sha256"] == sha

    [said] = notes(market, both).values()
    assert said.startswith("CHAMPION: ")
    assert FIRST in said
    assert report.symbols[0].said == (f"4Hour 180d: {said}",)
    assert list(notes(market, both)) == [(SECOND, "UPPUSD", "4Hour", END, "180d")]


def test_a_model_that_buys_a_rising_market_beats_one_that_sells_it_short(bench: Bench) -> None:
    bench.put_bars("UPP", market="rising")
    bench.load(["UPP"])
    taken(bench, FIRST, {"UPP_4Hour": network(BUY, version="2.3.0")})
    archives = taken(bench, SECOND, {"UPP_4Hour": network(SELL)})
    bench.evaluate(archives)
    compared(bench, archives)
    row = only(bench)
    assert row["verdict"] == "CHAMPION_BETTER"
    assert (row["challenger_positive_folds"], row["champion_positive_folds"]) == (0, 5)
    assert row["champion_return"] > 0.0 > row["challenger_return"]
    assert row["difference_high"] < 0.0


def test_without_an_earlier_model_there_is_nothing_to_say(market: Bench) -> None:
    archives = one_model(market, SECOND, 2)
    taken(market, FIRST, {"OTHUSD_4Hour": network(seed=1), "UPPUSD_1Day": network(seed=1)})
    market.evaluate(archives)
    report = compared(market, archives)
    assert comparisons(market) == []
    assert notes(market, archives) == {}
    assert [(s.symbol, s.n_rows) for s in report.symbols] == [("UPPUSD", 0)]


def test_the_earlier_archive_is_compared_with_none_that_came_later(market: Bench) -> None:
    first = one_model(market, FIRST, 1)
    one_model(market, SECOND, 2)
    market.evaluate(first)
    compared(market, first)
    assert comparisons(market) == []


def test_a_challenger_without_folds_is_not_compared(market: Bench) -> None:
    one_model(market, FIRST, 1)
    archives = one_model(market, SECOND, 2)
    compared(market, archives)
    assert comparisons(market) == []


def test_the_same_model_again_is_not_compared(market: Bench, runs: list[str]) -> None:
    one_model(market, FIRST, 1)
    archives = one_model(market, SECOND, 1)
    market.evaluate(archives)
    compared(market, archives)
    row = only(market)
    assert (row["verdict"], row["reason"]) == ("NOT_COMPARED", "it is the same model")
    assert row["sharpe_difference"] is None
    assert runs == []
    assert list(notes(market, archives).values()) == [
        f"CHAMPION: not compared with {FIRST}: it is the same model"
    ]
    assert compared(market, archives).symbols[0].n_current == 1
    assert only(market)["run_id"] == row["run_id"], "the same is not written again"


def test_folds_that_the_champion_was_trained_on_are_not_compared(market: Bench) -> None:
    one_model(market, FIRST, 1, train=SEEN)
    archives = one_model(market, SECOND, 2)
    market.evaluate(archives)
    compared(market, archives)
    row = only(market)
    assert row["verdict"] == "NOT_COMPARED"
    assert row["reason"] == "no fold counts for both: challenger 5 of 5; champion 0 of 5 (5 IN_TRAIN)"


def test_folds_that_the_challenger_was_trained_on_cost_no_run(market: Bench, runs: list[str]) -> None:
    one_model(market, FIRST, 1)
    archives = one_model(market, SECOND, 2, train=SEEN)
    market.evaluate(archives)
    compared(market, archives)
    assert only(market)["reason"] == "no fold of the challenger counts: 0 of 5 (5 IN_TRAIN)"
    assert runs == []


def test_folds_that_the_champion_saw_a_part_of_are_left_out(market: Bench) -> None:
    one_model(market, FIRST, 1, train=("2022-01-01T00:00:00Z", "2024-10-01T00:00:00Z"))
    archives = one_model(market, SECOND, 2)
    market.evaluate(archives)
    compared(market, archives)
    row = only(market)
    # Five folds of 36 days before 2025-02-01: the first two begin before October.
    assert row["n_folds_compared"] == 3
    kept = [r["total_return"] for r in market.folds("UPPUSD") if r["fold"] > 2]
    assert row["challenger_return"] == pytest.approx(sum(kept))


def test_a_model_that_never_trades_has_its_figures_and_no_verdict(market: Bench, runs: list[str]) -> None:
    one_model(market, FIRST, 1)
    archives = one_model(market, SECOND, 2, action=HOLD)
    market.evaluate(archives)
    compared(market, archives)
    row = only(market)
    assert (row["verdict"], row["challenger_return"], row["challenger_sharpe"]) == ("NOT_COMPARED", 0.0, None)
    assert row["champion_sharpe"] is not None
    assert compared(market, archives).symbols[0].n_current == 1
    assert runs == [f"{FIRST} UPPUSD 4Hour"], "it was put side by side once, and nothing has changed"


# --- what is current ----------------------------------------------------------------------------------------


def test_what_is_current_is_not_computed_again(market: Bench, both: dict[str, str], runs: list[str]) -> None:
    first = compared(market, both).symbols[0]
    assert (first.n_rows, first.n_current) == (1, 0)
    row = only(market)
    again = compared(market, both).symbols[0]
    assert (again.n_rows, again.n_current, again.said) == (1, 1, ())
    assert len(runs) == 1
    assert only(market) == row

    # A model of an archive between the two is another champion.
    between = "20250115_000000"
    one_model(market, between, 7)
    compared(market, both)
    assert only(market)["champion_archive_id"] == between
    assert runs == [f"{FIRST} UPPUSD 4Hour", f"{between} UPPUSD 4Hour"]


def test_the_same_comparison_comes_out_the_same_elsewhere(market: Bench, both: dict[str, str]) -> None:
    compared(market, both)
    row = only(market)
    change = Update("champion_comparisons", {"archive_id": SECOND}, {"inputs_digest": "another"})
    market.platform.warehouse.write([change], run_id="test", now=market.clock())
    compared(market, both)
    stamps = ("run_id", "created_at")
    assert {k: v for k, v in only(market).items() if k not in stamps} == {
        k: v for k, v in row.items() if k not in stamps
    }


def test_other_folds_are_compared_anew_and_the_old_comparison_is_not_shown(
    market: Bench, both: dict[str, str]
) -> None:
    compared(market, both)
    before = only(market)
    dear = market.configured(crypto_fee_bps=100.0)
    # Settings alone change nothing about what was compared.
    assert compared(dear, both).symbols[0].n_current == 1
    dear.evaluate(both)
    assert notes(dear, both) == {}
    compared(dear, both)
    after = only(dear)
    assert after["folds_digest"] != before["folds_digest"]
    assert after["champion_return"] < before["champion_return"]
    assert len(notes(dear, both)) == 1


def test_folds_of_other_settings_than_now_are_not_compared(market: Bench, both: dict[str, str]) -> None:
    compared(market.configured(crypto_fee_bps=100.0), both)
    row = only(market)
    assert row["verdict"] == "NOT_COMPARED"
    assert (
        row["reason"]
        == "the challenger's folds were computed with other settings than now: evaluate it again"
    )
    compared(market, both)
    assert only(market)["verdict"] != "NOT_COMPARED", "what could not be compared is tried again"


def test_folds_of_other_code_than_now_are_not_compared(
    market: Bench, both: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("postval_assets.pipeline.champion_pairs.code_version", lambda: "other")
    compared(market, both)
    assert "other code than now" in only(market)["reason"]


def test_bars_that_have_changed_since_are_not_compared(market: Bench, both: dict[str, str]) -> None:
    frame = bars_frame()
    frame.loc[frame.index[-10], "close"] *= 1.0001
    market.put_bars("UPPUSD", frame)
    market.load(["UPPUSD"])
    compared(market, both)
    row = only(market)
    assert row["verdict"] == "NOT_COMPARED"
    assert row["reason"].startswith("the bars of fold 5 are not those that the challenger was evaluated on")


# --- plans and instants -------------------------------------------------------------------------------------


def test_every_plan_of_the_newest_evaluation_up_to_an_instant(market: Bench, runs: list[str]) -> None:
    market.put_bars("UPPUSD", n=YEAR)
    market.load(["UPPUSD"])
    one_model(market, FIRST, 1)
    archives = one_model(market, SECOND, 2)
    plans = ("180d", "365d")
    market.evaluate(archives, plans, as_of=EARLIER)
    market.evaluate(archives, plans, as_of=END)
    report = compared(market, archives, as_of=EARLIER)
    assert [(r["as_of"], r["plan"]) for r in comparisons(market)] == [(EARLIER, "180d"), (EARLIER, "365d")]
    assert report.symbols[0].n_rows == 2
    assert runs == [f"{FIRST} UPPUSD 4Hour"], "both plans in one go"
    compared(market, archives)
    rows = comparisons(market)
    assert [(r["as_of"], r["plan"]) for r in rows] == [
        (EARLIER, "180d"),
        (EARLIER, "365d"),
        (END, "180d"),
        (END, "365d"),
    ]
    assert [r["n_folds_compared"] for r in rows if r["plan"] == "180d"] == [5, 5]
    # Folds of the year that are older than the end of training do not count.
    assert all(0 < r["n_folds_compared"] < 10 for r in rows if r["plan"] == "365d")
    assert len(notes(market, archives)) == 4
    assert {key[3] for key in notes(market, archives, until=EARLIER)} == {EARLIER}


def test_a_champion_with_a_longer_look_back_is_compared_where_it_has_enough(bench: Bench) -> None:
    # Enough before the first fold for the challenger's window of 8, not for a window of 100.
    bench.put_bars("UPPUSD", n=180 * 6 + LOOK_BACK + WINDOW)
    bench.load(["UPPUSD"])
    # The factory's own network, which has the window of 100.
    taken(bench, FIRST, {"UPPUSD_4Hour": {"overrides": {"feature_set": "reference-59"}}})
    archives = one_model(bench, SECOND, 2)
    bench.evaluate(archives)
    assert [r["status"] for r in bench.folds("UPPUSD")] == ["OK"] * 5
    compared(bench, archives)
    row = only(bench)
    assert row["n_folds_compared"] == 4
    assert row["challenger_return"] == pytest.approx(
        sum(r["total_return"] for r in bench.folds("UPPUSD") if r["fold"] > 1)
    )
