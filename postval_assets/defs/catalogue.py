"""What an asset tells the catalogue: rows, columns, and a verdict for each partition.

Here: the translation of a stage's report into Dagster's metadata and check results. Features of Dagster that are in
beta are touched here and nowhere else: backfill policies and the multi-partition mapping.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import dagster as dg

from postval_assets.core.bar_quality import CHECKS, Severity
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.pipeline.archives import Delivery
from postval_assets.pipeline.bar_checks import SymbolQuality
from postval_assets.pipeline.evaluation import EvaluationReport
from postval_assets.pipeline.evidencing import EvidenceReport
from postval_assets.pipeline.platform import Platform, StageReport
from postval_assets.pipeline.tables import describe_table

from .partitions import fold_partition_key

_PROBLEMS_SHOWN = 10
_WORST_LAST = tuple(Severity)

with warnings.catch_warnings():
    # Beta in this version of Dagster; a backfill in one run and the mapping from symbol x fold to symbol need them.
    warnings.simplefilter("ignore", dg.BetaWarning)
    SYMBOL_BACKFILL = dg.BackfillPolicy.multi_run(50)
    FOLD_BACKFILL = dg.BackfillPolicy.multi_run(500)
    SYMBOL_OF_FOLD = dg.MultiToSingleDimensionPartitionMapping(partition_dimension_name="symbol")

RETRY = dg.RetryPolicy(max_retries=2, delay=5, backoff=dg.Backoff.EXPONENTIAL)


def symbol_asset(**arguments: Any) -> Callable[..., dg.AssetsDefinition]:
    """``dg.asset`` with what every partitioned asset here has in common."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        decorator = dg.asset(
            **{
                "backfill_policy": SYMBOL_BACKFILL,
                "retry_policy": RETRY,
                "kinds": {"python", "duckdb"},
                **arguments,
            }
        )

    def decorate(function: Callable[..., Any]) -> dg.AssetsDefinition:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)
            asset: dg.AssetsDefinition = decorator(function)
            return asset

    return decorate


Result = TypeVar("Result")


def run_stage(stage: Callable[[], Result]) -> Result:
    """Run a stage; what cannot be mended by trying again fails the step at once, with one readable line."""
    try:
        return stage()
    except Rejected as error:
        raise dg.Failure(str(error), allow_retries=False) from error
    except Unavailable as error:
        raise dg.Failure(str(error)) from error


def report_stage(
    context: dg.AssetExecutionContext,
    platform: Platform,
    table: str,
    report: StageReport,
    check: str | None = None,
) -> dg.MaterializeResult:
    """Rows and columns, the verdict on each partition that has a problem, and one over all, for the catalogue.

    A verdict on every partition would be half of what a run costs in Dagster's storage, and would hide the one over
    all: the web page heads a check with the verdict that was written last.
    """
    for symbol in report.symbols:
        metadata: dict[str, Any] = {
            "dagster/partition_row_count": symbol.n_rows,
            "current_rows": symbol.n_current,
        }
        if symbol.said:
            metadata["results"] = dg.MetadataValue.md("\n".join(f"- {line}" for line in symbol.said))
        context.add_asset_metadata(metadata, partition_key=symbol.symbol)
    if check is not None:
        for symbol in (s for s in report.symbols if s.problems):
            context.log_event(
                dg.AssetCheckEvaluation(
                    asset_key=context.asset_key,
                    check_name=check,
                    passed=False,
                    severity=dg.AssetCheckSeverity.WARN,
                    description=shown(symbol.problems),
                    partition=symbol.symbol,
                )
            )
    results = [overall_check(check, report)] if check is not None else []
    return dg.MaterializeResult(metadata=table_metadata(platform, table, report), check_results=results)


def report_quality(
    context: dg.AssetExecutionContext,
    loaded: dg.MaterializeResult,
    quality: Sequence[SymbolQuality],
    check: str,
) -> dg.MaterializeResult:
    """Adds the verdict on each symbol's bars to what loading reported, with a table of all checks."""
    not_sound = (q for q in quality if q.severity is not Severity.OK)
    for symbol in sorted(not_sound, key=lambda q: _WORST_LAST.index(q.severity)):
        context.log_event(
            dg.AssetCheckEvaluation(
                asset_key=context.asset_key,
                check_name=check,
                passed=False,
                severity=_dagster_severity([symbol]),
                description=shown(symbol.problems()),
                metadata={"checks": dg.MetadataValue.md(quality_table(symbol))},
                partition=symbol.symbol,
            )
        )
    problems = tuple(f"{q.symbol} {p}" for q in quality for p in q.problems())
    overall = dg.AssetCheckResult(
        check_name=check,
        passed=not problems,
        severity=_dagster_severity(quality),
        description=shown(sorted(problems, key=lambda p: f" {Severity.ERROR}: " not in p)),
        metadata={
            "symbols with an ERROR": _names(quality, Severity.ERROR),
            "symbols with a WARN": _names(quality, Severity.WARN),
        },
    )
    return dg.MaterializeResult(metadata=loaded.metadata, check_results=[*loaded.check_results, overall])


def _dagster_severity(quality: Sequence[SymbolQuality]) -> dg.AssetCheckSeverity:
    is_error = any(q.severity is Severity.ERROR for q in quality)
    return dg.AssetCheckSeverity.ERROR if is_error else dg.AssetCheckSeverity.WARN


def _names(quality: Sequence[SymbolQuality], severity: Severity) -> str:
    return ", ".join(q.symbol for q in quality if q.severity is severity) or "none"


def quality_table(quality: SymbolQuality) -> str:
    """Every check of a symbol's bars, a line each, in Markdown."""
    lines = [
        "| bars | check | verdict | value | recent | warn above | error above | |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for series in quality.series:
        for f in series.findings:
            figures = (f.value, f.recent_value, f.limit.warn, f.limit.error)
            cells = ["" if x is None else f"{x:.4g}" for x in figures]
            name = f"{f.check} ({CHECKS[f.check].unit})"
            lines.append(f"| {series.timeframe} | {name} | {f.severity} | {' | '.join(cells)} | {f.detail} |")
    return "\n".join(lines)


def overall_check(check: str, report: StageReport) -> dg.AssetCheckResult:
    """One verdict over all partitions of the run."""
    problems = tuple(f"{s.symbol} {p}" for s in report.symbols for p in s.problems)
    return dg.AssetCheckResult(
        check_name=check,
        passed=not problems,
        severity=dg.AssetCheckSeverity.WARN,
        description=shown(problems),
        metadata={"problems": len(problems)},
    )


def shown(problems: Sequence[str]) -> str | None:
    """Problems in words, the first ones in full."""
    if not problems:
        return None
    more = [f"and {len(problems) - _PROBLEMS_SHOWN} more"] if len(problems) > _PROBLEMS_SHOWN else []
    return "\n".join([*problems[:_PROBLEMS_SHOWN], *more])


def report_evidence(platform: Platform, report: EvidenceReport) -> dg.MaterializeResult:
    """Rows and columns, and what each plan's evidence says of itself."""
    said = {f"reasons {plan.plan}": "; ".join(plan.reasons) for plan in report.plans if plan.reasons}
    return dg.MaterializeResult(metadata={**table_metadata(platform, "archive_evidence", report), **said})


def table_metadata(platform: Platform, table: str, report: StageReport | EvidenceReport) -> dict[str, Any]:
    """Row count of the table, rows of this run, and the table's columns with their meaning."""
    description = describe_table(platform, table)
    columns = [dg.TableColumn(name=c.name, type=c.type, description=c.meaning) for c in description.columns]
    return {
        "dagster/row_count": description.n_rows,
        "dagster/table_name": table,
        "dagster/column_schema": dg.TableSchema(columns=columns),
        "rows_of_this_run": report.n_rows,
    }


def report_folds(context: dg.AssetExecutionContext, report: EvaluationReport) -> None:
    """Report each fold that now has rows as a partition of ``fold_results``."""
    for fold in report.folds:
        context.log_event(
            dg.AssetMaterialization(
                asset_key="fold_results",
                partition=fold_partition_key(fold.symbol, fold.fold_key),
                metadata={
                    "dagster/partition_row_count": fold.n_rows,
                    "status": ", ".join(fold.statuses),
                    "archive": context.run.tags.get("postval/archive_id", ""),
                },
            )
        )


def archive_materialization(delivery: Delivery) -> dg.AssetMaterialization:
    """A delivered archive, as a partition of ``training_archives``."""
    return dg.AssetMaterialization(
        asset_key="training_archives",
        partition=delivery.archive_id,
        metadata={
            "outcome": delivery.outcome.value,
            "file": delivery.file_name,
            "sha256": delivery.sha256,
            "models": delivery.n_models,
            "symbols": ", ".join(delivery.symbols) or "none",
            **({"reason": delivery.reason} if delivery.reason else {}),
        },
    )
