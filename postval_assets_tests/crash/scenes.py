"""What is going on when a process is killed: a data directory, and an archive that is validated in it.

Here: making them, small enough that one run takes seconds. Not here: killing (victim.py, trials.py), or what is looked
at afterwards (looking.py).
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from postval_assets.commands.runs import validate
from postval_assets.core.folds import plan_named
from postval_assets.defs import resources
from postval_assets.io.inbox import inspect_archive
from postval_assets.pipeline.archives import archive_limits, register
from postval_assets.pipeline.bar_checks import check_bars
from postval_assets.pipeline.deciding import decide_models
from postval_assets.pipeline.evaluation import evaluate_backtests, evaluate_folds
from postval_assets.pipeline.evidencing import archives_to_weigh, weigh_archive
from postval_assets.pipeline.extraction import extract_models
from postval_assets.pipeline.fold_jobs import selections_of
from postval_assets.pipeline.gate import gate_models
from postval_assets.pipeline.intake_file import take_in
from postval_assets.pipeline.loading import load_bars
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.pipeline.summarizing import summarize_folds
from postval_assets.settings import Settings
from postval_assets_tests.factories import drop_claims, good_claims, make_archive, make_summary
from postval_assets_tests.pipeline.conftest import BUY, END, TRAINED, Clock, bars_frame, network

FIRST, SECOND = "20250201_000000", "20250202_000000"
PLANS = ("180d",)

_MODELS = {
    FIRST: {
        "AAPL_4Hour": network(None, seed=1),
        "BAD_4Hour": b"no checkpoint at all",
        "BTCUSD_4Hour": network(BUY, seed=2),
        "SPY_4Hour": network(BUY, seed=3),
    },
    SECOND: {
        "AAPL_4Hour": network(None, seed=4),
        "ETHUSD_4Hour": network(BUY, seed=5),
    },
}
# The gate lets all pass but this one, which then has a decision and no folds.
_DROPPED = "SPY_4Hour"
_MARKETS = {"AAPL": "noisy", "BTCUSD": "rising", "ETHUSD": "falling", "SPY": "rising"}


@dataclass(frozen=True)
class Scene:
    """Something that can be disturbed.

    Attributes:
        name: for people.
        before: the data directory that it begins with; None for one that is not there yet.
        file: the archive that is validated.
        bars: the folder that bars are read from.
        by_dagster: as ``postval validate`` does it, in a run of Dagster's; else the stages alone, which takes a third
            of the time and is all of what writes rows, weights and the replica.
    """

    name: str
    before: Path | None
    file: Path
    bars: Path
    by_dagster: bool

    def settings(self, data_dir: Path) -> Settings:
        """Settings over a copy of the data directory."""
        return Settings(
            data_dir=data_dir,
            bars_source=f"parquet:{self.bars}",
            base_timeframe="4Hour",
            device="cpu",
            workers=2,
            lock_timeout_s=20.0,
        )

    def act(self, data_dir: Path, *, later: timedelta = timedelta()) -> None:
        """Validate the archive, a day after the bars end or ``later``; for a process of its own."""
        opened = functools.partial(open_platform, now=Clock(END + timedelta(days=1) + later))
        platform = opened(self.settings(data_dir))
        if not self.by_dagster:
            _run_stages(platform, self.file)
            return
        # The assets open the platform themselves; by the system's clock the newest bar would age from run to run.
        resources.open_platform = opened
        validate(platform, self.file, symbols=None, plans=PLANS, as_of=None)


def _run_stages(platform: Platform, file: Path) -> None:
    """What the assets do, one after the other."""
    ready = inspect_archive(file, archive_limits(platform))
    take_in(platform, ready)
    delivery = register(platform, ready, run_id="deliver", busy=lambda _: False)
    archives = dict.fromkeys(delivery.symbols, delivery.archive_id)
    extract_models(platform, archives, run_id="extract")
    gate_models(platform, archives, run_id="gate")
    load_bars(platform, delivery.symbols, run_id="bars")
    check_bars(platform, delivery.symbols, run_id="bars")
    evaluate_backtests(platform, archives, run_id="backtests")
    wanted = dict.fromkeys(archives, selections_of([plan_named(p) for p in PLANS]))
    evaluate_folds(platform, archives, wanted, run_id="folds")
    summarize_folds(platform, archives, run_id="summaries")
    decide_models(platform, archives, run_id="decisions")
    for archive_id in archives_to_weigh(platform):
        weigh_archive(platform, archive_id, run_id="evidence")
    platform.warehouse.publish(platform.replica)


def make_scenes(folder: Path) -> tuple[Scene, ...]:
    """An archive into a data directory that is not there yet, and a second one into a directory that has the first.

    The second one's directory is still to be made, as what the first scene leaves: see ``trials.prepare``.
    """
    bars = folder / "bars"
    bars.mkdir(parents=True)
    for seed, (symbol, market) in enumerate(_MARKETS.items()):
        frame = bars_frame(market, seed=seed + 1)
        frame.assign(symbol=symbol).to_parquet(bars / f"{symbol}_4Hour.parquet")
    first, second = (_archive(folder, stamp) for stamp in (FIRST, SECOND))
    decided = folder / "decided"
    return (
        Scene("validate, empty directory", None, first, bars, by_dagster=True),
        Scene("stages, empty directory", None, first, bars, by_dagster=False),
        Scene("validate, second archive", decided, second, bars, by_dagster=True),
        Scene("stages, second archive", decided, second, bars, by_dagster=False),
    )


def _archive(folder: Path, stamp: str) -> Path:
    models = _MODELS[stamp]
    claims = {name: drop_claims() if name == _DROPPED else good_claims() for name in models}
    return make_archive(
        folder / f"Alpaca_trading_trained_{stamp}.zip",
        models,
        summary=make_summary(claims, timestamp=stamp, train=TRAINED),
        summary_name=f"training_summary_{stamp}.json",
    )
