"""The sections of the page that are tables: what was said of worthless models, of models with an edge, and why.

Here: rows and the words around them. Not here: the page as a whole (page.py), counts (rates.py).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

from postval_assets.core.decision import Decision
from postval_assets.core.deployment_watch import FALSE_ALARM_RATE
from postval_assets.core.folds import plan_named
from postval_assets.core.walk_forward_evidence import Condition
from postval_assets.trainer.calibration.cells import (
    Header,
    Row,
    events,
    mean_and_error,
    named,
    percent,
    possible,
    table,
)
from postval_assets.trainer.calibration.outcome import POLICIES, Outcome
from postval_assets.trainer.calibration.rates import (
    archives_with,
    decided,
    decided_at,
    level_of_one,
    mean_of,
    median_of,
    possible_power,
    rate,
)
from postval_assets.trainer.calibration.records import Judged
from postval_assets.trainer.calibration.running import Finished
from postval_assets.trainer.calibration.study import TRIAL_COUNTS, TRUE_SHARPES, Family
from postval_assets.trainer.calibration.watching import FUTURES

LIVE_CONDITIONS = (
    Condition.P_VALUE_ARCHIVE,
    Condition.POSITIVE_SHARE,
    Condition.CONSISTENCY_RATIO,
    Condition.NULL_PERCENTILE,
    Condition.BREAK_EVEN_COST,
    Condition.LAG_RETURN,
)
WORTHLESS = (Family.WITH_COSTS, Family.WITHOUT_COSTS, Family.BUNDLED)


def false_live(done: Finished, outcome: Outcome) -> str:
    """What was said of worthless models."""
    rows: list[Row] = []
    kinds: list[Row] = []
    for family in WORTHLESS:
        for plan in done.study.plans:
            archives = outcome.archives(family, plan)
            models = outcome.worthless(family, plan)
            rows += [
                (
                    named(family),
                    plan,
                    policy,
                    events(archives_with(archives, policy, Decision.LIVE)),
                    events(decided(models, policy, Decision.LIVE)),
                    *(percent(decided(models, policy, d).share) for d in Decision),
                )
                for policy in (POLICIES if models else ())
            ]
            for kind in sorted({m.kind for m in models}):
                of_kind = [m for m in models if m.kind == kind]
                sharpe = mean_of(m.sharpe for m in of_kind)
                kinds.append(
                    (
                        named(family),
                        plan,
                        kind,
                        len(of_kind),
                        mean_and_error(sharpe.mean, sharpe.standard_error),
                        *(events(decided(of_kind, policy, Decision.LIVE)) for policy in POLICIES),
                        *(percent(decided(of_kind, policy, Decision.PAPER).share) for policy in POLICIES),
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

{table(("models", "plan", "policy", "archives with a false LIVE", "false LIVE per model", *Decision), rows)}
**No costs** is the hardest case: without fees and slippage the expected return of such a model is exactly 0. **With
costs** it loses what it pays, as worthless models do. **Bundled bars** are one realisation of five symbols: its
archives all share the same prices, so they are no independent samples, their intervals mean little, and whatever these
prices happened to do is in every row. They are here because they are the bars that `postval demo` shows.

By the way in which the networks came about, with the mean of the annualised Sharpe ratio that was measured:

{
        table(
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


def power(done: Finished, outcome: Outcome) -> str:
    """What was said of models with an edge, beside what is possible."""
    at_all: list[Row] = [
        (
            f"{plan_named(plan).days} days",
            *(
                possible(possible_power(sharpe, plan_named(plan).days, done.study.archive_size))
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
                    events(decided(models, policy, Decision.LIVE)),
                    possible(possible_power(sharpe, plan_named(plan).days, done.study.archive_size)),
                    *(percent(decided(models, policy, d).share) for d in Decision if d != Decision.LIVE),
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

{table(("true annual Sharpe", *(f"{s:g}" for s in TRUE_SHARPES)), at_all)}
What was said:

{table(("plan", "true Sharpe", "policy", "LIVE", "possible", "PAPER", "RETRAIN", "DROP"), rows)}
Whether the edge is what it says it is: the mean of the annualised Sharpe ratio over the folds, with one standard error.
Folds start flat and end with a sale, which costs crypto more than stocks.

{table(("plan", "stated", "all", "stocks", "crypto"), measured)}"""


def _measured(models: Sequence[Judged]) -> Iterable[str]:
    for chosen in (models, [m for m in models if not _is_crypto(m)], [m for m in models if _is_crypto(m)]):
        mean = mean_of(m.sharpe for m in chosen)
        yield mean_and_error(mean.mean, mean.standard_error)


def _is_crypto(model: Judged) -> bool:
    return model.symbol.endswith("USD")


def conditions(done: Finished, outcome: Outcome) -> str:
    """What each condition of LIVE does by itself."""
    headers: Header = ("models", "plan", *(f"`{c.value}`" for c in LIVE_CONDITIONS), "all of them")
    holds: list[Row] = []
    alone: list[Row] = []
    for plan in done.study.plans:
        groups = [
            (named(family), _of_whole_archives(outcome, family, plan))
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

{table(headers, holds)}
How often it is the only one that fails: what it alone takes from the power, or from the size.

{table(headers[:-1], alone)}"""


def _of_whole_archives(outcome: Outcome, family: Family, plan: str) -> list[Judged]:
    """Worthless models of the archives in which all were replayed."""
    return [m for a in outcome.archives(family, plan) if all(m.replayed for m in a) for m in a]


def _shares(models: Sequence[Judged], of: Callable[[Judged, Condition], bool]) -> list[str]:
    return [percent(rate(sum(of(m, c) for m in models), len(models)).share) for c in LIVE_CONDITIONS]


def _holds(model: Judged, condition: Condition) -> bool:
    return condition not in model.failed


def _fails_alone(model: Judged, condition: Condition) -> bool:
    return model.failed == (condition,)


def _all_hold(models: Sequence[Judged]) -> str:
    return percent(rate(sum(not m.failed for m in models), len(models)).share)


def p_values(done: Finished, outcome: Outcome) -> str:
    """How small the p-values of worthless models are."""
    level = level_of_one(done.study.archive_size)
    limits = (0.20, 0.05, 0.01, level)
    rows: list[Row] = []
    for family in (Family.WITHOUT_COSTS, Family.WITH_COSTS):
        for plan in done.study.plans:
            models = outcome.worthless(family, plan)
            if models:
                small = (sum(m.p_value is not None and m.p_value <= p for m in models) for p in limits)
                rows.append((named(family), plan, *(events(rate(n, len(models))) for n in small)))
    if not rows:
        return ""
    return f"""## The p-value by itself

How often the p-value of a worthless model is at most this; without costs, a true p-value is so in just that share. The
last limit is what `p_value_archive` <= 0.05 asks of each of {done.study.archive_size} models.

{table(("models", "plan", *(f"p <= {p:.3g}" for p in limits)), rows)}"""


def sizes(done: Finished, outcome: Outcome) -> str:
    """What would be said in archives of other sizes."""
    rows: list[Row] = []
    for plan in done.study.plans:
        for family in (Family.WITH_COSTS, Family.WITHOUT_COSTS):
            models = outcome.worthless(family, plan)
            if models:
                rows.append(
                    (named(family), plan, *(events(decided_at(models, n, "LIVE")) for n in TRIAL_COUNTS))
                )
        for sharpe in outcome.sharpes():
            models = outcome.edge(sharpe, plan)
            rows.append(
                (f"Sharpe {sharpe:g}", plan, *(events(decided_at(models, n, "LIVE")) for n in TRIAL_COUNTS))
            )
    if not rows:
        return ""
    return f"""## Archives of other sizes

How often policy `evidence` says LIVE of a model, by the number of models in its archive: the same models, with the
p-value of the archive that they would have had.

{table(("models", "plan", *(f"N = {n}" for n in TRIAL_COUNTS)), rows)}"""


def watch(done: Finished, outcome: Outcome) -> str:
    """What the deployment watch says in the year after a LIVE."""
    rows: list[Row] = []
    for plan in done.study.plans:
        for sharpe in outcome.sharpes():
            alarms = [dict(m.alarms) for m in outcome.edge(sharpe, plan) if m.alarms]
            row: list[object] = [plan, f"{sharpe:g}"]
            for future in FUTURES:
                days = [a[future] for a in alarms if a[future] is not None]
                middle = median_of(day for day in days if day is not None)
                row += [events(rate(len(days), len(alarms))), "" if middle is None else f"{middle:.0f}"]
            if alarms:
                rows.append(row)
    if not rows:
        return ""
    headers = (
        "plan",
        "true Sharpe",
        "edge lasts: alarms",
        "median day",
        "edge has ended: alarms",
        "median day",
    )
    return f"""## The watch after a LIVE

The deployment watch over the year after, for the informed policies that policy `evidence` called LIVE: how often it
alarms where the edge lasts (false alarms: at most {100 * FALSE_ALARM_RATE:.0f} % is the aim, over all the future) and
where it ended on the day of deployment while the policy goes on trading, and the median day of those alarms.

{table(headers, rows)}"""
