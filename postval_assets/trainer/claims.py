"""What training claims about a model: the four metrics of the gate, on the bars that were held back.

Here: the held-back blocks, trading them with the network as delivered, and the metrics. Not here: what the gate
makes of them (core/gating.py), or training.

The network is run by core/policy.py and traded by core/engine.py, as validation does later, so a claim and a
validation of the same bars cannot differ. The claims are still no evidence: the held-back bars choose which of the
run's networks is delivered.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import BlockRun, Lane, run_lanes
from postval_assets.core.policy import PolicyNetwork
from postval_assets.trainer.archive_writer import Claim
from postval_assets.trainer.rollout import bar_rewards

Float = npt.NDArray[np.float64]
Float32 = npt.NDArray[np.float32]

MAX_PROFIT_FACTOR = 10.0  # also where there is profit and no loss: a summary has no place for infinity


def claim_of(
    network: PolicyNetwork,
    features: Float32,
    lanes: Sequence[Lane],
    rules: ExecutionRules,
    reward_scale: float,
) -> Claim:
    """Trade the held-back blocks and measure them.

    Args:
        network: as delivered.
        features: market features [bar, feature] of the lanes' bars.
        lanes: the held-back blocks in time order.
        rules: of execution.
        reward_scale: log return that counts as a reward of 1.
    """
    runs = run_lanes(lanes, network.actor(features, lanes), rules)
    return claim_of_runs(runs, rules.capital, reward_scale)


def claim_of_runs(runs: Sequence[BlockRun], capital: float, reward_scale: float) -> Claim:
    """The metrics of finished blocks.

    - profit_factor: gross profit / gross loss of all round trips, at most 10; 0 without a round trip.
    - consistency: share of the blocks that gained.
    - max_drawdown: the proxy. The rewards of all blocks are summed up in time order, and the largest fall of that
      sum, times reward_scale, is taken for a fall of the logarithm of equity: 1 - exp(-fall). It knows no
      intrabar low, and it joins blocks that each began with the full capital.
    - fitness_score: (consistency + max(0, 1 - 1 / profit_factor)) / 2.
    """
    pnl = np.array([trip.pnl for run in runs for trip in run.trips])
    profit, loss = float(pnl[pnl > 0.0].sum()), float(-pnl[pnl < 0.0].sum())
    profit_factor = _profit_factor(profit, loss)
    consistency = float(np.mean([run.equity[-1] > capital for run in runs]))
    rewards = np.concatenate([bar_rewards(run, capital, reward_scale) for run in runs])
    curve = np.concatenate([[0.0], np.cumsum(rewards)])
    fall = float(np.max(np.maximum.accumulate(curve) - curve)) * reward_scale
    edge = max(0.0, 1.0 - 1.0 / profit_factor) if profit_factor > 0.0 else 0.0
    return Claim(
        fitness_score=(consistency + edge) / 2.0,
        profit_factor=profit_factor,
        consistency=consistency,
        max_drawdown=float(-np.expm1(-fall)),
    )


def _profit_factor(profit: float, loss: float) -> float:
    if loss > 0.0:
        return min(profit / loss, MAX_PROFIT_FACTOR)
    return MAX_PROFIT_FACTOR if profit > 0.0 else 0.0
