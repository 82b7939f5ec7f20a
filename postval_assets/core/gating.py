"""Gating: may a trained model go on to the walk-forward, by its training metrics alone.

Here: the threshold sets, the classification, its flags and the checkpoint recommendation (docs/rules.md, 1).
Not here: reading training summaries (archive.py), or what happens to a model after its classification
(decision.py).
"""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from postval_assets.core.failures import Rejected

# Training writes float32: 0.7 arrives as 0.699999988, and must still be 0.70.
DECIMALS = 6
DECLINE_SHARE = 0.95
UNSTABLE_SHARE = 0.10
CALIBRATED_REWARD_SCALE = 0.001


class Classification(StrEnum):
    """Verdict of the gate. INVALID: the metrics cannot be judged at all."""

    APPROVED = "APPROVED"
    REVIEW = "REVIEW"
    DROP = "DROP"
    INVALID = "INVALID"


class Flag(StrEnum):
    """What a person should know beside the verdict; only the LOW_ and HIGH_ ones decide anything."""

    FITNESS_DECLINE = "FITNESS_DECLINE"
    UNSTABLE_TRAINING = "UNSTABLE_TRAINING"
    LOW_FITNESS = "LOW_FITNESS"
    LOW_PF = "LOW_PF"
    LOW_CONSISTENCY = "LOW_CONSISTENCY"
    HIGH_DRAWDOWN = "HIGH_DRAWDOWN"
    UNCALIBRATED_PROXY = "UNCALIBRATED_PROXY"
    UNKNOWN_PROXY_SCALE = "UNKNOWN_PROXY_SCALE"
    CLAIM_NOT_REPRODUCED = "CLAIM_NOT_REPRODUCED"  # never of gate(): it takes bars (claims.py)


@dataclass(frozen=True)
class MetricLimits:
    """The worst acceptable value of each final metric: lower bounds, for ``max_drawdown`` an upper one."""

    fitness: float
    profit_factor: float
    consistency: float
    max_drawdown: float


@dataclass(frozen=True)
class Thresholds:
    """A named set of limits; raises Rejected where APPROVED would be easier to reach than REVIEW."""

    name: str
    approve: MetricLimits
    review: MetricLimits

    def __post_init__(self) -> None:
        """Hold that the set has a name, finite limits, and APPROVED at least as strict as REVIEW."""
        if not self.name.strip():
            raise Rejected("a threshold set needs a name: it is recorded with every row")
        for metric in ("fitness", "profit_factor", "consistency", "max_drawdown"):
            approve, review = getattr(self.approve, metric), getattr(self.review, metric)
            if not (math.isfinite(approve) and math.isfinite(review)):
                raise Rejected(f"thresholds {self.name}: the limits of {metric} must be finite numbers")
            if (approve > review) if metric == "max_drawdown" else (approve < review):
                raise Rejected(
                    f"thresholds {self.name}: APPROVED asks less of {metric} ({approve}) "
                    f"than REVIEW ({review})"
                )


V2_4_5 = Thresholds("v2.4.5", MetricLimits(0.70, 1.8, 0.85, 0.08), MetricLimits(0.50, 1.3, 0.65, 0.15))
V4_1_0 = Thresholds("v4.1.0", MetricLimits(0.35, 1.4, 0.70, 0.10), MetricLimits(0.10, 1.1, 0.50, 0.20))
THRESHOLD_SETS: Mapping[str, Thresholds] = MappingProxyType({t.name: t for t in (V2_4_5, V4_1_0)})


@dataclass(frozen=True, kw_only=True)
class GateResult:
    """Outcome of the gate for one model.

    Attributes:
        classification: the verdict.
        thresholds_version: name of the set that was applied.
        flags: in the order of Flag; empty where the verdict is INVALID.
        use_checkpoint: advice to whoever retrains: an earlier checkpoint was better than the last one.
        checkpoint_index: index of that peak in the histories; None unless ``use_checkpoint``.
        checkpoint_update: training update of that peak; None also where the interval is unknown.
        reason: why the metrics are INVALID, else None.
        fitness, profit_factor, consistency, max_drawdown: the final metrics as training wrote them, fractions
            but for profit_factor; None where the verdict is INVALID. ``max_drawdown`` is the training proxy
            (reward volatility), not an equity drawdown.
    """

    classification: Classification
    thresholds_version: str
    flags: tuple[Flag, ...] = ()
    use_checkpoint: bool = False
    checkpoint_index: int | None = None
    checkpoint_update: int | None = None
    reason: str | None = None
    fitness: float | None = None
    profit_factor: float | None = None
    consistency: float | None = None
    max_drawdown: float | None = None


def gate(
    *,
    fitness_history: Sequence[float] | None,
    profit_factor_history: Sequence[float] | None,
    consistency_history: Sequence[float] | None,
    max_drawdown_history: Sequence[float] | None,
    problem: str | None = None,
    reward_scale: float | None = None,
    validation_interval: int | None = None,
    thresholds: Thresholds = V2_4_5,
) -> GateResult:
    """Judge one model by its training histories, each with one value per validation, the last one final.

    Data that cannot be judged gives INVALID with the reason, never an exception.

    Args:
        fitness_history: axis [validation]; None, as for the other three, where the summary has none.
        profit_factor_history: axis [validation].
        consistency_history: axis [validation], fractions in [0, 1].
        max_drawdown_history: axis [validation], fractions in [0, 1] (the training proxy).
        problem: why the metrics are unusable, where the reader of the summary already knows.
        reward_scale: of the training; the drawdown proxy is calibrated for 0.001.
        validation_interval: training updates between two validations.
        thresholds: the set to apply.
    """
    histories = {
        "fitness": fitness_history,
        "profit_factor": profit_factor_history,
        "consistency": consistency_history,
        "max_drawdown": max_drawdown_history,
    }
    reason = problem if problem is not None else _problem_of(histories)
    if reason is not None:
        return GateResult(
            classification=Classification.INVALID, thresholds_version=thresholds.name, reason=reason
        )
    final = MetricLimits(**{name: float(h[-1]) for name, h in histories.items() if h is not None})
    fitness = [] if fitness_history is None else [float(v) for v in fitness_history]
    peak = _declined_from(final.fitness, fitness)
    flags = _quality_flags(final, fitness, thresholds)
    if reward_scale is None:
        flags.append(Flag.UNKNOWN_PROXY_SCALE)
    elif not math.isclose(reward_scale, CALIBRATED_REWARD_SCALE, rel_tol=1e-6):
        flags.append(Flag.UNCALIBRATED_PROXY)
    return GateResult(
        classification=_classify(final, thresholds),
        flags=tuple(flags),
        use_checkpoint=peak is not None,
        checkpoint_index=peak,
        checkpoint_update=_update_of(peak, validation_interval),
        thresholds_version=thresholds.name,
        fitness=final.fitness,
        profit_factor=final.profit_factor,
        consistency=final.consistency,
        max_drawdown=final.max_drawdown,
    )


def assess_model_quality(
    final_fitness: float,
    final_pf: float,
    final_consistency: float,
    final_max_dd: float,
    fitness_history: Sequence[float],
    config: Thresholds | str | None = None,
) -> tuple[str, list[str], bool, int | None]:
    """Judge one model by its final training metrics and the course of its fitness.

    Args:
        final_fitness: compared with the peak of ``fitness_history`` as well as with the limits.
        final_pf: final profit factor.
        final_consistency: a fraction in [0, 1].
        final_max_dd: final drawdown proxy, a fraction in [0, 1].
        fitness_history: axis [validation].
        config: a threshold set or the name of a built-in one; None is ``v2.4.5``.

    Returns:
        ``(classification, flags, use_checkpoint, cp_idx)``: the classification as plain text (APPROVED,
        REVIEW, DROP, INVALID), the flags as plain text, whether an earlier checkpoint was better, and the
        index of that checkpoint in ``fitness_history`` (None where ``use_checkpoint`` is false). Metrics that
        are missing, not finite or out of range give ``("INVALID", [], False, None)``.

    Raises:
        Rejected: for a ``config`` that names no built-in set.
    """
    thresholds = _thresholds_of(config)
    finals = {
        "fitness": [final_fitness],
        "profit_factor": [final_pf],
        "consistency": [final_consistency],
        "max_drawdown": [final_max_dd],
    }
    if _problem_of(finals) is not None or _problem_of({"fitness": fitness_history}) is not None:
        return Classification.INVALID.value, [], False, None
    final = MetricLimits(float(final_fitness), float(final_pf), float(final_consistency), float(final_max_dd))
    fitness = [float(v) for v in fitness_history]
    peak = _declined_from(final.fitness, fitness)
    flags = [flag.value for flag in _quality_flags(final, fitness, thresholds)]
    return _classify(final, thresholds).value, flags, peak is not None, peak


def _thresholds_of(config: Thresholds | str | None) -> Thresholds:
    if config is None:
        return V2_4_5
    if isinstance(config, Thresholds):
        return config
    if isinstance(config, str) and config in THRESHOLD_SETS:
        return THRESHOLD_SETS[config]
    raise Rejected(
        f"thresholds {ascii(config)[:60]} are unknown: "
        f"expected a Thresholds or one of {', '.join(THRESHOLD_SETS)}"
    )


def _problem_of(histories: Mapping[str, Sequence[float] | None]) -> str | None:
    """Why these histories cannot be judged, in one line; None where they can."""
    for name, history in histories.items():
        if history is None:
            return f"{name}: no values in the training summary"
        if not isinstance(history, Sequence | np.ndarray):
            return f"{name}: expected a list of numbers, found {ascii(history)[:40]}"
        if len(history) == 0:
            return f"{name}: the history is empty"
        for index, value in enumerate(history):
            wrong = _problem_of_value(name, value)
            if wrong is not None:
                return f"{name}[{index}] is {ascii(value)[:40]}: expected {wrong}"
    lengths = {name: len(history) for name, history in histories.items() if history is not None}
    if len(set(lengths.values())) > 1:
        shown = ", ".join(f"{name} {length}" for name, length in lengths.items())
        return f"the histories have unequal lengths: {shown}"
    return None


def _problem_of_value(metric: str, value: object) -> str | None:
    """What would have been accepted in this value's place; None where the value is fine."""
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        return "a number"
    try:
        finite = math.isfinite(value)
    except OverflowError:  # an integer of 400 digits is valid JSON
        finite = False
    if not finite:
        return "a finite number"
    if metric in ("consistency", "max_drawdown") and not 0.0 <= _rounded(value) <= 1.0:
        return "a fraction in [0, 1]"
    return None


def _rounded(value: numbers.Real | float) -> float:
    return round(float(value), DECIMALS)


def _failing(final: MetricLimits, limits: MetricLimits) -> list[Flag]:
    """The metrics that miss these limits, under the names of their flags."""
    failing = []
    if _rounded(final.fitness) < _rounded(limits.fitness):
        failing.append(Flag.LOW_FITNESS)
    if _rounded(final.profit_factor) < _rounded(limits.profit_factor):
        failing.append(Flag.LOW_PF)
    if _rounded(final.consistency) < _rounded(limits.consistency):
        failing.append(Flag.LOW_CONSISTENCY)
    if _rounded(final.max_drawdown) > _rounded(limits.max_drawdown):
        failing.append(Flag.HIGH_DRAWDOWN)
    return failing


def _classify(final: MetricLimits, thresholds: Thresholds) -> Classification:
    if not _failing(final, thresholds.approve):
        return Classification.APPROVED
    return Classification.DROP if _failing(final, thresholds.review) else Classification.REVIEW


def _declined_from(final_fitness: float, fitness: Sequence[float]) -> int | None:
    """Index of the (earliest) peak that the final fitness fell clearly below, else None."""
    history = [_rounded(v) for v in fitness]
    peak = max(history)
    if peak > 0 and _rounded(final_fitness) < _rounded(DECLINE_SHARE * peak):
        return history.index(peak)
    return None


def _update_of(checkpoint_index: int | None, validation_interval: int | None) -> int | None:
    if checkpoint_index is None or validation_interval is None:
        return None
    return (checkpoint_index + 1) * validation_interval


def _is_unstable(fitness: Sequence[float]) -> bool:
    """Some step in the last half of the history is larger than a tenth of the peak.

    Without a positive peak there is no scale to call a step large by: such a model fails on its fitness.
    """
    history = [_rounded(v) for v in fitness]
    peak, late = max(history), history[len(history) // 2 :]
    limit = _rounded(UNSTABLE_SHARE * peak)
    return peak > 0 and any(_rounded(abs(b - a)) > limit for a, b in pairwise(late))


def _quality_flags(final: MetricLimits, fitness: Sequence[float], thresholds: Thresholds) -> list[Flag]:
    flags = []
    if _declined_from(final.fitness, fitness) is not None:
        flags.append(Flag.FITNESS_DECLINE)
    if _is_unstable(fitness):
        flags.append(Flag.UNSTABLE_TRAINING)
    return flags + _failing(final, thresholds.review)
