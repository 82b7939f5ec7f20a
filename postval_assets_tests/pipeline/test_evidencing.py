from __future__ import annotations

import dataclasses
import itertools
import math
import shutil
import statistics
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from postval_assets.core.evidence import (
    deflated_sharpe_ratio,
    expected_maximum_sharpe,
    probabilistic_sharpe_ratio,
    probability_of_backtest_overfitting,
)
from postval_assets.core.failures import Rejected
from postval_assets.io.warehouse import Change, Merge, Replace
from postval_assets.pipeline import evidencing
from postval_assets.pipeline.evidencing import EvidenceReport, archives_to_weigh, weigh_archive
from postval_assets.pipeline.platform import Platform, open_platform
from postval_assets.settings import load_settings

NOW = datetime(2025, 7, 2, tzinfo=UTC)
AS_OF = datetime(2025, 7, 1, tzinfo=UTC)
ARCHIVE = "20250101_000000"
N_BARS = 60
HOUR = timedelta(hours=1)


@dataclasses.dataclass(frozen=True)
class Fold:
    """A fold as the evaluation would have stored it."""

    returns: Sequence[float]
    status: str = "OK"
    overlap: str = "OUT_OF_SAMPLE"


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data directory with an empty warehouse: making its tables takes longer than most tests."""
    home = tmp_path_factory.mktemp("empty")
    open_platform(load_settings(data_dir=home)).warehouse.migrate(now=NOW)
    return home


@pytest.fixture
def platform(tmp_path: Path, empty_home: Path) -> Platform:
    shutil.copytree(empty_home, tmp_path / "data")
    return open_platform(load_settings(data_dir=tmp_path / "data"), now=lambda: NOW)


def noise(seed: int, mean: float = 0.0, n: int = N_BARS - 1) -> list[float]:
    return list(np.random.default_rng(seed).normal(mean, 0.01, n))


def five(seed: int, mean: float = 0.0, **how: str) -> list[Fold]:
    return [Fold(noise(10 * seed + fold, mean), **how) for fold in range(5)]


def add_archive(
    platform: Platform,
    *,
    n_models: int,
    n_trials: int | None = None,
    status: str = "COMPLETE",
    archive_id: str = ARCHIVE,
) -> None:
    row = {"archive_id": archive_id, "n_models": n_models, "n_trials": n_trials, "status": status}
    platform.warehouse.write([Merge("training_archives", [row])], run_id="intake", now=NOW)


def add_model(platform: Platform, symbol: str, folds: Sequence[Fold], **how: Any) -> None:
    platform.warehouse.write(model_changes(symbol, folds, **how), run_id="folds", now=NOW)


def model_changes(
    symbol: str,
    folds: Sequence[Fold],
    *,
    as_of: datetime = AS_OF,
    bars_per_year: float = 8766.0,
    step: timedelta = HOUR,
    plan: str = "180d",
    archive_id: str = ARCHIVE,
    digest: str = "1",
) -> list[Change]:
    """Folds, curves and the evaluation of a model on hourly bars, ``step`` apart, the last one closing at as_of."""
    model = {"archive_id": archive_id, "symbol": symbol, "timeframe": "1Hour", "as_of": as_of}
    rows: list[dict[str, Any]] = []
    curves: list[pd.DataFrame] = []
    n_total = sum(len(f.returns) + 1 for f in folds)
    open_ = as_of - HOUR - (n_total - 1) * step
    for number, fold in enumerate(folds, start=1):
        n_bars = len(fold.returns) + 1
        ts = [open_ + i * step for i in range(n_bars)]
        open_ = ts[-1] + step
        row = {
            **model,
            "plan": plan,
            "fold": number,
            "n_folds": 10 if plan == "365d" else 5,
            "start_ts": ts[0],
            "end_ts": ts[-1],
            "training_overlap": fold.overlap,
            "n_bars": n_bars,
            "bars_per_year": bars_per_year,
            "status": fold.status,
            "inputs_digest": f"{symbol}{plan}{number}{digest}",
        }
        rows.append(row)
        equity = 100_000.0 * np.cumprod([1.0, *(1.0 + np.array(fold.returns))])
        keys: dict[str, Any] = {**model, "plan": plan, "fold": number}
        curves.append(pd.DataFrame({"ts": ts, "equity": equity}).assign(**keys))
    return [
        Merge("evaluations", [model]),
        Replace("fold_results", [{**model, "plan": plan}], rows),
        Replace("equity_curves", [{**model, "plan": plan}], pd.concat(curves)),
    ]


def add_models(platform: Platform, *changes: list[Change]) -> None:
    platform.warehouse.write([c for model in changes for c in model], run_id="folds", now=NOW)


def weigh(platform: Platform, run_id: str = "run") -> EvidenceReport:
    return weigh_archive(platform, ARCHIVE, run_id=run_id)


def evidence(platform: Platform, plan: str = "180d") -> dict[str, Any]:
    [row] = platform.warehouse.rows(
        "SELECT * FROM archive_evidence WHERE plan = ? ORDER BY as_of DESC LIMIT 1", (plan,)
    )
    return row


def models(platform: Platform) -> dict[str, dict[str, Any]]:
    rows = platform.warehouse.rows("SELECT * FROM archive_evidence_models ORDER BY as_of, plan")
    return {row["symbol"]: row for row in rows}


def revision(platform: Platform) -> int:
    return int(platform.warehouse.rows("SELECT revision FROM revision")[0]["revision"])


# --- figures ------------------------------------------------------------------------------------------------


def test_a_model_s_figures_are_those_of_its_folds_returns_one_after_another(platform: Platform) -> None:
    folds = [Fold(noise(seed, 0.002 * seed)) for seed in range(5)]
    add_archive(platform, n_models=1)
    add_model(platform, "UNIUSD", folds)
    report = weigh(platform)
    series = [r for fold in folds for r in fold.returns]
    n, mean, spread = len(series), statistics.fmean(series), statistics.pstdev(series)
    per_bar = mean / statistics.stdev(series)
    skew = sum(((r - mean) / spread) ** 3 for r in series) / n
    kurtosis = sum(((r - mean) / spread) ** 4 for r in series) / n
    row = models(platform)["UNIUSD"]
    assert row["n_returns"] == n == 5 * (N_BARS - 1)
    assert row["sharpe"] == pytest.approx(per_bar * math.sqrt(8766))
    assert row["skew"] == pytest.approx(skew)
    assert row["kurtosis"] == pytest.approx(kurtosis)
    assert row["sharpe_benchmark"] == 0.0
    assert row["dsr"] == pytest.approx(probabilistic_sharpe_ratio(per_bar, n, skew, kurtosis))
    assert row["reason"] is None
    assert (row["plan"], row["timeframe"], row["as_of"], row["run_id"]) == ("180d", "1Hour", AS_OF, "run")
    found = evidence(platform)
    assert (found["n_models"], found["n_evaluated"], found["n_trials"], found["pbo"]) == (1, 1, 1, None)
    [reason] = found["reasons"]
    assert reason.startswith("TOO_FEW_MODELS: 1 of 1 ")
    assert "10 needed" in reason
    assert found["as_of"] == AS_OF
    assert (report.archive_id, report.n_rows, report.n_current) == (ARCHIVE, 1, 0)
    assert report.plans[0].reasons == (reason,)


@pytest.mark.parametrize(("n_models", "n_trials", "expected"), [(3, None, 3), (3, 2, 3), (3, 40, 40)])
def test_trials_are_the_models_delivered_or_more_where_the_summary_says_so(
    platform: Platform, n_models: int, n_trials: int | None, expected: int
) -> None:
    """Of three models delivered one was dropped by the gate: it was a trial as well."""
    add_archive(platform, n_models=n_models, n_trials=n_trials)
    add_model(platform, "UNIUSD", five(1, 0.001))
    add_model(platform, "AAPL", five(2, -0.001), bars_per_year=1700.0)
    weigh(platform)
    found = evidence(platform)
    assert (found["n_models"], found["n_evaluated"], found["n_trials"]) == (3, 2, expected)
    rows = models(platform)
    annual = statistics.variance([rows["UNIUSD"]["sharpe"], rows["AAPL"]["sharpe"]])
    for symbol, bars_per_year in {"UNIUSD": 8766.0, "AAPL": 1700.0}.items():
        row = rows[symbol]
        variance = annual / bars_per_year
        assert variance > 1 / (row["n_returns"] - 1)
        assert row["sharpe_benchmark"] == pytest.approx(expected_maximum_sharpe(expected, annual))
        assert row["dsr"] == pytest.approx(
            deflated_sharpe_ratio(
                row["sharpe"] / math.sqrt(bars_per_year),
                row["n_returns"],
                row["skew"],
                row["kurtosis"],
                expected,
                variance,
            )
        )


def test_constant_returns_have_no_sharpe_and_say_so(platform: Platform) -> None:
    add_archive(platform, n_models=2)
    add_model(platform, "UNIUSD", five(1))
    add_model(platform, "ETHUSD", [Fold([0.0] * (N_BARS - 1), status="NO_TRADES")] * 5)
    weigh(platform)
    row = models(platform)["ETHUSD"]
    names = ("sharpe", "skew", "kurtosis", "sharpe_benchmark", "dsr")
    assert [row[name] for name in names] == [None] * 5
    assert row["n_returns"] == 5 * (N_BARS - 1)
    assert row["reason"] == "CONSTANT_RETURNS: no Sharpe ratio"
    assert models(platform)["UNIUSD"]["dsr"] is not None
    assert evidence(platform)["n_evaluated"] == 2
    assert "CONSTANT_RETURNS: 1 of 2 models with folds" in evidence(platform)["reasons"]


def test_a_fold_that_ended_in_ruin_counts(platform: Platform) -> None:
    add_archive(platform, n_models=1)
    add_model(platform, "UNIUSD", [Fold([0.01, -1.0], status="RUINED"), *five(1)[1:]])
    weigh(platform)
    row = models(platform)["UNIUSD"]
    assert row["n_returns"] == 2 + 4 * (N_BARS - 1)
    assert row["sharpe"] < 0


# --- what counts --------------------------------------------------------------------------------------------


def test_only_computed_folds_on_unseen_bars_count(platform: Platform) -> None:
    good = Fold(noise(1))
    tempting = Fold(noise(2, mean=0.05), overlap="IN_TRAIN")
    broken = Fold(noise(3), status="BROKEN_POLICY")
    unseen = [good, good]
    add_archive(platform, n_models=2)
    add_model(
        platform, "UNIUSD", [tempting, dataclasses.replace(tempting, overlap="OVERLAP"), broken, *unseen]
    )
    add_model(platform, "ETHUSD", [tempting] * 5)
    weigh(platform)
    row = models(platform)["UNIUSD"]
    assert row["n_returns"] == 2 * (N_BARS - 1)
    doubled = [*good.returns, *good.returns]
    assert row["sharpe"] == pytest.approx(
        statistics.fmean(doubled) / statistics.stdev(doubled) * math.sqrt(8766)
    )
    assert row["reason"] == (
        "NOT_OUT_OF_SAMPLE: 2 of 5 folds (IN_TRAIN, OVERLAP); INCOMPLETE: 4 of 5 folds computed"
    )
    seen = models(platform)["ETHUSD"]
    assert (seen["n_returns"], seen["sharpe"], seen["dsr"]) == (0, None, None)
    assert seen["reason"] == "NO_EVIDENCE: 0 of 5 folds count; NOT_OUT_OF_SAMPLE: 5 of 5 folds (IN_TRAIN)"
    assert evidence(platform)["n_evaluated"] == 1


def test_unknown_windows_count_and_the_reasons_say_so(platform: Platform) -> None:
    add_archive(platform, n_models=2)
    add_model(platform, "UNIUSD", five(1, overlap="UNKNOWN"))
    add_model(platform, "ETHUSD", five(2))
    weigh(platform)
    assert models(platform)["UNIUSD"]["reason"] == "TRAINING_WINDOW_UNKNOWN"
    assert models(platform)["UNIUSD"]["dsr"] is not None
    assert models(platform)["ETHUSD"]["reason"] is None
    assert "TRAINING_WINDOW_UNKNOWN: 1 of 2 models with folds" in evidence(platform)["reasons"]


def test_an_archive_without_any_fold_has_no_evidence(platform: Platform) -> None:
    add_archive(platform, n_models=2)
    assert tuple(archives_to_weigh(platform)) == ()
    assert weigh(platform).plans == ()


def test_curves_are_read_in_batches(platform: Platform, monkeypatch: pytest.MonkeyPatch) -> None:
    add_archive(platform, n_models=3)
    names = ["UNIUSD", "ETHUSD", "BTCUSD"]
    add_models(platform, *(model_changes(name, five(n)) for n, name in enumerate(names)))
    weigh(platform)
    at_once = models(platform)
    monkeypatch.setattr(evidencing, "_POINTS_PER_READ", 2 * 5 * N_BARS)
    platform.warehouse.write(
        [Replace("archive_evidence", [{"archive_id": ARCHIVE}], [])], run_id="x", now=NOW
    )
    assert weigh(platform).n_current == 0
    assert models(platform) == at_once


def test_an_unknown_archive_is_refused(platform: Platform) -> None:
    with pytest.raises(Rejected, match="20200101_000000"):
        weigh_archive(platform, "20200101_000000", run_id="run")


# --- probability of backtest overfitting --------------------------------------------------------------------


def symbol(number: int) -> str:
    return f"{chr(ord('A') + number)}AAUSD"


def test_pbo_of_models_on_the_same_bars(platform: Platform) -> None:
    add_archive(platform, n_models=12)
    add_models(platform, *(model_changes(symbol(n), five(n, mean=0.0002 * n)) for n in range(12)))
    weigh(platform)
    found = evidence(platform)
    # rows are the bars; the first bar of a fold has no return
    side_by_side = np.array(
        [[r for fold in five(n, mean=0.0002 * n) for r in fold.returns] for n in range(12)]
    ).T
    assert found["pbo"] == probability_of_backtest_overfitting(side_by_side, 8)
    assert 0.0 < found["pbo"] < 1.0
    assert found["reasons"] == []


def test_pbo_takes_only_models_that_share_a_calendar(platform: Platform) -> None:
    """Ten on one calendar, of which one never trades; one with a fold in training, one whose bars ended in May."""
    add_archive(platform, n_models=12)
    first, *rest = five(10)
    add_models(
        platform,
        *(model_changes(symbol(n), five(n)) for n in range(9)),
        model_changes("XAAUSD", [Fold([0.0] * (N_BARS - 1))] * 5),
        model_changes("YAAUSD", [dataclasses.replace(first, overlap="OVERLAP"), *rest]),
        model_changes("ZAAUSD", five(11), as_of=AS_OF - timedelta(days=40)),
    )
    weigh(platform)
    found = evidence(platform)
    assert found["pbo"] is None
    assert found["reasons"][0].startswith("TOO_FEW_MODELS: 9 of 12 ")
    add_model(platform, "XAAUSD", five(9), digest="2")
    weigh(platform)
    assert evidence(platform)["pbo"] is not None


def test_pbo_of_equities_beside_crypto(platform: Platform) -> None:
    """Equities' bars are three hours apart here: crypto's three returns between two of them go into one."""
    add_archive(platform, n_models=10)
    dense = {n: [Fold(noise(10 * n + fold, n=3 * N_BARS - 1)) for fold in range(5)] for n in range(5)}
    add_models(
        platform,
        *(model_changes(symbol(n), folds) for n, folds in dense.items()),
        *(model_changes(symbol(n), five(n), step=3 * HOUR) for n in range(5, 10)),
    )
    weigh(platform)
    # by hand: each curve's returns by the hour at which they close, hours back from as_of
    columns = []
    for number in range(10):
        folds, step = (dense[number], 1) if number < 5 else (five(number), 3)
        points = [r for fold in folds for r in (0.0, *fold.returns)]
        closes = [-step * (len(points) - 1 - i) for i in range(len(points))]
        columns.append(dict(zip(closes, points, strict=True)))
    sparse = [c for i, c in enumerate(sorted(columns[5])) if i % N_BARS]  # without each fold's first bar
    edges = [min(columns[5]), *sparse]
    matrix = [
        [sum(r for c, r in column.items() if before < c <= upto) for column in columns]
        for before, upto in itertools.pairwise(edges)
    ]
    assert len(matrix) == 5 * (N_BARS - 1)
    assert evidence(platform)["pbo"] == probability_of_backtest_overfitting(np.array(matrix), 8)


# --- what is due --------------------------------------------------------------------------------------------


def test_evidence_is_made_once_and_again_when_a_fold_has_changed(platform: Platform) -> None:
    add_archive(platform, n_models=2)
    add_model(platform, "UNIUSD", five(1))
    add_model(platform, "ETHUSD", five(2))
    assert tuple(archives_to_weigh(platform)) == (ARCHIVE,)
    weigh(platform, "first")
    assert tuple(archives_to_weigh(platform)) == ()
    before, written = evidence(platform), revision(platform)
    again = weigh(platform, "second")
    assert (again.n_rows, again.n_current, again.plans[0].n_models) == (1, 1, 2)
    assert revision(platform) == written
    assert evidence(platform) == before
    add_model(platform, "UNIUSD", five(3), digest="2")
    assert tuple(archives_to_weigh(platform)) == (ARCHIVE,)
    assert weigh(platform, "third").n_current == 0
    after = evidence(platform)
    assert after["run_id"] == "third"
    assert after["inputs_digest"] != before["inputs_digest"]
    assert platform.warehouse.rows("SELECT count(*) AS n FROM archive_evidence_models") == [{"n": 2}]
    add_archive(platform, n_models=2, n_trials=9)
    assert tuple(archives_to_weigh(platform)) == (ARCHIVE,)


def test_only_complete_archives_are_due(platform: Platform) -> None:
    other = "20250102_000000"
    add_archive(platform, n_models=1, status="EXTRACTED")
    add_archive(platform, n_models=1, archive_id=other)
    add_model(platform, "UNIUSD", five(1))
    add_model(platform, "UNIUSD", five(1), archive_id=other)
    assert tuple(archives_to_weigh(platform)) == (other,)
    weigh_archive(platform, other, run_id="run")
    assert platform.warehouse.rows("SELECT DISTINCT archive_id AS a FROM archive_evidence") == [{"a": other}]
    add_archive(platform, n_models=1)
    assert tuple(archives_to_weigh(platform)) == (ARCHIVE,)


def test_each_plan_has_its_own_evidence(platform: Platform) -> None:
    add_archive(platform, n_models=1)
    add_model(platform, "UNIUSD", five(1))
    weigh(platform)
    add_model(platform, "UNIUSD", five(1) + five(2), plan="365d")
    assert tuple(archives_to_weigh(platform)) == (ARCHIVE,)
    report = weigh(platform)
    assert [(p.plan, p.is_current) for p in report.plans] == [("180d", True), ("365d", False)]
    assert evidence(platform, "365d")["n_evaluated"] == 1
    assert models(platform)["UNIUSD"]["n_returns"] == 10 * (N_BARS - 1)


def test_a_newer_evaluation_counts_and_the_older_evidence_stays(platform: Platform) -> None:
    later = AS_OF + timedelta(days=2)
    add_archive(platform, n_models=2)
    add_model(platform, "UNIUSD", five(1))
    add_model(platform, "ETHUSD", five(2))
    weigh(platform)
    add_model(platform, "UNIUSD", five(3), as_of=later)
    assert tuple(archives_to_weigh(platform)) == (ARCHIVE,)
    weigh(platform)
    assert tuple(archives_to_weigh(platform)) == ()
    rows = platform.warehouse.rows(
        "SELECT symbol, as_of, sharpe FROM archive_evidence_models ORDER BY as_of, symbol"
    )
    assert [(r["symbol"], r["as_of"]) for r in rows] == [
        ("ETHUSD", AS_OF),
        ("UNIUSD", AS_OF),
        ("ETHUSD", later),  # evaluated at AS_OF still: its newest
        ("UNIUSD", later),
    ]
    assert rows[0]["sharpe"] == rows[2]["sharpe"]
    assert rows[1]["sharpe"] != rows[3]["sharpe"]
