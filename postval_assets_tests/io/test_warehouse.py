from __future__ import annotations

import math
import multiprocessing
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from multiprocessing.synchronize import Event
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import pytest
from filelock import FileLock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.warehouse import Append, Change, Merge, Replace, Update, Warehouse

NOW = datetime(2024, 9, 1, 12, tzinfo=UTC)
AS_OF = datetime(2024, 8, 31, tzinfo=UTC)
ARCHIVE = "20240801_000000"
MODEL = {"archive_id": ARCHIVE, "symbol": "AAPL", "timeframe": "1Hour"}
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse" / "warehouse.duckdb")


def write(warehouse: Warehouse, *changes: Change, run_id: str = "run-1") -> dict[str, int]:
    return warehouse.write(changes, run_id=run_id, now=NOW)


def curve(symbol: str, n: int, equity: float = 100_000.0) -> pd.DataFrame:
    ts = pd.date_range("2024-01-01", periods=n, freq="1h", tz="UTC", unit="us")
    keys = {
        "archive_id": ARCHIVE,
        "symbol": symbol,
        "timeframe": "1Hour",
        "as_of": AS_OF,
        "plan": "180d",
        "fold": 1,
    }
    return pd.DataFrame({**keys, "ts": ts, "equity": equity, "position": 0.0, "action": 0})


def bar(day: int, close: float = 1.0, symbol: str = "AAPL") -> dict[str, object]:
    return {"symbol": symbol, "timeframe": "1Hour", "ts": NOW + timedelta(days=day), "close": close}


def test_a_row_comes_back_as_it_was_written(warehouse: Warehouse) -> None:
    row = {**MODEL, "fitness": 0.5, "flags": ["LOW_PF", "UNSTABLE_TRAINING"], "use_checkpoint": True}
    row |= {"checkpoint_index": np.int64(3), "profit_factor": math.nan}
    assert write(warehouse, Append("gating_scores", [row])) == {"gating_scores": 1}
    [got] = warehouse.rows("SELECT * FROM gating_scores WHERE symbol = ?", ["AAPL"])
    assert {name: value for name, value in got.items() if value is not None} == {
        **MODEL,
        "fitness": 0.5,
        "flags": ["LOW_PF", "UNSTABLE_TRAINING"],
        "use_checkpoint": True,
        "checkpoint_index": 3,
        "run_id": "run-1",
        "created_at": NOW,
    }
    assert got["created_at"].utcoffset() == timedelta(0)  # type: ignore[attr-defined]
    assert got["profit_factor"] is None


def test_a_frame_has_plain_columns(warehouse: Warehouse) -> None:
    write(warehouse, Append("equity_curves", curve("AAPL", 3)), Append("bars", [bar(1), bar(2)]))
    frame = warehouse.frame("SELECT ts, equity, action FROM equity_curves ORDER BY ts")
    assert list(frame.dtypes.astype(str)) == ["datetime64[us, UTC]", "float64", "int32"]
    assert frame["ts"].to_list() == [datetime(2024, 1, 1, hour, tzinfo=UTC) for hour in range(3)]
    assert np.isnan(warehouse.frame("SELECT volume FROM bars")["volume"]).all()


def test_writing_a_partition_twice_leaves_one_copy(warehouse: Warehouse) -> None:
    change = Replace("equity_curves", [MODEL], curve("AAPL", 24))
    write(warehouse, Append("equity_curves", curve("MSFT", 5)))
    for run in ("run-1", "run-2"):
        assert write(warehouse, change, run_id=run) == {"equity_curves": 24}
    counted = warehouse.rows(
        "SELECT symbol, count(*) AS n, max(run_id) AS run FROM equity_curves GROUP BY 1 ORDER BY 1"
    )
    assert counted == [
        {"symbol": "AAPL", "n": 24, "run": "run-2"},
        {"symbol": "MSFT", "n": 5, "run": "run-1"},
    ]


def test_a_partition_can_be_replaced_twice_in_one_transaction(warehouse: Warehouse) -> None:
    first, second = (Replace("equity_curves", [MODEL], curve("AAPL", n)) for n in (24, 12))
    assert write(warehouse, first, second) == {"equity_curves": 36}
    assert warehouse.rows("SELECT count(*) AS n FROM equity_curves") == [{"n": 12}]


def test_keys_match_whole_or_in_part_and_none_matches_null(warehouse: Warehouse) -> None:
    rows = [{**MODEL, "symbol": s, "plan": "180d", "as_of": a} for s in "ABC" for a in (None, AS_OF)]
    write(warehouse, Append("walk_forward_summaries", rows))
    write(warehouse, Replace("walk_forward_summaries", [{"symbol": "A", "as_of": None}, {"symbol": "B"}], []))
    left = warehouse.rows(
        "SELECT symbol, as_of FROM walk_forward_summaries ORDER BY symbol, as_of NULLS FIRST"
    )
    assert left == [
        {"symbol": "A", "as_of": AS_OF},
        {"symbol": "C", "as_of": None},
        {"symbol": "C", "as_of": AS_OF},
    ]


def test_an_update_touches_its_rows_and_keeps_their_stamps(warehouse: Warehouse) -> None:
    write(warehouse, Append("training_archives", [{"archive_id": a, "status": "RECEIVED"} for a in "ab"]))
    values = {"status": "COMPLETE", "n_models": 2, "reason": None}
    assert write(warehouse, Update("training_archives", {"archive_id": "a"}, values), run_id="run-2") == {
        "training_archives": 0
    }
    got = warehouse.rows("SELECT archive_id, status, n_models, run_id FROM training_archives ORDER BY 1")
    assert [tuple(row.values()) for row in got] == [
        ("a", "COMPLETE", 2, "run-1"),
        ("b", "RECEIVED", None, "run-1"),
    ]


Bar = st.tuples(st.sampled_from(["AAPL", "MSFT"]), st.integers(0, 5))


@given(batches=st.lists(st.dictionaries(Bar, st.floats(1, 9), min_size=1, max_size=6), max_size=3))
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_merging_bars_is_a_dictionary_update(
    batches: list[dict[tuple[str, int], float]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    warehouse = Warehouse(tmp_path_factory.mktemp("merge") / "w.duckdb")
    expected: dict[tuple[str, int], float] = {}
    for batch in batches:
        expected |= batch
        write(warehouse, Merge("bars", [bar(day, close, symbol) for (symbol, day), close in batch.items()]))
    got = warehouse.rows("SELECT symbol, ts, close FROM bars")
    assert len(got) == len(expected)
    assert {(r["symbol"], (r["ts"] - NOW).days): r["close"] for r in got} == expected  # type: ignore[operator]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (Append("bars", [bar(1), bar(1)]), "bars would hold two rows for symbol=AAPL"),
        (Append("bars", [bar(0)]), "bars would hold two rows for symbol=AAPL"),
        (Append("evaluations", [MODEL]), r"evaluations\.as_of is part of the key"),
        (Append("fold_results", [{**MODEL, "plan": "180d"}]), r"fold_results\.fold is part of the key"),
        (Append("bars", [bar(1, math.inf)]), r"bars\.close has an infinite value"),
        (Append("bars", [bar(1) | {"prize": 1}]), "bars has no column prize"),
        (Replace("bars", [{"simbol": "AAPL"}], []), "bars has no column simbol"),
        (Append("barz", []), "there is no table barz"),
        (Replace("deployment_decisions", [MODEL], []), "deployment_decisions is append-only"),
        (Update("archive_deliveries", {"attempt": 1}, {"attempt": 2}), "archive_deliveries is append-only"),
        (Merge("revision", []), "revision has no key to merge on"),
        (Replace("bars", [{}], []), "an empty key would match the whole table"),
        (Update("bars", {"symbol": "AAPL"}, {"ts": NOW}), "may not change the key"),
    ],
)
def test_a_change_that_fails_takes_the_others_of_its_transaction_with_it(
    warehouse: Warehouse, change: Change, message: str
) -> None:
    write(warehouse, Append("bars", [bar(0)]))
    with pytest.raises(ValueError, match=message):
        write(warehouse, Replace("bars", [{"symbol": "AAPL"}], [bar(0), bar(7)]), change)
    assert warehouse.rows("SELECT ts FROM bars") == [{"ts": NOW}]
    assert warehouse.rows("SELECT revision - 1 AS n FROM revision") == [{"n": 1}]


def test_reading_cannot_write(warehouse: Warehouse) -> None:
    with pytest.raises(duckdb.InvalidInputException, match="read-only"):
        warehouse.rows("INSERT INTO revision VALUES (1, 'x', now())")


def test_two_hundred_thousand_points_are_one_short_transaction(warehouse: Warehouse) -> None:
    symbols = [f"S{i}" for i in range(50)]
    rows = pd.concat([curve(symbol, 4_000) for symbol in symbols])
    keys = [{**MODEL, "symbol": symbol} for symbol in symbols]
    for _ in range(2):
        assert write(warehouse, Replace("equity_curves", keys, rows)) == {"equity_curves": 200_000}
    assert warehouse.rows("SELECT count(*) AS n FROM equity_curves") == [{"n": 200_000}]


# ---- several processes ----


def _write_partitions(path: Path, worker: int, n: int) -> None:
    warehouse = Warehouse(path)
    for i in range(n):
        # each transaction replaces the worker's own partition and logs a row: both or none
        change = Replace(
            "equity_curves", [{**MODEL, "symbol": f"W{worker}"}], curve(f"W{worker}", 10, float(i))
        )
        log = Append("archive_deliveries", [{"sha256": f"W{worker}", "attempt": i}])
        warehouse.write([change, log], run_id=f"W{worker}", now=NOW)


def test_eight_processes_write_without_a_failure_or_a_lost_row(warehouse: Warehouse) -> None:
    workers = [SPAWN.Process(target=_write_partitions, args=(warehouse.path, w, 25)) for w in range(8)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert [worker.exitcode for worker in workers] == [0] * 8
    logged = warehouse.rows("SELECT sha256, attempt FROM archive_deliveries")
    assert {(row["sha256"], row["attempt"]) for row in logged} == {
        (f"W{w}", i) for w in range(8) for i in range(25)
    }
    assert len(logged) == 200
    curves = warehouse.rows(
        "SELECT count(*) AS n, min(equity) AS low, max(equity) AS high FROM equity_curves"
    )
    assert curves == [{"n": 80, "low": 24.0, "high": 24.0}]
    # the migration that the first of them made bumped it once
    assert warehouse.rows("SELECT revision FROM revision") == [{"revision": 201}]


def test_threads_of_one_process_take_turns_too(warehouse: Warehouse) -> None:
    def deliver(attempt: int) -> None:
        write(warehouse, Append("archive_deliveries", [{"attempt": attempt}]))
        warehouse.rows("SELECT count(*) FROM archive_deliveries")

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(deliver, range(20)))
    assert warehouse.rows("SELECT count(DISTINCT attempt) AS n FROM archive_deliveries") == [{"n": 20}]


def _commit_and_die(path: Path) -> None:
    connection = duckdb.connect(path)
    connection.execute("UPDATE revision SET run_id = 'committed'")
    connection.begin()
    connection.execute("UPDATE revision SET run_id = 'uncommitted'")
    os._exit(0)


def test_what_a_killed_process_had_committed_is_there(warehouse: Warehouse) -> None:
    warehouse.migrate(now=NOW)
    dying = SPAWN.Process(target=_commit_and_die, args=(warehouse.path,))
    dying.start()
    dying.join()
    assert warehouse.path.with_name("warehouse.duckdb.wal").exists()
    for _ in range(2):
        assert warehouse.rows("SELECT run_id FROM revision") == [{"run_id": "committed"}]
    write(warehouse, Append("bars", [bar(0)]))
    assert warehouse.rows("SELECT run_id FROM revision") == [{"run_id": "run-1"}]


def _hold(path: Path, held: Event, release: Event) -> None:
    with duckdb.connect(path):
        held.set()
        release.wait()


def test_a_foreign_holder_is_named_after_a_bounded_wait(warehouse: Warehouse) -> None:
    warehouse.migrate(now=NOW)
    held, release = SPAWN.Event(), SPAWN.Event()
    holder = SPAWN.Process(target=_hold, args=(warehouse.path, held, release))
    holder.start()
    held.wait()
    impatient = Warehouse(warehouse.path, open_timeout_s=0.2)
    with pytest.raises(Unavailable, match=rf"open in process {holder.pid}.*for people is postval\.duckdb"):
        impatient.rows("SELECT 1")
    release.set()  # the patient one gets it when the holder has gone
    assert write(Warehouse(warehouse.path, open_timeout_s=60), Append("bars", [bar(0)])) == {"bars": 1}
    holder.join()


def test_a_lock_held_too_long_is_unavailable_and_named(warehouse: Warehouse) -> None:
    warehouse.migrate(now=NOW)
    with FileLock(warehouse.lock_path), pytest.raises(Unavailable, match=r"warehouse\.duckdb\.lock was held"):
        Warehouse(warehouse.path, lock_timeout_s=0.1).rows("SELECT 1")
    assert warehouse.rows("SELECT 1 AS one") == [{"one": 1}]


@pytest.mark.parametrize("offset", [0, 4096 * 4])
def test_a_damaged_file_is_rejected_by_name_with_where_copies_are(warehouse: Warehouse, offset: int) -> None:
    write(warehouse, Append("equity_curves", curve("AAPL", 100_000)))
    content = bytearray(warehouse.path.read_bytes())
    content[offset:] = bytes(byte ^ 0xFF for byte in content[offset:])
    warehouse.path.write_bytes(content)
    with pytest.raises(Rejected, match=r"warehouse\.duckdb cannot be read .*backups"):
        warehouse.rows("SELECT sum(equity) FROM equity_curves")
