"""The same case through the engine and through the plain loop, and what it means for them to agree."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pytest

from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import Actor, BlockRun, Lane
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets_tests.core.market_cases import Case, CasePolicy
from postval_assets_tests.core.plain_loop import PlainRules, PlainRun

# Best logit less second best below which float32 may choose differently.
TIE = 1e-5


@dataclass
class PolicyActor(Actor):
    """Asks each lane's policy, as the plain loop does."""

    policies: Sequence[CasePolicy]
    starts: Sequence[int]

    def act(self, step, lanes, account):
        chosen = []
        for lane, row in zip(lanes, account, strict=True):
            logits = np.array(self.policies[lane](self.starts[lane] + step, tuple(row.tolist())))
            chosen.append(int(np.argmax(logits)) if np.isfinite(logits).all() else -1)
        return np.array(chosen)


def engine_rules(plain: PlainRules) -> ExecutionRules:
    fee_bps = plain.fee_rate * 1e4
    return ExecutionRules(
        capital=plain.capital,
        safety_buffer=plain.safety_buffer,
        base_alloc=plain.base_alloc,
        max_position=plain.max_position,
        min_order_usd=plain.min_order_usd,
        equity_fee_bps=fee_bps,
        crypto_fee_bps=fee_bps,
        slippage_bps=plain.slippage * 1e4,
        zero_volume_fills=plain.zero_volume_fills,
        neutral_account_features=plain.neutral_account,
    )


def case_bars(case: Case) -> Bars:
    n = len(case.market)
    ts = np.datetime64("2024-01-01", "us") + np.arange(n) * Timeframe.HOUR_1.delta
    asset_class = AssetClass.CRYPTO if case.rules.long_only else AssetClass.EQUITY
    columns = {
        c: np.asarray(getattr(case.market, c), dtype=np.float64)
        for c in ("open", "high", "low", "close", "volume")
    }
    return Bars(symbol="TEST", timeframe=Timeframe.HOUR_1, asset_class=asset_class, ts=ts, **columns)


def lane_of(case: Case) -> Lane:
    sizes = np.array([case.sizes[i] for i in range(len(case.sizes))])
    return Lane(case_bars(case), case.a, case.b, sizes)


def first_tie(plain: PlainRun) -> int | None:
    """The first decision whose logits are a tie in float32; None where there is none."""
    ties = [i for i, gap in enumerate(plain.logit_gaps) if 0.0 < gap < TIE]
    return ties[0] if ties else None


def assert_agrees(run: BlockRun, plain: PlainRun, start: int) -> None:
    """Same actions, same fills, equity to 1e-9 relative: rules.md section 3."""
    assert run.status.value == plain.status
    n_decided = len(plain.actions)
    assert run.actions[:n_decided].tolist() == plain.actions
    assert (run.actions[n_decided:] == -1).all()
    assert run.equity.shape == (len(plain.equity),)
    np.testing.assert_allclose(run.equity, plain.equity, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(run.position, plain.position, rtol=1e-9, atol=1e-12)
    assert [q == 0.0 for q in run.position] == [q == 0.0 for q in plain.position]
    assert run.lapsed_orders == plain.lapsed_orders
    assert run.traded_value == pytest.approx(plain.traded_value, rel=1e-9)
    assert run.fees == pytest.approx(plain.fees, rel=1e-9)
    assert len(run.trips) == len(plain.trades)
    for trip, trade in zip(run.trips, plain.trades, strict=True):
        assert trip.side.value == trade.side
        assert (trip.entry_step + start, trip.exit_step + start) == (trade.entry_index, trade.exit_index)
        for name in ("quantity", "entry_price", "exit_price", "fees"):
            assert getattr(trip, name) == pytest.approx(getattr(trade, name), rel=1e-9)
        # A trip's result is a small difference of large sums: compared against what was moved.
        assert trip.pnl == pytest.approx(trade.pnl, rel=1e-7, abs=1e-9 * trade.quantity * trade.entry_price)
