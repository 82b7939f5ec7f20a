"""Stage ``gating_scores``: the claims of training against the thresholds.

Here: one row a model. Not here: the rules (core.gating).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from postval_assets.core.evaluation import digest_of
from postval_assets.core.gating import Classification, Flag, Thresholds, gate
from postval_assets.core.summary import TrainingSummary
from postval_assets.io.warehouse import Replace
from postval_assets.pipeline.instants import WANTED, wanted
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.recording import keep, thresholds_content
from postval_assets.pipeline.stopwatch import timed_stage

_MODELS = f"""
SELECT m.archive_id, m.symbol, m.timeframe, c.fitness_history, c.profit_factor_history, c.consistency_history,
       c.max_drawdown_history, c.symbol IS NULL AS unclaimed, c.problem, a.reward_scale, a.validation_interval,
       r.status IS NOT DISTINCT FROM 'DISAGREES' AS disagrees
FROM extracted_models m
JOIN {WANTED} w USING (archive_id, symbol)
JOIN training_archives a USING (archive_id)
LEFT JOIN training_claims c USING (archive_id, symbol, timeframe)
LEFT JOIN claim_reproductions r
  ON r.archive_id = m.archive_id AND r.symbol = m.symbol AND r.timeframe = m.timeframe
  AND r.model_sha256 = m.model_sha256
ORDER BY m.timeframe
"""  # noqa: S608 - constants


@timed_stage("gating_scores")
def gate_models(platform: Platform, archives: Mapping[str, str], *, run_id: str) -> StageReport:
    """Classify every model of these symbols.

    Args:
        platform: settings and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows.
    """
    thresholds = platform.settings.gate_thresholds
    by_symbol: dict[str, list[dict[str, object]]] = {symbol: [] for symbol in archives}
    for model in platform.warehouse.rows(_MODELS, wanted(archives)):
        row = gate_row(model, thresholds)
        # Of the claims alone nobody could tell: it stays until they are compared with bars again (reproducing.py), and
        # is in no digest of the gate, whose inputs it is none of.
        disagrees = model["disagrees"] and row["classification"] != Classification.INVALID
        row["flags"] = with_claim_flag(row["flags"], disagrees=disagrees)
        by_symbol[model["symbol"]].append(row)
    keys = [{"archive_id": archive_id, "symbol": symbol} for symbol, archive_id in archives.items()]
    rows = [row for models in by_symbol.values() for row in models]
    if keys:
        kept = keep(platform, [thresholds_content(thresholds)])
        changes = [Replace("gating_scores", keys, rows), *kept]
        platform.warehouse.write(changes, run_id=run_id, now=platform.now())
    return StageReport(
        tuple(
            SymbolReport(symbol, len(models), problems=tuple(_problems(models)))
            for symbol, models in by_symbol.items()
        )
    )


def with_claim_flag(flags: Any, *, disagrees: bool) -> list[str]:
    """Flags of a model with CLAIM_NOT_REPRODUCED, which comes last, or without it.

    Args:
        flags: of the row; None for none.
        disagrees: whether bars of its training window disagree with its claims.
    """
    others = [str(flag) for flag in flags or () if flag != Flag.CLAIM_NOT_REPRODUCED]
    return [*others, Flag.CLAIM_NOT_REPRODUCED.value] if disagrees else others


def _problems(rows: Sequence[Mapping[str, object]]) -> list[str]:
    return [f"{r['timeframe']}: INVALID, {r['reason']}" for r in rows if r["classification"] == "INVALID"]


def claims_of(summary: TrainingSummary, archive_id: str, symbol: str, timeframe: str) -> dict[str, Any]:
    """What ``gate_row`` is given of a model, from the summary itself; values as the tables would have them."""
    found = next((c for (s, t), c in summary.claims.items() if (s, t.value) == (symbol, timeframe)), None)
    histories = {
        "fitness_history": found.fitness_score if found else (),
        "profit_factor_history": found.profit_factor if found else (),
        "consistency_history": found.consistency if found else (),
        "max_drawdown_history": found.max_drawdown if found else (),
    }
    return {
        "archive_id": archive_id,
        "symbol": symbol,
        "timeframe": timeframe,
        **{
            name: [None if math.isnan(value) else float(value) for value in values]
            for name, values in histories.items()
        },
        "unclaimed": found is None,
        "problem": found.problem if found else None,
        "reward_scale": summary.reward_scale,
        "validation_interval": summary.validation_interval,
    }


def stored_claims(platform: Platform, archive_id: str, symbol: str, timeframe: str) -> dict[str, Any] | None:
    """What ``gate_row`` is given of a model, from the tables; None where they have no such model."""
    rows = platform.warehouse.rows(_MODELS, wanted({symbol: archive_id}))
    return next((r for r in rows if r["timeframe"] == timeframe), None)


def gate_row(model: Mapping[str, Any], thresholds: Thresholds) -> dict[str, object]:
    """The row of one model, from its claims.

    Args:
        model: archive_id, symbol, timeframe, the four histories, ``unclaimed`` (the summary has no metrics of it),
            ``problem``, reward_scale and validation_interval.
        thresholds: the set to apply.
    """
    histories = {
        name: tuple(model[f"{name}_history"] or ())
        for name in ("fitness", "profit_factor", "consistency", "max_drawdown")
    }
    problem = "the training summary has no metrics for this model" if model["unclaimed"] else model["problem"]
    result = gate(
        fitness_history=histories["fitness"],
        profit_factor_history=histories["profit_factor"],
        consistency_history=histories["consistency"],
        max_drawdown_history=histories["max_drawdown"],
        problem=problem,
        reward_scale=model["reward_scale"],
        validation_interval=model["validation_interval"],
        thresholds=thresholds,
    )
    claims = {
        "histories": histories,
        "problem": problem,
        "reward_scale": model["reward_scale"],
        "validation_interval": model["validation_interval"],
    }
    return {
        "archive_id": model["archive_id"],
        "symbol": model["symbol"],
        "timeframe": model["timeframe"],
        "fitness": result.fitness,
        "profit_factor": result.profit_factor,
        "consistency": result.consistency,
        "max_drawdown": result.max_drawdown,
        "classification": result.classification.value,
        "flags": [flag.value for flag in result.flags],
        "use_checkpoint": result.use_checkpoint,
        "checkpoint_index": result.checkpoint_index,
        "checkpoint_update": result.checkpoint_update,
        "thresholds_version": result.thresholds_version,
        "reason": result.reason,
        "claims_digest": digest_of(claims),
        "thresholds_digest": thresholds_content(thresholds).digest,
        "inputs_digest": digest_of({**claims, "thresholds": repr(thresholds)}),
    }
