"""The audit of dependencies: what it ends with for each answer of the tool, without a network."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[1]
AUDIT = ROOT / ".ci" / "audit.py"
CLEAN = {"name": "numpy", "version": "2.4.6", "vulns": []}
UNKNOWN = {"name": "postval-own", "skip_reason": "Dependency not found"}
BAD = {
    "name": "Requests",
    "version": "2.31.0",
    "vulns": [
        {
            "id": "PYSEC-2026-7",
            "aliases": ["CVE-2026-1234"],
            "fix_versions": ["2.32.0", "2.33.0"],
            "description": "Sends a secret\nelsewhere.",
        }
    ],
}


class Stand:
    """The audit with a stand-in for the tool."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.accepted = folder / "accepted.toml"
        self.accepted.write_text("", encoding="utf-8")

    def __call__(self, source: str, seconds: float = 60.0) -> tuple[int, list[str]]:
        tool = self.folder / "tool.py"
        tool.write_text(source, encoding="utf-8")
        words = [
            "--accepted",
            str(self.accepted),
            "--seconds",
            str(seconds),
            "--tool",
            sys.executable,
            str(tool),
        ]
        done = subprocess.run(
            [sys.executable, str(AUDIT), *words], capture_output=True, text=True, check=False, timeout=120
        )
        assert "Traceback" not in done.stderr, done.stderr
        return done.returncode, done.stdout.splitlines()

    def reports(self, *packages: dict[str, Any]) -> tuple[int, list[str]]:
        """What comes of a report about these packages; like the tool it ends with 1 where it found something."""
        report = json.dumps({"dependencies": packages, "fixes": []})
        found = any(p.get("vulns") for p in packages)
        return self(f"import sys\nprint({report!r})\nsys.exit({int(found)})")

    def accept(
        self, until: str, reason: str = "not reachable from here", name: str = "CVE-2026-1234"
    ) -> None:
        entry = f'[[accepted]]\nid = "{name}"\npackage = "requests"\nreason = "{reason}"\nuntil = {until}\n'
        self.accepted.write_text(entry, encoding="utf-8")


@pytest.fixture
def audit(tmp_path: Path) -> Stand:
    return Stand(tmp_path)


def test_without_vulnerabilities_it_passes_and_says_how_many_were_asked_about(audit: Stand) -> None:
    code, lines = audit.reports(CLEAN, UNKNOWN)
    assert code == 0
    assert lines == [
        "dependency audit: 1 packages asked about, 1 that it does not know (postval-own): no open vulnerabilities"
    ]


def test_a_vulnerability_fails_with_what_which_and_the_mend(audit: Stand) -> None:
    code, lines = audit.reports(CLEAN, BAD)
    assert code == 1
    assert lines[0].startswith(
        "dependency audit: FAILED: requests 2.31.0: PYSEC-2026-7 (CVE-2026-1234); Sends a secret elsewhere."
    )
    assert "Mend: pin requests==2.32.0 in constraints.txt" in lines[0]
    assert lines[1].endswith("1 open vulnerabilities")


@pytest.mark.parametrize(
    "said",
    [
        "requests.exceptions.ConnectionError: HTTPSConnectionPool: Max retries exceeded",
        "pip_audit._service.interface.ConnectionError: Could not connect to the vulnerability feed",
        "requests.exceptions.ProxyError: Tunnel connection failed: 403 Forbidden",
        "pip_audit._service.interface.ServiceError",
    ],
)
def test_where_the_service_cannot_be_reached_one_line_says_so_and_it_goes_on(audit: Stand, said: str) -> None:
    code, lines = audit(f"import sys\nprint({said!r}, file=sys.stderr)\nsys.exit(1)")
    assert code == 0
    [line] = lines
    assert line.startswith(
        "dependency audit: NOT DONE, the advisory service was asked and it could not be reached"
    )


def test_it_does_not_wait_for_ever(audit: Stand) -> None:
    code, lines = audit("import threading\nthreading.Event().wait()", seconds=1.0)
    assert code == 0
    assert lines == [
        "dependency audit: NOT DONE, the advisory service was asked and it did not answer within 1 s"
    ]


def test_a_service_that_knows_nothing_is_not_taken_for_a_clean_bill(audit: Stand) -> None:
    code, lines = audit.reports(UNKNOWN)
    assert code == 0
    [line] = lines
    assert line.startswith(
        "dependency audit: NOT DONE, the advisory service was asked and it knows nothing about "
    )
    assert line.endswith(": the index in use has no advisories")


@pytest.mark.parametrize("source", ["raise SystemExit('no such option: -r')", "print('[]')", "print('{}')"])
def test_a_tool_that_is_broken_fails(audit: Stand, source: str) -> None:
    code, [line] = audit(source)
    assert code == 2
    assert line.startswith("dependency audit: BROKEN: ")


def test_an_accepted_advisory_passes_until_its_date(audit: Stand) -> None:
    audit.accept("2999-12-31")
    code, lines = audit.reports(BAD)
    assert code == 0
    assert "accepted until 2999-12-31: not reachable from here" in lines[0]
    audit.accept("2020-01-01")
    code, lines = audit.reports(BAD)
    assert code == 1
    assert "was accepted until 2020-01-01, which is over" in lines[0]
    audit.accept("2999-12-31", name="CVE-2000-1")
    code, lines = audit.reports(CLEAN)
    assert code == 0
    assert "CVE-2000-1 of requests is accepted and not found any more: remove it" in lines[0]


@pytest.mark.parametrize(("until", "reason"), [("2999-12-31", " "), ('"soon"', "because"), ("", "because")])
def test_nothing_is_accepted_without_reason_and_date(audit: Stand, until: str, reason: str) -> None:
    audit.accept(until, reason)
    code, [line] = audit.reports(CLEAN)
    assert code == 2
    assert "accepted.toml" in line


def test_the_tool_is_pinned_and_every_pin_is_audited_before_the_tests() -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    assert any(re.fullmatch(r"pip[-_]audit==[\d.]+", pin) for pin in pins)
    assert '"pip-audit' in (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    assert all("==" in pin for pin in pins if pin.strip() and not pin.startswith("#"))
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    assert steps.index("make audit") < steps.index("make test")
    assert re.search(
        r"^audit:.*\n\t.*\.ci/audit\.py$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
    )
