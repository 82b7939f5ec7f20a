"""Results that were computed before adjusted history shifted, and those that are computed after it."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from postval_assets_tests.pipeline.conftest import (
    BUY,
    END,
    N_BARS,
    Bench,
    MakeBench,
    Row,
    bars_frame,
    network,
)
from postval_assets_tests.pipeline.exchange import HOURS, Exchange, stored, top_up

HISTORY_DAYS = 300
PRICES = ["open", "high", "low", "close"]


@pytest.fixture
def bench(tmp_path: Path, make_bench: MakeBench) -> Bench:
    """Two hours after the end of the bars, with room for all of them in what is asked for."""
    made = make_bench(tmp_path, history_days=HISTORY_DAYS)
    made.clock.at = END + 2 * HOURS
    return made


def digests(rows: list[Row]) -> list[str]:
    return [r["bars_digest"] for r in rows]


def test_results_keep_the_digest_of_their_bars_and_the_next_evaluation_is_on_the_new_ones(
    bench: Bench,
) -> None:
    exchange = Exchange({"AAPL": bars_frame(n=N_BARS)})
    archives = bench.intake(bench.deliver(bench.archive({"AAPL_4Hour": network(BUY)})))
    top_up(bench, exchange)
    bench.evaluate(archives)
    bench.decide(archives)
    old = bench.folds("AAPL")
    as_of = old[0]["as_of"]
    assert {f["status"] for f in old} <= {"OK", "NO_TRADES"}
    assert all(digests(old))
    [decided] = bench.decisions("AAPL")

    # A dividend, and a day later.
    adjusted = exchange.history["AAPL"].copy()
    adjusted[PRICES] *= 0.99
    new = bars_frame(n=6, end=END + timedelta(days=1), seed=4)
    new[PRICES] *= adjusted["close"].iloc[-1] / new["open"].iloc[0]
    exchange.history["AAPL"] = adjusted.merge(new, how="outer").reset_index(drop=True)
    bench.clock.at += timedelta(days=1)
    top_up(bench, exchange)
    assert bench.one("SELECT ratio FROM bar_restatements")["ratio"] == pytest.approx(0.99)
    assert len(stored(bench)) == N_BARS + 6
    assert bench.folds("AAPL") == old, "fetching changes no result"

    # The newest bars are another instant: its folds are of the new bars, and the old ones stay.
    bench.evaluate(archives, as_of=END + timedelta(days=1))
    bench.decide(archives, as_of=END + timedelta(days=1))
    rows = bench.folds("AAPL")
    assert [r for r in rows if r["as_of"] == as_of] == old
    later = [r for r in rows if r["as_of"] != as_of]
    assert len(later) == len(old)
    assert not set(digests(later)) & set(digests(old))
    assert bench.decisions("AAPL")[0] == decided

    # The old instant again: computed anew, because its bars are others now.
    bench.evaluate(archives, as_of=as_of)
    anew = [r for r in bench.folds("AAPL") if r["as_of"] == as_of]
    assert [r["fold"] for r in anew] == [r["fold"] for r in old]
    assert not set(digests(anew)) & set(digests(old))
    assert [r for r in bench.folds("AAPL") if r["as_of"] != as_of] == later
