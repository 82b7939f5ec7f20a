"""Small studies, and results made by hand."""

from dataclasses import replace
from pathlib import Path

import numpy as np

from postval_assets.core.bootstrap import seeded
from postval_assets.core.folds import PLANS
from postval_assets.trainer.calibration.archives import Maker
from postval_assets.trainer.calibration.markets import fresh_market
from postval_assets.trainer.calibration.models import (
    SHUFFLED_VERSIONS,
    RandomNetworks,
    ShuffledNetwork,
    save_networks,
)
from postval_assets.trainer.calibration.records import Judged, PieceResult
from postval_assets.trainer.calibration.running import Finished, networks_made_of
from postval_assets.trainer.calibration.study import TRIAL_COUNTS, Family, Study
from postval_assets.trainer.simulated_market import SAMPLE_SYMBOLS

SAMPLE = Path(__file__).resolve().parents[3] / "data" / "sample"
SPECS = {spec.symbol: spec for spec in SAMPLE_SYMBOLS}
HALF_YEAR = (PLANS["180d"],)
TINY = Study(
    seed=5,
    plans=("180d",),
    archives=1,
    bundled_archives=1,
    edge_markets=1,
    true_sharpes=(6.0,),
    archive_size=3,
)


def stand_in_networks() -> list[ShuffledNetwork]:
    """Networks in place of trained ones: a test has no minute to train them."""
    market = fresh_market(SPECS["AAPL"], HALF_YEAR, ("stand-in",))
    return [
        ShuffledNetwork("AAPL", version, RandomNetworks(market).draw(version, ("stand-in", version)).tensors)
        for version in SHUFFLED_VERSIONS
    ]


def maker(study: Study = TINY) -> Maker:
    return Maker(study, stand_in_networks(), SAMPLE)


def keep_stand_ins(results: Path, seed: int) -> None:
    """So that a study finds networks beside its results."""
    save_networks(results.with_suffix(".networks.npz"), stand_in_networks(), networks_made_of(seed))


def judged(evidence: str, standard: str = "RETRAIN", **changes: object) -> Judged:
    base = Judged(
        family=Family.WITH_COSTS,
        kind="random weights, 2.3.0",
        symbol="AAPL",
        plan="180d",
        annual_sharpe=None,
        standard=standard,
        evidence=evidence,
        by_trials=tuple((n, evidence) for n in TRIAL_COUNTS),
        failed=() if evidence == "LIVE" else ("P_VALUE_ARCHIVE",),
        replayed=True,
        sharpe=1.0,
        p_value=0.5,
    )
    return replace(base, **changes)  # type: ignore[arg-type]


def finished() -> Finished:
    """Four archives of two models, of which one has a false LIVE, and four informed policies of Sharpe 4."""
    worthless = [("LIVE", "DROP"), ("PAPER", "RETRAIN"), ("RETRAIN", "RETRAIN"), ("DROP", "DROP")]
    pieces = [
        PieceResult(f"fresh/{n:05d}", 60.0, tuple(judged(word) for word in words))
        for n, words in enumerate(worthless)
    ]
    edge = {"family": Family.EDGE, "kind": "informed policy", "annual_sharpe": 4.0}
    models = (
        judged("LIVE", sharpe=4.0, alarms=(("lasts", None), ("ends", 40.0)), **edge),
        judged("LIVE", sharpe=5.0, symbol="BTCUSD", alarms=(("lasts", 10.0), ("ends", 60.0)), **edge),
        judged("PAPER", "LIVE", sharpe=3.0, **edge),
        judged("PAPER", sharpe=4.0, failed=("CONSISTENCY_RATIO",), **edge),
    )
    pieces.append(PieceResult("edge-4/00000", 60.0, models))
    study = Study(
        9, ("180d",), archives=4, bundled_archives=0, edge_markets=1, true_sharpes=(4.0,), archive_size=2
    )
    depends_on = {"seed": 9, "plans": ["180d"], "archive_size": 2, "rules": "abc", "versions": {"numpy": "2"}}
    return Finished(study, tuple(pieces), depends_on)


def random_rng(*words: str) -> np.random.Generator:
    return seeded("test", *words)
