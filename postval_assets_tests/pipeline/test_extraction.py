"""What extraction does not do again, what a stopped run leaves to the next, and the scratch folder."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from postval_assets.core.failures import Rejected
from postval_assets.io.inbox import inspect_archive
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline import extraction
from postval_assets.pipeline.archives import archive_limits
from postval_assets.pipeline.extraction import extract_models
from postval_assets.pipeline.intake_file import take_in
from postval_assets_tests.factories import good_claims, make_summary
from postval_assets_tests.pipeline.conftest import BUY, Bench, network

MODELS = {
    "AAPL_4Hour": network(BUY),
    "BADA_4Hour": network(BUY, model_version="9.9.9"),
    "BADB_4Hour": b"no checkpoint at all",
    "BADC_4Hour": network(BUY, feature_set="nobody's"),
    "SPY_1Hour": network(BUY, seed=2),
    "SPY_4Hour": network(BUY, seed=3, named=False),
}


def delivered(bench: Bench, models: Mapping[str, Any] = MODELS) -> dict[str, str]:
    delivery = bench.deliver(bench.archive(models))
    return dict.fromkeys(delivery.symbols, delivery.archive_id)


def extracted(bench: Bench, archives: Mapping[str, str]) -> dict[str, tuple[int, int]]:
    """Rows and current rows by symbol."""
    report = extract_models(bench.platform, archives, run_id=bench.run_id("extract"))
    return {s.symbol: (s.n_rows, s.n_current) for s in report.symbols}


def table(bench: Bench) -> list[dict[str, Any]]:
    return bench.rows(
        "SELECT * EXCLUDE (run_id, created_at) FROM extracted_models ORDER BY symbol, timeframe"
    )


NONE = {"AAPL": (1, 0), "BADA": (1, 0), "BADB": (1, 0), "BADC": (1, 0), "SPY": (2, 0)}
ALL = {"AAPL": (1, 1), "BADA": (1, 1), "BADB": (1, 1), "BADC": (1, 1), "SPY": (2, 2)}


def spoil(archive: Path, entry: bytes) -> None:
    """Destroy the bytes of one entry that follow its local header."""
    content = bytearray(archive.read_bytes())
    start = content.index(entry) + len(entry) + 40
    content[start : start + 40] = bytes(40)
    archive.write_bytes(content)


def test_what_is_current_is_not_read_again(bench: Bench) -> None:
    archives = delivered(bench)
    assert extracted(bench, archives) == NONE
    before = table(bench)
    assert all(len(row["inputs_digest"]) == 64 for row in before)
    assert len({row["inputs_digest"] for row in before}) == len(before)
    first = bench.platform.archives.path_of(bench.one("SELECT sha256 FROM training_archives")["sha256"])
    # Nothing can be read of it any more: whatever is not kept would be refused as damaged.
    for name in MODELS:
        spoil(first, f"{name}.pt".encode())
    report = extract_models(bench.platform, archives, run_id="again")
    assert {s.symbol: (s.n_rows, s.n_current) for s in report.symbols} == ALL
    assert table(bench) == before
    assert [s.symbol for s in report.symbols if s.problems] == ["BADA", "BADB", "BADC"], "told every time"


def test_weights_that_are_gone_are_made_again(bench: Bench) -> None:
    archives = delivered(bench)
    extracted(bench, archives)
    before = table(bench)
    lost = bench.platform.settings.data_dir / before[0]["weights_path"]
    lost.unlink()
    assert extracted(bench, archives) == ALL | {"AAPL": (1, 0)}
    assert lost.is_file()
    assert table(bench) == before


@pytest.mark.parametrize(
    ("changes", "again"),
    [
        ({"default_activation": "tanh"}, set(NONE)),
        ({"config_prefixes": ("alpaca_trading.", "somebody.")}, set(NONE)),
        ({"feature_sets": {"20250201_000000": "reference-59"}}, set(NONE)),
        # Of the version that could be read; the checkpoints of BADA and BADB say none that counts.
        ({"feature_sets": {"2.7.0": "reference-59"}}, {"AAPL", "BADC", "SPY"}),
        ({"feature_sets": {"2.4.0": "reference-59", "20240101_000000": "reference-53"}}, set()),
        ({"plans": "365d", "port": 3001}, set()),
    ],
)
def test_settings_that_the_reading_depends_on(bench: Bench, changes: dict[str, Any], again: set[str]) -> None:
    archives = delivered(bench)
    extracted(bench, archives)
    assert extracted(bench.configured(**changes), archives) == {
        symbol: NONE[symbol] if symbol in again else current for symbol, current in ALL.items()
    }


def test_a_feature_set_that_is_plugged_in_or_changed_makes_models_be_read_again(bench: Bench) -> None:
    archives = delivered(bench)
    extracted(bench, archives)
    sets = dict(bench.platform.feature_sets)
    plugged = replace(sets["reference-59"], name="nobody's")
    more = replace(bench, platform=replace(bench.platform, feature_sets={**sets, "nobody's": plugged}))
    assert extracted(more, archives) == NONE
    assert bench.one("SELECT feature_set FROM extracted_models WHERE symbol = 'BADC'") == {
        "feature_set": "nobody's"
    }
    newer = {**sets, "nobody's": replace(plugged, version="another")}
    assert extracted(replace(bench, platform=replace(bench.platform, feature_sets=newer)), archives) == NONE


def test_an_archive_that_was_damaged_in_the_store_is_not_judged_by_that(bench: Bench) -> None:
    archives = delivered(bench)
    stored = bench.platform.archives.path_of(bench.one("SELECT sha256 FROM training_archives")["sha256"])
    whole = stored.read_bytes()
    spoil(stored, b"AAPL_4Hour.pt")
    assert extracted(bench, archives) == NONE
    row = table(bench)[0]
    assert (row["symbol"], row["status"], row["inputs_digest"]) == ("AAPL", "REJECTED", None)
    assert "is damaged" in row["reason"]
    stored.write_bytes(whole)
    assert extracted(bench, archives) == ALL | {"AAPL": (1, 0)}
    assert table(bench)[0]["status"] == "OK"


def test_rows_that_the_archive_does_not_have_any_more_go(bench: Bench) -> None:
    archives = delivered(bench)
    extracted(bench, archives)
    before = table(bench)
    stale = {**before[0], "timeframe": "1Day"}
    bench.platform.warehouse.write(
        [Replace("extracted_models", [{"symbol": "nobody"}], [stale])], run_id="x", now=bench.clock()
    )
    assert len(table(bench)) == len(before) + 1
    assert extracted(bench, archives) == ALL
    assert table(bench) == before


def test_a_run_that_is_stopped_leaves_only_the_rest(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    symbols = [f"A{n:02}" for n in range(14)]
    archives = delivered(bench, {f"{s}_4Hour": network(BUY, seed=n) for n, s in enumerate(symbols)})
    read = extraction.read_checkpoint
    n_read = 0

    def stopped_at_the_thirteenth(*args: Any, **kwargs: Any) -> Any:
        nonlocal n_read
        n_read += 1
        if n_read == 13:
            raise KeyboardInterrupt
        return read(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(extraction, "read_checkpoint", stopped_at_the_thirteenth)
        with pytest.raises(KeyboardInterrupt):
            extract_models(bench.platform, archives, run_id="stopped")
    assert [r["symbol"] for r in table(bench)] == symbols[:10]
    assert len(bench.rows("SELECT * FROM training_claims")) == 10
    assert extracted(bench, archives) == {s: (1, int(n < 10)) for n, s in enumerate(symbols)}
    assert [r["symbol"] for r in table(bench)] == symbols
    assert len(bench.rows("SELECT * FROM training_claims")) == 14
    assert bench.one("SELECT status FROM training_archives")["status"] == "EXTRACTED"


def test_what_killed_runs_left_in_the_scratch_folder_is_removed(
    bench: Bench, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    scratch = bench.platform.scratch
    (scratch / "tmpold").mkdir(parents=True)
    (scratch / "tmpnew").mkdir()
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    for file in (
        scratch / "tmpold" / "checkpoint.pt",
        scratch / "tmpnew" / "checkpoint.pt",
        scratch / "old.zip",
        elsewhere / "kept.pt",
    ):
        file.write_bytes(b"80 MB")
    now = bench.clock().timestamp()
    day = timedelta(days=1).total_seconds()
    for path, age in (("tmpold", day + 60), ("tmpnew", day - 60), ("old.zip", day + 60)):
        os.utime(scratch / path, (now - age, now - age))
    if os.utime in os.supports_follow_symlinks:  # not on Windows, where a link cannot be made old
        (scratch / "link").symlink_to(elsewhere, target_is_directory=True)
        os.utime(scratch / "link", (now - day - 60, now - day - 60), follow_symlinks=False)
    with caplog.at_level(logging.WARNING, logger="postval.extraction"):
        extracted(bench, delivered(bench, {"AAPL_4Hour": network(BUY)}))
    assert [p.name for p in scratch.iterdir()] == ["tmpnew"]
    assert (elsewhere / "kept.pt").is_file()
    assert not caplog.records


def test_a_file_that_changes_while_it_is_taken_in_leaves_no_copy(bench: Bench) -> None:
    file = bench.archive({"AAPL_4Hour": network(BUY)})
    ready = inspect_archive(file, archive_limits(bench.platform))
    bench.archive(
        {"AAPL_4Hour": network(BUY), "SPY_4Hour": network(BUY)},
        summary=make_summary({"SPY_4Hour": good_claims()}),
    ).replace(file)
    with pytest.raises(Rejected, match="has changed"):
        take_in(bench.platform, ready)
    assert list(bench.platform.scratch.iterdir()) == []
