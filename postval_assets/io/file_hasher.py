"""SHA-256 of large files, spread over many looks, each of which has to end in time.

Here: the hash in progress, the time that one look may take, and waiting for a disk that may never answer. Not here:
which files are looked at (inbox.py).
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TypeVar

from postval_assets.core.failures import Unavailable

# Small, so that a look at a slow disk ends soon after its time is up; hashing is as fast as with larger ones.
_CHUNK_BYTES = 2**20

T = TypeVar("T")


class FileHasher:
    """SHA-256 of large files, a bit at every look; what is done so far is kept in memory."""

    def __init__(
        self,
        *,
        budget_seconds: float = 20.0,
        patience_seconds: float = 20.0,
        clock: Callable[[], float] = time.monotonic,
        chunk_bytes: int = _CHUNK_BYTES,
    ) -> None:
        """Set what one look may cost.

        Args:
            budget_seconds: time for all files of one look; one of them advances by at least one chunk.
            patience_seconds: how long beyond that an operation of the disk may take.
            clock: seconds that never run backwards.
            chunk_bytes: read at once.
        """
        self._budget_seconds = budget_seconds
        self._patience_seconds = patience_seconds
        self._clock = clock
        self._chunk_bytes = chunk_bytes
        self._deadline = clock() + budget_seconds
        self._has_read = False
        self._resume_after: Path | None = None
        self._started: dict[tuple[Path, int, int], tuple[int, hashlib._Hash]] = {}
        self._look: threading.Thread | None = None

    def start_look(self, folder: Path, present: Iterable[Path]) -> None:
        """A new budget; files of the folder that are no longer present are forgotten."""
        kept = set(present)
        self._started = {
            key: progress
            for key, progress in self._started.items()
            if key[0] in kept or key[0].parent != folder
        }
        self._has_read = False
        self._deadline = self._clock() + self._budget_seconds

    def in_turn(self, paths: Sequence[Path]) -> list[Path]:
        """The files of a look, first those that the look before had no time for."""
        after = self._resume_after
        later = [path for path in paths if after is not None and path > after]
        return [*later, *(path for path in paths if path not in set(later))]

    def is_out_of_time(self, path: Path) -> bool:
        """Whether this look has no time left for another file; the next one begins behind the last it had."""
        if self._has_read and self._clock() >= self._deadline:
            return True
        self._resume_after = path
        return False

    def advance(self, path: Path, size_bytes: int, mtime_ns: int) -> tuple[int, str | None]:
        """Read on; the bytes hashed so far, and the SHA-256 once it is complete.

        Raises:
            Unavailable: the file changed while it was read.
            OSError: it could not be read.
        """
        key = (path, size_bytes, mtime_ns)
        offset, sha = self._started.pop(key, (0, hashlib.sha256()))
        with path.open("rb") as file:
            file.seek(offset)
            while True:
                chunk = file.read(self._chunk_bytes)
                sha.update(chunk)
                offset += len(chunk)
                if not chunk or self._clock() >= self._deadline:
                    break
            after = os.fstat(file.fileno())
        self._has_read = True
        if (after.st_size, after.st_mtime_ns) != (size_bytes, mtime_ns) or offset > size_bytes:
            raise Unavailable("it changed while it was read")
        if offset < size_bytes:
            self._started[key] = (offset, sha)
            return offset, None
        return offset, sha.hexdigest()

    def in_time(self, look: Callable[[], T], folder: Path) -> T:
        """What a look gives; where the disk does not answer in time, the look is left to itself and told as late.

        A system call that a dead disk of the network keeps waiting cannot be broken off, only left alone. No second
        look is begun before that one has ended.

        Args:
            look: the whole look; its errors are raised here.
            folder: for messages.

        Raises:
            Unavailable: it did not end in time, or an earlier one has not ended yet.
        """
        hangs = f"{folder} does not answer: its disk hangs or is very slow; files in it stay where they are"
        if self._look is not None and self._look.is_alive():
            raise Unavailable(f"{hangs}, and an earlier look still waits for it")
        results: list[T] = []
        errors: list[BaseException] = []

        def run() -> None:
            try:
                results.append(look())
            except BaseException as error:  # noqa: BLE001 - it is raised below, where the look was asked for
                errors.append(error)

        seconds = self._budget_seconds + self._patience_seconds
        self._look = threading.Thread(target=run, name="postval-inbox-look", daemon=True)
        self._look.start()
        self._look.join(seconds)
        if self._look.is_alive():
            raise Unavailable(f"{hangs} (nothing for {seconds:g} s)")
        if errors:
            raise errors[0]
        return results[0]
