"""The log of a data directory: whole lines of several processes, rotated, without secrets or other people's codes."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from postval_assets.io.log_file import SharedLogFile, log_to_file
from postval_assets_tests.platform_process import REPOSITORY

LINE = re.compile(r"^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z \d+ [A-Z]+ postval[.\w]*: ")
_WRITER = """
import logging, sys
from pathlib import Path
from postval_assets.io.log_file import log_to_file
log_to_file(Path(sys.argv[1]), max_bytes=12_000)
for n in range(100):
    logging.getLogger("postval.test").info("writer %s says line %03d %s", sys.argv[2], n, "x" * 40)
"""


@pytest.fixture
def logger() -> Iterator[logging.Logger]:
    """The postval logger, as it was afterwards."""
    logger = logging.getLogger("postval")
    before = (list(logger.handlers), logger.level, logger.propagate)
    logger.handlers, logger.propagate = [], False
    logger.setLevel(logging.NOTSET)
    yield logger
    logger.handlers, logger.propagate = before[0], before[2]
    logger.setLevel(before[1])


def log_of(data_dir: Path) -> Path:
    return data_dir / "logs" / "postval.log"


def test_a_line_says_when_who_and_what(logger: logging.Logger, tmp_path: Path) -> None:
    log_to_file(tmp_path)
    assert list(tmp_path.iterdir()) == [], "nothing is made before there is something to say"
    logging.getLogger("postval.inbox").info("took %s", "a.zip")
    [line] = log_of(tmp_path).read_text("utf-8").splitlines()
    assert LINE.match(line)
    assert line.endswith(" INFO postval.inbox: took a.zip")


def test_a_data_directory_that_is_not_there_is_not_made(logger: logging.Logger, tmp_path: Path) -> None:
    log_to_file(tmp_path / "data")
    logger.info("hello")
    assert list(tmp_path.iterdir()) == []


def test_asked_again_it_writes_once_and_for_another_directory_only_there(
    logger: logging.Logger, tmp_path: Path
) -> None:
    first, second = tmp_path / "first", tmp_path / "second"
    first.mkdir()
    second.mkdir()
    log_to_file(first)
    log_to_file(first)
    logger.info("one")
    log_to_file(second)
    logger.info("two")
    assert [log_of(d).read_text("utf-8").count("\n") for d in (first, second)] == [1, 1]
    assert "two" in log_of(second).read_text("utf-8")


def test_names_from_archives_neither_make_lines_nor_steer_a_terminal(
    logger: logging.Logger, tmp_path: Path
) -> None:
    log_to_file(tmp_path)
    evil = "AAPL\n2026-01-01T00:00:00.000Z 1 INFO postval: forged\x1b[2J\u202e\u2028"
    try:
        raise ValueError(evil)
    except ValueError:
        logger.warning("refused %s", evil, exc_info=True)
    text = log_of(tmp_path).read_text("utf-8")
    first, *rest = text.split("\n")
    assert "refused AAPL\\n2026" in first
    assert not re.search(r"[\x1b\u202e\u2028]", text)
    assert "ValueError: AAPL" in text
    assert all(line.startswith("    ") for line in rest if line), "what belongs to a line is indented"


def test_secrets_are_never_written(logger: logging.Logger, tmp_path: Path) -> None:
    log_to_file(tmp_path, secrets=["PKSECRETKEY123", "abc"])
    try:
        raise RuntimeError("PKSECRETKEY123")
    except RuntimeError:
        logger.exception("asked with PKSECRETKEY123 and abc")
    text = log_of(tmp_path).read_text("utf-8")
    assert "PKSECRETKEY123" not in text
    assert "asked with *** and abc" in text


def test_lines_of_several_processes_are_whole_and_none_is_lost_while_files_rotate(tmp_path: Path) -> None:
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(tmp_path), str(n)],
            env={"PYTHONPATH": str(REPOSITORY)} if sys.platform != "win32" else None,
            cwd=REPOSITORY,
        )
        for n in range(4)
    ]
    assert [w.wait(timeout=120) for w in writers] == [0, 0, 0, 0]
    files = sorted((tmp_path / "logs").glob("postval.log*"))
    assert 2 < len(files) <= 5, "it was rotated, and there are at most four old ones"
    assert all(f.stat().st_size <= 12_000 for f in files)
    lines = [line for f in files for line in f.read_text("utf-8").splitlines()]
    assert all(LINE.match(line) and line.endswith("x" * 40) for line in lines)
    said = {m[0] for line in lines if (m := re.search(r"writer \d says line \d+", line))}
    assert said == {f"writer {w} says line {n:03}" for w in range(4) for n in range(100)}


def test_where_the_file_cannot_be_put_aside_it_grows_and_nothing_is_lost(
    logger: logging.Logger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(self: SharedLogFile, source: str, target: str) -> None:
        raise PermissionError(13, "it is open in another program")

    monkeypatch.setattr(SharedLogFile, "rotate", refused)
    log_to_file(tmp_path, max_bytes=500)
    for n in range(20):
        logger.info("line %d", n)
    assert log_of(tmp_path).read_text("utf-8").count("\n") == 20
    monkeypatch.undo()
    logger.info("line 20")
    assert log_of(tmp_path).read_text("utf-8").count("\n") == 1
    assert log_of(tmp_path).with_name("postval.log.1").read_text("utf-8").count("\n") == 20


def test_a_log_that_cannot_be_written_says_so_once_and_stops_nobody(
    logger: logging.Logger, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "logs").write_text("a file where the folder should be")
    log_to_file(tmp_path)
    logger.info("one")
    logger.info("two")
    said = capsys.readouterr().err
    assert said.count("its lines are lost") == 1
    assert str(log_of(tmp_path)) in said


def test_warnings_still_reach_a_terminal_that_nobody_else_serves(
    logger: logging.Logger, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    logger.handlers = []  # pytest's own, which it adds to each logger that tells nobody above it
    log_to_file(tmp_path)
    logger.info("quiet")
    logger.warning("the inbox waits")
    logger.addHandler(logging.NullHandler())
    logger.warning("somebody else takes this one")
    assert capfd.readouterr().err == "the inbox waits\n"
