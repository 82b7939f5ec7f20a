"""Kill, run again, compare: once is a trial, and many of them are a table.

Here: when processes are killed, and what counts as a failure. Not here: what they do (victim.py), or what is read of
what they leave (looking.py).
"""

from __future__ import annotations

import contextlib
import multiprocessing
import random
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from postval_assets_tests.crash.looking import Seen, differences
from postval_assets_tests.crash.scenes import Scene, make_scenes
from postval_assets_tests.crash.victim import After, Death, read_report, recover, work

_KINDS = ("time", "event", "inside")
# Longer than a transaction of the warehouse takes, with the lock around it.
_INSIDE_SECONDS = 0.06
_PATIENCE_S = 400.0


@dataclass(frozen=True)
class Measured:
    """A scene, and what it is when nobody disturbs it.

    Attributes:
        scene: which.
        seconds: that it takes.
        n_events: operations on files in it.
        left: what it leaves.
    """

    scene: Scene
    seconds: float
    n_events: int
    left: Seen


@dataclass(frozen=True)
class Trial:
    """One process that was killed, and the run after it.

    Attributes:
        number: which one.
        scene: name of it.
        death: when it was to die.
        died: whether it did, or had come to its end before.
        seconds: that the run after it took.
        problems: everything that is not as it has to be.
    """

    number: int
    scene: str
    death: Death
    died: bool
    seconds: float
    problems: tuple[str, ...]


def _processes() -> Any:
    """Processes forked from one that has imported everything; started anew each time where there is no fork."""
    if sys.platform == "win32":
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["postval_assets_tests.crash.victim"])
    return context


def prepare(folder: Path, names: Sequence[str] | None = None) -> list[Measured]:
    """Act every scene of these names undisturbed, the first one always; all where none is given."""
    measured: list[Measured] = []
    for scene in make_scenes(folder):
        if measured and names is not None and scene.name not in names:
            continue
        if scene.before is not None and not scene.before.exists():
            shutil.copytree(undisturbed_of(folder, measured[0].scene), scene.before)
        measured.append(_measure(scene, folder))
    return measured


def undisturbed_of(folder: Path, scene: Scene) -> Path:
    """The data directory that a scene leaves when nobody disturbs it."""
    return folder / f"undisturbed-{scene.name.replace(' ', '-')}"


def measure(folder: Path, *, by_dagster: bool) -> Measured:
    """Act the first scene of its kind undisturbed, with everything that it needs below a folder."""
    scene = next(s for s in make_scenes(folder) if s.by_dagster == by_dagster)
    return _measure(scene, folder)


def _measure(scene: Scene, folder: Path) -> Measured:
    after = run_to_the_end(scene, undisturbed_of(folder, scene), look_first=False)
    if after.left is None:
        raise RuntimeError(f"{scene.name} fails undisturbed:\n{after.error}")
    if after.left.problems or after.left.left_over or not after.replica_current:
        raise RuntimeError(f"{scene.name}, undisturbed: {after.left.problems} {after.left.left_over}")
    return Measured(scene, after.seconds, after.n_events, after.left)


def deaths(measured: Sequence[Measured], n: int, seed: int) -> Iterator[tuple[Measured, Death]]:
    """Instants to die at: of all scenes and kinds in turn, each at random."""
    chance = random.Random(seed)  # noqa: S311 - the same instants for the same seed
    for number in range(n):
        one = measured[number % len(measured)]
        kind = _KINDS[number // len(measured) % len(_KINDS)]
        at = {"time": chance.uniform(0, one.seconds), "inside": chance.uniform(0, _INSIDE_SECONDS)}
        yield one, Death(kind, at.get(kind, 0.0), 0 if kind == "time" else chance.randint(1, one.n_events))


def run_trials(
    folder: Path,
    measured: Sequence[Measured],
    n: int,
    seed: int,
    *,
    jobs: int = 2,
    say: Callable[[Trial], None] = lambda _: None,
) -> list[Trial]:
    """Kill so many processes, some at a time."""
    planned = list(enumerate(deaths(measured, n, seed), start=1))
    with ThreadPoolExecutor(jobs) as pool:
        trials = []
        for trial in pool.map(lambda p: _trial(folder, p[0], *p[1]), planned):
            say(trial)
            trials.append(trial)
    return trials


def _trial(folder: Path, number: int, measured: Measured, death: Death) -> Trial:
    scene = measured.scene
    data_dir = folder / f"trial-{number}"
    _remove(data_dir)
    died = not _worked(scene, data_dir, death)
    after = run_to_the_end(scene, data_dir, look_first=True)
    problems = list(_problems(after, measured))
    if not problems:
        _remove(data_dir)
    return Trial(number, scene.name, death, died, after.seconds, tuple(problems))


def _problems(after: After, measured: Measured) -> Iterable[str]:
    if after.found is not None:
        yield from (f"right after the kill: {p}" for p in after.found.problems)
    if after.left is None:
        yield f"the run after it failed: {after.error}"
        return
    yield from after.left.problems
    yield from (f"left over: {p}" for p in after.left.left_over)
    yield from differences(after.left, measured.left)
    if not after.replica_current:
        yield "the replica is not what the warehouse holds"


def _worked(scene: Scene, data_dir: Path, death: Death) -> bool:
    """Work in a process of its own; whether it came to its end."""
    if scene.before is not None:
        shutil.copytree(scene.before, data_dir)
    context = _processes()
    here, there = context.Pipe()
    process = context.Process(target=work, args=(scene, data_dir, _log(data_dir), death, there))
    process.start()
    there.close()
    try:
        if death.kind == "time" and _received(here) == "begun":
            process.join(death.at)
            process.kill()
        process.join(_PATIENCE_S)
        if process.is_alive():
            raise TimeoutError(f"a process of {scene.name} hangs: {_text_of(_log(data_dir))}")
        said = []
        while (told := _received(here)) is not None:
            said.append(told)
        return "ended" in said
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()


def _received(connection: Connection) -> object:
    """What is said next; None where the other side is gone."""
    with contextlib.suppress(EOFError, OSError):
        return connection.recv()
    return None


def run_to_the_end(scene: Scene, data_dir: Path, *, look_first: bool, notes: Path | None = None) -> After:
    """Act a scene to its end in a process of its own, and look at what it leaves.

    Args:
        scene: which.
        data_dir: where; what the scene begins with is put there if nothing is.
        look_first: whether to look at what is there before.
        notes: what the process says and reports goes there with other endings; default beside the directory.
    """
    if scene.before is not None and not data_dir.exists():
        shutil.copytree(scene.before, data_dir)
    log, report = _log(notes or data_dir), (notes or data_dir).with_suffix(".json")
    report.unlink(missing_ok=True)
    process = _processes().Process(
        target=recover, args=(scene, data_dir, log, report), kwargs={"look_first": look_first}
    )
    process.start()
    process.join(_PATIENCE_S)
    try:
        if process.is_alive():
            return After(_PATIENCE_S, 0, f"it hangs: {_text_of(log)}")
        if not report.is_file():
            return After(0.0, 0, f"it ended with {process.exitcode}: {_text_of(log)}")
        return read_report(report)
    finally:
        process.kill()
        process.join()
        process.close()


def table(trials: Sequence[Trial]) -> str:
    """The figures, a line for each scene and kind of death."""
    lines = [f"{'scene':32} {'killed':>7} {'trials':>7} {'died':>6} {'same':>6} {'longest run after it':>21}"]
    groups = Counter((t.scene, t.death.kind) for t in trials)
    for (scene, kind), n in groups.items():
        of = [t for t in trials if (t.scene, t.death.kind) == (scene, kind)]
        died, same = sum(t.died for t in of), sum(not t.problems for t in of)
        lines.append(f"{scene:32} {kind:>7} {n:>7} {died:>6} {same:>6} {max(t.seconds for t in of):>19.1f} s")
    died, same = sum(t.died for t in trials), sum(not t.problems for t in trials)
    lines.append(f"{'all':32} {'':>7} {len(trials):>7} {died:>6} {same:>6}")
    return "\n".join(lines)


def _log(data_dir: Path) -> Path:
    return data_dir.with_suffix(".log")


def _text_of(log: Path) -> str:
    return log.read_text(encoding="utf-8", errors="replace")[-2000:] if log.is_file() else "it said nothing"


def _remove(data_dir: Path) -> None:
    shutil.rmtree(data_dir, ignore_errors=True)
    for suffix in (".log", ".json"):
        data_dir.with_suffix(suffix).unlink(missing_ok=True)
