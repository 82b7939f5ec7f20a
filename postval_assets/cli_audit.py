"""The command ``postval replay``: words and options here, work in ``postval_assets.commands.replay``."""

from __future__ import annotations

import sys

import click

from postval_assets.cli_words import examples, settings_of
from postval_assets.core.failures import PostvalError


@click.command(
    epilog=examples(
        "postval replay 3f9a1c04b7e2                                 the id that decisions are printed with",
        "postval replay 20250301_180000 UNIUSD 1Hour 180d            its newest evaluation",
        "postval replay 3f9a1c04b7e2 --with-recorded-settings        does it follow from its own inputs?",
        "postval replay --all --archive 20250301_180000",
    )
)
@click.argument("decision", nargs=-1)
@click.option(
    "--all", "every", is_flag=True, help="The newest decision of each model, plan, as_of and policy."
)
@click.option("--archive", "archive_id", help="With --all: of this archive only.")
@click.option(
    "--with-recorded-settings",
    is_flag=True,
    help="Apply the settings, thresholds and limits recorded with the decision, not those in force.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as JSON.")
@click.pass_context
def replay(
    ctx: click.Context,
    decision: tuple[str, ...],
    archive_id: str | None,
    *,
    every: bool,
    with_recorded_settings: bool,
    as_json: bool,
) -> None:
    """Recomputes a decision from archive, weights, bars and settings as they are now, and writes nothing.

    DECISION is a decision_id, or ARCHIVE SYMBOL TIMEFRAME PLAN [AS_OF] [POLICY]. Exit 0: the same decision, reasons
    and figures; 1: different; 2: it cannot be recomputed.
    """
    from postval_assets.commands.replay import replay_decisions
    from postval_assets.pipeline.platform import open_platform

    try:
        done = replay_decisions(
            open_platform(settings_of(ctx)),
            decision,
            every=every,
            archive_id=archive_id,
            with_recorded_settings=with_recorded_settings,
            as_json=as_json,
        )
    except PostvalError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(2)
    click.echo(done.text)
    sys.exit(done.code)
