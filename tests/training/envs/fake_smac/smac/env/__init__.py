"""A stand-in for oxwhirl's smac: the part of its surface that the worker uses, and its habit of
answering a broken connection with a new game, reward 0, an ended episode and no info.

A battle of 3m of which all is known: battle b of seed s has `length(s, b)` steps, its observations
and state are full of the step's number, but for the state's first entries: seed, battle, length.
Each step pays 1. Battles are won, lost and run out of time in turns. The game is a process that
sleeps.
"""

from __future__ import annotations

import os
import subprocess
import time
from types import SimpleNamespace
from typing import Any

import numpy as np

from tests.training.envs.faults import take

N_AGENTS, N_ACTIONS, OBS_DIM, STATE_DIM = 3, 9, 30, 48
LIMIT = 60


def length(seed: int, battle: int) -> int:
    return LIMIT if battle % 3 == 2 else 3 + (seed + battle) % 5


class ConnectionError(Exception):  # as pysc2's
    pass


class StarCraft2Env:
    def __init__(self, map_name: str = "8m", seed: int = 0, **options: Any) -> None:
        assert map_name == "3m"
        self._seed, self.options = seed, options
        self.timeouts = self._episode_count = 0
        self.episode_limit = LIMIT
        self.battle = -1

    def _launch(self) -> None:
        print("the game is up", flush=True)
        if take("launch"):
            raise RuntimeError("the game does not start")
        self._sc2_proc = subprocess.Popen(["sleep", "1000"])
        pong = SimpleNamespace(game_version="4.10.0.75689", base_build=75689)
        self._controller = SimpleNamespace(ping=lambda: pong)

    def full_restart(self) -> None:
        self._sc2_proc.kill()
        self._launch()

    def _talk(self) -> None:
        fault = take("crash", "hang", "garbage")
        if fault == "crash":
            self._sc2_proc.kill()
            raise ConnectionError("the game has crashed")
        if fault == "hang":
            time.sleep(1000)
        if fault == "garbage":
            raise ValueError("Error parsing message")

    def reset(self) -> None:
        if self._episode_count == 0:
            self._launch()
        try:
            if take("reset"):
                raise ConnectionError("the game has crashed at its reset")
        except ConnectionError:
            self.full_restart()
        self.battle += 1
        self.steps = 0

    def step(self, actions: list[int]) -> tuple[float, bool, dict[str, Any]]:
        assert len(actions) == N_AGENTS
        try:
            self._talk()
        except ConnectionError:
            self.full_restart()
            return 0, True, {}
        self.steps += 1
        over = self.steps == length(self._seed, self.battle)
        timed_out = over and self.battle % 3 == 2
        self._episode_count += over
        self.timeouts += timed_out
        won = over and self.battle % 3 == 0
        return 1.0, over, {"battle_won": won, "dead_allies": 1, "dead_enemies": 3 * won}

    def get_obs(self) -> list[np.ndarray[Any, Any]]:
        return [np.full(OBS_DIM, self.steps, np.float32) for _ in range(N_AGENTS)]

    def get_state(self) -> np.ndarray[Any, Any]:
        state = np.full(STATE_DIM, self.steps, np.float64)  # SMAC's is not float32 either
        state[:3] = self._seed % 1000, self.battle, length(self._seed, self.battle)
        state[3] = os.getpid()
        return state

    def get_avail_actions(self) -> list[list[int]]:
        return [[0] + [1] * (N_ACTIONS - 1) for _ in range(N_AGENTS)]
