"""Bars from a folder of files, one series a file: ``SYMBOL_TIMEFRAME.parquet`` or ``.csv``.

Here: finding the file, reading it, and saying exactly what is wrong with it. Not here: repairs of any kind
(nothing is filled, and prices that are merely implausible are delivered as they are), or resampling.
"""

from __future__ import annotations

import csv
import difflib
import io
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pandas as pd

from postval_assets.core.bars import PRICE_COLUMNS, Bars
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.instruments import AssetClass, Timeframe, parse_symbol

_FILE_NAME = re.compile(rf"(?P<symbol>.+)_(?P<timeframe>{'|'.join(Timeframe)})")
_EPOCH = re.compile(r"\d{9,13}(\.\d+)?")
# Epoch numbers between 1973 and 5138: below the first of these they are something else (20240101), from the
# second on they are milliseconds.
_EPOCH_MIN, _EPOCH_MILLISECONDS, _EPOCH_MAX = 1e8, 1e11, 1e14
_SHOWN = 8


@dataclass(frozen=True)
class ParquetBars:
    """Parquet files with columns ts (or timestamp), open, high, low, close, volume and perhaps symbol.

    ``ts`` is the bar's open: a timestamp of any resolution (naive means UTC), ISO 8601 text, or epoch seconds
    or milliseconds. Null volume means unknown. Of rows with the same ts the last one counts.
    """

    directory: Path
    name: str = field(default="parquet", init=False)

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        """See BarSource.fetch; Rejected where the file holds no rows, or no finite prices in the range."""
        path = _path_of(self.directory, ".parquet", symbol, timeframe)
        table = _Table(path, _parquet_frame(path), lambda row: f"row {row + 1}", required=("volume",))
        return _between(table.bars(parse_symbol(symbol), timeframe, asset_class), path, start, end)

    def symbols(self) -> tuple[str, ...]:
        """See BarSource.symbols."""
        return tuple(sorted(_series_in(self.directory, ".parquet")))


@dataclass(frozen=True)
class CsvBars:
    """CSV files (comma, UTF-8) with a header: ts (or timestamp), open, high, low, close.

    Columns volume and symbol may be missing; volume that is missing or empty means unknown. Times as in
    ParquetBars. Of rows with the same ts the last one counts.
    """

    directory: Path
    name: str = field(default="csv", init=False)

    def fetch(
        self,
        symbol: str,
        timeframe: Timeframe,
        asset_class: AssetClass,
        *,
        start: datetime | None,
        end: datetime | None,
    ) -> Bars:
        """See BarSource.fetch; Rejected where the file holds no rows, or no finite prices in the range."""
        path = _path_of(self.directory, ".csv", symbol, timeframe)
        frame, line_of = _csv_frame(path)
        table = _Table(path, frame, lambda row: f"line {line_of[row]}", required=())
        return _between(table.bars(parse_symbol(symbol), timeframe, asset_class), path, start, end)

    def symbols(self) -> tuple[str, ...]:
        """See BarSource.symbols."""
        return tuple(sorted(_series_in(self.directory, ".csv")))


def _series_in(directory: Path, suffix: str) -> dict[str, list[Timeframe]]:
    """The timeframes of each symbol that has files in the folder."""
    try:
        names = [entry.name for entry in directory.iterdir() if entry.suffix == suffix]
    except (FileNotFoundError, NotADirectoryError):
        raise Rejected(
            f"bars folder {directory} does not exist: expected a folder of *{suffix} files"
        ) from None
    except OSError as error:
        raise Unavailable(f"bars folder {directory} cannot be read: {error}") from error
    series: dict[str, list[Timeframe]] = {}
    for name in names:
        match = _FILE_NAME.fullmatch(name.removesuffix(suffix))
        if match is None:
            continue
        try:
            symbol = parse_symbol(match["symbol"])
        except Rejected:
            continue  # some other file: it could not be asked for by any symbol
        series.setdefault(symbol, []).append(Timeframe(match["timeframe"]))
    return series


def _path_of(directory: Path, suffix: str, symbol: str, timeframe: Timeframe) -> Path:
    """The file of that series; Rejected with what is there instead where there is none."""
    symbol = parse_symbol(symbol)
    path = directory / f"{symbol}_{timeframe}{suffix}"
    series = _series_in(directory, suffix)
    if timeframe in series.get(symbol, ()):
        return path
    if symbol in series:
        there = f"{symbol} is there as {', '.join(sorted(series[symbol]))}"
    elif not series:
        there = f"no file there is named like AAPL_1Hour{suffix}"
    else:
        near = difflib.get_close_matches(symbol, sorted(series), n=3, cutoff=0.5)
        shown = ", ".join(sorted(series)[:_SHOWN]) + (", ..." if len(series) > _SHOWN else "")
        there = (f"nearest: {', '.join(near)}; " if near else "") + f"{len(series)} symbol(s) there: {shown}"
    raise Rejected(f"no {timeframe} bars of {symbol} in {directory} (looked for {path.name}); {there}")


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise Unavailable(f"bars file {path} cannot be read: {error}") from error


def _parquet_frame(path: Path) -> pd.DataFrame:
    import pyarrow as pa
    import pyarrow.parquet as pq

    content = _read(path)
    try:
        # The pandas metadata could turn a column into the index.
        frame: pd.DataFrame = pq.read_table(pa.BufferReader(content)).to_pandas(ignore_metadata=True)
    except (
        pa.ArrowException,
        OSError,
        ValueError,
    ) as error:  # the disk was read above: all of these are content
        raise Rejected(f"{path} is not a readable Parquet file: {error}") from error
    return frame


def _csv_frame(path: Path) -> tuple[pd.DataFrame, list[int]]:
    """The file as text columns, and the line number of each row."""
    try:
        text = _read(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise Rejected(f"{path} is not UTF-8 text: {error}") from error
    reader = csv.reader(io.StringIO(text, newline=""))
    rows: list[list[str]] = []
    line_of: list[int] = []
    try:
        header = next(reader, [])
        for row in reader:
            if not any(row):
                continue
            if len(row) != len(header):
                raise Rejected(
                    f"{path} line {reader.line_num}: {len(row)} value(s) where the header has {len(header)}"
                )
            rows.append([value.strip() for value in row])
            line_of.append(reader.line_num)
    except csv.Error as error:
        raise Rejected(f"{path} line {reader.line_num}: {error}") from error
    return pd.DataFrame(rows, columns=pd.Index(header), dtype=object), line_of


class _Table:
    """The content of one file on its way to being Bars."""

    def __init__(
        self, path: Path, frame: pd.DataFrame, place: Callable[[int], str], *, required: tuple[str, ...]
    ) -> None:
        """Find the columns, whatever their case; ``place`` names a row for people."""
        self.path, self.place = path, place
        names = [str(name).strip().lower() for name in frame.columns]
        if "ts" not in names:
            names = ["ts" if name == "timestamp" else name for name in names]
        missing = [name for name in ("ts", *PRICE_COLUMNS, *required) if name not in names]
        if missing:
            found = ", ".join(map(str, frame.columns)) or "none"
            raise Rejected(
                f"{path}: column(s) {', '.join(missing)} missing; found {found}; "
                "expected ts (or timestamp), open, high, low, close, volume"
            )
        twice = sorted({n for n in names if names.count(n) > 1} & {"ts", "symbol", "volume", *PRICE_COLUMNS})
        if twice:
            raise Rejected(f"{path}: more than one column is called {', '.join(twice)}")
        if frame.empty:
            raise Rejected(f"{path} has no rows: expected one for each bar")
        self.columns = {name: frame.iloc[:, position] for position, name in enumerate(names)}

    def bars(self, symbol: str, timeframe: Timeframe, asset_class: AssetClass) -> Bars:
        """All rows as Bars: sorted, the last of equal timestamps."""
        if "symbol" in self.columns:
            self._check_symbol(symbol)
        columns: dict[str, object] = {"ts": self._times()}
        for name in PRICE_COLUMNS:
            columns[name] = self._numbers(name)
        columns["volume"] = self._numbers("volume") if "volume" in self.columns else np.nan
        frame = pd.DataFrame(columns)
        return Bars.from_frame(frame, symbol=symbol, timeframe=timeframe, asset_class=asset_class)

    def _check_symbol(self, symbol: str) -> None:
        column = self.columns["symbol"].astype(str).str.replace("/", "", regex=False)
        self._reject_first(
            (column != symbol).to_numpy(), "symbol", f"expected {symbol} throughout, as the file is named"
        )

    def _numbers(self, name: str) -> pd.Series:
        column = self.columns[name]
        numbers = pd.to_numeric(column, errors="coerce").astype("float64")
        empty = column.isna() | column.astype(str).str.lower().isin(["", "nan"])
        self._reject_first((numbers.isna() & ~empty).to_numpy(), name, "expected a number")
        return numbers

    def _times(self) -> pd.Series:
        """Column ts in UTC."""
        column = self.columns["ts"]
        if isinstance(column.dtype, pd.DatetimeTZDtype) or column.dtype.kind == "M":
            times = pd.to_datetime(column, utc=True)
        elif pd.api.types.is_numeric_dtype(column.dtype):
            times = _from_epoch(column)
        else:
            text = column.astype(str)
            if text.str.fullmatch(_EPOCH.pattern).all():
                times = _from_epoch(text.astype("float64"))
            else:
                times = pd.to_datetime(text, utc=True, format="ISO8601", errors="coerce")
        self._reject_first(
            times.isna().to_numpy(), "ts", "expected a time: ISO 8601, or epoch seconds or milliseconds"
        )
        return times

    def _reject_first(self, wrong: npt.NDArray[np.bool_], name: str, expected: str) -> None:
        if wrong.any():
            row = int(np.argmax(wrong))
            value = ascii(str(self.columns[name].iloc[row]))[:40]
            raise Rejected(f"{self.path} {self.place(row)}, column {name} is {value}: {expected}")


def _from_epoch(column: pd.Series) -> pd.Series:
    """UTC times of epoch seconds or milliseconds; NaT for what can be neither."""
    numbers = column.astype("float64")
    numbers = numbers.where((numbers >= _EPOCH_MIN) & (numbers < _EPOCH_MAX))
    microseconds = numbers.where(numbers >= _EPOCH_MILLISECONDS, numbers * 1e3) * 1e3
    times: pd.Series = pd.to_datetime(microseconds.round().astype("Int64"), unit="us", utc=True)
    return times


def _between(bars: Bars, path: Path, start: datetime | None, end: datetime | None) -> Bars:
    """The bars with start <= ts <= end; Rejected where a value there is none that a market could have."""
    first = 0 if start is None else int(np.searchsorted(bars.ts, _utc(start), side="left"))
    stop = len(bars) if end is None else int(np.searchsorted(bars.ts, _utc(end), side="right"))
    wanted = bars.slice(first, max(first, stop))
    for index in np.flatnonzero(~_is_usable(wanted))[:1]:
        values = ", ".join(f"{name} {getattr(wanted, name)[index]}" for name in (*PRICE_COLUMNS, "volume"))
        raise Rejected(
            f"{path}: the bar at {wanted.ts[index].astype('datetime64[s]')}Z has {values}: expected finite "
            "prices, and a volume that is a quantity or, where it is unknown, nothing"
        )
    return wanted


def _is_usable(bars: Bars) -> npt.NDArray[np.bool_]:
    prices = np.stack([bars.open, bars.high, bars.low, bars.close])
    volume_ok = np.isnan(bars.volume) | (np.isfinite(bars.volume) & (bars.volume >= 0))
    ok: npt.NDArray[np.bool_] = np.isfinite(prices).all(axis=0) & volume_ok
    return ok


def _utc(moment: datetime) -> np.datetime64:
    aware = moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    return np.datetime64(aware.replace(tzinfo=None), "us")
