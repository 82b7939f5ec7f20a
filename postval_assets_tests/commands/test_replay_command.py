"""``postval replay``: what it says, what it ends with, and that it leaves everything as it was."""

from __future__ import annotations

import json

import pytest

from postval_assets_tests.commands.conftest import ARCHIVE, Command


def test_every_decision_of_a_validated_archive_is_the_same(validated: Command) -> None:
    warehouse = validated.platform.warehouse.path
    before = warehouse.read_bytes()
    done = validated("replay", "--all")
    assert done.code == 0, done
    assert done.out.splitlines()[-1] == "6 SAME", "three models, two policies"
    assert "DIFFERENT" not in done.out
    assert warehouse.read_bytes() == before
    of_one = validated("replay", "--all", "--archive", ARCHIVE, "--json")
    found = json.loads(of_one.out)
    assert {(f["symbol"], f["outcome"]) for f in found} == {(s, "SAME") for s in ("AAPL", "MSFT", "NVDA")}
    assert all(f["recorded"] == f["present"] for f in found)
    assert {f["n_figures"] > 0 for f in found if f["symbol"] == "AAPL"} == {True}


def test_a_decision_is_named_by_the_id_that_it_was_printed_with(
    validated: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    [row] = validated.rows("SELECT decision_id, decision FROM latest_decisions WHERE symbol = 'AAPL'")
    done = validated("replay", row["decision_id"])
    assert done.code == 0
    assert done.out.startswith(f"SAME  {row['decision_id']}  {ARCHIVE} AAPL 1Hour 180d, standard, as of ")
    assert "figures of its folds are equal to the last bit" in done.out
    monkeypatch.setenv("POSTVAL_SLIPPAGE_BPS", "60")
    other = validated("replay", ARCHIVE, "AAPL", "1Hour", "180d")
    assert other.code == 1
    assert other.out.startswith("DIFFERENT  ")
    assert "slippage_bps: recorded 5, now 60" in other.out
    assert "180d-1 total_return: recorded " in other.out
    again = validated("replay", row["decision_id"], "--with-recorded-settings")
    assert (again.code, again.out) == (0, done.out)


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("0123456789ab",), "no decision is called 0123456789ab"),
        ((), "name one decision, or give --all"),
        (("--all", "0123456789ab"), "name one decision, or give --all"),
        (("0123456789ab", "--archive", ARCHIVE), "name one decision, or give --all"),
        (("--all", "--archive", "20990101_000000"), "is unknown: expected an archive_id such as"),
    ],
)
def test_what_cannot_be_replayed_ends_with_2(validated: Command, words: tuple[str, ...], said: str) -> None:
    done = validated("replay", *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("Error: ")
    assert said in done.err


def test_an_empty_data_directory_is_not_made_by_looking(postval: Command) -> None:
    done = postval("replay", "--all")
    assert done.code == 2
    assert "nothing was decided in this data directory" in done.err
    assert not postval.data_dir.exists()


def test_what_is_gone_is_told_as_impossible(validated: Command) -> None:
    for folder in ("archives", "weights"):
        for file in (validated.data_dir / folder).rglob("*.*"):
            if file.is_file():
                file.unlink()
    done = validated("replay", "--all")
    assert done.code == 2
    assert "cannot be recomputed: archive: missing from the store; weights " in done.out
