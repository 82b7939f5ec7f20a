"""What the warehouse's tables, views and columns mean, and which columns are each table's key.

Here: words and keys, the source of the comments in the database (``COMMENT ON``). Not here: column types
(migrations/*.sql), the views' definitions (views.sql), and anything that talks to a database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MODEL = ("archive_id", "symbol", "timeframe")
EVALUATION = (*MODEL, "as_of")
PLAN = (*EVALUATION, "plan")
FOLD = (*PLAN, "fold")

NULLABLE_KEYS = frozenset({"as_of"})
"""Key columns that may be NULL: a model that was never evaluated has no ``as_of``."""


@dataclass(frozen=True)
class Table:
    """A table's meaning.

    Attributes:
        about: its grain first.
        key: columns of which no two rows agree in all (NULL agrees with NULL); empty where rows are a log.
        append_only: rows are never replaced, merged or updated.
    """

    about: str
    key: tuple[str, ...] = ()
    append_only: bool = False


TABLES: dict[str, Table] = {
    "schema_versions": Table("One row per migration that this database has been through.", ("version",)),
    "revision": Table("One row: how many write transactions there were, and the newest one's run and time."),
    "publication": Table("One row per read replica: when it was last put in place.", ("replica",)),
    "training_archives": Table("One row per training archive that was delivered.", ("archive_id",)),
    "archive_deliveries": Table(
        "One row per file seen in the inbox and what was made of it; append-only.", append_only=True
    ),
    "training_claims": Table(
        "One row per model that the training summary speaks of: its metrics as the trainer wrote them.", MODEL
    ),
    "extracted_models": Table("One row per checkpoint in an archive.", MODEL),
    "gating_scores": Table("One row per model: the verdict on its training metrics.", MODEL),
    "bars": Table(
        "One row per bar of a symbol at the base timeframe, and at a finer one that a model of it has; merged, "
        "never replaced whole.",
        ("symbol", "timeframe", "ts"),
    ),
    "bar_loads": Table(
        "One row per symbol x timeframe: the last time that its bars were read from the source.",
        ("symbol", "timeframe"),
    ),
    "bar_coverage": Table(
        "One row per range of opens that a source was asked for and answered whole, with bars or without.",
        ("symbol", "timeframe", "source", "start_ts"),
    ),
    "bar_restatements": Table(
        "One row per time that a source's adjusted history of a symbol had shifted (a split, a dividend) and was "
        "fetched whole again; append-only.",
        append_only=True,
    ),
    "bar_quality": Table(
        "One row per check of a stored series of bars (symbol x timeframe), as of its last load.",
        ("symbol", "timeframe", "check_name"),
    ),
    "evaluations": Table("One row per instant that a model was evaluated at.", EVALUATION),
    "backtest_results": Table(
        "One row per model x as_of: the simple backtest over the last 30 days.", EVALUATION
    ),
    "fold_results": Table("One row per fold of a plan, model and as_of.", FOLD),
    "equity_curves": Table("One row per bar of a fold: the account after it.", (*FOLD, "ts")),
    "trades": Table(
        "One row per round trip of a fold, from flat to flat or to the other side.", (*FOLD, "trade")
    ),
    "walk_forward_summaries": Table("One row per model x plan x as_of: its folds taken together.", PLAN),
    "archive_evidence": Table(
        "One row per archive x plan x as_of: how likely its best results are to be luck.",
        ("archive_id", "plan", "as_of"),
    ),
    "archive_evidence_models": Table(
        "One row per model of an archive x plan x as_of: its part of archive_evidence.", PLAN
    ),
    "deployment_decisions": Table(
        "One row per model x plan x as_of x policy x run; append-only, the highest revision counts.",
        append_only=True,
    ),
    "removed_files": Table(
        "One row per time that an archive's zip or weights were removed on purpose (postval prune, postval archives "
        "--remove); append-only.",
        append_only=True,
    ),
    "decision_inputs": Table(
        "One row per input of a decision: what it was when the decision was made; append-only.",
        ("decision_id", "input"),
        append_only=True,
    ),
    "decided_folds": Table(
        "One row per fold that a decision was made from, as it was then; fold_results has what it is now.",
        ("folds_digest", "fold"),
    ),
    "recorded_contents": Table(
        "One row per content that a digest of an input stands for: settings, thresholds, limits, libraries.",
        ("kind", "digest"),
    ),
}

VIEWS: dict[str, str] = {
    "latest_decisions": (
        "One row per model of each symbol's newest archive: the worst decision over the plans of its newest "
        "evaluation, both policies side by side."
    ),
    "leaderboard": (
        "One row per model x plan, all archives: the newest decision of policy standard with the figures "
        "behind it, best first."
    ),
    "symbol_history": "One row per model x plan x as_of in time order: how a symbol's models have done.",
    "newest_evaluations": (
        "One row per model that was evaluated: the newest instant that it has folds at, or, where it has none, the "
        "newest of its backtest."
    ),
    "published_at": "One row: when this copy of the database was made.",
}

# A column has one meaning wherever it appears; "table.column" below says where it differs.
COLUMNS: dict[str, str] = {
    "run_id": "The run that wrote the row (NULL where no run did).",
    "created_at": "When the row was written, UTC.",
    "archive_id": "The training archive: YYYYMMDD_HHMMSS of its training, UTC; sorts by time.",
    "symbol": "Traded symbol without a slash.",
    "timeframe": "Length of a bar: 15Min, 30Min, 1Hour, 2Hour, 4Hour, 1Day.",
    "as_of": "Close of the evaluation's newest bar, UTC; NULL where the model was never evaluated.",
    "plan": "Fold plan: history in days, such as 180d (5 folds) or 365d (10 folds).",
    "fold": "Number of the fold within its plan, from 1, oldest first.",
    "reason": "Why the status or verdict is what it is; NULL where there is nothing to say.",
    "reasons": "Every reason that applied: its word, and after a colon the figures.",
    "status": "OK, or the word for what prevented it (see reason).",
    "version": "Number of the migration.",
    "name": "Name of the migration.",
    "revision": "Number of write transactions so far.",
    "replica": "Path of the replica, relative to the warehouse's directory.",
    "published_at": "When the replica was made, UTC.",
    "sha256": "SHA-256 of the file, hexadecimal: the archive's identity.",
    "file_name": "Name of the file as delivered.",
    "size_bytes": "Size of the file in bytes.",
    "received_at": "When the archive was accepted, UTC.",
    "trained_at": "When the training was finished, from the archive's id, UTC.",
    "train_start": "First training bar (its open, inclusive), UTC; NULL where unknown.",
    "train_end": "Last training bar (its open, inclusive), UTC; NULL where unknown.",
    "reward_scale": "The trainer's reward scale; 0.001 is what the drawdown proxy is calibrated for.",
    "validation_interval": "Training updates between two validations; NULL where unknown.",
    "n_trials": "Configurations that the trainer tried; NULL where unknown.",
    "n_models": "Number of models in the archive.",
    "n_rejected": "Number of models that were not OK after extraction.",
    "models": "Every model that the archive speaks of and that belongs to a symbol, as SYMBOL_TIMEFRAME.",
    "n_fetched": "Bars that the source delivered.",
    "n_changed": "Of these, bars that were new or differed from what was stored.",
    "first_ts": "First bar that the source delivered (its open), UTC.",
    "last_ts": "Last bar that the source delivered (its open), UTC.",
    "fetched_digest": "Digest of the bars that the source last delivered; NULL where it is asked for ranges.",
    "detected_at": "When it was seen, UTC.",
    "ratio": "Median of new / old close over the bars that differed; NULL where no ratio exists.",
    "n_compared": "Stored bars whose closes were compared with newly delivered ones.",
    "n_differing": "Of these, bars whose close differed.",
    "n_bars_before": "Bars stored before.",
    "n_bars_after": "Bars stored after.",
    "stored_path": "Where the archive is kept, relative to the data directory.",
    "seen_at": "When the file was seen, UTC.",
    "outcome": "ACCEPTED, RETRY (dropped again after a failure), DUPLICATE or REJECTED.",
    "attempt": "Number of the attempt at this content, from 1.",
    "fitness_history": "Fitness at each validation, oldest first.",
    "profit_factor_history": "Profit factor at each validation, oldest first.",
    "consistency_history": "Consistency at each validation, a fraction, oldest first.",
    "max_drawdown_history": "Proxy for the max drawdown at each validation, a fraction, oldest first.",
    "problem": "What makes the claim unusable; NULL where it is usable.",
    "entry_name": "Name of the checkpoint inside the archive.",
    "model_sha256": "SHA-256 of the model's weights, hexadecimal.",
    "model_version": "Version of the model's layout, such as 2.7.0.",
    "model_version_basis": "How the version was found: as the checkpoint says, or inferred from its shape.",
    "feature_set": "Name of the feature set that feeds the model.",
    "feature_set_version": "Version of the feature set.",
    "feature_set_basis": "NAMED, CONFIGURED or ASSUMED (only the dimensions fit).",
    "activation": "Activation between the layers.",
    "activation_basis": "How the activation was found: as the checkpoint says, or ASSUMED.",
    "n_features": "Features of one bar, account features included.",
    "n_actions": "Number of actions: 3 or 7.",
    "obs_dim": "Length of an observation: n_features x window.",
    "window": "Bars in an observation.",
    "hidden_dims": "Widths of the hidden layers, from the input on.",
    "n_parameters": "Number of the actor's and critic's parameters.",
    "global_step": "Environment steps of the training; NULL where unknown.",
    "weights_path": "Where the weights are kept, relative to the data directory.",
    "fitness": "Final fitness in training.",
    "profit_factor": "Gross profit / gross loss; NULL without a losing trade.",
    "consistency": "Final consistency in training, a fraction.",
    "max_drawdown": "Largest fall of the equity from its peak, a positive fraction of the peak.",
    "classification": "APPROVED, REVIEW, DROP or INVALID: the gate's verdict.",
    "flags": "What the gate noticed, one word each.",
    "use_checkpoint": "Whether an earlier checkpoint looks better than the final one; advice only.",
    "checkpoint_index": "Validation of the best fitness, from 0; NULL without advice.",
    "checkpoint_update": "Training update of that validation; NULL where the interval is unknown.",
    "thresholds_version": "Name of the set of gating thresholds.",
    "folds_digest": "Digest of the folds that the row was made from; NULL where there were none.",
    "inputs_digest": "Digest of everything that the row was computed from.",
    "ts": "Open of the bar, UTC.",
    "open": "First price, quote currency.",
    "high": "Highest price, quote currency.",
    "low": "Lowest price, quote currency.",
    "close": "Last price, quote currency.",
    "volume": "Quantity traded; NULL where the source does not know it.",
    "source": "Where the bar came from.",
    "start_ts": "Open of the first bar, UTC.",
    "end_ts": "Open of the last bar, UTC.",
    "training_overlap": "IN_TRAIN, OVERLAP, OUT_OF_SAMPLE, BEFORE_TRAIN or UNKNOWN.",
    "n_bars": "Number of bars.",
    "total_return": "Last equity / capital - 1, a fraction.",
    "sharpe": "Annualised Sharpe ratio of per-bar returns, no risk-free rate; NULL for a flat curve.",
    "sortino": "Annualised Sortino ratio of per-bar returns; NULL without a losing bar.",
    "model_as_of": "The model's own as_of; the row's is the newest of the archive's models, UTC.",
    "bars_per_year": "Bars in a year as measured over the plan's window: what annualises.",
    "win_rate": "Round trips won / closed, a fraction; NULL without trades.",
    "gross_profit": "Sum of the winning round trips, quote currency.",
    "gross_loss": "Sum of the losing round trips as a positive number, quote currency.",
    "n_trades": "Number of closed round trips.",
    "avg_trade_pnl": "Mean profit of a round trip, quote currency; NULL without trades.",
    "exposure": "Points of the curve with a position / n_bars, a fraction.",
    "turnover": "Traded value / mean equity.",
    "fees": "Fees paid, quote currency.",
    "lapsed_orders": "Orders that no bar filled, for want of volume.",
    "buy_and_hold_return": "Return of buying at the first close, selling at the last, at cost, a fraction.",
    "excess_return": "total_return - buy_and_hold_return.",
    "bars_digest": "Digest of the bars.",
    "settings_digest": "Digest of the settings that the result depends on.",
    "code_version": "Version of the code that computed the row.",
    "n_folds": "Number of folds of the plan.",
    "equity": "Account value at the close of the bar, quote currency.",
    "position": "Quantity held at the close of the bar; negative is short.",
    "action": "Action chosen at the close of the bar: index into the model's actions; NULL where none was.",
    "trade": "Number of the round trip within its fold, in time order.",
    "entry_ts": "Open of the bar that filled the first order of the round trip, UTC.",
    "exit_ts": "Open of the bar in which it ended, UTC.",
    "has_folds": "Whether the model has folds at that instant.",
    "side": "LONG or SHORT.",
    "quantity": "Quantity of the round trip, positive.",
    "entry_price": "Average price of getting in, slippage included, quote currency.",
    "exit_price": "Average price of getting out, slippage included, quote currency.",
    "pnl": "Profit of the round trip after fees and slippage, quote currency.",
    "positive_folds": "Folds with a total return above 0.",
    "n_computed": "Folds that were computed.",
    "positive_share": "positive_folds / n_folds, a fraction.",
    "sharpe_mean": "Mean of the folds' Sharpe ratios.",
    "sharpe_std": "Standard deviation (ddof 1) of the folds' Sharpe ratios.",
    "sharpe_std_expected": "The spread that pure sampling gives to the Sharpe ratio of folds this short.",
    "sharpe_min": "Lowest Sharpe ratio of a fold.",
    "sharpe_max": "Highest Sharpe ratio of a fold.",
    "return_min": "Lowest total return of a fold, a fraction.",
    "return_max": "Highest total return of a fold, a fraction.",
    "return_sum": "Sum of the folds' total returns.",
    "best_fold_share": "The best fold's return / the sum of the positive ones, a fraction.",
    "consistency_grade": "GOOD, MARGINAL or POOR by positive_share.",
    "stability_grade": "GOOD, MARGINAL or POOR by sharpe_std.",
    "profitability_grade": "GOOD, MARGINAL or POOR by the folds' returns.",
    "n_evaluated": "Models of the archive with enough computed folds to count.",
    "pbo": "Probability of backtest overfitting (CSCV), a fraction; NULL with too few models.",
    "n_returns": "Number of per-bar returns.",
    "skew": "Skewness of the per-bar returns.",
    "kurtosis": "Raw kurtosis of the per-bar returns (normal: 3).",
    "sharpe_benchmark": "Annualised Sharpe ratio that the best of so many trials reaches by luck.",
    "dsr": "Deflated Sharpe ratio, a probability.",
    "n_counted": "Folds that are evidence: computed, and out of sample or of an unknown training window.",
    "n_out_of_sample": "Of these, folds that are known to be out of sample.",
    "counted_return": "Sum of the total returns of the folds that count.",
    "bootstrap_se": "Spread of the Sharpe ratio over 2,000 resamples (stationary bootstrap within folds), annualised.",
    "bootstrap_low": "Lower end of its 90 % interval, annualised.",
    "bootstrap_high": "Upper end of its 90 % interval, annualised.",
    "p_value": "Chance of a Sharpe ratio this high without skill, by its bootstrapped spread.",
    "p_value_archive": "Chance that the best of n_trials without skill reaches it (Sidak).",
    "psr": "Probabilistic Sharpe ratio against 0, independent returns.",
    "track_record_days": "Days of returns at hand.",
    "min_track_record_days": (
        "Days needed at this Sharpe ratio for p_value_archive <= its limit; NULL where it is not above 0."
    ),
    "consistency_ratio": "Spread of the folds' Sharpe ratios / that of sampling alone: about 1 is steady.",
    "null_percentile": "Share of 200 policies with the model's runs of actions permuted that did strictly worse.",
    "null_return": "Mean of the permuted policies' sums of fold returns.",
    "always_long_return": "Sum of the folds' returns with the largest BUY at every bar.",
    "always_flat_return": "Sum of the folds' returns with HOLD at every bar.",
    "day_late_return": "Sum of the folds' returns with the model's own actions a trading day late.",
    "lag_return": "Sum of the folds' returns with each order filled one bar later.",
    "break_even_cost_bps": (
        "Cost a side (fee and slippage) that leaves a sum of 0, basis points; NULL without a gain before costs."
    ),
    "assumed_cost_bps": "Cost a side as assumed, basis points.",
    "evidence": "SHOWN, WEAK, INSUFFICIENT (more days are needed, which is not the same as bad) or CONTRADICTED.",
    "evidence_reasons": "Every condition that failed, with its number and the one that was needed.",
    "evidence_digest": "Digest of what the evidence was made from; NULL where it was not weighed.",
    "policy": "Policy that decided: standard or evidence.",
    "policy_version": "Version of the policy's rules.",
    "decision_id": "Short name of the decision, 12 hexadecimal digits: postval replay DECISION_ID.",
    "input": "Name of the input, such as archive, weights, claims, thresholds, settings, bars, code.",
    "digest": "Digest of the content, hexadecimal; NULL where there is none.",
    "kind": "What the content is: settings, thresholds, grade_limits, intake, quality_limits or environment.",
    "content": "JSON, its keys sorted.",
    "claims_digest": "Digest of what training claims of the model.",
    "thresholds_digest": "Digest of the numbers of the thresholds: recorded_contents has them.",
    "decision": "LIVE, PAPER, RETRAIN or DROP.",
    "archive_sha256": "SHA-256 of the archive, hexadecimal.",
    "decision_evidence": "Decision of policy evidence; NULL where it made none.",
    "reasons_evidence": "Every reason of policy evidence that applied; empty where it made no decision.",
    "plans": "Plans that the decision is over.",
    "decided_at": "When the newest decision among them was made, UTC.",
    "training_fitness": "Final fitness in training.",
    "training_profit_factor": "Final profit factor in training.",
    "training_consistency": "Final consistency in training, a fraction.",
    "training_max_drawdown": "Final max drawdown in training: a proxy (reward volatility, not equity).",
    "n_files": "Number of files.",
    "removed_at": "When they were removed, UTC.",
    # where a table means something of its own
    "walk_forward_summaries.sharpe": "Annualised Sharpe ratio over the returns of the folds that count.",
    "leaderboard.sharpe": "Annualised Sharpe ratio over the returns of the folds that count.",
    "leaderboard.n_trials": "Models delivered in the archive, or configurations tried where those are more.",
    "walk_forward_summaries.n_returns": "Number of per-bar returns in the folds that count.",
    "walk_forward_summaries.n_trials": "Models delivered in the archive, or configurations tried where those are more.",
    "removed_files.kind": "ARCHIVE (the zip, or a refused file) or WEIGHTS.",
    "removed_files.size_bytes": "Size of the files together in bytes.",
    "removed_files.reason": "The rule of retention that named them, or by hand.",
    "training_archives.status": "RECEIVED, EXTRACTED, COMPLETE or REJECTED.",
    "extracted_models.status": "OK, INCOMPATIBLE or REJECTED.",
    "bar_loads.status": "OK, EMPTY (the source has the symbol and no bars) or REJECTED.",
    "bar_coverage.source": "Who was asked.",
    "bar_coverage.start_ts": "First open of the range (inclusive), UTC.",
    "bar_coverage.end_ts": "Last open of the range (inclusive), UTC.",
    "bar_restatements.source": "Whose history it is.",
    "bar_restatements.first_ts": "First bar that was fetched again (its open), UTC.",
    "bar_restatements.last_ts": "Last bar that was fetched again (its open), UTC.",
    "bar_restatements.n_changed": "Bars of the history fetched again that were new or differed from what was stored.",
    "check_name": "What was checked; docs/bar-quality.md has the formulas.",
    "severity": "OK, WARN (goes into the reasons of decisions) or ERROR (stops evaluations).",
    "value": "Over all stored bars, in the unit; NULL where the check does not apply.",
    "recent_value": "The same over the recent bars (setting quality_recent_days).",
    "unit": "share (a fraction), h (trading hours), sd, of price (a fraction) or d (days).",
    "limit_warn": "A value or recent_value above it is a WARN; NULL: never.",
    "limit_error": "A recent_value above it is an ERROR; NULL: never.",
    "detail": "How many, first and last, or where it is largest (opens, UTC).",
    "error_from": "Of an ERROR, open of the first bar that it is about, UTC; an earlier as_of is not stopped.",
    "bar_quality.first_ts": "First bar that was checked (its open), UTC.",
    "bar_quality.last_ts": "Last bar that was checked (its open), UTC.",
    "gating_scores.profit_factor": "Final profit factor in training.",
    "gating_scores.max_drawdown": "Final max drawdown in training: a proxy (reward volatility, not equity).",
    "backtest_results.status": (
        "OK, NO_TRADES, RUINED, BROKEN_POLICY, INSUFFICIENT_DATA, INVALID_BARS or NOT_EVALUATED."
    ),
    "fold_results.status": (
        "OK, NO_TRADES, RUINED, BROKEN_POLICY, INSUFFICIENT_DATA, INVALID_BARS or NOT_EVALUATED."
    ),
    "trades.fees": "Fees of the round trip, quote currency.",
    "deployment_decisions.settings_digest": (
        "That of the folds, or a digest of all of theirs where they differ; of the present settings without folds."
    ),
    "deployment_decisions.revision": (
        "Number of the write transaction that made the row, whatever the clock said; NULL where it is older than this "
        "column."
    ),
    "deployment_decisions.code_version": (
        "That of the folds, or a digest of all of theirs where they differ; the present one without folds."
    ),
    "decision_inputs.digest": "Digest of the input, hexadecimal; recorded_contents has what settings and such were.",
    "decision_inputs.value": "The input itself, as JSON, where it is short; else NULL.",
    "latest_decisions.decision_id": "Of the worst decision of policy standard: postval replay DECISION_ID.",
    "latest_decisions.decision": "Worst decision of policy standard over the plans; NULL where it made none.",
    "latest_decisions.decision_evidence": "Worst decision of policy evidence; NULL where it made none.",
    "latest_decisions.reasons": "Distinct reasons of policy standard over the plans, the worst plan's first.",
    "latest_decisions.reasons_evidence": "Distinct reasons of policy evidence, likewise.",
}


def column_comment(table: str, column: str) -> str:
    """What a column of a table or view means; KeyError where nobody wrote it down."""
    return COLUMNS.get(f"{table}.{column}") or COLUMNS[column]


def table_comment(table: str) -> str:
    """A table's or view's meaning with its key."""
    if table in VIEWS:
        return VIEWS[table]
    known = TABLES[table]
    return f"{known.about} Key: {', '.join(known.key)}." if known.key else known.about


def comments_on(table: str, columns: Sequence[str]) -> str:
    """SQL that writes a table's or view's meaning, and its columns', into the database."""
    kind = "VIEW" if table in VIEWS else "TABLE"
    statements = [f'COMMENT ON {kind} "{table}" IS {_literal(table_comment(table))};']
    statements += [
        f'COMMENT ON COLUMN "{table}"."{column}" IS {_literal(column_comment(table, column))};'
        for column in columns
    ]
    return "\n".join(statements)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
