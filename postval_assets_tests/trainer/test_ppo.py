"""An update makes good actions likelier, within the clip, and the critic nearer to what happened."""

import dataclasses

import numpy as np
import pytest
import torch

from postval_assets.trainer.network import ActorCritic
from postval_assets.trainer.ppo import ADAM_EPSILON, UpdateSettings, update_network
from postval_assets.trainer.rollout import Experience

SETTINGS = UpdateSettings(
    epochs=1, minibatch=10_000, clip=0.2, entropy_bonus=0.0, value_weight=0.0, max_gradient_norm=10.0
)


def make(n: int = 200, seed: int = 0) -> tuple[ActorCritic, torch.Tensor, Experience]:
    """A network, inputs of n bars, and one decision on each; action 1 was good and the others were bad."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    network = ActorCritic(4, 3, 3, (8,), "tanh", layer_norm=False)
    inputs = torch.from_numpy(rng.standard_normal((n, 4)).astype(np.float32))
    account = rng.standard_normal((n, 3)).astype(np.float32)
    actions = rng.integers(0, 3, n)
    with torch.no_grad():
        logits, values = network(inputs, torch.from_numpy(account))
    log_probs = torch.log_softmax(logits, dim=1).numpy()[np.arange(n), actions]
    advantages = np.where(actions == 1, 1.0, -1.0).astype(np.float32)
    experience = Experience(
        bars=np.arange(n),
        account=account,
        actions=actions,
        log_probs=log_probs,
        values=values.numpy(),
        advantages=advantages,
        returns=np.full(n, 3.0, dtype=np.float32),
    )
    return network, inputs, experience


def probabilities(network: ActorCritic, inputs: torch.Tensor, experience: Experience) -> np.ndarray:
    with torch.no_grad():
        logits, _ = network(inputs[experience.bars], torch.from_numpy(experience.account))
    return torch.softmax(logits, dim=1).numpy()


def run(network: ActorCritic, inputs: torch.Tensor, experience: Experience, settings: UpdateSettings, n: int):
    optimizer = torch.optim.AdamW(network.parameters(), lr=0.01, eps=ADAM_EPSILON, weight_decay=0.0)
    rng = np.random.default_rng(1)
    return [update_network(network, optimizer, inputs, experience, settings, rng) for _ in range(n)]


def test_good_actions_become_likelier() -> None:
    network, inputs, experience = make()
    before = probabilities(network, inputs, experience)[:, 1].mean()
    run(network, inputs, experience, SETTINGS, 5)
    assert probabilities(network, inputs, experience)[:, 1].mean() > before + 0.02


def test_the_clip_bounds_how_far_one_batch_moves_the_policy() -> None:
    moved = {}
    for clip in (0.05, 0.4):
        network, inputs, experience = make()
        before = probabilities(network, inputs, experience)[:, 1]
        reports = run(network, inputs, experience, dataclasses.replace(SETTINGS, clip=clip), 60)
        moved[clip] = float((probabilities(network, inputs, experience)[:, 1] / before).mean())
        assert reports[0].clipped_share == 0.0
    assert 1.0 < moved[0.05] < moved[0.4]


def test_the_first_step_s_loss_is_the_objective_s() -> None:
    # Before the first step all ratios are 1: the clipped objective is the mean of normalised advantages, 0.
    network, inputs, experience = make()
    [report] = run(network, inputs, experience, SETTINGS, 1)
    assert report.policy_loss == pytest.approx(0.0, abs=1e-5)
    p = np.full(3, 1 / 3)
    assert report.entropy == pytest.approx(float(-(p * np.log(p)).sum()), abs=0.01)
    assert report.value_loss == pytest.approx(
        0.5 * float(np.square(experience.returns - experience.values).mean()), rel=1e-4
    )


def test_the_critic_learns_what_happened() -> None:
    network, inputs, experience = make()
    settings = dataclasses.replace(SETTINGS, value_weight=1.0)
    reports = run(network, inputs, experience, settings, 80)
    assert reports[-1].value_loss < 0.05 * reports[0].value_loss


def test_the_entropy_bonus_keeps_the_policy_undecided() -> None:
    entropies = []
    for bonus in (0.0, 1.0):
        network, inputs, experience = make()
        settings = dataclasses.replace(SETTINGS, entropy_bonus=bonus, clip=0.9)
        entropies.append(run(network, inputs, experience, settings, 60)[-1].entropy)
    assert entropies[1] > entropies[0] + 0.05


def test_a_batch_of_equal_advantages_teaches_the_policy_nothing() -> None:
    network, inputs, experience = make()
    experience = dataclasses.replace(experience, advantages=np.full(200, 7.0, dtype=np.float32))
    before = probabilities(network, inputs, experience)
    run(network, inputs, experience, SETTINGS, 3)
    assert probabilities(network, inputs, experience) == pytest.approx(before, abs=1e-4)


def test_the_objective_is_clipped_on_the_side_that_would_be_rewarded() -> None:
    """One step with ratios that are known: loss and gradient against the formula, term by term.

    The policy ignores its inputs (all weights 0), so the bias of the actor's head decides, and its gradient is the sum
    of d(loss)/d(ratio) * ratio * (onehot - p) over the decisions.
    """
    network, inputs, experience = make(6)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.zero_()
    actions = np.array([0, 0, 0, 0, 1, 2])
    ratios = np.array([0.5, 1.5, 0.5, 1.5, 1.1, 0.9])
    advantages = np.array([2.0, 2.0, -2.0, -2.0, 1.0, -1.0])
    experience = dataclasses.replace(
        experience,
        actions=actions,
        log_probs=(np.log(1 / 3) - np.log(ratios)).astype(np.float32),
        advantages=advantages.astype(np.float32),
    )
    gain = (advantages - advantages.mean()) / advantages.std()
    objective = np.minimum(ratios * gain, np.clip(ratios, 0.8, 1.2) * gain)
    # Clipped: a ratio that left the range in the direction in which its advantage pushes.
    passes = np.array([True, False, False, True, True, True])
    expected = np.zeros(3)
    for ratio, g, action, counts in zip(ratios, gain, actions, passes, strict=True):
        expected -= counts * g * ratio * (np.eye(3)[action] - 1 / 3) / 6

    seen: list[np.ndarray] = []
    network.actor_head.bias.register_hook(lambda gradient: seen.append(gradient.numpy().copy()))
    [report] = run(network, inputs, experience, SETTINGS, 1)
    assert report.policy_loss == pytest.approx(-objective.mean(), abs=1e-5)
    assert seen[0] == pytest.approx(expected, abs=1e-5)
    assert report.clipped_share == pytest.approx(4 / 6)


def test_large_gradients_are_scaled_down() -> None:
    network, inputs, experience = make()
    settings = dataclasses.replace(SETTINGS, value_weight=1e6, max_gradient_norm=0.5)
    optimizer = torch.optim.SGD(network.parameters(), lr=1.0)
    before = [parameter.detach().clone() for parameter in network.parameters()]
    update_network(network, optimizer, inputs, experience, settings, np.random.default_rng(0))
    moved = sum(
        float((a.detach() - b).square().sum()) for a, b in zip(network.parameters(), before, strict=True)
    )
    assert np.sqrt(moved) == pytest.approx(0.5, rel=1e-3)
