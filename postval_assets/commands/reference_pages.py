"""The generated pages of docs/: tables, settings and features, from the code that defines them.

    python -m postval_assets.commands.reference_pages docs

Here: what each page says and in which order. Not here: the facts (io/dictionary.py, io/migrations, settings.py,
core/features) and the text of the page of features (features_text.py). A test holds docs/ against these functions, so
the pages cannot fall behind.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from string import Template
from typing import Any

from pydantic.fields import FieldInfo

from postval_assets.commands.features_text import FEATURES_PAGE
from postval_assets.core.features import markov
from postval_assets.core.features.behaviour import GAP, Behaviour, Passage, measure_behaviours
from postval_assets.core.features.reference import REFERENCE_SETS, REFERENCE_SPECS
from postval_assets.core.features.spec import FLAT, FeatureFamily
from postval_assets.core.gating import THRESHOLD_SETS
from postval_assets.core.policy_causality import TIE
from postval_assets.core.policy_futures import LANE_BARS
from postval_assets.io.dictionary import TABLES, VIEWS
from postval_assets.io.warehouse import Warehouse
from postval_assets.settings import REPOSITORY, Settings

_COMMAND = "python -m postval_assets.commands.reference_pages docs"
_STAMPS = ("run_id", "created_at")


class Kind(StrEnum):
    """What a table is for, in the order of the page."""

    INTAKE = "Intake"
    MARKET = "Market"
    EVALUATION = "Evaluation"
    DECISION = "Decision"
    OWN = "The warehouse's own"


# Which asset (or who else) writes a table.
WRITERS: Mapping[str, tuple[Kind, str]] = {
    "training_archives": (Kind.INTAKE, "`training_archives`, by the inbox sensor or `postval validate`"),
    "archive_deliveries": (Kind.INTAKE, "the inbox sensor and `postval validate`"),
    "training_claims": (Kind.INTAKE, "`extracted_models`"),
    "extracted_models": (Kind.INTAKE, "`extracted_models`"),
    "gating_scores": (Kind.INTAKE, "`gating_scores`; the flag CLAIM_NOT_REPRODUCED: `claim_reproductions`"),
    "bars": (Kind.MARKET, "`bars`"),
    "bar_loads": (Kind.MARKET, "`bars`"),
    "bar_coverage": (Kind.MARKET, "`bars`"),
    "bar_restatements": (Kind.MARKET, "`bars`"),
    "bar_quality": (Kind.MARKET, "`bars`, after loading"),
    "evaluations": (
        Kind.EVALUATION,
        "`backtest_results`, `walk_forward_evaluations` and `fold_results`: the first to evaluate a model",
    ),
    "backtest_results": (Kind.EVALUATION, "`backtest_results`"),
    "fold_results": (Kind.EVALUATION, "`walk_forward_evaluations` or `fold_results`"),
    "equity_curves": (Kind.EVALUATION, "the same, with the fold"),
    "trades": (Kind.EVALUATION, "the same, with the fold"),
    "policy_causality": (Kind.EVALUATION, "`walk_forward_evaluations` or `fold_results`, with the folds"),
    "claim_reproductions": (Kind.EVALUATION, "`claim_reproductions`"),
    "walk_forward_summaries": (Kind.DECISION, "`walk_forward_summaries`"),
    "archive_evidence": (Kind.DECISION, "`archive_evidence`"),
    "archive_evidence_models": (Kind.DECISION, "`archive_evidence`"),
    "champion_comparisons": (Kind.DECISION, "`champion_comparisons`"),
    "deployment_watches": (Kind.DECISION, "`deployment_watches`"),
    "deployment_decisions": (Kind.DECISION, "`deployment_decisions`"),
    "decision_inputs": (Kind.DECISION, "`deployment_decisions`"),
    "decided_folds": (Kind.DECISION, "`deployment_decisions`"),
    "recorded_contents": (Kind.DECISION, "the first stage that uses it"),
    "removed_files": (Kind.OWN, "`postval prune` and `postval archives --remove`"),
    "schema_versions": (Kind.OWN, "migrations"),
    "revision": (Kind.OWN, "every write"),
    "publication": (Kind.OWN, "every publication"),
}


@dataclass(frozen=True)
class Column:
    """A column as the database knows it."""

    name: str
    type: str
    meaning: str


def pages() -> dict[str, str]:
    """Text of every generated page, by its file name."""
    return {"tables.md": tables_page(), "settings.md": settings_page(), "features.md": features_page()}


_TABLES_PAGE = Template(
    """\
# Tables and views

Made by `$command` from the code; change the code, not this page.

People read `postval.duckdb` in the data directory: with `postval sql`, or with any DuckDB client. It is a copy of the
pipeline's own `warehouse/warehouse.duckdb`, made when no run is queued or running; the view `published_at` says when.
Times are `TIMESTAMPTZ` in UTC, paths are relative to the data directory, and what is not defined is NULL.

No two rows agree in all columns of a table's key (NULL agrees with NULL). Every table also ends in `run_id` (the
Dagster run that wrote the row, or the name of what else did) and `created_at` (when).

```sql
-- the same descriptions, from the database itself
SELECT column_name, data_type, comment FROM duckdb_columns() WHERE table_name = 'fold_results';
```

| table or view | rows |
|---|---|
$overview

$sections
"""
)


def tables_page() -> str:
    """Every table and view with its columns, as a fresh database describes itself."""
    columns = database_columns()
    overview = [*VIEWS.items(), *((name, table.about) for name, table in TABLES.items())]
    sections = ["## Views"]
    for name, about in VIEWS.items():
        sections += ["", f"### {name}", "", about, "", *_column_table(columns[name])]
    for kind in Kind:
        sections += ["", f"## {kind}"]
        for name, table in TABLES.items():
            if WRITERS[name][0] is not kind:
                continue
            key = ", ".join(f"`{c}`" for c in table.key) or "none: it is a log, rows are only added"
            sections += ["", f"### {name}", "", table.about, ""]
            sections += [f"Key: {key}. Written by {WRITERS[name][1]}.", ""]
            sections += _column_table([c for c in columns[name] if c.name not in _STAMPS])
    return _TABLES_PAGE.substitute(
        command=_COMMAND,
        overview="\n".join(f"| [{name}](#{name}) | {_cell(about)} |" for name, about in overview),
        sections="\n".join(sections),
    )


def database_columns() -> dict[str, list[Column]]:
    """Columns of every table and view of a fresh database, in their order."""
    with tempfile.TemporaryDirectory(prefix="postval-docs-") as folder:
        warehouse = Warehouse(Path(folder) / "warehouse.duckdb")
        warehouse.migrate(now=datetime(2025, 1, 1, tzinfo=UTC))
        rows = warehouse.rows(
            """
            SELECT table_name, column_name, data_type, coalesce(comment, '') AS meaning
            FROM duckdb_columns() WHERE schema_name = 'main' AND NOT internal ORDER BY table_name, column_index
            """
        )
    found: dict[str, list[Column]] = {name: [] for name in (*VIEWS, *TABLES)}
    for row in rows:
        shown = row["data_type"].replace("TIMESTAMP WITH TIME ZONE", "TIMESTAMPTZ")
        found[row["table_name"]].append(Column(row["column_name"], shown, row["meaning"]))
    return found


EXAMPLE = """\
bars_source = "parquet:D:/bars"
plans = ["180d", "365d"]
thresholds_version = "strict"
crypto_fee_bps = 15.0

[thresholds.strict]
approve = { fitness = 0.80, profit_factor = 2.0, consistency = 0.90, max_drawdown = 0.06 }
review = { fitness = 0.60, profit_factor = 1.5, consistency = 0.75, max_drawdown = 0.10 }

[feature_sets]
"2.7.0" = "reference-59"
"20250301_180000" = "acme-59"

[symbol_classes]
SPXUSD = "equity"
"""

_SETTINGS_PAGE = Template(
    """\
# Settings

Made by `$command` from the code; change the code, not this page.

A value is looked for in this order; the first place that has it wins:

1. the command line: `--data-dir` and `--bars` before the command; `--port`, `--plan`, `--capital` after the commands
   that have them;
2. the environment: `POSTVAL_` and the setting's name in capitals;
3. the file `postval.toml` in the folder where the command is started, or the file that `POSTVAL_SETTINGS_FILE` names;
4. the default below.

An unknown name or a wrong value in the file stops the command with a line that says which. So does a
misspelt `POSTVAL_` variable. Relative folders count from the folder where the command is started. `postval up` reads
the settings when it starts: stop and start it after a change.

In the environment a list is separated by commas (`POSTVAL_PLANS=180d,365d`); a table is JSON
(`POSTVAL_SYMBOL_CLASSES={"SPXUSD": "equity"}`) and is merged with the file's.

| setting | environment | default | meaning |
|---|---|---|---|
$settings

## postval.toml

```toml
$example```

`[thresholds.NAME]` is a threshold set of your own. $built_in are built in and keep their names. `approve` and `review`
each need all four limits, `approve` may not ask less than `review`, and `thresholds_version` chooses the set. Every
row of `gating_scores` names the set it was judged by.

`[feature_sets]` says which feature set feeds a model whose checkpoint names neither a set nor the features of one. The
key is an archive_id or a model version, in quotes; the archive wins. Such a model is marked CONFIGURED instead of
ASSUMED. It takes effect when the archive is extracted again: `postval validate FILE.zip`.

`[symbol_classes]` lists exceptions to the rule that a symbol ending in USD, USDT or USDC after at least three
characters is crypto. The values are `equity` and `crypto`.

`[quality.CHECK]` has your own limits of a check of bars; [bar-quality.md](bar-quality.md) lists the checks. `warn` may
not be above `error`, nor a share above 1.

## What a change does to results that are there

- The settings of execution (`capital` to `session` in the table) and `symbol_classes` are part of each fold's digest.
  After a change, the next run over a model computes its folds again and replaces the rows.
- The limits of grades and decisions (`good_positive_share` and the four below it) count from the next run on: what is
  decided stays as it is until its folds change, or `postval backfill` or the UI runs it again.
- Thresholds, `feature_sets`, `default_activation` and `config_prefixes` count when an archive is extracted and gated
  again: `postval validate FILE.zip`.
- The limits of `quality` count at the next load of bars.
- `decision_policy` only chooses which of the recorded decisions is printed and staged.

## Set by postval itself

`DAGSTER_HOME` is always the folder `dagster` in the data directory. Where it is started in a folder with a
`workspace.yaml`, `postval up` also writes a `.env` there (ignored by git), so that a plain `dagster dev` opens the
same instance. A `.env` of your own is left alone.
"""
)


def settings_page() -> str:
    """Every setting, and how a value is found."""
    rows = [
        f"| `{name}` | `POSTVAL_{name.upper()}` | {_default(field)} | {_cell(field.description or '')} |"
        for name, field in Settings.model_fields.items()
    ]
    return _SETTINGS_PAGE.substitute(
        command=_COMMAND,
        settings="\n".join(rows),
        example=EXAMPLE,
        built_in=" and ".join(f"`{name}`" for name in THRESHOLD_SETS),
    )


def features_page() -> str:
    """The market features, the account features, and the sets made of them."""
    account = REFERENCE_SETS[-1].account_features
    sets = [
        f"| `{s.name}` version {s.version} | {len(s.market_features)} | {_codes(s.account_features)} | {s.n_features} |"
        for s in REFERENCE_SETS
    ]
    families: list[str] = []
    for family in FeatureFamily:
        numbered = [(i, s) for i, s in enumerate(REFERENCE_SPECS, start=1) if s.family is family]
        title = family.value.replace("_", " ").capitalize()
        families += ["", f"## {title} ({len(numbered)})", ""]
        families += ["| | feature | formula | look-back | range |", "|---|---|---|---|---|"]
        families += [
            f"| {i} | `{s.name}` | {_cell(s.formula)} | {s.look_back} | {s.minimum:g} .. {s.maximum:g} |"
            for i, s in numbered
        ]
    noted = [s for s in REFERENCE_SPECS if s.note]
    return FEATURES_PAGE.substitute(
        command=_COMMAND,
        lane_bars=LANE_BARS,
        tie=f"{TIE:g}",
        gap=f"{GAP - 1.0:.0%}",
        behaviours="\n".join(_behaviour_row(b) for b in measure_behaviours()),
        notes="\n".join(f"- `{s.name}`: {s.note}." for s in noted),
        n_features=len(REFERENCE_SPECS),
        sets="\n".join(sets),
        look_back=max(spec.look_back for spec in REFERENCE_SPECS),
        flat=f"{FLAT:g}",
        regimes=", ".join(markov.REGIMES),
        means=_numbers(markov.MEANS),
        spreads=_numbers(markov.SPREADS),
        stay=f"{markov.STAY:g}",
        filter_bars=markov.FILTER_BARS,
        families="\n".join(families[1:]),
        n_account=len(account),
        account=_codes(account),
    )


def _behaviour_row(b: Behaviour) -> str:
    if b.is_clock:
        return f"| `{b.spec.name}` | clock | same | clock | clock | 0 |"
    volume = "same"
    if b.untraded is not None or b.untraded_bar is not None:
        volume = " / ".join("same" if v is None else _short(v) for v in (b.untraded, b.untraded_bar))
    cells = [
        _short(b.flat),
        volume,
        _passage(b.border) if b.border.n_bars else "same",
        _passage(b.gap) if b.gap.n_bars else "same",
        str(b.gap.n_bars),
    ]
    return f"| `{b.spec.name}` | {' | '.join(cells)} |"


def _passage(passage: Passage) -> str:
    return ", ".join(_short(v) for v in (passage.before, passage.first, passage.second))


def _short(value: float) -> str:
    """Four decimals without trailing zeros, and no minus before a zero."""
    return f"{round(value, 4) + 0.0:.4f}".rstrip("0").rstrip(".")


def write_pages(folder: Path) -> list[Path]:
    """Write every page into a folder; the files written."""
    folder.mkdir(parents=True, exist_ok=True)
    written = []
    for name, text in pages().items():
        path = folder / name
        path.write_text(text, encoding="utf-8", newline="\n")
        written.append(path)
    return written


def _column_table(columns: Sequence[Column]) -> list[str]:
    rows = [f"| `{c.name}` | {c.type} | {_cell(c.meaning)} |" for c in columns]
    return ["| column | type | meaning |", "|---|---|---|", *rows]


def _default(field: FieldInfo) -> str:
    value: Any = field.get_default(call_default_factory=True)
    if isinstance(value, Path) and value.is_relative_to(REPOSITORY):
        return f"`{value.relative_to(REPOSITORY).as_posix()}` of the checkout"
    if value is None or value == {}:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, tuple):
        return f"`{','.join(str(v) for v in value)}`"
    return f"`{value:g}`" if isinstance(value, float) and value < 1e6 else f"`{value}`"


def _codes(names: Sequence[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _numbers(values: Sequence[float]) -> str:
    return "(" + ", ".join(f"{value:g}" for value in values) + ")"


def _cell(text: str) -> str:
    """Text inside a table's cell: a bar would end it."""
    return text.replace("|", "\\|")


def main(arguments: Sequence[str] | None = None) -> None:
    """Write the pages into the folder that the command line names."""
    parser = argparse.ArgumentParser(description="Writes tables.md, settings.md and features.md.")
    parser.add_argument("folder", type=Path, help="usually docs")
    write_pages(parser.parse_args(arguments).folder)


if __name__ == "__main__":
    main()
