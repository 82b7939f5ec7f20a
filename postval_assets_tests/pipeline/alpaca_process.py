"""A process that tops bars up from a server, and may die while it writes. Here: its arguments, and starting it.

python -m postval_assets_tests.pipeline.alpaca_process DATA_DIR URL NOW DIE_IN_WRITE SYMBOL...
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from postval_assets.io import alpaca_bars, warehouse
from postval_assets.io.changes import Merge
from postval_assets.pipeline import topping_up
from postval_assets.pipeline.loading import load_bars
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.settings import Settings
from postval_assets_tests.io.alpaca_server import KEY_ID, SECRET

NEVER = 0
DIED = 9
HISTORY_DAYS = 120
# Small, so that a short history takes several groups of requests and several transactions.
BARS_OF_A_GROUP = 3_000
ROWS_OF_A_WRITE = 2_000


def platform_at(data_dir: Path, url: str, now: datetime) -> Platform:
    """A data directory whose bars come from a server, at a given time."""
    settings = Settings(
        data_dir=data_dir,
        bars_source="alpaca",
        alpaca_url=url,
        history_days=HISTORY_DAYS,
        alpaca_requests_per_minute=100_000,
    )
    return open_platform(settings, now=lambda: now)


def start(
    data_dir: Path, url: str, now: datetime, symbols: Sequence[str], *, die_in_write: int = NEVER
) -> subprocess.Popen[bytes]:
    """The process, started."""
    arguments = [str(data_dir), url, now.isoformat(), str(die_in_write), *symbols]
    return subprocess.Popen(
        [sys.executable, "-m", __name__, *arguments],
        env={**os.environ, "APCA_API_KEY_ID": KEY_ID, "APCA_API_SECRET_KEY": SECRET},
        cwd=Path(__file__).resolve().parents[2],
    )


def die_in_write(number: int) -> None:
    """From the given write on: the process is gone when the bars are in the transaction, and their coverage is not."""
    make, writes = warehouse.apply_change, []

    def make_or_die(connection: Any, change: Any, *stamps: Any) -> int:
        made = make(connection, change, *stamps)
        if isinstance(change, Merge):
            writes.append(change)
            if len(writes) == number:
                os._exit(DIED)  # nothing is closed, nothing rolled back
        return made

    warehouse.apply_change = make_or_die


def main(data_dir: str, url: str, now: str, die: str, *symbols: str) -> None:
    """Top up once."""
    alpaca_bars.MAX_GROUP_BARS = BARS_OF_A_GROUP
    topping_up._ROWS_PER_WRITE = ROWS_OF_A_WRITE
    if int(die) != NEVER:
        die_in_write(int(die))
    load_bars(platform_at(Path(data_dir), url, datetime.fromisoformat(now)), symbols, run_id="process")


if __name__ == "__main__":
    main(*sys.argv[1:])
