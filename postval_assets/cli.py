"""The ``postval`` command, thin: words and options here, work in ``postval_assets.commands`` and the pipeline."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import click

from postval_assets.cli_audit import replay
from postval_assets.cli_calibrate import calibrate
from postval_assets.cli_operations import OPERATIONS
from postval_assets.cli_train import train
from postval_assets.cli_words import examples, instant_of, log_to_terminal, names_in, settings_of
from postval_assets.core.failures import PostvalError, Rejected
from postval_assets.core.folds import plan_named

CLASSIFICATIONS = ("APPROVED", "REVIEW", "DROP", "INVALID")
DECISIONS = ("LIVE", "PAPER", "RETRAIN", "DROP")


class _Main(click.Group):
    """A group whose failures are one readable line and exit code 1."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except click.NoSuchOption as error:
            if any(error.option_name in option.opts for option in self.params):
                hint = (
                    f"{error.message} It stands before the command: postval {error.option_name} ... COMMAND"
                )
                raise click.NoSuchOption(error.option_name, message=hint, ctx=error.ctx) from error
            raise
        except PostvalError as error:
            raise click.ClickException(str(error)) from error


@click.group(
    cls=_Main,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
    epilog=examples(
        "postval demo                                    the whole job on the bundled sample",
        "postval up                                      web UI, daemon and sensors",
        "postval ingest Alpaca_trading_trained_20250301_180000.zip",
        'postval sql "SELECT * FROM latest_decisions"',
        "postval doctor                                  what is wrong, and its mend",
    ),
)
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Data directory (default data/; POSTVAL_DATA_DIR)."
)
@click.option(
    "--bars", "bars_source", help="Bars: sample, alpaca, parquet:DIR or csv:DIR (POSTVAL_BARS_SOURCE)."
)
@click.pass_context
def main(ctx: click.Context, data_dir: Path | None, bars_source: str | None) -> None:
    """Decides whether a freshly trained trading model may trade: LIVE, PAPER, RETRAIN or DROP."""
    ctx.obj = {"data_dir": data_dir, "bars_source": bars_source}


main.add_command(train)
main.add_command(replay)
main.add_command(calibrate)
for _command in OPERATIONS:
    main.add_command(_command)


@main.command(
    epilog=examples("postval demo", "postval --data-dir data/demo up      then browse what it left")
)
@click.pass_context
def demo(ctx: click.Context) -> None:
    """The whole job on the bundled sample, in a directory of its own, through the real daemon and sensor."""
    log_to_terminal()
    from postval_assets.commands.demo import run_demo

    done = run_demo(settings_of(ctx))
    click.echo(done.text)
    name = "postval" if shutil.which("postval") else sys.argv[0]
    click.echo(f"\nEverything is stopped. Browse it:  {name} --data-dir {done.data_dir} up")
    click.echo(f'Query it:   {name} --data-dir {done.data_dir} sql "SELECT * FROM latest_decisions"')


@main.command(epilog=examples("postval up", "postval --bars parquet:D:/bars up --port 3001"))
@click.option("--port", type=int, help="Port of the web UI on 127.0.0.1 (default 3000; POSTVAL_PORT).")
@click.pass_context
def up(ctx: click.Context, port: int | None) -> None:
    """Web UI, daemon and sensors on this machine, until Ctrl-C."""
    log_to_terminal()
    from postval_assets.commands.home import prepare_home, write_dotenv
    from postval_assets.commands.occupancy import held, occupied
    from postval_assets.commands.runs import tell_bars
    from postval_assets.commands.servers import dev_command, require_free_port, running
    from postval_assets.pipeline.platform import open_platform

    settings = settings_of(ctx, port=port)
    with held(settings):  # stops what a killed one left behind, which would hold the port
        require_free_port(settings.port)
    tell_bars(open_platform(settings))
    prepare_home(settings)
    write_dotenv(settings, Path.cwd())
    click.echo(
        f"postval: http://127.0.0.1:{settings.port}   inbox: {settings.inbox}   stop with Ctrl-C", err=True
    )
    with occupied(settings), running(dev_command(settings), settings, None) as process:
        try:
            code = process.wait()
        except KeyboardInterrupt:
            click.echo("stopping ...", err=True)
            return
    if code:
        raise Rejected(f"dagster dev ended with code {code}; its messages are above")


@main.command(epilog=examples("postval home", "dagster dev      then keeps its history in data/dagster"))
@click.pass_context
def home(ctx: click.Context) -> None:
    """Prepares the data directory, and tells a plain `dagster dev` in this folder where it is (.env)."""
    from postval_assets.commands.home import prepare_home, write_dotenv

    settings = settings_of(ctx)
    prepare_home(settings)
    click.echo(str(settings.data_dir))
    written = write_dotenv(settings, Path.cwd())
    if written is not None:
        click.echo(str(written))


@main.command(epilog=examples("postval ingest Alpaca_trading_trained_20250301_180000.zip"))
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.pass_context
def ingest(ctx: click.Context, file: Path) -> None:
    """Puts an archive into the inbox, atomically; a running `postval up` takes it from there."""
    from postval_assets.commands.home import prepare_home
    from postval_assets.io.inbox import deliver

    settings = settings_of(ctx)
    prepare_home(settings)
    click.echo(f"{deliver(file, settings.inbox)}")


@main.command(
    epilog=examples(
        "postval validate Alpaca_trading_trained_20250301_180000.zip",
        "postval --bars parquet:D:/bars validate archive.zip --symbols UNIUSD,AAPL --plan 180d,365d",
        "postval validate archive.zip --as-of 2025-03-01T00:00:00Z",
    )
)
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--symbols", help="Only these, separated by commas.")
@click.option("--plan", help="Walk-forward plans: 180d, 365d or both (default: the setting plans).")
@click.option("--as-of", help="Evaluate at the newest bar complete by this time, e.g. 2025-03-01T00:00:00Z.")
@click.pass_context
def validate(
    ctx: click.Context, file: Path, symbols: str | None, plan: str | None, as_of: str | None
) -> None:
    """One archive to its decisions, by the same assets in this process; exit 0 when every model has one."""
    log_to_terminal()
    settings = settings_of(ctx)
    plans = names_in(plan) or settings.plans
    for name in plans:
        plan_named(name)
    wanted, instant = names_in(symbols), instant_of(as_of)
    from postval_assets.commands.runs import validate as run_validate
    from postval_assets.commands.show import results_text
    from postval_assets.pipeline.platform import open_platform
    from postval_assets.pipeline.reading import undecided_models

    platform = open_platform(settings)
    done = run_validate(platform, file, symbols=wanted, plans=plans, as_of=instant)
    click.echo(results_text(platform, done.archive_id, done.symbols if wanted else None, instant))
    undecided = undecided_models(platform, done.archive_id, done.symbols, plans, instant)
    if undecided:
        raise Rejected(f"no decision for {', '.join(undecided)}")


@main.command(
    epilog=examples(
        "postval backtest --model UNIUSD_1Hour.pt --days 180 --capital 100000 --walk-forward 5",
        "postval --bars parquet:D:/bars backtest --model AAPL_1Hour.pt --days 30",
    )
)
@click.option("--model", type=click.Path(path_type=Path, exists=True, dir_okay=False), required=True)
@click.option("--days", type=click.IntRange(1, 3650), default=180, show_default=True)
@click.option("--capital", type=float, help="Starting equity of every block, USD (default 100000).")
@click.option(
    "--walk-forward", "n_folds", type=click.IntRange(1, 1000), default=1, help="Blocks (default 1)."
)
@click.option("--symbol", help="Where the file's name does not say it.")
@click.option("--as-of", help="Evaluate at the newest bar complete by this time.")
@click.pass_context
def backtest(
    ctx: click.Context,
    model: Path,
    days: int,
    capital: float | None,
    n_folds: int,
    symbol: str | None,
    as_of: str | None,
) -> None:
    """One model file over recent bars; nothing is stored."""
    settings = settings_of(ctx, capital=capital)
    from postval_assets.pipeline.platform import open_platform
    from postval_assets.pipeline.single_model import backtest_model
    from postval_assets.report.text import fold_analysis

    platform = open_platform(settings)
    done = backtest_model(platform, model, days=days, n_folds=n_folds, symbol=symbol, as_of=instant_of(as_of))
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(fold_analysis(done.summary, done.folds))


@main.command(
    epilog=examples(
        "postval backfill --symbols UNIUSD,AAPL --plan 365d",
        "postval backfill --symbols BTCUSD --plan 180d --archive 20250301_180000",
        "postval backfill --symbols BTCUSD --plan 180d --as-of now      again, on newer bars",
    )
)
@click.option("--symbols", required=True, help="Separated by commas.")
@click.option("--plan", required=True, help="180d, 365d or both.")
@click.option("--archive", "archive_id", help="Default: each symbol's newest.")
@click.option("--as-of", help="Evaluate at the newest bar complete by this time (now: today's newest).")
@click.pass_context
def backfill(ctx: click.Context, symbols: str, plan: str, archive_id: str | None, as_of: str | None) -> None:
    """Folds for new symbols or a longer plan, and the summaries and decisions that follow."""
    log_to_terminal()
    plans = names_in(plan) or ()
    for name in plans:
        plan_named(name)
    from postval_assets.commands.runs import backfill as run_backfill
    from postval_assets.commands.show import results_text
    from postval_assets.pipeline.platform import open_platform
    from postval_assets.pipeline.reading import missing_plans

    platform = open_platform(settings_of(ctx))
    instant = instant_of(as_of)
    archives = run_backfill(
        platform, symbols=names_in(symbols) or (), plans=plans, archive_id=archive_id, as_of=instant
    )
    for one in sorted(set(archives.values())):
        click.echo(results_text(platform, one, [s for s, a in archives.items() if a == one], instant))
    missing = missing_plans(platform, archives, plans)
    if missing:
        raise Rejected("no fold was computed for " + "; ".join(missing))


@main.command(
    epilog=examples(
        "postval bars                                    what is missing of all known symbols' bars",
        "postval --bars alpaca bars --symbols AAPL,BTCUSD",
    )
)
@click.option("--symbols", help="Separated by commas; also ones that no archive has (default: all known).")
@click.pass_context
def bars(ctx: click.Context, symbols: str | None) -> None:
    """Loads or tops up bars, checks them, and shows what there is; exit 1 where a symbol has none."""
    log_to_terminal()
    wanted = names_in(symbols)
    from postval_assets.commands.runs import load
    from postval_assets.pipeline.platform import open_platform
    from postval_assets.report.text import bars_table

    rows = load(open_platform(settings_of(ctx)), wanted)
    click.echo(bars_table(rows))
    there = {r["symbol"] for r in rows if r["n_bars"]}
    without = dict.fromkeys(r["symbol"] for r in rows if r["symbol"] not in there)
    if without:
        raise Rejected(f"no bars of {', '.join(without)}")


@main.command(
    epilog=examples(
        "postval stage --to D:/bot                          LIVE and PAPER of the newest decided archive",
        "postval stage --to staged --archive 20250301_180000 --classification APPROVED,REVIEW",
    )
)
@click.option("--to", "target", type=click.Path(path_type=Path, file_okay=False), required=True)
@click.option("--archive", "archive_id", help="Default: the newest decided one.")
@click.option("--classification", help=f"Of the gate: {', '.join(CLASSIFICATIONS)}.")
@click.option("--decision", help=f"Of the policy acted on: {', '.join(DECISIONS)}.")
@click.pass_context
def stage(
    ctx: click.Context, target: Path, archive_id: str | None, classification: str | None, decision: str | None
) -> None:
    """The original checkpoints of chosen models into DIR/models/rl_symbols/, with a manifest (default: LIVE, PAPER)."""
    if classification is not None and decision is not None:
        raise Rejected("give one of --classification and --decision, or neither for LIVE and PAPER")
    from postval_assets.pipeline.platform import open_platform
    from postval_assets.pipeline.staging import newest_complete_archive, stage_models

    platform = open_platform(settings_of(ctx))
    chosen = archive_id or newest_complete_archive(platform)
    if chosen is None:
        raise Rejected("no archive is decided yet: postval ingest FILE.zip, and let postval up run")
    staged = stage_models(
        platform,
        chosen,
        target,
        classifications=names_in(classification, CLASSIFICATIONS) or (),
        decisions=names_in(decision, DECISIONS) or (),
    )
    for name in staged.files:
        click.echo(str(target / name))
    click.echo(str(staged.manifest))


@main.command(
    epilog=examples(
        'postval sql "SELECT * FROM latest_decisions"',
        'postval sql "SELECT symbol, plan, sharpe_mean FROM leaderboard LIMIT 10" --format csv',
    )
)
@click.argument("query")
@click.option(
    "--format", "style", type=click.Choice(["table", "csv", "json"]), default="table", show_default=True
)
@click.pass_context
def sql(ctx: click.Context, query: str, style: str) -> None:
    """A query on data/postval.duckdb, read-only; it works while runs write and while others hold the file."""
    from postval_assets.io.warehouse import query_replica
    from postval_assets.pipeline.platform import open_platform

    platform = open_platform(settings_of(ctx))
    names, rows = query_replica(platform.replica, query)
    _PRINTERS[style](names, rows)


def _print_table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    from postval_assets.report.text import table

    shown = [[_plain(v) for v in row] for row in rows]
    click.echo(table(names, shown))
    click.echo(f"({len(rows)} row{'' if len(rows) == 1 else 's'})", err=True)


def _print_csv(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(names)
    writer.writerows([_plain(v) for v in row] for row in rows)


def _print_json(names: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    click.echo(json.dumps([dict(zip(names, row, strict=True)) for row in rows], indent=2, default=_jsonable))


def _plain(value: object) -> object:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, list):
        return "; ".join(str(v) for v in value)
    return value if value is None or isinstance(value, int | float | str) else str(value)


def _jsonable(value: object) -> object:
    return float(value) if isinstance(value, Decimal) else _plain(value)


_PRINTERS: dict[str, Callable[[Sequence[str], Sequence[Sequence[object]]], None]] = {
    "table": _print_table,
    "csv": _print_csv,
    "json": _print_json,
}


@main.group(epilog=examples("postval features list", "postval features check acme-59"))
def features() -> None:
    """Feature sets: which are registered, and whether one sees only what it may."""


@features.command("list", epilog=examples("postval features list"))
def features_list() -> None:
    """The feature sets of the reference and of installed plug-ins; a broken plug-in with its reason."""
    from postval_assets.commands.features import feature_sets_text

    click.echo(feature_sets_text())


@features.command(
    "check",
    epilog=examples(
        "postval features check acme-59",
        "postval --bars parquet:D:/bars features check acme-59 --symbol UNIUSD --timeframe 1Hour --verbose",
    ),
)
@click.argument("name")
@click.option("--symbol", help="Whose bars (default: the first few of the source).")
@click.option("--timeframe", default="1Hour", show_default=True, help="Of the bars.")
@click.option("--verbose", is_flag=True, help="Also the smallest and largest value of each feature.")
@click.pass_context
def features_check(
    ctx: click.Context, name: str, symbol: str | None, timeframe: str, *, verbose: bool
) -> None:
    """Runs a feature set on bars: shape, finite values, no look-ahead, cost; exit 1 where it is refused."""
    from postval_assets.commands.features import check_feature_set
    from postval_assets.pipeline.platform import open_platform

    check = check_feature_set(open_platform(settings_of(ctx)), name, symbol, timeframe)
    click.echo(check.text(verbose=verbose))
    check.require_clean()


@main.command(epilog=examples("postval doctor", "postval --data-dir D:/postval doctor"))
@click.pass_context
def doctor(ctx: click.Context) -> None:
    """What is configured, reachable, stale, locked or large, each with its mend; exit 1 where something is wrong."""
    from postval_assets.commands.doctor import examine
    from postval_assets.commands.finding import Severity
    from postval_assets.report.text import table

    findings = examine(settings_of(ctx))
    click.echo(
        table(("", "what", "found", "mend"), [(f.severity, f.what, f.found, f.mend or "") for f in findings])
    )
    if any(f.severity is Severity.ERROR for f in findings):
        sys.exit(1)


if __name__ == "__main__":
    main()
