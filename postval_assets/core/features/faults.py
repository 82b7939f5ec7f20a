"""What a feature set can do that it may not, and the words for it.

Here: faults, and the report of an inspection. Not here: finding them (causality.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import numpy as np


class Fault(StrEnum):
    """What a feature does that it may not, the worst first."""

    NOT_REPEATABLE = "differs between two calls on the same bars"
    SEES_LATER = "sees later bars"
    BEYOND_LOOK_BACK = "sees more than its look-back"
    HISTORY_START = "depends on where the history starts"
    NOT_FINITE = "is not finite"


_COMPARED = {
    Fault.NOT_REPEATABLE: "on a second call",
    Fault.SEES_LATER: "when the bars after it are left out or are others",
    Fault.BEYOND_LOOK_BACK: "when the bars before its look-back of {look_back} are left out or are others",
    Fault.HISTORY_START: "when the history starts at another bar",
}


@dataclass(frozen=True)
class FeatureFault:
    """A feature that does not keep to the rule, at a bar where it was seen.

    Attributes:
        feature: its name.
        fault: what it does.
        bar: index into the bars.
        ts: open of that bar, UTC.
        value: with all bars.
        other: the value that should be the same and is not; NaN for NOT_FINITE.
        look_back: of the set.
    """

    feature: str
    fault: Fault
    bar: int
    ts: np.datetime64
    value: float
    other: float
    look_back: int

    def __str__(self) -> str:
        """One line: the feature, what it does, and where."""
        at = f"at {shown_time(self.ts)} (bar {self.bar}) it is {self.value:.6g}"
        if self.fault is Fault.NOT_FINITE:
            return f"{self.feature} {self.fault}: {at}"
        compared = _COMPARED[self.fault].format(look_back=self.look_back)
        return f"{self.feature} {self.fault}: {at}, and {self.other:.6g} {compared}"


@dataclass(frozen=True)
class CausalityReport:
    """What an inspection found.

    Attributes:
        feature_set: name of the set.
        symbol, timeframe, n_bars: of the bars.
        instants: indices of the bars that were followed by nothing or by others.
        faults: at most one a feature, the worst; in the order of the features.
        changed_input: what the set did to the frame that it was given; None where it left it alone.
    """

    feature_set: str
    symbol: str
    timeframe: str
    n_bars: int
    instants: tuple[int, ...]
    faults: tuple[FeatureFault, ...]
    changed_input: str | None

    @property
    def is_clean(self) -> bool:
        """Whether nothing was found."""
        return not self.faults and self.changed_input is None

    def problems(self) -> tuple[str, ...]:
        """What is wrong, a line each; empty where nothing is."""
        changed = () if self.changed_input is None else (_told_change(self.changed_input),)
        return (*changed, *map(str, self.faults))

    def __str__(self) -> str:
        """A line about the whole, then one for each problem."""
        found = "keeps to its look-back" if self.is_clean else f"{len(self.problems())} problem(s)"
        head = (
            f"feature set {self.feature_set} on {self.n_bars} bars of {self.symbol} ({self.timeframe}), "
            f"tried with another future at {len(self.instants)} of them: {found}"
        )
        return "\n".join([head, *(f"  {problem}" for problem in self.problems())])


def shown_time(ts: np.datetime64) -> str:
    """An instant as texts have it, to the minute."""
    return f"{ts.astype('datetime64[m]')}Z"


def _told_change(what: str) -> str:
    return f"it changes the frame of bars that it is given ({what}): let it work on a copy"
