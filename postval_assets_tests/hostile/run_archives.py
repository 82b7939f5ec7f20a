"""A hostile archive through the real intake, under the canary: looks at the inbox, then extraction.

Here: one case's way, and what is gathered of what was said. Not here: the cases (``*_cases.py``), or the table.
"""

from __future__ import annotations

import functools
import logging
import re
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from postval_assets.core.failures import Rejected
from postval_assets.io.inbox import FileHasher, inspect_archive
from postval_assets.io.warehouse import Warehouse
from postval_assets.pipeline.archives import Delivery, archive_limits
from postval_assets.pipeline.archives import Outcome as DeliveryOutcome
from postval_assets.pipeline.extraction import extract_models
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.pipeline.reception import receive
from postval_assets.report.text import table
from postval_assets.settings import Settings
from postval_assets_tests.hostile import (
    bomb_cases,
    large_cases,
    name_cases,
    summary_cases,
    symbol_cases,
    zip_cases,
)
from postval_assets_tests.hostile.canary import watch
from postval_assets_tests.hostile.cases import Case, Outcome, Suite, Verdict

MEMORY_BOUND_BYTES = 512 * 2**20
# The largest honest thing in the cases is a summary of 15 MB; an archive is moved, not copied.
DISK_BOUND_BYTES = 64 * 2**20

_START = datetime(2025, 2, 2, tzinfo=UTC)
# Everything that may lie in a data directory after an intake.
_EXPECTED_FILES = re.compile(
    r"archives/[0-9a-f]{64}\.zip|archives/rejected/[^/]+|inbox/[^/]+|scratch|postval\.duckdb"
    r"|weights/[0-9a-f]{2}/[0-9a-f]{64}\.safetensors|warehouse/.+|\w+\.lock"
)
_STEERING = re.compile(r"[\x00-\x08\x0a-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
# What people and programs are shown, by table.
_SHOWN = {
    "training_archives": "archive_id, file_name, status, reason, stored_path, models::VARCHAR AS models",
    "archive_deliveries": "archive_id, file_name, outcome, reason",
    "extracted_models": "archive_id, symbol, timeframe, entry_name, weights_path, status, reason",
    "training_claims": "symbol, timeframe, problem AS reason",
}

Tables = Mapping[str, Sequence[Mapping[str, Any]]]


@dataclass(frozen=True)
class _Intake:
    """What came of one file.

    Attributes:
        outcome: of the whole.
        said: reasons.
        shown: every text that ended in a table or in a log.
        contradiction: where judging the file at once came to something else than the inbox.
    """

    outcome: Outcome
    said: tuple[str, ...]
    shown: tuple[str, ...]
    contradiction: str | None


def judge(case: Case, folder: Path) -> Verdict:
    """Run one case; the folder is empty and the case's own."""
    built = folder / "built"
    built.mkdir()
    data = folder / "data"
    platform = _platform(data, case)
    sent = case.build(built)
    shutil.copyfile(sent, platform.settings.inbox / sent.name)
    _warm_up()
    observed = watch(
        lambda: _take_in(platform, sent.name),
        sandbox=data,
        memory_bound_bytes=MEMORY_BOUND_BYTES,
        disk_bound_bytes=DISK_BOUND_BYTES,
    )
    noticed = [*observed.noticed, *_stray_files(data)]
    found = observed.result
    if found is None:
        error = observed.error
        return Verdict(Outcome.FAILED, (f"{type(error).__name__}: {error!a}",), tuple(noticed))
    noticed += [
        f"text that acts where it is shown: {text[:200]!a}" for text in found.shown if _STEERING.search(text)
    ]
    if found.contradiction:
        noticed.append(found.contradiction)
    return Verdict(
        found.outcome, found.said, tuple(noticed), observed.peak_memory_bytes, observed.written_bytes
    )


def _platform(data: Path, case: Case) -> Platform:
    """A data directory with a warehouse, bars of nothing, and a clock that stands."""
    settings = Settings(
        data_dir=data,
        bars_source=f"parquet:{data}",
        device="cpu",
        workers=1,
        # A damaged file looks like a slow copy; nobody waits for it here.
        unreadable_after_minutes=0,
        **case.settings,
    )
    platform = open_platform(settings, now=_Clock())
    settings.inbox.mkdir(parents=True)
    path = platform.warehouse.path
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_empty_warehouse())
    return platform


class _Clock:
    """Stands still until it is set on."""

    def __init__(self) -> None:
        self.at = _START

    def __call__(self) -> datetime:
        self.at += timedelta(milliseconds=1)
        return self.at


def _take_in(platform: Platform, file_name: str) -> _Intake:
    with _logged() as lines:
        at_once = _inspected(platform, file_name)
        deliveries, waiting = _looks(platform)
        for delivery in deliveries:
            if delivery.outcome is DeliveryOutcome.ACCEPTED and delivery.symbols:
                archives = dict.fromkeys(delivery.symbols, delivery.archive_id)
                extract_models(platform, archives, run_id="extract")
    tables = _tables(platform.warehouse.path)
    rows = [row for found in tables.values() for row in found]
    shown = [value for row in rows for value in row.values() if isinstance(value, str)]
    # As `postval sql` prints it.
    shown += [line for row in rows for line in table(list(row), [list(row.values())]).splitlines()]
    outcome, said = _outcome(tables, deliveries, waiting)
    contradiction = None
    if (at_once is not None) != (outcome is Outcome.REFUSED):
        contradiction = f"judged at once: {at_once}; by the inbox: {outcome}"
    return _Intake(outcome, tuple(said), (*shown, *lines, *waiting), contradiction)


def _inspected(platform: Platform, file_name: str) -> str | None:
    """Why ``postval validate`` would refuse the file; None where it would not."""
    try:
        inspect_archive(platform.settings.inbox / file_name, archive_limits(platform))
    except Rejected as error:
        return str(error)
    return None


def _looks(platform: Platform) -> tuple[list[Delivery], list[str]]:
    """Looks at the inbox until the file is decided on."""
    clock, hasher = platform.now, FileHasher()
    assert isinstance(clock, _Clock)
    cursor, found = None, []
    waiting: Sequence[str] = ()
    for _ in range(3):
        clock.at += timedelta(seconds=30)
        reception = receive(platform, cursor, run_id="look", hasher=hasher, busy=lambda _: False)
        cursor = reception.cursor
        found += reception.deliveries
        waiting = [w.reason if w.name in w.reason else f"{w.name}: {w.reason}" for w in reception.waiting]
        if found:
            break
    return found, list(waiting)


def _outcome(
    tables: Tables, deliveries: Sequence[Delivery], waiting: Sequence[str]
) -> tuple[Outcome, list[str]]:
    if not deliveries:
        # A file that no table can hold stays where it is until somebody renames it.
        renamed = bool(waiting) and all("rename it" in reason for reason in waiting)
        return (Outcome.REFUSED if renamed else Outcome.FAILED), list(waiting)
    (delivery,) = deliveries
    if delivery.outcome is DeliveryOutcome.REJECTED:
        return Outcome.REFUSED, [delivery.reason or ""]
    models = tables["extracted_models"]
    bad = [
        *(m for m in models if m["status"] != "OK"),
        *(c for c in tables["training_claims"] if c["reason"]),
    ]
    problems = [f"{row['symbol']}: {row['reason']}" for row in bad]
    notes = [row["reason"] for row in tables["training_archives"] if row["reason"]]
    if not problems and not models:
        return Outcome.FAILED, [f"nothing was extracted from {delivery}"]
    return (Outcome.QUARANTINED if problems else Outcome.ACCEPTED), [*problems, *notes]


def _tables(warehouse: Path) -> Tables:
    """Every text that is shown, read in one go: opening the warehouse is what takes the time."""
    import duckdb

    found: dict[str, list[dict[str, Any]]] = {}
    with duckdb.connect(str(warehouse), read_only=True) as connection:
        for name, columns in _SHOWN.items():
            asked = connection.execute(f"SELECT {columns} FROM {name}")  # noqa: S608 - constants
            names = [column[0] for column in asked.description]
            found[name] = [dict(zip(names, row, strict=True)) for row in asked.fetchall()]
    return found


@contextmanager
def _logged() -> Iterator[list[str]]:
    """Everything that is logged meanwhile, one line each."""
    lines: list[str] = []

    class _Keep(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    keeper, logger = _Keep(), logging.getLogger("postval")
    logger.addHandler(keeper)
    try:
        yield lines
    finally:
        logger.removeHandler(keeper)


def _stray_files(data: Path) -> list[str]:
    found = [path.relative_to(data).as_posix() for path in data.rglob("*")]
    folders = {path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_dir()}
    return [
        f"a stray file in the data directory: {name!a}"
        for name in found
        if name not in folders and not _EXPECTED_FILES.fullmatch(name)
    ]


@functools.cache
def _empty_warehouse() -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        empty = Warehouse(Path(folder) / "warehouse.duckdb")
        empty.migrate(now=_START)
        return empty.path.read_bytes()


@functools.cache
def _warm_up() -> None:
    """Everything is loaded once outside of a watch: a first import opens libraries and takes memory."""
    with tempfile.TemporaryDirectory() as name:
        honest = next(case for case in symbol_cases.CASES if case.name == "a zip called as it should be")
        folder = Path(name)
        platform = _platform(folder / "data", honest)
        sent = honest.build(folder)
        shutil.copyfile(sent, platform.settings.inbox / sent.name)
        found: Any = _take_in(platform, sent.name)
        assert found.outcome is Outcome.ACCEPTED, found.said


SUITE = Suite(
    cases=(
        *name_cases.CASES,
        *bomb_cases.CASES,
        *zip_cases.CASES,
        *large_cases.CASES,
        *summary_cases.CASES,
        *symbol_cases.CASES,
    ),
    judge=judge,
)
