"""Experience comes from the engine that validates, and is booked to the right decision."""

import dataclasses

import numpy as np
import pytest
import torch

from postval_assets.core.actions import action_sizes
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import Lane, ScriptedActor, run_lanes
from postval_assets.trainer.network import ActorCritic
from postval_assets.trainer.rollout import (
    SamplingActor,
    bar_rewards,
    collect_experience,
    draw_lanes,
    generalised_advantages,
)
from postval_assets_tests.trainer.training_cases import random_bars

RULES = ExecutionRules()
SIZES = action_sizes(7)


def small_network(n_inputs: int = 5, n_account: int = 6) -> ActorCritic:
    torch.manual_seed(0)
    network = ActorCritic(n_inputs, n_account, 7, (6,), "tanh", layer_norm=False)
    with torch.no_grad():
        network.actor_head.weight *= 100.0
    return network


def test_episodes_lie_within_the_learning_bars() -> None:
    bars = random_bars(0, 400)
    lanes = draw_lanes(bars, 100, 300, 500, 60, SIZES, np.random.default_rng(0))
    starts = [lane.start for lane in lanes]
    assert {lane.n_bars for lane in lanes} == {60}
    assert min(starts) == 100
    assert max(lane.stop for lane in lanes) == 300


def test_rewards_add_up_to_what_the_block_returned() -> None:
    bars = random_bars(1, 200)
    actions = np.random.default_rng(2).integers(0, 7, (1, 200))
    [run] = run_lanes([Lane(bars, 20, 180, SIZES)], ScriptedActor(actions), RULES)
    rewards = bar_rewards(run, RULES.capital, 0.001)
    assert len(rewards) == 159
    assert 0.001 * rewards.sum() == pytest.approx(np.log(run.equity[-1] / RULES.capital))
    # The first decision earns what happened between the first and the second close.
    assert rewards[0] == pytest.approx(1000 * np.log(run.equity[1] / run.equity[0]))


def test_a_ruined_episode_has_finite_rewards() -> None:
    bars = random_bars(1, 60)
    crash = bars.close.copy()
    crash[30:] *= 60.0  # a short position loses more than everything
    stock = dataclasses.replace(random_bars(1, 60, "ACME"), close=crash, high=np.maximum(bars.high, crash))
    [run] = run_lanes(
        [Lane(stock, 0, 60, SIZES)], ScriptedActor(np.full((1, 60), 6)), dataclasses.replace(RULES)
    )
    assert run.status == "RUINED"
    rewards = bar_rewards(run, RULES.capital, 0.001)
    assert np.isfinite(rewards).all()
    assert rewards.min() < -1000


def test_advantages_are_the_discounted_sums_of_surprises() -> None:
    rng = np.random.default_rng(3)
    rewards, values = rng.standard_normal((2, 3, 6))
    discount, gae_lambda = 0.9, 0.7
    advantages = generalised_advantages(rewards, values, discount=discount, gae_lambda=gae_lambda)
    for lane in range(3):
        following = [*values[lane, 1:], 0.0]
        surprise = [rewards[lane, t] + discount * following[t] - values[lane, t] for t in range(6)]
        for t in range(6):
            expected = sum((discount * gae_lambda) ** (j - t) * surprise[j] for j in range(t, 6))
            assert advantages[lane, t] == pytest.approx(expected)


def test_without_a_trace_the_advantage_is_return_less_value() -> None:
    rng = np.random.default_rng(4)
    rewards, values = rng.standard_normal((2, 2, 5))
    advantages = generalised_advantages(rewards, values, discount=1.0, gae_lambda=1.0)
    expected = np.cumsum(rewards[:, ::-1], axis=1)[:, ::-1] - values
    assert advantages == pytest.approx(expected)


def test_actions_are_drawn_as_often_as_the_policy_says() -> None:
    network = small_network()
    bars = random_bars(5, 60)
    inputs = torch.zeros((60, 5))
    lanes = [Lane(bars, 10, 40, SIZES)] * 4000
    actor = SamplingActor(network, inputs, lanes, 6, np.random.default_rng(6))
    account = np.tile([0.1, 0.5, 0.0, 0.3, 0.7, 0.0], (4000, 1))
    actions = actor.act(0, np.arange(4000), account)
    with torch.no_grad():
        logits, values = network(inputs[:1], torch.from_numpy(account[:1].astype(np.float32)))
    probabilities = torch.softmax(logits, dim=1)[0].numpy()
    assert probabilities.max() - probabilities.min() > 0.02
    shares = np.bincount(actions, minlength=7) / 4000
    # Five standard errors of a share of 4000 draws.
    assert (np.abs(shares - probabilities) < 5 * np.sqrt(probabilities * (1 - probabilities) / 4000)).all()
    assert actor.log_probs[:, 0] == pytest.approx(np.log(probabilities)[actions], abs=1e-5)
    assert actor.values[:, 0] == pytest.approx(np.full(4000, float(values)), abs=1e-5)


def test_experience_is_what_the_engine_did() -> None:
    bars = random_bars(7, 300)
    rng = np.random.default_rng(8)
    inputs = torch.from_numpy(rng.standard_normal((300, 5)).astype(np.float32))
    lanes = draw_lanes(bars, 50, 250, 6, 40, SIZES, rng)
    network = small_network()
    experience = collect_experience(
        network,
        inputs,
        lanes,
        RULES,
        rng,
        n_account=6,
        reward_scale=0.001,
        discount=1.0,
        gae_lambda=1.0,
    )
    actions = experience.actions.reshape(6, 39)
    runs = run_lanes(lanes, ScriptedActor(actions), RULES)
    for lane, run, number in zip(lanes, runs, range(6), strict=True):
        rows = slice(number * 39, (number + 1) * 39)
        assert experience.bars[rows].tolist() == list(range(lane.start, lane.stop - 1))
        assert run.actions[:-1].tolist() == actions[number].tolist()
        # Undiscounted and without a trace, the return of the first decision is the whole block's.
        whole = np.log(run.equity[-1] / RULES.capital) / 0.001
        assert experience.returns[rows][0] == pytest.approx(whole, rel=1e-4, abs=1e-3)
    with torch.no_grad():
        logits, values = network(inputs[experience.bars], torch.from_numpy(experience.account))
    log_probs = torch.log_softmax(logits, dim=1).numpy()
    assert experience.log_probs == pytest.approx(
        log_probs[np.arange(len(log_probs)), experience.actions], abs=1e-5
    )
    assert experience.values == pytest.approx(values.numpy(), abs=1e-5)


def test_steps_after_a_ruin_teach_nothing() -> None:
    bars = random_bars(1, 80, "ACME")
    crash = bars.close.copy()
    crash[30:] *= 60.0
    stock = dataclasses.replace(bars, close=crash, high=np.maximum(bars.high, crash))
    network = small_network()
    with torch.no_grad():
        network.actor_head.weight.zero_()
        network.actor_head.bias.copy_(torch.tensor([-30.0, -30, -30, -30, -30, -30, 30]))  # always SELL_75
    lanes = [Lane(stock, 10, 70, SIZES)]
    experience = collect_experience(
        network,
        torch.zeros((80, 5)),
        lanes,
        RULES,
        np.random.default_rng(0),
        n_account=6,
        reward_scale=0.001,
        discount=0.9,
        gae_lambda=0.9,
    )
    assert experience.bars.tolist() == list(range(10, 30))
    assert np.isfinite(experience.returns).all()
