"""Folds of one model: digests that change exactly when an input does, and results that are those of the rules."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from postval_assets.core import evaluation
from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import BlockRun, ScriptedActor, run_lanes
from postval_assets.core.evaluation import (
    EvaluatedModel,
    FoldEvaluation,
    FoldInputs,
    evaluate,
    fold_inputs,
    not_evaluated,
)
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.features.feature_set import ACCOUNT_FEATURES, FeatureSet
from postval_assets.core.features.reference import REFERENCE_59
from postval_assets.core.folds import Plan, PlanBlocks, TrainingWindow, cut
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets_tests.core.engine_cases import first_tie
from postval_assets_tests.core.market_cases import CRYPTO, MARKETS, SIZES
from postval_assets_tests.core.plain_loop import Account, run_plain
from postval_assets_tests.core.plain_metrics import plain_metrics
from postval_assets_tests.factories import make_checkpoint, make_policy

T0 = datetime(2024, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
N_BARS = 1000
AS_OF = T0 + N_BARS * HOUR
PLAN = Plan("30d", 30, 5)
LONGER = Plan("36d", 36, 3)
WINDOW, LOOK_BACK = 6, 5
SETTINGS = "settings digest"
RULES = ExecutionRules()


def toy_features(frame: pd.DataFrame) -> np.ndarray:
    """53 features of five closes: log returns over one to four bars, at 53 scales."""
    log_close = np.log(frame["close"].to_numpy())
    out = np.full((len(frame), 53), np.nan)
    for column in range(53):
        lag = column % 4 + 1
        out[LOOK_BACK - 1 :, column] = (
            20 * (column + 1) * (log_close[LOOK_BACK - 1 :] - log_close[LOOK_BACK - 1 - lag : -lag])
        )
    return out


TOY = FeatureSet("toy", "1", tuple(f"f{i}" for i in range(53)), ACCOUNT_FEATURES, LOOK_BACK, toy_features)


def market(n: int = N_BARS, *, older: int = 0) -> Bars:
    """Hours from T0 on; ``older`` more before it change none of the later ones."""
    made = MARKETS["trending"](5, N_BARS + 400)
    columns = {name: getattr(made, name)[:n].copy() for name in COLUMNS[1:]}
    if older:
        columns = {name: np.r_[np.full(older, 50.0), values] for name, values in columns.items()}
    ts = np.datetime64(T0.replace(tzinfo=None), "us") + np.arange(-older, n) * Timeframe.HOUR_1.delta
    return Bars("UNIUSD", Timeframe.HOUR_1, AssetClass.CRYPTO, ts, **columns)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> EvaluatedModel:
    path = make_checkpoint(tmp_path_factory.mktemp("model") / "m.pt", window=WINDOW, hidden=(16,), seed=3)
    checkpoint = read_checkpoint(path)
    window = TrainingWindow(T0 - timedelta(days=400), T0 - timedelta(days=1))
    return EvaluatedModel("sha", checkpoint.spec, checkpoint.tensors, TOY, window)


def cut_for(model: EvaluatedModel, bars: Bars, plan: Plan = PLAN, as_of: datetime = AS_OF) -> PlanBlocks:
    return cut(bars, plan, as_of, needed_before=model.needed_before)


def inputs_of(
    model: EvaluatedModel, bars: Bars, plan: Plan = PLAN, as_of: datetime = AS_OF, settings: str = SETTINGS
) -> tuple[FoldInputs, ...]:
    return fold_inputs(model, bars, cut_for(model, bars, plan, as_of), as_of, settings)


def digests(*args: object, **kwargs: object) -> list[str]:
    return [i.inputs_digest for i in inputs_of(*args, **kwargs)]  # type: ignore[arg-type]


def changed(before: list[str], after: list[str]) -> list[int]:
    """Folds whose digest differs."""
    return [fold for fold, (x, y) in enumerate(zip(before, after, strict=True), 1) if x != y]


def run(model: EvaluatedModel, bars: Bars, plan: Plan = PLAN) -> list[FoldEvaluation]:
    blocks = cut_for(model, bars, plan)
    (found,) = evaluate(model, bars, [(blocks, inputs_of(model, bars, plan))], RULES)
    return found


# --- digests ------------------------------------------------------------------------------------------------


def test_equal_inputs_have_equal_digests_and_folds_different_ones(model: EvaluatedModel) -> None:
    first = digests(model, market())
    assert digests(model, market()) == first
    assert len(set(first)) == 5
    assert model.needed_before == WINDOW + LOOK_BACK


@pytest.mark.parametrize("column", COLUMNS[1:])
def test_a_changed_bar_changes_the_folds_that_see_it(model: EvaluatedModel, column: str) -> None:
    before = digests(model, market())
    blocks = cut_for(model, market()).blocks

    def after_changing(position: int) -> list[int]:
        bars = market()
        getattr(bars, column)[position] *= 1.0001
        return changed(before, digests(model, bars))

    assert after_changing(blocks[1].start) == [2]
    assert after_changing(blocks[2].start - model.needed_before - 1) == [2]
    assert after_changing(blocks[2].start - model.needed_before) == [2, 3]
    assert after_changing(blocks[2].start - 1) == [2, 3]
    assert after_changing(blocks[4].stop - 1) == [5]
    assert after_changing(blocks[0].start - model.needed_before - 1) == []


def test_bars_after_as_of_and_older_history_do_not_matter(model: EvaluatedModel) -> None:
    first = inputs_of(model, market())
    for bars in (market(N_BARS + 300), market(older=500)):
        again = inputs_of(model, bars)
        assert [i.inputs_digest for i in again] == [i.inputs_digest for i in first]
        assert [i.bars_digest for i in again] == [i.bars_digest for i in first]
        assert [i.training_overlap for i in again] == [i.training_overlap for i in first]


def test_a_removed_bar_changes_every_fold(model: EvaluatedModel) -> None:
    """The cut moves, and so does the measured number of bars in a year."""
    bars = market()
    kept = np.arange(N_BARS) != 700
    fewer = replace(bars, **{name: getattr(bars, name)[kept] for name in COLUMNS})
    assert changed(digests(model, bars), digests(model, fewer)) == [1, 2, 3, 4, 5]


def test_everything_else_that_a_result_depends_on_is_in_it(
    model: EvaluatedModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    bars = market()
    before = digests(model, bars)
    tanh = replace(model.spec, activation="tanh")
    trained_later = TrainingWindow(model.training.start, T0 + 500 * HOUR)
    variants = {
        "weights": replace(model, model_sha256="other"),
        "activation": replace(model, spec=tanh),
        "feature set": replace(model, feature_set=replace(TOY, name="other")),
        "its version": replace(model, feature_set=replace(TOY, version="2")),
    }
    for name, other in variants.items():
        assert changed(before, digests(other, bars)) == [1, 2, 3, 4, 5], name
    assert changed(before, digests(replace(model, training=trained_later), bars)) == [1, 2]
    assert changed(before, digests(model, bars, settings="other")) == [1, 2, 3, 4, 5]
    assert changed(before, digests(model, bars, replace(PLAN, name="other"))) == [1, 2, 3, 4, 5]
    assert changed(before, digests(model, bars, as_of=AS_OF + HOUR / 2)) == [1, 2, 3, 4, 5]
    equity = replace(bars, asset_class=AssetClass.EQUITY)
    assert changed(before, digests(model, equity)) == [1, 2, 3, 4, 5]
    monkeypatch.setattr(evaluation, "code_version", lambda: "other")
    assert changed(before, digests(model, bars)) == [1, 2, 3, 4, 5]


def naive_policy(model: EvaluatedModel, bars: Bars):
    """The network of make_checkpoint written out: 100 lines of product code that this shares nothing with."""
    features = np.nan_to_num(toy_features(bars.frame())).astype(np.float32)
    state = make_policy(window=WINDOW, hidden=(16,), seed=3)

    def policy(t: int, account: Account) -> list[float]:
        own = np.array(account, dtype=np.float32)
        rows = [np.concatenate([features[bar], own]) for bar in range(t - WINDOW + 1, t + 1)]
        hidden = torch.relu(
            state["shared.0.weight"] @ torch.from_numpy(np.concatenate(rows)) + state["shared.0.bias"]
        )
        return (state["actor_head.weight"] @ hidden + state["actor_head.bias"]).tolist()

    return policy


def test_folds_are_those_of_the_plain_loop(model: EvaluatedModel) -> None:
    bars = market()
    policy = naive_policy(model, bars)
    found = run(model, bars)
    bars_per_year = cut_for(model, bars).bars_per_year
    assert [f.status for f in found] == ["OK"] * 5
    for fold in found:
        a, b = fold.block.start, fold.block.stop
        plain = run_plain(
            bars.open, bars.high, bars.low, bars.close, bars.volume, a, b, SIZES[7], policy, CRYPTO
        )
        assert first_tie(plain) is None, "a tie: choose another seed"
        assert fold.run is not None
        assert fold.run.actions[:-1].tolist() == plain.actions
        assert len(set(plain.actions)) > 1
        np.testing.assert_allclose(fold.run.equity, plain.equity, rtol=1e-9)
        expected = plain_metrics(plain, bars.close, a, b, bars_per_year, CRYPTO)
        for name, value in expected.items():
            wanted = None if value is None else pytest.approx(value, rel=1e-6, abs=1e-7)
            assert getattr(fold.metrics, name) == wanted, name
        outcome = fold.outcome()
        assert (outcome.fold, outcome.n_bars, outcome.n_trades) == (fold.block.fold, b - a, len(plain.trades))
        assert outcome.total_return == pytest.approx(expected["total_return"], rel=1e-6)
        assert outcome.training_overlap == "OUT_OF_SAMPLE"


@pytest.mark.parametrize("feature_set", [TOY, REFERENCE_59], ids=lambda s: s.name)
def test_a_fold_alone_is_the_fold_among_others(model: EvaluatedModel, feature_set: FeatureSet) -> None:
    model = replace(model, feature_set=feature_set)
    bars = market()
    work = [(cut_for(model, bars, plan), inputs_of(model, bars, plan)) for plan in (PLAN, LONGER)]
    together = evaluate(model, bars, work, RULES)
    for (blocks, inputs), group in zip(work, together, strict=True):
        for one, expected in zip(inputs, group, strict=True):
            ((alone,),) = evaluate(model, bars, [(blocks, [one])], RULES)
            assert alone.status == expected.status
            assert (alone.inputs_digest, alone.bars_digest) == (expected.inputs_digest, expected.bars_digest)
            if expected.run is None:
                assert alone.run is None
                continue
            assert alone.run is not None
            assert alone.run.actions.tolist() == expected.run.actions.tolist()
            assert alone.metrics == expected.metrics
    assert any(f.run is not None for f in together[1])


def test_bars_that_do_not_count_change_nothing(model: EvaluatedModel) -> None:
    expected = run(model, market())
    for bars in (market(N_BARS + 300), market(older=500)):
        for before, after in zip(expected, run(model, bars), strict=True):
            assert after.metrics == before.metrics


def test_a_bad_bar_leaves_the_neighbours_unharmed(model: EvaluatedModel) -> None:
    expected = run(model, market())
    bars = market()
    bars.low[cut_for(model, bars).blocks[1].start + 40] = 0.0
    found = run(model, bars)
    assert [f.status for f in found] == ["OK", "INVALID_BARS", "OK", "OK", "OK"]
    for fold in (0, 2, 3, 4):
        assert found[fold].metrics == expected[fold].metrics
        assert found[fold].inputs_digest == expected[fold].inputs_digest
    bad = found[1]
    assert (bad.metrics, bad.run) == (None, None)
    assert "prices must be finite and positive" in (bad.reason or "")
    assert bad.outcome().total_return is bad.outcome().sharpe is bad.outcome().n_trades is None
    assert bad.inputs_digest != expected[1].inputs_digest


def test_nothing_to_compute_is_no_work_for_the_network(model: EvaluatedModel) -> None:
    bars = market(200)
    found = run(model, bars)
    assert [f.status for f in found] == ["INSUFFICIENT_DATA"] * 5
    assert evaluate(model, bars, [(cut_for(model, bars), [])], RULES) == [[]]
    assert run_lanes([], ScriptedActor(np.zeros((0, 1), dtype=np.int64)), RULES) == []


def test_a_policy_that_breaks_says_where(model: EvaluatedModel) -> None:
    tensors = {key: value.copy() for key, value in model.tensors.items()}
    for value in tensors.values():
        value[:] = 3e38
    found = run(replace(model, tensors=tensors), market())
    assert {f.status for f in found} == {"BROKEN_POLICY"}
    assert found[0].reason == "the policy's output was NaN or infinite at bar 1 of 144"
    assert found[0].metrics is not None
    assert found[0].outcome().total_return is None


def test_ruin_says_where(model: EvaluatedModel) -> None:
    bars = replace(market(), asset_class=AssetClass.EQUITY)
    tensors = {key: np.zeros_like(value) for key, value in model.tensors.items()}
    tensors["actor_head.bias"][6] = 1.0
    position = cut_for(model, bars).blocks[2].start + 60
    for name in ("open", "high", "low", "close"):
        getattr(bars, name)[position:] *= 20.0
    found = run(replace(model, tensors=tensors), bars)
    assert [f.status.value for f in found].count("RUINED") == 1
    assert found[2].reason == "equity reached zero at bar 61 of 144"
    assert found[2].outcome().total_return == -1.0


def test_features_that_cannot_be_computed_are_told_of_every_fold(model: EvaluatedModel) -> None:
    broken = replace(TOY, compute=lambda frame: toy_features(frame)[:, :52])
    bars = market()
    bars.close[cut_for(model, bars).blocks[1].start + 40] = -1.0
    with pytest.raises(Rejected, match=r"feature set toy .* returned") as caught:
        run(replace(model, feature_set=broken), bars)
    told = [not_evaluated(i, str(caught.value)) for i in inputs_of(model, bars)]
    assert [f.status for f in told] == ["NOT_EVALUATED", "INVALID_BARS", *["NOT_EVALUATED"] * 3]
    assert "feature set toy" in (told[0].reason or "")
    assert "finite and positive" in (told[1].reason or "")
    assert told[0].outcome().n_trades is None


def others(model: EvaluatedModel, tmp_path: Path) -> list[EvaluatedModel]:
    """Models beside it: other weights, another shape, other actions, without account features."""
    made = [
        make_checkpoint(tmp_path / "a.pt", window=WINDOW, hidden=(16,), seed=8),
        make_checkpoint(tmp_path / "b.pt", window=WINDOW, hidden=(8, 4), seed=9, activation="tanh"),
    ]
    read = [read_checkpoint(path) for path in made]
    return [replace(model, model_sha256=c.spec.model_version, spec=c.spec, tensors=c.tensors) for c in read]


def same_runs(one: evaluation.Evaluations, other: evaluation.Evaluations) -> bool:
    pairs = [(a, b) for x, y in zip(one, other, strict=True) for a, b in zip(x, y, strict=True)]
    return all(a.status is b.status and a.metrics == b.metrics and same_run(a.run, b.run) for a, b in pairs)


def same_run(one: BlockRun | None, other: BlockRun | None) -> bool:
    if one is None or other is None:
        return one is other
    arrays = ((one.equity, other.equity), (one.actions, other.actions), (one.position, other.position))
    return one.trips == other.trips and all(np.array_equal(x, y) for x, y in arrays)


def test_models_together_are_each_the_model_alone_to_the_last_bit(
    model: EvaluatedModel, tmp_path: Path
) -> None:
    bars, shorter = market(), market(N_BARS - 24 * 8)
    earlier = AS_OF - 8 * 24 * HOUR
    second, third = others(model, tmp_path)
    works = [
        evaluation.ModelWork(model, bars, [(cut_for(model, bars), inputs_of(model, bars))]),
        evaluation.ModelWork(
            second,
            shorter,
            [
                (cut_for(second, shorter, PLAN, earlier), inputs_of(second, shorter, PLAN, earlier)[1:4]),
                (cut_for(second, shorter, LONGER, earlier), inputs_of(second, shorter, LONGER, earlier)),
            ],
        ),
        evaluation.ModelWork(third, bars, [(cut_for(third, bars), ())]),
        evaluation.ModelWork(third, bars, [(cut_for(third, bars, LONGER), inputs_of(third, bars, LONGER))]),
    ]
    together = evaluation.evaluate_together(works, RULES)
    alone = [evaluate(w.model, w.bars, w.plans, RULES) for w in works]
    assert [[len(plan) for plan in work] for work in alone] == [[5], [3, 3], [0], [3]]
    for found, expected in zip(together, alone, strict=True):
        assert not isinstance(found, Exception)
        assert same_runs(found, expected)
    assert not same_runs(alone[0], [[*alone[0][0][1:], alone[0][0][0]]]), "the comparison sees differences"


def test_a_model_that_cannot_be_evaluated_stops_none_of_those_beside_it(
    model: EvaluatedModel, tmp_path: Path
) -> None:
    class Gone(dict):
        def __getitem__(self, name: str) -> np.ndarray:
            raise Unavailable("the store of weights does not answer")

        def items(self):
            raise Unavailable("the store of weights does not answer")

    def broken(frame: pd.DataFrame) -> np.ndarray:
        raise Rejected("no features of these bars")

    bars = market()
    plans = [(cut_for(model, bars), inputs_of(model, bars))]
    models = [
        replace(model, tensors=Gone()),
        model,
        replace(model, feature_set=replace(TOY, compute=broken)),
        others(model, tmp_path)[0],
    ]
    first, second, third, fourth = evaluation.evaluate_together(
        [evaluation.ModelWork(m, bars, plans) for m in models], RULES
    )
    assert isinstance(first, Unavailable)
    assert isinstance(third, Rejected)
    for found, one in ((second, models[1]), (fourth, models[3])):
        assert not isinstance(found, Exception)
        assert same_runs(found, evaluate(one, bars, plans, RULES))
