"""Models of a study through the real engine: networks in lockstep, and given actions.

Here: runs of blocks. Not here: who the models are (models.py, archives.py), or what the rules say (judging.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import BlockRun, Lane, ScriptedActor, run_lanes
from postval_assets.core.evaluation import NetworkWork, run_networks
from postval_assets.trainer.calibration.markets import TradedMarket
from postval_assets.trainer.calibration.models import WorthlessModel, sizes_of
from postval_assets.trainer.planted_edge import ORDER_ACTIONS
from postval_assets.trainer.simulated_market import informed_actions

RULES = ExecutionRules()
FREE_RULES = ExecutionRules(equity_fee_bps=0.0, crypto_fee_bps=0.0, slippage_bps=0.0)
"""Without costs a worthless model's expected return is exactly 0, the largest that it can be: the hardest case for the
size of a test."""


def trade(
    models: Sequence[WorthlessModel], markets: Mapping[str, TradedMarket], rules: ExecutionRules
) -> list[list[BlockRun]]:
    """Each model's blocks on its market, all networks in lockstep, axis [model][block]."""
    works = []
    for model in models:
        market = markets[model.symbol]
        works.append(NetworkWork(model.spec, model.tensors, market.features(), market.lanes(sizes_of(model))))
    runs = []
    for outcome in run_networks(works, rules):
        if isinstance(outcome, Exception):
            raise outcome
        runs.append(outcome)
    return runs


def without_costs(
    models: Sequence[WorthlessModel],
    markets: Mapping[str, TradedMarket],
    with_costs: Sequence[list[BlockRun]],
) -> list[list[BlockRun]]:
    """The same models without fees and slippage, axis [model][block].

    A network that does not see its account decides the same whatever trading costs, so its actions are replayed.
    """
    sighted = [bool(model.spec.account_features) for model in models]
    again = iter(trade([m for m, s in zip(models, sighted, strict=True) if s], markets, FREE_RULES))
    lanes: list[Lane] = []
    actions = []
    for model, own, sees in zip(models, with_costs, sighted, strict=True):
        if not sees:
            lanes += markets[model.symbol].lanes(sizes_of(model))
            actions += [np.maximum(run.actions, 0) for run in own]
    replayed = iter(scripted_runs(lanes, actions, FREE_RULES))
    return [
        next(again) if sees else [next(replayed) for _ in own]
        for own, sees in zip(with_costs, sighted, strict=True)
    ]


def informed_runs(market: TradedMarket, lanes: Sequence[Lane]) -> list[BlockRun]:
    """The blocks of the policy that knows the planted state; raises ValueError for a market that was not simulated."""
    if market.simulated is None:
        raise ValueError("nobody knows what is true of these bars")
    actions = informed_actions(market.simulated, ORDER_ACTIONS)
    return scripted_runs(lanes, [actions[lane.start : lane.stop] for lane in lanes], RULES)


def scripted_runs(
    lanes: Sequence[Lane], actions: Sequence[np.ndarray], rules: ExecutionRules
) -> list[BlockRun]:
    """Blocks traded by given actions [step], one array a lane."""
    return run_lanes(lanes, ScriptedActor(padded_actions(actions, lanes)), rules) if lanes else []


def padded_actions(actions: Sequence[np.ndarray], lanes: Sequence[Lane]) -> np.ndarray:
    """Actions of each lane [step] as one array [lane, step], as a ScriptedActor replays them."""
    out = np.zeros((len(lanes), max(lane.n_bars for lane in lanes)), dtype=np.int64)
    for row, own in zip(out, actions, strict=True):
        row[: len(own)] = own
    return out
