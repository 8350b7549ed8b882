"""One battle after another of one seed: what the single-battle faces of Skirmish share."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from typing import Any

import torch

from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.scenario import Scenario, UnitType
from training.types import FloatArray, Observation, Transition


class SingleBattle:
    """A `SkirmishEnv` of E = 1 that numbers its battles 0, 1, 2, ... and knows when to reset.

    Args:
        seed: with a battle's number it fixes the battle; drawn if not given, see `seed`.
        env_args: as `SkirmishEnv`'s.
    """

    def __init__(self, map_name: str | Scenario, seed: int | None, **env_args: Any) -> None:
        self.seed = secrets.randbits(32) if seed is None else int(seed)
        self.env = SkirmishEnv(map_name, 1, seed=self.seed, **env_args)
        self.info = self.env.info
        scenario = self.env.scenario
        allies = sorted(scenario.ally_units, key=lambda u: scenario.ally_types.index(u.name))
        self.units: list[UnitType] = allies + scenario.enemy_units
        """Allies by agent id, then enemies: the order of the rows of `env.world`."""
        self._next_battle = 0
        self._shown: Observation | None = None
        self.over = False
        self.played: list[Sequence[int]] = []
        """The actions taken in this battle so far: all there is to know of it, with"""
        self.begun = (self.seed, -1)
        """the seed and the number that it began with."""

    def reseed(self, seed: int) -> None:
        """Of this seed, the next battle is number 0."""
        self.seed = self.env.seed = int(seed)  # read by each reset, as building anew is slow
        self._next_battle = 0

    def reset(self) -> None:
        self._shown = self.env.reset(battle_ids=torch.tensor([self._next_battle]))
        self.begun = (self.seed, self._next_battle)
        self._next_battle += 1
        self.over = False
        self.played = []

    def step(self, actions: Sequence[int]) -> Transition:
        """One step; `actions` by agent id, whose number and availability are checked.

        Raises:
            RuntimeError: no battle has begun, or it is over.
        """
        self._require_battle()
        if self.over:
            raise RuntimeError("the battle is over; call reset() to begin the next")
        if len(actions) != self.info.n_agents:
            raise ValueError(
                f"{self.info.n_agents} agents need as many actions, not {len(actions)}"
            )
        after = self.env.step(torch.tensor([actions], dtype=torch.int64))
        self._shown = after.observation
        self.played.append(actions)
        self.over = bool(after.terminated[0] | after.truncated[0])
        return after

    # Copies, so that a caller who writes into what it was given changes nothing here.

    def obs(self) -> FloatArray:
        """[A, O] float32."""
        return self._require_battle().obs[0].numpy().copy()

    def state(self) -> FloatArray:
        """[S] float32."""
        return self._require_battle().state[0].numpy().copy()

    def avail_actions(self) -> torch.Tensor:
        """[A, U] bool."""
        return self._require_battle().avail_actions[0].clone()

    def _require_battle(self) -> Observation:
        if self._shown is None:
            raise RuntimeError("no battle has begun; call reset() first")
        return self._shown
