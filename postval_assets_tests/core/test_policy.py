"""The sliding network against a plain one that is shown every observation whole, through the plain loop."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.engine import Lane, RunStatus, run_lanes
from postval_assets.core.policy import PolicyNetwork
from postval_assets_tests.core.engine_cases import assert_agrees, case_bars, engine_rules, first_tie
from postval_assets_tests.core.market_cases import (
    CRYPTO,
    CRYPTO_NEUTRAL,
    EQUITY,
    EQUITY_NEUTRAL,
    MARKETS,
    SIZES,
    Case,
    ConstantPolicy,
    Market,
)
from postval_assets_tests.core.plain_loop import Account, PlainRules, PlainRun, run_plain
from postval_assets_tests.factories import VERSION_DIMS, make_checkpoint

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
N_MARKET = 53
N_ACCOUNT = {"2.3.0": 0, "2.4.0": 3, "2.5.0": 3, "2.6.0": 3, "2.7.0": 6}
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
    "leaky_relu": nn.LeakyReLU,
    "selu": nn.SELU,
    "sigmoid": nn.Sigmoid,
}
NORMS = ("none", "after_linear", "after_activation", "on_observation")
RULES = {
    "crypto": CRYPTO,
    "equity": EQUITY,
    "crypto neutral": CRYPTO_NEUTRAL,
    "equity neutral": EQUITY_NEUTRAL,
}


class Trainer(nn.Module):
    """A network as a trainer writes it down: observation in, logits out."""

    def __init__(self, version: str, window: int, hidden: Sequence[int], norm: str, activation: str) -> None:
        super().__init__()
        n_features, n_actions = VERSION_DIMS[version]
        width = n_features * window
        layers: list[nn.Module] = [nn.LayerNorm(width)] if norm == "on_observation" else []
        for n_out in hidden:
            layers.append(nn.Linear(width, n_out))
            if norm == "after_linear":
                layers.append(nn.LayerNorm(n_out))
            layers.append(ACTIVATIONS[activation]())
            if norm == "after_activation":
                layers.append(nn.LayerNorm(n_out))
            width = n_out
        self.shared = nn.Sequential(*layers)
        self.actor_head = nn.Linear(width, n_actions)
        self.critic_head = nn.Linear(width, 1)

    def forward(self, observation: torch.Tensor) -> torch.Tensor:
        return self.actor_head(self.shared(observation))


@dataclass
class Model:
    """A trained network, as its trainer knows it and as it was read back from its checkpoint."""

    trainer: Trainer
    network: PolicyNetwork
    window: int
    n_account: int


def make_model(
    folder: Path,
    version: str,
    *,
    window: int = 9,
    hidden: Sequence[int] = (16, 12),
    norm: str = "none",
    activation: str = "relu",
    seed: int = 0,
    device: str = "cpu",
    gain_of_feature_0: float = 1.0,
) -> Model:
    torch.manual_seed(seed)
    trainer = Trainer(version, window, hidden, norm, activation)
    with torch.no_grad():
        for name, parameter in trainer.named_parameters():
            # Weights that keep the signal's size, so that actions change; norms and biases that do something.
            if parameter.ndim == 2:
                nn.init.normal_(parameter, std=1.5 * parameter.shape[1] ** -0.5)
            elif "head" not in name:
                parameter.add_(torch.randn_like(parameter) * 0.2)
        if gain_of_feature_0 != 1.0:
            first = trainer.shared[0].weight
            first.view(len(first), window, -1)[:, :, 0] *= gain_of_feature_0
    state = dict(trainer.state_dict())
    path = make_checkpoint(
        folder / "model.pt",
        version=version,
        window=window,
        activation=activation,
        overrides={"policy_state_dict": state},
    )
    checkpoint = read_checkpoint(path)
    network = PolicyNetwork(checkpoint.spec, checkpoint.tensors, device)
    return Model(trainer.eval(), network, window, N_ACCOUNT[version])


def market_features(n_bars: int, seed: int) -> np.ndarray:
    return np.random.default_rng([seed, 11]).normal(size=(n_bars, N_MARKET)).astype(np.float32)


def naive_logits(model: Model, features: np.ndarray, t: int, account: Account) -> list[float]:
    """Builds the observation bar by bar, the oldest first, and shows it to the trainer's own network."""
    own = np.array(account[: model.n_account], dtype=np.float32)
    rows = [np.concatenate([features[bar], own]) for bar in range(t - model.window + 1, t + 1)]
    observation = torch.from_numpy(np.concatenate(rows))
    with torch.no_grad():
        return model.trainer(observation[None])[0].tolist()


def naive_run(
    model: Model, features: np.ndarray, market: Market, block: tuple[int, int], rules: PlainRules
) -> PlainRun:
    return run_plain(
        market.open,
        market.high,
        market.low,
        market.close,
        market.volume,
        *block,
        SIZES[model.trainer.actor_head.out_features],
        lambda t, account: naive_logits(model, features, t, account),
        rules,
    )


def lanes_of(
    model: Model, market: Market, blocks: Sequence[tuple[int, int]], rules: PlainRules
) -> list[Lane]:
    n_actions = model.trainer.actor_head.out_features
    sizes = np.array([SIZES[n_actions][i] for i in range(n_actions)])
    bars = case_bars(Case(market, *blocks[0], ConstantPolicy(0, n_actions), rules))
    return [Lane(bars, a, b, sizes) for a, b in blocks]


def assert_agrees_until_a_tie(run, plain: PlainRun, start: int) -> None:
    """Agreement to the end; or, said aloud, up to the first decision that float32 cannot settle."""
    tie = first_tie(plain)
    if tie is None:
        assert_agrees(run, plain, start)
        return
    warnings.warn(
        f"a tie of {plain.logit_gaps[tie]:.1e} at decision {tie}: compared up to there", stacklevel=2
    )
    assert tie > 50, "the tie comes too early for the case to show anything: choose another seed"
    assert run.actions[:tie].tolist() == plain.actions[:tie]
    np.testing.assert_allclose(run.equity[: tie + 1], plain.equity[: tie + 1], rtol=1e-9)


def assert_same_as_naive(
    model: Model,
    rules: PlainRules,
    *,
    market: str = "gaps",
    blocks: Sequence[tuple[int, int]] = ((20, 220),),
    seed: int = 0,
) -> list[PlainRun]:
    n_bars = max(b for _, b in blocks)
    bars = MARKETS[market](seed, n_bars)
    features = market_features(n_bars, seed)
    lanes = lanes_of(model, bars, blocks, rules)
    runs = run_lanes(lanes, model.network.actor(features, lanes), engine_rules(rules))
    expected = [naive_run(model, features, bars, block, rules) for block in blocks]
    for run, plain, (a, _) in zip(runs, expected, blocks, strict=True):
        assert_agrees_until_a_tie(run, plain, a)
    return expected


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("version", VERSION_DIMS)
def test_every_version_and_norm_trades_like_the_naive_network(
    version: str, norm: str, device: str, tmp_path: Path
) -> None:
    for seed, (rules, activation) in enumerate(zip(RULES.values(), ACTIVATIONS, strict=False)):
        model = make_model(tmp_path, version, norm=norm, activation=activation, seed=seed, device=device)
        plain = assert_same_as_naive(model, rules, market=list(MARKETS)[seed], seed=seed)
        assert len(set(plain[0].actions)) > 1, "a network that always does the same shows nothing"


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_the_trainers(activation: str, device: str, tmp_path: Path) -> None:
    model = make_model(tmp_path, "2.7.0", activation=activation, seed=3, device=device)
    plain = assert_same_as_naive(model, EQUITY, seed=3)
    assert len(set(plain[0].actions)) > 1


@pytest.mark.parametrize("rules", RULES.values(), ids=RULES)
def test_both_asset_classes_with_live_and_neutral_account(rules: PlainRules, tmp_path: Path) -> None:
    for seed, market in enumerate(("trending", "zero_volume", "unknown_volume"), start=10):
        assert_same_as_naive(make_model(tmp_path, "2.7.0", seed=seed), rules, market=market, seed=seed)


def test_the_account_reaches_the_decision(tmp_path: Path) -> None:
    model = make_model(tmp_path, "2.7.0", seed=1)
    live = assert_same_as_naive(model, CRYPTO, seed=1)[0]
    neutral = assert_same_as_naive(model, CRYPTO_NEUTRAL, seed=1)[0]
    assert live.actions != neutral.actions


@pytest.mark.parametrize("device", DEVICES)
def test_a_network_of_the_contracts_dimensions(device: str, tmp_path: Path) -> None:
    model = make_model(tmp_path, "2.7.0", window=100, hidden=(64, 32, 16), seed=5, device=device)
    assert model.network.spec.obs_dim == 5900
    assert_same_as_naive(model, EQUITY, blocks=((99, 250),), seed=5)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["none", "on_observation"])
@pytest.mark.parametrize("version", ["2.3.0", "2.7.0"])
def test_lanes_in_lockstep_are_the_lanes_alone(version: str, norm: str, device: str, tmp_path: Path) -> None:
    model = make_model(tmp_path, version, norm=norm, seed=2, device=device)
    blocks = ((8, 60), (60, 200), (130, 190), (20, 200), (8, 10))
    bars, features = MARKETS["trending"](2, 200), market_features(200, 2)
    together = lanes_of(model, bars, blocks, EQUITY)
    runs = run_lanes(together, model.network.actor(features, together), engine_rules(EQUITY))
    for run, lane in zip(runs, together, strict=True):
        (alone,) = run_lanes([lane], model.network.actor(features, [lane]), engine_rules(EQUITY))
        assert alone.actions.tolist() == run.actions.tolist()
        assert alone.equity.tolist() == run.equity.tolist()
    assert_same_as_naive(model, EQUITY, market="trending", blocks=blocks, seed=2)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("version", ["2.3.0", "2.7.0"])
@pytest.mark.parametrize("value", [3e38, -3e38])
def test_logits_that_overflow_end_the_block(version: str, value: float, device: str, tmp_path: Path) -> None:
    model = make_model(
        tmp_path, version, activation="leaky_relu", seed=4, device=device, gain_of_feature_0=1e5
    )
    bars, features = MARKETS["quiet"](4, 120), market_features(120, 4)
    features[:, 0] = 0.0
    features[70, 0] = value
    lanes = lanes_of(model, bars, [(20, 120), (20, 60), (90, 120)], CRYPTO)
    runs = run_lanes(lanes, model.network.actor(features, lanes), engine_rules(CRYPTO))
    assert [run.status is RunStatus.BROKEN_POLICY for run in runs] == [True, False, False]
    assert len(runs[0].equity) == 70 - 20 + 1, "the curve ends at the first bar that sees the value"
    for run, (a, b) in zip(runs, [(20, 120), (20, 60), (90, 120)], strict=True):
        assert_agrees_until_a_tie(run, naive_run(model, features, bars, (a, b), CRYPTO), a)


@pytest.mark.parametrize("weights_of_one_action", [(3e38, 3e38), (-3e38, -3e38), (3e38, -3e38)])
def test_one_logit_that_is_no_number_breaks_the_policy(
    weights_of_one_action: tuple[float, float], tmp_path: Path
) -> None:
    """Plus infinity, minus infinity (another action has the largest logit), and NaN as their sum."""
    weights = _weights(make_model(tmp_path, "2.3.0", seed=6, hidden=(2,)))
    weights["shared.0.weight"][:] = 0.0
    weights["shared.0.bias"][:] = 10.0
    weights["actor_head.weight"][:] = 0.1
    weights["actor_head.weight"][1] = weights_of_one_action
    network = PolicyNetwork(make_model(tmp_path, "2.3.0", hidden=(2,)).network.spec, weights)
    lanes = lanes_of(make_model(tmp_path, "2.3.0"), MARKETS["quiet"](6, 60), [(20, 60)], CRYPTO)
    (run,) = run_lanes(lanes, network.actor(market_features(60, 6), lanes), engine_rules(CRYPTO))
    assert run.status is RunStatus.BROKEN_POLICY
    assert run.actions.tolist() == [-1]
    assert run.equity.tolist() == [CRYPTO.capital]


@pytest.mark.parametrize("version", ["2.3.0", "2.7.0"])
def test_of_equal_logits_the_lowest_action_is_taken(version: str, tmp_path: Path) -> None:
    model = make_model(tmp_path, version, seed=7)
    weights = {key: value.copy() for key, value in _weights(model).items()}
    weights["actor_head.weight"][:] = 0.0
    weights["actor_head.bias"][:] = -1.0
    weights["actor_head.bias"][1:3] = 2.0
    network = PolicyNetwork(model.network.spec, weights)
    lanes = lanes_of(model, MARKETS["quiet"](7, 60), [(20, 60)], CRYPTO)
    (run,) = run_lanes(lanes, network.actor(market_features(60, 7), lanes), engine_rules(CRYPTO))
    assert set(run.actions[:-1].tolist()) == {1}


def test_a_long_series_goes_through_in_parts(tmp_path: Path) -> None:
    model = make_model(tmp_path, "2.3.0", window=2, hidden=(4,), seed=8)
    n_bars = 20_000
    features = market_features(n_bars, 8)
    lanes = lanes_of(model, MARKETS["quiet"](8, n_bars), [(1, n_bars)], CRYPTO)
    actor = model.network.actor(features, lanes)
    none = np.zeros((1, 6))
    for step in (0, 8190, 8191, 8192, 16_383, 16_384, n_bars - 3):
        logits = naive_logits(model, features, 1 + step, (0.0,) * 6)
        assert actor.act(step, np.array([0]), none).tolist() == [int(np.argmax(logits))]


@pytest.mark.parametrize("norm", ["none", "on_observation"])
def test_a_lane_without_a_full_window_is_refused(norm: str, tmp_path: Path) -> None:
    model = make_model(tmp_path, "2.7.0", norm=norm)
    features, bars = market_features(60, 1), MARKETS["quiet"](1, 60)
    model.network.actor(features, lanes_of(model, bars, [(8, 60)], CRYPTO))
    with pytest.raises(ValueError, match="full window of finite features"):
        model.network.actor(features, lanes_of(model, bars, [(7, 60)], CRYPTO))
    features[12] = np.nan
    model.network.actor(features, lanes_of(model, bars, [(21, 60)], CRYPTO))
    with pytest.raises(ValueError, match="full window of finite features"):
        model.network.actor(features, lanes_of(model, bars, [(20, 60)], CRYPTO))


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("norm", ["none", "on_observation"])
@pytest.mark.parametrize("version", ["2.3.0", "2.7.0"])
def test_features_that_no_lane_reaches_do_not_matter(
    version: str, norm: str, device: str, tmp_path: Path
) -> None:
    model = make_model(tmp_path, version, norm=norm, seed=9, device=device)
    blocks = [(20, 60), (100, 140)]
    bars, features = MARKETS["quiet"](9, 160), market_features(160, 9)
    lanes = lanes_of(model, bars, blocks, CRYPTO)
    expected = run_lanes(lanes, model.network.actor(features, lanes), engine_rules(CRYPTO))
    features[:12] = features[60:92] = features[140:] = np.nan
    runs = run_lanes(lanes, model.network.actor(features, lanes), engine_rules(CRYPTO))
    assert [r.actions.tolist() for r in runs] == [r.actions.tolist() for r in expected]


def test_weights_without_a_bias_and_with_unnamed_activation(tmp_path: Path) -> None:
    torch.manual_seed(12)
    trainer = Trainer("2.7.0", 9, (16,), "none", "tanh")
    trainer.shared[0].bias = None
    trainer.actor_head.bias = None
    path = make_checkpoint(
        tmp_path / "model.pt",
        window=9,
        activation=None,
        overrides={"policy_state_dict": dict(trainer.state_dict())},
    )
    checkpoint = read_checkpoint(path, default_activation="tanh")
    model = Model(trainer.eval(), PolicyNetwork(checkpoint.spec, checkpoint.tensors), 9, 6)
    assert_same_as_naive(model, EQUITY, seed=12)


def test_the_network_keeps_its_own_weights(tmp_path: Path) -> None:
    model = make_model(tmp_path, "2.3.0", seed=13)
    weights = {key: value.copy() for key, value in _weights(model).items()}
    network = PolicyNetwork(model.network.spec, weights)
    features = market_features(40, 13)
    before = network.first_layer(features)
    for value in weights.values():
        value[:] = 0.0
    assert torch.equal(network.first_layer(features), before)


def _weights(model: Model) -> dict[str, np.ndarray]:
    actor = {key for layer in model.network.spec.layers for key in (layer.weight_key, layer.bias_key) if key}
    return {key: value.numpy().copy() for key, value in model.trainer.state_dict().items() if key in actor}


def test_the_versions_of_the_contract_are_all_here() -> None:
    assert {v: (N_MARKET + n, VERSION_DIMS[v][1]) for v, n in N_ACCOUNT.items()} == VERSION_DIMS


def test_short_lanes_end_while_long_ones_go_on(tmp_path: Path) -> None:
    model = make_model(tmp_path, "2.7.0", seed=14)
    rules = replace(EQUITY, capital=20.0)
    assert_same_as_naive(model, rules, market="crash", blocks=((10, 12), (10, 160), (50, 70)), seed=14)
