"""Checkpoints put together instruction by instruction, so that every number and every name can lie.

Here: the instructions that torch.save writes (pickle protocol 2), and the file around them. Not here: which lies are
told (the modules of cases).
"""

from __future__ import annotations

import functools
import math
import struct
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from postval_assets_tests.hostile.zip_bytes import STORED, Part, zip_bytes

START, STOP, MARK = b"\x80\x02", b".", b"("
NONE, TRUE, FALSE = b"N", b"\x88", b"\x89"
REDUCE, BUILD, NEWOBJ, BINPERSID = b"R", b"b", b"\x81", b"Q"
FILE_NAME = "model.pt"
# The smallest network that is accepted: version 2.3.0, 53 features of 20 bars, two hidden units.
WINDOW, N_HIDDEN, N_INPUTS, N_ACTIONS = 20, 2, 53 * 20, 3
SHAPES: Mapping[str, tuple[int, ...]] = {
    "shared.0.weight": (N_HIDDEN, N_INPUTS),
    "shared.0.bias": (N_HIDDEN,),
    "actor_head.weight": (N_ACTIONS, N_HIDDEN),
    "actor_head.bias": (N_ACTIONS,),
}


def text(value: str) -> bytes:
    """A text; lone surrogates are kept."""
    encoded = value.encode("utf-8", "surrogatepass")
    return b"X" + struct.pack("<I", len(encoded)) + encoded


def number(value: int) -> bytes:
    """A whole number of any size."""
    if -(2**31) <= value < 2**31:
        return b"J" + struct.pack("<i", value)
    encoded = value.to_bytes(value.bit_length() // 8 + 1, "little", signed=True)
    return b"\x8a" + bytes([len(encoded)]) + encoded


def fraction(value: float) -> bytes:
    """A floating number."""
    return b"G" + struct.pack(">d", value)


def group(*parts: bytes) -> bytes:
    """A tuple."""
    return MARK + b"".join(parts) + b"t"


def listed(*parts: bytes) -> bytes:
    """A list."""
    return b"](" + b"".join(parts) + b"e"


def mapping(items: Mapping[str, bytes] | list[tuple[bytes, bytes]]) -> bytes:
    """A dict, of names or of any keys."""
    pairs = [(text(key), value) for key, value in items.items()] if isinstance(items, Mapping) else items
    return b"}(" + b"".join(key + value for key, value in pairs) + b"u"


def name(full: str) -> bytes:
    """A class or function: the module, and its last part."""
    module, _, attribute = full.rpartition(".")
    return b"c" + f"{module}\n{attribute}\n".encode()


def call(full: str, *arguments: bytes) -> bytes:
    """A call of it."""
    return name(full) + group(*arguments) + REDUCE


def keep(place: int) -> bytes:
    """Remember the last value."""
    return b"r" + struct.pack("<I", place)


def kept(place: int) -> bytes:
    """It again."""
    return b"j" + struct.pack("<I", place)


def ordered() -> bytes:
    """An empty OrderedDict."""
    return call("collections.OrderedDict")


def storage(
    key: str = "0",
    n_numbers: int | None = None,
    *,
    kind: str = "torch.FloatStorage",
    place: str = "cpu",
    word: str = "storage",
) -> bytes:
    """One of the file's storages, stated with so many numbers (the honest count where none is given)."""
    stated = len(STORAGES[key]) // 4 if n_numbers is None else n_numbers
    return group(text(word), name(kind), text(key), text(place), number(stated)) + BINPERSID


def tensor(
    stored: bytes,
    shape: tuple[int, ...],
    *,
    strides: tuple[int, ...] | None = None,
    offset: bytes = number(0),
    requires_grad: bytes = FALSE,
    hooks: bytes | None = None,
    more: bytes = b"",
) -> bytes:
    """A tensor of that storage; dense where no strides are given."""
    if strides is None:
        # Numbers longer than 255 bytes cannot be written.
        strides = tuple(max(-(2**2000), min(math.prod(shape[n + 1 :]), 2**2000)) for n in range(len(shape)))
    sizes = (group(*map(number, numbers)) for numbers in (shape, strides))
    hooks = ordered() if hooks is None else hooks
    return call(
        "torch._utils._rebuild_tensor_v2",
        stored,
        offset,
        *sizes,
        requires_grad,
        hooks,
        *([more] if more else []),
    )


@functools.cache
def _numbers() -> Mapping[str, bytes]:
    rng = np.random.default_rng(0)
    return {
        str(n): rng.normal(scale=0.1, size=shape).astype("<f4").tobytes()
        for n, shape in enumerate(SHAPES.values())
    }


STORAGES = _numbers()


def honest_policy() -> dict[str, bytes]:
    """The instructions of each tensor by its name."""
    return {named: tensor(storage(str(n)), shape) for n, (named, shape) in enumerate(SHAPES.items())}


def instructions(
    policy: Mapping[str, bytes | None] | None = None, top: Mapping[str, bytes | None] | None = None
) -> bytes:
    """A checkpoint's pickle.

    Args:
        policy: tensors to replace or add; None takes one away.
        top: the same of the checkpoint's own keys.
    """
    tensors = {**honest_policy(), **(policy or {})}
    fields = {
        "policy_state_dict": mapping({key: value for key, value in tensors.items() if value is not None}),
        "model_version": text("2.3.0"),
        "window": number(WINDOW),
        "activation": text("relu"),
        **(top or {}),
    }
    return START + mapping({key: value for key, value in fields.items() if value is not None}) + STOP


def parts(
    pickle: bytes,
    storages: Mapping[str, bytes] = STORAGES,
    side: Mapping[str, bytes | None] | None = None,
    folder: str = "archive",
) -> list[Part]:
    """The records of a file of torch.save.

    Args:
        pickle: the instructions.
        storages: by key.
        side: records beside them, to replace or add; None takes one away.
        folder: that all are in.
    """
    records: dict[str, bytes | None] = {
        "data.pkl": pickle,
        ".format_version": b"1",
        "byteorder": b"little",
        **{f"data/{key}": content for key, content in storages.items()},
        "version": b"3\n",
        **(side or {}),
    }
    return [
        Part(f"{folder}/{key}", content, STORED) for key, content in records.items() if content is not None
    ]


def file_of(
    pickle: bytes | None = None,
    storages: Mapping[str, bytes] = STORAGES,
    side: Mapping[str, bytes | None] | None = None,
    *,
    policy: Mapping[str, bytes | None] | None = None,
    top: Mapping[str, bytes | None] | None = None,
    **container: Any,
) -> bytes:
    """A whole file; ``container`` goes to ``zip_bytes``."""
    content = instructions(policy, top) if pickle is None else pickle
    return zip_bytes(parts(content, storages, side), **container)


def writes(make: Callable[[], bytes]) -> Callable[[Path], Path]:
    """A case's ``build``: the bytes, made when they are asked for."""

    def build(folder: Path) -> Path:
        path = folder / FILE_NAME
        path.write_bytes(make())
        return path

    return build
