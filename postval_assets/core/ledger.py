"""Round trips: from flat to flat or to the other side, costs included.

Here: grouping fills into round trips for many lanes at once. Not here: cash and equity (engine.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np
import numpy.typing as npt

Float = npt.NDArray[np.float64]
Int = npt.NDArray[np.int64]


class Side(StrEnum):
    """Direction of a round trip."""

    LONG = "LONG"
    SHORT = "SHORT"


@dataclass(frozen=True)
class RoundTrip:
    """One completed round trip.

    Attributes:
        side: LONG or SHORT.
        entry_step, exit_step: bars since the block's start of the first and last fill.
        quantity: total quantity entered, positive.
        entry_price, exit_price: quantity-weighted fill prices, slippage included, fees not.
        pnl: net cash of the trip in USD, slippage and fees included.
        fees: USD.
    """

    side: Side
    entry_step: int
    exit_step: int
    quantity: float
    entry_price: float
    exit_price: float
    pnl: float
    fees: float


class TripLedger:
    """Open round trips of all lanes, axis [lane], and the completed ones.

    Attributes:
        trips: completed round trips of each lane, in time order.
        win_rate: round trips won / closed, 0.5 before the first one is; axis [lane].
    """

    def __init__(self, n_lanes: int) -> None:
        self.trips: list[list[RoundTrip]] = [[] for _ in range(n_lanes)]
        self._closed = np.zeros(n_lanes, dtype=np.int64)
        self._won = np.zeros(n_lanes, dtype=np.int64)
        self.win_rate: Float = np.full(n_lanes, 0.5)
        self._entry_step = np.zeros(n_lanes, dtype=np.int64)
        self._in_quantity = np.zeros(n_lanes)
        self._in_value = np.zeros(n_lanes)
        self._out_quantity = np.zeros(n_lanes)
        self._out_value = np.zeros(n_lanes)
        self._fees = np.zeros(n_lanes)

    def record(self, lanes: Int, before: Float, dq: Float, price: Float, fee: Float, step: int) -> None:
        """Book one fill a lane.

        Args:
            lanes: indices, axis [fill].
            before: quantity held before the fill.
            dq: signed quantity filled.
            price: fill price.
            fee: USD.
            step: bars since the block's start.
        """
        reduces = before * dq < 0.0
        closing = np.where(reduces, np.minimum(np.abs(dq), np.abs(before)), 0.0)
        opening = np.abs(dq) - closing
        # An order that crosses zero closes one trip and opens the next: its fee is split by quantity.
        closing_fee = fee * (closing / np.abs(dq))
        self._out_quantity[lanes] += closing
        self._out_value[lanes] += closing * price
        self._fees[lanes] += closing_fee
        ends = reduces & (np.abs(dq) >= np.abs(before))
        for i in np.flatnonzero(ends):
            self._finish(int(lanes[i]), Side.LONG if before[i] > 0.0 else Side.SHORT, step)
        opens = opening > 0.0
        fresh = opens & ((before == 0.0) | ends)
        self._entry_step[lanes[fresh]] = step
        adding = lanes[opens]
        self._in_quantity[adding] += opening[opens]
        self._in_value[adding] += opening[opens] * price[opens]
        self._fees[adding] += (fee - closing_fee)[opens]

    def _finish(self, lane: int, side: Side, step: int) -> None:
        entered, left = self._in_value[lane], self._out_value[lane]
        pnl = float((left - entered if side is Side.LONG else entered - left) - self._fees[lane])
        quantity = float(self._in_quantity[lane])
        self.trips[lane].append(
            RoundTrip(
                side=side,
                entry_step=int(self._entry_step[lane]),
                exit_step=step,
                quantity=quantity,
                entry_price=float(entered / quantity),
                exit_price=float(left / self._out_quantity[lane]),
                pnl=pnl,
                fees=float(self._fees[lane]),
            )
        )
        self._closed[lane] += 1
        self._won[lane] += int(pnl > 0.0)
        self.win_rate[lane] = self._won[lane] / self._closed[lane]
        for books in (self._in_quantity, self._in_value, self._out_quantity, self._out_value, self._fees):
            books[lane] = 0.0
