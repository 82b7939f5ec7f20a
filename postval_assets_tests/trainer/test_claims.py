"""The metrics that training claims, against blocks whose numbers are known."""

import math

import numpy as np
import pytest

from postval_assets.core.engine import BlockRun, RunStatus
from postval_assets.core.ledger import RoundTrip, Side
from postval_assets.trainer.claims import MAX_PROFIT_FACTOR, claim_of_runs


def block(equity: list[float], pnl: list[float]) -> BlockRun:
    trips = tuple(RoundTrip(Side.LONG, 0, 1, 1.0, 10.0, 10.0 + p, p, 0.0) for p in pnl)
    n = len(equity)
    return BlockRun(
        status=RunStatus.OK if pnl else RunStatus.NO_TRADES,
        equity=np.array(equity),
        position=np.zeros(n),
        actions=np.zeros(n, dtype=np.int64),
        trips=trips,
        lapsed_orders=0,
        traded_value=0.0,
        fees=0.0,
        n_bars=n,
    )


def test_claims_of_known_blocks() -> None:
    runs = [
        block([100.0, 120.0, 110.0], [15.0, -5.0]),
        block([100.0, 90.0, 80.0], [-20.0]),
        block([100.0, 104.0, 105.0], [5.0]),
        block([100.0, 100.0, 101.0], [1.0]),
    ]
    claim = claim_of_runs(runs, 100.0, 0.001)
    assert claim.profit_factor == pytest.approx(21.0 / 25.0)
    assert claim.consistency == 0.75
    # From the first block's top of 120: to 110 there, then by the whole of the second block.
    assert claim.max_drawdown == pytest.approx(1.0 - 110.0 / 120.0 * 0.8)
    assert claim.fitness_score == pytest.approx(0.375)


def test_fitness_adds_what_profit_is_left_of_a_unit_won() -> None:
    claim = claim_of_runs([block([100.0, 110.0], [20.0, -10.0])], 100.0, 0.001)
    assert (claim.profit_factor, claim.consistency) == (2.0, 1.0)
    assert claim.fitness_score == pytest.approx((1.0 + 0.5) / 2)
    assert claim.max_drawdown == 0.0


def test_no_trade_is_no_praise() -> None:
    claim = claim_of_runs([block([100.0, 100.0, 100.0], [])] * 3, 100.0, 0.001)
    assert (claim.fitness_score, claim.profit_factor, claim.consistency, claim.max_drawdown) == (0, 0, 0, 0)


def test_profit_without_a_loss_is_finite() -> None:
    claim = claim_of_runs([block([100.0, 101.0], [1.0])], 100.0, 0.001)
    assert claim.profit_factor == MAX_PROFIT_FACTOR
    assert claim.fitness_score == pytest.approx((1.0 + 0.9) / 2)


def test_the_proxy_does_not_depend_on_the_unit_of_rewards() -> None:
    runs = [block([100.0, 95.0, 99.0], [-1.0])]
    small, large = claim_of_runs(runs, 100.0, 0.001), claim_of_runs(runs, 100.0, 1.0)
    assert small.max_drawdown == pytest.approx(0.05)
    assert math.isclose(small.max_drawdown, large.max_drawdown)
