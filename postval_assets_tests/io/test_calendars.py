"""The exchange's calendar against days that are known."""

from __future__ import annotations

import numpy as np
import pytest

from postval_assets.io.calendars import exchange_sessions


def instant(text: str) -> np.datetime64:
    return np.datetime64(text, "us")


@pytest.mark.parametrize(
    ("day", "times"),
    [
        ("2024-03-08", ("14:30", "21:00")),
        ("2024-03-11", ("13:30", "20:00")),
        ("2024-07-03", ("13:30", "17:00")),
        ("2024-11-29", ("14:30", "18:00")),
        ("2024-07-04", None),
        ("2024-07-06", None),
        ("2018-12-05", None),
    ],
    ids=[
        "winter",
        "summer",
        "before the 4th",
        "after Thanksgiving",
        "the 4th",
        "Saturday",
        "a day of mourning",
    ],
)
def test_known_days(day: str, times: tuple[str, str] | None) -> None:
    sessions = exchange_sessions(instant(day), instant(day) + np.timedelta64(1, "D"))
    found = [(str(o)[11:16], str(c)[11:16]) for o, c in zip(sessions.opens, sessions.closes, strict=True)]
    assert found == ([times] if times else [])


def test_a_year_has_its_sessions_and_half_days() -> None:
    sessions = exchange_sessions(instant("2024-01-01"), instant("2025-01-01"))
    assert (len(sessions), int(sessions.close_early.sum())) == (252, 3)


def test_a_time_that_no_calendar_knows_has_no_sessions() -> None:
    assert len(exchange_sessions(instant("0001-01-01"), instant("0001-02-01"))) == 0
