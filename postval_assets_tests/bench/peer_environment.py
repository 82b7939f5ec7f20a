"""The environment of the peers, ``.venv-bench``: made by the benchmark, never imported by the product or its tests.

Here: making it and running a script in it. Not here: what the scripts are given (peer_bench.py).
"""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

PEERS = Path(__file__).resolve().parent / "peers"


def peer_python(root: Path) -> Path:
    """The Python of the peers' environment at the repository's root; installs it where it is missing or old.

    Raises:
        subprocess.CalledProcessError: pip failed; it has said why.
    """
    folder = root / ".venv-bench"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    wanted = (PEERS / "requirements.txt", root / "constraints.txt")
    digest = hashlib.sha256(b"".join(path.read_bytes() for path in wanted)).hexdigest()
    stamp = folder / ".installed"
    if not (stamp.exists() and stamp.read_text(encoding="utf-8") == digest):
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, "-r", str(wanted[0]), "-c", str(wanted[1])], check=True)
        stamp.write_text(digest, encoding="utf-8")
    return python


def run_peer(python: Path, script: str, case: Path) -> dict[str, Any]:
    """What a script of ``peers/`` makes of a case.

    Args:
        python: of their environment.
        script: its file name.
        case: an .npz file; the result is written beside it.

    Raises:
        RuntimeError: with the last lines that the script wrote.
    """
    result = case.with_suffix(".json")
    result.unlink(missing_ok=True)
    # Their environment alone: nothing of this one's path may reach them.
    env = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    done = subprocess.run(
        [str(python), str(PEERS / script), str(case), str(result)],
        env=env,
        cwd=case.parent,
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{script} failed:\n{done.stderr[-3000:]}")
    found: dict[str, Any] = json.loads(result.read_text(encoding="utf-8"))
    return found
