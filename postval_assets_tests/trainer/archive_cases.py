"""Small bars and a plan of a whole command, for tests of the trainer's runs."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.features.registry import registered_feature_sets
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.run import TrainingPlan
from postval_assets.trainer.simulated_market import SAMPLE_SYMBOLS, simulate_bars, symbol_rng

# Its texts and widths also stand elsewhere in a checkpoint: what is one object there must not change its bytes.
TINY = PPOConfig(
    hidden_dims=(8, 8),
    activation="relu",
    left_out=("season_sin", "season_cos"),
    n_updates=4,
    validation_interval=2,
    n_held_back_blocks=2,
    n_episodes=4,
    episode_bars=32,
    epochs=1,
)
STARTED = datetime(2025, 3, 1, 18, 30, 15, 999_999, tzinfo=UTC)
ARCHIVE = "Alpaca_trading_trained_20250301_183015.zip"
CHECKPOINTS = "checkpoints_20250301_183015"


def market(symbol: str, days: int = 30) -> Bars:
    """Simulated hourly bars."""
    spec = next(s for s in SAMPLE_SYMBOLS if s.symbol == symbol)
    first = date(2024, 1, 1)
    return simulate_bars(spec, first, first + timedelta(days=days - 1), symbol_rng(5, symbol))


BITCOIN, UNISWAP = market("BTCUSD"), market("UNIUSD")
TOO_SHORT = market("ETHUSD", days=10)


def plan_in(out: Path) -> TrainingPlan:
    """One run of each symbol, in this process."""
    return TrainingPlan(
        config=TINY,
        n_restarts=1,
        rules=ExecutionRules(),
        feature_sets=registered_feature_sets,
        device="cpu",
        jobs=1,
        started_at=STARTED,
        out=out,
        keep_checkpoints=True,
    )
