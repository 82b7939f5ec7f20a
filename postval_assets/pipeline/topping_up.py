"""Stage ``bars`` over a source of the network: only what is missing is asked for, and nothing is asked twice.

Here: which ranges are asked, what is believed of the answers, and writing them with the record of what was asked. Not
here: requests (io), sets of ranges (core/coverage.py), sources that are read whole (loading.py).

The table ``bar_coverage`` says for each series which opens were asked for and answered whole; bars and coverage go into
one transaction, so a process that is killed loses what was not written yet and nothing else. New bars are asked for
together with a few that are stored, in the same request. Where closes of these differ, adjusted history has shifted
(a split, a dividend): the symbol is fetched whole again, and ``bar_restatements`` says so.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from datetime import datetime, time, timedelta

import pandas as pd

from postval_assets.core.bar_changes import CloseComparison, changed_rows, compare_closes
from postval_assets.core.coverage import TimeRange, union, whole_minute
from postval_assets.core.failures import Rejected, Unavailable
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.io.bar_source import BarAnswer, BarAsk, RemoteBarSource
from postval_assets.io.warehouse import Append, Change, Merge, Replace
from postval_assets.pipeline.bar_questions import Question, Series, question_again, questions, read_series
from postval_assets.pipeline.platform import Platform, StageReport, SymbolReport

log = logging.getLogger("postval.market")

EMPTY = "the source has no bars"

# Bars kept back before they are written. A killed process loses no more than these and the group of requests in
# flight, together some seconds of what 200 requests a minute bring.
_ROWS_PER_WRITE = 200_000

# A history fetched again that has less of the stored bars than this is one that came in part.
_LEAST_SHARE_AGAIN = 0.5


def top_up_bars(
    platform: Platform, source: RemoteBarSource, symbols: Sequence[str], *, run_id: str
) -> StageReport:
    """Ask the source for what is missing of these symbols' bars, up to its newest complete one, and store it.

    Args:
        platform: settings (base timeframe, days of history), warehouse and clock.
        source: who is asked.
        symbols: whose bars, in the base timeframe and each finer one that a model of the symbol has.
        run_id: goes into the rows.

    Raises:
        Unavailable: once, after everything was tried, where the source did not answer for some; what it had answered
            before is stored.
        Rejected: once, after the other asset class was tried, where the source refuses altogether (keys).
    """
    stage = _ToppingUp(platform, source, symbols, run_id)
    stage.run()
    return stage.report()


class _ToppingUp:
    """One pass over some symbols, writing in batches."""

    def __init__(
        self, platform: Platform, source: RemoteBarSource, symbols: Sequence[str], run_id: str
    ) -> None:
        self.platform = platform
        self.source = source
        self.run_id = run_id
        self.symbols = list(dict.fromkeys(symbols))
        self.series = read_series(platform, source, self.symbols)
        self.unavailable: list[str] = []
        self.refused: list[Rejected] = []
        self.shifted: dict[Series, CloseComparison] = {}
        # Kept back for the next write.
        self.fresh: list[pd.DataFrame] = []
        self.gone: list[dict[str, object]] = []
        self.restatements: list[dict[str, object]] = []
        self.touched: dict[Series, None] = {}

    def run(self) -> None:
        """Ask for everything that is missing, series of one timeframe and asset class together."""
        groups: dict[tuple[Timeframe, AssetClass], list[Series]] = {}
        for series in self.series:
            groups.setdefault((series.timeframe, series.asset_class), []).append(series)
        now = self.platform.now()
        for (timeframe, asset_class), members in groups.items():
            wanted = self._wanted(timeframe, asset_class, now)
            if wanted is None:
                continue
            # Of a group that failed, what had shifted is seen again the next time.
            self.shifted = {}
            try:
                self._ask(questions(self.platform, members, wanted), timeframe, asset_class)
                again = [question_again(self.platform, s, wanted, shift) for s, shift in self.shifted.items()]
                self._ask(again, timeframe, asset_class)
            except Unavailable as error:
                self.unavailable.append(f"{timeframe} bars of {asset_class}: {error}")
            except Rejected as error:
                log.warning("%s bars of %s: %s", timeframe, asset_class, error)
                self.refused.append(error)
            finally:
                self._write()
        if self.refused:
            raise self.refused[0]
        if self.unavailable:
            raise Unavailable(
                f"{self.source.name} did not answer for some bars (what it answered is stored): "
                + "; ".join(self.unavailable)
            )

    def report(self) -> StageReport:
        """What every symbol has now."""
        reports = []
        for symbol in self.symbols:
            own = [s for s in self.series if s.symbol == symbol]
            problems = [f"{s.timeframe}: {s.problem or EMPTY}" for s in own if s.problem or not s.n_bars]
            reports.append(
                SymbolReport(
                    symbol,
                    n_rows=sum(s.n_bars for s in own),
                    n_current=sum(s.n_stored for s in own),
                    problems=tuple(problems),
                    said=tuple(line for s in own for line in s.said),
                )
            )
        return StageReport(tuple(reports))

    def _wanted(self, timeframe: Timeframe, asset_class: AssetClass, now: datetime) -> TimeRange | None:
        newest = whole_minute(self.source.newest_complete(timeframe, asset_class, now))
        # A whole day, so that all symbols are asked for the same range and share requests.
        first_day = (now - timedelta(days=self.platform.settings.history_days)).date()
        since = datetime.combine(first_day, time(), tzinfo=newest.tzinfo)
        return TimeRange(since, newest) if since <= newest else None

    def _ask(self, asked: Sequence[Question], timeframe: Timeframe, asset_class: AssetClass) -> None:
        """Ask, and keep each answer for writing as it comes."""
        if not asked:
            return
        of_ask = {BarAsk(q.series.symbol, q.range.start, q.range.end): q for q in asked}
        for answer in self.source.answer(list(of_ask), timeframe, asset_class):
            self._take(of_ask[answer.ask], answer)
            if sum(map(len, self.fresh)) >= _ROWS_PER_WRITE:
                self._write()
        self._write()

    def _take(self, question: Question, answer: BarAnswer) -> None:
        series = question.series
        delivered = answer.bars.frame()
        # A bar after the range is not complete yet.
        delivered = delivered[delivered["ts"].between(question.range.start, question.range.end)]
        problem = answer.problem or _why_not_believed(question, delivered)
        if problem is not None:
            # Who reads it sees the symbol beside it.
            problem = problem.removeprefix(f"{series.symbol}: ")
            log.warning("%s %s: %s", series.symbol, series.timeframe, problem)
            series.problem = problem
            self.touched[series] = None
            return
        if question.stored is not None and not question.whole and series.asset_class is AssetClass.EQUITY:
            compared = compare_closes(question.stored, delivered)
            if compared.n_differing:
                # Nothing of this answer is kept: its bars and the stored ones are of two histories.
                self.shifted[series] = compared
                return
        self._store(question, delivered)

    def _store(self, question: Question, delivered: pd.DataFrame) -> None:
        """Keep an answer's bars, and that it was given, for the next write."""
        series = question.series
        n_before = series.n_bars
        fresh, n_new = changed_rows(delivered, question.stored)
        self.fresh.append(
            fresh.assign(symbol=series.symbol, timeframe=series.timeframe.value, source=series.source)
        )
        gone = 0
        if question.whole and question.stored is not None:
            lost = question.stored["ts"][~question.stored["ts"].isin(delivered["ts"])]
            self.gone += [{**series.key, "ts": ts} for ts in lost]
            gone = len(lost)
        series.n_new += n_new - gone
        series.n_fetched += len(delivered)
        series.n_changed += len(fresh)
        if len(delivered):
            first, last = (ts.to_pydatetime() for ts in delivered["ts"].iloc[[0, -1]])
            series.first_ts = min(first, series.first_ts or first)
            series.last_ts = max(last, series.last_ts or last)
        series.covered = union([*series.covered, question.range])
        self.touched[series] = None
        if question.shift is not None:
            self._restated(question, question.shift, n_before=n_before, n_changed=len(fresh))

    def _restated(self, question: Question, shift: CloseComparison, *, n_before: int, n_changed: int) -> None:
        series = question.series
        self.restatements.append(
            {
                **series.key,
                "source": series.source,
                "detected_at": self.platform.now(),
                "first_ts": series.first_ts,
                "last_ts": series.last_ts,
                "ratio": shift.ratio,
                "n_compared": shift.n_compared,
                "n_differing": shift.n_differing,
                "n_bars_before": n_before,
                "n_bars_after": series.n_bars,
                "n_changed": n_changed,
            }
        )
        by = f" by a factor of {shift.ratio:.6g}" if shift.ratio is not None else ""
        words = (
            f"{series.timeframe}: adjusted history has shifted{by} ({shift.n_differing} of {shift.n_compared} closes "
            f"that were compared): fetched whole again, {n_changed} bar(s) changed"
        )
        series.said.append(words)
        log.warning("%s %s", series.symbol, words)

    def _write(self) -> None:
        """Write what was kept back: bars, and that they were asked for, in one transaction."""
        touched = list(self.touched)
        if not touched:
            return
        keys = [s.key for s in touched]
        changes: list[Change] = []
        if self.gone:
            changes.append(Replace("bars", self.gone, []))
        if sum(map(len, self.fresh)):
            changes.append(Merge("bars", pd.concat([f for f in self.fresh if len(f)], ignore_index=True)))
        changes += [
            # Also what other sources and feeds were asked: their bars are no longer there.
            Replace("bar_coverage", keys, list(self._coverage())),
            Replace("bar_loads", keys, [self._load_row(s) for s in touched]),
        ]
        if self.restatements:
            changes.append(Append("bar_restatements", self.restatements))
        self.platform.warehouse.write(changes, run_id=self.run_id, now=self.platform.now())
        log.info(
            "bars: %d symbol(s) answered, %d bar(s) written", len(touched), sum(len(f) for f in self.fresh)
        )
        self.fresh, self.gone, self.restatements, self.touched = [], [], [], {}

    def _coverage(self) -> Iterator[dict[str, object]]:
        for series in self.touched:
            for one in series.covered:
                yield {**series.key, "source": series.source, "start_ts": one.start, "end_ts": one.end}

    def _load_row(self, series: Series) -> dict[str, object]:
        status = "REJECTED" if series.problem else "OK" if series.n_bars else "EMPTY"
        return {
            **series.key,
            "source": series.source,
            "status": status,
            "reason": series.problem or (EMPTY if status == "EMPTY" else None),
            "n_fetched": series.n_fetched,
            "n_changed": series.n_changed,
            "first_ts": series.first_ts,
            "last_ts": series.last_ts,
            "fetched_digest": None,
        }


def _why_not_believed(question: Question, delivered: pd.DataFrame) -> str | None:
    """What is wrong with an answer that has nothing, or too little, of what is stored; None where it is as expected."""
    if question.stored is None:
        return None
    n_stored, n_there = len(question.stored), int(question.stored["ts"].isin(delivered["ts"]).sum())
    if question.shift is not None:
        is_enough = n_there >= _LEAST_SHARE_AGAIN * n_stored
    else:
        is_enough = len(delivered) > 0 if question.whole else n_there > 0
    if is_enough:
        return None
    lacks = (
        f"{n_stored - n_there} of the {n_stored} stored bar(s)"
        if n_there
        else f"the {n_stored} stored bar(s)"
    )
    return (
        f"the source no longer has {lacks} from {question.range.start:%Y-%m-%d} on: nothing of its answer is kept, "
        "and it is asked again next time"
    )
