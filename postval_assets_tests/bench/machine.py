"""What this machine is and can do: the yardstick that the engine is held against.

Here: facts of the machine and of the software, and the measured rate of float32 matrix products. Not here: what is
compared with it.
"""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter

import psutil
import torch

Shape = tuple[int, int, int]

SQUARE: Shape = (4096, 4096, 4096)
LIBRARIES = ("torch", "numpy", "pandas", "duckdb", "dagster", "pyarrow", "safetensors")


@dataclass(frozen=True)
class MatrixRate:
    """The best of some matrix products.

    Attributes:
        gflops: 10^9 multiplications and additions a second.
        shape: rows, inner and columns of the product that ran at this rate.
    """

    gflops: float
    shape: Shape


def matrix_rate(shapes: tuple[Shape, ...], device: str = "cpu", repeats: int = 2) -> MatrixRate:
    """The best rate of float32 products of these shapes, with the threads that torch uses now."""
    was_allowed = torch.backends.cuda.matmul.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = False
    try:
        return max(
            (MatrixRate(_gflops(shape, device, repeats), shape) for shape in shapes),
            key=lambda rate: rate.gflops,
        )
    finally:
        torch.backends.cuda.matmul.allow_tf32 = was_allowed


def _gflops(shape: Shape, device: str, repeats: int) -> float:
    rows, inner, columns = shape
    generator = torch.Generator().manual_seed(0)
    left = torch.randn((rows, inner), generator=generator).to(device)
    right = torch.randn((inner, columns), generator=generator).to(device)
    out = torch.empty((rows, columns), device=device)
    best = float("inf")
    with torch.inference_mode():
        torch.mm(left, right, out=out)  # the first product of a shape also pays for its preparation
        for _ in range(repeats):
            _wait(device)
            started = perf_counter()
            torch.mm(left, right, out=out)
            _wait(device)
            best = min(best, perf_counter() - started)
    return 2.0 * rows * inner * columns / best / 1e9


def _wait(device: str) -> None:
    if device != "cpu":
        torch.cuda.synchronize(device)


def facts(root: Path) -> dict[str, object]:
    """What has to be known to compare two results.

    Args:
        root: of the repository, for its commit.
    """
    return {
        "cpu": cpu_model(),
        "cores": os.cpu_count(),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "system": platform.platform(),
        "python": platform.python_version(),
        "torch_threads": torch.get_num_threads(),
        "torch_cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "cuda": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
        "load_average_before": [round(load, 2) for load in psutil.getloadavg()],
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "commit": git_commit(root),
    }


def cpu_model() -> str:
    """Name of the processor, as well as the system says it."""
    listing = Path("/proc/cpuinfo")
    if listing.exists():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def git_commit(root: Path) -> str | None:
    """The commit checked out, ``+`` behind it where files differ from it; None outside a repository."""
    try:
        commit = _git(root, "rev-parse", "--short", "HEAD")
        return commit + ("+" if _git(root, "status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(root: Path, *words: str) -> str:
    return subprocess.run(
        ["git", *words], cwd=root, check=True, capture_output=True, text=True
    ).stdout.strip()
