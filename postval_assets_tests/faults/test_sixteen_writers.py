"""Sixteen writers, two people on the replica and its publication, all at once: nothing fails, nothing is lost."""

from __future__ import annotations

from pathlib import Path

from postval_assets_tests.faults.sixteen_writers import run


def test_sixteen_processes_write_while_the_replica_is_open_and_published(tmp_path: Path) -> None:
    load = run(tmp_path, writers=16, transactions=4)
    assert load.failures == ()
    assert load.troubles == ()
    assert load.lost_rows == 0
    assert load.transactions == len(load.waits_s) == 64
    assert load.publications > 0, "it was published meanwhile"
    assert load.queries > 0, "and asked"
    assert max(load.waits_s) < 60, "a wait ends before the lock's patience does"
