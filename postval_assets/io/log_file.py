"""The log of a data directory: one rotating file that every process of postval writes, a whole line at a time.

Here: the file, who may write when, and what a line looks like. Not here: what is logged, or the terminal.

Several processes write it (the command, the daemon's code server, each run), so each line is written under a lock and
the file is closed after it. That costs a tenth of a millisecond a line, and there are few. It also makes rotation work
where an open file cannot be renamed (Windows); where it fails all the same, because somebody looks at the file in a
program that holds it, the file grows until a later line finds the way free.
"""

from __future__ import annotations

import logging
import sys
import time
import unicodedata
from collections.abc import Sequence
from logging.handlers import RotatingFileHandler
from pathlib import Path
from types import TracebackType

from filelock import FileLock, Timeout

LOGGER = "postval"
FILE_NAME = "postval.log"

_MAX_BYTES = 10 * 2**20
_N_OLD_FILES = 4
_LOCK_SECONDS = 2.0
_HIDDEN = "***"
# A shorter value would make holes in innocent words.
_SHORTEST_SECRET = 8

_ExcInfo = tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None]


def log_to_file(data_dir: Path, *, secrets: Sequence[str] = (), max_bytes: int = _MAX_BYTES) -> None:
    """Let this process's ``postval`` loggers also write to ``logs/postval.log`` of a data directory.

    Nothing is made before there is something to say, nor where the data directory is not there. Asked again, for the
    same directory it changes nothing, and for another one it leaves the first.

    Args:
        data_dir: the data directory.
        secrets: texts that are never written.
        max_bytes: size at which the file is put aside as ``postval.log.1``; four such are kept.
    """
    logger = logging.getLogger(LOGGER)
    path = data_dir / "logs" / FILE_NAME
    for handler in [h for h in logger.handlers if isinstance(h, SharedLogFile)]:
        if handler.path == path:
            return
        logger.removeHandler(handler)
        handler.close()
    logger.addHandler(SharedLogFile(path, secrets=secrets, max_bytes=max_bytes))
    if logger.level == logging.NOTSET:
        logger.setLevel(logging.INFO)


class SharedLogFile(RotatingFileHandler):
    """A rotating file that several processes may write."""

    def __init__(self, path: Path, *, secrets: Sequence[str] = (), max_bytes: int = _MAX_BYTES) -> None:
        """Take the file; it is made at the first line."""
        super().__init__(path, maxBytes=max_bytes, backupCount=_N_OLD_FILES, encoding="utf-8", delay=True)
        self.path = path
        self.setFormatter(_Line(secrets))
        self._lock_path = path.with_name(f".{path.name}.lock")
        self._complained = False

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record, under the lock; without it where somebody holds that for too long."""
        if self._is_alone() and record.levelno >= logging.WARNING and logging.lastResort is not None:
            # As it would be without this file: a warning that nobody else takes goes to the terminal.
            logging.lastResort.handle(record)
        if not self.path.parents[1].is_dir():
            return
        try:
            self.path.parent.mkdir(exist_ok=True)
            lock = FileLock(self._lock_path, timeout=_LOCK_SECONDS, poll_interval=0.01)
            try:
                with lock:
                    super().emit(record)
            except Timeout:
                logging.FileHandler.emit(self, record)
        except OSError as error:
            self._complain(error)
        finally:
            self._close_file()

    def doRollover(self) -> None:  # noqa: N802 - logging's name
        """Put the full file aside; where that is refused, go on with it."""
        try:
            super().doRollover()
        except OSError:
            self._close_file()

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: N802, ARG002 - logging's name and signature
        """Say once that lines are lost; the work goes on."""
        self._complain(sys.exc_info()[1])

    def _complain(self, error: BaseException | None) -> None:
        if not self._complained:
            self._complained = True
            print(f"{self.path} cannot be written ({error}); its lines are lost", file=sys.stderr)  # noqa: T201

    def _close_file(self) -> None:
        stream, self.stream = self.stream, None
        if stream is not None:
            try:
                stream.close()
            except OSError as error:
                self._complain(error)

    def _is_alone(self) -> bool:
        logger = logging.getLogger(LOGGER)
        others = [h for h in logger.handlers if h is not self]
        return not others and not (logger.propagate and logging.getLogger().handlers)


class _Line(logging.Formatter):
    """UTC, process, level, logger, message: one line a record, and indented ones of a traceback."""

    converter = staticmethod(time.gmtime)
    default_time_format = "%Y-%m-%dT%H:%M:%S"
    default_msec_format = "%s.%03dZ"

    def __init__(self, secrets: Sequence[str]) -> None:
        super().__init__("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")
        self._secrets = [s for s in secrets if len(s) >= _SHORTEST_SECRET]

    def format(self, record: logging.LogRecord) -> str:
        # A copy: other handlers make their own text of the record.
        copy = logging.makeLogRecord(record.__dict__)
        copy.exc_text = None
        text = super().format(copy)
        for secret in self._secrets:
            text = text.replace(secret, _HIDDEN)
        return text

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        record.message = _plain(record.message)
        return super().formatMessage(record)

    def formatException(self, ei: _ExcInfo) -> str:  # noqa: N802 - logging's name
        return "\n".join(f"    {_plain(line)}" for line in super().formatException(ei).splitlines())

    def formatStack(self, stack_info: str) -> str:  # noqa: N802 - logging's name
        return "\n".join(f"    {_plain(line)}" for line in stack_info.splitlines())


def _plain(text: str) -> str:
    """Names come out of archives: nothing of them may steer a terminal, or look like a line of its own."""
    return "".join(
        c.encode("unicode_escape").decode() if unicodedata.category(c)[0] == "C" or c in "\u2028\u2029" else c
        for c in text
    )
