"""Recorded decisions come out the same when nothing changed, and what changed is named when something did."""

from __future__ import annotations

import hashlib
import shutil
from dataclasses import replace as changed
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from postval_assets.core import gating
from postval_assets.core.failures import Rejected
from postval_assets.io.warehouse import Update
from postval_assets.pipeline import decision_rows, evaluation
from postval_assets.pipeline.platform import open_platform
from postval_assets.pipeline.recorded_decisions import counting_decisions, find_decision
from postval_assets.pipeline.recording import Kind, decision_contents, execution_content, settings_of
from postval_assets.pipeline.replaying import Outcome, Replay, replay
from postval_assets.settings import Settings
from postval_assets_tests.factories import (
    drop_claims,
    good_claims,
    make_checkpoint,
    make_summary,
    review_claims,
)
from postval_assets_tests.pipeline.conftest import BUY, END, HOLD, Bench, MakeBench, bars_frame, network

ARCHIVE = "20250201_000000"
CLAIMS = {"POORUSD": drop_claims(), "REVUSD": review_claims()}
EARLIER = END - timedelta(days=4)


def _prepared(bench: Bench) -> None:
    """Every kind of decision: with folds and without, of usable models and of others, at two instants."""
    models: dict[str, Any] = {
        "UPPUSD_4Hour": network(BUY),
        "REVUSD_4Hour": network(),
        "IDLEUSD_4Hour": make_checkpoint(bench.root / "silent.pt", activation=None, **network(HOLD)),
        "SHRTUSD_4Hour": network(BUY),
        "NONEUSD_4Hour": network(BUY),
        "POORUSD_4Hour": network(BUY),
        "LOSTUSD_4Hour": network(BUY, model_version="9.9.9"),
        "what is this_4Hour": network(BUY),
    }
    claims = {name: CLAIMS.get(name.partition("_")[0], good_claims()) for name in models}
    # Metrics of a model that has no checkpoint.
    summary = make_summary({**claims, "GONEUSD_4Hour": good_claims()}, timestamp=ARCHIVE)
    delivery = bench.deliver(bench.archive(models, summary=summary))
    archives = bench.intake(delivery)
    for n, symbol in enumerate(s for s in archives if s not in ("NONEUSD", "SHRTUSD")):
        bench.put_bars(symbol, market="rising" if symbol == "UPPUSD" else "noisy", seed=n)
    bench.put_bars("SHRTUSD", bars_frame(n=180 * 6 + 20))
    bench.load(list(archives))
    bench.check(list(archives))
    evaluated = {s: a for s, a in archives.items() if s != "NONEUSD"}
    bench.evaluate(evaluated, as_of=EARLIER)
    bench.decide(archives)
    bench.evaluate(evaluated, as_of=END)
    bench.decide(archives)


@pytest.fixture(scope="module")
def decided(tmp_path_factory: pytest.TempPathFactory, make_bench: MakeBench) -> Bench:
    bench = make_bench(tmp_path_factory.mktemp("decided"))
    _prepared(bench)
    return bench


@pytest.fixture
def bench(decided: Bench, tmp_path: Path) -> Bench:
    """A copy that may be changed."""
    for folder in ("data", "bars"):
        shutil.copytree(decided.root / folder, tmp_path / folder)
    given = decided.platform.settings.model_dump(exclude_defaults=True)
    places = {"data_dir": tmp_path / "data", "bars_source": f"parquet:{tmp_path / 'bars'}"}
    settings = Settings(**{**given, **places})
    return changed(decided, root=tmp_path, platform=open_platform(settings, now=decided.clock))


def all_of(bench: Bench, **options: Any) -> list[Replay]:
    return list(replay(bench.platform, counting_decisions(bench.platform), **options))


def newest(bench: Bench, symbol: str, **options: Any) -> Replay:
    row = find_decision(bench.platform, (ARCHIVE, symbol, "4Hour", "180d"))
    [found] = replay(bench.platform, [row], **options)
    return found


def named(found: Replay) -> list[str]:
    return [str(d) for d in found.inputs]


def digests(folder: Path) -> dict[str, str]:
    """Every file of a data directory but locks, with its content."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(folder.rglob("*"))
        if p.is_file() and ".lock" not in p.name
    }


# --- nothing changed ----------------------------------------------------------------------------------------


def test_every_decision_comes_out_the_same_and_nothing_is_written(decided: Bench) -> None:
    before = digests(decided.root)
    found = all_of(decided)
    told = {f"{f.row['symbol']} {f.row['as_of']}": (f.outcome, f.problem, named(f), f.notes) for f in found}
    assert {k: v for k, v in told.items() if v != (Outcome.SAME, None, [], ())} == {}
    assert {f.row["symbol"] for f in found} >= {
        "UPPUSD",
        "NONEUSD",
        "POORUSD",
        "LOSTUSD",
        "GONEUSD",
        "SHRTUSD",
    }
    assert any(f.row["timeframe"] == "unknown" for f in found), (
        "a model without a usable name is replayed too"
    )
    assert {f.row["as_of"] for f in found if f.row["symbol"] == "UPPUSD"} == {EARLIER, END}
    up = [f for f in found if f.row["symbol"] == "UPPUSD"]
    assert all(f.n_figures == 5 * 23 and f.exact and not f.figures for f in up)
    by_policy = {p: [f.row["decision"] for f in up if f.row["policy"] == p] for p in ("standard", "evidence")}
    # Always long in a market that only rises: no order of its one action is better than another.
    assert by_policy == {"standard": ["LIVE", "LIVE"], "evidence": ["RETRAIN", "RETRAIN"]}
    assert digests(decided.root) == before


def test_a_decision_is_found_by_its_id_or_its_key(decided: Bench) -> None:
    row = find_decision(decided.platform, (ARCHIVE, "UPPUSD", "4Hour", "180d"))
    assert row["as_of"] == END, "the newest evaluation"
    assert find_decision(decided.platform, (row["decision_id"],)) == row
    assert find_decision(decided.platform, (row["decision_id"][:7],)) == row
    earlier = find_decision(
        decided.platform, (ARCHIVE, "UPPUSD", "4Hour", "180d", EARLIER.isoformat(), "standard")
    )
    assert earlier["as_of"] == EARLIER
    ids = [r["decision_id"] for r in decided.rows("SELECT decision_id FROM deployment_decisions")]
    assert len(set(ids)) == len(ids)
    assert all(len(i) == 12 for i in ids)
    latest = decided.one("SELECT decision_id FROM latest_decisions WHERE symbol = 'UPPUSD'")
    assert latest["decision_id"] == row["decision_id"]
    for words, said in {
        ("UPPUSD",): "is no decision_id",
        ("0" * 12,): "no decision is called",
        ("a", "b"): "2 words do not name a decision",
        (ARCHIVE, "UPPUSD", "4Hour", "365d"): "no decision is recorded",
        (ARCHIVE, "UPPUSD", "4Hour", "180d", "yesterday-ish"): "is no as_of",
    }.items():
        with pytest.raises(Rejected, match=said):
            find_decision(decided.platform, words)


def test_ids_of_the_migration_are_those_of_the_code(decided: Bench) -> None:
    rows = decided.rows(
        """
        SELECT *, substr(sha256(concat_ws('|', archive_id, symbol, timeframe, coalesce(plan, ''),
            coalesce(CAST(epoch_us(as_of) AS VARCHAR), ''), policy, coalesce(inputs_digest, ''),
            CAST(epoch_us(created_at) AS VARCHAR))), 1, 12) AS in_sql
        FROM deployment_decisions
        """
    )
    assert rows
    for row in rows:
        assert row["decision_id"] == row["in_sql"] == decision_rows.decision_id(row, row["created_at"])


# --- one thing changed --------------------------------------------------------------------------------------


def test_a_changed_threshold_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    stricter = changed(gating.V2_4_5, approve=changed(gating.V2_4_5.approve, fitness=0.75))
    monkeypatch.setattr("postval_assets.settings.THRESHOLD_SETS", {"v2.4.5": stricter})
    found = newest(bench, "UPPUSD")
    assert found.outcome is Outcome.SAME, "0.80 is still enough"
    assert "thresholds v2.4.5 approve.fitness: recorded 0.7, now 0.75" in named(found)
    strictest = changed(gating.V2_4_5, approve=changed(gating.V2_4_5.approve, fitness=0.85))
    monkeypatch.setattr("postval_assets.settings.THRESHOLD_SETS", {"v2.4.5": strictest})
    other = bench.configured()
    found = newest(other, "UPPUSD")
    assert (found.outcome, found.row["decision"], found.decision) == (Outcome.DIFFERENT, "LIVE", "PAPER")
    assert "gate classification: recorded APPROVED, now REVIEW" in named(found)
    assert newest(other, "UPPUSD", with_recorded_settings=True).outcome is Outcome.SAME


def test_another_set_of_thresholds_is_named_with_its_numbers(bench: Bench) -> None:
    found = newest(bench.configured(thresholds_version="v4.1.0"), "REVUSD")
    assert "thresholds_version: recorded v2.4.5, now v4.1.0" in named(found)
    assert "thresholds v2.4.5 approve.fitness: recorded 0.7, now 0.35" in named(found)


CHANGED_SETTINGS = {
    "max_position: recorded 0.2, now 0.05": {"max_position": 0.05},
    "good_sharpe_std: recorded 1, now 0": {"good_sharpe_std": 0.0, "marginal_sharpe_std": 0.0},
    "asset_class: recorded crypto, now equity": {"symbol_classes": {"UPPUSD": "equity"}},
    "session: recorded all, now regular": {"session": "regular"},
}


@pytest.mark.parametrize(("said", "settings"), CHANGED_SETTINGS.items())
def test_a_changed_setting_is_named_and_the_recorded_ones_give_the_recorded_decision(
    bench: Bench, said: str, settings: dict[str, Any]
) -> None:
    other = bench.configured(**settings)
    found = newest(other, "UPPUSD")
    assert said in named(found)
    assert found.outcome is (Outcome.SAME if "session" in said else Outcome.DIFFERENT)
    again = newest(other, "UPPUSD", with_recorded_settings=True)
    assert (again.outcome, named(again)) == (Outcome.SAME, [])


def test_an_assumption_that_changed_is_named(bench: Bench) -> None:
    other = bench.configured(default_activation="tanh")
    found = newest(other, "IDLEUSD")
    assert {
        "default_activation: recorded relu, now tanh",
        "model activation: recorded relu, now tanh",
    } <= set(named(found))
    assert newest(other, "IDLEUSD", with_recorded_settings=True).outcome is Outcome.SAME


def test_changed_bars_are_named_by_their_folds(bench: Bench) -> None:
    frame = bars_frame("rising", seed=0)
    frame.loc[len(frame) - 300, ["high", "close"]] *= 1.02
    bench.put_bars("UPPUSD", frame)
    bench.load(["UPPUSD"])
    found = newest(bench, "UPPUSD")
    assert found.outcome is Outcome.DIFFERENT
    [bars] = [d for d in found.inputs if d.name == "bars"]
    assert "of 5 folds have other bars: 180d-4" in bars.present
    assert {d.name.partition(" ")[0] for d in found.figures} <= set(bars.present.replace(",", "").split())


def test_newer_bars_change_nothing_of_an_earlier_decision(bench: Bench) -> None:
    before = pd.read_parquet(bench.bars / "UPPUSD_4Hour.parquet").drop(columns="symbol")
    # The price stands still from here on: other figures for every check over all bars.
    more = pd.concat([before.tail(1)] * 12, ignore_index=True)
    more["ts"] = pd.date_range(END, periods=12, freq="4h")
    bench.put_bars("UPPUSD", pd.concat([before, more], ignore_index=True))
    bench.clock.at = END + timedelta(days=3)
    bench.load(["UPPUSD"])
    bench.check(["UPPUSD"])
    [stored] = bench.rows("SELECT count(*) AS n FROM bars WHERE symbol = 'UPPUSD'")
    assert stored["n"] == len(before) + 12
    found = newest(bench, "UPPUSD")
    assert (found.outcome, named(found)) == (Outcome.SAME, [])


def test_other_code_is_named(tmp_path: Path, make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench = make_bench(tmp_path)
    with monkeypatch.context() as then:
        for module in (evaluation, decision_rows):
            then.setattr(module, "code_version", lambda: "0123456789abcdef")
        then.setattr("postval_assets.core.evaluation.code_version", lambda: "0123456789abcdef")
        bench.put_bars("UPPUSD", market="rising")
        bench.validate(bench.archive({"UPPUSD_4Hour": network(BUY)}))
    found = newest(bench, "UPPUSD")
    assert (found.outcome, found.exact) == (Outcome.SAME, False)
    assert named(found) == [f"code: recorded 0123456789abcdef, now {decision_rows.code_version()}"]


def weights_of(bench: Bench, symbol: str) -> Path:
    sha = bench.one("SELECT model_sha256 AS s FROM extracted_models WHERE symbol = ?", symbol)["s"]
    return bench.platform.models.path_of(sha)


def archive_of(bench: Bench) -> Path:
    return bench.platform.archives.path_of(bench.one("SELECT sha256 FROM training_archives")["sha256"])


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(bytes(content))


def test_damaged_weights_are_named_while_the_archive_gives_the_same(bench: Bench) -> None:
    _damage(weights_of(bench, "UPPUSD"))
    found = newest(bench, "UPPUSD")
    assert found.outcome is Outcome.SAME
    [said] = named(found)
    assert said.startswith("weights: recorded ")
    assert said.endswith("now damaged: the stored file does not hold its digest")


def test_a_pruned_archive_is_named_and_its_weights_are_enough(bench: Bench) -> None:
    archive_of(bench).unlink()
    found = [newest(bench, symbol) for symbol in ("UPPUSD", "REVUSD", "LOSTUSD", "GONEUSD")]
    assert {f.outcome for f in found} == {Outcome.SAME}
    assert {d.present for f in found for d in f.inputs} == {"missing from the store"}


def test_without_archive_and_weights_a_decision_cannot_be_replayed(bench: Bench) -> None:
    archive_of(bench).unlink()
    weights_of(bench, "UPPUSD").unlink()
    found = newest(bench, "UPPUSD")
    assert found.outcome is Outcome.IMPOSSIBLE
    assert str(found.problem).startswith("archive: missing from the store; weights ")
    assert str(found.problem).endswith(": missing from the store")
    assert newest(bench, "REVUSD").outcome is Outcome.SAME, "its own weights are there"


def test_a_damaged_archive_is_named(bench: Bench) -> None:
    _damage(archive_of(bench))
    found = newest(bench, "UPPUSD")
    assert found.outcome is Outcome.SAME
    assert "was changed or damaged after it was stored" in named(found)[0]


def test_bars_that_are_gone_make_a_replay_impossible(bench: Bench) -> None:
    bench.platform.warehouse.write(
        [Update("bars", {"symbol": "UPPUSD"}, {"source": "gone"})], run_id="r", now=bench.clock()
    )
    assert newest(bench, "UPPUSD").outcome is Outcome.SAME, "who delivered them does not matter"
    from postval_assets.io.warehouse import Replace

    bench.platform.warehouse.write(
        [Replace("bars", [{"symbol": "UPPUSD"}], [])], run_id="r", now=bench.clock()
    )
    found = newest(bench, "UPPUSD")
    assert found.outcome is Outcome.IMPOSSIBLE
    assert "no bars of UPPUSD" in str(found.problem)


def test_bars_that_came_later_are_named(bench: Bench) -> None:
    bench.put_bars("NONEUSD")
    bench.load(["NONEUSD"])
    row = find_decision(bench.platform, (ARCHIVE, "NONEUSD", "4Hour", "180d"))
    [found] = replay(bench.platform, [row])
    assert found.outcome is Outcome.DIFFERENT
    assert any(d.name == "missing" and d.present == "none" for d in found.inputs)


# --- what is kept -------------------------------------------------------------------------------------------


def test_a_decision_is_replayed_after_its_folds_were_computed_anew(bench: Bench) -> None:
    recorded = find_decision(bench.platform, (ARCHIVE, "UPPUSD", "4Hour", "180d"))
    costly = bench.configured(crypto_fee_bps=800.0)
    costly.evaluate({"UPPUSD": ARCHIVE})
    costly.decide({"UPPUSD": ARCHIVE})
    assert newest(costly, "UPPUSD").row["decision"] == "DROP"
    [found] = replay(costly.platform, [recorded])
    assert (found.outcome, found.row["decision"], found.decision) == (Outcome.DIFFERENT, "LIVE", "DROP")
    assert "crypto_fee_bps: recorded 25, now 800" in named(found)
    assert any(d.name.endswith("total_return") for d in found.figures)
    [again] = replay(costly.platform, [recorded], with_recorded_settings=True)
    assert (again.outcome, named(again)) == (Outcome.SAME, [])


def test_folds_of_different_settings_are_replayed_each_with_its_own(bench: Bench) -> None:
    from postval_assets.core.folds import plan_named
    from postval_assets.pipeline.evaluation import evaluate_folds
    from postval_assets.pipeline.fold_jobs import FoldSelection

    other = bench.configured(slippage_bps=6.0)
    selection = {"UPPUSD": [FoldSelection(plan_named("180d"), frozenset({2}))]}
    evaluate_folds(other.platform, {"UPPUSD": ARCHIVE}, selection, run_id="one")
    other.decide({"UPPUSD": ARCHIVE})
    found = newest(other, "UPPUSD")
    assert found.outcome is Outcome.DIFFERENT
    assert "slippage_bps: recorded 5, now 6" in named(found)
    assert not any(d.name.startswith("180d-2 ") for d in found.figures)
    assert newest(other, "UPPUSD", with_recorded_settings=True).outcome is Outcome.SAME


def test_a_decision_from_before_the_record_is_replayed_by_its_digests(bench: Bench) -> None:
    import duckdb

    with duckdb.connect(bench.platform.warehouse.path) as connection:
        for table in ("decision_inputs", "recorded_contents", "decided_folds"):
            connection.execute(f"DELETE FROM {table}")  # noqa: S608 - constants
    found = newest(bench, "UPPUSD")
    assert found.outcome is Outcome.SAME
    assert any("older than the record" in note for note in found.notes)
    assert any("figures of its folds were not kept" in note for note in found.notes)


def test_settings_come_back_from_what_is_recorded_of_them(bench: Bench) -> None:
    other = bench.configured(
        max_position=0.1,
        zero_volume="fill",
        account_features="neutral",
        session="regular",
        default_activation="tanh",
        config_prefixes="acme.,other.",
        feature_sets={"2.7.0": "acme-59"},
        quality={"stale": {"warn": 3.0, "error": 9.0}},
        quality_recent_days=100,
        lucky_positive_share=0.3,
    ).platform.settings
    contents = (execution_content(other), *decision_contents(other))
    wanted = {c.kind: c.values for c in contents if c.kind is not Kind.ENVIRONMENT}
    back = settings_of(bench.platform.settings, wanted)
    assert (execution_content(back), *decision_contents(back)) == contents
    assert execution_content(other).digest == other.evaluation_digest()


SECRETS = ("PKSECRETKEYID", "verysecretsecret", "proxy.invalid")


def test_no_secret_and_no_address_is_recorded(
    tmp_path: Path, make_bench: MakeBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("APCA_API_KEY_ID", SECRETS[0])
    monkeypatch.setenv("APCA_API_SECRET_KEY", SECRETS[1])
    bench = make_bench(tmp_path, alpaca_url=f"https://{SECRETS[2]}/x")
    bench.put_bars("UPPUSD", market="rising")
    bench.validate(bench.archive({"UPPUSD_4Hour": network(BUY)}))
    kept = repr([bench.rows("FROM decision_inputs"), bench.rows("FROM recorded_contents")])
    assert "max_position" in kept
    assert not [secret for secret in (*SECRETS, str(tmp_path)) if secret in kept]
