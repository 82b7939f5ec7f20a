"""A data directory, bars and archives for tests of the stages, with the real warehouse and the real stores.

Bars are 4Hour ones and windows short, so that a plan of 180 days is computed in a tenth of a second; nothing else is
smaller than in life.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.folds import plan_named
from postval_assets.io.inbox import inspect_archive
from postval_assets.io.warehouse import Warehouse
from postval_assets.pipeline.archives import Delivery, archive_limits, register
from postval_assets.pipeline.bar_checks import SymbolQuality, check_bars
from postval_assets.pipeline.deciding import decide_models
from postval_assets.pipeline.evaluation import (
    EvaluationReport,
    evaluate_backtests,
    evaluate_folds,
)
from postval_assets.pipeline.extraction import extract_models
from postval_assets.pipeline.fold_jobs import selections_of
from postval_assets.pipeline.gate import gate_models
from postval_assets.pipeline.intake_file import take_in
from postval_assets.pipeline.loading import load_bars
from postval_assets.pipeline.platform import Platform, StageReport, open_platform
from postval_assets.pipeline.summarizing import summarize_folds
from postval_assets.settings import Settings
from postval_assets_tests.factories import VERSION_DIMS, good_claims, make_archive, make_policy, make_summary

WINDOW = 8
LOOK_BACK = 139
END = datetime(2025, 2, 1, tzinfo=UTC)
TRAINED = ("2022-01-01T00:00:00Z", "2024-06-01T00:00:00Z")
# 180 days of 4Hour bars, and what the first observation reaches back to.
N_BARS = 180 * 6 + WINDOW + LOOK_BACK + 40

BUY, SELL, HOLD = "BUY", "SELL", "HOLD"
# Number of the action by the number of actions that the model has.
_ACTIONS = {BUY: {3: 1, 7: 3}, SELL: {3: 2, 7: 6}, HOLD: {3: 0, 7: 0}}

Row = dict[str, Any]


class Clock:
    """A clock that a test sets; every look at it is a millisecond later than the last one."""

    def __init__(self, at: datetime) -> None:
        self.at = at

    def __call__(self) -> datetime:
        self.at += timedelta(milliseconds=1)
        return self.at


def bars_frame(
    market: str = "noisy", *, n: int = N_BARS, end: datetime = END, hours: int = 4, seed: int = 1
) -> pd.DataFrame:
    """Bars whose last one closes at ``end``.

    Args:
        market: ``rising`` or ``falling`` in the same steady waves in every fold, or ``noisy``.
        n: bars.
        end: close of the last one.
        hours: length of a bar.
        seed: of the noise.
    """
    ts = pd.date_range(end=end - timedelta(hours=hours), periods=n, freq=f"{hours}h", tz="UTC", unit="us")
    # Counted from the end: earlier bars do not change later ones.
    t = np.arange(-n, 0)
    rng = np.random.default_rng(seed)
    drift = {"rising": 4e-4, "falling": -4e-4, "noisy": 0.0}[market]
    noise = (
        rng.normal(0.0, 0.01, 4 * N_BARS)[-n:].cumsum()
        if market == "noisy"
        else 0.01 * np.sin(t * np.pi / 27)
    )
    close = 100.0 * np.exp(drift * t + noise)
    opened = np.r_[close[0], close[:-1]]
    return pd.DataFrame(
        {
            "ts": ts,
            "open": opened,
            "high": np.maximum(opened, close) * 1.001,
            "low": np.minimum(opened, close) * 0.999,
            "close": close,
            "volume": 1000.0,
        }
    )


def network(
    action: str | None = None, *, version: str = "2.7.0", seed: int = 0, named: bool = True, **overrides: Any
) -> Row:
    """Arguments of ``make_checkpoint``: a network that always takes one action, or a random one.

    Args:
        action: BUY for the largest one, SELL, HOLD; None for random weights.
        version: of the model.
        seed: of its weights.
        named: whether it names its feature set.
        overrides: top-level keys of the checkpoint.
    """
    state = make_policy(version=version, window=WINDOW, seed=seed)
    if action is None:
        state["actor_head.weight"] *= 6.0
    else:
        state["actor_head.weight"][:] = 0.0
        state["actor_head.bias"][:] = 0.0
        state["actor_head.bias"][_ACTIONS[action][VERSION_DIMS[version][1]]] = 1.0
    named_set = {"feature_set": f"reference-{VERSION_DIMS[version][0]}"} if named else {}
    return {
        "version": version,
        "window": WINDOW,
        "overrides": {"policy_state_dict": state, **named_set, **overrides},
    }


@dataclass
class Bench:
    """A data directory with its platform, and a folder of bars."""

    root: Path
    clock: Clock
    platform: Platform
    runs: int = 0

    @property
    def bars(self) -> Path:
        """The folder that the source of bars reads."""
        return self.root / "bars"

    def configured(self, **changes: Any) -> Bench:
        """The same data directory under other settings."""
        given = self.platform.settings.model_dump(exclude_defaults=True)
        return replace(self, platform=open_platform(Settings(**{**given, **changes}), now=self.clock))

    def put_bars(
        self, symbol: str, frame: pd.DataFrame | None = None, *, timeframe: str = "4Hour", **made: Any
    ) -> pd.DataFrame:
        """Put bars where the source reads them; ``made`` goes to ``bars_frame``."""
        frame = bars_frame(**made) if frame is None else frame
        self.bars.mkdir(exist_ok=True)
        frame.assign(symbol=symbol).to_parquet(self.bars / f"{symbol}_{timeframe}.parquet")
        return frame

    def archive(
        self,
        models: Mapping[str, Any],
        *,
        stamp: str = "20250201_000000",
        train: Any = TRAINED,
        **changes: Any,
    ) -> Path:
        """An archive; claims are those that the gate approves unless a summary is given."""
        folder = self.root / "delivered"
        folder.mkdir(exist_ok=True)
        path = folder / f"Alpaca_trading_trained_{stamp}-{len(list(folder.iterdir()))}.zip"
        changes.setdefault("summary", None)
        if changes["summary"] is None:
            changes["summary"] = make_summary(
                {name: good_claims() for name in models}, timestamp=stamp, train=train
            )
        return make_archive(path, models, summary_name=f"training_summary_{stamp}.json", **changes)

    def deliver(self, file: Path, *, busy: Callable[[str], bool] = lambda _: False) -> Delivery:
        """Take a file into the store and register it."""
        ready = inspect_archive(file, archive_limits(self.platform))
        take_in(self.platform, ready)
        return register(self.platform, ready, run_id=self.run_id("deliver"), busy=busy)

    def run_id(self, stage: str) -> str:
        """A new run's id."""
        self.runs += 1
        return f"{stage}-{self.runs}"

    def intake(self, delivery: Delivery, symbols: Sequence[str] | None = None) -> dict[str, str]:
        """Extract and gate; archive_id by symbol."""
        archives = dict.fromkeys(delivery.symbols if symbols is None else symbols, delivery.archive_id)
        extract_models(self.platform, archives, run_id=self.run_id("extract"))
        gate_models(self.platform, archives, run_id=self.run_id("gate"))
        return archives

    def load(self, symbols: Sequence[str]) -> StageReport:
        """Bring bars up to the source's."""
        return load_bars(self.platform, list(symbols), run_id=self.run_id("bars"))

    def check(self, symbols: Sequence[str]) -> tuple[SymbolQuality, ...]:
        """Check what is stored."""
        return check_bars(self.platform, list(symbols), run_id=self.run_id("checks"))

    def evaluate(
        self,
        archives: Mapping[str, str],
        plans: Sequence[str] = ("180d",),
        as_of: datetime | None = None,
    ) -> EvaluationReport:
        """All folds of these plans."""
        wanted = dict.fromkeys(archives, selections_of([plan_named(p) for p in plans]))
        return evaluate_folds(self.platform, archives, wanted, run_id=self.run_id("folds"), as_of=as_of)

    def decide(self, archives: Mapping[str, str], as_of: datetime | None = None) -> StageReport:
        """Summaries and decisions."""
        summarize_folds(self.platform, archives, run_id=self.run_id("summaries"), as_of=as_of)
        return decide_models(self.platform, archives, run_id=self.run_id("decisions"), as_of=as_of)

    def validate(
        self, file: Path, plans: Sequence[str] = ("180d",), as_of: datetime | None = None
    ) -> Delivery:
        """Every stage for one archive."""
        delivery = self.deliver(file)
        archives = self.intake(delivery)
        self.load(delivery.symbols)
        evaluate_backtests(self.platform, archives, run_id=self.run_id("backtests"), as_of=as_of)
        self.evaluate(archives, plans, as_of)
        self.decide(archives, as_of)
        return delivery

    def rows(self, sql: str, *params: object) -> list[Row]:
        """A query on the warehouse."""
        return self.platform.warehouse.rows(sql, params)

    def one(self, sql: str, *params: object) -> Row:
        """The only row of a query."""
        (row,) = self.rows(sql, *params)
        return row

    def folds(self, symbol: str, plan: str = "180d") -> list[Row]:
        """Fold rows of a symbol, in order of as_of, timeframe and fold."""
        return self.rows(
            "SELECT * FROM fold_results WHERE symbol = ? AND plan = ? ORDER BY as_of, timeframe, fold",
            symbol,
            plan,
        )

    def decisions(self, symbol: str) -> list[Row]:
        """Decisions of the standard policy about a symbol, oldest first."""
        return self.rows(
            "SELECT * FROM deployment_decisions WHERE symbol = ? AND policy = 'standard' ORDER BY created_at",
            symbol,
        )


MakeBench = Callable[..., Bench]


@pytest.fixture(scope="session")
def make_bench(tmp_path_factory: pytest.TempPathFactory) -> MakeBench:
    """Makes a fresh data directory below a folder, a day after the bars end; settings may be given.

    Its warehouse is a copy of one that was migrated once.
    """
    empty = Warehouse(tmp_path_factory.mktemp("empty") / "warehouse.duckdb")
    empty.migrate(now=END)

    def make(root: Path, **settings: Any) -> Bench:
        clock = Clock(END + timedelta(days=1))
        given = {
            "data_dir": root / "data",
            "bars_source": f"parquet:{root / 'bars'}",
            "base_timeframe": "4Hour",
            "device": "cpu",
        }
        bench = Bench(root, clock, open_platform(Settings(**{**given, **settings}), now=clock))
        path = bench.platform.warehouse.path
        path.parent.mkdir(parents=True)
        shutil.copyfile(empty.path, path)
        return bench

    return make


@pytest.fixture
def bench(tmp_path: Path, make_bench: MakeBench) -> Bench:
    """A fresh data directory."""
    return make_bench(tmp_path)
