"""stable-baselines3's way: the network as a PPO policy, the rules as a gymnasium environment, evaluate_policy.

Runs in the environment of the peers: python sb3_peer.py CASE.npz RESULT.json. Here: rules.md section 3 written plainly,
for a long-only asset whose bars all have volume. Nothing of postval is imported.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Any

import gymnasium
import numpy as np
import stable_baselines3
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv

CAPITAL = 100_000.0
UNIT = (1.0 - 0.30) * 0.15
MAX_POSITION = 0.20


Run = dict[str, list[Any]]
Blocks = Sequence[Sequence[int]]


class BlockEnv(gymnasium.Env):  # type: ignore[misc, unused-ignore]
    """Blocks of bars, one an episode; the action is decided at a close and filled at the next open."""

    def __init__(
        self, case: Mapping[str, Any], blocks: Blocks, window: int, fee_rate: float, slippage: float
    ) -> None:
        super().__init__()
        self.case, self.blocks, self.window = case, blocks, window
        self.fee_rate, self.slippage = fee_rate, slippage
        # Read out of the file once: an .npz decompresses an array at every access.
        self.features, self.sizes = case["features"], case["sizes"].tolist()
        self.open, self.close = case["open"].tolist(), case["close"].tolist()
        width = window * (self.features.shape[1] + 6)
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (width,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(len(self.sizes))
        self.episode = -1
        self.finished: dict[int, Run] = {}

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.episode += 1
        start, self.stop = self.blocks[self.episode % len(self.blocks)]
        self.run: Run = {"actions": [], "equity": [CAPITAL]}
        self.t = self.start = start
        self.cash = self.peak = self.equity = CAPITAL
        self.quantity = self.trip_cash = 0.0
        self.closed = self.won = 0
        return self.observe(), {}

    def step(self, action: Any) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        action = int(action)
        self.run["actions"].append(action)
        order = self.order(self.sizes[action])
        self.t += 1
        if order != 0.0:
            self.fill(order, self.open[self.t])
        done = self.t == self.stop - 1
        if done and self.quantity != 0.0:
            self.fill(-self.quantity, self.close[self.t])
        before = self.equity
        self.equity = self.cash + self.quantity * self.close[self.t]
        self.peak = max(self.peak, self.equity)
        self.run["equity"].append(self.equity)
        if done:
            self.finished[self.start] = self.run
        return self.observe(), self.equity / before - 1.0, done, False, {}

    def order(self, size: float) -> float:
        close, value = self.close[self.t], self.quantity * self.close[self.t]
        unit = self.equity * UNIT
        if size > 0.0:
            usd = min(size * unit, MAX_POSITION * self.equity - value)
            return usd / close if usd >= 1.0 else 0.0
        usd = min(-size * unit, value)
        if usd < 1.0:
            return 0.0
        return -self.quantity if usd == value else -min(usd / close, self.quantity)

    def fill(self, dq: float, quoted: float) -> None:
        price = quoted * (1.0 + math.copysign(self.slippage, dq))
        paid = dq * price + self.fee_rate * abs(dq) * price
        self.cash -= paid
        self.quantity += dq
        self.trip_cash -= paid
        if self.quantity == 0.0:
            self.closed += 1
            self.won += self.trip_cash > 0.0
            self.trip_cash = 0.0

    def observe(self) -> np.ndarray:
        equity, value = self.equity, self.quantity * self.close[self.t]
        account = (
            math.tanh(10.0 * (equity / CAPITAL - 1.0)),
            self.won / self.closed if self.closed else 0.5,
            (self.peak - equity) / self.peak,
            abs(value) / equity / MAX_POSITION,
            min(max(self.cash / equity, 0.0), 1.0),
            math.log10(equity / CAPITAL),
        )
        own = np.tile(np.array(account, dtype=np.float32), (self.window, 1))
        market = self.features[self.t - self.window + 1 : self.t + 1]
        return np.concatenate([market, own], axis=1).ravel()


def main(case_path: Path, result_path: Path) -> None:
    case = dict(np.load(case_path))
    settings = json.loads(str(case["settings"]))
    blocks = case["blocks"].tolist()

    def env_of(own_blocks: Blocks) -> Callable[[], Any]:
        rules = settings["window"], settings["fee_rate"], settings["slippage"]
        return lambda: Monitor(BlockEnv(case, own_blocks, *rules))

    ways = {"1 env": [env_of(blocks)], f"{len(blocks)} envs": [env_of([block]) for block in blocks]}
    found = {}
    default_threads = torch.get_num_threads()
    for name, makers in ways.items():
        envs = DummyVecEnv(makers)
        # An unused rollout buffer of a few steps: only its actor is run.
        kwargs = {"net_arch": settings["hidden"], "activation_fn": torch.nn.ReLU}
        model = PPO("MlpPolicy", envs, n_steps=8, batch_size=8, policy_kwargs=kwargs, device="cpu")
        linears = [m for m in model.policy.mlp_extractor.policy_net if isinstance(m, torch.nn.Linear)]
        with torch.no_grad():
            for i, linear in enumerate([*linears, model.policy.action_net]):
                linear.weight.copy_(torch.from_numpy(case[f"weight_{i}"]))
                linear.bias.copy_(torch.from_numpy(case[f"bias_{i}"]))
        # One row at a time multiplies no faster on two cores, and waits for both: one thread is tried as well.
        for n_threads in sorted({1, default_threads}):
            torch.set_num_threads(n_threads)
            seconds: list[float] = []
            runs: dict[int, Run] = {}
            for _ in range(settings["repeats"]):
                for env in envs.envs:
                    env.unwrapped.episode = -1
                started = perf_counter()
                evaluate_policy(model, envs, n_eval_episodes=len(blocks), deterministic=True)
                seconds.append(perf_counter() - started)
                for env in envs.envs:
                    runs |= env.unwrapped.finished
            way = f"{name}, {n_threads} threads" if n_threads > 1 else f"{name}, 1 thread"
            found[way] = {"seconds": seconds, "runs": [runs[start] for start, _ in blocks]}
    versions = {"stable-baselines3": stable_baselines3.__version__, "gymnasium": gymnasium.__version__}
    out = {"ways": found, "versions": versions, "torch_threads": default_threads}
    result_path.write_text(json.dumps(out), encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
