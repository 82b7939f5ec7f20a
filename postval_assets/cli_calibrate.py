"""The command ``postval calibrate``: words and options here, work in ``postval_assets.trainer.calibration``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from postval_assets.cli_words import examples, log_to_terminal, names_in, settings_of
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.folds import PLANS

if TYPE_CHECKING:
    from postval_assets.trainer.calibration.study import Study

EXIT_INTERRUPTED = 130  # 128 + SIGINT, as shells have it
DEFAULT_SEED = 20250630
PAGE_NAME = "calibration.md"


@click.command(
    epilog=examples(
        "postval calibrate --archives 5 --edge-markets 5 --out .        a first look, some minutes",
        "postval calibrate --archives 200 --out docs/calibration.md",
        "postval calibrate --page-only --out docs/calibration.md        the page again, from the results",
    )
)
@click.option(
    "--archives",
    type=click.IntRange(0),
    default=100,
    show_default=True,
    help="Of 50 worthless models each, on markets of their own, judged with costs and without.",
)
@click.option(
    "--edge-markets",
    type=click.IntRange(0),
    default=58,
    show_default=True,
    help="For each true Sharpe ratio, markets of each of the seven symbols with an informed policy.",
)
@click.option(
    "--bundled-archives",
    type=click.IntRange(0),
    default=20,
    show_default=True,
    help="Of 50 random networks on the bundled bars, which are one realisation.",
)
@click.option("--plans", default=",".join(PLANS), show_default=True, help="Separated by commas.")
@click.option(
    "--seed", type=click.IntRange(0), default=DEFAULT_SEED, show_default=True, help="Of everything."
)
@click.option("--processes", type=click.IntRange(1, 1024), help="Default: one a core. Same results.")
@click.option(
    "--results",
    type=click.Path(path_type=Path, dir_okay=False),
    help="File of results, which an interrupted study goes on from (default: in the data directory).",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path(),
    help=f"The page, or a folder for it ({PAGE_NAME}); its picture goes beside it. Default: here.",
)
@click.option(
    "--page-only", is_flag=True, help="Make the page from the results that there are, and nothing else."
)
@click.pass_context
def calibrate(
    ctx: click.Context,
    archives: int,
    edge_markets: int,
    bundled_archives: int,
    plans: str,
    seed: int,
    processes: int | None,
    results: Path | None,
    out: Path,
    *,
    page_only: bool,
) -> None:
    """Measures how often the policies are wrong: models of known worth, through the real engine and rules.

    Worthless models say how often each policy gives a false LIVE, models with a planted edge how often it finds one.
    Writes a page with tables and a picture. Stopped (Ctrl-C), the same command goes on where it was.
    """
    log_to_terminal()
    settings = settings_of(ctx)
    from postval_assets.trainer.calibration.page import page
    from postval_assets.trainer.calibration.picture import picture
    from postval_assets.trainer.calibration.running import finished_before, run_study
    from postval_assets.trainer.calibration.study import Study
    from postval_assets.trainer.processes import default_jobs

    kept = results or settings.data_dir / "calibration" / f"seed-{seed}.jsonl"
    target = out / PAGE_NAME if out.is_dir() or not out.suffix else out
    if page_only:
        done = finished_before(kept)
    else:
        names = names_in(plans, tuple(PLANS))
        if names is None:
            raise Rejected("name a plan")
        study = Study(seed, names, archives, bundled_archives, edge_markets)
        workers = processes or default_jobs(len(study.pieces()) or 1, "cpu")
        try:
            done = run_study(
                study, kept, settings.sample_dir, workers, lambda line: click.echo(line, err=True)
            )
        except KeyboardInterrupt:
            click.echo(
                f"stopped: what is finished is in {kept}, and the same command goes on from there", err=True
            )
            sys.exit(EXIT_INTERRUPTED)
    drawn = target.with_suffix(".svg")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(page(done, _command(done.study), drawn.name), encoding="utf-8", newline="\n")
        drawn.write_text(picture(done), encoding="utf-8", newline="\n")
    except OSError as error:
        raise Unavailable(f"{target} could not be written: {error}") from error
    click.echo(f"{target}\n{drawn}")


def _command(study: Study) -> str:
    """The command that makes a study's results."""
    return (
        f"postval calibrate --archives {study.archives} --edge-markets {study.edge_markets} "
        f"--bundled-archives {study.bundled_archives} --plans {','.join(study.plans)} --seed {study.seed} "
        "--out docs/calibration.md"
    )
