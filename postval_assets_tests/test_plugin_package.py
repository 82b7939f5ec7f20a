"""The package of docs/plugins.md: taken from the page, installed by pip, used by the command in another process."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "plugins.md"


def block(heading: str, language: str) -> str:
    """The first code block of a language after some text of the page."""
    rest = PAGE.read_text(encoding="utf-8").partition(heading)[2]
    found = re.search(rf"```{language}\n(.*?)```", rest, re.DOTALL)
    assert found is not None, f"no {language} block after {heading!r}"
    return found[1]


@dataclass(frozen=True)
class Installed:
    """A folder with the installed package, and a place to work in."""

    site: Path
    work: Path

    def __call__(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run Python with the package on its path."""
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("POSTVAL_", "DAGSTER_"))}
        return subprocess.run(
            [sys.executable, *arguments],
            cwd=self.work,
            env={**clean, "PYTHONPATH": os.pathsep.join([str(self.site), str(ROOT)]), "PYTHONUTF8": "1"},
            capture_output=True,
            text=True,
            encoding="utf-8",
            timeout=300,
            check=False,
        )

    def postval(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the postval command."""
        return self("-m", "postval_assets.cli", "--data-dir", str(self.work / "data"), *arguments)


def install(root: Path, source: str) -> Installed:
    """Install the page's package, with some source in place of the page's, without network."""
    package = root / "acme-features"
    module = package / "src" / "acme_features"
    module.mkdir(parents=True)
    (package / "pyproject.toml").write_text(block("`pyproject.toml`:", "toml"), encoding="utf-8")
    (module / "__init__.py").write_text(source, encoding="utf-8")
    installed = Installed(root / "site", root / "work")
    installed.work.mkdir()
    options = ["--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check", "--quiet"]
    done = installed("-m", "pip", "install", *options, "--target", str(installed.site), str(package))
    assert done.returncode == 0, done.stderr
    return installed


@pytest.fixture(scope="module")
def acme(tmp_path_factory: pytest.TempPathFactory) -> Installed:
    """The package as the page has it."""
    return install(tmp_path_factory.mktemp("acme"), block("`src/acme_features/__init__.py`", "python"))


def test_it_is_listed_beside_the_reference_sets(acme: Installed) -> None:
    done = acme.postval("features", "list")
    assert done.returncode == 0, done.stderr
    [line] = [line for line in done.stdout.splitlines() if line.startswith("acme-59 ")]
    assert line.split() == ["acme-59", "1", "plug-in", "53", "6", "139"]
    assert "reference-59" in done.stdout


def without_seconds(table: str) -> list[list[str]]:
    """Rows of the table of a check, but for how long it took."""
    rows = [line.split() for line in table.splitlines() if re.match(r"[A-Z]+ ", line)]
    return [row[:4] + row[6:] for row in rows]


def test_it_passes_the_check_that_the_page_shows(acme: Installed) -> None:
    done = acme.postval("features", "check", "acme-59")
    assert done.returncode == 0, done.stderr
    shown = re.search(r"```\n(acme-59 version 1: .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert shown is not None
    assert done.stdout.splitlines()[:3] == shown[1].splitlines()[:3]
    assert without_seconds(done.stdout) == without_seconds(shown[1])
    assert len(without_seconds(shown[1])) == 4


def test_doctor_lists_it(acme: Installed) -> None:
    done = acme.postval("doctor")
    [line] = [line for line in done.stdout.splitlines() if " feature sets " in line]
    assert line.startswith("ok ")
    assert "acme-59, reference-53, reference-56, reference-59" in line


def test_the_python_of_the_page_runs(acme: Installed) -> None:
    source = block("The same in Python:", "python").replace(
        "data/sample", (ROOT / "data" / "sample").as_posix()
    )
    done = acme("-c", source)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("feature set acme-59 on ")
    assert "keeps to its look-back" in done.stdout


def test_the_same_package_is_refused_by_name_where_it_looks_ahead(tmp_path: Path) -> None:
    honest = block("`src/acme_features/__init__.py`", "python")
    ahead = honest.replace(
        'np.log(bars["close"] / bars["close"].shift(24))', 'np.log(bars["close"].shift(-1) / bars["close"])'
    )
    assert ahead != honest
    done = install(tmp_path, ahead).postval("features", "check", "acme-59", "--symbol", "AAPL")
    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    assert "REFUSED" in done.stdout
    shown = re.search(
        r"```\n(Error: feature set acme-59 .*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL
    )
    assert shown is not None
    assert done.stderr.split() == shown[1].split()
