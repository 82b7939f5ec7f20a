"""A run: reproducible, honest about what it saw, and as a reader will see it."""

import dataclasses
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
import torch

from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.failures import Rejected
from postval_assets.core.features.feature_set import FeatureSet
from postval_assets.core.features.reference import REFERENCE_53, REFERENCE_59
from postval_assets.core.model_spec import VERSIONS
from postval_assets.core.policy import PolicyNetwork
from postval_assets.trainer.archive_writer import (
    Claim,
    TrainedModel,
    TrainingSummary,
    summary_document,
    write_checkpoint,
)
from postval_assets.trainer.claims import claim_of
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.data import prepare_data
from postval_assets.trainer.training import Progress, TrainingStopped, train_model
from postval_assets_tests.trainer.training_cases import SMALL, random_bars

RULES = ExecutionRules()


def train(seed: int = 0, bars_seed: int = 0, **changes: object) -> TrainedModel:
    config = dataclasses.replace(SMALL, seed=seed, **changes)
    return train_model(random_bars(bars_seed), config, rules=RULES, feature_sets={})


def same_weights(a: TrainedModel, b: TrainedModel) -> bool:
    return all(torch.equal(a.policy_state_dict[k], b.policy_state_dict[k]) for k in a.policy_state_dict)


def test_equal_arguments_give_equal_bytes_whatever_ran_before() -> None:
    first = write_checkpoint(train())
    torch.manual_seed(99)
    np.random.default_rng(1).random(10)
    assert write_checkpoint(train()) == first


def test_another_seed_gives_another_network() -> None:
    assert not same_weights(train(seed=0), train(seed=1))


def test_the_surrounding_program_s_random_state_and_threads_stay() -> None:
    torch.manual_seed(5)
    state, threads = torch.get_rng_state().clone(), torch.get_num_threads()
    train()
    assert torch.equal(torch.get_rng_state(), state)
    assert torch.get_num_threads() == threads


def test_held_back_bars_teach_nothing() -> None:
    """Other held-back bars give other claims and, update by update, the same weights."""
    bars, seen = random_bars(0), {}
    data = prepare_data(bars, SMALL, {})
    other = bars.close.copy()
    other[data.cut :] *= np.exp(
        np.cumsum(0.01 * np.random.default_rng(4).standard_normal(len(bars) - data.cut))
    )
    changed = dataclasses.replace(
        bars, close=other, high=np.maximum(bars.high, other), low=np.minimum(bars.low, other)
    )
    for name, series in (("as it was", bars), ("changed", changed)):
        kept: list[TrainedModel] = []
        train_model(
            series,
            SMALL,
            rules=RULES,
            feature_sets={},
            on_checkpoint=lambda _, model, kept=kept: kept.append(model),
        )
        seen[name] = kept
    assert len(seen["changed"]) == 2
    assert all(same_weights(a, b) for a, b in zip(seen["as it was"], seen["changed"], strict=True))
    assert seen["as it was"][-1].claims != seen["changed"][-1].claims


def test_episodes_and_held_back_blocks_share_no_bar() -> None:
    data = prepare_data(random_bars(0), SMALL, {})
    assert data.first == REFERENCE_59.look_back - 1 + 99
    assert data.held_back[0].start == data.cut
    assert [b.start for b in data.held_back[1:]] == [a.stop for a in data.held_back[:-1]]
    assert data.held_back[-1].stop == 900
    n_usable = 900 - data.first
    assert len(data.bars) - data.cut == round(0.2 * n_usable)


def test_the_training_window_covers_the_held_back_end() -> None:
    model = train()
    assert model.train_start == datetime(2023, 1, 2, tzinfo=UTC)
    assert model.train_end == model.train_start + timedelta(hours=899)


@pytest.mark.parametrize("version", list(VERSIONS))
@pytest.mark.parametrize("layer_norm", [False, True])
def test_a_reader_finds_what_the_contract_says(tmp_path, version: str, layer_norm: bool) -> None:
    model = train(model_version=version, layer_norm=layer_norm, activation="relu")
    path = tmp_path / "model.pt"
    path.write_bytes(write_checkpoint(model))
    read = read_checkpoint(path)
    layout = VERSIONS[version]
    assert read.notes == ()
    assert (read.spec.model_version, read.spec.n_features, read.spec.n_actions) == (
        version,
        layout.n_features,
        layout.n_actions,
    )
    assert read.spec.activation == "relu"
    assert read.spec.feature_set == f"reference-{layout.n_features}"
    assert read.spec.feature_names is not None
    assert len(read.spec.feature_names) == layout.n_features
    assert (read.spec.train_start, read.spec.train_end) == (model.train_start, model.train_end)
    assert read.spec.global_step in {2 * 8 * 59, 4 * 8 * 59}


def test_the_claim_is_what_a_reader_of_the_checkpoint_gets_on_the_same_bars(tmp_path) -> None:
    """Training and validation cannot disagree: the file, read back, repeats the claim exactly."""
    bars = random_bars(3, 1500)
    config = dataclasses.replace(SMALL, n_updates=8, learning_rate=0.01)
    model = train_model(bars, config, rules=RULES, feature_sets={})
    (tmp_path / "model.pt").write_bytes(write_checkpoint(model))
    read = read_checkpoint(tmp_path / "model.pt")
    data = prepare_data(bars, config, {})
    network = PolicyNetwork(read.spec, read.tensors)
    again = claim_of(network, data.features, data.held_back, RULES, config.reward_scale)
    assert again == model.claims[-1]
    assert again.profit_factor > 0.0


def test_the_best_validation_is_delivered_with_the_history_up_to_it() -> None:
    told: list[Progress] = []
    config = dataclasses.replace(SMALL, n_updates=30, validation_interval=1, patience=4, learning_rate=0.01)
    model = train_model(random_bars(2), config, rules=RULES, feature_sets={}, on_progress=told.append)
    fitness = [p.claim.fitness_score for p in told if p.claim is not None]
    best = int(np.argmax(fitness))
    assert len(model.claims) == best + 1
    assert model.claims[-1].fitness_score == max(fitness)
    assert [p.update for p in told] == list(range(1, len(told) + 1))
    assert told[best].best
    # Either the run ended by itself, or the patience did.
    assert len(told) == min(30, best + 1 + 4)
    assert model.global_step == (best + 1) * 8 * 59


def test_a_run_that_is_asked_to_stop_stops_between_updates() -> None:
    told: list[Progress] = []
    with pytest.raises(TrainingStopped):
        train_model(
            random_bars(0),
            SMALL,
            rules=RULES,
            feature_sets={},
            on_progress=told.append,
            should_stop=lambda: len(told) == 3,
        )
    assert [p.update for p in told] == [1, 2, 3]


def test_too_few_bars_are_refused_with_the_number_needed() -> None:
    with pytest.raises(Rejected, match=r"UNIUSD \(1Hour\): 400 bars are too few .* at least (\d+)") as caught:
        train_model(random_bars(0, 400), SMALL, rules=RULES, feature_sets={})
    needed = int(str(caught.value).split("at least ")[1].split(":")[0])
    prepare_data(random_bars(0, needed), SMALL, {})


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"model_version": "9.9"}, "model_version is '9.9': expected one of 2.3.0"),
        ({"activation": "softplus"}, "activation"),
        ({"hidden_dims": ()}, "hidden_dims"),
        (
            {"validation_interval": 5, "n_updates": 4},
            r"validation_interval is 5: expected 1 to n_updates \(4\)",
        ),
        ({"held_back_frac": 1.0}, "held_back_frac"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"seed": -1}, "seed"),
    ],
)
def test_settings_out_of_range_are_refused_by_name(changes: dict[str, object], expected: str) -> None:
    with pytest.raises(Rejected, match=expected):
        dataclasses.replace(PPOConfig(), **changes)


def test_a_plug_in_set_can_be_trained_on(tmp_path) -> None:
    names = tuple(f"acme_{i}" for i in range(53))
    acme = FeatureSet("acme-59", "1", names, REFERENCE_59.account_features, 139, REFERENCE_59.compute)
    config = dataclasses.replace(SMALL, feature_set="acme-59")
    model = train_model(random_bars(0), config, rules=RULES, feature_sets={"acme-59": acme})
    assert model.feature_set == "acme-59"
    assert model.feature_names == acme.feature_names
    with pytest.raises(Rejected, match="'acme-60' is not registered; registered are acme-59"):
        train_model(
            random_bars(0),
            dataclasses.replace(SMALL, feature_set="acme-60"),
            rules=RULES,
            feature_sets={"acme-59": acme},
        )
    with pytest.raises(
        Rejected, match=r"reference-53 has 53 features, 0 of them of the account; version 2.7.0"
    ):
        train_model(
            random_bars(0),
            dataclasses.replace(SMALL, feature_set="reference-53"),
            rules=RULES,
            feature_sets={"reference-53": REFERENCE_53},
        )


def test_a_feature_that_is_left_out_has_no_weight() -> None:
    model = train(left_out=("rsi_14",))
    weight = model.policy_state_dict["shared.0.weight"].reshape(8, 100, 59)
    column = REFERENCE_59.market_features.index("rsi_14")
    assert (weight[:, :, column] == 0.0).all()
    assert (weight[:, :, column + 1] != 0.0).any()
    with pytest.raises(Rejected, match="rsi_15 cannot be left out: reference-59 has none of that name"):
        train(left_out=("rsi_15",))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_cuda_trains_the_same_network_within_rounding() -> None:
    config = dataclasses.replace(SMALL, n_updates=2)
    on_cpu = train_model(random_bars(0), config, rules=RULES, feature_sets={})
    on_cuda = train_model(random_bars(0), config, rules=RULES, feature_sets={}, device="cuda")
    for name, tensor in on_cpu.policy_state_dict.items():
        assert on_cuda.policy_state_dict[name].numpy() == pytest.approx(tensor.numpy(), abs=1e-2)


def test_a_set_that_looks_ahead_is_not_trained_on() -> None:
    def leaking(frame):
        values = REFERENCE_59.compute(frame)
        close = frame["close"].to_numpy()
        values[:-1, 0] = np.log(close[1:] / close[:-1])
        return values

    names = tuple(f"leak_{i}" for i in range(53))
    leak = FeatureSet("leak-59", "1", names, REFERENCE_59.account_features, 139, leaking)
    config = dataclasses.replace(SMALL, feature_set="leak-59", left_out=())
    with pytest.raises(Rejected, match=r"feature set leak-59 .* leak_0 sees later bars"):
        train_model(random_bars(0), config, rules=RULES, feature_sets={"leak-59": leak})


def test_a_run_that_diverges_is_refused_with_its_update() -> None:
    with pytest.raises(
        Rejected, match=r"UNIUSD \(1Hour\): training diverged at update 1, .* learning_rate than 1e\+30"
    ):
        train(learning_rate=1e30)


def test_the_learning_rate_falls_to_a_tenth_over_the_run() -> None:
    rates: list[float] = []
    train_model(
        random_bars(0),
        dataclasses.replace(SMALL, n_updates=10, validation_interval=1, patience=10, learning_rate=1e-3),
        rules=RULES,
        feature_sets={},
        on_checkpoint=lambda _, model: rates.append(model.optimizer_state_dict["param_groups"][0]["lr"]),
    )
    assert rates == pytest.approx([1e-3 * (1 - 0.09 * k) for k in range(10)])


def test_of_equal_validations_the_first_is_delivered() -> None:
    # A policy that hardly learns holds for ever: every validation claims the same.
    config = dataclasses.replace(
        SMALL, n_updates=6, validation_interval=1, patience=6, learning_rate=1e-12, weight_decay=0.0
    )
    model = train_model(random_bars(0), config, rules=RULES, feature_sets={})
    assert len(model.claims) == 1


def test_runs_compute_on_one_thread() -> None:
    threads: set[int] = set()
    train_model(
        random_bars(0),
        SMALL,
        rules=RULES,
        feature_sets={},
        on_progress=lambda _: threads.add(torch.get_num_threads()),
    )
    assert threads == {1}


def test_claims_keep_six_digits() -> None:
    model = dataclasses.replace(train(), claims=(Claim(1 / 3, 2 / 3, 1 / 7, 1 / 9),))
    summary = TrainingSummary(datetime(2024, 1, 1, tzinfo=UTC), 0.001, 2, 0, 1)
    metrics = summary_document([model], summary)["symbols"]["UNIUSD_1Hour"]["metrics"]
    assert metrics == {
        "fitness_score": [0.333333],
        "profit_factor": [0.666667],
        "consistency": [0.142857],
        "max_drawdown": [0.111111],
    }
