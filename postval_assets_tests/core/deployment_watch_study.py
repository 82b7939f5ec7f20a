"""How often does the watch of a deployed model alarm: falsely, and when its edge is gone?

    python -m postval_assets_tests.core.deployment_watch_study

Models of a known annual Sharpe ratio, five folds over 180 days of hourly bars each. Only those count that are chosen
as LIVE ones are: one-sided p of the folds' mean at most 0.001 (0.05 over an archive of 50). Each chosen one is then
watched for a year, in several futures. Returns are normal and independent, or Student's t with 4 degrees of freedom
whose volatility comes in clusters. The table of docs/deployment-watch.md is this program's output.
"""

from __future__ import annotations

import argparse
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Iterator

import numpy as np

from postval_assets.core.bootstrap import seeded
from postval_assets.core.deployment_watch import FoldReference, first_alarms, fold_reference
from postval_assets.core.evidence import Float

BARS_PER_YEAR = 8766.0
FOLDS = [863] * 5
N_FUTURE = 8766
SD = 0.004
# One-sided 0.001 of the normal distribution.
CHOSEN_FROM = 3.0902323061678132

Draw = Callable[[np.random.Generator, int, int], Float]


def normal(rng: np.random.Generator, n_paths: int, n: int) -> Float:
    """Independent, standard normal."""
    return rng.standard_normal((n_paths, n))


def clustered(rng: np.random.Generator, n_paths: int, n: int) -> Float:
    """Student's t (4), its log volatility an autoregression with a memory of four days and a spread of 0.5; sd 1."""
    memory, spread, warm_up = 1.0 - 1.0 / 96.0, 0.5, 500
    steps = rng.standard_normal((n_paths, n + warm_up)) * spread * math.sqrt(1.0 - memory**2)
    log_volatility = np.zeros_like(steps)
    for t in range(1, n + warm_up):
        log_volatility[:, t] = memory * log_volatility[:, t - 1] + steps[:, t]
    scale = np.exp(log_volatility[:, warm_up:] - spread**2)
    return rng.standard_t(4, (n_paths, n)) / math.sqrt(2.0) * scale


def chosen_folds(draw: Draw, sharpe: float, n: int, rng: np.random.Generator) -> Iterator[Float]:
    """Fold returns of models of this annual Sharpe ratio that measured well enough."""
    found = 0
    length = sum(FOLDS)
    per_bar = sharpe / math.sqrt(BARS_PER_YEAR)
    while found < n:
        returns = SD * (draw(rng, 100, length) + per_bar)
        z = returns.mean(axis=1) / returns.std(axis=1, ddof=1) * math.sqrt(length)
        for path in returns[z >= CHOSEN_FROM][: n - found]:
            found += 1
            yield path


def futures(sharpe: float) -> dict[str, tuple[float, float]]:
    """By name the future's annual Sharpe ratio, and its volatility as a multiple of the folds'."""
    return {
        "as before": (sharpe, 1.0),
        "same Sharpe, twice the volatility": (sharpe, 2.0),
        "same Sharpe, half the volatility": (sharpe, 0.5),
        "half the Sharpe": (sharpe / 2.0, 1.0),
        "edge gone": (0.0, 1.0),
        "edge reversed": (-sharpe, 1.0),
    }


def study(
    draw: Draw, sharpe: float, n_models: int
) -> tuple[dict[str, list[int]], list[int], list[FoldReference]]:
    """Alarms (index of the return, -1 for none) by future; those of the future as before against the measured mean."""
    rng = seeded("deployment watch", draw.__name__, str(sharpe))
    alarms: dict[str, list[int]] = {name: [] for name in futures(sharpe)}
    naive: list[int] = []
    references = []
    for number, folds in enumerate(chosen_folds(draw, sharpe, n_models, rng)):
        reference = fold_reference(folds, FOLDS, BARS_PER_YEAR, "study", str(sharpe), str(number))
        assert reference is not None
        references.append(reference)
        noise = draw(rng, 1, N_FUTURE)
        for name, (future, volatility) in futures(sharpe).items():
            returns = volatility * SD * (noise + future / math.sqrt(BARS_PER_YEAR))
            alarms[name] += first_alarms(reference, returns).tolist()
            if name == "as before":
                measured = dataclasses.replace(reference, mean=float(folds.mean()))
                naive += first_alarms(measured, returns).tolist()
    return alarms, naive, references


def _share(alarms: list[int], days: float) -> str:
    bars = days / 365.25 * BARS_PER_YEAR
    return f"{np.mean([0 <= a < bars for a in alarms]):.1%}"


def _median_days(alarms: list[int]) -> str:
    """Median over all, those without an alarm counting as later than any."""
    at = np.sort([a if a >= 0 else math.inf for a in alarms])[len(alarms) // 2]
    return "> 365" if math.isinf(at) else f"{(at + 1) / BARS_PER_YEAR * 365.25:.0f}"


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--models", type=int, default=500, help="chosen models for each Sharpe ratio")
    n_models = parser.parse_args().models
    began = time.monotonic()
    for draw in (normal, clustered):
        _say(f"\n{draw.__name__} returns, {n_models} chosen models a line, a year each\n")
        _say(
            "| true Sharpe | measured | promised | future | alarm in 90 days | in 180 | in 365 | median day |"
        )
        _say("|---|---|---|---|---|---|---|---|")
        for sharpe in (0.0, 2.0, 3.0, 4.0, 6.0) if draw is normal else (2.0, 4.0, 6.0):
            alarms, naive, references = study(draw, sharpe, n_models)
            measured = np.median([r.sharpe_measured for r in references])
            promised = np.median([r.sharpe for r in references])
            lines = {**alarms, "as before, against the measured mean": naive}
            if sharpe == 0.0:
                lines = {"as before": alarms["as before"]}
            for name, found in lines.items():
                shares = " | ".join(_share(found, days) for days in (90, 180, 365.25))
                _say(
                    f"| {sharpe:g} | {measured:.1f} | {promised:.1f} | {name} | {shares} | {_median_days(found)} |"
                )
    _say(f"\n{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
