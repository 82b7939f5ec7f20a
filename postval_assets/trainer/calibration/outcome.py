"""The judged models of a study, as tables and pictures ask for them.

Here: choosing among them. Not here: counting (rates.py) or showing.
"""

from __future__ import annotations

from dataclasses import dataclass

from postval_assets.trainer.calibration.records import Judged, PieceResult
from postval_assets.trainer.calibration.study import Family

POLICIES = ("standard", "evidence")
AIM = 0.05
"""Policy evidence aims at a false LIVE in at most this share of archives."""


@dataclass(frozen=True)
class Outcome:
    """The judged models of a study, as tables ask for them.

    Attributes:
        pieces: finished ones.
    """

    pieces: tuple[PieceResult, ...]

    def archives(self, family: Family, plan: str) -> list[list[Judged]]:
        """Worthless models by archive."""
        found = [[m for m in p.models if m.family == family and m.plan == plan] for p in self.pieces]
        return [archive for archive in found if archive]

    def worthless(self, family: Family, plan: str) -> list[Judged]:
        """All worthless models of a family."""
        return [model for archive in self.archives(family, plan) for model in archive]

    def edge(self, annual_sharpe: float, plan: str) -> list[Judged]:
        """All informed policies of a true Sharpe ratio."""
        return [
            m
            for p in self.pieces
            for m in p.models
            if m.family == Family.EDGE and m.plan == plan and m.annual_sharpe == annual_sharpe
        ]

    def sharpes(self) -> list[float]:
        """True Sharpe ratios that there are models of."""
        return sorted({m.annual_sharpe for p in self.pieces for m in p.models if m.annual_sharpe is not None})
