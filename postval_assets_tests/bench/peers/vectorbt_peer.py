"""vectorbt's way of given orders: Portfolio.from_orders, all blocks as columns of one call.

Runs in the environment of the peers: python vectorbt_peer.py CASE.npz RESULT.json. Nothing of postval is imported.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
import vectorbt


def main(case_path: Path, result_path: Path) -> None:
    case = dict(np.load(case_path))
    settings = json.loads(str(case["settings"]))

    def simulate() -> Any:
        return vectorbt.Portfolio.from_orders(
            case["order_close"],
            size=case["order_size"],
            price=case["order_price"],
            fees=settings["fee_rate"],
            slippage=settings["slippage"],
            init_cash=settings["capital"],
        )

    def with_curve_and_trades() -> Any:
        portfolio = simulate()
        return portfolio.value(), portfolio.trades.records

    started = perf_counter()
    simulate()
    with_curve_and_trades()
    warm_up_s = perf_counter() - started
    seconds: dict[str, list[float]] = {"orders": [], "orders, curve and trades": []}
    for _ in range(settings["repeats"] * 3):
        for name, way in zip(seconds, (simulate, with_curve_and_trades), strict=True):
            started = perf_counter()
            way()
            seconds[name].append(perf_counter() - started)
    out = {
        "seconds": seconds,
        "warm_up_s": warm_up_s,
        "final_equity": np.asarray(simulate().final_value()).tolist(),
        "versions": {"vectorbt": vectorbt.__version__},
    }
    result_path.write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
