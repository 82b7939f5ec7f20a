"""``postval replay``: recorded decisions recomputed, and what is said of them.

Here: which decisions, their text, and the code that the command ends with. Not here: recomputing them (pipeline).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from postval_assets.core.failures import Rejected
from postval_assets.pipeline.archives import archive_row
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.recorded_decisions import EXPECTED, counting_decisions, find_decision
from postval_assets.pipeline.replaying import Outcome, replay
from postval_assets.report.replay import replay_text, replay_values, replays_text

CODES = {Outcome.SAME: 0, Outcome.DIFFERENT: 1, Outcome.IMPOSSIBLE: 2}


@dataclass(frozen=True)
class Replayed:
    """What was found: its text, and the code to end with.

    The code is 1 where a decision comes out differently, else 2 where one cannot be recomputed, else 0.
    """

    text: str
    code: int


def replay_decisions(
    platform: Platform,
    words: Sequence[str],
    *,
    every: bool = False,
    archive_id: str | None = None,
    with_recorded_settings: bool = False,
    as_json: bool = False,
) -> Replayed:
    """Recompute a decision, or many.

    Args:
        platform: settings, stores and warehouse; only read.
        words: that name one decision; none with ``every``.
        every: the newest decision of each model, plan, instant and policy.
        archive_id: of one archive only, with ``every``.
        with_recorded_settings: apply the recorded settings in place of those in force.
        as_json: the text is JSON.

    Raises:
        Rejected: for words that name no decision, or several.
    """
    if every == bool(words) or (archive_id is not None and not every):
        raise Rejected(f"name one decision, or give --all, with --archive for those of one: {EXPECTED}")
    if not platform.warehouse.path.is_file():
        raise Rejected(f"{platform.warehouse.path} is not there: nothing was decided in this data directory")
    if archive_id is not None:
        archive_row(platform, archive_id)
    rows = counting_decisions(platform, archive_id) if every else [find_decision(platform, words)]
    found = [
        {name: getattr(one, name) for name in one.__dataclass_fields__}
        for one in replay(platform, rows, with_recorded_settings=with_recorded_settings)
    ]
    outcomes = {f["outcome"] for f in found}
    code = next((CODES[o] for o in (Outcome.DIFFERENT, Outcome.IMPOSSIBLE) if o in outcomes), 0)
    if as_json:
        values = [replay_values(f) for f in found]
        return Replayed(json.dumps(values if every else values[0], indent=2), code)
    return Replayed(replays_text(found) if every else replay_text(found[0]), code)
