"""``postval prune``: what retention frees, shown before anything is done.

Here: putting together what the stores and Dagster's instance would free, and freeing it. Not here: the rules
(pipeline/retention.py, run_history.py), or words of the command line.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import dagster as dg

from postval_assets.commands.home import open_instance
from postval_assets.commands.occupancy import held, is_held
from postval_assets.commands.run_history import OldRun, busy_archives, forget_run, old_runs
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.retention import Removable, Rule, removable, remove_files
from postval_assets.report.text import table

RUN_ID = "prune"
RUNS = "runs"

_UNITS = ("B", "kB", "MB", "GB", "TB")
_SETTINGS = {
    Rule.ARCHIVES: "keep_archives_days",
    Rule.WEIGHTS: "keep_weights_days",
    Rule.REJECTED: "keep_rejected_days",
}


@dataclass(frozen=True)
class Prunable:
    """What would be freed.

    Attributes:
        files: of the stores.
        runs: of Dagster.
        notes: what is left out, and why.
    """

    files: tuple[Removable, ...]
    runs: tuple[OldRun, ...]
    notes: tuple[str, ...]

    @property
    def size_bytes(self) -> int:
        """All together."""
        return sum(f.size_bytes for f in self.files) + sum(r.size_bytes for r in self.runs)

    def __bool__(self) -> bool:
        """Whether there is anything."""
        return bool(self.files or self.runs)


def find_prunable(platform: Platform) -> Prunable:
    """What the settings keep no longer; nothing is touched."""
    instance = _instance(platform)
    busy = busy_archives(instance) if instance is not None else set()
    files = removable(platform, busy=busy)
    unset = {r.value: name for r, name in _SETTINGS.items() if getattr(platform.settings, name) is None}
    notes = [f"kept for ever: {', '.join(unset)} (not set: {', '.join(unset.values())})"] if unset else []
    runs: list[OldRun] = []
    if instance is not None:
        home = platform.settings.data_dir / "dagster"
        runs = old_runs(instance, home, now=platform.now(), days=platform.settings.keep_runs_days)
    if runs and is_held(platform.settings):
        notes.append(
            f"{len(runs)} old runs of Dagster's are left alone while postval up works: stop it first"
        )
        runs = []
    return Prunable(tuple(files), tuple(runs), tuple(notes))


def prune(platform: Platform, found: Prunable) -> None:
    """Free what was found; one that is killed in the middle is finished by the next.

    Raises:
        Unavailable: after everything else was removed, with what could not be.
    """
    failures = remove_files(platform, found.files, run_id=RUN_ID)
    failures += _forget_runs(platform, found.runs)
    if platform.warehouse.path.is_file():
        platform.warehouse.publish(platform.replica)
    if failures:
        raise Unavailable(
            f"{'; '.join(failures[:5])}{'; ...' if len(failures) > 5 else ''}: close what uses them and prune again"
        )


def prunable_text(found: Prunable) -> str:
    """Everything that would go, each with its rule, reason and size, and the sum of each rule."""
    lines = [(f.rule.value, f.name, f.why, size_text(f.size_bytes)) for f in found.files]
    lines += [(RUNS, r.run_id, _run_words(r), size_text(r.size_bytes)) for r in found.runs]
    text = [table(("rule", "what", "why", "size"), lines), ""] if lines else []
    sums = [(rule.value, [f.size_bytes for f in found.files if f.rule is rule]) for rule in Rule]
    sums.append((RUNS, [r.size_bytes for r in found.runs]))
    said = [f"{len(sizes)} {name}: {size_text(sum(sizes))}" for name, sizes in sums if sizes]
    text.append("; ".join([*said, f"together {size_text(found.size_bytes)}"]) if said else "nothing to free")
    return "\n".join([*text, *(f"note: {note}" for note in found.notes)])


def size_text(n_bytes: float) -> str:
    """A size as people say it: three digits and a unit of 1024."""
    unit = 0
    while n_bytes >= 1000 and unit < len(_UNITS) - 1:
        n_bytes, unit = n_bytes / 1024, unit + 1
    return f"{n_bytes:.0f} {_UNITS[unit]}" if n_bytes >= 10 or unit == 0 else f"{n_bytes:.1f} {_UNITS[unit]}"


def _run_words(run: OldRun) -> str:
    return (
        "files of a run that is forgotten" if run.ended is None else f"{run.job}, ended {run.ended:%Y-%m-%d}"
    )


def _instance(platform: Platform) -> dg.DagsterInstance | None:
    """Dagster's instance, where there is one already."""
    if not (platform.settings.data_dir / "dagster" / "dagster.yaml").is_file():
        return None
    return open_instance(platform.settings)


def _forget_runs(platform: Platform, runs: Sequence[OldRun]) -> list[str]:
    if not runs:
        return []
    try:
        with held(platform.settings):
            instance = open_instance(platform.settings)
            return [failure for run in runs for failure in forget_run(instance, run)]
    except Rejected as error:
        return [str(error)]
