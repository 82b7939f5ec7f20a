"""The page of a study: what the policies said of models whose worth is known.

Here: tables and words, from results alone. Not here: counts (rates.py), the picture (picture.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from postval_assets.core.decision import Decision
from postval_assets.core.folds import plan_named
from postval_assets.core.walk_forward_evidence import Condition
from postval_assets.trainer.calibration.judging import REPLAY_CONDITIONS
from postval_assets.trainer.calibration.rates import (
    Rate,
    archives_with,
    decided,
    decided_at,
    level_of_one,
    mean_of,
    possible_power,
    rate,
)
from postval_assets.trainer.calibration.records import Judged, PieceResult
from postval_assets.trainer.calibration.running import Finished
from postval_assets.trainer.calibration.study import TRIAL_COUNTS, TRUE_SHARPES, Family

POLICIES = ("standard", "evidence")
LIVE_CONDITIONS = (
    Condition.P_VALUE_ARCHIVE,
    Condition.POSITIVE_SHARE,
    Condition.CONSISTENCY_RATIO,
    Condition.NULL_PERCENTILE,
    Condition.BREAK_EVEN_COST,
    Condition.LAG_RETURN,
)
WORTHLESS = (Family.WITH_COSTS, Family.WITHOUT_COSTS, Family.BUNDLED)
AIM = 0.05
"""Policy evidence aims at a false LIVE in at most this share of archives."""

Header = Sequence[str]
Row = Sequence[object]


@dataclass(frozen=True)
class Outcome:
    """The judged models of a study, as tables ask for them.

    Attributes:
        pieces: finished ones.
    """

    pieces: tuple[PieceResult, ...]

    def archives(self, family: Family, plan: str) -> list[list[Judged]]:
        """Worthless models by archive."""
        found = [[m for m in p.models if m.family == family and m.plan == plan] for p in self.pieces]
        return [archive for archive in found if archive]

    def worthless(self, family: Family, plan: str) -> list[Judged]:
        """All worthless models of a family."""
        return [model for archive in self.archives(family, plan) for model in archive]

    def edge(self, annual_sharpe: float, plan: str) -> list[Judged]:
        """All informed policies of a true Sharpe ratio."""
        return [
            m
            for p in self.pieces
            for m in p.models
            if m.family == Family.EDGE and m.plan == plan and m.annual_sharpe == annual_sharpe
        ]

    def sharpes(self) -> list[float]:
        """True Sharpe ratios that there are models of."""
        return sorted({m.annual_sharpe for p in self.pieces for m in p.models if m.annual_sharpe is not None})


def page(done: Finished, command: str, picture: str | None) -> str:
    """The page as Markdown.

    Args:
        done: the study.
        command: that makes the same results.
        picture: address of the picture beside the page; None where there is none.
    """
    outcome = Outcome(done.results)
    size = done.study.archive_size
    parts = [
        _head(done, outcome, picture),
        _false_live(done, outcome),
        _power(done, outcome),
        _conditions(done, outcome),
        _p_values(done, outcome),
        _sizes(done, outcome),
        _watch(),
        _method(size),
        _again(done, command),
    ]
    return "\n".join(part for part in parts if part)


def _head(done: Finished, outcome: Outcome, picture: str | None) -> str:
    drawn = f"![Power by true Sharpe ratio, and false LIVE per archive]({picture})\n" if picture else ""
    n_worthless = sum(m.family != Family.EDGE for p in outcome.pieces for m in p.models)
    n_edge = sum(m.family == Family.EDGE for p in outcome.pieces for m in p.models)
    plans = ", ".join(f"{p} ({plan_named(p).n_folds} folds)" for p in done.study.plans)
    return f"""# Calibration: the rules' own error rates

A validation rule is a test. Its size is how often it says LIVE of a model that is worth nothing, its power how often it
says so of one that is worth something. `postval calibrate` measures both with models whose worth is known, through the
same engine, statistics and policies that judge an archive. This page is written by that command and not by hand:
whatever comes out is printed. Judged here: {n_worthless:,} times a worthless model, {n_edge:,} times one with a planted
edge, over the plans {plans}.

{_findings(done, outcome)}

{drawn}"""


def _findings(done: Finished, outcome: Outcome) -> str:
    """The main figures in sentences."""
    lines = []
    for family in (Family.WITH_COSTS, Family.WITHOUT_COSTS):
        for plan in done.study.plans:
            archives = outcome.archives(family, plan)
            if not archives:
                continue
            found = archives_with(archives, "evidence", Decision.LIVE)
            standard = archives_with(archives, "standard", Decision.LIVE)
            lines.append(
                f"- {_named(family)}, {plan}: `evidence` says LIVE in {_counted(found)} of archives of "
                f"{done.study.archive_size}, {_verdict(found)}; `standard` in {_counted(standard)}."
            )
    for plan in done.study.plans:
        shares = [
            f"{_percent(decided(models, 'evidence', Decision.LIVE).share)} at {sharpe:g}"
            for sharpe in outcome.sharpes()
            if (models := outcome.edge(sharpe, plan))
        ]
        if shares:
            lines.append(
                f"- Power of `evidence` over {plan} by true annual Sharpe ratio: {', '.join(shares)}."
            )
    return "\n".join(lines)


def _verdict(found: Rate) -> str:
    if found.high <= AIM:
        return f"at most the {100 * AIM:.0f} % that it aims at"
    if found.low > AIM:
        return f"above the {100 * AIM:.0f} % that it aims at"
    return f"which does not tell it from the {100 * AIM:.0f} % that it aims at"


def _named(family: str) -> str:
    return family[:1].upper() + family[1:]


def _false_live(done: Finished, outcome: Outcome) -> str:
    rows: list[Row] = []
    kinds: list[Row] = []
    for family in WORTHLESS:
        for plan in done.study.plans:
            archives = outcome.archives(family, plan)
            models = outcome.worthless(family, plan)
            rows += [
                (
                    _named(family),
                    plan,
                    policy,
                    _events(archives_with(archives, policy, Decision.LIVE)),
                    _events(decided(models, policy, Decision.LIVE)),
                    *(_percent(decided(models, policy, d).share) for d in Decision),
                )
                for policy in (POLICIES if models else ())
            ]
            for kind in sorted({m.kind for m in models}):
                of_kind = [m for m in models if m.kind == kind]
                sharpe = mean_of(m.sharpe for m in of_kind)
                kinds.append(
                    (
                        _named(family),
                        plan,
                        kind,
                        len(of_kind),
                        _mean(sharpe.mean, sharpe.standard_error),
                        *(_events(decided(of_kind, policy, Decision.LIVE)) for policy in POLICIES),
                        *(_percent(decided(of_kind, policy, Decision.PAPER).share) for policy in POLICIES),
                    )
                )
    if not rows:
        return ""
    return f"""## Worthless models

Archives of {
        done.study.archive_size
    } networks on markets without an edge. Intervals are 95 %, Clopper-Pearson, of the
archives and of the models as if they were independent. Archives on fresh markets are independent; models of one archive
share seven markets, so the intervals of models are somewhat too narrow.

{_table(("models", "plan", "policy", "archives with a false LIVE", "false LIVE per model", *Decision), rows)}
**No costs** is the hardest case: without fees and slippage the expected return of such a model is exactly 0. **With
costs** it loses what it pays, as worthless models do. **Bundled bars** are one realisation of five symbols: its
archives all share the same prices, so they are no independent samples, their intervals mean little, and whatever these
prices happened to do is in every row. They are here because they are the bars that `postval demo` shows.

By the way in which the networks came about, with the mean of the annualised Sharpe ratio that was measured:

{
        _table(
            (
                "models",
                "plan",
                "networks",
                "n",
                "mean Sharpe",
                "LIVE standard",
                "LIVE evidence",
                "PAPER standard",
                "PAPER evidence",
            ),
            kinds,
        )
    }"""


def _power(done: Finished, outcome: Outcome) -> str:
    possible: list[Row] = [
        (
            f"{plan_named(plan).days} days",
            *(
                _possible(possible_power(sharpe, plan_named(plan).days, done.study.archive_size))
                for sharpe in TRUE_SHARPES
            ),
        )
        for plan in done.study.plans
    ]
    rows: list[Row] = []
    measured: list[Row] = []
    for plan in done.study.plans:
        for sharpe in outcome.sharpes():
            models = outcome.edge(sharpe, plan)
            rows += [
                (
                    plan,
                    f"{sharpe:g}",
                    policy,
                    _events(decided(models, policy, Decision.LIVE)),
                    _possible(possible_power(sharpe, plan_named(plan).days, done.study.archive_size)),
                    *(_percent(decided(models, policy, d).share) for d in Decision if d != Decision.LIVE),
                )
                for policy in POLICIES
            ]
            measured.append((plan, f"{sharpe:g}", *_measured(models)))
    if not rows:
        return ""
    return f"""## Models with an edge

Informed policies on markets with a planted edge of known annual Sharpe ratio after costs
([simulated-market.md](simulated-market.md)), judged as members of an archive of {done.study.archive_size}. A policy's
decision depends on the other members through their number alone.

What is possible at all (Sidak, independent returns, {done.study.archive_size} models, before any other condition):

{_table(("true annual Sharpe", *(f"{s:g}" for s in TRUE_SHARPES)), possible)}
What was said:

{_table(("plan", "true Sharpe", "policy", "LIVE", "possible", "PAPER", "RETRAIN", "DROP"), rows)}
Whether the edge is what it says it is: the mean of the annualised Sharpe ratio over the folds, with one standard error.
Folds start flat and end with a sale, which costs crypto more than stocks.

{_table(("plan", "stated", "all", "stocks", "crypto"), measured)}"""


def _measured(models: Sequence[Judged]) -> Iterable[str]:
    for chosen in (models, [m for m in models if not _is_crypto(m)], [m for m in models if _is_crypto(m)]):
        mean = mean_of(m.sharpe for m in chosen)
        yield _mean(mean.mean, mean.standard_error)


def _is_crypto(model: Judged) -> bool:
    return model.symbol.endswith("USD")


def _conditions(done: Finished, outcome: Outcome) -> str:
    headers: Header = ("models", "plan", *(f"`{c.value}`" for c in LIVE_CONDITIONS), "all of them")
    holds: list[Row] = []
    alone: list[Row] = []
    for plan in done.study.plans:
        groups = [
            (_named(family), _of_whole_archives(outcome, family, plan))
            for family in (Family.WITH_COSTS, Family.WITHOUT_COSTS)
        ]
        groups += [(f"Sharpe {s:g}", outcome.edge(s, plan)) for s in outcome.sharpes()]
        for name, models in groups:
            if not models:
                continue
            holds.append((f"{name} ({len(models)})", plan, *_shares(models, _holds), _all_hold(models)))
            alone.append((f"{name} ({len(models)})", plan, *_shares(models, _fails_alone)))
    if not holds:
        return ""
    return f"""## What each condition does

How often each condition of LIVE in policy `evidence` holds by itself. Of worthless models: in those archives of which
every model was replayed, whatever its p-value (one in twenty).

{_table(headers, holds)}
How often it is the only one that fails: what it alone takes from the power, or from the size.

{_table(headers[:-1], alone)}"""


def _of_whole_archives(outcome: Outcome, family: Family, plan: str) -> list[Judged]:
    """Worthless models of the archives in which all were replayed."""
    return [m for a in outcome.archives(family, plan) if all(m.replayed for m in a) for m in a]


def _shares(models: Sequence[Judged], of: Callable[[Judged, Condition], bool]) -> list[str]:
    return [_percent(rate(sum(of(m, c) for m in models), len(models)).share) for c in LIVE_CONDITIONS]


def _holds(model: Judged, condition: Condition) -> bool:
    return condition not in model.failed


def _fails_alone(model: Judged, condition: Condition) -> bool:
    return model.failed == (condition,)


def _all_hold(models: Sequence[Judged]) -> str:
    return _percent(rate(sum(not m.failed for m in models), len(models)).share)


def _p_values(done: Finished, outcome: Outcome) -> str:
    level = level_of_one(done.study.archive_size)
    limits = (0.20, 0.05, 0.01, level)
    rows: list[Row] = []
    for family in (Family.WITHOUT_COSTS, Family.WITH_COSTS):
        for plan in done.study.plans:
            models = outcome.worthless(family, plan)
            if models:
                small = (sum(m.p_value is not None and m.p_value <= p for m in models) for p in limits)
                rows.append((_named(family), plan, *(_events(rate(n, len(models))) for n in small)))
    if not rows:
        return ""
    return f"""## The p-value by itself

How often the p-value of a worthless model is at most this; without costs, a true p-value is so in just that share. The
last limit is what `p_value_archive` <= 0.05 asks of each of {done.study.archive_size} models.

{_table(("models", "plan", *(f"p <= {p:.3g}" for p in limits)), rows)}"""


def _sizes(done: Finished, outcome: Outcome) -> str:
    rows: list[Row] = []
    for plan in done.study.plans:
        for family in (Family.WITH_COSTS, Family.WITHOUT_COSTS):
            models = outcome.worthless(family, plan)
            if models:
                rows.append(
                    (_named(family), plan, *(_events(decided_at(models, n, "LIVE")) for n in TRIAL_COUNTS))
                )
        for sharpe in outcome.sharpes():
            models = outcome.edge(sharpe, plan)
            rows.append(
                (f"Sharpe {sharpe:g}", plan, *(_events(decided_at(models, n, "LIVE")) for n in TRIAL_COUNTS))
            )
    if not rows:
        return ""
    return f"""## Archives of other sizes

How often policy `evidence` says LIVE of a model, by the number of models in its archive: the same models, with the
p-value of the archive that they would have had.

{_table(("models", "plan", *(f"N = {n}" for n in TRIAL_COUNTS)), rows)}"""


def _watch() -> str:
    """Rows of the deployment watch: what it says in the year after a LIVE, of edges that last and edges that end."""
    return ""


def _method(size: int) -> str:
    replayed = ", ".join(f"`{c.value}`" for c in REPLAY_CONDITIONS)
    return f"""## How it is measured

- **Markets.** Every archive has seven markets of its own, fresh paths of the generator that made the bundled bars
  (`BTCUSD`, `ETHUSD`, `UNIUSD`, `AAPL`, `MSFT`, `NVDA`, `SPY`), 120 days before the plan included. Without an edge they
  are martingales exactly, so every network is known to be worthless. Resampled bundled bars would look no more real and
  would all inherit what one realisation did.
- **Worthless models.** An archive of {size} has fourteen networks that were trained by the trainer on the bundled bars
  with their order shuffled in time (two for each symbol, one of version 2.3.0 and one of 2.7.0; the same ones in every
  archive, on other markets), and networks with random weights of both versions.
- **Models with an edge.** The policy that knows the planted state, on each of the seven markets. Both plans are judged
  over the same path, the shorter one on its end.
- **Judged** by `core.walk_forward_evidence`, `core.decision` and `core.evidence_policy` with their default limits.
  Gate, intake and features count as good, folds are out of sample: only the walk-forward part is measured, and the
  gate would drop some models before. Where a p-value is too large for LIVE and PAPER,
  {replayed}
  are not computed: no value of theirs could change the decision.

**What this does not say.** These markets are simulated: volatility has regimes and returns have fat tails, but nothing
trends, symbols are independent of each other, and no price reacts to a trade. A real market's drift earns something for
a model that only holds; here holding earns nothing. Informed policies hold for 48 bars in the mean and trade at full
size, as a clean edge does; an edge of another shape meets the conditions differently. Error rates belong to these
limits, costs and versions, and change with them.
"""


def _again(done: Finished, command: str) -> str:
    made = done.depends_on
    versions = ", ".join(f"{name} {value}" for name, value in sorted(made.get("versions", {}).items()))
    minutes = done.seconds / 60.0
    return f"""## To make it again

    {command}

Seed {done.study.seed}; every piece is seeded by it and by its own name (`fresh/00000`, `edge-3/00000`), so that a
larger study contains a smaller one, and the number of processes changes nothing. Rules `{made.get("rules")}` (digest of
`core`), {versions}. {minutes:.0f} minutes of one core. It can be stopped and goes on where it was; another rule begins
anew.
"""


def _table(headers: Header, rows: Sequence[Row]) -> str:
    lines = ["| " + " | ".join(headers) + " |", "|" + "---|" * len(headers)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _percent(share: float | None) -> str:
    if share is None:
        return ""
    return f"{100.0 * share:.1f} %" if share < 0.995 or share == 1.0 else f"{100.0 * share:.2f} %"


def _possible(share: float) -> str:
    return f"{100.0 * share:.1f} %" if share > 0.99 else f"{100.0 * share:.0f} %"


def _events(found: Rate) -> str:
    """Share with its interval, and the count."""
    if not found.n:
        return ""
    return f"{_percent(found.share)} ({_end(found.low)} .. {_end(found.high)}), {found.events} of {found.n}"


def _end(share: float) -> str:
    """An end of an interval in percent, two digits."""
    return f"{100.0 * share:.0f}" if share >= 0.0995 else f"{100.0 * share:.2g}"


def _counted(found: Rate) -> str:
    return f"{_percent(found.share)} (95 %: {_end(found.low)} .. {_end(found.high)})"


def _mean(mean: float | None, error: float | None) -> str:
    if mean is None:
        return ""
    return f"{mean:.2f}" if error is None else f"{mean:.2f} +/- {error:.2f}"
