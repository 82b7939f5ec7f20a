"""``postval features``: which feature sets there are, and whether one keeps its promises on real bars.

Here: which bars a set is checked on, how long it takes, and the text. Not here: the checks (core/features).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from postval_assets.core.bars import Bars
from postval_assets.core.failures import Rejected
from postval_assets.core.features.causality import inspect_feature_set
from postval_assets.core.features.feature_set import FeatureSet, compute_features, require_prices
from postval_assets.core.features.patchwork import empty_bars
from postval_assets.core.features.reference import REFERENCE_SETS
from postval_assets.core.features.registry import LoadedFeatureSets, load_feature_sets
from postval_assets.core.instruments import AssetClass, Timeframe, parse_symbol, parse_timeframe
from postval_assets.io.bar_source import is_remote
from postval_assets.pipeline.bars_at_hand import bars_at_hand
from postval_assets.pipeline.platform import Platform
from postval_assets.report.text import table

# Symbols checked where none is named, and series read to choose them from.
_SYMBOLS, _READ = 4, 16
_DAYS_PER_YEAR = 365.25


@dataclass(frozen=True, eq=False)
class SymbolCheck:
    """A set on the bars of one symbol.

    Attributes:
        symbol: checked.
        bars: None where the source has none that can be used.
        seconds: of one computation of all market features of these bars.
        features: [bar, market feature]; None where the set was refused.
        problems: what is wrong with the set, a line each.
        skipped: why the symbol could not be used to check anything.
    """

    symbol: str
    bars: Bars | None
    seconds: float
    features: npt.NDArray[np.float32] | None
    problems: tuple[str, ...]
    skipped: str | None

    @property
    def bars_per_year(self) -> float:
        """Bars of this symbol in a year, as measured from the first to the last."""
        if self.bars is None or len(self.bars) < 2:
            return 0.0
        span = (self.bars.ts[-1] - self.bars.ts[0] + self.bars.timeframe.delta) / np.timedelta64(1, "D")
        return float(len(self.bars) / span * _DAYS_PER_YEAR)


@dataclass(frozen=True, eq=False)
class FeatureSetCheck:
    """A set on the bars of some symbols."""

    feature_set: FeatureSet
    symbols: tuple[SymbolCheck, ...]

    def text(self, *, verbose: bool) -> str:
        """A table with a row for each symbol, and what is wrong; the range of each feature where it is wanted."""
        s = self.feature_set
        head = (
            f"{s.name} version {s.version}: {len(s.market_features)} market features, "
            f"{len(s.account_features)} account features, look-back {s.look_back}"
        )
        headers = ("symbol", "bars", "from", "to", "seconds", "s/year", "verdict")
        parts = [head, "", table(headers, [_row(c) for c in self.symbols])]
        parts += [f"  {c.symbol}: {problem}" for c in self.symbols for problem in c.problems]
        if verbose:
            parts += ["", _ranges(s, self.symbols)]
        return "\n".join(parts)

    def require_clean(self) -> None:
        """Raises Rejected with the first problem, which names the set, the feature and the bar."""
        refused = [c for c in self.symbols if c.problems]
        if refused:
            first = refused[0].problems[0]
            # What a computation says names the set and the bars by itself.
            named = f"feature set {self.feature_set.name} on bars of {refused[0].symbol}: "
            n_more = sum(len(c.problems) for c in refused) - 1
            raise Rejected(
                ("" if first.startswith("feature set ") else named)
                + first
                + (f" (and {n_more} more)" if n_more else "")
            )


def feature_set_named(name: str, loaded: LoadedFeatureSets | None = None) -> FeatureSet:
    """The registered set of that name.

    Raises:
        Rejected: where there is none, with those that there are; where its plug-in is broken, with the reason.
    """
    loaded = load_feature_sets() if loaded is None else loaded
    if name in loaded.sets:
        return loaded.sets[name]
    reasons = [
        f"plug-in {b.entry_point} ({b.value}): {b.reason}" for b in loaded.broken if b.entry_point == name
    ]
    others = [b.entry_point for b in loaded.broken if b.entry_point != name]
    why = f"cannot be used: {'; '.join(reasons)}" if reasons else "is not registered"
    broken = f"; broken plug-ins: {', '.join(others)}" if others else ""
    raise Rejected(
        f"feature set {name!a} {why}. Registered are {', '.join(sorted(loaded.sets))}{broken} (docs/plugins.md)"
    )


def feature_sets_text(loaded: LoadedFeatureSets | None = None) -> str:
    """A table of the sets, and a line for each plug-in that brought none."""
    loaded = load_feature_sets() if loaded is None else loaded
    rows = [
        (
            name,
            s.version,
            "reference" if s in REFERENCE_SETS else "plug-in",
            len(s.market_features),
            len(s.account_features),
            s.look_back,
        )
        for name, s in sorted(loaded.sets.items())
    ]
    lines = [table(("feature set", "version", "from", "market", "account", "look-back"), rows)]
    lines += [f"plug-in {b.entry_point} ({b.value}) cannot be used: {b.reason}" for b in loaded.broken]
    return "\n".join(lines)


def check_feature_set(platform: Platform, name: str, symbol: str | None, timeframe: str) -> FeatureSetCheck:
    """Run a set on bars of the configured source and look closely at what it sees.

    Args:
        platform: settings and source of bars.
        name: of the set.
        symbol: whose bars; None for a few of the source's, among them one of each asset class that it has, and the
            one with the largest share of bars without volume.
        timeframe: of the bars.

    Raises:
        Rejected: where there is no such set, or there are no bars to check it on.
    """
    feature_set, length = feature_set_named(name), parse_timeframe(timeframe)
    source = platform.bar_source()
    if symbol is None and is_remote(source):
        raise Rejected(f"bars source {source.name} does not list its symbols: name one with --symbol")
    symbols = source.symbols() if symbol is None else (parse_symbol(symbol),)
    usable: list[Bars] = []
    skipped: list[SymbolCheck] = []
    for one in _by_turns(platform, symbols):
        try:
            usable.append(_bars_of(platform, feature_set, one, length))
        except Rejected as error:
            skipped.append(SymbolCheck(one, None, 0.0, None, (), str(error)))
        if len(usable) == _READ:
            break
    chosen = _chosen(usable)
    shown = [c for c in skipped if not chosen or c.symbol < chosen[-1].symbol]
    checks = sorted([*shown, *(_check_bars(feature_set, bars) for bars in chosen)], key=lambda c: c.symbol)
    if all(c.skipped is not None for c in checks):
        why = (checks[0].skipped if checks else None) or "it holds no symbols"
        why += f" (and {len(checks) - 1} more)" if len(checks) > 1 else ""
        raise Rejected(
            f"bars source {platform.settings.bars_source} has no {length} bars to check {name} on: {why}"
        )
    return FeatureSetCheck(feature_set, tuple(checks))


def _by_turns(platform: Platform, symbols: Sequence[str]) -> list[str]:
    """The symbols with the asset classes by turns, so that each is met early."""
    seen: Counter[AssetClass] = Counter()
    turns: dict[str, int] = {}
    for symbol in symbols:
        turns[symbol] = seen[platform.asset_class(symbol)]
        seen[platform.asset_class(symbol)] += 1
    return sorted(symbols, key=lambda s: (turns[s], s))


def _chosen(usable: Sequence[Bars]) -> list[Bars]:
    """A few of them by name: one of each asset class, the one with the most empty bars, and the first of the rest."""
    in_order = sorted(usable, key=lambda b: b.symbol)
    first = {b.asset_class: b for b in reversed(in_order)}
    emptiest = max(in_order, key=lambda b: empty_bars(b).mean(), default=None)
    # A sort keeps the order of what it holds for equal.
    wanted = sorted(in_order, key=lambda b: b not in first.values() and b is not emptiest)
    return sorted(wanted[:_SYMBOLS], key=lambda b: b.symbol)


def _bars_of(platform: Platform, feature_set: FeatureSet, symbol: str, timeframe: Timeframe) -> Bars:
    """Bars that a set can be checked on; raises Rejected where there are none."""
    bars = bars_at_hand(platform, symbol, timeframe)
    _require_enough(feature_set, bars)
    require_prices(bars)
    return bars


def _check_bars(feature_set: FeatureSet, bars: Bars) -> SymbolCheck:
    # What it is accused of by name comes first: a set that waits for later bars is also not finite at the end.
    problems: list[str] = []
    try:
        problems += inspect_feature_set(feature_set, bars).problems()
    except Rejected as error:
        problems.append(str(error))
    started = time.perf_counter()
    try:
        features = compute_features(feature_set, bars)
    except Rejected as error:
        return SymbolCheck(bars.symbol, bars, 0.0, None, tuple(problems or [str(error)]), None)
    return SymbolCheck(bars.symbol, bars, time.perf_counter() - started, features, tuple(problems), None)


def _require_enough(feature_set: FeatureSet, bars: Bars) -> None:
    if len(bars) <= feature_set.look_back:
        raise Rejected(
            f"{bars.symbol} has {len(bars)} {bars.timeframe} bars, and the look-back is {feature_set.look_back}"
        )


def _row(c: SymbolCheck) -> tuple[object, ...]:
    if c.bars is None:
        return (c.symbol, None, None, None, None, None, f"skipped: {c.skipped}")
    first, last = (str(ts.astype("datetime64[D]")) for ts in c.bars.ts[[0, -1]])
    known = c.features is not None
    seconds = f"{c.seconds:.3f}" if known else None
    yearly = f"{c.seconds * c.bars_per_year / len(c.bars):.3f}" if known else None
    verdict = f"REFUSED: {len(c.problems)} problem(s)" if c.problems else "ok"
    return (c.symbol, len(c.bars), first, last, seconds, yearly, verdict)


def _ranges(feature_set: FeatureSet, checks: tuple[SymbolCheck, ...]) -> str:
    """Smallest and largest value of each feature, a pair of columns a symbol."""
    computed = [(c.symbol, c.features[feature_set.look_back - 1 :]) for c in checks if c.features is not None]
    if not computed:
        return "no ranges: nothing was computed"
    headers = ["feature", *(f"{symbol} {end}" for symbol, _ in computed for end in ("min", "max"))]
    rows = [
        [name, *(f"{bound:.5g}" for _, f in computed for bound in (f[:, i].min(), f[:, i].max()))]
        for i, name in enumerate(feature_set.market_features)
    ]
    return table(headers, rows)
