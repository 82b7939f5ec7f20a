"""One daemon a data directory, and runs whose process was killed."""

from __future__ import annotations

import subprocess
from pathlib import Path

import dagster as dg
import pytest

from postval_assets.commands.home import open_instance
from postval_assets.commands.occupancy import clear_orphans_beside, held, occupied
from postval_assets.core.failures import Rejected
from postval_assets.defs.run_records import PROCESS_TAG, WORKED_ON, has_lost_its_process, runs
from postval_assets.settings import load_settings
from postval_assets_tests.commands.conftest import Command
from postval_assets_tests.platform_process import postval_command, postval_environment, wait_for


def test_a_second_daemon_on_one_data_directory_is_refused(postval: Command) -> None:
    settings = load_settings(data_dir=postval.data_dir)
    with held(settings):
        line = postval.refused("up")
        assert "another postval up or demo works on" in line
        assert str(postval.data_dir) in line
    with held(settings):
        pass  # the lock went with its holder


def test_a_run_whose_process_was_killed_is_failed_and_said(postval: Command, made_archive: Path) -> None:
    settings = load_settings(data_dir=postval.data_dir)
    instance = open_instance(settings)
    process = subprocess.Popen(
        postval_command("validate", str(made_archive)),
        env=postval_environment(postval.data_dir, "sample"),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:

        def at_work() -> dg.DagsterRun | None:
            found = runs(instance, WORKED_ON)
            return found[0] if found and PROCESS_TAG in found[0].tags else None

        run = wait_for("a run at work", at_work, timeout_s=60.0)
        assert has_lost_its_process(run) is False
        clear_orphans_beside(settings, instance)
        assert runs(instance, WORKED_ON), "a run that is worked on is left alone"
    finally:
        process.kill()
        process.wait()
    assert has_lost_its_process(run) is True
    assert "has lost its process" in postval("doctor").out
    with occupied(settings):
        assert runs(instance, WORKED_ON) == []
    assert [r.run_id for r in runs(instance, [dg.DagsterRunStatus.FAILURE])] == [run.run_id]
    done = postval("validate", str(made_archive))
    assert done.code == 0, "what the killed process left does not stand in the way"


def test_simulated_and_real_bars_are_never_mixed(
    postval: Command, made_archive: Path, tmp_path: Path
) -> None:
    assert postval("validate", str(made_archive), "--symbols", "AAPL").code == 0
    reasons = postval.rows("SELECT reasons FROM deployment_decisions WHERE symbol = 'AAPL'")[0]["reasons"]
    assert "SIMULATED_BARS" in reasons
    sample = load_settings(data_dir=postval.data_dir).sample_dir
    before = postval.rows("SELECT count(*) AS n, max(ts) AS ts FROM bars")
    line = postval.refused("--bars", f"parquet:{sample / 'bars'}", "validate", str(made_archive))
    assert "holds bars from sample; bars from parquet do not belong with them" in line
    assert postval.rows("SELECT count(*) AS n, max(ts) AS ts FROM bars") == before


def test_a_source_that_is_not_there_decides_nothing(
    postval: Command, made_archive: Path, tmp_path: Path
) -> None:
    line = postval.refused("--bars", f"parquet:{tmp_path / 'nowhere'}", "validate", str(made_archive))
    assert "nowhere does not exist" in line
    with pytest.raises(Rejected, match="does not exist"):
        open_source(tmp_path)


def open_source(folder: Path) -> None:
    from postval_assets.pipeline.market import require_one_kind_of_bars
    from postval_assets.pipeline.platform import open_platform

    require_one_kind_of_bars(
        open_platform(load_settings(data_dir=folder / "data", bars_source=f"parquet:{folder / 'nowhere'}"))
    )
