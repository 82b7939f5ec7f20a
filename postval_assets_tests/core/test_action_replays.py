"""Replays of a model's actions against the engine itself and the plain loop's own ways."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from itertools import groupby

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from postval_assets.core.action_replays import (
    N_PERMUTATIONS,
    PlayedFold,
    bars_per_day,
    delayed,
    permuted_runs,
    replay_figures,
)
from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Bars
from postval_assets.core.bootstrap import seeded
from postval_assets.core.costs import ExecutionRules, TradingCosts
from postval_assets.core.engine import Lane, ScriptedActor, replayed_returns, run_lanes
from postval_assets.core.instruments import AssetClass, Timeframe

RULES = ExecutionRules()
Int = np.typing.NDArray[np.int64]


def market(
    n: int = 400, seed: int = 1, asset_class: AssetClass = AssetClass.CRYPTO, volatility: float = 0.01
) -> Bars:
    rng = np.random.default_rng(seed)
    close = 100.0 * np.exp(np.cumsum(volatility * rng.standard_normal(n)))
    opened = np.r_[100.0, close[:-1] * np.exp(0.001 * rng.standard_normal(n - 1))]
    volume = np.where(rng.random(n) < 0.05, 0.0, 10.0)
    ts = np.datetime64("2024-01-01T00:00", "us") + np.arange(n) * np.timedelta64(1, "h")
    high, low = np.maximum(opened, close), np.minimum(opened, close)
    return Bars("X", Timeframe.HOUR_1, asset_class, ts, opened, high, low, close, volume)


def played(bars: Bars, actions: list[Int], rules: ExecutionRules = RULES) -> list[PlayedFold]:
    """Folds of equal length, traded by these actions."""
    length = len(actions[0])
    lanes = [Lane(bars, i * length, (i + 1) * length, action_sizes(7)) for i in range(len(actions))]
    runs = run_lanes(lanes, ScriptedActor(np.stack(actions)), rules)
    return [
        PlayedFold(i + 1, lane, run.actions, run.traded_value, float(run.equity[-1] / rules.capital - 1.0))
        for i, (lane, run) in enumerate(zip(lanes, runs, strict=True))
    ]


def random_folds(seed: int, n_folds: int = 3, length: int = 120, stay: int = 8) -> list[Int]:
    rng = np.random.default_rng(seed)
    return [np.repeat(rng.integers(0, 7, length // stay + 1), stay)[:length] for _ in range(n_folds)]


def one_by_one(folds: list[PlayedFold], actions: list[Int], rules: ExecutionRules = RULES) -> float:
    """Sum of the folds' returns, each traded alone by the engine with everything that it keeps."""
    total = 0.0
    for fold, own in zip(folds, actions, strict=True):
        [run] = run_lanes([fold.lane], ScriptedActor(own[None]), rules)
        total += float(run.equity[-1] / rules.capital - 1.0)
    return total


@pytest.mark.parametrize("asset_class", list(AssetClass))
def test_a_replay_is_the_engine_s_own_to_the_last_bit(asset_class: AssetClass) -> None:
    bars = market(asset_class=asset_class)
    rng = np.random.default_rng(2)
    lanes = [Lane(bars, a, a + n, action_sizes(7)) for a, n in ((0, 90), (40, 130), (200, 200), (0, 90))]
    actions = rng.integers(0, 7, (4, 200))
    runs = run_lanes(lanes, ScriptedActor(actions), RULES)
    found = replayed_returns(lanes, actions, RULES)
    assert found.tolist() == [float(run.equity[-1] / RULES.capital - 1.0) for run in runs]


def test_a_ruined_lane_has_lost_all() -> None:
    wild = ExecutionRules(safety_buffer=0.0, base_alloc=1.0, max_position=20.0)
    bars = replace(market(asset_class=AssetClass.EQUITY), close=np.full(400, 100.0), open=np.full(400, 100.0))
    bars.close[50:] = 300.0
    actions = np.full((1, 400), 6)
    [run] = run_lanes([Lane(bars, 0, 400, action_sizes(7))], ScriptedActor(actions), wild)
    assert run.status == "RUINED"
    assert replayed_returns([Lane(bars, 0, 400, action_sizes(7))], actions, wild).tolist() == [-1.0]


def test_no_lanes_no_returns() -> None:
    assert replayed_returns([], np.empty((0, 5), dtype=np.int64), RULES).tolist() == []


def test_own_costs_of_a_lane_are_those_of_rules_that_say_the_same() -> None:
    bars, actions = market(), random_folds(3)[0]
    fold = played(bars, [actions])[0]
    dear = ExecutionRules(crypto_fee_bps=50.0, slippage_bps=10.0)
    own = replace(fold.lane, costs=RULES.costs(AssetClass.CRYPTO).at(60.0))
    assert replayed_returns([own], actions[None], RULES)[0] == one_by_one([fold], [actions], dear)


def test_costs_keep_their_proportion() -> None:
    costs = TradingCosts(fee_rate=0.0025, slippage=0.0005)
    assert costs.bps == pytest.approx(30.0)
    twice = costs.at(60.0)
    assert (twice.fee_rate, twice.slippage) == (pytest.approx(0.0050), pytest.approx(0.0010))
    free = TradingCosts(0.0, 0.0)
    assert free.at(10.0) == TradingCosts(0.0, pytest.approx(0.001))


@given(st.lists(st.integers(0, 3), min_size=2, max_size=60), st.integers(0, 2**32))
def test_permuting_runs_keeps_them(actions: list[int], seed: int) -> None:
    series = np.array(actions)
    rows = permuted_runs(series, 20, np.random.default_rng(seed))
    runs = Counter((value, len(list(group))) for value, group in groupby(actions[:-1]))
    assert rows.shape == (20, len(actions))
    for row in rows:
        assert row[-1] == series[-1]
        assert Counter(row[:-1].tolist()) == Counter(actions[:-1])
        # equal neighbours may join, so there are never more runs, and every length is a sum of old ones
        found = [(value, len(list(group))) for value, group in groupby(row[:-1].tolist())]
        assert len(found) <= sum(runs.values())
        for value in set(actions[:-1]):
            assert sum(n for v, n in found if v == value) == sum(
                n * k for (v, n), k in runs.items() if v == value
            )


def test_runs_really_change_places() -> None:
    series = np.array([0, 1, 1, 2, 2, 2, 0, 3, 3, 3, 3, 1, 0])
    rows = permuted_runs(series, 200, np.random.default_rng(4))
    assert len({tuple(row) for row in rows}) > 100
    first = Counter(row[0] for row in rows.tolist())
    # seven runs: 0 stands first in two of them, about 2 / 7 of the orders
    assert 30 <= first[0] <= 90


def test_delays_by_hand() -> None:
    series = np.array([1, 2, 3, 4])
    assert delayed(series, 1, 0).tolist() == [0, 1, 2, 3]
    assert delayed(series, 9, 0).tolist() == [0, 0, 0, 0]


def test_a_day_is_the_usual_one() -> None:
    assert bars_per_day(market(400)) == 24
    sessions = market(70)
    days = np.repeat(np.arange(10), 7) * np.timedelta64(1, "D") + np.tile(np.arange(7), 10) * np.timedelta64(
        1, "h"
    )
    stocks = replace(sessions, ts=np.datetime64("2024-01-01T14:30", "us") + days)
    assert bars_per_day(stocks) == 7


@pytest.mark.parametrize("seed", [5, 6, 7])
def test_every_figure_is_what_the_engine_gives_alone(seed: int) -> None:
    bars, actions = market(seed=seed), random_folds(seed)
    folds = played(bars, actions)
    found = replay_figures(folds, "model", RULES)
    assert found.reproduces(folds)
    assert sum(found.own_returns) == pytest.approx(one_by_one(folds, actions), abs=1e-12)
    nulls = [permuted_runs(f.held, N_PERMUTATIONS, seeded("model", "null", str(f.fold))) for f in folds]
    sums = [one_by_one(folds, [rows[k] for rows in nulls]) for k in range(N_PERMUTATIONS)]
    own = one_by_one(folds, actions)
    assert found.null_percentile == sum(s < own for s in sums) / N_PERMUTATIONS
    assert found.null_return == pytest.approx(np.mean(sums), abs=1e-12)
    assert found.always_long_return == pytest.approx(one_by_one(folds, [np.full(120, 3)] * 3), abs=1e-12)
    assert found.always_flat_return == 0.0
    lag = [np.r_[0, a[:-1]] for a in actions]
    assert found.lag_return == pytest.approx(one_by_one(folds, lag), abs=1e-12)
    late = [np.r_[np.zeros(24, dtype=int), a[:-24]] for a in actions]
    assert found.day_late_return == pytest.approx(one_by_one(folds, late), abs=1e-12)
    assert found.assumed_cost_bps == pytest.approx(30.0)


def hindsight(bars: Bars, n_folds: int, length: int) -> list[Int]:
    """Buys before rises and sells before falls: what nobody can do, and what earns before any costs."""
    rises = np.r_[bars.close[1:] > bars.open[1:], False][: n_folds * length]
    return [np.where(part, 3, 6) for part in rises.reshape(n_folds, length)]


@pytest.mark.parametrize("asset_class", list(AssetClass))
@pytest.mark.parametrize("volatility", [0.003, 0.01, 0.05])
def test_break_even_is_where_a_bisection_of_the_engine_ends(
    asset_class: AssetClass, volatility: float
) -> None:
    bars = market(seed=8, asset_class=asset_class, volatility=volatility)
    actions = hindsight(bars, 3, 120)
    folds = played(bars, actions)
    found = replay_figures(folds, "model", RULES).break_even_cost_bps
    low, high = 0.0, 2000.0
    for _ in range(60):
        middle = (low + high) / 2.0
        costs = RULES.costs(asset_class).at(middle)
        lanes = [replace(f.lane, costs=costs) for f in folds]
        gains = replayed_returns(lanes, np.stack(actions), RULES).sum() > 0.0
        low, high = (middle, high) if gains else (low, middle)
    assert found == pytest.approx(low, rel=2e-3)


def test_no_break_even_without_a_gain_before_costs() -> None:
    bars = market(seed=9)
    wrong = [np.where(a == 3, 6, 3) for a in hindsight(bars, 3, 120)]
    assert replay_figures(played(bars, wrong), "model", RULES).break_even_cost_bps is None
    idle = [np.zeros(120, dtype=np.int64)] * 3
    found = replay_figures(played(bars, idle), "model", RULES)
    assert found.break_even_cost_bps is None
    assert (found.null_percentile, found.null_return, found.lag_return) == (0.0, 0.0, 0.0)


def test_costs_that_are_assumed_to_be_none() -> None:
    free = ExecutionRules(crypto_fee_bps=0.0, slippage_bps=0.0)
    bars = market(seed=10)
    folds = played(bars, hindsight(bars, 3, 120), free)
    found = replay_figures(folds, "model", free)
    assert found.assumed_cost_bps == 0.0
    assert found.break_even_cost_bps is not None
    assert found.break_even_cost_bps > 1.0


def test_a_tie_is_not_better() -> None:
    """One run of one action has one order: as good as itself, not better."""
    folds = played(market(seed=11), [np.full(120, 3)] * 3)
    assert replay_figures(folds, "model", RULES).null_percentile == 0.0


def test_foresight_beats_its_own_runs_in_another_order() -> None:
    bars = market(seed=12)
    assert replay_figures(played(bars, hindsight(bars, 3, 120)), "model", RULES).null_percentile == 1.0


def test_worthless_actions_stand_anywhere_among_their_permutations() -> None:
    percentiles = [
        replay_figures(played(market(seed=s), random_folds(s + 100)), str(s), RULES).null_percentile
        for s in range(60)
    ]
    # uniform: 60 draws lie above 0.8 in 12 of cases, three standard deviations are 9
    assert 3 <= sum(p > 0.8 for p in percentiles) <= 21
    assert np.mean(percentiles) == pytest.approx(0.5, abs=0.13)


def test_folds_that_are_not_what_is_replayed_are_told() -> None:
    folds = played(market(seed=13), random_folds(13))
    found = replay_figures(folds, "model", RULES)
    assert not found.reproduces([replace(folds[0], total_return=folds[0].total_return + 1e-6), *folds[1:]])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10_000))
def test_the_same_model_has_the_same_figures(seed: int) -> None:
    folds = played(market(seed=seed), random_folds(seed, 2))
    assert replay_figures(folds, "m", RULES) == replay_figures(folds, "m", RULES)
