"""What notices that a file did harm: ran code, wrote somewhere, opened a connection, took too much memory or disk.

Here: watching one call in this process. Not here: what is called, or what counts as the right answer to a file.

Python's own audit events tell of programs that are started, of connections, of unpickling and of every file that
Python opens for writing. What libraries in other languages write is found by looking at the folders around the
sandbox afterwards, and memory and bytes by the kernel's counts (Linux). A hostile file that gets its way calls
``sing`` or evaluates a text with ``SONG`` in it.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

T = TypeVar("T")

# Stands in every payload (a command, a source text, a file's name), so that any event that carries it is harm.
SONG = "postval_canary"

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
_STARTING = frozenset(
    {
        *("os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.startfile", "os.system"),
        *("pty.spawn", "subprocess.Popen", "ctypes.dlopen"),
    }
)
_CONNECTING = ("socket.", "urllib.", "http.", "ftplib.", "smtplib.", "telnetlib.")
# By event: where among its arguments stand the paths that it changes, each with the folder that it counts from
# (an open descriptor; -1 or nothing for the working directory).
_CHANGING: dict[str, tuple[tuple[int, int | None], ...]] = {
    "os.mkdir": ((0, 2),),
    "os.remove": ((0, 1),),
    "os.rename": ((0, 2), (1, 3)),
    "os.rmdir": ((0, 1),),
    "os.link": ((1, 3),),
    "os.symlink": ((1, 2),),
    "os.truncate": ((0, None),),
    "os.chmod": ((0, 2),),
    "shutil.rmtree": ((0, 1),),
}
# Where Python itself writes, whatever is run: its own compiled modules.
_OWN_FILES = re.compile(r"__pycache__|\.pyc(\.\d+)?\Z|\A/dev/null\Z")


@dataclass(frozen=True)
class Observed(Generic[T]):
    """What one call did.

    Attributes:
        result: what it returned; None where it raised.
        error: what it raised; None where it returned.
        noticed: harm in words; empty where there was none.
        peak_memory_bytes: resident memory at its peak, on top of what was there before; None where the system does
            not say.
        written_bytes: by all writes together; None where the system does not say.
    """

    result: T | None
    error: Exception | None
    noticed: tuple[str, ...]
    peak_memory_bytes: int | None
    written_bytes: int | None


class _Watch:
    """What one call may do, and what it did beyond that. Events come from all threads."""

    def __init__(self, sandbox: Path) -> None:
        self._sandbox = os.path.realpath(sandbox)
        self._mine = threading.local()
        self.noticed: list[str] = []

    def event(self, name: str, args: tuple[object, ...]) -> None:
        if getattr(self._mine, "busy", False):
            return
        self._mine.busy = True
        try:
            harm = self._harm(name, args)
            if harm is not None and harm not in self.noticed:
                self.noticed.append(harm)
        finally:
            self._mine.busy = False

    def _harm(self, name: str, args: tuple[object, ...]) -> str | None:
        if name in _STARTING:
            return f"code was started: {name}{args!a}"[:300]
        if name.startswith(_CONNECTING):
            return f"a connection was opened: {name}{args!a}"[:300]
        if name == "pickle.find_class":
            return f"an unpickler asked for {args!a}"[:300]
        if name in ("compile", "exec", "import") and any(SONG in str(arg) for arg in args):
            return f"code was run: {name}{args!a}"[:300]
        if name == "open":
            return self._stray_open(*args)
        for position, folder in _CHANGING.get(name, ()):
            path = _below(args[position], args[folder] if folder is not None and folder < len(args) else None)
            if stray := self._outside(path):
                return f"{name} outside the data directory: {stray}"
        return None

    def _stray_open(self, path: object, mode: object, flags: object) -> str | None:
        writes = (isinstance(flags, int) and flags & _WRITING) or (
            isinstance(mode, str) and set(mode) & set("wax+")
        )
        stray = self._outside(path) if writes else None
        return f"a file outside the data directory was opened for writing: {stray}" if stray else None

    def _outside(self, path: object) -> str | None:
        """The path as text where it is outside the sandbox; open descriptors were paths once."""
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        real = os.path.realpath(os.fsdecode(path))
        if real == self._sandbox or real.startswith(self._sandbox + os.sep) or _OWN_FILES.search(real):
            return None
        return ascii(real)


def _below(path: object, folder: object) -> object:
    """A path that counts from an open folder, as one of its own where the system says which folder it is."""
    if not isinstance(path, str | bytes | os.PathLike) or not isinstance(folder, int) or folder < 0:
        return path
    opened = Path(f"/proc/self/fd/{folder}")
    return opened.readlink() / os.fsdecode(path) if opened.exists() else None


# Audit hooks cannot be taken away again, so there is one for the life of the process, and it asks who watches.
_watches: list[_Watch] = []
_hooked = threading.Lock()
_is_hooked = False


def sing(*notes: object) -> None:
    """What a hostile file would call: every watch that is on notices it."""
    for watch_ in _watches:
        watch_.noticed.append(f"code was run: the canary sang {notes!a}"[:300])


def watch(
    run: Callable[[], T],
    *,
    sandbox: Path,
    memory_bound_bytes: int = 2**29,
    disk_bound_bytes: int = 2**28,
) -> Observed[T]:
    """Call ``run`` and notice what it does beyond reading and writing below the sandbox.

    The working directory, the home and the place for temporary files are empty folders beside the sandbox meanwhile.
    One watch at a time: they are the whole process's.

    Args:
        run: what reads the hostile file.
        sandbox: the only folder that may be written to (a data directory); everything beside it is watched.
        memory_bound_bytes: resident memory on top of what is there now.
        disk_bound_bytes: bytes written in all.
    """
    _install()
    beside = sandbox.parent
    noticed = _Watch(sandbox)
    result, failed = None, None
    with _elsewhere(beside / "elsewhere"):
        before = _listing(beside, sandbox)
        resident, written = _reset_peak(), _written()
        _watches.append(noticed)
        try:
            result = run()
        except Exception as error:  # noqa: BLE001 - the caller judges it
            failed = error
        finally:
            _watches.remove(noticed)
        peak = None if resident is None else max(0, (_status("VmHWM") or 0) - resident)
        after_written = _written()
        n_written = None if written is None or after_written is None else after_written - written
        changed = sorted(set(_listing(beside, sandbox).items()) ^ set(before.items()))
    harm = list(noticed.noticed)
    harm += [f"a stray file beside the data directory: {name!a}" for name in dict(changed)]
    if peak is not None and peak > memory_bound_bytes:
        harm.append(f"memory over the bound: {peak} bytes, at most {memory_bound_bytes}")
    if n_written is not None and n_written > disk_bound_bytes:
        harm.append(f"disk over the bound: {n_written} bytes written, at most {disk_bound_bytes}")
    return Observed(result, failed, tuple(harm), peak, n_written)


def limit_this_process(*, address_space_bytes: int, file_bytes: int) -> None:
    """Hard bounds of the kernel for the rest of this process's life, where the system has them."""
    if sys.platform == "win32":
        return
    import resource

    for what, bound in ((resource.RLIMIT_AS, address_space_bytes), (resource.RLIMIT_FSIZE, file_bytes)):
        _, hard = resource.getrlimit(what)
        resource.setrlimit(what, (bound if hard == resource.RLIM_INFINITY else min(bound, hard), hard))


def _install() -> None:
    global _is_hooked  # noqa: PLW0603 - Python keeps one set of hooks a process, too
    with _hooked:
        if not _is_hooked:
            sys.addaudithook(_tell)
            _is_hooked = True


def _tell(name: str, args: tuple[object, ...]) -> None:
    for watch_ in _watches:
        watch_.event(name, args)


@contextmanager
def _elsewhere(folder: Path) -> Iterator[None]:
    """Relative paths, the home and temporary files lead to empty folders that are looked at afterwards."""
    places = {name: folder / name for name in ("cwd", "home", "tmp")}
    for place in places.values():
        place.mkdir(parents=True, exist_ok=True)
    before = Path.cwd()
    names = {"HOME": "home", "USERPROFILE": "home", "TMPDIR": "tmp", "TEMP": "tmp", "TMP": "tmp"}
    kept = {name: os.environ.get(name) for name in names}
    temporary = tempfile.tempdir
    os.environ.update({name: str(places[place]) for name, place in names.items()})
    tempfile.tempdir = str(places["tmp"])
    os.chdir(places["cwd"])
    try:
        yield
    finally:
        os.chdir(before)
        tempfile.tempdir = temporary
        for name, value in kept.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _listing(folder: Path, but: Path) -> dict[str, tuple[int, int]]:
    """Size and time of every file below a folder, one folder left out, and every folder's name."""
    found: dict[str, tuple[int, int]] = {}
    for root, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if Path(root, name) != but]
        for name in (*folders, *files):
            entry = os.lstat(os.path.join(root, name))  # noqa: PTH118 - names that Path would change
            is_folder = name in folders
            found[os.path.join(root, name)] = (0, 0) if is_folder else (entry.st_size, entry.st_mtime_ns)  # noqa: PTH118
    return found


def _reset_peak() -> int | None:
    """Resident memory now, with the kernel's note of the peak set back to it."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return None
    return _status("VmRSS")


def _status(name: str) -> int | None:
    try:
        text = Path("/proc/self/status").read_text()
    except OSError:
        return None
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    return int(found[1]) * 1024 if found else None


def _written() -> int | None:
    try:
        text = Path("/proc/self/io").read_text()
    except OSError:
        return None
    found = re.search(r"^wchar: (\d+)$", text, re.MULTILINE)
    return int(found[1]) if found else None
