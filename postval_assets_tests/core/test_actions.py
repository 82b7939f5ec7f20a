"""The two action spaces, as the contract gives them."""

from __future__ import annotations

import pytest

from postval_assets.core.actions import action_sizes
from postval_assets.core.failures import Rejected


def test_three_actions_are_of_one_size() -> None:
    assert action_sizes(3).tolist() == [0.0, 0.50, -0.50]


def test_seven_actions_buy_before_they_sell() -> None:
    assert action_sizes(7).tolist() == [0.0, 0.25, 0.50, 0.75, -0.25, -0.50, -0.75]


def test_other_action_spaces_are_refused() -> None:
    with pytest.raises(Rejected, match="a policy with 5 actions is unknown: expected 3 or 7"):
        action_sizes(5)


def test_the_table_cannot_be_changed_through_its_answer() -> None:
    action_sizes(3)[1] = 9.0
    assert action_sizes(3)[1] == 0.50
