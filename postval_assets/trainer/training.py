"""One training run: from the bars of one symbol to a network, its claims, and the checkpoints on the way.

Here: the run's settings, the division of the bars, the loop, and what is kept. Not here: an update (ppo.py),
experience (rollout.py), several symbols and files (run.py).

The bars are divided once: the last part is held back from learning. Every validation trades it with the network as
it stands; what is delivered is the network of the best validation, and the run stops when there was no better one
for a while. So the held-back bars have chosen: they belong to the training window, and only later bars are out of
sample.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch

from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.failures import Rejected
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.model_spec import VERSIONS
from postval_assets.core.policy import PolicyNetwork
from postval_assets.trainer.archive_writer import Claim, TrainedModel
from postval_assets.trainer.claims import claim_of
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.data import TrainingData, prepare_data
from postval_assets.trainer.delivery import delivered_model, model_spec, policy_arrays
from postval_assets.trainer.network import ActorCritic
from postval_assets.trainer.ppo import ADAM_EPSILON, UpdateReport, UpdateSettings, update_network
from postval_assets.trainer.rollout import collect_experience, draw_lanes

__all__ = ["PPOConfig", "Progress", "TrainingStopped", "train_model"]


@dataclass(frozen=True)
class Progress:
    """Where a run stands after an update.

    Attributes:
        update: number of it, from 1.
        n_updates: at most.
        report: of the update.
        claim: of the validation after it, where there was one.
        best: whether that is the best so far.
    """

    update: int
    n_updates: int
    report: UpdateReport
    claim: Claim | None
    best: bool


class TrainingStopped(Exception):  # noqa: N818 - a wish, not an error
    """The run was asked to stop before its end."""


def train_model(
    bars: Bars,
    config: PPOConfig,
    *,
    rules: ExecutionRules,
    feature_sets: Mapping[str, FeatureSet],
    device: str = "cpu",
    on_progress: Callable[[Progress], None] | None = None,
    on_checkpoint: Callable[[int, TrainedModel], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> TrainedModel:
    """Train one network; equal arguments give equal weights on the same machine's CPU.

    Args:
        bars: training bars, the held-back ones included, of the timeframe that the model acts on.
        config: settings.
        rules: of execution.
        feature_sets: the known sets by name.
        device: torch's name of it.
        on_progress: told after every update.
        on_checkpoint: given the network as it stands after every validation, with the update's number.
        should_stop: asked before every update.

    Raises:
        Rejected: as prepare_data; or training diverged.
        TrainingStopped: where should_stop said so.
    """
    data = prepare_data(bars, config, feature_sets)
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        learner = _Learner(data, config, rules, device)
        claims: list[Claim] = []
        best: TrainedModel | None = None
        for update in range(1, config.n_updates + 1):
            if should_stop is not None and should_stop():
                raise TrainingStopped
            report = learner.improve(update)
            learner.require_finite(update)
            claim, is_best = None, False
            if update % config.validation_interval == 0:
                model = learner.validated(update, claims)
                claim = model.claims[-1]
                claims.append(claim)
                is_best = best is None or claim.fitness_score > best.claims[-1].fitness_score
                best = model if is_best else best
                if on_checkpoint is not None:
                    on_checkpoint(update, model)
            if on_progress is not None:
                on_progress(Progress(update, config.n_updates, report, claim, is_best))
            if best is not None and len(claims) - len(best.claims) >= config.patience:
                break
    assert best is not None  # noqa: S101 - a config has at least one validation
    return best


class _Learner:
    """The network of a run, with everything that an update or a validation needs."""

    def __init__(self, data: TrainingData, config: PPOConfig, rules: ExecutionRules, device: str) -> None:
        layout = VERSIONS[config.model_version]
        self._data, self._config, self._rules = data, config, rules
        self._n_account = len(layout.account_features)
        self._rng = np.random.default_rng(config.seed)
        # On the CPU first, so that a seed means the same weights on every device.
        self._network = ActorCritic(
            data.input_map.n_inputs,
            self._n_account,
            layout.n_actions,
            config.hidden_dims,
            config.activation,
            layer_norm=config.layer_norm,
        ).to(device)
        self._optimizer = torch.optim.AdamW(
            self._network.parameters(),
            lr=config.learning_rate,
            eps=ADAM_EPSILON,
            weight_decay=config.weight_decay,
        )
        self._inputs = torch.from_numpy(data.inputs).to(device)

    def improve(self, update: int) -> UpdateReport:
        """Play episodes on the learning bars, and learn from them."""
        config, data = self._config, self._data
        for group in self._optimizer.param_groups:
            group["lr"] = config.learning_rate * (1.0 - 0.9 * (update - 1) / config.n_updates)
        lanes = draw_lanes(
            data.bars,
            data.first,
            data.cut,
            config.n_episodes,
            config.episode_bars,
            data.held_back[0].sizes,
            self._rng,
        )
        experience = collect_experience(
            self._network,
            self._inputs,
            lanes,
            self._rules,
            self._rng,
            n_account=self._n_account,
            reward_scale=config.reward_scale,
            discount=config.discount,
            gae_lambda=config.gae_lambda,
        )
        settings = UpdateSettings(
            epochs=config.epochs,
            minibatch=config.minibatch,
            clip=config.clip,
            entropy_bonus=config.entropy_bonus,
            value_weight=config.value_weight,
            max_gradient_norm=config.max_gradient_norm,
        )
        return update_network(self._network, self._optimizer, self._inputs, experience, settings, self._rng)

    def require_finite(self, update: int) -> None:
        """Refuse to go on with a network that no reader would take.

        Raises:
            Rejected: where a weight is NaN or infinite.
        """
        if not all(bool(torch.isfinite(parameter).all()) for parameter in self._network.parameters()):
            data = self._data
            raise Rejected(
                f"{data.bars.symbol} ({data.bars.timeframe}): training diverged at update {update}, weights are no "
                f"longer finite; expected a smaller learning_rate than {self._config.learning_rate:g}, or the default "
                "settings"
            )

    def validated(self, update: int, earlier: Sequence[Claim]) -> TrainedModel:
        """The network as it stands, with the earlier claims and its own."""
        model = delivered_model(self._network, self._optimizer, self._data, self._config, update)
        reader = PolicyNetwork(model_spec(model), policy_arrays(model))
        claim = claim_of(
            reader, self._data.features, self._data.held_back, self._rules, self._config.reward_scale
        )
        return dataclasses.replace(model, claims=(*earlier, claim))


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums run in one order, whatever the number of cores; small matrices gain nothing from more."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
