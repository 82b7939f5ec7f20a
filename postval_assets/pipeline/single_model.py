"""One model file over recent bars: ``postval backtest``, the old script's question.

Here: a checkpoint and bars in, folds out, nothing stored. Not here: archives, gating and decisions.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from postval_assets.core.checkpoint import read_checkpoint
from postval_assets.core.evaluation import EvaluatedModel, evaluate, fold_inputs
from postval_assets.core.failures import Rejected
from postval_assets.core.folds import Plan, TrainingWindow, cut, newest_close
from postval_assets.core.instruments import Timeframe, parse_symbol, parse_timeframe
from postval_assets.core.walk_forward import summarize
from postval_assets.pipeline.bars_at_hand import bars_at_hand, days_of
from postval_assets.pipeline.extraction import choose_feature_set
from postval_assets.pipeline.fold_rows import fold_row
from postval_assets.pipeline.platform import Platform

Row = Mapping[str, Any]


@dataclass(frozen=True)
class SingleBacktest:
    """What a model file did: rows as in fold_results and walk_forward_summaries, and notes on what was assumed."""

    summary: Row
    folds: tuple[Row, ...]
    notes: tuple[str, ...]


def backtest_model(
    platform: Platform,
    file: Path,
    *,
    days: int,
    n_folds: int,
    symbol: str | None = None,
    as_of: datetime | None = None,
) -> SingleBacktest:
    """Trade one checkpoint over the last days, in one block or several.

    Args:
        platform: settings and source of bars; of a source of the network, stored bars are taken where they do.
        file: ``SYMBOL_TIMEFRAME.pt``.
        days: back from the newest complete bar.
        n_folds: blocks.
        symbol: where the file's name does not say it.
        as_of: the newest bar complete by then; default now.

    Raises:
        Rejected: for a file, symbol or bars that cannot be used.
    """
    name, timeframe = _named(file, symbol)
    settings = platform.settings
    checkpoint = read_checkpoint(
        file,
        allowed_config_prefixes=settings.config_prefixes,
        default_activation=settings.default_activation,
    )
    spec = checkpoint.spec
    feature_set, basis = choose_feature_set(platform, spec)
    asset_class = platform.asset_class(name)
    model = EvaluatedModel(
        model_sha256="",
        spec=spec,
        tensors=checkpoint.tensors,
        feature_set=feature_set,
        training=TrainingWindow(spec.train_start, spec.train_end),
    )
    needed = days + days_of(model.needed_before, timeframe, asset_class)
    bars = bars_at_hand(platform, name, timeframe, days=needed, until=as_of)
    at = newest_close(bars, as_of or platform.now())
    plan = Plan(f"{days}d", days, n_folds)
    blocks = cut(bars, plan, at, needed_before=model.needed_before)
    inputs = fold_inputs(model, bars, blocks, at, settings.evaluation_digest())
    (evaluations,) = evaluate(model, bars, [(blocks, inputs)], settings.execution_rules, platform.device())
    keys = {"symbol": name, "timeframe": timeframe.value, "as_of": at}
    summary = summarize(
        [e.outcome() for e in evaluations], n_folds, blocks.bars_per_year, settings.grade_limits
    )
    notes = [
        f"features {feature_set.name} ({basis})",
        f"activation {spec.activation} ({spec.activation_basis})",
    ]
    return SingleBacktest(
        summary={**keys, "plan": plan.name, **dataclasses.asdict(summary)},
        folds=tuple(fold_row(keys, blocks, e, bars, {}) for e in evaluations),
        notes=(*notes, *checkpoint.notes),
    )


def _named(file: Path, symbol: str | None) -> tuple[str, Timeframe]:
    stem, _, frame = file.stem.partition("_")
    if symbol is not None and frame not in list(Timeframe):
        frame = ""  # the name says nothing of use: the symbol was given, and hourly bars are the default
    try:
        timeframe = parse_timeframe(frame) if frame else Timeframe.HOUR_1
        return parse_symbol(symbol or stem), timeframe
    except Rejected as error:
        raise Rejected(
            f"{file.name}: {error}; expected a name such as UNIUSD_1Hour.pt, or --symbol"
        ) from error
