"""Replayed decisions as text and as plain values.

Here: layout. Not here: recomputing them (pipeline/replaying.py).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from postval_assets.report.text import instant, safe, table

Row = Mapping[str, Any]

_MOST_FIGURES = 12


def replay_text(found: Row) -> str:
    """One replayed decision: the answer, then what differs, a line each.

    Args:
        found: as pipeline.replaying.Replay has it: row, outcome, decision, reasons, problem, inputs, figures,
            n_figures, exact, environment and notes.
    """
    row = found["row"]
    lines = [f"{found['outcome']}  {_name(row)}", *(f"  {line}" for line in _answer(found))]
    if found["inputs"]:
        same = found["outcome"] == "SAME"
        lines.append(f"  inputs that differ{' (without a consequence)' if same else ''}:")
        lines += [f"    {d}" for d in found["inputs"]]
    if found["figures"]:
        lines.append(f"  figures that differ ({len(found['figures'])} of {found['n_figures']}):")
        lines += [f"    {d}" for d in found["figures"][:_MOST_FIGURES]]
        if len(found["figures"]) > _MOST_FIGURES:
            lines.append(f"    and {len(found['figures']) - _MOST_FIGURES} more (--json has all)")
    if found["environment"]:
        lines.append("  for information:")
        lines += [f"    {d}" for d in found["environment"]]
    lines += [f"  note: {note}" for note in found["notes"]]
    return "\n".join(safe(line) for line in lines)


def _name(row: Row) -> str:
    as_of = "not evaluated" if row["as_of"] is None else f"as of {instant(row['as_of'])}"
    model = f"{row['symbol']} {row['timeframe']} {row['plan']}"
    return f"{row['decision_id']}  {row['archive_id']} {model}, {row['policy']}, {as_of}"


def _answer(found: Row) -> list[str]:
    row = found["row"]
    if found["problem"] is not None:
        return [f"recorded {row['decision']}; cannot be recomputed: {found['problem']}"]
    then, now = list(row["reasons"]), list(found["reasons"])
    lines = [f"{row['decision']}: {'; '.join(then)}"]
    if (row["decision"], then) != (found["decision"], now):
        lines = [f"recorded {lines[0]}", f"now {found['decision']}: {'; '.join(now)}"]
    if found["n_figures"] and not found["figures"]:
        how = "to the last bit" if found["exact"] else "within 1e-9"
        lines.append(f"{found['n_figures']} figures of its folds are equal {how}")
    return lines


def replays_text(found: Sequence[Row]) -> str:
    """Many replayed decisions: a line each, those that are not SAME in full below, and the counts."""
    headers = (
        "",
        "id",
        "archive",
        "symbol",
        "timeframe",
        "plan",
        "as of",
        "policy",
        "decision",
        "inputs that differ",
    )
    body = [
        (
            f["outcome"],
            f["row"]["decision_id"],
            f["row"]["archive_id"],
            f["row"]["symbol"],
            f["row"]["timeframe"],
            f["row"]["plan"],
            instant(f["row"]["as_of"]),
            f["row"]["policy"],
            f["row"]["decision"],
            len(f["inputs"]),
        )
        for f in found
    ]
    parts = [table(headers, body)] if body else []
    parts += [replay_text(f) for f in found if f["outcome"] != "SAME" or f["inputs"]]
    counts: dict[str, int] = {}
    for f in found:
        counts[f["outcome"]] = counts.get(f["outcome"], 0) + 1
    parts.append(", ".join(f"{n} {outcome}" for outcome, n in counts.items()) or "no decisions yet")
    return "\n\n".join(parts)


def replay_values(found: Row) -> dict[str, Any]:
    """One replayed decision as values of JSON."""
    row = found["row"]
    names = ("decision_id", "archive_id", "symbol", "timeframe", "plan", "policy")
    return {
        **{name: row[name] for name in names},
        "as_of": None if row["as_of"] is None else row["as_of"].isoformat(),
        "outcome": str(found["outcome"]),
        "problem": found["problem"],
        "recorded": {"decision": row["decision"], "reasons": list(row["reasons"])},
        "present": {"decision": found["decision"], "reasons": list(found["reasons"])},
        **{
            kind: [{"name": d.name, "recorded": d.recorded, "present": d.present} for d in found[kind]]
            for kind in ("inputs", "figures", "environment")
        },
        "n_figures": found["n_figures"],
        "exact": found["exact"],
        "notes": list(found["notes"]),
    }
