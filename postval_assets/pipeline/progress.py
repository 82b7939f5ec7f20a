"""Progress of long work: done, rate, time left, through Python's logging.

Here: what a person wants to know while they wait. The command prints these lines; Dagster keeps them with the run.
"""

from __future__ import annotations

import logging
import time


class Progress:
    """Counts models; logs at most a line a second, and the last one always."""

    def __init__(self, log: logging.Logger, what: str, total: int) -> None:
        self._log = log
        self._what = what
        self._total = total
        self._done = 0
        self._started = time.monotonic()
        self._logged = self._started

    def step(self, name: str) -> None:
        """One more model is done."""
        self._done += 1
        now = time.monotonic()
        if self._done < self._total and now - self._logged < 1.0:
            return
        self._logged = now
        rate = self._done / max(now - self._started, 1e-9)
        left = (self._total - self._done) / rate
        self._log.info(
            "%s: %d/%d models, %.1f a second, %.0f s left (%s)",
            self._what,
            self._done,
            self._total,
            rate,
            left,
            name,
        )
