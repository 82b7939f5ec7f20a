"""Stage ``walk_forward_summaries``: a plan's folds together, from the warehouse alone.

Here: one row a model, plan and as_of, for every plan that has folds. Not here: the figures (core.walk_forward).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from postval_assets.core.evaluation import digest_of
from postval_assets.core.folds import TrainingOverlap, plan_named
from postval_assets.core.walk_forward import FoldOutcome, FoldStatus, summarize
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport

_FOLDS = """
SELECT f.* FROM fold_results f
WHERE f.archive_id = ? AND f.symbol = ?
  AND f.as_of = (SELECT max(e.as_of) FROM evaluations e
                 WHERE e.archive_id = f.archive_id AND e.symbol = f.symbol AND e.timeframe = f.timeframe
                   AND e.as_of <= coalesce(CAST(? AS TIMESTAMPTZ), e.as_of))
ORDER BY f.timeframe, f.as_of, f.plan, f.fold
"""


def summarize_folds(
    platform: Platform, archives: Mapping[str, str], *, run_id: str, as_of: datetime | None = None
) -> StageReport:
    """Summaries of every plan that has folds, for each model's newest evaluation.

    Args:
        platform: settings and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows.
        as_of: the newest evaluation up to then is meant; default the newest of all.
    """
    changes: list[Replace] = []
    reports = []
    for symbol, archive_id in archives.items():
        groups = group_folds(platform.warehouse.rows(_FOLDS, (archive_id, symbol, as_of)))
        rows = [summary_row(keys, folds, platform) for keys, folds in groups]
        changes.append(Replace("walk_forward_summaries", [keys for keys, _ in groups], rows))
        problems = tuple(
            f"{r['timeframe']} {r['plan']}: {r['n_computed']} of {r['n_folds']} folds computed"
            for r in rows
            if r["n_computed"] != r["n_folds"]
        )
        reports.append(SymbolReport(symbol, len(rows), problems=problems))
    platform.warehouse.write(changes, run_id=run_id, now=platform.now())
    return StageReport(tuple(reports))


def group_folds(rows: Sequence[Mapping[str, Any]]) -> list[tuple[dict[str, object], list[Mapping[str, Any]]]]:
    """Fold rows by model, as_of and plan, in their order."""
    names = ("archive_id", "symbol", "timeframe", "as_of", "plan")
    groups: dict[tuple[object, ...], list[Mapping[str, Any]]] = {}
    for row in rows:
        groups.setdefault(tuple(row[n] for n in names), []).append(row)
    return [(dict(zip(names, key, strict=True)), folds) for key, folds in groups.items()]


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


def summary_row(
    keys: Mapping[str, object], folds: Sequence[Mapping[str, Any]], platform: Platform
) -> dict[str, object]:
    """The row of one model over one plan."""
    plan = plan_named(str(keys["plan"]))
    limits = platform.settings.grade_limits
    summary = summarize([fold_outcome(f) for f in folds], plan.n_folds, folds[0]["bars_per_year"], limits)
    figures = {k: v for k, v in dataclasses.asdict(summary).items() if k != "reasons"}
    return {
        **keys,
        **figures,
        "reasons": list(summary.reasons),
        "inputs_digest": summary_digest([f["inputs_digest"] for f in folds], platform),
    }


def summary_digest(fold_digests: Sequence[str], platform: Platform) -> str:
    """Digest of what a summary is made from."""
    return digest_of({"folds": list(fold_digests), "limits": repr(platform.settings.grade_limits)})


@dataclass(frozen=True)
class StaleSummaries:
    """Symbols of an archive whose newest folds are not what their summary was made from.

    Attributes:
        archive_id: which archive.
        symbols: sorted.
        state: digest of those folds: the same state is worth one attempt, not one every few seconds.
    """

    archive_id: str
    symbols: tuple[str, ...]
    state: str


def stale_summaries(platform: Platform) -> tuple[StaleSummaries, ...]:
    """What is to be summarized and decided again, by archive."""
    rows = platform.warehouse.rows(
        """
        SELECT f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan,
               list(f.inputs_digest ORDER BY f.fold) AS digests, any_value(s.inputs_digest) AS summarized
        FROM fold_results f
        JOIN (SELECT archive_id, symbol, timeframe, max(as_of) AS as_of FROM evaluations GROUP BY ALL) e
          USING (archive_id, symbol, timeframe, as_of)
        LEFT JOIN walk_forward_summaries s USING (archive_id, symbol, timeframe, as_of, plan)
        GROUP BY f.archive_id, f.symbol, f.timeframe, f.as_of, f.plan
        ORDER BY f.archive_id, f.symbol, f.timeframe, f.plan
        """
    )
    stale: dict[str, dict[str, list[str]]] = {}
    for row in rows:
        digest = summary_digest(row["digests"], platform)
        if row["summarized"] != digest:
            stale.setdefault(row["archive_id"], {}).setdefault(row["symbol"], []).append(digest)
    return tuple(
        StaleSummaries(archive_id, tuple(sorted(symbols)), digest_of({"stale": symbols}))
        for archive_id, symbols in stale.items()
    )
