"""``python -m postval_assets_tests.hostile``: every hostile file, and a table of what became of them.

Here: running all suites in this process, under hard bounds of the kernel, and the table. Not here: the cases.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

from postval_assets_tests.hostile.canary import limit_this_process
from postval_assets_tests.hostile.cases import Case, FamilyCount, Suite, Verdict, counted, surprises

# Libraries reserve far more addresses than they use memory; a bomb of the cases would need more than these.
_ADDRESS_SPACE_BYTES = 16 * 2**30
_FILE_BYTES = 2**30


def suites() -> tuple[Suite, ...]:
    """All hostile files by the way in which they are judged."""
    from postval_assets_tests.hostile.checkpoint_cases import SUITE as CHECKPOINTS
    from postval_assets_tests.hostile.run_archives import SUITE as ARCHIVES

    return (ARCHIVES, CHECKPOINTS)


def main() -> int:
    """Run what was asked for; 1 where anything surprised."""
    parser = argparse.ArgumentParser(prog="python -m postval_assets_tests.hostile", description=__doc__)
    parser.add_argument("--only", default="", help="cases whose family or name holds this text")
    parser.add_argument("--verbose", action="store_true", help="each case, and what was said of it")
    parser.add_argument("--report", type=Path, help="a file for the table as JSON, too")
    asked = parser.parse_args()
    limit_this_process(address_space_bytes=_ADDRESS_SPACE_BYTES, file_bytes=_FILE_BYTES)
    started = time.monotonic()
    judged: list[tuple[Case, Verdict]] = []
    for suite in suites():
        for case in suite.cases:
            if asked.only not in f"{case.family}: {case.name}":
                continue
            verdict = _judged(suite, case)
            judged.append((case, verdict))
            _tell(case, verdict, verbose=asked.verbose)
    lines = counted(judged)
    _say(_table(lines))
    _say(f"{_worst(judged)}, {time.monotonic() - started:.0f} s")
    if asked.report is not None:
        asked.report.write_text(json.dumps([vars(line) for line in lines], indent=2), encoding="utf-8")
    return int(lines[-1].surprises > 0)


def _judged(suite: Suite, case: Case) -> Verdict:
    with tempfile.TemporaryDirectory(prefix="hostile-", ignore_cleanup_errors=True) as folder:
        return suite.judge(case, Path(folder))


def _tell(case: Case, verdict: Verdict, *, verbose: bool) -> None:
    found = surprises(case, verdict)
    if verbose:
        _say(f"{case.family}: {case.name}\n  {verdict.outcome}")
        for said in verdict.said:
            _say(f"  {ascii(said)[1:-1]}")
    for surprise in found:
        _say(f"SURPRISE {case.family}: {case.name}: {surprise}")


def _table(lines: tuple[FamilyCount, ...]) -> str:
    names = ("family", "cases", "refused", "quarantined", "accepted", "surprises")
    rows = [names, *(tuple(str(getattr(line, name)) for name in names) for line in lines)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(names))]
    return "\n".join(
        "  ".join(
            cell.ljust(w) if i == 0 else cell.rjust(w)
            for i, (cell, w) in enumerate(zip(row, widths, strict=True))
        )
        for row in rows
    )


def _worst(judged: list[tuple[Case, Verdict]]) -> str:
    memory = max((v.peak_memory_bytes or 0 for _, v in judged), default=0)
    written = max((v.written_bytes or 0 for _, v in judged), default=0)
    return f"most memory {memory / 2**20:.0f} MB, most written {written / 2**20:.0f} MB for one case"


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
