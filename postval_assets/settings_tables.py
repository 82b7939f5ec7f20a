"""Tables of postval.toml: what a user may give as ``[thresholds.NAME]`` and ``[quality.CHECK]``.

Here: the shape of such a table. Not here: the settings that hold them (settings.py), or what they do.
"""

from __future__ import annotations

import math

from pydantic import BaseModel, ConfigDict, Field

from postval_assets.core.bar_quality import QualityLimit


class LimitTable(BaseModel):
    """Limits of the four metrics."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    fitness: float
    profit_factor: float
    consistency: float
    max_drawdown: float


class ThresholdTable(BaseModel):
    """A user's own gating thresholds in postval.toml: ``[thresholds.NAME]``."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    approve: LimitTable
    review: LimitTable


class QualityTable(BaseModel):
    """A user's own limits of one check of bars in postval.toml: ``[quality.CHECK]``; ``inf`` is never."""

    # Settings travel to Dagster's resource as JSON, which has no infinity of its own.
    model_config = ConfigDict(frozen=True, extra="forbid", ser_json_inf_nan="strings")

    warn: float | None = Field(None, ge=0)
    error: float | None = Field(None, ge=0)

    def over(self, default: QualityLimit) -> QualityLimit:
        """The limits in force: what is given, else the default."""
        chosen = (
            default.warn if self.warn is None else self.warn,
            default.error if self.error is None else self.error,
        )
        warn, error = (None if limit is not None and math.isinf(limit) else limit for limit in chosen)
        return QualityLimit(warn, error)
