"""Commands of daily operation: deployed models, disk, archives, schema, backups, and what Dagster lost.

Here: words and options. Not here: the work (commands/runs.py, pruning.py, archives.py, upkeep.py, rebuilding.py). What
each of them is for is in docs/operations.md.
"""

from __future__ import annotations

import json
from pathlib import Path

import click

from postval_assets.cli_words import examples, log_to_terminal, names_in, settings_of
from postval_assets.pipeline.platform import Platform


def _platform(ctx: click.Context) -> Platform:
    from postval_assets.pipeline.platform import open_platform

    return open_platform(settings_of(ctx))


@click.command(
    epilog=examples(
        "postval prune            what would be freed, by rule, with sizes; nothing is touched",
        "postval prune --yes      free it",
    )
)
@click.option("--yes", is_flag=True, help="Free it; without this it is only shown.")
@click.pass_context
def prune(ctx: click.Context, *, yes: bool) -> None:
    """Frees what the retention settings (keep_...) keep no longer; results and the newest archives always stay."""
    from postval_assets.commands.pruning import find_prunable, prunable_text, size_text
    from postval_assets.commands.pruning import prune as run_prune

    platform = _platform(ctx)
    found = find_prunable(platform)
    click.echo(prunable_text(found))
    if not found:
        return
    if not yes:
        click.echo("nothing was touched; free it with: postval prune --yes", err=True)
        return
    run_prune(platform, found)
    click.echo(f"freed {size_text(found.size_bytes)}", err=True)


@click.command(
    epilog=examples(
        "postval archives",
        "postval archives --json",
        "postval archives --remove 20250301_180000            what that would free",
        "postval archives --remove 20250301_180000 --yes      its zip and weights; results stay",
    )
)
@click.option("--json", "as_json", is_flag=True, help="As JSON, with everything that is known.")
@click.option("--remove", "archive_id", help="Remove this archive's zip and weights; shown first.")
@click.option("--yes", is_flag=True, help="With --remove: do it.")
@click.pass_context
def archives(ctx: click.Context, archive_id: str | None, *, as_json: bool, yes: bool) -> None:
    """Every archive that was delivered: models, decisions, sizes, and where its files lie."""
    from postval_assets.commands.archives import (
        archives_text,
        find_removal,
        list_archives,
        removal_text,
        remove_archive,
    )

    if archive_id is None and yes:
        raise click.UsageError("--yes is for --remove ARCHIVE_ID")
    if archive_id is not None and as_json:
        raise click.UsageError("--json is for the list, not for --remove")
    platform = _platform(ctx)
    if archive_id is None:
        entries = list_archives(platform)
        text = json.dumps([e.as_json() for e in entries], indent=2) if as_json else archives_text(entries)
        click.echo(text)
        return
    found = find_removal(platform, archive_id)
    click.echo(removal_text(found))
    if not found.items:
        return
    if not yes:
        click.echo(
            f"nothing was touched; remove it with: postval archives --remove {archive_id} --yes", err=True
        )
        return
    remove_archive(platform, found)
    click.echo(f"removed; to have it back, drop {archive_id}'s zip again", err=True)


@click.command(epilog=examples("postval migrate      after installing another version of postval"))
@click.pass_context
def migrate(ctx: click.Context) -> None:
    """Brings the database's schema (after a verified backup) and Dagster's own up to this version."""
    log_to_terminal()
    from postval_assets.commands.upkeep import migrate as run_migrate

    click.echo(run_migrate(_platform(ctx)).text())


@click.command(
    epilog=examples(
        "postval backup             a copy in data/warehouse/backups; works while runs write",
        "postval backup --list      the copies there are",
    )
)
@click.option("--list", "only_list", is_flag=True, help="Show the copies that there are.")
@click.pass_context
def backup(ctx: click.Context, *, only_list: bool) -> None:
    """Makes a verified copy of the database of results (archives and weights are files: copy the folders)."""
    from postval_assets.commands.pruning import size_text
    from postval_assets.commands.upkeep import back_up, backups_text

    platform = _platform(ctx)
    if only_list:
        click.echo(backups_text(platform))
        return
    made = back_up(platform)
    click.echo(f"{made.path} ({size_text(made.size_bytes)})")


@click.command(
    epilog=examples(
        "postval restore warehouse.v0006.20250301T180000Z.duckdb      one of those that backup lists",
        "postval restore D:/elsewhere/warehouse.duckdb",
    )
)
@click.argument("file", type=click.Path(path_type=Path))
@click.pass_context
def restore(ctx: click.Context, file: Path) -> None:
    """Puts a backup in the database's place; what was there is kept aside. `postval up` must be stopped."""
    log_to_terminal()
    from postval_assets.commands.upkeep import restore as run_restore

    click.echo(run_restore(_platform(ctx), file).text())


@click.command(epilog=examples("postval rebuild      after data/dagster was lost; again changes nothing"))
@click.pass_context
def rebuild(ctx: click.Context) -> None:
    """Tells Dagster again what the database shows to have been made: partitions, events and verdicts."""
    log_to_terminal()
    from postval_assets.commands.rebuilding import rebuild as run_rebuild

    click.echo(run_rebuild(_platform(ctx)).text())


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
    from postval_assets.report.watch import watch_text

    click.echo(watch_text(run_watch(_platform(ctx), wanted)))


OPERATIONS = (watch, prune, archives, migrate, backup, restore, rebuild)
