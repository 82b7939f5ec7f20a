from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.failures import Rejected
from postval_assets.core.instruments import (
    AssetClass,
    Timeframe,
    alpaca_symbol,
    asset_class_of,
    parse_symbol,
    parse_timeframe,
    symbol_as_text,
)


@pytest.mark.parametrize(
    ("text", "symbol"),
    [
        ("AAPL", "AAPL"),
        ("F", "F"),
        ("BRK.B", "BRK.B"),
        ("BTCUSD", "BTCUSD"),
        ("BTC/USD", "BTCUSD"),
        ("1INCHUSDT", "1INCHUSDT"),
        ("ABCDEFGHIJKLMNO", "ABCDEFGHIJKLMNO"),
        ("CON", "CON"),
        ("CONX.A", "CONX.A"),
    ],
)
def test_symbols_have_one_spelling(text: str, symbol: str) -> None:
    assert parse_symbol(text) == symbol


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            " ",
            "aapl",
            "AAPL ",
            "AAPL\n",
            "A|B",
            "A/B/C",
            "/",
            "A.B.C",
            ".A",
            "A.",
            "A.BCDEF",
            "../A",
            "A\\B",
        ),
        *("NUL.A", "CON.B", "COM1.X", "LPT9.A"),
        *("ABCDEFGHIJKLMNOP", "ÄPPL", "A'B", "A;B", "A B", "<A>", "A_1Hour", "\u0661", "\u0130"),
    ],
)
def test_what_could_break_a_key_a_path_or_a_query_is_no_symbol(text: str) -> None:
    with pytest.raises(Rejected, match="expected 1 to 15 of A-Z and 0-9") as caught:
        parse_symbol(text)
    assert str(caught.value).isascii()


@pytest.mark.parametrize("thing", [None, 7, b"AAPL", ["AAPL"]])
def test_what_is_no_text_is_no_symbol(thing: object) -> None:
    with pytest.raises(Rejected):
        parse_symbol(thing)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("AAPL", "AAPL"),
        ("AAPL_best-2.x", "AAPL_best-2.x"),
        ("../../etc", "..?..?etc"),
        ("<b>\x1b[2J\u202e'", "?b???2J??"),
        ("", "?"),
        ("  ", "?"),
        ("A" * 99, "A" * 40),
    ],
)
def test_what_stands_for_a_symbol_is_short_and_harmless(text: str, shown: str) -> None:
    assert symbol_as_text(text) == shown


@given(st.text(max_size=20))
def test_a_parsed_symbol_is_harmless_and_stays_what_it_is(text: str) -> None:
    try:
        symbol = parse_symbol(text)
    except Rejected:
        return
    assert set(symbol) <= set("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.")
    assert parse_symbol(symbol) == symbol


@pytest.mark.parametrize(
    ("symbol", "asset_class"),
    [
        ("BTC/USD", AssetClass.CRYPTO),
        ("BTCUSD", AssetClass.CRYPTO),
        ("UNIUSD", AssetClass.CRYPTO),
        ("UNIUSDT", AssetClass.CRYPTO),
        ("UNIUSDC", AssetClass.CRYPTO),
        ("USDCUSD", AssetClass.CRYPTO),
        ("A/B", AssetClass.CRYPTO),
        ("AAPL", AssetClass.EQUITY),
        ("BRK.B", AssetClass.EQUITY),
        ("USD", AssetClass.EQUITY),
        ("ABUSD", AssetClass.EQUITY),  # two letters before USD
        ("USDT", AssetClass.EQUITY),
        ("USDX", AssetClass.EQUITY),
    ],
)
def test_the_asset_class_follows_from_the_name(symbol: str, asset_class: AssetClass) -> None:
    assert asset_class_of(symbol) is asset_class


def test_the_user_s_exceptions_win() -> None:
    exceptions = {"BTCUSD": AssetClass.EQUITY, "ABC": AssetClass.CRYPTO}
    assert asset_class_of("BTC/USD", exceptions) is AssetClass.EQUITY
    assert asset_class_of("ABC", exceptions) is AssetClass.CRYPTO
    assert asset_class_of("ETHUSD", exceptions) is AssetClass.CRYPTO


def test_timeframes_are_as_long_as_they_are_called() -> None:
    assert {t.value: t.minutes for t in Timeframe} == {
        "15Min": 15,
        "30Min": 30,
        "1Hour": 60,
        "2Hour": 120,
        "4Hour": 240,
        "1Day": 24 * 60,
    }
    assert Timeframe.HOUR_4.delta == np.timedelta64(4, "h")
    assert Timeframe.MIN_15.delta.dtype == np.dtype("timedelta64[us]")


def test_an_unknown_timeframe_is_refused_with_the_known_ones() -> None:
    assert parse_timeframe("1Hour") is Timeframe.HOUR_1
    for text in ("1hour", "1H", "", "3Hour", "1Hour "):
        with pytest.raises(Rejected, match="15Min, 30Min, 1Hour, 2Hour, 4Hour, 1Day"):
            parse_timeframe(text)


@pytest.mark.parametrize(
    ("symbol", "asset_class", "asked"),
    [
        ("AAPL", AssetClass.EQUITY, "AAPL"),
        ("BRK.B", AssetClass.EQUITY, "BRK.B"),
        ("BTCUSD", AssetClass.CRYPTO, "BTC/USD"),
        ("UNIUSDT", AssetClass.CRYPTO, "UNI/USDT"),
        ("UNIUSDC", AssetClass.CRYPTO, "UNI/USDC"),
        ("USDCUSD", AssetClass.CRYPTO, "USDC/USD"),
        ("USDTUSD", AssetClass.CRYPTO, "USDT/USD"),
        ("USDTUSDC", AssetClass.CRYPTO, "USDT/USDC"),
        ("ETHBTC", AssetClass.CRYPTO, "ETH/BTC"),
        ("1INCHUSD", AssetClass.CRYPTO, "1INCH/USD"),
        ("FOOUSD", AssetClass.EQUITY, "FOOUSD"),  # by an exception of the user
    ],
)
def test_alpaca_hears_its_own_spelling(symbol: str, asset_class: AssetClass, asked: str) -> None:
    assert alpaca_symbol(symbol, asset_class) == asked
    assert parse_symbol(asked) == symbol


@pytest.mark.parametrize("symbol", ["AAPL", "USD", "USDT", "BTC", "BRK.B"])
def test_what_ends_in_no_currency_is_no_pair(symbol: str) -> None:
    with pytest.raises(
        Rejected, match=rf"symbol {symbol} names no crypto pair: expected one that ends in USDT, "
    ):
        alpaca_symbol(symbol, AssetClass.CRYPTO)


@given(st.from_regex(r"[A-Z0-9]{3,8}(USD|USDT|USDC)", fullmatch=True))
def test_every_pair_comes_back_as_it_went_out(symbol: str) -> None:
    assert asset_class_of(symbol) is AssetClass.CRYPTO
    asked = alpaca_symbol(symbol, AssetClass.CRYPTO)
    assert parse_symbol(asked) == symbol
    assert asset_class_of(asked) is AssetClass.CRYPTO
