"""``python -m postval_assets_tests.bench``: runs sections, prints their tables, writes one JSON file.

Here: the command line and the order of sections. Not here: any measurement.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from time import perf_counter
from typing import Any

from postval_assets_tests.bench.machine import facts
from postval_assets_tests.bench.options import BenchOptions

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / ".bench"  # git-ignored
SECTIONS = ("engine", "evidence", "peers", "drop", "memory", "sql")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run what is asked for.

    Returns:
        The exit status: 1 where a section failed; the others are measured and written all the same.
    """
    asked = _parser().parse_args(arguments)
    started = datetime.now(UTC)
    asked.scratch.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "started_at": started.isoformat(timespec="seconds"),
        "quick": asked.quick,
        "machine": facts(ROOT),
        "sections": {},
        "section_seconds": {},
        "failed": {},
    }
    with tempfile.TemporaryDirectory(
        prefix="bench-", dir=asked.scratch, ignore_cleanup_errors=True
    ) as folder:
        options = BenchOptions(
            models=asked.models,
            scratch=Path(folder),
            seed=asked.seed,
            quick=asked.quick,
            skip_peers=asked.skip_peers,
        )
        for name in asked.only:
            begun = perf_counter()
            try:
                found, text = _section(name, options, result["sections"])
                result["sections"][name] = found
                print(text, flush=True)
            except Exception as error:  # noqa: BLE001 - hours of other sections are not lost to one
                result["failed"][name] = f"{type(error).__name__}: {error}"
                print(f"{name} failed: {result['failed'][name]}", file=sys.stderr, flush=True)
            result["section_seconds"][name] = round(perf_counter() - begun, 1)
    out = asked.out or FOLDER / f"bench-{started:%Y%m%d-%H%M%S}.json"
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps(result, indent=1), encoding="utf-8")
    print(f"written: {out}")
    return 1 if result["failed"] else 0


def _section(name: str, options: BenchOptions, before: dict[str, Any]) -> tuple[dict[str, Any], str]:
    """What a section found, and its table; its module is imported only when it is asked for."""
    if name == "memory":
        # The archives of ``drop`` are the ones whose memory is watched: they are not dropped twice.
        module = importlib.import_module("postval_assets_tests.bench.drop_bench")
        found = module.memory_run(options, before.get("drop"))
        return found, module.memory_table(found)
    module = importlib.import_module(f"postval_assets_tests.bench.{_MODULES[name]}")
    found = module.run(options)
    return found, module.table(found)


_MODULES = {
    "engine": "engine_bench",
    "evidence": "evidence_bench",
    "peers": "peer_bench",
    "drop": "drop_bench",
    "sql": "sql_bench",
}


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m postval_assets_tests.bench", description=__doc__)
    parser.add_argument(
        "--only", type=_sections, default=SECTIONS, metavar="NAMES", help=f"of {','.join(SECTIONS)}"
    )
    parser.add_argument("--models", type=_numbers, default=(5, 50, 200), help="archive sizes: 5,50,200")
    parser.add_argument("--out", type=Path, help="result file; default: a new one in .bench")
    parser.add_argument("--scratch", type=Path, default=FOLDER, help="folder on the disk with room")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--quick", action="store_true", help="little work: the figures mean nothing")
    parser.add_argument("--skip-peers", action="store_true", help="install and measure no other project")
    return parser


def _sections(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    unknown = [name for name in names if name not in SECTIONS]
    if unknown:
        raise argparse.ArgumentTypeError(f"no section {', '.join(unknown)}: expected {', '.join(SECTIONS)}")
    # ``memory`` looks at what ``drop`` did, so the order is always the same.
    return tuple(name for name in SECTIONS if name in names)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(","))
    if min(numbers) < 1:
        raise argparse.ArgumentTypeError("an archive has at least one model")
    return numbers


if __name__ == "__main__":
    sys.exit(main())
