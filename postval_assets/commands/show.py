"""Results as text: read from the warehouse, laid out by report.

Here: the step between the two rooms. Not here: queries or layout.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.reading import archive_results
from postval_assets.report.archive import archive_text


def results_text(
    platform: Platform, archive_id: str, symbols: Sequence[str] | None, until: datetime | None = None
) -> str:
    """Everything of an archive, as a person reads it."""
    results = archive_results(platform, archive_id, symbols, platform.settings.decision_policy, until)
    return archive_text(
        results.archive,
        gating=results.gating,
        backtests=results.backtests,
        summaries=results.summaries,
        folds=results.folds,
        decisions=results.decisions,
        evidence=results.evidence,
    )
