"""``postval stage``: the original checkpoints of chosen models, out of the stored archive into a folder.

Here: choosing, copying under names of our own, and the manifest. Not here: decisions.

A staging that fails for lack of space, or for a damaged archive, leaves the folder as it was: everything is copied
beside the old files first. One that is stopped after that leaves a manifest with ``unfinished``, which lists the old
files and the new ones: staging again finishes it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.io.archive_file import open_archive
from postval_assets.pipeline.archives import archive_limits, archive_row
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.reading import archive_results, undecided_models
from postval_assets.pipeline.removals import Kind, why_removed

MANIFEST = "manifest.json"
DEFAULT_DECISIONS = ("LIVE", "PAPER")
_WORST_LAST = ("LIVE", "PAPER", "RETRAIN", "DROP")
_FOLDER = "models/rl_symbols"
_N_SHOWN = 10

Entry = dict[str, Any]


@dataclass(frozen=True)
class Staged:
    """What was staged: file names below ``models/rl_symbols`` and the manifest."""

    files: tuple[str, ...]
    manifest: Path


def newest_complete_archive(platform: Platform) -> str | None:
    """The newest archive whose models are all decided; None where there is none."""
    found = platform.warehouse.rows(
        "SELECT max(archive_id) AS a FROM training_archives WHERE status = 'COMPLETE'"
    )
    newest = found[0]["a"]
    return str(newest) if newest is not None else None


def stage_models(
    platform: Platform,
    archive_id: str,
    target: Path,
    *,
    classifications: Collection[str] = (),
    decisions: Collection[str] = (),
) -> Staged:
    """Copy the checkpoints of the chosen models to ``target/models/rl_symbols/SYMBOL_TIMEFRAME.pt``.

    Where neither ``classifications`` nor ``decisions`` says anything, LIVE and PAPER are meant.

    Args:
        platform: settings, stores and warehouse.
        archive_id: which archive; every one of its models must be decided.
        target: folder; what an earlier staging put there is removed, once the new files are all there.
        classifications: of the gate; empty for any.
        decisions: the worst over the evaluated plans, of the policy acted on; empty for any.

    Raises:
        Rejected: for an archive that is unknown, not decided or no longer stored, a choice that no model meets, or
            a folder with checkpoints that no staging put there.
        Unavailable: the disk refused; see the module's docstring for what is then in the folder.
    """
    row = archive_row(platform, archive_id)
    _require_decided(platform, row)
    path = platform.archives.path_of(row["sha256"])
    if not path.is_file():
        missing = f"archive {archive_id} is not in the store any more ({path.name}): deliver it again"
        raise Rejected(why_removed(platform, archive_id, Kind.ARCHIVE) or missing)
    if not classifications and not decisions:
        decisions = DEFAULT_DECISIONS
    chosen = _chosen(platform, archive_id, set(classifications), set(decisions))
    try:
        earlier = _earlier_entries(target)
        folder = target / _FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        try:
            _clear_parts(target)
            entries = _copy_beside(platform, path, folder, chosen)
            content = {
                "archive_id": archive_id,
                "archive_sha256": row["sha256"],
                "policy": platform.settings.decision_policy,
                "staged_at": platform.now().isoformat(),
                "models": entries,
            }
            _put_in_place(target, earlier, content)
        finally:
            _clear_parts(target)
    except OSError as error:
        raise Unavailable(f"archive {archive_id} could not be staged to {target}: {error}") from error
    return Staged(tuple(e["file"] for e in entries), target / MANIFEST)


def _require_decided(platform: Platform, row: Mapping[str, Any]) -> None:
    """A half-judged archive would take the place of a good one with whatever happens to be decided."""
    archive_id, status = row["archive_id"], row["status"]
    if status == "COMPLETE":
        return
    if status == "REJECTED":
        raise Rejected(f"archive {archive_id} was refused, it has no models to stage: {row['reason']}")
    models = row["models"] or []
    undecided = undecided_models(platform, archive_id, sorted({m.rpartition("_")[0] for m in models}))
    more = f" and {len(undecided) - _N_SHOWN} more" if len(undecided) > _N_SHOWN else ""
    # None, where a model was decided in an earlier attempt and could not be extracted in this one.
    listed = f" ({', '.join(undecided[:_N_SHOWN])}{more})" if undecided else ""
    raise Rejected(
        f"archive {archive_id} is not decided yet (it is {status}): {len(undecided)} of {len(models)} models are "
        f"without a decision{listed}. Let its runs finish, or deliver it again; until then an earlier archive can "
        "be named and staged"
    )


def _earlier_entries(target: Path) -> list[Entry]:
    """What the manifest says of earlier stagings.

    Raises:
        Rejected: where the manifest is not one of ours, or the folder holds checkpoints that no staging put there.
    """
    manifest = target / MANIFEST
    try:
        content = json.loads(manifest.read_text(encoding="utf-8")) if manifest.is_file() else {"models": []}
        entries: list[Entry] = list(content["models"])
        staged = {_name_of(entry) for entry in entries}
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(f"{manifest} is not a manifest of postval stage: choose another folder") from error
    folder = target / _FOLDER
    foreign = sorted({path.name for path in folder.glob("*.pt")} - staged)
    if foreign:
        raise Rejected(
            f"{folder} holds checkpoints that are not of an earlier staging ({', '.join(foreign[:5])}): "
            "move them away, or choose an empty folder"
        )
    return entries


def _name_of(entry: Entry) -> str:
    return str(entry["file"]).rsplit("/", 1)[-1]


def _clear_parts(target: Path) -> None:
    """Remove what was copied but never came into place, of this staging or of one that was stopped."""
    for part in [*target.glob(f".{MANIFEST}.*part"), *(target / _FOLDER).glob(".*.pt.part")]:
        part.unlink(missing_ok=True)


def _copy_beside(
    platform: Platform, path: Path, folder: Path, chosen: Mapping[tuple[str, str], Entry]
) -> list[Entry]:
    """Copy the chosen checkpoints under their names as parts; their entries in the manifest."""
    entries: list[Entry] = []
    with open_archive(path, archive_limits(platform)) as archive:
        models = {(m.symbol, m.timeframe.value): m for m in archive.plan.models}
        if missing := sorted("_".join(key) for key in chosen.keys() - models.keys()):
            raise Rejected(
                f"{', '.join(missing[:_N_SHOWN])} of {path.name} cannot be read under the limits of the settings "
                "(max_models, max_checkpoint_mb) any more"
            )
        for key, model in models.items():
            if key not in chosen:
                continue
            name = "_".join(key) + ".pt"
            part = _part_of(folder / name)
            archive.copy_entry_to(model.entry, part)
            with part.open("r+b") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
                # A disk that is full may say so only here.
                os.fsync(file.fileno())
            entries.append({"file": f"{_FOLDER}/{name}", "sha256": digest, **chosen[key]})
    return entries


def _put_in_place(target: Path, earlier: Sequence[Entry], content: Mapping[str, Any]) -> None:
    """Old files out, new ones in, so that the manifest lists every file that is there at any moment."""
    names = [_name_of(entry) for entry in content["models"]]
    replaced = [entry for entry in earlier if _name_of(entry) not in names]
    manifest = target / MANIFEST
    # Both are written before anything is touched: from here on only names change, which takes no space.
    last = _written(_part_of(manifest), content)
    both = {**content, "models": [*content["models"], *replaced], "unfinished": True}
    first = _written(target / f".{MANIFEST}.unfinished.part", both)
    first.replace(manifest)
    for name in names:
        file = target / _FOLDER / name
        _part_of(file).replace(file)
    for entry in replaced:
        (target / _FOLDER / _name_of(entry)).unlink(missing_ok=True)
    last.replace(manifest)


def _part_of(path: Path) -> Path:
    return path.with_name(f".{path.name}.part")


def _written(path: Path, content: Mapping[str, Any]) -> Path:
    with path.open("w", encoding="utf-8") as file:
        file.write(json.dumps(content, indent=2) + "\n")
        file.flush()
        os.fsync(file.fileno())
    return path


def _chosen(
    platform: Platform, archive_id: str, classifications: set[str], decisions: set[str]
) -> dict[tuple[str, str], dict[str, Any]]:
    results = archive_results(platform, archive_id, policy=platform.settings.decision_policy)
    worst: dict[tuple[str, str], dict[str, Any]] = {}
    for d in results.decisions:
        key = (d["symbol"], d["timeframe"])
        if key not in worst or _WORST_LAST.index(d["decision"]) > _WORST_LAST.index(worst[key]["decision"]):
            worst[key] = d
    chosen: dict[tuple[str, str], dict[str, Any]] = {}
    for g in results.gating:
        key = (g["symbol"], g["timeframe"])
        decision = worst.get(key)
        if g["status"] != "OK" or (classifications and g["classification"] not in classifications):
            continue
        if decisions and (decision is None or decision["decision"] not in decisions):
            continue
        chosen[key] = {
            "symbol": g["symbol"],
            "timeframe": g["timeframe"],
            "classification": g["classification"],
            "decision": decision["decision"] if decision else None,
            "plan": decision["plan"] if decision else None,
            "reasons": decision["reasons"] if decision else [],
            "model_sha256": decision["model_sha256"] if decision else None,
            "inputs_digest": decision["inputs_digest"] if decision else None,
        }
    if not chosen:
        found: dict[str, int] = {}
        for g in results.gating:
            made = worst.get((g["symbol"], g["timeframe"]))
            label = f"{g['classification']}/{made['decision'] if made else 'undecided'}"
            found[label] = found.get(label, 0) + 1
        counts = ", ".join(f"{n} {label}" for label, n in sorted(found.items())) or "no models"
        raise Rejected(f"no model of archive {archive_id} meets that choice; it has {counts}")
    return chosen
