"""Folds as a summary and a decision see them: strategies, and the same folds as the plain oracle takes them."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import strategies as st

from postval_assets.core.folds import TrainingOverlap
from postval_assets.core.walk_forward import FoldOutcome, FoldStatus
from postval_assets_tests.core.plain_metrics import PlainFold

COMPUTED_WORDS = ("OK", "NO_TRADES", "RUINED")
OVERLAPS = tuple(TrainingOverlap)
# Sums of these are exact, whatever the order: no two ways of adding can differ in sign.
RETURNS = st.integers(-512, 512).map(lambda n: n / 1024)
SHARPES = st.integers(-40, 40).map(lambda n: n / 8)


def ok(total_return: float, sharpe: float | None = 1.0, fold: int = 1, **changes: object) -> FoldOutcome:
    """A computed fold that traded."""
    values: dict[str, object] = {
        "fold": fold,
        "status": FoldStatus.OK,
        "training_overlap": TrainingOverlap.OUT_OF_SAMPLE,
        "n_bars": 800,
        "total_return": total_return,
        "sharpe": sharpe,
        "n_trades": 10,
    }
    return FoldOutcome(**{**values, **changes})  # type: ignore[arg-type]


def missing(
    status: FoldStatus = FoldStatus.INSUFFICIENT_DATA,
    n_bars: int = 20,
    overlap: TrainingOverlap = TrainingOverlap.OUT_OF_SAMPLE,
) -> FoldOutcome:
    """A fold that was not computed."""
    return FoldOutcome(1, status, overlap, n_bars, None, None, None)


def plain_folds(folds: Sequence[FoldOutcome], n_folds: int) -> list[PlainFold]:
    """The same folds for the oracle; folds without a row are folds that were not computed."""
    rows = [
        PlainFold(
            computed=f.status.value in COMPUTED_WORDS,
            total_return=f.total_return,
            sharpe=f.sharpe,
            n_trades=f.n_trades,
            n_bars=f.n_bars,
            training_overlap=f.training_overlap.value,
        )
        for f in folds
    ]
    return rows + [PlainFold(computed=False)] * (n_folds - len(folds))


@st.composite
def outcomes(draw: st.DrawFn, fold: int = 1) -> FoldOutcome:
    """Any fold that has bars."""
    status = draw(st.sampled_from([FoldStatus.OK] * 6 + list(FoldStatus)))
    overlap, n_bars = draw(st.sampled_from(OVERLAPS)), draw(st.integers(1, 900))
    match status:
        case FoldStatus.OK:
            values = (draw(RETURNS), draw(SHARPES | st.none()), draw(st.integers(1, 50)))
        case FoldStatus.NO_TRADES:
            values = (0.0, None, 0)
        case FoldStatus.RUINED:
            values = (-1.0, draw(SHARPES), draw(st.integers(1, 50)))
        case _:
            values = (None, None, None)
    return FoldOutcome(fold, status, overlap, n_bars, *values)


@st.composite
def plans_of_folds(draw: st.DrawFn) -> tuple[list[FoldOutcome], int]:
    """Folds of a plan, and how many it has; some may have no row."""
    n_folds = draw(st.sampled_from([1, 5, 10]))
    n_rows = draw(st.integers(0, n_folds))
    if draw(st.booleans()):
        n_rows = n_folds
    return [draw(outcomes(fold)) for fold in range(1, n_rows + 1)], n_folds
