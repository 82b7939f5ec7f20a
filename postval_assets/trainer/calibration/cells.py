"""Tables in Markdown, and how numbers are written in them.

Here: words for values. Not here: which values (sections.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from postval_assets.trainer.calibration.rates import Rate

Header = Sequence[str]
Row = Sequence[object]


def table(headers: Header, rows: Sequence[Row]) -> str:
    """A table; rows as wide as the headers."""
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def percent(share: float | None) -> str:
    """A share; empty where it is not defined."""
    if share is None:
        return ""
    return f"{100.0 * share:.1f} %" if share < 0.995 or share == 1.0 else f"{100.0 * share:.2f} %"


def possible(share: float) -> str:
    """A share as the table of docs/evidence.md has it."""
    return f"{100.0 * share:.1f} %" if share > 0.99 else f"{100.0 * share:.0f} %"


def events(found: Rate) -> str:
    """Share with its interval, and the count."""
    if not found.n:
        return ""
    return f"{percent(found.share)} ({end(found.low)} .. {end(found.high)}), {found.events} of {found.n}"


def end(share: float) -> str:
    """An end of an interval in percent, two digits."""
    return f"{100.0 * share:.0f}" if share >= 0.0995 else f"{100.0 * share:.2g}"


def counted(found: Rate) -> str:
    """Share with its interval, in a sentence."""
    return f"{percent(found.share)} (95 %: {end(found.low)} .. {end(found.high)})"


def mean_and_error(mean: float | None, error: float | None) -> str:
    """A mean with its standard error; empty where it is not defined."""
    if mean is None:
        return ""
    return f"{mean:.2f}" if error is None else f"{mean:.2f} +/- {error:.2f}"


def named(family: str) -> str:
    """A family at the beginning of a row."""
    return family[:1].upper() + family[1:]
