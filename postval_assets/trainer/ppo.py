"""Proximal policy optimisation: one update of the network from one batch of experience.

Here: the clipped objective and its settings. Not here: where experience comes from (rollout.py), or how long to
train and what to keep (training.py).

Source: Schulman et al., "Proximal Policy Optimization Algorithms" (2017), equations 7 and 9; details as in Huang et
al., "The 37 Implementation Details of Proximal Policy Optimization" (2022): advantages normalised a minibatch,
gradients clipped by norm, Adam with epsilon 1e-5.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from postval_assets.trainer.network import ActorCritic
from postval_assets.trainer.rollout import Experience

ADAM_EPSILON = 1e-5


@dataclass(frozen=True)
class UpdateSettings:
    """The numbers of an update.

    Attributes:
        epochs: passes over the experience.
        minibatch: decisions a gradient step.
        clip: how far a probability ratio may move and still be rewarded for it.
        entropy_bonus: weight of the policy's entropy in the objective.
        value_weight: weight of the critic's error.
        max_gradient_norm: larger gradients are scaled down to it.
    """

    epochs: int
    minibatch: int
    clip: float
    entropy_bonus: float
    value_weight: float
    max_gradient_norm: float


@dataclass(frozen=True)
class UpdateReport:
    """Means over the gradient steps of one update.

    Attributes:
        policy_loss: clipped objective, negated.
        value_loss: half the mean squared error of the critic, in squared units of reward.
        entropy: of the policy, in nats.
        clipped_share: of decisions whose ratio left the clip range.
    """

    policy_loss: float
    value_loss: float
    entropy: float
    clipped_share: float


def update_network(
    network: ActorCritic,
    optimizer: torch.optim.Optimizer,
    inputs: torch.Tensor,
    experience: Experience,
    settings: UpdateSettings,
    rng: np.random.Generator,
) -> UpdateReport:
    """Improve the network from the experience.

    Args:
        network: changed in place.
        optimizer: of its parameters.
        inputs: the compact network's inputs [bar, input], on the network's device.
        experience: of the network as it was before this update.
        settings: the numbers.
        rng: of the order of the minibatches.
    """
    device = inputs.device
    bars = torch.from_numpy(experience.bars).to(device)
    account = torch.from_numpy(experience.account).to(device)
    actions = torch.from_numpy(experience.actions).to(device)
    old_log_probs = torch.from_numpy(experience.log_probs).to(device)
    advantages = torch.from_numpy(experience.advantages).to(device)
    returns = torch.from_numpy(experience.returns).to(device)
    n = len(bars)
    reports: list[torch.Tensor] = []
    for _ in range(settings.epochs):
        order = torch.from_numpy(rng.permutation(n)).to(device)
        for start in range(0, n, settings.minibatch):
            part = order[start : start + settings.minibatch]
            logits, values = network(inputs[bars[part]], account[part])
            log_probs = torch.log_softmax(logits, dim=1)
            chosen = log_probs.gather(1, actions[part, None])[:, 0]
            ratio = torch.exp(chosen - old_log_probs[part])
            gain = advantages[part]
            gain = (gain - gain.mean()) / (gain.std(correction=0) + 1e-8)
            clipped = torch.clamp(ratio, 1.0 - settings.clip, 1.0 + settings.clip)
            policy_loss = -torch.minimum(ratio * gain, clipped * gain).mean()
            value_loss = 0.5 * (values - returns[part]).square().mean()
            entropy = -(log_probs.exp() * log_probs).sum(dim=1).mean()
            loss = policy_loss + settings.value_weight * value_loss - settings.entropy_bonus * entropy
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.max_gradient_norm)
            optimizer.step()
            outside = ((ratio - 1.0).abs() > settings.clip).float().mean()
            reports.append(torch.stack([policy_loss, value_loss, entropy, outside]).detach())
    means = torch.stack(reports).mean(dim=0).tolist()
    return UpdateReport(*means)
