"""The command ``postval watch``: words and options here, work in ``postval_assets.commands.runs``."""

from __future__ import annotations

import click

from postval_assets.cli_words import examples, log_to_terminal, names_in, settings_of


@click.command(
    epilog=examples(
        "postval bars && postval watch        on the newest bars",
        "postval watch --symbols AAPL,BTCUSD",
    )
)
@click.option("--symbols", help="Separated by commas (default: all that have a LIVE model).")
@click.pass_context
def watch(ctx: click.Context, symbols: str | None) -> None:
    """Holds models that went LIVE against the stored bars since then; one whose edge is lost becomes RETRAIN."""
    log_to_terminal()
    wanted = names_in(symbols)
    from postval_assets.commands.runs import watch as run_watch
    from postval_assets.pipeline.platform import open_platform
    from postval_assets.report.watch import watch_text

    click.echo(watch_text(run_watch(open_platform(settings_of(ctx)), wanted)))
