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
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules, TradingCosts
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
        costs: in place of those of the rules, where a replay asks what other costs would leave.
    """

    bars: Bars
    start: int
    stop: int
    sizes: Float
    costs: TradingCosts | None = None

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


def run_lanes(lanes: Sequence[Lane], actor: Actor, rules: ExecutionRules) -> list[BlockRun]:
    """Trade every lane from flat with the full capital to its end.

    Args:
        lanes: blocks of at least two bars with finite, positive prices (folds.py refuses others).
        actor: gives the actions.
        rules: costs and sizes; fee and long-only follow each lane's asset class.

    Returns:
        One BlockRun a lane, in order.
    """
    if not lanes:
        return []
    books = _Books(lanes, rules)
    books.run(actor)
    return [books.result(i) for i in range(len(lanes))]


def replayed_returns(lanes: Sequence[Lane], actions: npt.NDArray[np.integer], rules: ExecutionRules) -> Float:
    """Total return of each lane under given actions: the same books, of which only the last equity is kept.

    Args:
        lanes: as in run_lanes; many lanes over one block share its prices.
        actions: of each lane at each step, [lane, step]; what stands at a lane's last bar and after it is not read.
        rules: costs and sizes.

    Returns:
        Last equity / capital - 1, axis [lane]; -1 for a lane that was ruined.
    """
    if not lanes:
        return np.empty(0)
    books = _Books(lanes, rules, keeps_curves=False)
    books.run(_Replayed(np.ascontiguousarray(actions.T)))
    return books.last_equity / rules.capital - 1.0


@dataclass(frozen=True, eq=False)
class _Replayed:
    """Given actions [step, lane]."""

    actions: npt.NDArray[np.integer]

    def act(self, step: int, lanes: Int, account: Float) -> Int:  # noqa: ARG002 - the protocol's signature
        row = self.actions[step]
        chosen: Int = row if lanes.size == row.size else row[lanes]
        return chosen


class _Books:
    """The books of all lanes, float64, axis [lane] or [step, lane].

    A step is a few dozen operations on a handful of numbers, so what a call of numpy costs decides: as long as every
    lane is running, whole arrays are taken in place of the lanes' indices.

    Attributes:
        n_steps: bars of the longest block.
        deciding: indices of the lanes that run on after the step that was marked last, ascending.
        last_equity: at the newest bar that was marked, axis [lane].
    """

    def __init__(self, lanes: Sequence[Lane], rules: ExecutionRules, *, keeps_curves: bool = True) -> None:
        """Open the books.

        Args:
            lanes: blocks to trade.
            rules: costs and sizes.
            keeps_curves: whether curves, round trips and account features are kept; a replay of given actions needs
                none of them, and they are most of what a step costs.
        """
        if min(lane.n_bars for lane in lanes) < 2:
            raise ValueError("a block needs at least two bars: one to decide on and one to fill at")
        n = len(lanes)
        self.rules = rules
        self.length: Int = np.array([lane.n_bars for lane in lanes], dtype=np.int64)
        self.n_steps = int(self.length.max())
        self.opens, self.closes, self.volumes = (
            _padded(lanes, name, self.n_steps) for name in ("open", "close", "volume")
        )
        self.sizes = _padded_sizes(lanes)
        costs = [lane.costs or rules.costs(lane.bars.asset_class) for lane in lanes]
        self.fee_rate = np.array([c.fee_rate for c in costs])
        self.slippage = np.array([c.slippage for c in costs])
        self.long_only = np.array([rules.long_only(lane.bars.asset_class) for lane in lanes])
        self.cash = np.full(n, rules.capital)
        self.quantity = np.zeros(n)
        self.peak = np.full(n, rules.capital)
        self.lapsed = np.zeros(n, dtype=np.int64)
        self.traded = np.zeros(n)
        self.fees = np.zeros(n)
        self.status = [RunStatus.OK] * n
        self.keeps_curves = keeps_curves
        self.ledger = TripLedger(n)
        self.last_equity = np.full(n, rules.capital)
        n_points = self.n_steps if keeps_curves else 0
        self.equity = np.full((n_points, n), np.nan)
        self.position = np.zeros((n_points, n))
        self.actions = np.full((n_points, n), -1, dtype=np.int64)
        self.n_points = self.length.copy()
        self.alive = np.ones(n, dtype=bool)
        self.deciding: Int = np.arange(n)
        self._last_steps = frozenset((self.length - 1).tolist())

    def run(self, actor: Actor) -> None:
        """Trade all lanes to their ends."""
        for step in range(self.n_steps):
            if not self.deciding.size:
                break
            close, equity = self.mark(step)
            if self.deciding.size:
                self.decide(step, close, equity, actor)

    def _running(self) -> Int | slice:
        """What picks the running lanes out of an array of all."""
        return slice(None) if self.deciding.size == self.alive.size else self.deciding

    def mark(self, step: int) -> tuple[Float, Float]:
        """Mark every running lane at this bar's close: end blocks, find ruin, write the curve.

        Returns:
            Close and equity of the lanes that decide at this close.
        """
        running, ending = self._running(), step in self._last_steps
        if ending:
            self._close_out(self.deciding[self.length[self.deciding] - 1 == step], step)
        close: Float = self.closes[step, running]
        equity: Float = self.cash[running] + self.quantity[running] * close
        ruined = equity <= 0.0
        if ruined.any():
            lanes = self.deciding[ruined]
            self._close_out(lanes, step)
            self._end(lanes, RunStatus.RUINED, step)
            equity = np.where(ruined, 0.0, equity)
            ending = True
        self.last_equity[running] = equity
        if self.keeps_curves:
            self.equity[step, running] = equity
            self.position[step, running] = self.quantity[running]
            self.peak[running] = np.maximum(self.peak[running], equity)
        if ending:
            self.alive[self.deciding[self.length[self.deciding] - 1 == step]] = False
            on = self.alive[self.deciding]
            self.deciding, close, equity = self.deciding[on], close[on], equity[on]
        return close, equity

    def decide(self, step: int, close: Float, equity: Float, actor: Actor) -> None:
        """Ask for actions at this close and fill the orders at the next open."""
        lanes, running = self.deciding, self._running()
        value = self.quantity[running] * close
        account = (
            account_features(
                equity,
                value,
                self.cash[running],
                self.peak[running],
                self.ledger.win_rate[running],
                self.rules,
            )
            if self.keeps_curves
            else np.empty((0, N_ACCOUNT_FEATURES))
        )
        chosen = actor.act(step, lanes, account)
        if chosen.min() < 0:
            sound = chosen >= 0
            self._end(lanes[~sound], RunStatus.BROKEN_POLICY, step)
            self.deciding = lanes = running = lanes[sound]
            close, equity, value, chosen = close[sound], equity[sound], value[sound], chosen[sound]
        if self.keeps_curves:
            self.actions[step, running] = chosen
        size = self.sizes[lanes, chosen]
        if not size.any():
            return
        order = order_quantity(
            size, equity, value, close, self.quantity[running], self.long_only[running], self.rules
        )
        wanted = order != 0.0
        if not self.rules.zero_volume_fills:
            # NaN (unknown) is not 0: it fills
            lapses = wanted & (self.volumes[step + 1, running] == 0.0)
            self.lapsed[lanes[lapses]] += 1
            wanted &= ~lapses
        if wanted.any():
            filled = lanes[wanted]
            self._fill(filled, order[wanted], self.opens[step + 1, filled], step + 1)

    def result(self, lane: int) -> BlockRun:
        """What happened in one lane."""
        trips = tuple(self.ledger.trips[lane])
        status = self.status[lane]
        if status is RunStatus.OK and not trips:
            status = RunStatus.NO_TRADES
        k = int(self.n_points[lane])
        return BlockRun(
            status=status,
            equity=self.equity[:k, lane].copy(),
            position=self.position[:k, lane].copy(),
            actions=self.actions[:k, lane].copy(),
            trips=trips,
            lapsed_orders=int(self.lapsed[lane]),
            traded_value=float(self.traded[lane]),
            fees=float(self.fees[lane]),
            n_bars=int(self.length[lane]),
        )

    def _end(self, lanes: Int, status: RunStatus, step: int) -> None:
        for lane in lanes:
            self.status[lane] = status
        self.n_points[lanes] = step + 1
        self.alive[lanes] = False

    def _close_out(self, lanes: Int, step: int) -> None:
        """Close what is held at this bar's close, whatever its volume."""
        held = lanes[self.quantity[lanes] != 0.0]
        if held.size:
            self._fill(held, -self.quantity[held], self.closes[step, held], step)

    def _fill(self, lanes: Int, dq: Float, quoted: Float, step: int) -> None:
        price = quoted * (1.0 + np.sign(dq) * self.slippage[lanes])
        fee = self.fee_rate[lanes] * np.abs(dq) * price
        before = self.quantity[lanes]
        self.cash[lanes] -= dq * price + fee
        # dq = -before cancels exactly in IEEE arithmetic; nothing else may be taken for flat.
        self.quantity[lanes] = before + dq
        if not self.keeps_curves:
            return
        self.traded[lanes] += np.abs(dq) * price
        self.fees[lanes] += fee
        self.ledger.record(lanes, before, dq, price, fee, step)


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
    out[:, 4] = np.minimum(np.maximum(cash / equity, 0.0), 1.0)
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
        equity: USD at the close.
        value: of the position, USD at the close.
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


def _padded(lanes: Sequence[Lane], name: str, steps: int) -> Float:
    """A column of each lane's bars, axis [step, lane], NaN after a lane's end."""
    place: dict[tuple[int, int, int], int] = {}
    blocks: list[Lane] = []
    of_lane = []
    for lane in lanes:
        key = (id(lane.bars), lane.start, lane.stop)
        if key not in place:
            place[key] = len(blocks)
            blocks.append(lane)
        of_lane.append(place[key])
    out = np.full((steps, len(blocks)), np.nan)
    for i, lane in enumerate(blocks):
        out[: lane.n_bars, i] = getattr(lane.bars, name)[lane.start : lane.stop]
    return out if len(blocks) == len(lanes) else out[:, of_lane]


def _padded_sizes(lanes: Sequence[Lane]) -> Float:
    out = np.zeros((len(lanes), max(len(lane.sizes) for lane in lanes)))
    for i, lane in enumerate(lanes):
        out[i, : len(lane.sizes)] = lane.sizes
    return out
