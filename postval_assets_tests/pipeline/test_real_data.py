"""Archives that another program wrote, over real hourly bars: from the file to the decisions."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from postval_assets.core.costs import ExecutionRules
from postval_assets.core.evaluation import EvaluatedModel, evaluate, fold_inputs
from postval_assets.core.features.feature_set import compute_features
from postval_assets.core.folds import BACKTEST, TrainingWindow, cut, newest_close
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.model_spec import LayerKind, ModelSpec
from postval_assets.pipeline.market import model_bars
from postval_assets.pipeline.reading import undecided_models
from postval_assets_tests.core.engine_cases import assert_agrees, first_tie
from postval_assets_tests.core.market_cases import CRYPTO, EQUITY, SIZES
from postval_assets_tests.core.plain_loop import Account, run_plain
from postval_assets_tests.pipeline.conftest import Bench, MakeBench

DATA = Path(__file__).resolve().parents[2] / ".." / "shared" / "data"
GATED = {
    "20250301_180000": {"UNIUSD": "APPROVED", "AAPL": "APPROVED", "BTCUSD": "REVIEW", "SPY": "DROP"},
    "20250115_093000": {"DOGEUSD": "APPROVED", "COST": "REVIEW"},
    "20241220_221500": {"UNIUSD": "APPROVED", "MSFT": "APPROVED"},
}
VERSIONS = {"20250301_180000": "2.7.0", "20250115_093000": "2.6.0", "20241220_221500": "2.3.0"}
ONE_EACH = {"20250301_180000": "AAPL", "20250115_093000": "DOGEUSD", "20241220_221500": "MSFT"}
NOW = datetime(2026, 11, 22, tzinfo=UTC)

pytestmark = [
    pytest.mark.shared_data,
    pytest.mark.skipif(not DATA.exists(), reason="real data is not here"),
]


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory, make_bench: MakeBench) -> Bench:
    """All archives, validated over both plans."""
    bench = make_bench(
        tmp_path_factory.mktemp("real"),
        bars_source=f"parquet:{DATA / 'bars'}",
        base_timeframe="1Hour",
        plans="180d,365d",
    )
    bench.clock.at = NOW
    for archive_id in GATED:
        bench.validate(DATA / "archives" / f"Alpaca_trading_trained_{archive_id}.zip", ("180d", "365d"))
    return bench


@pytest.mark.parametrize("archive_id", GATED)
def test_archives_are_read_as_they_were_written(bench: Bench, archive_id: str) -> None:
    rows = bench.rows(
        "SELECT * FROM extracted_models JOIN gating_scores USING (archive_id, symbol, timeframe) WHERE archive_id = ?",
        archive_id,
    )
    assert {r["symbol"]: r["classification"] for r in rows} == GATED[archive_id]
    for row in rows:
        assert (row["status"], row["timeframe"], row["window"]) == ("OK", "1Hour", 100)
        # 2.4.0, 2.5.0 and 2.6.0 share their dimensions, and the files of the second archive name no version.
        assert row["model_version"] == VERSIONS[archive_id]
        assert row["model_version_basis"] == ("INFERRED" if archive_id == "20250115_093000" else "STATED")
    archive = bench.one("SELECT * FROM training_archives WHERE archive_id = ?", archive_id)
    assert (archive["train_end"] is None) == (archive_id == "20250115_093000")
    assert (archive["status"], archive["n_rejected"]) == ("COMPLETE", 0)


@pytest.mark.parametrize("archive_id", GATED)
def test_every_model_is_decided_over_both_plans(bench: Bench, archive_id: str) -> None:
    assert undecided_models(bench.platform, archive_id, list(GATED[archive_id])) == []
    decisions = bench.rows(
        "SELECT * FROM deployment_decisions WHERE archive_id = ? AND policy = 'standard'", archive_id
    )
    expected = {(symbol, plan) for symbol in GATED[archive_id] for plan in ("180d", "365d")}
    assert {(d["symbol"], d["plan"]) for d in decisions} == expected
    assert len(decisions) == len(expected)
    for d in decisions:
        names = {reason.partition(":")[0] for reason in d["reasons"]}
        if GATED[archive_id][d["symbol"]] == "DROP":
            assert (d["decision"], names, d["as_of"]) == ("DROP", {"GATE_DROP"}, None)
            continue
        assert d["decision"] != "LIVE", "invented networks, with features that were only guessed"
        assert "ASSUMED_FEATURES" in names
        assert ("TRAINING_WINDOW_UNKNOWN" in names) == (archive_id == "20250115_093000")


def test_folds_over_real_bars(bench: Bench) -> None:
    rows = bench.rows("SELECT * FROM fold_results ORDER BY archive_id, symbol, plan, fold")
    assert len(rows) == 7 * 15
    for row in rows:
        assert row["status"] in ("OK", "NO_TRADES"), (row["symbol"], row["reason"])
        assert -1.0 < row["total_return"] < 1.0
        assert row["start_ts"] < row["end_ts"] < row["as_of"]
    per_year = {r["symbol"]: r["bars_per_year"] for r in rows}
    assert per_year["UNIUSD"] == pytest.approx(8766, rel=0.01)
    assert per_year["MSFT"] == pytest.approx(7 * 252, rel=0.05)
    ends = {r["symbol"]: r["as_of"] for r in rows}
    assert ends["UNIUSD"] == datetime(2025, 5, 5, 4, tzinfo=UTC), "the newest bar, not the clock"


class Observed:
    """A network that is shown whole observations, built bar by bar."""

    def __init__(self, spec: ModelSpec, tensors: dict[str, np.ndarray], features: np.ndarray) -> None:
        self.spec = spec
        self.weights = {key: torch.from_numpy(value.copy()) for key, value in tensors.items()}
        self.features = features

    def __call__(self, t: int, account: Account) -> list[float]:
        own = np.array(account[: len(self.spec.account_features)], dtype=np.float32)
        rows = [np.concatenate([self.features[bar], own]) for bar in range(t - 99, t + 1)]
        x = torch.from_numpy(np.concatenate(rows))
        for layer in self.spec.layers:
            if layer.kind is LayerKind.ACTIVATION:
                x = {"relu": torch.relu, "tanh": torch.tanh}[self.spec.activation](x)
                continue
            weight, bias = self.weights[layer.weight_key], self.weights[layer.bias_key or ""]
            if layer.kind is LayerKind.LINEAR:
                x = weight @ x + bias
            else:
                x = (x - x.mean()) / torch.sqrt(x.var(unbiased=False) + 1e-5) * weight + bias
        return x.tolist()


@pytest.mark.parametrize("archive_id", GATED)
def test_thirty_days_are_those_of_the_plain_loop(bench: Bench, archive_id: str) -> None:
    symbol = ONE_EACH[archive_id]
    row = bench.one("SELECT * FROM extracted_models WHERE archive_id = ? AND symbol = ?", archive_id, symbol)
    spec, tensors = bench.platform.models.load(row["model_sha256"])
    feature_set = bench.platform.feature_sets[row["feature_set"]]
    bars = model_bars(bench.platform, symbol, Timeframe.HOUR_1)
    as_of = newest_close(bars, NOW)
    model = EvaluatedModel(row["model_sha256"], spec, tensors, feature_set, TrainingWindow(None, None))
    blocks = cut(bars, BACKTEST, as_of, needed_before=model.needed_before)
    inputs = fold_inputs(model, bars, blocks, as_of, "")
    ((fold,),) = evaluate(model, bars, [(blocks, inputs)], ExecutionRules())

    a, b = fold.block.start, fold.block.stop
    # Real bars begin long before: the features of the block are those of this stretch alone.
    first = a - model.needed_before
    features = np.full((len(bars), len(feature_set.market_features)), np.nan, dtype=np.float32)
    features[first:b] = compute_features(feature_set, bars.slice(first, b))
    rules = CRYPTO if bars.asset_class is AssetClass.CRYPTO else EQUITY
    plain = run_plain(
        bars.open,
        bars.high,
        bars.low,
        bars.close,
        bars.volume,
        a,
        b,
        SIZES[spec.n_actions],
        Observed(spec, tensors, features),
        rules,
    )
    tie = first_tie(plain)
    assert tie is None, f"decision {tie} is a tie in float32: compare another stretch"
    assert fold.run is not None
    assert_agrees(fold.run, plain, a)
    stored = bench.one(
        "SELECT * FROM backtest_results WHERE archive_id = ? AND symbol = ?", archive_id, symbol
    )
    assert fold.metrics is not None
    assert stored["total_return"] == pytest.approx(fold.metrics.total_return, rel=1e-12)
    assert stored["n_trades"] == len(plain.trades)
