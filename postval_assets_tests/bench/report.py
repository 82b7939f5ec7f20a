"""Figures as text and as ratios with their spread.

Here: the median with the smallest and largest of repeated measurements, and plain tables. Not here: what is
measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import TypedDict


class Spread(TypedDict):
    """A repeated measurement."""

    median: float
    min: float
    max: float


def spread(values: Sequence[float]) -> Spread:
    """Median, smallest and largest."""
    return Spread(median=median(values), min=min(values), max=max(values))


def number(value: float) -> str:
    """Three digits that count, thousands separated."""
    if value == 0 or not abs(value) < float("inf"):
        return str(value)
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def with_spread(found: Spread, unit: str = "", factor: float = 1.0) -> str:
    """``12.3 (11.8 .. 13.1)``, with the unit behind the median."""
    low, middle, high = (number(found[key] * factor) for key in ("min", "median", "max"))
    return f"{middle}{unit} ({low} .. {high})"


def text_table(title: str, rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> str:
    """A table whose first column is left-aligned and the others too; no lines."""
    lines = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    n_columns = max(len(line) for line in lines)
    full = [[*line, *[""] * (n_columns - len(line))] for line in lines]
    widths = [max(len(line[i]) for line in full) for i in range(n_columns)]
    body = [
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
        for line in full
    ]
    if header:
        body.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([title, "=" * len(title), *body, ""])
