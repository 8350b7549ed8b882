"""Our trainer on somebody else's battles: JaxMARL's SMAX through the batched protocol.

    python -m benchmarks.smax_check --map 3m --minutes 5

A check of the learner, not of the simulator: it learns where others' learners do. SMAX lives in an
environment of its own (`benchmarks.peers`), in a process for each batch of battles. Settings that
follow are `training.train`'s.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from hashlib import sha256
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.peers import HERE, PeerUnavailableError, peer_python
from training import envs, train
from training.types import EnvInfo, Observation, Transition

WORKER = HERE / "smax_battles.py"
NAME = "smax"
REWARD_SCALE = 10.0
"""A battle of SMAX pays 2 at most; with this 20, as SMAC's do, for which our presets are made."""


class SmaxEnv:
    """E battles of SMAX; see `training.envs.base.BatchedEnv` for the protocol. What a run has been
    saved with does not bring its battles back.

    Raises:
        PeerUnavailableError: SMAX cannot be installed.
    """

    def __init__(
        self,
        map_name: str,
        n_envs: int,
        seed: int = 0,
        device: torch.device | str = "cpu",
    ) -> None:
        self.n_envs, self.device = n_envs, torch.device(device)
        ours, theirs = socket.socketpair()
        with theirs:
            words = (peer_python("smax", print), "-I", WORKER, theirs.fileno())
            self._process = subprocess.Popen(
                [str(word) for word in (*words, map_name, n_envs, seed)],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env={**os.environ, "JAX_PLATFORMS": "cpu"},
            )
        self._pipe = Connection(ours.detach())
        self._close = weakref.finalize(self, _end, self._pipe, self._process)
        told = self._pipe.recv()
        self._sizes: dict[str, tuple[int, ...]] = told["sizes"]
        self.info = _info(map_name, told)
        self._next_battle = 0
        self._over = torch.zeros(n_envs, dtype=torch.bool)

    def close(self) -> None:
        """End the battles. They end with this process too."""
        self._close()

    def reset(
        self, mask: torch.Tensor | None = None, battle_ids: torch.Tensor | None = None
    ) -> Observation:
        chosen = torch.ones(self.n_envs, dtype=torch.bool) if mask is None else mask.cpu()
        if battle_ids is None:
            battle_ids = self._next_battle + chosen.long().cumsum(0) - 1
        if chosen.any():
            last = int(battle_ids.cpu()[chosen].max())
            self._next_battle = max(self._next_battle, last + 1)
        numbers = battle_ids.cpu().numpy().astype(np.int32)
        shown = self._ask("reset", chosen.numpy().tobytes(), numbers.tobytes())
        self._over = shown["done"] > 0
        return self._observation(shown)

    def step(self, actions: torch.Tensor) -> Transition:
        shown = self._ask("step", actions.cpu().numpy().astype(np.int32).tobytes())
        alive, n = shown["alive"] > 0, self.info.n_agents
        allies, enemies = alive[:, :n], alive[:, n:]
        decided = ~allies.any(1) | ~enemies.any(1)
        was_over, self._over = self._over, shown["done"] > 0
        won = allies.any(1) & ~enemies.any(1) & ~was_over
        values = (
            shown["reward"] * REWARD_SCALE,
            self._over & decided,
            self._over & ~decided,
            won,
            (~allies).sum(1),
            (~enemies).sum(1),
        )
        return Transition(self._observation(shown), *(v.to(self.device) for v in values))

    def _ask(self, order: str, *given: bytes) -> dict[str, torch.Tensor]:
        self._pipe.send((order, *given))
        answer = self._pipe.recv()
        shapes = {**self._sizes, "reward": ()}
        floats = ("obs", "state", "reward")
        return {
            name: torch.tensor(
                np.frombuffer(packed, np.float32 if name in floats else np.uint8)
            ).reshape(self.n_envs, *shapes[name])
            for name, packed in answer.items()
        }

    def _observation(self, shown: Mapping[str, torch.Tensor]) -> Observation:
        values = (shown["obs"], shown["state"], shown["avail_actions"] > 0)
        return Observation(*(v.to(self.device) for v in values))

    def state_dict(self) -> dict[str, Any]:
        return {"next_battle": self._next_battle}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._next_battle = state["next_battle"]


def _end(pipe: Connection, process: subprocess.Popen[bytes]) -> None:
    pipe.close()
    process.wait()


def _info(map_name: str, told: Mapping[str, Any]) -> EnvInfo:
    sizes = told["sizes"]
    n_agents, n_actions = sizes["avail_actions"]
    return EnvInfo(
        name=NAME,
        map_name=map_name,
        n_agents=n_agents,
        n_enemies=told["n_enemies"],
        n_actions=n_actions,
        obs_dim=sizes["obs"][1],
        state_dim=sizes["state"][0],
        episode_limit=told["episode_limit"],
        unit_types=("unit",) * n_agents,
        continuing_episode=False,
        layout_sha256=sha256(f"smax {map_name} {sizes}".encode()).hexdigest(),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.smax_check", description=__doc__)
    parser.add_argument("--map", default="3m", help="one of SMAX's")
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--name", default="smax-check")
    chosen, more = parser.parse_known_args(arguments)
    envs.ENVS[NAME] = ("benchmarks.smax_check", "SmaxEnv")
    envs.DEFAULT_MAPS[NAME] = chosen.map
    words = ["--env", NAME, "--map", chosen.map, "--minutes", str(chosen.minutes)]
    # What is registered here is known in this process alone.
    words += ["--actor", "local", "--runs-dir", str(chosen.runs_dir), "--name", chosen.name]
    try:
        code = train.main([*words, *more])
    except PeerUnavailableError as error:
        raise SystemExit(str(error)) from None
    print("\n".join(curve(chosen.runs_dir / chosen.name / "metrics.jsonl")))
    return code


def curve(metrics: Path) -> list[str]:
    """The tests, in lines."""
    rows = [json.loads(line) for line in metrics.read_text().splitlines()]
    return [
        f"{row['t_env']:>10,} steps  won {row['test_battle_won_mean']:.3f}  "
        f"return {row['test_return_mean']:.2f}"
        for row in rows
        if "test_return_mean" in row
    ]


if __name__ == "__main__":
    sys.exit(main())
