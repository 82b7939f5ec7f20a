"""The results of a study: a line of JSON for each finished piece, appended as it ends.

Here: what is kept of a judged model, and the file. Not here: counts (rates.py).

The file is what makes a study go on after it was interrupted: a piece that has a line is not made again. Its first
line says what the results depend on; results of other rules are never mixed with them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from postval_assets.core.failures import Rejected, Unavailable


@dataclass(frozen=True)
class Judged:
    """One model over one plan, and what the rules said of it.

    Attributes:
        family: a study.Family.
        kind: how the model came about.
        symbol: whose market it traded.
        plan: name of the plan.
        annual_sharpe: the true one of an informed policy; None for worthless models.
        standard: decision of policy standard.
        evidence: decision of policy evidence in an archive of the study's size.
        by_trials: the same for other archive sizes, [size, decision].
        failed: conditions of LIVE that did not hold; of those about replays only where it was replayed.
        replayed: whether the figures that need replays were computed; where not, no value of theirs could have
            made the model LIVE or PAPER.
        sharpe: measured, annualised; None where it is not defined.
        p_value: of it.
        alarms: of an informed policy that is LIVE by policy evidence, for each future (watching.FUTURES) the days to
            the watch's first alarm; None where there is none in a year.
    """

    family: str
    kind: str
    symbol: str
    plan: str
    annual_sharpe: float | None
    standard: str
    evidence: str
    by_trials: tuple[tuple[int, str], ...]
    failed: tuple[str, ...]
    replayed: bool
    sharpe: float | None
    p_value: float | None
    alarms: tuple[tuple[str, float | None], ...] = ()


_COLUMNS = tuple(f.name for f in fields(Judged))


@dataclass(frozen=True)
class PieceResult:
    """A finished piece.

    Attributes:
        name: of the piece.
        seconds: that it took.
        models: judged in it, in their order.
    """

    name: str
    seconds: float
    models: tuple[Judged, ...]


class ResultsFile:
    """Results of one study, one process writing.

    Attributes:
        path: of the file.
        depends_on: what its results depend on.
        results: by the piece's name.
    """

    def __init__(self, path: Path, depends_on: Mapping[str, Any] | None) -> None:
        """Open a file of results, or begin one.

        Args:
            path: of the file.
            depends_on: what makes results comparable (seed, version of the rules, and so on; JSON values); None to
                read a file that there is, whatever made it.

        Raises:
            Rejected: the file has results of something else, or is not one of results.
            Unavailable: it cannot be read or written.
        """
        self.path = path
        self.results: dict[str, PieceResult] = {}
        try:
            text = path.read_text(encoding="utf-8") if depends_on is None or path.exists() else ""
            # A line that was being written when the study was stopped has no end, and its piece is made again.
            whole = text[: text.rfind("\n") + 1]
            if depends_on is not None:
                header = (
                    json.dumps({"depends_on": dict(depends_on), "columns": _COLUMNS}, sort_keys=True) + "\n"
                )
                path.parent.mkdir(parents=True, exist_ok=True)
                if whole and not whole.startswith(header):
                    raise Rejected(
                        f"{path} has results of another study or of other rules. Give another file, or remove it"
                    )
                if not whole or whole != text:
                    path.write_text(whole or header, encoding="utf-8", newline="\n")
                whole = whole or header
        except OSError as error:
            raise Unavailable(f"{path}: {error}") from error
        except UnicodeDecodeError as error:
            raise Rejected(f"{path} is not a file of results: {error}") from error
        first, *lines = whole.splitlines() or [""]
        self.depends_on = _header(path, first)
        for line in lines:
            result = _parsed(path, line)
            self.results[result.name] = result

    def append(self, result: PieceResult) -> None:
        """Add a finished piece; raises Unavailable where it cannot be written."""
        rows = [[getattr(model, name) for name in _COLUMNS] for model in result.models]
        line = json.dumps({"piece": result.name, "seconds": round(result.seconds, 2), "models": rows})
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(f"{line}\n")
        except OSError as error:
            raise Unavailable(f"{self.path}: {error}") from error
        self.results[result.name] = result

    def of_pieces(self, names: Sequence[str]) -> list[PieceResult]:
        """The results of these pieces that there are, in the order of the names."""
        return [self.results[name] for name in names if name in self.results]


def _header(path: Path, line: str) -> dict[str, Any]:
    try:
        content = json.loads(line)
        columns, depends_on = content["columns"], dict(content["depends_on"])
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(f"{path} is not a file of results: {error}") from error
    if columns != list(_COLUMNS):
        raise Rejected(f"{path} is of another version: it has {columns}; expected {list(_COLUMNS)}")
    return depends_on


def _parsed(path: Path, line: str) -> PieceResult:
    try:
        content = json.loads(line)
        models = [dict(zip(_COLUMNS, row, strict=True)) for row in content["models"]]
        return PieceResult(
            content["piece"],
            float(content["seconds"]),
            tuple(
                Judged(
                    **{
                        **model,
                        "by_trials": tuple((int(n), str(d)) for n, d in model["by_trials"]),
                        "failed": tuple(model["failed"]),
                        "alarms": tuple((str(future), day) for future, day in model["alarms"]),
                    }
                )
                for model in models
            ),
        )
    except (ValueError, KeyError, TypeError) as error:
        raise Rejected(f"{path} has a line that is no result: {line[:80]} ({error})") from error
