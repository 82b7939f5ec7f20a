from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta, timezone
from enum import StrEnum

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.io.typed_rows import Stamps, to_arrow

TYPES = {
    "name": "VARCHAR",
    "value": "DOUBLE",
    "n": "INTEGER",
    "flag": "BOOLEAN",
    "at": "TIMESTAMP WITH TIME ZONE",
    "words": "VARCHAR[]",
    "history": "DOUBLE[]",
    "dims": "INTEGER[]",
}
NOON = datetime(2024, 7, 1, 12, tzinfo=UTC)


class Word(StrEnum):
    LIVE = "LIVE"


def converted(column: str, *values: object) -> list[object]:
    return to_arrow("t", [{column: value} for value in values], TYPES)[column].to_pylist()


@given(st.lists(st.one_of(st.none(), st.floats(allow_infinity=False)), min_size=1, max_size=20))
def test_finite_floats_come_through_unchanged_and_nan_becomes_null(values: list[float | None]) -> None:
    expected = [None if v is None or math.isnan(v) else v for v in values]
    assert converted("value", *values) == expected
    frame = pd.DataFrame({"value": np.array([math.nan if v is None else v for v in values], dtype=float)})
    assert to_arrow("t", frame, TYPES)["value"].to_pylist() == expected
    assert converted("history", values) == [expected]


@pytest.mark.parametrize("column", ["value", "history"])
@pytest.mark.parametrize("infinity", [math.inf, -math.inf])
def test_infinity_is_refused_by_table_and_column(column: str, infinity: float) -> None:
    value: object = [0.5, infinity] if column == "history" else infinity
    with pytest.raises(ValueError, match=rf"t\.{column} has an infinite value"):
        converted(column, None, value)
    with pytest.raises(ValueError, match=rf"t\.{column} has an infinite value"):
        to_arrow("t", pd.DataFrame({column: [value]}), TYPES)


def test_instants_of_any_zone_are_stored_as_utc() -> None:
    plus_two = timezone(timedelta(hours=2))
    values = (
        NOON,
        datetime(2024, 7, 1, 14, tzinfo=plus_two),
        pd.Timestamp("2024-07-01 08:00", tz="America/New_York"),
        np.datetime64("2024-07-01T12:00", "us"),
        np.datetime64("2024-07-01T12:00:00", "ns"),
    )
    assert converted("at", *values) == [NOON] * 5
    assert converted("at", None, pd.NaT, np.datetime64("NaT")) == [None] * 3


@pytest.mark.parametrize("unit", ["s", "us", "ns"])
@pytest.mark.parametrize("zone", [None, "UTC", "America/New_York"])
def test_data_frames_of_instants_are_stored_as_utc(unit: str, zone: str | None) -> None:
    index = pd.DatetimeIndex([pd.Timestamp("2024-07-01 12:00")]).tz_localize("UTC").tz_convert(zone)
    table = to_arrow("t", pd.DataFrame({"at": index.as_unit(unit)}), TYPES)
    assert table["at"].to_pylist() == [NOON]


def test_an_instant_without_zone_is_refused() -> None:
    with pytest.raises(ValueError, match=r"t\.at: 2024-07-01T12:00:00 has no time zone"):
        converted("at", datetime(2024, 7, 1, 12))  # noqa: DTZ001


def test_words_numbers_and_flags_of_all_makes() -> None:
    assert converted("name", Word.LIVE, "x", None) == ["LIVE", "x", None]
    assert converted("words", [Word.LIVE], (), None) == [["LIVE"], [], None]
    assert converted("n", 1, np.int64(2), 3.0, math.nan, None) == [1, 2, 3, None, None]
    assert converted("dims", [1024, np.int64(512)], np.array([256])) == [[1024, 512], [256]]
    assert converted("flag", True, np.bool_(False), None) == [True, False, None]
    assert to_arrow("t", pd.DataFrame({"words": [["a"], math.nan]}), TYPES)["words"].to_pylist() == [
        ["a"],
        None,
    ]
    frame = pd.DataFrame({"n": pd.array([1, None], dtype="Int64"), "name": pd.Categorical(["a", None])})
    assert to_arrow("t", frame, TYPES).to_pylist() == [{"n": 1, "name": "a"}, {"n": None, "name": None}]


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("n", 1.5),
        ("n", np.float32(-1.5)),
        ("n", 2**40),
        ("value", "x"),
        ("name", 1),
        ("at", "2024-07-01"),
        ("words", "x"),
        ("dims", [1.5]),
    ],
)
def test_what_does_not_fit_is_refused_by_table_and_column(column: str, value: object) -> None:
    with pytest.raises(ValueError, match=rf"t\.{column}"):
        converted(column, value)


def test_unknown_columns_are_refused_with_the_known_ones() -> None:
    with pytest.raises(ValueError, match="t has no column nam; its columns are name, value"):
        converted("nam", "x")


def test_a_column_that_some_rows_leave_out_is_null_there() -> None:
    rows = to_arrow("t", [{"name": "a"}, {"value": 1.0}], TYPES).to_pylist()
    assert rows == [{"name": "a", "value": None}, {"name": None, "value": 1.0}]


def test_stamps_take_the_place_of_what_rows_said() -> None:
    types = TYPES | {"run_id": "VARCHAR", "created_at": "TIMESTAMP WITH TIME ZONE"}
    rows = to_arrow("t", [{"name": "a", "run_id": "old"}], types)
    stamps = Stamps("new", NOON, 7)
    stamped = {"name": "a", "run_id": "new", "created_at": NOON}
    assert stamps.on(rows, with_revision=False).to_pylist() == [stamped]
    assert stamps.on(rows, with_revision=True).to_pylist() == [stamped | {"revision": 7}]
