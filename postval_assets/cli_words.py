"""What the commands share on their command line: examples, settings, names, instants, and progress on stderr.

Here: from words to values. Not here: any command (cli.py, cli_train.py).
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Sequence
from datetime import UTC, datetime

import click

from postval_assets.core.failures import Rejected
from postval_assets.io.log_file import log_to_file
from postval_assets.settings import Settings, load_settings


def examples(*lines: str) -> str:
    """The end of a command's help."""
    return "\b\nExamples:\n" + "\n".join(f"  {line}" for line in lines)


def settings_of(ctx: click.Context, **overrides: object) -> Settings:
    """The settings under the options before the command, and those of the command itself, which win."""
    settings = load_settings(**{**ctx.obj, **{k: v for k, v in overrides.items() if v is not None}})
    log_to_file(settings.data_dir, secrets=settings.secrets)
    return settings


def log_to_terminal() -> None:
    """Progress of our own stages on stderr; results stay alone on stdout."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    logger = logging.getLogger("postval")
    logger.setLevel(logging.INFO)
    logger.addHandler(handler)
    logger.propagate = False


def names_in(text: str | None, known: Sequence[str] | None = None) -> tuple[str, ...] | None:
    """Names separated by commas; raises Rejected where there is none, or one that is not known."""
    if text is None:
        return None
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",") if part.strip()))
    unknown = [n for n in names if known is not None and n not in known]
    if not names or unknown:
        expected = ", ".join(known) if known else "names separated by commas"
        raise Rejected(f"{text!a} is not understood: expected {expected}")
    return names


def instant_of(text: str | None) -> datetime | None:
    """An ISO 8601 time with its offset, now, or a date alone, which is its midnight, UTC."""
    from postval_assets.defs.resources import parse_instant

    if text is None:
        return None
    if text == "now":
        return datetime.now(UTC)
    if len(text) == len("2025-03-01"):
        try:
            return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
        except ValueError:
            raise Rejected(
                f"time {text!a} cannot be read: expected e.g. 2025-03-01 or 2025-03-01T00:00:00Z"
            ) from None
    return parse_instant(text)
