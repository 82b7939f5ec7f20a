"""Small bars and settings for tests of the trainer."""

from __future__ import annotations

import numpy as np

from postval_assets.core.bars import Bars
from postval_assets.core.instruments import Timeframe, asset_class_of
from postval_assets.trainer.config import PPOConfig

SMALL = PPOConfig(
    hidden_dims=(8, 6),
    n_updates=4,
    validation_interval=2,
    n_held_back_blocks=4,
    n_episodes=8,
    episode_bars=60,
    epochs=2,
    minibatch=128,
)


def random_bars(seed: int, n_bars: int = 900, symbol: str = "UNIUSD") -> Bars:
    """A random walk with shadows and volumes, hour after hour."""
    rng = np.random.default_rng(seed)
    close = 50.0 * np.exp(np.cumsum(0.006 * rng.standard_normal(n_bars)))
    before = np.concatenate([[50.0], close[:-1]])
    high = np.maximum(before, close) * np.exp(0.003 * rng.random(n_bars))
    low = np.minimum(before, close) * np.exp(-0.003 * rng.random(n_bars))
    return Bars(
        symbol=symbol,
        timeframe=Timeframe.HOUR_1,
        asset_class=asset_class_of(symbol),
        ts=np.datetime64("2023-01-02T00", "us") + np.arange(n_bars) * Timeframe.HOUR_1.delta,
        open=before,
        high=high,
        low=low,
        close=close,
        volume=100.0 * np.exp(0.5 * rng.standard_normal(n_bars)),
    )
