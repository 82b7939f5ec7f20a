from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import Timeframe
from postval_assets.core.summary import TrainingSummary, parse_summary, training_window
from postval_assets_tests.factories import good_claims, make_summary, review_claims

H1 = Timeframe.HOUR_1
# The contract's own example, as text.
EXAMPLE = """
{"timestamp": "20241226_211819", "reward_scale": 0.001, "validation_interval": 40,
 "data": {"start": "2021-01-04T00:00:00Z", "end": "2024-09-01T00:00:00Z"},
 "symbols": {"UNIUSD": {"timeframe": "1Hour",
   "metrics": {"fitness_score": [0.41, 0.66, 0.72], "profit_factor": [1.2, 1.7, 1.9],
               "consistency": [0.7, 0.85, 0.9], "max_drawdown": [0.12, 0.09, 0.07]}}}}
"""


def parse(content: object) -> TrainingSummary:
    return parse_summary(json.dumps(content).encode())


def with_metrics(**changes) -> TrainingSummary:
    """A summary of one good model, some of its metrics replaced (``...`` removes one)."""
    metrics = {name: value for name, value in (good_claims() | changes).items() if value is not ...}
    return parse({"symbols": {"AAPL": {"metrics": metrics}}})


def test_the_contracts_example_is_read():
    summary = parse_summary(EXAMPLE.encode())
    assert summary.trained_at == datetime(2024, 12, 26, 21, 18, 19, tzinfo=UTC)
    assert (summary.reward_scale, summary.validation_interval) == (0.001, 40)
    assert summary.train_start == datetime(2021, 1, 4, tzinfo=UTC)
    assert summary.train_end == datetime(2024, 9, 1, tzinfo=UTC)
    assert (summary.seed, summary.n_trials, summary.notes, summary.unusable) == (None, None, (), ())
    assert list(summary.claims) == [("UNIUSD", H1)]
    claims = summary.claims["UNIUSD", H1]
    assert claims.fitness_score == (0.41, 0.66, 0.72)
    assert claims.profit_factor == (1.2, 1.7, 1.9)
    assert claims.consistency == (0.7, 0.85, 0.9)
    assert claims.max_drawdown == (0.12, 0.09, 0.07)
    assert claims.problem is None


@pytest.mark.parametrize(
    "shape",
    ["symbols", "results", "models", "top", "symbols-list", "results-list", "models-list", "list"],
)
@pytest.mark.parametrize("nested", [True, False])
@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_every_shape_gives_the_same_claims(shape, nested, bom):
    models = {"UNIUSD": good_claims(), "BTC/USD": review_claims(), "BRK.B_15Min": good_claims()}
    content = make_summary(models, shape=shape, nested=nested)
    summary = parse_summary(bom + json.dumps(content).encode())
    assert set(summary.claims) == {("UNIUSD", H1), ("BTCUSD", H1), ("BRK.B", Timeframe.MIN_15)}
    assert all(claims.problem is None for claims in summary.claims.values())
    assert list(summary.claims["BTCUSD", H1].fitness_score) == review_claims()["fitness_score"]
    assert (summary.unusable, summary.notes) == ((), ())


def test_a_bare_number_is_a_list_of_one():
    summary = with_metrics(fitness_score=0.72, profit_factor=2, consistency=1, max_drawdown=0)
    claims = summary.claims["AAPL", H1]
    assert (claims.fitness_score, claims.profit_factor, claims.consistency) == ((0.72,), (2.0,), (1.0,))
    assert claims.problem is None


def test_the_timeframe_may_stand_in_the_object():
    metrics = good_claims()
    summary = parse({"results": {"AAPL": {"timeframe": "4Hour", **metrics}, "SPY_1Day": {**metrics}}})
    assert set(summary.claims) == {("AAPL", Timeframe.HOUR_4), ("SPY", Timeframe.DAY_1)}


def test_names_of_models_beside_the_map_are_not_taken_for_it():
    content = {
        "symbols": ["AAPL"],
        "models": {"count": 1},
        "config": {"metrics": ["fitness_score"]},
        "data": {"start": None, "end": None},
        "results": {"AAPL": good_claims()},
    }
    assert set(parse(content).claims) == {("AAPL", H1)}


def test_metadata_at_the_top_level_is_not_taken_for_symbols():
    content = {
        "timestamp": "20241226_211819",
        "data": {"start": "2021-01-04"},
        "config": {"fitness_score": {"weight": 1}},
        "GPU": {"name": "H100"},
        "seed": 7,
        "n_trials": 50,
        "AAPL": {"metrics": good_claims()},
    }
    summary = parse(content)
    assert set(summary.claims) == {("AAPL", H1)}
    assert summary.unusable == ()
    assert (summary.seed, summary.n_trials) == (7, 50)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"profit_factor": ...}, "profit_factor is missing"),
        ({"profit_factor": []}, "profit_factor is empty"),
        ({"profit_factor": [1.0]}, "unequal lengths"),
        ({"fitness_score": [float("nan")] * 10}, "fitness_score[0] is nan"),
        ({"fitness_score": [0.5] * 9 + [float("inf")]}, "fitness_score[9] is inf"),
        ({"fitness_score": ["0.7"] * 10}, "fitness_score[0] is '0.7'"),
        ({"fitness_score": None}, "fitness_score[0] is None"),
        ({"fitness_score": [True] * 10}, "fitness_score[0] is True"),
        ({"fitness_score": [[0.7]] * 10}, "fitness_score[0] is a list"),
        ({"fitness_score": [10**400] * 10}, "fitness_score[0] is a huge number"),
        ({"consistency": [0.5] * 9 + [85]}, "consistency has 85; it looks like a percentage"),
        ({"consistency": [1.01] + [0.5] * 9}, "consistency has 1.01"),
        ({"max_drawdown": [-0.05] * 10}, "max_drawdown has -0.05; expected fractions"),
        ({"max_drawdown": [7.0] * 10}, "percentage; expected fractions from 0 to 1"),
    ],
)
def test_metrics_that_cannot_be_judged_are_that_models_problem(changes, said):
    (claims,) = with_metrics(**changes).claims.values()
    assert said in claims.problem
    assert claims.symbol == "AAPL"


def test_nothing_is_rescaled():
    (claims,) = with_metrics(consistency=[85.0] * 10).claims.values()
    assert claims.consistency == (85.0,) * 10


def test_a_float32_of_one_is_a_fraction():
    (claims,) = with_metrics(consistency=[1.0000001192092896] * 10).claims.values()
    assert claims.problem is None


def test_every_problem_of_a_model_is_named_and_the_neighbours_go_on():
    bad = good_claims() | {"fitness_score": [], "consistency": [85.0] * 10}
    summary = parse(
        {"symbols": {"AAPL": bad, "SPY": good_claims(), "MSFT": 3, "QQQ": {"metrics": []}, "IWM": {}}}
    )
    problem = summary.claims["AAPL", H1].problem
    assert "fitness_score" in problem
    assert "consistency" in problem
    assert summary.claims["SPY", H1].problem is None
    assert "expected an object" in summary.claims["MSFT", H1].problem
    assert "metrics is a list" in summary.claims["QQQ", H1].problem
    assert "max_drawdown is missing" in summary.claims["IWM", H1].problem


@pytest.mark.parametrize(
    ("entries", "said"),
    [
        ({"AAPL_1Hour": {"timeframe": "1Day", **good_claims()}}, "says its timeframe is 1Day"),
        ({"AAPL": {"timeframe": "1h", **good_claims()}}, "'1h' is unknown"),
        ({"AAPL": {"timeframe": 1, **good_claims()}}, "is unknown"),
        ({"AAPL": good_claims(), "AAPL_1Hour": good_claims()}, "more than once"),
    ],
)
def test_contradictions_are_that_models_problem(entries, said):
    (claims,) = parse({"symbols": entries}).claims.values()
    assert said in claims.problem


def test_unusable_symbols_are_recorded():
    entries = {name: good_claims() for name in ("AAPL", "a|b", "uniusd", "AAPL_best", "AAPL_2Min")}
    summary = parse({"symbols": entries})
    assert set(summary.claims) == {("AAPL", H1)}
    assert [shown for shown, _ in summary.unusable] == ["a?b", "uniusd", "AAPL_best", "AAPL_2Min"]
    listed = parse({"models": [{"symbol": "AAPL", **good_claims()}, good_claims(), 5, {"symbol": ["x"]}]})
    assert set(listed.claims) == {("AAPL", H1)}
    assert [shown for shown, _ in listed.unusable] == [
        "entry 1 of models",
        "entry 2 of models",
        "entry 3 of models",
    ]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"\xff\xfe{}", "UTF-8"),
        (b"3", "symbols"),
        (b"[1, 2]", "no metrics per symbol"),
        (b"{}", "no metrics per symbol"),
        (b'{"symbols": {}}', "no metrics per symbol"),
        (b'{"symbols": {"AAPL": {}, "AAPL": {}}}', "'AAPL' twice"),
        (b'{"symbols": ' + b"[" * 40 + b"]" * 40 + b"}", "nested"),
        (b"[" * 1_000_000, "nested"),
        (b'{"a":' * 100_000, "nested"),
        (b'{"x": ' + b"9" * 10_000 + b"}", "too many digits; expected whole numbers of at most 4300"),
        (b"[" + b"1," * 2**20 + b"1]", "values; at most 1048576"),
        (b'{"x": "' + b'\\"' * 100_000, "not JSON"),
        (b"]" * 100_000, "not JSON"),
        (
            json.dumps({"symbols": {"A": good_claims()}, "models": {"A": good_claims()}}).encode(),
            "both symbols and models",
        ),
    ],
)
def test_a_summary_of_another_shape_is_rejected(data, said):
    with pytest.raises(Rejected) as caught:
        parse_summary(data)
    assert said in str(caught.value)
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize("between", ['\\"', "\\", "\\\\", '\\\\"', "\\n", '"', "\u2028", '\\\\\\"'])
def test_brackets_inside_texts_are_not_nesting(between):
    content = {"note": "[" * 100 + between + "{" * 100 + between, "symbols": {"AAPL": good_claims()}}
    assert set(parse(content).claims) == {("AAPL", H1)}


@pytest.mark.parametrize("before", ["", "\\", "\\\\", '\\"', '"'])
def test_brackets_after_a_text_are_nesting(before):
    text = json.dumps({"note": before, "deep": []}).replace("[]", "[" * 40 + "]" * 40)
    with pytest.raises(Rejected, match="nested more than 32 deep"):
        parse_summary(text.encode())


def test_limits_are_the_caller_s():
    data = json.dumps({"symbols": {f"S{n}": good_claims() for n in range(3)}}).encode()
    assert len(parse_summary(data, max_models=3, max_values=300).claims) == 3
    with pytest.raises(Rejected, match="more than 2 models"):
        parse_summary(data, max_models=2)
    with pytest.raises(Rejected, match="values; at most 100 are read"):
        parse_summary(data, max_values=100)


@pytest.mark.parametrize(
    ("extra", "field"),
    [
        ({"reward_scale": "small"}, "reward_scale"),
        ({"reward_scale": 0}, "reward_scale"),
        ({"validation_interval": 0.5}, "validation_interval"),
        ({"validation_interval": True}, "validation_interval"),
        ({"seed": "x"}, "seed"),
        ({"n_trials": 0}, "n_trials"),
        ({"n_trials": 3_000_000_000}, "n_trials"),
        ({"n_trials": 10**400}, "n_trials"),
        ({"validation_interval": 2e9}, "validation_interval"),
        ({"validation_interval": 10_000_001}, "validation_interval"),
        ({"seed": 2**63}, "seed"),
        ({"timestamp": "yesterday"}, "trained_at"),
        ({"timestamp": 20241226}, "trained_at"),
    ],
)
def test_optional_values_that_cannot_be_read_are_unknown_with_a_note(extra, field):
    summary = parse(make_summary({"AAPL": good_claims()}, **extra))
    assert getattr(summary, field) is None
    (note,) = summary.notes
    assert next(iter(extra)) in note


def test_the_largest_values_are_read():
    stated = {"n_trials": 10**7, "validation_interval": 1e7, "seed": 2**62 + 1}
    summary = parse(make_summary({"AAPL": good_claims()}, **stated))
    assert (summary.n_trials, summary.validation_interval) == (10**7, 10**7)
    assert (summary.seed, summary.notes) == (2**62 + 1, ())


@pytest.mark.parametrize(("n_validations", "interval"), [(214, 10_000_000), (215, None)])
def test_the_update_of_every_validation_is_a_32_bit_number(n_validations, interval):
    claims = {name: [0.5] * n_validations for name in good_claims()}
    summary = parse({"validation_interval": 10_000_000, "symbols": {"SPY": good_claims(), "AAPL": claims}})
    assert summary.validation_interval == interval
    assert len(summary.notes) == (interval is None)


@pytest.mark.parametrize(
    ("start", "end", "expected", "n_notes"),
    [
        (None, None, (None, None), 0),
        ("2021-01-04", "2021-02-01", ("2021-01-04T00:00:00+00:00", "2021-02-01T23:59:59.999999+00:00"), 0),
        ("2021-01-04T01:00:00+02:00", None, ("2021-01-03T23:00:00+00:00", None), 0),
        ("2021-01-04T01:00:00", None, ("2021-01-04T01:00:00+00:00", None), 0),
        ("2021-13-04", "2021-02-01T00:00:00Z", (None, "2021-02-01T00:00:00+00:00"), 1),
        (5, [], (None, None), 2),
        ("2022-01-01T00:00:00Z", "2021-01-01T00:00:00Z", (None, None), 1),
        ("0001-01-01T00:00:00+14:00", None, (None, None), 1),
    ],
)
def test_training_windows(start, end, expected, n_notes):
    first, last, notes = training_window(start, end)
    assert (first and first.isoformat(), last and last.isoformat()) == expected
    assert len(notes) == n_notes


KEYS = [
    "symbols",
    "results",
    "models",
    "AAPL",
    "SPY_1Day",
    "x|y",
    "metrics",
    "symbol",
    "timeframe",
    "data",
    "fitness_score",
    "profit_factor",
    "consistency",
    "max_drawdown",
    "start",
    "seed",
    "timestamp",
]
JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.integers() | st.sampled_from(["AAPL", "1Hour", ""]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=30,
)


@given(JSON)
def test_any_json_is_read_or_rejected(content):
    try:
        summary = parse(content)
    except Rejected:
        return
    for (symbol, timeframe), claims in summary.claims.items():
        assert (claims.symbol, claims.timeframe) == (symbol, timeframe)
        if claims.problem is None:
            histories = (claims.fitness_score, claims.profit_factor, claims.consistency, claims.max_drawdown)
            assert len({len(history) for history in histories}) == 1
            assert len(histories[0]) > 0
            assert all(-1e-6 < v < 1 + 1e-6 for v in claims.consistency + claims.max_drawdown)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_rejected(data):
    with pytest.raises(Rejected):
        parse_summary(data)
