"""The assets: what each one holds, what it is made from, and which stage makes it.

Here: one asset a table. A body finds out what its run is about, calls its stage and reports; nothing else.
"""

import dagster as dg

from postval_assets.pipeline.archives import verify_archive
from postval_assets.pipeline.bar_checks import check_bars
from postval_assets.pipeline.challenging import compare_champions
from postval_assets.pipeline.deciding import decide_models
from postval_assets.pipeline.evaluation import evaluate_backtests, evaluate_folds
from postval_assets.pipeline.evidencing import weigh_archive
from postval_assets.pipeline.extraction import extract_models
from postval_assets.pipeline.fold_jobs import selections_of
from postval_assets.pipeline.gate import gate_models
from postval_assets.pipeline.loading import load_bars
from postval_assets.pipeline.reproducing import reproduce_claims
from postval_assets.pipeline.summarizing import summarize_folds
from postval_assets.pipeline.watching import watch_deployed

from .catalogue import (
    FOLD_BACKFILL,
    SYMBOL_OF_FOLD,
    report_evidence,
    report_folds,
    report_quality,
    report_stage,
    run_stage,
    symbol_asset,
    table_metadata,
)
from .partitions import archive_partitions, selections_by_symbol, symbol_fold_partitions, symbol_partitions
from .resources import PlatformResource

INTAKE, MARKET, EVALUATION, DECISION = "intake", "market", "evaluation", "decision"


@symbol_asset(
    partitions_def=archive_partitions,
    backfill_policy=None,
    group_name=INTAKE,
    description=(
        "One row an archive: a delivered zip of trained models, by content. Registered by the inbox sensor; "
        "materializing it by hand checks that the stored file is still what its row says."
    ),
)
def training_archives(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    row = run_stage(lambda: verify_archive(platform.platform, context.partition_key))
    return dg.MaterializeResult(
        metadata={"status": row["status"], "models": row["n_models"], "file": row["file_name"] or ""}
    )


@symbol_asset(
    partitions_def=symbol_partitions,
    deps=[dg.AssetDep(training_archives, partition_mapping=dg.AllPartitionMapping())],
    group_name=INTAKE,
    kinds={"python", "duckdb", "pytorch"},
    check_specs=[
        dg.AssetCheckSpec(
            "models_are_usable",
            asset="extracted_models",
            description="Every checkpoint could be read and fits its version; a failed partition says which does not.",
        )
    ],
    description=(
        "One row a model (archive x symbol x timeframe): its checkpoint, read safely, or the reason why it cannot be "
        "used. Weights are stored once, by content."
    ),
)
def extracted_models(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    scope = platform.scope(context, context.partition_keys)
    report = run_stage(lambda: extract_models(platform.platform, scope.archives, run_id=scope.run_id))
    return report_stage(context, platform.platform, "extracted_models", report, "models_are_usable")


@symbol_asset(
    partitions_def=symbol_partitions,
    deps=[extracted_models],
    group_name=INTAKE,
    check_specs=[
        dg.AssetCheckSpec(
            "claims_are_valid",
            asset="gating_scores",
            description="The training summary has four usable metrics for every model; INVALID ones are named.",
        )
    ],
    description=(
        "One row a model: what its training claims, against the thresholds: APPROVED, REVIEW, DROP or INVALID, "
        "with flags. The training max drawdown is a proxy (reward volatility, not equity)."
    ),
)
def gating_scores(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    scope = platform.scope(context, context.partition_keys)
    report = run_stage(lambda: gate_models(platform.platform, scope.archives, run_id=scope.run_id))
    return report_stage(context, platform.platform, "gating_scores", report, "claims_are_valid")


@symbol_asset(
    partitions_def=symbol_partitions,
    group_name=MARKET,
    check_specs=[
        dg.AssetCheckSpec(
            "symbols_have_bars",
            asset="bars",
            description="The source delivered the bars of every symbol in every timeframe that its models need.",
        ),
        dg.AssetCheckSpec(
            "bars_are_sound",
            asset="bars",
            description=(
                "No check of bar_quality finds anything in the stored bars. A WARN goes into the reasons of decisions, "
                "an ERROR stops the symbol's evaluation."
            ),
        ),
    ],
    description=(
        "One row a bar (symbol x timeframe x opening time), merged from the configured source, and their quality "
        "(bar_quality)."
    ),
)
def bars(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    symbols, run_id = list(context.partition_keys), context.run.run_id
    try:
        report = run_stage(lambda: load_bars(platform.platform, symbols, run_id=run_id))
    finally:
        # What was loaded before a source stopped answering is there, and is checked.
        quality = run_stage(lambda: check_bars(platform.platform, symbols, run_id=run_id))
    loaded = report_stage(context, platform.platform, "bars", report, "symbols_have_bars")
    return report_quality(context, loaded, quality, "bars_are_sound")


@symbol_asset(
    partitions_def=symbol_partitions,
    deps=[gating_scores, bars],
    group_name=EVALUATION,
    kinds={"python", "duckdb", "pytorch"},
    check_specs=[
        dg.AssetCheckSpec(
            "backtests_are_computed",
            asset="backtest_results",
            description="The last 30 days of every evaluated model were computed; the reason is given where not.",
        )
    ],
    description="One row a model and as_of: the last 30 days traded as one block, with its metrics.",
)
def backtest_results(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    scope = platform.scope(context, context.partition_keys)
    report = run_stage(
        lambda: evaluate_backtests(platform.platform, scope.archives, run_id=scope.run_id, as_of=scope.as_of)
    )
    return report_stage(context, platform.platform, "backtest_results", report, "backtests_are_computed")


@symbol_asset(
    partitions_def=symbol_partitions,
    deps=[gating_scores, bars],
    group_name=EVALUATION,
    kinds={"python", "duckdb", "pytorch"},
    check_specs=[
        dg.AssetCheckSpec(
            "folds_are_computed",
            asset="walk_forward_evaluations",
            description="Every fold of the wanted plans was computed; the reason is given where not.",
        )
    ],
    description=(
        "All folds of the wanted plans for a symbol's models, computed together and reported as partitions of "
        "fold_results. One row a fold; what is current is not computed again."
    ),
)
def walk_forward_evaluations(
    context: dg.AssetExecutionContext, platform: PlatformResource
) -> dg.MaterializeResult:
    scope = platform.scope(context, context.partition_keys)
    wanted = dict.fromkeys(scope.archives, selections_of(scope.plans))
    report = run_stage(
        lambda: evaluate_folds(
            platform.platform, scope.archives, wanted, run_id=scope.run_id, as_of=scope.as_of
        )
    )
    report_folds(context, report)
    return report_stage(context, platform.platform, "fold_results", report, "folds_are_computed")


@symbol_asset(
    partitions_def=symbol_fold_partitions,
    backfill_policy=FOLD_BACKFILL,
    deps=[
        dg.AssetDep(gating_scores, partition_mapping=SYMBOL_OF_FOLD),
        dg.AssetDep(bars, partition_mapping=SYMBOL_OF_FOLD),
    ],
    group_name=EVALUATION,
    kinds={"python", "duckdb", "pytorch"},
    description=(
        "One row a fold (model x as_of x plan x fold): its metrics, or the reason why it was not computed. An arriving "
        "archive fills it through walk_forward_evaluations; backfill it for new symbols or a longer plan, and "
        "summaries and decisions follow by themselves."
    ),
)
def fold_results(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    wanted = selections_by_symbol(context.partition_keys)
    scope = platform.scope(context, wanted)
    report = run_stage(
        lambda: evaluate_folds(
            platform.platform, scope.archives, wanted, run_id=scope.run_id, as_of=scope.as_of
        )
    )
    return dg.MaterializeResult(metadata=table_metadata(platform.platform, "fold_results", report))


@symbol_asset(
    partitions_def=symbol_partitions,
    deps=[gating_scores, bars],
    group_name=EVALUATION,
    kinds={"python", "duckdb", "pytorch"},
    check_specs=[
        dg.AssetCheckSpec(
            "claims_are_reproduced",
            asset="claim_reproductions",
            description="No model does clearly worse on stored bars of its training window than its summary claims.",
        )
    ],
    description=(
        "One row a model: its claimed metrics beside what it does on the newest stored bars of its training window. A "
        "large disagreement is a flag on the gate (CLAIM_NOT_REPRODUCED); it changes no class and no decision."
    ),
)
def claim_reproductions(
    context: dg.AssetExecutionContext, platform: PlatformResource
) -> dg.MaterializeResult:
    scope = platform.scope(context, context.partition_keys)
    report = run_stage(lambda: reproduce_claims(platform.platform, scope.archives, run_id=scope.run_id))
    return report_stage(context, platform.platform, "claim_reproductions", report, "claims_are_reproduced")


@symbol_asset(
    partitions_def=symbol_partitions,
    deps=[
        walk_forward_evaluations,
        dg.AssetDep(fold_results, partition_mapping=SYMBOL_OF_FOLD),
    ],
    group_name=DECISION,
    description=(
        "One row a model, plan and as_of: its folds together, with positive folds, Sharpe spread and a grade for each."
    ),
)
def walk_forward_summaries(
    context: dg.AssetExecutionContext, platform: PlatformResource
) -> dg.MaterializeResult:
    scope = platform.scope(context, context.partition_keys)
    report = run_stage(
        lambda: summarize_folds(platform.platform, scope.archives, run_id=scope.run_id, as_of=scope.as_of)
    )
    return report_stage(context, platform.platform, "walk_forward_summaries", report)


@symbol_asset(
    partitions_def=symbol_partitions,
    deps=[
        walk_forward_evaluations,
        dg.AssetDep(fold_results, partition_mapping=SYMBOL_OF_FOLD),
    ],
    group_name=DECISION,
    kinds={"python", "duckdb", "pytorch"},
    description=(
        "One row a model, plan and as_of, where an earlier archive has a model of the symbol: both on the same bars, "
        "which is better, and whether the difference is more than luck."
    ),
)
def champion_comparisons(
    context: dg.AssetExecutionContext, platform: PlatformResource
) -> dg.MaterializeResult:
    scope = platform.scope(context, context.partition_keys)
    report = run_stage(
        lambda: compare_champions(platform.platform, scope.archives, run_id=scope.run_id, as_of=scope.as_of)
    )
    return report_stage(context, platform.platform, "champion_comparisons", report)


@symbol_asset(
    partitions_def=symbol_partitions,
    deps=[bars, walk_forward_evaluations],
    group_name=DECISION,
    kinds={"python", "duckdb", "pytorch"},
    check_specs=[
        dg.AssetCheckSpec(
            "edges_hold",
            asset="deployment_watches",
            description="No model that went LIVE has lost its edge since then, and every one could be watched.",
        )
    ],
    description=(
        "One row a model and plan that went LIVE: its returns since then against what its folds promised, by a "
        "sequential test. An alarm turns LIVE into RETRAIN. No row where nothing ever was LIVE."
    ),
)
def deployment_watches(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    scope = platform.scope(context, context.partition_keys)
    report = run_stage(
        lambda: watch_deployed(platform.platform, scope.archives, run_id=scope.run_id, now=scope.as_of)
    )
    return report_stage(context, platform.platform, "deployment_watches", report, "edges_hold")


@symbol_asset(
    partitions_def=symbol_partitions,
    deps=[
        *(walk_forward_summaries, champion_comparisons, gating_scores),
        *(claim_reproductions, deployment_watches),
    ],
    group_name=DECISION,
    description=(
        "One row a model, plan, as_of, policy and run: LIVE, PAPER, RETRAIN or DROP, every reason that applied, and "
        "the digests of everything it was made from. Append-only."
    ),
)
def deployment_decisions(
    context: dg.AssetExecutionContext, platform: PlatformResource
) -> dg.MaterializeResult:
    scope = platform.scope(context, context.partition_keys)
    report = run_stage(
        lambda: decide_models(platform.platform, scope.archives, run_id=scope.run_id, as_of=scope.as_of)
    )
    return report_stage(context, platform.platform, "deployment_decisions", report)


@symbol_asset(
    partitions_def=archive_partitions,
    backfill_policy=None,
    deps=[
        dg.AssetDep(deployment_decisions, partition_mapping=dg.AllPartitionMapping()),
        dg.AssetDep(fold_results, partition_mapping=dg.AllPartitionMapping()),
    ],
    group_name=DECISION,
    description=(
        "One row an archive, plan and as_of, and one a model below it: how likely its best results are "
        "to be luck, given how many models were tried. Made when every model of the archive is decided; it is "
        "shown and decides nothing."
    ),
)
def archive_evidence(context: dg.AssetExecutionContext, platform: PlatformResource) -> dg.MaterializeResult:
    archive_id = context.partition_key
    report = run_stage(lambda: weigh_archive(platform.platform, archive_id, run_id=context.run.run_id))
    return report_evidence(platform.platform, report)


ASSETS = [
    training_archives,
    extracted_models,
    gating_scores,
    bars,
    backtest_results,
    walk_forward_evaluations,
    fold_results,
    claim_reproductions,
    walk_forward_summaries,
    champion_comparisons,
    deployment_watches,
    deployment_decisions,
    archive_evidence,
]
