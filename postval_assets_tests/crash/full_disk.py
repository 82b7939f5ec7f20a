"""``python -m postval_assets_tests.crash.full_disk --steps 40``: a disk that is full, sooner or later in a run.

A file system of its own in memory (so a real one, with the system's own errors) is filled but for some bytes; an
archive is validated until that is used up; then there is space again, and the same is done again. More and more is
left free, so that each stage in turn is the one that fails. Needs Linux, and the right to mount in a namespace.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from postval_assets.core.failures import Unavailable
from postval_assets.io.warehouse import MIGRATIONS, Warehouse
from postval_assets_tests.crash.looking import differences
from postval_assets_tests.crash.trials import Measured, measure, run_to_the_end, undisturbed_of
from postval_assets_tests.crash.victim import After

_DISK_MB = 96
# A first run needs this much more than it leaves: copies that come into place, and databases' own room.
_ROOM = 1.3


@dataclass(frozen=True)
class Step:
    """One run with so much space.

    Attributes:
        free_bytes: when it began.
        told: what it ended with, in its own words; None where the space was enough.
        problems: everything that is not as it has to be.
    """

    free_bytes: int
    told: str | None
    problems: tuple[str, ...]


def can_mount() -> bool:
    """Whether this system gives a process a file system of its own."""
    if sys.platform != "linux" or shutil.which("unshare") is None:
        return False
    with tempfile.TemporaryDirectory() as folder:
        return (
            subprocess.run(_mounted(Path(folder), ["true"]), capture_output=True, check=False).returncode == 0
        )


def _mounted(disk: Path, command: list[str]) -> list[str]:
    """A command with a small disk of its own at that folder, which goes with it."""
    mount = f'mount -t tmpfs -o size={_DISK_MB}m tmpfs "$0" && exec "$@"'
    return ["unshare", "--mount", "--map-root-user", "sh", "-c", mount, str(disk), *command]


def run_full_disk(n_steps: int, *, by_dagster: bool) -> list[Step]:
    """So many runs, from no space at all to enough, and a migration without the space for its backup."""
    with tempfile.TemporaryDirectory(prefix="postval-full-") as folder:
        disk = Path(folder) / "disk"
        disk.mkdir()
        report = Path(folder) / "steps.json"
        command = [sys.executable, "-m", __spec__.name, "--inside", folder, "--steps", str(n_steps)]
        command += ["--by-dagster"] if by_dagster else []
        done = subprocess.run(_mounted(disk, command), capture_output=True, text=True, check=False)
        if done.returncode or not report.is_file():
            raise RuntimeError(f"{done.stdout[-2000:]}{done.stderr[-4000:]}")
        content = json.loads(report.read_text(encoding="utf-8"))
    return [Step(s["free_bytes"], s["told"], tuple(s["problems"])) for s in content]


def _inside(folder: Path, n_steps: int, *, by_dagster: bool) -> list[Step]:
    """With the small disk mounted at ``folder/disk``."""
    disk = folder / "disk"
    measured = measure(folder / "undisturbed", by_dagster=by_dagster)
    used = sum(f.stat().st_size for f in (folder / "undisturbed").rglob("*") if f.is_file())
    most = int(_ROOM * used)
    steps = [_step(disk, measured, most * n // (n_steps - 1)) for n in range(n_steps)]
    return [*steps, _backup_step(disk, folder, measured)]


def _backup_step(disk: Path, folder: Path, measured: Measured) -> Step:
    """A newer schema makes a copy of the warehouse first: without the space for it nothing is changed."""
    _empty(disk)
    path = disk / "data" / "warehouse" / "warehouse.duckdb"
    shutil.copytree(undisturbed_of(folder / "undisturbed", measured.scene) / "warehouse", path.parent)
    newer = folder / "migrations"
    shutil.copytree(MIGRATIONS, newer)
    (newer / "9999_newer.sql").write_text("CREATE TABLE newer (x INTEGER)", encoding="utf-8")
    before = Warehouse(path).schema_version()
    warehouse = Warehouse(path, migrations=newer)
    free_bytes = path.stat().st_size // 2
    filler = _fill(disk, free_bytes)
    told, problems = None, []
    try:
        warehouse.migrate(now=datetime.now(UTC))
    except Unavailable as error:
        told = str(error)
    if told is None or "the disk is full" not in told:
        problems.append(f"a migration without the space for its copy: {told}")
    if left := [p.name for p in warehouse.backups.glob("*")]:
        problems.append(f"half of a backup stays: {left}")
    filler.unlink()
    if (version := warehouse.schema_version()) != before:
        problems.append(f"without a copy the schema went from {before} to {version}")
    if warehouse.migrate(now=datetime.now(UTC)) != [9999] or len(list(warehouse.backups.iterdir())) != 1:
        problems.append("with space the migration does not come with its copy")
    return Step(free_bytes, told, tuple(problems))


def _step(disk: Path, measured: Measured, free_bytes: int) -> Step:
    _empty(disk)
    filler = _fill(disk, free_bytes)
    data_dir, notes = disk / "data", disk.with_name("notes")
    first = run_to_the_end(measured.scene, data_dir, look_first=False, notes=notes)
    problems = list(_first_problems(first, data_dir))
    filler.unlink()
    second = run_to_the_end(measured.scene, data_dir, look_first=True, notes=notes)
    problems += _second_problems(second, measured)
    return Step(free_bytes, first.told, tuple(problems))


def _empty(disk: Path) -> None:
    for left in disk.iterdir():
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def _fill(disk: Path, free_bytes: int) -> Path:
    """A file that leaves so much of the disk free."""
    filler = disk / "filler"
    with filler.open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, max(1, shutil.disk_usage(disk).free - free_bytes))
    return filler


def _first_problems(after: After, data_dir: Path) -> Iterator[str]:
    """A run that has no space says so, names the place and the mend, and leaves nothing half-written."""
    if after.error is None:
        return
    told = after.told or ""
    if "the disk is full" not in told or "free some space" not in told or str(data_dir) not in told:
        yield f"it is not told that {data_dir} is full: {told or after.error}"
    if "\n" in told:
        yield f"it is told in several lines: {told}"
    scratch = data_dir / "scratch"
    for path in [*data_dir.rglob("*.part"), *data_dir.glob("*.publishing*"), *scratch.glob("*")]:
        yield f"half-written: {path.relative_to(data_dir)}"


def _second_problems(after: After, measured: Measured) -> Iterator[str]:
    if after.found is not None:
        yield from (f"after the full disk: {p}" for p in after.found.problems)
    if after.left is None:
        yield f"the run with space failed: {after.error}"
        return
    yield from after.left.problems
    yield from (f"left over: {p}" for p in after.left.left_over)
    yield from differences(after.left, measured.left)
    if not after.replica_current:
        yield "the replica is not what the warehouse holds"


def main() -> int:
    """The exit code: 0 where each run with space came out as if there had been space all the time."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=40, help="runs (default 40)")
    parser.add_argument(
        "--by-dagster", action="store_true", help="as postval validate; else the stages alone"
    )
    parser.add_argument("--inside", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.inside is not None:
        steps = _inside(options.inside, options.steps, by_dagster=options.by_dagster)
        report = options.inside / "steps.json"
        report.write_text(json.dumps([asdict(s) for s in steps]), encoding="utf-8")
        return 0
    steps = run_full_disk(options.steps, by_dagster=options.by_dagster)
    for step in steps:
        print(f"{step.free_bytes / 1e6:7.2f} MB  {(step.told or 'enough')[:200]}")
        for problem in step.problems:
            print(f"            {problem}")
    failed = sum(s.told is not None for s in steps)
    same = sum(not s.problems for s in steps)
    print(f"{len(steps)} runs, {failed} had too little space; {same} as they have to be")
    return 0 if same == len(steps) else 1


if __name__ == "__main__":
    sys.exit(main())
