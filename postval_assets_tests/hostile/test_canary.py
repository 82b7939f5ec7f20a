"""The canary notices each kind of harm, and nothing where there is none; and a surprise is told as one."""

from __future__ import annotations

import ctypes
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

from postval_assets_tests.hostile import canary
from postval_assets_tests.hostile.canary import SONG, Observed, watch
from postval_assets_tests.hostile.cases import Case, FamilyCount, Outcome, Verdict, counted, surprises


def observed(run: Callable[[Path], object], tmp_path: Path, **bounds: int) -> Observed[object]:
    sandbox = tmp_path / "box" / "data"
    sandbox.mkdir(parents=True)
    return watch(lambda: run(sandbox), sandbox=sandbox, **bounds)


def unpickled(_: Path) -> None:
    import pickle  # noqa: TID251 - what nothing in the product may do

    pickle.loads(b"cos\ngetcwd\n.")  # noqa: S301


def carried_out(box: Path) -> None:
    (box / "x").write_text("x")
    (box / "x").rename(box.parent / "x")


HARM: dict[str, tuple[Callable[[Path], object], str]] = {
    "a function of the file's": (lambda _: canary.sing("la"), "the canary sang"),
    "a text that is run": (lambda _: eval(f"'{SONG}'"), "code was run: compile"),  # noqa: S307
    "a command": (lambda _: os.system("true"), "code was started: os.system"),  # noqa: S605
    "a program": (lambda _: subprocess.run([sys.executable, "-c", ""], check=True), "subprocess.Popen"),
    "a library": (lambda _: ctypes.CDLL("no such library"), "code was started: ctypes.dlopen"),
    "an unpickler": (unpickled, "an unpickler asked for"),
    "a socket": (lambda _: socket.socket().close(), "a connection was opened: socket"),
    "a name that is looked up": (lambda _: socket.getaddrinfo("127.0.0.1", 1), "socket.getaddrinfo"),
    "a file beside the data": (
        lambda box: (box.parent / "x").write_text("x"),
        "a file outside the data directory",
    ),
    "a file above the data": (
        lambda box: (box / ".." / ".." / "x").write_text("x"),
        "outside the data directory",
    ),
    "a file where one happens to be": (lambda _: Path("x").write_text("x"), "outside the data directory"),
    "a file among the temporary ones": (lambda _: tempfile.mkstemp(), "outside the data directory"),
    "a file at home": (lambda _: Path("~/x").expanduser().write_text("x"), "outside the data directory"),
    "a folder": (lambda box: (box.parent / "d").mkdir(), "os.mkdir outside the data directory"),
    "a file that goes": (lambda box: (box.parent / "elsewhere").unlink(), "os.remove outside"),
    "a file that is carried out": (carried_out, "os.rename outside the data directory"),
}


@pytest.mark.parametrize("what", HARM)
def test_harm_is_noticed(what: str, tmp_path: Path) -> None:
    run, said = HARM[what]
    found = observed(run, tmp_path)
    assert any(said in harm for harm in found.noticed), found


def test_what_stays_in_the_data_directory_is_no_harm(tmp_path: Path) -> None:
    def honest(box: Path) -> str:
        (box / "a" / "b").mkdir(parents=True)
        (box / "a" / "b" / "c.txt").write_text("c")
        (box / "a" / "b").rename(box / "b")
        with tempfile.TemporaryDirectory(dir=box) as folder:
            Path(folder, "d").write_text("d")
        shutil.rmtree(box / "a")
        return (box / "b" / "c.txt").read_text()

    found = observed(honest, tmp_path)
    assert (found.result, found.error, found.noticed) == ("c", None, ())


def test_what_a_library_writes_is_found_afterwards(tmp_path: Path) -> None:
    import duckdb

    found = observed(lambda box: duckdb.connect(str(box.parent / "stray.duckdb")).close(), tmp_path)
    assert any("a stray file beside the data directory" in harm for harm in found.noticed)


def test_nothing_is_noticed_once_the_watch_is_over(tmp_path: Path) -> None:
    found = observed(lambda _: None, tmp_path)
    canary.sing("too late")
    (tmp_path / "x").write_text("x")
    assert found.noticed == ()


def test_an_error_is_kept_and_the_surroundings_are_put_back(tmp_path: Path) -> None:
    before = (Path.cwd(), os.environ.get("HOME"), os.environ.get("TMPDIR"), tempfile.gettempdir())

    def fails(box: Path) -> None:
        raise LookupError(box.name)

    assert isinstance(observed(fails, tmp_path).error, LookupError)
    assert (Path.cwd(), os.environ.get("HOME"), os.environ.get("TMPDIR"), tempfile.gettempdir()) == before


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counts of Linux")
def test_memory_and_disk_over_the_bound_are_noticed(tmp_path: Path) -> None:
    def costly(box: Path) -> int:
        (box / "large").write_bytes(b"x" * 2**22)
        return len(bytearray(os.urandom(2**26)))

    found = observed(costly, tmp_path, memory_bound_bytes=2**25, disk_bound_bytes=2**21)
    assert [harm.partition(":")[0] for harm in found.noticed] == [
        "memory over the bound",
        "disk over the bound",
    ]
    assert found.peak_memory_bytes is not None
    assert found.peak_memory_bytes >= 2**26
    assert found.written_bytes is not None
    assert 2**22 <= found.written_bytes < 2**23


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's counts of Linux")
def test_memory_that_was_taken_before_does_not_hide_a_peak(tmp_path: Path) -> None:
    first = observed(lambda _: len(bytearray(os.urandom(2**27))), tmp_path)
    second = observed(lambda _: len(bytearray(os.urandom(2**25))), tmp_path / "again")
    assert first.peak_memory_bytes is not None
    assert second.peak_memory_bytes is not None
    assert first.peak_memory_bytes >= 2**27
    assert 2**25 <= second.peak_memory_bytes < 2**27


def test_a_surprise_is_whatever_is_not_as_expected() -> None:
    case = Case("x", "f", lambda folder: folder, Outcome.REFUSED, "entry x is .* at most 5")
    as_it_should = Verdict(Outcome.REFUSED, ("entry x is 7; at most 5",))
    assert surprises(case, as_it_should) == ()
    for verdict, said in (
        (Verdict(Outcome.ACCEPTED, as_it_should.said), "expected refused, was accepted"),
        (Verdict(Outcome.REFUSED, ("no",)), "expected to be told"),
        (Verdict(Outcome.REFUSED, as_it_should.said, ("a stray file",)), "a stray file"),
        (Verdict(Outcome.REFUSED, (*as_it_should.said, "\x1b[2J")), "unsafe text"),
    ):
        (found,) = surprises(case, verdict)
        assert said in found
    judged = [(case, as_it_should), (case, Verdict(Outcome.FAILED, ()))]
    assert counted(judged) == (FamilyCount("f", 2, 1, 0, 0, 1), FamilyCount("all", 2, 1, 0, 0, 1))
