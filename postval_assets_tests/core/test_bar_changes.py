"""Stored bars against delivered ones: what changed, and whether closes were restated."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.bar_changes import changed_rows, compare_closes


def frame(n: int = 10, first: int = 0) -> pd.DataFrame:
    ts = pd.date_range("2025-01-01", periods=n + first, freq="h", tz="UTC", unit="us")
    close = 100.0 + np.arange(n + first)
    columns = {"open": close - 1, "high": close + 1, "low": close - 2, "close": close, "volume": 5.0}
    return pd.DataFrame({"ts": ts, **columns}).iloc[first:].reset_index(drop=True)


def test_equal_closes_are_no_restatement_whatever_else_differs() -> None:
    delivered = frame(14)
    delivered["volume"] *= 2
    found = compare_closes(frame(), delivered)
    assert (found.n_compared, found.n_differing, found.n_lacking, found.ratio) == (10, 0, 0, None)


@pytest.mark.parametrize("ratio", [0.25, 4.0, 0.9975, 1.0 - 1e-6])
def test_a_common_ratio_is_found(ratio: float) -> None:
    delivered = frame(14)
    delivered["close"] *= ratio
    found = compare_closes(frame(), delivered)
    assert (found.n_compared, found.n_differing) == (10, 10)
    assert found.ratio == pytest.approx(ratio, rel=1e-12)


def test_an_event_inside_the_overlap_differs_in_the_bars_before_it() -> None:
    delivered = frame()
    delivered.loc[:3, "close"] *= 0.5
    found = compare_closes(frame(), delivered)
    assert (found.n_differing, found.ratio) == (4, 0.5)


def test_bars_that_are_lacking_are_counted_and_zero_closes_have_no_ratio() -> None:
    stored = frame()
    stored.loc[9, "close"] = 0.0
    found = compare_closes(stored, frame(4, first=8))
    assert (found.n_compared, found.n_lacking) == (2, 8)
    assert (found.n_differing, found.ratio) == (1, None)


def test_changed_rows_are_the_new_ones_and_those_that_differ() -> None:
    stored, delivered = frame(), frame(8, first=5)
    stored.loc[7, "volume"] = np.nan
    delivered.loc[2, "volume"] = np.nan  # the same bar: NaN equals NaN
    delivered.loc[3, "low"] -= 1
    rows, n_new = changed_rows(delivered, stored)
    assert n_new == 3
    assert rows["ts"].tolist() == delivered["ts"].iloc[[3, 5, 6, 7]].tolist()
    # whatever numbers the rows have
    rows, _ = changed_rows(delivered.iloc[1:], stored)
    assert rows["ts"].tolist() == delivered["ts"].iloc[[3, 5, 6, 7]].tolist()
    assert changed_rows(delivered, None)[1] == 8
