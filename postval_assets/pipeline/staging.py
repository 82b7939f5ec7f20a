"""``postval stage``: the original checkpoints of chosen models, out of the stored archive into a folder.

Here: choosing, copying under names of our own, and the manifest. Not here: decisions.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from postval_assets.core.failures import Rejected
from postval_assets.io.archive_file import open_archive
from postval_assets.pipeline.archives import archive_limits, archive_row
from postval_assets.pipeline.platform import Platform
from postval_assets.pipeline.reading import archive_results

MANIFEST = "manifest.json"
_WORST_LAST = ("LIVE", "PAPER", "RETRAIN", "DROP")


@dataclass(frozen=True)
class Staged:
    """What was staged: file names below ``models/rl_symbols`` and the manifest."""

    files: tuple[str, ...]
    manifest: Path


def stage_models(
    platform: Platform,
    archive_id: str,
    target: Path,
    *,
    classifications: Collection[str] = (),
    decisions: Collection[str] = (),
) -> Staged:
    """Copy the checkpoints of the chosen models to ``target/models/rl_symbols/SYMBOL_TIMEFRAME.pt``.

    Args:
        platform: settings, stores and warehouse.
        archive_id: which archive.
        target: folder; what an earlier staging put there is removed.
        classifications: of the gate; empty for any.
        decisions: the worst over the evaluated plans, of the policy acted on; empty for any.

    Raises:
        Rejected: for an unknown archive, one that is no longer stored, or a choice that no model meets.
    """
    row = archive_row(platform, archive_id)
    path = platform.archives.path_of(row["sha256"])
    if not path.is_file():
        raise Rejected(f"archive {archive_id} is not in the store any more ({path.name}): deliver it again")
    chosen = _chosen(platform, archive_id, set(classifications), set(decisions))
    folder = target / "models" / "rl_symbols"
    folder.mkdir(parents=True, exist_ok=True)
    _clear_earlier_staging(target, folder)
    entries = []
    with open_archive(path, archive_limits(platform)) as archive:
        for model in archive.plan.models:
            facts = chosen.get((model.symbol, model.timeframe.value))
            if facts is None:
                continue
            name = f"{model.symbol}_{model.timeframe.value}.pt"
            part = folder / f".{name}.part"
            part.unlink(missing_ok=True)
            archive.copy_entry_to(model.entry, part)
            with part.open("rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            part.replace(folder / name)
            entries.append({"file": f"models/rl_symbols/{name}", "sha256": digest, **facts})
    manifest = target / MANIFEST
    content = {
        "archive_id": archive_id,
        "archive_sha256": row["sha256"],
        "policy": platform.settings.decision_policy,
        "staged_at": platform.now().isoformat(),
        "models": entries,
    }
    manifest.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
    return Staged(tuple(e["file"] for e in entries), manifest)


def _clear_earlier_staging(target: Path, folder: Path) -> None:
    """Remove what an earlier staging put there: a bot that loads the folder must not go on with dropped models.

    Raises:
        Rejected: where the folder holds checkpoints that no staging put there; nothing is removed then.
    """
    manifest = target / MANIFEST
    try:
        listed = json.loads(manifest.read_text(encoding="utf-8"))["models"] if manifest.is_file() else []
        staged = {str(entry["file"]).rsplit("/", 1)[-1] for entry in listed}
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(f"{manifest} is not a manifest of postval stage: choose another folder") from error
    present = {path.name for path in folder.glob("*.pt")}
    foreign = sorted(present - staged)
    if foreign:
        raise Rejected(
            f"{folder} holds checkpoints that are not of an earlier staging ({', '.join(foreign[:5])}): "
            "move them away, or choose an empty folder"
        )
    manifest.unlink(missing_ok=True)
    for name in present:
        (folder / name).unlink()


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
