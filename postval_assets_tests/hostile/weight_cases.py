"""Checkpoints whose weights are no finite floating numbers, or tensors of a kind that no policy has.

Here: what is in the tensors. Not here: their sizes, memory and names (tensor_cases.py).
"""

from __future__ import annotations

import functools
import io
import struct
from collections.abc import Callable
from typing import Any

from postval_assets_tests.factories import make_policy
from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.checkpoint_bytes import (
    N_HIDDEN,
    N_INPUTS,
    STORAGES,
    TRUE,
    file_of,
    storage,
    tensor,
    writes,
)

WEIGHT = "shared.0.weight"
SHAPE = (N_HIDDEN, N_INPUTS)
_N = N_HIDDEN * N_INPUTS


def numbers_of(*values: float, kind: str = "f") -> bytes:
    """These numbers as a storage has them; the kind is a letter of ``struct``."""
    return struct.pack(f"<{len(values)}{kind}", *values)


def storage_of(n_bytes: int, kind: str = "torch.FloatStorage", bytes_each: int = 4, key: str = "9") -> bytes:
    """A storage that is not one of the honest ones."""
    return storage(key, n_bytes // bytes_each, kind=kind)


def _with_storage(content: bytes, stored: bytes, shape: tuple[int, ...] = SHAPE) -> bytes:
    return file_of(storages={**STORAGES, "9": content}, policy={WEIGHT: tensor(stored, shape)})


# Numbers that are no weights: (what, bytes of the storage, its type, what is said).
_VALUES: tuple[tuple[str, Callable[[], bytes], str, str], ...] = (
    (
        "NaN",
        lambda: numbers_of(float("nan"), *[0.0] * (_N - 1)),
        "Float",
        "1 weights that are NaN or infinite",
    ),
    ("infinity", lambda: numbers_of(*[float("inf")] * _N), "Float", "2120 weights that are NaN or infinite"),
    (
        "minus infinity",
        lambda: numbers_of(*[0.0] * (_N - 1), float("-inf")),
        "Float",
        "1 weights that are NaN",
    ),
    (
        "a number beyond float32",
        lambda: numbers_of(1e300, *[0.0] * (_N - 1), kind="d"),
        "Double",
        "1 weights that are NaN",
    ),
    ("a signalling NaN", lambda: b"\x01\x00\xa0\x7f" + bytes(4 * _N - 4), "Float", "1 weights that are NaN"),
    ("a NaN in half precision", lambda: b"\x01\x7e" + bytes(2 * _N - 2), "Half", "1 weights that are NaN"),
    ("a NaN in bfloat16", lambda: b"\xc1\x7f" + bytes(2 * _N - 2), "BFloat16", "1 weights that are NaN"),
    ("whole numbers", lambda: bytes(8 * _N), "Long", "type torch.int64"),
    ("bytes", lambda: bytes(_N), "Byte", "type torch.uint8"),
    ("truth values that are neither", lambda: b"\x07" * _N, "Bool", "type torch.bool"),
)


def _quantized(tensor_: Any) -> Any:
    import torch

    return torch.quantize_per_tensor(tensor_, 0.1, 0, torch.qint8)


def _with_attribute(tensor_: Any) -> Any:
    tensor_.note = "a note"
    return tensor_


# Kinds of tensors that torch.save writes and that no policy has.
_KINDS: tuple[tuple[str, Callable[[Any], Any], str], ...] = (
    ("a sparse tensor", lambda t: t.to_sparse(), "_rebuild_sparse_tensor"),
    ("a sparse tensor in rows", lambda t: t.to_sparse_csr(), "_rebuild_sparse_tensor"),
    ("a tensor without memory", lambda t: t.to("meta"), "_rebuild_meta_tensor_no_storage"),
    ("a complex tensor", lambda t: t.to(__import__("torch").complex64), "ComplexFloatStorage"),
    (
        "a tensor of 8-bit floats",
        lambda t: t.to(__import__("torch").float8_e4m3fn),
        "_rebuild_tensor_v3|UntypedStorage",
    ),
    ("a quantized tensor", _quantized, "_rebuild_qtensor|QInt8Storage"),
    ("a tensor with attributes", _with_attribute, "_rebuild_from_type_v2"),
    (
        "a parameter with attributes",
        lambda t: _with_attribute(__import__("torch").nn.Parameter(t)),
        "_rebuild_parameter_with_state",
    ),
    ("nested tensors", lambda t: __import__("torch").nested.nested_tensor([t, t]), "_rebuild_nested_tensor"),
    ("an array of numpy", lambda t: t.numpy(), "numpy.*_reconstruct"),
    ("every second number", lambda t: t.repeat(1, 2)[:, ::2], "repeats or skips memory"),
)


def _saved(change: Callable[[Any], Any]) -> bytes:
    import torch

    policy: dict[str, Any] = make_policy(version="2.3.0", window=20, hidden=(2,))
    policy[WEIGHT] = change(policy[WEIGHT])
    buffer = io.BytesIO()
    torch.save({"policy_state_dict": policy, "window": 20}, buffer)
    return buffer.getvalue()


def _gradients_of_numbers() -> bytes:
    stored = storage_of(16, "torch.LongStorage", 8)
    return file_of(
        storages={**STORAGES, "9": bytes(16)}, top={"more": tensor(stored, (2,), requires_grad=TRUE)}
    )


def _cases() -> list[Case]:
    cases: list[Case] = []
    for what, content, kind, says in _VALUES:
        each = {"Double": 8, "Long": 8, "Half": 2, "BFloat16": 2, "Byte": 1, "Bool": 1}.get(kind, 4)

        def make(content: Callable[[], bytes] = content, kind: str = kind, each: int = each) -> bytes:
            return _with_storage(content(), storage_of(len(content()), f"torch.{kind}Storage", each))

        cases.append(Case(f"weights: {what}", "tensors", writes(make), Outcome.REFUSED, says))
    cases += [
        Case(f"kind: {what}", "tensors", writes(functools.partial(_saved, change)), Outcome.REFUSED, says)
        for what, change, says in _KINDS
    ]
    read, refused = Outcome.ACCEPTED, Outcome.REFUSED
    return [
        *cases,
        Case(
            "weights near the end of float32",
            "tensors",
            writes(lambda: _with_storage(numbers_of(*[3e38] * _N), storage_of(4 * _N))),
            read,
            "read",
        ),
        Case(
            "weights too small for float32",
            "tensors",
            writes(
                lambda: _with_storage(
                    numbers_of(*[1e-310] * _N, kind="d"), storage_of(8 * _N, "torch.DoubleStorage", 8)
                )
            ),
            read,
            "first weight 0.000000",
        ),
        Case(
            "an index that wants gradients",
            "tensors",
            writes(_gradients_of_numbers),
            refused,
            "not a readable",
        ),
    ]


CASES = _cases()
