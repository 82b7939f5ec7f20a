from __future__ import annotations

import subprocess
import sys

import psutil
import pytest

from postval_assets.io.process_identity import is_alive, maker, maker_is_gone, this_process


def another_process(expression: str) -> str:
    """What an expression of the module is in a process that has ended since."""
    code = f"from postval_assets.io.process_identity import *; print({expression})"
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.strip()


def test_a_process_is_known_as_long_as_it_lives() -> None:
    assert is_alive(this_process())
    assert not is_alive(another_process("this_process()"))


def test_another_process_of_the_same_number_is_not_taken_for_it() -> None:
    number, _, started = this_process().partition(" ")
    assert not is_alive(f"{number} {float(started) - 60:.2f}")


@pytest.mark.parametrize("text", ["", "nonsense", "12", "0x1 3.00", "-4 1.00"])
def test_what_names_no_process_is_not_alive(text: str) -> None:
    assert not is_alive(text)


def test_a_file_says_whether_its_maker_is_gone() -> None:
    assert maker_is_gone(f".abc.safetensors.{maker()}.140.part") is False
    assert maker_is_gone(f"{maker()}.x9k2") is False
    gone = another_process("maker()")
    assert maker_is_gone(f".abc.safetensors.{gone}.140.part") is True
    machine, _, process = gone.partition(".")
    assert maker_is_gone(f"{machine}-of-somebody-else.{process}.x9k2") is None
    assert maker_is_gone("tmpx9k2") is None
    assert maker_is_gone("checkpoint.part") is None


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system itself says the time")
def test_a_clock_that_is_set_makes_nobody_look_gone(monkeypatch: pytest.MonkeyPatch) -> None:
    before = this_process()
    there = psutil.boot_time()
    # What the system says after somebody set the clock an hour ahead.
    monkeypatch.setattr(psutil._psplatform, "boot_time", lambda: there + 3600.0)
    assert psutil.boot_time() == there + 3600.0
    assert this_process() == before
    assert is_alive(before)
