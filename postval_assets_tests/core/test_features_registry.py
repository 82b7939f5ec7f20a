"""What a feature set is, running one, and loading plug-ins."""

import sys
from collections.abc import Callable
from dataclasses import replace
from importlib.metadata import entry_points
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.bars import Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.features.reference import REFERENCE_53, REFERENCE_56, REFERENCE_59, REFERENCE_SETS
from postval_assets.core.features.registry import (
    ENTRY_POINT_GROUP,
    FeatureSet,
    compute_features,
    load_feature_sets,
    registered_feature_sets,
)
from postval_assets.core.instruments import AssetClass, Timeframe

SIX = ("total_pnl", "win_rate", "drawdown", "position_pct", "available_pct", "account_change")
SETS = {s.name: s for s in REFERENCE_SETS}
N_BARS = 12


def price_and_volume(frame: pd.DataFrame) -> np.ndarray:
    return np.column_stack([frame["close"].pct_change(), np.log(frame["volume"])])


def small_set(
    compute: Callable[[pd.DataFrame], np.ndarray] = price_and_volume, look_back: int = 2
) -> FeatureSet:
    return FeatureSet("small", "7", ("change", "log_volume"), (), look_back, compute)


def some_bars(**columns: np.ndarray) -> Bars:
    close = 10.0 + np.sin(np.arange(float(N_BARS)))
    prices = dict.fromkeys(("open", "high", "low", "close"), close)
    frame = pd.DataFrame(
        {
            "ts": pd.date_range("2024-03-01", periods=N_BARS, freq="h", tz="UTC"),
            **prices,
            "volume": np.arange(1.0, N_BARS + 1.0),
        }
        | columns
    )
    return Bars.from_frame(frame, symbol="AAPL", timeframe=Timeframe.HOUR_1, asset_class=AssetClass.EQUITY)


# --- a set


def test_reference_sets_are_those_of_the_versions() -> None:
    assert [s.name for s in REFERENCE_SETS] == ["reference-53", "reference-56", "reference-59"]
    assert [s.n_features for s in REFERENCE_SETS] == [53, 56, 59]
    assert [s.account_features for s in REFERENCE_SETS] == [(), SIX[:3], SIX]
    assert REFERENCE_53.market_features == REFERENCE_56.market_features == REFERENCE_59.market_features
    assert REFERENCE_59.feature_names == REFERENCE_53.market_features + SIX


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": ""}, "name and version must be texts"),
        ({"version": 2}, "name and version must be texts"),
        ({"market_features": ["a"]}, "must be tuples"),
        ({"market_features": ()}, "at least one market feature"),
        ({"market_features": ("a", "b", "a")}, "more than once: a"),
        ({"market_features": ("a", "win_rate"), "account_features": SIX[:3]}, "more than once: win_rate"),
        ({"account_features": ("drawdown",)}, "expected none, or the first 3 or all 6"),
        ({"look_back": 0}, "whole number of bars from 1 on, not 0"),
        ({"look_back": 2.5}, "not 2.5"),
        ({"compute": None}, "must be a function"),
    ],
)
def test_impossible_sets_are_rejected(change: dict[str, object], message: str) -> None:
    with pytest.raises(Rejected, match=message):
        replace(small_set(), **change)


# --- running one


def test_a_set_is_computed_with_its_first_rows_unknown() -> None:
    bars = some_bars()
    features = compute_features(small_set(look_back=3), bars)
    assert features.dtype == np.float32
    assert features.flags.c_contiguous
    assert np.isnan(features[:2]).all()
    np.testing.assert_allclose(features[2:, 1], np.log(np.arange(3.0, N_BARS + 1)), rtol=1e-6)
    np.testing.assert_allclose(features[2:, 0], bars.close[2:] / bars.close[1:-1] - 1, rtol=1e-5)


def test_the_set_is_given_a_frame_in_utc_that_it_may_spoil() -> None:
    bars = some_bars()
    digest = bars.digest()

    def spoil(frame: pd.DataFrame) -> np.ndarray:
        assert list(frame.columns) == ["ts", "open", "high", "low", "close", "volume"]
        assert str(frame["ts"].dt.tz) == "UTC"
        values = price_and_volume(frame)
        frame.loc[:, "close"] = -1.0
        return values

    compute_features(small_set(spoil), bars)
    assert bars.digest() == digest


def test_too_few_bars_are_unknown_throughout() -> None:
    features = compute_features(REFERENCE_53, some_bars())
    assert features.shape == (N_BARS, 53)
    assert np.isnan(features).all()


def test_columns_must_be_as_many_as_names() -> None:
    with pytest.raises(Rejected, match=r"feature set small .* shape \[12, 3\]; expected .* \[12, 2\]"):
        compute_features(small_set(lambda f: np.ones((len(f), 3))), some_bars())


def test_rows_must_be_as_many_as_bars() -> None:
    with pytest.raises(Rejected, match=r"shape \[11, 2\]"):
        compute_features(small_set(lambda f: np.ones((len(f) - 1, 2))), some_bars())


def test_values_must_be_numbers() -> None:
    with pytest.raises(Rejected, match=r"feature set small .* it returned object values"):
        compute_features(small_set(lambda f: np.full((len(f), 2), None)), some_bars())


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_values_that_are_not_finite_are_told_by_feature_and_bar(value: float) -> None:
    def one_bad(frame: pd.DataFrame) -> np.ndarray:
        values = np.ones((len(frame), 2))
        values[:3, 0] = np.nan  # before the look-back: of no concern
        values[5, 1] = value
        return values

    with pytest.raises(
        Rejected, match=r"small .*AAPL.*: log_volume is (nan|inf) at 2024-03-01T05.* \(bar 5\)"
    ):
        compute_features(small_set(one_bad, look_back=4), some_bars())


def test_a_set_that_raises_is_named() -> None:
    def broken(frame: pd.DataFrame) -> np.ndarray:
        return frame["vwap"].to_numpy()

    with pytest.raises(Rejected, match=r"feature set small .* failed with KeyError: 'vwap'"):
        compute_features(small_set(broken), some_bars())


@pytest.mark.parametrize("price", [0.0, -1.0, np.nan, np.inf])
def test_prices_must_be_above_zero(price: float) -> None:
    low = np.full(N_BARS, 9.0)
    low[4] = price
    with pytest.raises(Rejected, match=r"bars of AAPL .*: low is .* at 2024-03-01T04.* 1 of 12 bars"):
        compute_features(small_set(), some_bars(low=low))


def test_values_that_wait_for_later_bars_are_told_as_such() -> None:
    def waiting(frame: pd.DataFrame) -> np.ndarray:
        return np.column_stack([frame["close"], frame["close"].shift(-2)])

    with pytest.raises(
        Rejected, match=r"small .* log_volume is nan .* \(bar 10\).* does it wait for later bars\?"
    ):
        compute_features(small_set(waiting), some_bars())


# --- plug-ins: real distributions' metadata on the import path


PLUGIN = """
import numpy as np
from postval_assets.core.features.registry import FeatureSet

def compute(frame):
    return np.log(frame[["high", "low"]].to_numpy())

SET = FeatureSet({name!r}, "1", ("log_high", "log_low"), (), 1, compute)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.syspath_prepend(tmp_path)

    def put(distribution: str, source: str, value: str | None = None) -> None:
        module = f"postval_plugin_{distribution}"
        monkeypatch.delitem(sys.modules, module, raising=False)  # another test's plug-in of that name
        (tmp_path / f"{module}.py").write_text(source, encoding="utf-8")
        info = tmp_path / f"{module}-1.0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(
            f"Metadata-Version: 2.1\nName: {module}\nVersion: 1.0\n", encoding="utf-8"
        )
        (info / "entry_points.txt").write_text(
            f"[{ENTRY_POINT_GROUP}]\n{distribution} = {value or module + ':SET'}\n", encoding="utf-8"
        )

    return put


def test_reference_sets_are_there_without_metadata() -> None:
    loaded = load_feature_sets(plugins=())
    assert loaded.sets == SETS
    assert loaded.broken == ()


def test_reference_sets_are_not_in_conflict_with_their_own_entry_points(install: Callable[..., None]) -> None:
    install("again", "", "postval_assets.core.features.reference:REFERENCE_59")
    loaded = load_feature_sets()
    assert loaded.broken == ()
    assert loaded.sets["reference-59"] is REFERENCE_59


def test_an_installed_plugin_is_registered_and_computes(install: Callable[..., None]) -> None:
    install("mine", PLUGIN.format(name="my-trainer-2"))
    sets = registered_feature_sets()
    assert {"my-trainer-2", *SETS} <= set(sets)
    bars = some_bars()
    np.testing.assert_allclose(
        compute_features(sets["my-trainer-2"], bars),
        np.log(np.column_stack([bars.high, bars.low])),
        rtol=1e-6,
    )


@pytest.mark.parametrize(
    ("source", "value", "reason"),
    [
        ("import a_module_that_is_not_there", None, "ModuleNotFoundError: No module named 'a_module_that"),
        ("raise SystemExit(3)", None, "failed with SystemExit"),
        ("x = 1", None, "AttributeError"),
        ("SET = 1", None, "of type int; expected a FeatureSet"),
        (PLUGIN.format(name=""), None, "failed with Rejected: feature set '': name and version"),
        (PLUGIN.format(name="reference-59"), None, "the name 'reference-59' is taken by a reference set"),
    ],
)
def test_a_broken_plugin_is_told_and_hinders_no_other(
    install: Callable[..., None], source: str, value: str | None, reason: str
) -> None:
    install("bad", source, value)
    install("good", PLUGIN.format(name="good-set"))
    # As in an installed postval, whose own entry points are read beside those of plug-ins.
    install("reference-59", "", "postval_assets.core.features.reference:REFERENCE_59")
    loaded = load_feature_sets()
    assert {"good-set", *SETS} <= set(loaded.sets)
    assert loaded.sets["reference-59"] is REFERENCE_59
    (broken,) = loaded.broken
    assert (broken.entry_point, broken.value) == ("bad", "postval_plugin_bad:SET")
    assert reason in broken.reason
    assert "\n" not in broken.reason


def test_two_plugins_of_one_name_are_both_left_out(install: Callable[..., None]) -> None:
    for name in ("one", "two"):
        install(name, PLUGIN.format(name="same-name"))
    for plugins in (
        list(entry_points(group=ENTRY_POINT_GROUP)),
        list(entry_points(group=ENTRY_POINT_GROUP))[::-1],
    ):
        loaded = load_feature_sets(plugins)
        assert "same-name" not in loaded.sets
        assert {b.entry_point for b in loaded.broken} == {"one", "two"}
        assert "postval_plugin_one:SET" in loaded.broken[0].reason
