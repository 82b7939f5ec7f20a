"""Reading: which statements a person may ask, and how parameters and results look in Python.

Here: values and text. Not here: connections and locks (warehouse.py), and anything that writes (changes.py).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import UTC, datetime
from enum import Enum
from typing import Any, Protocol

import numpy as np

from postval_assets.core.failures import Rejected

READING_WORDS = ("SELECT", "WITH", "FROM", "VALUES", "TABLE", "SHOW", "DESCRIBE", "SUMMARIZE", "EXPLAIN")

_BEFORE_THE_FIRST_WORD = re.compile(r"(?:\s|\(|--[^\n]*(?:\n|$)|/\*.*?\*/)*(?=(\w*))", re.DOTALL)


class Parser(Protocol):
    """Whatever splits a text into DuckDB's statements."""

    def extract_statements(self, query: str) -> list[Any]:
        """The statements with their types; fails with DuckDB's error where the text does not parse."""


class Result(Protocol):
    """An executed query."""

    @property
    def description(self) -> list[Any] | None:
        """A tuple per column: its name, its type, ..."""

    def fetchall(self) -> list[tuple[object, ...]]:
        """All rows."""


def require_one_reading_statement(parser: Parser, sql: str) -> None:
    """Raises Rejected where a text is anything else than one statement that reads."""
    accepted = f"one statement is accepted that starts with {', '.join(READING_WORDS)}"
    statements = parser.extract_statements(sql)
    if len(statements) != 1:
        raise Rejected(f"that is {len(statements)} statements: {accepted}")
    match = _BEFORE_THE_FIRST_WORD.match(sql)
    word = match[1].upper() if match else ""
    # PRAGMA parses as SELECT, so the word counts as well
    if statements[0].type.name not in ("SELECT", "EXPLAIN") or word not in READING_WORDS:
        raise Rejected(f"{word or 'that'} is not a query here: {accepted}")


def plain_params(params: Sequence[object]) -> list[object]:
    """Parameters as DuckDB takes them: words of an enum as text, numpy's scalars as Python's."""
    return [
        p.value if isinstance(p, Enum) else p.item() if isinstance(p, np.number | np.bool_) else p
        for p in params
    ]


def fetch(result: Result) -> tuple[list[str], list[tuple[object, ...]]]:
    """Column names and rows; instants in UTC."""
    description = result.description or []
    rows = result.fetchall()
    if any(str(column[1]) == "TIMESTAMP WITH TIME ZONE" for column in description):
        rows = [
            tuple(v.astimezone(UTC) if isinstance(v, datetime) and v.tzinfo else v for v in row)
            for row in rows
        ]
    return [column[0] for column in description], rows
