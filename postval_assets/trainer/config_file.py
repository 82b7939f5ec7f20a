"""The settings of a training run from a TOML file and the command line.

Here: names and types. Not here: meanings, defaults and ranges (config.py).
"""

from __future__ import annotations

import dataclasses
import difflib
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.trainer.config import PPOConfig

_WORDS = {int: "a whole number", float: "a number", str: "a text", bool: "true or false"}


def training_config(
    file: Path | None = None,
    *,
    model_version: str | None = None,
    feature_set: str | None = None,
    n_updates: int | None = None,
    seed: int | None = None,
) -> PPOConfig:
    """The settings of a file, with those of the command line in their place.

    Args:
        file: TOML whose keys are fields of PPOConfig; None for the defaults.
        model_version: in place of the file's, as the others are.
        feature_set: name of the set.
        seed: of the whole command.
        n_updates: in place of the file's; where it is below the validation interval, there is one validation, after
            the last update.

    Raises:
        Rejected: a file that is not TOML, a field that there is not, a value of another type or out of its range.
        Unavailable: the disk refused.
    """
    values = {} if file is None else _fields_of(file)
    given = {"model_version": model_version, "feature_set": feature_set, "n_updates": n_updates, "seed": seed}
    values |= {name: value for name, value in given.items() if value is not None}
    if n_updates is not None:
        interval = values.get("validation_interval", PPOConfig.validation_interval)
        values["validation_interval"] = min(interval, n_updates)
    return PPOConfig(**values)


def _fields_of(file: Path) -> dict[str, Any]:
    try:
        content = tomllib.loads(file.read_bytes().decode("utf-8-sig"))
    except OSError as error:
        raise Unavailable(f"{file} cannot be read: {error}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise Rejected(
            f"{file} is not TOML: {error}; expected lines such as learning_rate = 0.0003"
        ) from error
    _refuse_unknown(content, file)
    kinds = get_type_hints(PPOConfig)
    return {name: _typed(name, value, kinds[name], file) for name, value in content.items()}


def _refuse_unknown(content: Mapping[str, object], file: Path) -> None:
    known = [field.name for field in dataclasses.fields(PPOConfig)]
    for name in content:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f" (did you mean {near[0]}?)" if near else ""
            raise Rejected(f"{file}: {name!a} is no training setting{hint}; there are {', '.join(known)}")


def _typed(name: str, value: object, kind: Any, file: Path) -> object:
    """The value as the field holds it: a list as a tuple, a whole number also where fractions are allowed."""
    if get_origin(kind) is tuple:
        inner = get_args(kind)[0]
        if isinstance(value, list) and all(type(item) is inner for item in value):
            return tuple(value)
        expected = f"a list of {'whole numbers' if inner is int else 'texts'}"
    elif kind is float and type(value) is int:
        return float(value)
    elif type(value) is kind:
        return value
    else:
        expected = _WORDS[kind]
    raise Rejected(f"{file}: {name} is {value!r}: expected {expected}")
