"""What results depend on besides archives and bars, kept once for each content in ``recorded_contents``.

Here: settings, thresholds, limits and libraries as JSON with their digests, and the way back from JSON to settings.
Not here: which decision used which (decision_rows.py). Only what is named here is kept: no path, address or key.
"""

from __future__ import annotations

import functools
import json
import math
import platform as machine
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from postval_assets.core.evaluation import digest_of, source_digest
from postval_assets.core.failures import Rejected
from postval_assets.core.gating import MetricLimits, Thresholds
from postval_assets.io.warehouse import Change, Merge
from postval_assets.pipeline.platform import Platform
from postval_assets.settings import Settings

_LIBRARIES = ("numpy", "pandas", "torch", "safetensors", "duckdb")


class Kind(StrEnum):
    """What a recorded content is; also the name of the input of a decision that it is."""

    SETTINGS = "settings"
    THRESHOLDS = "thresholds"
    GRADE_LIMITS = "grade_limits"
    EVIDENCE_LIMITS = "evidence_limits"
    INTAKE = "intake"
    QUALITY_LIMITS = "quality_limits"
    ENVIRONMENT = "environment"


@dataclass(frozen=True)
class Content:
    """One content: plain values of JSON by name."""

    kind: Kind
    values: Mapping[str, Any]

    @property
    def digest(self) -> str:
        """SHA-256 of the JSON; of the settings it is the digest that every fold has."""
        return digest_of(self.values)


def execution_content(settings: Settings) -> Content:
    """The settings that a fold's figures depend on."""
    return Content(Kind.SETTINGS, {**settings.execution_rules.as_dict(), "session": settings.session})


def thresholds_content(thresholds: Thresholds) -> Content:
    """The numbers of a set of gating thresholds."""
    return Content(
        Kind.THRESHOLDS,
        {"name": thresholds.name, "approve": asdict(thresholds.approve), "review": asdict(thresholds.review)},
    )


def decision_contents(settings: Settings) -> tuple[Content, ...]:
    """What a decision depends on beside the settings of its folds and the thresholds of its gate."""
    limits = {
        check.value: {"warn": limit.warn, "error": limit.error}
        for check, limit in settings.quality_limits.items()
    }
    return (
        Content(Kind.GRADE_LIMITS, asdict(settings.grade_limits)),
        Content(Kind.EVIDENCE_LIMITS, asdict(settings.evidence_limits)),
        Content(
            Kind.INTAKE,
            {
                "default_activation": settings.default_activation,
                "config_prefixes": list(settings.config_prefixes),
                "feature_sets": dict(settings.feature_sets),
            },
        ),
        Content(Kind.QUALITY_LIMITS, {"recent_days": settings.quality_recent_days, **limits}),
        Content(Kind.ENVIRONMENT, {**_libraries(), "device": settings.device}),
    )


@functools.cache
def _libraries() -> dict[str, str | None]:
    """The program and what it computes with: for information, since equal digests do not depend on them."""
    return {
        "postval": _version("postval"),
        "source": source_digest(Path(__file__).resolve().parents[1]),
        "python": machine.python_version(),
        "system": machine.system(),
        "processor": _processor(),
        **{name: _version(name) for name in _LIBRARIES},
    }


def _processor() -> str:
    """What computes: figures may differ in the last digits between two kinds."""
    known = Path("/proc/cpuinfo")
    if known.is_file():
        for line in known.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return machine.processor() or machine.machine()


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def keep(platform: Platform, contents: Sequence[Content]) -> list[Change]:
    """What is to be written so that these contents are kept; nothing where all of them are."""
    wanted = {(c.kind.value, c.digest): c for c in contents}
    found = platform.warehouse.rows(
        "SELECT kind, digest FROM recorded_contents WHERE list_contains(?, digest)",
        ([digest for _, digest in wanted],),
    )
    for row in found:
        wanted.pop((row["kind"], row["digest"]), None)
    rows = [
        {"kind": kind, "digest": digest, "content": json.dumps(c.values, sort_keys=True, default=str)}
        for (kind, digest), c in wanted.items()
    ]
    # Another process may have written the same meanwhile: equal content in its place changes nothing.
    return [Merge("recorded_contents", rows)] if rows else []


def kept_contents(platform: Platform, digests: Sequence[str]) -> dict[tuple[str, str], dict[str, Any]]:
    """What was kept of these digests, by kind and digest."""
    rows = platform.warehouse.rows(
        "SELECT kind, digest, content FROM recorded_contents WHERE list_contains(?, digest)", (list(digests),)
    )
    return {(r["kind"], r["digest"]): json.loads(r["content"]) for r in rows}


def thresholds_of(content: Mapping[str, Any]) -> Thresholds:
    """The set of thresholds that a content describes."""
    try:
        return Thresholds(
            content["name"], MetricLimits(**content["approve"]), MetricLimits(**content["review"])
        )
    except (KeyError, TypeError) as error:
        raise Rejected(f"recorded thresholds cannot be applied by this code: {ascii(error)[:120]}") from error


def settings_of(
    settings: Settings, contents: Mapping[Kind, Mapping[str, Any] | None], **changes: Any
) -> Settings:
    """These settings, with what recorded contents say in place of what they say.

    Args:
        settings: in force now.
        contents: settings, grade_limits, evidence_limits, intake and quality_limits; None for one that was not kept.
        changes: further settings.

    Raises:
        Rejected: where the recorded values are none that this code accepts.
    """
    given = settings.model_dump()
    for kind, content in contents.items():
        if content is not None:
            given |= _quality_settings(content) if kind is Kind.QUALITY_LIMITS else _as_settings(content)
    try:
        return Settings(**{**given, **changes})
    except ValueError as error:
        raise Rejected(f"recorded settings cannot be applied by this code: {ascii(error)[:200]}") from error


def _as_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    values = {name: value for name, value in content.items() if name in Settings.model_fields}
    if "zero_volume_fills" in content:
        values["zero_volume"] = "fill" if content["zero_volume_fills"] else "lapse"
    if "neutral_account_features" in content:
        values["account_features"] = "neutral" if content["neutral_account_features"] else "live"
    return values


def _quality_settings(content: Mapping[str, Any]) -> dict[str, Any]:
    limits = {
        check: {name: math.inf if limit is None else limit for name, limit in own.items()}
        for check, own in content.items()
        if check != "recent_days"
    }
    return {"quality": limits, "quality_recent_days": content["recent_days"]}
