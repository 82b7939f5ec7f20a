"""Summaries and decisions: what each model's folds lead to, with every reason, written once."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from postval_assets.core.evaluation import code_version
from postval_assets.core.folds import plan_named
from postval_assets.core.walk_forward import GradeLimits, summarize
from postval_assets.pipeline.deciding import complete_archive, decide_models
from postval_assets.pipeline.fold_rows import fold_outcome
from postval_assets.pipeline.gate import gate_models
from postval_assets.pipeline.reading import archive_results, undecided_models
from postval_assets.pipeline.summarizing import stale_summaries, summarize_folds
from postval_assets_tests.factories import (
    drop_claims,
    good_claims,
    make_archive,
    make_checkpoint,
    make_policy,
    make_summary,
    review_claims,
)
from postval_assets_tests.pipeline.conftest import BUY, END, HOLD, WINDOW, Bench, bars_frame, network

ARCHIVE = "20250201_000000"
MARKETS = {"UPPUSD": "rising", "DWNUSD": "falling"}


def ready(bench: Bench, models: dict[str, Any], *, train: Any = ..., **claims: Any) -> dict[str, str]:
    """An archive taken in, with bars for its symbols: UPPUSD rises, DWNUSD falls, others are noise.

    Args:
        bench: where.
        models: arguments of make_checkpoint by SYMBOL_TIMEFRAME.
        train: first and last training bar; None where the summary does not say.
        claims: by symbol, where the gate shall not approve.
    """
    given = {} if train is ... else {"train": train}
    summary = make_summary(
        {name: claims.get(name.partition("_")[0], good_claims()) for name in models},
        timestamp=ARCHIVE,
        **given,
    )
    archives = bench.intake(bench.deliver(bench.archive(models, summary=summary)))
    for n, symbol in enumerate(archives):
        if not (bench.bars / f"{symbol}_4Hour.parquet").exists():
            bench.put_bars(symbol, market=MARKETS.get(symbol, "noisy"), seed=n)
    bench.load(list(archives))
    return archives


def decided(bench: Bench, symbol: str) -> tuple[str, list[str]]:
    """The newest decision about a symbol, and the names of its reasons."""
    row = bench.decisions(symbol)[-1]
    return row["decision"], [reason.partition(":")[0] for reason in row["reasons"]]


def stale(bench: Bench) -> list[tuple[str, tuple[str, ...]]]:
    """Archives with the symbols whose summaries are older than their folds."""
    return [(s.archive_id, s.symbols) for s in stale_summaries(bench.platform)]


# --- the table ----------------------------------------------------------------------------------------------


def test_what_folds_lead_to(bench: Bench) -> None:
    models = {
        "UPPUSD_4Hour": network(BUY),
        "DWNUSD_4Hour": network(BUY),
        "IDLEUSD_4Hour": network(HOLD),
        "NONEUSD_4Hour": network(BUY),
        "POORUSD_4Hour": network(BUY),
        "LOSTUSD_4Hour": network(BUY, model_version="9.9.9"),
    }
    archives = ready(bench, models, POORUSD=drop_claims())
    (bench.bars / "NONEUSD_4Hour.parquet").unlink()
    without = {s: a for s, a in archives.items() if s != "NONEUSD"}
    bench.evaluate(without)
    bench.decide(archives)
    assert decided(bench, "UPPUSD") == ("LIVE", ["STEADY_PROFIT"])
    assert decided(bench, "DWNUSD") == ("DROP", ["CONSISTENT_LOSSES"])
    assert decided(bench, "IDLEUSD") == ("RETRAIN", ["NO_TRADES"])
    assert decided(bench, "POORUSD") == ("DROP", ["GATE_DROP"])
    assert decided(bench, "LOSTUSD") == ("DROP", ["MODEL_NOT_OK"])
    assert (
        "LOW_FITNESS, LOW_PF, LOW_CONSISTENCY, HIGH_DRAWDOWN" in bench.decisions("POORUSD")[0]["reasons"][0]
    )
    assert "model_version '9.9.9' is not known" in bench.decisions("LOSTUSD")[0]["reasons"][0]
    assert {r["as_of"] for r in bench.decisions("UPPUSD")} == {END}
    assert {r["as_of"] for r in bench.decisions("POORUSD")} == {None}
    assert bench.one("SELECT status FROM training_archives")["status"] == "COMPLETE"
    assert undecided_models(bench.platform, ARCHIVE, list(archives)) == []


def test_a_decision_names_all_that_it_was_made_from(bench: Bench) -> None:
    archives = ready(bench, {"UPPUSD_4Hour": network(BUY)})
    bench.evaluate(archives)
    bench.decide(archives)
    (row,) = bench.decisions("UPPUSD")
    model = bench.one("SELECT * FROM extracted_models")
    assert row["archive_sha256"] == bench.one("SELECT sha256 FROM training_archives")["sha256"]
    assert row["model_sha256"] == model["model_sha256"]
    assert row["settings_digest"] == bench.platform.settings.evaluation_digest()
    assert row["code_version"] == code_version()
    assert (row["thresholds_version"], row["policy"], row["policy_version"]) == ("v2.4.5", "standard", "2")
    assert len(row["bars_digest"]) == len(row["inputs_digest"]) == 64
    assert (row["plan"], row["as_of"], row["timeframe"]) == ("180d", END, "4Hour")


@pytest.mark.parametrize(
    ("checkpoint", "claims", "train", "reason"),
    [
        ({}, {"UPPUSD": review_claims()}, ..., "GATING_REVIEW"),
        ({"named": False}, {}, ..., "ASSUMED_FEATURES"),
        ({"train_end": "2024-08-20T00:00:00Z"}, {}, ..., "NOT_OUT_OF_SAMPLE"),
        ({}, {}, ("2025-01-20T00:00:00Z", "2025-01-30T00:00:00Z"), "NOT_OUT_OF_SAMPLE"),
    ],
    ids=["review", "assumed features", "trained on the first fold", "trained after the folds"],
)
def test_caps(bench: Bench, checkpoint, claims, train, reason) -> None:
    archives = ready(bench, {"UPPUSD_4Hour": network(BUY, **checkpoint)}, train=train, **claims)
    bench.evaluate(archives)
    bench.decide(archives)
    assert decided(bench, "UPPUSD") == ("PAPER", ["STEADY_PROFIT", reason])


def test_an_assumed_activation_caps_and_an_unknown_training_window_does_not(bench: Bench) -> None:
    silent = network(BUY)
    file = make_checkpoint(bench.root / "silent.pt", activation=None, **silent)
    archives = ready(bench, {"UPPUSD_4Hour": file}, train=None)
    bench.evaluate(archives)
    bench.decide(archives)
    expected = ["STEADY_PROFIT", "ASSUMED_ACTIVATION", "TRAINING_WINDOW_UNKNOWN"]
    assert decided(bench, "UPPUSD") == ("PAPER", expected)


def test_a_missing_fold_caps(bench: Bench) -> None:
    bench.put_bars("UPPUSD", market="rising", n=180 * 6 + 20)
    archives = ready(bench, {"UPPUSD_4Hour": network(BUY)})
    bench.evaluate(archives)
    bench.decide(archives)
    assert decided(bench, "UPPUSD") == ("PAPER", ["STEADY_PROFIT", "INCOMPLETE"])


def test_no_evidence_says_why(bench: Bench) -> None:
    bench.put_bars("TINYUSD", n=300)
    state = make_policy(window=WINDOW)
    for value in state.values():
        value[:] = 3e38
    broken = network(policy_state_dict=state)
    archives = ready(bench, {"TINYUSD_4Hour": network(BUY), "BRKUSD_4Hour": broken})
    gone = bench.intake(
        bench.deliver(bench.archive({"NONEUSD_4Hour": network(BUY)}, stamp="20250202_000000"))
    )
    bench.load(["NONEUSD"])
    every = {**archives, **gone}
    bench.evaluate(every)
    bench.decide(every)
    for symbol, said in {
        "TINYUSD": "history starts",
        "BRKUSD": "BROKEN_POLICY",
        "NONEUSD": "no 4Hour bars of NONEUSD in",
    }.items():
        row = bench.decisions(symbol)[-1]
        assert row["decision"] == "RETRAIN"
        assert row["reasons"][0].startswith("NO_EVIDENCE: ")
        assert said in row["reasons"][0], row["reasons"]
    bench.decide(every)
    assert [len(bench.decisions(s)) for s in every] == [1, 1, 1]


def test_dropped_models_stay_dropped_however_they_trade(bench: Bench) -> None:
    bench = bench.configured(include_dropped=True)
    archives = ready(bench, {"UPPUSD_4Hour": network(BUY)}, UPPUSD=drop_claims())
    bench.evaluate(archives)
    bench.decide(archives)
    assert decided(bench, "UPPUSD") == ("DROP", ["GATE_DROP"])
    assert bench.decisions("UPPUSD")[0]["as_of"] == END
    assert bench.one("SELECT positive_folds FROM walk_forward_summaries")["positive_folds"] == 5


# --- append-only --------------------------------------------------------------------------------------------


def test_a_decision_is_not_repeated_while_nothing_changed(bench: Bench) -> None:
    archives = ready(
        bench, {"UPPUSD_4Hour": network(BUY), "POORUSD_4Hour": network(BUY)}, POORUSD=drop_claims()
    )
    bench.evaluate(archives)
    first = bench.decide(archives)
    before = bench.rows("SELECT * FROM deployment_decisions ORDER BY ALL")
    bench.evaluate(archives)
    second = bench.decide(archives)
    assert [s.n_current for s in first.symbols] == [0, 0]
    assert [s.n_current for s in second.symbols] == [s.n_rows for s in first.symbols]
    assert bench.rows("SELECT * FROM deployment_decisions ORDER BY ALL") == before


def test_bars_that_come_later_do_not_drop_a_dropped_model_again(bench: Bench) -> None:
    models = {"POORUSD_4Hour": network(BUY)}
    summary = make_summary({"POORUSD_4Hour": drop_claims()})
    archives = bench.intake(bench.deliver(bench.archive(models, summary=summary)))
    bench.put_bars("OTHERUSD")
    for _ in range(2):
        bench.load(["POORUSD"])
        bench.decide(archives)
        bench.put_bars("POORUSD")
    assert [r["decision"] for r in bench.decisions("POORUSD")] == ["DROP"]


def test_what_changes_a_decision_is_appended_beside_the_old_one(bench: Bench) -> None:
    archives = ready(bench, {"UPPUSD_4Hour": network(BUY)})
    bench.evaluate(archives)
    bench.decide(archives)
    costly = bench.configured(crypto_fee_bps=800.0)
    costly.evaluate(archives)
    assert stale(bench) == [(ARCHIVE, ("UPPUSD",))]
    costly.decide(archives)
    assert stale(bench) == []
    strict = costly.configured(thresholds_version="v4.1.0")
    gate_models(strict.platform, archives, run_id="gate")
    strict.decide(archives)
    rows = bench.decisions("UPPUSD")
    assert [r["decision"] for r in rows] == ["LIVE", "DROP", "DROP"]
    assert [r["thresholds_version"] for r in rows] == ["v2.4.5", "v2.4.5", "v4.1.0"]
    assert len({r["inputs_digest"] for r in rows}) == 3
    assert rows[0]["settings_digest"] != rows[1]["settings_digest"] == rows[2]["settings_digest"]
    bench.evaluate(archives)
    bench.decide(archives)
    assert [r["decision"] for r in bench.decisions("UPPUSD")] == ["LIVE", "DROP", "DROP", "LIVE"]


def test_limits_of_the_decision_are_settings(bench: Bench) -> None:
    archives = ready(bench, {"UPPUSD_4Hour": network(BUY)})
    bench.evaluate(archives)
    bench.decide(archives)
    other = bench.configured(good_sharpe_std=0.0, marginal_sharpe_std=0.0)
    other.decide(archives)
    assert [r["decision"] for r in bench.decisions("UPPUSD")] == ["LIVE", "RETRAIN"]


# --- plans and instants -------------------------------------------------------------------------------------


def test_every_plan_has_its_summary_and_decision_and_the_worst_one_counts(bench: Bench) -> None:
    # Rises for half a year, after half a year of fall.
    n_year = 365 * 6 + 200
    frame = bars_frame("falling", n=n_year, end=END)
    rising = bars_frame("rising", n=1090, end=END)
    columns = ["open", "high", "low", "close"]
    level = frame.loc[n_year - 1091, "close"] / rising["close"].iloc[0]
    frame.loc[n_year - 1090 :, columns] = rising[columns].to_numpy() * level
    bench.put_bars("MIXUSD", frame)
    archives = ready(bench, {"MIXUSD_4Hour": network(BUY)})
    bench.evaluate(archives)
    bench.decide(archives)
    bench.evaluate(archives, ("365d",))
    bench.decide(archives)
    rows = bench.decisions("MIXUSD")
    assert [(r["plan"], r["decision"]) for r in rows] == [("180d", "LIVE"), ("365d", "RETRAIN")]
    summaries = bench.rows("SELECT * FROM walk_forward_summaries ORDER BY plan")
    assert [(s["plan"], s["n_folds"], s["positive_folds"]) for s in summaries] == [
        ("180d", 5, 5),
        ("365d", 10, 5),
    ]
    latest = bench.one("SELECT * FROM latest_decisions")
    assert (latest["decision"], latest["plans"], latest["classification"]) == (
        "RETRAIN",
        ["180d", "365d"],
        "APPROVED",
    )
    shown = archive_results(bench.platform, ARCHIVE)
    assert [d["decision"] for d in shown.decisions] == ["LIVE", "RETRAIN"]
    assert (len(shown.gating), len(shown.summaries), len(shown.folds)) == (1, 2, 15)
    assert archive_results(bench.platform, ARCHIVE, ["OTHER"]).folds == []


def test_summaries_are_made_of_the_stored_folds(bench: Bench) -> None:
    archives = ready(bench, {"NSYUSD_4Hour": network(BUY)})
    bench.evaluate(archives)
    report = summarize_folds(bench.platform, archives, run_id="s")
    assert [(s.n_rows, s.problems) for s in report.symbols] == [(1, ())]
    row = bench.one("SELECT * FROM walk_forward_summaries")
    folds = bench.folds("NSYUSD")
    expected = summarize(
        [fold_outcome(f) for f in folds], plan_named("180d").n_folds, folds[0]["bars_per_year"], GradeLimits()
    )
    for name in (
        "positive_folds",
        "n_computed",
        "sharpe_mean",
        "sharpe_std",
        "return_min",
        "best_fold_share",
    ):
        assert row[name] == getattr(expected, name), name
    assert row["sharpe_mean"] == pytest.approx(sum(f["sharpe"] for f in folds) / 5)
    assert row["sharpe_std_expected"] == pytest.approx((365.25 / 36) ** 0.5)
    assert row["consistency_grade"] == expected.consistency_grade
    again = summarize_folds(bench.platform, archives, run_id="again")
    assert [(s.n_rows, s.n_current) for s in again.symbols] == [(1, 1)]
    assert bench.one("SELECT run_id FROM walk_forward_summaries")["run_id"] == "s"
    stricter = bench.configured(live_p_value_archive=0.01)
    made = summarize_folds(stricter.platform, archives, run_id="stricter")
    assert [(s.n_rows, s.n_current) for s in made.symbols] == [(1, 0)]
    assert bench.one("SELECT run_id FROM walk_forward_summaries")["run_id"] == "stricter"


def test_each_instant_has_decisions_of_its_own(bench: Bench) -> None:
    archives = ready(bench, {"UPPUSD_4Hour": network(BUY)})
    earlier = END - timedelta(days=4)
    bench.evaluate(archives, as_of=earlier)
    bench.decide(archives)
    bench.evaluate(archives, as_of=END)
    bench.decide(archives, as_of=earlier)
    assert [r["as_of"] for r in bench.decisions("UPPUSD")] == [earlier], "that one is decided already"
    bench.decide(archives)
    assert [r["as_of"] for r in bench.decisions("UPPUSD")] == [earlier, END]
    assert [r["as_of"] for r in bench.rows("SELECT as_of FROM walk_forward_summaries ORDER BY as_of")] == [
        earlier,
        END,
    ]
    assert bench.one("SELECT as_of FROM latest_decisions")["as_of"] == END
    assert {f["as_of"] for f in archive_results(bench.platform, ARCHIVE).folds} == {END}


# --- completeness -------------------------------------------------------------------------------------------


def test_an_archive_is_complete_when_every_model_is_decided(bench: Bench) -> None:
    archives = ready(
        bench, {"UPPUSD_4Hour": network(BUY), "UPPUSD_1Day": network(BUY), "DWNUSD_4Hour": network(BUY)}
    )
    assert not complete_archive(bench.platform, ARCHIVE, run_id="r")
    bench.evaluate(archives)
    bench.decide({"UPPUSD": ARCHIVE})
    assert bench.one("SELECT status FROM training_archives")["status"] == "EXTRACTED"
    assert undecided_models(bench.platform, ARCHIVE, ["UPPUSD", "DWNUSD"]) == ["DWNUSD_4Hour"]
    bench.decide({"DWNUSD": ARCHIVE})
    assert bench.one("SELECT status FROM training_archives")["status"] == "COMPLETE"
    assert complete_archive(bench.platform, ARCHIVE, run_id="r")
    assert not complete_archive(bench.platform, "20990101_000000", run_id="r")
    daily = bench.rows("SELECT * FROM fold_results WHERE timeframe = '1Day'")
    assert {r["reason"] for r in daily} != {None}, "36 days are too few bars for a fold"


def test_models_that_are_not_extracted_yet_keep_an_archive_open(bench: Bench) -> None:
    file = make_archive(
        bench.root / "two.zip",
        {"AAPL_4Hour": network(BUY), "SPY_4Hour": network(BUY)},
        summary=make_summary({"AAPL_4Hour": drop_claims(), "SPY_4Hour": drop_claims()}),
    )
    delivery = bench.deliver(file)
    archives = bench.intake(delivery, ["AAPL"])
    decide_models(bench.platform, archives, run_id="r")
    assert decided(bench, "AAPL") == ("DROP", ["GATE_DROP"])
    assert bench.one("SELECT status FROM training_archives")["status"] == "RECEIVED"
