"""The page of a study: what the policies said of models whose worth is known.

Here: the page as a whole, and what is said beside its tables. Not here: tables (sections.py), the picture (picture.py).
"""

from __future__ import annotations

from postval_assets.core.decision import Decision
from postval_assets.core.folds import plan_named
from postval_assets.trainer.calibration.cells import counted, named, percent
from postval_assets.trainer.calibration.judging import REPLAY_CONDITIONS
from postval_assets.trainer.calibration.outcome import AIM, Outcome
from postval_assets.trainer.calibration.rates import Rate, archives_with, decided
from postval_assets.trainer.calibration.running import Finished
from postval_assets.trainer.calibration.sections import conditions, false_live, p_values, power, sizes, watch
from postval_assets.trainer.calibration.study import Family


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
        false_live(done, outcome),
        power(done, outcome),
        conditions(done, outcome),
        p_values(done, outcome),
        sizes(done, outcome),
        watch(done, outcome),
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
                f"- {named(family)}, {plan}: `evidence` says LIVE in {counted(found)} of archives of "
                f"{done.study.archive_size}, {_verdict(found)}; `standard` in {counted(standard)}."
            )
    for plan in done.study.plans:
        shares = [
            f"{percent(decided(models, 'evidence', Decision.LIVE).share)} at {sharpe:g}"
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
