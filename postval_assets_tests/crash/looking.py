"""What is in a data directory, so that two of them can be compared, and what must never be there.

Here: reading. Not here: what is compared with what (trials.py).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

from postval_assets.commands.home import open_instance
from postval_assets.core.failures import PostvalError
from postval_assets.core.folds import plan_named
from postval_assets.defs.partitions import fold_partition_key
from postval_assets.defs.run_records import UNFINISHED, runs
from postval_assets.io.dictionary import TABLES
from postval_assets.io.replica import wal_of
from postval_assets.io.warehouse import query_replica
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.settings import Settings

# About the database, not about models.
_INTERNAL = {"schema_versions", "revision", "publication"}
# A log of what was delivered: who delivers twice is in it twice (see ``_delivery_problems``).
_LOG = "archive_deliveries"
# When and by which run a row was written.
_STAMPS = {"run_id", "created_at", "revision"}
_ALSO_STAMPS = {
    "training_archives": {"received_at"},
    # What the newest load changed: nothing, where a killed one had brought the bars already.
    "bar_loads": {"n_changed"},
}
_CHECKED_AT = re.compile(r'"checked_at": "[^"]*"')
# Symbol partitions, by the table that they stand for.
_SYMBOL_TABLES = (
    "extracted_models",
    "gating_scores",
    "bars",
    "walk_forward_summaries",
    "deployment_decisions",
)


Ask = Callable[[str], list[dict[str, Any]]]


@dataclass(frozen=True)
class Seen:
    """A data directory at rest.

    Attributes:
        tables: rows of each table as sorted lines, without what says when and by whom they were written.
        files: SHA-256 by path of weights and archives.
        materialized: partitions of each asset that Dagster calls done.
        problems: what must never be, at any instant.
        left_over: what a killed process leaves, and the next one has to clear away.
    """

    tables: Mapping[str, Sequence[str]]
    files: Mapping[str, str]
    materialized: Mapping[str, Sequence[str]]
    problems: Sequence[str]
    left_over: Sequence[str]


def look(settings: Settings) -> Seen:
    """Everything there is to compare; a directory without a warehouse is empty. Nobody else may be working in it."""
    platform = open_platform(settings)
    # Opening it makes one: where Dagster was not used, there is nothing to be seen of it.
    instance = open_instance(settings) if (settings.data_dir / "dagster").is_dir() else None
    assets = ("training_archives", *_SYMBOL_TABLES, "fold_results", "archive_evidence")
    materialized = {
        asset: sorted(instance.get_materialized_partitions(dg.AssetKey(asset))) if instance else []
        for asset in assets
    }
    tables: dict[str, list[str]] = {}
    problems: list[str] = []
    rows_of: dict[str, set[str]] = {asset: set() for asset in materialized}
    if platform.warehouse.path.is_file():
        with _asking(platform.warehouse.path) as ask:
            names = _decision_names(ask)
            compared = [name for name in TABLES if name not in _INTERNAL and name != _LOG]
            tables = {name: _lines(ask, name, names) for name in compared}
            problems += _delivery_problems(ask)
            problems += _weights_problems(ask, platform)
            rows_of = _partitions_with_rows(ask)
    problems += [
        f"{asset} is done for {missing}, and has no row of it"
        for asset, done in materialized.items()
        if (missing := sorted(set(done) - rows_of[asset]))
    ]
    problems += _replica_problems(platform)
    return Seen(
        tables=tables,
        files=dict(_files(settings.data_dir)),
        materialized=materialized,
        problems=problems,
        left_over=[*_left_over(platform), *(_unfinished(instance) if instance else ())],
    )


@contextmanager
def _asking(path: Path) -> Iterator[Ask]:
    """One connection for all questions, as a crash left the file, with its log."""
    with duckdb.connect(path) as connection:
        connection.execute("SET TimeZone = 'UTC'")

        def ask(sql: str) -> list[dict[str, Any]]:
            found = connection.execute(sql)
            names = [column[0] for column in found.description]
            return [dict(zip(names, row, strict=True)) for row in found.fetchall()]

        yield ask


def differences(found: Seen, expected: Seen) -> list[str]:
    """How a directory differs from the undisturbed one, in words."""
    said = []
    for name in sorted({*found.tables, *expected.tables}):
        here, there = found.tables.get(name, ()), expected.tables.get(name, ())
        more, less = sorted({*here} - {*there}), sorted({*there} - {*here})
        if more or less or len(here) != len(there):
            example = f": {more[0][:300]} instead of {less[0][:300]}" if more and less else ""
            said.append(f"{name}: {len(here)} rows for {len(there)}, {len(more)} others{example}")
    for what, here, there in (
        ("files", found.files, expected.files),
        ("materialized", found.materialized, expected.materialized),
    ):
        for key in sorted({*here, *there}):
            if here.get(key) != there.get(key):
                said.append(f"{what} {key}: {here.get(key)} instead of {there.get(key)}")  # noqa: PERF401
    return said


def _lines(ask: Ask, table: str, names: Mapping[str, str]) -> list[str]:
    """The rows of a table as text, what says when they were written taken out."""
    hidden = _STAMPS | _ALSO_STAMPS.get(table, set())
    kept = [{k: v for k, v in row.items() if k not in hidden} for row in ask(f'SELECT * FROM "{table}"')]
    for row in kept:
        if "decision_id" in row:
            row["decision_id"] = names.get(row["decision_id"], "of no decision")
        if table == "decision_inputs":
            row["value"] = _CHECKED_AT.sub("", row["value"] or "")
        if table == "bar_quality":
            row |= {k: round(v, 2) for k, v in row.items() if isinstance(v, float)}
    return sorted(json.dumps(row, default=str) for row in kept)


def _decision_names(ask: Ask) -> dict[str, str]:
    """What a decision is about, by its id, into which the moment goes that it was made at."""
    rows = ask(
        "SELECT decision_id, archive_id, symbol, timeframe, plan, as_of, policy FROM deployment_decisions"
    )
    return {r.pop("decision_id"): " ".join(str(v) for v in r.values()) for r in rows}


def _delivery_problems(ask: Ask) -> Iterator[str]:
    """An archive is accepted once; a second delivery is a further attempt or a duplicate."""
    known = {r["archive_id"] for r in ask("SELECT archive_id FROM training_archives")}
    by_archive: dict[str, list[tuple[str, int]]] = {}
    for r in ask(f"SELECT archive_id, outcome, attempt FROM {_LOG} ORDER BY rowid"):
        by_archive.setdefault(r["archive_id"], []).append((r["outcome"], r["attempt"]))
    if known != set(by_archive):
        yield f"deliveries of {sorted(by_archive)}, archives {sorted(known)}"
    for archive_id, made in by_archive.items():
        outcomes = [outcome for outcome, _ in made]
        attempts = [attempt for outcome, attempt in made if outcome != "DUPLICATE"]
        if outcomes[0] != "ACCEPTED" or "ACCEPTED" in outcomes[1:]:
            yield f"{archive_id} was delivered as {outcomes}"
        if attempts != list(range(1, len(attempts) + 1)):
            yield f"{archive_id} has the attempts {attempts}"


def _weights_problems(ask: Ask, platform: Platform) -> Iterator[str]:
    """Every usable model's weights are there, whole."""
    for r in ask("SELECT symbol, model_sha256 FROM extracted_models WHERE status = 'OK'"):
        try:
            platform.models.verify(r["model_sha256"])
            platform.models.open(r["model_sha256"])
        except PostvalError as error:
            yield f"{r['symbol']} has a row, and its weights: {error}"


def _partitions_with_rows(ask: Ask) -> dict[str, set[str]]:
    """Partitions of each asset that have a row in its table."""

    def column(table: str, name: str) -> set[str]:
        return {r[name] for r in ask(f'SELECT DISTINCT "{name}" FROM "{table}"')}

    rows = {
        "training_archives": column("training_archives", "archive_id"),
        "archive_evidence": column("archive_evidence", "archive_id"),
        "fold_results": {
            fold_partition_key(r["symbol"], plan_named(r["plan"]).fold_keys()[r["fold"] - 1])
            for r in ask("SELECT symbol, plan, fold FROM fold_results")
        },
        **{table: column(table, "symbol") for table in _SYMBOL_TABLES},
    }
    # A symbol without bars, or without folds, is done as well: what there is to say of it is elsewhere.
    rows["bars"] |= column("bar_loads", "symbol")
    rows["walk_forward_summaries"] |= column("extracted_models", "symbol")
    return rows


def _replica_problems(platform: Platform) -> Iterator[str]:
    """What people read is there whole, or not at all."""
    if not platform.replica.exists():
        return
    try:
        _, rows = query_replica(platform.replica, "SELECT count(*) FROM latest_decisions")
        query_replica(platform.replica, "SELECT * FROM fold_results")
        if len(rows) != 1:
            yield f"the replica answers {rows}"
    except PostvalError as error:
        yield f"the replica cannot be read: {error}"


def replica_is_current(settings: Settings) -> bool:
    """Whether people read what the pipeline has."""
    platform = open_platform(settings)
    count = "SELECT count(*) AS n, count(DISTINCT archive_id) AS a FROM deployment_decisions"
    [row] = platform.warehouse.rows(count)
    return query_replica(platform.replica, count)[1] == [tuple(row.values())]


def _files(data_dir: Path) -> Iterator[tuple[str, str]]:
    for folder, pattern in (("weights", "*/*.safetensors"), ("archives", "*.zip")):
        for path in sorted((data_dir / folder).glob(pattern)):
            with path.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            name = path.relative_to(data_dir).as_posix()
            yield name, digest if path.stem == digest else f"{digest}, under another name"


def _left_over(platform: Platform) -> Iterator[str]:
    data_dir = platform.settings.data_dir
    found = [*platform.scratch.glob("*"), *data_dir.rglob("*.part"), *data_dir.glob("*.publishing*")]
    found += [path for path in (wal_of(platform.warehouse.path), wal_of(platform.replica)) if path.exists()]
    for path in found:
        yield path.relative_to(data_dir).as_posix()


def _unfinished(instance: dg.DagsterInstance) -> Iterator[str]:
    for run in runs(instance, UNFINISHED):
        yield f"run {run.run_id} is {run.status.value}"
