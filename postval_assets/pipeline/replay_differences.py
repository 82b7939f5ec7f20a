"""What differs between a decision as recorded and as recomputed, each thing by its name.

Here: comparing values and wording the difference. Not here: recomputing (replaying.py), or layout (report).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from postval_assets.core.evaluation import code_version
from postval_assets.core.folds import plan_named
from postval_assets.pipeline.decision_rows import NamedInput
from postval_assets.pipeline.recorded_decisions import RecordedDecision
from postval_assets.pipeline.recording import Kind

Row = Mapping[str, Any]

RELATIVE_TOLERANCE = 1e-9
"""Of a fold's figures where other code or another machine computes them; else they have to be equal."""

WORDS = ("status", "reason", "training_overlap", "start_ts", "end_ts", "n_bars", "n_trades", "lapsed_orders")
NUMBERS = (
    *("total_return", "max_drawdown", "sharpe", "sortino", "bars_per_year", "win_rate", "profit_factor"),
    *("gross_profit", "gross_loss", "avg_trade_pnl", "exposure", "turnover", "fees"),
    *("buy_and_hold_return", "excess_return"),
)
_SHOWN_DIGITS = 12
# What several inputs lead to, or what folds are compared by one by one.
_DERIVED = frozenset({"folds", "evidence", "bars", "settings", "code", "environment"})
_LABELS = {
    Kind.GRADE_LIMITS.value: "",
    Kind.EVIDENCE_LIMITS.value: "",
    Kind.SETTINGS.value: "",
    Kind.INTAKE.value: "",
    Kind.QUALITY_LIMITS.value: "quality ",
    Kind.ENVIRONMENT.value: "",
}


@dataclass(frozen=True)
class Difference:
    """One thing that is not what it was.

    Attributes:
        name: of the input or the figure.
        recorded, present: as shown to people.
    """

    name: str
    recorded: str
    present: str

    def __str__(self) -> str:
        return f"{self.name}: recorded {self.recorded}, now {self.present}"


def shown(value: object) -> str:
    """A value as people read it."""
    if value is None:
        return "none"
    if isinstance(value, float):
        return f"{value:.12g}"
    if isinstance(value, list | tuple):
        return f"[{', '.join(shown(v) for v in value)}]"
    return str(value)


def short(digest: str | None) -> str:
    """The beginning of a digest."""
    return "none" if digest is None else digest[:_SHOWN_DIGITS]


def of_values(label: str, recorded: object, present: object) -> Iterator[Difference]:
    """The differing values of two contents; mappings are gone through by their keys, joined with dots."""
    if isinstance(recorded, Mapping) and isinstance(present, Mapping):
        inside = label if not label or label.endswith(" ") else f"{label}."
        for key in dict.fromkeys([*recorded, *present]):
            yield from of_values(f"{inside}{key}", recorded.get(key), present.get(key))
    elif recorded != present:
        yield Difference(label.strip(), shown(recorded), shown(present))


def of_inputs(
    recorded: RecordedDecision, present: Iterable[NamedInput], contents: Mapping[str, Mapping[str, Any]]
) -> Iterator[Difference]:
    """Inputs of a decision that differ, but for those that are compared fold by fold.

    Args:
        recorded: the decision.
        present: the inputs of the recomputed one.
        contents: what the digests of ``present`` stand for, by kind.
    """
    for now in present:
        then = recorded.inputs.get(now.name)
        if then is None or now.name in _DERIVED:
            continue
        if now.name == "deciding_code" and then.value != now.value:
            yield Difference("code", shown(then.value), shown(now.value))
        elif now.name == Kind.THRESHOLDS:
            yield from _of_thresholds(recorded, then, now, contents)
        elif now.name in contents:
            yield from of_content(recorded, Kind(now.name), then.digest, now.digest, contents[now.name])
        elif isinstance(then.value, Mapping) and isinstance(now.value, Mapping):
            yield from of_values(f"{now.name} ", then.value, now.value)
        elif then.value != now.value:
            yield Difference(now.name, shown(then.value), shown(now.value))
        elif then.digest != now.digest:
            yield Difference(now.name, short(then.digest), short(now.digest))


def of_content(
    recorded: RecordedDecision, kind: Kind, then: str | None, now: str | None, present: Mapping[str, Any]
) -> Iterator[Difference]:
    """Differing values of a content that is recorded by its digest."""
    if then == now:
        return
    content = recorded.content(kind, then)
    if content is None:
        yield Difference(kind.value, f"{short(then)} (what that was is not recorded)", short(now))
    else:
        yield from of_values(_LABELS.get(kind.value, f"{kind.value} "), content, present)


def of_environment(
    recorded: RecordedDecision, contents: Mapping[str, Mapping[str, Any]]
) -> tuple[Difference, ...] | None:
    """What libraries and processor are others; None where those of then are not recorded."""
    content = recorded.content(Kind.ENVIRONMENT)
    if content is None:
        return None
    present = contents[Kind.ENVIRONMENT.value]
    # The whole program's source is among them, a page of help too; what computes is told by the code version.
    return tuple(d for d in of_values("", content, present) if d.name not in ("postval", "source"))


def _of_thresholds(
    recorded: RecordedDecision,
    then: NamedInput,
    now: NamedInput,
    contents: Mapping[str, Mapping[str, Any]],
) -> Iterator[Difference]:
    if then.value != now.value:
        yield Difference("thresholds_version", shown(then.value), shown(now.value))
    if then.digest == now.digest or then.digest is None:
        return
    content = recorded.content(Kind.THRESHOLDS, then.digest)
    if content is None or now.digest is None:
        yield Difference("thresholds", short(then.digest), short(now.digest))
        return
    numbers = [
        {k: v for k, v in c.items() if k != "name"} for c in (content, contents[Kind.THRESHOLDS.value])
    ]
    yield from of_values(f"thresholds {then.value} ", *numbers)


def of_folds(
    recorded: RecordedDecision, folds: Sequence[Row], contents: Mapping[str, Mapping[str, Any]]
) -> Iterator[Difference]:
    """Inputs of the folds that differ: code, settings, bars.

    Args:
        recorded: the decision.
        folds: recomputed.
        contents: of the settings that they were recomputed with.
    """
    pairs = paired(recorded.folds or (), folds)
    if not pairs and recorded.row["code_version"] != code_version():
        yield Difference("code", shown(recorded.row["code_version"]), code_version())
    codes = {(str(then["code_version"]), str(now["code_version"])) for _, then, now in pairs}
    for then_code, now_code in sorted(codes):
        if then_code != now_code:
            yield Difference("code", then_code, now_code)
    settings = {(str(then["settings_digest"]), str(now["settings_digest"])) for _, then, now in pairs}
    for then_digest, now_digest in sorted(settings):
        present = contents[Kind.SETTINGS.value]
        yield from of_content(recorded, Kind.SETTINGS, then_digest, now_digest, present)
    others = [name for name, then, now in pairs if then["bars_digest"] != now["bars_digest"]]
    if others:
        count = f"{len(others)} of {len(pairs)} folds have other bars: {', '.join(others)}"
        yield Difference("bars", short(recorded.row["bars_digest"]), count)


def paired(recorded: Sequence[Row], present: Sequence[Row]) -> list[tuple[str, Row, Row]]:
    """Recorded folds with the recomputed ones and their keys, such as 180d-2."""
    by_fold = {int(f["fold"]): f for f in present}
    return [
        (plan_named(str(f["plan"])).fold_keys()[int(f["fold"]) - 1], f, by_fold[int(f["fold"])])
        for f in recorded
        if int(f["fold"]) in by_fold
    ]


def of_figures(
    recorded: Sequence[Row], present: Sequence[Row], *, exact: bool
) -> tuple[int, tuple[Difference, ...]]:
    """How many figures of folds were compared, and those that differ.

    Args:
        recorded: folds that the decision was made from.
        present: recomputed.
        exact: whether numbers have to be equal to the last bit; else within RELATIVE_TOLERANCE.
    """
    pairs = paired(recorded, present)
    found = [
        Difference(f"{key} {name}", shown(then[name]), shown(now[name]))
        for key, then, now in pairs
        for name in (*WORDS, *NUMBERS)
        if not _equal(then[name], now[name], exact=exact or name in WORDS)
    ]
    missing = {int(f["fold"]) for f in recorded} - {int(f["fold"]) for f in present}
    found += [Difference(f"fold {fold}", "there", "missing") for fold in sorted(missing)]
    return len(pairs) * (len(WORDS) + len(NUMBERS)), tuple(found)


def _equal(then: Any, now: Any, *, exact: bool) -> bool:
    if exact or then is None or now is None:
        return bool(then == now)
    return math.isclose(then, now, rel_tol=RELATIVE_TOLERANCE, abs_tol=RELATIVE_TOLERANCE)
