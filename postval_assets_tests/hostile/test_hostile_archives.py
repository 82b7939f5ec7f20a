"""Hostile archives through the real intake, under the canary.

Of families of many cases of one kind every third one; ``python -m postval_assets_tests.hostile`` runs them all.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from postval_assets_tests.hostile.cases import Case, Outcome, surprises
from postval_assets_tests.hostile.run_archives import SUITE

_ALIKE = ("symbols in the summary", "symbols of models", "summaries: numbers", "names")
_RUN_HERE = [
    *(case for case in SUITE.cases if case.family not in _ALIKE),
    *(case for family in _ALIKE for case in [c for c in SUITE.cases if c.family == family][::3]),
]


@pytest.mark.parametrize("case", _RUN_HERE, ids=lambda case: f"{case.family}: {case.name}"[:120])
def test_nothing_hostile_gets_in(case: Case, tmp_path: Path) -> None:
    verdict = SUITE.judge(case, tmp_path)
    assert surprises(case, verdict) == ()


def test_every_case_is_one_of_its_own() -> None:
    names = Counter(case.name for case in SUITE.cases)
    assert [name for name, n in names.items() if n > 1] == []
    assert len(names) >= 80
    assert len(_RUN_HERE) > len(SUITE.cases) / 2


def test_every_case_says_what_it_expects_to_be_told() -> None:
    silent = {case.name for case in SUITE.cases if not case.says}
    assert {c.name for c in SUITE.cases if c.expected is Outcome.ACCEPTED} >= silent
    assert Outcome.FAILED not in {case.expected for case in SUITE.cases}
