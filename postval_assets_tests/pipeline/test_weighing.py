"""Evidence through the stages: what a summary says, from the warehouse alone, and what is decided with it."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import numpy as np
import pytest

from postval_assets.core.action_replays import N_PERMUTATIONS
from postval_assets.core.bootstrap import bootstrap_sharpe, seeded
from postval_assets.core.evaluation import code_version
from postval_assets.core.walk_forward_evidence import best_of
from postval_assets.io.warehouse import Replace, Update
from postval_assets.pipeline.evidence_rows import evidence_columns, evidence_of
from postval_assets.pipeline.reading import archive_results
from postval_assets.pipeline.summarizing import stale_summaries, stored_folds, summarize_folds
from postval_assets.pipeline.weighing import WORTH_IT_FROM, weigh, weigh_together, weighing_jobs
from postval_assets_tests.factories import good_claims, make_summary
from postval_assets_tests.pipeline.conftest import BUY, END, HOLD, TRAINED, Bench, network

MARKETS = {"RNDUSD": "noisy", "UPPUSD": "rising", "LOSUSD": "falling", "NONUSD": "noisy"}
NETWORKS: dict[str, Any] = {
    "RNDUSD": network(seed=2),
    "UPPUSD": network(BUY),
    "LOSUSD": network(BUY),
    "NONUSD": network(HOLD),
}


def taken_in(bench: Bench, **archive: Any) -> dict[str, str]:
    """Four models with their bars, evaluated and not yet summarized; archive_id by symbol."""
    for seed, (symbol, market) in enumerate(MARKETS.items()):
        bench.put_bars(symbol, market=market, seed=seed)
    delivery = bench.deliver(bench.archive({f"{s}_4Hour": n for s, n in NETWORKS.items()}, **archive))
    archives = bench.intake(delivery)
    bench.load(delivery.symbols)
    bench.evaluate(archives)
    return archives


@pytest.fixture(scope="module")
def weighed(tmp_path_factory: pytest.TempPathFactory, make_bench: Any) -> Bench:
    bench: Bench = make_bench(tmp_path_factory.mktemp("weighed"))
    bench.decide(taken_in(bench))
    return bench


def summary(bench: Bench, symbol: str) -> dict[str, Any]:
    return bench.one("SELECT * FROM walk_forward_summaries WHERE symbol = ?", symbol)


def decision(bench: Bench, symbol: str, policy: str = "evidence") -> dict[str, Any]:
    return bench.one("SELECT * FROM deployment_decisions WHERE symbol = ? AND policy = ?", symbol, policy)


def test_figures_follow_from_the_stored_curves(weighed: Bench) -> None:
    row = summary(weighed, "RNDUSD")
    curves = [
        np.array(
            [
                r["equity"]
                for r in weighed.rows(
                    "SELECT equity FROM equity_curves WHERE symbol = 'RNDUSD' AND fold = ? ORDER BY ts", fold
                )
            ]
        )
        for fold in range(1, 6)
    ]
    returns = np.concatenate([np.diff(c) / c[:-1] for c in curves])
    per_year = weighed.folds("RNDUSD")[0]["bars_per_year"]
    assert row["n_returns"] == len(returns) == 5 * 215
    assert row["sharpe"] == pytest.approx(returns.mean() / returns.std(ddof=1) * per_year**0.5)
    sha256 = weighed.folds("RNDUSD")[0]["model_sha256"]
    spread = bootstrap_sharpe(returns, [len(c) - 1 for c in curves], seeded(sha256, "bootstrap"))
    assert spread is not None
    assert row["bootstrap_se"] == pytest.approx(spread.se * per_year**0.5)
    assert row["p_value_archive"] == pytest.approx(best_of(row["p_value"], 4))
    assert row["n_trials"] == 4, "models delivered, whatever became of them"
    assert (row["n_counted"], row["n_out_of_sample"]) == (5, 5)
    assert row["consistency_ratio"] == pytest.approx(row["sharpe_std"] / row["sharpe_std_expected"])
    assert row["counted_return"] == pytest.approx(row["return_sum"])
    assert row["assumed_cost_bps"] == pytest.approx(30.0)
    assert row["null_percentile"] * N_PERMUTATIONS == pytest.approx(
        round(row["null_percentile"] * N_PERMUTATIONS)
    )


def test_words_fit_the_models(weighed: Bench) -> None:
    assert summary(weighed, "LOSUSD")["evidence"] == "CONTRADICTED"
    assert decision(weighed, "LOSUSD")["decision"] == "DROP"
    idle = summary(weighed, "NONUSD")
    assert (idle["sharpe"], idle["p_value"], idle["null_percentile"]) == (None, None, 0.0)
    assert decision(weighed, "NONUSD")["reasons"][0] == "NO_TRADES"
    up = summary(weighed, "UPPUSD")
    assert up["p_value_archive"] < 0.05, "a market that only rises: the returns alone look proven"
    assert up["null_percentile"] == 0.0, "one action has one order"
    assert decision(weighed, "UPPUSD", "standard")["decision"] == "LIVE"
    found = decision(weighed, "UPPUSD")
    assert found["decision"] == "RETRAIN"
    assert "NULL_PERCENTILE: 0, at least 0.95 needed" in found["reasons"]


def test_both_policies_stand_side_by_side(weighed: Bench) -> None:
    [row] = weighed.rows("SELECT * FROM latest_decisions WHERE symbol = 'UPPUSD'")
    assert (row["decision"], row["decision_evidence"]) == ("LIVE", "RETRAIN")
    assert any(r.startswith("NULL_PERCENTILE") for r in row["reasons_evidence"])
    [board] = weighed.rows("SELECT * FROM leaderboard WHERE symbol = 'UPPUSD'")
    assert (board["decision_evidence"], board["evidence"]) == (
        "RETRAIN",
        summary(weighed, "UPPUSD")["evidence"],
    )
    [history] = weighed.rows("SELECT * FROM symbol_history WHERE symbol = 'UPPUSD'")
    assert (history["decision"], history["decision_evidence"]) == ("LIVE", "RETRAIN")


def test_a_setting_says_which_one_is_acted_on(weighed: Bench) -> None:
    archive_id = summary(weighed, "UPPUSD")["archive_id"]
    for policy, other, expected in (("standard", "evidence", "LIVE"), ("evidence", "standard", "RETRAIN")):
        rows = archive_results(weighed.platform, archive_id, ["UPPUSD"], policy).decisions
        assert [(r["policy"], r["decision"], r["other_policy"]) for r in rows] == [(policy, expected, other)]


def test_columns_there_and_back(weighed: Bench) -> None:
    for symbol in MARKETS:
        row = summary(weighed, symbol)
        found = evidence_of(row)
        assert found is not None
        assert {name: row[name] for name in evidence_columns(found)} == evidence_columns(found)
    assert evidence_of({"evidence": None}) is None


def jobs_of(bench: Bench) -> list[Any]:
    archives = {s: summary(bench, s)["archive_id"] for s in MARKETS}
    plans = [
        f.rows for of_model in stored_folds(bench.platform, archives, until=None).values() for f in of_model
    ]
    return list(weighing_jobs(bench.platform, plans))


def test_processes_find_the_same(weighed: Bench) -> None:
    jobs = jobs_of(weighed)
    many = (jobs * WORTH_IT_FROM)[:WORTH_IT_FROM]
    two = weighed.configured(workers=2)
    assert list(weigh_together(two.platform, iter(many), len(many))) == [weigh(job) for job in many]


def test_what_is_current_stays_and_what_changed_does_not(bench: Bench) -> None:
    archives = taken_in(bench)
    made = summarize_folds(bench.platform, archives, run_id="first")
    assert sum(s.n_current for s in made.symbols) == 0
    assert all(s.said for s in made.symbols)
    again = summarize_folds(bench.platform, archives, run_id="second")
    assert [s.n_current for s in again.symbols] == [1, 1, 1, 1]
    assert [s.said for s in again.symbols] == [s.said for s in made.symbols], (
        "the catalogue shows it all the same"
    )
    more = [Update("training_archives", {"archive_id": archives["RNDUSD"]}, {"n_trials": 500})]
    bench.platform.warehouse.write(more, run_id="trials", now=bench.clock())
    summarize_folds(bench.platform, archives, run_id="third")
    row = summary(bench, "RNDUSD")
    assert (row["run_id"], row["n_trials"]) == ("third", 500)


def test_a_summary_from_before_evidence_is_made_anew_by_itself(bench: Bench) -> None:
    archives = taken_in(bench)
    bench.decide(archives)
    assert stale_summaries(bench.platform) == ()
    empty = dict.fromkeys(("evidence", "evidence_digest", "p_value", "null_percentile"))
    keys = {"archive_id": archives["UPPUSD"], "symbol": "UPPUSD"}
    bench.platform.warehouse.write(
        [Update("walk_forward_summaries", keys, empty)], run_id="old", now=bench.clock()
    )
    [stale] = stale_summaries(bench.platform)
    assert stale.symbols == ("UPPUSD",)
    summarize_folds(bench.platform, archives, run_id="new")
    assert summary(bench, "UPPUSD")["evidence"] is not None
    assert stale_summaries(bench.platform) == ()


def reweigh(bench: Bench, archives: dict[str, str]) -> None:
    empty = {"inputs_digest": "other", "evidence_digest": None}
    keys = {"archive_id": archives["RNDUSD"], "symbol": "RNDUSD"}
    bench.platform.warehouse.write(
        [Update("walk_forward_summaries", keys, empty)], run_id="x", now=bench.clock()
    )
    summarize_folds(bench.platform, archives, run_id="reweigh")


def test_bars_that_are_others_now_are_not_replayed(bench: Bench) -> None:
    archives = taken_in(bench)
    bench.decide(archives)
    before = summary(bench, "RNDUSD")
    bars = bench.rows("SELECT * EXCLUDE (run_id, created_at) FROM bars WHERE symbol = 'RNDUSD' ORDER BY ts")
    split = [{**bar, **{c: bar[c] / 2 for c in ("open", "high", "low", "close")}} for bar in bars]
    # Only halved, they would give the same returns; a series that was mended does not.
    for bar in split[-400::7]:
        bar["close"] *= 1.05
    bench.platform.warehouse.write(
        [Replace("bars", [{"symbol": "RNDUSD"}], split)], run_id="split", now=bench.clock()
    )
    reweigh(bench, archives)
    after = summary(bench, "RNDUSD")
    assert after["null_percentile"] is None
    assert after["lag_return"] is None
    assert after["sharpe"] == before["sharpe"], "what the returns say does not depend on the bars"
    assert any(
        r.startswith("REPLAY_DIFFERS: a replay of the model's actions") for r in after["evidence_reasons"]
    )
    assert after["evidence"] != "SHOWN"


def test_bars_that_are_gone_are_said(bench: Bench) -> None:
    archives = taken_in(bench)
    bench.decide(archives)
    bars = bench.rows("SELECT * EXCLUDE (run_id, created_at) FROM bars WHERE symbol = 'RNDUSD' ORDER BY ts")
    bench.platform.warehouse.write(
        [Replace("bars", [{"symbol": "RNDUSD"}], [*bars[:-700], *bars[-699:]])],
        run_id="gap",
        now=bench.clock(),
    )
    reweigh(bench, archives)
    said = [r for r in summary(bench, "RNDUSD")["evidence_reasons"] if r.startswith("REPLAY_DIFFERS")]
    assert said == ["REPLAY_DIFFERS: 215 bars are stored for fold 2, it was computed on 216"]


def test_other_settings_are_not_replayed(bench: Bench) -> None:
    archives = taken_in(bench)
    dearer = bench.configured(slippage_bps=9.0)
    summarize_folds(dearer.platform, archives, run_id="dearer")
    row = summary(bench, "RNDUSD")
    assert row["null_percentile"] is None
    assert (
        "REPLAY_DIFFERS: the folds were computed under other settings of execution" in row["evidence_reasons"]
    )


def test_folds_that_the_model_has_seen_do_not_count(bench: Bench) -> None:
    end = END - timedelta(days=100)
    archives = taken_in(bench, train=(TRAINED[0], end.isoformat()))
    bench.decide(archives)
    row = summary(bench, "RNDUSD")
    assert (row["n_counted"], row["n_out_of_sample"]) == (2, 2)
    assert row["evidence_reasons"][0] == "NOT_COUNTED: 3 of 5 folds are not out of sample (IN_TRAIN, OVERLAP)"
    assert row["n_returns"] == sum(f["n_bars"] - 1 for f in bench.folds("RNDUSD")[3:])


def test_an_unknown_training_window_counts_and_is_never_live(bench: Bench) -> None:
    archives = taken_in(bench, train=None)
    bench.decide(archives)
    row = summary(bench, "UPPUSD")
    assert (row["n_counted"], row["n_out_of_sample"]) == (5, 0)
    assert decision(bench, "UPPUSD")["decision"] != "LIVE"
    assert "TRAINING_WINDOW_UNKNOWN" in decision(bench, "UPPUSD")["reasons"]


def test_one_bad_model_leaves_the_others_their_evidence(bench: Bench) -> None:
    claims = {f"{s}_4Hour": good_claims() for s in MARKETS}
    claims["LOSUSD_4Hour"] = {**good_claims(), "fitness_score": [0.1]}
    archives = taken_in(bench, summary=make_summary(claims, timestamp="20250201_000000", train=TRAINED))
    bench.decide(archives)
    assert {
        r["symbol"]
        for r in bench.rows("SELECT symbol FROM walk_forward_summaries WHERE evidence IS NOT NULL")
    } == {
        "RNDUSD",
        "UPPUSD",
        "NONUSD",
    }
    assert summary(bench, "RNDUSD")["n_trials"] == 4, "what the gate dropped was a trial too"
    assert decision(bench, "LOSUSD")["reasons"][0].startswith("GATE_")


def test_rows_are_made_by_the_code_that_is_here(weighed: Bench) -> None:
    assert {f["code_version"] for f in weighed.folds("RNDUSD")} == {code_version()}
