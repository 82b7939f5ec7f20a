"""Policy ``standard`` against the plain oracle, and rows of the rules' table worked out by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from postval_assets.core.decision import Decision, ModelVerdict, Verdict, decide_standard
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.gating import Classification
from postval_assets.core.policies import POLICIES, DecisionPolicy, PlanFindings, PolicyLimits
from postval_assets.core.walk_forward import FoldOutcome, FoldStatus, GradeLimits, summarize
from postval_assets_tests.core.evidence_cases import proven
from postval_assets_tests.core.fold_cases import missing, ok, plain_folds, plans_of_folds
from postval_assets_tests.core.plain_metrics import NAMED_REASONS, plain_decision

LIMITS = GradeLimits()
GOOD_MODEL = ModelVerdict(
    usable=True,
    problem=None,
    classification=Classification.APPROVED,
    gate_reason=None,
    features_assumed=False,
    activation_assumed=False,
)
STEADY = [ok(0.01, sharpe=1.0 + 0.1 * fold, fold=fold) for fold in range(1, 6)]


def decide(folds: list[FoldOutcome], model: ModelVerdict = GOOD_MODEL, n_folds: int | None = None) -> Verdict:
    n_folds = len(folds) if n_folds is None else n_folds
    summary = summarize(folds, n_folds, 2000.0, LIMITS) if folds else None
    return decide_standard(model, summary, folds, LIMITS)


def names(verdict: Verdict) -> list[str]:
    """The reasons without their details."""
    return [reason.partition(":")[0] for reason in verdict.reasons]


MODELS = st.builds(
    ModelVerdict,
    usable=st.sampled_from([True, True, True, False]),
    problem=st.just("unknown version"),
    classification=st.sampled_from([*Classification, Classification.APPROVED, Classification.APPROVED, None]),
    gate_reason=st.none() | st.just("LOW_FITNESS"),
    features_assumed=st.booleans(),
    activation_assumed=st.booleans(),
)


@settings(max_examples=400, deadline=None)
@given(plans_of_folds(), MODELS)
def test_agrees_with_the_plain_decision(made, model):
    folds, n_folds = made
    summary = summarize(folds, n_folds, 2000.0, LIMITS) if folds else None
    std = summary.sharpe_std if summary else None
    assume(std is None or min(abs(std - 1.0), abs(std - 2.0)) > 1e-9)
    expected = plain_decision(
        classification=(model.classification or Classification.INVALID).value,
        model_status="OK" if model.usable else "REJECTED",
        folds=plain_folds(folds, n_folds) if folds else [],
        feature_set_basis="ASSUMED" if model.features_assumed else "NAMED",
        activation_basis="ASSUMED" if model.activation_assumed else "NAMED",
    )
    found = decide_standard(model, summary, folds, LIMITS)
    assert found.decision.value == expected.decision
    named = set(names(found)) & NAMED_REASONS
    assert expected.required <= named <= expected.applicable
    assert len(names(found)) == len(set(names(found))), "a reason is given once"
    assert found.reasons


@settings(max_examples=150, deadline=None)
@given(plans_of_folds(), MODELS)
def test_doubts_never_make_a_decision_better(made, model):
    folds, n_folds = made
    order = list(Decision)
    summary = summarize(folds, n_folds, 2000.0, LIMITS) if folds else None
    before = decide_standard(model, summary, folds, LIMITS).decision
    for doubt in (
        {"features_assumed": True},
        {"activation_assumed": True},
        {"usable": False},
        {"classification": Classification.DROP},
    ):
        after = decide_standard(replace(model, **doubt), summary, folds, LIMITS).decision
        assert order.index(after) >= order.index(before)


def test_steady_profit_goes_live_and_says_so() -> None:
    assert decide(STEADY) == Verdict(Decision.LIVE, ("STEADY_PROFIT",))


@pytest.mark.parametrize(
    ("returns", "sharpes", "decision", "first"),
    [
        ((1, 1, 1, 1, -1), (0.0, 0.5, 1.0, 1.5, 2.0), "LIVE", "STEADY_PROFIT"),
        ((1, 1, 1, 1, 1), (0.0, 1.0, 2.0, None, None), "PAPER", "MODERATE_PROFIT"),
        ((1, 1, 1, -1, -1), (1.0, 1.0, 1.0, 1.0, 1.0), "PAPER", "MODERATE_PROFIT"),
        ((1, 1, 1, -1, -1), (0.0, 2.0, 4.0, None, None), "PAPER", "MODERATE_PROFIT"),
        ((1, 1, 1, -1, -1), (0.0, 2.125, 4.25, None, None), "RETRAIN", "UNSTABLE_SHARPE"),
        ((1, 1, 1, 1, 1), (1.0, None, None, None, None), "RETRAIN", "UNSTABLE_SHARPE"),
        ((1, 1, -1, -1, -1), (1.0, 1.0, 1.0, 1.0, 1.0), "RETRAIN", "TOO_FEW_POSITIVE_FOLDS"),
        ((-1, -1, -1, -1, -1), (1.0, 1.0, 1.0, 1.0, 1.0), "DROP", "CONSISTENT_LOSSES"),
        ((0, 0, -1, -1, -1), (1.0, 1.0, 1.0, 1.0, 1.0), "DROP", "CONSISTENT_LOSSES"),
    ],
)
def test_rows_of_the_table(returns, sharpes, decision, first) -> None:
    folds = [ok(r / 100, sharpe=s, fold=i) for i, (r, s) in enumerate(zip(returns, sharpes, strict=True), 1)]
    found = decide(folds)
    assert found.decision == decision
    assert names(found)[0] == first


def test_both_failures_of_a_retrain_are_named_with_their_figures() -> None:
    found = decide([ok(0.5, 3.0), ok(-0.1, -3.0), ok(-0.1, -3.0), ok(-0.1, -3.0), ok(-0.1, 0.0)])
    assert found == Verdict(
        Decision.RETRAIN,
        (
            "TOO_FEW_POSITIVE_FOLDS: 1 of 5, 60% needed",
            "UNSTABLE_SHARPE: std 2.68, at most 2 needed",
            "ONE_LUCKY_PERIOD",
        ),
    )


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"classification": Classification.REVIEW}, "GATING_REVIEW"),
        ({"features_assumed": True}, "ASSUMED_FEATURES"),
        ({"activation_assumed": True}, "ASSUMED_ACTIVATION"),
    ],
)
def test_what_is_known_of_the_model_caps_live_at_paper(change, reason) -> None:
    assert decide(STEADY, replace(GOOD_MODEL, **change)) == Verdict(Decision.PAPER, ("STEADY_PROFIT", reason))


@pytest.mark.parametrize("overlap", ["IN_TRAIN", "OVERLAP", "BEFORE_TRAIN"])
def test_one_fold_that_is_not_out_of_sample_caps_live(overlap: str) -> None:
    folds = [replace(STEADY[0], training_overlap=TrainingOverlap(overlap)), *STEADY[1:]]
    assert decide(folds) == Verdict(
        Decision.PAPER, ("STEADY_PROFIT", f"NOT_OUT_OF_SAMPLE: 1 of 5 folds ({overlap})")
    )


def test_a_missing_fold_caps_live() -> None:
    nine = [ok(0.01, sharpe=1.0 + 0.1 * fold, fold=fold) for fold in range(1, 10)]
    said = Verdict(Decision.PAPER, ("STEADY_PROFIT", "INCOMPLETE: 9 of 10 folds computed"))
    assert decide([*nine, missing()]) == said
    assert decide(nine, n_folds=10) == said, "a fold without a row is missing too"
    assert decide([*nine, missing(FoldStatus.BROKEN_POLICY, 800)]) == said


def test_caps_touch_nothing_but_live() -> None:
    model = replace(GOOD_MODEL, classification=Classification.REVIEW, features_assumed=True)
    losses = decide([ok(-0.01)] * 5, model)
    assert losses == Verdict(Decision.DROP, ("CONSISTENT_LOSSES", "GATING_REVIEW", "ASSUMED_FEATURES"))
    assert decide([*STEADY[:3], ok(-0.01), ok(-0.01)], model).decision is Decision.PAPER


def test_warnings_of_the_bars_are_said_and_cap_nothing() -> None:
    model = replace(GOOD_MODEL, bar_warnings=("gaps 5.00%", "jumps 54.4 sd"))
    said = "BAR_QUALITY: gaps 5.00%, jumps 54.4 sd"
    assert decide(STEADY, model) == Verdict(Decision.LIVE, ("STEADY_PROFIT", said))
    assert decide([ok(-0.01)] * 5, model) == Verdict(Decision.DROP, ("CONSISTENT_LOSSES", said))


def test_bars_that_would_stop_an_evaluation_cap_what_was_computed_before() -> None:
    model = replace(GOOD_MODEL, bar_errors=("gaps 50.00%",), bar_warnings=("stale",))
    capped = ("STEADY_PROFIT", "BAR_QUALITY: ERROR: gaps 50.00%", "BAR_QUALITY: stale")
    assert decide(STEADY, model) == Verdict(Decision.PAPER, capped)
    stopped = [replace(missing(FoldStatus.NOT_EVALUATED, 800), reason="BAR_QUALITY: gaps: 9 of 18")] * 5
    verdict = decide(stopped, model)
    assert (verdict.decision, verdict.reasons[0]) == (
        Decision.RETRAIN,
        "NO_EVIDENCE: NOT_EVALUATED, BAR_QUALITY: gaps: 9 of 18",
    )
    assert "BAR_QUALITY: ERROR: gaps 50.00%" not in verdict.reasons, "the folds say it already"


def test_an_unknown_training_window_is_said_and_caps_nothing() -> None:
    folds = [replace(f, training_overlap=TrainingOverlap.UNKNOWN) for f in STEADY]
    assert decide(folds) == Verdict(Decision.LIVE, ("STEADY_PROFIT", "TRAINING_WINDOW_UNKNOWN"))
    dropped = replace(GOOD_MODEL, classification=Classification.DROP)
    assert decide(folds, dropped) == Verdict(Decision.DROP, ("GATE_DROP", "TRAINING_WINDOW_UNKNOWN"))


def test_a_block_without_bars_says_nothing_about_the_training_window() -> None:
    folds = [missing(n_bars=0, overlap=TrainingOverlap.UNKNOWN)] * 5
    assert names(decide(folds)) == ["NO_EVIDENCE", "INCOMPLETE"]


def test_no_evidence_says_what_is_missing() -> None:
    assert decide([]) == Verdict(Decision.RETRAIN, ("NO_EVIDENCE",))
    folds = [missing(), missing(FoldStatus.BROKEN_POLICY), missing(FoldStatus.INVALID_BARS)]
    incomplete = "INCOMPLETE: 0 of 3 folds computed"
    assert decide(folds) == Verdict(Decision.RETRAIN, ("NO_EVIDENCE: INSUFFICIENT_DATA", incomplete))
    folds[0] = replace(folds[0], reason="20 bars in the block, 50 needed")
    said = "NO_EVIDENCE: INSUFFICIENT_DATA, 20 bars in the block, 50 needed"
    assert decide(folds) == Verdict(Decision.RETRAIN, (said, incomplete))


def test_no_trades_come_before_losses() -> None:
    idle = [
        FoldOutcome(n, FoldStatus.NO_TRADES, TrainingOverlap.OUT_OF_SAMPLE, 800, 0.0, None, 0) for n in (1, 2)
    ]
    assert decide(idle) == Verdict(Decision.RETRAIN, ("NO_TRADES",))
    assert decide([idle[0], ok(-0.01)]).decision is Decision.DROP
    assert names(decide([idle[0], missing()]))[0] == "NO_TRADES"


def test_a_ruined_fold_is_a_loss() -> None:
    ruined = replace(STEADY[0], status=FoldStatus.RUINED, total_return=-1.0, sharpe=-5.0)
    assert decide([ruined] * 5) == Verdict(Decision.DROP, ("CONSISTENT_LOSSES",))
    assert decide([*STEADY[:4], ruined]).decision is Decision.RETRAIN


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"usable": False, "problem": "version 9.9.9"}, "MODEL_NOT_OK: version 9.9.9"),
        ({"classification": Classification.DROP, "gate_reason": "LOW_PF"}, "GATE_DROP: LOW_PF"),
        ({"classification": Classification.INVALID, "gate_reason": "no metrics"}, "GATE_INVALID: no metrics"),
        ({"classification": None}, "GATE_INVALID"),
    ],
)
def test_what_the_gate_stops_is_dropped_however_it_trades(change, said) -> None:
    model = replace(GOOD_MODEL, **change)
    assert decide([], model) == decide(STEADY, model) == Verdict(Decision.DROP, (said,))


def test_limits_are_settings() -> None:
    folds = [*STEADY[:3], ok(-0.01), ok(-0.01)]
    loose = replace(LIMITS, good_positive_share=0.6)
    summary = summarize(folds, 5, 2000.0, loose)
    assert decide_standard(GOOD_MODEL, summary, folds, loose).decision is Decision.LIVE
    strict = replace(LIMITS, marginal_positive_share=0.7)
    assert decide_standard(GOOD_MODEL, summary, folds, strict).reasons[0].endswith("3 of 5, 70% needed")


def test_the_policy_is_registered_under_its_name() -> None:
    summary = summarize(STEADY, 5, 2000.0, LIMITS)
    found = PlanFindings(summary, None, STEADY)
    assert POLICIES["standard"].decide(GOOD_MODEL, found, PolicyLimits()) == decide_standard(
        GOOD_MODEL, summary, STEADY, LIMITS
    )
    assert all(policy.name == name and policy.version for name, policy in POLICIES.items())


@pytest.mark.parametrize("policy", POLICIES.values(), ids=str)
def test_a_lost_edge_turns_live_into_retrain_and_nothing_else(policy: DecisionPolicy) -> None:
    lost = replace(GOOD_MODEL, edge_lost="EDGE_LOST: Sharpe -1.20")
    for model_class in (Classification.APPROVED, Classification.DROP):
        summary = summarize(STEADY, 5, 2000.0, LIMITS)
        found = PlanFindings(summary, proven(), STEADY)
        before = policy.decide(replace(GOOD_MODEL, classification=model_class), found, PolicyLimits())
        after = policy.decide(replace(lost, classification=model_class), found, PolicyLimits())
        if before.decision is Decision.LIVE:
            assert after == Verdict(Decision.RETRAIN, ("EDGE_LOST: Sharpe -1.20", *before.reasons))
        else:
            assert after == before
    assert policy.decide(GOOD_MODEL, found, PolicyLimits()).decision is Decision.LIVE


@pytest.mark.parametrize("policy", POLICIES.values(), ids=str)
def test_notes_are_always_shown_and_decide_nothing(policy: DecisionPolicy) -> None:
    noted = replace(GOOD_MODEL, notes=("CHAMPION: better", "CLAIM_NOT_REPRODUCED: 1.9, 0.9"))
    found = PlanFindings(summarize(STEADY, 5, 2000.0, LIMITS), proven(), STEADY)
    plain = policy.decide(GOOD_MODEL, found, PolicyLimits())
    told = policy.decide(noted, found, PolicyLimits())
    assert told == Verdict(plain.decision, (*plain.reasons, *noted.notes))
