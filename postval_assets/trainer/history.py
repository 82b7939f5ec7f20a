"""Which bars of a symbol are trained on.

Here: from a source of bars to the training part, in the timeframe of the model. Not here: sources (io), or the
division into what is learnt from and what is held back (data.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import PRICE_COLUMNS, Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.folds import MIN_BLOCK_BARS, PLANS, Plan
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.resampling import resample
from postval_assets.core.sessions import regular_session
from postval_assets.io.bar_source import BarSource


@dataclass(frozen=True)
class BarChoice:
    """The training part of a symbol's bars.

    Attributes:
        timeframe: of the model.
        base_timeframe: of the bars that longer ones are made from.
        regular_session: leave out extended hours of equities.
        now: bars that close later are not complete.
        since: bars that open from then on; None for all.
        until: bars that close by then; None for all.
        hold_out_days: bars that close so long before the close of the symbol's last one; None for all.
    """

    timeframe: Timeframe
    base_timeframe: Timeframe
    regular_session: bool
    now: datetime
    since: datetime | None = None
    until: datetime | None = None
    hold_out_days: int | None = None


@dataclass(frozen=True, eq=False)
class TrainingBars:
    """The training part, and how much comes after it.

    Attributes:
        bars: what is trained on.
        days_after: from the close of the last of them to the close of the symbol's last complete bar.
        too_little: what is left after them, in words, where that is enough for no plan of validation; else None.
        skipped: what was left out at their beginning, and why; None where nothing was.
    """

    bars: Bars
    days_after: float
    too_little: str | None
    skipped: str | None


def training_bars(source: BarSource, symbol: str, asset_class: AssetClass, choice: BarChoice) -> TrainingBars:
    """The training part of a symbol, made of the same bars as validation trades.

    Raises:
        Rejected: the source has no such bars, or none in the part that was asked for.
        Unavailable: the source did not answer.
    """
    base = min(choice.base_timeframe, choice.timeframe, key=lambda t: t.minutes)
    fetched = source.fetch(symbol, base, asset_class, start=None, end=None)
    if choice.regular_session:
        fetched = regular_session(fetched)
    bars = resample(fetched, choice.timeframe).bars
    closes = bars.ts + choice.timeframe.delta
    n_complete = int(np.searchsorted(closes, _utc(choice.now), side="right"))
    if n_complete == 0:
        raise Rejected(f"{symbol}: the source {source.name} has no complete {choice.timeframe} bar of it")
    last_close = closes[n_complete - 1]
    until = last_close
    if choice.hold_out_days is not None:
        until = last_close - np.timedelta64(timedelta(days=choice.hold_out_days), "us")
    elif choice.until is not None:
        until = min(last_close, _utc(choice.until))
    first = 0 if choice.since is None else int(np.searchsorted(bars.ts, _utc(choice.since), side="left"))
    stop = int(np.searchsorted(closes, until, side="right"))
    if first >= stop:
        raise Rejected(
            f"{symbol}: none of its {n_complete} {choice.timeframe} bars, from {_shown(bars.ts[0])} to "
            f"{_shown(last_close)}, opens {_from(choice.since)}and closes by {_shown(until)}"
        )
    days_after = float((last_close - closes[stop - 1]) / np.timedelta64(1, "D"))
    part = bars.slice(first, stop)
    start, skipped = _after_impossible_prices(part)
    too_little = _too_little(bars.ts[stop:n_complete], last_close, days_after)
    return TrainingBars(part.slice(start, len(part)), days_after, too_little, skipped)


def bars_needed(plan: Plan) -> int:
    """Bars that a plan needs in its days: as many in each fold as one needs at least."""
    return plan.n_folds * MIN_BLOCK_BARS


def _too_little(
    opens: npt.NDArray[np.datetime64], last_close: np.datetime64, days_after: float
) -> str | None:
    """What is left, where no plan could be validated on it; ``opens`` of the bars after training."""
    left = f"{int(days_after)} days"
    for plan in sorted(PLANS.values(), key=lambda plan: plan.days):
        if days_after < plan.days:
            break
        first = int(np.searchsorted(opens, last_close - np.timedelta64(plan.days, "D"), side="left"))
        n = len(opens) - first
        if n >= bars_needed(plan):
            return None
        left += f", {n} bars in the last {plan.days}"
    return left


def _after_impossible_prices(bars: Bars) -> tuple[int, str | None]:
    """Where the bars after the last one with an impossible price begin, and what is before it.

    Nothing is repaired, and no run trains across a hole: what lies before such a bar is left out. Where that is the
    larger part, the source has to be looked at first.

    Raises:
        Rejected: more than half of the bars would be left out.
    """
    possible = np.logical_and.reduce(
        [(getattr(bars, name) > 0.0) & (getattr(bars, name) < np.inf) for name in PRICE_COLUMNS]
    )
    bad = np.flatnonzero(~possible)
    if len(bad) == 0:
        return 0, None
    start = int(bad[-1]) + 1
    what = (
        f"{len(bad)} of {len(bars)} bars have a price that is not above 0 and finite, "
        f"the last one at {_shown(bars.ts[bad[-1]])}"
    )
    if start > len(bars) / 2:
        raise Rejected(
            f"{bars.symbol}: {what}, so that less than half of them can be trained on; mend the source, or "
            "choose other bars with --since and --until"
        )
    return start, f"{what}: trained on the {len(bars) - start} bars after it"


def _from(since: datetime | None) -> str:
    return "" if since is None else f"at {_shown(_utc(since))} or later "


def _shown(moment: np.datetime64) -> str:
    return f"{moment.astype('datetime64[m]')}Z"


def _utc(moment: datetime) -> np.datetime64:
    return np.datetime64(moment.astimezone(UTC).replace(tzinfo=None), "us")
