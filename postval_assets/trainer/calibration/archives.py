"""The pieces of a study: whole archives of worthless models, and informed policies on markets with an edge.

Here: who trades which market, through the real engine. Not here: markets, models, judgement, which are put together.

A policy's decision about a model depends on the other models of its archive through their number alone. So informed
policies are judged as members of an archive of the study's size without the other members being made, and a false LIVE
of an archive is one of any of its members.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Bars
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import BlockRun
from postval_assets.trainer.calibration.judging import Subject, judge
from postval_assets.trainer.calibration.markets import (
    TradedMarket,
    bundled_bars,
    bundled_markets,
    fresh_markets,
)
from postval_assets.trainer.calibration.models import (
    RandomNetworks,
    ShuffledNetwork,
    WorthlessModel,
    shuffled_model,
    sizes_of,
)
from postval_assets.trainer.calibration.records import Judged
from postval_assets.trainer.calibration.study import Family, Piece, PieceKind, Study
from postval_assets.trainer.calibration.trading import (
    FREE_RULES,
    RULES,
    informed_runs,
    trade,
    without_costs,
)
from postval_assets.trainer.calibration.watching import watched
from postval_assets.trainer.planted_edge import ORDER_ACTIONS, PlantedEdge

RANDOM_VERSIONS = ("2.3.0", "2.3.0", "2.7.0")
"""Versions of random networks in turn: those without account features can be run at once over all bars."""

REPLAY_ALL_EVERY = 20
"""Of every so many archives, one has all figures for all of its models, so that each condition's own size is known."""


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes the pieces of a study; one for each process.

    Attributes:
        study: the study.
        networks: trained on shuffled bars.
        sample_dir: of the bundled bars.
    """

    study: Study
    networks: Sequence[ShuffledNetwork]
    sample_dir: Path
    _bundled: dict[str, Bars] = field(default_factory=dict, repr=False)

    def make(self, piece: Piece) -> list[Judged]:
        """All judged models of a piece; equal pieces of equal studies are equal in every process."""
        match piece.kind:
            case PieceKind.FRESH:
                return self._fresh(piece)
            case PieceKind.BUNDLED:
                return self._on_bundled(piece)
            case PieceKind.EDGE:
                return self._edge(piece)

    def _fresh(self, piece: Piece) -> list[Judged]:
        words = self._words(piece)
        markets = fresh_markets(self.study.walk_forward_plans(), words)
        models = archive_models(markets, self.networks, self.study.archive_size, words)
        replay_always = piece.number % REPLAY_ALL_EVERY == 0
        with_costs = trade(models, markets, RULES)
        judged = self._judged(
            models, markets, with_costs, Family.WITH_COSTS, RULES, replay_always=replay_always
        )
        free = without_costs(models, markets, with_costs)
        return judged + self._judged(
            models, markets, free, Family.WITHOUT_COSTS, FREE_RULES, replay_always=replay_always
        )

    def _on_bundled(self, piece: Piece) -> list[Judged]:
        if not self._bundled:
            self._bundled.update(bundled_bars(self.sample_dir))
        markets = bundled_markets(self._bundled, self.study.walk_forward_plans())
        models = archive_models(markets, (), self.study.archive_size, self._words(piece))
        runs = trade(models, markets, RULES)
        return self._judged(models, markets, runs, Family.BUNDLED, RULES, replay_always=False)

    def _edge(self, piece: Piece) -> list[Judged]:
        words = self._words(piece)
        plans = self.study.walk_forward_plans()
        judged = []
        for symbol, market in fresh_markets(plans, words, PlantedEdge(piece.annual_sharpe), RULES).items():
            subject = Subject(
                family=Family.EDGE,
                kind="informed policy",
                symbol=symbol,
                digest="|".join((*words, symbol)),
                annual_sharpe=piece.annual_sharpe,
                n_trials=self.study.archive_size,
                replay_always=True,
            )
            lanes = market.lanes(action_sizes(ORDER_ACTIONS))
            runs = informed_runs(market, lanes)
            judged.append((judge(subject, market, runs, lanes, RULES), market, runs))
        return watched(judged, piece.annual_sharpe, words)

    def _judged(
        self,
        models: Sequence[WorthlessModel],
        markets: Mapping[str, TradedMarket],
        runs: Sequence[list[BlockRun]],
        family: Family,
        rules: ExecutionRules,
        *,
        replay_always: bool,
    ) -> list[Judged]:
        judged = []
        for model, own in zip(models, runs, strict=True):
            market = markets[model.symbol]
            subject = Subject(
                family=family,
                kind=model.kind,
                symbol=model.symbol,
                digest=model.digest,
                annual_sharpe=None,
                n_trials=self.study.archive_size,
                replay_always=replay_always,
            )
            judged += judge(subject, market, own, market.lanes(sizes_of(model)), rules)
        return judged

    def _words(self, piece: Piece) -> tuple[str, ...]:
        return ("calibrate", str(self.study.seed), piece.name)


def archive_models(
    markets: Mapping[str, TradedMarket],
    networks: Sequence[ShuffledNetwork],
    size: int,
    words: Sequence[str],
) -> list[WorthlessModel]:
    """The models of an archive: each trained network on its symbol, and random ones on all symbols in turn."""
    models = [
        shuffled_model(network, (*words, str(number)))
        for number, network in enumerate(networks)
        if network.symbol in markets
    ][:size]
    symbols = list(markets)
    drawers = {symbol: RandomNetworks(market) for symbol, market in markets.items()}
    for number in range(len(models), size):
        version = RANDOM_VERSIONS[number % len(RANDOM_VERSIONS)]
        models.append(drawers[symbols[number % len(symbols)]].draw(version, (*words, str(number))))
    return models
