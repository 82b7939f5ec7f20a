"""``postval validate``: wrong files in one readable line, wrong models as rows, and real archives."""

from __future__ import annotations

import os
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import dagster as dg
import pandas as pd
import pytest
import torch

from postval_assets.commands.home import open_instance
from postval_assets.settings import Settings
from postval_assets_tests.commands.conftest import ARCHIVE, Command
from postval_assets_tests.factories import STAMP, claims, good_claims, make_archive, make_summary
from postval_assets_tests.platform_process import REPOSITORY, postval_environment, run_postval

SHARED = REPOSITORY / ".." / "shared" / "data"
SAMPLE_BARS = REPOSITORY / "data" / "sample" / "bars"


def not_a_zip(file: Path) -> None:
    file.write_bytes(b"just some text\n" * 50)


def empty(file: Path) -> None:
    file.write_bytes(b"")


def truncated(file: Path) -> None:
    make_archive(file, {"AAPL": {}})
    file.write_bytes(file.read_bytes()[:-200])


def no_summary(file: Path) -> None:
    make_archive(file, {"AAPL": {}}, summary=...)


def two_summaries(file: Path) -> None:
    make_archive(file, {"AAPL": {}}, extra={"Alpaca_trading/training_summary_20250302_000000.json": b"{}"})


def summary_is_no_json(file: Path) -> None:
    make_archive(file, {"AAPL": {}}, summary=b"{'fitness': 1}")


def summary_is_a_number(file: Path) -> None:
    make_archive(file, {"AAPL": {}}, summary=b"42")


def summary_without_models(file: Path) -> None:
    make_archive(file, {"AAPL": {}}, summary={"timestamp": STAMP})


def no_models(file: Path) -> None:
    make_archive(file, {}, summary=make_summary({"AAPL": good_claims()}))


def models_elsewhere(file: Path) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"training_summary_{STAMP}.json", b"{}")
        archive.writestr("other/models/rl_symbols/AAPL_1Hour.pt", b"x")


def no_time(file: Path) -> None:
    make_archive(file, {"AAPL": {}}, summary_name="training_summary.json")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (not_a_zip, "is not a complete zip file"),
        (empty, "is not a complete zip file"),
        (truncated, "is not a complete zip file"),
        (no_summary, "has no training summary: expected training_summary_YYYYMMDD_HHMMSS.json"),
        (two_summaries, "has 2 training summaries"),
        (summary_is_no_json, "expected"),
        (summary_is_a_number, "expected"),
        (summary_without_models, "expected"),
        (no_models, "has no models: expected"),
        (models_elsewhere, "is not beside"),
        (no_time, "expected YYYYMMDD_HHMMSS in one of the names"),
    ],
)
def test_a_file_that_is_no_archive_is_refused_in_one_line_with_the_mend(
    postval: Command, tmp_path: Path, make: Any, words: str
) -> None:
    file = tmp_path / "delivered.zip"
    make(file)
    line = postval.refused("validate", str(file))
    assert words in line
    assert len(line) < 400
    assert not (postval.data_dir / "warehouse").exists(), "nothing is recorded of it"


def test_a_real_process_says_the_same_without_a_traceback(tmp_path: Path) -> None:
    file = tmp_path / "delivered.zip"
    not_a_zip(file)
    env = postval_environment(tmp_path / "data", "sample")
    done = run_postval("validate", str(file), env=env, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("Error: delivered.zip is not a complete zip file")
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_file_that_is_not_there_is_said_so(postval: Command) -> None:
    done = postval("validate", "nowhere.zip")
    assert done.code == 2
    assert "'nowhere.zip' does not exist" in done.err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--plan", "90d"), "plan '90d' is unknown: expected one of 180d, 365d"),
        (("--plan", ","), "expected names separated by commas"),
        (("--as-of", "yesterday"), "cannot be read: expected e.g. 2025-03-01T00:00:00Z"),
        (("--as-of", "2025-03-01T00:00:00"), "has no offset: expected e.g. 2025-03-01T00:00:00Z"),
        (("--symbols", "AAPL,TSLA"), "has no model of TSLA; it has AAPL, MSFT, NVDA"),
        (("--symbols", "A|B"), "A|B"),
    ],
)
def test_wrong_options_are_refused_with_what_is_expected(
    postval: Command, made_archive: Path, arguments: tuple[str, ...], words: str
) -> None:
    assert words in postval.refused("validate", str(made_archive), *arguments)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("nowhere", "bars source 'nowhere' is unknown"),
        ("parquet:", "names no folder"),
        ("alpaca", "Alpaca keys are missing: set APCA_API_KEY_ID and APCA_API_SECRET_KEY"),
    ],
)
def test_a_wrong_source_of_bars_is_refused(
    postval: Command, made_archive: Path, monkeypatch: pytest.MonkeyPatch, source: str, words: str
) -> None:
    monkeypatch.setenv("POSTVAL_BARS_SOURCE", source)
    for name in ("APCA_API_KEY_ID", "APCA_API_SECRET_KEY", "ALPACA_KEYS_FILE"):
        monkeypatch.delenv(name, raising=False)
    assert words in postval.refused("validate", str(made_archive))


def test_a_wrong_setting_is_refused_by_its_name(
    postval: Command, made_archive: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("POSTVAL_CAPITAL", "-1")
    assert "settings: capital: Input should be greater than 0" in postval.refused(
        "validate", str(made_archive)
    )


def hostile(tmp_path: Path) -> bytes:
    class Runs:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return os.system, (f"{sys.executable} -c 'open({str(tmp_path / 'was_run')!r}, \"w\")'",)

    file = tmp_path / "hostile.pt"
    torch.save({"policy_state_dict": Runs()}, file)
    return file.read_bytes()


def test_every_kind_of_wrong_model_is_decided_with_its_reason_beside_a_good_one(
    postval: Command, tmp_path: Path
) -> None:
    bars = tmp_path / "bars"
    shutil.copytree(SAMPLE_BARS, bars)
    short = pd.read_parquet(bars / "AAPL_1Hour.parquet").tail(300).assign(symbol="META")
    short.to_parquet(bars / "META_1Hour.parquet")
    said = {name: good_claims() for name in ("AAPL", "META", "TSLA", "ETHUSD", "SPY", "MSFT", "F", "T")}
    nan = {**good_claims(), "fitness_score": [0.5] * 9 + [float("nan")]}
    percent = claims(0.8, 2.1, 92.0, 5.0)
    file = make_archive(
        tmp_path / f"Alpaca_trading_trained_{STAMP}.zip",
        {
            "AAPL": {},
            "META": {},
            "TSLA": {},
            "NVDA": {},
            "UNIUSD": {},
            "ETHUSD": {"overrides": {"model_version": "9.9.9"}},
            "SPY": {"overrides": {"obs_dim": 17}},
            "MSFT": hostile(tmp_path),
            "F": b"not a checkpoint",
            "BTCUSD": {},
        },
        summary=make_summary({**said, "NVDA": nan, "UNIUSD": percent}),
    )
    done = postval("--bars", f"parquet:{bars}", "validate", str(file))
    assert done.code == 0, done.err
    assert not (tmp_path / "was_run").exists()
    found = {
        r["symbol"]: (r["decision"], "; ".join(r["reasons"]))
        for r in postval.rows("SELECT symbol, decision, reasons FROM latest_decisions")
    }
    expected = {
        "META": ("RETRAIN", "NO_EVIDENCE"),  # too little history
        "TSLA": ("RETRAIN", "no 1Hour bars of TSLA"),  # no bars
        "NVDA": ("DROP", "fitness_score"),  # NaN
        "UNIUSD": ("DROP", "consistency"),  # percent instead of fractions
        "ETHUSD": ("DROP", "9.9.9"),  # unknown version
        "SPY": ("DROP", "17"),  # wrong dimensions
        "MSFT": ("DROP", "system"),  # a pickle that asks for os.system
        "F": ("DROP", ""),  # not a checkpoint
        "BTCUSD": ("DROP", "no metrics for this model"),  # a model without metrics
        "T": ("DROP", "no checkpoint models/rl_symbols/T_1Hour.pt"),  # metrics without a model
    }
    for symbol, (decision, words) in expected.items():
        assert found[symbol][0] == decision, found[symbol]
        assert words in found[symbol][1], (symbol, found[symbol])
    assert found["AAPL"][0] in ("PAPER", "RETRAIN", "DROP"), "features that are only assumed: PAPER at most"
    assert "ASSUMED_FEATURES" in found["AAPL"][1]
    assert set(found) == {*expected, "AAPL"}
    for symbol in found:
        assert f"{symbol} " in done.out
    [status] = postval.rows("SELECT DISTINCT status FROM fold_results WHERE symbol = 'META'")
    assert status == {"status": "INSUFFICIENT_DATA"}


def test_validating_prints_the_tables_and_records_the_run(validated: Command) -> None:
    done = validated(
        "sql", "SELECT symbol, classification FROM latest_decisions ORDER BY 1", "--format", "csv"
    )
    assert done.out == "symbol,classification\nAAPL,APPROVED\nMSFT,REVIEW\nNVDA,DROP\n"


def test_the_same_archive_again_computes_nothing_anew_and_says_so(
    validated: Command, made_archive: Path
) -> None:
    before = validated.rows("SELECT count(*) AS n, max(created_at) AS t FROM fold_results")
    done = validated("validate", str(made_archive))
    assert done.code == 0
    assert "the same content was delivered before" in done.err
    assert "PER-FOLD ANALYSIS" in done.out
    assert validated.rows("SELECT count(*) AS n, max(created_at) AS t FROM fold_results") == before
    assert made_archive.is_file(), "the file belongs to whoever gave it"


def test_evidence_that_dagster_was_not_told_of_is_told(validated: Command, made_archive: Path) -> None:
    instance = open_instance(Settings(data_dir=validated.data_dir))
    evidence = dg.AssetKey("archive_evidence")
    assert instance.get_materialized_partitions(evidence) == {ARCHIVE}
    # A process killed between the rows and the event leaves this.
    instance.wipe_assets([evidence])
    assert instance.get_materialized_partitions(evidence) == set()
    assert validated("validate", str(made_archive)).code == 0
    assert instance.get_materialized_partitions(evidence) == {ARCHIVE}


def test_only_the_symbols_asked_for_are_computed(postval: Command, made_archive: Path) -> None:
    done = postval("validate", str(made_archive), "--symbols", "AAPL", "--as-of", "2025-03-01T00:00:00Z")
    assert done.code == 0, done.err
    assert postval.rows("SELECT DISTINCT symbol FROM fold_results") == [{"symbol": "AAPL"}]
    assert "MSFT" not in done.out
    [row] = postval.rows("SELECT max(as_of) AS as_of FROM fold_results")
    assert row["as_of"].isoformat() <= "2025-03-01T00:00:00+00:00"
    assert postval.rows("SELECT status FROM training_archives") != [{"status": "COMPLETE"}]


# file: what the archives' own description says of the gate
REAL = {
    "Alpaca_trading_trained_20250301_180000.zip": {
        "UNIUSD": "APPROVED",
        "AAPL": "APPROVED",
        "BTCUSD": "REVIEW",
        "SPY": "DROP",
    },
    "Alpaca_trading_trained_20250115_093000.zip": {"DOGEUSD": "APPROVED", "COST": "REVIEW"},
    "Alpaca_trading_trained_20241220_221500.zip": {"UNIUSD": "APPROVED", "MSFT": "APPROVED"},
}


@pytest.mark.shared_data
@pytest.mark.skipif(not SHARED.exists(), reason="real data is not here")
def test_real_archives_over_real_bars_with_both_plans(postval: Command) -> None:
    for name, gate in REAL.items():
        done = postval(
            *("--bars", f"parquet:{SHARED / 'bars'}", "validate", str(SHARED / "archives" / name)),
            *("--plan", "180d,365d"),
        )
        assert done.code == 0, done.err
        archive_id = name.removesuffix(".zip").removeprefix("Alpaca_trading_trained_")
        found = postval.rows(
            "SELECT symbol, classification FROM gating_scores WHERE archive_id = ?", archive_id
        )
        assert {r["symbol"]: r["classification"] for r in found} == gate
        folds = postval.rows(
            """SELECT symbol, plan, count(*) AS n FROM fold_results
               WHERE archive_id = ? AND status IN ('OK', 'NO_TRADES') GROUP BY ALL""",
            archive_id,
        )
        evaluated = {s for s, c in gate.items() if c != "DROP"}
        assert {(r["symbol"], r["plan"]): r["n"] for r in folds} == {
            (symbol, plan): n for symbol in evaluated for plan, n in (("180d", 5), ("365d", 10))
        }
        decided = postval.rows(
            "SELECT symbol, plan FROM deployment_decisions WHERE archive_id = ? AND policy = 'standard'",
            archive_id,
        )
        # What the gate drops is not evaluated, and decided once.
        assert len(decided) == 2 * len(evaluated) + len(set(gate) - evaluated)
        broken = postval.rows(
            """SELECT count(*) AS n FROM fold_results
               WHERE NOT isfinite(coalesce(total_return, 0)) OR NOT isfinite(coalesce(sharpe, 0))"""
        )
        assert broken == [{"n": 0}]
        assert all(f"PER-FOLD ANALYSIS  {symbol}" in done.out for symbol in evaluated)
        assert f"ARCHIVE {archive_id}" in done.out
    assert ARCHIVE in {r["archive_id"] for r in postval.rows("SELECT archive_id FROM training_archives")}
