"""Where a stage's seconds go: parts summed over threads, and a line a stage in the file of the setting ``timings``.

Here: measuring and writing it down. Not here: progress for people (progress.py), or what the figures mean
(docs/benchmarks.md).
"""

from __future__ import annotations

import functools
import json
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Concatenate, ParamSpec, Protocol, TypeVar

log = logging.getLogger("postval.timings")

P = ParamSpec("P")
R = TypeVar("R")


class Stopwatch:
    """Seconds by part, over all threads; a part inside another one is not counted in the outer one.

    Args:
        clock: seconds from any start.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: Counter[str] = Counter()
        self._adding = threading.Lock()
        self._running = threading.local()

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Count what happens inside to this part."""
        outer: list[float] | None = getattr(self._running, "inside", None)
        inside = self._running.inside = [0.0]
        started = self._clock()
        try:
            yield
        finally:
            took = self._clock() - started
            self._running.inside = outer
            if outer is not None:
                outer[0] += took
            with self._adding:
                self._seconds[name] += took - inside[0]

    def add(self, seconds: Mapping[str, float]) -> None:
        """Count what another process has counted."""
        with self._adding:
            self._seconds.update(seconds)

    def seconds(self) -> Counter[str]:
        """What was counted so far, by part."""
        with self._adding:
            return Counter(self._seconds)


class HasStopwatch(Protocol):
    """A platform, as far as timing is concerned."""

    @property
    def stopwatch(self) -> Stopwatch:
        """Counts the parts."""
        ...

    @property
    def timings(self) -> Path | None:
        """The file that each stage adds a line to; None for none."""
        ...


Platform = TypeVar("Platform", bound=HasStopwatch)


def timed_stage(
    name: str,
) -> Callable[[Callable[Concatenate[Platform, P], R]], Callable[Concatenate[Platform, P], R]]:
    """Time a stage, whose first argument is the platform: a line of JSON when it ends, however it ends.

    The line: ``pid``, ``stage``, ``started_at`` (seconds since 1970), ``wall_s``, and ``parts``, seconds by part
    summed over threads, so that they may be more than the wall's.
    """

    def decorate(stage: Callable[Concatenate[Platform, P], R]) -> Callable[Concatenate[Platform, P], R]:
        @functools.wraps(stage)
        def timed(platform: Platform, /, *args: P.args, **kwargs: P.kwargs) -> R:
            before, started_at, started = platform.stopwatch.seconds(), time.time(), time.perf_counter()
            try:
                return stage(platform, *args, **kwargs)
            finally:
                wall = time.perf_counter() - started
                parts = {
                    part: round(seconds, 4)
                    for part, seconds in (platform.stopwatch.seconds() - before).items()
                }
                log.debug("%s took %.2f s: %s", name, wall, parts)
                if platform.timings is not None:
                    line = {"pid": os.getpid(), "stage": name, "started_at": started_at, "wall_s": wall}
                    _append(platform.timings, {**line, "parts": parts})

        return timed

    return decorate


def _append(file: Path, line: dict[str, object]) -> None:
    try:
        with file.open("a", encoding="utf-8") as out:
            out.write(json.dumps(line) + "\n")
    except OSError as error:
        # Timing is for looking on: what is looked at goes on.
        log.warning("%s could not be written: %s", file, error)
