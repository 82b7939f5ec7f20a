"""The actors' weights, as safetensors files named by their content.

Here: writing and reading them with their ``ModelSpec``. Not here: checkpoints (core/checkpoint.py), which model is
whose (the warehouse), or making a damaged file anew (pipeline/stored_weights.py). Nothing is unpickled.

A file comes into place whole, by a rename. Its name says what it has to hold, so that one that a disk spoilt is told
from a good one.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
import numpy.typing as npt

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.model_spec import ActivationBasis, LayerKind, LayerSpec, ModelSpec, VersionBasis
from postval_assets.io.disk_full import unavailable
from postval_assets.io.durable import PART, write_durably

Float32 = npt.NDArray[np.float32]

# One key only: the format keeps its metadata in no particular order, and equal models must give equal files.
_SPEC_KEY = "postval.model_spec"


class DamagedWeights(Rejected):
    """A file of the store that is cut off, or does not hold what its name says."""


class LostWeights(Unavailable):
    """A file of the store that is not there."""


@dataclass(frozen=True)
class StoredModel:
    """A model in the store.

    Attributes:
        sha256: of the file: the model's identity.
        relative_path: under the store's root, with slashes.
        size_bytes: of the file.
    """

    sha256: str
    relative_path: str
    size_bytes: int


class ModelStore:
    """Weights as ``root/<first two of sha256>/<sha256>.safetensors``."""

    def __init__(self, root: Path) -> None:
        """Take the folder; it is made when something is put there."""
        self._root = root

    def path_of(self, sha256: str) -> Path:
        """Where the model of that content is or would be kept."""
        return self._root / _relative(sha256)

    def put(self, tensors: Mapping[str, Float32], spec: ModelSpec) -> StoredModel:
        """Keep a model; the same model again is the same file.

        Args:
            tensors: float32 arrays that ``spec.layers`` name.
            spec: the model's facts.

        Raises:
            Unavailable: the disk refused.
        """
        from safetensors.numpy import save

        arrays = {name: np.ascontiguousarray(tensors[name], dtype=np.float32) for name in sorted(tensors)}
        content = save(arrays, metadata={_SPEC_KEY: spec_to_json(spec)})
        sha256 = hashlib.sha256(content).hexdigest()
        relative = _relative(sha256)
        target = self._root / relative
        try:
            if not (target.is_file() and target.read_bytes() == content):
                target.parent.mkdir(parents=True, exist_ok=True)
                write_durably(target, content)
        except OSError as error:
            raise unavailable("weights could not be written to", target, error) from error
        return StoredModel(sha256, str(relative), len(content))

    def parts(self) -> Iterator[Path]:
        """Files that never came into place, of writers that are at work or were killed."""
        return self._root.glob(f"*/.*{PART}")

    def verify(self, sha256: str) -> None:
        """Hold a file's content against its name.

        Raises:
            DamagedWeights: it holds something else.
            Unavailable: it is not there (LostWeights), or could not be read.
        """
        _verify(self.path_of(sha256))

    def open(self, sha256: str) -> tuple[ModelSpec, StoredTensors]:
        """A model's facts, and its weights, which are read when they are asked for; errors as in ``load``."""
        tensors = StoredTensors(self.path_of(sha256))
        return tensors.spec(), tensors

    def load(self, model: str | Path, *, verify: bool = False) -> tuple[ModelSpec, dict[str, Float32]]:
        """A model by its SHA-256 or its path (absolute, or relative to the root).

        Args:
            model: which.
            verify: hold the file's content against its name first.

        Raises:
            Rejected: damaged (DamagedWeights), or not written by this store.
            Unavailable: it is not there (LostWeights), or could not be read.
        """
        path = self._root / model if isinstance(model, Path) or "/" in model else self.path_of(model)
        if verify:
            _verify(path)
        tensors = StoredTensors(path)
        return tensors.spec(), dict(tensors)


class StoredTensors(Mapping[str, Float32]):
    """The arrays of one stored file, each read from it whenever it is asked for, as a copy of the caller's own.

    Raises (every method):
        Rejected: damaged (DamagedWeights), or not written by this store.
        Unavailable: it is not there (LostWeights), or could not be read.
    """

    def __init__(self, path: Path) -> None:
        """Take the file; it is opened at the first question."""
        self._path = path

    def spec(self) -> ModelSpec:
        """The model's facts."""
        with self._opened() as file:
            text = (file.metadata() or {}).get(_SPEC_KEY)
        if text is None:
            raise Rejected(
                f"{self._path} does not say which model it is; expected a file written by this store"
            )
        try:
            return spec_from_json(text)
        except Rejected as error:
            raise DamagedWeights(f"{self._path}: {error}") from error

    def __getitem__(self, name: str) -> Float32:
        """One array."""
        with self._opened() as file:
            if name not in file.keys():  # noqa: SIM118 - not a dict
                raise KeyError(name)
            array: Float32 = file.get_tensor(name)
            return array

    def __iter__(self) -> Iterator[str]:
        """The arrays' names."""
        with self._opened() as file:
            names = list(file.keys())
        return iter(names)

    def __len__(self) -> int:
        """How many arrays there are."""
        return sum(1 for _ in self)

    @contextmanager
    def _opened(self) -> Iterator[Any]:
        from safetensors import SafetensorError, safe_open

        try:
            with safe_open(str(self._path), framework="numpy") as file:
                yield file
        except OSError as error:
            raise _unread(self._path, error) from error
        except SafetensorError as error:
            raise DamagedWeights(f"{self._path} is damaged: {ascii(str(error))[1:-1][:160]}") from error


def _verify(path: Path) -> None:
    try:
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise _unread(path, error) from error
    if found != path.stem:
        raise DamagedWeights(f"{path} is damaged: its content does not have the SHA-256 that it is named by")


def _unread(path: Path, error: OSError) -> Unavailable:
    if isinstance(error, FileNotFoundError):
        return LostWeights(f"weights {path} are not there")
    return unavailable("weights could not be read from", path, error)


def spec_to_json(spec: ModelSpec) -> str:
    """A model's facts as text, the same for equal facts."""
    return json.dumps(asdict(spec), sort_keys=True, default=datetime.isoformat)


def spec_from_json(text: str) -> ModelSpec:
    """The facts that ``spec_to_json`` wrote.

    Raises:
        Rejected: not its text, or of an incompatible version.
    """
    try:
        fields: dict[str, Any] = json.loads(text)
        fields["layers"] = tuple(
            LayerSpec(**{**layer, "kind": LayerKind(layer["kind"])}) for layer in fields["layers"]
        )
        fields["model_version_basis"] = VersionBasis(fields["model_version_basis"])
        fields["activation_basis"] = ActivationBasis(fields["activation_basis"])
        for name in ("hidden_dims", "account_features", "feature_names", "action_meanings"):
            fields[name] = None if fields[name] is None else tuple(fields[name])
        for name in ("train_start", "train_end"):
            fields[name] = None if fields[name] is None else datetime.fromisoformat(fields[name])
        return ModelSpec(**fields)
    except (ValueError, TypeError, KeyError) as error:
        raise Rejected(
            f"a stored model's facts cannot be read: {ascii(str(error))[:120]}; extract it again"
        ) from error


def _relative(sha256: str) -> PurePosixPath:
    if len(sha256) != 64 or not set(sha256) <= set("0123456789abcdef"):
        raise Rejected(f"{ascii(sha256)[:80]} is not a SHA-256; expected 64 of 0-9 and a-f")
    return PurePosixPath(sha256[:2]) / f"{sha256}.safetensors"
