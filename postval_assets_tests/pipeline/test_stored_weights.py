"""Weights that a crash or a disk has spoilt: recognised where they are used, and made again from the archive."""

from __future__ import annotations

import json
import logging
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from postval_assets.core.failures import Unavailable
from postval_assets.pipeline.extraction import extract_models
from postval_assets_tests.pipeline.conftest import Bench, MakeBench, network

MODELS = {"BTCUSD_4Hour": network(None, seed=7)}


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def emptied(path: Path) -> None:
    path.write_bytes(b"")


def zeros(path: Path) -> None:
    """As after a power cut on a file system that writes names before contents."""
    path.write_bytes(bytes(path.stat().st_size))


def one_bit(path: Path) -> None:
    """In the middle of the numbers: every reader takes it for a whole file."""
    content = bytearray(path.read_bytes())
    content[-1000] ^= 1
    path.write_bytes(content)


def another_spec(path: Path) -> None:
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    header["__metadata__"]["postval.model_spec"] = "{}"
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


def gone(path: Path) -> None:
    path.unlink()


SPOILT = [cut_off, emptied, zeros, one_bit, another_spec, gone]


def prepared(bench: Bench) -> tuple[dict[str, str], Path]:
    """Extracted, gated, with bars; the archive by symbol, and the file of the weights."""
    bench.put_bars("BTCUSD")
    archives = bench.intake(bench.deliver(bench.archive(MODELS)))
    bench.load(["BTCUSD"])
    [weights] = (bench.platform.settings.data_dir / "weights").glob("*/*.safetensors")
    return archives, weights


def folds(bench: Bench) -> list[dict[str, object]]:
    return bench.rows("SELECT * EXCLUDE (run_id, created_at) FROM fold_results ORDER BY fold")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory, make_bench: MakeBench) -> list[dict[str, object]]:
    """The folds of weights that nobody spoilt."""
    bench = make_bench(tmp_path_factory.mktemp("undisturbed"))
    bench.evaluate(prepared(bench)[0])
    return folds(bench)


@pytest.mark.parametrize("spoil", SPOILT)
def test_spoilt_weights_are_made_again_where_they_are_used(
    spoil: Callable[[Path], None],
    bench: Bench,
    undisturbed: list[dict[str, object]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    archives, weights = prepared(bench)
    whole = weights.read_bytes()
    spoil(weights)
    with caplog.at_level(logging.WARNING, logger="postval"):
        report = bench.evaluate(archives)
    assert [s.problems for s in report.symbols] == [()]
    assert folds(bench) == undisturbed != []
    assert weights.read_bytes() == whole
    [line] = [r.message for r in caplog.records if r.name == "postval.weights"]
    assert str(weights) in line
    assert "BTCUSD_4Hour" in line
    assert "read again from archive 20250201_000000" in line


def test_where_all_is_current_nothing_is_read(bench: Bench) -> None:
    archives, weights = prepared(bench)
    bench.evaluate(archives)
    one_bit(weights)
    report = bench.evaluate(archives)
    assert [(s.n_rows, s.n_current) for s in report.symbols] == [(5, 5)]


@pytest.mark.parametrize("spoil", [cut_off, emptied, zeros, another_spec, gone])
def test_extraction_does_not_take_a_spoilt_file_for_current(
    spoil: Callable[[Path], None], bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    archives, weights = prepared(bench)
    whole = weights.read_bytes()
    spoil(weights)
    with caplog.at_level(logging.WARNING, logger="postval"):
        report = extract_models(bench.platform, archives, run_id="again")
    assert [(s.n_rows, s.n_current) for s in report.symbols] == [(1, 0)]
    assert weights.read_bytes() == whole
    assert "read again from archive 20250201_000000" in caplog.text


def test_where_the_archive_is_gone_too_it_is_said_and_nothing_is_computed(bench: Bench) -> None:
    archives, weights = prepared(bench)
    one_bit(weights)
    bench.platform.archives.path_of(bench.one("SELECT sha256 FROM training_archives")["sha256"]).unlink()
    [symbol] = bench.evaluate(archives).symbols
    assert "is damaged" in symbol.problems[0]
    assert "deliver it again" in symbol.problems[0]
    assert folds(bench) == []
    weights.unlink()
    with pytest.raises(Unavailable, match=r"are not there; .* deliver it again"):
        bench.evaluate(archives)


def test_other_settings_that_give_other_weights_are_not_mixed_in(bench: Bench) -> None:
    """The row says which weights it is about; those of today's settings are a different model."""
    models = {"BTCUSD_4Hour": {**network(None, seed=7), "activation": None}}
    bench.put_bars("BTCUSD")
    archives = bench.intake(bench.deliver(bench.archive(models)))
    bench.load(["BTCUSD"])
    [weights] = (bench.platform.settings.data_dir / "weights").glob("*/*.safetensors")
    weights.unlink()
    [symbol] = bench.configured(default_activation="tanh").evaluate(archives).symbols
    assert "gives other weights under today's settings" in symbol.problems[0]
    assert folds(bench) == []
