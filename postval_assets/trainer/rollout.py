"""Episodes of experience: many blocks of training bars, traded through the engine that validates.

Here: drawing episodes, playing a policy that samples its actions, and what each decision earned. Not here: rules
of trading (core/engine.py, the very same as in validation), or learning from the experience (ppo.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import BlockRun, Lane, run_lanes
from postval_assets.trainer.network import ActorCritic

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]

_RUIN_FRAC = 0.01  # of the capital: below it a reward's logarithm is held


@dataclass(frozen=True, eq=False)
class Experience:
    """What the policy did, every decision of every episode; axis [decision] after flattening [lane, step].

    Attributes:
        bars: index of the bar at whose close the decision was made.
        account: account features that the policy saw, [decision, feature].
        actions: what it did.
        log_probs: logarithm of the probability with which it did.
        values: what the critic expected.
        advantages: generalised advantage estimate, in units of reward.
        returns: advantages + values.
    """

    bars: Int
    account: Float32
    actions: Int
    log_probs: Float32
    values: Float32
    advantages: Float32
    returns: Float32


def draw_lanes(
    bars: Bars, first: int, stop: int, n_lanes: int, episode_bars: int, sizes: Float, rng: np.random.Generator
) -> list[Lane]:
    """Episodes at random places of bars first .. stop - 1."""
    length = min(episode_bars, stop - first)
    starts = rng.integers(first, stop - length + 1, size=n_lanes)
    return [Lane(bars=bars, start=int(start), stop=int(start) + length, sizes=sizes) for start in starts]


class SamplingActor:
    """Draws actions from the policy's distribution, and keeps what is needed to learn from them."""

    def __init__(
        self,
        network: ActorCritic,
        inputs: torch.Tensor,
        lanes: Sequence[Lane],
        n_account: int,
        rng: np.random.Generator,
    ) -> None:
        """Run the first layer over all bars at once; the rest runs step by step.

        Args:
            network: on the device of the inputs.
            inputs: the compact network's inputs [bar, input] of the whole series.
            lanes: the episodes, all of one length.
            n_account: account features that the network sees.
            rng: of the draws.
        """
        self._network = network
        self._n_account = n_account
        self._rng = rng
        self._starts = np.array([lane.start for lane in lanes], dtype=np.int64)
        shape = (len(lanes), lanes[0].n_bars - 1)
        first, stop = int(self._starts.min()), max(lane.stop for lane in lanes)
        self._first = first
        with torch.no_grad():
            self._hidden = network.market(inputs[first:stop])
        self.account = np.zeros((*shape, n_account), dtype=np.float32)
        self.actions = np.zeros(shape, dtype=np.int64)
        self.log_probs = np.zeros(shape, dtype=np.float32)
        self.values = np.zeros(shape, dtype=np.float32)
        self.decided = np.zeros(shape, dtype=bool)

    @property
    def bars(self) -> Int:
        """The bar of each decision, [lane, step]."""
        steps: Int = self._starts[:, None] + np.arange(self.actions.shape[1])
        return steps

    def act(self, step: int, lanes: Int, account: Float) -> Int:
        """One draw a lane (the Gumbel-max way, so that numpy's generator decides on every device alike)."""
        rows = torch.from_numpy(self._starts[lanes] + step - self._first).to(self._hidden.device)
        seen = account[:, : self._n_account].astype(np.float32)
        with torch.no_grad():
            logits, values = self._network.heads(
                self._hidden[rows], torch.from_numpy(seen).to(self._hidden.device)
            )
            log_probs = torch.log_softmax(logits, dim=1).cpu().numpy()
        actions: Int = np.argmax(log_probs + self._rng.gumbel(size=log_probs.shape), axis=1)
        self.account[lanes, step] = seen
        self.actions[lanes, step] = actions
        self.log_probs[lanes, step] = log_probs[np.arange(len(lanes)), actions]
        self.values[lanes, step] = values.cpu().numpy()
        self.decided[lanes, step] = True
        return actions


def bar_rewards(run: BlockRun, capital: float, reward_scale: float) -> Float:
    """What each decision earned: log return of equity to the next close / reward_scale, axis [decision]."""
    rewards: Float = np.diff(np.log(np.maximum(run.equity, _RUIN_FRAC * capital))) / reward_scale
    return rewards


def generalised_advantages(rewards: Float, values: Float, *, discount: float, gae_lambda: float) -> Float:
    """Advantages [lane, step] of episodes that end after the last step: the position is closed there.

    Source: Schulman et al., "High-Dimensional Continuous Control Using Generalized Advantage Estimation" (2016),
    equations 11 to 16.
    """
    advantages = np.zeros_like(rewards)
    running = np.zeros(len(rewards))
    next_value = np.zeros(len(rewards))
    for step in range(rewards.shape[1] - 1, -1, -1):
        surprise = rewards[:, step] + discount * next_value - values[:, step]
        running = surprise + discount * gae_lambda * running
        advantages[:, step] = running
        next_value = values[:, step]
    return advantages


def collect_experience(
    network: ActorCritic,
    inputs: torch.Tensor,
    lanes: Sequence[Lane],
    rules: ExecutionRules,
    rng: np.random.Generator,
    *,
    n_account: int,
    reward_scale: float,
    discount: float,
    gae_lambda: float,
) -> Experience:
    """Play the episodes with the policy as it stands.

    Args:
        network: the policy.
        inputs: the compact network's inputs [bar, input].
        lanes: the episodes, all of one length, whose bars have inputs.
        rules: of execution; those of validation.
        rng: of the draws.
        n_account: account features that the network sees.
        reward_scale: log return that counts as a reward of 1.
        discount: of a reward one bar later.
        gae_lambda: of the advantage estimate.
    """
    actor = SamplingActor(network, inputs, lanes, n_account, rng)
    runs = run_lanes(lanes, actor, rules)
    rewards = np.zeros(actor.actions.shape)
    for lane, run in enumerate(runs):
        earned = bar_rewards(run, rules.capital, reward_scale)
        rewards[lane, : len(earned)] = earned
    advantages = generalised_advantages(
        rewards, actor.values.astype(np.float64), discount=discount, gae_lambda=gae_lambda
    )
    kept = actor.decided
    return Experience(
        bars=actor.bars[kept],
        account=actor.account[kept],
        actions=actor.actions[kept],
        log_probs=actor.log_probs[kept],
        values=actor.values[kept],
        advantages=advantages[kept].astype(np.float32),
        returns=(advantages + actor.values)[kept].astype(np.float32),
    )
