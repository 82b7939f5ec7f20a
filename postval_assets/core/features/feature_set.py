"""A feature set: named features of the bars, computed by a function that this project or a plug-in brings.

Here: the container, running it and checking what it returns. Not here: whether it sees only what it may
(causality.py), which sets there are and which one a checkpoint means (registry.py), the formulas of the
reference sets (reference.py and the family modules).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from postval_assets.core.bars import PRICE_COLUMNS, Bars
from postval_assets.core.failures import Rejected

ACCOUNT_FEATURES = ("total_pnl", "win_rate", "drawdown", "position_pct", "available_pct", "account_change")
"""The last features of an observation, computed by the engine, in the order of the contract."""

_ACCOUNT_FEATURE_COUNTS = (0, 3, 6)

ComputeFeatures = Callable[[pd.DataFrame], npt.NDArray[np.floating]]


@dataclass(frozen=True)
class FeatureSet:
    """Features by name, and the function that computes those of the market.

    Attributes:
        name: how checkpoints, settings and tables call it.
        version: changes when values change; part of result digests.
        market_features: names in the order of the columns that ``compute`` returns.
        account_features: the first 0, 3 or 6 of ACCOUNT_FEATURES; they follow the market features.
        look_back: number of bars, the current one included, that a feature at bar t may depend on, at most.
        compute: from a bars frame (ts in UTC, open, high, low, close, volume; volume may be NaN) to values
            [bar, market feature]; rows before look_back - 1 are ignored.
    """

    name: str
    version: str
    market_features: tuple[str, ...]
    account_features: tuple[str, ...]
    look_back: int
    compute: ComputeFeatures

    def __post_init__(self) -> None:
        """Hold the invariants; raises Rejected naming the set and what is wrong with it."""
        where = f"feature set {ascii(self.name)[:60]}"
        if not all(isinstance(text, str) and text for text in (self.name, self.version)):
            raise Rejected(f"{where}: name and version must be texts that are not empty")
        if not all(isinstance(names, tuple) for names in (self.market_features, self.account_features)):
            raise Rejected(f"{where}: market_features and account_features must be tuples of names")
        if not self.market_features or not all(isinstance(n, str) and n for n in self.feature_names):
            raise Rejected(
                f"{where}: every feature needs a name, and there must be at least one market feature"
            )
        repeated = sorted({n for n in self.feature_names if self.feature_names.count(n) > 1})
        if repeated:
            raise Rejected(f"{where}: feature name(s) used more than once: {', '.join(repeated)}")
        if self.account_features not in [ACCOUNT_FEATURES[:n] for n in _ACCOUNT_FEATURE_COUNTS]:
            raise Rejected(
                f"{where}: account features {self.account_features} are not to be had; "
                f"expected none, or the first 3 or all 6 of {', '.join(ACCOUNT_FEATURES)}"
            )
        if not isinstance(self.look_back, int) or isinstance(self.look_back, bool) or self.look_back < 1:
            raise Rejected(
                f"{where}: look_back must be a whole number of bars from 1 on, not {self.look_back!r}"
            )
        if not callable(self.compute):
            raise Rejected(
                f"{where}: compute must be a function from a bars frame to an array [bar, feature]"
            )

    @property
    def feature_names(self) -> tuple[str, ...]:
        """All features of one bar of an observation: the market's, then the account's."""
        return self.market_features + self.account_features

    @property
    def n_features(self) -> int:
        """Number of features of one bar of an observation, account features included."""
        return len(self.market_features) + len(self.account_features)


def compute_features(feature_set: FeatureSet, bars: Bars) -> npt.NDArray[np.float32]:
    """The market features of bars, C-contiguous float32, [bar, market feature].

    Rows before ``look_back - 1`` are NaN, whatever the set put there; all later ones are finite. Fewer bars
    than ``look_back`` give NaN throughout, and the set is not asked.

    Raises:
        Rejected: a price that is not above 0 and finite, or a set that raises, returns another shape or kind
            of value, or is not finite in a row that counts; names the set, the feature and the bar.
    """
    features = np.full((len(bars), len(feature_set.market_features)), np.nan, dtype=np.float32)
    first = feature_set.look_back - 1
    if len(bars) <= first:
        return features
    require_prices(bars)
    features[first:] = raw_features(feature_set, bars)[first:]
    bad = np.argwhere(~np.isfinite(features[first:]))
    if len(bad):
        row, column = int(bad[0, 0]) + first, int(bad[0, 1])
        # A value that waits for later bars is missing where there are none.
        at_end = first < row and not np.isfinite(features[row:, column]).any()
        raise Rejected(
            f"{_where(feature_set, bars)}: {feature_set.market_features[column]} is {features[row, column]} at "
            f"{bars.ts[row]} (bar {row}); expected finite float32 values from bar {first} on, because its "
            f"look-back is {feature_set.look_back} bars; {len(bad)} value(s) are not"
            f"{', this one to the last bar on: does it wait for later bars?' if at_end else ''}"
        )
    return features


def raw_features(
    feature_set: FeatureSet, bars: Bars, frame: pd.DataFrame | None = None
) -> npt.NDArray[np.float32]:
    """What the set itself returns for bars, finite or not, as float32, [bar, market feature].

    Args:
        feature_set: asked for its values.
        bars: given to it.
        frame: the same bars as a frame, for a caller that wants to see what the set did to it.

    Raises:
        Rejected: a set that raises, or returns another shape or kind of value.
    """
    shape = (len(bars), len(feature_set.market_features))
    try:
        values = np.asarray(feature_set.compute(bars.frame() if frame is None else frame))
    except Exception as error:
        raise Rejected(
            f"{_where(feature_set, bars)}: it failed with {type(error).__name__}: {error}"
        ) from error
    if values.shape != shape or values.dtype.kind not in "fiu":
        raise Rejected(
            f"{_where(feature_set, bars)}: it returned {values.dtype} values of shape {list(values.shape)}; "
            f"expected floating-point values of shape {list(shape)}, [bar, market feature]"
        )
    with np.errstate(over="ignore"):  # beyond float32 becomes infinite, and is told where it counts
        return values.astype(np.float32)


def require_prices(bars: Bars) -> None:
    """Raises Rejected where a price is not finite and above 0, naming the first one."""
    for name in PRICE_COLUMNS:
        price = getattr(bars, name)
        bad = np.flatnonzero(~((price > 0.0) & (price < np.inf)))
        if len(bad):
            raise Rejected(
                f"bars of {bars.symbol} ({bars.timeframe}): {name} is {price[bad[0]]} at {bars.ts[bad[0]]}; "
                f"features need finite prices above 0, and {len(bad)} of {len(bars)} bars have another"
            )


def _where(feature_set: FeatureSet, bars: Bars) -> str:
    return f"feature set {feature_set.name} on bars of {bars.symbol} ({bars.timeframe})"
