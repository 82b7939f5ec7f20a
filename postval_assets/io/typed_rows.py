"""How rows become typed columns of a table.

Here: values -> Arrow columns of a table's types, refusing what would be stored wrongly. Not here: SQL and
connections (changes.py, warehouse.py) and what columns mean (dictionary.py).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc

Rows = pd.DataFrame | Sequence[Mapping[str, object]]
"""Rows by column name: a data frame, or one mapping a row. Columns left out become NULL."""

ARROW_TYPES: dict[str, pa.DataType] = {
    "VARCHAR": pa.string(),
    "DOUBLE": pa.float64(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "BOOLEAN": pa.bool_(),
    "TIMESTAMP WITH TIME ZONE": pa.timestamp("us", tz="UTC"),
    "VARCHAR[]": pa.list_(pa.string()),
    "DOUBLE[]": pa.list_(pa.float64()),
    "INTEGER[]": pa.list_(pa.int32()),
}


def to_arrow(table: str, rows: Rows, types: Mapping[str, str]) -> pa.Table:
    """Rows as Arrow columns of the table's types; NaN and NaT become NULL, also inside lists.

    Args:
        table: for messages.
        rows: what to convert; instants are aware, or numpy's ``datetime64`` (without a zone: UTC).
        types: the table's columns with their SQL types.

    Raises:
        ValueError: an unknown column, infinity, a naive ``datetime``, or a value that does not fit its type.
    """
    columns = _columns(rows)
    unknown = [name for name in columns if name not in types]
    if unknown:
        raise ValueError(f"{table} has no column {', '.join(unknown)}; its columns are {', '.join(types)}")
    return pa.table(
        {name: _array(f"{table}.{name}", values, types[name]) for name, values in columns.items()}
    )


@dataclass(frozen=True)
class Stamps:
    """What the warehouse fills in itself.

    Attributes:
        run_id: the run that writes.
        created_at: when; aware.
        revision: number of the writing transaction: unlike the clock, it never goes back.
    """

    run_id: str
    created_at: datetime
    revision: int

    def on(self, rows: pa.Table, *, with_revision: bool) -> pa.Table:
        """``rows`` with these in every row, in place of what they said."""
        stamps = {
            **({"revision": pa.scalar(self.revision, pa.int64())} if with_revision else {}),
            "run_id": pa.scalar(self.run_id, pa.string()),
            "created_at": pa.scalar(self.created_at, pa.timestamp("us", tz="UTC")),
        }
        rows = rows.drop_columns([name for name in stamps if name in rows.column_names])
        for name, value in stamps.items():
            rows = rows.append_column(name, pa.repeat(value, rows.num_rows))
        return rows


def _columns(rows: Rows) -> dict[str, pd.Series | list[object]]:
    if isinstance(rows, pd.DataFrame):
        if not rows.columns.is_unique:
            raise ValueError(f"columns are named twice: {', '.join(map(str, rows.columns))}")
        return {str(name): rows[name] for name in rows.columns}
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name) for row in rows] for name in names}


def _array(label: str, values: pd.Series | list[object], sql_type: str) -> pa.Array:
    arrow_type = ARROW_TYPES[sql_type]
    source: object = values
    if isinstance(values, list) or values.dtype == object:
        source = [_checked(label, value, arrow_type) for value in values]
    try:
        array = pa.array(source, type=arrow_type, from_pandas=True)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError, OverflowError) as error:
        raise ValueError(f"{label} is {sql_type}: {error}") from error
    if isinstance(array, pa.ChunkedArray):
        array = array.combine_chunks()
    floats = array.flatten() if pa.types.is_list(arrow_type) else array
    if pa.types.is_floating(floats.type) and pc.any(pc.is_inf(floats)).as_py():
        raise ValueError(f"{label} has an infinite value; undefined is NULL (None or NaN)")
    return array


def _checked(label: str, value: object, arrow_type: pa.DataType) -> object:
    """A value of Python's, where Arrow would take something else for it than was meant."""
    if pa.types.is_timestamp(arrow_type):
        return _instant(label, value)
    if pa.types.is_list(arrow_type) and value is not None and not _is_nan(value):
        if not isinstance(value, list | tuple | np.ndarray):
            raise ValueError(f"{label} must be a list, not {value!r}")
        return [_checked(label, element, arrow_type.value_type) for element in value]
    if pa.types.is_integer(arrow_type) and isinstance(value, float | np.floating) and value % 1 > 0:
        raise ValueError(f"{label} must be a whole number, not {value!r}")
    return value


def _is_nan(value: object) -> bool:
    return isinstance(value, float) and math.isnan(value)


def _instant(label: str, value: object) -> datetime | None:
    """One instant as an aware datetime in UTC; numpy's are UTC already, Python's must say their zone."""
    if value is None or value is pd.NaT or _is_nan(value):
        return None
    if isinstance(value, np.datetime64):
        return None if np.isnat(value) else pd.Timestamp(value).tz_localize(UTC).to_pydatetime()
    if not isinstance(value, datetime):
        raise ValueError(f"{label} must be an instant, not {value!r}")  # noqa: TRY004 - one type for bad rows
    if value.tzinfo is None:
        raise ValueError(f"{label}: {value.isoformat()} has no time zone")
    return (value.to_pydatetime() if isinstance(value, pd.Timestamp) else value).astimezone(UTC)
