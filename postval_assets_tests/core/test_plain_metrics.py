"""The oracle's metrics, summary and decision against answers worked out by hand."""

from __future__ import annotations

import math

import pytest

from postval_assets_tests.core.market_cases import COSTLY_LONG, FREE_LONG, FREE_SHORT, ONE_BUY, play
from postval_assets_tests.core.plain_loop import PlainRun, PlainTrade
from postval_assets_tests.core.plain_metrics import (
    PlainFold,
    plain_bars_per_year,
    plain_buy_and_hold,
    plain_decision,
    plain_max_drawdown,
    plain_metrics,
    plain_sharpe,
    plain_sortino,
    plain_std,
    plain_summary,
)

HOLD, BUY_50, SELL_75 = 0, 2, 6


def close_to(value: object) -> object:
    return pytest.approx(value, rel=1e-12, abs=1e-9)


def trade_with(pnl: float) -> PlainTrade:
    return PlainTrade("LONG", 1, 2, 1.0, 100.0, 100.0 + pnl, pnl, 0.0)


class TestMetrics:
    def test_sharpe(self) -> None:
        # Returns 0.1 and 0.2: mean 0.15, standard deviation 0.1 / sqrt 2, ratio 1.5 sqrt 2, times sqrt 8: 6.
        assert plain_sharpe([0.1, 0.2], 8.0) == close_to(6.0)
        # 0.2 and -0.1: 0.05 / (0.3 / sqrt 2) * sqrt 8 = 2/3.
        assert plain_sharpe([0.2, -0.1], 8.0) == close_to(2.0 / 3.0)

    def test_sharpe_needs_variation_and_two_returns(self) -> None:
        assert plain_sharpe([0.0, 0.0, 0.0], 8.0) is None
        assert plain_sharpe([0.1], 8.0) is None
        assert plain_sharpe([], 8.0) is None

    def test_sortino_counts_all_returns_in_the_downside(self) -> None:
        # 0.05 / sqrt(0.01 / 2) * sqrt 8 = 2.
        assert plain_sortino([0.2, -0.1], 8.0) == close_to(2.0)
        assert plain_sortino([0.2, 0.1], 8.0) is None

    def test_max_drawdown_is_from_the_running_peak(self) -> None:
        assert plain_max_drawdown([100.0, 120.0, 90.0, 130.0, 117.0]) == close_to(0.25)
        assert plain_max_drawdown([100.0, 101.0]) == 0.0

    def test_bars_per_year_is_measured(self) -> None:
        assert plain_bars_per_year(4320, 180) == close_to(8766.0)

    def test_buy_and_hold_pays_each_cost_twice(self) -> None:
        # Free 104 / 100; at 1 % each, 104 * 0.99 * 0.99 = 101.9304 for 100 * 1.01 * 1.01 = 102.01.
        assert plain_buy_and_hold(100.0, 104.0, FREE_LONG) == close_to(0.04)
        assert plain_buy_and_hold(100.0, 104.0, COSTLY_LONG) == close_to(101.9304 / 102.01 - 1.0)

    def test_a_whole_block(self) -> None:
        run = play(ONE_BUY, [BUY_50, HOLD], COSTLY_LONG)
        metrics = plain_metrics(run, [c for _, c in ONE_BUY], 0, 3, 8766.0, COSTLY_LONG)
        r1, r2 = -0.0005408025, 99942.26575 / 99945.91975 - 1.0
        mean, std = (r1 + r2) / 2.0, abs(r1 - r2) / math.sqrt(2.0)
        assert metrics == close_to(
            {
                "n_bars": 3,
                "total_return": -0.0005773425,
                "max_drawdown": 0.0005773425,
                "sharpe": mean / std * math.sqrt(8766.0),
                "sortino": mean / math.sqrt((r1**2 + r2**2) / 2.0) * math.sqrt(8766.0),
                "n_trades": 1,
                "win_rate": 0.0,
                "gross_profit": 0.0,
                "gross_loss": 57.73425,
                "profit_factor": 0.0,
                "avg_trade_pnl": -57.73425,
                "exposure": 1.0 / 3.0,
                "turnover": 10760.925 / 99962.7285,
                "fees": 107.60925,
                "lapsed_orders": 0,
                "buy_and_hold_return": 101.9304 / 102.01 - 1.0,
                "excess_return": -0.0005773425 - (101.9304 / 102.01 - 1.0),
            }
        )

    def test_profit_factor_and_win_rate_over_trades(self) -> None:
        run = PlainRun(equity=[100.0, 115.0], position=[1.0, 0.0])
        run.trades = [trade_with(pnl) for pnl in (30.0, -10.0, -5.0, 0.0)]
        metrics = plain_metrics(run, [1.0, 1.0], 0, 2, 365.25, FREE_LONG)
        assert metrics["profit_factor"] == close_to(2.0)
        assert metrics["win_rate"] == 0.25
        assert metrics["avg_trade_pnl"] == close_to(3.75)
        assert (metrics["gross_profit"], metrics["gross_loss"]) == (30.0, 15.0)

    def test_without_a_losing_trade_the_profit_factor_is_null(self) -> None:
        run = PlainRun(equity=[100.0, 130.0], position=[1.0, 0.0], trades=[trade_with(30.0)])
        metrics = plain_metrics(run, [1.0, 1.0], 0, 2, 365.25, FREE_LONG)
        assert metrics["profit_factor"] is None
        assert (metrics["gross_profit"], metrics["gross_loss"], metrics["win_rate"]) == (30.0, 0.0, 1.0)

    def test_without_trades_what_is_undefined_is_null(self) -> None:
        run = play([(100.0, 100.0)] * 4, [HOLD] * 3, FREE_LONG)
        metrics = plain_metrics(run, [100.0] * 4, 0, 4, 365.25, FREE_LONG)
        assert run.status == "NO_TRADES"
        nulls = {name for name, value in metrics.items() if value is None}
        assert nulls == {"sharpe", "sortino", "win_rate", "profit_factor", "avg_trade_pnl"}
        assert (metrics["total_return"], metrics["exposure"], metrics["turnover"]) == (0.0, 0.0, 0.0)

    def test_a_ruined_block_lost_everything(self) -> None:
        bars = [(100.0, 100.0), (100.0, 100.0), (100.0, 2000.0), (1.0, 1.0), (1.0, 1.0)]
        run = play(bars, [SELL_75, HOLD, HOLD, HOLD], FREE_SHORT)
        metrics = plain_metrics(run, [c for _, c in bars], 0, 5, 8.0, FREE_SHORT)
        assert (metrics["total_return"], metrics["max_drawdown"]) == (-1.0, 1.0)
        # Returns of the truncated curve, 0 and -1: -0.5 / (1 / sqrt 2) * sqrt 8 = -2.
        assert run.equity == close_to([100_000.0, 100_000.0, 0.0])
        assert metrics["sharpe"] == close_to(-2.0)
        assert metrics["exposure"] == close_to(1.0 / 5.0)


def fold(total_return: float, sharpe: float | None = 1.0, **more: object) -> PlainFold:
    return PlainFold(
        **({"total_return": total_return, "sharpe": sharpe, "n_trades": 3, "n_bars": 864} | more)
    )


MISSING = PlainFold(computed=False)


class TestSummary:
    def test_a_plan_with_a_fold_that_was_not_computed(self) -> None:
        folds = [fold(0.10, 1.0), fold(-0.02, 2.0), fold(0.05, 3.0), fold(0.0, None), MISSING]
        summary = plain_summary(folds, 8766.0)
        words = {name: summary.pop(name) for name in list(summary) if name.startswith(("grade_", "one_"))}
        assert words == {
            "grade_positive_share": "POOR",
            "grade_sharpe_std": "MARGINAL",
            "grade_returns": "MARGINAL",
            "one_lucky_period": True,
        }
        assert summary == close_to(
            {
                "n_folds": 5,
                "n_computed": 4,
                "positive_folds": 2,
                "positive_share": 0.4,
                "sharpe_mean": 2.0,
                "sharpe_std": 1.0,
                "sharpe_std_expected": math.sqrt(365.25 / 36.0),
                "sharpe_min": 1.0,
                "sharpe_max": 3.0,
                "return_min": -0.02,
                "return_max": 0.10,
                "best_fold_share": 2.0 / 3.0,
            }
        )
        assert round(summary["sharpe_std_expected"], 1) == 3.2

    def test_nothing_computed(self) -> None:
        summary = plain_summary([MISSING] * 5, 8766.0)
        assert summary["positive_share"] == 0.0
        nulls = {name for name, value in summary.items() if value is None}
        assert nulls == {
            "sharpe_mean",
            "sharpe_std",
            "sharpe_std_expected",
            "sharpe_min",
            "sharpe_max",
            "return_min",
            "return_max",
            "best_fold_share",
            "grade_returns",
        }
        assert summary["grade_sharpe_std"] == "POOR"

    @pytest.mark.parametrize(
        ("positive", "of", "grade"),
        [
            (4, 5, "GOOD"),
            (3, 5, "MARGINAL"),
            (2, 5, "POOR"),
            (8, 10, "GOOD"),
            (6, 10, "MARGINAL"),
            (7, 9, "MARGINAL"),
        ],
    )
    def test_grade_of_the_positive_share(self, positive: int, of: int, grade: str) -> None:
        folds = [fold(0.1)] * positive + [fold(-0.1)] * (of - positive)
        assert plain_summary(folds, 8766.0)["grade_positive_share"] == grade

    @pytest.mark.parametrize(
        ("sharpes", "std", "grade"),
        [
            ([0.5, 1.0, 1.5], 0.5, "GOOD"),
            ([1.0, 2.0, 3.0], 1.0, "MARGINAL"),
            ([0.0, 2.0, 4.0], 2.0, "MARGINAL"),
            ([0.0, 2.5, 5.0], 2.5, "POOR"),
            ([1.0, None, None], None, "POOR"),
        ],
    )
    def test_grade_of_the_sharpe_std(
        self, sharpes: list[float | None], std: float | None, grade: str
    ) -> None:
        summary = plain_summary([fold(0.1, s) for s in sharpes], 8766.0)
        assert summary["sharpe_std"] == (None if std is None else close_to(std))
        assert summary["grade_sharpe_std"] == grade

    @pytest.mark.parametrize(
        ("returns", "grade"),
        [
            ([0.1, 0.2], "GOOD"),
            ([0.1, 0.0], "MARGINAL"),
            ([0.1, -0.1], "MARGINAL"),
            ([0.1, -0.1, -0.1], "POOR"),
            ([0.0, 0.0, -0.1], "MARGINAL"),
        ],
    )
    def test_grade_of_the_returns(self, returns: list[float], grade: str) -> None:
        assert plain_summary([fold(r) for r in returns], 8766.0)["grade_returns"] == grade

    @pytest.mark.parametrize(
        ("returns", "lucky"),
        [
            ([0.30, -0.01, -0.02, -0.03, 0.01], True),
            ([0.30, -0.01, -0.02, 0.01, 0.01], False),
            ([0.04, -0.01, -0.02, -0.03, 0.01], False),
        ],
    )
    def test_one_lucky_period(self, returns: list[float], *, lucky: bool) -> None:
        # Sums 0.25, 0.29 and -0.01: the middle one has three positive folds of five.
        assert plain_summary([fold(r) for r in returns], 8766.0)["one_lucky_period"] is lucky

    def test_std_of_one_value_is_undefined(self) -> None:
        assert plain_std([1.0]) is None
        assert plain_std([1.0, 3.0]) == close_to(math.sqrt(2.0))


STEADY = [fold(0.1, s) for s in (1.0, 1.5, 2.0, 1.2, 1.4)]
FOUR_OF_FIVE = [*STEADY[:4], fold(-0.1, 1.4)]
UNEVEN = [fold(0.1, 0.0), fold(0.1, 2.0), fold(0.1, 4.0), fold(-0.1, 2.0), fold(-0.1, 2.0)]
WILD = [fold(0.1, s) for s in (-4.0, 0.0, 4.0, 8.0, 2.0)]
TWO_OF_FIVE = [fold(0.1), fold(0.1), fold(-0.1), fold(-0.1), fold(-0.1)]
LOSING = [fold(-0.1), fold(0.0), fold(-0.2), fold(-0.1), fold(-0.1)]
IDLE = [fold(0.0, None, n_trades=0)] * 5


def decide(folds: list[PlainFold], classification: str = "APPROVED", **more: str) -> tuple[str, set[str]]:
    result = plain_decision(
        **({"classification": classification, "model_status": "OK", "folds": folds} | more)
    )
    assert result.required <= result.applicable
    return result.decision, set(result.required)


def with_overlap(overlap: str) -> list[PlainFold]:
    return [fold(0.1, 1.0, training_overlap=overlap), *STEADY[1:]]


class TestDecision:
    @pytest.mark.parametrize(
        ("folds", "decision", "reasons"),
        [
            (STEADY, "LIVE", set()),
            (FOUR_OF_FIVE, "LIVE", set()),
            (UNEVEN, "PAPER", set()),
            (WILD, "RETRAIN", set()),
            # A spread of exactly 1.0, then of exactly 2.0.
            ([fold(0.1, s) for s in (1.0, 2.0, 3.0, None, None)], "PAPER", set()),
            ([fold(0.1, s) for s in (0.0, 2.0, 4.0, None, None)], "PAPER", set()),
            (TWO_OF_FIVE, "RETRAIN", set()),
            (LOSING, "DROP", set()),
            (IDLE, "RETRAIN", {"NO_TRADES"}),
            ([MISSING] * 5, "RETRAIN", {"NO_EVIDENCE"}),
            # Losing in every fold that could be computed is losing consistently.
            ([fold(-0.1), MISSING, MISSING, MISSING, MISSING], "DROP", set()),
            # No spread without a second Sharpe.
            ([fold(0.1, 1.0), *[fold(0.1, None)] * 4], "RETRAIN", set()),
            ([fold(0.9, 1.0), fold(0.1, 1.0), *[fold(-0.1, 1.0)] * 3], "RETRAIN", {"ONE_LUCKY_PERIOD"}),
        ],
    )
    def test_table(self, folds: list[PlainFold], decision: str, reasons: set[str]) -> None:
        assert decide(folds) == (decision, reasons)

    @pytest.mark.parametrize("folds", [STEADY, LOSING, IDLE, [MISSING] * 5])
    def test_gating_and_broken_models_come_first(self, folds: list[PlainFold]) -> None:
        assert decide(folds, "DROP")[0] == "DROP"
        assert decide(folds, "INVALID")[0] == "DROP"
        assert decide(folds, model_status="INCOMPATIBLE")[0] == "DROP"

    @pytest.mark.parametrize(
        ("folds", "more", "reason"),
        [
            (STEADY, {"classification": "REVIEW"}, "GATING_REVIEW"),
            (with_overlap("IN_TRAIN"), {}, "NOT_OUT_OF_SAMPLE"),
            (with_overlap("OVERLAP"), {}, "NOT_OUT_OF_SAMPLE"),
            (with_overlap("BEFORE_TRAIN"), {}, "NOT_OUT_OF_SAMPLE"),
            ([*STEADY[:4], MISSING], {}, "INCOMPLETE"),
            (STEADY, {"feature_set_basis": "ASSUMED"}, "ASSUMED_FEATURES"),
            (STEADY, {"activation_basis": "ASSUMED"}, "ASSUMED_ACTIVATION"),
        ],
    )
    def test_caps_turn_live_into_paper(
        self, folds: list[PlainFold], more: dict[str, str], reason: str
    ) -> None:
        assert decide(folds, **more) == ("PAPER", {reason})

    def test_every_cap_that_applies_is_named(self) -> None:
        folds = [fold(0.1, 1.0, training_overlap="IN_TRAIN"), *STEADY[1:4], MISSING]
        assert decide(folds, "REVIEW", feature_set_basis="ASSUMED") == (
            "PAPER",
            {"GATING_REVIEW", "NOT_OUT_OF_SAMPLE", "INCOMPLETE", "ASSUMED_FEATURES"},
        )

    def test_caps_lower_nothing_but_live(self) -> None:
        assert decide(UNEVEN, "REVIEW")[0] == "PAPER"
        assert decide(WILD, "REVIEW")[0] == "RETRAIN"
        result = plain_decision(classification="REVIEW", model_status="OK", folds=WILD)
        assert result.applicable == {"GATING_REVIEW"}

    def test_an_unknown_training_window_caps_nothing_and_is_always_shown(self) -> None:
        assert decide(with_overlap("UNKNOWN")) == ("LIVE", {"TRAINING_WINDOW_UNKNOWN"})
        assert decide(with_overlap("UNKNOWN"), "DROP") == ("DROP", {"TRAINING_WINDOW_UNKNOWN"})
