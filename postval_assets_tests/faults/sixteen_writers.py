"""Many processes that write partitions at once, while people have the replica open and it is published.

``python -m postval_assets_tests.faults.sixteen_writers --transactions 50`` prints transactions, failures, lost rows and
waits. Here: the load and its count. Not here: what is asserted in every test run (test_sixteen_writers.py).
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import duckdb

from postval_assets.core.failures import PostvalError
from postval_assets.io.warehouse import Append, PublicationStatus, Replace, Warehouse, query_replica

SPAWN = multiprocessing.get_context("spawn")
NOW = datetime(2025, 3, 1, tzinfo=UTC)
ROWS = 200
_MODEL = {"archive_id": "20250301_000000", "timeframe": "1Hour", "as_of": NOW, "plan": "180d", "fold": 1}


@dataclass(frozen=True)
class Load:
    """What came of it.

    Attributes:
        transactions: that were asked for.
        failures: of them, with their messages.
        lost_rows: rows that should be there, or are there twice or with old values.
        waits_s: from asking for a transaction to its end, each.
        publications, queries: how many were made meanwhile.
        troubles: what publishing, reading or writing the replica ran into.
        seconds: wall clock.
    """

    transactions: int
    failures: tuple[str, ...]
    lost_rows: int
    waits_s: tuple[float, ...]
    publications: int
    queries: int
    troubles: tuple[str, ...]
    seconds: float

    def __str__(self) -> str:
        waits = sorted(self.waits_s)
        return "\n".join(
            [
                f"transactions {self.transactions} in {self.seconds:.1f} s",
                f"failures {len(self.failures)}, lost rows {self.lost_rows}",
                f"longest wait {waits[-1]:.2f} s, median {statistics.median(waits):.2f} s",
                f"meanwhile {self.publications} publications, {self.queries} queries, {len(self.troubles)} troubles",
                *self.failures[:5],
                *self.troubles[:5],
            ]
        )


def _rows(writer: int, transaction: int) -> list[dict[str, object]]:
    rows = [
        {**_MODEL, "symbol": f"W{writer}", "ts": NOW.replace(year=2000 + n // 12, month=1 + n % 12)}
        for n in range(ROWS)
    ]
    return [{**row, "equity": float(transaction)} for row in rows]


def _write(path: Path, writer: int, transactions: int, start: Event, found: Any) -> None:
    """Replace the writer's own partition and log it, again and again: both or none of it."""
    warehouse = Warehouse(path)
    start.wait()
    waits, failures = [], []
    for n in range(transactions):
        changes = [
            Replace("equity_curves", [{**_MODEL, "symbol": f"W{writer}"}], _rows(writer, n)),
            Append("archive_deliveries", [{"sha256": f"W{writer}", "attempt": n}]),
        ]
        began = time.monotonic()
        try:
            warehouse.write(changes, run_id=f"W{writer}", now=NOW)
        except Exception as error:  # noqa: BLE001 - every kind of failure counts
            failures.append(f"{type(error).__name__}: {error}")
        waits.append(time.monotonic() - began)
    found.put((waits, failures))


def _publish(path: Path, replica: Path, start: Event, stop: Event, found: Any) -> None:
    """As the queue sensor does it, only oftener."""
    warehouse = Warehouse(path)
    start.wait()
    n, troubles = 0, []
    while not stop.is_set():
        try:
            n += warehouse.publish(replica).status is PublicationStatus.PUBLISHED
        except Exception as error:  # noqa: BLE001
            troubles.append(f"publication: {type(error).__name__}: {error}")
        stop.wait(0.2)
    found.put((n, 0, troubles))


def _ask(replica: Path, start: Event, stop: Event, found: Any) -> None:
    """As ``postval sql``: the count never goes back, and each answer is of one state of the warehouse."""
    start.wait()
    n, last, troubles = 0, 0, []
    while not stop.is_set():
        try:
            _, [(logged, published)] = query_replica(
                replica,
                "SELECT (SELECT count(*) FROM archive_deliveries), (SELECT published_at FROM published_at)",
            )
        except PostvalError as error:
            if replica.exists():
                troubles.append(f"query: {error}")
            continue
        if not isinstance(logged, int) or logged < last:
            troubles.append(f"query: {last} deliveries, then {logged} in the copy of {published}")
            continue
        n, last = n + 1, logged
        stop.wait(0.1)
    found.put((0, n, troubles))


def _keep_open(replica: Path, read_only: bool, start: Event, stop: Event, found: Any) -> None:
    """A person with a client: reads one copy for long, or insists on writing and leaves a log behind."""
    start.wait()
    n, troubles = 0, []
    while not stop.is_set():
        try:
            if not read_only:
                replica.chmod(0o644)
            connection = duckdb.connect(replica, read_only=read_only)
        except (duckdb.Error, OSError):
            stop.wait(
                0.05
            )  # not there yet, being exchanged, or open in the other mode: the person tries again
            continue
        try:
            first = connection.execute("SELECT count(*) FROM archive_deliveries").fetchall()
            if not read_only:
                connection.execute("CREATE OR REPLACE TABLE scribble AS SELECT * FROM range(1000)")
            stop.wait(0.3)
            if connection.execute("SELECT count(*) FROM archive_deliveries").fetchall() != first:
                troubles.append("an open session saw its copy change")
            n += 1
        except duckdb.Error as error:
            troubles.append(f"session: {error}")
        finally:
            if read_only or stop.is_set():
                connection.close()
            else:
                del connection
    found.put((0, n, troubles))
    found.close()
    found.join_thread()
    if not read_only:
        os._exit(0)  # without the checkpoint of a tidy close: the log stays


def run(folder: Path, *, writers: int, transactions: int) -> Load:
    """All of them at once on a fresh warehouse in ``folder``."""
    path, replica = folder / "warehouse" / "warehouse.duckdb", folder / "postval.duckdb"
    warehouse = Warehouse(path)
    warehouse.migrate(now=NOW)
    warehouse.publish(replica)
    start, stop = SPAWN.Event(), SPAWN.Event()
    written, seen = SPAWN.Queue(), SPAWN.Queue()
    at_work = [
        SPAWN.Process(target=_write, args=(path, writer, transactions, start, written))
        for writer in range(writers)
    ]
    beside: list[tuple[Callable[..., None], tuple[object, ...]]] = [
        (_publish, (path, replica)),
        (_ask, (replica,)),
        (_keep_open, (replica, True)),
        (_keep_open, (replica, False)),
    ]
    people = [SPAWN.Process(target=target, args=(*args, start, stop, seen)) for target, args in beside]
    for process in (*at_work, *people):
        process.start()
    began = time.monotonic()
    start.set()
    results = [written.get() for _ in at_work]
    seconds = time.monotonic() - began
    stop.set()
    others = [seen.get() for _ in people]
    for process in (*at_work, *people):
        process.join()
    failures = [failure for _, failed in results for failure in failed]
    return Load(
        transactions=writers * transactions,
        failures=tuple(failures),
        lost_rows=_lost(warehouse, writers, transactions),
        waits_s=tuple(wait for waits, _ in results for wait in waits),
        publications=sum(n for n, _, _ in others),
        queries=sum(n for _, n, _ in others),
        troubles=tuple(trouble for *_, troubles in others for trouble in troubles),
        seconds=seconds,
    )


def _lost(warehouse: Warehouse, writers: int, transactions: int) -> int:
    """Rows that differ from what an undisturbed run leaves."""
    logged = {
        (r["sha256"], r["attempt"]) for r in warehouse.rows("SELECT sha256, attempt FROM archive_deliveries")
    }
    [n_logged] = warehouse.rows("SELECT count(*) AS n FROM archive_deliveries")
    wanted = {(f"W{w}", n) for w in range(writers) for n in range(transactions)}
    curves = {
        (r["symbol"], r["ts"]): r["equity"]
        for r in warehouse.rows("SELECT symbol, ts, equity FROM equity_curves")
    }
    [n_curves] = warehouse.rows("SELECT count(*) AS n FROM equity_curves")
    expected = {
        (f"W{w}", row["ts"]): float(transactions - 1)
        for w in range(writers)
        for row in _rows(w, transactions - 1)
    }
    [revision] = warehouse.rows("SELECT revision FROM revision")
    return (
        len(logged ^ wanted)
        + n_logged["n"]
        - len(logged)
        + sum(curves.get(key) != value for key, value in expected.items())
        + n_curves["n"]
        - len(curves)
        + len(set(curves) - set(expected))
        + abs(revision["revision"] - 1 - writers * transactions)
    )


def main() -> int:
    """The figures, by hand."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--writers", type=int, default=16)
    parser.add_argument("--transactions", type=int, default=50, help="of each writer")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="postval-writers-") as folder:
        load = run(Path(folder), writers=arguments.writers, transactions=arguments.transactions)
    print(load)  # noqa: T201 - what it is for
    return 1 if load.failures or load.lost_rows or load.troubles else 0


if __name__ == "__main__":
    sys.exit(main())
