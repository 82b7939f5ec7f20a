"""The settings of a training run, as a checkpoint records them.

Here: names, meanings, defaults. Not here: their use (training.py, data.py, ppo.py, rollout.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from postval_assets.core.failures import Rejected
from postval_assets.core.model_spec import ACTIVATIONS, DEFAULT_WINDOW, VERSIONS


@dataclass(frozen=True)
class PPOConfig:
    """Settings of a run; a checkpoint records them.

    Attributes:
        model_version: of the observation's layout (docs/contract.md).
        feature_set: name of the set; empty for the reference set of the version.
        hidden_dims: widths of the trunk.
        activation: between the layers.
        layer_norm: whether a LayerNorm follows each Linear of the trunk.
        window: bars in an observation.
        kernel_spans: of the exponential averages that the first layer's weights along the window are mixed of.
        left_out: market features that the network does not see.
        n_updates: at most.
        validation_interval: updates between two validations.
        patience: validations without a better one after which the run stops.
        held_back_frac: share of the bars, the last ones, that are held back.
        n_held_back_blocks: blocks that they are traded in.
        n_episodes: played for each update.
        episode_bars: length of one.
        epochs, minibatch, clip, entropy_bonus, value_weight, max_gradient_norm: of an update (ppo.py).
        discount, gae_lambda: of rewards and advantages (rollout.py).
        learning_rate: of Adam at the start; falls linearly to a tenth.
        weight_decay: of the weights (decoupled, AdamW).
        reward_scale: log return of equity that counts as a reward of 1.
        seed: of weights, episodes, actions and minibatches.
    """

    model_version: str = "2.7.0"
    feature_set: str = ""
    hidden_dims: tuple[int, ...] = (32, 32)
    activation: str = "tanh"
    layer_norm: bool = False
    window: int = DEFAULT_WINDOW
    kernel_spans: tuple[int, ...] = (1, 4, 16, 48)
    left_out: tuple[str, ...] = ("season_sin", "season_cos")
    n_updates: int = 120
    validation_interval: int = 5
    patience: int = 8
    held_back_frac: float = 0.2
    n_held_back_blocks: int = 10
    n_episodes: int = 64
    episode_bars: int = 256
    epochs: int = 4
    minibatch: int = 2048
    clip: float = 0.2
    entropy_bonus: float = 0.01
    value_weight: float = 0.5
    max_gradient_norm: float = 0.5
    discount: float = 0.9
    gae_lambda: float = 0.95
    learning_rate: float = 3e-4
    weight_decay: float = 1e-2
    reward_scale: float = 0.001
    seed: int = 0

    def __post_init__(self) -> None:
        """Hold every number to its range; raises Rejected naming the setting and what it may be."""
        checks: tuple[tuple[str, bool, str], ...] = (
            ("model_version", self.model_version in VERSIONS, f"one of {', '.join(VERSIONS)}"),
            (
                "hidden_dims",
                bool(self.hidden_dims) and all(1 <= n <= 8192 for n in self.hidden_dims),
                "at least one width of 1 to 8192",
            ),
            ("activation", self.activation in ACTIVATIONS, f"one of {', '.join(ACTIVATIONS)}"),
            ("window", 1 <= self.window <= 1000, "1 to 1000 bars"),
            (
                "kernel_spans",
                bool(self.kernel_spans) and all(n >= 1 for n in self.kernel_spans),
                "at least one span of 1 bar or more",
            ),
            ("n_updates", self.n_updates >= 1, "at least 1"),
            (
                "validation_interval",
                1 <= self.validation_interval <= self.n_updates,
                f"1 to n_updates ({self.n_updates}), so that there is a validation",
            ),
            ("patience", self.patience >= 1, "at least 1"),
            ("held_back_frac", 0.0 < self.held_back_frac < 1.0, "between 0 and 1"),
            ("n_held_back_blocks", self.n_held_back_blocks >= 1, "at least 1"),
            ("n_episodes", self.n_episodes >= 1, "at least 1"),
            ("episode_bars", self.episode_bars >= 2, "at least 2"),
            ("epochs", self.epochs >= 1, "at least 1"),
            ("minibatch", self.minibatch >= 2, "at least 2"),
            ("clip", 0.0 < self.clip < 1.0, "between 0 and 1"),
            ("entropy_bonus", 0.0 <= self.entropy_bonus < math.inf, "0 or more"),
            ("value_weight", 0.0 <= self.value_weight < math.inf, "0 or more"),
            ("max_gradient_norm", self.max_gradient_norm > 0.0, "above 0"),
            ("discount", 0.0 <= self.discount <= 1.0, "0 to 1"),
            ("gae_lambda", 0.0 <= self.gae_lambda <= 1.0, "0 to 1"),
            ("learning_rate", 0.0 < self.learning_rate < math.inf, "above 0"),
            ("weight_decay", 0.0 <= self.weight_decay < math.inf, "0 or more"),
            ("reward_scale", 0.0 < self.reward_scale < math.inf, "above 0"),
            ("seed", 0 <= self.seed < 2**63, "0 to 2^63 - 1"),
        )
        for name, sound, expected in checks:
            if not sound:
                raise Rejected(f"training setting {name} is {getattr(self, name)!r}: expected {expected}")
