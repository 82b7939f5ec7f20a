"""One model file over recent bars, without an archive."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from postval_assets.core.failures import Rejected
from postval_assets.core.model_spec import Incompatible
from postval_assets.pipeline.single_model import backtest_model
from postval_assets_tests.factories import make_checkpoint
from postval_assets_tests.pipeline.conftest import BUY, END, N_BARS, Bench, network


def model_file(bench: Bench, name: str = "UPPUSD_4Hour.pt", **changes: object) -> Path:
    return make_checkpoint(bench.root / name, **network(BUY, **changes))  # type: ignore[arg-type]


def test_the_folds_are_those_of_the_pipeline(bench: Bench) -> None:
    bench.put_bars("UPPUSD")
    file = make_checkpoint(bench.root / "UPPUSD_4Hour.pt", **network(seed=3))
    bench.validate(bench.archive({"UPPUSD_4Hour": file}))
    single = backtest_model(bench.platform, file, days=180, n_folds=5)
    stored = bench.folds("UPPUSD")
    for mine, theirs in zip(single.folds, stored, strict=True):
        for name in (
            "fold",
            "start_ts",
            "end_ts",
            "n_bars",
            "status",
            "total_return",
            "sharpe",
            "n_trades",
            "fees",
        ):
            assert mine[name] == theirs[name], name
    summary = bench.one("SELECT * FROM walk_forward_summaries")
    for name in ("positive_folds", "sharpe_mean", "sharpe_std", "consistency_grade"):
        assert single.summary[name] == summary[name], name
    assert single.summary["plan"] == "180d"
    assert {f["training_overlap"] for f in single.folds} == {"UNKNOWN"}, "the archive is what knows it"
    assert single.notes[:2] == ("features reference-59 (NAMED)", "activation relu (NAMED)")


def test_days_folds_and_capital(bench: Bench) -> None:
    bench.put_bars("UPPUSD", market="rising")
    rich = bench.configured(capital=5_000.0)
    single = backtest_model(rich.platform, model_file(bench), days=30, n_folds=1)
    (fold,) = single.folds
    assert (fold["n_bars"], fold["n_folds"], fold["start_ts"]) == (180, 1, END - timedelta(days=30))
    assert fold["total_return"] > 0.0
    assert fold["gross_profit"] == pytest.approx(fold["total_return"] * 5_000.0)
    assert not (bench.platform.settings.data_dir / "weights").exists(), "nothing is stored"


def test_as_of(bench: Bench) -> None:
    bench.put_bars("UPPUSD")
    earlier = END - timedelta(days=3, hours=1)
    single = backtest_model(bench.platform, model_file(bench), days=30, n_folds=2, as_of=earlier)
    assert single.summary["as_of"] == END - timedelta(days=3, hours=4)
    assert (single.summary["n_folds"], single.summary["n_computed"], len(single.folds)) == (2, 2, 2)
    assert single.folds[-1]["end_ts"] == END - timedelta(days=3, hours=8)
    bench.clock.at = END - timedelta(days=1)
    newest = backtest_model(bench.platform, model_file(bench), days=30, n_folds=1).summary
    assert newest["as_of"] == END - timedelta(days=1)


def test_what_was_assumed_is_said(bench: Bench) -> None:
    bench.put_bars("UPPUSD")
    spoken = network(BUY, named=False)
    file = make_checkpoint(bench.root / "UPPUSD_4Hour.pt", activation=None, with_metadata=False, **spoken)
    with pytest.raises(Incompatible):
        backtest_model(bench.platform, file, days=30, n_folds=1)
    file = make_checkpoint(bench.root / "UPPUSD_4Hour.pt", activation=None, **spoken)
    notes = backtest_model(bench.platform, file, days=30, n_folds=1).notes
    assert notes[:2] == ("features reference-59 (ASSUMED)", "activation relu (ASSUMED)")
    configured = bench.configured(feature_sets={"2.7.0": "reference-59"}, default_activation="tanh")
    notes = backtest_model(configured.platform, file, days=30, n_folds=1).notes
    assert notes[:2] == ("features reference-59 (CONFIGURED)", "activation tanh (ASSUMED)")


def test_too_little_history_is_a_fold_with_its_reason(bench: Bench) -> None:
    bench.put_bars("UPPUSD", n=400)
    single = backtest_model(bench.platform, model_file(bench), days=180, n_folds=5)
    assert [f["status"] for f in single.folds] == ["INSUFFICIENT_DATA"] * 5
    assert single.summary["n_computed"] == 0


def test_names_of_files(bench: Bench) -> None:
    bench.put_bars("BRK.B", timeframe="1Hour", n=4 * N_BARS, hours=1)
    bare = backtest_model(bench.platform, model_file(bench, "BRK.B.pt"), days=30, n_folds=1)
    assert (bare.summary["symbol"], bare.summary["timeframe"]) == ("BRK.B", "1Hour")
    bench.put_bars("UPPUSD")
    named = backtest_model(
        bench.platform, model_file(bench, "best_4Hour.pt"), days=30, n_folds=1, symbol="UPP/USD"
    )
    assert (named.summary["symbol"], named.summary["timeframe"]) == ("UPPUSD", "4Hour")
    for name in ("best_4Hour.pt", "UPPUSD_7Hour.pt"):
        with pytest.raises(Rejected, match=f"{name}: .*expected a name such as UNIUSD_1Hour.pt, or --symbol"):
            backtest_model(bench.platform, model_file(bench, name), days=30, n_folds=1)


def test_bars_that_are_not_there(bench: Bench) -> None:
    with pytest.raises(Rejected, match="does not exist"):
        backtest_model(bench.platform, model_file(bench), days=30, n_folds=1)
    bench.put_bars("OTHER")
    with pytest.raises(Rejected, match="no 4Hour bars of UPPUSD"):
        backtest_model(bench.platform, model_file(bench), days=30, n_folds=1)
    bench.put_bars("UPPUSD")
    with pytest.raises(Rejected, match="has no complete 4Hour bar by"):
        backtest_model(bench.platform, model_file(bench), days=30, n_folds=1, as_of=END - timedelta(days=900))
