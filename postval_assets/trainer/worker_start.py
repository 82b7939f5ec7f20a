"""What a worker process does before anything else.

Here: what has to be in place before a worker's first run, in a module that imports nothing large. Not here: the pool
that starts workers (processes.py), or a run (single_run.py).

A worker imports this module to begin, and numpy and torch only with its first run: so it ignores Ctrl-C, which a
terminal sends to all its processes, after the start of the interpreter and not seconds later. Before that, it inherits
from its parent that Ctrl-C is ignored; not so on Windows, where the time until then remains: a Ctrl-C in it ends the
worker, and its pool with it, which processes.py takes for what it is, because the parent has got the same Ctrl-C.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from postval_assets.trainer.single_run import RunEvent


class Events(Protocol):
    """A queue between processes."""

    def put(self, event: RunEvent) -> None:
        """Return once the event is on its way: what a run said is here before its outcome."""
        ...

    def get(self) -> RunEvent:
        """The next one, which is waited for."""
        ...

    def empty(self) -> bool:
        """Whether there is none now."""
        ...


class Flag(Protocol):
    """An event that all processes see."""

    def set(self) -> None:
        """It is so from now on."""
        ...

    def is_set(self) -> bool:
        """Whether it is so."""
        ...


@dataclass(frozen=True)
class Channel:
    """What connects a worker with its parent."""

    events: Events
    stop: Flag


# Of a worker: one entry. A channel reaches a process only as it starts, not with the work that it is given.
CHANNELS: list[Channel] = []


def begin_worker(channel: Channel) -> None:
    """Ignore Ctrl-C, keep the channel, and end with the parent."""
    begin_alone()
    CHANNELS.append(channel)


def begin_alone() -> None:
    """Ignore Ctrl-C and end with the parent: of a worker that nobody talks to while it works."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
