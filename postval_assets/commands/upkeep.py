"""``postval migrate``, ``backup`` and ``restore``: the warehouse's schema, its copies, and Dagster's own schema.

Here: what is done in which order, and under the lock that keeps `postval up` away. Not here: copies and migrations
themselves (io/backups.py, io/warehouse.py).
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from postval_assets.commands.home import prepare_home
from postval_assets.commands.occupancy import held
from postval_assets.commands.pruning import size_text
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.backups import Backup, list_backups
from postval_assets.pipeline.platform import Platform
from postval_assets.report.text import instant, table
from postval_assets.settings import child_environment

_DAGSTER_SECONDS = 600.0


@dataclass(frozen=True)
class Migrated:
    """What `postval migrate` did.

    Attributes:
        before: the warehouse's schema version; 0 where there was none.
        after: its version now.
        backup: the copy that was made first; None where no migration was due.
        dagster: whether Dagster's own storage was there and brought up to date.
    """

    before: int
    after: int
    backup: Path | None
    dagster: bool

    def text(self) -> str:
        """In words."""
        if self.before == 0:
            schema = f"warehouse: made, schema {self.after}"
        elif self.before == self.after:
            schema = f"warehouse: schema {self.after} already; views and comments made anew"
        else:
            schema = f"warehouse: schema {self.before} to {self.after}; the backup before it is {self.backup}"
        dagster = "brought up to date" if self.dagster else "not set up yet, postval up does it"
        return f"{schema}\ndagster: {dagster}"


def migrate(platform: Platform) -> Migrated:
    """Bring the warehouse and Dagster's storage up to this version of the code, each after its own checks.

    Raises:
        Rejected: while postval up works here, or for a warehouse that is newer than the code.
        Unavailable: where Dagster's migration fails, with the end of what it said.
    """
    with held(platform.settings):
        warehouse = platform.warehouse
        before = warehouse.schema_version()
        there = {b.path for b in list_backups(warehouse.backups)}
        warehouse.migrate(now=platform.now())
        made = [b.path for b in list_backups(warehouse.backups) if b.path not in there]
        after = warehouse.schema_version()
        warehouse.publish(platform.replica)
        return Migrated(before, after, made[-1] if made else None, _migrate_dagster(platform))


def _migrate_dagster(platform: Platform) -> bool:
    home = platform.settings.data_dir / "dagster"
    if not (home / "dagster.yaml").is_file():
        return False
    done = subprocess.run(
        [sys.executable, "-m", "dagster", "instance", "migrate"],
        env=child_environment(platform.settings),
        # Not in this folder: Dagster reads a .env there, and lets it win over the environment given here.
        cwd=home,
        capture_output=True,
        text=True,
        timeout=_DAGSTER_SECONDS,
        check=False,
    )
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or "no message").splitlines()[-1]
        raise Unavailable(f"dagster instance migrate ended with code {done.returncode} in {home}: {said}")
    return True


def back_up(platform: Platform) -> Backup:
    """A verified copy of the warehouse as it is now.

    Raises:
        Rejected: there is no warehouse yet, or it is damaged.
        Unavailable: the lock or the disk.
    """
    _require_warehouse(platform)
    path = platform.warehouse.make_backup(now=platform.now())
    return next(b for b in list_backups(platform.warehouse.backups) if b.path == path)


def backups_text(platform: Platform) -> str:
    """Every copy, oldest first."""
    found = list_backups(platform.warehouse.backups)
    if not found:
        return f"no backup in {platform.warehouse.backups}"
    rows = [(b.path.name, instant(b.made_at), b.schema_version, size_text(b.size_bytes)) for b in found]
    return table(("backup", "made", "schema", "size"), rows)


@dataclass(frozen=True)
class Restored:
    """What `postval restore` did.

    Attributes:
        backup: the copy that is in force again.
        aside: where the warehouse from before lies; None where there was none.
        n_archives: archives that it knows.
        unknown: zips in the store that it does not know, which were delivered after it was made.
    """

    backup: Path
    aside: Path | None
    n_archives: int
    unknown: tuple[Path, ...]

    def text(self) -> str:
        """In words."""
        lines = [f"restored {self.backup}: {self.n_archives} archive(s)"]
        if self.aside is not None:
            lines.append(f"what was there before is {self.aside}")
        lines += [f"note: delivered after it was made: postval validate {path}" for path in self.unknown]
        return "\n".join(lines)


def restore(platform: Platform, file: Path) -> Restored:
    """Put a copy in the warehouse's place; what was there is kept aside.

    Args:
        platform: settings and warehouse.
        file: a path, or the name of one of the backups.

    Raises:
        Rejected: while postval up works here, or for a file that is none of its copies.
        Unavailable: the lock or the disk.
    """
    backup = _backup_named(platform, file)
    prepare_home(platform.settings)
    with held(platform.settings):
        aside = platform.warehouse.restore(backup, now=platform.now())
        platform.warehouse.publish(platform.replica)
        rows = platform.warehouse.rows("SELECT sha256 FROM training_archives")
    known = {row["sha256"] for row in rows}
    stored = sorted((platform.settings.data_dir / "archives").glob("*.zip"))
    unknown = tuple(path for path in stored if path.stem not in known)
    return Restored(backup, aside, len(rows), unknown)


def _backup_named(platform: Platform, file: Path) -> Path:
    places = [file.absolute(), platform.warehouse.backups / file.name]
    found = next((path for path in places if path.is_file()), None)
    if found is None:
        names = [b.path.name for b in list_backups(platform.warehouse.backups)]
        raise Rejected(f"{file} is not there: expected a path, or one of {_listed(names)}")
    return found


def _listed(names: Sequence[str]) -> str:
    return ", ".join(reversed(names[-5:])) or "the backups (there is none yet)"


def _require_warehouse(platform: Platform) -> None:
    if not platform.warehouse.path.is_file():
        raise Rejected(f"there is no warehouse in {platform.warehouse.path.parent} yet: nothing to back up")
