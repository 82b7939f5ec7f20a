"""A real platform whose processes are killed while an archive is on its way, and what the next one makes of it.

Here: daemon, web server, code server and the process of a run, each as its own and all at once. Not here: the same
work without them, which can be killed many times a minute (trials.py).
"""

from __future__ import annotations

import contextlib
import random
import re
import shutil
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import psutil

from postval_assets.pipeline.platform import open_platform
from postval_assets.settings import load_settings
from postval_assets_tests.crash.looking import Seen, differences, look, replica_is_current
from postval_assets_tests.crash.trials import Trial
from postval_assets_tests.crash.victim import Death
from postval_assets_tests.factories import STAMP, make_archive
from postval_assets_tests.platform_process import (
    RunningPlatform,
    Story,
    free_port,
    postval_environment,
    wait_for,
)

# Words of the command line that tell one of Dagster's processes from the others.
_PROCESSES = {
    "daemon": ("dagster._daemon",),
    "web server": ("dagster_webserver",),
    "code server": ("code-server", "api grpc"),
    "run": ("spawn_main",),
    "dagster dev": ("dagster dev",),
    "up": ("postval_assets.cli up",),
}
_TARGETS = (*_PROCESSES, "everything")
_PATIENCE_S = 900.0
_AGES = re.compile(r"stale [\d.,]+")


@dataclass(frozen=True)
class _Case:
    """What is done in each trial: an archive, and the rows that it leads to when nobody is killed."""

    archive: Path
    seconds: float
    left: Seen | None


def run_daemon_trials(folder: Path, n: int, seed: int, *, say: Callable[[Trial], None]) -> list[Trial]:
    """Kill so many times, in a fresh data directory each time."""
    folder.mkdir(parents=True, exist_ok=True)
    archive = make_archive(folder / f"Alpaca_trading_trained_{STAMP}.zip", {"SPY": {}, "NVDA": {}})
    case = _undisturbed(folder / "undisturbed", archive)
    chance = random.Random(seed)  # noqa: S311 - the same instants for the same seed
    trials = []
    for number in range(1, n + 1):
        target = _TARGETS[(number - 1) % len(_TARGETS)]
        death = Death("time", chance.uniform(0, case.seconds))
        trial = _trial(folder / f"daemon-{number}", case, number, target, death)
        say(trial)
        trials.append(trial)
    return trials


def _undisturbed(root: Path, archive: Path) -> _Case:
    with _platform(root) as story:
        story.running.start(timeout_s=_PATIENCE_S)
        started = time.monotonic()
        _drop(story, archive)
        _wait_until_settled(story)
        seconds = time.monotonic() - started
        story.running.stop(timeout_s=_PATIENCE_S)
    return _Case(archive, seconds, _still(look(story.warehouse.settings)))


def _trial(root: Path, case: _Case, number: int, target: str, death: Death) -> Trial:
    problems: list[str] = []
    seconds = 0.0
    with _platform(root) as story:
        story.running.start(timeout_s=_PATIENCE_S)
        _drop(story, case.archive)
        time.sleep(death.at)
        died = _kill(story, target)
        started = time.monotonic()
        try:
            if _has_ended(story):
                story.running.start(timeout_s=_PATIENCE_S)
            _wait_until_settled(story)
            seconds = time.monotonic() - started
            story.running.stop(timeout_s=_PATIENCE_S)
        except (TimeoutError, RuntimeError) as error:
            problems.append(f"after {target} was killed: {error}")
    settings = story.warehouse.settings
    if not problems and case.left is not None:
        found = look(settings)
        problems += found.problems
        problems += [f"left over: {p}" for p in found.left_over]
        problems += differences(_still(found), case.left)
        if not replica_is_current(settings):
            problems.append("the replica is not what the warehouse holds")
    if not problems:
        shutil.rmtree(root)
    return Trial(number, f"up: {target}", death, died, seconds, tuple(problems))


@contextlib.contextmanager
def _platform(root: Path) -> Iterator[Story]:
    """A data directory for one platform; nothing of it runs afterwards."""
    data_dir = root / "data"
    root.mkdir(parents=True)
    running = RunningPlatform(data_dir, postval_environment(data_dir, "sample"), free_port(), root / "up.log")
    settings = load_settings(data_dir=data_dir, bars_source="sample")
    try:
        yield Story(running, root, open_platform(settings))
    finally:
        running.kill_what_is_left()


def _drop(story: Story, archive: Path) -> None:
    done = story.running.postval("ingest", str(archive), timeout_s=_PATIENCE_S)
    if done.returncode:
        raise RuntimeError(done.stderr)


def _kill(story: Story, target: str) -> bool:
    """Kill every process of that kind; whether there was one."""
    words = _PROCESSES.get(target, ("",))
    killed = False
    for process in story.running.tree():
        with contextlib.suppress(psutil.Error):
            line = " ".join(process.cmdline())
            if any(word in line for word in words):
                process.kill()
                killed = True
    return killed


def _has_ended(story: Story) -> bool:
    """Whether ``postval up`` ends; where one of its processes is gone it may take a while to notice, or go on."""
    deadline = time.monotonic() + 30.0
    while time.monotonic() < deadline:
        try:
            story.running.require_alive()
        except RuntimeError:
            return True
        time.sleep(0.5)
    return False


def _wait_until_settled(story: Story) -> None:
    """Until the archive is decided and weighed, its runs have ended, and people read it."""

    def settled() -> bool:
        if story.status(STAMP) != "COMPLETE":
            return False
        weighed = story.rows("SELECT count(*) AS n FROM archive_evidence")[0]["n"]
        return bool(weighed) and not story.unfinished(STAMP) and _is_published(story)

    wait_for("the archive is settled", settled, timeout_s=_PATIENCE_S, alive=story.running.require_alive)


def _is_published(story: Story) -> bool:
    return story.running.replica.is_file() and replica_is_current(story.warehouse.settings)


def _still(seen: Seen) -> Seen:
    """Without the age of the newest bar, which grows with the clock."""
    tables = {name: sorted(_AGES.sub("stale", line) for line in lines) for name, lines in seen.tables.items()}
    return replace(seen, tables=tables)
