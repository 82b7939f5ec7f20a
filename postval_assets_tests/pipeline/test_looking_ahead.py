"""A model that looks ahead is REJECTED with the feature's name in the run that evaluates it, and stays so."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from postval_assets.core import evaluation
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.features.reference import REFERENCE_59, reference_features
from postval_assets.core.folds import plan_named
from postval_assets.core.policy import PolicyNetwork
from postval_assets.pipeline import looking_ahead
from postval_assets.pipeline.evaluation import evaluate_backtests, evaluate_folds
from postval_assets.pipeline.fold_jobs import FoldSelection
from postval_assets.pipeline.looking_ahead import as_found, as_known, is_news
from postval_assets.pipeline.replay_sources import model_facts, open_source, with_findings
from postval_assets_tests.factories import VERSION_DIMS
from postval_assets_tests.pipeline.conftest import END, Bench, bars_frame, network

Change = Callable[[np.ndarray, pd.DataFrame], None]
LEAKY, HONEST = "BTCUSD", "ETHUSD"


def shifted(values: np.ndarray, frame: pd.DataFrame) -> None:
    values[:, 0] = np.log(frame["close"].shift(-1) / frame["close"]).fillna(0.0)


def normalised_over_all(values: np.ndarray, frame: pd.DataFrame) -> None:
    values[:, 5] = (frame["close"] - frame["close"].mean()) / frame["close"].std()


def longer_bar_from_its_start(values: np.ndarray, frame: pd.DataFrame) -> None:
    longer = frame.set_index("ts")["close"].resample("1D").last()
    values[:, 10] = np.log(longer.reindex(frame["ts"].dt.floor("1D")).to_numpy() / frame["close"])


def centred(values: np.ndarray, frame: pd.DataFrame) -> None:
    values[:, 45] = frame["close"].rolling(7, center=True, min_periods=1).mean() / frame["close"]


def nothing(values: np.ndarray, frame: pd.DataFrame) -> None:
    assert values.shape == (len(frame), 53)


LEAKS: tuple[Change, ...] = (shifted, normalised_over_all, longer_bar_from_its_start, centred)
NAMES = {
    "shifted": "log_return",
    "normalised_over_all": "lower_shadow",
    "longer_bar_from_its_start": "atr_14",
    "centred": "sma_distance_50",
}


def acme(change: Change, version: str = "1") -> FeatureSet:
    """A plug-in: the reference's values with a change."""

    def compute(frame: pd.DataFrame) -> np.ndarray:
        values = reference_features(frame)
        change(values, frame)
        return values

    return replace(REFERENCE_59, name="acme-59", version=version, compute=compute)


def with_set(bench: Bench, feature_set: FeatureSet) -> Bench:
    sets = {**bench.platform.feature_sets, feature_set.name: feature_set}
    return replace(bench, platform=replace(bench.platform, feature_sets=sets))


def ready(bench: Bench, change: Change) -> tuple[Bench, dict[str, str]]:
    """BTCUSD has a model of the plug-in, ETHUSD one of the reference; gated, with bars loaded."""
    bench = with_set(bench, acme(change))
    for n, symbol in enumerate((LEAKY, HONEST)):
        bench.put_bars(symbol, seed=n + 1)
    models = {f"{LEAKY}_4Hour": network(feature_set="acme-59"), f"{HONEST}_4Hour": network(seed=1)}
    archives = bench.intake(bench.deliver(bench.archive(models)))
    bench.load([LEAKY, HONEST])
    return bench, archives


def finding(bench: Bench, symbol: str) -> dict[str, Any]:
    return bench.one("SELECT * FROM policy_causality WHERE symbol = ?", symbol)


def model(bench: Bench, symbol: str) -> dict[str, Any]:
    return bench.one("SELECT * FROM extracted_models WHERE symbol = ?", symbol)


@pytest.fixture(params=["with the check of plug-ins", "without it"])
def first_look(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """The test of every model finds by itself what the check of plug-ins finds before it."""
    if request.param == "without it":
        monkeypatch.setattr(evaluation, "require_causal", lambda *_: None)


@pytest.mark.usefixtures("first_look")
@pytest.mark.parametrize("leak", LEAKS, ids=lambda c: c.__name__)
def test_each_kind_of_leak_rejects_its_model_by_name_and_no_other(bench: Bench, leak: Change) -> None:
    bench, archives = ready(bench, leak)
    report = {s.symbol: s for s in bench.evaluate(archives).symbols}
    name = NAMES[leak.__name__]
    found, rejected = finding(bench, LEAKY), model(bench, LEAKY)
    assert (found["status"], found["feature"]) == ("LOOKS_AHEAD", name)
    assert (found["feature_set"], found["feature_set_version"]) == ("acme-59", "1")
    assert found["model_sha256"] == rejected["model_sha256"]
    told = f"LOOKS_AHEAD: feature {name} of set acme-59: its value at 20"
    assert found["reason"].startswith(told)
    assert " changes when bars after it change (" in found["reason"]
    assert (rejected["status"], rejected["reason"]) == ("REJECTED", found["reason"])
    folds = bench.folds(LEAKY)
    assert [(r["status"], r["reason"]) for r in folds] == [("NOT_EVALUATED", found["reason"])] * 5
    assert all(r["total_return"] is None for r in folds)
    assert len(report[LEAKY].problems) == 5
    bench.decide(archives)
    [decision] = bench.decisions(LEAKY)
    assert decision["decision"] == "DROP"
    assert decision["reasons"][0] == f"MODEL_NOT_OK: {found['reason']}"
    # The neighbour.
    assert [r["status"] for r in bench.folds(HONEST)] == ["OK"] * 5
    assert report[HONEST].problems == ()
    assert model(bench, HONEST)["status"] == "OK"
    other = finding(bench, HONEST)
    assert (other["status"], other["feature"], other["reason"], other["n_ties"]) == ("CAUSAL", None, None, 0)
    assert other["n_instants"] == 2
    [decision] = bench.decisions(HONEST)
    assert not any("LOOKS_AHEAD" in reason for reason in decision["reasons"])


def test_models_of_every_version_pass_and_say_which_bars_were_tested(bench: Bench) -> None:
    models = {f"V{v.replace('.', '')}USD_4Hour": network(version=v) for v in VERSION_DIMS}
    symbols = [name.partition("_")[0] for name in models]
    for n, symbol in enumerate(symbols):
        bench.put_bars(symbol, seed=n)
    archives = bench.intake(bench.deliver(bench.archive(models)))
    bench.load(symbols)
    bench.evaluate(archives)
    rows = bench.rows("SELECT * FROM policy_causality ORDER BY symbol")
    assert len(rows) == len(VERSION_DIMS) == 5
    for row in rows:
        assert (row["status"], row["feature"], row["reason"]) == ("CAUSAL", None, None), row["symbol"]
        assert row["as_of"] == END
        assert row["last_ts"] == END - timedelta(hours=4)
        first = bench.folds(row["symbol"])[0]["start_ts"]
        assert row["first_ts"] == first - timedelta(hours=4 * (8 + 139)), (
            "window and look-back before the folds"
        )
    before = rows
    bench.evaluate(archives)
    assert bench.rows("SELECT * FROM policy_causality ORDER BY symbol") == before, (
        "nothing was computed again"
    )


def test_a_leak_that_only_an_action_shows_rejects_the_model(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = PolicyNetwork.first_layers

    def first_layers(self: PolicyNetwork, several: list[np.ndarray]) -> list[torch.Tensor]:
        return [torch.cat([sums[1:], sums[-1:]]) for sums in original(self, several)]

    bench, archives = ready(bench, nothing)
    with monkeypatch.context() as patch:
        patch.setattr(PolicyNetwork, "first_layers", first_layers)
        # What is chosen of seven need not change at one instant: several models are tried.
        bench.evaluate(archives)
        for day in range(1, 6):
            bench.evaluate(archives, as_of=END - timedelta(days=day))
    ahead = bench.rows("SELECT * FROM policy_causality WHERE status = 'LOOKS_AHEAD'")
    assert ahead
    for row in ahead:
        assert row["feature"] is None
        assert row["reason"].startswith("LOOKS_AHEAD: the action at 20")
        assert model(bench, row["symbol"])["reason"] == row["reason"]


def test_blocks_that_were_computed_before_are_refused_with_the_others(bench: Bench) -> None:
    bench, archives = ready(bench, nothing)
    some = {s: [FoldSelection(plan_named("180d"), frozenset({1, 2, 3}))] for s in archives}
    evaluate_folds(bench.platform, archives, some, run_id="some")
    assert [r["status"] for r in bench.folds(LEAKY)] == ["OK"] * 3
    assert finding(bench, LEAKY)["status"] == "CAUSAL"
    # The same name and version, against the rule: only the folds that are missing are computed.
    changed = with_set(bench, acme(shifted))
    changed.evaluate(archives)
    assert [r["status"] for r in bench.folds(LEAKY)] == ["NOT_EVALUATED"] * 5
    assert bench.rows("SELECT 1 FROM equity_curves WHERE symbol = ?", LEAKY) == []
    assert finding(bench, LEAKY)["status"] == "LOOKS_AHEAD"


def test_it_stays_rejected_when_its_archive_is_extracted_again_until_the_set_is_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench, archives = ready(bench, shifted)
    delivery = bench.one("SELECT archive_id FROM training_archives")["archive_id"]
    bench.evaluate(archives)
    reason = finding(bench, LEAKY)["reason"]

    def again(among: Bench) -> None:
        from postval_assets.pipeline.extraction import extract_models

        extract_models(among.platform, archives, run_id=among.run_id("again"))

    again(bench)
    assert (model(bench, LEAKY)["status"], model(bench, LEAKY)["reason"]) == ("REJECTED", reason)
    # Read anew from the archive, because another plug-in was installed.
    other = with_set(bench, replace(acme(nothing), name="other-59"))
    digest = model(bench, LEAKY)["inputs_digest"]
    again(other)
    assert model(bench, LEAKY)["inputs_digest"] != digest
    assert (model(bench, LEAKY)["status"], model(bench, LEAKY)["reason"]) == ("REJECTED", reason)
    assert model(bench, HONEST)["status"] == "OK"
    other.evaluate(archives)
    assert [r["status"] for r in bench.folds(LEAKY)] == ["NOT_EVALUATED"] * 5
    # Another code may have a better test: it is tried again, and found again.
    with monkeypatch.context() as patch:
        patch.setattr(looking_ahead, "code_version", lambda: "another")
        patch.setattr("postval_assets.pipeline.extraction.code_version", lambda: "another")
        again(other)
        assert model(bench, LEAKY)["status"] == "OK"
        other.evaluate(archives)
        assert model(bench, LEAKY)["status"] == "REJECTED"
    # Mended, and said so.
    mended = with_set(bench, acme(nothing, version="2"))
    again(mended)
    assert model(bench, LEAKY)["status"] == "OK"
    assert [s.problems for s in mended.evaluate(archives).symbols] == [(), ()]
    assert [r["status"] for r in bench.folds(LEAKY)] == ["OK"] * 5
    assert finding(bench, LEAKY)["status"] == "CAUSAL"
    again(mended)
    assert model(bench, LEAKY)["status"] == "OK"
    assert delivery == archives[LEAKY]


def test_what_is_too_short_or_stopped_is_not_checked_and_forgets_nothing(bench: Bench) -> None:
    bench.put_bars(LEAKY, bars_frame(n=180 * 6 + 20))
    archives = bench.intake(bench.deliver(bench.archive({f"{LEAKY}_4Hour": network()})))
    bench.load([LEAKY])
    one = {LEAKY: [FoldSelection(plan_named("180d"), frozenset({1}))]}
    evaluate_folds(bench.platform, archives, one, run_id="one")
    row = finding(bench, LEAKY)
    assert (row["status"], row["n_instants"], row["reason"]) == (
        "NOT_CHECKED",
        0,
        "no block could be evaluated",
    )
    assert model(bench, LEAKY)["status"] == "OK"
    bench.evaluate(archives)
    row = finding(bench, LEAKY)
    assert row["status"] == "CAUSAL"
    assert [r["status"] for r in bench.folds(LEAKY)] == ["INSUFFICIENT_DATA", *["OK"] * 4]
    # The block that cannot be evaluated is current: asked for alone it changes nothing.
    evaluate_folds(bench.platform, archives, one, run_id="one again")
    assert finding(bench, LEAKY) == row
    assert not is_news({**row, "status": "NOT_CHECKED"}, [row])
    assert is_news({**row, "status": "NOT_CHECKED", "model_sha256": "other"}, [row])
    assert is_news({**row, "status": "NOT_CHECKED", "as_of": END - timedelta(days=1)}, [row])
    assert is_news({**row, "status": "LOOKS_AHEAD"}, [row])


def test_a_backtest_of_it_is_refused_in_the_same_words(bench: Bench) -> None:
    bench, archives = ready(bench, shifted)
    evaluate_backtests(bench.platform, archives, run_id="backtests")
    row = bench.one("SELECT * FROM backtest_results WHERE symbol = ?", LEAKY)
    assert row["status"] == "NOT_EVALUATED"
    assert row["reason"].startswith("LOOKS_AHEAD: feature log_return of set acme-59: its value at 20")
    assert bench.rows("SELECT 1 FROM policy_causality") == [], "its folds decide"


def test_findings_count_for_what_they_are_about() -> None:
    ok = {"status": "OK", "reason": None, "model_sha256": "m", "feature_set": "s", "feature_set_version": "1"}
    about = {**ok, "code_version": looking_ahead.code_version()}
    ahead = {**about, "status": "LOOKS_AHEAD", "reason": "LOOKS_AHEAD: x"}
    causal = {**about, "status": "CAUSAL", "reason": None}
    rejected = {**ok, "status": "REJECTED", "reason": "LOOKS_AHEAD: x"}
    assert as_found(ok, [ahead]) == as_known(ok, [ahead]) == rejected
    assert as_found(ok, [causal]) == as_known(ok, []) == ok
    for name in ("model_sha256", "feature_set", "feature_set_version"):
        assert as_found(ok, [{**ahead, name: "other"}]) == as_known(ok, [{**ahead, name: "other"}]) == ok
    old = {**ahead, "code_version": "old"}
    assert as_found(ok, [old]) == ok, "tried again"
    assert as_known(ok, [old]) == rejected, "it was so then"
    assert as_known(ok, [old, causal]) == ok
    bad = {**ok, "status": "INCOMPATIBLE", "reason": "y"}
    assert as_found(bad, [ahead]) == as_known(bad, [ahead]) == bad


def test_a_replayed_decision_is_told_what_was_known_of_the_model_by_then(bench: Bench) -> None:
    bench, archives = ready(bench, shifted)
    before = bench.platform.now()
    bench.evaluate(archives)
    bench.decide(archives)
    after = bench.platform.now()
    with open_source(bench.platform, archives[LEAKY]) as source:
        facts, _ = model_facts(bench.platform, bench.platform, source, LEAKY, "4Hour", None)
    assert facts["status"] == "OK", "as the archive has it"
    assert with_findings(bench.platform, facts, before)["status"] == "OK"
    then = with_findings(bench.platform, facts, after)
    assert (then["status"], then["reason"]) == ("REJECTED", finding(bench, LEAKY)["reason"])
    # The table's row, where the archive is gone.
    stored = {**facts, **model(bench, LEAKY)}
    assert with_findings(bench.platform, stored, before)["status"] == "OK"
    assert with_findings(bench.platform, stored, after)["status"] == "REJECTED"
