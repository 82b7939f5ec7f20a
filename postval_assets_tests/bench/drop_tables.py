"""The results of drop_bench.py for people: text for the terminal, Markdown for docs/scaling.md.

Here: layout. Not here: any figure that is not in the result.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

# The order of the work; a part that the product did not time is left out.
PARTS = (
    *(
        "inflating",
        "checkpoint",
        "weights",
        "bars",
        "features",
        "causality",
        "inference",
        "accounting",
        "writing",
    ),
)

Rows = Sequence[Sequence[str]]


def drop_table(result: dict[str, Any]) -> str:
    """The section ``drop``."""
    archives = result["archives"]
    lines = []
    if archives:
        names = _parts_in(archives)
        head = ["models", "s", "s/model", "waiting", "starting", "stages", "events"]
        rows = [
            [
                str(a["models"]),
                _s(a["seconds"]),
                f"{a['seconds_a_model']:.2f}",
                *(_s(a[key]) for key in ("waiting_s", "starting_s", "stages_s", "events_s")),
                *(_s(a["parts"].get(name)) for name in names),
            ]
            for a in archives
        ]
        lines += ["from the drop to the last decision, seconds (parts: summed over threads)"]
        lines += _aligned([[*head, *names], *rows])
        stages = list(archives[0]["stages"])
        lines += ["", "stages, seconds"]
        lines += _aligned(
            [
                ["models", *stages],
                *([str(a["models"]), *(_s(a["stages"].get(s)) for s in stages)] for a in archives),
            ]
        )
        lines += ["", *(_ratio_line(r) for r in result["ratios"])]
    if result["curve"]:
        lines += ["", "postval validate, folds and bars"]
        head = ["plans", "folds", "history bars", "models", "wall s", "stages s", "peak MB"]
        lines += _aligned([head, *(_curve_row(c) for c in result["curve"])])
    return "\n".join([*lines, *(f"skipped: {reason}" for reason in result["skipped"])])


def memory_table(result: dict[str, Any]) -> str:
    """The section ``memory``."""
    lines = ["peak memory over all processes of the platform, MB (kinds: each at its own moment)"]
    lines += _aligned(_memory_rows(result["archives"]))
    lines += [_ratio_line(r) for r in result["ratios"]]
    return "\n".join([*lines, *(f"skipped: {reason}" for reason in result["skipped"])])


def scaling_table(result: dict[str, Any]) -> str:
    """The tables of docs/scaling.md from a result of ``drop``."""
    archives = result["archives"]
    names = _parts_in(archives)
    models = [
        ["models", "seconds", "s/model", "waiting", "starting", "stages", "events", *names, "peak MB"],
        *(
            [
                str(a["models"]),
                _s(a["seconds"]),
                f"{a['seconds_a_model']:.2f}",
                *(_s(a[key]) for key in ("waiting_s", "starting_s", "stages_s", "events_s")),
                *(_s(a["parts"].get(name)) for name in names),
                f"{a['memory']['peak_mb']:,.0f}",
            ]
            for a in archives
        ),
    ]
    head = ["plans", "folds", "bars of history", "models", "seconds", "of these in stages", "peak MB"]
    tables = ["### Models", "", *_markdown(models)]
    for title, key in (("### Folds", "folds"), ("### Bars", "bars")):
        # The first case is the one that both are compared with.
        cases = [c for n, c in enumerate(result["curve"]) if c["against"] == key or n == 0]
        rows = sorted(cases, key=lambda c: (c["folds"], c["history_bars"]))
        tables += ["", title, "", *_markdown([head, *(_curve_row(c) for c in rows)])]
    return "\n".join(tables) + "\n"


def _parts_in(archives: Sequence[dict[str, Any]]) -> list[str]:
    found = {name for a in archives for name in a["parts"]}
    return [*(p for p in PARTS if p in found), *sorted(found - set(PARTS))]


def _memory_rows(archives: Sequence[dict[str, Any]]) -> Rows:
    kinds = sorted({kind for a in archives for kind in a["memory"]["peak_mb_by_kind"]})
    return [
        ["models", "until decided", "until published", *kinds],
        *(
            [
                str(a["models"]),
                f"{a['memory_until_decided']['peak_mb']:,.0f}",
                f"{a['memory']['peak_mb']:,.0f}",
                *(f"{a['memory']['peak_mb_by_kind'].get(kind, 0.0):,.0f}" for kind in kinds),
            ]
            for a in archives
        ),
    ]


def _curve_row(case: dict[str, Any]) -> list[str]:
    return [
        "+".join(case["plans"]),
        str(case["folds"]),
        f"{case['history_bars']:,}",
        str(case["models"]),
        _s(case["wall_s"]),
        _s(case["stages_s"]),
        f"{case['peak_mb']:,.0f}",
    ]


def _ratio_line(ratio: dict[str, Any]) -> str:
    words = {"seconds_a_model": "seconds a model", "peak_memory": "peak memory"}
    said = ", ".join(f"{words[key]} x {ratio[key]:.2f}" for key in words if key in ratio)
    return f"{ratio['models']} models against {ratio['than']}: {said}"


def _s(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


def _aligned(rows: Rows) -> list[str]:
    widths = [max(len(row[n]) for row in rows) for n in range(len(rows[0]))]
    return [
        "  ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    ]


def _markdown(rows: Rows) -> list[str]:
    lines = ["| " + " | ".join(row) + " |" for row in rows]
    return [lines[0], "|" + "---:|" * len(rows[0]), *lines[1:]]
