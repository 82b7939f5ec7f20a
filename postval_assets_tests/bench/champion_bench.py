"""How often two models that are alike are told apart, and two that are not: the table of docs/champion.md.

Run it as ``python -m postval_assets_tests.bench.champion_bench``; some minutes. Nothing in it depends on the machine.
"""

from __future__ import annotations

import math

import numpy as np

from postval_assets.core.bootstrap import seeded
from postval_assets.core.champion import Comparison, Float, ModelFold, Verdict, compare
from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.metrics import DAYS_PER_YEAR
from postval_assets.core.walk_forward import FoldStatus

N_FOLDS, DAYS, SPREAD = 5, 180, 0.01
# Bars a fold, mean bars that a position is held, true difference of the annualised Sharpe ratios, pairs of models.
CASES = (
    *((864, 10, 0.0, 600), (864, 50, 0.0, 600), (216, 10, 0.0, 600)),
    *((864, 10, 2.0, 300), (864, 10, 4.0, 300), (864, 10, 6.0, 300)),
)


def simulated(seed: int, n_bars: int, held: int, difference: float) -> Comparison:
    """One pair of models, each long or short of the same market at times of its own."""
    rng = np.random.default_rng(seed)
    bars_per_year = n_bars * N_FOLDS / DAYS * DAYS_PER_YEAR
    edge = difference / math.sqrt(bars_per_year) * SPREAD
    sides: tuple[list[ModelFold], list[ModelFold]] = ([], [])
    for fold in range(1, N_FOLDS + 1):
        market = rng.normal(0.0, SPREAD, n_bars)
        for side, gain in zip(sides, (edge, 0.0), strict=True):
            turns = np.cumsum(rng.random(n_bars) < 1.0 / held)
            position = np.where(turns % 2 == 0, 1.0, -1.0) * (1.0 if rng.random() < 0.5 else -1.0)
            side.append(_fold(fold, position * market + gain))
    return compare(*sides, bars_per_year, seeded(str(seed)))


def _fold(number: int, returns: Float) -> ModelFold:
    total = float(np.prod(1.0 + returns)) - 1.0
    return ModelFold(number, FoldStatus.OK, TrainingOverlap.OUT_OF_SAMPLE, total, returns)


def main() -> None:
    """Print a line a case."""
    print(f"{'bars':>6}{'held':>6}{'true':>6}{'pairs':>7}{'challenger':>12}{'champion':>10}")
    for n_bars, held, difference, n_pairs in CASES:
        verdicts = [simulated(seed, n_bars, held, difference).verdict for seed in range(n_pairs)]
        better = [verdicts.count(v) for v in (Verdict.CHALLENGER_BETTER, Verdict.CHAMPION_BETTER)]
        print(f"{n_bars:>6}{held:>6}{difference:>6.1f}{n_pairs:>7}{better[0]:>12}{better[1]:>10}", flush=True)


if __name__ == "__main__":
    main()
