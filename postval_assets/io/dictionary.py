"""What the warehouse's tables, views and columns mean, and which columns are each table's key.

Here: words and keys, the source of the comments in the database (``COMMENT ON``). Not here: what columns mean
(column_meanings.py), their types (migrations/*.sql), the views' definitions (views.sql), and anything that talks to a
database.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from postval_assets.io.column_meanings import COLUMNS

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
    "policy_causality": Table(
        "One row per model x as_of: whether anything that it saw or did depended on later bars, tried with noise in "
        "their place when its folds were last computed.",
        EVALUATION,
    ),
    "claim_reproductions": Table(
        "One row per model: what its training summary claims, beside what it does on the newest stored bars of its "
        "training window.",
        MODEL,
    ),
    "walk_forward_summaries": Table("One row per model x plan x as_of: its folds taken together.", PLAN),
    "archive_evidence": Table(
        "One row per archive x plan x as_of: how likely its best results are to be luck.",
        ("archive_id", "plan", "as_of"),
    ),
    "archive_evidence_models": Table(
        "One row per model of an archive x plan x as_of: its part of archive_evidence.", PLAN
    ),
    "champion_comparisons": Table(
        "One row per model x plan x as_of: it and the model that came before it, on the same bars.", PLAN
    ),
    "deployment_watches": Table(
        "One row per model x plan that went LIVE: its returns since then against what its folds promised.",
        PLAN,
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
