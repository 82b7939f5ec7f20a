"""The code location: what is declared, and that declaring it is cheap and touches nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import dagster as dg
import pytest

from postval_assets.definitions import build_definitions, defs
from postval_assets_tests.defs.conftest import opened_home

# asset: (made from, group, partitioned by), as docs/architecture.md draws it.
GRAPH = {
    "training_archives": (set(), "intake", "archive"),
    "extracted_models": ({"training_archives"}, "intake", "symbol"),
    "gating_scores": ({"extracted_models"}, "intake", "symbol"),
    "bars": (set(), "market", "symbol"),
    "backtest_results": ({"gating_scores", "bars"}, "evaluation", "symbol"),
    "walk_forward_evaluations": ({"gating_scores", "bars"}, "evaluation", "symbol"),
    "fold_results": ({"gating_scores", "bars"}, "evaluation", "symbol x fold"),
    "claim_reproductions": ({"gating_scores", "bars"}, "evaluation", "symbol"),
    "walk_forward_summaries": ({"walk_forward_evaluations", "fold_results"}, "decision", "symbol"),
    "champion_comparisons": ({"walk_forward_evaluations", "fold_results"}, "decision", "symbol"),
    "deployment_watches": ({"bars", "walk_forward_evaluations"}, "decision", "symbol"),
    "deployment_decisions": (
        {
            *("walk_forward_summaries", "champion_comparisons", "gating_scores"),
            *("claim_reproductions", "deployment_watches"),
        },
        "decision",
        "symbol",
    ),
    "archive_evidence": ({"deployment_decisions", "fold_results"}, "decision", "archive"),
}
USES_TORCH = {
    *("extracted_models", "backtest_results", "walk_forward_evaluations", "fold_results"),
    *("champion_comparisons", "claim_reproductions", "deployment_watches"),
}
CHECKS = {
    ("extracted_models", "models_are_usable"),
    ("gating_scores", "claims_are_valid"),
    ("bars", "symbols_have_bars"),
    ("bars", "bars_are_sound"),
    ("backtest_results", "backtests_are_computed"),
    ("walk_forward_evaluations", "folds_are_computed"),
    ("claim_reproductions", "claims_are_reproduced"),
    ("walk_forward_summaries", "inputs_are_current"),
    ("deployment_watches", "edges_hold"),
}


def specs() -> dict[str, dg.AssetSpec]:
    return {spec.key.to_user_string(): spec for spec in defs.resolve_all_asset_specs()}


def partitioned_by(spec: dg.AssetSpec) -> str:
    definition = spec.partitions_def
    if isinstance(definition, dg.DynamicPartitionsDefinition):
        return str(definition.name)
    assert isinstance(definition, dg.MultiPartitionsDefinition)
    return " x ".join(sorted((d.name for d in definition.partitions_defs), reverse=True))


def test_the_asset_graph_is_the_documented_one() -> None:
    found = {
        name: ({d.asset_key.to_user_string() for d in spec.deps}, spec.group_name, partitioned_by(spec))
        for name, spec in specs().items()
    }
    assert found == GRAPH


@pytest.mark.parametrize("name", GRAPH)
def test_every_asset_says_its_grain_and_its_kinds(name: str) -> None:
    spec = specs()[name]
    assert spec.description is not None
    assert "One row a" in spec.description
    assert spec.kinds == {"python", "duckdb"} | ({"pytorch"} if name in USES_TORCH else set())


def test_checks_jobs_sensors_and_schedules_are_the_documented_ones() -> None:
    repository = defs.get_repository_def()
    checks = {(key.asset_key.to_user_string(), key.name) for key in repository.asset_graph.asset_check_keys}
    assert checks == CHECKS
    assert {job.name for job in repository.get_all_jobs() if not job.name.startswith("__")} == {
        "archive_job",
        "bars_job",
        "evaluation_job",
        "decision_job",
        "watch_job",
        "evidence_job",
    }
    assert {sensor.name for sensor in repository.sensor_defs} == {"inbox_sensor", "queue_sensor"}
    assert all(s.default_status is dg.DefaultSensorStatus.RUNNING for s in repository.sensor_defs)
    assert {s.name for s in repository.schedule_defs} == {"top_up_bars", "evaluate_newest"}
    assert all(s.default_status is dg.DefaultScheduleStatus.STOPPED for s in repository.schedule_defs)


def test_a_backfill_of_any_partitioned_asset_takes_few_runs() -> None:
    graph = defs.get_repository_def().asset_graph
    policies = {name: graph.get(dg.AssetKey(name)).backfill_policy for name in GRAPH}
    assert all(policies.pop(name) is None for name in ("training_archives", "archive_evidence"))
    most = {name: policy.max_partitions_per_run if policy else 1 for name, policy in policies.items()}
    assert all(n is None or n >= 50 for n in most.values()), most


def in_fresh_process(
    *arguments: str, cwd: Path, dagster_home: Path, **env: str
) -> subprocess.CompletedProcess[str]:
    foreign = ("POSTVAL_", "DAGSTER_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    dagster_home.mkdir()
    return subprocess.run(
        [sys.executable, *arguments],
        env={**kept, "DAGSTER_HOME": str(dagster_home), **env},
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


def test_the_definitions_validate(tmp_path: Path) -> None:
    command = ("-m", "dagster", "definitions", "validate", "-m", "postval_assets.definitions")
    done = in_fresh_process(*command, cwd=tmp_path, dagster_home=tmp_path / "home")
    assert done.returncode == 0, done.stderr
    assert "All code locations passed validation" in done.stdout + done.stderr


def test_importing_the_definitions_loads_no_torch_reads_no_setting_and_writes_nothing(tmp_path: Path) -> None:
    heavy = "('torch', 'duckdb.experimental', 'playwright', 'alpaca')"
    code = f"import sys, postval_assets.definitions as d; print([m for m in {heavy} if m in sys.modules])"
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = in_fresh_process(
        "-c",
        code,
        cwd=elsewhere,
        dagster_home=tmp_path / "home",
        POSTVAL_PLANS="nonsense",
        POSTVAL_DATA_DIR=str(tmp_path / "data"),
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
    assert not list(elsewhere.iterdir())
    assert not (tmp_path / "data").exists()


def test_definitions_of_given_settings_work_on_these(tmp_path: Path) -> None:
    with opened_home(tmp_path / "a") as one:
        resource = build_definitions(one.settings).resources
    assert resource is not None
    assert resource["platform"].platform.settings == one.settings
