"""A plug-in that looks ahead is refused by name in every fold of its models, and its neighbours go on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.failures import Rejected
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.features.reference import REFERENCE_59, reference_features
from postval_assets.pipeline.evaluation import evaluate_backtests
from postval_assets.pipeline.single_model import backtest_model
from postval_assets_tests.factories import make_checkpoint
from postval_assets_tests.pipeline.conftest import END, Bench, network

SYMBOLS = ("BTCUSD", "ETHUSD")


def acme(change: Callable[[np.ndarray, pd.DataFrame], None]) -> FeatureSet:
    """A plug-in: the reference's values with a change."""

    def compute(frame: pd.DataFrame) -> np.ndarray:
        values = reference_features(frame)
        change(values, frame)
        return values

    return replace(REFERENCE_59, name="acme-59", compute=compute)


def unchanged(values: np.ndarray, frame: pd.DataFrame) -> None:
    assert values.shape == (len(frame), 53)


def ahead(values: np.ndarray, frame: pd.DataFrame) -> None:
    values[:, 0] = np.log(frame["close"].shift(-1) / frame["close"]).fillna(0.0)


def normalised(values: np.ndarray, frame: pd.DataFrame) -> None:
    values[:, 5] = (frame["close"] - frame["close"].mean()) / frame["close"].std()


def endless(values: np.ndarray, frame: pd.DataFrame) -> None:
    values[:, 0] = frame["close"] / frame["close"].expanding().mean()


def longer_bar(values: np.ndarray, frame: pd.DataFrame) -> None:
    longer = frame.set_index("ts")["close"].resample("1D").last()
    values[:, 10] = np.log(longer.reindex(frame["ts"].dt.floor("1D")).to_numpy() / frame["close"])


def with_set(bench: Bench, feature_set: FeatureSet) -> Bench:
    sets = {**bench.platform.feature_sets, feature_set.name: feature_set}
    return replace(bench, platform=replace(bench.platform, feature_sets=sets))


def ready(bench: Bench, feature_set: FeatureSet) -> tuple[Bench, dict[str, str]]:
    """BTCUSD has a model of the plug-in, ETHUSD one of the reference; gated, with bars loaded."""
    bench = with_set(bench, feature_set)
    for n, symbol in enumerate(SYMBOLS):
        bench.put_bars(symbol, seed=n + 1)
    models = {"BTCUSD_4Hour": network(feature_set="acme-59"), "ETHUSD_4Hour": network(seed=1)}
    archives = bench.intake(bench.deliver(bench.archive(models)))
    bench.load(SYMBOLS)
    return bench, archives


@pytest.mark.parametrize("change", [ahead, normalised, longer_bar], ids=lambda c: c.__name__)
def test_it_is_refused_in_every_fold_and_its_neighbour_is_evaluated(
    bench: Bench, change: Callable[[np.ndarray, pd.DataFrame], None]
) -> None:
    bench, archives = ready(bench, acme(change))
    report = {s.symbol: s for s in bench.evaluate(archives).symbols}
    rows = bench.folds("BTCUSD")
    assert [r["status"] for r in rows] == ["NOT_EVALUATED"] * 5
    names = {"ahead": "log_return", "normalised": "lower_shadow", "longer_bar": "atr_14"}
    told = f"LOOKS_AHEAD: feature {names[change.__name__]} of set acme-59: its value at 2024-"
    assert {r["reason"][: len(told)] for r in rows} == {told}
    assert len({r["reason"] for r in rows}) == 1, "one verdict about the set, not one a fold"
    assert all(r["total_return"] is None for r in rows)
    assert len(report["BTCUSD"].problems) == 5
    assert [r["status"] for r in bench.folds("ETHUSD")] == ["OK"] * 5
    assert report["ETHUSD"].problems == ()


def test_it_is_decided_with_the_reason_and_never_live(bench: Bench) -> None:
    bench, archives = ready(bench, acme(ahead))
    evaluate_backtests(bench.platform, archives, run_id="backtests")
    bench.evaluate(archives)
    bench.decide(archives)
    [backtest] = bench.rows("SELECT * FROM backtest_results WHERE symbol = 'BTCUSD'")
    assert backtest["status"] == "NOT_EVALUATED"
    assert "of set acme-59" in backtest["reason"]
    [decision] = bench.decisions("BTCUSD")
    assert decision["decision"] == "DROP"
    assert any("of set acme-59" in reason for reason in decision["reasons"])


def test_another_broken_promise_refuses_the_folds_and_not_the_model(bench: Bench) -> None:
    bench, archives = ready(bench, acme(endless))
    bench.evaluate(archives)
    bench.decide(archives)
    told = "feature set acme-59 on bars of BTCUSD (4Hour): log_return sees more than its look-back: at 2024-"
    assert {r["reason"][: len(told)] for r in bench.folds("BTCUSD")} == {told}
    found = bench.one("SELECT * FROM policy_causality WHERE symbol = 'BTCUSD'")
    assert (found["status"], found["feature"], found["reason"]) == (
        "NOT_CHECKED",
        None,
        bench.folds("BTCUSD")[0]["reason"],
    )
    assert bench.one("SELECT status FROM extracted_models WHERE symbol = 'BTCUSD'") == {"status": "OK"}
    [decision] = bench.decisions("BTCUSD")
    assert decision["decision"] == "RETRAIN"
    # Its folds are tried anew each time, so a set that is mended needs no new archive.
    mended = with_set(bench, acme(unchanged))
    assert [s.problems for s in mended.evaluate(archives).symbols] == [(), ()]


def test_an_honest_plug_in_is_evaluated_and_gives_what_the_reference_gives(bench: Bench) -> None:
    bench, archives = ready(bench, acme(unchanged))
    assert [s.problems for s in bench.evaluate(archives).symbols] == [(), ()]
    plugged = [r["total_return"] for r in bench.folds("BTCUSD")]
    assert [r["status"] for r in bench.folds("BTCUSD")] == ["OK"] * 5
    as_reference = with_set(bench, replace(REFERENCE_59, name="acme-59", version="other"))
    as_reference.evaluate(archives)
    assert [r["total_return"] for r in bench.folds("BTCUSD")] == plugged


def test_a_single_backtest_refuses_it_too(bench: Bench) -> None:
    bench = with_set(bench, acme(ahead))
    bench.put_bars("BTCUSD")
    file = make_checkpoint(bench.root / "BTCUSD_4Hour.pt", **network(feature_set="acme-59"))
    with pytest.raises(
        Rejected, match=r"feature set acme-59 on bars of BTCUSD .*: log_return sees later bars"
    ):
        backtest_model(bench.platform, file, days=90, n_folds=3, as_of=END)
