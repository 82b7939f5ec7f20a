"""``python -m postval_assets_tests.crash --kills 200 --seed 1``: kill as often as one likes, and print the figures.

``--daemon N`` kills processes of a real ``postval up`` instead, N times, each at a random instant of an archive's way.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from postval_assets_tests.crash.daemon import run_daemon_trials
from postval_assets_tests.crash.trials import Trial, prepare, run_trials, table


def main() -> int:
    """The exit code: 0 where every directory came out as if nobody had been killed."""
    parser = argparse.ArgumentParser(prog="python -m postval_assets_tests.crash", description=__doc__)
    parser.add_argument("--kills", type=int, default=200, help="processes that are killed (default 200)")
    parser.add_argument("--daemon", type=int, default=0, help="kills of a real platform instead")
    parser.add_argument("--seed", type=int, default=1, help="of the instants")
    parser.add_argument("--jobs", type=int, default=2, help="trials at a time")
    parser.add_argument(
        "--dir", type=Path, help="where the directories of failures stay; default a temporary one"
    )
    options = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="postval-crash-") as temporary:
        folder = (options.dir or Path(temporary)).absolute()
        if options.daemon:
            trials = run_daemon_trials(folder, options.daemon, options.seed, say=_say)
        else:
            measured = prepare(folder)
            for one in measured:
                print(
                    f"{one.scene.name}: {one.seconds:.1f} s undisturbed, {one.n_events} operations on files"
                )
            trials = run_trials(folder, measured, options.kills, options.seed, jobs=options.jobs, say=_say)
    print(table(trials))
    print(f"seed {options.seed}, {time.monotonic() - started:.0f} s")
    return 1 if any(t.problems for t in trials) else 0


def _say(trial: Trial) -> None:
    if trial.problems:
        print(f"trial {trial.number}, {trial.scene}, {trial.death}:")
        for problem in trial.problems:
            print(f"    {problem}")
    elif trial.number % 20 == 0:
        print(f"{trial.number} ...", flush=True)


if __name__ == "__main__":
    sys.exit(main())
