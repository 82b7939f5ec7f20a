"""Pieces of a study: what is judged in them, and that shortcuts change nothing."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from postval_assets.core.actions import action_sizes
from postval_assets.core.decision import Decision
from postval_assets.core.evaluation import EvaluatedModel, ModelWork, evaluate_together, fold_inputs
from postval_assets.core.features.reference import REFERENCE_53, REFERENCE_59
from postval_assets.core.folds import to_datetime
from postval_assets.trainer.calibration import models
from postval_assets.trainer.calibration.archives import archive_models
from postval_assets.trainer.calibration.judging import Subject, judge
from postval_assets.trainer.calibration.markets import TradedMarket, bundled_bars, fresh_market
from postval_assets.trainer.calibration.models import sizes_of, train_on_shuffled
from postval_assets.trainer.calibration.study import TRIAL_COUNTS, Family, Piece, PieceKind
from postval_assets.trainer.calibration.trading import FREE_RULES, RULES, informed_runs, trade, without_costs
from postval_assets.trainer.calibration.watching import ENDS, FUTURES, LASTS, years_after
from postval_assets.trainer.planted_edge import ORDER_ACTIONS, PlantedEdge
from postval_assets_tests.trainer.calibration.calibration_cases import (
    HALF_YEAR,
    SAMPLE,
    SPECS,
    TINY,
    maker,
    stand_in_networks,
)


@pytest.fixture(scope="module")
def stocks() -> dict[str, TradedMarket]:
    return {symbol: fresh_market(SPECS[symbol], HALF_YEAR, ("x",)) for symbol in ("AAPL", "MSFT")}


def test_an_archive_has_its_size_and_its_kinds(stocks: dict[str, TradedMarket]) -> None:
    found = archive_models(stocks, stand_in_networks(), 8, ("x",))
    assert Counter(m.kind for m in found) == {
        "trained on shuffled bars, 2.3.0": 1,
        "trained on shuffled bars, 2.7.0": 1,
        "random weights, 2.3.0": 4,
        "random weights, 2.7.0": 2,
    }
    assert len({m.digest for m in found}) == 8
    assert {m.symbol for m in found} == {"AAPL", "MSFT"}


def test_networks_with_random_weights_trade_and_differ(stocks: dict[str, TradedMarket]) -> None:
    found = archive_models(stocks, (), 6, ("x",))
    runs = trade(found, stocks, RULES)
    assert all(any(run.trips for run in own) for own in runs)
    assert len({own[0].equity.tobytes() for own in runs}) == 6


def test_trading_is_the_platforms_own_evaluation(stocks: dict[str, TradedMarket]) -> None:
    """Features are computed once a symbol here; the curves are those of evaluate_together to the last bit."""
    found = archive_models(stocks, (), 3, ("x",))
    works = []
    for model in found:
        market = stocks[model.symbol]
        chosen = REFERENCE_59 if model.spec.account_features else REFERENCE_53
        evaluated = EvaluatedModel(model.digest, model.spec, model.tensors, chosen, market.training)
        as_of = to_datetime(market.bars.ts[-1])
        plans = [(cut, fold_inputs(evaluated, market.bars, cut, as_of, "")) for cut in market.cuts]
        works.append(ModelWork(evaluated, market.bars, plans))
    for own, outcome in zip(trade(found, stocks, RULES), evaluate_together(works, RULES), strict=True):
        assert not isinstance(outcome, Exception)
        for run, fold in zip(own, outcome[0], strict=True):
            assert fold.run is not None
            assert np.array_equal(run.equity, fold.run.equity)


def test_replayed_without_costs_is_what_the_networks_do_without_costs(
    stocks: dict[str, TradedMarket],
) -> None:
    found = archive_models(stocks, (), 3, ("x",))
    assert {m.spec.model_version for m in found} == {"2.3.0", "2.7.0"}
    short = without_costs(found, stocks, trade(found, stocks, RULES))
    for own, direct in zip(short, trade(found, stocks, FREE_RULES), strict=True):
        for run, other in zip(own, direct, strict=True):
            assert np.array_equal(run.equity, other.equity)
            assert run.fees == 0.0


def test_what_is_not_replayed_could_not_have_mattered(stocks: dict[str, TradedMarket]) -> None:
    """Decisions with all replays and with those that can matter are equal, and most need none."""
    found = archive_models(stocks, (), 6, ("x",))
    runs = trade(found, stocks, RULES)
    free = without_costs(found, stocks, runs)
    replayed = []
    for model, own, own_free in zip(found, runs, free, strict=True):
        market = stocks[model.symbol]
        for some, rules in ((own, RULES), (own_free, FREE_RULES)):
            subject = Subject(
                Family.WITH_COSTS, model.kind, model.symbol, model.digest, None, 50, replay_always=False
            )
            lanes = market.lanes(sizes_of(model))
            [short] = judge(subject, market, some, lanes, rules)
            [whole] = judge(replace(subject, replay_always=True), market, some, lanes, rules)
            assert (short.standard, short.evidence) == (whole.standard, whole.evidence)
            assert short.by_trials == whole.by_trials
            assert set(short.failed) <= set(whole.failed)
            assert whole.replayed
            replayed.append(short.replayed)
    assert 0 < sum(replayed) < len(replayed)


def test_a_strong_edge_is_live_and_worthless_models_are_not() -> None:
    market = fresh_market(SPECS["BTCUSD"], HALF_YEAR, ("strong",), PlantedEdge(30.0), RULES)
    lanes = market.lanes(action_sizes(ORDER_ACTIONS))
    subject = Subject(Family.EDGE, "informed policy", "BTCUSD", "strong", 30.0, 50, replay_always=True)
    [informed] = judge(subject, market, informed_runs(market, lanes), lanes, RULES)
    assert informed.evidence == Decision.LIVE
    assert informed.failed == ()
    assert informed.sharpe == pytest.approx(30.0, rel=0.15)
    worthless = archive_models({"BTCUSD": market}, (), 2, ("weak",))
    plain = {"BTCUSD": fresh_market(SPECS["BTCUSD"], HALF_YEAR, ("plain",))}
    for model, runs in zip(worthless, trade(worthless, plain, RULES), strict=True):
        subject = Subject(Family.WITH_COSTS, model.kind, "BTCUSD", model.digest, None, 50, replay_always=True)
        [found] = judge(subject, plain["BTCUSD"], runs, plain["BTCUSD"].lanes(sizes_of(model)), RULES)
        assert found.evidence != Decision.LIVE
        assert "P_VALUE_ARCHIVE" in found.failed


@pytest.mark.parametrize(
    ("piece", "families"),
    [
        (Piece(PieceKind.FRESH, 1), {Family.WITH_COSTS: 3, Family.WITHOUT_COSTS: 3}),
        (Piece(PieceKind.BUNDLED, 0), {Family.BUNDLED: 3}),
        (Piece(PieceKind.EDGE, 0, 6.0), {Family.EDGE: 7}),
    ],
)
def test_a_piece_judges_all_of_its_models(piece: Piece, families: dict[Family, int]) -> None:
    judged = maker().make(piece)
    assert Counter(m.family for m in judged) == families
    for model in judged:
        assert {model.standard, model.evidence} <= set(Decision)
        assert tuple(n for n, _ in model.by_trials) == TRIAL_COUNTS
        assert (model.annual_sharpe == 6.0) == (model.family == Family.EDGE)
        watched = model.family == Family.EDGE and model.evidence == Decision.LIVE
        assert tuple(future for future, _ in model.alarms) == (FUTURES if watched else ())
    assert maker().make(piece) == judged


def test_the_year_after_has_the_edge_or_has_it_no_more() -> None:
    """Over seven years of independent markets the mean Sharpe ratio has a standard error of 1 / sqrt(7)."""
    futures = years_after(6.0, ("x",))
    assert len(futures) == 2 * len(SPECS)
    for future, expected in ((LASTS, 6.0), (ENDS, 0.0)):
        found = [
            r.mean() / r.std(ddof=1) * np.sqrt(len(r)) for (_, which), r in futures.items() if which == future
        ]
        # without an edge, costs take something
        assert expected - 2.5 < np.mean(found) < expected + 4.0 / np.sqrt(7.0)


def test_the_decision_at_the_archives_own_size_is_the_decision() -> None:
    judged = maker(replace(TINY, archive_size=50)).make(Piece(PieceKind.EDGE, 0, 6.0))
    assert [dict(m.by_trials)[50] for m in judged] == [m.evidence for m in judged]


def test_training_on_shuffled_bars_gives_a_network_that_trades(monkeypatch: pytest.MonkeyPatch) -> None:
    quick = replace(models.SHUFFLED_CONFIG, n_updates=1, validation_interval=1, n_episodes=4, episode_bars=64)
    monkeypatch.setattr(models, "SHUFFLED_CONFIG", quick)
    network = train_on_shuffled(bundled_bars(SAMPLE)["AAPL"], "2.7.0", 3)
    market = {"AAPL": fresh_market(SPECS["AAPL"], HALF_YEAR, ("x",))}
    [model] = archive_models(market, [network], 1, ("x",))
    assert model.kind == "trained on shuffled bars, 2.7.0"
    assert [run.n_bars for run in trade([model], market, RULES)[0]] == [
        block.n_bars for block in market["AAPL"].cuts[0].blocks
    ]
