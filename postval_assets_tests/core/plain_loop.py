"""The rules of execution as a loop over single bars: the oracle that the vectorised engine is compared with.

Here: one model, one symbol, one block, plain Python floats, each rule where it happens. Not here: speed, many
models at once, anything from the package under test. It is written from docs/rules.md, section 3, alone and
imports nothing of postval_assets, so that a misreading in one of the two shows as a difference.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

Account = tuple[float, float, float, float, float, float]
Policy = Callable[[int, Account], "Sequence[float] | None"]

NEUTRAL_ACCOUNT: Account = (0.0, 0.5, 0.0, 0.0, 0.70, 0.0)


@dataclass(frozen=True, kw_only=True)
class PlainRules:
    """Settings of one run. ``fee_rate`` and ``slippage`` are fractions of a price, not basis points."""

    fee_rate: float
    slippage: float
    long_only: bool
    capital: float = 100_000.0
    safety_buffer: float = 0.30
    base_alloc: float = 0.15
    max_position: float = 0.20
    min_order_usd: float = 1.0
    zero_volume_fills: bool = False
    neutral_account: bool = False


@dataclass
class PlainTrade:
    """One round trip, from flat to flat or to the other side.

    Attributes:
        side: LONG or SHORT.
        entry_index, exit_index: bar of the first entering and of the last leaving fill.
        quantity: all that was entered, positive.
        entry_price, exit_price: fill prices weighted by quantity.
        pnl: net cash flow of the trip, fees and slippage included.
        fees: the trip's share of the fees.
    """

    side: str
    entry_index: int
    exit_index: int
    quantity: float
    entry_price: float
    exit_price: float
    pnl: float
    fees: float


@dataclass
class PlainRun:
    """What one block gave.

    Attributes:
        status: OK, NO_TRADES, RUINED or BROKEN_POLICY.
        equity: one value a bar, b - a of them; fewer where the block ended early.
        position: quantity after each close, as long as equity; 0 where the books were closed.
        actions: one a decision.
        fills: (bar, dq, price, fee), the closing of the block or of a ruined one included.
        trades: closed round trips in the order of their closing.
        account_rows: what the policy was shown, one row each time that it was asked.
        logit_gaps: best logit less the second best, one a decision: small ones are ties in float32.
    """

    status: str = "OK"
    equity: list[float] = field(default_factory=list)
    position: list[float] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    fills: list[tuple[int, float, float, float]] = field(default_factory=list)
    trades: list[PlainTrade] = field(default_factory=list)
    lapsed_orders: int = 0
    traded_value: float = 0.0
    fees: float = 0.0
    account_rows: list[Account] = field(default_factory=list)
    logit_gaps: list[float] = field(default_factory=list)


@dataclass
class _Trip:
    """The round trip that is under way."""

    side: str
    entry_index: int
    entered: float = 0.0
    entered_value: float = 0.0
    left: float = 0.0
    left_value: float = 0.0
    cash_flow: float = 0.0
    fees: float = 0.0

    def move(self, dq: float, price: float, fee: float) -> None:
        if (dq > 0.0) == (self.side == "LONG"):
            self.entered += abs(dq)
            self.entered_value += abs(dq) * price
        else:
            self.left += abs(dq)
            self.left_value += abs(dq) * price
        self.cash_flow -= dq * price + fee
        self.fees += fee

    def closed(self, t: int) -> PlainTrade:
        return PlainTrade(
            side=self.side,
            entry_index=self.entry_index,
            exit_index=t,
            quantity=self.entered,
            entry_price=self.entered_value / self.entered,
            exit_price=self.left_value / self.left,
            pnl=self.cash_flow,
            fees=self.fees,
        )


class _Books:
    """Cash, quantity held, and the round trips."""

    def __init__(self, rules: PlainRules, run: PlainRun) -> None:
        self.rules = rules
        self.run = run
        # Every block starts flat with the full capital.
        self.cash = rules.capital
        self.q = 0.0
        self.trip: _Trip | None = None

    def fill(self, t: int, dq: float, quoted: float) -> None:
        """Trade dq at bar t around the quoted price (an open, or the close that ends the block)."""
        # The price moves against the order: a buy pays the slippage on top, a sale receives less.
        price = quoted * (1.0 + math.copysign(1.0, dq) * self.rules.slippage)
        fee = self.rules.fee_rate * abs(dq) * price
        self.cash -= dq * price + fee
        self.run.fills.append((t, dq, price, fee))
        self.run.traded_value += abs(dq) * price
        self.run.fees += fee

        if self.q == 0.0:
            self._open(t, dq, price, fee)
        elif (self.q > 0.0) == (dq > 0.0):
            # Another order to the same side belongs to the same trip.
            self.trip.move(dq, price, fee)
            self.q += dq
        elif abs(dq) <= abs(self.q):
            self.trip.move(dq, price, fee)
            self.q += dq
            if self.q == 0.0:
                self._close(t)
        else:
            # The order crosses zero: it ends one trip, begins the next; each bears its quantity's fee.
            closing_fee = fee * abs(self.q) / abs(dq)
            opening = self.q + dq
            self.trip.move(-self.q, price, closing_fee)
            self._close(t)
            self._open(t, opening, price, fee - closing_fee)

    def flatten(self, t: int, close: float) -> None:
        """Close whatever is held at this close, slippage and fee included; volume does not matter."""
        if self.q != 0.0:
            self.fill(t, -self.q, close)

    def _open(self, t: int, dq: float, price: float, fee: float) -> None:
        self.trip = _Trip("LONG" if dq > 0.0 else "SHORT", t)
        self.trip.move(dq, price, fee)
        self.q = dq

    def _close(self, t: int) -> None:
        self.run.trades.append(self.trip.closed(t))
        self.trip = None
        self.q = 0.0


def _order(size: float, equity: float, q: float, close: float, rules: PlainRules) -> float | None:
    """Signed quantity of the order that is decided at this close, or None where there is none."""
    value = q * close
    unit = equity * (1.0 - rules.safety_buffer) * rules.base_alloc
    if size == 0.0:
        return None
    if size > 0.0:
        # A buy may fill the position up to max_position of equity, never beyond.
        x = min(size * unit, rules.max_position * equity - value)
        if x <= 0.0:
            return None
    else:
        wanted = -size * unit
        # A sale may go as far down as max_position short, or for long-only assets to nothing held.
        room = value if rules.long_only else rules.max_position * equity + value
        y = min(wanted, room)
        if y <= 0.0:
            return None
        x = -y
    if abs(x) < rules.min_order_usd:
        return None
    if rules.long_only and x < 0.0:
        # Selling the whole value sells exactly what is held; and no rounding sells more than that.
        return -q if -x == value else max(x / close, -q)
    return x / close


def _account(books: _Books, equity: float, close: float, peak: float) -> Account:
    """The six account features as they stand at this close."""
    rules = books.rules
    if rules.neutral_account:
        return NEUTRAL_ACCOUNT
    trades = books.run.trades
    won = sum(1 for trade in trades if trade.pnl > 0.0)
    return (
        math.tanh(10.0 * (equity / rules.capital - 1.0)),
        won / len(trades) if trades else 0.5,
        (peak - equity) / peak,
        abs(books.q * close) / equity / rules.max_position,
        min(max(books.cash / equity, 0.0), 1.0),
        math.log10(equity / rules.capital),
    )


def _choose(logits: Sequence[float] | None) -> tuple[int, float] | None:
    """The argmax, ties to the lowest index, and its lead over the second; None for a broken policy."""
    if logits is None:
        return None
    values = [float(x) for x in logits]
    if not all(math.isfinite(x) for x in values):
        return None
    best = 0
    for i, x in enumerate(values):
        if x > values[best]:
            best = i
    others = values[:best] + values[best + 1 :]
    return best, values[best] - max(others) if others else math.inf


def _end(books: _Books, t: int, close: float, equity: float) -> None:
    """The close of a block's last bar, or the one at which equity is gone: books closed, last point set."""
    run = books.run
    books.flatten(t, close)
    left = books.cash
    if equity <= 0.0 or left <= 0.0:
        run.status = "RUINED"
        left = 0.0
    elif not run.trades:
        run.status = "NO_TRADES"
    run.equity.append(left)
    run.position.append(0.0)


def run_plain(
    open_: Sequence[float],
    high: Sequence[float],
    low: Sequence[float],
    close: Sequence[float],
    volume: Sequence[float],
    a: int,
    b: int,
    sizes: Mapping[int, float],
    policy: Policy,
    rules: PlainRules,
) -> PlainRun:
    """Run one block of bars a .. b-1, one bar at a time.

    Args:
        open_, high, low, close, volume: the bars, axis [bar]; a NaN volume is unknown. High and low decide
            nothing, they are taken so that a whole bar can be passed.
        a, b: first bar of the block, and the one after its last.
        sizes: action to signed size: positive buys, negative sells, 0 holds.
        policy: (t, account features) to logits; None, NaN or an infinity is a broken policy.
        rules: settings.
    """
    opens, closes, volumes = ([float(x) for x in column] for column in (open_, close, volume))
    run = PlainRun()
    books = _Books(rules, run)
    peak = rules.capital
    pending: float | None = None

    for t in range(a, b):
        # The order of the close before is filled at this open; a bar without volume fills nothing.
        if pending is not None:
            if volumes[t] == 0.0 and not rules.zero_volume_fills:
                run.lapsed_orders += 1
            else:
                books.fill(t, pending, opens[t])

        equity = books.cash + books.q * closes[t]

        # The last close takes no decision: what is held is closed there. So it is where nothing is left.
        if t == b - 1 or equity <= 0.0:
            _end(books, t, closes[t], equity)
            break

        run.equity.append(equity)
        run.position.append(books.q)
        peak = max(peak, equity)
        account = _account(books, equity, closes[t], peak)
        run.account_rows.append(account)

        choice = _choose(policy(t, account))
        if choice is None:
            # The curve ends with the point at t; what was held stays marked, not closed.
            run.status = "BROKEN_POLICY"
            break
        action, gap = choice
        run.actions.append(action)
        run.logit_gaps.append(gap)
        pending = _order(sizes[action], equity, books.q, closes[t], rules)

    return run
