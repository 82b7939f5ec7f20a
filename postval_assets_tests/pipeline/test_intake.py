"""From an archive to rows of models and their gate: what is usable, what is not, and that nothing is lost."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch

from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.features.reference import REFERENCE_59
from postval_assets.pipeline.archives import archives_of
from postval_assets.pipeline.extraction import extract_models, store_archive
from postval_assets.pipeline.gate import gate_models
from postval_assets_tests.factories import (
    VERSION_DIMS,
    drop_claims,
    good_claims,
    importable_class,
    make_policy,
    make_summary,
    review_claims,
)
from postval_assets_tests.pipeline.conftest import BUY, Bench, network

SHAPES = ("symbols", "results", "models", "top", "symbols-list", "results-list", "models-list", "list")


def test_every_shape_of_summary_reaches_the_gate(bench: Bench) -> None:
    claims = {"UNIUSD_4Hour": good_claims(), "SPY_4Hour": drop_claims()}
    models = {name: network(BUY) for name in claims}
    for n, shape in enumerate(SHAPES, start=1):
        stamp = f"2025010{n}_000000"
        summary = make_summary(claims, shape=shape, nested=n % 2 == 0, timestamp=stamp)
        archives = bench.intake(bench.deliver(bench.archive(models, summary=summary, stamp=stamp)))
        rows = bench.rows(
            "SELECT symbol, classification, reason FROM gating_scores WHERE archive_id = ? ORDER BY symbol",
            stamp,
        )
        assert [r["classification"] for r in rows] == ["DROP", "APPROVED"], shape
        assert archives == dict.fromkeys(("SPY", "UNIUSD"), stamp)


def test_facts_of_a_model_and_its_gate(bench: Bench) -> None:
    summary = make_summary(
        {"UNIUSD_4Hour": {**good_claims(), "fitness_score": [0.2, 1.0, 0.8] + [0.8] * 7}},
        validation_interval=40,
    )
    delivery = bench.deliver(
        bench.archive({"UNIUSD_4Hour": network(BUY, train_end="2024-05-31T20:00:00Z")}, summary=summary)
    )
    bench.intake(delivery)
    model = bench.one("SELECT * FROM extracted_models")
    assert {k: model[k] for k in ("model_version", "n_features", "n_actions", "window", "obs_dim")} == {
        "model_version": "2.7.0",
        "n_features": 59,
        "n_actions": 7,
        "window": 8,
        "obs_dim": 59 * 8,
    }
    assert (model["status"], model["reason"], model["feature_set_basis"]) == ("OK", None, "NAMED")
    assert (model["activation"], model["activation_basis"]) == ("relu", "NAMED")
    assert model["feature_set"] == "reference-59"
    assert model["hidden_dims"] == [8, 8]
    assert model["train_end"].isoformat() == "2024-05-31T20:00:00+00:00"
    assert (bench.platform.settings.data_dir / model["weights_path"]).is_file()
    assert not Path(model["weights_path"]).is_absolute()
    gate = bench.one("SELECT * FROM gating_scores")
    assert gate["classification"] == "APPROVED"
    assert gate["flags"] == ["FITNESS_DECLINE"]
    assert (gate["use_checkpoint"], gate["checkpoint_index"], gate["checkpoint_update"]) == (True, 1, 80)
    assert gate["thresholds_version"] == "v2.4.5"
    archive = bench.one("SELECT * FROM training_archives")
    assert (archive["status"], archive["n_models"], archive["n_rejected"]) == ("EXTRACTED", 1, 0)
    assert archive["models"] == ["UNIUSD_4Hour"]
    assert archive["train_end"].isoformat() == "2024-06-01T00:00:00+00:00"
    assert list(bench.platform.scratch.iterdir()) == [], "nothing of the archive stays behind"


def test_a_bad_model_is_a_row_and_leaves_its_neighbours_alone(bench: Bench, tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self):
            return os.system, ("touch " + str(tmp_path / "was_run"),)

    evil = tmp_path / "evil.pt"
    torch.save({"policy_state_dict": make_policy(window=8), "config": Evil()}, evil)
    with importable_class("somewhere.else.Config") as unlisted:
        foreign = tmp_path / "foreign.pt"
        torch.save({"policy_state_dict": make_policy(window=8), "config": unlisted()}, foreign)
    nan = make_policy(window=8)
    nan["actor_head.bias"][0] = float("nan")
    models = {
        "AAPL_4Hour": network(BUY),
        "BADA_4Hour": network(BUY, model_version="9.9.9"),
        "BADB_4Hour": network(BUY, n_features=60),
        "BADC_4Hour": network(BUY, feature_names=[f"f{i}" for i in range(53)], named=False),
        "BADD_4Hour": network(BUY, feature_set="nobody's"),
        "BADE_4Hour": evil,
        "BADF_4Hour": foreign,
        "BADG_4Hour": b"no checkpoint at all",
        "BADH_4Hour": network(BUY, policy_state_dict=nan),
        "BADI_4Hour": network(BUY, policy_state_dict={}),
        "SPY_4Hour": network(BUY),
    }
    delivery = bench.deliver(bench.archive(models))
    archives = dict.fromkeys(delivery.symbols, delivery.archive_id)
    report = extract_models(bench.platform, archives, run_id="extract")
    rows = {r["symbol"]: r for r in bench.rows("SELECT * FROM extracted_models")}
    assert set(rows) == {name.removesuffix("_4Hour") for name in models}
    expected = {
        "AAPL": ("OK", None),
        "BADA": ("INCOMPATIBLE", "model_version '9.9.9' is not known"),
        "BADB": ("INCOMPATIBLE", "n_features is 60, but version 2.7.0 has 59"),
        "BADC": ("INCOMPATIBLE", "feature names are no registered set's"),
        "BADD": ("INCOMPATIBLE", "which is not registered"),
        "BADE": ("REJECTED", "system"),
        "BADF": ("REJECTED", "somewhere.else"),
        "BADG": ("REJECTED", ""),
        "BADH": ("REJECTED", "NaN or infinite"),
        "BADI": ("REJECTED", "no policy_state_dict"),
        "SPY": ("OK", None),
    }
    for symbol, (status, said) in expected.items():
        assert rows[symbol]["status"] == status, rows[symbol]
        assert said is None or said in rows[symbol]["reason"], rows[symbol]["reason"]
        assert (rows[symbol]["weights_path"] is not None) == (status == "OK")
    assert not (tmp_path / "was_run").exists()
    assert bench.one("SELECT n_rejected FROM training_archives")["n_rejected"] == 9
    assert [s.symbol for s in report.symbols if s.problems] == sorted(rows.keys() - {"AAPL", "SPY"})
    assert rows["BADC"]["n_features"] == 59, "what is known of it is kept"


def test_how_the_feature_set_was_found(bench: Bench) -> None:
    models, expected = {}, []
    for n, (version, (n_features, _)) in enumerate(sorted(VERSION_DIMS.items())):
        names = list(REFERENCE_59.feature_names[:n_features])
        models |= {
            f"A{n}_4Hour": network(BUY, version=version),
            f"B{n}_4Hour": network(BUY, version=version, named=False, feature_names=names),
            f"C{n}_4Hour": network(BUY, version=version, named=False),
        }
        expected.append((version, f"reference-{n_features}"))
    delivery = bench.deliver(bench.archive(models))

    def found(prefix: str) -> list[tuple[str, str, str]]:
        rows = bench.rows(
            "SELECT * FROM extracted_models WHERE starts_with(symbol, ?) ORDER BY symbol", prefix
        )
        return [(r["model_version"], r["feature_set"], r["feature_set_basis"]) for r in rows]

    bench.intake(delivery)
    for prefix, basis in (("A", "NAMED"), ("B", "NAMED"), ("C", "ASSUMED")):
        assert found(prefix) == [(*e, basis) for e in expected]
    bench.configured(feature_sets=dict(expected)).intake(delivery, ["A0", "B1", *(f"C{n}" for n in range(5))])
    for prefix, basis in (("A", "NAMED"), ("B", "NAMED"), ("C", "CONFIGURED")):
        assert found(prefix) == [(*e, basis) for e in expected]
    bench.configured(feature_sets={delivery.archive_id: "reference-59"}).intake(delivery, ["C4", "C0"])
    rows = bench.rows(
        "SELECT symbol, status FROM extracted_models WHERE symbol IN ('C0', 'C4') ORDER BY symbol"
    )
    assert [r["status"] for r in rows] == ["INCOMPATIBLE", "OK"], "the archive is the closer word"


def test_a_model_without_metrics_and_metrics_without_a_model(bench: Bench) -> None:
    summary = make_summary({"AAPL_4Hour": good_claims(), "GONE_1Hour": good_claims()})
    archives = bench.intake(
        bench.deliver(bench.archive({"AAPL_4Hour": network(BUY), "BTCUSD": network(BUY)}, summary=summary))
    )
    assert set(archives) == {"AAPL", "BTCUSD", "GONE"}
    rows = bench.rows(
        "SELECT m.symbol, m.timeframe, status, m.reason, classification, g.reason AS gate_reason "
        "FROM extracted_models m LEFT JOIN gating_scores g USING (archive_id, symbol, timeframe) ORDER BY m.symbol"
    )
    assert [(r["symbol"], r["timeframe"], r["status"], r["classification"]) for r in rows] == [
        ("AAPL", "4Hour", "OK", "APPROVED"),
        ("BTCUSD", "1Hour", "OK", "INVALID"),
        ("GONE", "1Hour", "REJECTED", "APPROVED"),
    ]
    assert rows[1]["gate_reason"] == "the training summary has no metrics for this model"
    assert rows[2]["reason"] == (
        "the training summary has metrics, but the archive holds no checkpoint models/rl_symbols/GONE_1Hour.pt"
    )
    bench.decide(archives)
    assert [d["decision"] for s in ("BTCUSD", "GONE") for d in bench.decisions(s)] == ["DROP", "DROP"]
    assert bench.decisions("GONE")[0]["reasons"][0].startswith(
        "MODEL_NOT_OK: the training summary has metrics"
    )


def test_metrics_that_cannot_be_judged_are_invalid_and_the_others_go_on(bench: Bench) -> None:
    bad = {
        "BADA": ({"consistency": [85.0] * 10}, "it looks like a percentage"),
        "BADB": ({"max_drawdown": [0.1] * 9}, "unequal lengths"),
        "BADC": ({"fitness_score": []}, "fitness_score is empty"),
        "BADD": ({"fitness_score": [float("nan")] * 10}, "expected a finite number"),
        "BADE": ({"profit_factor": "1.9"}, "expected a finite number"),
    }
    claims = {f"{symbol}_4Hour": {**good_claims(), **change} for symbol, (change, _) in bad.items()}
    claims["SPY_4Hour"] = good_claims()
    models = {name: network(BUY) for name in claims}
    bench.intake(bench.deliver(bench.archive(models, summary=make_summary(claims))))
    rows = {r["symbol"]: r for r in bench.rows("SELECT * FROM gating_scores")}
    assert rows.pop("SPY")["classification"] == "APPROVED"
    for symbol, row in rows.items():
        assert (row["classification"], row["fitness"]) == ("INVALID", None)
        assert bad[symbol][1] in row["reason"]


def test_what_has_no_usable_symbol_is_a_row_and_a_drop(bench: Bench) -> None:
    summary = make_summary(
        {"AAPL_4Hour": good_claims(), "s p y": good_claims(), "BTCUSD_7Hour": good_claims()}
    )
    models = {"AAPL_4Hour": network(BUY), "we ird_4Hour": network(BUY), "AAPL_7Hour": network(BUY)}
    delivery = bench.deliver(bench.archive(models, summary=summary))
    assert delivery.symbols == ("AAPL",)
    assert delivery.n_models == 5

    def known() -> list[tuple[str, str]]:
        rows = bench.rows(
            "SELECT symbol, timeframe FROM extracted_models WHERE status = 'REJECTED' ORDER BY symbol"
        )
        return [(r["symbol"], r["timeframe"]) for r in rows]

    lost = [("AAPL", "unknown"), ("BTCUSD_7Hour", "unknown"), ("s p y", "unknown"), ("we ird", "unknown")]
    assert known() == lost
    archives = bench.intake(delivery)
    assert known() == lost, "extracting the neighbour of the same symbol keeps them"
    bench.put_bars("AAPL")
    bench.load(["AAPL"])
    bench.evaluate(archives)
    bench.decide(archives)
    bench.decide(archives)
    for symbol, _ in lost:
        (decision,) = [d for d in bench.decisions(symbol) if d["timeframe"] == "unknown"]
        assert decision["decision"] == "DROP"
        assert decision["reasons"][0].startswith("MODEL_NOT_OK: ")
    assert "unknown" in bench.decisions("BTCUSD_7Hour")[0]["reasons"][0]
    assert bench.one("SELECT status FROM training_archives")["status"] == "COMPLETE"


def test_an_archive_of_nothing_usable_is_decided_at_once(bench: Bench) -> None:
    file = bench.archive(
        {"we ird_4Hour": network(BUY)}, summary=make_summary({"we ird_4Hour": good_claims()})
    )
    delivery = bench.deliver(file)
    assert (delivery.outcome, delivery.symbols) == ("ACCEPTED", ())
    assert bench.one("SELECT status FROM training_archives")["status"] == "COMPLETE"
    assert {d["decision"] for d in bench.rows("SELECT * FROM deployment_decisions")} == {"DROP"}
    assert bench.deliver(file).outcome == "DUPLICATE"


def test_two_entries_of_one_model_are_both_refused(bench: Bench) -> None:
    models = {"UNIUSD": network(BUY), "UNIUSD_1Hour": network(BUY, seed=2), "AAPL_4Hour": network(BUY)}
    summary = make_summary({"UNIUSD": good_claims(), "AAPL_4Hour": good_claims()})
    delivery = bench.deliver(bench.archive(models, summary=summary))
    bench.intake(delivery)
    rows = bench.rows("SELECT symbol, timeframe, status, reason FROM extracted_models ORDER BY symbol")
    assert [(r["symbol"], r["timeframe"], r["status"]) for r in rows] == [
        ("AAPL", "4Hour", "OK"),
        ("UNIUSD", "1Hour", "REJECTED"),
    ]
    assert "UNIUSD 1Hour is in the archive 2 times" in rows[1]["reason"]


def test_class_shares_keep_their_dot(bench: Bench) -> None:
    archives = bench.intake(bench.deliver(bench.archive({"BRK.B_4Hour": network(BUY)})))
    assert set(archives) == {"BRK.B"}
    model = bench.one("SELECT * FROM extracted_models")
    assert (model["symbol"], model["timeframe"], model["status"]) == ("BRK.B", "4Hour", "OK")
    assert bench.one("SELECT classification FROM gating_scores")["classification"] == "APPROVED"
    assert archives_of(bench.platform, ["BRK.B"], None) == archives


def test_one_symbol_with_several_timeframes_is_one_partition(bench: Bench) -> None:
    archives = bench.intake(
        bench.deliver(bench.archive({f"BTCUSD_{t}": network(BUY) for t in ("1Hour", "4Hour")}))
    )
    assert set(archives) == {"BTCUSD"}
    rows = bench.rows("SELECT timeframe, model_sha256 FROM extracted_models ORDER BY timeframe")
    assert [r["timeframe"] for r in rows] == ["1Hour", "4Hour"]
    assert len({r["model_sha256"] for r in rows}) == 1, "equal weights are stored once"


def test_extracting_again_writes_one_copy(bench: Bench) -> None:
    delivery = bench.deliver(bench.archive({"AAPL_4Hour": network(BUY), "SPY_4Hour": network(BUY, seed=2)}))
    bench.intake(delivery)
    before = bench.rows("SELECT * EXCLUDE (run_id, created_at) FROM extracted_models ORDER BY symbol")
    bench.intake(delivery, ["SPY"])
    assert bench.rows("SELECT * EXCLUDE (run_id, created_at) FROM extracted_models ORDER BY symbol") == before
    assert (
        len(bench.rows("SELECT * FROM gating_scores"))
        == len(bench.rows("SELECT * FROM training_claims"))
        == 2
    )
    weights = [p for p in (bench.platform.settings.data_dir / "weights").rglob("*") if p.is_file()]
    assert len(weights) == 2


def test_part_of_an_archive_is_not_all_of_it(bench: Bench) -> None:
    delivery = bench.deliver(bench.archive({"AAPL_4Hour": network(BUY), "SPY_4Hour": network(BUY)}))
    bench.intake(delivery, ["AAPL"])
    assert bench.one("SELECT status FROM training_archives")["status"] == "RECEIVED"
    bench.intake(delivery, ["SPY"])
    assert bench.one("SELECT status FROM training_archives")["status"] == "EXTRACTED"


def test_a_disk_that_refuses_one_model_is_told_after_the_others_are_done(
    bench: Bench, tmp_path: Path
) -> None:
    delivery = bench.deliver(bench.archive({"AAPL_4Hour": network(BUY), "SPY_4Hour": network(seed=2)}))
    archives = bench.intake(delivery)
    sha = bench.one("SELECT model_sha256 FROM extracted_models WHERE symbol = 'AAPL'")["model_sha256"]
    folder = bench.platform.settings.data_dir / "weights" / sha[:2]
    for path in folder.iterdir():
        path.unlink()
    folder.rmdir()
    folder.write_text("a file where a folder is needed", encoding="utf-8")
    with pytest.raises(Unavailable, match=r"1 model\(s\) could not be extracted: AAPL 4Hour"):
        extract_models(bench.platform, archives, run_id="again")
    row = bench.one("SELECT symbol, run_id FROM extracted_models WHERE run_id = 'again'")
    assert row["symbol"] == "SPY"
    folder.unlink()
    extract_models(bench.platform, archives, run_id="a third time")
    assert len(bench.rows("SELECT * FROM extracted_models WHERE status = 'OK'")) == 2


def test_an_archive_that_is_nowhere_is_asked_for_again(bench: Bench) -> None:
    delivery = bench.deliver(bench.archive({"AAPL_4Hour": network(BUY)}))
    bench.platform.archives.path_of(delivery.sha256).unlink()
    with pytest.raises(Rejected, match="neither in the inbox nor in the store: deliver it again"):
        store_archive(bench.platform, delivery.archive_id, run_id="r")
    with pytest.raises(Rejected, match=r"archive '19990101_000000' is unknown: .* such as 20250201_000000"):
        store_archive(bench.platform, "19990101_000000", run_id="r")


def test_thresholds_are_named_in_every_row(bench: Bench) -> None:
    delivery = bench.deliver(
        bench.archive({"AAPL_4Hour": network(BUY)}, summary=make_summary({"AAPL_4Hour": review_claims()}))
    )
    archives = bench.intake(delivery)
    first = bench.one("SELECT * FROM gating_scores")
    other = bench.configured(thresholds_version="v4.1.0")
    gate_models(other.platform, archives, run_id="other")
    second = bench.one("SELECT * FROM gating_scores")
    assert (first["classification"], first["thresholds_version"]) == ("REVIEW", "v2.4.5")
    assert (second["classification"], second["thresholds_version"]) == ("REVIEW", "v4.1.0")
    assert first["inputs_digest"] != second["inputs_digest"]
