"""The reference sets: 53 documented market features, with the account features of each model version.

Here: the three sets and the table of their features. Not here: formulas (the module of each family), notation
(spec.py). The formulas of the original trainer are not public; these are standard ones of the same families
and counts, so a checkpoint of another trainer needs that trainer's features as a plug-in (docs/plugins.md).
"""

from __future__ import annotations

from itertools import chain

import numpy as np
import pandas as pd

from postval_assets.core.features import base, extended, markov, multi_window, technical, temporal
from postval_assets.core.features.feature_set import ACCOUNT_FEATURES, FeatureSet
from postval_assets.core.features.spec import BarArrays, FeatureSpec, Float

REFERENCE_VERSION = "1"

REFERENCE_SPECS: tuple[FeatureSpec, ...] = tuple(
    chain(base.SPECS, technical.SPECS, temporal.SPECS, markov.SPECS, extended.SPECS, multi_window.SPECS)
)
"""The market features in the order of an observation."""


def reference_features(frame: pd.DataFrame) -> Float:
    """The features of REFERENCE_SPECS: [bar, market feature], NaN where a feature's look-back is missing.

    Args:
        frame: ts (UTC), open, high, low, close (finite, above 0), volume (NaN where unknown), in time order.
    """
    bars = BarArrays.from_frame(frame)
    families = (
        base.base_features(bars),
        technical.technical_features(bars),
        temporal.temporal_features(bars),
        markov.markov_features(bars),
        extended.extended_features(bars),
        multi_window.multi_window_features(bars),
    )
    return np.concatenate(families, axis=1)


def _reference_set(n_account_features: int) -> FeatureSet:
    return FeatureSet(
        name=f"reference-{len(REFERENCE_SPECS) + n_account_features}",
        version=REFERENCE_VERSION,
        market_features=tuple(spec.name for spec in REFERENCE_SPECS),
        account_features=ACCOUNT_FEATURES[:n_account_features],
        look_back=max(spec.look_back for spec in REFERENCE_SPECS),
        compute=reference_features,
    )


REFERENCE_53 = _reference_set(0)
REFERENCE_56 = _reference_set(3)
REFERENCE_59 = _reference_set(6)
REFERENCE_SETS = (REFERENCE_53, REFERENCE_56, REFERENCE_59)
