"""The memory of a tree of processes while it works: the peak of its sum, and of each kind of process.

Here: sampling from a thread of its own. Not here: starting or stopping what is watched.

A process counts with its proportional share of memory (PSS) where the system says it, so that pages which several
share are counted once; else with its resident memory (RSS), which counts them in each.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import psutil

INTERVAL_S = 0.25


@dataclass(frozen=True)
class Sample:
    """One look at a tree.

    Attributes:
        bytes_by_kind: memory of the processes of a kind together.
        n_processes: in the tree.
    """

    bytes_by_kind: Mapping[str, int]
    n_processes: int

    @property
    def total_bytes(self) -> int:
        """Over all kinds."""
        return sum(self.bytes_by_kind.values())


@dataclass
class Peaks:
    """The largest that was seen so far.

    Attributes:
        total_bytes: of the sum over all processes.
        bytes_by_kind: of each kind, each at its own moment.
        n_samples: looks that were taken.
        n_processes: most processes at once.
    """

    total_bytes: int = 0
    bytes_by_kind: dict[str, int] = field(default_factory=dict)
    n_samples: int = 0
    n_processes: int = 0

    def take(self, sample: Sample) -> None:
        """Count one sample in."""
        self.n_samples += 1
        self.total_bytes = max(self.total_bytes, sample.total_bytes)
        self.n_processes = max(self.n_processes, sample.n_processes)
        for kind, n_bytes in sample.bytes_by_kind.items():
            self.bytes_by_kind[kind] = max(self.bytes_by_kind.get(kind, 0), n_bytes)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, in MB."""
        return {
            "peak_mb": round(self.total_bytes / 1e6, 1),
            "peak_mb_by_kind": {k: round(v / 1e6, 1) for k, v in sorted(self.bytes_by_kind.items())},
            "most_processes": self.n_processes,
            "samples": self.n_samples,
        }


def memory_of(process: psutil.Process) -> int:
    """Bytes of one process: its proportional share where the system says it, else what is resident.

    Raises:
        psutil.Error: where it has ended, or belongs to somebody else.
    """
    # Named by psutil on Linux alone.
    share = getattr(process.memory_full_info(), "pss", None)
    return int(process.memory_info().rss if share is None else share)


def kind_of(process: psutil.Process) -> str:
    """What part a process plays: ``daemon``, ``code server``, ``run worker`` or ``other``.

    Raises:
        psutil.Error: where it has ended, or belongs to somebody else.
    """
    words = process.cmdline()
    line = " ".join(words)
    if "execute_run" in line or "spawn_main" in line or "execute_step" in line:
        return "run worker"
    if "grpc" in words or "code-server" in words:
        return "code server"
    if "dagster-daemon" in line or "dagster._daemon" in line:
        return "daemon"
    return "other"


def sample_tree(root: psutil.Process, kind: Callable[[psutil.Process], str] = kind_of) -> Sample:
    """Look once at a process and everything that it started; what ends meanwhile counts as nothing."""
    tree = [root]
    with contextlib.suppress(psutil.Error):
        tree += root.children(recursive=True)
    found: dict[str, int] = {}
    n_seen = 0
    for process in tree:
        with contextlib.suppress(psutil.Error):
            n_bytes, name = memory_of(process), kind(process)
            found[name] = found.get(name, 0) + n_bytes
            n_seen += 1
    return Sample(found, n_seen)


@contextlib.contextmanager
def watched(
    root: psutil.Process,
    kind: Callable[[psutil.Process], str] = kind_of,
    *,
    interval_s: float = INTERVAL_S,
) -> Iterator[Peaks]:
    """Sample a tree for as long as the block lasts; the peaks grow meanwhile.

    The first sample is taken before the block begins and the last one when it ends.
    """
    peaks = Peaks()
    peaks.take(sample_tree(root, kind))
    stop = threading.Event()

    def look() -> None:
        while not stop.wait(interval_s):
            peaks.take(sample_tree(root, kind))

    thread = threading.Thread(target=look, name="memory", daemon=True)
    thread.start()
    try:
        yield peaks
    finally:
        stop.set()
        thread.join()
        peaks.take(sample_tree(root, kind))
