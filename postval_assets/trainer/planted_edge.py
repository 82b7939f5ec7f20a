"""A planted edge: a hidden state that drifts the next bar, shows in the shape of this one, and has a stated worth.

Here: the state's path, how it shows in a bar, and the drift that gives the policy which knows it a stated Sharpe
ratio after costs (derivation: docs/simulated-market.md). Not here: prices (simulated_market.py) or trading
(core/engine.py).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Float
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.instruments import AssetClass

Int = npt.NDArray[np.int64]

SHOWN_NOISE = 0.12
"""What blurs the state in a bar: standard deviation of the noise on the difference of its shadows, in units of the
bar's own volatility."""

ORDER_ACTIONS = 7
"""The action space for which the worth of an edge is stated; its largest order is the largest of all."""


@dataclass(frozen=True)
class PlantedEdge:
    """What is hidden in a market.

    Attributes:
        annual_sharpe: of the policy that knows the state, after costs, annualised as in docs/rules.md, section 4.
        mean_state_bars: mean length of a stay in one state, in bars; stays are geometric.
    """

    annual_sharpe: float
    mean_state_bars: float = 48.0

    def __post_init__(self) -> None:
        """Raises ValueError where there is no such edge."""
        if not (math.isfinite(self.annual_sharpe) and self.annual_sharpe >= 0.0):
            raise ValueError(f"annual_sharpe must be 0 or more, not {self.annual_sharpe}")
        if not (math.isfinite(self.mean_state_bars) and self.mean_state_bars >= 2.0):
            raise ValueError(f"mean_state_bars must be 2 or more, not {self.mean_state_bars}")


@dataclass(frozen=True)
class PositionMoments:
    """What the informed policy holds and trades in the long run.

    With w the position during a bar in units of the largest one, x the state that drifts the bar, and d the size of
    the trade at its open.

    Attributes:
        aligned: mean of w x.
        square: mean of w^2.
        traded: mean of d.
        traded_square: mean of d^2.
        aligned_traded: mean of w x d.
    """

    aligned: float
    square: float
    traded: float
    traded_square: float
    aligned_traded: float


def simulate_states(n_bars: int, edge: PlantedEdge, rng: np.random.Generator) -> Int:
    """A path of the symmetric two-state chain, axis [bar]: +1 and -1, as likely, in geometric stays."""
    first = 1 if rng.random() < 0.5 else -1
    flips = rng.random(n_bars) < 1.0 / edge.mean_state_bars
    return np.asarray(first * (1 - 2 * (np.cumsum(flips) % 2)), dtype=np.int64)


def show_states(steps: Float, state: Int, rng: np.random.Generator) -> Float:
    """The steps inside each bar, in reverse order where that makes the longer shadow the one that the state says.

    In state +1 the lower shadow is the longer one wherever the difference of the shadows is more than the noise, in
    -1 the upper one. Steps taken in reverse order swap the two shadows of a bar and leave its open, close and range
    as they are; either order is equally likely before. So the law of a single bar does not change, and neither does
    any close.

    Args:
        steps: log returns inside the bars, exchangeable within a bar, axis [bar, step].
        state: +1 or -1, axis [bar].
        rng: draws the noise.
    """
    walk = np.cumsum(steps, axis=1)
    end = walk[:, -1]
    upper = np.maximum(walk.max(axis=1), 0.0) - np.maximum(end, 0.0)
    lower = np.minimum(end, 0.0) - np.minimum(walk.min(axis=1), 0.0)
    noise = SHOWN_NOISE * np.sqrt((steps**2).sum(axis=1)) * rng.standard_normal(len(state))
    shown = np.where(np.abs(lower - upper) > noise, state, -state)
    wrong = (lower - upper) * shown < 0.0
    return np.where(wrong[:, None], steps[:, ::-1], steps)


def drift_for(
    edge: PlantedEdge,
    sigma: Float,
    gap_sigma: Float,
    bars_per_year: float,
    asset_class: AssetClass,
    zero_volume_share: float,
    rules: ExecutionRules,
) -> float:
    """Drift of a bar, in units of its volatility, that is worth what the edge states.

    Per unit of the largest position the informed policy earns in a bar, to first order,

        w x m sigma + w (noise of the bar and of the gap before it) - c d

    with m the drift, c = fee + slippage, and position w, state x and trade d as in PositionMoments; they are
    independent of sigma. So the per-bar mean is A m - B and the second moment C m^2 - 2 F m + G, with

        A = E[wx] E[sigma]    B = c E[d]    C = E[w^2] E[sigma^2]
        F = c E[wxd] E[sigma] G = E[w^2] (E[sigma^2] + E[gap^2]) + c^2 E[d^2]

    and s = annual_sharpe / sqrt(bars_per_year) is reached where (A m - B)^2 (1 + s^2) = s^2 (C m^2 - 2 F m + G) and
    A m >= B: a quadratic equation in m. The size of the position cancels.

    Args:
        edge: what is wanted.
        sigma: volatility of each bar, open to close, axis [bar].
        gap_sigma: volatility of the gap before each bar, axis [bar].
        bars_per_year: as measured over the same bars.
        asset_class: decides fee and whether the policy may be short.
        zero_volume_share: share of orders that lapse.
        rules: costs and order sizes.

    Raises:
        ValueError: where no drift is worth that much.
    """
    moments = position_moments(edge.mean_state_bars, order_step(rules), zero_volume_share, asset_class, rules)
    cost = rules.fee_rate(asset_class) + rules.slippage
    variance, gap_variance = float(np.mean(sigma**2)), float(np.mean(gap_sigma**2))
    a = moments.aligned * float(np.mean(sigma))
    b = cost * moments.traded
    c = moments.square * variance
    f = cost * moments.aligned_traded * float(np.mean(sigma))
    g = moments.square * (variance + gap_variance) + cost**2 * moments.traded_square
    s2 = edge.annual_sharpe**2 / bars_per_year
    # The larger root of k m^2 - 2 h m + j = 0: there A m >= B.
    k = a * a * (1.0 + s2) - s2 * c
    h = a * b * (1.0 + s2) - s2 * f
    j = b * b * (1.0 + s2) - s2 * g
    if k <= 0.0:
        raise ValueError(
            f"no drift gives a Sharpe ratio of {edge.annual_sharpe:g} with states of {edge.mean_state_bars:g} bars"
        )
    return (h + math.sqrt(max(h * h - k * j, 0.0))) / k


def order_step(rules: ExecutionRules) -> float:
    """The largest order as a share of the largest position."""
    largest = float(np.max(action_sizes(ORDER_ACTIONS)))
    return largest * (1.0 - rules.safety_buffer) * rules.base_alloc / rules.max_position


def position_moments(
    mean_state_bars: float,
    step: float,
    lapse_share: float,
    asset_class: AssetClass,
    rules: ExecutionRules,
) -> PositionMoments:
    """Long-run moments of the informed policy, exact for positions that prices do not move.

    Position before the fill and state together are a finite Markov chain: an order moves the position by ``step``
    towards the largest one, long in state +1, and in -1 short or, long-only, flat.

    Args:
        mean_state_bars: of the hidden state.
        step: of an order, in units of the largest position.
        lapse_share: share of orders that are not filled.
        asset_class: decides whether the policy may be short.
        rules: says what the asset class may do.
    """
    if step <= 0.0:
        raise ValueError("these rules leave no order to trade with")
    lowest = 0.0 if rules.long_only(asset_class) else -1.0
    levels = _levels(step, lowest)
    n = len(levels)
    position, x = np.tile(levels, 2), np.repeat([1.0, -1.0], n)
    filled = np.clip(position + step * x, lowest, 1.0)
    target = np.abs(levels[None, :] - filled[:, None]).argmin(axis=1)

    chain = np.zeros((2 * n, 2 * n))
    rows, half = np.arange(2 * n), n * (x < 0.0)
    for level, chance in ((target, 1.0 - lapse_share), (rows % n, lapse_share)):
        chain[rows, half + level] += chance * (1.0 - 1.0 / mean_state_bars)
        chain[rows, n - half + level] += chance / mean_state_bars
    equations = np.vstack([chain.T - np.eye(2 * n), np.ones(2 * n)])
    share = np.linalg.lstsq(equations, np.append(np.zeros(2 * n), 1.0))[0]

    traded = np.abs(filled - position)
    fills, lapses = share * (1.0 - lapse_share), share * lapse_share
    return PositionMoments(
        aligned=float(fills @ (filled * x) + lapses @ (position * x)),
        square=float(fills @ filled**2 + lapses @ position**2),
        traded=float(fills @ traded),
        traded_square=float(fills @ traded**2),
        aligned_traded=float(fills @ (filled * x * traded)),
    )


def _levels(step: float, lowest: float) -> Float:
    """Every position that orders of that step can lead to, axis [level]."""
    found = {lowest, 1.0}
    steps_across = math.ceil((1.0 - lowest) / step)
    for k in range(1, steps_across):
        found |= {round(1.0 - k * step, 12), round(lowest + k * step, 12)}
    return np.array(sorted(found))
