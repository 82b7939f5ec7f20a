"""The execution engine: rules.md section 3 for many blocks of bars in lockstep.

Here: order sizing, fills and float64 accounting. Not here: where actions come from (an Actor: policy.py runs the
network, ScriptedActor replays given actions), what a curve is worth (metrics.py), or which bars form a block
(folds.py).

A lane is one block evaluated with one policy. Lanes are independent of each other; they advance together, one bar a
step, so that every step is a handful of vector operations and one network call, whatever the number of folds, plans
or models of equal shape.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.ledger import RoundTrip, TripLedger

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]
Bool = npt.NDArray[np.bool_]

N_ACCOUNT_FEATURES = 6
NEUTRAL_ACCOUNT = (0.0, 0.5, 0.0, 0.0, 0.70, 0.0)


class RunStatus(StrEnum):
    """How a block ended."""

    OK = "OK"
    NO_TRADES = "NO_TRADES"
    RUINED = "RUINED"
    BROKEN_POLICY = "BROKEN_POLICY"


@dataclass(frozen=True, eq=False)
class Lane:
    """One block of bars to trade: decisions at ``start`` .. ``stop - 2``, closed at ``stop - 1``.

    Attributes:
        bars: the whole series; the lane reads only ``start`` .. ``stop - 1``.
        start: index of the first bar of the block.
        stop: index after its last bar.
        sizes: signed order size of each action, axis [action] (actions.action_sizes).
    """

    bars: Bars
    start: int
    stop: int
    sizes: Float

    @property
    def n_bars(self) -> int:
        """Bars in the block."""
        return self.stop - self.start


class Actor(Protocol):
    """Where actions come from."""

    def act(self, step: int, lanes: Int, account: Float) -> Int:
        """Action of each lane for the decision at its bar ``start + step``.

        Args:
            step: bars since the start of the block, the same for all lanes.
            lanes: indices of the lanes still running, axis [active].
            account: account features as the policy sees them, float64 [active, 6], in the contract's order.

        Returns:
            Action numbers, axis [active]; -1 where the policy's output was NaN or infinite.
        """
        ...


@dataclass(frozen=True, eq=False)
class BlockRun:
    """What happened in one block.

    Attributes:
        status: how it ended.
        equity: axis [point]; the first point equals the capital, one a bar; shorter than the block only where it
            ended early. A ruined block's last point is 0.
        position: quantity held after the close of each point's bar; 0 at the block's end.
        actions: action decided at each point; -1 where there was no decision (the last point).
        trips: completed round trips in time order.
        lapsed_orders: orders that met a bar without volume.
        traded_value: sum of quantity times fill price over all fills, USD.
        fees: USD.
        n_bars: bars in the block.
    """

    status: RunStatus
    equity: Float
    position: Float
    actions: Int
    trips: tuple[RoundTrip, ...]
    lapsed_orders: int
    traded_value: float
    fees: float
    n_bars: int


@dataclass
class ScriptedActor:
    """Replays given actions: null policies, tests.

    Attributes:
        actions: axis [lane, step].
    """

    actions: Int

    def act(self, step: int, lanes: Int, account: Float) -> Int:  # noqa: ARG002 - the protocol's signature
        """The given action of each lane at this step."""
        chosen: Int = self.actions[lanes, step]
        return chosen


@dataclass
class _State:
    """Books of all lanes, float64, axis [lane]."""

    cash: Float
    quantity: Float
    peak: Float
    lapsed: Int
    traded: Float
    fees: Float
    status: list[RunStatus] = field(default_factory=list)


def run_lanes(lanes: Sequence[Lane], actor: Actor, rules: ExecutionRules) -> list[BlockRun]:
    """Trade every lane from flat with the full capital to its end.

    Args:
        lanes: blocks of at least two bars with finite, positive prices (folds.py refuses others).
        actor: gives the actions.
        rules: costs and sizes; fee and long-only follow each lane's asset class.

    Returns:
        One BlockRun a lane, in order.
    """
    n = len(lanes)
    if n == 0:
        return []
    length = np.array([lane.n_bars for lane in lanes])
    if length.min() < 2:
        raise ValueError("a block needs at least two bars: one to decide on and one to fill at")
    steps = int(length.max())
    opens, closes, volumes = (_padded(lanes, name, steps) for name in ("open", "close", "volume"))
    sizes = _padded_sizes(lanes)
    fee_rate = np.array([rules.fee_rate(lane.bars.asset_class) for lane in lanes])
    long_only = np.array([rules.long_only(lane.bars.asset_class) for lane in lanes])

    state = _State(
        cash=np.full(n, rules.capital),
        quantity=np.zeros(n),
        peak=np.full(n, rules.capital),
        lapsed=np.zeros(n, dtype=np.int64),
        traded=np.zeros(n),
        fees=np.zeros(n),
        status=[RunStatus.OK] * n,
    )
    ledger = TripLedger(n)
    equity = np.full((n, steps), np.nan)
    position = np.zeros((n, steps))
    actions = np.full((n, steps), -1, dtype=np.int64)
    n_points = length.copy()
    alive = np.ones(n, dtype=bool)

    for step in range(steps):
        active = np.flatnonzero(alive)
        if active.size == 0:
            break
        close = closes[active, step]
        last = active[step == length[active] - 1]
        if last.size:
            _close_out(state, ledger, last, closes[last, step], rules.slippage, fee_rate, step)
        value = state.quantity[active] * close
        equity_now = state.cash[active] + value
        ruined = equity_now <= 0.0
        if ruined.any():
            lost = active[ruined]
            _close_out(state, ledger, lost, closes[lost, step], rules.slippage, fee_rate, step)
            for lane in lost:
                state.status[lane] = RunStatus.RUINED
            n_points[lost] = step + 1
            equity_now = np.where(ruined, 0.0, equity_now)
        equity[active, step] = equity_now
        position[active, step] = state.quantity[active]
        state.peak[active] = np.maximum(state.peak[active], equity_now)
        alive[last] = False
        alive[active[ruined]] = False

        deciding = alive[active]
        active, close, value, equity_now = (x[deciding] for x in (active, close, value, equity_now))
        if active.size == 0:
            continue
        account = account_features(
            equity_now, value, state.cash[active], state.peak[active], ledger.win_rate(active), rules
        )
        chosen = actor.act(step, active, account)
        broken = chosen < 0
        if broken.any():
            for lane in active[broken]:
                state.status[lane] = RunStatus.BROKEN_POLICY
            n_points[active[broken]] = step + 1
            alive[active[broken]] = False
            active, close, value, equity_now, chosen = (
                x[~broken] for x in (active, close, value, equity_now, chosen)
            )
        actions[active, step] = chosen
        order = order_quantity(
            sizes[active, chosen], equity_now, value, close, state.quantity[active], long_only[active], rules
        )
        wanted = order != 0.0
        if not rules.zero_volume_fills:
            lapses = wanted & (volumes[active, step + 1] == 0.0)  # NaN (unknown) compares unequal: it fills
            state.lapsed[active[lapses]] += 1
            wanted &= ~lapses
        if wanted.any():
            filled = active[wanted]
            dq = order[wanted]
            price = opens[filled, step + 1] * (1.0 + np.sign(dq) * rules.slippage)
            _fill(state, ledger, filled, dq, price, fee_rate[filled], step + 1)

    trips = ledger.trips
    runs = []
    for i in range(n):
        status = state.status[i]
        if status is RunStatus.OK and not trips[i]:
            status = RunStatus.NO_TRADES
        k = int(n_points[i])
        runs.append(
            BlockRun(
                status=status,
                equity=equity[i, :k].copy(),
                position=position[i, :k].copy(),
                actions=actions[i, :k].copy(),
                trips=tuple(trips[i]),
                lapsed_orders=int(state.lapsed[i]),
                traded_value=float(state.traded[i]),
                fees=float(state.fees[i]),
                n_bars=lanes[i].n_bars,
            )
        )
    return runs


def account_features(
    equity: Float, value: Float, cash: Float, peak: Float, win_rate: Float, rules: ExecutionRules
) -> Float:
    """Account features at a close, float64 [lane, 6]: rules.md section 3, in the contract's order."""
    out = np.empty((len(equity), N_ACCOUNT_FEATURES))
    if rules.neutral_account_features:
        out[:] = NEUTRAL_ACCOUNT
        return out
    growth = equity / rules.capital
    out[:, 0] = np.tanh(10.0 * (growth - 1.0))
    out[:, 1] = win_rate
    out[:, 2] = (peak - equity) / peak
    out[:, 3] = np.abs(value) / equity / rules.max_position
    out[:, 4] = np.clip(cash / equity, 0.0, 1.0)
    out[:, 5] = np.log10(growth)
    return out


def order_quantity(
    size: Float,
    equity: Float,
    value: Float,
    close: Float,
    quantity: Float,
    long_only: Bool,
    rules: ExecutionRules,
) -> Float:
    """Signed quantity of the order decided at a close, axis [lane]; 0 where there is none.

    Args:
        size: signed size of the action (0 HOLD).
        equity, value: USD at the close.
        close: price.
        quantity: held.
        long_only: where selling stops at flat.
        rules: sizes and limits.
    """
    unit = equity * (1.0 - rules.safety_buffer) * rules.base_alloc
    limit = rules.max_position * equity
    buy = np.minimum(size * unit, limit - value)
    sellable = np.where(long_only, value, limit + value)
    sell = np.minimum(-size * unit, sellable)
    usd = np.where(size > 0.0, np.maximum(buy, 0.0), np.where(size < 0.0, -np.maximum(sell, 0.0), 0.0))
    usd = np.where(np.abs(usd) < rules.min_order_usd, 0.0, usd)
    order = usd / close
    # A long-only sale of the whole value sells exactly what is held, and no rounding sells more than that.
    whole = long_only & (usd < 0.0) & (-size * unit >= value)
    order = np.where(whole, -quantity, order)
    capped: Float = np.where(long_only & (order < 0.0), np.maximum(order, -quantity), order)
    return capped


def _fill(
    state: _State, ledger: TripLedger, lanes: Int, dq: Float, price: Float, fee_rate: Float, step: int
) -> None:
    fee = fee_rate * np.abs(dq) * price
    before = state.quantity[lanes]
    after = before + dq
    # dq = -before cancels exactly in IEEE arithmetic; nothing else may be taken for flat.
    state.cash[lanes] -= dq * price + fee
    state.quantity[lanes] = after
    state.traded[lanes] += np.abs(dq) * price
    state.fees[lanes] += fee
    ledger.record(lanes, before, dq, price, fee, step)


def _close_out(
    state: _State, ledger: TripLedger, lanes: Int, close: Float, slippage: float, fee_rate: Float, step: int
) -> None:
    held = state.quantity[lanes] != 0.0
    lanes, close = lanes[held], close[held]
    if lanes.size == 0:
        return
    dq = -state.quantity[lanes]
    price = close * (1.0 + np.sign(dq) * slippage)
    _fill(state, ledger, lanes, dq, price, fee_rate[lanes], step)


def _padded(lanes: Sequence[Lane], name: str, steps: int) -> Float:
    out = np.full((len(lanes), steps), np.nan)
    for i, lane in enumerate(lanes):
        out[i, : lane.n_bars] = getattr(lane.bars, name)[lane.start : lane.stop]
    return out


def _padded_sizes(lanes: Sequence[Lane]) -> Float:
    out = np.zeros((len(lanes), max(len(lane.sizes) for lane in lanes)))
    for i, lane in enumerate(lanes):
        out[i, : len(lane.sizes)] = lane.sizes
    return out
