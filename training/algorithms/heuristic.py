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
    else the agent stops.
    """

    def __init__(self, env: BatchedEnv) -> None:
        if not isinstance(env, SkirmishEnv):
            raise ValueError("the closest-enemy heuristic plays skirmish only")
        layout = env.features.layout
        n, k = env.info.n_agents, env.info.n_enemies
        columns = {name: i for i, name in enumerate(layout.state)}
        self._ally = [[columns[f"ally_{i}.{f}"] for f in ("health", "x", "y")] for i in range(n)]
        self._enemy = [[columns[f"enemy_{e}.{f}"] for f in ("health", "x", "y")] for e in range(k)]
        self._target = torch.full((env.n_envs, n), -1, device=env.device)

    def begin(self, slots: torch.Tensor, battle_ids: torch.Tensor) -> None:
        self._target = self._target.masked_fill(slots[:, None], -1)

    def act(self, observation: Observation) -> torch.Tensor:
        state, available = observation.state, observation.avail_actions
        ally, enemy = state[:, self._ally], state[:, self._enemy]
        offset = enemy[:, None, :, 1:] - ally[:, :, None, 1:]
        alive = enemy[:, None, :, 0] > 0
        distance = offset.square().sum(3).masked_fill(~alive, torch.inf)
        kept = self._target.clamp_min(0)
        keeps = (self._target >= 0) & alive.expand_as(distance).gather(2, kept[:, :, None])[..., 0]
        target = torch.where(keeps, kept, distance.argmin(2))
        self._target = target
        way = offset.gather(2, target[:, :, None, None].expand(-1, -1, 1, 2))[:, :, 0]
        attack = target + N_NON_ATTACK
        for action in (*_steps_toward(way), torch.full_like(attack, STOP_ACTION)):
            possible = available.gather(2, attack[:, :, None])[..., 0]
            attack = torch.where(possible, attack, action)
        dead = available[:, :, NO_OP]
        return attack.masked_fill(dead, NO_OP)


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
