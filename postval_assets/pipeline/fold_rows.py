"""Rows of an evaluated fold: its metrics, its equity curve and its round trips.

Here: from a FoldEvaluation to the columns of fold_results (and backtest_results), equity_curves and trades, and back
to what a summary needs. Not here: which folds are evaluated, or writing (evaluation.py).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd

from postval_assets.core.bars import Bars
from postval_assets.core.evaluation import FoldEvaluation
from postval_assets.core.folds import PlanBlocks, TrainingOverlap, to_datetime
from postval_assets.core.walk_forward import FoldOutcome, FoldStatus


def fold_row(
    keys: Mapping[str, object],
    plan_blocks: PlanBlocks,
    evaluation: FoldEvaluation,
    bars: Bars,
    digests: Mapping[str, object],
) -> dict[str, object]:
    """The row of one fold; every metric is NULL where the fold was not computed."""
    block = evaluation.block
    has_bars = block.n_bars > 0
    metrics = dataclasses.asdict(evaluation.metrics) if evaluation.metrics else {}
    return {
        **keys,
        "plan": plan_blocks.plan.name,
        "fold": block.fold,
        "n_folds": plan_blocks.plan.n_folds,
        "start_ts": to_datetime(bars.ts[block.start]) if has_bars else None,
        "end_ts": to_datetime(bars.ts[block.stop - 1]) if has_bars else None,
        "training_overlap": evaluation.training_overlap.value,
        "bars_per_year": plan_blocks.bars_per_year,
        **metrics,
        "n_bars": block.n_bars,
        "status": evaluation.status.value,
        "reason": evaluation.reason,
        **digests,
        "bars_digest": evaluation.bars_digest,
        "inputs_digest": evaluation.inputs_digest,
    }


def curve_frame(keys: Mapping[str, object], evaluation: FoldEvaluation, bars: Bars) -> pd.DataFrame:
    """The equity curve of a fold, a row a bar; action is NULL where none was decided."""
    run = evaluation.run
    if run is None:
        raise ValueError("a fold that was not run has no curve")
    start = evaluation.block.start
    ts = pd.Series(bars.ts[start : start + len(run.equity)]).dt.tz_localize("UTC")
    action = pd.array(np.where(run.actions < 0, 0, run.actions), dtype="Int64")
    action[run.actions < 0] = pd.NA
    frame = pd.DataFrame({"ts": ts, "equity": run.equity, "position": run.position, "action": action})
    values: dict[str, Any] = dict(keys)
    return frame.assign(**values)


def trip_rows(keys: Mapping[str, object], evaluation: FoldEvaluation, bars: Bars) -> list[dict[str, object]]:
    """The round trips of a fold."""
    if evaluation.run is None:
        return []
    start = evaluation.block.start
    return [
        {
            **keys,
            "trade": number,
            "entry_ts": to_datetime(bars.ts[start + trip.entry_step]),
            "exit_ts": to_datetime(bars.ts[start + trip.exit_step]),
            "side": trip.side.value,
            "quantity": trip.quantity,
            "entry_price": trip.entry_price,
            "exit_price": trip.exit_price,
            "pnl": trip.pnl,
            "fees": trip.fees,
        }
        for number, trip in enumerate(evaluation.run.trips, start=1)
    ]


def fold_outcome(row: Mapping[str, Any]) -> FoldOutcome:
    """What a summary needs of a stored fold."""
    return FoldOutcome(
        fold=row["fold"],
        status=FoldStatus(row["status"]),
        training_overlap=TrainingOverlap(row["training_overlap"]),
        n_bars=row["n_bars"],
        total_return=row["total_return"],
        sharpe=row["sharpe"],
        n_trades=row["n_trades"],
        reason=row["reason"],
    )
