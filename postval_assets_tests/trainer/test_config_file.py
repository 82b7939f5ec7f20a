"""Settings of the learning: from a file, and from the command line."""

from __future__ import annotations

from pathlib import Path

import pytest

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.config_file import training_config


def written(folder: Path, text: str) -> Path:
    file = folder / "ppo.toml"
    file.write_text(text, encoding="utf-8")
    return file


def test_without_anything_it_is_the_default() -> None:
    assert training_config() == PPOConfig()


def test_a_file_changes_what_it_names(tmp_path: Path) -> None:
    file = written(
        tmp_path,
        'hidden_dims = [64, 64]\nleft_out = ["season_sin"]\nlayer_norm = true\nactivation = "gelu"\n'
        "learning_rate = 1e-3\nn_updates = 7\nclip = 0.1\nreward_scale = 0.01\n",
    )
    assert training_config(file) == PPOConfig(
        hidden_dims=(64, 64),
        left_out=("season_sin",),
        layer_norm=True,
        activation="gelu",
        learning_rate=1e-3,
        n_updates=7,
        clip=0.1,
        reward_scale=0.01,
    )


def test_a_whole_number_stands_for_a_fraction(tmp_path: Path) -> None:
    found = training_config(written(tmp_path, "discount = 1\n"))
    assert (found.discount, type(found.discount)) == (1.0, float)


def test_the_command_line_wins(tmp_path: Path) -> None:
    file = written(tmp_path, 'model_version = "2.6.0"\nfeature_set = "acme"\nn_updates = 50\nseed = 3\n')
    found = training_config(file, model_version="2.3.0", feature_set="reference-53", n_updates=20, seed=0)
    assert found == PPOConfig(model_version="2.3.0", feature_set="reference-53", n_updates=20, seed=0)
    assert training_config(file).seed == 3


def test_few_updates_are_validated_once_at_the_end(tmp_path: Path) -> None:
    assert training_config(n_updates=3).validation_interval == 3
    assert training_config(n_updates=300).validation_interval == PPOConfig().validation_interval
    file = written(tmp_path, "validation_interval = 2\n")
    assert training_config(file, n_updates=3).validation_interval == 2


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            "learning_rat = 0.1",
            "'learning_rat' is no training setting (did you mean learning_rate?); there are mo",
        ),
        (
            "[ppo]\nclip = 0.1",
            "'ppo' is no training setting; there are model_version, feature_set, hidden_dims",
        ),
        ("clip = '0.1'", "clip is '0.1': expected a number"),
        ("n_updates = 1.5", "n_updates is 1.5: expected a whole number"),
        ("n_updates = true", "n_updates is True: expected a whole number"),
        ("layer_norm = 1", "layer_norm is 1: expected true or false"),
        ("activation = 1", "activation is 1: expected a text"),
        ("hidden_dims = 32", "hidden_dims is 32: expected a list of whole numbers"),
        ("hidden_dims = [32, 1.5]", "hidden_dims is [32, 1.5]: expected a list of whole numbers"),
        ("left_out = 'season_sin'", "left_out is 'season_sin': expected a list of texts"),
        ("clip = 2.0", "training setting clip is 2.0: expected between 0 and 1"),
        ("learning_rate = nan", "training setting learning_rate is nan: expected above 0"),
        ("validation_interval = 500", "expected 1 to n_updates (120)"),
        ("clip 0.1", "ppo.toml is not TOML"),
        ("clip = 0.1\nclip = 0.2", "ppo.toml is not TOML"),
    ],
)
def test_what_is_no_setting_is_refused_with_what_is_one(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(Rejected) as error:
        training_config(written(tmp_path, text))
    assert words in str(error.value)


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "ppo.toml"
    file.write_bytes("# größer\nclip = 0.1\n".encode("latin-1"))
    with pytest.raises(Rejected, match="is not TOML"):
        training_config(file)
    file.write_bytes(b"\xef\xbb\xbfclip = 0.1\r\n")
    assert training_config(file).clip == 0.1, "as Notepad writes it"


def test_a_file_that_is_not_there_may_come(tmp_path: Path) -> None:
    with pytest.raises(Unavailable, match="cannot be read"):
        training_config(tmp_path / "none.toml")
