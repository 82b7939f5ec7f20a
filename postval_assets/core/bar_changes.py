"""What differs between the bars of a series that are stored and those that a source delivers now.

Here: rows that are new or changed, and whether closes were restated. Not here: what follows from it (pipeline), or
judgements about the bars themselves (bar_quality.py).

Sources that adjust prices for splits and dividends restate the history of a symbol when one happens: every close before
it is multiplied by one ratio. So a few bars are enough to see it, as long as they lie before the event.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from postval_assets.core.bars import COLUMNS

# Far above the noise of reading a decimal number, far below the smallest dividend.
_TOLERANCE = 1e-9


@dataclass(frozen=True)
class CloseComparison:
    """Closes that are stored against those that were delivered for the same opens.

    Attributes:
        n_compared: bars that are in both.
        n_differing: of these, bars whose closes differ.
        n_lacking: stored bars that were not delivered.
        ratio: median of delivered / stored close over the differing bars; None without any.
    """

    n_compared: int
    n_differing: int
    n_lacking: int
    ratio: float | None


def compare_closes(stored: pd.DataFrame, delivered: pd.DataFrame) -> CloseComparison:
    """Compare two frames with ``ts`` and ``close``; the bars that only ``delivered`` has are no matter."""
    both = stored[["ts", "close"]].merge(delivered[["ts", "close"]], on="ts", suffixes=("_was", "_is"))
    was, now = both["close_was"].to_numpy(np.float64), both["close_is"].to_numpy(np.float64)
    differs = ~np.isclose(was, now, rtol=_TOLERANCE, atol=0.0, equal_nan=True)
    usable = differs & (was != 0.0) & np.isfinite(was) & np.isfinite(now)
    return CloseComparison(
        n_compared=len(both),
        n_differing=int(differs.sum()),
        n_lacking=len(stored) - len(both),
        ratio=float(np.median(now[usable] / was[usable])) if usable.any() else None,
    )


def changed_rows(delivered: pd.DataFrame, stored: pd.DataFrame | None) -> tuple[pd.DataFrame, int]:
    """The delivered rows that are new or differ from what is stored (NaN equals NaN), and how many are new."""
    if stored is None:
        return delivered, len(delivered)
    known = stored.set_index("ts").reindex(delivered["ts"]).reset_index()
    values = list(COLUMNS[1:])
    theirs = delivered.reset_index(drop=True)
    same = (known[values].eq(theirs[values]) | (known[values].isna() & theirs[values].isna())).all(axis=1)
    return delivered[~same.to_numpy()], int((~delivered["ts"].isin(stored["ts"])).sum())
