"""Stage ``walk_forward_summaries``: a plan's folds together, from the warehouse alone.

Here: one row a model, plan and as_of, for every plan that has folds. Not here: the figures (core.walk_forward).
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.evaluation import digest_of
from postval_assets.core.folds import TrainingOverlap, plan_named
from postval_assets.core.walk_forward import FoldOutcome, FoldStatus, summarize
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.instants import NEWEST_UNTIL, WANTED, ModelKey, model_key, wanted
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.stopwatch import timed_stage

Row = Mapping[str, Any]

_FOLDS = f"""
SELECT f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan, f.fold, f.status, f.reason, f.training_overlap,
       f.n_bars, f.bars_per_year, f.total_return, f.sharpe, f.n_trades, f.bars_digest, f.settings_digest,
       f.code_version, f.inputs_digest, n.as_of AS newest
FROM fold_results f
JOIN {WANTED} w USING (archive_id, symbol)
JOIN ({NEWEST_UNTIL}) n USING (archive_id, symbol, timeframe)
WHERE f.as_of <= n.as_of
ORDER BY f.timeframe, f.as_of, f.plan, f.fold
"""  # noqa: S608 - constants
_SUMMARIZED = f"""
SELECT archive_id, symbol, timeframe, as_of, plan, folds_digest
FROM walk_forward_summaries JOIN {WANTED} w USING (archive_id, symbol)
"""  # noqa: S608 - constants
# The digests of the folds are compared where they lie; folds_digest() computes the same.
_STALE = """
SELECT f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan,
       sha256(string_agg(f.inputs_digest, ',' ORDER BY f.fold)) AS folds_digest
FROM fold_results f
LEFT JOIN walk_forward_summaries s USING (archive_id, symbol, timeframe, as_of, plan)
GROUP BY f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan
HAVING folds_digest IS DISTINCT FROM any_value(s.folds_digest)
ORDER BY f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan
"""


@dataclass(frozen=True)
class PlanFolds:
    """The stored folds of a model, evaluation and plan.

    Attributes:
        keys: archive_id, symbol, timeframe, as_of and plan.
        rows: in their order.
        is_newest: whether it is the model's newest evaluation (of those that were asked for).
    """

    keys: Mapping[str, object]
    rows: tuple[Row, ...]
    is_newest: bool

    @property
    def digest(self) -> str:
        """Digest of the folds."""
        return folds_digest([str(r["inputs_digest"]) for r in self.rows])


@timed_stage("walk_forward_summaries")
def summarize_folds(
    platform: Platform, archives: Mapping[str, str], *, run_id: str, as_of: datetime | None = None
) -> StageReport:
    """Summaries of every plan that has folds, for each model's newest evaluation.

    Folds of an earlier evaluation are summarized as well where they have no summary, or one of other folds.

    Args:
        platform: settings and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows.
        as_of: the newest evaluation up to then is meant; default the newest of all.
    """
    known: dict[tuple[object, ...], str] = {
        (*model_key(r), r["as_of"], r["plan"]): r["folds_digest"]
        for r in platform.warehouse.rows(_SUMMARIZED, wanted(archives))
    }
    by_symbol: dict[str, list[dict[str, object]]] = {symbol: [] for symbol in archives}
    keys = []
    for plans in stored_folds(platform, archives, until=as_of).values():
        for folds in plans:
            if folds.is_newest or known.get(tuple(folds.keys.values())) != folds.digest:
                keys.append(folds.keys)
                by_symbol[str(folds.keys["symbol"])].append(summary_row(folds, platform))
    rows = [row for summaries in by_symbol.values() for row in summaries]
    if keys:
        change = Replace("walk_forward_summaries", keys, rows)
        platform.warehouse.write([change], run_id=run_id, now=platform.now())
    return StageReport(
        tuple(
            SymbolReport(symbol, len(summaries), problems=tuple(_problems(summaries)))
            for symbol, summaries in by_symbol.items()
        )
    )


def _problems(summaries: Sequence[Row]) -> list[str]:
    return [
        f"{r['timeframe']} {r['plan']}: {r['n_computed']} of {r['n_folds']} folds computed"
        for r in summaries
        if r["n_computed"] != r["n_folds"]
    ]


def stored_folds(
    platform: Platform, archives: Mapping[str, str], *, until: datetime | None
) -> dict[ModelKey, list[PlanFolds]]:
    """The folds of these symbols' models by model, evaluation (up to ``until``) and plan."""
    groups: dict[tuple[object, ...], list[Row]] = {}
    names = ("archive_id", "symbol", "timeframe", "as_of", "plan")
    for row in platform.warehouse.rows(_FOLDS, (*wanted(archives), until)):
        groups.setdefault(tuple(row[n] for n in names), []).append(row)
    found: dict[ModelKey, list[PlanFolds]] = {}
    for key, rows in groups.items():
        keys = dict(zip(names, key, strict=True))
        folds = PlanFolds(keys, tuple(rows), is_newest=rows[0]["as_of"] == rows[0]["newest"])
        found.setdefault(model_key(keys), []).append(folds)
    return found


def fold_outcome(row: Mapping[str, Any]) -> FoldOutcome:
    """What a summary needs of a stored fold."""
    return FoldOutcome(
        fold=row["fold"],
        status=FoldStatus(row["status"]),
        training_overlap=TrainingOverlap(row["training_overlap"]),
        n_bars=row["n_bars"],
        total_return=row["total_return"],
        sharpe=row["sharpe"],
        n_trades=row["n_trades"],
        reason=row["reason"],
    )


def summary_row(folds: PlanFolds, platform: Platform) -> dict[str, object]:
    """The row of one model over one plan."""
    plan = plan_named(str(folds.keys["plan"]))
    limits = platform.settings.grade_limits
    outcomes = [fold_outcome(f) for f in folds.rows]
    summary = summarize(outcomes, plan.n_folds, folds.rows[0]["bars_per_year"], limits)
    figures = {k: v for k, v in dataclasses.asdict(summary).items() if k != "reasons"}
    return {
        **folds.keys,
        **figures,
        "reasons": list(summary.reasons),
        "folds_digest": folds.digest,
        "inputs_digest": digest_of({"folds": folds.digest, "limits": repr(limits)}),
    }


def folds_digest(inputs_digests: Sequence[str]) -> str:
    """Digest of a plan's folds, from what each of them was computed from."""
    return hashlib.sha256(",".join(inputs_digests).encode()).hexdigest()


@dataclass(frozen=True)
class StaleSummaries:
    """Symbols of an archive with folds that are not what their summary was made from.

    Attributes:
        archive_id: which archive.
        symbols: sorted.
        state: digest of those folds: the same state is worth one attempt, not one every few seconds.
    """

    archive_id: str
    symbols: tuple[str, ...]
    state: str


def stale_summaries(platform: Platform) -> tuple[StaleSummaries, ...]:
    """What is to be summarized and decided again, by archive: folds that changed, or that have no summary.

    Earlier evaluations count as the newest one does. Changed limits of the grades do not make anything stale: they
    are for what is evaluated from now on, and for who asks for summaries again.
    """
    stale: dict[str, dict[str, list[str]]] = {}
    for row in platform.warehouse.rows(_STALE):
        stale.setdefault(row["archive_id"], {}).setdefault(row["symbol"], []).append(row["folds_digest"])
    return tuple(
        StaleSummaries(archive_id, tuple(sorted(symbols)), digest_of({"stale": symbols}))
        for archive_id, symbols in stale.items()
    )
