"""Claimed against reproduced: which bars, the figures of the blocks, and what is called a large disagreement."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.bars import COLUMNS, Bars
from postval_assets.core.bootstrap import seeded
from postval_assets.core.claims import (
    CHANCE,
    MIN_TRADES,
    Claims,
    ClaimStatus,
    Reproduction,
    compare,
    profit_factor,
    profit_factor_bound,
    reproduce,
    training_blocks,
)
from postval_assets.core.engine import BlockRun, RunStatus
from postval_assets.core.evaluation import FoldEvaluation
from postval_assets.core.failures import Rejected
from postval_assets.core.folds import Block, Plan, PlanBlocks, TrainingOverlap, TrainingWindow, overlaps
from postval_assets.core.gating import V2_4_5, Classification, gate
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.ledger import RoundTrip, Side
from postval_assets.core.walk_forward import FoldStatus
from postval_assets_tests.core.plain_metrics import plain_max_drawdown, plain_sharpe

T0 = datetime(2024, 1, 1, tzinfo=UTC)
UNTIL = datetime(2024, 9, 1, tzinfo=UTC)
NEEDED = 30
CAPITAL = 100_000.0
GOOD = Claims(fitness=0.8, profit_factor=1.9, consistency=0.9, max_drawdown=0.05)


# --- which bars ---------------------------------------------------------------------------------------------


def four_hours(n: int, start: datetime = T0) -> Bars:
    ts = np.datetime64(start.replace(tzinfo=None), "us") + np.arange(n) * Timeframe.HOUR_4.delta
    columns = {name: np.full(n, 100.0) for name in COLUMNS[1:]}
    return Bars("UNIUSD", Timeframe.HOUR_4, AssetClass.CRYPTO, ts, **columns)


def test_the_newest_180_days_of_training_are_five_blocks() -> None:
    bars = four_hours(2400)
    end = T0 + timedelta(days=300, hours=-4)
    until, cut = training_blocks(bars, TrainingWindow(T0, end), needed_before=NEEDED)
    assert until == T0 + timedelta(days=300)
    assert [(b.start, b.stop, b.problem) for b in cut.blocks] == [
        (720 + 216 * n, 936 + 216 * n, None) for n in range(5)
    ]
    assert (cut.plan.days, cut.bars_per_year) == (180, pytest.approx(6 * 365.25))


def test_a_shorter_history_is_cut_in_whole_days_and_looks_back_before_training() -> None:
    start = T0 + timedelta(days=2)
    end = start + timedelta(days=60)
    _, cut = training_blocks(four_hours(600), TrainingWindow(start, end), needed_before=6)
    assert (cut.plan.days, cut.blocks[0].start) == (60, 13), (
        "the look-back lies before training, the bars do not"
    )
    _, cut = training_blocks(four_hours(600), TrainingWindow(None, end), needed_before=NEEDED)
    assert (cut.plan.days, cut.blocks[0].start) == (57, 31), (
        "the first bar with its needed bars before it is 30"
    )


@pytest.mark.parametrize(
    ("n", "training", "why"),
    [
        (600, TrainingWindow(T0, None), "the training window is unknown"),
        (600, TrainingWindow(None, None), "the training window is unknown"),
        (600, TrainingWindow(None, T0 - timedelta(days=9)), "no complete 4Hour bar by 2023-12-23"),
        (279, TrainingWindow(None, UNTIL), "249 stored bars of the training window .* 250 are needed"),
        (600, TrainingWindow(T0 + timedelta(days=80), UNTIL), "120 stored bars"),
        (600, TrainingWindow(UNTIL, T0 + timedelta(days=90)), "0 stored bars"),
    ],
)
def test_what_cannot_be_compared_says_why(n: int, training: TrainingWindow, why: str) -> None:
    with pytest.raises(Rejected, match=why):
        training_blocks(four_hours(n), training, needed_before=NEEDED)


@given(
    n=st.integers(280, 2000),
    first=st.none() | st.integers(-100, 1500),
    last=st.integers(0, 2500),
    gap=st.integers(0, 1500),
    needed=st.integers(0, 200),
)
def test_every_bar_traded_is_one_of_training_with_its_needed_bars(
    n: int, first: int | None, last: int, gap: int, needed: int
) -> None:
    whole = four_hours(n + 400)
    kept = np.r_[np.arange(min(gap, n)), np.arange(min(gap, n) + 400, n + 400)]
    bars = Bars(
        whole.symbol, whole.timeframe, whole.asset_class, **{c: getattr(whole, c)[kept] for c in COLUMNS}
    )
    hours = timedelta(hours=4)
    training = TrainingWindow(None if first is None else T0 + first * hours, T0 + last * hours)
    try:
        until, cut = training_blocks(bars, training, needed_before=needed)
    except Rejected:
        return
    blocks = cut.blocks
    assert set(overlaps(bars, blocks, training)) <= {TrainingOverlap.IN_TRAIN}
    assert all(before.stop == after.start for before, after in itertools.pairwise(blocks))
    assert blocks[0].start >= needed
    newest = np.flatnonzero(bars.ts <= np.datetime64(training.end.replace(tzinfo=None), "us"))[-1]
    assert blocks[-1].stop == newest + 1
    assert bars.ts[newest] + Timeframe.HOUR_4.delta == np.datetime64(until.replace(tzinfo=None), "us")
    assert bars.ts[blocks[0].start] >= np.datetime64((until - timedelta(days=180)).replace(tzinfo=None), "us")


# --- figures of the blocks ----------------------------------------------------------------------------------


def block(
    number: int, equity: list[float], pnl: list[float], status: FoldStatus = FoldStatus.OK
) -> FoldEvaluation:
    curve = np.array(equity)
    trips = tuple(RoundTrip(Side.LONG, 0, 1, 1.0, 1.0, 1.0, p, 0.0) for p in pnl)
    run = BlockRun(
        RunStatus(status.value), curve, np.zeros(len(curve)), np.zeros(len(curve), dtype=np.int64), trips, 0, 0.0, 0.0,
        len(curve),
    )  # fmt: skip
    where = Block(number, 0, len(curve), 0, None, None)
    return FoldEvaluation(where, status, None, TrainingOverlap.IN_TRAIN, "bars", "inputs", None, run)


def cut_of(blocks: list[FoldEvaluation], bars_per_year: float = 2000.0) -> PlanBlocks:
    return PlanBlocks(Plan("train-180d", 180, len(blocks)), tuple(b.block for b in blocks), bars_per_year)


def figures(blocks: list[FoldEvaluation]) -> Reproduction:
    return reproduce(blocks, cut_of(blocks), UNTIL, CAPITAL, seeded("sha", "test"))


def test_figures_by_hand() -> None:
    blocks = [
        block(1, [100_000.0, 110_000.0, 105_000.0], [9_000.0, -4_000.0]),
        block(2, [100_000.0, 90_000.0], [-10_000.0]),
        block(3, [100_000.0, 100_000.0, 100_000.0], [], FoldStatus.NO_TRADES),
    ]
    found = figures(blocks)
    assert (found.n_blocks, found.n_bars, found.n_trades, found.n_gained) == (3, 8, 3, 1)
    assert (found.days, found.until) == (180, UNTIL)
    assert found.profit_factor == pytest.approx(9 / 14)
    assert found.consistency == pytest.approx(1 / 3)
    assert found.total_return == pytest.approx(1.05 * 0.9 - 1)
    # From 1.10 in the first block to 1.05 x 0.90 at the end of the second.
    assert found.max_drawdown == pytest.approx(1 - 0.945 / 1.10)
    returns = [0.1, 105 / 110 - 1, -0.1, 0.0, 0.0]
    assert found.sharpe == pytest.approx(plain_sharpe(returns, 2000.0))


@given(
    st.lists(
        st.lists(st.integers(50, 150), min_size=2, max_size=12).map(lambda values: [100, *values]),
        min_size=1,
        max_size=5,
    )
)
def test_figures_are_those_of_a_plain_walk_over_the_curves(curves: list[list[int]]) -> None:
    blocks = [block(n, [1000.0 * v for v in curve], []) for n, curve in enumerate(curves, start=1)]
    found = figures(blocks)
    value, walk, returns, gained = 1.0, [1.0], [], 0
    for curve in curves:
        for before, now in itertools.pairwise(curve):
            returns.append(now / before - 1)
            walk.append(value * now / 100)
        gained += curve[-1] > 100
        value = walk[-1]
    assert found.total_return == pytest.approx(value - 1)
    assert found.n_gained == gained
    assert found.max_drawdown == pytest.approx(plain_max_drawdown(walk))
    if np.ptp(returns) > 0:
        assert found.sharpe == pytest.approx(plain_sharpe(returns, 2000.0))
    assert (found.profit_factor, found.profit_factor_high) == (None, None)


def test_a_ruined_block_is_a_loss_of_everything() -> None:
    found = figures(
        [block(1, [100_000.0, 0.0], [-100_000.0], FoldStatus.RUINED), block(2, [100_000.0, 110_000.0], [])]
    )
    assert (found.total_return, found.max_drawdown, found.profit_factor) == (-1.0, 1.0, 0.0)


def test_a_block_that_was_not_computed_leaves_nothing_to_compare() -> None:
    broken = replace(block(2, [1.0, 1.0], []), status=FoldStatus.BROKEN_POLICY, reason="NaN at bar 7")
    with pytest.raises(Rejected, match="block 2 of 2 of the training window: BROKEN_POLICY, NaN at bar 7"):
        figures([block(1, [1.0, 1.0], []), broken])


def test_the_bound_is_the_binomial_one_where_round_trips_are_coins() -> None:
    """Of 20 coins at most 15 show heads in 99.4 % of cases, at most 14 in 97.9 %: 15 / 5."""
    below = [sum(math.comb(20, k) for k in range(most + 1)) / 2**20 for most in (14, 15)]
    assert below[0] < 1 - CHANCE < below[1]
    coins = np.array([1.0, -1.0] * 10)
    assert profit_factor(coins) == 1.0
    assert profit_factor_bound(coins, seeded("coins")) == 3.0
    assert profit_factor_bound(coins, seeded("coins")) == profit_factor_bound(coins, seeded("coins"))


def test_where_some_resamples_lose_nothing_there_is_no_bound() -> None:
    assert profit_factor_bound(np.array([1.0] * 9 + [-1.0]), seeded("few")) is None
    assert profit_factor_bound(np.array([1.0, 2.0]), seeded("won")) is None
    assert profit_factor_bound(np.array([]), seeded("none")) is None


# --- large disagreements ------------------------------------------------------------------------------------


def found_with(**changes: object) -> Reproduction:
    """What agrees with GOOD."""
    given = Reproduction(
        n_blocks=5,
        n_bars=1080,
        days=180,
        until=UNTIL,
        n_trades=120,
        profit_factor=1.8,
        profit_factor_high=2.6,
        n_gained=5,
        max_drawdown=0.04,
        total_return=0.2,
        sharpe=2.0,
    )
    return replace(given, **changes)


def verdict(claims: Claims = GOOD, **changes: object) -> tuple[str, str | None]:
    result = compare(claims, found_with(**changes), V2_4_5.review)
    return result.status.value, result.reason


def test_what_is_claimed_and_done_is_reproduced() -> None:
    assert verdict() == ("REPRODUCED", None)
    assert verdict(profit_factor=7.0, profit_factor_high=None, max_drawdown=0.0) == ("REPRODUCED", None)
    assert verdict(profit_factor=None, profit_factor_high=None) == ("REPRODUCED", None)


def test_the_reason_has_both_numbers_of_each_figure() -> None:
    status, reason = verdict(profit_factor=0.94, profit_factor_high=1.52)
    assert status == "DISAGREES"
    assert reason == (
        "profit factor 1.90 claimed, 0.94 reproduced (at most 1.52 by chance) over 180 days to 2024-09-01 "
        "(120 round trips)"
    )
    status, reason = verdict(profit_factor=0.5, profit_factor_high=0.9, n_gained=1, max_drawdown=0.2)
    assert status == "DISAGREES"
    assert reason == (
        "profit factor 1.90 claimed, 0.50 reproduced (at most 0.90 by chance); consistency 0.90 claimed, 0.20 "
        "reproduced (1 of 5 blocks); max drawdown proxy 5.00% claimed, real 20.00% reproduced over 180 days to "
        "2024-09-01 (120 round trips)"
    )


@pytest.mark.parametrize(
    ("claimed", "reproduced", "high", "status"),
    [
        (1.9, 1.44, 1.89, "DISAGREES"),
        (1.9, 1.46, 1.89, "REPRODUCED"),  # more than half of the excess
        (1.9, 0.94, 1.91, "NOT_REPRODUCIBLE"),  # resampling reaches the claim
        (1.9, 0.94, None, "NOT_REPRODUCIBLE"),
        (1.0, 0.30, 0.60, "REPRODUCED"),  # nothing was claimed that could be less
        (0.7, 0.30, 0.60, "REPRODUCED"),
        (10.0, 5.49, 9.0, "DISAGREES"),
        (10.0, 5.51, 9.0, "REPRODUCED"),
    ],
)
def test_a_profit_factor_has_to_lose_half_of_its_excess_and_more_than_chance_takes(
    claimed: float, reproduced: float, high: float | None, status: str
) -> None:
    given = replace(GOOD, profit_factor=claimed)
    assert verdict(given, profit_factor=reproduced, profit_factor_high=high)[0] == status


def test_what_chance_may_explain_is_neither_reproduced_nor_a_disagreement() -> None:
    status, reason = verdict(n_trades=12, profit_factor=0.7, profit_factor_high=10.68, n_gained=3)
    assert status == "NOT_REPRODUCIBLE"
    assert reason == (
        "profit factor 1.90 claimed, 0.70 reproduced (at most 10.68 by chance) over 180 days to 2024-09-01 "
        "(12 round trips): chance may explain it"
    )
    status, reason = verdict(profit_factor=0.7, profit_factor_high=None, n_gained=1)
    assert status == "DISAGREES"
    assert reason is not None
    assert "profit factor" not in reason, "only what is clear is a reason"


@pytest.mark.parametrize("gained", range(6))
@pytest.mark.parametrize("claimed", [0.0, 0.3, 0.65, 0.70, 0.85, 0.9, 0.92, 1.0])
def test_consistency_disagrees_where_enumerating_all_blocks_says_so(claimed: float, gained: int) -> None:
    share = min(claimed, 0.95)
    so_few = sum(
        math.prod(share if won else 1 - share for won in outcome)
        for outcome in itertools.product((True, False), repeat=5)
        if sum(outcome) <= gained
    )
    expected = "REPRODUCED"
    if claimed - gained / 5 > 0.3 + 1e-9:
        expected = "DISAGREES" if so_few <= 0.01 else "NOT_REPRODUCIBLE"
    assert verdict(replace(GOOD, consistency=claimed), n_gained=gained)[0] == expected
    if (claimed, gained) in ((0.9, 2), (0.85, 1), (1.0, 2), (0.65, 0)):
        assert expected == "DISAGREES", "known: these are clear"


@pytest.mark.parametrize(
    ("proxy", "real", "disagrees"),
    [(0.05, 0.149, False), (0.05, 0.151, True), (0.10, 0.19, False), (0.10, 0.21, True), (0.0, 0.15, False)],
)
def test_a_drawdown_has_to_be_twice_the_proxy_and_beyond_review(
    proxy: float, real: float, disagrees: bool
) -> None:
    assert (verdict(replace(GOOD, max_drawdown=proxy), max_drawdown=real)[0] == "DISAGREES") == disagrees


def test_few_round_trips_are_not_compared() -> None:
    few = {"n_trades": MIN_TRADES - 1, "profit_factor": 0.2, "profit_factor_high": 0.4, "n_gained": 0}
    status, reason = verdict(**few)
    assert status == "NOT_REPRODUCIBLE"
    assert reason == (
        "9 round trip(s) in 180 days to 2024-09-01, 10 needed for a comparison; profit factor 1.90 claimed, "
        "0.20 reproduced"
    )
    assert verdict(**{**few, "n_trades": MIN_TRADES})[0] == "DISAGREES"


def test_no_round_trip_at_all_disagrees_once_there_was_time_for_one() -> None:
    idle = {
        "n_trades": 0,
        "profit_factor": None,
        "profit_factor_high": None,
        "n_gained": 0,
        "max_drawdown": 0.0,
    }
    status, reason = verdict(**idle)
    assert status == "DISAGREES"
    assert reason == "profit factor 1.90 claimed, none reproduced: no round trip in 180 days to 2024-09-01"
    assert verdict(**idle, days=89)[0] == "NOT_REPRODUCIBLE"
    assert verdict(replace(GOOD, profit_factor=0.0), **idle)[0] == "NOT_REPRODUCIBLE"


# --- how often it is wrong ----------------------------------------------------------------------------------


def flagged(
    rng: np.random.Generator, claimed_edge: float, edge: float, n_trades: int, n_models: int
) -> float:
    """Share of the models that pass the gate that disagree; claim and reproduction are of separate round trips.

    Args:
        rng: draws round trips from a Student t of 4 degrees of freedom: fat tails, standard deviation sqrt(2).
        claimed_edge: mean of the round trips that the claim is of.
        edge: mean of those on the training bars.
        n_trades: of each.
        n_models: that pass the gate.
    """
    hits = passed = 0
    while passed < n_models:
        then, now = (rng.standard_t(4, n_trades) + mean for mean in (claimed_edge, edge))
        shares = [
            sum(float(part.sum() > 0) for part in np.array_split(x, k)) for x, k in ((then, 10), (now, 5))
        ]
        claimed = Claims(0.8, profit_factor(then) or 10.0, shares[0] / 10, 0.05)
        gated = gate(
            fitness_history=[0.8],
            profit_factor_history=[claimed.profit_factor],
            consistency_history=[claimed.consistency],
            max_drawdown_history=[0.05],
            reward_scale=0.001,
        )
        if gated.classification is Classification.DROP:
            continue
        passed += 1
        found = found_with(
            n_trades=n_trades,
            profit_factor=profit_factor(now),
            profit_factor_high=profit_factor_bound(now, rng),
            n_gained=int(shares[1]),
        )
        hits += compare(claimed, found, V2_4_5.review).status is ClaimStatus.DISAGREES
    return hits / n_models


@pytest.mark.parametrize("n_trades", [10, 30, 150])
def test_models_that_do_what_they_claim_are_seldom_flagged(n_trades: int) -> None:
    """A true profit factor of 2, claims that are lucky ones among those measured: the gate chose them."""
    assert flagged(np.random.default_rng(7), 0.37, 0.37, n_trades, 200) <= 0.16


@pytest.mark.parametrize(("n_trades", "at_least"), [(30, 0.5), (150, 0.9)])
def test_models_that_lose_what_they_claim_to_gain_are_flagged(n_trades: int, at_least: float) -> None:
    """A claim measured at a true profit factor of 2, of a model that loses: 0.8."""
    assert flagged(np.random.default_rng(8), 0.37, -0.12, n_trades, 100) >= at_least
