"""``postval train``: its options, and what it prints.

Here: words, and values from the settings for the trainer, which knows no settings. Not here: any training.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postval_assets.cli_words import examples, instant_of, log_to_terminal, names_in, settings_of
from postval_assets.core.bars import Bars
from postval_assets.core.failures import PostvalError, Rejected
from postval_assets.core.folds import PLANS
from postval_assets.core.instruments import asset_class_of, parse_symbol, parse_timeframe
from postval_assets.settings import Settings

if TYPE_CHECKING:
    from postval_assets.trainer.history import BarChoice
    from postval_assets.trainer.run import Delivered, TrainingPlan, TrainingReport

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
_SHOWN = 8

log = logging.getLogger("postval.train")


@click.command(
    epilog=examples(
        "postval train --symbols UNIUSD,BTCUSD --bars parquet:D:/bars --hold-out-days 365 --out archives",
        "postval train --symbols all --until 2024-06-29 --out data/inbox --restarts 3 --jobs 4",
        "postval train --symbols AAPL --timeframe 4Hour --config ppo.toml --updates 40 --out archives",
    )
)
@click.option(
    "--symbols",
    required=True,
    help="Separated by commas; all: every symbol that the source has such bars of.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder of the archive, such as the inbox.",
)
@click.option(
    "--bars", "bars_source", help="Bars: sample, alpaca, parquet:DIR or csv:DIR; as before the command."
)
@click.option("--timeframe", default="1Hour", show_default=True, help="Of the bars that the models act on.")
@click.option("--since", help="Train on bars that open from then on, e.g. 2022-01-01.")
@click.option(
    "--until",
    help="Train on bars that close by then, e.g. 2024-06-29 or 2024-06-29T12:00:00Z (default: all bars).",
)
@click.option(
    "--hold-out-days",
    type=click.IntRange(1, 36500),
    help="Instead of --until: leave out the last days of each symbol's own bars, for validation.",
)
@click.option(
    "--config",
    "config_file",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="Settings of the learning, a TOML file (docs/trainer.md); the options below win.",
)
@click.option("--model-version", help="Layout of observations and actions (default 2.7.0).")
@click.option("--feature-set", help="Name of a feature set (default: the reference set of the version).")
@click.option("--updates", type=click.IntRange(1), help="At most so many (default 120).")
@click.option("--seed", type=click.IntRange(0), help="Of everything random (default 0).")
@click.option(
    "--restarts",
    type=click.IntRange(1, 1000),
    default=1,
    show_default=True,
    help="Runs of each symbol, with seeds SEED, SEED+1, ...; the one with the best fitness is delivered.",
)
@click.option(
    "--jobs", type=click.IntRange(1, 1024), help="Processes (default: one a core; 1 on CUDA). Same results."
)
@click.option(
    "--device", type=click.Choice(["auto", "cpu", "cuda"]), help="Default: the setting device (auto)."
)
@click.option(
    "--keep-checkpoints/--no-keep-checkpoints",
    default=None,
    help="The network of every validation, in OUT/checkpoints_ID (default: kept, but not in the inbox).",
)
@click.pass_context
def train(
    ctx: click.Context,
    symbols: str,
    out: Path,
    bars_source: str | None,
    timeframe: str,
    since: str | None,
    until: str | None,
    hold_out_days: int | None,
    config_file: Path | None,
    model_version: str | None,
    feature_set: str | None,
    updates: int | None,
    seed: int | None,
    restarts: int,
    jobs: int | None,
    device: str | None,
    *,
    keep_checkpoints: bool | None,
) -> None:
    """Trains a network for each symbol (PPO) and writes them as one training archive.

    The archive's id is the time at which the command started. A symbol that cannot be trained is told and does not
    stop the others (exit code 1). Ctrl-C: what is finished goes into the archive, the rest is left out (exit code
    130); a second Ctrl-C leaves at once, without an archive.
    """
    log_to_terminal()
    if until is not None and hold_out_days is not None:
        raise Rejected("give one of --until and --hold-out-days")
    settings = settings_of(ctx, bars_source=bars_source, device=device)
    now = datetime.now(UTC)
    plan: TrainingPlan | None = None
    try:
        from postval_assets.core.features.registry import registered_feature_sets
        from postval_assets.trainer.config_file import training_config
        from postval_assets.trainer.history import BarChoice
        from postval_assets.trainer.processes import default_jobs, stopping_on_interrupt
        from postval_assets.trainer.run import TrainingPlan, torch_device, train_archive

        config = training_config(
            config_file, model_version=model_version, feature_set=feature_set, n_updates=updates, seed=seed
        )
        if config.feature_set:
            _require_feature_set(config.feature_set)
        choice = BarChoice(
            timeframe=parse_timeframe(timeframe),
            base_timeframe=settings.base_timeframe,
            regular_session=settings.session == "regular",
            now=now,
            since=instant_of(since),
            until=instant_of(until),
            hold_out_days=hold_out_days,
        )
        torch_name = torch_device(settings.device)
        series, failures = _training_parts(settings, symbols, choice)
        plan = TrainingPlan(
            config=config,
            n_restarts=restarts,
            rules=settings.execution_rules,
            feature_sets=registered_feature_sets,
            device=torch_name,
            jobs=jobs or default_jobs(len(series) * restarts, torch_name),
            started_at=now,
            out=out.expanduser().absolute(),
            keep_checkpoints=_outside_inbox(out, settings) if keep_checkpoints is None else keep_checkpoints,
        )
        with stopping_on_interrupt() as should_stop:
            report = train_archive(series, plan, should_stop)
    except KeyboardInterrupt:
        click.echo(f"stopped at once: {_what_is_written(plan)}", err=True)
        sys.exit(EXIT_INTERRUPTED)
    _show(report, [*failures, *report.failures], _before_command(ctx, bars_source))


def _outside_inbox(out: Path, settings: Settings) -> bool:
    """In the inbox, a folder of checkpoints would stay for good: nothing takes it from there."""
    return out.expanduser().resolve() != settings.inbox.resolve()


def _what_is_written(plan: TrainingPlan | None) -> str:
    """A second Ctrl-C may come when the archive is complete already."""
    if plan is not None:
        from postval_assets.trainer.run import archive_path

        if archive_path(plan).exists():
            return f"the archive was complete already: {archive_path(plan)}"
    return "no archive was written"


def _require_feature_set(name: str) -> None:
    """Told before training, with the reason of a plug-in that is broken."""
    from postval_assets.commands.features import feature_set_named

    feature_set_named(name)


def _training_parts(
    settings: Settings, symbols: str, choice: BarChoice
) -> tuple[list[Bars], list[tuple[str, str]]]:
    """The training bars of each symbol that has some, and why others have none: those of ``all`` are only told."""
    from postval_assets.io.bar_source import is_remote, open_bar_source
    from postval_assets.trainer.history import bars_needed, training_bars

    source = open_bar_source(settings.bars_source, sample_dir=settings.sample_dir, alpaca=settings)
    all_there_are = symbols.strip() == "all"
    if all_there_are and is_remote(source):
        raise Rejected(f"--symbols all: bars source {source.name} does not list its symbols; name them")
    given = source.symbols() if all_there_are else names_in(symbols) or ()
    series: list[Bars] = []
    failures: list[tuple[str, str]] = []
    skipped: list[tuple[str, str]] = []
    short: list[str] = []
    for symbol in dict.fromkeys(parse_symbol(name) for name in given):
        try:
            part = training_bars(source, symbol, asset_class_of(symbol, settings.symbol_classes), choice)
        except PostvalError as error:
            # A source may have a symbol in another timeframe only; nobody has asked for that one by name.
            missing = skipped if all_there_are and isinstance(error, Rejected) else failures
            missing.append((f"{symbol}_{choice.timeframe}", str(error)))
            log.info("%s_%s  left out  %s", symbol, choice.timeframe, error)
            continue
        series.append(part.bars)
        if part.skipped is not None:
            log.warning("%s_%s  %s", symbol, choice.timeframe, part.skipped)
        if part.too_little is not None:
            short.append(f"{symbol} ({part.too_little})")
    if not series:
        raise Rejected(f"nothing to train: {_reasons([*failures, *skipped])}")
    if short:
        plans = (
            f"plan {p.name} needs {p.days} days and {bars_needed(p)} bars in them" for p in PLANS.values()
        )
        log.warning(
            "too little is left to validate on, %s: %s. Leave more out of training with --hold-out-days 365, "
            "or train on shorter bars",
            ", ".join(plans),
            ", ".join(short[:_SHOWN]) + (f" and {len(short) - _SHOWN} more" if len(short) > _SHOWN else ""),
        )
    if source.name == "sample":
        log.warning("the bars of the sample are simulated: these networks are for trying out only")
    return series, failures


def _show(report: TrainingReport, failures: Sequence[tuple[str, str]], before: str) -> None:
    """The models on stdout; what is missing on stderr and in the exit code."""
    from postval_assets.report.text import table
    from postval_assets.trainer.run import best_update

    if report.archive is not None:
        headers = (
            "model",
            "update",
            "of",
            "fitness",
            "PF",
            "consist.",
            "maxDD proxy",
            "train_end",
            "seconds",
        )
        rows = [_row(one, best_update(one.model)) for one in report.delivered]
        click.echo(table(headers, rows))
        click.echo(f"\n{report.archive}")
        if report.checkpoints is not None:
            click.echo(f"{report.checkpoints}")
        file = _quoted(str(report.archive))
        click.echo(f"\nnext:  postval {before}validate {file} --plan 180d,365d")
        click.echo(f"or:    postval {before}ingest {file}")
    if report.stopped:
        left_out = f"; left out: {', '.join(report.left_out)}" if report.left_out else ""
        click.echo(f"stopped by Ctrl-C{left_out}", err=True)
        if report.archive is None:
            click.echo("no symbol was finished: no archive was written", err=True)
    if report.archive is not None and failures:
        click.echo(f"failed: {_reasons(failures)}", err=True)
    if report.stopped:
        sys.exit(EXIT_INTERRUPTED)
    if report.archive is None:
        raise Rejected(f"no symbol was trained, and no archive written: {_reasons(failures)}")
    if failures:
        raise Rejected(
            f"not trained: {', '.join(name for name, _ in failures)}; the archive holds the others"
        )


def _before_command(ctx: click.Context, bars_source: str | None) -> str:
    """The options that the next command needs to find the same data directory and bars."""
    given = {"--data-dir": ctx.obj["data_dir"], "--bars": bars_source or ctx.obj["bars_source"]}
    return "".join(f"{option} {_quoted(str(value))} " for option, value in given.items() if value)


def _row(one: Delivered, update: int) -> tuple[object, ...]:
    claim = one.model.claims[-1]
    figures = (claim.fitness_score, claim.profit_factor, claim.consistency)
    return (
        one.model.name,
        update,
        one.n_updates,
        *(f"{figure:.2f}" for figure in figures),
        f"{claim.max_drawdown:.3f}",
        f"{one.model.train_end:%Y-%m-%d %H:%MZ}",
        f"{one.seconds:.0f}",
    )


def _reasons(failures: Sequence[tuple[str, str]]) -> str:
    """Each reason once, after the names that it is true of."""
    names: dict[str, list[str]] = {}
    for name, reason in failures:
        names.setdefault(reason, []).append(name)
    return "; ".join(f"{', '.join(of)}: {reason}" for reason, of in names.items())


def _quoted(text: str) -> str:
    return f'"{text}"' if " " in text else text
