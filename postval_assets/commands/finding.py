"""What ``postval doctor`` says about one thing.

Here: the form of an answer. Not here: the questions (doctor.py, doctor_bars.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How bad a finding is."""

    OK = "ok"
    NOTE = "note"
    ERROR = "ERROR"


@dataclass(frozen=True)
class Finding:
    """One answer: what was looked at, what was found, and what to do about it."""

    severity: Severity
    what: str
    found: str
    mend: str | None = None
