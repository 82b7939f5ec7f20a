"""Evidence put together by hand for tests of the policy: all conditions hold, unless a test changes one."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from postval_assets.core.action_replays import ReplayFigures
from postval_assets.core.walk_forward import FoldOutcome
from postval_assets.core.walk_forward_evidence import (
    EvidenceLimits,
    SharpeEvidence,
    WalkForwardEvidence,
    weighed,
)
from postval_assets_tests.core.fold_cases import ok

RETURNS = SharpeEvidence(
    n_counted=5,
    n_out_of_sample=5,
    n_returns=4315,
    counted_return=0.06,
    sharpe=6.0,
    bootstrap_se=1.4,
    bootstrap_low=3.7,
    bootstrap_high=8.3,
    p_value=9.1e-6,
    n_trials=50,
    p_value_archive=4.5e-4,
    psr=0.999,
    track_record_days=179.8,
    min_track_record_days=92.0,
    consistency_ratio=1.0,
)
REPLAYS = ReplayFigures(
    own_returns=(0.01, 0.01, 0.01, 0.02, 0.01),
    null_percentile=1.0,
    null_return=-0.10,
    always_long_return=0.02,
    always_flat_return=0.0,
    day_late_return=-0.05,
    lag_return=0.02,
    break_even_cost_bps=75.0,
    assumed_cost_bps=30.0,
)
FOLDS = [ok(0.01, sharpe=5.0 + 0.5 * fold, fold=fold) for fold in range(1, 6)]


def proven(
    folds: list[FoldOutcome] | None = None, *, replays: ReplayFigures | None = REPLAYS, **changes: Any
) -> WalkForwardEvidence:
    """Evidence of these folds; changes are of the figures by name, of the returns or of the replays."""
    of_replays = {k: changes.pop(k) for k in list(changes) if hasattr(REPLAYS, k)}
    return weighed(
        replace(RETURNS, **changes),
        replace(replays, **of_replays) if replays is not None else None,
        FOLDS if folds is None else folds,
        n_folds=5,
        limits=EvidenceLimits(),
    )
