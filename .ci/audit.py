"""Known vulnerabilities of the packages in constraints.txt, as pip-audit finds them: ``make audit``.

Ends with 0 where there is none, or where the advisory service cannot be asked (one line says so); with 1 where there is
one that nobody accepted in accepted-advisories.toml, with what, which and the mend; with 2 where the audit itself is
broken.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
SAYS = "dependency audit"
# What a request says that nobody answered, or that was not let through.
_UNREACHABLE = re.compile(
    r"ConnectionError|ConnectTimeout|ReadTimeout|Timeout|ProxyError|SSLError|MaxRetryError|NameResolution"
    r"|ServiceError|HTTPError|Connection(Reset|Refused|Aborted)|Network is unreachable|JSONDecodeError",
)


class Broken(Exception):  # noqa: N818 - named as what it is
    """The audit cannot be done, and not for want of a network."""


@dataclass(frozen=True)
class Accepted:
    """An advisory that is lived with."""

    advisory: str
    package: str
    reason: str
    until: date


@dataclass(frozen=True)
class Vulnerability:
    """A known vulnerability of a pinned package."""

    package: str
    version: str
    names: tuple[str, ...]
    about: str
    mended_in: tuple[str, ...]


def read_accepted(file: Path) -> tuple[Accepted, ...]:
    """The accepted advisories; raises Broken where one lacks its reason or its date."""
    try:
        entries = tomllib.loads(file.read_text(encoding="utf-8")).get("accepted", [])
        found = tuple(
            Accepted(e["id"], e["package"].lower(), e["reason"].strip(), e["until"]) for e in entries
        )
    except (tomllib.TOMLDecodeError, KeyError, AttributeError, TypeError) as error:
        raise Broken(f"{file}: each [[accepted]] needs id, package, reason and until: {error!r}") from error
    for one in found:
        if not one.reason or type(one.until) is not date:
            raise Broken(f"{file}: {one.advisory} needs a reason in words and a date such as 2026-12-31")
    return found


def vulnerabilities(report: dict[str, Any]) -> tuple[list[Vulnerability], list[str], int]:
    """What pip-audit's JSON says: vulnerabilities, packages that could not be asked about, and how many could."""
    found, skipped, n_asked = [], [], 0
    for package in report["dependencies"]:
        if "skip_reason" in package:
            skipped.append(package["name"])
            continue
        n_asked += 1
        for v in package["vulns"]:
            about = " ".join(str(v.get("description") or "").split())[:160]
            names = (v["id"], *v.get("aliases", ()))
            mends = tuple(v.get("fix_versions", ()))
            found.append(Vulnerability(package["name"].lower(), package["version"], names, about, mends))
    return found, skipped, n_asked


def verdict(found: Vulnerability, accepted: Sequence[Accepted], today: date) -> tuple[bool, str]:
    """Whether it is accepted, and a line about it."""
    named = f"{found.package} {found.version}: {found.names[0]}"
    if found.names[1:]:
        named += f" ({', '.join(found.names[1:])})"
    for one in accepted:
        if one.package == found.package and one.advisory in found.names:
            if today <= one.until:
                return True, f"{named} is accepted until {one.until}: {one.reason}"
            named += f" was accepted until {one.until}, which is over"
    mend = (
        f"pin {found.package}=={found.mended_in[0]} in constraints.txt"
        if found.mended_in
        else "no version mends it yet: do without the package"
    )
    about = f"; {found.about}" if found.about else ""
    return (
        False,
        f"{named}{about}. Mend: {mend}, or accept it with reason and date in .ci/accepted-advisories.toml",
    )


def ask(tool: Sequence[str], requirements: Path, seconds: float) -> dict[str, Any] | str:
    """The tool's report, or why the advisory service could not be asked; raises Broken for anything else."""
    options = [
        "--no-deps",
        "--disable-pip",
        "--format",
        "json",
        "--progress-spinner",
        "off",
        "--timeout",
        "10",
    ]
    try:
        done = subprocess.run(  # noqa: S603 - the tool is this project's own choice
            [*tool, "-r", str(requirements), *options],
            capture_output=True,
            text=True,
            timeout=seconds,
            check=False,
            stdin=subprocess.DEVNULL,
        )
    except subprocess.TimeoutExpired:
        return f"it did not answer within {seconds:g} s"
    try:
        report = json.loads(done.stdout)
        if isinstance(report, dict) and isinstance(report.get("dependencies"), list):
            return report
    except ValueError:
        report = None
    last = next((line for line in reversed(done.stderr.splitlines()) if line.strip()), "no message")
    if _UNREACHABLE.search(done.stderr):
        return f"it could not be reached ({last.strip()[:160]})"
    raise Broken(f"{' '.join(tool)} ended with {done.returncode} and without a report: {last.strip()[:300]}")


def ask_about_all(tool: Sequence[str], requirements: Path, seconds: float) -> dict[str, Any] | str:
    """The report about every pin; about one alone first, since an index need not know advisories at all."""
    deadline = time.monotonic() + seconds
    lines = requirements.read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if "==" in line and not line.startswith("#")]
    if not pins:
        raise Broken(f"{requirements} pins no package with ==")
    with tempfile.TemporaryDirectory(prefix="postval-audit-") as folder:
        one = Path(folder) / "one.txt"
        one.write_text(pins[0] + "\n", encoding="utf-8")
        answer = ask(tool, one, seconds)
    if isinstance(answer, dict) and all("skip_reason" in package for package in answer["dependencies"]):
        return f"it knows nothing about {pins[0]}: the index in use has no advisories"
    if isinstance(answer, str):
        return answer
    return ask(tool, requirements, max(deadline - time.monotonic(), 1.0))


def main(arguments: Sequence[str] | None = None) -> int:
    """The audit."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requirements", type=Path, default=HERE.parent / "constraints.txt")
    parser.add_argument("--accepted", type=Path, default=HERE / "accepted-advisories.toml")
    parser.add_argument("--seconds", type=float, default=60.0, help="for all questions together")
    parser.add_argument("--tool", nargs="+", default=[sys.executable, "-m", "pip_audit"])
    given = parser.parse_args(arguments)
    try:
        accepted = read_accepted(given.accepted)
        answer = ask_about_all(given.tool, given.requirements, given.seconds)
        if isinstance(answer, str):
            print(f"{SAYS}: NOT DONE, the advisory service was asked and {answer}")  # noqa: T201
            return 0
        found, skipped, n_asked = vulnerabilities(answer)
    except (Broken, KeyError, OSError) as error:
        print(f"{SAYS}: BROKEN: {error}")  # noqa: T201
        return 2
    verdicts = [verdict(v, accepted, datetime.now(UTC).date()) for v in found]
    for is_accepted, line in verdicts:
        print(f"{SAYS}: {'accepted' if is_accepted else 'FAILED'}: {line}")  # noqa: T201
    seen = {(v.package, name) for v in found for name in v.names}
    for one in accepted:
        if (one.package, one.advisory) not in seen:
            print(f"{SAYS}: {one.advisory} of {one.package} is accepted and not found any more: remove it")  # noqa: T201
    n_open = sum(not is_accepted for is_accepted, _ in verdicts)
    more = f", {len(skipped)} that it does not know ({', '.join(skipped)})" if skipped else ""
    print(f"{SAYS}: {n_asked} packages asked about{more}: {n_open or 'no'} open vulnerabilities")  # noqa: T201
    return 1 if n_open else 0


if __name__ == "__main__":
    sys.exit(main())
