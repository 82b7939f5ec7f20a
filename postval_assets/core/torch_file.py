"""Reading a file of ``torch.save`` that nobody vouches for, without running anything in it.

Here: what a file is given, and inert stand-ins for classes that are not installed. Not here: the container
(torch_container.py), what its instructions ask for (torch_instructions.py), what the content means
(checkpoint.py).

Three walls stand one behind the other. The container has to be one that every reader sees alike; its
instructions are followed on paper, and whatever is neither dense tensors of the file's own storages, plain
values nor classes below an allow-listed prefix ends it there; then torch loads with ``weights_only=True``,
which has a list of its own.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.torch_container import read_container, unread
from postval_assets.core.torch_instructions import forbidden, rehearse

# What torch says, in several wordings, when the system gives it none.
_NO_MEMORY = "allocate memory"

# torch keeps the allow-list of a load in one process-wide set.
_LOADING = threading.Lock()


class InertRecord:
    """An object of a class that is not installed: its arguments and fields, and none of its code."""

    __slots__ = ("args", "state")

    qualified_name = ""
    args: tuple[object, ...]
    state: object

    def __new__(cls, *args: object) -> InertRecord:  # noqa: PYI034 - subclasses only carry a name
        """Keep what the class was called with (an enum's value, a named tuple's items)."""
        record = super().__new__(cls)
        record.args = args
        record.state = None
        return record

    def __setstate__(self, state: object) -> None:
        """Keep what the instance's fields were set to."""
        self.state = state

    def fields(self) -> dict[str, object]:
        """The named fields, where the object had any; slots of a slotted class included."""
        # Fields, or fields and slots; more parts than these no class writes.
        parts = self.state[:2] if isinstance(self.state, tuple) else (self.state,)
        found: dict[str, object] = {}
        for part in parts:
            if isinstance(part, dict):
                found.update({key: value for key, value in part.items() if isinstance(key, str)})
        return found


def load_torch_file(path: Path, allowed_prefixes: Iterable[str]) -> dict[Any, Any]:
    """The dict in a file of ``torch.save``, its tensors as views on the file (copy what outlives it).

    Args:
        path: a local file; it must not change while the tensors are used.
        allowed_prefixes: packages whose classes are read as ``InertRecord``, such as ``alpaca_trading.``.

    Raises:
        Rejected: not a file of torch.save, damaged, or it asks for something that is not allowed, which is
        named.
        Unavailable: the operating system could not read the file.
    """
    import torch

    container = read_container(path)
    wanted = rehearse(container.instructions, container.storages, allowed_prefixes)
    inert = {
        name: type("InertRecord", (InertRecord,), {"__slots__": (), "qualified_name": name})
        for name in sorted(wanted)
    }
    try:
        # torch reads the container with another zip library, which might see other instructions than ours
        # did.
        _allow_only(inert, torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        pairs: list[Any] = [(record_class, name) for name, record_class in inert.items()]
        with _LOADING, torch.serialization.safe_globals(pairs):
            content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except Rejected:
        raise
    except OSError as error:
        raise unread(path, error) from error
    except Exception as error:  # hostile bytes may raise anything; no code ran, and the file is final
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        if isinstance(error, MemoryError) or _NO_MEMORY in reason.lower():
            # What a file may cost was bounded before; what is short now is this machine's.
            raise Unavailable(f"{path.name} could not be read: no memory was left for it") from error
        raise Rejected(f"{path.name} is not a readable checkpoint: {ascii(reason)[:200]}") from error
    if not isinstance(content, dict):
        raise Rejected(
            f"{path.name} holds a {type(content).__name__}; expected a dict with policy_state_dict"
        )
    # A plain dict: nothing of the file stands before its methods.
    return dict(dict.items(content))


def _allow_only(inert: Mapping[str, object], unknown: Iterable[str]) -> None:
    for name in sorted(unknown):
        if name not in inert:
            raise forbidden(name)
