"""The inbox sensor's ticks: what is taken, what waits, what is refused, and which runs are asked for."""

from __future__ import annotations

import os
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest

from postval_assets.definitions import defs
from postval_assets.defs.jobs import RANGE_END_TAG, RANGE_START_TAG
from postval_assets.defs.resources import PlatformResource
from postval_assets.defs.sensors import inbox_sensor, queue_sensor
from postval_assets.io.inbox import deliver
from postval_assets.settings import Settings
from postval_assets_tests.defs.conftest import Home, archive_of, opened_home

FIRST, SECOND = "20250301_180000", "20250401_120000"


@pytest.fixture
def impatient(tmp_path: Path) -> Iterator[Home]:
    """A home that refuses an unreadable file as soon as it has stood still."""
    with opened_home(tmp_path / "data", unreadable_after_minutes=0.0) as opened:
        yield opened


def reason(result: dg.SensorResult | dg.SkipReason) -> str:
    assert isinstance(result, dg.SkipReason), result
    assert result.skip_message is not None
    return result.skip_message


def events(result: dg.SensorResult) -> dict[str | None, dict[str, object]]:
    """Metadata by partition of what the tick reported on training_archives."""
    found: dict[str | None, dict[str, object]] = {}
    for event in result.asset_events:
        assert isinstance(event, dg.AssetMaterialization)
        assert event.asset_key == dg.AssetKey("training_archives")
        found[event.partition] = {name: value.value for name, value in event.metadata.items()}
    return found


def touch(path: Path) -> None:
    """As if it had been dropped anew."""
    later = path.stat().st_mtime_ns + 1_000_000_000
    os.utime(path, ns=(later, later))


@pytest.mark.parametrize("sensor", [inbox_sensor, queue_sensor])
def test_on_a_temporary_instance_a_tick_skips_and_says_how_to_keep_history(
    sensor: dg.SensorDefinition, tmp_path: Path
) -> None:
    settings = Settings(data_dir=tmp_path / "data")
    with dg.DagsterInstance.ephemeral() as instance:
        resources = {"platform": PlatformResource.of(settings)}
        with dg.build_sensor_context(instance, resources=resources) as context:
            result = sensor(context)
    assert "DAGSTER_HOME" in reason(result)
    assert not settings.data_dir.exists()


@pytest.mark.parametrize("sensor", [inbox_sensor, queue_sensor])
def test_a_wrong_setting_is_said_by_the_tick(
    sensor: dg.SensorDefinition, home: Home, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTVAL_PLANS", "90d")
    with dg.build_sensor_context(home.instance, resources={"platform": PlatformResource()}) as context:
        assert "unknown plan 90d" in reason(sensor(context))


def test_an_empty_inbox_is_said_so(home: Home) -> None:
    assert reason(home.inbox_tick()[0]) == "the inbox is empty"


def test_the_first_tick_waits_and_the_second_registers_and_asks_for_the_run(
    home: Home, tmp_path: Path
) -> None:
    file = archive_of(tmp_path / "made", FIRST, ["MSFT", "AAPL_4Hour", "AAPL"])
    deliver(file, home.settings.inbox)
    waiting, cursor = home.inbox_tick()
    assert f"{file.name}: it is new or has changed" in reason(waiting)
    assert not home.rows("SELECT * FROM training_archives")

    result, _ = home.inbox_tick(cursor)
    assert isinstance(result, dg.SensorResult)
    [request] = result.run_requests or ()
    [row] = home.rows("SELECT * FROM training_archives")
    assert request.run_key == f"{row['sha256']}:0:1"
    assert request.tags == {
        RANGE_START_TAG: "AAPL",
        RANGE_END_TAG: "MSFT",
        "postval/archive_id": FIRST,
        "postval/archive_sha256": row["sha256"],
        "postval/attempt": "1",
    }
    added = {
        r.partitions_def_name: r.partition_keys
        for r in result.dynamic_partitions_requests or ()
        if isinstance(r, dg.AddDynamicPartitionsRequest)
    }
    assert added == {"symbol": ["AAPL", "MSFT"], "archive": [FIRST]}
    assert row["status"] == "RECEIVED"
    assert row["models"] == ["AAPL_1Hour", "AAPL_4Hour", "MSFT_1Hour"]
    said = events(result)[FIRST]
    assert (said["outcome"], said["models"], said["file"]) == ("ACCEPTED", 3, file.name)
    job = defs.resolve_job_def("archive_job")
    assert job.name in {target.job_name for target in inbox_sensor.targets}


def test_symbols_are_appended_in_order_and_runs_cover_contiguous_blocks(tmp_path: Path) -> None:
    with opened_home(tmp_path / "data", symbols_per_run=2) as home:
        _, cursor = home.take(archive_of(tmp_path / "a", FIRST, ["NVDA", "SPY"]))
        second = archive_of(tmp_path / "b", SECOND, ["AAPL", "BTCUSD", "ETHUSD", "SPY"])
        result, _ = home.take(second, cursor=cursor)
        assert home.instance.get_dynamic_partitions("symbol") == ["NVDA", "SPY", "AAPL", "BTCUSD", "ETHUSD"]
    ranges = [(r.tags[RANGE_START_TAG], r.tags[RANGE_END_TAG]) for r in result.run_requests or ()]
    assert ranges == [("SPY", "AAPL"), ("BTCUSD", "ETHUSD")]
    keys = [r.run_key for r in result.run_requests or ()]
    assert [str(key).split(":")[1:] for key in keys] == [["0", "1"], ["1", "1"]]


def test_a_file_that_stays_is_reported_once(home: Home, tmp_path: Path) -> None:
    _, cursor = home.take(archive_of(tmp_path / "made", FIRST, ["AAPL"]))
    again, _ = home.inbox_tick(cursor)
    assert isinstance(again, dg.SkipReason)
    assert len(home.rows("SELECT * FROM archive_deliveries")) == 1


def test_an_archive_dropped_again_before_it_is_decided_is_a_new_attempt(home: Home, tmp_path: Path) -> None:
    file = archive_of(tmp_path / "made", FIRST, ["AAPL"])
    first, cursor = home.take(file)
    touch(home.settings.inbox / file.name)
    second, _ = home.take(cursor=cursor)
    [one], [two] = first.run_requests or (), second.run_requests or ()
    assert (one.tags["postval/attempt"], two.tags["postval/attempt"]) == ("1", "2")
    assert one.run_key != two.run_key
    assert two.tags["postval/archive_id"] == FIRST
    assert not second.dynamic_partitions_requests
    assert events(second)[FIRST]["outcome"] == "RETRY"


def test_an_archive_dropped_again_while_its_run_goes_on_waits_for_the_runs_end(
    home: Home, tmp_path: Path
) -> None:
    file = archive_of(tmp_path / "made", FIRST, ["AAPL"])
    first, cursor = home.take(file)
    [request] = first.run_requests or ()
    run = home.instance.create_run_for_job(
        defs.resolve_job_def("archive_job"), tags=dict(request.tags), status=dg.DagsterRunStatus.STARTED
    )
    touch(home.settings.inbox / file.name)
    for _ in range(3):
        waiting, cursor = home.inbox_tick(cursor)
    assert f"{file.name}: the same content is being worked on" in reason(waiting)
    assert len(home.rows("SELECT * FROM archive_deliveries")) == 1
    home.instance.report_run_failed(run)
    second, _ = home.inbox_tick(cursor)
    assert isinstance(second, dg.SensorResult)
    assert [r.tags["postval/attempt"] for r in second.run_requests or ()] == ["2"]
    assert events(second)[FIRST]["outcome"] == "RETRY"


def test_a_decided_archive_dropped_again_is_a_duplicate_and_leaves_the_inbox(
    home: Home, tmp_path: Path
) -> None:
    file = archive_of(tmp_path / "made", FIRST, ["AAPL"])
    first, cursor = home.take(file)
    home.run_requested(first)
    renamed = file.rename(file.with_name("another name.zip"))
    second, _ = home.take(renamed, cursor=cursor)
    assert not second.run_requests
    said = events(second)[FIRST]
    assert said["outcome"] == "DUPLICATE"
    assert f"delivered before, as archive {FIRST}" in str(said["reason"])
    assert not list(home.settings.inbox.iterdir())


def test_two_copies_in_one_tick_make_one_run(home: Home, tmp_path: Path) -> None:
    file = archive_of(tmp_path / "made", FIRST, ["AAPL"])
    copy = Path(shutil.copyfile(file, file.with_name("copy.zip")))
    first, cursor = home.take(file, copy)
    assert len(list(first.run_requests or ())) == 1
    home.run_requested(first)
    second, _ = home.inbox_tick(cursor)
    assert isinstance(second, dg.SensorResult)
    assert not second.run_requests
    assert events(second)[FIRST]["outcome"] == "DUPLICATE"
    assert not list(home.settings.inbox.iterdir())


def test_a_refused_file_dropped_again_is_reported_again_once(impatient: Home, tmp_path: Path) -> None:
    bad = no_summary(tmp_path / "bad")
    cursor = None
    for attempt in (1, 2):
        result, cursor = impatient.take(bad, cursor=cursor)
        [said] = events(result).values()
        assert said["outcome"] == "REJECTED"
        assert isinstance(impatient.inbox_tick(cursor)[0], dg.SkipReason)
        assert len(impatient.rows("SELECT * FROM archive_deliveries")) == attempt
        assert not list(impatient.settings.inbox.iterdir())


def test_other_content_of_the_same_id_becomes_an_archive_of_its_own(home: Home, tmp_path: Path) -> None:
    _, cursor = home.take(archive_of(tmp_path / "a", FIRST, ["AAPL"]))
    other = archive_of(tmp_path / "b", FIRST, {"AAPL": {"seed": 1}})
    result, _ = home.take(other.rename(other.with_name("other.zip")), cursor=cursor)
    [request] = result.run_requests or ()
    sha = request.tags["postval/archive_sha256"]
    assert request.tags["postval/archive_id"] == f"{FIRST}-{sha[:8]}"


def test_an_incomplete_file_waits_with_its_reason(home: Home, tmp_path: Path) -> None:
    file = archive_of(tmp_path / "made", FIRST, ["AAPL"])
    file.write_bytes(file.read_bytes()[:-500])
    deliver(file, home.settings.inbox)
    _, cursor = home.inbox_tick()
    for _ in range(2):
        result, cursor = home.inbox_tick(cursor)
        assert "may still be growing" in reason(result)
    assert not home.rows("SELECT * FROM training_archives")


def no_summary(folder: Path) -> Path:
    return archive_of(folder, FIRST, ["AAPL"], summary=...)


def truncated(folder: Path) -> Path:
    file = archive_of(folder, FIRST, ["AAPL"])
    file.write_bytes(file.read_bytes()[:-500])
    return file


def not_a_zip(folder: Path) -> Path:
    folder.mkdir()
    file = folder / "notes.zip"
    file.write_text("not a zip\n" * 100)
    return file


def other_zip(folder: Path) -> Path:
    folder.mkdir()
    file = folder / "photos.zip"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("photo.jpg", b"\xff\xd8")
    return file


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (no_summary, "has no training summary"),
        (other_zip, "has no training summary"),
        (truncated, "is not a complete zip file"),
        (not_a_zip, "is not a complete zip file"),
    ],
)
def test_a_bad_file_is_recorded_with_its_reason_moved_aside_and_stops_no_other(
    impatient: Home, tmp_path: Path, make: object, words: str
) -> None:
    assert callable(make)
    bad = make(tmp_path / "bad")
    good = archive_of(tmp_path / "good", SECOND, ["MSFT"])
    result, _ = impatient.take(bad, good)
    said = events(result)
    [rejected_id] = set(said) - {SECOND}
    assert rejected_id is not None
    assert said[rejected_id]["outcome"] == "REJECTED"
    assert words in str(said[rejected_id]["reason"])
    assert said[SECOND]["outcome"] == "ACCEPTED"
    [request] = result.run_requests or ()
    assert request.tags["postval/archive_id"] == SECOND
    row = impatient.rows("SELECT * FROM training_archives WHERE archive_id = ?", rejected_id)[0]
    assert row["status"] == "REJECTED"
    assert words in row["reason"]
    assert (impatient.settings.data_dir / row["stored_path"]).is_file()
    assert [p.name for p in impatient.settings.inbox.iterdir()] == [good.name]
