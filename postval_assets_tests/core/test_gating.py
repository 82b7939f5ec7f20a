from __future__ import annotations

import math
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets import assess_model_quality
from postval_assets.core.failures import Rejected
from postval_assets.core.gating import (
    THRESHOLD_SETS,
    V2_4_5,
    V4_1_0,
    Classification,
    Flag,
    GateResult,
    MetricLimits,
    Thresholds,
    gate,
)

GOOD = {"fitness": 0.9, "profit_factor": 2.5, "consistency": 0.95, "max_drawdown": 0.02}
RANK = {Classification.DROP: 0, Classification.REVIEW: 1, Classification.APPROVED: 2}

# The limits once more, written out from the rules: metric, better direction, APPROVED, REVIEW, flag.
RULES = {
    "v2.4.5": [
        ("fitness", +1, 0.70, 0.50, "LOW_FITNESS"),
        ("profit_factor", +1, 1.8, 1.3, "LOW_PF"),
        ("consistency", +1, 0.85, 0.65, "LOW_CONSISTENCY"),
        ("max_drawdown", -1, 0.08, 0.15, "HIGH_DRAWDOWN"),
    ],
    "v4.1.0": [
        ("fitness", +1, 0.35, 0.10, "LOW_FITNESS"),
        ("profit_factor", +1, 1.4, 1.1, "LOW_PF"),
        ("consistency", +1, 0.70, 0.50, "LOW_CONSISTENCY"),
        ("max_drawdown", -1, 0.10, 0.20, "HIGH_DRAWDOWN"),
    ],
}
CASES = [(version, *rule) for version, rules in RULES.items() for rule in rules]


def gate_finals(thresholds: Thresholds = V2_4_5, **finals: float) -> GateResult:
    values = GOOD | finals
    return gate(
        **{f"{name}_history": [value] for name, value in values.items()},
        reward_scale=0.001,
        validation_interval=40,
        thresholds=thresholds,
    )


def gate_fitness(history: list[float], **rest: object) -> GateResult:
    n = len(history)
    arguments: dict[str, object] = {
        "fitness_history": history,
        "profit_factor_history": [2.5] * n,
        "consistency_history": [0.95] * n,
        "max_drawdown_history": [0.02] * n,
        "reward_scale": 0.001,
        "validation_interval": 40,
    }
    return gate(**(arguments | rest))


# --- classification -----------------------------------------------------------------------------------------


def test_the_sets_are_found_by_name() -> None:
    assert {"v2.4.5": V2_4_5, "v4.1.0": V4_1_0} == THRESHOLD_SETS


@pytest.mark.parametrize(("version", "metric", "sign", "approve", "review", "flag"), CASES)
def test_each_limit_is_inclusive_and_exact(
    version: str, metric: str, sign: int, approve: float, review: float, flag: str
) -> None:
    thresholds = THRESHOLD_SETS[version]
    worse = -sign * 1e-6

    def outcome(value: float) -> tuple[str, list[str]]:
        result = gate_finals(thresholds, **{metric: value})
        return result.classification.value, [f.value for f in result.flags]

    assert outcome(approve) == ("APPROVED", [])
    assert outcome(approve + worse) == ("REVIEW", [])
    assert outcome(review) == ("REVIEW", [])
    assert outcome(review + worse) == ("DROP", [flag])


@pytest.mark.parametrize(("version", "metric", "sign", "approve", "review", "flag"), CASES)
@pytest.mark.parametrize("to_float32", [np.float32, lambda x: float(np.float32(x))])
def test_a_limit_written_as_float32_is_still_that_limit(
    version: str, metric: str, sign: int, approve: float, review: float, flag: str, to_float32: type
) -> None:
    thresholds = THRESHOLD_SETS[version]
    assert gate_finals(thresholds, **{metric: to_float32(approve)}).classification is Classification.APPROVED
    assert gate_finals(thresholds, **{metric: to_float32(review)}).classification is Classification.REVIEW


def test_float32_is_really_below_some_limits() -> None:
    assert float(np.float32(0.7)) < 0.7
    assert float(np.float32(0.08)) > 0.08 or float(np.float32(0.15)) > 0.15


metrics = st.fixed_dictionaries(
    {
        "fitness": st.floats(-1, 1),
        "profit_factor": st.floats(0, 4),
        "consistency": st.floats(0, 1),
        "max_drawdown": st.floats(0, 1),
    }
)


@given(metrics, st.sampled_from(sorted(GOOD)), st.floats(0, 1), st.sampled_from([V2_4_5, V4_1_0]))
def test_improving_a_metric_never_worsens_the_class(
    finals: dict[str, float], metric: str, share: float, thresholds: Thresholds
) -> None:
    best = {"fitness": 1.0, "profit_factor": 5.0, "consistency": 1.0, "max_drawdown": 0.0}[metric]
    better = finals | {metric: finals[metric] + share * (best - finals[metric])}
    before, after = gate_finals(thresholds, **finals), gate_finals(thresholds, **better)
    assert RANK[after.classification] >= RANK[before.classification]


@given(metrics, st.sampled_from(sorted(RULES)))
def test_the_worst_metric_decides(finals: dict[str, float], version: str) -> None:
    worst = 2
    for metric, sign, approve, review, _ in RULES[version]:
        value = round(finals[metric], 6)
        worst = min(worst, (sign * value >= sign * approve) + (sign * value >= sign * review))
    assert RANK[gate_finals(THRESHOLD_SETS[version], **finals).classification] == worst


# --- flags --------------------------------------------------------------------------------------------------


def expected_flags(history: list[float], finals: dict[str, float], version: str) -> set[str]:
    """The rules' sentences, one after another."""
    h = [round(v, 6) for v in history]
    peak = max(h)
    flags = {f for m, sign, _, review, f in RULES[version] if sign * round(finals[m], 6) < sign * review}
    if peak > 0:
        if h[-1] < round(0.95 * peak, 6):
            flags.add("FITNESS_DECLINE")
        late = h[len(h) // 2 :]
        changes = [abs(late[i + 1] - late[i]) for i in range(len(late) - 1)]
        if changes and round(max(changes), 6) > round(0.10 * peak, 6):
            flags.add("UNSTABLE_TRAINING")
    return flags


histories = st.lists(st.floats(-1, 1, width=32), min_size=1, max_size=12)


@given(histories, metrics, st.sampled_from(sorted(RULES)))
def test_flags_are_those_of_the_rules(history: list[float], finals: dict[str, float], version: str) -> None:
    n = len(history)
    others = {f"{m}_history": [finals[m]] * n for m in GOOD if m != "fitness"}
    result = gate_fitness(history, thresholds=THRESHOLD_SETS[version], **others)
    assert {f.value for f in result.flags} == expected_flags(
        history, finals | {"fitness": history[-1]}, version
    )
    assert list(result.flags) == sorted(result.flags, key=list(Flag).index)


@given(histories)
def test_the_checkpoint_is_the_earliest_peak(history: list[float]) -> None:
    result = gate_fitness(history)
    assert result.use_checkpoint == (Flag.FITNESS_DECLINE in result.flags)
    if result.use_checkpoint:
        rounded = [round(v, 6) for v in history]
        index = result.checkpoint_index
        assert index is not None
        assert all(v < rounded[index] for v in rounded[:index])
        assert all(v <= rounded[index] for v in rounded[index:])
        assert result.checkpoint_update == (index + 1) * 40
    else:
        assert (result.checkpoint_index, result.checkpoint_update) == (None, None)


@pytest.mark.parametrize(
    ("history", "declined"),
    [
        ([0.8, 0.76], False),  # exactly 0.95 * peak
        ([0.8, 0.759999], True),
        ([0.6, 0.57], False),  # 0.95 * 0.6 is 0.5700000000000001 or less in binary
        ([0.6, float(np.float32(0.57))], False),
        ([0.6, 0.569999], True),
        ([0.9], False),
    ],
)
def test_decline_begins_below_95_percent_of_the_peak(history: list[float], declined: bool) -> None:
    assert (Flag.FITNESS_DECLINE in gate_fitness(history).flags) is declined


def test_of_equal_peaks_the_earliest_is_recommended() -> None:
    noisy_peak = float(np.float32(0.9))  # a little above 0.8999999, below 0.9: the same to 6 decimals
    result = gate_fitness([0.5, noisy_peak, 0.9, 0.8])
    assert (result.checkpoint_index, result.checkpoint_update) == (1, 80)


def test_without_a_positive_peak_there_is_nothing_to_go_back_to() -> None:
    for history in ([0.0, -0.5], [-0.1, -0.9, -0.5, -0.9], [0.0, 0.0]):
        result = gate_fitness(history)
        assert result.flags == (Flag.LOW_FITNESS,)
        assert not result.use_checkpoint


@pytest.mark.parametrize(
    ("history", "unstable"),
    [
        ([0.9], False),
        ([0.1, 0.9], False),  # the last half is one value
        ([0.9, 0.9, 0.8], True),  # 0.10 > 0.09
        ([1.0, 1.0, 0.9], False),  # exactly a tenth
        ([1.0, 1.0, 0.899999], True),
        ([0.1, 0.9, 0.9, 0.9], False),  # the jump is in the first half
        ([0.9, 0.1, 0.9, 0.9], False),  # nor is the step into the last half within it
        ([0.9, 0.9, 0.1, 0.9], True),
    ],
)
def test_instability_is_looked_for_in_the_last_half(history: list[float], unstable: bool) -> None:
    assert (Flag.UNSTABLE_TRAINING in gate_fitness(history).flags) is unstable


@pytest.mark.parametrize(
    ("scale", "flags"),
    [
        (0.001, ()),
        (float(np.float32(0.001)), ()),
        (0.0010004, (Flag.UNCALIBRATED_PROXY,)),
        (1.0, (Flag.UNCALIBRATED_PROXY,)),
        (math.nan, (Flag.UNCALIBRATED_PROXY,)),
        (None, (Flag.UNKNOWN_PROXY_SCALE,)),
    ],
)
def test_the_drawdown_proxy_is_flagged_where_its_scale_is_not_the_calibrated_one(
    scale: float | None, flags: tuple[Flag, ...]
) -> None:
    assert gate_fitness([0.9], reward_scale=scale).flags == flags


def test_an_unknown_interval_leaves_the_update_unknown() -> None:
    result = gate_fitness([0.9, 0.5], validation_interval=None)
    assert (result.use_checkpoint, result.checkpoint_index, result.checkpoint_update) == (True, 0, None)


def test_the_contract_s_example() -> None:
    result = gate(
        fitness_history=[0.41, 0.66, 0.72],
        profit_factor_history=[1.2, 1.7, 1.9],
        consistency_history=[0.7, 0.85, 0.9],
        max_drawdown_history=[0.12, 0.09, 0.07],
        reward_scale=0.001,
        validation_interval=40,
        thresholds=V2_4_5,
    )
    assert result == GateResult(
        classification=Classification.APPROVED,
        thresholds_version="v2.4.5",
        fitness=0.72,
        profit_factor=1.9,
        consistency=0.9,
        max_drawdown=0.07,
    )


# --- invalid metrics ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["fitness", "profit_factor", "consistency", "max_drawdown"])
@pytest.mark.parametrize(
    ("history", "said"),
    [
        (None, "no values"),
        ([], "is empty"),
        ([0.5, math.nan], r"\[1\] is nan"),
        ([math.inf, 0.5], r"\[0\] is inf"),
        ([0.5, "0.5"], "expected a number"),
        ([0.5, None], "expected a number"),
        ([0.5, True], "expected a number"),
        ([10**400, 0.5], "expected a finite number"),
        (0.5, "expected a list of numbers"),
        ([0.5], "unequal lengths"),
        ([0.5, 0.5, 0.5], "unequal lengths"),
    ],
)
def test_what_cannot_be_judged_is_invalid_with_the_reason(name: str, history: object, said: str) -> None:
    result = gate_fitness([0.9, 0.9], **{f"{name}_history": history})
    assert result.reason is not None
    assert name in result.reason
    assert re.search(said, result.reason)
    assert result == GateResult(
        classification=Classification.INVALID, thresholds_version="v2.4.5", reason=result.reason
    )


@pytest.mark.parametrize("name", ["consistency", "max_drawdown"])
@pytest.mark.parametrize("value", [85.0, -0.01, 1.000001])
def test_fractions_are_not_rescaled(name: str, value: float) -> None:
    result = gate_finals(**{name: value})
    assert result.classification is Classification.INVALID
    assert re.search(rf"{name}\[0\].*\[0, 1\]", result.reason or "")


@pytest.mark.parametrize("name", ["consistency", "max_drawdown"])
def test_an_early_value_out_of_range_counts_too(name: str) -> None:
    result = gate_fitness([0.9, 0.9], **{f"{name}_history": [1.5, 0.05]})
    assert result.classification is Classification.INVALID


def test_the_ends_of_the_range_and_float_noise_on_them_are_accepted() -> None:
    assert gate_finals(consistency=1.0, max_drawdown=0.0).classification is Classification.APPROVED
    assert gate_finals(consistency=1.0 + 1e-9, max_drawdown=-1e-9).classification is Classification.APPROVED


def test_a_problem_of_the_reader_comes_first() -> None:
    result = gate_fitness([0.9], problem="no metrics for AAPL")
    assert (result.classification, result.reason) == (Classification.INVALID, "no metrics for AAPL")


@given(st.lists(st.one_of(st.floats(), st.text(max_size=3), st.none(), st.integers()), max_size=4))
def test_no_history_raises(history: list[object]) -> None:
    assert isinstance(gate_fitness([0.9] * 3, consistency_history=history), GateResult)


# --- thresholds ---------------------------------------------------------------------------------------------


def test_a_set_in_which_approval_is_easier_than_review_is_rejected() -> None:
    for metric, value in {
        "fitness": 0.1,
        "profit_factor": 1.0,
        "consistency": 0.1,
        "max_drawdown": 0.5,
    }.items():
        with pytest.raises(Rejected, match=metric):
            Thresholds("mine", replace(V2_4_5.approve, **{metric: value}), V2_4_5.review)


def test_a_set_needs_a_name_and_finite_limits() -> None:
    with pytest.raises(Rejected, match="name"):
        Thresholds(" ", V2_4_5.approve, V2_4_5.review)
    with pytest.raises(Rejected, match="finite"):
        Thresholds("mine", MetricLimits(0.7, math.inf, 0.8, 0.1), V2_4_5.review)


# --- the public function ------------------------------------------------------------------------------------


@given(histories, metrics, st.sampled_from(sorted(RULES)))
def test_the_public_function_says_what_the_gate_says(
    history: list[float], finals: dict[str, float], version: str
) -> None:
    n = len(history)
    others = {f"{m}_history": [finals[m]] * n for m in GOOD if m != "fitness"}
    result = gate_fitness(history, thresholds=THRESHOLD_SETS[version], **others)
    answer = assess_model_quality(
        history[-1], finals["profit_factor"], finals["consistency"], finals["max_drawdown"], history, version
    )
    assert answer == (
        result.classification.value,
        [f.value for f in result.flags],
        result.use_checkpoint,
        result.checkpoint_index,
    )
    assert all(type(text) is str for text in (answer[0], *answer[1]))


def test_the_public_function_takes_a_name_a_set_or_nothing() -> None:
    def classify(config: Thresholds | str | None) -> str:
        return assess_model_quality(0.40, 1.5, 0.75, 0.09, [0.40], config)[0]

    assert classify(None) == classify("v2.4.5") == classify(V2_4_5) == "DROP"
    assert classify("v4.1.0") == classify(V4_1_0) == "APPROVED"
    assert classify(Thresholds("mine", V2_4_5.approve, V4_1_0.review)) == "REVIEW"
    with pytest.raises(Rejected, match=r"v2\.4\.5, v4\.1\.0"):
        classify("v9")


def test_the_public_function_recommends_the_peak() -> None:
    assert assess_model_quality(0.70, 2.0, 0.9, 0.05, [0.6, 0.80, 0.75, 0.70]) == (
        "APPROVED",
        ["FITNESS_DECLINE"],
        True,
        1,
    )


@pytest.mark.parametrize(
    "arguments",
    [
        (math.nan, 2.0, 0.9, 0.05, [0.9]),
        (0.9, math.inf, 0.9, 0.05, [0.9]),
        (0.9, 2.0, 85.0, 0.05, [0.9]),
        (0.9, 2.0, 0.9, -0.5, [0.9]),
        (0.9, None, 0.9, 0.05, [0.9]),
        (0.9, 2.0, 0.9, 0.05, []),
        (0.9, 2.0, 0.9, 0.05, [0.9, math.nan]),
        (0.9, 2.0, 0.9, 0.05, None),
    ],
)
def test_the_public_function_calls_unusable_metrics_invalid(arguments: tuple[object, ...]) -> None:
    assert assess_model_quality(*arguments) == ("INVALID", [], False, None)


def test_the_public_function_takes_arrays() -> None:
    history = np.array([0.9, 0.5], dtype=np.float32)
    assert assess_model_quality(
        history[-1], np.float32(2.0), np.float32(0.85), np.float32(0.08), history
    ) == (
        "REVIEW",
        ["FITNESS_DECLINE"],
        True,
        0,
    )
