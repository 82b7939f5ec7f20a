"""The trainer finds a strong planted edge and validation says so out of sample; where there is none, neither happens.

Ten markets of each kind through the real commands (planted_edge_study.py). The bounds leave room for another machine's
arithmetic: a run whose sums round differently takes another path. Markets of 365 days: the mean Sharpe ratio over the
ten of a kind has a standard error of about 0.3 by luck alone (each year's is 1).
"""

from __future__ import annotations

import pandas as pd
import pytest

from postval_assets_tests.trainer.planted_edge_study import QUICK, STOCKS, train_and_validate

N_SEEDS = 10
pytestmark = pytest.mark.timeout(1800)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> pd.DataFrame:
    return train_and_validate(tmp_path_factory.mktemp("study"), STOCKS, range(N_SEEDS), QUICK)


@pytest.fixture
def year(table: pd.DataFrame) -> pd.DataFrame:
    return table[table["plan"] == "365d"]


def test_every_model_was_judged_on_bars_after_its_training(table: pd.DataFrame) -> None:
    assert len(table) == 2 * 2 * N_SEEDS
    assert (table["out_of_sample"] == table["n_folds"]).all()
    assert table["decision"].isin(["LIVE", "PAPER", "RETRAIN", "DROP"]).all()


def test_a_planted_edge_is_found_and_confirmed(year: pd.DataFrame) -> None:
    found = year[year["edge"]]
    assert found["sharpe_mean"].mean() > 3.0
    assert (found["sharpe_mean"] > 1.0).sum() >= 9
    assert (found["positive_share"] >= 0.8).sum() >= 8
    assert found["positive_folds"].sum() >= 80
    assert found["classification"].isin(["APPROVED", "REVIEW"]).sum() >= 8


def test_where_there_is_no_edge_none_is_confirmed(year: pd.DataFrame) -> None:
    nothing = year[~year["edge"]]
    assert abs(nothing["sharpe_mean"].mean()) < 1.2
    assert (nothing["positive_share"] >= 0.8).sum() <= 1
    assert 30 <= nothing["positive_folds"].sum() <= 65
    assert nothing["total_return"].mean() < 0.05
    assert not (nothing["decision"] == "LIVE").any()


def test_claims_on_the_held_back_end_tell_the_kinds_apart(year: pd.DataFrame) -> None:
    claimed = year.groupby("edge")["fitness"].mean()
    assert claimed[True] > claimed[False] + 0.2
    approved = year[year["classification"] == "APPROVED"].groupby("edge").size()
    assert approved.get(True, 0) > approved.get(False, 0)
