"""What a policy's action numbers mean: the two action spaces of the contract.

Here: the tables. Not here: how an order is sized from them (engine.py).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from postval_assets.core.failures import Rejected

# Signed sizes by action number: 0 HOLD, then BUY (positive), then SELL (negative), in fractions of the order unit.
ACTION_SIZES: dict[int, tuple[float, ...]] = {
    3: (0.0, 0.50, -0.50),
    7: (0.0, 0.25, 0.50, 0.75, -0.25, -0.50, -0.75),
}


def action_sizes(n_actions: int) -> npt.NDArray[np.float64]:
    """Signed order size of each action, axis [action]; raises Rejected for an unknown action space."""
    try:
        return np.array(ACTION_SIZES[n_actions])
    except KeyError:
        known = " or ".join(str(n) for n in ACTION_SIZES)
        raise Rejected(f"a policy with {n_actions} actions is unknown: expected {known}") from None
