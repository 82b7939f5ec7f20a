"""What a study consists of: its size, its seed, and the independent pieces it is made of.

Here: the plan of a study. Not here: what happens in a piece (archives.py) or where pieces run (running.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from postval_assets.core.failures import Rejected
from postval_assets.core.folds import Plan, plan_named
from postval_assets.trainer.simulated_market import SAMPLE_SYMBOLS

ARCHIVE_SIZE = 50
"""Models in an archive: the size that the aim of policy ``evidence`` is stated for (docs/evidence.md)."""

TRIAL_COUNTS = (1, 10, 50, 200)
"""Archive sizes for which the decision of each model is taken beside the own one."""

TRUE_SHARPES = (2.0, 3.0, 4.0, 6.0)


class Family(StrEnum):
    """What is known of the models of a row."""

    WITH_COSTS = "worthless, with costs"
    WITHOUT_COSTS = "worthless, no costs"
    BUNDLED = "worthless, bundled bars"
    EDGE = "planted edge"


class PieceKind(StrEnum):
    """What a piece makes."""

    FRESH = "fresh"  # one archive of worthless models on fresh markets, judged with costs and without
    BUNDLED = "bundled"  # one archive of networks with random weights on the bundled bars
    EDGE = "edge"  # one informed policy on a fresh market of each symbol


@dataclass(frozen=True)
class Piece:
    """A part of the study that depends on no other.

    Attributes:
        kind: what it makes.
        number: from 0, within kind and edge.
        annual_sharpe: of the planted edge; 0 without one.
    """

    kind: PieceKind
    number: int
    annual_sharpe: float = 0.0

    @property
    def name(self) -> str:
        """Of the piece, as its line of the results says it."""
        edge = f"-{self.annual_sharpe:g}" if self.kind is PieceKind.EDGE else ""
        return f"{self.kind}{edge}/{self.number:05d}"


@dataclass(frozen=True)
class Study:
    """A study; two of equal seed and plans share the pieces that both have.

    Attributes:
        seed: of everything random.
        plans: names of plans, each judged over the same markets.
        archives: of worthless models on fresh markets.
        bundled_archives: of random networks on the bundled bars.
        edge_markets: markets of each symbol for each true Sharpe ratio.
        true_sharpes: annual, after costs.
        archive_size: models in an archive.
    """

    seed: int
    plans: tuple[str, ...]
    archives: int
    bundled_archives: int
    edge_markets: int
    true_sharpes: tuple[float, ...] = TRUE_SHARPES
    archive_size: int = ARCHIVE_SIZE

    def __post_init__(self) -> None:
        """Raises Rejected for an unknown plan or a number that is too small."""
        for name in self.plans:
            plan_named(name)
        if not self.plans:
            raise Rejected("a study needs a plan, such as 180d")
        if (
            min(self.archives, self.bundled_archives, self.edge_markets, self.seed) < 0
            or self.archive_size < 1
        ):
            raise Rejected(f"a study's numbers are 0 or more, and an archive has a model: {self}")

    def walk_forward_plans(self) -> tuple[Plan, ...]:
        """The plans themselves."""
        return tuple(plan_named(name) for name in self.plans)

    def pieces(self) -> tuple[Piece, ...]:
        """All of them, kinds and edges mixed: a study that is stopped has some of each."""
        rows = [
            [Piece(PieceKind.FRESH, n) for n in range(self.archives)],
            [Piece(PieceKind.BUNDLED, n) for n in range(self.bundled_archives)],
            *(
                [Piece(PieceKind.EDGE, n, sharpe) for n in range(self.edge_markets)]
                for sharpe in self.true_sharpes
            ),
        ]
        placed = [(n / len(row), kind, piece) for kind, row in enumerate(rows) for n, piece in enumerate(row)]
        return tuple(piece for *_, piece in sorted(placed, key=lambda place: place[:2]))

    def edge_models(self) -> int:
        """Informed policies for each true Sharpe ratio and plan."""
        return self.edge_markets * len(SAMPLE_SYMBOLS)
