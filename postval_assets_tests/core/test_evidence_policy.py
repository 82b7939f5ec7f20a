"""Policy ``evidence``, rule by rule, against the table of docs/evidence.md."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.decision import Decision, ModelVerdict, Verdict
from postval_assets.core.evidence_policy import decide_evidence
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.gating import Classification
from postval_assets.core.walk_forward import FoldOutcome, GradeLimits, summarize
from postval_assets.core.walk_forward_evidence import EvidenceLimits, WalkForwardEvidence
from postval_assets_tests.core.evidence_cases import FOLDS, proven
from postval_assets_tests.core.fold_cases import missing, ok

MODEL = ModelVerdict(
    usable=True,
    problem=None,
    classification=Classification.APPROVED,
    gate_reason=None,
    features_assumed=False,
    activation_assumed=False,
)


def decide(
    evidence: WalkForwardEvidence | None = None,
    *,
    folds: list[FoldOutcome] | None = None,
    model: ModelVerdict = MODEL,
    limits: EvidenceLimits | None = None,
) -> Verdict:
    folds = FOLDS if folds is None else folds
    summary = summarize(folds, 5, 8766.0, GradeLimits()) if folds else None
    found = evidence if evidence is not None else proven(folds)
    return decide_evidence(model, summary, found, folds, limits or EvidenceLimits())


def words(verdict: Verdict) -> list[str]:
    return [reason.partition(":")[0] for reason in verdict.reasons]


def test_live_where_everything_holds() -> None:
    found = decide()
    assert found.decision is Decision.LIVE
    assert found.reasons == (
        "EVIDENCE: SHOWN, Sharpe 6.00 over 5 folds that count (90 % 3.70 .. 8.30), p 9.1e-06",
    )


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"p_value_archive": 0.06}, "P_VALUE_ARCHIVE"),
        ({"consistency_ratio": 1.6}, "CONSISTENCY_RATIO"),
        ({"null_percentile": 0.9}, "NULL_PERCENTILE"),
        ({"break_even_cost_bps": 59.0}, "BREAK_EVEN_COST"),
        ({"lag_return": -0.001}, "LAG_RETURN"),
    ],
)
def test_each_failed_condition_takes_live_and_is_a_reason(changes: dict[str, float], word: str) -> None:
    found = decide(proven(**changes))
    assert found.decision is Decision.PAPER
    assert words(found) == ["EVIDENCE", word]


@pytest.mark.parametrize(
    ("model", "word"),
    [
        (replace(MODEL, classification=Classification.REVIEW), "GATING_REVIEW"),
        (replace(MODEL, features_assumed=True), "ASSUMED_FEATURES"),
        (replace(MODEL, activation_assumed=True), "ASSUMED_ACTIVATION"),
        (replace(MODEL, bar_errors=("gaps 5 h",)), "BAR_QUALITY"),
    ],
)
def test_what_is_known_before_the_folds_takes_live_too(model: ModelVerdict, word: str) -> None:
    found = decide(model=model)
    assert found.decision is Decision.PAPER
    assert word in words(found)


def test_an_unknown_training_window_is_never_live() -> None:
    folds = [replace(f, training_overlap=TrainingOverlap.UNKNOWN) for f in FOLDS]
    found = decide(proven(folds, n_out_of_sample=0), folds=folds)
    assert found.decision is Decision.PAPER
    assert "TRAINING_WINDOW_UNKNOWN" in words(found)
    one = [replace(FOLDS[0], training_overlap=TrainingOverlap.UNKNOWN), *FOLDS[1:]]
    assert decide(proven(one), folds=one).decision is Decision.PAPER


@pytest.mark.parametrize(
    "label", [TrainingOverlap.IN_TRAIN, TrainingOverlap.OVERLAP, TrainingOverlap.BEFORE_TRAIN]
)
def test_a_fold_that_the_model_has_seen_takes_live(label: TrainingOverlap) -> None:
    folds = [replace(FOLDS[0], training_overlap=label), *FOLDS[1:]]
    found = decide(proven(folds, n_counted=4), folds=folds)
    assert found.decision is Decision.PAPER
    assert {"NOT_OUT_OF_SAMPLE", "NOT_COUNTED"} <= set(words(found))


def test_a_missing_fold_takes_live() -> None:
    folds = [*FOLDS[:4], missing()]
    found = decide(proven(folds, n_counted=4), folds=folds)
    assert found.decision is Decision.PAPER
    assert {"INCOMPLETE", "NOT_COUNTED"} <= set(words(found))


PAPER_BORDERS = [
    ({"p_value": 0.20}, {"p_value": 0.201}, "P_VALUE: 0.201, at most 0.2 needed for PAPER"),
    (
        {"null_percentile": 0.80},
        {"null_percentile": 0.795},
        "NULL_PERCENTILE: 0.795, at least 0.8 needed for PAPER",
    ),
    ({"counted_return": 1e-9}, {"counted_return": 0.0}, "RETURN_SUM: +0.00%, above 0 needed for PAPER"),
    ({"n_counted": 3}, {"n_counted": 2}, "NOT_COUNTED: 2 of 5 folds count, 50% needed for PAPER"),
]


@pytest.mark.parametrize(("holds", "fails", "reason"), PAPER_BORDERS)
def test_borders_of_paper(holds: dict[str, float], fails: dict[str, float], reason: str) -> None:
    no_live = {"p_value_archive": 0.9}
    assert decide(proven(**{**no_live, **holds})).decision is Decision.PAPER
    found = decide(proven(**{**no_live, **fails}))
    assert found.decision is Decision.RETRAIN
    assert reason in found.reasons
    assert any(r.startswith("P_VALUE_ARCHIVE: 0.9") for r in found.reasons)
    if "n_counted" not in fails:
        (name,) = fails
        assert decide(proven(**{**no_live, name: None})).decision is Decision.RETRAIN


def test_losses_that_are_shown_drop() -> None:
    bad = {"p_value_archive": 1.0, "p_value": 0.99, "sharpe": -5.0, "bootstrap_low": -7.0}
    found = decide(proven(**bad, bootstrap_high=-0.01))
    assert found.decision is Decision.DROP
    assert found.reasons[0] == "LOSSES_SHOWN: Sharpe at most -0.01 (90 %)"
    assert decide(proven(**bad, bootstrap_high=0.0)).decision is Decision.RETRAIN


def test_no_fold_with_a_profit_drops() -> None:
    folds = [ok(-0.01, fold=1), ok(0.0, fold=2)] + [ok(-0.02, fold=i) for i in (3, 4, 5)]
    found = decide(proven(folds, p_value=0.7, p_value_archive=1.0, counted_return=-0.07), folds=folds)
    assert found.decision is Decision.DROP
    assert found.reasons[0] == "CONSISTENT_LOSSES"


def test_rules_that_every_policy_has() -> None:
    assert decide(model=replace(MODEL, usable=False, problem="x")).decision is Decision.DROP
    for classification in (Classification.DROP, Classification.INVALID, None):
        assert decide(model=replace(MODEL, classification=classification)).decision is Decision.DROP
    nothing = decide_evidence(MODEL, None, None, [], EvidenceLimits())
    assert (nothing.decision, words(nothing)) == (Decision.RETRAIN, ["NO_EVIDENCE"])
    idle = [ok(0.0, sharpe=None, n_trades=0, fold=i) for i in range(1, 6)]
    assert words(decide(proven(idle), folds=idle))[0] == "NO_TRADES"
    uncomputed = [missing() for _ in range(5)]
    assert words(decide(proven(uncomputed), folds=uncomputed))[0] == "NO_EVIDENCE"


def test_what_was_not_weighed_is_said() -> None:
    summary = summarize(FOLDS, 5, 8766.0, GradeLimits())
    found = decide_evidence(MODEL, summary, None, FOLDS, EvidenceLimits())
    assert (found.decision, found.reasons[0]) == (Decision.RETRAIN, "EVIDENCE: not weighed yet")


def test_limits_are_settings() -> None:
    limits = EvidenceLimits(paper_p_value=0.5)
    weak = proven(p_value_archive=0.9, p_value=0.4)
    assert decide(weak).decision is Decision.RETRAIN
    assert decide(weak, limits=limits).decision is Decision.PAPER


FIGURES = st.fixed_dictionaries(
    {
        "p_value": st.none() | st.floats(0, 1),
        "p_value_archive": st.none() | st.floats(0, 1),
        "null_percentile": st.none() | st.floats(0, 1),
        "consistency_ratio": st.none() | st.floats(0, 3),
        "break_even_cost_bps": st.none() | st.floats(0, 200),
        "lag_return": st.none() | st.floats(-1, 1),
        "counted_return": st.none() | st.floats(-1, 1),
        "bootstrap_high": st.none() | st.floats(-5, 9),
        "n_counted": st.integers(0, 5),
    }
)


@given(FIGURES)
def test_the_table_of_the_rules(figures: dict[str, float]) -> None:
    """The four rules once more, written down flat."""

    def within(name: str, limit: float) -> bool:
        return figures[name] is not None and figures[name] <= limit

    def above(name: str, limit: float, *, strictly: bool = False) -> bool:
        value = figures[name]
        return value is not None and (value > limit if strictly else value >= limit)

    live = (
        within("p_value_archive", 0.05)
        and within("consistency_ratio", 1.5)
        and above("null_percentile", 0.95)
        and above("break_even_cost_bps", 60.0)
        and above("lag_return", 0.0, strictly=True)
    )
    paper = (
        figures["n_counted"] >= 2.5
        and within("p_value", 0.20)
        and above("null_percentile", 0.80)
        and above("counted_return", 0.0, strictly=True)
    )
    drop = figures["bootstrap_high"] is not None and figures["bootstrap_high"] < 0.0
    expected = "LIVE" if live else "PAPER" if paper else "DROP" if drop else "RETRAIN"
    assert decide(proven(**figures)).decision == expected
