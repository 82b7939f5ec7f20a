"""Real processes of postval, driven from tests: the command, the running platform, people who hold the database.

Here: starting, asking and stopping them, and waiting with a deadline. Not here: assertions on what they do.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil

from postval_assets.pipeline.platform import Platform

REPOSITORY = Path(__file__).resolve().parents[1]
_POLL_SECONDS = 0.5

Found = TypeVar("Found")


def postval_environment(data_dir: Path, bars_source: str) -> dict[str, str]:
    """This environment, pointed at a data directory; nothing of another postval in it."""
    foreign = ("POSTVAL_", "DAGSTER_")
    kept = {k: v for k, v in os.environ.items() if not k.startswith(foreign)}
    return {**kept, "POSTVAL_DATA_DIR": str(data_dir), "POSTVAL_BARS_SOURCE": bars_source}


def postval_command(*arguments: str) -> list[str]:
    """The command as a fresh process of this interpreter."""
    return [sys.executable, "-m", "postval_assets.cli", *arguments]


def run_postval(
    *arguments: str, env: Mapping[str, str], cwd: Path, timeout_s: float = 120.0
) -> subprocess.CompletedProcess[str]:
    """Run the command to its end."""
    return subprocess.run(
        postval_command(*arguments),
        env=dict(env),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )


def free_port() -> int:
    """A port of 127.0.0.1 that nobody listens on."""
    with contextlib.closing(socket.socket()) as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def is_listening(port: int) -> bool:
    """Whether something accepts connections on this port of 127.0.0.1."""
    with contextlib.closing(socket.socket()) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def processes_of(data_dir: Path) -> list[psutil.Process]:
    """Every living process whose environment names a data directory at or below this one."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            named = process.environ().get("POSTVAL_DATA_DIR")
            if named and Path(named).is_relative_to(data_dir) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def wait_for(
    what: str, look: Callable[[], Found | None], *, timeout_s: float, alive: Callable[[], None] = lambda: None
) -> Found:
    """Look until something (truthy) is found.

    Args:
        what: is waited for, for the message.
        look: asked twice a second.
        timeout_s: after which the wait fails.
        alive: raises where there is no point in waiting on.
    """
    deadline = time.monotonic() + timeout_s
    while True:
        found = look()
        if found:
            return found
        alive()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what}: not within {timeout_s:.0f} s")
        time.sleep(_POLL_SECONDS)


@dataclass
class RunningPlatform:
    """A ``postval up`` of its own, with its web server's GraphQL.

    Attributes:
        data_dir: its data directory.
        env: of the process, and of every other command on the same directory.
        port: of the web server.
        log: what it prints.
    """

    data_dir: Path
    env: dict[str, str]
    port: int
    log: Path
    _process: psutil.Popen | None = field(default=None, init=False)

    @property
    def inbox(self) -> Path:
        """Where archives are dropped."""
        return self.data_dir / "inbox"

    @property
    def replica(self) -> Path:
        """The database for people."""
        return self.data_dir / "postval.duckdb"

    @property
    def url(self) -> str:
        """Of the web server."""
        return f"http://127.0.0.1:{self.port}"

    def start(self, *, timeout_s: float = 180.0) -> None:
        """Start it and wait until it has loaded its definitions."""
        self.data_dir.mkdir(parents=True, exist_ok=True)
        with self.log.open("wb") as output:
            self._process = psutil.Popen(
                postval_command("up", "--port", str(self.port)),
                env=self.env,
                cwd=self.data_dir,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        wait_for(
            "the code location is loaded", self._is_loaded, timeout_s=timeout_s, alive=self.require_alive
        )

    def _is_loaded(self) -> bool:
        with contextlib.suppress(OSError, http.client.HTTPException):
            return bool(self.graphql("{ assetNodes { id } }")["assetNodes"])
        return False

    def require_alive(self) -> None:
        """Raise with the end of its log where it has ended."""
        if self._process is None or self._process.poll() is not None:
            raise RuntimeError(f"postval up has ended:\n{self.log.read_text(errors='replace')[-4000:]}")

    def tree(self) -> list[psutil.Process]:
        """The process and everything that it started."""
        if self._process is None:
            return []
        return [self._process, *self._process.children(recursive=True)]

    def stop(self, how: signal.Signals = signal.SIGINT, *, timeout_s: float = 60.0) -> int:
        """Ask it to stop, as Ctrl-C does; its exit code."""
        if self._process is None:
            raise RuntimeError("it was not started")
        if self._process.poll() is None:
            self._process.send_signal(how)
        code = self._process.wait(timeout_s)
        return int(code)

    def kill_what_is_left(self) -> None:
        """End whatever still works on the data directory, so that a failed test leaves nothing behind."""
        for process in processes_of(self.data_dir):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """The data of an answer; AssertionError where the answer has errors."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        with contextlib.closing(connection):
            body = json.dumps({"query": query, "variables": variables})
            connection.request("POST", "/graphql", body, {"Content-Type": "application/json"})
            answer = json.loads(connection.getresponse().read())
        if answer.get("errors"):
            raise AssertionError(f"GraphQL: {json.dumps(answer['errors'])[:2000]}")
        data: dict[str, Any] = answer["data"]
        return data

    def wait_for(self, what: str, look: Callable[[], Found | None], *, timeout_s: float) -> Found:
        """As the function of that name; fails at once where the platform has ended."""
        return wait_for(what, look, timeout_s=timeout_s, alive=self.require_alive)

    def postval(self, *arguments: str, timeout_s: float = 120.0) -> subprocess.CompletedProcess[str]:
        """Another postval command on the same data directory."""
        return run_postval(*arguments, env=self.env, cwd=self.data_dir, timeout_s=timeout_s)


@dataclass
class RepeatedQuery:
    """``postval sql`` again and again from a thread, for as long as the block lasts; every outcome is kept."""

    platform: RunningPlatform
    query: str
    pause_s: float = 4.0
    outcomes: list[subprocess.CompletedProcess[str]] = field(default_factory=list)
    _stop: threading.Event = field(default_factory=threading.Event)
    _thread: threading.Thread = field(init=False)

    def __post_init__(self) -> None:
        self._thread = threading.Thread(target=self._ask)

    @contextlib.contextmanager
    def repeated(self) -> Iterator[RepeatedQuery]:
        """Ask until the block is left, or stop is called."""
        self._thread.start()
        try:
            yield self
        finally:
            self.stop()

    def stop(self) -> None:
        """Ask no more; what was asked last is answered when this returns."""
        self._stop.set()
        self._thread.join(timeout=120)

    def _ask(self) -> None:
        while not self._stop.is_set():
            self.outcomes.append(self.platform.postval("sql", self.query, "--format", "json"))
            self._stop.wait(self.pause_s)


@dataclass(frozen=True)
class Story:
    """The running platform, its bars, and a second look into its warehouse."""

    running: RunningPlatform
    bars_dir: Path
    warehouse: Platform

    def rows(self, sql: str, *params: object) -> list[dict[str, Any]]:
        """From the pipeline's own database, behind its lock."""
        return self.warehouse.warehouse.rows(sql, params)

    def status(self, archive_id: str) -> str | None:
        """Of an archive; None where it is not known."""
        found = self.rows("SELECT status FROM training_archives WHERE archive_id = ?", archive_id)
        return str(found[0]["status"]) if found else None

    def wait_until_complete(self, archive_id: str, *, timeout_s: float = 240.0) -> None:
        """Until every model of an archive is decided."""
        what = f"archive {archive_id} is COMPLETE"
        self.running.wait_for(what, lambda: self.status(archive_id) == "COMPLETE", timeout_s=timeout_s)

    def runs(self, **tags: str) -> list[dict[str, Any]]:
        """Runs with these tags, newest first."""
        found = self.running.graphql(
            """query($filter: RunsFilter) { runsOrError(filter: $filter) { ... on Runs {
                 results { id status jobName tags { key value } } } } }""",
            filter={"tags": [{"key": k, "value": v} for k, v in tags.items()]},
        )
        runs: list[dict[str, Any]] = found["runsOrError"]["results"]
        return [{**run, "tags": {t["key"]: t["value"] for t in run["tags"]}} for run in runs]

    def runs_of(self, archive_id: str) -> list[dict[str, Any]]:
        """Runs about an archive, newest first."""
        return self.runs(**{"postval/archive_id": archive_id})

    def unfinished(self, *archive_ids: str) -> list[str]:
        """Runs about these archives that have not ended."""
        ended = ("SUCCESS", "FAILURE", "CANCELED")
        return [r["id"] for a in archive_ids for r in self.runs_of(a) if r["status"] not in ended]

    def inbox_ticks(self) -> list[dict[str, Any]]:
        """Ticks of the inbox sensor, newest first."""
        found = self.running.graphql(
            """{ sensorOrError(sensorSelector: {repositoryName: "__repository__", sensorName: "inbox_sensor",
                   repositoryLocationName: "postval_assets.definitions"}) { ... on Sensor {
                 sensorState { ticks(limit: 40) { id status skipReason } } } } }"""
        )
        ticks: list[dict[str, Any]] = found["sensorOrError"]["sensorState"]["ticks"]
        return ticks

    def wait_for_ticks(self, number: int) -> list[dict[str, Any]]:
        """The next finished ticks of the inbox sensor."""
        before = {tick["id"] for tick in self.inbox_ticks()}

        def new() -> list[dict[str, Any]] | None:
            ticks = [t for t in self.inbox_ticks() if t["id"] not in before and t["status"] != "STARTED"]
            return ticks if len(ticks) >= number else None

        return self.running.wait_for(f"{number} tick(s) of the inbox sensor", new, timeout_s=120)


# A person with the file open in a program of their own; says "open" when it is.
_HOLDER = """
import sys, time, duckdb
path, read_only = sys.argv[1], sys.argv[2] == "read-only"
deadline = time.monotonic() + 60
while True:
    try:
        connection = duckdb.connect(path, read_only=read_only)
        break
    except duckdb.IOException:
        if time.monotonic() > deadline:
            raise
        time.sleep(0.05)
if not read_only:
    connection.execute("CREATE TABLE scribble (line INTEGER)")
    connection.execute("INSERT INTO scribble VALUES (1)")
connection.execute("SELECT count(*) FROM latest_decisions").fetchone()
print("open", flush=True)
for line in sys.stdin:
    if not read_only:
        connection.execute("INSERT INTO scribble VALUES (2)")
    print(connection.execute("SELECT count(*) FROM latest_decisions").fetchone()[0], flush=True)
"""


@dataclass
class Holder:
    """Another program with a DuckDB file open."""

    process: subprocess.Popen[str]

    def ask(self) -> int:
        """How many decisions it sees; one that may write does so first."""
        if self.process.stdin is None or self.process.stdout is None:
            raise RuntimeError("it has no pipes")
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def crash(self) -> None:
        """End it without closing the file: its log stays beside it."""
        self.process.kill()
        self.process.wait(timeout=30)


@contextlib.contextmanager
def holding_open(path: Path, *, read_only: bool) -> Iterator[Holder]:
    """A program that opens a DuckDB file, and holds it open until the block is left or it crashes."""
    if not read_only:
        path.chmod(0o644)
    mode = "read-only" if read_only else "read-write"
    process = subprocess.Popen(
        [sys.executable, "-c", _HOLDER, str(path), mode],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    holder = Holder(process)
    try:
        if process.stdout is None or process.stdout.readline().strip() != "open":
            raise RuntimeError(f"{path} could not be opened {mode}")
        yield holder
    finally:
        holder.crash()
        for pipe in (process.stdin, process.stdout):
            if pipe is not None:
                pipe.close()
