"""Section ``peers``: the same work done by other projects, in an environment of their own.

Here: the case as a file, and their figures beside ours, each with the check that both did the same. Not here: their
ways (peers/), the environment (peer_environment.py).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

from postval_assets.core.engine import BlockRun, Lane, ScriptedActor, run_lanes
from postval_assets_tests.bench.engine_case import (
    RULES,
    WINDOW,
    EngineCase,
    plain_replay,
    production_case,
    run_product,
)
from postval_assets_tests.bench.options import BenchOptions
from postval_assets_tests.bench.peer_environment import peer_python, run_peer
from postval_assets_tests.bench.report import number, spread, text_table, with_spread

ROOT = Path(__file__).resolve().parents[2]
SB3_BARS = 300
# Relative, of the final equity. SB3 and vectorbt do the very same sums. backtesting.py rounds quantities to a millionth
# and leaves out the fee's share of the slippage, 0.0025 x 0.0005 of the traded value: a few times equity in a block.
SAME = 1e-9
SAME_AS_BACKTESTING = 1e-4


def run(options: BenchOptions) -> dict[str, Any]:
    """Measure; without the peers' environment nothing is."""
    if options.skip_peers:
        return {"skipped": "the peers were left out (--skip-peers)"}
    python = peer_python(ROOT)
    case = production_case(options)
    repeats = 1 if options.quick else 3
    return {
        "sb3": _against_sb3(case, python, options.scratch, repeats),
        **_against_accounting(case, python, options.scratch, repeats, options.seed),
    }


def _against_sb3(case: EngineCase, python: Path, scratch: Path, repeats: int) -> dict[str, Any]:
    """The whole way, network included: the first bars of each fold theirs, all bars ours, before and after."""
    short = case.lanes(SB3_BARS)
    spec, tensors = case.checkpoint.spec, case.checkpoint.tensors
    linears = [layer for layer in spec.layers if layer.weight_key]
    path = _write_case(
        scratch / "sb3.npz",
        case,
        {"window": WINDOW, "hidden": list(spec.hidden_dims), "repeats": repeats},
        features=case.features,
        open=case.bars.open,
        close=case.bars.close,
        sizes=short[0].sizes,
        blocks=np.array([(lane.start, lane.stop) for lane in short]),
        **{f"weight_{i}": tensors[layer.weight_key] for i, layer in enumerate(linears)},
        **{f"bias_{i}": tensors[layer.bias_key or ""] for i, layer in enumerate(linears)},
    )
    lanes = case.lanes()
    run_product(case, lanes)
    ours = [run_product(case, lanes).total_s for _ in range(repeats)]
    found = run_peer(python, "sb3_peer.py", path)
    ours += [run_product(case, lanes).total_s for _ in range(repeats)]
    expected = run_product(case, short).runs
    n_bars = sum(lane.n_bars for lane in short)
    ways = {name: spread([n_bars / s for s in way["seconds"]]) for name, way in found["ways"].items()}
    best = max(ways, key=lambda name: ways[name]["median"])
    bars_per_s = spread([case.n_bars / s for s in ours])
    return {
        "bars": n_bars,
        "ways_bars_per_s": ways,
        "best_way": best,
        "our_bars": case.n_bars,
        "our_bars_per_s": bars_per_s,
        "ratio": bars_per_s["median"] / ways[best]["median"],
        "checks": {name: _same_runs(expected, way["runs"]) for name, way in found["ways"].items()},
        "tolerance": SAME,
        "versions": found["versions"],
        "torch_threads": found["torch_threads"],
    }


def _same_runs(expected: Sequence[BlockRun], theirs: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Whether each block's actions are the same and its whole curve is, to SAME."""
    decisions = different = 0
    worst = 0.0
    for run, other in zip(expected, theirs, strict=True):
        ours, actions = run.actions[:-1], np.array(other["actions"])
        decisions += len(ours)
        different += int(np.sum(ours != actions)) if len(ours) == len(actions) else len(ours)
        if len(run.equity) == len(other["equity"]):
            worst = max(worst, float(np.max(np.abs(run.equity / np.array(other["equity"]) - 1.0))))
        else:
            worst = float("inf")
    return {
        "equal": different == 0 and worst <= SAME,
        "decisions": decisions,
        "different_actions": different,
        "largest_equity_difference": worst,
    }


def _against_accounting(
    case: EngineCase, python: Path, scratch: Path, repeats: int, seed: int
) -> dict[str, Any]:
    """Accounting alone. Ours decides quantities from actions, costs and limits; theirs are given the quantities."""
    lanes = case.lanes()
    # Any action at any bar: about as many orders as there can be.
    rng = np.random.default_rng([seed, 2])
    n_actions = case.checkpoint.spec.n_actions
    actor = ScriptedActor(rng.integers(0, n_actions, (len(lanes), lanes[0].n_bars)))
    runs = run_lanes(lanes, actor, RULES)
    orders = _orders(case, lanes, runs)
    path = _write_case(scratch / "orders.npz", case, {"repeats": repeats}, **orders)
    ours = _accounting_seconds(lanes, actor, repeats)
    found = {name: run_peer(python, f"{name}_peer.py", path) for name in ("vectorbt", "backtesting")}
    ours += _accounting_seconds(lanes, actor, repeats)
    finals = np.array([run.equity[-1] for run in runs])
    out: dict[str, Any] = {
        "accounting": {
            "bars": case.n_bars,
            "orders": int(np.count_nonzero(orders["order_size"])),
            "our_seconds": spread(ours),
            "our_bars_per_s": spread([case.n_bars / s for s in ours]),
        }
    }
    for name, tolerance in (("vectorbt", SAME), ("backtesting", SAME_AS_BACKTESTING)):
        peer = found[name]
        worst = float(np.max(np.abs(np.array(peer["final_equity"]) / finals - 1.0)))
        out[name] = {
            "ways_bars_per_s": {
                way: spread([case.n_bars / s for s in t]) for way, t in peer["seconds"].items()
            },
            "ratio": {way: median(t) / median(ours) for way, t in peer["seconds"].items()},
            "warm_up_s": peer.get("warm_up_s"),
            "largest_final_equity_difference": worst,
            "tolerance": tolerance,
            "equal": worst <= tolerance,
            "versions": peer["versions"],
        }
    return out


def _accounting_seconds(lanes: Sequence[Lane], actor: ScriptedActor, repeats: int) -> list[float]:
    seconds = []
    for _ in range(repeats + 1):
        started = perf_counter()
        run_lanes(lanes, actor, RULES)
        seconds.append(perf_counter() - started)
    return seconds[1:]


def _orders(case: EngineCase, lanes: Sequence[Lane], runs: Sequence[BlockRun]) -> dict[str, np.ndarray]:
    """Fills by row and block: a row a bar, at its open, and one more at the end: the closing at the last close."""
    shape = max(lane.n_bars for lane in lanes) + 1, len(lanes)
    size, price, close = np.zeros(shape), np.empty(shape), np.empty(shape)
    for column, (lane, run) in enumerate(zip(lanes, runs, strict=True)):
        if lane.n_bars + 1 != shape[0]:
            raise ValueError("blocks of different length")
        last = case.bars.close[lane.stop - 1]
        price[:, column] = np.r_[case.bars.open[lane.start : lane.stop], last]
        close[:, column] = np.r_[case.bars.close[lane.start : lane.stop], last]
        plain = plain_replay(case, lane, run)
        for t, dq, paid, _ in plain.fills:
            at_open = abs(paid / case.bars.open[t] - 1.0 - np.sign(dq) * RULES.slippage) < 1e-12
            size[t - lane.start if at_open else -1, column] += dq
    return {"order_size": size, "order_price": price, "order_close": close}


def _write_case(path: Path, case: EngineCase, settings: Mapping[str, object], **arrays: np.ndarray) -> Path:
    rules = {
        "fee_rate": RULES.fee_rate(case.bars.asset_class),
        "slippage": RULES.slippage,
        "capital": RULES.capital,
    }
    np.savez(path, settings=np.array(json.dumps({**rules, **settings})), **arrays)  # type: ignore[arg-type]
    return path


def table(result: Mapping[str, Any]) -> str:
    """The result as text."""
    if "skipped" in result:
        return text_table("Peers", [[result["skipped"]]])
    sb3, accounting = result["sb3"], result["accounting"]
    rows = [
        [f"stable-baselines3, {way}", with_spread(found), "", _check(sb3["checks"][way])]
        for way, found in sb3["ways_bars_per_s"].items()
    ]
    rows.append(["ours", with_spread(sb3["our_bars_per_s"]), f"{number(sb3['ratio'])} (c)", ""])
    other = [
        [
            f"{name}: {way}",
            with_spread(found),
            number(result[name]["ratio"][way]),
            _check(result[name]),
        ]
        for name in ("vectorbt", "backtesting")
        for way, found in result[name]["ways_bars_per_s"].items()
    ]
    other.insert(0, ["ours", with_spread(accounting["our_bars_per_s"]), "", ""])
    header = ["way", "bars a second", "ours / theirs", "same result"]
    warm_up = number(result["vectorbt"]["warm_up_s"])
    return "\n".join(
        [
            text_table(f"Network and accounting, {sb3['bars']:,} bars theirs", rows, header),
            text_table(
                f"Accounting alone, {accounting['bars']:,} bars, {accounting['orders']:,} orders",
                other,
                header,
            ),
            f"vectorbt's first call, compilation included: {warm_up} s\n",
        ]
    )


def _check(found: Mapping[str, Any]) -> str:
    worst = found.get("largest_equity_difference", found.get("largest_final_equity_difference"))
    different = f", {found['different_actions']} other actions" if found.get("different_actions") else ""
    return f"{'yes' if found['equal'] else 'NO'} (equity within {worst:.1e}{different})"
