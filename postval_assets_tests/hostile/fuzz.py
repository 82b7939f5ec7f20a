"""Changing valid files at random, for as long as one likes, and holding the readers to what they promise.

Here: the loop, what counts as a surprise, keeping and replaying one. Not here: the changes (mutations.py), the readers
(fuzz_readers.py).

``python -m postval_assets_tests.hostile.fuzz --seconds 600 --seed 7 --reader checkpoint``. A case is made by its seed,
its reader and its number alone, so it can be made again. A surprise is kept as a file, which ``--replay FILE`` reads.
"""

from __future__ import annotations

import argparse
import faulthandler
import itertools
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from random import Random

from postval_assets.core.failures import Rejected
from postval_assets_tests.hostile.canary import limit_this_process, watch
from postval_assets_tests.hostile.fuzz_readers import READERS, Reader

SECONDS_BOUND = 10.0
MEMORY_BOUND_BYTES = 2**28
DISK_BOUND_BYTES = 2**26
_ADDRESS_SPACE_BYTES = 12 * 2**30
# By the clock: a case that takes this long has to be ended from outside.
_HANG_SECONDS = 60.0
# What a process that was killed by its own input had on its hands.
_AT_WORK = "at-work.json"


@dataclass(frozen=True)
class Surprise:
    """A case that did not end as promised.

    Attributes:
        reader, seed, number: which case.
        what: happened.
        kept: its file.
    """

    reader: str
    seed: int
    number: int
    what: str
    kept: str


@dataclass
class Count:
    """One reader's figures."""

    cases: int = 0
    refused: int = 0
    accepted: int = 0
    surprises: list[Surprise] = field(default_factory=list)


def case_of(reader: Reader, seed: int, number: int) -> bytes:
    """The changed file of that number."""
    return reader.change(Random(f"{seed} {reader.name} {number}"))  # noqa: S311 - not a secret


def fuzz(
    readers: Sequence[Reader],
    seed: int,
    keep: Path,
    *,
    seconds: float = float("inf"),
    max_cases: int | None = None,
    first: int = 0,
    hang_seconds: float | None = None,
) -> dict[str, Count]:
    """Read changed files, the readers in turn, until the time or the number of cases is over.

    Args:
        readers: which.
        seed: of all changes.
        keep: where surprises are kept.
        seconds: at most.
        max_cases: of each reader at most.
        first: number of the first case.
        hang_seconds: after which a case that does not end ends this process; None for never.
    """
    counts = {reader.name: Count() for reader in readers}
    end = time.monotonic() + seconds
    numbers: Iterator[int] = (
        itertools.count(first) if max_cases is None else iter(range(first, first + max_cases))
    )
    keep.mkdir(parents=True, exist_ok=True)
    at_work = keep / _AT_WORK
    with tempfile.TemporaryDirectory() as folder:
        for number, reader in (
            itertools.product(numbers, readers) if max_cases else _endless(numbers, readers)
        ):
            if time.monotonic() > end:
                break
            at_work.write_text(json.dumps([reader.name, seed, number, _figures(counts)]))
            data = case_of(reader, seed, number)
            if hang_seconds is not None:
                faulthandler.dump_traceback_later(hang_seconds, exit=True)
            outcome, what = run_case(reader, data, Path(folder) / "case")
            count = counts[reader.name]
            count.cases += 1
            count.refused += outcome == "refused"
            count.accepted += outcome == "accepted"
            if what:
                kept = keep / f"{reader.name}-{seed}-{number}.bin"
                kept.write_bytes(data)
                count.surprises.append(Surprise(reader.name, seed, number, "; ".join(what), str(kept)))
    faulthandler.cancel_dump_traceback_later()
    at_work.unlink(missing_ok=True)
    return counts


def _endless(numbers: Iterator[int], readers: Sequence[Reader]) -> Iterator[tuple[int, Reader]]:
    for number in numbers:
        for reader in readers:
            yield number, reader


def run_case(reader: Reader, data: bytes, folder: Path) -> tuple[str, list[str]]:
    """What became of one file (refused, accepted or failed), and everything about it that is a surprise."""
    shutil.rmtree(folder, ignore_errors=True)
    sandbox = folder / "data"
    sandbox.mkdir(parents=True)
    # The processor's time: what else runs on the machine is not the reader's fault.
    begun = time.process_time()
    seen = watch(
        lambda: reader.read(data, sandbox),
        sandbox=sandbox,
        memory_bound_bytes=MEMORY_BOUND_BYTES,
        disk_bound_bytes=DISK_BOUND_BYTES,
    )
    seconds = time.process_time() - begun
    found = list(seen.noticed)
    if seconds > SECONDS_BOUND:
        found.append(f"time over the bound: {seconds:.1f} s, at most {SECONDS_BOUND:.0f}")
    if seen.error is None:
        return "accepted", [*found, *(seen.result or ())]
    if not isinstance(seen.error, Rejected):
        # Unavailable too: these bytes will never be others, and would be tried for ever.
        return "failed", [*found, f"{type(seen.error).__name__}: {ascii(str(seen.error))[:300]}"]
    told = str(seen.error)
    if not (told.isascii() and told.isprintable()):
        found.append(f"told in unsafe text: {told[:200]!a}")
    return "refused", found


def replay(file: Path) -> list[str]:
    """Read a kept file again; what is still a surprise about it."""
    reader = READERS[file.name.partition("-")[0]]
    with tempfile.TemporaryDirectory() as folder:
        return run_case(reader, file.read_bytes(), Path(folder) / "case")[1]


def _figures(counts: Mapping[str, Count]) -> dict[str, dict[str, object]]:
    return {name: asdict(count) for name, count in counts.items()}


def table(counts: Mapping[str, Count]) -> str:
    """The figures as text."""
    lines = [f"{'reader':<12}{'cases':>9}{'refused':>9}{'accepted':>10}{'surprises':>11}"]
    lines += [
        f"{name:<12}{c.cases:>9}{c.refused:>9}{c.accepted:>10}{len(c.surprises):>11}"
        for name, c in counts.items()
    ]
    surprises = [found for count in counts.values() for found in count.surprises]
    lines += [f"{found.reader} {found.number}: {found.what}\n  kept as {found.kept}" for found in surprises]
    return "\n".join(lines)


def _in_processes(names: Sequence[str], seed: int, seconds: float, keep: Path) -> dict[str, Count]:
    """The loop in a process of its own; where a file kills it, that is a surprise, and another one goes on after it."""
    counts = {name: Count() for name in names}
    end, first = time.monotonic() + seconds, 0
    while (left := end - time.monotonic()) > 0:
        command = [
            sys.executable,
            "-m",
            __spec__.name if __spec__ else __name__,
            "--worker",
            "--first",
            str(first),
        ]
        command += [
            "--seconds",
            str(left),
            "--seed",
            str(seed),
            "--keep",
            str(keep),
            "--reader",
            ",".join(names),
        ]
        done = subprocess.run(command, stdout=subprocess.PIPE, check=False)
        if done.returncode == 0:
            _add(counts, json.loads(done.stdout.splitlines()[-1]))
            break
        reader, _, number, figures = json.loads((keep / _AT_WORK).read_text())
        _add(counts, figures)
        kept = keep / f"{reader}-{seed}-{number}.bin"
        kept.write_bytes(case_of(READERS[reader], seed, number))
        counts[reader].cases += 1
        what = f"it did not end in {_HANG_SECONDS:.0f} s, or killed its process ({done.returncode})"
        counts[reader].surprises.append(Surprise(reader, seed, number, what, str(kept)))
        first = number + 1
    return counts


def _add(counts: dict[str, Count], figures: Mapping[str, Mapping[str, object]]) -> None:
    for name, found in figures.items():
        count = counts[name]
        count.cases += int(str(found["cases"]))
        count.refused += int(str(found["refused"]))
        count.accepted += int(str(found["accepted"]))
        listed = found["surprises"]
        count.surprises += [Surprise(**entry) for entry in listed] if isinstance(listed, list) else []


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit status is 1 where there was a surprise."""
    parser = argparse.ArgumentParser(prog="python -m postval_assets_tests.hostile.fuzz", description=__doc__)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--reader", default=",".join(READERS), help="archive, summary, checkpoint; several with commas"
    )
    parser.add_argument("--keep", type=Path, default=Path("fuzz-surprises"), help="where surprises are kept")
    parser.add_argument("--replay", type=Path, help="read a kept file again")
    parser.add_argument("--first", type=int, default=0, help="number of the first case")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args(arguments)
    if given.replay is not None:
        found = replay(given.replay)
        _say("\n".join(found) or "no surprise")
        return 1 if found else 0
    names = given.reader.split(",")
    if given.worker:
        faulthandler.enable()
        warm_up()
        limit_this_process(address_space_bytes=_ADDRESS_SPACE_BYTES, file_bytes=4 * DISK_BOUND_BYTES)
        readers = [READERS[name] for name in names]
        counts = fuzz(
            readers,
            given.seed,
            given.keep,
            seconds=given.seconds,
            first=given.first,
            hang_seconds=_HANG_SECONDS,
        )
        _say(json.dumps(_figures(counts)))
        return 0
    given.keep.mkdir(parents=True, exist_ok=True)
    counts = _in_processes(names, given.seed, given.seconds, given.keep.resolve())
    _say(f"seed {given.seed}, {given.seconds:.0f} s\n{table(counts)}")
    return 1 if any(count.surprises for count in counts.values()) else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")


def warm_up() -> None:
    """Make what all cases start from, and import what reading imports, so that no case is charged with it."""
    with tempfile.TemporaryDirectory() as folder:
        for reader in READERS.values():
            for number in range(5):
                run_case(reader, case_of(reader, 0, number), Path(folder) / "case")


if __name__ == "__main__":
    sys.exit(main())
