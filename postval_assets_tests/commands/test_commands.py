"""ingest, sql, stage, backfill, backtest, up and demo: what they do, and how they refuse."""

from __future__ import annotations

import csv
import hashlib
import json
import socket
import zipfile
from pathlib import Path

import pytest

from postval_assets_tests.commands.conftest import ARCHIVE, Command
from postval_assets_tests.factories import make_archive, make_checkpoint

FILE_NAME = f"Alpaca_trading_trained_{ARCHIVE}.zip"


def test_ingest_puts_the_whole_file_into_the_inbox(postval: Command, made_archive: Path) -> None:
    done = postval("ingest", str(made_archive))
    target = postval.data_dir / "inbox" / FILE_NAME
    assert (done.code, done.out.strip()) == (0, str(target))
    assert target.read_bytes() == made_archive.read_bytes()
    assert [p.name for p in target.parent.iterdir()] == [FILE_NAME], "nothing half done is left"
    assert postval("ingest", str(made_archive)).code == 0, "the same again changes nothing"


def test_ingest_never_overwrites_other_content(postval: Command, made_archive: Path, tmp_path: Path) -> None:
    postval("ingest", str(made_archive))
    other = make_archive(tmp_path / FILE_NAME, {"SPY": {}})
    assert "is already there with other content" in postval.refused("ingest", str(other))
    assert (postval.data_dir / "inbox" / FILE_NAME).read_bytes() == made_archive.read_bytes()


@pytest.mark.parametrize("name", ["archive.rar", ".archive.zip"])
def test_ingest_refuses_names_that_the_inbox_would_ignore(
    postval: Command, made_archive: Path, tmp_path: Path, name: str
) -> None:
    file = tmp_path / name
    file.write_bytes(made_archive.read_bytes())
    assert "expected a name such as NAME.zip" in postval.refused("ingest", str(file))


def test_sql_prints_a_table_csv_and_json(validated: Command) -> None:
    query = "SELECT symbol, reasons, as_of, NULL AS nothing FROM latest_decisions ORDER BY symbol LIMIT 1"
    shown = validated("sql", query)
    assert shown.out.splitlines()[0].split() == ["symbol", "reasons", "as_of", "nothing"]
    assert shown.out.splitlines()[2].startswith("AAPL ")
    assert "(1 row)" in shown.err
    [row] = json.loads(validated("sql", query, "--format", "json").out)
    assert row["symbol"] == "AAPL"
    assert isinstance(row["reasons"], list)
    assert row["as_of"].endswith("+00:00")
    assert row["nothing"] is None
    names, values = csv.reader(validated("sql", query, "--format", "csv").out.splitlines())
    assert names == ["symbol", "reasons", "as_of", "nothing"]
    assert values == ["AAPL", "; ".join(row["reasons"]), row["as_of"], ""]


@pytest.mark.parametrize(
    ("query", "words"),
    [
        ("DELETE FROM bars", "DELETE is not a query here"),
        ("SELECT 1; SELECT 2", "that is 2 statements"),
        ("", "0 statements"),
        ("SELECT * FROM read_csv('/etc/passwd')", "disabled"),
        ("COPY bars TO 'bars.csv'", "COPY is not a query here"),
        ("SELECT * FROM latest_decision", "latest_decision does not exist"),
        ("SELEC 1", "SELEC"),
    ],
)
def test_sql_refuses_what_does_not_read(validated: Command, query: str, words: str) -> None:
    before = hashlib.sha256(validated.platform.replica.read_bytes()).digest()
    assert words in validated.refused("sql", query)
    assert hashlib.sha256(validated.platform.replica.read_bytes()).digest() == before


def test_sql_before_the_first_publication_says_when_there_is_one(postval: Command) -> None:
    assert "it is written when the first run has finished" in postval.refused("sql", "SELECT 1")


def test_stage_copies_the_original_checkpoints_with_a_manifest(
    validated: Command, made_archive: Path, tmp_path: Path
) -> None:
    target = tmp_path / "bot"
    done = validated("stage", "--to", str(target), "--classification", "APPROVED,REVIEW")
    assert done.code == 0, done.err
    files = [target / "models" / "rl_symbols" / f"{symbol}_1Hour.pt" for symbol in ("AAPL", "MSFT")]
    assert sorted((target / "models" / "rl_symbols").iterdir()) == files
    assert done.out.splitlines() == [*map(str, files), str(target / "manifest.json")]
    manifest = json.loads((target / "manifest.json").read_text())
    assert manifest["archive_id"] == ARCHIVE
    assert manifest["archive_sha256"] == hashlib.sha256(made_archive.read_bytes()).hexdigest()
    with zipfile.ZipFile(made_archive) as archive:
        for file, entry in zip(files, manifest["models"], strict=True):
            original = archive.read(f"Alpaca_trading/models/rl_symbols/{entry['symbol']}.pt")
            assert file.read_bytes() == original
            assert entry["file"] == f"models/rl_symbols/{file.name}"
            assert entry["sha256"] == hashlib.sha256(original).hexdigest()
            assert entry["decision"] in ("LIVE", "PAPER", "RETRAIN", "DROP")
            assert entry["reasons"]


def test_stage_by_decision_takes_what_was_decided_so(validated: Command, tmp_path: Path) -> None:
    decided = {
        r["symbol"]: r["decision"] for r in validated.rows("SELECT symbol, decision FROM latest_decisions")
    }
    done = validated("stage", "--to", str(tmp_path / "bot"), "--decision", "DROP")
    staged = {p.name.split("_")[0] for p in (tmp_path / "bot" / "models" / "rl_symbols").iterdir()}
    assert done.code == 0
    assert staged == {symbol for symbol, decision in decided.items() if decision == "DROP"}


def test_stage_without_a_choice_takes_what_may_trade(validated: Command, tmp_path: Path) -> None:
    rows = validated.rows("SELECT symbol FROM latest_decisions WHERE decision IN ('LIVE', 'PAPER')")
    done = validated("stage", "--to", str(tmp_path / "bot"))
    assert done.code == 0
    staged = {p.name.split("_")[0] for p in (tmp_path / "bot" / "models" / "rl_symbols").iterdir()}
    assert staged == {r["symbol"] for r in rows} != set()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--decision", "LIVE"), "no model of archive 20250301_180000 meets that choice; it has"),
        (("--decision", "SELL"), "expected LIVE, PAPER, RETRAIN, DROP"),
        (("--classification", "GOOD"), "expected APPROVED, REVIEW, DROP, INVALID"),
        (("--decision", "LIVE", "--classification", "DROP"), "give one of --classification and --decision"),
        (("--decision", "LIVE", "--archive", "x"), "archive 'x' is unknown"),
    ],
)
def test_stage_refuses(validated: Command, tmp_path: Path, arguments: tuple[str, ...], words: str) -> None:
    assert words in validated.refused("stage", "--to", str(tmp_path / "bot"), *arguments)
    assert not (tmp_path / "bot").exists()


def test_stage_before_any_archive_says_what_to_do(postval: Command, tmp_path: Path) -> None:
    line = postval.refused("stage", "--to", str(tmp_path / "bot"), "--decision", "LIVE")
    assert "postval ingest FILE.zip" in line


def test_backfill_makes_folds_summaries_and_decisions_of_another_plan(validated: Command) -> None:
    done = validated("backfill", "--symbols", "AAPL", "--plan", "365d")
    assert done.code == 0, done.err
    assert "PER-FOLD ANALYSIS  AAPL 1Hour, plan 365d" in done.out
    assert "MSFT" not in done.out
    counts = validated.rows(
        """SELECT (SELECT count(*) FROM fold_results WHERE plan = '365d') AS folds,
                  (SELECT count(*) FROM walk_forward_summaries WHERE plan = '365d') AS summaries,
                  (SELECT count(*) FROM deployment_decisions WHERE plan = '365d' AND policy = 'standard') AS decided"""
    )
    assert counts == [{"folds": 10, "summaries": 1, "decided": 1}]
    plans = validated("sql", "SELECT plans FROM latest_decisions WHERE symbol = 'AAPL'", "--format", "csv")
    assert plans.out == "plans\n180d; 365d\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (
            ("--symbols", "TSLA", "--plan", "365d"),
            "no model of TSLA in any archive: ingest an archive that has one",
        ),
        (("--symbols", "AAPL", "--plan", "1y"), "plan '1y' is unknown: expected one of 180d, 365d"),
        (
            ("--symbols", "AAPL", "--plan", "365d", "--archive", "x"),
            "archive 'x' is unknown: expected an archive_id",
        ),
        (("--symbols", ",", "--plan", "365d"), "expected names separated by commas"),
    ],
)
def test_backfill_refuses(validated: Command, arguments: tuple[str, ...], words: str) -> None:
    assert words in validated.refused("backfill", *arguments)


def test_backtest_of_one_model_file_stores_nothing(postval: Command, tmp_path: Path) -> None:
    file = make_checkpoint(tmp_path / "AAPL_1Hour.pt", version="2.3.0")
    done = postval(
        "backtest", "--model", str(file), "--days", "180", "--walk-forward", "5", "--capital", "5000"
    )
    assert done.code == 0, done.err
    assert done.out.startswith("PER-FOLD ANALYSIS  AAPL 1Hour, plan 180d")
    assert done.out.count("  Fold ") == 5
    assert "Positive Folds: " in done.out
    assert "note: features reference-53 (ASSUMED)" in done.err
    assert not postval.data_dir.exists()


@pytest.mark.parametrize(
    ("name", "arguments", "words"),
    [
        ("best model.pt", (), "expected a name such as UNIUSD_1Hour.pt, or --symbol"),
        ("AAPL_3Hour.pt", (), "3Hour"),
        ("TSLA_1Hour.pt", (), "no 1Hour bars of TSLA"),
        ("AAPL_1Hour.pt", ("--as-of", "2020-01-01T00:00:00Z"), "has no complete 1Hour bar by"),
    ],
)
def test_backtest_refuses(
    postval: Command, tmp_path: Path, name: str, arguments: tuple[str, ...], words: str
) -> None:
    file = make_checkpoint(tmp_path / name, version="2.3.0")
    assert words in postval.refused("backtest", "--model", str(file), *arguments)


def test_backtest_of_something_else_says_what_it_is_not(postval: Command, tmp_path: Path) -> None:
    file = tmp_path / "AAPL_1Hour.pt"
    file.write_bytes(b"not a checkpoint")
    assert "is not a file of torch.save" in postval.refused("backtest", "--model", str(file))


def test_up_refuses_a_port_that_is_in_use_before_it_starts_anything(postval: Command) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        line = postval.refused("up", "--port", str(port))
    assert f"port {port} on 127.0.0.1 is in use" in line
    assert "--port" in line
    made = {path.name for path in postval.data_dir.rglob("*") if path.is_file()}
    assert not {name for name in made if not name.endswith(".lock")}, "nothing but the lock of the directory"


def test_demo_leaves_a_directory_alone_that_is_not_its_own(postval: Command) -> None:
    theirs = postval.data_dir / "demo" / "thesis.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    assert "was not made by a demo and is left alone" in postval.refused("demo")
    assert theirs.read_text() == "mine"
