"""backtesting.py's way of given orders: a strategy that places them one bar before they fill; one run a block.

Runs in the environment of the peers: python backtesting_peer.py CASE.npz RESULT.json. Nothing of postval is imported.

It trades whole units: prices are therefore given for a millionth of the asset, as its own FractionalBacktest does, and
quantities are rounded to that. It charges its spread on entering only and tells a commission nothing of the
direction, so that slippage is charged as commission: the fee's share of the slippage is not in it.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from time import perf_counter

import backtesting
import numpy as np
import pandas as pd

UNIT = 1e-6


class GivenOrders(backtesting.Strategy):  # type: ignore[misc, unused-ignore]
    """Orders by bar: what is placed at bar i fills at the open of bar i + 1."""

    units: list[float] = []  # noqa: RUF012 - backtesting.py reads parameters from the class

    def init(self) -> None:
        """Nothing is computed from the bars."""

    def next(self) -> None:
        units = self.units[len(self.data)]
        if units > 0.0:
            self.buy(size=units)
        elif units < 0.0:
            self.sell(size=-units)


def main(case_path: Path, result_path: Path) -> None:
    case = dict(np.load(case_path))
    settings = json.loads(str(case["settings"]))
    n_rows, n_blocks = case["order_price"].shape
    index = pd.date_range("2023-01-01", periods=n_rows + 1, freq="h")
    tests = []
    for column in range(n_blocks):
        # A strategy is first asked at the second bar: one bar more before the first, with nothing in it.
        opened, closed = (
            np.r_[case[name][:1, column], case[name][:, column]] * UNIT
            for name in ("order_price", "order_close")
        )
        high, low = np.maximum(opened, closed), np.minimum(opened, closed)
        frame = pd.DataFrame({"Open": opened, "High": high, "Low": low, "Close": closed}, index=index)
        test = backtesting.Backtest(
            frame,
            GivenOrders,
            cash=settings["capital"],
            commission=settings["fee_rate"] + settings["slippage"],
            trade_on_close=False,
        )
        # Whole units held after each bar, so that rounding never sells more than was bought.
        held = np.round(np.cumsum(case["order_size"][:, column]) / UNIT)
        units = [0.0, *np.diff(held, prepend=0.0).tolist(), 0.0]
        tests.append((test, units))
    seconds, finals = [], []
    for _ in range(settings["repeats"]):
        started = perf_counter()
        finals = [float(test.run(units=units)["Equity Final [$]"]) for test, units in tests]
        seconds.append(perf_counter() - started)
    out = {
        "seconds": {"orders": seconds},
        "final_equity": finals,
        "versions": {"backtesting": backtesting.__version__},
    }
    result_path.write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    main(Path(sys.argv[1]), Path(sys.argv[2]))
