"""``postval doctor``: what it finds, with its mend, and that it changes nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import pytest

from postval_assets.commands.doctor import examine
from postval_assets.commands.finding import Finding, Severity
from postval_assets.commands.home import open_instance, prepare_home
from postval_assets.commands.occupancy import held
from postval_assets.commands.runs import RunFailed, run_job
from postval_assets.io.warehouse import Update
from postval_assets.pipeline.platform import open_platform
from postval_assets.settings import child_environment, load_settings
from postval_assets_tests.commands.conftest import Command


def findings(postval: Command, **settings: object) -> dict[str, list[Finding]]:
    found: dict[str, list[Finding]] = {}
    for finding in examine(load_settings(data_dir=postval.data_dir, **settings)):
        found.setdefault(finding.what, []).append(finding)
    return found


def test_a_fresh_machine_has_nothing_wrong_and_hears_what_comes_first(postval: Command) -> None:
    done = postval("doctor")
    assert done.code == 0, done.out
    assert "ERROR" not in done.out
    assert "postval ingest FILE.zip" in done.out
    assert "Python 3." in done.out
    assert not postval.data_dir.exists(), "looking changes nothing"


def test_a_missing_folder_of_bars_is_an_error_with_its_mend(postval: Command, tmp_path: Path) -> None:
    done = postval("--bars", f"parquet:{tmp_path / 'nowhere'}", "doctor")
    assert done.code == 1
    [line] = [line for line in done.out.splitlines() if line.startswith("ERROR")]
    assert "does not exist: expected a folder of *.parquet files" in line


def test_an_empty_folder_of_bars_is_an_error_with_its_mend(postval: Command, tmp_path: Path) -> None:
    (tmp_path / "bars").mkdir()
    [bars] = findings(postval, bars_source=f"csv:{tmp_path / 'bars'}")["bars source"]
    assert bars.severity is Severity.ERROR
    assert bars.mend is not None
    assert "SYMBOL_1Hour" in bars.mend


def test_alpaca_is_told_with_its_host_and_without_the_keys(
    postval: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ALPACA_KEYS_FILE", raising=False)
    monkeypatch.setenv("APCA_API_KEY_ID", "PKMINEMINEMINEMINEMI")
    monkeypatch.delenv("APCA_API_SECRET_KEY", raising=False)
    half = postval("--bars", "alpaca", "doctor")
    assert half.code == 1
    assert "APCA_API_KEY_ID is set but APCA_API_SECRET_KEY is not" in half.out
    monkeypatch.setenv("APCA_API_SECRET_KEY", "myVerySecretSecret")
    monkeypatch.setenv("POSTVAL_ALPACA_URL", "http://proxy.example/alpaca/")
    monkeypatch.setenv("POSTVAL_ALPACA_FEED", "iex")
    with socket.socket() as nobody:  # no request leaves this machine: what it goes through does not listen
        nobody.bind(("127.0.0.1", 0))
        monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{nobody.getsockname()[1]}")
        monkeypatch.setenv("no_proxy", "")
        done = postval("--bars", "alpaca", "doctor")
    assert done.code == 1, done.out
    assert (
        "not reachable: Alpaca (proxy.example) did not answer a request: the connection was refused"
        in done.out
    )
    assert "alpaca: http://proxy.example/alpaca, keys are there, feed iex, at most 200 requests" in done.out
    assert "unencrypted" in done.out
    for shown in (half.out + half.err, done.out + done.err):
        assert "PKMINE" not in shown
        assert "myVerySecret" not in shown


def test_after_a_run_everything_is_counted(validated: Command) -> None:
    found = findings(validated)
    [warehouse], [results] = found["warehouse"], found["results"]
    assert warehouse.found.endswith("every row read")
    assert "1 archives, 3 models, 10 folds" in results.found
    assert found["replica"][0].severity is Severity.OK
    assert "0 queued, 0 running, 0 failed runs" in found["dagster"][0].found
    assert all(f.severity is not Severity.ERROR for group in found.values() for f in group)


def test_what_lies_in_the_inbox_is_told(postval: Command, made_archive: Path) -> None:
    postval("ingest", str(made_archive))
    (postval.data_dir / "inbox" / "notes.txt").write_text("hello")
    waiting, ignored = findings(postval)["inbox"]
    assert "1 archive(s) waiting" in waiting.found
    assert waiting.mend is not None
    assert ignored.found == "ignored: notes.txt"


def test_an_archive_that_is_not_all_decided_is_told(postval: Command, made_archive: Path) -> None:
    assert postval("validate", str(made_archive), "--symbols", "AAPL").code == 0
    [archive] = findings(postval)["archive"]
    assert "not every model is decided" in archive.found
    assert archive.mend is not None
    assert made_archive.name in archive.mend


def test_a_failed_run_is_told_in_our_words(validated: Command) -> None:
    told = r"^extracted_models failed: archive 'nope' is unknown: expected"
    with open_instance(validated.platform.settings) as instance, pytest.raises(RunFailed, match=told):
        run_job(validated.platform, instance, "archive_job", ["AAPL"], {"postval/archive_id": "nope"})
    [runs] = findings(validated)["dagster"][:1]
    assert "1 failed runs" in runs.found
    assert runs.found.endswith("1 failed runs (1 archive_job)")
    assert runs.mend == "a failed archive: drop it again; what is done stays"


def test_failed_loads_of_bars_are_no_failed_archives(validated: Command, tmp_path: Path) -> None:
    settings = load_settings(data_dir=validated.data_dir, bars_source=f"csv:{tmp_path / 'none'}")
    with open_instance(settings) as instance, pytest.raises(RunFailed, match=r"^bars failed"):
        run_job(open_platform(settings), instance, "bars_job", ["AAPL"], {})
    [runs] = findings(validated)["dagster"][:1]
    assert runs.found.endswith("1 failed runs (1 bars_job)")
    assert runs.mend == "failed bars_job: postval bars, which fetches what is missing"


def test_schedules_that_are_on_are_told(postval: Command) -> None:
    settings = load_settings(data_dir=postval.data_dir)
    prepare_home(settings)
    assert findings(postval)["schedules"][0].found.startswith("both are off")
    turned_on = subprocess.run(
        [
            sys.executable,
            "-m",
            "dagster",
            "schedule",
            "start",
            "top_up_bars",
            "-m",
            "postval_assets.definitions",
        ],
        env=child_environment(settings),
        cwd=postval.data_dir,
        capture_output=True,
        text=True,
        check=False,
    )
    assert turned_on.returncode == 0, turned_on.stderr
    assert findings(postval)["schedules"][0].found == "on: top_up_bars"


def test_a_copy_that_could_not_take_its_place_is_told(validated: Command) -> None:
    aside = validated.data_dir / "postval.1.duckdb"
    aside.write_bytes(validated.platform.replica.read_bytes())
    replica = findings(validated)["replica"]
    assert any("postval.1.duckdb" in f.found for f in replica)


def test_a_damaged_warehouse_is_an_error_that_names_the_backups(validated: Command) -> None:
    path = validated.data_dir / "warehouse" / "warehouse.duckdb"
    path.write_bytes(b"x" * 10_000)
    done = validated("doctor")
    assert done.code == 1
    assert "backups" in done.out


def test_a_daemon_at_work_is_told(postval: Command) -> None:
    [before] = findings(postval)["daemon"]
    assert (before.severity, before.mend) == (Severity.NOTE, "postval up")
    assert not postval.data_dir.exists(), "looking changes nothing"
    with held(load_settings(data_dir=postval.data_dir)):
        [during] = findings(postval)["daemon"]
    assert during.severity is Severity.OK
    assert findings(postval)["daemon"] == [before]


def test_models_of_a_feature_set_that_is_not_installed_are_told(validated: Command) -> None:
    platform = open_platform(load_settings(data_dir=validated.data_dir))
    key = {"archive_id": "20250301_180000", "symbol": "AAPL", "timeframe": "1Hour"}
    platform.warehouse.write(
        [Update("extracted_models", key, {"feature_set": "acme-59"})], run_id="test", now=platform.now()
    )
    told = [f for f in findings(validated)["feature sets"] if f.severity is Severity.ERROR]
    assert [f.found for f in told] == ["1 model(s) use acme-59, which is not installed here"]
    platform.warehouse.write(
        [Update("extracted_models", key, {"feature_set": "reference-59"})], run_id="test", now=platform.now()
    )


def test_a_port_in_use_is_told(postval: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        [port] = findings(postval, port=taken.getsockname()[1])["web UI"]
    assert "in use" in port.found
