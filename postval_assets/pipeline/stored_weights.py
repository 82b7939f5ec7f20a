"""A model's weights before a stage runs it: whole in the store, or made anew there.

Here: what is done about a file that a crash, a power cut or a disk has spoilt. Not here: the file itself
(io.model_store), or reading a checkpoint (extraction.py).

Weights are a copy of what the stored archive holds, so a spoilt file costs a warning and a second, not a model.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Any

from postval_assets.core.failures import Rejected
from postval_assets.io.archive_file import open_archive
from postval_assets.io.model_store import LostWeights
from postval_assets.pipeline.archives import archive_limits, archive_row
from postval_assets.pipeline.extraction import read_entry
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.removals import Kind, why_removed

log = logging.getLogger("postval.weights")


def require_readable(platform: Platform, row: Mapping[str, Any]) -> None:
    """Make sure that a model's weights are there as a file that can be opened; reads its head only.

    Args:
        platform: the stores.
        row: with archive_id, symbol, timeframe and model_sha256.

    Raises:
        Rejected: they are damaged, and the stored archive does not give them again.
        Unavailable: the disk refused, or they are not there and the archive is not either.
    """
    try:
        platform.models.open(row["model_sha256"])
    except (Rejected, LostWeights) as error:
        _make_anew(platform, row, error)


def require_whole(platform: Platform, row: Mapping[str, Any]) -> None:
    """Make sure that a model's weights are those of its row to the last byte; arguments and errors as above.

    Reads the whole file, so it is for whoever is about to compute something with them.
    """
    with platform.stopwatch.part("weights"):
        try:
            platform.models.verify(row["model_sha256"])
        except (Rejected, LostWeights) as error:
            _make_anew(platform, row, error)


def _make_anew(platform: Platform, row: Mapping[str, Any], problem: Rejected | LostWeights) -> None:
    """Put the weights into the store again, from the stored archive."""
    name = f"{row['symbol']}_{row['timeframe']}"
    archive = archive_row(platform, row["archive_id"])
    path = platform.archives.path_of(archive["sha256"])
    if not path.is_file():
        removed = why_removed(platform, row["archive_id"], Kind.ARCHIVE)
        if removed is not None:
            raise Rejected(f"{problem}; {removed}") from problem
        raise type(problem)(
            f"{problem}; they cannot be read again from archive {row['archive_id']}, which is not in the store any "
            f"more ({path.name}): deliver it again"
        ) from problem
    log.warning("%s (%s): read again from archive %s", problem, name, row["archive_id"])
    with open_archive(path, archive_limits(platform)) as opened:
        found = [m for m in opened.plan.models if f"{m.symbol}_{m.timeframe.value}" == name]
        if not found:
            raise Rejected(
                f"{problem}; archive {row['archive_id']} has no {name} under today's limits"
            ) from problem
        checkpoint = read_entry(platform, opened, found[0])
    stored = platform.models.put(checkpoint.tensors, checkpoint.spec)
    if stored.sha256 != row["model_sha256"]:
        raise Rejected(
            f"{problem}; its archive gives other weights under today's settings (default_activation, "
            f"config_prefixes): deliver archive {row['archive_id']} again"
        ) from problem
