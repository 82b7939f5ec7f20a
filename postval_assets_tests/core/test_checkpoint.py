from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import torch

from postval_assets.core.archive import ArchiveLimits
from postval_assets.core.checkpoint import (
    ActivationBasis,
    Incompatible,
    LayerKind,
    VersionBasis,
    read_checkpoint,
)
from postval_assets.core.failures import Rejected
from postval_assets.core.model_spec import discover_layers
from postval_assets.io.archive_file import open_archive
from postval_assets_tests.factories import make_checkpoint, make_policy, rewrite_instructions

REAL = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "archives"
ACCOUNT = ("total_pnl", "win_rate", "drawdown", "position_pct", "available_pct", "account_change")


def forward(checkpoint, observation: np.ndarray) -> np.ndarray:
    """The network as its layers say, in float64."""
    values = observation.astype(np.float64)
    for layer in checkpoint.spec.layers:
        if layer.kind is LayerKind.ACTIVATION:
            values = np.tanh(values)
            continue
        weight = checkpoint.tensors[layer.weight_key].astype(np.float64)
        bias = checkpoint.tensors[layer.bias_key].astype(np.float64)
        if layer.kind is LayerKind.LINEAR:
            values = values @ weight.T + bias
        else:
            spread = np.sqrt(values.var(axis=1, keepdims=True) + 1e-5)
            values = (values - values.mean(axis=1, keepdims=True)) / spread * weight + bias
    return values


@pytest.mark.parametrize(
    ("version", "n_features", "n_actions", "n_account"),
    [("2.3.0", 53, 3, 0), ("2.4.0", 56, 3, 3), ("2.5.0", 56, 3, 3), ("2.6.0", 56, 3, 3), ("2.7.0", 59, 7, 6)],
)
@pytest.mark.parametrize("prefix", ["", "_orig_mod.", "module._orig_mod.module."])
def test_a_checkpoint_of_each_version(tmp_path, version, n_features, n_actions, n_account, prefix):
    path = make_checkpoint(tmp_path / "m.pt", version=version, hidden=(6, 4), prefix=prefix, seed=3)
    checkpoint = read_checkpoint(path)
    spec = checkpoint.spec
    assert (spec.model_version, spec.model_version_basis) == (version, VersionBasis.STATED)
    assert (spec.n_features, spec.n_actions, spec.window) == (n_features, n_actions, 100)
    assert (spec.obs_dim, spec.hidden_dims) == (n_features * 100, (6, 4))
    assert spec.account_features == ACCOUNT[:n_account]
    assert (spec.activation, spec.activation_basis) == ("relu", ActivationBasis.NAMED)
    n_in = n_features * 100
    assert spec.n_parameters == 6 * n_in + 6 + 4 * 6 + 4 + n_actions * 4 + n_actions + 4 + 1
    assert (spec.global_step, spec.min_trader_version) == (1000, version)
    assert (spec.feature_set, spec.feature_names, spec.train_start, spec.train_end) == (
        None,
        None,
        None,
        None,
    )
    assert checkpoint.notes == ()
    policy = make_policy(version=version, hidden=(6, 4), seed=3)
    assert set(checkpoint.tensors) == {name for name in policy if not name.startswith("critic_head")}
    for name, array in checkpoint.tensors.items():
        assert array.dtype == np.float32
        assert array.flags.owndata
        np.testing.assert_array_equal(array, policy[name].numpy())


@pytest.mark.parametrize(
    ("version", "inferred", "shared"),
    [
        ("2.3.0", "2.3.0", False),
        ("2.4.0", "2.6.0", True),
        ("2.6.0", "2.6.0", True),
        ("2.7.0", "2.7.0", False),
    ],
)
def test_a_version_that_is_not_stated_is_inferred_and_said_to_be(tmp_path, version, inferred, shared):
    checkpoint = read_checkpoint(make_checkpoint(tmp_path / "m.pt", version=version, with_metadata=False))
    assert checkpoint.spec.model_version == inferred
    assert checkpoint.spec.model_version_basis is VersionBasis.INFERRED
    (note,) = checkpoint.notes
    assert "inferred" in note
    assert ("2.4.0, 2.5.0, 2.6.0" in note) is shared


def test_another_window_is_read_where_it_is_stated(tmp_path):
    spec = read_checkpoint(make_checkpoint(tmp_path / "m.pt", window=20)).spec
    assert (spec.window, spec.obs_dim, spec.n_features) == (20, 1180, 59)


@pytest.mark.parametrize(
    "modules",
    [
        lambda n: [torch.nn.Linear(n, 9), torch.nn.Tanh(), torch.nn.Linear(9, 5), torch.nn.Tanh()],
        lambda n: [
            *(torch.nn.Linear(n, 9), torch.nn.LayerNorm(9), torch.nn.Tanh(), torch.nn.Dropout(0.1)),
            *(torch.nn.Linear(9, 5), torch.nn.LayerNorm(5), torch.nn.Tanh()),
        ],
        lambda n: [
            *(torch.nn.Linear(n, 9), torch.nn.Tanh(), torch.nn.LayerNorm(9)),
            *(torch.nn.Linear(9, 5), torch.nn.Tanh(), torch.nn.LayerNorm(5)),
        ],
        lambda n: [torch.nn.LayerNorm(n), torch.nn.Linear(n, 5), torch.nn.Tanh()],
        lambda n: [m for k in range(12) for m in (torch.nn.Linear(n if k == 0 else 5, 5), torch.nn.Tanh())],
    ],
    ids=["plain", "norm before activation", "norm after activation", "norm of the input", "twelve layers"],
)
def test_the_layers_compute_what_the_trainers_network_computes(tmp_path, modules):
    torch.manual_seed(1)
    trunk = torch.nn.Sequential(*modules(5900))
    for parameter in trunk.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    head = torch.nn.Linear(5, 7)
    network = torch.nn.Sequential(trunk, head).eval()
    state = {f"shared.{name}": value for name, value in trunk.state_dict().items()}
    state |= {f"actor_head.{name}": value for name, value in head.state_dict().items()}
    overrides = {"policy_state_dict": dict(sorted(state.items(), reverse=True)), "activation": "nn.Tanh()"}
    checkpoint = read_checkpoint(make_checkpoint(tmp_path / "m.pt", overrides=overrides))
    observation = np.random.default_rng(0).normal(size=(4, 5900)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(observation)).numpy()
    assert checkpoint.spec.activation == "tanh"
    np.testing.assert_allclose(forward(checkpoint, observation), expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize(
    ("stated", "in_config", "default", "expected", "basis"),
    [
        (None, None, "relu", "relu", "ASSUMED"),
        (None, None, "gelu", "gelu", "ASSUMED"),
        (None, "ELU", "relu", "elu", "NAMED"),
        ("LeakyReLU", "elu", "relu", "leaky_relu", "NAMED"),
        ("leaky_relu", None, "relu", "leaky_relu", "NAMED"),
        ("torch.nn.SiLU", None, "relu", "silu", "NAMED"),
        ("swish", None, "relu", "silu", "NAMED"),
    ],
)
def test_activations(tmp_path, stated, in_config, default, expected, basis):
    overrides = {} if stated is None else {"activation": stated}
    path = make_checkpoint(tmp_path / "m.pt", activation=in_config, overrides=overrides)
    spec = read_checkpoint(path, default_activation=default).spec
    assert (spec.activation, spec.activation_basis) == (expected, basis)


def test_a_config_may_be_a_plain_dict_or_missing(tmp_path):
    path = make_checkpoint(
        tmp_path / "a.pt", config_module=None, overrides={"config": {"activation": "tanh"}}
    )
    assert read_checkpoint(path).spec.activation == "tanh"
    path = make_checkpoint(tmp_path / "b.pt", config_module=None)
    assert read_checkpoint(path).spec.activation_basis is ActivationBasis.ASSUMED


def test_a_default_that_does_not_exist_is_an_error_of_the_caller(tmp_path):
    with pytest.raises(ValueError, match="softplus"):
        read_checkpoint(make_checkpoint(tmp_path / "m.pt"), default_activation="softplus")


def test_what_the_trainer_knows_is_kept(tmp_path):
    names = [f"f{n}" for n in range(53)]
    overrides = {
        "feature_set": "mine",
        "feature_names": [*names, *ACCOUNT],
        "train_start": "2022-01-01",
        "train_end": "2024-06-01T12:00:00+02:00",
        "action_meanings": dict(
            enumerate(["HOLD", "BUY_25", "BUY_50", "BUY_75", "SELL_25", "SELL_50", "SELL_75"])
        ),
    }
    spec = read_checkpoint(make_checkpoint(tmp_path / "a.pt", overrides=overrides)).spec
    assert spec.feature_set == "mine"
    assert spec.feature_names == (*names, *ACCOUNT)
    assert spec.train_start == datetime(2022, 1, 1, tzinfo=UTC)
    assert spec.train_end == datetime(2024, 6, 1, 10, tzinfo=UTC)
    assert spec.action_meanings[1] == "BUY_25"
    market_only = make_checkpoint(tmp_path / "b.pt", overrides={"feature_names": tuple(names)})
    assert read_checkpoint(market_only).spec.feature_names == (*names, *ACCOUNT)


def test_training_times_that_cannot_be_read_are_unknown_with_a_note(tmp_path):
    checkpoint = read_checkpoint(make_checkpoint(tmp_path / "m.pt", overrides={"train_end": "last week"}))
    assert checkpoint.spec.train_end is None
    assert "last week" in checkpoint.notes[0]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(tmp_path, dtype):
    policy = make_policy(dtype=dtype)
    checkpoint = read_checkpoint(make_checkpoint(tmp_path / "m.pt", overrides={"policy_state_dict": policy}))
    weight = checkpoint.tensors["shared.0.weight"]
    assert weight.dtype == np.float32
    np.testing.assert_array_equal(weight, policy["shared.0.weight"].float().numpy())


def test_a_transposed_weight_is_read_in_the_right_order(tmp_path):
    policy = make_policy()
    expected = policy["shared.0.weight"].numpy().copy()
    policy["shared.0.weight"] = policy["shared.0.weight"].T.contiguous().T
    checkpoint = read_checkpoint(make_checkpoint(tmp_path / "m.pt", overrides={"policy_state_dict": policy}))
    np.testing.assert_array_equal(checkpoint.tensors["shared.0.weight"], expected)


def test_weights_saved_on_a_gpu_are_read_on_a_machine_without_one(tmp_path):
    path = make_checkpoint(tmp_path / "m.pt")
    rewrite_instructions(path, lambda data: data.replace(b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"))
    assert b"cuda:0" in path.read_bytes()
    np.testing.assert_array_equal(
        read_checkpoint(path).tensors["actor_head.bias"], make_policy()["actor_head.bias"].numpy()
    )


NAMES_59 = [f"f{n}" for n in range(59)]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ({"model_version": "3.0.0"}, "'3.0.0' is not known"),
        ({"model_version": 2.7}, "model_version is 2.7"),
        ({"model_version": "2.6.0"}, "number of inputs is 5900"),
        ({"n_features": 56}, "n_features is 56"),
        ({"n_actions": 3}, "n_actions is 3"),
        ({"obs_dim": 5901}, "obs_dim is 5901"),
        ({"obs_dim": "5900"}, "whole number"),
        ({"window": 50}, "window 50"),
        ({"window": True}, "whole number"),
        ({"window": -1}, "window is -1"),
        ({"activation": "softplus"}, "softplus"),
        ({"activation": 3}, "activation 3"),
        ({"feature_names": ["a", "b"]}, "2 names"),
        ({"feature_names": "abc"}, "list of 59 names"),
        ({"feature_names": NAMES_59}, "expected total_pnl"),
        ({"feature_names": [*(["x"] * 53), *ACCOUNT]}, "7 of them different"),
        ({"feature_set": "a\nb"}, "printable"),
        ({"action_meanings": dict.fromkeys(range(7), "SELL")}, "action 0 is called 'SELL'"),
        ({"action_meanings": ["HOLD", "SELL", "SELL", "SELL", "BUY", "BUY", "BUY"]}, "expected BUY"),
    ],
)
def test_facts_that_do_not_fit_are_incompatible(tmp_path, overrides, said):
    with pytest.raises(Incompatible) as caught:
        read_checkpoint(make_checkpoint(tmp_path / "m.pt", overrides=overrides))
    assert said in str(caught.value)


def test_dimensions_of_no_version_are_incompatible(tmp_path):
    policy = make_policy(version="2.3.0") | {
        "actor_head.weight": torch.ones(5, 8),
        "actor_head.bias": torch.ones(5),
    }
    path = make_checkpoint(tmp_path / "m.pt", with_metadata=False, overrides={"policy_state_dict": policy})
    with pytest.raises(Incompatible, match="5300 inputs and 5 actions"):
        read_checkpoint(path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"actor_head.weight": ..., "actor_head.bias": ...}, "no actor_head.weight"),
        ({"shared.0.weight": torch.ones(9, 5900)}, "shared.0.bias has shape"),
        ({"shared.2.weight": torch.ones(8, 9)}, "layers do not fit"),
        ({"shared.2.weight": torch.ones(8, 8, 1)}, "shape (8, 8, 1)"),
        ({"critic_head.weight": torch.ones(2, 8), "critic_head.bias": torch.ones(2)}, "critic_head.weight"),
        ({"actor_head.weight": torch.ones(8), "actor_head.bias": torch.ones(8)}, "two dimensions"),
        ({"log_std": torch.ones(7)}, "log_std"),
        ({"obs_rms.mean": torch.ones(5900)}, "obs_rms.mean"),
        ({"other.bias": torch.ones(7)}, "bias but no weight"),
        ({"critic.0.weight": torch.ones(8, 5900)}, "not clear"),
        ({"shared.1.weight": torch.ones(8)}, "norm without bias"),
        ({"_orig_mod.shared.0.weight": torch.ones(8, 5900)}, "twice"),
        ({"shared.0.weight": torch.ones(8, 5900, dtype=torch.int64)}, "torch.int64"),
        ({"shared.5.weight": torch.ones(8), "shared.5.bias": torch.ones(8)}, "before or after"),
        (
            {f"shared.{n}.{role}": torch.ones(8) for n in (3, 4) for role in ("weight", "bias")},
            "second norm",
        ),
    ],
)
def test_networks_of_another_form_are_incompatible(tmp_path, changes, said):
    policy = {name: value for name, value in (make_policy() | changes).items() if value is not ...}
    with pytest.raises(Incompatible) as caught:
        read_checkpoint(make_checkpoint(tmp_path / "m.pt", overrides={"policy_state_dict": policy}))
    assert said in str(caught.value)


def test_a_network_without_trunk_is_incompatible():
    with pytest.raises(Incompatible, match="no trunk"):
        discover_layers({"actor_head.weight": np.ones((3, 5300), dtype=np.float32)})


@pytest.mark.parametrize("value", [float("nan"), float("inf"), 1e300])
@pytest.mark.parametrize("name", ["shared.0.weight", "critic_head.bias"])
def test_weights_that_are_not_finite_are_rejected(tmp_path, value, name):
    policy = make_policy(dtype=torch.float64)
    policy[name].view(-1)[0] = value
    with pytest.raises(Rejected, match=f"{name}.* has 1 weights") as caught:
        read_checkpoint(make_checkpoint(tmp_path / "m.pt", overrides={"policy_state_dict": policy}))
    assert not isinstance(caught.value, Incompatible)


@pytest.mark.parametrize(
    ("tensor", "said"),
    [
        (torch.ones(1).expand(8, 5900), "repeats or skips"),
        (torch.ones(8, 11800)[:, ::2], "repeats or skips"),
        (torch.ones(8, 5900).to_sparse(), "_rebuild_sparse_tensor"),
        (torch.empty(8, 5900, device="meta"), "_rebuild_meta_tensor"),
        (torch.ones(8, 5900, dtype=torch.complex64), "ComplexFloatStorage"),
        ("text", "expected tensors"),
    ],
    ids=["expanded", "strided", "sparse", "meta", "complex", "text"],
)
def test_other_tensors_are_rejected(tmp_path, tensor, said):
    policy = make_policy() | {"shared.0.weight": tensor}
    with pytest.raises(Rejected) as caught:
        read_checkpoint(make_checkpoint(tmp_path / "m.pt", overrides={"policy_state_dict": policy}))
    assert said in str(caught.value)


def test_a_policy_beyond_the_limit_is_rejected(tmp_path):
    path = make_checkpoint(tmp_path / "m.pt")
    n_parameters = read_checkpoint(path).spec.n_parameters
    assert read_checkpoint(path, max_parameters=n_parameters)
    with pytest.raises(Rejected, match="parameters; at most"):
        read_checkpoint(path, max_parameters=n_parameters - 1)


@pytest.mark.parametrize("policy", [..., None, {}, [1]])
def test_a_file_without_a_policy_is_rejected(tmp_path, policy):
    with pytest.raises(Rejected, match="no policy_state_dict"):
        read_checkpoint(make_checkpoint(tmp_path / "m.pt", overrides={"policy_state_dict": policy}))


@pytest.mark.shared_data
@pytest.mark.skipif(not REAL.exists(), reason="real data is not here")
@pytest.mark.parametrize(
    ("stamp", "version", "basis", "n_models", "hidden", "n_norms"),
    [
        ("20241220_221500", "2.3.0", "STATED", 2, (12, 8), 2),
        ("20250115_093000", "2.6.0", "INFERRED", 2, (8, 8), 0),
        ("20250301_180000", "2.7.0", "STATED", 4, (8, 8), 0),
    ],
)
def test_archives_of_another_program(tmp_path, stamp, version, basis, n_models, hidden, n_norms):
    with open_archive(REAL / f"Alpaca_trading_trained_{stamp}.zip", ArchiveLimits()) as archive:
        assert (len(archive.plan.models), archive.plan.rejected) == (n_models, ())
        for model in archive.plan.models:
            path = tmp_path / f"{model.symbol}.pt"
            archive.copy_entry_to(model.entry, path)
            spec = read_checkpoint(path).spec
            assert (spec.model_version, spec.model_version_basis, spec.hidden_dims) == (
                version,
                basis,
                hidden,
            )
            assert sum(layer.kind is LayerKind.LAYER_NORM for layer in spec.layers) == n_norms
            assert (spec.activation, spec.activation_basis) == ("relu", "NAMED")
