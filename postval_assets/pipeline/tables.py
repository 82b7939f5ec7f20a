"""What a table is, as the warehouse itself says: rows, columns and their meaning.

Here: reading the warehouse's own catalogue, for the asset catalogue and for people. Not here: any table's content.
"""

from __future__ import annotations

from dataclasses import dataclass

from postval_assets.pipeline.platform import Platform


@dataclass(frozen=True)
class Column:
    """A column's name, SQL type and meaning."""

    name: str
    type: str
    meaning: str


@dataclass(frozen=True)
class TableDescription:
    """A table's row count and columns, in order."""

    n_rows: int
    columns: tuple[Column, ...]


def describe_table(platform: Platform, table: str) -> TableDescription:
    """Rows and columns of a table of the warehouse."""
    columns = platform.warehouse.rows(
        """
        SELECT column_name, data_type, coalesce(comment, '') AS meaning FROM duckdb_columns()
        WHERE table_name = ? ORDER BY column_index
        """,
        (table,),
    )
    if not columns:
        raise ValueError(f"table {table} is not in the warehouse")
    n_rows = platform.warehouse.rows(f'SELECT count(*) AS n FROM "{table}"')[0]["n"]  # noqa: S608 - a known table
    return TableDescription(
        int(n_rows), tuple(Column(c["column_name"], c["data_type"], c["meaning"]) for c in columns)
    )
