"""The 7 temporal features: when the bar opened, in UTC. Not here: anything that looks at prices."""

from __future__ import annotations

import numpy as np

from postval_assets.core.features.spec import BarArrays, FeatureFamily, FeatureSpec, Float, assemble

_TEMPORAL = FeatureFamily.TEMPORAL
_MICROSECONDS_PER_MINUTE = 60_000_000
_MINUTES_PER_DAY = 1440
_EPOCH_WEEKDAY = 3  # 1970-01-01 was a Thursday; Monday is 0

SPECS: tuple[FeatureSpec, ...] = (
    FeatureSpec(
        "time_of_day_sin",
        _TEMPORAL,
        "sin(2 pi * minute of the UTC day / 1440)",
        1,
        -1.0,
        1.0,
        note="in UTC, so a session in New York is an hour earlier in summer; so is time_of_day_cos",
    ),
    FeatureSpec("time_of_day_cos", _TEMPORAL, "cos(2 pi * minute of the UTC day / 1440)", 1, -1.0, 1.0),
    FeatureSpec("weekday_sin", _TEMPORAL, "sin(2 pi * weekday / 7), Monday = 0, in UTC", 1, -1.0, 1.0),
    FeatureSpec("weekday_cos", _TEMPORAL, "cos(2 pi * weekday / 7), Monday = 0, in UTC", 1, -1.0, 1.0),
    FeatureSpec("season_sin", _TEMPORAL, "sin(2 pi * day of the year / 365.25), 1 January = 0", 1, -1.0, 1.0),
    FeatureSpec("season_cos", _TEMPORAL, "cos(2 pi * day of the year / 365.25), 1 January = 0", 1, -1.0, 1.0),
    FeatureSpec(
        "bar_gap",
        _TEMPORAL,
        "ln(1 + hours from the open of the bar before to this one)",
        2,
        0.0,
        6.0,
        note="also high after bars that a source leaves out because nothing was traded",
    ),
)


def temporal_features(bars: BarArrays) -> Float:
    """The features of SPECS: [bar, feature]."""
    minute = bars.ts.astype(np.int64) // _MICROSECONDS_PER_MINUTE
    day = minute // _MINUTES_PER_DAY
    day_of_year = bars.ts.astype("datetime64[D]") - bars.ts.astype("datetime64[Y]").astype("datetime64[D]")
    time_of_day = _angle(minute % _MINUTES_PER_DAY, _MINUTES_PER_DAY)
    weekday = _angle((day + _EPOCH_WEEKDAY) % 7, 7)
    season = _angle(day_of_year.astype(np.int64), 365.25)
    gap_hours = np.full(len(bars), np.nan)
    gap_hours[1:] = np.diff(bars.ts.astype(np.int64)) / (60 * _MICROSECONDS_PER_MINUTE)
    return assemble(
        SPECS,
        {
            "time_of_day_sin": np.sin(time_of_day),
            "time_of_day_cos": np.cos(time_of_day),
            "weekday_sin": np.sin(weekday),
            "weekday_cos": np.cos(weekday),
            "season_sin": np.sin(season),
            "season_cos": np.cos(season),
            "bar_gap": np.log1p(gap_hours),
        },
    )


def _angle(part: np.ndarray[tuple[int], np.dtype[np.int64]], whole: float) -> Float:
    return 2.0 * np.pi * part.astype(np.float64) / whole
