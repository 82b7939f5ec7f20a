"""Section ``engine``: bars a second of the engine against the machine's matrix rate and against plain ways.

Here: the measurements, interleaved so that whatever else the machine does meets all of them. Not here: the work
itself (engine_case.py), other projects' ways (peer_bench.py).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from time import perf_counter
from typing import Any

import numpy as np
import torch

from postval_assets.core.engine import BlockRun
from postval_assets.core.evaluation import NetworkWork, untimed
from postval_assets.core.features.causality import require_causal
from postval_assets.core.features.feature_set import compute_features
from postval_assets.pipeline.network_processes import NetworkProcesses
from postval_assets.pipeline.stopwatch import Stopwatch
from postval_assets.pipeline.workers import in_order, usable_cores
from postval_assets_tests.bench.engine_case import (
    RULES,
    WINDOW,
    WITH_ACCOUNT,
    WITHOUT_ACCOUNT,
    Block,
    EngineCase,
    PlainNetwork,
    TimedRun,
    feature_set_of,
    production_case,
    run_product,
)
from postval_assets_tests.bench.machine import SQUARE, Shape, matrix_rate
from postval_assets_tests.bench.options import BenchOptions
from postval_assets_tests.bench.report import number, spread, text_table, with_spread
from postval_assets_tests.core.plain_loop import PlainRun

OLD_SCRIPTS_BARS_PER_S = 253 / (7.5 * 60)  # 253 bars in 7 to 8 minutes
# Best logit less second best below which two ways of summing in float32 may choose differently.
TIE = 1e-5
FIVE_FOLDS = ((5, 864),)
BOTH_PLANS = ((5, 864), (10, 876))
PARTS = ("weights", "first_layer", "tail", "accounting")


def run(options: BenchOptions) -> dict[str, Any]:
    """Measure; the first case is the one that the others vary."""
    device_names = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
    cases = {
        "production": (WITH_ACCOUNT, FIVE_FOLDS),
        "both plans": (WITH_ACCOUNT, BOTH_PLANS),
        "no account features": (WITHOUT_ACCOUNT, FIVE_FOLDS),
    }
    measured = {}
    for name, (version, plans) in cases.items():
        case = production_case(options, version=version, plans=plans)
        for device in device_names:
            label = name if device == "cpu" else f"{name}, {device}"
            with_plain = name == "production" and device == "cpu"
            measured[label] = _measure(case, device, options, with_plain=with_plain)
            if with_plain:
                measured["one model a core"] = _measure_side_by_side(case, options)
    return {"cases": measured, "features": _feature_seconds(options)}


def _measure(case: EngineCase, device: str, options: BenchOptions, *, with_plain: bool) -> dict[str, Any]:
    rounds = 2 if options.quick else 5 if with_plain else 3
    shapes = _shapes(case, quick=options.quick)
    lanes = case.lanes()
    plain = PlainNetwork(case) if with_plain else None
    run_product(case, lanes, device)
    gflops, floors, timed, best_shapes, plain_seconds, agreements = [], [], [], [], [], []
    for i in range(rounds):
        rate = matrix_rate(shapes, device)
        again = run_product(case, lanes, device)
        # The same figure before and after: what disturbed one of them disturbed what lies between.
        after = matrix_rate(shapes, device)
        best = max((rate, after), key=lambda r: r.gflops)
        gflops.append(best.gflops)
        best_shapes.append(best.shape)
        floors.append(case.flops_of_a_bar * case.n_bars / best.gflops / 1e9)
        timed.append(again)
        if plain is not None:
            block = case.blocks[i % len(case.blocks)]
            started = perf_counter()
            expected = plain.run(block)
            plain_seconds.append((perf_counter() - started) / (block[1] - block[0]))
            agreements.append(agreement(again.runs[i % len(case.blocks)], expected, block))
    out = _figures(case, timed, floors, gflops)
    out["matrix_shape"] = list(best_shapes[int(np.argmax(gflops))])
    if plain is not None:
        out["plain_bars_per_s"] = spread([1.0 / s for s in plain_seconds])
        out["against_plain"] = spread(
            [s * case.n_bars / t.total_s for s, t in zip(plain_seconds, timed, strict=True)]
        )
        out["equality_with_plain"] = agreements
        out["equal_to_plain"] = all(a["equal"] for a in agreements)
    return out


def _measure_side_by_side(case: EngineCase, options: BenchOptions) -> dict[str, Any]:
    """The pipeline's way with many models: one on each core; bars and seconds are those of all of them."""
    n_workers = usable_cores()
    models = range(2 * n_workers)
    shapes = _shapes(case, quick=options.quick)
    work = NetworkWork(case.checkpoint.spec, dict(case.checkpoint.tensors), case.features, case.lanes())
    watch = Stopwatch()
    gflops, floors, walls, parts = [], [], [], []

    def run_one(processes: NetworkProcesses, _: int) -> BlockRun:
        [runs] = processes.run([work], RULES, "cpu", untimed)
        if isinstance(runs, Exception):
            raise runs
        return runs[0]

    def run_all(processes: NetworkProcesses) -> float:
        started = perf_counter()
        for _, future in in_order(models, functools.partial(run_one, processes), n_workers):
            future.result()
        return perf_counter() - started

    with NetworkProcesses(max(n_workers, 2), watch) as processes:
        run_all(processes)
        for _ in range(2 if options.quick else 5):
            rate = matrix_rate(shapes)
            before = watch.seconds()
            walls.append(run_all(processes))
            parts.append({part: s / len(models) for part, s in (watch.seconds() - before).items()})
            best = max(rate, matrix_rate(shapes), key=lambda r: r.gflops)
            gflops.append(best.gflops)
            floors.append(case.flops_of_a_bar * case.n_bars * len(models) / best.gflops / 1e9)
    n_bars = case.n_bars * len(models)
    return {
        "models_at_once": n_workers,
        "bars": n_bars,
        "matrix_gflops": spread(gflops),
        "floor_s": spread(floors),
        "engine_s": spread(walls),
        "parts_s": {
            part: spread([p[part] for p in parts]) for part in ("weights", "inference", "accounting")
        },
        "bars_per_s": spread([n_bars / wall for wall in walls]),
        "share_of_floor": spread([f / wall for f, wall in zip(floors, walls, strict=True)]),
        "against_old_scripts": spread([n_bars / wall / OLD_SCRIPTS_BARS_PER_S for wall in walls]),
    }


def _figures(
    case: EngineCase, timed: list[TimedRun], floors: list[float], gflops: list[float]
) -> dict[str, Any]:
    spec = case.checkpoint.spec
    return {
        "inputs": spec.obs_dim,
        "hidden": list(spec.hidden_dims),
        "n_actions": spec.n_actions,
        "blocks": len(case.blocks),
        "bars": case.n_bars,
        "flops_of_a_bar": case.flops_of_a_bar,
        "rounds": len(timed),
        "matrix_gflops": spread(gflops),
        "floor_s": spread(floors),
        "engine_s": spread([t.total_s for t in timed]),
        "parts_s": {part: spread([getattr(t, f"{part}_s") for t in timed]) for part in PARTS},
        "bars_per_s": spread([case.n_bars / t.total_s for t in timed]),
        "share_of_floor": spread([f / t.total_s for f, t in zip(floors, timed, strict=True)]),
        "against_old_scripts": spread([case.n_bars / t.total_s / OLD_SCRIPTS_BARS_PER_S for t in timed]),
        "distinct_actions": len({int(a) for r in timed[0].runs for a in r.actions[:-1]}),
        "round_trips": sum(len(r.trips) for r in timed[0].runs),
    }


def _shapes(case: EngineCase, *, quick: bool) -> tuple[Shape, ...]:
    spec = case.checkpoint.spec
    own = (case.n_bars, spec.obs_dim, spec.hidden_dims[0])
    return (own,) if quick else (SQUARE, own)


def agreement(run: BlockRun, plain: PlainRun, block: Block) -> dict[str, Any]:
    """How far a run and the plain loop are the same: actions, and equity to 1e-9 of it.

    Returns:
        ``equal``; the largest relative difference of equity; the first decision that differs and the lead of the
        plain loop's best logit there: below TIE float32 cannot settle it, and bars after it prove nothing.
    """
    ours, theirs = run.actions[: len(plain.actions)], np.array(plain.actions)
    different = np.flatnonzero(ours != theirs) if len(ours) == len(theirs) else np.array([0])
    first = int(different[0]) if different.size else None
    n = min(len(run.equity), len(plain.equity)) if first is None else first + 1
    expected = np.array(plain.equity[:n])
    worst = float(np.max(np.abs(run.equity[:n] - expected) / expected))
    lead = None if first is None else plain.logit_gaps[first]
    same_status = first is not None or run.status.value == plain.status
    return {
        "block": list(block),
        "decisions": len(plain.actions),
        "equal": worst <= 1e-9 and same_status and (lead is None or lead < TIE),
        "compared_points": n,
        "largest_equity_difference": worst,
        "first_different_decision": first,
        "lead_there": lead,
    }


def _feature_seconds(options: BenchOptions) -> dict[str, Any]:
    """Features of one symbol for the five folds: once a symbol, whatever the number of models."""
    feature_set = feature_set_of(WITH_ACCOUNT)
    bars = production_case(options).bars
    computing, checking = [], []
    for _ in range(2 if options.quick else 3):
        started = perf_counter()
        features = compute_features(feature_set, bars)
        computed = perf_counter()
        require_causal(feature_set, bars, features)
        checking.append(perf_counter() - computed)
        computing.append(computed - started)
    return {
        "bars": len(bars),
        "window": WINDOW,
        "computing_s": spread(computing),
        "causality_check_s": spread(checking),
    }


def table(result: Mapping[str, Any]) -> str:
    """The result as text."""
    main = result["cases"]["production"]
    inputs = " - ".join(map(str, [main["inputs"], *main["hidden"], main["n_actions"]]))
    rows = [
        ["bars a second", with_spread(main["bars_per_s"])],
        ["seconds for all bars", with_spread(main["engine_s"], " s")],
        *[
            [f"  of that {part.replace('_', ' ')}", with_spread(s, " s")]
            for part, s in main["parts_s"].items()
        ],
        ["matrix rate of the machine", with_spread(main["matrix_gflops"], " GFLOP/s")],
        ["  at the shape", " x ".join(map(str, main["matrix_shape"]))],
        ["floor at that rate", with_spread(main["floor_s"], " s")],
        ["(a) floor / engine", with_spread(main["share_of_floor"], " %", 100.0)],
        ["(b) times the plain loop", with_spread(main["against_plain"])],
        ["    its bars a second", with_spread(main["plain_bars_per_s"])],
        ["(d) times the old scripts", with_spread(main["against_old_scripts"])],
        ["equal to the plain loop", _equality(main)],
        ["actions chosen, round trips", f"{main['distinct_actions']}, {main['round_trips']}"],
    ]
    title = f"Engine: {inputs}, {main['blocks']} folds, {main['bars']:,} bars"
    features = result["features"]
    others = [
        [
            name,
            f"{found['bars']:,}",
            with_spread(found["bars_per_s"]),
            with_spread(found["share_of_floor"], " %", 100.0),
            ", ".join(
                f"{part.replace('_', ' ')} {number(s['median'])}" for part, s in found["parts_s"].items()
            ),
        ]
        for name, found in result["cases"].items()
    ]
    header = [
        "case",
        "bars",
        "bars a second",
        "floor / engine",
        "seconds of a model",
    ]
    once = (
        f"Features of {features['bars']:,} bars, once a symbol: {with_spread(features['computing_s'], ' s')}; "
        f"check that they are causal: {with_spread(features['causality_check_s'], ' s')}"
    )
    return "\n".join(
        [
            text_table(title, rows),
            text_table("Variations", others, header),
            once + "\n",
        ]
    )


def _equality(found: Mapping[str, Any]) -> str:
    worst = max(a["largest_equity_difference"] for a in found["equality_with_plain"])
    decisions = sum(a["decisions"] for a in found["equality_with_plain"])
    differ = [a["lead_there"] for a in found["equality_with_plain"] if a["lead_there"] is not None]
    ties = sum(lead < TIE for lead in differ)
    word = "yes" if found["equal_to_plain"] else "NO"
    apart = f"{len(differ)} blocks part, {ties} of them at a tie"
    return f"{word}: {decisions} decisions, {apart}; equity within {worst:.1e}"
