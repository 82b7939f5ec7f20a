"""The vectorised engine against the plain loop, and properties that any run has."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.engine import Lane, RunStatus, ScriptedActor, run_lanes
from postval_assets.core.metrics import block_metrics
from postval_assets_tests.core.engine_cases import (
    PolicyActor,
    assert_agrees,
    engine_rules,
    first_tie,
    lane_of,
)
from postval_assets_tests.core.market_cases import Case, cases, seeded_case
from postval_assets_tests.core.plain_loop import PlainRun, run_plain
from postval_assets_tests.core.plain_metrics import plain_metrics


def plain(case: Case) -> PlainRun:
    m = case.market
    return run_plain(
        m.open, m.high, m.low, m.close, m.volume, case.a, case.b, case.sizes, case.policy, case.rules
    )


def engine(case: Case):
    (run,) = run_lanes([lane_of(case)], PolicyActor([case.policy], [case.a]), engine_rules(case.rules))
    return run


def test_agrees_with_the_plain_loop_over_seeded_cases():
    statuses = set()
    for seed in range(400):
        case = seeded_case(seed)
        expected = plain(case)
        assert first_tie(expected) is None, f"seed {seed} meets a tie; choose another"
        assert_agrees(engine(case), expected, case.a)
        statuses.add(expected.status)
    assert statuses == {status.value for status in RunStatus}, "the seeds reach every way a block can end"


@settings(max_examples=150, deadline=None)
@given(cases())
def test_agrees_with_the_plain_loop_over_made_up_cases(case):
    expected = plain(case)
    if first_tie(expected) is None:
        assert_agrees(engine(case), expected, case.a)


@settings(max_examples=40, deadline=None)
@given(st.lists(st.integers(0, 10_000), min_size=1, max_size=6))
def test_a_lane_is_not_touched_by_its_neighbours(seeds):
    rules = seeded_case(seeds[0]).rules
    group = [c for c in map(seeded_case, seeds) if c.rules == rules]
    actor = PolicyActor([c.policy for c in group], [c.a for c in group])
    together = run_lanes([lane_of(c) for c in group], actor, engine_rules(rules))
    for case, run in zip(group, together, strict=True):
        alone = engine(case)
        assert run.equity.tolist() == alone.equity.tolist()
        assert run.actions.tolist() == alone.actions.tolist()
        assert run.trips == alone.trips


@settings(max_examples=100, deadline=None)
@given(cases())
def test_books_balance(case):
    run = engine(case)
    lane = lane_of(case)
    if run.status is RunStatus.BROKEN_POLICY:
        return
    assert run.equity[0] == case.rules.capital
    assert run.position[-1] == 0.0
    if run.status is not RunStatus.RUINED:
        # Every dollar gained or lost went through a round trip.
        assert sum(t.pnl for t in run.trips) == pytest.approx(
            run.equity[-1] - case.rules.capital, rel=1e-7, abs=1e-6 * case.rules.capital
        )
        assert len(run.equity) == lane.n_bars
    assert sum(t.fees for t in run.trips) == pytest.approx(run.fees, rel=1e-9, abs=1e-12)
    if case.rules.long_only:
        assert (run.position >= 0.0).all()


@settings(max_examples=100, deadline=None)
@given(cases(breaking=False))
def test_later_bars_change_nothing_before_them(case):
    run = engine(case)
    middle = (case.a + case.b) // 2
    if middle - case.a < 3:
        return
    m = case.market
    factor = np.where(np.arange(len(m)) > middle, 3.0, 1.0)
    changed = type(m)(m.name, m.open * factor, m.high * factor, m.low * factor, m.close * factor, m.volume)
    other = engine(Case(changed, case.a, case.b, case.policy, case.rules))
    seen = min(middle - case.a + 1, len(run.equity))
    assert run.equity[:seen].tolist() == other.equity[:seen].tolist()
    assert run.actions[: seen - 1].tolist() == other.actions[: seen - 1].tolist()


@settings(max_examples=150, deadline=None)
@given(cases(breaking=False), st.floats(100.0, 20_000.0))
def test_metrics_agree_with_plain_formulas(case, bars_per_year):
    expected_run = plain(case)
    if first_tie(expected_run) is not None:
        return
    expected = plain_metrics(expected_run, case.market.close, case.a, case.b, bars_per_year, case.rules)
    found = block_metrics(engine(case), lane_of(case), engine_rules(case.rules), bars_per_year)
    for name, value in expected.items():
        if value is None or name in ("sharpe", "sortino"):
            continue
        # A cent in a hundred thousand dollars: sums of gains and losses cancel.
        assert getattr(found, name) == pytest.approx(value, rel=1e-7, abs=1e-7), name
    for name in ("win_rate", "profit_factor", "avg_trade_pnl", "sharpe", "sortino"):
        assert (getattr(found, name) is None) == (expected[name] is None), name
    for name in ("sharpe", "sortino"):
        if expected[name] is not None and np.std(expected_run.equity) > 1e-6 * case.rules.capital:
            assert getattr(found, name) == pytest.approx(expected[name], rel=1e-5, abs=1e-5), name


def test_scripted_actions_are_replayed():
    case = seeded_case(3)
    first = engine(case)
    script = ScriptedActor(first.actions[None, :])
    (second,) = run_lanes([lane_of(case)], script, engine_rules(case.rules))
    assert second.equity.tolist() == first.equity.tolist()
    assert second.trips == first.trips


def test_a_block_of_one_bar_is_refused():
    lane = lane_of(seeded_case(1))
    with pytest.raises(ValueError, match="at least two bars"):
        run_lanes(
            [Lane(lane.bars, 0, 1, lane.sizes)],
            ScriptedActor(np.zeros((1, 1), dtype=np.int64)),
            engine_rules(seeded_case(1).rules),
        )
