"""The compact network and the plain one that is delivered compute the same."""

import numpy as np
import pytest
import torch

from postval_assets.core.model_spec import LayerKind, discover_layers
from postval_assets.trainer.network import (
    ActorCritic,
    averaged_features,
    delivered_state_dict,
    fit_input_map,
    network_inputs,
    temporal_kernels,
)

WINDOW, SPANS = 12, (1, 3, 8)


def test_kernels_are_exponential_averages_of_their_span() -> None:
    kernels = temporal_kernels(4, (1, 3))
    assert kernels[0].tolist() == [0.0, 0.0, 0.0, 1.0]
    # Span 3 halves from bar to bar: 1, 2, 4, 8 of 15, the newest last.
    assert kernels[1] == pytest.approx(np.array([1, 2, 4, 8]) / 15)


def test_averages_are_the_weighted_sums_of_each_window() -> None:
    rng = np.random.default_rng(0)
    features = rng.standard_normal((20, 3)).astype(np.float32)
    kernels = temporal_kernels(5, (1, 4))
    averaged = averaged_features(features, kernels)
    assert np.isnan(averaged[:4]).all()
    for bar in range(4, 20):
        for k in range(2):
            for f in range(3):
                expected = sum(float(kernels[k, j]) * float(features[bar - 4 + j, f]) for j in range(5))
                assert averaged[bar, k, f] == pytest.approx(expected)


def test_a_window_that_is_not_full_of_features_has_no_average() -> None:
    features = np.ones((12, 1), dtype=np.float32)
    features[:3] = np.nan
    averaged = averaged_features(features, temporal_kernels(5, (1, 4)))
    assert np.isnan(averaged[:7]).all()
    assert np.isfinite(averaged[7:]).all()


@pytest.mark.parametrize("layer_norm", [False, True])
@pytest.mark.parametrize("n_account", [0, 3, 6])
@pytest.mark.parametrize("hidden_dims", [(7,), (7, 5), (7, 5, 4)])
def test_delivered_network_gives_the_same_logits_from_raw_windows(
    hidden_dims: tuple[int, ...], n_account: int, layer_norm: bool
) -> None:
    rng = np.random.default_rng(len(hidden_dims) * 10 + n_account)
    n_bars, n_market, n_actions = 90, 6, 7
    # Features of very different sizes, far from 0, as real ones are.
    scale, offset = np.array([1e-3, 1.0, 0.2, 5.0, 1e-2, 1.0]), np.array([0.0, 3.0, -1.0, 10.0, 0.5, 0.0])
    features = (rng.standard_normal((n_bars, n_market)) * scale + offset).astype(np.float32)
    features[:, 5] = 0.25  # never moves: it is left out
    kernels = temporal_kernels(WINDOW, SPANS)
    averaged = averaged_features(features, kernels)[WINDOW - 1 :]
    input_map = fit_input_map(averaged[:50], kernels, left_out=[1])
    torch.manual_seed(1)
    network = ActorCritic(
        input_map.n_inputs, n_account, n_actions, hidden_dims, "tanh", layer_norm=layer_norm
    )
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    account = rng.standard_normal((len(averaged), n_account)).astype(np.float32)
    with torch.no_grad():
        expected, expected_values = network(
            torch.from_numpy(network_inputs(averaged, input_map)), torch.from_numpy(account)
        )

    delivered = delivered_state_dict(network, input_map)
    hidden = np.stack(
        [
            np.concatenate(
                [features[i : i + WINDOW], np.broadcast_to(account[i], (WINDOW, n_account))], axis=1
            ).ravel()
            for i in range(len(averaged))
        ]
    )
    x = torch.from_numpy(hidden)
    layers = discover_layers({name: tensor.numpy() for name, tensor in delivered.items()})
    for layer in layers[:-1]:
        if layer.kind is LayerKind.ACTIVATION:
            x = torch.tanh(x)
        elif layer.kind is LayerKind.LINEAR:
            x = x @ delivered[layer.weight_key].T + delivered[str(layer.bias_key)]
        else:
            x = torch.nn.functional.layer_norm(
                x, (layer.n_out,), delivered[layer.weight_key], delivered[str(layer.bias_key)]
            )
    logits = x @ delivered["actor_head.weight"].T + delivered["actor_head.bias"]
    values = (x @ delivered["critic_head.weight"].T + delivered["critic_head.bias"])[:, 0]
    assert logits.numpy() == pytest.approx(expected.numpy(), abs=2e-3)
    assert values.numpy() == pytest.approx(expected_values.numpy(), abs=2e-3)
    assert sum(layer.kind is LayerKind.LAYER_NORM for layer in layers) == layer_norm * len(hidden_dims)

    weight = delivered["shared.0.weight"].numpy().reshape(hidden_dims[0], WINDOW, n_market + n_account)
    assert (weight[:, :, [1, 5]] == 0.0).all()
    assert (weight[:, :, 0] != 0.0).any()


def test_delivered_tensors_are_copies() -> None:
    kernels = temporal_kernels(WINDOW, SPANS)
    averaged = np.random.default_rng(0).standard_normal((30, len(SPANS), 2))
    input_map = fit_input_map(averaged, kernels)
    network = ActorCritic(input_map.n_inputs, 3, 3, (4, 4), "relu", layer_norm=True)
    delivered = delivered_state_dict(network, input_map)
    before = {name: tensor.clone() for name, tensor in delivered.items()}
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(1.0)
    assert all(torch.equal(before[name], tensor) for name, tensor in delivered.items())
