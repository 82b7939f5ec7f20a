"""The bundled sample, as committed and as made anew."""

import dataclasses
import hashlib
import io
import json
import sys
import zipfile
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from postval_assets.core.instruments import Timeframe
from postval_assets.trainer.archive_writer import CONFIG_CLASS, CONFIG_MODULE
from postval_assets.trainer.make_sample import (
    SAMPLE_PLAN,
    SAMPLE_README,
    SampleModel,
    SamplePlan,
    make_sample,
)
from postval_assets.trainer.planted_edge import PlantedEdge
from postval_assets.trainer.simulated_market import SAMPLE_SYMBOLS
from postval_assets_tests.trainer.training_cases import SMALL

SAMPLE = Path(__file__).resolve().parents[2] / "data" / "sample"
LAYOUTS = {"2.3.0": (53, 3), "2.6.0": (56, 3), "2.7.0": (59, 7)}

SMALL_PLAN = SamplePlan(
    seed=3,
    first_day=date(2024, 1, 1),
    last_day=date(2024, 7, 31),
    training_cut=datetime(2024, 7, 1, tzinfo=UTC),
    trained_at=datetime(2024, 7, 1, 6, 30, 14, tzinfo=UTC),
    symbols=tuple(s for s in SAMPLE_SYMBOLS if s.symbol in ("UNIUSD", "SPY")),
    edges={"SPY": PlantedEdge(8.0)},
    models=(
        SampleModel("UNIUSD", Timeframe.HOUR_1, dataclasses.replace(SMALL, n_updates=2)),
        SampleModel(
            "SPY",
            Timeframe.HOUR_1,
            dataclasses.replace(SMALL, model_version="2.3.0", layer_norm=True),
            names_feature_set=False,
        ),
    ),
)


class InertConfig:
    """Stands for the trainer's class where a checkpoint is read."""


def digests(root: Path) -> dict[str, str]:
    files = sorted(p for p in root.rglob("*") if p.is_file())
    return {p.relative_to(root).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def load_checkpoint(content: bytes) -> dict[str, Any]:
    with torch.serialization.safe_globals([(InertConfig, f"{CONFIG_MODULE}.{CONFIG_CLASS}")]):
        loaded = torch.load(io.BytesIO(content), weights_only=True)
    assert isinstance(loaded, dict)
    return loaded


def archive_content(path: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """The summary and the checkpoints by SYMBOL_TIMEFRAME."""
    folder = "Alpaca_trading/"
    with zipfile.ZipFile(path) as archive:
        names = archive.namelist()
        assert all(name.startswith(folder) for name in names)
        [summary_name] = [
            n for n in names if n.startswith(f"{folder}training_summary_") and n.endswith(".json")
        ]
        summary = json.loads(archive.read(summary_name))
        assert summary_name == f"{folder}training_summary_{summary['timestamp']}.json"
        models = f"{folder}models/rl_symbols/"
        checkpoints = {
            n.removeprefix(models).removesuffix(".pt"): load_checkpoint(archive.read(n))
            for n in names
            if n.startswith(models)
        }
    return summary, checkpoints


def parse_utc(text: str) -> datetime:
    return datetime.strptime(text, "%Y-%m-%dT%H:%M:%SZ").replace(tzinfo=UTC)


@pytest.fixture(scope="module")
def committed_archive() -> Path:
    [path] = SAMPLE.glob("Alpaca_trading_trained_*.zip")
    return path


@pytest.fixture(scope="module")
def committed(committed_archive: Path) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    return archive_content(committed_archive)


@pytest.fixture(scope="module")
def small_sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("small")
    make_sample(out, SMALL_PLAN)
    return out


def test_made_twice_it_has_the_same_bytes(small_sample: Path, tmp_path: Path) -> None:
    make_sample(tmp_path, SMALL_PLAN)
    first = digests(small_sample)
    assert sorted(first) == [
        "Alpaca_trading_trained_20240701_063014.zip",
        "bars/SPY_1Hour.parquet",
        "bars/UNIUSD_1Hour.parquet",
    ]
    assert digests(tmp_path) == first


def test_another_seed_gives_other_prices_and_networks(small_sample: Path, tmp_path: Path) -> None:
    make_sample(tmp_path, dataclasses.replace(SMALL_PLAN, seed=4))
    first, second = digests(small_sample), digests(tmp_path)
    assert first.keys() == second.keys()
    assert not [name for name in first if first[name] == second[name]]


def test_small_archive_holds_what_was_planned(small_sample: Path) -> None:
    # Nothing of the trainer's stand-in module is left behind by writing.
    assert CONFIG_MODULE not in sys.modules
    summary, checkpoints = archive_content(small_sample / "Alpaca_trading_trained_20240701_063014.zip")
    assert list(checkpoints) == ["UNIUSD_1Hour", "SPY_1Hour"]
    assert len(summary["symbols"]["UNIUSD_1Hour"]["metrics"]["fitness_score"]) == 1
    assert len(summary["symbols"]["SPY_1Hour"]["metrics"]["fitness_score"]) in {1, 2}
    assert (summary["reward_scale"], summary["validation_interval"], summary["n_trials"]) == (0.001, 2, 2)
    assert not {"feature_set", "feature_names"} & checkpoints["SPY_1Hour"].keys()
    assert checkpoints["UNIUSD_1Hour"]["feature_set"] == "reference-59"
    # Bars of the last training day, not of the day after.
    assert checkpoints["UNIUSD_1Hour"]["train_end"] == "2024-06-30T23:00:00Z"
    assert checkpoints["SPY_1Hour"]["train_end"] == "2024-06-28T21:00:00Z"


def test_committed_sample_is_small() -> None:
    assert sum(p.stat().st_size for p in SAMPLE.rglob("*") if p.is_file()) < 5_000_000


def test_committed_readme_says_that_it_is_simulated(committed_archive: Path) -> None:
    text = (SAMPLE / "README.md").read_text(encoding="utf-8")
    assert text == SAMPLE_README
    assert committed_archive.name in text
    assert "Everything here is simulated." in text
    assert "python -m postval_assets.trainer.make_sample --out data/sample" in text


@pytest.mark.parametrize("symbol", [s.symbol for s in SAMPLE_SYMBOLS])
def test_committed_bars_keep_their_layout(symbol: str) -> None:
    table = pq.read_table(SAMPLE / "bars" / f"{symbol}_1Hour.parquet")
    assert {f.name: str(f.type) for f in table.schema} == {
        "symbol": "string",
        "ts": "timestamp[us, tz=UTC]",
        **dict.fromkeys(("open", "high", "low", "close", "volume"), "double"),
    }
    assert table.column("symbol").unique().to_pylist() == [symbol]
    values = {c: table.column(c).to_numpy() for c in ("open", "high", "low", "close", "volume")}
    ts = table.column("ts").to_pylist()
    assert all(a < b for a, b in pairwise(ts))
    assert (values["low"] > 0).all()
    assert (values["low"] <= np.minimum(values["open"], values["close"])).all()
    assert (values["high"] >= np.maximum(values["open"], values["close"])).all()
    assert (values["volume"] >= 0).all()
    assert ts[0].date() <= date(2022, 1, 3)
    assert ts[-1].date() == date(2025, 6, 30)


def test_only_the_stated_bars_are_committed() -> None:
    names = {p.name for p in (SAMPLE / "bars").iterdir()}
    assert names == {f"{s.symbol}_1Hour.parquet" for s in SAMPLE_SYMBOLS}


def test_committed_archive_is_named_after_its_summary(
    committed_archive: Path, committed: tuple[dict[str, Any], dict[str, dict[str, Any]]]
) -> None:
    summary, checkpoints = committed
    assert committed_archive.name == f"Alpaca_trading_trained_{summary['timestamp']}.zip"
    assert (
        set(summary["symbols"])
        == set(checkpoints)
        == {f"{m.symbol}_{m.timeframe}" for m in SAMPLE_PLAN.models}
    )
    trained_at = datetime.strptime(summary["timestamp"], "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
    assert timedelta(0) < trained_at - parse_utc(summary["data"]["end"]) < timedelta(days=1)
    with zipfile.ZipFile(committed_archive) as archive:
        assert {i.date_time for i in archive.infolist()} == {tuple(trained_at.timetuple()[:6])}
        others = [n for n in archive.namelist() if not n.endswith((".pt", ".json"))]
    assert others, "an archive carries files that a reader must ignore"


def test_committed_networks_fit_their_version(
    committed: tuple[dict[str, Any], dict[str, dict[str, Any]]],
) -> None:
    _, checkpoints = committed
    assert {c["model_version"] for c in checkpoints.values()} == set(LAYOUTS)
    assert sum("feature_set" not in c for c in checkpoints.values()) == 1
    for checkpoint in checkpoints.values():
        n_features, n_actions = LAYOUTS[checkpoint["model_version"]]
        assert (checkpoint["n_features"], checkpoint["n_actions"]) == (n_features, n_actions)
        assert checkpoint["obs_dim"] == n_features * checkpoint["window"] == n_features * 100
        assert checkpoint.get("feature_set", f"reference-{n_features}") == f"reference-{n_features}"
        assert sorted(checkpoint["action_meanings"]) == list(range(n_actions))
        assert vars(checkpoint["config"])["activation"] == checkpoint["activation"]
        tensors = checkpoint["policy_state_dict"]
        assert tensors["shared.0.weight"].shape[1] == checkpoint["obs_dim"]
        assert tensors["actor_head.weight"].shape[0] == n_actions
        assert tensors["critic_head.weight"].shape[0] == 1
        assert all(t.dtype == torch.float32 and torch.isfinite(t).all() for t in tensors.values())


def test_committed_training_ends_before_the_last_year(
    committed: tuple[dict[str, Any], dict[str, dict[str, Any]]],
) -> None:
    summary, checkpoints = committed
    for name, checkpoint in checkpoints.items():
        symbol, timeframe = name.split("_")
        delta = timedelta(minutes=Timeframe(timeframe).minutes)
        newest = pq.read_table(SAMPLE / "bars" / f"{symbol}_1Hour.parquet").column("ts").to_pylist()[-1]
        plan_start = newest + timedelta(hours=1) - timedelta(days=365)
        end = parse_utc(checkpoint["train_end"])
        assert end + delta < plan_start
        assert end <= parse_utc(summary["data"]["end"])
        assert parse_utc(checkpoint["train_start"]) >= parse_utc(summary["data"]["start"])


def test_committed_claims_are_fractions_of_equal_length(
    committed: tuple[dict[str, Any], dict[str, dict[str, Any]]],
) -> None:
    summary, _ = committed
    for entry in summary["symbols"].values():
        metrics = {k: np.array(v) for k, v in entry["metrics"].items()}
        assert set(metrics) == {"fitness_score", "profit_factor", "consistency", "max_drawdown"}
        assert len({len(v) for v in metrics.values()}) == 1
        assert all(np.isfinite(v).all() and (v >= 0).all() for v in metrics.values())
        for name in ("fitness_score", "consistency", "max_drawdown"):
            assert (metrics[name] <= 1).all()
