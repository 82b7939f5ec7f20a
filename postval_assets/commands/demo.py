"""``postval demo``: the whole job on the bundled sample, through the real daemon and sensor.

Here: a directory of its own, a delivery, the wait, the printout, the stop. Not here: any part of the job.
"""

from __future__ import annotations

import logging
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from postval_assets.commands.home import open_instance, prepare_home
from postval_assets.commands.occupancy import LOCK_NAME, held
from postval_assets.commands.servers import daemon_command, running
from postval_assets.commands.show import results_text
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.defs.run_records import UNFINISHED, runs
from postval_assets.io.inbox import deliver
from postval_assets.io.warehouse import query_replica
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.pipeline.reading import newest_archive, undecided_models
from postval_assets.settings import Settings

log = logging.getLogger("postval.demo")

_MARKER = ".postval-demo"
_POLL_SECONDS = 1.0
_SLOW_START_SECONDS = 45.0


@dataclass(frozen=True)
class Demo:
    """What a demo left: its directory and the results as text."""

    data_dir: Path
    text: str


def sample_archive(settings: Settings) -> Path:
    """The bundled archive; raises Rejected where the sample is not there."""
    found = sorted(settings.sample_dir.glob("*.zip"))
    if not found:
        raise Rejected(
            f"no sample archive in {settings.sample_dir}: run from a clone, or set POSTVAL_SAMPLE_DIR"
        )
    return found[-1]


def demo_settings(settings: Settings) -> Settings:
    """Settings of the demo's own directory; raises Rejected where that is somebody else's."""
    folder = settings.data_dir / "demo"
    if folder.exists() and not (folder / _MARKER).is_file():
        raise Rejected(f"{folder} was not made by a demo and is left alone: move it, or give --data-dir")
    return settings.model_copy(update={"data_dir": folder, "inbox_dir": None, "bars_source": "sample"})


@contextmanager
def occupied_afresh(demo: Settings) -> Iterator[Platform]:
    """Hold the demo's directory, emptied of what an earlier demo left; nobody else may be working on it.

    Raises:
        Rejected: where somebody does, such as a `postval up` that browses an earlier demo.
        Unavailable: where the directory cannot be emptied.
    """
    folder = demo.data_dir
    folder.mkdir(parents=True, exist_ok=True)
    (folder / _MARKER).write_text(
        "Made by postval demo, which empties this folder when it starts.\n", "utf-8"
    )
    with held(demo):
        kept = {_MARKER, LOCK_NAME}
        try:
            for path in [p for p in folder.iterdir() if p.name not in kept]:
                _remove(path)
        except OSError as error:
            raise Unavailable(f"{folder} cannot be emptied: {error}; close what uses it") from error
        prepare_home(demo)
        yield open_platform(demo)


def _remove(path: Path) -> None:
    # The database for people is read-only, and Windows does not remove such a file.
    for file in [path] if path.is_file() else [p for p in path.rglob("*") if p.is_file()]:
        file.chmod(0o600)
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def run_demo(settings: Settings, *, timeout_s: float = 600.0) -> Demo:
    """Deliver the sample archive to a real daemon and wait for a decision for every model.

    Raises:
        Rejected: where the sample or a clean directory is missing.
        Unavailable: where the daemon ended, or the decisions did not come in time; the daemon's log is named.
    """
    archive = sample_archive(settings)
    demo = demo_settings(settings)
    with occupied_afresh(demo) as platform:
        return _deliver_and_wait(platform, archive, timeout_s)


def _deliver_and_wait(platform: Platform, archive: Path, timeout_s: float) -> Demo:
    demo = platform.settings
    daemon_log = demo.data_dir / "logs" / "daemon.log"
    log.info("data directory %s; the daemon's log is %s", demo.data_dir, daemon_log)
    with daemon_log.open("wb") as output, running(daemon_command(), demo, output) as daemon:
        deliver(archive, demo.inbox)
        log.info("%s is in the inbox; the sensor takes it when it has stood still", archive.name)

        def check() -> None:
            if daemon.poll() is not None:
                raise Unavailable(f"the daemon ended with code {daemon.returncode}: see {daemon_log}")

        archive_id = wait_for_decisions(platform, timeout_s=timeout_s, check=check, log_file=daemon_log)
        wait_until_settled(platform, timeout_s=180.0, check=check)
    return Demo(demo.data_dir, results_text(platform, archive_id, None))


def wait_for_decisions(
    platform: Platform, *, timeout_s: float, check: Callable[[], None], log_file: Path
) -> str:
    """Wait until the newest archive is decided; its archive_id. Progress goes to the log."""
    started = time.monotonic()
    said = ""
    while time.monotonic() - started < timeout_s:
        check()
        archive_id = newest_archive(platform)
        if archive_id is None and not said and time.monotonic() - started > _SLOW_START_SECONDS:
            said = "slow"
            log.info("the sensor has not taken it yet; what the daemon says is in %s", log_file)
        if archive_id is not None:
            row = platform.warehouse.rows(
                "SELECT * FROM training_archives WHERE archive_id = ?", (archive_id,)
            )[0]
            symbols = sorted({m.rsplit("_", 1)[0] for m in row["models"]})
            left = undecided_models(platform, archive_id, symbols)
            folds = platform.warehouse.rows("SELECT count(*) AS n FROM fold_results")[0]["n"]
            words = (
                f"archive {archive_id} {row['status']}: {folds} folds, "
                f"{len(row['models']) - len(left)}/{len(row['models'])} models decided"
            )
            if words != said:
                said = words
                log.info("%s (%.0f s)", words, time.monotonic() - started)
            if row["status"] == "COMPLETE":
                return archive_id
        time.sleep(_POLL_SECONDS)
    raise Unavailable(f"no decisions after {timeout_s:.0f} s: see {log_file}")


def wait_until_settled(platform: Platform, *, timeout_s: float, check: Callable[[], None]) -> None:
    """Wait until the queue of runs is empty and the database for people holds every decision."""
    started = time.monotonic()
    instance = open_instance(platform.settings)
    while time.monotonic() - started < timeout_s:
        check()
        if not runs(instance, UNFINISHED, limit=1) and _is_published(platform):
            return
        time.sleep(_POLL_SECONDS)
    raise Unavailable(f"{platform.replica} did not get the newest decisions within {timeout_s:.0f} s")


def _is_published(platform: Platform) -> bool:
    if not platform.replica.is_file():
        return False
    count = "SELECT count(*) AS n FROM deployment_decisions"
    _, rows = query_replica(platform.replica, count)
    return bool(rows[0][0] == platform.warehouse.rows(count)[0]["n"])
