"""A study from its beginning, or from where it was stopped: pieces in processes, results in a file.

Here: which pieces are missing, who makes them, and the networks that they share. Not here: a piece (archives.py).

Every piece is seeded by its own name, so results do not depend on the number of processes or on their order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import multiprocessing
import platform
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from postval_assets.core.evaluation import code_version
from postval_assets.core.failures import Unavailable
from postval_assets.trainer import planted_edge, simulated_market
from postval_assets.trainer.calibration import archives, judging, markets, models, trading, watching
from postval_assets.trainer.calibration.archives import Maker
from postval_assets.trainer.calibration.judging import GRADES, LIMITS
from postval_assets.trainer.calibration.markets import bundled_bars
from postval_assets.trainer.calibration.models import (
    SHUFFLED_CONFIG,
    SHUFFLED_VERSIONS,
    ShuffledNetwork,
    load_networks,
    save_networks,
    train_on_shuffled,
)
from postval_assets.trainer.calibration.records import PieceResult, ResultsFile
from postval_assets.trainer.calibration.study import Piece, PieceKind, Study
from postval_assets.trainer.calibration.trading import FREE_RULES, RULES
from postval_assets.trainer.worker_start import begin_alone

MOST_ON_WINDOWS = 61  # ProcessPoolExecutor's limit there

Say = Callable[[str], None]


@dataclass(frozen=True)
class Finished:
    """A study with its results.

    Attributes:
        study: what was asked for.
        results: of its pieces that are done, in their order.
        depends_on: what the results depend on beside the names of the pieces.
    """

    study: Study
    results: tuple[PieceResult, ...]
    depends_on: Mapping[str, Any]

    @property
    def seconds(self) -> float:
        """Of all pieces together, one after the other."""
        return sum(result.seconds for result in self.results)


def depends_on(study: Study) -> dict[str, Any]:
    """What results of a study depend on beside a piece's name."""
    return {
        "seed": study.seed,
        "plans": list(study.plans),
        "archive_size": study.archive_size,
        "rules": code_version(),
        "made_by": _made_by(),
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "torch": torch.__version__.partition("+")[0],
        },
        "limits": json.loads(json.dumps([dataclasses.asdict(LIMITS), dataclasses.asdict(GRADES)])),
        "execution": [RULES.as_dict(), FREE_RULES.as_dict()],
    }


def _made_by() -> str:
    """Digest of what makes pieces: not of the page, which may be written anew from the same results."""
    sha = hashlib.sha256()
    for module in (archives, judging, markets, models, trading, watching, simulated_market, planted_edge):
        sha.update(Path(str(module.__file__)).read_bytes().replace(b"\r\n", b"\n"))
    return sha.hexdigest()[:16]


def finished_before(results: Path) -> Finished:
    """All that a file of results has, whatever made it.

    Raises:
        Rejected, Unavailable: it is no file of results, or cannot be read.
    """
    kept = ResultsFile(results, None)
    counts: dict[str, int] = {}
    for name in kept.results:
        kind = name.partition("/")[0]
        counts[kind] = counts.get(kind, 0) + 1
    sharpes = sorted(float(kind.partition("-")[2]) for kind in counts if kind.startswith(PieceKind.EDGE))
    study = Study(
        seed=int(kept.depends_on["seed"]),
        plans=tuple(kept.depends_on["plans"]),
        archives=counts.get(PieceKind.FRESH, 0),
        bundled_archives=counts.get(PieceKind.BUNDLED, 0),
        edge_markets=max((counts[k] for k in counts if k.startswith(PieceKind.EDGE)), default=0),
        true_sharpes=tuple(sharpes),
        archive_size=int(kept.depends_on["archive_size"]),
    )
    return Finished(study, tuple(kept.results[name] for name in sorted(kept.results)), kept.depends_on)


def run_study(study: Study, results: Path, sample_dir: Path, processes: int, say: Say) -> Finished:
    """Make what is missing of a study.

    Args:
        study: what there is to be.
        results: file of results; pieces that it has are not made again. The trained networks lie beside it.
        sample_dir: of the bundled bars.
        processes: that work; 1 for this one alone.
        say: told of progress, a line each.

    Raises:
        Rejected: the file has results of something else.
        Unavailable: it cannot be written.
    """
    made_of = depends_on(study)
    kept = ResultsFile(results, made_of)
    pieces = study.pieces()
    missing = [piece for piece in pieces if piece.name not in kept.results]
    if len(missing) < len(pieces):
        say(f"{len(pieces) - len(missing)} of {len(pieces)} pieces are in {results} already")
    if missing:
        networks = results.with_suffix(".networks.npz")
        if study.archives:
            make_networks(networks, sample_dir, study.seed, processes, say)
        _make_missing(_Start(study, networks, sample_dir), missing, kept, processes, say)
    done = kept.of_pieces([piece.name for piece in pieces])
    return Finished(study, tuple(done), made_of)


def networks_made_of(seed: int) -> dict[str, Any]:
    """What the networks trained on shuffled bars depend on."""
    return {"seed": seed, "config": repr(SHUFFLED_CONFIG), "versions": list(SHUFFLED_VERSIONS)}


def make_networks(path: Path, sample_dir: Path, seed: int, processes: int, say: Say) -> list[ShuffledNetwork]:
    """The networks trained on shuffled bars: read, or trained and kept."""
    made_of = networks_made_of(seed)
    kept = load_networks(path, made_of)
    if kept is not None:
        return kept
    bars = bundled_bars(sample_dir)
    wanted = [(bars[symbol], version, seed) for symbol in sorted(bars) for version in SHUFFLED_VERSIONS]
    say(f"training {len(wanted)} networks on shuffled bars")
    if processes == 1:
        networks = [train_on_shuffled(*one) for one in wanted]
    else:
        with _workers(_pool(min(processes, len(wanted)), None)) as pool:
            networks = list(pool.map(train_on_shuffled, *zip(*wanted, strict=True)))
    try:
        save_networks(path, networks, made_of)
    except OSError as error:
        raise Unavailable(f"{path}: {error}") from error
    return networks


@dataclass(frozen=True)
class _Start:
    """What a process needs to make pieces."""

    study: Study
    networks: Path
    sample_dir: Path

    def maker(self) -> Maker:
        kept: list[ShuffledNetwork] = []
        if self.study.archives:
            kept = load_networks(self.networks, networks_made_of(self.study.seed)) or []
        return Maker(self.study, kept, self.sample_dir)


_MAKERS: list[Maker] = []  # of a worker process: one


def _begin(start: _Start | None) -> None:
    begin_alone()
    torch.set_num_threads(1)
    if start is not None:
        _MAKERS.append(start.maker())


def _pool(processes: int, start: _Start | None) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(
        min(processes, MOST_ON_WINDOWS) if sys.platform == "win32" else processes,
        mp_context=multiprocessing.get_context("spawn"),
        initializer=_begin,
        initargs=(start,),
    )


def _make_missing(start: _Start, missing: list[Piece], kept: ResultsFile, processes: int, say: Say) -> None:
    begun = time.perf_counter()

    def keep(result: PieceResult, number: int) -> None:
        kept.append(result)
        spent = time.perf_counter() - begun
        left = spent / number * (len(missing) - number)
        say(
            f"{number} of {len(missing)}  {result.name}  {result.seconds:.0f} s  about {left / 60:.0f} min left"
        )

    if processes == 1:
        maker = start.maker()
        for number, piece in enumerate(missing, 1):
            keep(_timed(maker, piece), number)
        return
    with _workers(_pool(min(processes, len(missing)), start)) as pool:
        futures = [pool.submit(_make_here, piece) for piece in missing]
        for number, future in enumerate(as_completed(futures), 1):
            keep(future.result(), number)


@contextmanager
def _workers(pool: ProcessPoolExecutor) -> Iterator[ProcessPoolExecutor]:
    """A pool of which no process is left after the block; where it ends with an error or Ctrl-C, at once.

    A piece that was being made is made again the next time.
    """
    others = set(multiprocessing.active_children())
    try:
        yield pool
    except BaseException:
        for worker in set(multiprocessing.active_children()) - others:
            worker.kill()
        raise
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def _make_here(piece: Piece) -> PieceResult:
    return _timed(_MAKERS[0], piece)


def _timed(maker: Maker, piece: Piece) -> PieceResult:
    begun = time.perf_counter()
    models = maker.make(piece)
    return PieceResult(piece.name, time.perf_counter() - begun, tuple(models))
