"""Metrics of a block, the summary of a plan and the decision, as plain sums: the oracle beside plain_loop.py.

Here: docs/rules.md, sections 4 to 6, written from that page alone. Not here: anything from the package under
test. None stands for NULL.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from postval_assets_tests.core.plain_loop import PlainRules, PlainRun

Number = float | int | None

# The reasons that the rules name. A decision may carry further ones for what the page leaves unnamed.
NAMED_REASONS = frozenset(
    {
        "NO_EVIDENCE",
        "NO_TRADES",
        "ONE_LUCKY_PERIOD",
        "GATING_REVIEW",
        "NOT_OUT_OF_SAMPLE",
        "INCOMPLETE",
        "ASSUMED_FEATURES",
        "ASSUMED_ACTIVATION",
        "TRAINING_WINDOW_UNKNOWN",
    }
)


def plain_bars_per_year(bars_in_window: int, plan_days: float) -> float:
    """Measured: bars of the plan's window over its days, times the days of a year."""
    return bars_in_window / plan_days * 365.25


def plain_returns(equity: Sequence[float]) -> list[float]:
    """Simple return of each bar, one fewer than points."""
    return [now / before - 1.0 for before, now in pairwise(equity)]


def plain_mean(values: Sequence[float]) -> float | None:
    """Mean, or None of nothing."""
    return math.fsum(values) / len(values) if values else None


def plain_std(values: Sequence[float]) -> float | None:
    """Sample standard deviation (ddof 1), or None of fewer than two values."""
    if len(values) < 2:
        return None
    mean = math.fsum(values) / len(values)
    return math.sqrt(math.fsum((x - mean) ** 2 for x in values) / (len(values) - 1))


def plain_sharpe(returns: Sequence[float], bars_per_year: float) -> float | None:
    """Mean over sample standard deviation, annualised, no risk-free rate; None without variation."""
    mean, std = plain_mean(returns), plain_std(returns)
    if mean is None or std is None or std == 0.0:
        return None
    return mean / std * math.sqrt(bars_per_year)


def plain_sortino(returns: Sequence[float], bars_per_year: float) -> float | None:
    """As Sharpe, over the root of the mean squared negative return; all returns count in that mean."""
    mean = plain_mean(returns)
    if mean is None:
        return None
    downside = math.sqrt(math.fsum(min(r, 0.0) ** 2 for r in returns) / len(returns))
    return None if downside == 0.0 else mean / downside * math.sqrt(bars_per_year)


def plain_max_drawdown(equity: Sequence[float]) -> float:
    """Largest loss from a running peak, as a fraction of that peak."""
    peak, worst = -math.inf, 0.0
    for e in equity:
        peak = max(peak, e)
        worst = max(worst, (peak - e) / peak)
    return worst


def plain_buy_and_hold(entry_close: float, exit_close: float, rules: PlainRules) -> float:
    """Return of putting all money in at one close, costs included, and taking it out at another."""
    quantity = 1.0 / (entry_close * (1.0 + rules.slippage) * (1.0 + rules.fee_rate))
    return quantity * exit_close * (1.0 - rules.slippage) * (1.0 - rules.fee_rate) - 1.0


def plain_metrics(
    run: PlainRun, close: Sequence[float], a: int, b: int, bars_per_year: float, rules: PlainRules
) -> dict[str, Number]:
    """Metrics of one block by their table names. n_bars is b - a, also where the curve ended early."""
    equity = run.equity
    returns = plain_returns(equity)
    profits = [trade.pnl for trade in run.trades if trade.pnl > 0.0]
    losses = [-trade.pnl for trade in run.trades if trade.pnl < 0.0]
    total_return = -1.0 if run.status == "RUINED" else equity[-1] / rules.capital - 1.0
    buy_and_hold = plain_buy_and_hold(float(close[a]), float(close[b - 1]), rules)
    n_trades = len(run.trades)
    return {
        "n_bars": b - a,
        "total_return": total_return,
        "max_drawdown": plain_max_drawdown(equity),
        "sharpe": plain_sharpe(returns, bars_per_year),
        "sortino": plain_sortino(returns, bars_per_year),
        "n_trades": n_trades,
        "win_rate": len(profits) / n_trades if n_trades else None,
        "gross_profit": math.fsum(profits),
        "gross_loss": math.fsum(losses),
        "profit_factor": math.fsum(profits) / math.fsum(losses) if losses else None,
        "avg_trade_pnl": plain_mean([trade.pnl for trade in run.trades]),
        "exposure": sum(1 for q in run.position if q != 0.0) / (b - a),
        "turnover": run.traded_value / (math.fsum(equity) / len(equity)),
        "fees": run.fees,
        "lapsed_orders": run.lapsed_orders,
        "buy_and_hold_return": buy_and_hold,
        "excess_return": total_return - buy_and_hold,
    }


@dataclass(frozen=True, kw_only=True)
class PlainFold:
    """What the summary and the decision need of one fold; numbers are None where it was not computed."""

    computed: bool = True
    total_return: float | None = None
    sharpe: float | None = None
    n_trades: int | None = None
    n_bars: int | None = None
    training_overlap: str = "OUT_OF_SAMPLE"


def _grade_share(share: float | None) -> str:
    if share is not None and share >= 0.80:
        return "GOOD"
    return "MARGINAL" if share is not None and share >= 0.60 else "POOR"


def _grade_sharpe_std(std: float | None) -> str:
    if std is not None and std < 1.0:
        return "GOOD"
    return "MARGINAL" if std is not None and std <= 2.0 else "POOR"


def _grade_returns(returns: Sequence[float]) -> str | None:
    if not returns:
        return None
    if all(r > 0.0 for r in returns):
        return "GOOD"
    return "POOR" if sum(1 for r in returns if r < 0.0) * 2 > len(returns) else "MARGINAL"


def plain_summary(folds: Sequence[PlainFold], bars_per_year: float) -> dict[str, Number | str | bool]:
    """Summary of all folds of a plan, those that were not computed included in ``folds``."""
    computed = [f for f in folds if f.computed]
    returns = [f.total_return for f in computed]
    positive = [r for r in returns if r > 0.0]
    # Over the plan's folds: one that could not be computed counts against the model.
    share = len(positive) / len(folds) if folds else None
    sharpes = [f.sharpe for f in computed if f.sharpe is not None]
    std = plain_std(sharpes)
    bars = plain_mean([float(f.n_bars) for f in computed if f.n_bars is not None])
    return {
        "n_folds": len(folds),
        "n_computed": len(computed),
        "positive_folds": len(positive),
        "positive_share": share,
        "sharpe_mean": plain_mean(sharpes),
        "sharpe_std": std,
        "sharpe_std_expected": math.sqrt(bars_per_year / bars) if bars else None,
        "sharpe_min": min(sharpes, default=None),
        "sharpe_max": max(sharpes, default=None),
        "return_min": min(returns, default=None),
        "return_max": max(returns, default=None),
        "best_fold_share": max(positive) / math.fsum(positive) if positive else None,
        "grade_positive_share": _grade_share(share),
        "grade_sharpe_std": _grade_sharpe_std(std),
        "grade_returns": _grade_returns(returns),
        "one_lucky_period": share is not None and math.fsum(returns) > 0.0 and share <= 0.40,
    }


@dataclass(frozen=True)
class PlainDecision:
    """A decision with its reasons.

    Attributes:
        decision: LIVE, PAPER, RETRAIN or DROP.
        required: named reasons that decided, capped, or are always shown: any reading of the rules has them.
        applicable: every named reason whose condition holds, whether or not it changed the decision.
    """

    decision: str
    required: frozenset[str]
    applicable: frozenset[str]


def _first_match(
    classification: str,
    model_status: str,
    computed: Sequence[PlainFold],
    summary: dict[str, Number | str | bool],
) -> tuple[str, frozenset[str]]:
    """Rules 1 to 6 of the table, before any cap, with the named reason of the rule that matched."""
    if classification in ("DROP", "INVALID") or model_status != "OK":
        return "DROP", frozenset()
    if not computed:
        return "RETRAIN", frozenset({"NO_EVIDENCE"})
    if all(f.n_trades == 0 for f in computed):
        return "RETRAIN", frozenset({"NO_TRADES"})
    if all(f.total_return <= 0.0 for f in computed):
        return "DROP", frozenset()
    share, std = summary["positive_share"], summary["sharpe_std"]
    if share >= 0.80 and std is not None and std < 1.0:
        return "LIVE", frozenset()
    if share >= 0.60 and std is not None and std <= 2.0:
        return "PAPER", frozenset()
    return "RETRAIN", frozenset()


def plain_decision(
    *,
    classification: str,
    model_status: str,
    folds: Sequence[PlainFold],
    feature_set_basis: str = "NAMED",
    activation_basis: str = "NAMED",
) -> PlainDecision:
    """Policy ``standard`` with its caps."""
    computed = [f for f in folds if f.computed]
    overlaps = {f.training_overlap for f in folds}
    summary = plain_summary(folds, bars_per_year=1.0)
    decision, required = _first_match(classification, model_status, computed, summary)

    conditions = {
        "GATING_REVIEW": classification == "REVIEW",
        "NOT_OUT_OF_SAMPLE": bool(overlaps & {"IN_TRAIN", "OVERLAP", "BEFORE_TRAIN"}),
        "INCOMPLETE": len(computed) < len(folds),
        "ASSUMED_FEATURES": feature_set_basis == "ASSUMED",
        "ASSUMED_ACTIVATION": activation_basis == "ASSUMED",
    }
    caps = {name for name, holds in conditions.items() if holds}
    shown = {
        name
        for name, holds in {
            "ONE_LUCKY_PERIOD": summary["one_lucky_period"],
            "TRAINING_WINDOW_UNKNOWN": "UNKNOWN" in overlaps,
        }.items()
        if holds
    }
    evidence = set()
    if not computed:
        evidence.add("NO_EVIDENCE")
    elif all(f.n_trades == 0 for f in computed):
        evidence.add("NO_TRADES")

    if decision == "LIVE" and caps:
        decision, required = "PAPER", required | caps
    return PlainDecision(decision, required | shown, frozenset(caps | shown | evidence))
