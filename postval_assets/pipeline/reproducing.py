"""Stage ``claim_reproductions``: what training claims of a model, beside what it does on its own training bars.

Here: which models, which of them are current, their rows, and the flag that the gate shows. Not here: which bars, the
figures and what a large disagreement is (core.claims), or trading the blocks (fold_jobs.py, lockstep.py).

The flag is the one thing that a stage writes into the table of another: the gate comes before there are bars. It is in
the same transaction as the row that it follows from, and ``gate_models`` keeps it.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any

from postval_assets.core.bootstrap import seeded
from postval_assets.core.claims import (
    UNKNOWN_WINDOW,
    Claims,
    ClaimStatus,
    ClaimVerdict,
    Reproduction,
    compare,
    reproduce,
    training_blocks,
)
from postval_assets.core.evaluation import Evaluations, code_version, digest_of, fold_inputs
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.folds import to_datetime
from postval_assets.core.gating import Flag
from postval_assets.core.instruments import Timeframe
from postval_assets.core.walk_forward import FoldStatus
from postval_assets.io.warehouse import Change, Replace, Update
from postval_assets.pipeline.bar_checks import BarVerdicts
from postval_assets.pipeline.fold_jobs import FoldJob, compute, evaluated_model
from postval_assets.pipeline.gate import with_claim_flag
from postval_assets.pipeline.instants import WANTED, wanted
from postval_assets.pipeline.lockstep import run_jobs
from postval_assets.pipeline.market import ModelBars
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport
from postval_assets.pipeline.progress import Progress
from postval_assets.pipeline.recording import execution_content, keep, thresholds_content
from postval_assets.pipeline.stopwatch import timed_stage
from postval_assets.pipeline.stored_weights import require_readable, require_whole

log = logging.getLogger("postval.claims")

Row = Mapping[str, Any]

_KEYS = ("archive_id", "symbol", "timeframe")
_CLAIMED = ("fitness", "profit_factor", "consistency", "max_drawdown")
_MODELS = f"""
SELECT m.archive_id, m.symbol, m.timeframe, m.model_sha256, m.feature_set, m.train_start, m.train_end,
       a.train_start AS archive_train_start, a.train_end AS archive_train_end,
       g.fitness, g.profit_factor, g.consistency, g.max_drawdown, g.reason AS gate_reason, g.flags, g.claims_digest,
       r.status AS known_status, r.reason AS known_reason, r.inputs_digest AS known_digest
FROM extracted_models m
JOIN {WANTED} w USING (archive_id, symbol)
JOIN training_archives a USING (archive_id)
JOIN gating_scores g USING (archive_id, symbol, timeframe)
LEFT JOIN claim_reproductions r USING (archive_id, symbol, timeframe)
WHERE m.status = 'OK' AND (g.classification IN ('APPROVED', 'REVIEW') OR ?)
ORDER BY m.timeframe
"""  # noqa: S608 - constants


@timed_stage("claim_reproductions")
def reproduce_claims(platform: Platform, archives: Mapping[str, str], *, run_id: str) -> StageReport:
    """Compare the claims of every evaluated model with its training bars, where that is missing or out of date.

    Args:
        platform: settings, stores and warehouse.
        archives: archive_id by symbol.
        run_id: goes into the rows.

    Raises:
        Unavailable: once, after all other models are finished and written.
    """
    stage = _Stage(platform, archives)
    stage.run()
    stage.write(run_id)
    if stage.unavailable:
        raise Unavailable(
            f"the claims of {len(stage.unavailable)} model(s) could not be compared: "
            + "; ".join(stage.unavailable)
        )
    return stage.report()


@dataclass(frozen=True, eq=False)
class _Compared:
    """A model whose bars are at hand, before anything is computed."""

    row: Row
    claims: Claims
    job: FoldJob
    inputs_digest: str


@dataclass
class _Stage:
    """One pass over the models of some symbols.

    Attributes:
        platform: settings, stores and warehouse.
        archives: archive_id by symbol.
        unavailable: models that have to be tried again, and why.
        rows: new ones.
        flags: of the models whose flags change.
    """

    platform: Platform
    archives: Mapping[str, str]
    unavailable: list[str] = field(default_factory=list)
    rows: list[dict[str, Any]] = field(default_factory=list)
    flags: list[Update] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._outcomes: dict[str, list[tuple[str, ClaimVerdict, bool]]] = {s: [] for s in self.archives}
        self._settings_digest = self.platform.settings.evaluation_digest()
        self._review = self.platform.settings.gate_thresholds.review

    def run(self) -> None:
        """Compare all models."""
        include_dropped = self.platform.settings.include_dropped
        found = self.platform.warehouse.rows(_MODELS, (*wanted(self.archives), include_dropped))
        place = {symbol: n for n, symbol in enumerate(self.archives)}
        models = sorted(found, key=lambda r: place[r["symbol"]])
        bars = ModelBars(self.platform, list(dict.fromkeys(str(m["symbol"]) for m in models)))
        verdicts = BarVerdicts.stored(self.platform, bars, list(self.archives))
        progress = Progress(log, "claim_reproductions", total=len(models))
        waiting: dict[FoldJob, _Compared] = {}

        def jobs() -> Iterator[FoldJob]:
            # Drawn by this thread, as the workers get through: only it asks the warehouse.
            for row in models:
                one = self._prepared(row, bars, verdicts)
                if one is None:
                    progress.step(_name(row))
                    continue
                waiting[one.job] = one
                yield one.job

        with closing(run_jobs(self.platform, jobs(), len(models), compute)) as done:
            for job, outcome in done:
                self._finish(waiting.pop(job), outcome)
                progress.step(job.name)

    def _prepared(self, row: Row, bars: ModelBars, verdicts: BarVerdicts) -> _Compared | None:
        """What is to be computed of a model; None where it is current, or nothing can be computed."""
        try:
            one = self._at_hand(row, bars, verdicts)
            if row["known_digest"] == one.inputs_digest:
                self._keep(row)
                return None
            require_whole(self.platform, row)
        except Rejected as error:
            self._not_reproducible(row, str(error))
            return None
        except (Unavailable, OSError) as error:
            self.unavailable.append(f"{_name(row)}: {error}")
            return None
        return one

    def _at_hand(self, row: Row, bars: ModelBars, verdicts: BarVerdicts) -> _Compared:
        """A model with the blocks of its training window; raises Rejected where there are none to be used."""
        symbol, timeframe = str(row["symbol"]), Timeframe(row["timeframe"])
        claims = _claims(row)
        require_readable(self.platform, row)
        model = evaluated_model(self.platform, row)
        if model.training.end is None:
            raise Rejected(UNKNOWN_WINDOW)
        with self.platform.stopwatch.part("bars"):
            end = model.training.end + timedelta(minutes=timeframe.minutes)
            own = bars.read(symbol, timeframe, until=end)
        until, blocks = training_blocks(own, model.training, needed_before=model.needed_before)
        stopped = verdicts.stops(symbol, timeframe, until)
        if stopped is not None:
            raise Rejected(stopped)
        inputs = fold_inputs(model, own, blocks, until, self._settings_digest)
        parts = {
            "blocks": [i.inputs_digest for i in inputs],
            "claims": [row["claims_digest"], repr(claims)],
            "review": repr(self._review),
        }
        job = FoldJob(
            model=model,
            keys={name: row[name] for name in _KEYS},
            as_of=until,
            bars=own,
            cuts=(blocks,),
            wanted=(inputs,),
            stale=(inputs,),
            stored=({},),
            is_new=False,
            stopped=None,
        )
        return _Compared(row, claims, job, digest_of(parts))

    def _finish(self, one: _Compared, outcome: Evaluations | Exception) -> None:
        """Compare the evaluated blocks with the claims."""
        row, job = one.row, one.job
        if isinstance(outcome, Rejected):
            self._not_reproducible(row, str(outcome))
            return
        if isinstance(outcome, Exception):
            self.unavailable.append(f"{_name(row)}: {outcome}")
            return
        [blocks] = outcome
        capital = self.platform.settings.execution_rules.capital
        try:
            found = reproduce(
                blocks,
                job.cuts[0],
                job.as_of,
                capital,
                seeded(str(row["model_sha256"]), "claim_reproductions"),
            )
        except Rejected as error:
            # What was refused for no reason of its bars or weights is tried anew: its cause is in no digest.
            is_final = all(block.status is not FoldStatus.NOT_EVALUATED for block in blocks)
            self._not_reproducible(row, str(error), one.inputs_digest if is_final else None)
            return
        verdict = compare(one.claims, found, self._review)
        first, last = blocks[0].block, blocks[-1].block
        figures = {
            "start_ts": to_datetime(job.bars.ts[first.start]),
            "end_ts": to_datetime(job.bars.ts[last.stop - 1]),
            **_figures(found),
            "bars_digest": digest_of({"blocks": [block.bars_digest for block in blocks]}),
        }
        self._add(row, verdict, one.inputs_digest, figures)

    def _not_reproducible(self, row: Row, reason: str, inputs_digest: str | None = None) -> None:
        parts = {
            "model": row["model_sha256"],
            "claims": row["claims_digest"],
            "reason": reason,
            "settings": self._settings_digest,
            "code": code_version(),
        }
        digest = digest_of(parts) if inputs_digest is None else inputs_digest
        if row["known_digest"] == digest:
            self._keep(row)
        else:
            self._add(row, ClaimVerdict(ClaimStatus.NOT_REPRODUCIBLE, reason), digest, {})

    def _keep(self, row: Row) -> None:
        """A row that is current."""
        verdict = ClaimVerdict(ClaimStatus(row["known_status"]), row["known_reason"])
        self._told(row, verdict, is_current=True)

    def _add(
        self, row: Row, verdict: ClaimVerdict, inputs_digest: str, figures: Mapping[str, object]
    ) -> None:
        """A new row."""
        self.rows.append(
            {
                **{name: row[name] for name in (*_KEYS, "model_sha256")},
                **{f"claimed_{name}": row[name] for name in _CLAIMED},
                **figures,
                "status": verdict.status.value,
                "reason": verdict.reason,
                "settings_digest": self._settings_digest,
                "inputs_digest": inputs_digest,
            }
        )
        self._told(row, verdict, is_current=False)

    def _told(self, row: Row, verdict: ClaimVerdict, *, is_current: bool) -> None:
        self._outcomes[str(row["symbol"])].append((str(row["timeframe"]), verdict, is_current))
        flags = with_claim_flag(row["flags"], disagrees=verdict.status is ClaimStatus.DISAGREES)
        if flags != list(row["flags"] or ()):
            keys = {name: row[name] for name in _KEYS}
            self.flags.append(Update("gating_scores", keys, {"flags": flags}))

    def write(self, run_id: str) -> None:
        """Rows and flags, together; the settings that they come from beside them."""
        changes: list[Change] = [*self.flags]
        if self.rows:
            keys = [{name: r[name] for name in _KEYS} for r in self.rows]
            settings = self.platform.settings
            contents = [execution_content(settings), thresholds_content(settings.gate_thresholds)]
            changes = [
                Replace("claim_reproductions", keys, self.rows),
                *changes,
                *keep(self.platform, contents),
            ]
        if changes:
            with self.platform.stopwatch.part("writing"):
                self.platform.warehouse.write(changes, run_id=run_id, now=self.platform.now())

    def report(self) -> StageReport:
        """What is to be read about each symbol."""
        return StageReport(
            tuple(
                SymbolReport(
                    symbol,
                    len(outcomes),
                    sum(is_current for _, _, is_current in outcomes),
                    tuple(_problems(outcomes)),
                    tuple(_said(outcomes)),
                )
                for symbol, outcomes in self._outcomes.items()
            )
        )


def _name(row: Row) -> str:
    return f"{row['symbol']} {row['timeframe']}"


def _claims(row: Row) -> Claims:
    """The claims of a model; raises Rejected where the gate could not judge them."""
    if any(row[name] is None for name in _CLAIMED):
        raise Rejected(f"the claims cannot be judged: {row['gate_reason'] or 'a metric is missing'}")
    return Claims(**{name: row[name] for name in _CLAIMED})


def _figures(found: Reproduction) -> dict[str, object]:
    """The figures of the blocks as columns."""
    return {
        "n_blocks": found.n_blocks,
        "n_bars": found.n_bars,
        "n_trades": found.n_trades,
        "reproduced_profit_factor": found.profit_factor,
        "reproduced_profit_factor_high": found.profit_factor_high,
        "reproduced_consistency": found.consistency,
        "reproduced_max_drawdown": found.max_drawdown,
        "reproduced_return": found.total_return,
        "reproduced_sharpe": found.sharpe,
    }


def _problems(outcomes: Sequence[tuple[str, ClaimVerdict, bool]]) -> list[str]:
    """What the check of the asset tells; that nothing could be compared is no fault of the model."""
    return [
        f"{timeframe}: {Flag.CLAIM_NOT_REPRODUCED}: {verdict.reason}"
        for timeframe, verdict, _ in outcomes
        if verdict.status is ClaimStatus.DISAGREES
    ]


def _said(outcomes: Sequence[tuple[str, ClaimVerdict, bool]]) -> list[str]:
    """New outcomes as lines for the asset catalogue."""
    return [
        f"{timeframe}: {verdict.status}" + (f", {verdict.reason}" if verdict.reason else "")
        for timeframe, verdict, is_current in outcomes
        if not is_current
    ]
