"""Which feature set a checkpoint means, and how that was found."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.failures import Rejected
from postval_assets.core.features.reference import REFERENCE_53, REFERENCE_59, REFERENCE_SETS
from postval_assets.core.features.registry import FeatureSet, FeatureSetBasis, resolve_feature_set

SIX = ("total_pnl", "win_rate", "drawdown", "position_pct", "available_pct", "account_change")
SETS = {s.name: s for s in REFERENCE_SETS}


def never_computed(frame: pd.DataFrame) -> np.ndarray:
    raise AssertionError(frame)


def resolve(
    *,
    named: str | None = None,
    feature_names: list[str] | None = None,
    configured: str | None = None,
    n_features: int = 59,
    account_features: tuple[str, ...] = SIX,
    more: tuple[FeatureSet, ...] = (),
) -> tuple[str, FeatureSetBasis]:
    found, basis = resolve_feature_set(
        SETS | {s.name: s for s in more},
        named=named,
        feature_names=feature_names,
        configured=configured,
        n_features=n_features,
        account_features=account_features,
    )
    return found.name, basis


MARKET = list(REFERENCE_53.market_features)
OTHER = FeatureSet("other", "1", tuple(f"x{i}" for i in range(53)), SIX, 10, never_computed)
TWIN = replace(REFERENCE_59, name="twin")


@pytest.mark.parametrize("reference", REFERENCE_SETS, ids=lambda s: s.name)
def test_resolution_of_each_version(reference: FeatureSet) -> None:
    fits = {"n_features": reference.n_features, "account_features": reference.account_features}
    assert resolve(**fits) == (reference.name, FeatureSetBasis.ASSUMED)
    assert resolve(**fits, named=reference.name) == (reference.name, FeatureSetBasis.NAMED)
    assert resolve(**fits, configured=reference.name) == (reference.name, FeatureSetBasis.CONFIGURED)
    assert resolve(**fits, feature_names=list(reference.feature_names)) == (
        reference.name,
        FeatureSetBasis.NAMED,
    )
    assert resolve(**fits, feature_names=MARKET) == (reference.name, FeatureSetBasis.NAMED)
    assert resolve(**fits, feature_names=[]) == (reference.name, FeatureSetBasis.ASSUMED)


def test_what_the_checkpoint_says_wins_over_the_settings() -> None:
    assert resolve(named="other", configured="reference-59", more=(OTHER,)) == (
        "other",
        FeatureSetBasis.NAMED,
    )
    assert resolve(feature_names=[f"x{i}" for i in range(53)], configured="reference-59", more=(OTHER,)) == (
        "other",
        FeatureSetBasis.NAMED,
    )


def test_settings_win_over_the_dimensions() -> None:
    assert resolve(configured="other", more=(OTHER,)) == ("other", FeatureSetBasis.CONFIGURED)


@pytest.mark.parametrize("key", ["named", "configured"])
def test_a_set_that_is_not_registered(key: str) -> None:
    with pytest.raises(
        Rejected, match=r"'alpaca-59', which is not registered.*reference-59.*postval.feature_sets"
    ):
        resolve(**{key: "alpaca-59"})


def test_a_named_set_whose_names_are_others() -> None:
    names = [*MARKET[:2], "surprise", *MARKET[3:]]
    with pytest.raises(Rejected, match="feature 3 is 'surprise' in the checkpoint and 'bar_body' in the set"):
        resolve(named="reference-59", feature_names=names)


def test_names_of_no_set_are_rejected_with_the_first_that_differs() -> None:
    names = [*MARKET[:10], "vwap", *MARKET[11:], *SIX]
    with pytest.raises(Rejected, match=r"nearest is reference-59: feature 11 is 'vwap' .* and 'atr_14' in"):
        resolve(feature_names=names)
    assert resolve(feature_names=names, configured="other", more=(OTHER,)) == (
        "other",
        FeatureSetBasis.CONFIGURED,
    )


def test_names_in_another_order_are_no_match() -> None:
    with pytest.raises(Rejected, match="feature 1 is 'open_gap'"):
        resolve(feature_names=[MARKET[1], MARKET[0], *MARKET[2:]])


def test_too_few_names_are_no_match() -> None:
    with pytest.raises(
        Rejected, match="feature 51 is nothing in the checkpoint and 'range_position_20' in the set"
    ):
        resolve(feature_names=MARKET[:50])


def test_names_of_two_sets_need_the_settings() -> None:
    with pytest.raises(Rejected, match="those of several feature sets: reference-59, twin"):
        resolve(feature_names=MARKET, more=(TWIN,))
    assert resolve(feature_names=MARKET, configured="twin", more=(TWIN,)) == (
        "twin",
        FeatureSetBasis.CONFIGURED,
    )


@pytest.mark.parametrize(
    "how", [{"named": "reference-53"}, {"configured": "reference-53"}, {"named": None, "feature_names": None}]
)
def test_dimensions_that_do_not_fit(how: dict[str, str]) -> None:
    with pytest.raises(Rejected, match=r"53.*no account features.*58|58.*53"):
        resolve(**how, n_features=58)


def test_names_whose_set_has_other_dimensions() -> None:
    with pytest.raises(Rejected, match=r"reference-59 has 59 features .* the checkpoint has 56"):
        resolve(feature_names=[*MARKET, *SIX], n_features=56, account_features=SIX[:3])


def test_account_features_must_fit_as_well() -> None:
    with pytest.raises(Rejected, match=r"3 account features \(total_pnl, win_rate, drawdown\)"):
        resolve(named="reference-59", account_features=SIX[:3])


@given(
    named=st.none() | st.sampled_from([*SETS, "nobody"]),
    feature_names=st.none() | st.sampled_from([MARKET, MARKET + list(SIX), MARKET[:9]]),
    configured=st.none() | st.sampled_from([*SETS, "nobody"]),
    n_features=st.sampled_from([53, 56, 59, 60]),
    n_account=st.sampled_from([0, 3, 6]),
)
def test_whatever_is_resolved_fits(
    named: str | None,
    feature_names: list[str] | None,
    configured: str | None,
    n_features: int,
    n_account: int,
) -> None:
    try:
        found, basis = resolve_feature_set(
            SETS,
            named=named,
            feature_names=feature_names,
            configured=configured,
            n_features=n_features,
            account_features=SIX[:n_account],
        )
    except Rejected:
        return
    assert (found.n_features, found.account_features) == (n_features, SIX[:n_account])
    assert named in (None, found.name)
    if basis is FeatureSetBasis.CONFIGURED:
        assert configured == found.name
    if basis is FeatureSetBasis.ASSUMED:
        assert named is None
        assert feature_names is None
        assert configured is None
