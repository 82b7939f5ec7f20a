"""The training summary: what the trainer claims about its models.

Here: reading every accepted shape of ``training_summary*.json`` into claims, and what is wrong with one.

Not here: judging claims (gating.py), or matching them with the archive's models. Nothing is ever rescaled.
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from types import MappingProxyType
from typing import Any

from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import Timeframe, parse_symbol, parse_timeframe, symbol_as_text

METRICS = ("fitness_score", "profit_factor", "consistency", "max_drawdown")
_FRACTIONS = ("consistency", "max_drawdown")
_CONTAINERS = ("symbols", "results", "models")
# Objects at the top level that may carry metrics of their own without being a model.
_METADATA = frozenset(
    {"aggregate", "average", "config", "data", "metadata", "metrics", "overall", "summary", "training"}
)
_DEFAULT_TIMEFRAME = Timeframe.HOUR_1
_MAX_DEPTH = 32
# The limits of an archive of the default size; who reads a real one passes what its settings say.
_MAX_MODELS = 2_000
_MAX_VALUES = 2**20
# More of anything counted than any training has; the 32-bit columns that it goes to hold it.
_MOST = 10_000_000
_MOST_UPDATES = 2**31 - 1
# Metrics are compared after rounding to 6 decimals; a float32 of 1 may be a hair above it.
_DECIMALS = 6

_STRUCTURE = re.compile(r'"[^"]*"|[\[\]{}]')
_EXPECTED = (
    'expected {"symbols": {"AAPL": {"metrics": {"fitness_score": [...], "profit_factor": [...], '
    '"consistency": [...], "max_drawdown": [...]}}}}, the map also under "results" or "models" or at the top '
    'level, or a list of objects with "symbol"'
)


@dataclass(frozen=True)
class TrainingClaims:
    """What the trainer says of one model; each history has one value per validation, the last one final.

    Attributes:
        symbol: without a slash.
        timeframe: of the model's bars.
        fitness_score, profit_factor, consistency, max_drawdown: histories, all of one length; consistency and
            max_drawdown are fractions. Where ``problem`` is set, a history that could not be read is empty.
        problem: why the claims cannot be judged; None where they can.
    """

    symbol: str
    timeframe: Timeframe
    fitness_score: tuple[float, ...]
    profit_factor: tuple[float, ...]
    consistency: tuple[float, ...]
    max_drawdown: tuple[float, ...]
    problem: str | None = None


@dataclass(frozen=True)
class TrainingSummary:
    """A training summary, read.

    Attributes:
        trained_at: its ``timestamp`` (UTC); None where it has none.
        reward_scale: scale of the rewards that the drawdown proxy was computed from.
        validation_interval: training updates between two validations; the updates of the longest history,
            too, fit 32 bits.
        train_start, train_end: opens of the first and last training bar (UTC, inclusive).
        seed: of the training; any signed 64-bit number.
        n_trials: models tried to get these; at most ten million.
        claims: per symbol and timeframe.
        unusable: entries that name no usable symbol, as (what was found, reason).
        notes: optional values that could not be read and are treated as unknown.
    """

    trained_at: datetime | None
    reward_scale: float | None
    validation_interval: int | None
    train_start: datetime | None
    train_end: datetime | None
    seed: int | None
    n_trials: int | None
    claims: Mapping[tuple[str, Timeframe], TrainingClaims]
    unusable: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]


def parse_summary(
    data: bytes, *, max_models: int = _MAX_MODELS, max_values: int = _MAX_VALUES
) -> TrainingSummary:
    """Read a summary of any accepted shape.

    Args:
        data: the file's bytes.
        max_models: that it may speak of: each becomes a row, and its symbol a partition.
        max_values: numbers, texts, lists and objects in it; counted before any is made.

    Raises:
        Rejected: not JSON, nested too deeply, a key twice in one object, too many values or models, or no metrics
        per symbol to be found.
    """
    top = _decoded(data, max_values)
    fields: dict[str, Any] = top if isinstance(top, dict) else {}
    notes: list[str] = []
    claims: dict[tuple[str, Timeframe], TrainingClaims] = {}
    unusable: list[tuple[str, str]] = []
    for number, (shown, name, entry) in enumerate(_entries(top), start=1):
        if number > max_models:
            raise Rejected(
                f"the training summary speaks of more than {max_models} models; at most so many are read"
            )
        try:
            claim = _claims_of(name, entry)
        except Rejected as error:
            unusable.append((shown, str(error)))
            continue
        key = (claim.symbol, claim.timeframe)
        if key in claims:
            claim = _without_metrics(
                *key, f"{claim.symbol} {claim.timeframe} appears more than once in the summary"
            )
        claims[key] = claim
    window = fields.get("data")
    if window is not None and not isinstance(window, dict):
        notes.append(
            f"data is {_shown(window)}, not an object with start and end: the training window is unknown"
        )
    bounds = window if isinstance(window, dict) else {}
    train_start, train_end, window_notes = training_window(bounds.get("start"), bounds.get("end"))
    interval = _whole_number(fields, "validation_interval", 1, _MOST, notes)
    n_validations = max((len(claim.fitness_score) for claim in claims.values()), default=0)
    if interval is not None and interval * n_validations > _MOST_UPDATES:
        notes.append(
            f"validation_interval is {interval}: treated as unknown; with {n_validations} validations it makes "
            f"more than {_MOST_UPDATES} training updates"
        )
        interval = None
    return TrainingSummary(
        trained_at=_timestamp(fields.get("timestamp"), notes),
        reward_scale=_positive_number(fields, "reward_scale", notes),
        validation_interval=interval,
        train_start=train_start,
        train_end=train_end,
        seed=_whole_number(fields, "seed", -(2**63), 2**63 - 1, notes),
        n_trials=_whole_number(fields, "n_trials", 1, _MOST, notes),
        claims=MappingProxyType(claims),
        unusable=tuple(unusable),
        notes=(*notes, *window_notes),
    )


def training_window(start: object, end: object) -> tuple[datetime | None, datetime | None, tuple[str, ...]]:
    """First and last training bar from what a file states, as UTC, with notes; None where it cannot be read.

    A date without a time means the whole day for ``end``, so that no training bar is taken for unseen data. A
    time without a zone is UTC.
    """
    notes: list[str] = []
    first = _instant("start", start, time.min, notes)
    last = _instant("end", end, time.max, notes)
    if first is not None and last is not None and first > last:
        notes.append(f"the training window ends ({last.isoformat()}) before it starts: treated as unknown")
        return None, None, tuple(notes)
    return first, last, tuple(notes)


def _instant(what: str, value: object, time_of_date: time, notes: list[str]) -> datetime | None:
    if value is None:
        return None
    try:
        moment = _moment(value.strip() if isinstance(value, str) else "", time_of_date)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        notes.append(
            f"the training window's {what} is {_shown(value)}: treated as unknown; "
            "expected 2021-01-04T00:00:00Z"
        )
        return None


def _moment(text: str, time_of_date: time) -> datetime:
    try:
        day = date.fromisoformat(text)
    except ValueError:
        return datetime.fromisoformat(text)
    return datetime.combine(day, time_of_date)


def _decoded(data: bytes, max_values: int) -> Any:
    try:
        text = data.decode("utf-8-sig")
        _check_shape(text, max_values)
        return json.loads(text, object_pairs_hook=_unique_keys)
    except UnicodeDecodeError as error:
        raise Rejected(
            f"the training summary is not UTF-8 text (byte {error.start}); expected JSON"
        ) from error
    except RecursionError as error:
        raise Rejected(f"the training summary is nested too deeply; {_EXPECTED}") from error
    except json.JSONDecodeError as error:
        raise Rejected(
            f"the training summary is not JSON: {ascii(str(error))[1:-1][:120]}; {_EXPECTED}"
        ) from error
    except ValueError as error:
        # The interpreter's own limit of what it makes a whole number of.
        raise Rejected(
            "the training summary has a number of too many digits; expected whole numbers of at most "
            f"{sys.get_int_max_str_digits()} digits"
        ) from error


def _check_shape(text: str, max_values: int) -> None:
    """Refuse what would cost too much once it is read; takes time in proportion to the text's length."""
    n_values = sum(map(text.count, ",[{")) + text.count('"') // 2
    if n_values > max_values:
        raise Rejected(
            f"the training summary has about {n_values} values; at most {max_values} are read "
            "(the setting max_summary_mb raises both this and the size)"
        )
    # Without escapes a text ends at the next quote, and no search starts over. Backslashes outside of a text are no
    # JSON, which is told when it is read.
    plain = text.replace("\\\\", "").replace('\\"', "")
    depth = 0
    for match in _STRUCTURE.finditer(plain):
        mark = match[0]
        if mark in "[{":
            depth += 1
        elif mark in "]}":
            depth -= 1
        if depth < 0:
            # No JSON either.
            return
        if depth > _MAX_DEPTH:
            raise Rejected(f"the training summary is nested more than {_MAX_DEPTH} deep; {_EXPECTED}")


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        if key in found:
            raise Rejected(
                f"the training summary has the key {_shown(key)} twice in one object; expected it once"
            )
        found[key] = value
    return found


def _entries(top: Any) -> Iterator[tuple[str, object, object]]:
    """(what to show, name, entry) for each model that the summary speaks of."""
    found: dict[str, Any] | list[Any]
    if isinstance(top, list):
        where, found = "the top level", top
    elif isinstance(top, dict):
        candidates = [key for key in _CONTAINERS if _is_map_of_models(top.get(key))]
        with_metrics = [key for key in candidates if _has_metrics(top[key])]
        if len(with_metrics) > 1:
            raise Rejected(
                f"the training summary has metrics under both {' and '.join(with_metrics)}; expected one"
            )
        chosen = next(iter(with_metrics or candidates), None)
        where = chosen or "the top level"
        found = top[chosen] if chosen else _models_at_top(top)
    else:
        raise Rejected(f"the training summary is {_shown(top)}; {_EXPECTED}")
    if not found or not _is_map_of_models(found):
        raise Rejected(f"the training summary has no metrics per symbol; {_EXPECTED}")
    if isinstance(found, dict):
        for key, value in found.items():
            yield symbol_as_text(key), key, value
        return
    for position, value in enumerate(found):
        name = value.get("symbol") if isinstance(value, dict) else None
        yield symbol_as_text(name) if isinstance(name, str) else f"entry {position} of {where}", name, value


def _models_at_top(top: Mapping[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in top.items() if key not in _METADATA and _is_metrics(value)}


def _is_map_of_models(value: object) -> bool:
    """Whether this can be the per-symbol map: a list of names or a count under the same key is not."""
    if isinstance(value, dict):
        return any(isinstance(entry, dict) for entry in value.values())
    return isinstance(value, list) and any(isinstance(entry, dict) for entry in value)


def _has_metrics(value: dict[str, Any] | list[Any]) -> bool:
    return any(map(_is_metrics, value.values() if isinstance(value, dict) else value))


def _is_metrics(value: object) -> bool:
    return isinstance(value, dict) and ("metrics" in value or any(metric in value for metric in METRICS))


def _claims_of(name: object, entry: object) -> TrainingClaims:
    if not isinstance(name, str):
        raise Rejected("the entry has no symbol; expected a text such as AAPL under the key symbol")
    base, separator, suffix = name.rpartition("_")
    symbol = parse_symbol(base if separator else name)
    named = parse_timeframe(suffix) if separator else None
    if not isinstance(entry, dict):
        return _without_metrics(
            symbol, named, f"the summary has {_shown(entry)} for it; expected an object of metrics"
        )
    stated = entry.get("timeframe")
    try:
        timeframe = None if stated is None else parse_timeframe(stated)
    except Rejected as error:
        return _without_metrics(symbol, named, str(error))
    if named is not None and timeframe is not None and named is not timeframe:
        return _without_metrics(
            symbol, named, f"the summary names it {named} but says its timeframe is {timeframe}"
        )
    return _judged(symbol, named or timeframe or _DEFAULT_TIMEFRAME, entry)


def _without_metrics(symbol: str, timeframe: Timeframe | None, problem: str) -> TrainingClaims:
    return TrainingClaims(symbol, timeframe or _DEFAULT_TIMEFRAME, (), (), (), (), problem)


def _judged(symbol: str, timeframe: Timeframe, entry: Mapping[str, Any]) -> TrainingClaims:
    metrics = entry.get("metrics", entry)
    if not isinstance(metrics, dict):
        return _without_metrics(symbol, timeframe, f"metrics is {_shown(metrics)}; expected an object")
    problems: list[str] = []
    histories = {metric: _history(metric, metrics, problems) for metric in METRICS}
    if not problems and len({len(history) for history in histories.values()}) > 1:
        lengths = ", ".join(f"{metric} {len(history)}" for metric, history in histories.items())
        problems.append(
            f"the histories have unequal lengths ({lengths}); expected one value per validation in each"
        )
    return TrainingClaims(symbol, timeframe, **histories, problem="; ".join(problems) or None)


def _history(metric: str, metrics: Mapping[str, Any], problems: list[str]) -> tuple[float, ...]:
    """The finite values of one metric; empty, with the problem added, where there is anything else in it."""
    if metric not in metrics:
        problems.append(f"{metric} is missing; expected a list with one number per validation")
        return ()
    raw = metrics[metric]
    values = raw if isinstance(raw, list) else [raw]
    if not values:
        problems.append(f"{metric} is empty; expected one number per validation")
    history: list[float] = []
    for position, value in enumerate(values):
        number = _finite(value)
        if number is None:
            problems.append(f"{metric}[{position}] is {_shown(value)}; expected a finite number")
            return ()
        history.append(number)
    if metric in _FRACTIONS:
        outside = next((number for number in history if not 0 <= round(number, _DECIMALS) <= 1), None)
        if outside is not None:
            hint = "it looks like a percentage; " if 1 < outside <= 100 else ""
            problems.append(f"{metric} has {outside:g}; {hint}expected fractions from 0 to 1, such as 0.85")
    return tuple(history)


def _finite(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        number = float(value)
    except OverflowError:
        return None
    return number if math.isfinite(number) else None


def _timestamp(value: object, notes: list[str]) -> datetime | None:
    if value is None:
        return None
    text = value.strip() if isinstance(value, str) else ""
    try:
        if re.fullmatch(r"[0-9]{8}_[0-9]{6}", text):
            return datetime.strptime(text, "%Y%m%d_%H%M%S").replace(tzinfo=UTC)
        moment = datetime.fromisoformat(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):
        notes.append(f"timestamp is {_shown(value)}: treated as unknown; expected 20241226_211819")
        return None


def _positive_number(fields: Mapping[str, Any], key: str, notes: list[str]) -> float | None:
    value = fields.get(key)
    number = _finite(value)
    if value is None or (number is not None and number > 0):
        return number
    notes.append(f"{key} is {_shown(value)}: treated as unknown; expected a number above 0")
    return None


def _whole_number(fields: Mapping[str, Any], key: str, least: int, most: int, notes: list[str]) -> int | None:
    value = fields.get(key)
    number = _finite(value)
    if number is not None and number.is_integer() and least <= number <= most:
        return int(value) if isinstance(value, int) else int(number)
    if value is not None:
        notes.append(
            f"{key} is {_shown(value)}: treated as unknown; expected a whole number from {least} to {most}"
        )
    return None


def _shown(value: object) -> str:
    """A JSON value as harmless, short text."""
    if isinstance(value, dict | list):
        return "an object" if isinstance(value, dict) else "a list"
    if isinstance(value, int) and not isinstance(value, bool) and abs(value) >= 2**63:
        return "a huge number"
    return ascii(value[:60] if isinstance(value, str) else value)
