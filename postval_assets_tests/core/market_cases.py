"""Markets, policies and whole cases for tests of the engine: seeded generators and hypothesis strategies.

Here: bars that reach every rule of execution (ruin, lapsed orders, unknown volume, gaps) and policies that
are pure functions of (t, account features). Not here: what is expected of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt
from hypothesis import strategies as st

from postval_assets_tests.core.plain_loop import Account, PlainRules, PlainRun, run_plain

Float = npt.NDArray[np.float64]

# Action to signed size, for both action spaces: 0 holds, then the buys, then the sales.
SIZES: Mapping[int, Mapping[int, float]] = MappingProxyType(
    {
        3: MappingProxyType({0: 0.0, 1: 0.50, 2: -0.50}),
        7: MappingProxyType({0: 0.0, 1: 0.25, 2: 0.50, 3: 0.75, 4: -0.25, 5: -0.50, 6: -0.75}),
    }
)

CRYPTO = PlainRules(fee_rate=25e-4, slippage=5e-4, long_only=True)
EQUITY = PlainRules(fee_rate=0.0, slippage=5e-4, long_only=False)
CRYPTO_NEUTRAL = PlainRules(fee_rate=25e-4, slippage=5e-4, long_only=True, neutral_account=True)
EQUITY_NEUTRAL = PlainRules(fee_rate=0.0, slippage=5e-4, long_only=False, neutral_account=True)
EQUITY_WITH_FEE = PlainRules(fee_rate=25e-4, slippage=5e-4, long_only=False)
CRYPTO_ZERO_FILLS = PlainRules(fee_rate=25e-4, slippage=5e-4, long_only=True, zero_volume_fills=True)
SMALL_CAPITAL = PlainRules(fee_rate=25e-4, slippage=5e-4, long_only=True, capital=20.0)
RULES = (
    CRYPTO,
    EQUITY,
    CRYPTO_NEUTRAL,
    EQUITY_NEUTRAL,
    EQUITY_WITH_FEE,
    CRYPTO_ZERO_FILLS,
    # Its smaller orders fall under one dollar.
    SMALL_CAPITAL,
)

# For cases worked out by hand: nothing costs anything, or one per cent each, which shows in such numbers.
FREE_LONG = PlainRules(fee_rate=0.0, slippage=0.0, long_only=True)
FREE_SHORT = PlainRules(fee_rate=0.0, slippage=0.0, long_only=False)
COSTLY_LONG = PlainRules(fee_rate=0.01, slippage=0.01, long_only=True)
COSTLY_SHORT = PlainRules(fee_rate=0.01, slippage=0.01, long_only=False)

# (open, close) of three bars: bought at the second open, closed at the last close.
ONE_BUY = ((100.0, 100.0), (101.0, 102.0), (103.0, 104.0))


@dataclass(frozen=True, eq=False)
class Market:
    """Bars of one symbol, float64, axis [bar]; a NaN volume is unknown."""

    name: str
    open: Float
    high: Float
    low: Float
    close: Float
    volume: Float

    def __len__(self) -> int:
        """Number of bars."""
        return len(self.close)


def _market(
    name: str, rng: np.random.Generator, log_close: Float, log_gap: Float, volume: Float | None = None
) -> Market:
    """Bars from log closes and the log gap of each open to the close before it."""
    close = np.exp(log_close)
    before = np.concatenate([log_close[:1], log_close[:-1]])
    open_ = np.exp(before + log_gap)
    wick = np.abs(rng.normal(0.0, 0.002, (2, len(close))))
    high = np.maximum(open_, close) * (1.0 + wick[0])
    low = np.minimum(open_, close) * (1.0 - wick[1])
    if volume is None:
        volume = np.ceil(rng.lognormal(6.0, 1.5, len(close)))
    return Market(name, open_, high, low, close, volume)


def _start(rng: np.random.Generator) -> float:
    """A log price between a hundredth of a cent and a hundred thousand dollars."""
    return float(rng.uniform(math.log(1e-4), math.log(1e5)))


def quiet(seed: int, n: int) -> Market:
    """Small moves without direction, with some bars that do not move at all."""
    rng = np.random.default_rng([seed, 1])
    steps = rng.normal(0.0, 0.002, n) * (rng.random(n) > 0.1)
    return _market("quiet", rng, _start(rng) + np.cumsum(steps), np.zeros(n))


def trending(seed: int, n: int) -> Market:
    """A steady drift up or down under ordinary noise."""
    rng = np.random.default_rng([seed, 2])
    drift = rng.choice([-1.0, 1.0]) * rng.uniform(0.001, 0.01)
    steps = rng.normal(drift, 0.01, n)
    return _market("trending", rng, _start(rng) + np.cumsum(steps), rng.normal(0.0, 0.001, n))


def crash(seed: int, n: int) -> Market:
    """Prices that rise or fall tenfold within one to four bars, several times: shorts are ruined."""
    rng = np.random.default_rng([seed, 3])
    steps = rng.normal(0.0, 0.01, n)
    t = int(rng.integers(5, 15))
    sign = float(rng.choice([-1.0, 1.0]))
    while t < n:
        length = int(rng.integers(1, 5))
        steps[t : t + length] += sign * math.log(10.0) / length
        # Mostly back again, so that prices stay within what floats and people can read.
        sign = -sign
        t += int(rng.integers(8, 25))
    return _market("crash", rng, _start(rng) + np.cumsum(steps), rng.normal(0.0, 0.02, n))


def zero_volume(seed: int, n: int) -> Market:
    """Runs of bars in which nothing was traded."""
    rng = np.random.default_rng([seed, 4])
    volume = np.ceil(rng.lognormal(6.0, 1.5, n))
    t = 0
    while t < n:
        t += int(rng.integers(1, 8))
        length = int(rng.integers(1, 8))
        volume[t : t + length] = 0.0
        t += length
    log_close = _start(rng) + np.cumsum(rng.normal(0.0, 0.01, n))
    return _market("zero_volume", rng, log_close, rng.normal(0.0, 0.002, n), volume)


def unknown_volume(seed: int, n: int) -> Market:
    """Volumes of which some are unknown, some zero, the rest known; now and then all are unknown."""
    rng = np.random.default_rng([seed, 5])
    volume = np.ceil(rng.lognormal(6.0, 1.5, n))
    kind = rng.random(n)
    volume[kind < 0.4] = np.nan
    volume[kind > 0.8] = 0.0
    if rng.random() < 0.2:
        volume[:] = np.nan
    log_close = _start(rng) + np.cumsum(rng.normal(0.0, 0.01, n))
    return _market("unknown_volume", rng, log_close, rng.normal(0.0, 0.002, n), volume)


def gaps(seed: int, n: int) -> Market:
    """Opens far from the close before: the fill differs from the price that the order was sized at."""
    rng = np.random.default_rng([seed, 6])
    log_gap = rng.normal(0.0, 0.15, n)
    # A few opens far above both closes: a buy there can cost more cash than there is.
    spiked = rng.random(n) < 0.04
    log_gap[spiked] += rng.uniform(math.log(4.0), math.log(20.0), int(spiked.sum()))
    log_close = _start(rng) + np.cumsum(rng.normal(0.0, 0.05, n))
    return _market("gaps", rng, log_close, log_gap)


MARKETS: Mapping[str, Callable[[int, int], Market]] = MappingProxyType(
    {f.__name__: f for f in (quiet, trending, crash, zero_volume, unknown_volume, gaps)}
)


class CasePolicy(Protocol):
    """Logits as a pure function of the bar and the account features.

    Attributes:
        n_actions: number of logits.
        uses_account: whether the account features change them.
    """

    @property
    def n_actions(self) -> int: ...

    @property
    def uses_account(self) -> bool: ...

    def __call__(self, t: int, account: Account) -> list[float]: ...


@dataclass(frozen=True)
class RandomPolicy:
    """Independent random logits at each bar."""

    seed: int
    n_actions: int
    uses_account: bool = False

    def __call__(self, t: int, account: Account) -> list[float]:
        return np.random.default_rng([self.seed, t]).normal(size=self.n_actions).tolist()


@dataclass(frozen=True)
class PersistentPolicy:
    """Random logits that stay for ``run_length`` bars: positions build up to the cap and come down again."""

    seed: int
    n_actions: int
    run_length: int = 10
    uses_account: bool = False

    def __call__(self, t: int, account: Account) -> list[float]:
        return np.random.default_rng([self.seed, t // self.run_length]).normal(size=self.n_actions).tolist()


@dataclass(frozen=True)
class AccountPolicy:
    """Random logits plus a random linear function of the account features.

    Linear, so that a difference of one rounding in a feature does not jump across a threshold.
    """

    seed: int
    n_actions: int
    uses_account: bool = True

    def __call__(self, t: int, account: Account) -> list[float]:
        weights = np.random.default_rng([self.seed, 1_000_003]).normal(0.0, 3.0, (self.n_actions, 6))
        own = np.random.default_rng([self.seed, t]).normal(size=self.n_actions)
        return [
            float(own[i]) + math.fsum(float(w) * x for w, x in zip(weights[i], account, strict=True))
            for i in range(self.n_actions)
        ]


@dataclass(frozen=True)
class ConstantPolicy:
    """The same action at every bar, the others equal: with action None all logits tie."""

    action: int | None
    n_actions: int
    uses_account: bool = False

    def __call__(self, t: int, account: Account) -> list[float]:
        return [1.0 if i == self.action else 0.0 for i in range(self.n_actions)]


@dataclass(frozen=True)
class BreakingPolicy:
    """Another policy until bar ``at``; from there one logit is ``value`` (NaN or an infinity)."""

    inner: CasePolicy
    at: int
    value: float

    @property
    def n_actions(self) -> int:
        return self.inner.n_actions

    @property
    def uses_account(self) -> bool:
        return self.inner.uses_account

    def __call__(self, t: int, account: Account) -> list[float]:
        logits = self.inner(t, account)
        if t >= self.at:
            logits[t % self.n_actions] = self.value
        return logits


@dataclass(frozen=True, eq=False)
class Case:
    """Everything that one run takes: bars, block a .. b-1, policy and settings."""

    market: Market
    a: int
    b: int
    policy: CasePolicy
    rules: PlainRules

    @property
    def sizes(self) -> Mapping[int, float]:
        """Action to signed size."""
        return SIZES[self.policy.n_actions]

    def __repr__(self) -> str:
        """Short enough for a failing example."""
        return (
            f"Case({self.market.name}, n={len(self.market)}, {self.a}..{self.b}, {self.policy}, {self.rules})"
        )


def run_case(case: Case) -> PlainRun:
    """What the oracle makes of the case."""
    m = case.market
    return run_plain(
        m.open, m.high, m.low, m.close, m.volume, case.a, case.b, case.sizes, case.policy, case.rules
    )


def play(
    bars: Sequence[tuple[float, float]],
    actions: Sequence[int | None],
    rules: PlainRules,
    volume: Sequence[float] | None = None,
) -> PlainRun:
    """Run (open, close) bars with one of the 7 actions scripted at each close; None is a broken policy."""

    def policy(t: int, account: Account) -> list[float] | None:
        return None if actions[t] is None else [1.0 if i == actions[t] else 0.0 for i in range(7)]

    opens, closes = [o for o, _ in bars], [c for _, c in bars]
    volumes = [1000.0] * len(bars) if volume is None else volume
    return run_plain(opens, closes, closes, closes, volumes, 0, len(bars), SIZES[7], policy, rules)


def seeded_case(seed: int, n: int = 240) -> Case:
    """A case drawn from one seed: every market, policy and set of rules comes up."""
    rng = np.random.default_rng([seed, 7])
    market = list(MARKETS.values())[int(rng.integers(len(MARKETS)))](seed, n)
    n_actions = int(rng.choice([3, 7]))
    policies: list[CasePolicy] = [
        RandomPolicy(seed, n_actions),
        PersistentPolicy(seed, n_actions, int(rng.integers(2, 30))),
        AccountPolicy(seed, n_actions),
        ConstantPolicy(int(rng.integers(n_actions)), n_actions),
    ]
    policy = policies[int(rng.choice(4, p=[0.3, 0.3, 0.3, 0.1]))]
    a = int(rng.integers(0, n // 3))
    b = int(rng.integers(a + 2, n + 1))
    if rng.random() < 0.08:
        policy = BreakingPolicy(policy, int(rng.integers(a, b)), float(rng.choice([np.nan, np.inf, -np.inf])))
    return Case(market, a, b, policy, RULES[int(rng.integers(len(RULES)))])


_SEEDS = st.integers(0, 2**20)


def markets(min_bars: int = 2, max_bars: int = 200) -> st.SearchStrategy[Market]:
    """Any generated market of so many bars."""
    return st.builds(
        lambda make, seed, n: make(seed, n),
        st.sampled_from(list(MARKETS.values())),
        _SEEDS,
        st.integers(min_bars, max_bars),
    )


def policies(n_actions: int) -> st.SearchStrategy[CasePolicy]:
    """Any policy of that action space that always gives finite logits."""
    actions = st.none() | st.integers(0, n_actions - 1)
    return st.one_of(
        st.builds(ConstantPolicy, action=actions, n_actions=st.just(n_actions), uses_account=st.just(False)),
        st.builds(RandomPolicy, seed=_SEEDS, n_actions=st.just(n_actions), uses_account=st.just(False)),
        st.builds(
            PersistentPolicy,
            seed=_SEEDS,
            n_actions=st.just(n_actions),
            run_length=st.integers(2, 40),
            uses_account=st.just(False),
        ),
        st.builds(AccountPolicy, seed=_SEEDS, n_actions=st.just(n_actions), uses_account=st.just(True)),
    )


@st.composite
def cases(
    draw: st.DrawFn,
    min_bars: int = 2,
    max_bars: int = 200,
    *,
    breaking: bool = True,
    rules: PlainRules | None = None,
) -> Case:
    """Any case: a market, a block of at least two bars in it, a policy, settings.

    Args:
        draw: given by hypothesis.
        min_bars, max_bars: length of the market; the block lies anywhere in it.
        breaking: whether some policies give NaN or infinite logits somewhere.
        rules: these settings only.
    """
    market = draw(markets(min_bars, max_bars))
    a = draw(st.integers(0, len(market) - 2))
    b = draw(st.integers(a + 2, len(market)))
    policy: CasePolicy = draw(st.sampled_from([3, 7]).flatmap(policies))
    if breaking and draw(st.integers(0, 9)) == 9:
        policy = BreakingPolicy(
            policy, draw(st.integers(a, b - 1)), draw(st.sampled_from([math.nan, math.inf, -math.inf]))
        )
    return Case(market, a, b, policy, rules or draw(st.sampled_from(RULES)))
