from __future__ import annotations

import hashlib
import json
import struct
from dataclasses import fields, replace
from datetime import UTC, datetime

import numpy as np
import pytest
from safetensors.numpy import save

from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.model_store import ModelStore, spec_from_json, spec_to_json
from postval_assets_tests.factories import make_checkpoint


@pytest.fixture
def model(tmp_path):
    return read_checkpoint(make_checkpoint(tmp_path / "m.pt", version="2.3.0", hidden=(3,), layer_norm=True))


@pytest.fixture
def store(tmp_path) -> ModelStore:
    return ModelStore(tmp_path / "models")


def test_a_model_comes_back_as_it_was_put(store, model):
    stored = store.put(model.tensors, model.spec)
    path = store.path_of(stored.sha256)
    assert stored.relative_path == f"{stored.sha256[:2]}/{stored.sha256}.safetensors"
    assert (path.stat().st_size, hashlib.sha256(path.read_bytes()).hexdigest()) == (
        stored.size_bytes,
        stored.sha256,
    )
    for name in (stored.sha256, path, stored.relative_path):
        spec, tensors = store.load(name, verify=True)
        assert spec == model.spec
        assert set(tensors) == set(model.tensors)
        for key, array in tensors.items():
            assert array.dtype == np.float32
            np.testing.assert_array_equal(array, model.tensors[key])


def test_equal_models_are_one_file_and_other_models_are_not(store, model):
    first = store.put(model.tensors, model.spec)
    backwards = dict(reversed(list(model.tensors.items())))
    assert store.put(backwards, model.spec) == first
    assert store.put(model.tensors, replace(model.spec, activation="tanh")).sha256 != first.sha256
    changed = {**model.tensors, "actor_head.bias": model.tensors["actor_head.bias"] + 1}
    assert store.put(changed, model.spec).sha256 != first.sha256


def test_the_digest_does_not_depend_on_the_process(store, model):
    """The file's header is written in one order only: names sorted by the format, one key of metadata."""
    stored = store.put(model.tensors, model.spec)
    data = store.path_of(stored.sha256).read_bytes()
    header = json.loads(data[8 : 8 + struct.unpack("<Q", data[:8])[0]])
    assert list(header["__metadata__"]) == ["postval.model_spec"]
    assert list(json.loads(header["__metadata__"]["postval.model_spec"])) == sorted(
        field.name for field in fields(model.spec)
    )


def test_every_fact_survives_the_text(model):
    spec = replace(
        model.spec,
        feature_set="mine",
        feature_names=("a", "b"),
        train_start=datetime(2022, 1, 1, tzinfo=UTC),
        train_end=datetime(2024, 1, 1, 1, 2, 3, 4, tzinfo=UTC),
        action_meanings=("HOLD", "BUY", "SELL"),
        global_step=None,
    )
    assert spec_from_json(spec_to_json(spec)) == spec


def test_damage_is_found(store, model):
    stored = store.put(model.tensors, model.spec)
    path = store.path_of(stored.sha256)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(Rejected, match="damaged"):
        store.load(stored.sha256, verify=True)
    assert store.load(stored.sha256)[0] == model.spec
    path.write_bytes(data[:100])
    with pytest.raises(Rejected, match="damaged"):
        store.load(stored.sha256)
    # Putting the model again mends it.
    store.put(model.tensors, model.spec)
    assert store.load(stored.sha256, verify=True)[0] == model.spec


@pytest.mark.parametrize("text", [None, "{}", "3", "not json", '{"layers": 3}'])
def test_a_file_of_somebody_else_is_rejected(store, tmp_path, text):
    path = tmp_path / "x.safetensors"
    metadata = None if text is None else {"postval.model_spec": text}
    path.write_bytes(save({"a": np.ones(1, dtype=np.float32)}, metadata=metadata))
    with pytest.raises(Rejected):
        store.load(path)


def test_a_model_that_is_not_there_is_worth_retrying(store):
    with pytest.raises(Unavailable):
        store.load("a" * 64)
    with pytest.raises(Rejected, match="not a SHA-256"):
        store.load("../x".replace("/", ""))
