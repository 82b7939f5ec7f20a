"""A model's own actions through the engine again: in another order, later, or at other costs.

Here: what a model's folds would have returned under policies that know nothing (its runs of equal actions permuted,
always long, always flat, its own actions a day late), with each order a bar later, and at other costs: the engine
itself, no network. Not here: what follows from these figures (walk_forward_evidence.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import Bars
from postval_assets.core.bootstrap import seeded
from postval_assets.core.costs import BPS, ExecutionRules, TradingCosts
from postval_assets.core.engine import Lane, replayed_returns

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]

N_PERMUTATIONS = 200
# Costs around a first guess of the one that leaves nothing: the sum of returns is nearly linear in the cost.
_AROUND_GUESS = np.linspace(0.7, 1.3, 17)
# A bracket that is narrower than this share of the cost is interpolated.
_NARROW = 0.05
_HIGHEST_COST_BPS = 5_000.0


@dataclass(frozen=True, eq=False)
class PlayedFold:
    """A fold that was traded.

    Attributes:
        fold: its number.
        lane: bars and block.
        actions: decided at each step, [step]; -1 where none was (after ruin, at the block's last bar).
        traded_value: of all its fills, USD.
        total_return: a fraction.
    """

    fold: int
    lane: Lane
    actions: Int
    traded_value: float
    total_return: float

    @property
    def held(self) -> Int:
        """Its actions, HOLD where none was decided."""
        return np.where(self.actions < 0, _hold(self.lane), self.actions)


@dataclass(frozen=True)
class ReplayFigures:
    """What replays of a model's folds gave; returns are sums over the folds, fractions.

    Attributes:
        own_returns: of the model itself, [fold]; unless they are those of the folds, this was a replay of something
            else.
        null_percentile: share of the permuted policies whose sum is strictly below the model's.
        null_return: mean of their sums.
        always_long_return: the largest BUY at every bar.
        always_flat_return: HOLD at every bar.
        day_late_return: the model's own actions a trading day late.
        lag_return: each action one bar later, so that each order is filled one bar later.
        break_even_cost_bps: cost of one side at which the sum is 0; None where the model does not gain even without
            costs.
        assumed_cost_bps: fee and slippage of one side together.
    """

    own_returns: tuple[float, ...]
    null_percentile: float
    null_return: float
    always_long_return: float
    always_flat_return: float
    day_late_return: float
    lag_return: float
    break_even_cost_bps: float | None
    assumed_cost_bps: float

    def reproduces(self, folds: Sequence[PlayedFold]) -> bool:
        """Whether the model's own replay gave what the folds say: bars and settings are those of then."""
        stored = [fold.total_return for fold in folds]
        return bool(np.allclose(self.own_returns, stored, rtol=1e-9, atol=1e-9))


def replay_figures(folds: Sequence[PlayedFold], model_sha256: str, rules: ExecutionRules) -> ReplayFigures:
    """Replay a model's folds; all in lockstep, because a step costs about the same for few lanes and for many.

    Args:
        folds: at least one, all of one series of bars.
        model_sha256: seeds the permutations.
        rules: of the folds.
    """
    assumed = rules.costs(folds[0].lane.bars.asset_class)
    batch = _Batch(folds, rules)
    batch.add("own", [f.held[None] for f in folds])
    batch.add(
        "null",
        [permuted_runs(f.held, N_PERMUTATIONS, seeded(model_sha256, "null", str(f.fold))) for f in folds],
    )
    batch.add("long", [np.full((1, f.lane.n_bars), f.lane.sizes.argmax()) for f in folds])
    batch.add("flat", [np.full((1, f.lane.n_bars), _hold(f.lane)) for f in folds])
    batch.add("late", [delayed(f.held, bars_per_day(f.lane.bars), _hold(f.lane))[None] for f in folds])
    batch.add("lag", [delayed(f.held, 1, _hold(f.lane))[None] for f in folds])
    tried = _first_costs(folds, assumed, rules)
    batch.add("costs", [np.tile(f.held, (len(tried), 1)) for f in folds], [assumed.at(bps) for bps in tried])
    sums = {name: returns.sum(axis=0) for name, returns in batch.run().items()}
    own = float(sums["own"][0])
    return ReplayFigures(
        own_returns=tuple(float(r) for r in batch.returns["own"][:, 0]),
        null_percentile=float(np.mean(sums["null"] < own)),
        null_return=float(sums["null"].mean()),
        always_long_return=float(sums["long"][0]),
        always_flat_return=float(sums["flat"][0]),
        day_late_return=float(sums["late"][0]),
        lag_return=float(sums["lag"][0]),
        break_even_cost_bps=_break_even(
            folds, dict(zip(tried, sums["costs"].tolist(), strict=True)), assumed, rules
        ),
        assumed_cost_bps=assumed.bps,
    )


def permuted_runs(actions: Int, n_permutations: int, rng: np.random.Generator) -> Int:
    """Actions with their runs of equal ones in another order: as many trades, as long held, at other times.

    Args:
        actions: [step]; the last one, which nobody decides on, stays where it is.
        n_permutations: how many orders.
        rng: all randomness.

    Returns:
        [permutation, step].
    """
    decided = actions[:-1]
    starts = np.flatnonzero(np.diff(decided, prepend=decided[0] - 1 if decided.size else 0))
    lengths = np.diff(starts, append=len(decided))
    orders = rng.permuted(np.tile(np.arange(len(starts)), (n_permutations, 1)), axis=1)
    out = np.empty((n_permutations, len(actions)), dtype=np.int64)
    out[:, -1] = actions[-1]
    for row, order in zip(out, orders, strict=True):
        row[:-1] = np.repeat(decided[starts[order]], lengths[order])
    return out


def delayed(actions: Int, n_bars: int, hold: int) -> Int:
    """Actions [step] so many bars later, HOLD before."""
    return np.concatenate(
        [np.full(min(n_bars, len(actions)), hold), actions[: max(len(actions) - n_bars, 0)]]
    )


def bars_per_day(bars: Bars) -> int:
    """Bars of a usual trading day: the median over the UTC days that have any; at least 1."""
    _, counts = np.unique(bars.ts.astype("datetime64[D]"), return_counts=True)
    return max(int(np.median(counts)), 1)


def _hold(lane: Lane) -> int:
    return int(np.abs(lane.sizes).argmin())


class _Batch:
    """Variants of all folds, run together.

    Attributes:
        returns: by name, [fold, variant], once it was run.
    """

    def __init__(self, folds: Sequence[PlayedFold], rules: ExecutionRules) -> None:
        self._folds = folds
        self._rules = rules
        self._longest = max(fold.lane.n_bars for fold in folds)
        self._lanes: list[Lane] = []
        self._actions: list[Int] = []
        self._names: list[tuple[str, int]] = []
        self.returns: dict[str, Float] = {}

    def add(self, name: str, actions: Sequence[Int], costs: Sequence[TradingCosts] | None = None) -> None:
        """Add variants: their actions [variant, step] for each fold, and each variant's costs."""
        for fold, own in zip(self._folds, actions, strict=True):
            missing = self._longest - own.shape[1]
            self._actions.append(np.pad(own, ((0, 0), (0, missing))))
            self._lanes += (
                [fold.lane] * len(own) if costs is None else [replace(fold.lane, costs=c) for c in costs]
            )
        self._names.append((name, len(actions[0])))

    def run(self) -> dict[str, Float]:
        """Replay them all; what ``returns`` has afterwards."""
        flat = replayed_returns(self._lanes, np.concatenate(self._actions), self._rules)
        first = 0
        for name, n_variants in self._names:
            stop = first + len(self._folds) * n_variants
            self.returns[name] = flat[first:stop].reshape(len(self._folds), n_variants)
            first = stop
        return self.returns


def _first_costs(folds: Sequence[PlayedFold], assumed: TradingCosts, rules: ExecutionRules) -> list[float]:
    """Costs to try first: none, and some around where a straight line leads from what is known."""
    traded = sum(fold.traded_value for fold in folds) / rules.capital
    if traded == 0.0:
        return [0.0]
    guess = assumed.bps + sum(fold.total_return for fold in folds) / traded / BPS
    if guess <= 0.0:
        return [0.0]
    return [0.0, *(guess * _AROUND_GUESS).tolist()]


def _break_even(
    folds: Sequence[PlayedFold], tried: dict[float, float], assumed: TradingCosts, rules: ExecutionRules
) -> float | None:
    """The cost in basis points at which the sum of returns falls to 0.

    Args:
        folds: of the model.
        tried: sum of returns by cost, 0 among them.
        assumed: costs, whose proportion of fee and slippage is kept.
        rules: of the folds.
    """
    if tried[0.0] <= 0.0:
        return None
    while True:
        costs = sorted(tried)
        above = next((bps for bps in costs if tried[bps] <= 0.0), None)
        if above is None:
            if costs[-1] >= _HIGHEST_COST_BPS:
                return None
            more = [max(costs[-1], assumed.bps, 1.0) * factor for factor in (2.0, 4.0, 8.0, 16.0)]
        else:
            below = costs[costs.index(above) - 1]
            if above - below <= _NARROW * above:
                share = tried[below] / (tried[below] - tried[above])
                return below + share * (above - below)
            more = np.linspace(below, above, len(_AROUND_GUESS) + 2)[1:-1].tolist()
        tried = {**tried, **_sums_at(folds, more, assumed, rules)}


def _sums_at(
    folds: Sequence[PlayedFold], costs: Sequence[float], assumed: TradingCosts, rules: ExecutionRules
) -> dict[float, float]:
    batch = _Batch(folds, rules)
    batch.add("costs", [np.tile(f.held, (len(costs), 1)) for f in folds], [assumed.at(bps) for bps in costs])
    return dict(zip(costs, batch.run()["costs"].sum(axis=0).tolist(), strict=True))
