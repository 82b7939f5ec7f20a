"""Dagster's processes on this machine: started together, stopped together, whole tree.

Here: starting and stopping. Stopping only the first process would leave its web server and daemon alive and holding
the port, on Linux and on Windows alike, so the whole tree is stopped.
"""

from __future__ import annotations

import contextlib
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import IO, Any

import psutil

from postval_assets.commands.home import prepare_home
from postval_assets.commands.left_behind import started_here
from postval_assets.core.failures import Rejected
from postval_assets.settings import Settings, child_environment

MODULE = "postval_assets.definitions"
_STOP_SECONDS = 20.0
# Ctrl-C, a service manager, a closed terminal, and Windows' Ctrl-Break; not every system has all of them.
_STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
)


def dev_command(settings: Settings) -> list[str]:
    """Web UI, daemon and code server together."""
    return [
        _script("dagster"),
        "dev",
        "--module-name",
        MODULE,
        "--host",
        "127.0.0.1",
        "--port",
        str(settings.port),
    ]


def daemon_command() -> list[str]:
    """The daemon with its code server, without the web UI."""
    return [_script("dagster-daemon"), "run", "--module-name", MODULE]


def _script(name: str) -> str:
    """A console script of this environment."""
    folder = Path(sys.executable).parent
    for candidate in (folder / name, folder / f"{name}.exe", folder / "Scripts" / f"{name}.exe"):
        if candidate.is_file():
            return str(candidate)
    raise Rejected(
        f"{name} is not installed beside {sys.executable}: set the environment up again (make setup)"
    )


def require_free_port(port: int) -> None:
    """Raises Rejected, with the mend, where something listens on this port of 127.0.0.1."""
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(1.0)
        if probe.connect_ex(("127.0.0.1", port)) == 0:
            raise Rejected(
                f"port {port} on 127.0.0.1 is in use: is postval up already? "
                "Stop it, or choose another with --port or POSTVAL_PORT"
            )


@contextlib.contextmanager
def running(command: Sequence[str], settings: Settings, output: IO[bytes] | None) -> Iterator[psutil.Popen]:
    """A command with its whole tree of processes, stopped on leaving.

    SIGTERM and SIGHUP leave the block as Ctrl-C does; while the tree is being stopped, further ones are ignored.

    Args:
        command: program and arguments.
        settings: of the data directory it works on.
        output: where its output goes; None for this terminal.
    """
    prepare_home(settings)
    # Before the child is started, which inherits what is ignored: Dagster stops by SIGINT.
    before = _handle_stop_signals(_stop_once)
    try:
        process = psutil.Popen(
            list(command),
            env={**child_environment(settings), **started_here()},
            # Not in this folder: Dagster reads a .env there, and lets it win over the environment given here.
            cwd=settings.data_dir / "dagster",
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            # Its own group: Ctrl-C reaches us, and we stop the tree in order.
            start_new_session=sys.platform != "win32",
            creationflags=getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0),
        )
        try:
            yield process
        finally:
            try:
                _handle_stop_signals(signal.SIG_IGN)
            finally:
                # Also where a signal came just now.
                stop_tree(process)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _handle_stop_signals(handler: Callable[[int, FrameType | None], Any] | signal.Handlers) -> dict[int, Any]:
    """Set the handler of every signal that stops us; the handlers before.

    What is ignored stays so (nohup ignores SIGHUP), but for SIGINT: shells start background jobs with it ignored.
    """
    if threading.current_thread() is not threading.main_thread():
        return {}
    heeded = [s for s in _STOP_SIGNALS if s == signal.SIGINT or signal.getsignal(s) is not signal.SIG_IGN]
    return {number: signal.signal(number, handler) for number in heeded}


def _stop_once(number: int, frame: FrameType | None) -> None:  # noqa: ARG001 - the signature of a handler
    """The first signal stops us; a second one would interrupt the stopping and leave half of the tree running."""
    _handle_stop_signals(signal.SIG_IGN)
    raise KeyboardInterrupt


def stop_tree(process: psutil.Popen) -> None:
    """Stop a process and everything it started: asked first, killed after a while."""
    tree: list[psutil.Process] = []
    with contextlib.suppress(psutil.NoSuchProcess):
        tree = [process, *process.children(recursive=True)]
    with contextlib.suppress(psutil.NoSuchProcess):
        process.send_signal(signal.SIGINT if sys.platform != "win32" else signal.Signals["CTRL_BREAK_EVENT"])
    _, alive = psutil.wait_procs(tree[:1], timeout=_STOP_SECONDS)
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            tree += [c for c in each.children(recursive=True) if c not in tree]
    for each in tree:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.terminate()
    _, alive = psutil.wait_procs(tree, timeout=5.0)
    for each in alive:
        with contextlib.suppress(psutil.NoSuchProcess):
            each.kill()
    psutil.wait_procs(alive, timeout=5.0)
