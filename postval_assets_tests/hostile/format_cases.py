"""Files of other formats under the name of a checkpoint.

Here: what torch and others write that is not a checkpoint. Not here: zip files that are nearly one
(container_cases.py).
"""

from __future__ import annotations

import io
import tempfile
import warnings
from pathlib import Path

from postval_assets_tests.factories import make_policy
from postval_assets_tests.hostile.cases import Case, Outcome
from postval_assets_tests.hostile.checkpoint_bytes import (
    START,
    STOP,
    call,
    file_of,
    text,
    writes,
)
from postval_assets_tests.hostile.code_cases import COMMAND

_BARE = START + call("os.system", text(COMMAND)) + STOP


def _legacy(content: object) -> bytes:
    import torch

    buffer = io.BytesIO()
    torch.save(content, buffer, _use_new_zipfile_serialization=False)
    return buffer.getvalue()


class _Attack:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, (COMMAND,)


def _saved(save: str) -> bytes:
    """What torch's own writers of programs give, under the name of a checkpoint."""
    import torch

    class Network(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + 1

    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path = Path(folder) / "program.pt2"
        example = torch.ones(2)
        if save == "export":
            torch.export.save(torch.export.export(Network(), (example,)), path)
        elif save == "trace":
            torch.jit.trace(Network(), example).save(str(path))
        else:
            torch.jit.script(torch.nn.Linear(2, 2)).save(str(path))
        return path.read_bytes()


def _safetensors() -> bytes:
    from safetensors.numpy import save

    return save({})


def _format_cases() -> list[Case]:
    made = (
        ("the old format", lambda: _legacy({"policy_state_dict": make_policy()}), "before 1.6"),
        ("the old format that runs a command", lambda: _legacy({"a": _Attack()}), "before 1.6"),
        ("a bare pickle that runs a command", lambda: _BARE, "before 1.6"),
        (
            "a bare pickle of protocol 0",
            f"cos\nsystem\n(V{COMMAND}\ntR.".encode,
            "does not begin with a record",
        ),
        ("a pickle before a zip file", lambda: file_of(before=_BARE), "before 1.6"),
        ("a traced program", lambda: _saved("trace"), "TorchScript program"),
        ("a scripted program", lambda: _saved("script"), "TorchScript program"),
        ("an exported program", lambda: _saved("export"), r"program of torch\.export"),
        ("a safetensors file", _safetensors, "not a file of torch.save"),
        ("nothing", lambda: b"", "not a file of torch.save"),
        ("an HDF5 file", lambda: b"\x89HDF\r\n\x1a\n" + bytes(999), "not a file of torch.save"),
        ("a gzip file", lambda: b"\x1f\x8b\x08" + bytes(999), "not a file of torch.save"),
        ("a tar file, as torch wrote before 0.4", _tar, "not a file of torch.save"),
        ("an executable", lambda: b"\x7fELF" + bytes(999), "not a file of torch.save"),
        ("a script", f"#!/bin/sh\n{COMMAND}\n".encode, "not a file of torch.save"),
        ("a numpy archive", _npz, "compressed|one data.pkl in one folder"),
    )
    return [
        Case(f"format: {what}", "other formats", writes(make), Outcome.REFUSED, says)
        for what, make, says in made
    ]


def _tar() -> bytes:
    import tarfile

    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as file:
        info = tarfile.TarInfo("../storages")
        info.size = 3
        file.addfile(info, io.BytesIO(b"abc"))
    return buffer.getvalue()


def _npz() -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.savez(buffer, weights=np.ones(3))
    return buffer.getvalue()


CASES = _format_cases()
