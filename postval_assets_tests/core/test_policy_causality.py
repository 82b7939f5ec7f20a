"""What looks ahead is found and named, in features and in actions; what is honest is left in peace."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core import evaluation
from postval_assets.core.bars import PRICE_COLUMNS, Bars
from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.evaluation import EvaluatedModel, ModelWork, evaluate_together, fold_inputs
from postval_assets.core.features.causality import PromiseBroken
from postval_assets.core.features.feature_set import ACCOUNT_FEATURES, FeatureSet
from postval_assets.core.features.reference import REFERENCE_SETS
from postval_assets.core.folds import Plan, TrainingWindow, cut
from postval_assets.core.policy import PolicyNetwork
from postval_assets.core.policy_causality import (
    CausalityStatus,
    Checked,
    PolicyCausality,
    evaluate_tested,
    joined,
)
from postval_assets_tests.core.hourly_bars import some_bars
from postval_assets_tests.factories import VERSION_DIMS, make_checkpoint, make_policy

WINDOW, LOOK_BACK, N_BARS = 6, 12, 800
RULES = ExecutionRules()
NAMES = tuple(f"f{i}" for i in range(53))
Column = Callable[[pd.DataFrame], "np.ndarray | pd.Series"]


def honest(frame: pd.DataFrame) -> np.ndarray:
    """53 returns over one to eleven bars, at 53 scales."""
    close = np.log(frame["close"])
    return np.column_stack([5.0 * (c + 1) * (close - close.shift(c % 11 + 1)) for c in range(53)])


def with_column(column: Column | None = None, place: int = 7) -> FeatureSet:
    """The honest set, or one with another column in a place."""

    def compute(frame: pd.DataFrame) -> np.ndarray:
        values = honest(frame)
        if column is not None:
            values[:, place] = np.asarray(column(frame), dtype=np.float64)
        return values

    return FeatureSet("acme", "1", NAMES, ACCOUNT_FEATURES, LOOK_BACK, compute)


def model_of(
    folder: Path, feature_set: FeatureSet, *, version: str = "2.7.0", **made: object
) -> EvaluatedModel:
    path = make_checkpoint(folder / "m.pt", version=version, window=WINDOW, hidden=(16,), seed=3, **made)
    checkpoint = read_checkpoint(path)
    return EvaluatedModel(
        "a" * 64, checkpoint.spec, checkpoint.tensors, feature_set, TrainingWindow(None, None)
    )


def work_of(model: EvaluatedModel, bars: Bars | None = None) -> ModelWork:
    """Five folds over the later part of the bars."""
    bars = some_bars(N_BARS) if bars is None else bars
    span = bars.ts[-1] - bars.ts[0]
    days = int(0.7 * (span / np.timedelta64(1, "D")))
    seconds = int(bars.ts[-1].astype("datetime64[s]").astype(np.int64))
    at = datetime.fromtimestamp(seconds, UTC) + timedelta(hours=1)
    plan = cut(bars, Plan(f"{days}d", days, 5), at, needed_before=model.needed_before)
    assert [b.problem for b in plan.blocks] == [None] * 5
    return ModelWork(model, bars, [(plan, fold_inputs(model, bars, plan, at, "settings"))])


@pytest.fixture
def by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the check of plug-ins, which comes before."""
    monkeypatch.setattr(evaluation, "require_causal", lambda *_: None)


def result_of(work: ModelWork) -> tuple[Checked, PolicyCausality]:
    [done] = evaluate_tested([work], RULES)
    assert done.causality is not None
    return done, done.causality


# --- leaks in features --------------------------------------------------------------------------------------


def shifted(frame: pd.DataFrame) -> pd.Series:
    return np.log(frame["close"].shift(-1) / frame["close"]).fillna(0.0)


def normalised_over_all(frame: pd.DataFrame) -> pd.Series:
    return (frame["close"] - frame["close"].mean()) / frame["close"].std()


def longer_bar_from_its_start(frame: pd.DataFrame) -> np.ndarray:
    longer = frame.set_index("ts")["close"].resample("4h").last()
    return np.log(longer.reindex(frame["ts"].dt.floor("4h")).to_numpy() / frame["close"])


def centred(frame: pd.DataFrame) -> pd.Series:
    return frame["close"].rolling(5, center=True, min_periods=1).mean() / frame["close"]


def taken_for_rounding(frame: pd.DataFrame) -> pd.Series:
    return 1.0 + 1e-5 * shifted(frame)


LEAKS: tuple[Column, ...] = (
    shifted,
    normalised_over_all,
    longer_bar_from_its_start,
    centred,
    taken_for_rounding,
)


@pytest.mark.usefixtures("by_itself")
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("leak", LEAKS, ids=lambda c: c.__name__)
def test_a_feature_that_looks_ahead_is_named_with_both_values(
    tmp_path: Path, leak: Column, seed: int
) -> None:
    model = replace(model_of(tmp_path, with_column(leak)), model_sha256=str(seed))
    work = work_of(model)
    done, found = result_of(work)
    assert (found.status, found.feature) == (CausalityStatus.LOOKS_AHEAD, "f7")
    assert isinstance(done.evaluations, PromiseBroken)
    fault = done.evaluations.look_ahead
    assert fault is not None
    # Computed anew, from the bars alone: the value is the one that the evaluation would have used.
    begin = work.lanes()[0].start - model.needed_before
    real = np.asarray(leak(work.bars.slice(begin, len(work.bars)).frame()), dtype=np.float32)
    assert fault.value == real[int(np.flatnonzero(work.bars.ts == fault.ts)[0]) - begin] != fault.other
    told = f"LOOKS_AHEAD: feature f7 of set acme: its value at {str(fault.ts)[:16]}Z changes when bars after it change"
    assert found.reason is not None
    assert found.reason.startswith(told)
    assert f"({fault.value:.9g} -> {fault.other:.9g})" in found.reason
    assert 1 <= found.n_instants <= 3


def test_what_the_check_of_plug_ins_sees_first_is_the_same_finding(tmp_path: Path) -> None:
    done, found = result_of(work_of(model_of(tmp_path, with_column(shifted))))
    assert (found.status, found.feature, found.n_instants) == (CausalityStatus.LOOKS_AHEAD, "f7", 0)
    assert str(found.reason).startswith("LOOKS_AHEAD: feature f7 of set acme: its value at 20")
    assert isinstance(done.evaluations, PromiseBroken)


def test_another_broken_promise_is_no_look_ahead(tmp_path: Path) -> None:
    def endless(frame: pd.DataFrame) -> pd.Series:
        return frame["close"] / frame["close"].expanding().mean()

    done, found = result_of(work_of(model_of(tmp_path, with_column(endless))))
    assert (found.status, found.feature) == (CausalityStatus.NOT_CHECKED, None)
    assert "f7 sees more than its look-back" in str(found.reason)
    assert isinstance(done.evaluations, PromiseBroken)


@pytest.mark.usefixtures("by_itself")
def test_values_that_differ_on_the_same_bars_are_told_as_that(tmp_path: Path) -> None:
    def random(frame: pd.DataFrame) -> np.ndarray:
        return np.random.default_rng().normal(size=len(frame))

    done, found = result_of(work_of(model_of(tmp_path, with_column(random))))
    assert (found.status, found.feature) == (CausalityStatus.NOT_CHECKED, None)
    assert "f7 differs between two calls on the same bars" in str(done.evaluations)


# --- honest ones --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sessions", [False, True])
@pytest.mark.parametrize("version", sorted(VERSION_DIMS))
def test_reference_models_of_every_version_are_causal_and_evaluated_as_without_a_test(
    tmp_path: Path, version: str, sessions: bool
) -> None:
    n_features, _ = VERSION_DIMS[version]
    feature_set = next(s for s in REFERENCE_SETS if s.n_features == n_features)
    n_bars = 700 if sessions else 1200
    work = work_of(
        model_of(tmp_path, feature_set, version=version), some_bars(n_bars, sessions=sessions, seed=4)
    )
    done, found = result_of(work)
    assert (found.status, found.feature, found.reason, found.n_ties) == ("CAUSAL", None, None, 0)
    assert found.n_instants == (3 if sessions else 2)
    lanes = work.lanes()
    assert found.first_ts == work.bars.ts[lanes[0].start - work.model.needed_before]
    assert found.last_ts == work.bars.ts[lanes[-1].stop - 1]
    [alone] = evaluate_together([work], RULES)
    assert not isinstance(alone, Exception)
    assert not isinstance(done.evaluations, Exception)
    pairs = [
        (e.run, f.run)
        for p, q in zip(alone, done.evaluations, strict=True)
        for e, f in zip(p, q, strict=True)
    ]
    assert len(pairs) == 5
    for one, other in pairs:
        assert one is not None
        assert other is not None
        assert np.array_equal(one.equity, other.equity)
        assert np.array_equal(one.actions, other.actions)


@st.composite
def trailing(draw: st.DrawFn) -> tuple[Column, str]:
    """A column of the bars of its window alone, computed as people compute such things."""
    source = draw(st.sampled_from([*PRICE_COLUMNS, "volume"]))
    n = draw(st.integers(2, LOOK_BACK - 1))
    how = draw(st.sampled_from(["mean", "std", "max", "min", "sum", "median", "lag", "dot", "rank"]))

    def column(frame: pd.DataFrame) -> np.ndarray | pd.Series:
        values = frame[source] / frame[source].shift(1) if source != "volume" else np.log1p(frame[source])
        values = values.fillna(1.0)
        if how == "lag":
            return values.shift(n - 1)
        if how == "dot":
            return np.convolve(values, np.linspace(1.0, 2.0, n))[: len(frame)]
        return getattr(values.rolling(n), how)()

    return column, f"{how} of {n} {source}"


@given(made=trailing(), seed=st.integers(0, 2**32), sessions=st.booleans())
@settings(max_examples=40, deadline=None)
def test_a_feature_of_past_bars_is_never_held_against_a_model(
    small_model: EvaluatedModel, made: tuple[Column, str], seed: int, sessions: bool
) -> None:
    column, name = made
    model = replace(small_model, feature_set=with_column(column), model_sha256=str(seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluation, "require_causal", lambda *_: None)
        _, found = result_of(work_of(model, some_bars(500, sessions=sessions, seed=seed)))
    assert (found.status, found.reason) == ("CAUSAL", None), name


@pytest.fixture(scope="module")
def small_model(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    return model_of(tmp_path_factory.mktemp("m"), with_column())


def test_a_model_without_a_block_to_evaluate_is_not_checked(tmp_path: Path) -> None:
    model = model_of(tmp_path, with_column())
    work = work_of(model)
    [(plan, _)] = work.plans
    [nothing] = evaluate_tested([replace(work, plans=[(plan, [])])], RULES)
    assert (nothing.evaluations, nothing.causality) == ([[]], None)
    far = replace(model, spec=replace(model.spec, window=5000))
    plan = cut(work.bars, plan.plan, AS_OF, needed_before=far.needed_before)
    done, found = result_of(
        ModelWork(far, work.bars, [(plan, fold_inputs(far, work.bars, plan, AS_OF, "settings"))])
    )
    assert not isinstance(done.evaluations, Exception)
    assert {f.status for f in done.evaluations[0]} == {"INSUFFICIENT_DATA"}
    assert (found.status, found.reason) == ("NOT_CHECKED", "no block could be evaluated")
    assert (found.n_instants, found.first_ts, found.last_ts) == (0, None, None)


AS_OF = datetime(2024, 1, 1, 14, tzinfo=UTC) + timedelta(hours=N_BARS)


# --- sets that dislike bars that never were -------------------------------------------------------------------


def refusing(column: Column | None = None) -> FeatureSet:
    """A set that raises where a price moves by more than a real one ever did."""
    inner = with_column(column)

    def compute(frame: pd.DataFrame) -> np.ndarray:
        if (frame["close"] / frame["open"]).max() > 1.04:
            raise ValueError("that is no market")
        return np.asarray(inner.compute(frame))

    return replace(inner, compute=compute)


def silent(column: Column | None = None) -> FeatureSet:
    """A set that gives nothing at all there."""
    inner = with_column(column)

    def compute(frame: pd.DataFrame) -> np.ndarray:
        values = np.asarray(inner.compute(frame))
        return np.full_like(values, np.nan) if (frame["close"] / frame["open"]).max() > 1.04 else values

    return replace(inner, compute=compute)


Refuser = Callable[..., FeatureSet]


@pytest.mark.usefixtures("by_itself")
@pytest.mark.parametrize("refuser", [refusing, silent], ids=lambda r: r.__name__)
def test_a_set_that_refuses_noise_is_held_to_the_bars_until_then_and_that_is_said(
    tmp_path: Path, refuser: Refuser
) -> None:
    done, found = result_of(work_of(model_of(tmp_path, refuser())))
    assert found.status == "CAUSAL"
    assert not isinstance(done.evaluations, Exception)
    assert found.reason == (
        "the feature set does not compute with noise: at 2 of 2 instants its features were compared with those of the "
        "bars up to it alone"
    )


@pytest.mark.usefixtures("by_itself")
@pytest.mark.parametrize("refuser", [refusing, silent], ids=lambda r: r.__name__)
@pytest.mark.parametrize("leak", LEAKS[:4], ids=lambda c: c.__name__)
def test_a_set_that_refuses_noise_and_looks_ahead_is_named(
    tmp_path: Path, refuser: Refuser, leak: Column
) -> None:
    _, found = result_of(work_of(model_of(tmp_path, refuser(leak))))
    assert (found.status, found.feature) == ("LOOKS_AHEAD", "f7")


@pytest.mark.usefixtures("by_itself")
def test_a_value_that_is_missing_until_later_bars_come_is_one_that_looks_ahead(tmp_path: Path) -> None:
    work = work_of(model_of(tmp_path, with_column()))
    n_reached = len(work.bars) - work.lanes()[0].start + work.model.needed_before

    def waiting(frame: pd.DataFrame) -> pd.Series:
        # Missing at the end, unless these are the bars that it was fitted to.
        ahead = np.log(frame["close"].shift(-1) / frame["close"])
        return ahead.fillna(0.0) if len(frame) == n_reached else ahead

    model = replace(work.model, feature_set=refusing(waiting))
    _, found = result_of(replace(work, model=model))
    assert (found.status, found.feature) == ("LOOKS_AHEAD", "f7")
    assert "-> nan)" in str(found.reason)


@pytest.mark.usefixtures("by_itself")
def test_a_set_that_computes_neither_with_noise_nor_without_later_bars_is_no_pass(tmp_path: Path) -> None:
    seen: list[int] = []

    def choosy(frame: pd.DataFrame) -> np.ndarray:
        seen.append(len(frame))
        if len(seen) > 1:
            raise ValueError("only once")
        return honest(frame)

    done, found = result_of(work_of(model_of(tmp_path, replace(with_column(), compute=choosy))))
    assert isinstance(done.evaluations, PromiseBroken)
    assert found.status == "NOT_CHECKED"
    assert "only once; it was given the first" in str(found.reason)
    assert len(seen) == 3


# --- leaks in actions ---------------------------------------------------------------------------------------


@pytest.fixture
def seeing_network(monkeypatch: pytest.MonkeyPatch) -> None:
    """A network whose sum for a bar is that of the next bar."""
    original = PolicyNetwork.first_layers

    def first_layers(self: PolicyNetwork, several: list[np.ndarray]) -> list[torch.Tensor]:
        return [torch.cat([sums[1:], sums[-1:]]) for sums in original(self, several)]

    monkeypatch.setattr(PolicyNetwork, "first_layers", first_layers)


@pytest.mark.usefixtures("seeing_network")
@pytest.mark.parametrize("version", ["2.3.0", "2.7.0"])
def test_an_action_that_looks_ahead_while_no_feature_does_is_found(tmp_path: Path, version: str) -> None:
    feature_set = replace(with_column(), account_features=ACCOUNT_FEATURES[: VERSION_DIMS[version][0] - 53])
    state = make_policy(version=version, window=WINDOW, hidden=(16,), seed=3)
    state["actor_head.weight"] *= 20.0
    overrides = {"overrides": {"policy_state_dict": state}}
    model = model_of(tmp_path, feature_set, version=version, **overrides)
    results = [result_of(work_of(replace(model, model_sha256=str(seed)))) for seed in range(8)]
    # A choice of three or seven need not change where the logits do.
    ahead = [(done, found) for done, found in results if found.status == "LOOKS_AHEAD"]
    assert len(ahead) >= 3
    for done, found in ahead:
        assert found.feature is None
        assert str(found.reason).startswith("LOOKS_AHEAD: the action at 2024-")
        assert "and no feature does" in str(found.reason)
        assert isinstance(done.evaluations, PromiseBroken)


def nearly_equal(folder: Path) -> EvaluatedModel:
    """A model whose two best logits are always closer than a tie, and change places from bar to bar."""
    state = make_policy(version="2.3.0", window=WINDOW, hidden=(16,), seed=3)
    state["actor_head.weight"][:] = 0.0
    state["actor_head.bias"][:] = -1.0
    state["actor_head.bias"][1:3] = 0.0
    rng = torch.Generator().manual_seed(0)
    state["actor_head.weight"][1] = 1e-7 * torch.randn(state["actor_head.weight"].shape[1], generator=rng)
    overrides = {"overrides": {"policy_state_dict": state}}
    return model_of(folder, replace(with_column(), account_features=()), version="2.3.0", **overrides)


@pytest.mark.usefixtures("seeing_network")
def test_actions_that_part_at_a_tie_are_counted_and_not_held_against_the_model(tmp_path: Path) -> None:
    model = nearly_equal(tmp_path)
    found = [result_of(work_of(replace(model, model_sha256=str(seed))))[1] for seed in range(12)]
    assert {f.status for f in found} == {CausalityStatus.CAUSAL}
    ties = [f for f in found if f.n_ties]
    assert ties, "some instants meet one"
    assert all(f"actions differ at {f.n_ties} of 2 instants, each at a tie" in str(f.reason) for f in ties)
    assert all(f.reason is None for f in found if not f.n_ties)


# --- parts together -----------------------------------------------------------------------------------------


def part(status: str, **changes: object) -> PolicyCausality:
    made = PolicyCausality(CausalityStatus(status), 2, np.datetime64("2024-01-02"), np.datetime64("2024-02-01"), 0,
                           None, None, "d")  # fmt: skip
    return replace(made, **changes)  # type: ignore[arg-type]


def test_parts_of_a_model_are_as_bad_as_the_worst_and_else_counted_together() -> None:
    causal = part("CAUSAL", n_ties=1, reason="a tie")
    later = part("CAUSAL", first_ts=np.datetime64("2024-03-01"), last_ts=np.datetime64("2024-04-01"))
    none = part("NOT_CHECKED", n_instants=0, first_ts=None, last_ts=None, reason="no block")
    ahead = part("LOOKS_AHEAD", feature="f7", reason="LOOKS_AHEAD: f7")
    assert joined([]) is None
    assert joined([None, none]) is none
    assert joined([causal, ahead, none]) is ahead
    together = joined([causal, none, later])
    assert together is not None
    assert (together.status, together.n_instants, together.n_ties, together.reason) == (
        "CAUSAL",
        4,
        1,
        "a tie",
    )
    assert (together.first_ts, together.last_ts) == (causal.first_ts, later.last_ts)
