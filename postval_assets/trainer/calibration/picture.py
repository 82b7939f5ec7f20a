"""The picture of a study: power by true Sharpe ratio, and false LIVE per archive.

Here: an SVG, drawn from results alone. Not here: counts (rates.py), tables (page.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from postval_assets.core.decision import Decision
from postval_assets.core.folds import plan_named
from postval_assets.trainer.calibration.outcome import AIM, POLICIES, Outcome
from postval_assets.trainer.calibration.rates import Rate, archives_with, decided, possible_power
from postval_assets.trainer.calibration.records import Judged
from postval_assets.trainer.calibration.running import Finished
from postval_assets.trainer.calibration.study import Family

WIDTH, HEIGHT = 1120, 560
_LEFT = (70.0, 510.0)  # of the panel of power, in x
_RIGHT = (790.0, 1085.0)  # of the panel of false LIVE
_TOP, _BOTTOM = 80.0, 460.0
_HIGHEST_SHARPE = 6.0
_CURVE_STEPS = 48
_BESIDE = 4.0  # between the points of one Sharpe ratio, so that none hides another
_SCALES = (0.2, 0.4, 0.6, 1.0)  # ends of the right panel's axis, which has four parts
# Dark on light and told apart without colour too: dashes say the policy.
_PLAN_COLOURS = ("#1f6fb4", "#c2410c", "#15803d", "#7e22ce")
_INK, _FAINT, _AIM_COLOUR = "#1f2937", "#d1d5db", "#b91c1c"
_DASHES = {"evidence": "", "standard": "7 4"}


@dataclass(frozen=True)
class _Panel:
    """Where values of a panel lie on the page."""

    x: tuple[float, float]
    x_values: tuple[float, float]
    highest: float

    def at(self, x: float, share: float) -> tuple[float, float]:
        low, high = self.x_values
        across = (x - low) / (high - low)
        return (
            self.x[0] + across * (self.x[1] - self.x[0]),
            _BOTTOM - min(share / self.highest, 1.0) * (_BOTTOM - _TOP),
        )


def picture(done: Finished) -> str:
    """The picture as SVG."""
    outcome = Outcome(done.results)
    size = f'viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="Helvetica, Arial, sans-serif" font-size="14">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>',
        *_power(done, outcome),
        *_false_live(done, outcome),
        "</svg>",
    ]
    return "\n".join(parts) + "\n"


def _power(done: Finished, outcome: Outcome) -> list[str]:
    panel = _Panel(_LEFT, (0.0, _HIGHEST_SHARPE + 0.25), 1.0)
    size = done.study.archive_size
    parts = [
        _text(_LEFT[0], 34, f"LIVE by true Sharpe ratio, archives of {size}", size=17, bold=True),
        _text(_LEFT[0], 56, "share of models that are said to be LIVE, with 95 % intervals"),
        *_axis(panel, [0.0, 0.25, 0.5, 0.75, 1.0]),
        *(
            _text(panel.at(value, 0.0)[0], _BOTTOM + 22, f"{value:g}", anchor="middle")
            for value in range(int(_HIGHEST_SHARPE) + 1)
        ),
        _text(sum(_LEFT) / 2, _BOTTOM + 44, "true annual Sharpe ratio after costs", anchor="middle"),
    ]
    for number, (plan, colour) in enumerate(zip(done.study.plans, _PLAN_COLOURS, strict=False)):
        days = plan_named(plan).days
        steps = [_HIGHEST_SHARPE * i / _CURVE_STEPS for i in range(_CURVE_STEPS + 1)]
        possible = [panel.at(s, possible_power(s, days, size)) for s in steps]
        parts.append(_line(possible, colour, dashes="1 4", width=2.0))
        for place, policy in enumerate(POLICIES):
            shift = _BESIDE * (number * len(POLICIES) + place)
            found = [(s, decided(models, policy, Decision.LIVE)) for s, models in _by_sharpe(outcome, plan)]
            points = [_beside(panel.at(s, r.share), shift) for s, r in found if r.share is not None]
            parts.append(_line(points, colour, dashes=_DASHES[policy], width=2.5))
            for s, r in found:
                parts += _interval(panel, s, r, colour, shift, filled=policy == "evidence")
    return parts + _legend(done)


def _by_sharpe(outcome: Outcome, plan: str) -> list[tuple[float, list[Judged]]]:
    worthless = outcome.worthless(Family.WITH_COSTS, plan)
    rows = [(0.0, worthless)] if worthless else []
    return rows + [(s, outcome.edge(s, plan)) for s in outcome.sharpes() if s <= _HIGHEST_SHARPE]


def _legend(done: Finished) -> list[str]:
    x, y = _LEFT[0] + 14, _TOP + 18
    parts = []
    for plan, colour in zip(done.study.plans, _PLAN_COLOURS, strict=False):
        for words, dashes in (
            (f"possible at all, {plan}", "1 4"),
            (f"evidence, {plan}", _DASHES["evidence"]),
            (f"standard, {plan}", _DASHES["standard"]),
        ):
            parts.append(_line([(x, y - 5), (x + 36, y - 5)], colour, dashes=dashes, width=2.5))
            parts.append(_text(x + 44, y, words))
            y += 20
    return parts


def _false_live(done: Finished, outcome: Outcome) -> list[str]:
    rows: list[tuple[str, str, str, Rate]] = []
    for family in (Family.WITH_COSTS, Family.WITHOUT_COSTS):
        for plan in done.study.plans:
            archives = outcome.archives(family, plan)
            colour = _PLAN_COLOURS[done.study.plans.index(plan) % len(_PLAN_COLOURS)]
            for policy in POLICIES if archives else ():
                found = archives_with(archives, policy, Decision.LIVE)
                words = "with costs" if family is Family.WITH_COSTS else "no costs"
                rows.append((f"{policy}, {plan}, {words}", policy, colour, found))
    parts = [
        _text(_RIGHT[0] - 205, 34, "Archives of worthless models with a false LIVE", size=17, bold=True),
        _text(_RIGHT[0] - 205, 56, "share of archives, with 95 % intervals; the line is the aim, 5 %"),
    ]
    widest = max((found.high for *_, found in rows), default=0.0)
    highest = next(scale for scale in _SCALES if scale >= min(widest, 1.0))
    marks = [highest * i / 4 for i in range(5)]
    for mark in marks:
        x = _across(mark, highest)
        parts.append(_line([(x, _TOP), (x, _BOTTOM)], _FAINT))
        parts.append(_text(x, _BOTTOM + 22, f"{100 * mark:.3g} %", anchor="middle"))
    aim = _across(AIM, highest)
    parts.append(_line([(aim, _TOP - 6), (aim, _BOTTOM)], _AIM_COLOUR, dashes="5 3", width=2.0))
    step = (_BOTTOM - _TOP) / max(len(rows), 1)
    for number, (words, policy, colour, found) in enumerate(rows):
        y = _TOP + (number + 0.5) * step
        parts.append(_text(_RIGHT[0] - 12, y + 5, words, anchor="end"))
        parts.append(
            _line([(_across(found.low, highest), y), (_across(found.high, highest), y)], colour, width=2.5)
        )
        parts.append(_dot(_across(found.share or 0.0, highest), y, colour, filled=policy == "evidence"))
    return parts


def _across(share: float, highest: float) -> float:
    return _RIGHT[0] + min(share / highest, 1.0) * (_RIGHT[1] - _RIGHT[0])


def _axis(panel: _Panel, shares: Sequence[float]) -> list[str]:
    parts = []
    for share in shares:
        (left, y), (right, _) = (panel.at(x, share) for x in panel.x_values)
        parts.append(_line([(left, y), (right, y)], _FAINT))
        parts.append(_text(left - 10, y + 5, f"{100 * share:g} %", anchor="end"))
    return parts


def _interval(panel: _Panel, x: float, found: Rate, colour: str, shift: float, *, filled: bool) -> list[str]:
    if found.share is None:
        return []
    middle, low, high = (_beside(panel.at(x, s), shift) for s in (found.share, found.low, found.high))
    return [_line([low, high], colour, width=1.5), _dot(*middle, colour, filled=filled)]


def _beside(point: tuple[float, float], shift: float) -> tuple[float, float]:
    return point[0] + shift, point[1]


def _dot(x: float, y: float, colour: str, *, filled: bool) -> str:
    fill = colour if filled else "white"
    return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4.5" fill="{fill}" stroke="{colour}" stroke-width="2"/>'


def _line(points: Sequence[tuple[float, float]], colour: str, *, dashes: str = "", width: float = 1.0) -> str:
    placed = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
    dashed = f' stroke-dasharray="{dashes}"' if dashes else ""
    return f'<polyline points="{placed}" fill="none" stroke="{colour}" stroke-width="{width:g}"{dashed}/>'


def _text(
    x: float, y: float, words: str, *, anchor: str = "start", size: int = 14, bold: bool = False
) -> str:
    weight = ' font-weight="bold"' if bold else ""
    return (
        f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}"{weight} fill="{_INK}">'
        f"{escape(words)}</text>"
    )
