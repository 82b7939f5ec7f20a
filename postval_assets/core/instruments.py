"""Symbols, asset classes and timeframes: what a price series is called and how long its bars are.

Here: parsing and validation at the border. Not here: prices (bars.py) or what trading costs (costs.py).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum

import numpy as np

from postval_assets.core.failures import Rejected

# Symbols appear in partition keys ("365d-01|AAPL"), file names, queries and pages: only what is harmless there.
_SYMBOL = re.compile(r"[A-Z0-9]{1,15}(\.[A-Z0-9]{1,4})?\Z")
# Names that Windows keeps for devices, whatever follows after a dot; CON itself is a traded stock.
_DEVICE = re.compile(r"(CON|PRN|AUX|NUL|CONIN\$|CONOUT\$|(COM|LPT)[0-9])[ ]*(\.|:|\Z)", re.IGNORECASE)
_NOT_IN_SYMBOLS = re.compile(r"[^A-Za-z0-9._ -]")
_MAX_SHOWN = 40
_CRYPTO = re.compile(r"[A-Z0-9]{3,}(USD|USDT|USDC)\Z")
# What a pair's price is in, as its symbol ends. The first that fits counts: BTCUSDT is BTC/USDT, USDCUSD is USDC/USD.
# BTC comes last, because only an exception in the settings makes a symbol such as ETHBTC a pair.
_QUOTES = ("USDT", "USDC", "USD", "EUR", "ETH", "BTC")


class AssetClass(StrEnum):
    """Decides costs, whether shorting is allowed, and how bars are resampled."""

    EQUITY = "equity"
    CRYPTO = "crypto"


class Timeframe(StrEnum):
    """Length of a bar, by the names that checkpoints carry."""

    MIN_15 = "15Min"
    MIN_30 = "30Min"
    HOUR_1 = "1Hour"
    HOUR_2 = "2Hour"
    HOUR_4 = "4Hour"
    DAY_1 = "1Day"

    @property
    def minutes(self) -> int:
        """Length of one bar in minutes."""
        return _MINUTES[self]

    @property
    def delta(self) -> np.timedelta64:
        """Length of one bar as a numpy timedelta in microseconds."""
        return np.timedelta64(self.minutes * 60_000_000, "us")


_MINUTES = {
    Timeframe.MIN_15: 15,
    Timeframe.MIN_30: 30,
    Timeframe.HOUR_1: 60,
    Timeframe.HOUR_2: 120,
    Timeframe.HOUR_4: 240,
    Timeframe.DAY_1: 1440,
}


def parse_symbol(text: str) -> str:
    """The one spelling of a symbol inside postval: upper case, no slash (``BTC/USD`` becomes ``BTCUSD``).

    Raises:
        Rejected: for anything that is not 1 to 15 of A-Z and 0-9, with an optional share class (``BRK.B``), and for a
            share class of a device of Windows (``NUL.A``), which no disk there could keep a file of.
    """
    if isinstance(text, str) and text.count("/") <= 1:
        symbol = text.replace("/", "")
        if _SYMBOL.match(symbol) and not ("." in symbol and is_device_name(symbol)):
            return symbol
    shown = ascii(text[:60])[:60] if isinstance(text, str) else f"of type {type(text).__name__}"
    raise Rejected(
        f"symbol {shown} is not usable: expected 1 to 15 of A-Z and 0-9, "
        "optionally a share class after a dot, such as AAPL, BRK.B, BTCUSD or BTC/USD"
    )


def symbol_as_text(text: str) -> str:
    """What should have been a symbol, short and harmless: it stands in the place of one in tables, pages and logs."""
    return _NOT_IN_SYMBOLS.sub("?", text[:_MAX_SHOWN]).strip() or "?"


def is_device_name(file_name: str) -> bool:
    """Whether Windows would open a device for a file of that name: ``CON``, ``NUL.pt``, ``COM1.A_1Hour.pt``."""
    return _DEVICE.match(file_name) is not None


def alpaca_symbol(symbol: str, asset_class: AssetClass) -> str:
    """The symbol as Alpaca spells it: pairs with a slash (``BTC/USD``), class shares with their dot (``BRK.B``).

    Args:
        symbol: as parse_symbol spells it; parse_symbol turns Alpaca's spelling back into it.
        asset_class: pairs are the symbols of crypto.

    Raises:
        Rejected: for a symbol of crypto that ends in no currency that pairs are quoted in.
    """
    if asset_class is AssetClass.EQUITY:
        return symbol
    for quote in _QUOTES:
        base = symbol.removesuffix(quote)
        if base and base != symbol:
            return f"{base}/{quote}"
    raise Rejected(
        f"symbol {symbol} names no crypto pair: expected one that ends in {', '.join(_QUOTES)}, such as BTCUSD"
    )


def parse_timeframe(text: str) -> Timeframe:
    """The timeframe of that name; raises Rejected with the accepted names otherwise."""
    try:
        return Timeframe(text)
    except ValueError:
        names = ", ".join(t.value for t in Timeframe)
        shown = ascii(text[:40])[:40] if isinstance(text, str) else f"of type {type(text).__name__}"
        raise Rejected(f"timeframe {shown} is unknown: expected one of {names}") from None


def asset_class_of(symbol: str, exceptions: Mapping[str, AssetClass] | None = None) -> AssetClass:
    """Crypto where the symbol has a slash or ends in USD, USDT or USDC after at least three letters.

    Args:
        symbol: with or without a slash.
        exceptions: symbols (without slash) whose class the user set.
    """
    bare = symbol.replace("/", "")
    if exceptions and bare in exceptions:
        return exceptions[bare]
    if "/" in symbol or _CRYPTO.match(bare):
        return AssetClass.CRYPTO
    return AssetClass.EQUITY
