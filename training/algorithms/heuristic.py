"""Scripted policies to measure learned ones against. They read the state; no learner does that.

`SmacHeuristic` is SMAC's own scripted player, inside the environment because it ignores the
action masks; see `SkirmishOptions.heuristic_ai`. `ClosestEnemy` is the heuristic of the QMIX paper
(Rashid et al., ICML 2018, section 6): attack the closest enemy until it dies, then the next,
here with legal actions alone. `RandomLegal` takes any available action.
"""

from __future__ import annotations

import torch

from training.envs.base import BatchedEnv
from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.features import N_NON_ATTACK, NO_OP, STOP_ACTION
from training.envs.skirmish.ground import MOVES
from training.types import Observation


class RandomLegal:
    """Every agent takes one of its available actions, all alike.

    A battle's draws come from a generator of its own, seeded with the battle's number: its actions
    do not depend on the battles beside it.
    """

    def __init__(self, env: BatchedEnv, seed: int) -> None:
        self._seed, self._device = seed, env.device
        self._n_agents = env.info.n_agents
        self._generators = [torch.Generator() for _ in range(env.n_envs)]

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        for slot in slots.nonzero()[:, 0].tolist():
            self._generators[slot].manual_seed(self._seed * 1_000_003 + int(battle_ids[slot]))

    def act(self, observation: Observation) -> torch.Tensor:
        draws = [torch.rand(self._n_agents, generator=g) for g in self._generators]
        rank = observation.avail_actions.cumsum(2)
        chosen = (torch.stack(draws).to(self._device) * rank[:, :, -1]).long() + 1
        return (rank == chosen[:, :, None]).long().argmax(2)


class ClosestEnemy:
    """Each agent keeps to the closest living enemy until it dies: attack, or step toward it.

    The step is along the axis of the larger distance where that is possible, else along the other,
    else the agent stops. Healers likewise keep to the closest hurt agent that is no healer, until
    it dies or is whole, and stop where there is none.
    """

    def __init__(self, env: BatchedEnv) -> None:
        if not isinstance(env, SkirmishEnv):
            raise ValueError("the closest-enemy heuristic plays skirmish only")
        if env.options.obs_instead_of_state:
            raise ValueError("the closest-enemy heuristic cannot do without the state")
        self._n, k = env.info.n_agents, env.info.n_enemies
        columns = {name: i for i, name in enumerate(env.features.layout.state)}
        names = [f"ally_{i}" for i in range(self._n)] + [f"enemy_{e}" for e in range(k)]
        self._units = [[columns[f"{name}.{f}"] for f in ("health", "x", "y")] for name in names]
        self._heals = env.features.heals
        self._target = torch.full((env.n_envs, self._n), -1, device=env.device)

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        self._target = self._target.masked_fill(slots[:, None], -1)

    def act(self, observation: Observation) -> torch.Tensor:
        n, available = self._n, observation.avail_actions
        units = observation.state[:, self._units]
        possible = self._possible(units[:, :, 0])
        offset = units[:, None, :, 1:] - units[:, :n, None, 1:]
        distance = offset.square().sum(3).masked_fill(~possible, torch.inf)
        kept = self._target.clamp_min(0)
        keeps = (self._target >= 0) & possible.gather(2, kept[:, :, None])[..., 0]
        target = torch.where(keeps, kept, distance.argmin(2))
        some = possible.any(2)
        self._target = torch.where(some, target, -1)
        way = offset.gather(2, target[:, :, None, None].expand(-1, -1, 1, 2))[:, :, 0]
        action = torch.where(target < n, target, target - n) + N_NON_ATTACK
        action = torch.where(some, action, STOP_ACTION).clamp_max(available.shape[2] - 1)
        for instead in (*_steps_toward(way), torch.full_like(action, STOP_ACTION)):
            allowed = available.gather(2, action[:, :, None])[..., 0]
            action = torch.where(allowed, action, instead)
        dead = available[:, :, NO_OP]
        return action.masked_fill(dead, NO_OP)

    def _possible(self, health: torch.Tensor) -> torch.Tensor:
        """[E, A, A + enemies] bool, whom each agent may turn to, by the health of all units."""
        n = self._n
        enemy = torch.arange(health.shape[1], device=health.device) >= n
        possible = ((health > 0) & enemy)[:, None].expand(-1, n, -1)
        if self._heals is None:
            return possible
        hurt = (health > 0) & (health < 1) & ~enemy
        hurt[:, :n] &= ~self._heals[:, 0]
        return torch.where(self._heals, hurt[:, None], possible)


def _steps_toward(way: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The move along the longer axis of `way` [..., 2], and the one along the shorter."""
    north, south, east, west = (2 + i for i in range(len(MOVES)))
    along_x = torch.where(way[..., 0] > 0, east, west)
    along_y = torch.where(way[..., 1] > 0, north, south)
    x_first = way[..., 0].abs() > way[..., 1].abs()
    return torch.where(x_first, along_x, along_y), torch.where(x_first, along_y, along_x)


class SmacHeuristic:
    """Stands in for the caller of an environment with `heuristic_ai`, which plays by itself."""

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None: ...

    def act(self, observation: Observation) -> torch.Tensor:
        """Some available action; the environment ignores it."""
        return observation.avail_actions.long().argmax(2)
