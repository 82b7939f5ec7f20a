"""The year after a LIVE: what the deployment watch says of an edge that lasts, and of one that has ended.

Here: futures of informed policies, and the watch's first alarm in each. Not here: the test (core.deployment_watch).

The future of an edge that lasts is another year of a market with it. Of one that has ended it is a year of a market
without, in which the policy goes on trading as before: on a state of the same law that drifts nothing any more. Each
begins flat with the full capital.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from datetime import timedelta

import numpy as np
import numpy.typing as npt

from postval_assets.core.actions import action_sizes
from postval_assets.core.bootstrap import seeded
from postval_assets.core.decision import Decision
from postval_assets.core.deployment_watch import FoldReference, fold_reference, watch
from postval_assets.core.engine import BlockRun, Lane
from postval_assets.core.folds import PlanBlocks
from postval_assets.core.metrics import DAYS_PER_YEAR
from postval_assets.trainer.calibration.markets import LAST_DAY, TradedMarket
from postval_assets.trainer.calibration.records import Judged
from postval_assets.trainer.calibration.trading import RULES, scripted_runs
from postval_assets.trainer.planted_edge import ORDER_ACTIONS, PlantedEdge, simulate_states
from postval_assets.trainer.simulated_market import SAMPLE_SYMBOLS, actions_of_signs, simulate_market

Float = npt.NDArray[np.float64]

LASTS, ENDS = "lasts", "ends"
FUTURES = (LASTS, ENDS)
DAYS_AFTER = 365


def watched(
    judged: Sequence[tuple[list[Judged], TradedMarket, list[BlockRun]]],
    annual_sharpe: float,
    words: Sequence[str],
) -> list[Judged]:
    """The judged models, those that policy evidence calls LIVE with their alarms in both futures.

    Args:
        judged: of each informed policy its verdicts by plan, its market and the runs of all blocks.
        annual_sharpe: of the planted edge.
        words: the futures follow from them.
    """
    if not any(one.evidence == Decision.LIVE for verdicts, *_ in judged for one in verdicts):
        return [one for verdicts, *_ in judged for one in verdicts]
    futures = years_after(annual_sharpe, words)
    out = []
    for verdicts, market, runs in judged:
        first = 0
        for one, plan in zip(verdicts, market.cuts, strict=True):
            stop = first + len(plan.blocks)
            if one.evidence == Decision.LIVE:
                promised = _reference(one, plan, runs[first:stop], words)
                alarms = tuple(
                    (future, _alarm_day(promised, futures[one.symbol, future])) for future in FUTURES
                )
                out.append(dataclasses.replace(one, alarms=alarms))
            else:
                out.append(one)
            first = stop
    return out


def years_after(annual_sharpe: float, words: Sequence[str]) -> dict[tuple[str, str], Float]:
    """Returns per bar [return] of the informed policy in a year of each future, by symbol and future."""
    edge = PlantedEdge(annual_sharpe)
    first_day, last_day = LAST_DAY + timedelta(days=1), LAST_DAY + timedelta(days=DAYS_AFTER)
    lanes, actions, keys = [], [], []
    for spec in SAMPLE_SYMBOLS:
        for future in FUTURES:
            rng = seeded("after", *words, spec.symbol, future)
            market = simulate_market(spec, first_day, last_day, rng, edge if future == LASTS else None, RULES)
            state = market.state if future == LASTS else simulate_states(len(market.bars), edge, rng)
            lanes.append(Lane(market.bars, 0, len(market.bars), action_sizes(ORDER_ACTIONS)))
            actions.append(actions_of_signs(state, ORDER_ACTIONS))
            keys.append((spec.symbol, future))
    runs = scripted_runs(lanes, actions, RULES)
    return {key: np.diff(run.equity) / run.equity[:-1] for key, run in zip(keys, runs, strict=True)}


def _reference(
    one: Judged, plan: PlanBlocks, runs: Sequence[BlockRun], words: Sequence[str]
) -> FoldReference | None:
    parts = [np.diff(run.equity) / run.equity[:-1] for run in runs]
    lengths = [len(part) for part in parts]
    return fold_reference(
        np.concatenate(parts), lengths, plan.bars_per_year, *words, one.symbol, plan.plan.name, "watch"
    )


def _alarm_day(promised: FoldReference | None, returns: Float) -> float | None:
    """Days from deployment to the first alarm; None without one in the year."""
    result = None if promised is None else watch(promised, returns)
    if promised is None or result is None or result.alarm_index is None:
        return None
    return round((result.alarm_index + 1) / promised.bars_per_year * DAYS_PER_YEAR, 1)
