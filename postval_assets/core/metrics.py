"""What a block's equity curve is worth: rules.md section 4.

Here: measures of one BlockRun; a measure that is not defined is None, never 0, infinity or a magic number.
Not here: several folds together (walk_forward.py) or what follows from them (decision.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import BlockRun, Lane, RunStatus

Float = npt.NDArray[np.float64]

DAYS_PER_YEAR = 365.25


@dataclass(frozen=True)
class BlockMetrics:
    """Measures of one block; None where one is not defined.

    Attributes:
        n_bars: bars in the block.
        total_return: last equity / capital - 1, a fraction; -1 for a ruined block.
        max_drawdown: largest (peak - equity) / peak, a positive fraction.
        sharpe: mean / standard deviation (ddof 1) of per-bar simple returns, times sqrt(bars_per_year).
        sortino: the same with the root mean square of min(return, 0) over all returns.
        bars_per_year: measured over the plan's window.
        win_rate: share of round trips with pnl > 0.
        profit_factor: gross profit / gross loss.
        gross_profit, gross_loss: USD, both positive.
        n_trades: completed round trips.
        avg_trade_pnl: USD.
        exposure: points of the curve with a position / n_bars.
        turnover: traded value / mean equity.
        fees: USD.
        lapsed_orders: orders that met a bar without volume.
        buy_and_hold_return: close of the first bar to close of the last, one entry and one exit at cost.
        excess_return: total_return - buy_and_hold_return.
    """

    n_bars: int
    total_return: float | None
    max_drawdown: float | None
    sharpe: float | None
    sortino: float | None
    bars_per_year: float
    win_rate: float | None
    profit_factor: float | None
    gross_profit: float | None
    gross_loss: float | None
    n_trades: int | None
    avg_trade_pnl: float | None
    exposure: float | None
    turnover: float | None
    fees: float | None
    lapsed_orders: int | None
    buy_and_hold_return: float | None
    excess_return: float | None


def block_metrics(run: BlockRun, lane: Lane, rules: ExecutionRules, bars_per_year: float) -> BlockMetrics:
    """Measures of a finished block; all None for a policy that broke, since it was not traded to its end."""
    close = lane.bars.close
    fee_rate = rules.fee_rate(lane.bars.asset_class)
    hold = buy_and_hold_return(close[lane.start], close[lane.stop - 1], rules.slippage, fee_rate)
    if run.status is RunStatus.BROKEN_POLICY:
        return _undefined(run.n_bars, bars_per_year, hold)
    returns = np.diff(run.equity) / run.equity[:-1]
    total = -1.0 if run.status is RunStatus.RUINED else float(run.equity[-1] / rules.capital - 1.0)
    pnl = np.array([trip.pnl for trip in run.trips])
    profit, loss = float(pnl[pnl > 0.0].sum()), float(-pnl[pnl < 0.0].sum())
    n_trades = len(pnl)
    return BlockMetrics(
        n_bars=run.n_bars,
        total_return=total,
        max_drawdown=max_drawdown(run.equity),
        sharpe=sharpe_ratio(returns, bars_per_year),
        sortino=sortino_ratio(returns, bars_per_year),
        bars_per_year=bars_per_year,
        win_rate=float((pnl > 0.0).mean()) if n_trades else None,
        profit_factor=profit / loss if loss > 0.0 else None,
        gross_profit=profit,
        gross_loss=loss,
        n_trades=n_trades,
        avg_trade_pnl=float(pnl.mean()) if n_trades else None,
        exposure=float(np.count_nonzero(run.position) / run.n_bars),
        turnover=float(run.traded_value / run.equity.mean()),
        fees=run.fees,
        lapsed_orders=run.lapsed_orders,
        buy_and_hold_return=hold,
        excess_return=total - hold,
    )


def sharpe_ratio(returns: Float, bars_per_year: float) -> float | None:
    """Annualised Sharpe ratio without a risk-free rate; None for fewer than two returns or constant ones."""
    if len(returns) < 2 or np.ptp(returns) == 0.0:
        return None
    return float(returns.mean() / returns.std(ddof=1) * math.sqrt(bars_per_year))


def sortino_ratio(returns: Float, bars_per_year: float) -> float | None:
    """Annualised Sortino ratio, downside root mean square over all returns; None where nothing was lost."""
    if len(returns) == 0:
        return None
    downside = math.sqrt(float(np.mean(np.minimum(returns, 0.0) ** 2)))
    if downside == 0.0:
        return None
    return float(returns.mean() / downside * math.sqrt(bars_per_year))


def max_drawdown(equity: Float) -> float:
    """Largest (peak - equity) / peak of a curve, a positive fraction."""
    peak = np.maximum.accumulate(equity)
    return float(((peak - equity) / peak).max())


def buy_and_hold_return(first_close: float, last_close: float, slippage: float, fee_rate: float) -> float:
    """Return of buying at one close and selling at another, slippage and fee on both sides."""
    paid = first_close * (1.0 + slippage) * (1.0 + fee_rate)
    received = last_close * (1.0 - slippage) * (1.0 - fee_rate)
    return float(received / paid - 1.0)


def _undefined(n_bars: int, bars_per_year: float, hold: float) -> BlockMetrics:
    return BlockMetrics(
        n_bars=n_bars,
        total_return=None,
        max_drawdown=None,
        sharpe=None,
        sortino=None,
        bars_per_year=bars_per_year,
        win_rate=None,
        profit_factor=None,
        gross_profit=None,
        gross_loss=None,
        n_trades=None,
        avg_trade_pnl=None,
        exposure=None,
        turnover=None,
        fees=None,
        lapsed_orders=None,
        buy_and_hold_return=hold,
        excess_return=None,
    )
