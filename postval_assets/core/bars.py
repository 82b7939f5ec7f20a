"""Bars of one symbol: the price series that everything else is computed on.

Here: the container, its invariants and its digest. Not here: where bars come from (io), longer timeframes
(resampling.py), or judgements about their quality.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd

from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import AssetClass, Timeframe

PRICE_COLUMNS = ("open", "high", "low", "close")
COLUMNS = ("ts", *PRICE_COLUMNS, "volume")

Float = npt.NDArray[np.float64]
Timestamps = npt.NDArray[np.datetime64]


@dataclass(frozen=True, eq=False)
class Bars:
    """Bars of one symbol in time order, axis [bar].

    Attributes:
        symbol: without a slash.
        timeframe: length of each bar.
        asset_class: decides costs and sessions.
        ts: bar OPEN, UTC, ``datetime64[us]``, strictly increasing.
        open, high, low, close: prices in the quote currency, float64.
        volume: traded quantity, float64; NaN where the source does not know it.
    """

    symbol: str
    timeframe: Timeframe
    asset_class: AssetClass
    ts: Timestamps
    open: Float
    high: Float
    low: Float
    close: Float
    volume: Float

    def __post_init__(self) -> None:
        """Hold the invariants; raises Rejected where the arrays cannot be a price series."""
        n = len(self.ts)
        if self.ts.dtype != np.dtype("datetime64[us]"):
            raise Rejected(f"bars of {self.symbol}: ts must be datetime64[us] in UTC, not {self.ts.dtype}")
        for name in (*PRICE_COLUMNS, "volume"):
            column = getattr(self, name)
            if column.dtype != np.float64 or column.shape != (n,):
                raise Rejected(f"bars of {self.symbol}: {name} must be {n} float64 values")
        if n > 1 and not bool(np.all(self.ts[1:] > self.ts[:-1])):
            raise Rejected(f"bars of {self.symbol}: ts must be strictly increasing")

    def __len__(self) -> int:
        """Number of bars."""
        return len(self.ts)

    @classmethod
    def from_frame(
        cls, frame: pd.DataFrame, *, symbol: str, timeframe: Timeframe, asset_class: AssetClass
    ) -> Bars:
        """Bars from a frame with COLUMNS; sorts by ts and keeps the last of duplicate timestamps.

        Raises:
            Rejected: naming the missing column or the one that is not numeric.
        """
        missing = [c for c in COLUMNS if c not in frame.columns]
        if missing:
            raise Rejected(
                f"bars of {symbol}: column(s) {', '.join(missing)} missing; expected {', '.join(COLUMNS)}"
            )
        frame = frame.sort_values("ts", kind="stable").drop_duplicates("ts", keep="last")
        try:
            ts = pd.to_datetime(frame["ts"], utc=True).dt.tz_localize(None).to_numpy(dtype="datetime64[us]")
            columns = {c: frame[c].to_numpy(dtype=np.float64, na_value=np.nan) for c in COLUMNS[1:]}
        except (TypeError, ValueError) as error:
            raise Rejected(
                f"bars of {symbol}: a column cannot be read as numbers or times: {error}"
            ) from error
        return cls(symbol=symbol, timeframe=timeframe, asset_class=asset_class, ts=ts, **columns)

    def frame(self) -> pd.DataFrame:
        """The bars as a frame with COLUMNS, ts in UTC: what a feature set is given."""
        ts = pd.Series(self.ts).dt.tz_localize("UTC")
        return pd.DataFrame({"ts": ts, **{c: getattr(self, c) for c in COLUMNS[1:]}})

    def slice(self, start: int, stop: int) -> Bars:
        """The bars start .. stop-1, as views on the same arrays."""
        columns = {c: getattr(self, c)[start:stop] for c in COLUMNS}
        return Bars(symbol=self.symbol, timeframe=self.timeframe, asset_class=self.asset_class, **columns)

    def digest(self) -> str:
        """SHA-256 over symbol, timeframe and every value: equal exactly where the bars are equal."""
        sha = hashlib.sha256(f"{self.symbol}|{self.timeframe}|{self.asset_class}".encode())
        for name in COLUMNS:
            sha.update(np.ascontiguousarray(getattr(self, name)).tobytes())
        return sha.hexdigest()
