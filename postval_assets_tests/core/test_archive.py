from __future__ import annotations

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from postval_assets.core.archive import (
    ArchiveEntry,
    ArchiveLimits,
    archive_id,
    plan_archive,
    require_past,
    trained_at,
)
from postval_assets.core.failures import Rejected

LIMITS = ArchiveLimits()
SUMMARY = "training_summary_20241226_211819.json"
MODEL = "models/rl_symbols/UNIUSD_1Hour.pt"


def entry(name: str, size: int = 1000, compressed: int = 900, **more) -> ArchiveEntry:
    return ArchiveEntry(name, size, compressed, **more)


def plan(*names: str | ArchiveEntry, limits: ArchiveLimits = LIMITS):
    entries = [entry(name) if isinstance(name, str) else name for name in names]
    return plan_archive(entries, limits)


@pytest.mark.parametrize(
    ("file", "symbol", "timeframe"),
    [
        ("UNIUSD_1Hour.pt", "UNIUSD", "1Hour"),
        ("UNIUSD.pt", "UNIUSD", "1Hour"),
        ("BRK.B_1Hour.pt", "BRK.B", "1Hour"),
        ("BRK.B.pt", "BRK.B", "1Hour"),
        ("AAPL_15Min.pt", "AAPL", "15Min"),
        ("AAPL_1Day.pt", "AAPL", "1Day"),
    ],
)
@pytest.mark.parametrize("lead", ["", "Alpaca_trading/", "backslashes"])
def test_a_models_name_says_symbol_and_timeframe(file, symbol, timeframe, lead):
    names = [f"models/rl_symbols/{file}", SUMMARY]
    if lead == "backslashes":
        names = [f"Alpaca_trading/{name}".replace("/", "\\") for name in names]
    else:
        names = [lead + name for name in names]
    found = plan(*names)
    assert [(m.symbol, m.timeframe, m.entry.name) for m in found.models] == [(symbol, timeframe, names[0])]
    assert found.summary.name == names[1]
    assert found.folder == ("Alpaca_trading" if lead else "")
    assert found.rejected == ()


def test_anything_else_is_ignored():
    found = plan(
        SUMMARY,
        MODEL,
        "notebooks/training.ipynb",
        "models/rl_symbols/",
        "models/rl_symbols/README.md",
        "models/rl_symbols/._UNIUSD_1Hour.pt",
        "__MACOSX/models/rl_symbols/UNIUSD_1Hour.pt",
        "models/other/AAPL_1Hour.pt",
        "training_summary.txt",
        entry("huge.bin", 10**15, 10**15),
    )
    assert [m.entry.name for m in found.models] == [MODEL]
    assert found.rejected == ()


@pytest.mark.parametrize(
    ("names", "said"),
    [
        ([MODEL], ["no training summary", "training_summary_YYYYMMDD_HHMMSS.json"]),
        ([SUMMARY], ["no models", "models/rl_symbols/SYMBOL_TIMEFRAME.pt"]),
        ([MODEL, SUMMARY, "training_summary_2.json"], [SUMMARY, "training_summary_2.json", "exactly one"]),
        ([MODEL, SUMMARY, SUMMARY], ["2 training summaries"]),
        ([f"a/b/{MODEL}", f"a/b/{SUMMARY}"], [f"a/b/{SUMMARY}", "wrong place"]),
        ([f"a/{MODEL}", SUMMARY], [f"a/{MODEL}", "not beside"]),
        ([f"./{MODEL}", f"./{SUMMARY}"], ["no training summary", "wrong place"]),
        ([f"<b>/{MODEL}", f"<b>/{SUMMARY}"], ["no training summary", "folder of a plain name"]),
        ([SUMMARY, MODEL, "../x.txt"], ["leads to a parent folder, ../x.txt", "expected names below"]),
        ([SUMMARY, MODEL, "a/. ./x.txt"], ["leads to a parent folder, a/. ./x.txt"]),
        ([SUMMARY, MODEL, "/x.txt"], ["is absolute, /x.txt"]),
        ([SUMMARY, MODEL, "\\\\server\\x.txt"], ["is absolute"]),
        ([SUMMARY, MODEL, "c:x.txt"], ["names a drive, c:x.txt"]),
        ([SUMMARY, f"{MODEL}\0.txt"], ["holds a NUL"]),
        ([MODEL, entry(SUMMARY, is_plain=False)], ["is a link"]),
        ([MODEL, entry(SUMMARY, encrypted=True)], ["encrypted"]),
        (
            [MODEL, entry(SUMMARY, size=2**24 + 1, compressed=2**20)],
            ["unpacks to 16777217", "at most 16777216"],
        ),
        ([MODEL, entry(SUMMARY, size=2**21, compressed=100)], ["times its size"]),
    ],
)
def test_what_concerns_the_whole_archive_rejects_it(names, said):
    with pytest.raises(Rejected) as caught:
        plan(*names)
    for text in said:
        assert text in str(caught.value)


@pytest.mark.parametrize(
    ("limits", "said"),
    [
        (ArchiveLimits(max_entries=3), "4 entries; at most 3"),
        (ArchiveLimits(max_models=2), "3 models; at most 2"),
        (ArchiveLimits(max_total_bytes=3999), "unpacks to 4000 bytes; at most 3999"),
    ],
)
def test_a_limit_rejects_just_above_itself(limits, said):
    names = [SUMMARY, *(f"models/rl_symbols/{s}_1Hour.pt" for s in ("AAPL", "MSFT", "SPY"))]
    with pytest.raises(Rejected, match=said):
        plan(*names, limits=limits)
    assert len(plan(*names, limits=ArchiveLimits(4 - 1, 4, 1000, 1000, 4000)).models) == 3


def test_the_default_limits_fit_500_production_models():
    models = [
        entry(f"models/rl_symbols/S{n}_1Hour.pt", size=80_000_000, compressed=70_000_000) for n in range(500)
    ]
    assert len(plan(SUMMARY, *models).models) == 500


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("models/rl_symbols/a|b_1Hour.pt", "symbol"),
        ("models/rl_symbols/uniusd_1Hour.pt", "symbol"),
        ("models/rl_symbols/.._1Hour.pt", None),
        ("models/rl_symbols/A.._1Hour.pt", "symbol"),
        ("models/rl_symbols/AAPL_3Hour.pt", "timeframe"),
        ("models/rl_symbols/AAPL_best_1Hour.pt", "symbol"),
        ("models/rl_symbols/AAPL_1Hour.PT", "ends in '.PT'"),
        ("models/rl_symbols/AAPL_1Hour.pt. ", "ends in '.pt. '"),
        ("Models/rl_symbols./AAPL_1Hour.pt", "it is in Models/rl_symbols."),
        (entry("models/rl_symbols/AAPL_1Hour.pt", is_plain=False), "is a link"),
        (entry("models/rl_symbols/AAPL_1Hour.pt", size=3 * 2**30, compressed=2**30), "unpacks to"),
        (entry("models/rl_symbols/AAPL_1Hour.pt", encrypted=True), "encrypted"),
        (entry("models/rl_symbols/AAPL_1Hour.pt", compression=12), "compression method 12"),
        (entry("models/rl_symbols/AAPL_1Hour.pt", size=2**30, compressed=2**20), "1024 times its size"),
        ("other/models/rl_symbols/AAPL_1Hour.pt", "not beside"),
    ],
)
def test_what_concerns_one_model_leaves_the_others(bad, said):
    found = plan(SUMMARY, MODEL, bad)
    assert [m.symbol for m in found.models] == ["UNIUSD"]
    if said is None:  # a hidden file is no model at all
        assert found.rejected == ()
    else:
        (rejected,) = found.rejected
        assert said in rejected.reason
        assert rejected.name == (bad if isinstance(bad, str) else bad.name)
        named = (None, None) if said in {"symbol", "timeframe"} else ("AAPL", "1Hour")
        assert (rejected.symbol, rejected.timeframe) == named


def test_a_model_may_have_the_symbol_of_a_device_but_no_file_may_be_one():
    found = plan(SUMMARY, "models/rl_symbols/CON_1Hour.pt", "models/rl_symbols/PRN.pt")
    assert [m.symbol for m in found.models] == ["CON"]
    (rejected,) = found.rejected
    assert (rejected.symbol, rejected.timeframe) == ("PRN", "1Hour")
    assert "PRN.pt is the name of a device on Windows; expected SYMBOL_TIMEFRAME.pt" in rejected.reason


def test_a_model_that_is_there_by_two_names_on_some_disk_is_named_once_for_each():
    found = plan(SUMMARY, MODEL, "models/rl_symbols/UNIUSD_1Hour.PT")
    assert [(r.symbol, r.timeframe) for r in found.rejected] == [("UNIUSD", "1Hour")]


def test_the_summary_s_limits_follow_from_the_archive_s():
    limits = ArchiveLimits(max_models=10, max_summary_bytes=2**20)
    assert (limits.max_claims, limits.max_summary_values) == (40, 2**16)
    # 500 models with 4 metrics of 500 validations each.
    assert ArchiveLimits().max_summary_values > 500 * 4 * 500


def test_a_reason_names_only_some_of_many():
    found = plan(SUMMARY, MODEL, *["models/rl_symbols/AAPL.pt"] * 400)
    assert len(found.rejected) == 400
    assert all("400 times" in r.reason and "and 397 more" in r.reason for r in found.rejected)
    assert all(len(r.reason) < 300 for r in found.rejected)


def test_the_same_model_twice_rejects_both_and_names_both():
    found = plan(SUMMARY, MODEL, "models/rl_symbols/AAPL.pt", "models/rl_symbols/AAPL_1Hour.pt")
    assert [m.symbol for m in found.models] == ["UNIUSD"]
    assert {r.name for r in found.rejected} == {
        "models/rl_symbols/AAPL.pt",
        "models/rl_symbols/AAPL_1Hour.pt",
    }
    for rejected in found.rejected:
        assert (rejected.symbol_shown, rejected.symbol, rejected.timeframe) == ("AAPL", "AAPL", "1Hour")
        assert "AAPL.pt and models/rl_symbols/AAPL_1Hour.pt" in rejected.reason


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["", "a/", "b/", "../", "a\\", "a/b/"]),
            st.sampled_from(["models/rl_symbols/", "models\\rl_symbols\\", "models/", ""]),
            st.sampled_from(["AAPL", "BRK.B", "X|Y", "", "..", "\ud800"]),
            st.sampled_from(["_1Hour.pt", ".pt", "_1Day.pt", "_x.pt", ".txt"]),
        ).map("".join),
        max_size=12,
    ),
    st.sampled_from(["", "a/"]),
)
def test_every_model_beside_the_summary_is_taken_or_rejected_exactly_once(names, lead):
    entries = [entry(name, position=n) for n, name in enumerate([lead + SUMMARY, *names])]
    try:
        found = plan_archive(entries, LIMITS)
    except Rejected:
        return
    normal = [name.replace("\\", "/") for name in names]
    assert not any(name.startswith("../") for name in normal), "an archive of such names is refused"
    beside = [
        name
        for name in normal
        if name.startswith(f"{lead}models/rl_symbols/")
        and name.endswith(".pt")
        and not name.rpartition("/")[2].startswith(".")
    ]
    outside = [r for r in found.rejected if "not beside" in r.reason]
    assert len(found.models) + len(found.rejected) - len(outside) == len(beside)
    keys = [(m.symbol, m.timeframe) for m in found.models]
    assert len(set(keys)) == len(keys)
    assert all(r.name.isascii() and r.symbol_shown.isascii() for r in found.rejected)


@pytest.mark.parametrize(
    ("summary", "zip_name", "expected"),
    [
        ("a/training_summary_20241226_211819.json", "x.zip", "20241226_211819"),
        (SUMMARY, "Alpaca_trading_trained_20250101_000000.zip", "20241226_211819"),
        ("training_summary.json", "Alpaca_trading_trained_20250101_000000.zip", "20250101_000000"),
        ("20200101_000000/training_summary.json", "t_20250101_000000 (1).zip", "20250101_000000"),
    ],
)
def test_the_id_comes_from_the_summary_then_from_the_zip(summary, zip_name, expected):
    assert archive_id(summary, zip_name) == expected


@pytest.mark.parametrize(
    ("summary", "zip_name"),
    [
        ("training_summary.json", "archive.zip"),
        ("training_summary_20241326_211819.json", "t_20250101_000000.zip"),
        ("training_summary_20230229_000000.json", "x.zip"),
        ("training_summary_120241226_211819.json", "x.zip"),
        ("training_summary_٢٠٢٤١٢٢٦_٢١١٨١٩.json", "x.zip"),
    ],
)
def test_an_archive_without_a_real_date_is_rejected(summary, zip_name):
    with pytest.raises(Rejected, match="YYYYMMDD_HHMMSS"):
        archive_id(summary, zip_name)


def test_the_id_is_a_time_in_utc():
    assert trained_at("20241226_211819") == datetime(2024, 12, 26, 21, 18, 19, tzinfo=UTC)
    assert trained_at("20241226_211819-0a1b2c3d") == datetime(2024, 12, 26, 21, 18, 19, tzinfo=UTC)


def test_an_archive_of_a_far_future_is_refused_and_a_wrong_clock_forgiven():
    now = datetime(2025, 3, 1, tzinfo=UTC)
    require_past("20240101_000000", now)
    require_past("20250401_000000", now)
    with pytest.raises(Rejected, match=r"trained on 9999-12-31, and it is 2025-03-01: expected"):
        require_past("99991231_235959", now)
