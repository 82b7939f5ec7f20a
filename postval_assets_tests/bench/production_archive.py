"""Training archives of production-size models, and bars for them, for measurements.

Here: networks of the production dimensions with random weights, their archive, and one simulated series under many
names. Not here: measuring (drop_bench.py), or networks that are worth anything (postval_assets/trainer).

The archive is the contract's, but its entries are deflated by Huffman codes alone: on float weights that gives the
same size as zlib's level 6 and inflates at the same speed, and takes a third of the time to write.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import multiprocessing
import os
import shutil
import struct
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from postval_assets.core.features.reference import REFERENCE_59
from postval_assets.core.instruments import Timeframe
from postval_assets.core.model_spec import VERSIONS
from postval_assets.trainer.archive_writer import (
    FOLDER,
    Claim,
    TrainedModel,
    TrainingSummary,
    archive_file_name,
    summary_document,
    write_checkpoint,
)
from postval_assets.trainer.config import PPOConfig
from postval_assets.trainer.delivery import ACTION_MEANINGS
from postval_assets.trainer.make_sample import write_bars
from postval_assets.trainer.simulated_market import Session, SymbolSpec, simulate_bars, symbol_rng

VERSION = "2.7.0"
TRAIN_START = datetime(2022, 1, 1, tzinfo=UTC)
TRAIN_END = datetime(2023, 12, 31, 23, tzinfo=UTC)
LAST_DAY = date(2025, 6, 30)
# The plan of 365 days, the window and the look-back, with days to spare.
HISTORY_DAYS = 420
TRAINED_AT = datetime(2025, 7, 1, 6, tzinfo=UTC)
# Of one production model: 75 MB in the archive, 27 MB of weights in the store, rows twice (warehouse and replica),
# and as much again as the weights for what is made and removed on the way.
ROOM_BYTES_PER_MODEL = 170_000_000
ROOM_BYTES = 1_000_000_000
_MARKET = SymbolSpec("BENCHUSD", Session.CONTINUOUS, 42_000.0, 0.50, 1.0, 12.0, 0.01)


@dataclass(frozen=True)
class Shape:
    """The dimensions of every network of an archive; the defaults are production's.

    Attributes:
        hidden_dims: widths of the trunk.
        window: bars in an observation.
    """

    hidden_dims: tuple[int, ...] = (1024, 512, 256)
    window: int = 100


PRODUCTION = Shape()


def symbol_names(n: int) -> tuple[str, ...]:
    """Names of crypto pairs, in their order: ``BENCH001USD``, ``BENCH002USD``, ..."""
    return tuple(f"BENCH{number:03d}USD" for number in range(1, n + 1))


def needed_bytes(n_models: int) -> int:
    """Free disk that an archive of so many production models and its evaluation take."""
    return ROOM_BYTES + n_models * ROOM_BYTES_PER_MODEL


def why_no_room(folder: Path, n_models: int, *, free_bytes: int | None = None) -> str | None:
    """Why so many production models do not fit on the folder's disk; None where they do.

    Args:
        folder: that is there.
        n_models: in the archive.
        free_bytes: of the disk; asked of the system where None.
    """
    free = shutil.disk_usage(folder).free if free_bytes is None else free_bytes
    needed = needed_bytes(n_models)
    if free >= needed:
        return None
    return (
        f"{n_models} models need {needed / 1e9:.0f} GB of free disk (the archive, the weights, the rows and their "
        f"copy); there are {free / 1e9:.0f} GB where {folder} is"
    )


def production_model(symbol: str, number: int, seed: int, shape: Shape = PRODUCTION) -> TrainedModel:
    """A network with random weights, its value head and the optimizer's moments, as a trainer would deliver it.

    Args:
        symbol: whose model it says it is.
        number: of the model in its archive; with the seed it decides every weight.
        seed: of the archive.
        shape: its dimensions.
    """
    import torch

    rng = np.random.default_rng([seed, number])
    layout = VERSIONS[VERSION]
    state: dict[str, Any] = {}

    def linear(name: str, n_in: int, n_out: int) -> None:
        bound = np.float32(n_in**-0.5)
        for role, size in (("weight", (n_out, n_in)), ("bias", (n_out,))):
            values = (rng.random(size, dtype=np.float32) * 2 - 1) * bound
            state[f"{name}.{role}"] = torch.from_numpy(values)

    width = layout.n_features * shape.window
    for position, hidden in enumerate(shape.hidden_dims):
        linear(f"shared.{2 * position}", width, hidden)
        width = hidden
    linear("actor_head", width, layout.n_actions)
    linear("critic_head", width, 1)
    moments = {
        index: {
            "step": torch.tensor(4_800.0),
            "exp_avg": torch.from_numpy(rng.standard_normal(tuple(t.shape), dtype=np.float32) * 1e-4),
            "exp_avg_sq": torch.from_numpy(rng.standard_exponential(tuple(t.shape), dtype=np.float32) * 1e-8),
        }
        for index, t in enumerate(state.values())
    }
    groups = [{"lr": 3e-4, "betas": (0.9, 0.999), "eps": 1e-5, "params": list(moments)}]
    return dataclasses.replace(
        _described(symbol, shape),
        policy_state_dict=state,
        optimizer_state_dict={"state": moments, "param_groups": groups},
    )


def _described(symbol: str, shape: Shape) -> TrainedModel:
    """A model without its numbers: what the summary needs of it."""
    layout = VERSIONS[VERSION]
    finals = np.linspace(0.0, 1.0, 10)
    claims = tuple(
        Claim(0.3 + 0.5 * share, 1.2 + 0.9 * share, 0.6 + 0.32 * share, 0.12 - 0.07 * share)
        for share in finals.tolist()
    )
    return TrainedModel(
        symbol=symbol,
        timeframe=Timeframe.HOUR_1,
        model_version=VERSION,
        n_features=layout.n_features,
        n_actions=layout.n_actions,
        window=shape.window,
        action_meanings=dict(enumerate(ACTION_MEANINGS[layout.n_actions])),
        activation="relu",
        feature_set=REFERENCE_59.name,
        feature_names=REFERENCE_59.feature_names,
        policy_state_dict={},
        optimizer_state_dict={},
        config=PPOConfig(
            model_version=VERSION,
            hidden_dims=shape.hidden_dims,
            activation="relu",
            window=shape.window,
            left_out=(),
        ),
        global_step=5_000_000,
        train_start=TRAIN_START,
        train_end=TRAIN_END,
        claims=claims,
    )


def write_production_archive(
    folder: Path, n_models: int, seed: int, shape: Shape = PRODUCTION, *, n_workers: int = 1
) -> Path:
    """Write an archive of models whose weights all differ; equal arguments give equal bytes.

    Each worker holds one model in memory.

    Args:
        folder: that is there; the file has the name of an archive.
        n_models: one for each of ``symbol_names``.
        seed: of the weights. Another one gives an archive with another id.
        shape: dimensions of every network.
        n_workers: processes that make models; 1 makes them in this one.
    """
    trained_at = TRAINED_AT + timedelta(minutes=seed % 1_000_000)
    summary = TrainingSummary(
        trained_at, reward_scale=0.001, validation_interval=40, seed=seed, n_trials=n_models
    )
    symbols = symbol_names(n_models)
    document = json.dumps(summary_document([_described(s, shape) for s in symbols], summary), indent=1)
    path = folder / archive_file_name(summary)
    with path.open("wb") as file:
        archive = _ZipWriter(file, summary.trained_at)
        archive.add(f"{FOLDER}/training_summary_{summary.archive_id}.json", _deflated(document.encode()))
        for symbol, entry in zip(symbols, _checkpoints(symbols, seed, shape, n_workers), strict=True):
            archive.add(f"{FOLDER}/models/rl_symbols/{symbol}_{Timeframe.HOUR_1}.pt", entry)
        archive.finish()
    return path


def write_production_bars(folder: Path, n_symbols: int, seed: int, days: int = HISTORY_DAYS) -> int:
    """Write the same simulated hourly series under every name, as parquet; the number of bars of one.

    Args:
        folder: made where it is not there.
        n_symbols: of ``symbol_names``.
        seed: of the prices.
        days: of history, up to ``LAST_DAY``.
    """
    folder.mkdir(parents=True, exist_ok=True)
    first_day = LAST_DAY - timedelta(days=days - 1)
    bars = simulate_bars(_MARKET, first_day, LAST_DAY, symbol_rng(seed, _MARKET.symbol))
    for symbol in symbol_names(n_symbols):
        named = dataclasses.replace(bars, symbol=symbol)
        write_bars(folder / f"{symbol}_{bars.timeframe}.parquet", named)
    return len(bars)


@dataclass(frozen=True)
class _Entry:
    """An entry's bytes as they stand in the zip, with the length and checksum of what they unpack to."""

    deflated: bytes
    size_bytes: int
    crc: int


def _deflated(content: bytes) -> _Entry:
    packer = zlib.compressobj(1, zlib.DEFLATED, -zlib.MAX_WBITS, 8, zlib.Z_HUFFMAN_ONLY)
    return _Entry(packer.compress(content) + packer.flush(), len(content), zlib.crc32(content))


def _checkpoint(symbol: str, number: int, seed: int, shape: Shape) -> _Entry:
    return _deflated(write_checkpoint(production_model(symbol, number, seed, shape)))


def _checkpoints(symbols: Sequence[str], seed: int, shape: Shape, n_workers: int) -> Iterator[_Entry]:
    """The models' entries in order; no more are asked for than there are workers."""
    if n_workers == 1:
        for number, symbol in enumerate(symbols):
            yield _checkpoint(symbol, number, seed, shape)
        return
    spawn = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(n_workers, mp_context=spawn, initializer=_one_thread) as pool:
        todo = enumerate(symbols)

        def ask(n: int) -> list[Future[_Entry]]:
            chosen = itertools.islice(todo, n)
            return [pool.submit(_checkpoint, symbol, number, seed, shape) for number, symbol in chosen]

        asked = ask(n_workers)
        while asked:
            entry = asked.pop(0).result()
            asked += ask(1)
            yield entry


def _one_thread() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"


@dataclass
class _ZipWriter:
    """A zip file from entries that are deflated already, which the standard library's writer does not take.

    The format is PKWARE's APPNOTE 6.3: local headers, the directory, and its end records for more than 4 GiB.

    Attributes:
        file: opened for writing, empty.
        written_at: of every entry.
    """

    file: BinaryIO
    written_at: datetime
    _directory: list[bytes] = field(default_factory=list)

    def add(self, name: str, entry: _Entry) -> None:
        """Write one entry, of less than 4 GiB."""
        when = self.written_at
        stamp = (
            when.hour << 11 | when.minute << 5 | when.second // 2,
            (when.year - 1980) << 9 | when.month << 5 | when.day,
        )
        encoded = name.encode("ascii")
        common = (
            45,
            0,
            zlib.DEFLATED,
            *stamp,
            entry.crc,
            len(entry.deflated),
            entry.size_bytes,
            len(encoded),
        )
        offset = self.file.tell()
        self.file.write(struct.pack("<4s5H3I2H", b"PK\x03\x04", *common, 0) + encoded)
        self.file.write(entry.deflated)
        # The offset always goes into the extra field, which has room for 64 bits.
        extra = struct.pack("<2HQ", 1, 8, offset)
        header = struct.pack(
            "<4s6H3I5H2I",
            *(b"PK\x01\x02", 3 << 8 | 45, *common, len(extra), 0, 0, 0, 0o644 << 16, 0xFFFFFFFF),
        )
        self._directory.append(header + encoded + extra)

    def finish(self) -> None:
        """Write the directory and its end records."""
        start, n = self.file.tell(), len(self._directory)
        directory = b"".join(self._directory)
        self.file.write(directory)
        end = self.file.tell()
        self.file.write(
            struct.pack("<4sQ2H2I4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, n, n, len(directory), start)
        )
        self.file.write(struct.pack("<4sIQI", b"PK\x06\x07", 0, end, 1))
        self.file.write(struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, n, n, len(directory), 0xFFFFFFFF, 0))
