"""The work that the engine is measured with: a network, bars, features and blocks, all from one seed.

Here: making it, running it through the product, and through the plain loop that the tests hold the product to. Not
here: how long that takes (engine_bench.py), or other projects' ways of the same (peer_bench.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from postval_assets.core.actions import action_sizes
from postval_assets.core.bars import Bars
from postval_assets.core.checkpoint import Checkpoint, read_checkpoint
from postval_assets.core.costs import ExecutionRules
from postval_assets.core.engine import Actor, BlockRun, Lane, run_lanes
from postval_assets.core.features.feature_set import FeatureSet, compute_features
from postval_assets.core.features.reference import REFERENCE_SETS
from postval_assets.core.instruments import AssetClass, Timeframe
from postval_assets.core.policy import PolicyNetwork, on_one_thread
from postval_assets_tests.bench.options import BenchOptions
from postval_assets_tests.core.plain_loop import Account, PlainRules, PlainRun, Policy, run_plain
from postval_assets_tests.factories import VERSION_DIMS, make_checkpoint

Float32 = npt.NDArray[np.float32]
Int = npt.NDArray[np.int64]
Block = tuple[int, int]

HIDDEN = (1024, 512, 256)
QUICK_HIDDEN = (16, 8)
WINDOW = 100
WITH_ACCOUNT = "2.7.0"
WITHOUT_ACCOUNT = "2.3.0"
RULES = ExecutionRules()


@dataclass(frozen=True, eq=False)
class EngineCase:
    """One model over blocks of one symbol's bars.

    Attributes:
        checkpoint: the network, as read back from its file.
        bars: crypto, hourly.
        features: market features [bar, feature], float32.
        blocks: first bar, and the one after the last.
    """

    checkpoint: Checkpoint
    bars: Bars
    features: Float32
    blocks: tuple[Block, ...]

    @property
    def n_bars(self) -> int:
        """Bars that are evaluated: those of all blocks, also where two blocks share them."""
        return sum(stop - start for start, stop in self.blocks)

    @property
    def flops_of_a_bar(self) -> int:
        """Multiplications and additions of the whole network for one observation."""
        return sum(2 * layer.n_in * layer.n_out for layer in self.checkpoint.spec.layers if layer.weight_key)

    def lanes(self, n_bars: int | None = None) -> list[Lane]:
        """The blocks, each cut to its first ``n_bars``."""
        sizes = action_sizes(self.checkpoint.spec.n_actions)
        return [
            Lane(self.bars, start, stop if n_bars is None else min(stop, start + n_bars), sizes)
            for start, stop in self.blocks
        ]


@dataclass(frozen=True, eq=False)
class TimedRun:
    """A run of the product's engine, and where its seconds went.

    Attributes:
        runs: one a block.
        total_s: from weights and features in memory to the finished blocks.
        weights_s: taking the weights to the device.
        first_layer_s: what is computed for all bars before the first step.
        tail_s: asked for actions, step by step.
        accounting_s: the rest.
    """

    runs: list[BlockRun]
    total_s: float
    weights_s: float
    first_layer_s: float
    tail_s: float
    accounting_s: float


class TimedActor:
    """Another actor, with the seconds spent in it."""

    def __init__(self, actor: Actor) -> None:
        self._actor = actor
        self.seconds = 0.0

    def act(self, step: int, lanes: Int, account: npt.NDArray[np.float64]) -> Int:
        started = perf_counter()
        chosen = self._actor.act(step, lanes, account)
        self.seconds += perf_counter() - started
        return chosen


def production_case(
    options: BenchOptions, *, version: str = WITH_ACCOUNT, plans: Sequence[tuple[int, int]] = ((5, 864),)
) -> EngineCase:
    """The production network over plans that end with the newest bar; little ones where ``quick``.

    Args:
        options: seed, scratch folder and whether it is to be quick.
        version: of the model: decides features and actions.
        plans: folds and bars in a fold, for each plan.
    """
    hidden = QUICK_HIDDEN if options.quick else HIDDEN
    if options.quick:
        plans = [(n_folds, 40) for n_folds, _ in plans]
    feature_set = feature_set_of(version)
    before = WINDOW + feature_set.look_back
    n_bars = before + max(n_folds * length for n_folds, length in plans)
    bars = random_walk(n_bars, options.seed)
    blocks = []
    for n_folds, length in plans:
        first = n_bars - n_folds * length
        blocks += [(first + i * length, first + (i + 1) * length) for i in range(n_folds)]
    features = compute_features(feature_set, bars).astype(np.float32)
    checkpoint = network(version, hidden, features, options.scratch, options.seed)
    return EngineCase(checkpoint, bars, features, tuple(blocks))


def feature_set_of(version: str) -> FeatureSet:
    """The reference set with as many features as the version has."""
    n_features = VERSION_DIMS[version][0]
    return next(s for s in REFERENCE_SETS if len(s.feature_names) == n_features)


def random_walk(n_bars: int, seed: int) -> Bars:
    """Hourly bars of a crypto symbol around 100 USD, always with volume."""
    rng = np.random.default_rng([seed, 1])
    close = 100.0 * np.exp(np.cumsum(rng.normal(0.0, 0.006, n_bars)))
    opened = np.r_[100.0, close[:-1]] * np.exp(rng.normal(0.0, 0.0005, n_bars))
    wick = 1.0 + np.abs(rng.normal(0.0, 0.002, (2, n_bars)))
    return Bars(
        symbol="WALKUSD",
        timeframe=Timeframe.HOUR_1,
        asset_class=AssetClass.CRYPTO,
        ts=np.datetime64("2023-01-01", "us") + np.arange(n_bars) * Timeframe.HOUR_1.delta,
        open=opened,
        high=np.maximum(opened, close) * wick[0],
        low=np.minimum(opened, close) / wick[1],
        close=close,
        volume=rng.lognormal(6.0, 1.0, n_bars),
    )


def network(version: str, hidden: tuple[int, ...], features: Float32, folder: Path, seed: int) -> Checkpoint:
    """A network whose actions change from bar to bar, written as a trainer writes it and read back.

    Its first layer takes the features' mean and spread out, as training on them would: else the largest of them
    would decide every bar alike.
    """
    n_features, n_actions = VERSION_DIMS[version]
    generator = torch.Generator().manual_seed(seed)
    state: dict[str, torch.Tensor] = {}
    widths = (n_features * WINDOW, *hidden)
    for i, (n_in, n_out) in enumerate(pairwise(widths)):
        state[f"shared.{2 * i}.weight"] = torch.randn((n_out, n_in), generator=generator) * 1.5 * n_in**-0.5
        state[f"shared.{2 * i}.bias"] = torch.randn(n_out, generator=generator) * 0.1
    for head, n_out in (("actor_head", n_actions), ("critic_head", 1)):
        state[f"{head}.weight"] = torch.randn((n_out, widths[-1]), generator=generator) * widths[-1] ** -0.5
        state[f"{head}.bias"] = torch.zeros(n_out)
    usual, deviation = np.nanmean(features, axis=0), np.nanstd(features, axis=0)
    # What hardly moves beside its size stays as it is: scaled up, float32 would lose the rest of the sum in it.
    moves = deviation > 0.01 * np.abs(usual) + 1e-3
    mean = torch.from_numpy(usual)
    scale = torch.from_numpy(np.where(moves, deviation, np.maximum(np.abs(usual), 1.0)))
    market = state["shared.0.weight"].view(-1, WINDOW, n_features)[:, :, : features.shape[1]]
    market /= scale
    state["shared.0.bias"] -= market.sum(dim=1) @ mean
    path = folder / f"network-{version}.pt"
    make_checkpoint(path, version=version, hidden=hidden, overrides={"policy_state_dict": state})
    checkpoint = read_checkpoint(path)
    path.unlink()
    return checkpoint


def run_product(case: EngineCase, lanes: Sequence[Lane], device: str = "cpu") -> TimedRun:
    """The product's way: from weights and features in memory to finished blocks."""
    started = perf_counter()
    policy = PolicyNetwork(case.checkpoint.spec, case.checkpoint.tensors, device)
    ready = perf_counter()
    actor = TimedActor(policy.actor(case.features, lanes))
    prepared = perf_counter()
    with on_one_thread():
        runs = run_lanes(lanes, actor, RULES)
    ended = perf_counter()
    return TimedRun(
        runs=runs,
        total_s=ended - started,
        weights_s=ready - started,
        first_layer_s=prepared - ready,
        tail_s=actor.seconds,
        accounting_s=ended - prepared - actor.seconds,
    )


class PlainNetwork:
    """The network as a trainer runs it: shown every observation whole, one bar at a time."""

    def __init__(self, case: EngineCase) -> None:
        spec, tensors = case.checkpoint.spec, case.checkpoint.tensors
        layers: list[nn.Module] = []
        for layer in spec.layers:
            if layer.weight_key:
                linear = nn.Linear(layer.n_in, layer.n_out)
                linear.weight.data = torch.from_numpy(np.array(tensors[layer.weight_key]))
                linear.bias.data = torch.from_numpy(np.array(tensors[layer.bias_key or ""]))
                layers.append(linear)
            else:
                layers.append(nn.ReLU())
        self._network = nn.Sequential(*layers).eval()
        self._case = case
        self._n_account = len(spec.account_features)

    def logits(self, t: int, account: Account) -> list[float]:
        own = np.array(account[: self._n_account], dtype=np.float32)
        window = self._case.features[t - WINDOW + 1 : t + 1]
        observation = np.concatenate([window, np.tile(own, (WINDOW, 1))], axis=1).reshape(1, -1)
        with torch.inference_mode():
            found: list[float] = self._network(torch.from_numpy(observation))[0].tolist()
        return found

    def run(self, block: Block) -> PlainRun:
        """One block through the plain loop."""
        return plain_run(self._case, block, self.logits)


def plain_replay(case: EngineCase, lane: Lane, run: BlockRun) -> PlainRun:
    """The plain loop with the actions of a run: gives its fills one by one."""
    n_actions = case.checkpoint.spec.n_actions

    def logits(t: int, account: Account) -> list[float]:
        wanted = int(run.actions[t - lane.start])
        return [1.0 if action == wanted else 0.0 for action in range(n_actions)]

    return plain_run(case, (lane.start, lane.stop), logits)


def plain_run(case: EngineCase, block: Block, policy: Policy) -> PlainRun:
    """The rules as the tests write them, over one block."""
    bars = case.bars
    fee_rate = RULES.fee_rate(bars.asset_class)
    plain = PlainRules(
        fee_rate=fee_rate, slippage=RULES.slippage, long_only=RULES.long_only(bars.asset_class)
    )
    sizes = dict(enumerate(action_sizes(case.checkpoint.spec.n_actions).tolist()))
    opened, high, low, close, volume = (
        getattr(bars, name).tolist() for name in ("open", "high", "low", "close", "volume")
    )
    return run_plain(opened, high, low, close, volume, block[0], block[1], sizes, policy, plain)
