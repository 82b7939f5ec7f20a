"""``postval features``: what it lists, and what it says of sets that keep their promises and of those that do not."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from postval_assets_tests.commands.conftest import Command

SOURCE = """
import numpy as np
from postval_assets.core.features.registry import FeatureSet

def compute(frame):
    honest = np.log(frame["close"] / frame["close"].shift(3))
    return np.column_stack([honest, {column}])

SET = FeatureSet({name!r}, "4", ("honest", "suspect"), (), 10, compute)
"""
HONEST = 'frame["close"].rolling(10).mean() / frame["close"]'
AHEAD = 'np.log(frame["close"].shift(-1) / frame["close"]).fillna(0.0)'
N_BARS = 500

Install = Callable[[str, str], None]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """Puts a plug-in's source and metadata on the import path, under an entry point's name."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(site)

    def put(name: str, source: str) -> None:
        module = f"checked_plugin_{name.replace('-', '_')}"
        monkeypatch.delitem(sys.modules, module, raising=False)  # another test's plug-in of that name
        (site / f"{module}.py").write_text(source, encoding="utf-8")
        info = site / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8"
        )
        (info / "entry_points.txt").write_text(
            f"[postval.feature_sets]\n{name} = {module}:SET\n", encoding="utf-8"
        )

    return put


@pytest.fixture
def bars(tmp_path: Path) -> str:
    """A source of five symbols, one of them too short for most sets."""
    folder = tmp_path / "bars"
    folder.mkdir()
    for n, symbol in enumerate(("AAPL", "BTCUSD", "MSFT", "NEW", "SPY", "UNIUSD")):
        size = 5 if symbol == "NEW" else N_BARS
        rng = np.random.default_rng(n)
        close = 50.0 * np.exp(np.cumsum(rng.normal(0.0, 0.01, size)))
        pd.DataFrame(
            {
                "ts": pd.date_range("2024-01-01", periods=size, freq="h", tz="UTC"),
                **dict.fromkeys(("open", "high", "low", "close"), close),
                "volume": 10.0,
                "symbol": symbol,
            }
        ).to_parquet(folder / f"{symbol}_1Hour.parquet")
    return f"parquet:{folder}"


def rows(text: str) -> dict[str, list[str]]:
    """The table's rows by symbol."""
    table = text.split("\n\n")[1].splitlines()
    assert table[0].split() == ["symbol", "bars", "from", "to", "seconds", "s/year", "verdict"]
    return {line.split()[0]: line.split() for line in table[2:] if not line.startswith(" ")}


def test_all_sets_are_listed_and_what_is_broken_with_its_reason(postval: Command, install: Install) -> None:
    install("mine", SOURCE.format(name="mine", column=HONEST))
    install("bad", "import a_module_that_is_not_there")
    done = postval("features", "list")
    assert done.code == 0
    listed = {line.split()[0]: line.split() for line in done.out.splitlines()[2:]}
    assert listed["mine"] == ["mine", "4", "plug-in", "2", "0", "10"]
    assert listed["reference-59"] == ["reference-59", "1", "reference", "53", "6", "139"]
    assert "plug-in bad (checked_plugin_bad:SET) cannot be used: importing it failed with Module" in done.out
    assert not postval.data_dir.exists(), "looking changes nothing"


@pytest.mark.parametrize("name", ["reference-53", "mine"])
def test_a_set_that_keeps_its_promises_passes(
    postval: Command, install: Install, bars: str, name: str
) -> None:
    install("mine", SOURCE.format(name="mine", column=HONEST))
    done = postval("--bars", bars, "features", "check", name)
    assert done.code == 0, done
    found = rows(done.out)
    # The first four that can be used.
    assert list(found) == ["AAPL", "BTCUSD", "MSFT", "NEW", "SPY"]
    assert "skipped:" in found["NEW"]
    for symbol in ("AAPL", "BTCUSD", "MSFT", "SPY"):
        assert found[symbol][1:4] == [str(N_BARS), "2024-01-01", "2024-01-21"]
        assert found[symbol][-1] == "ok"
        seconds, yearly = map(float, found[symbol][4:6])
        assert yearly == pytest.approx(seconds * 8766 / N_BARS, abs=0.01)
    assert done.out.startswith(f"{name} version ")
    assert not postval.data_dir.exists()


def test_symbols_are_chosen_of_each_asset_class_and_with_bars_without_volume(
    postval: Command, install: Install, bars: str
) -> None:
    install("mine", SOURCE.format(name="mine", column=HONEST))
    folder = Path(bars.partition(":")[2])
    for symbol in ("ABBV", "ADBE", "AMD", "AMZN", "SPY"):
        frame = pd.read_parquet(folder / "MSFT_1Hour.parquet").assign(symbol=symbol)
        frame.loc[100:130, "volume"] = 0.0 if symbol == "SPY" else 1.0
        frame.to_parquet(folder / f"{symbol}_1Hour.parquet")
    frame = pd.read_parquet(folder / "AAPL_1Hour.parquet")
    frame.loc[7, "open"] = 0.0
    frame.to_parquet(folder / "AAPL_1Hour.parquet")
    done = postval("--bars", bars, "features", "check", "mine")
    assert done.code == 0, done
    found = rows(done.out)
    assert list(found) == ["AAPL", "ABBV", "ADBE", "BTCUSD", "NEW", "SPY"]
    assert "skipped:" in found["AAPL"], "a bad price lies in the bars, not in the set"
    assert {found[symbol][-1] for symbol in ("ABBV", "ADBE", "BTCUSD", "SPY")} == {"ok"}


def test_one_symbol_in_another_timeframe_with_the_range_of_each_feature(
    postval: Command, install: Install, bars: str
) -> None:
    install("mine", SOURCE.format(name="mine", column=HONEST))
    given = ("features", "check", "mine", "--symbol", "btc/usd".upper(), "--timeframe", "4Hour", "--verbose")
    done = postval("--bars", bars, *given)
    assert done.code == 0, done
    assert rows(done.out)["BTCUSD"][1] == str(N_BARS // 4)
    [line] = [line for line in done.out.splitlines() if line.startswith("honest ")]
    low, high = map(float, line.split()[1:])
    closes = pd.read_parquet(f"{bars.partition(':')[2]}/BTCUSD_1Hour.parquet")["close"].to_numpy()[3::4]
    values = np.log(closes[3:] / closes[:-3])[6:]  # from bar 9 on: the look-back is 10
    assert (low, high) == pytest.approx((values.min(), values.max()), rel=1e-3)


def test_a_set_that_looks_ahead_is_refused_with_set_feature_and_bar(
    postval: Command, install: Install, bars: str
) -> None:
    install("mine", SOURCE.format(name="mine", column=AHEAD))
    done = postval("--bars", bars, "features", "check", "mine", "--symbol", "AAPL")
    assert done.code == 1
    assert re.match(
        r"Error: feature set mine on bars of AAPL: suspect sees later bars: at 2024-01-\d\dT\d\d:00Z \(bar \d+\)",
        done.err,
    )
    assert "REFUSED: 1 problem(s)" in done.out
    several = postval("--bars", bars, "features", "check", "mine")
    assert several.code == 1
    assert "(and 3 more)" in several.err
    assert several.out.count("  suspect") == 0
    assert several.out.count(": suspect sees later bars") == 4


@pytest.mark.parametrize(
    ("column", "told"),
    [
        ('frame["vwap"]', r"feature set mine on bars of AAPL \(1Hour\): it failed with KeyError: 'vwap'"),
        ("np.ones((len(frame), 2))", r"feature set mine .* shape \[500, 3\]; expected .* \[500, 2\]"),
        (
            'frame["close"] / (frame["close"] - frame["open"])',
            r"feature set mine on bars of AAPL: suspect is not finite: at 2024-01-01T09:00Z \(bar 9\)",
        ),
        ("np.random.default_rng().normal(size=len(frame))", "suspect differs between two calls"),
        ('frame["close"].expanding().mean()', "suspect sees more than its look-back"),
    ],
    ids=["raises", "shape", "infinite", "random", "expanding"],
)
def test_other_faults_are_told_by_name(
    postval: Command, install: Install, bars: str, column: str, told: str
) -> None:
    install("mine", SOURCE.format(name="mine", column=column))
    done = postval("--bars", bars, "features", "check", "mine", "--symbol", "AAPL", "--verbose")
    assert done.code == 1
    assert re.search(told, done.err), done.err
    assert "Traceback" not in done.err
    assert rows(done.out)["AAPL"][-3] == "REFUSED:"


def test_a_name_that_is_not_there_is_told_with_those_that_are(postval: Command, install: Install) -> None:
    install("bad", "SET = 1")
    told = postval.refused("features", "check", "nope")
    assert (
        "feature set 'nope' is not registered. Registered are reference-53, reference-56, reference-59"
        in told
    )
    assert "broken plug-ins: bad" in told
    told = postval.refused("features", "check", "bad")
    assert "feature set 'bad' cannot be used: plug-in bad (checked_plugin_bad:SET): it is of type int" in told


def test_without_bars_nothing_can_be_said(postval: Command, bars: str, tmp_path: Path) -> None:
    told = postval.refused("--bars", bars, "features", "check", "reference-53", "--symbol", "NEW")
    assert "no 1Hour bars to check reference-53 on: NEW has 5 1Hour bars, and the look-back is 139" in told
    (tmp_path / "empty").mkdir()
    told = postval.refused("--bars", f"csv:{tmp_path / 'empty'}", "features", "check", "reference-53")
    assert "it holds no symbols" in told
    assert "expected one of 15Min" in postval.refused(
        "features", "check", "reference-53", "--timeframe", "2h"
    )
