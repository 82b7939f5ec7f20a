"""Which evaluation counts, and what follows when folds of an earlier one, or a refused fold, are computed later."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.features.reference import REFERENCE_59
from postval_assets.core.folds import plan_named
from postval_assets.pipeline.evaluation import evaluate_backtests, evaluate_folds
from postval_assets.pipeline.fold_jobs import selections_of
from postval_assets.pipeline.instants import NEWEST_UNTIL, newest_instants
from postval_assets.pipeline.reading import archive_results, undecided_models
from postval_assets.pipeline.summarizing import stale_summaries, summarize_folds
from postval_assets_tests.factories import drop_claims, good_claims, make_summary
from postval_assets_tests.pipeline.conftest import BUY, END, LOOK_BACK, WINDOW, Bench, network

ARCHIVE = "20250201_000000"
EARLIER = END - timedelta(days=4)
UPP = (ARCHIVE, "UPPUSD", "4Hour")
YEAR = 365 * 6 + WINDOW + LOOK_BACK + 40


@pytest.fixture
def archives(bench: Bench) -> dict[str, str]:
    """A model of a rising market, gated, with its bars."""
    bench.put_bars("UPPUSD", market="rising", n=YEAR)
    archives = bench.intake(bench.deliver(bench.archive({"UPPUSD_4Hour": network(BUY)})))
    bench.load(["UPPUSD"])
    return archives


def stale(bench: Bench) -> list[tuple[str, tuple[str, ...]]]:
    return [(s.archive_id, s.symbols) for s in stale_summaries(bench.platform)]


# --- which one counts ---------------------------------------------------------------------------------------


def test_an_instant_with_folds_comes_before_a_later_backtest(bench: Bench, archives: dict[str, str]) -> None:
    assert newest_instants(bench.platform, archives) == {}
    evaluate_backtests(bench.platform, archives, run_id="b", as_of=EARLIER - timedelta(days=1))
    assert not newest_instants(bench.platform, archives)[UPP].has_folds
    bench.evaluate(archives, as_of=EARLIER)
    evaluate_backtests(bench.platform, archives, run_id="b", as_of=END)
    newest = newest_instants(bench.platform, archives)[UPP]
    assert (newest.as_of, newest.has_folds) == (EARLIER, True)
    before = newest_instants(bench.platform, archives, until=EARLIER - timedelta(hours=1))[UPP]
    assert (before.as_of, before.has_folds) == (EARLIER - timedelta(days=1), False)
    assert newest_instants(bench.platform, {"UPPUSD": "other"}) == {}
    bench.decide(archives)
    assert [r["as_of"] for r in bench.decisions("UPPUSD")] == [EARLIER]
    shown = archive_results(bench.platform, ARCHIVE)
    assert {r["as_of"] for r in (*shown.folds, *shown.summaries, *shown.decisions)} == {EARLIER}
    assert undecided_models(bench.platform, ARCHIVE, ["UPPUSD"], ["180d"]) == []
    assert bench.evaluate(archives).symbols[0].n_current == 5, "the later backtest moves nothing"


def test_the_view_and_the_question_up_to_an_instant_agree(bench: Bench, archives: dict[str, str]) -> None:
    bench.evaluate(archives, as_of=EARLIER)
    evaluate_backtests(bench.platform, archives, run_id="b")
    evaluate_backtests(bench.platform, archives, run_id="b", as_of=END)
    view = bench.rows("SELECT * FROM newest_evaluations ORDER BY ALL")
    assert view == bench.rows(f"SELECT * FROM ({NEWEST_UNTIL}) ORDER BY ALL", None)  # noqa: S608
    assert [(r["symbol"], r["as_of"], r["has_folds"]) for r in view] == [("UPPUSD", EARLIER, True)]


def test_a_model_with_a_backtest_only_is_shown_with_its_decision(
    bench: Bench, archives: dict[str, str]
) -> None:
    evaluate_backtests(bench.platform, archives, run_id="b")
    bench.decide(archives)
    shown = archive_results(bench.platform, ARCHIVE)
    assert [(r["decision"], r["as_of"]) for r in shown.decisions] == [("RETRAIN", None)]
    assert [r["as_of"] for r in shown.backtests] == [END]


# --- earlier evaluations ------------------------------------------------------------------------------------


def test_folds_of_an_earlier_evaluation_are_followed_up(bench: Bench, archives: dict[str, str]) -> None:
    bench.evaluate(archives)
    bench.decide(archives)
    assert stale(bench) == []
    bench.evaluate(archives, as_of=EARLIER)
    assert stale(bench) == [(ARCHIVE, ("UPPUSD",))]
    bench.decide(archives)
    assert stale(bench) == []
    assert [r["as_of"] for r in bench.decisions("UPPUSD")] == [END, EARLIER]
    assert bench.one("SELECT count(*) AS n FROM walk_forward_summaries")["n"] == 2
    bench.evaluate(archives, ("365d",), as_of=EARLIER)
    state = stale_summaries(bench.platform)[0].state
    assert stale_summaries(bench.platform)[0].state == state
    bench.decide(archives)
    assert stale(bench) == []
    assert [(r["plan"], r["as_of"]) for r in bench.decisions("UPPUSD")][2:] == [("365d", EARLIER)]


def test_changed_limits_decide_the_newest_evaluation_anew_and_not_those_before(
    bench: Bench, archives: dict[str, str]
) -> None:
    bench.evaluate(archives, as_of=EARLIER)
    bench.decide(archives)
    bench.evaluate(archives, as_of=END)
    bench.decide(archives)
    digests = bench.rows("SELECT as_of, inputs_digest FROM walk_forward_summaries ORDER BY as_of")
    strict = bench.configured(good_sharpe_std=0.0, marginal_sharpe_std=0.0)
    assert stale(strict) == []
    strict.decide(archives)
    rows = [(r["as_of"], r["decision"]) for r in bench.decisions("UPPUSD")]
    assert rows == [(EARLIER, "LIVE"), (END, "LIVE"), (END, "RETRAIN")]
    after = bench.rows("SELECT as_of, inputs_digest FROM walk_forward_summaries ORDER BY as_of")
    assert [x == y for x, y in zip(digests, after, strict=True)] == [True, False]


# --- what a decision is made from ---------------------------------------------------------------------------


def test_a_decision_carries_the_digests_of_its_folds(bench: Bench, archives: dict[str, str]) -> None:
    bench.evaluate(archives)
    used = bench.folds("UPPUSD")[0]
    other = bench.configured(crypto_fee_bps=5.0)
    other.decide(archives)
    (row,) = bench.decisions("UPPUSD")
    assert (row["settings_digest"], row["code_version"]) == (used["settings_digest"], used["code_version"])
    assert row["settings_digest"] != other.platform.settings.evaluation_digest()
    assert row["folds_digest"] == bench.one("SELECT folds_digest FROM walk_forward_summaries")["folds_digest"]
    selection = replace(selections_of([plan_named("180d")])[0], folds=frozenset({2}))
    evaluate_folds(other.platform, archives, {"UPPUSD": [selection]}, run_id="one")
    bench.decide(archives)
    mixed = bench.decisions("UPPUSD")[-1]["settings_digest"]
    digests = {f["settings_digest"] for f in bench.folds("UPPUSD")}
    assert len(digests) == 2
    assert mixed not in digests


# --- undecided ----------------------------------------------------------------------------------------------


def test_decided_means_over_these_plans_and_at_this_evaluation(bench: Bench) -> None:
    summary = make_summary(
        {"UPPUSD_4Hour": good_claims(), "POORUSD_4Hour": drop_claims(), "NONEUSD_4Hour": good_claims()}
    )
    models = {f"{s}_4Hour": network(BUY) for s in ("UPPUSD", "POORUSD", "NONEUSD")}
    archives = bench.intake(bench.deliver(bench.archive(models, summary=summary)))
    archive_id, symbols = archives["UPPUSD"], list(archives)
    bench.put_bars("UPPUSD", market="rising", n=YEAR)
    bench.load(symbols)
    bench.evaluate(archives, as_of=EARLIER)

    def undecided(*how: Any) -> list[str]:
        return undecided_models(bench.platform, archive_id, symbols, *how)

    assert undecided() == undecided(["180d"]) == sorted(models)
    bench.decide(archives)
    assert undecided() == undecided(["180d"]) == []
    assert undecided(["180d", "365d"]) == ["UPPUSD_4Hour"], "the others have no folds over any plan"
    bench.evaluate(archives, as_of=END)
    assert undecided() == []
    assert undecided(["180d"]) == ["UPPUSD_4Hour"]
    assert undecided(["180d"], EARLIER) == []
    bench.decide(archives)
    assert undecided(["180d"]) == []


# --- refused folds ------------------------------------------------------------------------------------------


def picky(bench: Bench, before: Any) -> Bench:
    """The same under a feature set that fails on bars before some time."""

    def compute(frame: pd.DataFrame) -> np.ndarray:
        if before is not None and frame["ts"].iloc[0] < before:
            raise ValueError("too old for me")
        return np.asarray(REFERENCE_59.compute(frame))

    sets = {**bench.platform.feature_sets, "reference-59": replace(REFERENCE_59, compute=compute)}
    return replace(bench, platform=replace(bench.platform, feature_sets=sets))


def test_a_plan_that_is_refused_leaves_the_other_one_and_the_folds_that_can_be_computed(
    bench: Bench, archives: dict[str, str]
) -> None:
    report = picky(bench, END - timedelta(days=250)).evaluate(archives, ("180d", "365d"))
    assert [r["status"] for r in bench.folds("UPPUSD", "180d")] == ["OK"] * 5
    # Folds of 36.5 days: what begins 250 days back, with its look-back of 24.5 days, is refused.
    year = [r["status"] for r in bench.folds("UPPUSD", "365d")]
    assert year == ["NOT_EVALUATED"] * 4 + ["OK"] * 6
    assert len(report.symbols[0].problems) == 4
    together = {r["fold"]: r["total_return"] for r in bench.folds("UPPUSD", "365d") if r["status"] == "OK"}
    picky(bench, None).evaluate(archives, ("180d", "365d"))
    whole = {r["fold"]: r["total_return"] for r in bench.folds("UPPUSD", "365d")}
    assert {n: whole[n] for n in together} == pytest.approx(together)


def test_a_refused_fold_is_tried_again_and_what_follows_from_it_is_made_anew(
    bench: Bench, archives: dict[str, str]
) -> None:
    failing = picky(bench, END)
    failing.evaluate(archives)
    failing.decide(archives)
    assert [r["status"] for r in bench.folds("UPPUSD")] == ["NOT_EVALUATED"] * 5
    refused = bench.folds("UPPUSD")[0]["inputs_digest"]
    again = failing.evaluate(archives)
    assert again.symbols[0].n_current == 0
    assert bench.folds("UPPUSD")[0]["inputs_digest"] == refused
    assert stale(bench) == [], "the same refusal leads to nothing new"
    assert picky(bench, None).evaluate(archives).symbols[0].problems == ()
    assert [r["status"] for r in bench.folds("UPPUSD")] == ["OK"] * 5
    assert stale(bench) == [(ARCHIVE, ("UPPUSD",))]
    bench.decide(archives)
    assert [r["decision"] for r in bench.decisions("UPPUSD")] == ["RETRAIN", "LIVE"]
    assert summarize_folds(bench.platform, archives, run_id="s").symbols[0].problems == ()
