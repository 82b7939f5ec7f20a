"""Which model a challenger is compared with: the one of the newest earlier archive that can be run.

Here: the choice, what a comparison is made from, and what can be said without running anything. Not here: running the
champion, or the rows (challenging.py).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

import numpy as np

from postval_assets.core.archive_evidence import fold_counts
from postval_assets.core.bootstrap import seeded
from postval_assets.core.champion import Comparison, ModelFold, compare, not_compared
from postval_assets.core.evaluation import code_version, digest_of
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.folds import PLANS, TrainingOverlap
from postval_assets.core.walk_forward import FoldStatus
from postval_assets.io.model_store import LostWeights
from postval_assets.pipeline.instants import PlanKey, plan_key
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.removals import Kind, removed_at, why_removed
from postval_assets.pipeline.stored_weights import require_readable
from postval_assets.pipeline.summarizing import PlanFolds, stored_folds

METHOD_VERSION = "1"
"""Raised when the same folds would give other figures."""

# Every usable model of these symbols, the newest archive first: challengers and those before them.
_MODELS = """
SELECT m.archive_id, m.symbol, m.timeframe, m.model_sha256, m.activation, m."window", m.feature_set,
       m.feature_set_version, m.train_start, m.train_end,
       a.train_start AS archive_train_start, a.train_end AS archive_train_end
FROM extracted_models m JOIN training_archives a USING (archive_id)
WHERE m.status = 'OK' AND list_contains(?, m.symbol)
ORDER BY m.archive_id DESC
"""

Row = Mapping[str, Any]


@dataclass(frozen=True)
class Pair:
    """A challenger's folds of one plan, and the champion chosen for it.

    Attributes:
        challenger, champion: rows of _MODELS.
        folds: of the challenger.
        passed_over: why newer models than the champion were not taken.
        digest: of everything that the comparison is made from.
        settled: what can be said without running the champion; None where it has to be run.
        is_current: the stored comparison was made from the same, and stays.
    """

    challenger: Row
    champion: Row
    folds: PlanFolds
    passed_over: tuple[str, ...]
    digest: str
    settled: Comparison | None = None
    is_current: bool = False

    @property
    def symbol(self) -> str:
        """Whose models they are."""
        return str(self.challenger["symbol"])

    @property
    def plan(self) -> str:
        """Name of the plan."""
        return str(self.folds.keys["plan"])

    @property
    def as_of(self) -> datetime:
        """The instant of the challenger's evaluation."""
        at: datetime = self.folds.rows[0]["as_of"]
        return at

    @property
    def bars_per_year(self) -> float:
        """What annualises."""
        return float(self.folds.rows[0]["bars_per_year"])

    @property
    def counted(self) -> dict[int, Row]:
        """The challenger's folds that count, by number."""
        return {int(r["fold"]): r for r in self.folds.rows if fold_counts(*outcome_of(r))}

    def rng(self) -> np.random.Generator:
        """All randomness of the comparison; the same for both orders of the two models."""
        both = sorted(str(model["model_sha256"]) for model in (self.challenger, self.champion))
        return seeded("champion", *both, self.plan)


def outcome_of(row: Row) -> tuple[FoldStatus, TrainingOverlap]:
    """What became of a stored fold, and what it has to do with the training window."""
    return FoldStatus(row["status"]), TrainingOverlap(row["training_overlap"])


@dataclass(frozen=True)
class Choice:
    """The pairs of some symbols' models, and the models whose champions could not be looked for, with the cause."""

    pairs: tuple[Pair, ...]
    unavailable: tuple[str, ...]


def choose_champions(
    platform: Platform, archives: Mapping[str, str], stored: Mapping[PlanKey, Row], as_of: datetime | None
) -> Choice:
    """Pairs of every model that has folds and an earlier model, in the order of the symbols.

    Args:
        platform: settings, stores and warehouse.
        archives: archive_id by symbol.
        stored: rows of ``champion_comparisons``.
        as_of: the newest evaluation up to then is meant; None for the newest of all.
    """
    models: dict[tuple[str, str], list[Row]] = {}
    for row in platform.warehouse.rows(_MODELS, (list(archives),)):
        models.setdefault((row["symbol"], row["timeframe"]), []).append(row)
    found = stored_folds(platform, archives, until=as_of)
    place = {symbol: n for n, symbol in enumerate(archives)}
    removed = removed_at(platform)
    pairs: list[Pair] = []
    unavailable = []
    for archive_id, symbol, timeframe in sorted(found, key=lambda key: (place[key[1]], key[2])):
        same_name = models.get((symbol, timeframe), [])
        challenger = next((m for m in same_name if m["archive_id"] == archive_id), None)
        # Archive ids sort by time.
        earlier = [m for m in same_name if m["archive_id"] < archive_id]
        if challenger is None or not earlier:
            continue
        newest = [folds for folds in found[archive_id, symbol, timeframe] if folds.is_newest]
        try:
            pairs += [
                _pair(platform, challenger, folds, earlier, stored.get(plan_key(folds.keys)), removed)
                for folds in newest
            ]
        except (Unavailable, OSError) as error:
            unavailable.append(f"{symbol} {timeframe}: {error}")
    return Choice(tuple(pairs), tuple(unavailable))


def _pair(
    platform: Platform,
    challenger: Row,
    folds: PlanFolds,
    earlier: Sequence[Row],
    stored: Row | None,
    removed: Collection[tuple[str, Kind]],
) -> Pair:
    """The newest earlier model that can be run beside the challenger; where there is none, the newest, and why."""
    passed_over: list[str] = []
    for champion in earlier:
        pair = Pair(challenger, champion, folds, tuple(passed_over), _digest(platform, folds, champion))
        # What could not be put side by side is tried anew: its cause may be in no digest.
        if stored is not None and stored["inputs_digest"] == pair.digest and stored["n_folds_compared"]:
            return replace(pair, is_current=True)
        problem = _why_not_there(platform, champion, removed)
        if problem is None:
            return replace(pair, settled=_settled(platform, pair))
        passed_over.append(problem)
    digest = _digest(platform, folds, earlier[0])
    return Pair(challenger, earlier[0], folds, (), digest, settled=not_compared(passed_over[0]))


def _settled(platform: Platform, pair: Pair) -> Comparison | None:
    """What can be said without running the champion."""
    if pair.champion["model_sha256"] == pair.challenger["model_sha256"]:
        return not_compared("it is the same model")
    if not pair.counted:
        nothing = np.zeros(0)
        folds = [
            ModelFold(int(r["fold"]), *outcome_of(r), r["total_return"], nothing) for r in pair.folds.rows
        ]
        return compare(folds, [], pair.bars_per_year, pair.rng())
    if pair.plan not in PLANS:
        return not_compared(f"plan {pair.plan} is no longer known")
    for what, name, now in (
        ("settings", "settings_digest", platform.settings.evaluation_digest()),
        ("code", "code_version", code_version()),
    ):
        if any(r[name] != now for r in pair.counted.values()):
            return not_compared(
                f"the challenger's folds were computed with other {what} than now: evaluate it again"
            )
    return None


def _digest(platform: Platform, folds: PlanFolds, champion: Row) -> str:
    """Digest of what a comparison is made from.

    Settings and code are those of the challenger's folds: a comparison is made only where those in force are the
    same, and then stays what it is when they change.
    """
    known = platform.feature_sets.get(champion["feature_set"])
    parts = {
        "method": METHOD_VERSION,
        "folds": folds.digest,
        "settings": sorted({str(r["settings_digest"]) for r in folds.rows}),
        "code": sorted({str(r["code_version"]) for r in folds.rows}),
        "plan": folds.keys["plan"],
        "as_of": str(folds.keys["as_of"]),
        "champion": [champion["archive_id"], champion["model_sha256"], champion["activation"]],
        "feature_set": [
            champion["feature_set"],
            known.version if known is not None else champion["feature_set_version"],
        ],
        "training": [
            str(champion["train_start"] or champion["archive_train_start"]),
            str(champion["train_end"] or champion["archive_train_end"]),
        ],
    }
    return digest_of(parts)


def _why_not_there(platform: Platform, champion: Row, removed: Collection[tuple[str, Kind]]) -> str | None:
    """Why a model's weights cannot be read; None where they can. What was removed on purpose stays away."""
    archive_id = str(champion["archive_id"])
    is_file = platform.models.path_of(champion["model_sha256"]).is_file()
    if not is_file and (archive_id, Kind.WEIGHTS) in removed:
        return why_removed(platform, archive_id, Kind.WEIGHTS)
    try:
        require_readable(platform, champion)
    except (Rejected, LostWeights) as error:
        return str(error)
    return None
