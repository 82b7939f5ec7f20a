"""Evidence whose rows were written by a process that was killed before it could tell Dagster."""

from __future__ import annotations

import dagster as dg

from postval_assets.commands.runs import weigh
from postval_assets.defs.sensors import evidence_due
from postval_assets_tests.defs.conftest import DECIDED, Home

EVIDENCE = dg.AssetKey("archive_evidence")


def forget(home: Home) -> None:
    assert home.instance.get_materialized_partitions(EVIDENCE) == {DECIDED}
    assert evidence_due(home.instance, home.platform) == {}
    home.instance.wipe_assets([EVIDENCE])
    assert home.instance.get_materialized_partitions(EVIDENCE) == set()


def test_the_queue_sensor_has_it_told_once(decided: Home) -> None:
    before = decided.rows("SELECT * FROM archive_evidence")
    forget(decided)
    asked, cursor = decided.queue_tick()
    assert isinstance(asked, dg.SensorResult)
    assert [r.run_key for r in asked.run_requests or ()] == [f"{DECIDED}:untold:evidence"]
    decided.run_requested(asked)
    assert decided.instance.get_materialized_partitions(EVIDENCE) == {DECIDED}
    again, _ = decided.queue_tick(cursor)
    assert isinstance(again, dg.SkipReason)
    assert decided.rows("SELECT * FROM archive_evidence") == before, "it is current: nothing is made anew"


def test_a_command_tells_it(decided: Home) -> None:
    forget(decided)
    weigh(decided.platform, decided.instance)
    assert decided.instance.get_materialized_partitions(EVIDENCE) == {DECIDED}
