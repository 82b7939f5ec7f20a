"""Section ``evidence``: what it adds to the evaluation of a production-size model, as a share of that evaluation.

Here: one model over five folds of 864 bars, evaluated, tested for looking ahead, and weighed; in turn, one thread each,
the process's own seconds, because other programs may hold the cores. Not here: a whole archive (drop_bench.py).
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from statistics import median
from time import process_time
from typing import Any

import numpy as np

from postval_assets.core.action_replays import PlayedFold, replay_figures
from postval_assets.core.bootstrap import bootstrap_sharpe, seeded
from postval_assets.core.evaluation import (
    EvaluatedModel,
    Evaluations,
    ModelWork,
    evaluate_together,
    fold_inputs,
)
from postval_assets.core.folds import Block, PlanBlocks, TrainingWindow, plan_named, to_datetime
from postval_assets.core.policy import on_one_thread
from postval_assets.core.policy_causality import evaluate_tested
from postval_assets.core.walk_forward_evidence import EvidenceLimits, sharpe_evidence
from postval_assets_tests.bench.engine_case import (
    RULES,
    WITH_ACCOUNT,
    WITHOUT_ACCOUNT,
    feature_set_of,
    production_case,
)
from postval_assets_tests.bench.options import BenchOptions

_ROUNDS = 7


def run(options: BenchOptions) -> dict[str, Any]:
    """Seconds and shares, by model version."""
    rounds = 1 if options.quick else _ROUNDS
    return {version: _measure(options, version, rounds) for version in (WITH_ACCOUNT, WITHOUT_ACCOUNT)}


def _work(options: BenchOptions, version: str) -> tuple[ModelWork, PlanBlocks]:
    case = production_case(options, version=version)
    spec, tensors = case.checkpoint.spec, case.checkpoint.tensors
    model = EvaluatedModel("a" * 64, spec, tensors, feature_set_of(version), TrainingWindow(None, None))
    bars = case.bars
    at = to_datetime(bars.ts[-1]) + timedelta(minutes=bars.timeframe.minutes)
    # Not cut out of a plan: what the quick bench runs on is too short for one.
    folds = tuple(Block(i, a, b, a, None, None) for i, (a, b) in enumerate(case.blocks, 1))
    blocks = PlanBlocks(plan_named("180d"), folds, bars_per_year=8766.0)
    return ModelWork(model, bars, [(blocks, fold_inputs(model, bars, blocks, at, "bench"))]), blocks


def _measure(options: BenchOptions, version: str, rounds: int) -> dict[str, Any]:
    work, blocks = _work(options, version)
    seconds: dict[str, list[float]] = {
        name: [] for name in ("evaluation", "tested", "bootstrap", "replays", "rest")
    }
    for _ in range(rounds + 1):
        with on_one_thread():
            took, [done] = _timed(lambda: evaluate_together([work], RULES))
            seconds["evaluation"].append(took)
            took, _ = _timed(lambda: evaluate_tested([work], RULES))
            seconds["tested"].append(took)
        if isinstance(done, Exception):
            raise done
        for name, took in _weighing(work, done, blocks).items():
            seconds[name].append(took)
    # The first round pays for imports and caches.
    counted = {name: values[1:] for name, values in seconds.items()}
    pairs = list(zip(counted["evaluation"], counted["tested"], strict=True))
    added = {
        "causality": [tested - evaluation for evaluation, tested in pairs],
        **{name: counted[name] for name in ("bootstrap", "replays", "rest")},
    }
    total = [sum(parts) for parts in zip(*added.values(), strict=True)]
    evaluation = counted["evaluation"]
    return {
        "evaluation_s": median(evaluation),
        **{f"{name}_s": median(values) for name, values in added.items()},
        "added_s": median(total),
        "share": median(t / e for t, e in zip(total, evaluation, strict=True)),
        "n_bars": sum(block.n_bars for block in blocks.blocks),
    }


def _weighing(work: ModelWork, done: Evaluations, blocks: PlanBlocks) -> dict[str, float]:
    """Seconds of the bootstrap, of the replays, and of the other figures of the returns."""
    [folds] = done
    lanes = work.lanes()
    runs = [fold.run for fold in folds if fold.run is not None]
    played = [
        PlayedFold(
            fold.block.fold, lane, run.actions, run.traded_value, float(run.equity[-1] / RULES.capital - 1.0)
        )
        for fold, lane, run in zip(folds, lanes, runs, strict=True)
    ]
    curves = {fold.block.fold: run.equity for fold, run in zip(folds, runs, strict=True)}
    outcomes = [fold.outcome() for fold in folds]
    sha256 = work.model.model_sha256

    def returns_alone() -> object:
        return sharpe_evidence(
            outcomes,
            curves,
            bars_per_year=blocks.bars_per_year,
            model_sha256=sha256,
            n_trials=50,
            limits=EvidenceLimits(),
        )

    def bootstrap_alone() -> object:
        parts = [np.diff(c) / c[:-1] for c in curves.values()]
        return bootstrap_sharpe(np.concatenate(parts), [len(p) for p in parts], seeded(sha256, "bootstrap"))

    replays, _ = _timed(lambda: replay_figures(played, sha256, RULES))
    all_of_it, _ = _timed(returns_alone)
    bootstrap, _ = _timed(bootstrap_alone)
    return {"replays": replays, "bootstrap": bootstrap, "rest": max(all_of_it - bootstrap, 0.0)}


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = process_time()
    done = work()
    return process_time() - started, done


def table(found: dict[str, Any]) -> str:
    """What a model costs and what evidence adds to it, a column a model version."""
    rows = [
        ("evaluation", "evaluation_s"),
        ("+ test for looking ahead", "causality_s"),
        ("+ 200 null policies, costs, lag", "replays_s"),
        ("+ bootstrap", "bootstrap_s"),
        ("+ other figures", "rest_s"),
        ("added by evidence", "added_s"),
    ]
    lines = ["evidence: seconds of one thread for a model", f"{'':34}" + "".join(f"{v:>10}" for v in found)]
    lines += [f"{name:34}" + "".join(f"{of[key]:>10.3f}" for of in found.values()) for name, key in rows]
    lines.append(
        f"{'as a share of the evaluation':34}" + "".join(f"{of['share']:>10.2f}" for of in found.values())
    )
    return "\n".join(lines)
