"""One hostile file: what it is, what has to become of it, and what became of it.

Here: the types that all families of cases share, and the comparison of what was expected with what happened. Not
here: the cases themselves, or how they are run.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path


class Outcome(StrEnum):
    """What becomes of a hostile file."""

    REFUSED = "refused"
    """The file as a whole is turned away."""
    QUARANTINED = "quarantined"
    """Single models of it are turned away, each with a reason; the others are used."""
    ACCEPTED = "accepted"
    """All of it is used: what looks hostile in it does no harm."""
    FAILED = "failed"
    """Nobody's expectation: the intake ended in an error of its own, or wants to try again for ever."""


@dataclass(frozen=True)
class Case:
    """One hostile file.

    Attributes:
        name: in words, unique over all cases.
        family: the line of the table that it counts in.
        build: makes the file below an empty folder, and returns where it lies.
        expected: what has to become of it; not FAILED.
        says: regular expression that the reasons have to match somewhere (what, where, what would be accepted).
        settings: settings other than the defaults, for limits that are dear to reach.
    """

    name: str
    family: str
    build: Callable[[Path], Path]
    expected: Outcome
    says: str
    settings: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True)
class Verdict:
    """What became of one case.

    Attributes:
        outcome: as it was.
        said: every reason that was given, one a line.
        noticed: what the canary noticed; empty where no harm was done.
        peak_memory_bytes: memory that the intake took on top of what was there; None where it is not measured.
        written_bytes: everything that the intake wrote; None where it is not measured.
    """

    outcome: Outcome
    said: tuple[str, ...]
    noticed: tuple[str, ...] = ()
    peak_memory_bytes: int | None = None
    written_bytes: int | None = None


@dataclass(frozen=True)
class Suite:
    """Cases that are judged in one way.

    Attributes:
        cases: all of them.
        judge: runs one under the canary; the folder is empty and the case's own.
    """

    cases: Sequence[Case]
    judge: Callable[[Case, Path], Verdict]


@dataclass(frozen=True)
class FamilyCount:
    """One line of the table."""

    family: str
    cases: int
    refused: int
    quarantined: int
    accepted: int
    surprises: int


def surprises(case: Case, verdict: Verdict) -> tuple[str, ...]:
    """Everything that should not have been, in words; empty where the case went as it should."""
    found = list(verdict.noticed)
    if verdict.outcome is not case.expected:
        found.append(f"expected {case.expected}, was {verdict.outcome}: {' | '.join(verdict.said)[:500]}")
    if not re.search(case.says, "\n".join(verdict.said), re.DOTALL):
        found.append(f"expected to be told {case.says!r}, was told {' | '.join(verdict.said)[:500]!r}")
    # Anything but one line of printable ASCII could act on a terminal, a page or a log.
    found += [f"told in unsafe text: {said[:200]!a}" for said in verdict.said if not _is_harmless(said)]
    return tuple(found)


def counted(judged: Iterable[tuple[Case, Verdict]]) -> tuple[FamilyCount, ...]:
    """The table's lines, families in order of their first case, the total last."""
    judged = list(judged)
    families = list(dict.fromkeys(case.family for case, _ in judged))
    lines = [_count(f, [(c, v) for c, v in judged if c.family == f]) for f in families]
    return (*lines, _count("all", judged))


def _count(family: str, judged: Sequence[tuple[Case, Verdict]]) -> FamilyCount:
    outcomes = Counter(verdict.outcome for _, verdict in judged)
    return FamilyCount(
        family=family,
        cases=len(judged),
        refused=outcomes[Outcome.REFUSED],
        quarantined=outcomes[Outcome.QUARANTINED],
        accepted=outcomes[Outcome.ACCEPTED],
        surprises=sum(bool(surprises(case, verdict)) for case, verdict in judged),
    )


def _is_harmless(text: str) -> bool:
    return text.isascii() and text.isprintable()
