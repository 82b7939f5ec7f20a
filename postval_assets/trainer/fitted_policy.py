"""Small policy networks fitted by supervised learning: the bundled sample's stand-ins for a trainer's.

Here: labels from later prices, the fit, and the metrics that a trainer would claim. Not here: how a result is
stored (archive_writer.py).

The claims are made on the bars that the network was fitted on, as a trainer's often are. A network with
thousands of weights learns a few thousand bars by heart and claims much; what it is worth shows only on later
bars.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Bars, Float
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import NEUTRAL_ACCOUNT
from postval_assets.core.features.feature_set import FeatureSet, compute_features
from postval_assets.core.features.reference import REFERENCE_53, REFERENCE_56, REFERENCE_59
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.trainer.archive_writer import TrainedModel, Validations

WINDOW = 100
REWARD_SCALE = 0.001  # returns are learnt and scored in tenths of a percent
UPDATES_PER_VALIDATION = 40
POSITION_FRAC = ExecutionRules().max_position  # of equity in a position of size 1, for the drawdown proxy
_SUB_WINDOWS = 20
_MAX_PROFIT_FACTOR = 10.0


@dataclass(frozen=True)
class ObservationLayout:
    """What a model version sees and does: docs/contract.md."""

    feature_set: FeatureSet
    n_actions: int

    @property
    def n_account(self) -> int:
        """Number of account features, the last ones of each bar."""
        return len(self.feature_set.account_features)


LAYOUTS = {
    "2.3.0": ObservationLayout(REFERENCE_53, 3),
    "2.6.0": ObservationLayout(REFERENCE_56, 3),
    "2.7.0": ObservationLayout(REFERENCE_59, 7),
}
_ACTION_MEANINGS = {
    3: ("HOLD", "BUY_50", "SELL_50"),
    7: ("HOLD", "BUY_25", "BUY_50", "BUY_75", "SELL_25", "SELL_50", "SELL_75"),
}


@dataclass(frozen=True)
class FitPlan:
    """How one network is fitted.

    Attributes:
        symbol: whose bars.
        timeframe: of the bars it acts on.
        model_version: a key of LAYOUTS.
        n_validations: length of the fit, in steps of UPDATES_PER_VALIDATION updates.
        hidden_dims: widths of the trunk.
        layer_norm: whether a LayerNorm follows each Linear of the trunk.
        horizon_bars: how far ahead the labels look.
        learning_rate: of Adam.
        names_feature_set: whether the checkpoint says which feature set it was fitted with.
    """

    symbol: str
    timeframe: Timeframe
    model_version: str
    n_validations: int = 10
    hidden_dims: tuple[int, ...] = (6, 6)
    layer_norm: bool = False
    horizon_bars: int = 4
    learning_rate: float = 0.002
    names_feature_set: bool = True


@dataclass(frozen=True)
class FittedPolicyConfig:
    """What a checkpoint records of its run."""

    hidden_dims: tuple[int, ...]
    activation: str
    layer_norm: bool
    horizon_bars: int
    learning_rate: float
    n_updates: int
    reward_scale: float
    seed: int


class PolicyNetwork(nn.Module):
    """Trunk, actor and critic over a window of bars, under the names that checkpoints use."""

    def __init__(self, plan: FitPlan, layout: ObservationLayout) -> None:
        """Draw the weights from torch's global generator."""
        super().__init__()
        self.n_market = len(layout.feature_set.market_features)
        self.n_features = layout.feature_set.n_features
        layers: list[nn.Module] = []
        width = self.n_features * WINDOW
        for hidden in plan.hidden_dims:
            layers.append(nn.Linear(width, hidden))
            if plan.layer_norm:
                layers.append(nn.LayerNorm(hidden))
            layers.append(nn.ReLU())
            width = hidden
        self.shared = nn.Sequential(*layers)
        self.actor_head = nn.Linear(width, layout.n_actions)
        self.critic_head = nn.Linear(width, 1)

    def forward(self, market: torch.Tensor, account: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits [sample, action] and values [sample].

        Args:
            market: market features of the window [sample, bar x feature], oldest bar first.
            account: account features [sample, feature], the same in every bar of the window.
        """
        first = self.shared[0]
        assert isinstance(first, nn.Linear)  # noqa: S101 - for the type checker
        weight = first.weight.view(-1, WINDOW, self.n_features)
        hidden = nn.functional.linear(market, weight[:, :, : self.n_market].flatten(1), first.bias)
        hidden = hidden + account @ weight[:, :, self.n_market :].sum(dim=1).T
        for layer in list(self.shared)[1:]:
            hidden = layer(hidden)
        return self.actor_head(hidden), self.critic_head(hidden)[:, 0]


@dataclass(frozen=True)
class _Samples:
    """Training data. market [sample, bar x feature]; the others [sample]."""

    market: torch.Tensor
    labels: torch.Tensor
    targets: torch.Tensor  # the later return in units of REWARD_SCALE, for the critic
    next_return: Float


def fit_policy(plan: FitPlan, bars: Bars, seed: int) -> TrainedModel:
    """Fit one network on all the bars given, on one thread, so that equal arguments give equal weights.

    Args:
        plan: what to fit.
        bars: the training part of the history, of the plan's timeframe.
        seed: for weights and account features.

    Raises:
        ValueError: where the bars do not hold a single sample.
    """
    layout = LAYOUTS[plan.model_version]
    samples = _samples(plan, layout, bars)
    n_samples = len(samples.labels)
    account_rng = np.random.default_rng(seed)
    claims: list[tuple[float, float, float, float]] = []
    with _one_thread(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network = PolicyNetwork(plan, layout)
        optimizer = torch.optim.Adam(network.parameters(), lr=plan.learning_rate)
        for _ in range(plan.n_validations):
            for _ in range(UPDATES_PER_VALIDATION):
                logits, values = network(
                    samples.market, _random_account(account_rng, n_samples, layout.n_account)
                )
                loss = nn.functional.cross_entropy(logits, samples.labels)
                loss = loss + 0.01 * nn.functional.smooth_l1_loss(values, samples.targets)
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it unannotated
                optimizer.step()
            claims.append(_claims(network, samples, bars.asset_class, layout))
    n_updates = plan.n_validations * UPDATES_PER_VALIDATION
    # The moments are left out: they would triple the file, and nothing resumes from it.
    optimizer_state = {**optimizer.state_dict(), "state": {}}
    return TrainedModel(
        symbol=plan.symbol,
        timeframe=plan.timeframe,
        model_version=plan.model_version,
        n_features=network.n_features,
        n_actions=layout.n_actions,
        window=WINDOW,
        action_meanings=dict(enumerate(_ACTION_MEANINGS[layout.n_actions])),
        activation="relu",
        feature_set=layout.feature_set.name if plan.names_feature_set else None,
        policy_state_dict=OrderedDict((k, v.detach().clone()) for k, v in network.state_dict().items()),
        optimizer_state_dict=optimizer_state,
        config=FittedPolicyConfig(
            hidden_dims=plan.hidden_dims,
            activation="relu",
            layer_norm=plan.layer_norm,
            horizon_bars=plan.horizon_bars,
            learning_rate=plan.learning_rate,
            n_updates=n_updates,
            reward_scale=REWARD_SCALE,
            seed=seed,
        ),
        global_step=n_updates * n_samples,
        train_start=_datetime(bars.ts[0]),
        train_end=_datetime(bars.ts[-1]),
        validations=Validations(
            *(tuple(round(v, 6) for v in column) for column in zip(*claims, strict=True))
        ),
    )


def trading_cost_frac(asset_class: AssetClass) -> float:
    """Fee and slippage of one order as a fraction of the traded value, as the backtest charges them."""
    rules = ExecutionRules()
    return rules.fee_rate(asset_class) + rules.slippage


def label_actions(later_return: Float, round_trip_cost: float, n_actions: int) -> npt.NDArray[np.int64]:
    """The action that hindsight would pick, axis [sample].

    HOLD where the return would not pay for a round trip; else BUY or SELL, with 7 actions the larger the more
    the return exceeds that cost (1, 2 and 4 times).
    """
    multiple = np.abs(later_return) / round_trip_cost
    if n_actions == 3:
        return np.where(multiple <= 1.0, 0, np.where(later_return > 0.0, 1, 2)).astype(np.int64)
    step = np.searchsorted([1.0, 2.0, 4.0], multiple, side="left")
    return np.where(step == 0, 0, np.where(later_return > 0.0, step, step + 3)).astype(np.int64)


def claim_metrics(rewards: Float) -> tuple[float, float, float, float]:
    """Fitness, profit factor, consistency and drawdown proxy of per-bar rewards (fractions), axis [bar].

    profit factor: sum of the positive rewards over that of the negative, at most 10. consistency: share of 20
    equal sub-windows that gain. drawdown: largest fall of the summed rewards at POSITION_FRAC of equity, as a
    fraction. fitness: (consistency + max(0, 1 - 1 / profit factor)) / 2.
    """
    gains, losses = float(rewards[rewards > 0.0].sum()), float(-rewards[rewards < 0.0].sum())
    if losses > 0.0:
        profit_factor = min(gains / losses, _MAX_PROFIT_FACTOR)
    else:
        profit_factor = _MAX_PROFIT_FACTOR if gains > 0.0 else 0.0
    parts = np.array_split(rewards, min(_SUB_WINDOWS, len(rewards)))
    consistency = float(np.mean([part.sum() > 0.0 for part in parts]))
    curve = np.concatenate([[0.0], np.cumsum(rewards) * POSITION_FRAC])
    max_drawdown = float(-np.expm1(-np.max(np.maximum.accumulate(curve) - curve)))
    edge = max(0.0, 1.0 - 1.0 / profit_factor) if profit_factor > 0.0 else 0.0
    return (consistency + edge) / 2.0, profit_factor, consistency, max_drawdown


def _samples(plan: FitPlan, layout: ObservationLayout, bars: Bars) -> _Samples:
    features = compute_features(layout.feature_set, bars)
    first_row = layout.feature_set.look_back - 1
    first, stop = first_row + WINDOW - 1, len(bars) - plan.horizon_bars
    if stop <= first:
        raise ValueError(
            f"{plan.symbol}: {len(bars)} bars hold no sample; one needs {first + plan.horizon_bars + 1}"
        )
    log_close = np.log(bars.close)
    at = np.arange(first, stop)
    later_return = log_close[at + plan.horizon_bars] - log_close[at]
    labels = label_actions(later_return, 2.0 * trading_cost_frac(bars.asset_class), layout.n_actions)
    windows = np.lib.stride_tricks.sliding_window_view(features[first_row:stop], WINDOW, axis=0)
    market = np.ascontiguousarray(windows.transpose(0, 2, 1)).reshape(len(at), -1)
    return _Samples(
        market=torch.from_numpy(market),
        labels=torch.from_numpy(labels),
        targets=torch.from_numpy((later_return / REWARD_SCALE).astype(np.float32)),
        next_return=log_close[at + 1] - log_close[at],
    )


def _random_account(rng: np.random.Generator, n_samples: int, n_account: int) -> torch.Tensor:
    """Plausible account features [sample, feature], in the order of the contract."""
    log_growth = rng.normal(0.0, 0.03, n_samples)
    position = rng.uniform(0.0, 1.0, n_samples)
    columns = (
        np.tanh(10.0 * np.expm1(log_growth)),
        np.clip(rng.normal(0.5, 0.15, n_samples), 0.0, 1.0),
        np.abs(rng.normal(0.0, 0.03, n_samples)),
        position,
        1.0 - POSITION_FRAC * position,
        log_growth / np.log(10.0),
    )
    return torch.from_numpy(np.column_stack(columns)[:, :n_account].astype(np.float32))


def _claims(
    network: PolicyNetwork, samples: _Samples, asset_class: AssetClass, layout: ObservationLayout
) -> tuple[float, float, float, float]:
    """The claims of the network as it stands.

    It holds the size of its last signal, from one bar to the next; crypto is not sold short.
    """
    n = len(samples.labels)
    account = torch.tensor(NEUTRAL_ACCOUNT[: layout.n_account]).expand(n, -1)
    with torch.no_grad():
        logits, _ = network(samples.market, account)
    signal = action_sizes(layout.n_actions)[logits.numpy().argmax(axis=1)]
    last_signal = np.maximum.accumulate(np.where(signal != 0.0, np.arange(n), -1))
    position = np.where(last_signal >= 0, signal[last_signal], 0.0)
    if asset_class is AssetClass.CRYPTO:
        position = np.maximum(position, 0.0)
    traded = np.abs(np.diff(position, prepend=0.0))
    return claim_metrics(position * samples.next_return - trading_cost_frac(asset_class) * traded)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Sums run in one order, whatever the number of cores."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _datetime(ts: np.datetime64) -> datetime:
    return datetime.fromisoformat(str(ts.astype("datetime64[s]"))).replace(tzinfo=UTC)
