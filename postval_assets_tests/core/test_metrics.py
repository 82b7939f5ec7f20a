"""Measures of a curve where they are not defined, or known without computing."""

from __future__ import annotations

import math

import numpy as np
import pytest

from postval_assets.core.metrics import buy_and_hold_return, max_drawdown, sharpe_ratio, sortino_ratio


@pytest.mark.parametrize("returns", [[], [0.01], [0.0, 0.0, 0.0], [0.01, 0.01]])
def test_a_sharpe_ratio_needs_returns_that_differ(returns: list[float]) -> None:
    assert sharpe_ratio(np.array(returns), 8766.0) is None


@pytest.mark.parametrize("returns", [[], [0.0], [0.01, 0.02, 0.0]])
def test_a_sortino_ratio_needs_a_loss(returns: list[float]) -> None:
    assert sortino_ratio(np.array(returns), 8766.0) is None


def test_ratios_by_hand() -> None:
    returns = np.array([0.03, -0.01])
    # Mean 0.01; distances 0.02 and -0.02, so a variance (ddof 1) of 0.0008; the losses' mean square is 0.0001 / 2.
    assert sharpe_ratio(returns, 100.0) == pytest.approx(0.01 / math.sqrt(0.0008) * 10.0)
    assert sortino_ratio(returns, 100.0) == pytest.approx(0.01 / math.sqrt(0.00005) * 10.0)


def test_drawdown_is_measured_from_the_highest_point_before() -> None:
    assert max_drawdown(np.array([100.0, 120.0, 90.0, 130.0, 117.0])) == pytest.approx(0.25)
    assert max_drawdown(np.array([100.0, 101.0])) == 0.0
    assert max_drawdown(np.array([100.0, 0.0])) == 1.0


def test_holding_pays_both_ways() -> None:
    assert buy_and_hold_return(100.0, 110.0, 0.0, 0.0) == pytest.approx(0.10)
    costs = buy_and_hold_return(100.0, 100.0, 0.01, 0.02)
    assert costs == pytest.approx(0.99 * 0.98 / (1.01 * 1.02) - 1.0)
