from __future__ import annotations

import struct
import subprocess
import sys
import zipfile
from collections import namedtuple
from contextlib import suppress
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
import torch

from postval_assets.core.checkpoint import ActivationBasis, Incompatible, read_checkpoint
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets_tests.factories import (
    importable_class,
    make_checkpoint,
    make_policy,
    rewrite_instructions,
)


def hand_made(path: Path, instructions: bytes, *, record: str = "archive/data.pkl", **more: bytes) -> Path:
    """A file of torch.save's form around these instructions."""
    with zipfile.ZipFile(path, "w") as file:
        file.writestr(record, instructions)
        for name, content in {"version": b"3\n", "byteorder": b"little", **more}.items():
            file.writestr(f"archive/{name}", content)
    return path


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value)) + value.encode()


def call(module: str, name: str, argument: str) -> bytes:
    """Instructions that call a function with one text."""
    return b"\x80\x02c" + f"{module}\n{name}\n".encode() + text(argument) + b"\x85R."


@pytest.mark.parametrize(("module", "name"), [("os", "system"), ("posix", "system"), ("builtins", "eval")])
def test_no_code_of_a_checkpoint_runs(tmp_path, module, name):
    if module == "posix" and sys.platform == "win32":
        module = "nt"
    canary = tmp_path / "canary"
    argument = f"open({str(canary)!r}, 'w')" if name == "eval" else f"echo run > {canary}"
    payload = call(module, name, argument)

    with pytest.raises(Rejected, match=rf"asks for {module}\.{name}"):
        read_checkpoint(hand_made(tmp_path / "m.pt", payload))
    assert not canary.exists()

    # The same bytes are a working attack on a reader that trusts them.
    (tmp_path / "payload").write_bytes(payload)
    trusting = f"import pickle; pickle.load(open({str(tmp_path / 'payload')!r}, 'rb'))"
    subprocess.run([sys.executable, "-c", trusting], check=True)
    assert canary.exists()


@pytest.mark.parametrize(
    "name",
    [
        "builtins.getattr",
        "__builtin__.eval",
        "builtins.bytearray",
        "torch.load",
        "torch.serialization.load",
        "torch._utils._rebuild_qtensor",
        "torch._utils._rebuild_wrapper_subclass",
        "torch._tensor._rebuild_from_type_v2",
        "numpy.core.multiarray._reconstruct",
        "alpaca_trading_evil.Config",
        "alpaca.Config",
        "os.alpaca_trading.Config",
    ],
)
def test_a_name_outside_the_lists_is_rejected_by_name(tmp_path, name):
    module, _, attribute = name.rpartition(".")
    with pytest.raises(Rejected, match=rf"asks for {name}"):
        read_checkpoint(hand_made(tmp_path / "m.pt", call(module, attribute, "1")))


def test_a_name_put_together_at_run_time_is_rejected(tmp_path):
    payload = b"\x80\x04" + text("os") + text("system") + b"\x93" + text("echo") + b"\x85R."
    with pytest.raises(Rejected, match=r"uses STACK_GLOBAL|is of protocol 4.* asks for os\.system"):
        read_checkpoint(hand_made(tmp_path / "m.pt", payload))


def test_a_class_below_the_prefix_is_a_record_and_not_a_class(tmp_path):
    """An attack under an allowed name finds nothing behind the name."""
    payload = call("alpaca_trading.os", "system", f"echo run > {tmp_path / 'canary'}")
    with pytest.raises(Rejected, match="expected a dict"):
        read_checkpoint(hand_made(tmp_path / "m.pt", payload))
    assert not (tmp_path / "canary").exists()


class _Slotted:
    __slots__ = ("activation",)

    def __getstate__(self):
        return (None, {"activation": self.activation})


@pytest.mark.parametrize("form", ["slots", "enum", "named tuple", "nested"])
def test_objects_of_the_trainer_in_other_forms_are_read(tmp_path, form):
    path = tmp_path / "m.pt"
    module = "alpaca_trading.config"
    with importable_class(f"{module}.Config", _Slotted if form == "slots" else object) as config_class:
        config = config_class()
        overrides = {"config": config}
        if form == "slots":
            config.activation = "tanh"
        elif form == "enum":
            kind = Enum("Kind", {"TANH": "tanh"}, module=module)
            sys.modules[module].Kind = kind
            config.activation = kind.TANH
        elif form == "named tuple":
            pair = namedtuple("Pair", "a b", module=module)  # noqa: PYI024 - what a trainer may use
            sys.modules[module].Pair = pair
            config.activation = "tanh"
            overrides["pair"] = pair(1, config)
        else:
            config.activation = "tanh"
            config.inner = config_class()
            config.device = torch.device("cpu")
            config.dtype = torch.float32
            config.names = {"a", "b"}
        make_checkpoint(path, config_module=None, overrides=overrides)
    spec = read_checkpoint(path).spec
    assert (spec.activation, spec.activation_basis) == ("tanh", ActivationBasis.NAMED)


def test_the_prefixes_are_a_setting(tmp_path):
    path = make_checkpoint(tmp_path / "m.pt", config_module="my_trainer.ppo")
    with pytest.raises(Rejected, match=r"asks for my_trainer\.ppo\.NativePPOConfig"):
        read_checkpoint(path)
    assert read_checkpoint(path, allowed_config_prefixes=["my_trainer"]).spec.activation == "relu"
    with pytest.raises(ValueError, match="empty prefix"):
        read_checkpoint(path, allowed_config_prefixes=[""])


def test_torchs_own_list_is_as_before_after_reading(tmp_path):
    before = set(torch.serialization.get_safe_globals())
    read_checkpoint(make_checkpoint(tmp_path / "m.pt"))
    assert set(torch.serialization.get_safe_globals()) == before


def write_legacy(path):
    torch.save({"policy_state_dict": make_policy()}, path, _use_new_zipfile_serialization=False)


def write_torchscript(path):
    torch.jit.trace(torch.nn.Linear(2, 2), torch.ones(1, 2)).save(str(path))


def write_truncated(path):
    make_checkpoint(path)
    path.write_bytes(path.read_bytes()[:-1000])


def write_compressed(path):
    source = make_checkpoint(path.with_suffix(".tmp"))
    with zipfile.ZipFile(source) as whole, zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for info in whole.infolist():
            file.writestr(info.filename, whole.read(info))


def write_two_instructions(path):
    make_checkpoint(path)
    with pytest.warns(UserWarning, match="Duplicate"), zipfile.ZipFile(path, "a") as file:
        file.writestr(next(n for n in file.namelist() if n.endswith("data.pkl")), b"\x80\x02}.")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize(
    ("write", "said"),
    [
        (write_legacy, "before 1.6"),
        (write_torchscript, "TorchScript"),
        (write_truncated, "cut short"),
        (write_compressed, "compressed"),
        (write_two_instructions, "two records"),
        (lambda path: path.write_bytes(b""), "cut short"),
        (lambda path: path.write_bytes(b"not a checkpoint" * 100), "not a file of torch.save"),
        (lambda path: torch.save([1, 2], path), "holds a list"),
        (lambda path: hand_made(path, b"\x80\x02}.", record="data.pkl"), "one data.pkl in one folder"),
        (lambda path: hand_made(path, b"\x80\x02"), "damaged"),
        (lambda path: hand_made(path, b"\x80\x02."), "damaged"),
        (lambda path: hand_made(path, b"\x80\x02)" + b"\x85" * 100_000 + b"."), "tuples"),
        (lambda path: hand_made(path, b"\x80\x02" + b"0" * 5 * 2**20 + b"."), "instructions take"),
    ],
)
def test_other_files_are_rejected_with_a_reason(tmp_path, write, said):
    path = tmp_path / "m.pt"
    write(path)
    with pytest.raises(Rejected) as caught:
        read_checkpoint(path)
    assert said in str(caught.value)
    assert not isinstance(caught.value, Incompatible)


def test_sizes_beyond_the_file_are_rejected(tmp_path):
    path = make_checkpoint(tmp_path / "m.pt", config_module=None)
    # The file holds 8 x 5900 weights: claim 8 x 59000.
    honest, lying = b"M\x0c\x17\x86", b"J\x78\xe6\x00\x00\x86"
    assert honest in path.read_bytes()
    rewrite_instructions(path, lambda data: data.replace(honest, lying))
    with pytest.raises(
        Rejected, match=r"shape \(8, 59000\) that reaches to number 100300 of a storage of 47200"
    ):
        read_checkpoint(path)


def test_every_flipped_byte_of_the_instructions_is_read_or_rejected(tmp_path):
    path = make_checkpoint(tmp_path / "m.pt", version="2.3.0", hidden=(2,), config_module=None)
    original = path.read_bytes()
    with zipfile.ZipFile(path) as file:
        size = next(info.file_size for info in file.infolist() if info.filename.endswith("data.pkl"))
    rng = np.random.default_rng(0)
    for position in rng.integers(0, size, 60):
        path.write_bytes(original)
        flip = int(rng.integers(1, 256))

        def change(data, at=int(position), flip=flip):
            return data[:at] + bytes([data[at] ^ flip]) + data[at + 1 :]

        rewrite_instructions(path, change)
        with suppress(Rejected):
            read_checkpoint(path)


def test_a_file_that_is_not_there_is_worth_retrying(tmp_path):
    with pytest.raises(Unavailable):
        read_checkpoint(tmp_path / "none.pt")


@pytest.mark.parametrize("error", [MemoryError(), RuntimeError("[enforce fail] can't allocate memory: 12")])
def test_a_lack_of_memory_is_worth_retrying(tmp_path, monkeypatch, error):
    path = make_checkpoint(tmp_path / "m.pt")

    def load(*_, **__):
        raise error

    monkeypatch.setattr(torch, "load", load)
    with pytest.raises(Unavailable, match="no memory was left"):
        read_checkpoint(path)
