"""What a run of the benchmark is asked for.

Here: the options that every section is given. Not here: reading them from the command line (__main__.py).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class BenchOptions:
    """Options of one run.

    Attributes:
        models: sizes of the archives that ``drop`` and ``memory`` are measured with.
        scratch: an empty folder on the disk with room; the caller removes it.
        seed: of every random number.
        quick: little work, to see that everything runs: its figures mean nothing.
        skip_peers: leave out what needs the environment of the peers.
    """

    models: tuple[int, ...]
    scratch: Path
    seed: int = 0
    quick: bool = False
    skip_peers: bool = False
