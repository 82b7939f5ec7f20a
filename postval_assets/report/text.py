"""Tables for the terminal: gating, PER-FOLD ANALYSIS, evidence, decisions, bars.

Here: layout of given rows. Not here: reading them, or judging them.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

Row = Mapping[str, Any]


def table(headers: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Columns aligned under their headers; numbers to the right, words to the left."""
    cells = [[_cell(value) for value in row] for row in rows]
    widths = [max([len(h), *(len(row[i]) for row in cells)]) for i, h in enumerate(headers)]
    right = [
        bool(rows) and all(row[i] is None or isinstance(row[i], int | float) for row in rows)
        for i in range(len(headers))
    ]

    def line(values: Sequence[str]) -> str:
        parts = [v.rjust(w) if r else v.ljust(w) for v, w, r in zip(values, widths, right, strict=True)]
        return "  ".join(parts).rstrip()

    return "\n".join([line(headers), line(["-" * w for w in widths]), *(line(row) for row in cells)])


def gating_table(rows: Sequence[Row]) -> str:
    """Intake and gate of each model; the training max drawdown is always called a proxy."""
    headers = (
        "symbol",
        "timeframe",
        "version",
        "status",
        "gate",
        "fitness",
        "PF",
        "consist.",
        "maxDD proxy",
        "flags",
    )
    body = []
    for r in rows:
        notes = list(r["flags"] or [])
        if r["use_checkpoint"]:
            update = r["checkpoint_update"]
            where = f"update {update}" if update is not None else f"validation {r['checkpoint_index']}"
            notes.append(f"checkpoint at {where} was better")
        if r["feature_set_basis"] == "ASSUMED":
            notes.append("features ASSUMED")
        if r["activation_basis"] == "ASSUMED":
            notes.append("activation ASSUMED")
        claimed = f"claims: {r['claim_reason']}" if r["claim_status"] == "DISAGREES" else None
        notes += [reason for reason in (r["gate_reason"], r["reason"], claimed) if reason]
        figures = [
            _number(r[name], 2) for name in ("fitness", "profit_factor", "consistency", "max_drawdown")
        ]
        body.append(
            (
                r["symbol"],
                r["timeframe"],
                r["model_version"],
                r["status"],
                r["classification"],
                *figures,
                "; ".join(notes),
            )
        )
    return table(headers, body)


def fold_analysis(summary: Row, folds: Sequence[Row]) -> str:
    """PER-FOLD ANALYSIS of one model over one plan, as the old script printed it, with a grade for each line."""
    head = f"PER-FOLD ANALYSIS  {summary['symbol']} {summary['timeframe']}, plan {summary['plan']}"
    lines = [f"{head}, as of {instant(summary['as_of'])}"]
    lines += [_fold_line(fold) for fold in folds]
    # A grade of nothing would be POOR, and say of the model what is true of its bars.
    grades = ("stability_grade", "consistency_grade", "profitability_grade")
    stability, consistency, profitability = (summary[g] if summary["n_computed"] else "-" for g in grades)
    expected = summary["sharpe_std_expected"]
    chance = "" if expected is None else f"; sampling alone gives +/- {expected:.2f}"
    mean = _number(summary["sharpe_mean"], 2)
    returns = f"{_percent(summary['return_min'])} to {_percent(summary['return_max'])}"
    lines += [
        f"  Sharpe Range: {_number(summary['sharpe_min'], 2)} to {_number(summary['sharpe_max'], 2)}  {stability}",
        f"  Sharpe Mean: {mean} (+/- {_number(summary['sharpe_std'], 2)})  {stability}{chance}",
        f"  Positive Folds: {summary['positive_folds']}/{summary['n_folds']}  {consistency}",
        f"  Returns: {returns}  {profitability}",
    ]
    overlaps = sorted({f["training_overlap"] for f in folds} - {"OUT_OF_SAMPLE"})
    if overlaps:
        count = sum(f["training_overlap"] != "OUT_OF_SAMPLE" for f in folds)
        lines.append(
            f"  Not shown to be out of sample: {count} of {len(folds)} folds ({', '.join(overlaps)})"
        )
    return "\n".join([*lines, *_evidence_lines(summary)])


def _evidence_lines(summary: Row) -> list[str]:
    """What the folds prove; nothing where that was not weighed."""
    if summary.get("evidence") is None:
        return []
    low, high = (_number(summary[name], 2) for name in ("bootstrap_low", "bootstrap_high"))
    lines = [
        (
            f"  Evidence: {summary['evidence']}  Sharpe {_number(summary['sharpe'], 2)} (90 % {low} .. {high}) over "
            f"{summary['n_counted']} folds that count"
        ),
        (
            f"  Luck: p {_chance(summary['p_value'])}; of the best of {summary['n_trials']} "
            f"{_chance(summary['p_value_archive'])}; PSR {_chance(summary['psr'])}"
        ),
        (
            f"  Track record: {_number(summary['track_record_days'], 0)} days, "
            f"{_number(summary['min_track_record_days'], 0)} needed; spread of the folds "
            f"{_number(summary['consistency_ratio'], 2)} times what sampling gives"
        ),
    ]
    if summary["null_percentile"] is not None:
        lines += [
            (
                f"  Null policies: better than {summary['null_percentile']:.1%} of 200 with its actions in another "
                f"order ({_percent(summary['null_return'])} on average); always long "
                f"{_percent(summary['always_long_return'])}, a day late {_percent(summary['day_late_return'])}, "
                f"a bar late {_percent(summary['lag_return'])}"
            ),
            (
                f"  Break-even cost: {_number(summary['break_even_cost_bps'], 1)} bps a side, "
                f"{summary['assumed_cost_bps']:g} assumed"
            ),
        ]
    return [*lines, *(f"    - {reason}" for reason in summary["evidence_reasons"])]


def _fold_line(fold: Row) -> str:
    when = f"{_day(fold['start_ts'])} .. {_day(fold['end_ts'])}"
    head = f"  Fold {fold['fold']:>2}  {when}  {fold['n_bars']:>5} bars"
    # A fold that was just refused has no figures at all; one that was read from the table has NULLs.
    if fold.get("total_return") is None:
        return f"{head}  {fold['status']}: {fold['reason']}"
    figures = (
        f"return {_percent(fold['total_return']):>8}  Sharpe {_number(fold['sharpe'], 2):>6}  "
        f"max DD {_drawdown(fold['max_drawdown']):>6}  trades {fold['n_trades']:>4}"
    )
    return f"{head}  {figures}  {fold['training_overlap']}" + (
        "" if fold["status"] == "OK" else f"  {fold['status']}"
    )


def backtest_table(rows: Sequence[Row]) -> str:
    """The last 30 days of each model."""
    headers = (
        "symbol",
        "timeframe",
        "30-day return",
        "buy and hold",
        "Sharpe",
        "max DD",
        "trades",
        "training",
        "status",
    )
    body = [
        (
            r["symbol"],
            r["timeframe"],
            _percent(r["total_return"]),
            _percent(r["buy_and_hold_return"]),
            _number(r["sharpe"], 2),
            _drawdown(r["max_drawdown"]),
            r["n_trades"],
            r["training_overlap"],
            r["status"] if r["reason"] is None else f"{r['status']}: {r['reason']}",
        )
        for r in rows
    ]
    return table(headers, body)


def decision_table(rows: Sequence[Row]) -> str:
    """The decision of each model and plan beside the other policy's, its reasons, and the id for ``postval replay``."""
    other = next((r["other_policy"] for r in rows if r["other_policy"]), "other")
    headers = ("symbol", "timeframe", "plan", "as of", "decision", other, "id", "reasons")
    body = [
        (
            r["symbol"],
            r["timeframe"],
            r["plan"],
            None if r["as_of"] is None else _day(r["as_of"]),
            r["decision"],
            r["other_decision"],
            r["decision_id"],
            "; ".join(r["reasons"]),
        )
        for r in rows
    ]
    return table(headers, body)


def evidence_table(rows: Sequence[Row]) -> str:
    """Each model's Sharpe ratio beside what the best of so many reaches by luck alone, then PBO, a line a plan."""
    headers = ("symbol", "timeframe", "plan", "Sharpe", "best of N by luck", "N", "DSR", "reason")
    body = [
        (
            r["symbol"],
            r["timeframe"],
            r["plan"],
            _number(r["sharpe"], 2),
            _number(r["sharpe_benchmark"], 2),
            r["n_trials"],
            _number(r["dsr"], 3),
            r["reason"] or "",
        )
        for r in rows
    ]
    plans = {r["plan"]: r for r in rows}
    said = [
        f"{plan}: probability of backtest overfitting {_number(r['pbo'], 2)}"
        + (f" ({r['plan_reasons'][0]})" if r["pbo"] is None and r["plan_reasons"] else "")
        for plan, r in plans.items()
    ]
    return "\n".join([table(headers, body), *said])


def bars_table(rows: Sequence[Row]) -> str:
    """Each stored series: how many bars, of when, from where, and what the checks say of it."""
    headers = ("symbol", "timeframe", "bars", "from", "to", "source", "quality", "found")
    body = [
        (
            r["symbol"],
            r["timeframe"],
            r["n_bars"],
            instant(r["first_ts"]),
            instant(r["last_ts"]),
            r["source"],
            r["severity"],
            r["found"] or "",
        )
        for r in rows
    ]
    return table(headers, body)


def instant(value: datetime | None) -> str:
    """A time in UTC, to the minute."""
    return "-" if value is None else value.strftime("%Y-%m-%d %H:%MZ")


def _day(value: datetime | None) -> str:
    return "----------" if value is None else value.strftime("%Y-%m-%d")


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:+.2f}%"


def _chance(value: float | None) -> str:
    return "-" if value is None else f"{value:.3g}"


def _drawdown(value: float | None) -> str:
    return "-" if value is None else f"{value * 100:.2f}%"


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return safe(f"{value:.4g}" if isinstance(value, float) else str(value))


def safe(text: str) -> str:
    """A line without control characters: names come out of archives, and nothing of them may steer a terminal."""
    return "".join(c if unicodedata.category(c)[0] != "C" else " " for c in text)
