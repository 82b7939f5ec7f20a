"""One hostile checkpoint read under the canary, and what became of it in the store.

Here: judging. Not here: the cases.
"""

from __future__ import annotations

import functools
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

from postval_assets.core.checkpoint import Checkpoint, read_checkpoint
from postval_assets.core.failures import Rejected
from postval_assets.io.model_store import ModelStore, spec_to_json
from postval_assets_tests.factories import make_checkpoint
from postval_assets_tests.hostile.canary import watch
from postval_assets_tests.hostile.cases import Case, Outcome, Verdict

# What a case takes of the processor at most; the dearest ones here have half a million instructions to follow.
SECONDS_BOUND = 20.0
MEMORY_BOUND_BYTES = 2**29


def judge(case: Case, folder: Path) -> Verdict:
    """Build a case's file below the folder, read it, store what was read, and say what happened."""
    warm_up()
    sandbox = folder / "data"
    sandbox.mkdir()
    path = case.build(sandbox)
    store = ModelStore(sandbox / "models")
    begun = time.process_time()
    seen = watch(lambda: _read(path, store), sandbox=sandbox, memory_bound_bytes=MEMORY_BOUND_BYTES)
    seconds = time.process_time() - begun
    noticed = [*seen.noticed]
    if seconds > SECONDS_BOUND:
        noticed.append(f"time over the bound: {seconds:.1f} s, at most {SECONDS_BOUND:.0f}")
    said: tuple[str, ...]
    outcome, said = Outcome.FAILED, (ascii(f"{type(seen.error).__name__}: {seen.error}"),)
    if isinstance(seen.error, Rejected):
        outcome, said = Outcome.REFUSED, (str(seen.error),)
    elif seen.result is not None:
        outcome, said = Outcome.ACCEPTED, _facts(seen.result)
        noticed += harm_in(seen.result, store)
    return Verdict(outcome, said, tuple(noticed), seen.peak_memory_bytes, seen.written_bytes)


@functools.cache
def warm_up() -> None:
    """Import what reading imports, so that no case is charged with it."""
    with tempfile.TemporaryDirectory() as folder:
        _read(make_checkpoint(Path(folder) / "warm.pt"), ModelStore(Path(folder) / "models"))


def harm_in(checkpoint: Checkpoint, store: ModelStore) -> list[str]:
    """What of an accepted checkpoint could act on a page, a terminal or a number that is made from it."""
    harm = [
        f"stored weights are not finite: {key!a}"
        for key, a in checkpoint.tensors.items()
        if not _is_finite(a)
    ]
    stored = store.put(checkpoint.tensors, checkpoint.spec)
    spec, tensors = store.load(stored.sha256, verify=True)
    if spec != checkpoint.spec or set(tensors) != set(checkpoint.tensors):
        harm.append("what was stored is not what was read")
    # Every text, wherever it stands: nothing that moves a cursor or turns the direction of reading.
    texts = _texts(json.loads(spec_to_json(spec)))
    return harm + [f"stored text is not printable: {found!a}" for found in texts if not found.isprintable()]


def _read(path: Path, store: ModelStore) -> Checkpoint:
    checkpoint = read_checkpoint(path)
    store.put(checkpoint.tensors, checkpoint.spec)
    return checkpoint


def _facts(checkpoint: Checkpoint) -> tuple[str, ...]:
    spec = checkpoint.spec
    facts = (
        f"read: version {spec.model_version}, {spec.n_parameters} parameters, {len(spec.layers)} layers, "
        f"activation {spec.activation} {spec.activation_basis}, step {spec.global_step}, "
        f"first weight {float(next(iter(checkpoint.tensors.values())).flat[0]):.6f}"
    )
    return (facts, *checkpoint.notes)


def _is_finite(array: np.ndarray[Any, np.dtype[np.float32]]) -> bool:
    return bool(np.isfinite(array).all())


def _texts(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [found for _, member in inner for found in _texts(member)]
