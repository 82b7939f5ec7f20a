"""What can be asked of the warehouse's tables, and the statements that do it.

Here: the four changes and how each is made over an open connection. Not here: connections, transactions and
locks (warehouse.py), how rows become typed columns (typed_rows.py), what tables mean (dictionary.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import pyarrow as pa

from postval_assets.io.dictionary import NULLABLE_KEYS, TABLES
from postval_assets.io.typed_rows import ARROW_TYPES, Rows, Stamps, to_arrow


class Connection(Protocol):
    """As much of a DuckDB connection as changes need."""

    def execute(self, query: str) -> Any:
        """Runs a statement; gives something to fetch from."""

    def register(self, view_name: str, python_object: object) -> Any:
        """Makes an Arrow table readable under a name."""

    def unregister(self, view_name: str) -> Any:
        """Takes the name away again."""


@dataclass(frozen=True, eq=False)
class Replace:
    """Deletes the rows that match any of the keys, then inserts ``rows``.

    A key maps columns to values and names a partition, whole or in part; the value None matches NULL.
    """

    table: str
    keys: Sequence[Mapping[str, object]]
    rows: Rows


@dataclass(frozen=True, eq=False)
class Append:
    """Inserts ``rows``."""

    table: str
    rows: Rows


@dataclass(frozen=True, eq=False)
class Merge:
    """Inserts ``rows`` in place of those with the same table key; the others stay."""

    table: str
    rows: Rows


@dataclass(frozen=True, eq=False)
class Update:
    """Sets ``values`` in every row that matches ``keys`` (None matches NULL); run_id and created_at stay."""

    table: str
    keys: Mapping[str, object]
    values: Mapping[str, object]


Change = Replace | Append | Merge | Update


def check_change(change: Change) -> None:
    """Refuses what a table does not allow.

    Raises:
        ValueError: an unknown table, an append-only one, a key that names nothing, a merge without key.
    """
    table = TABLES.get(change.table)
    if table is None:
        raise ValueError(f"there is no table {change.table}; tables are {', '.join(TABLES)}")
    if table.append_only and not isinstance(change, Append):
        raise ValueError(f"{change.table} is append-only: {type(change).__name__} is not for it, use Append")
    if isinstance(change, Merge) and not table.key:
        raise ValueError(f"{change.table} has no key to merge on")
    if isinstance(change, Update) and (moved := [name for name in change.values if name in table.key]):
        raise ValueError(
            f"{change.table}: an update may not change the key ({', '.join(moved)}); use Replace"
        )
    keys = change.keys if isinstance(change, Replace) else [change.keys] if isinstance(change, Update) else []
    if any(not key for key in keys):
        raise ValueError(
            f"{type(change).__name__} of {change.table}: an empty key would match the whole table"
        )


def apply_change(connection: Connection, change: Change, stamps: Stamps) -> int:
    """Makes one change; returns the number of rows inserted."""
    table = change.table
    types = {
        name: sql_type for name, sql_type, *_ in connection.execute(f"DESCRIBE {quoted(table)}").fetchall()
    }
    if isinstance(change, Update):
        _update(connection, change, types)
        return 0
    ordered = TABLES[table].append_only and "revision" in types
    stamped = stamps.on(to_arrow(table, change.rows, types), with_revision=ordered)
    rows = _with_keys(table, stamped, types)
    if isinstance(change, Replace):
        for group in _key_groups(change.keys):
            _delete(connection, table, to_arrow(table, group, types), list(group[0]))
    if isinstance(change, Merge) and rows.num_rows:
        _delete(connection, table, rows, TABLES[table].key)
    if rows.num_rows:
        with _registered(connection, incoming=rows):
            # "window" is a word of SQL: every name is quoted
            names = ", ".join(map(quoted, rows.column_names))
            connection.execute(f"INSERT INTO {quoted(table)} ({names}) SELECT {names} FROM incoming")  # noqa: S608
            _check_keys_are_unique(connection, table)
    return int(rows.num_rows)


def _delete(connection: Connection, table: str, matching: pa.Table, columns: Sequence[str]) -> None:
    with _registered(connection, matching=matching):
        condition = _same("t", "matching", columns)
        connection.execute(f"DELETE FROM {quoted(table)} AS t USING matching WHERE {condition}")  # noqa: S608


def _update(connection: Connection, change: Update, types: Mapping[str, str]) -> None:
    keys = to_arrow(change.table, [change.keys], types)
    values = to_arrow(change.table, [change.values], types)
    with _registered(connection, matching=keys, incoming=values):
        assignments = ", ".join(f"{quoted(name)} = incoming.{quoted(name)}" for name in values.column_names)
        condition = _same("t", "matching", keys.column_names)
        connection.execute(
            f"UPDATE {quoted(change.table)} AS t SET {assignments} FROM matching, incoming "  # noqa: S608
            f"WHERE {condition}"
        )


def _check_keys_are_unique(connection: Connection, table: str) -> None:
    """Raises ValueError where a row just inserted has another one's key; no index would say so."""
    key = TABLES[table].key
    if not key:
        return
    names = ", ".join(f"t.{quoted(name)}" for name in key)
    double = connection.execute(
        f"SELECT {names} FROM {quoted(table)} AS t SEMI JOIN incoming ON {_same('t', 'incoming', key)} "  # noqa: S608
        f"GROUP BY {names} HAVING count(*) > 1 LIMIT 1"
    ).fetchone()
    if double is not None:
        where = ", ".join(f"{name}={value}" for name, value in zip(key, double, strict=True))
        raise ValueError(f"{table} would hold two rows for {where}; replace or merge the one that is there")


def _with_keys(table: str, rows: pa.Table, types: Mapping[str, str]) -> pa.Table:
    """``rows`` with all key columns; raises ValueError where one that needs a value has none."""
    for name in TABLES[table].key:
        if name not in rows.column_names:
            rows = rows.append_column(name, pa.nulls(rows.num_rows, ARROW_TYPES[types[name]]))
        if rows[name].null_count and (name not in NULLABLE_KEYS or table == "evaluations"):
            raise ValueError(f"{table}.{name} is part of the key and must have a value in every row")
    return rows


def _key_groups(keys: Iterable[Mapping[str, object]]) -> list[list[Mapping[str, object]]]:
    """Keys grouped by the columns they name, so that each group can be matched in one statement."""
    groups: dict[frozenset[str], list[Mapping[str, object]]] = {}
    for key in keys:
        groups.setdefault(frozenset(key), []).append(key)
    return list(groups.values())


@contextmanager
def _registered(connection: Connection, **tables: pa.Table) -> Iterator[None]:
    for name, table in tables.items():
        connection.register(name, table)
    try:
        yield
    finally:
        for name in tables:
            connection.unregister(name)


def _same(left: str, right: str, columns: Sequence[str]) -> str:
    return " AND ".join(
        f"{left}.{quoted(name)} IS NOT DISTINCT FROM {right}.{quoted(name)}" for name in columns
    )


def quoted(name: str) -> str:
    """A name as SQL takes it, whatever it is."""
    return '"' + name.replace('"', '""') + '"'
