"""A game as its API sees it: the battles of a seed, one after another, loop by loop.

SMAC's maps never end by themselves. Once nobody is left on the field, a trigger puts both teams
there again: so SMAC begins a new episode by killing all units and stepping twice.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import NamedTuple

import torch

from training.envs.sc2_api.quick_loop import QuickLoop, apart
from training.envs.skirmish import rng
from training.envs.skirmish.env import HEAD_START, SkirmishEnv
from training.envs.skirmish.layout import in_agent_order
from training.envs.skirmish.orders import Orders
from training.envs.skirmish.scenario import Scenario
from training.envs.skirmish.world import NOBODY, STOP, World

RESPAWN_LOOPS = 1 + HEAD_START
"""The loop in which the trigger finds nobody left, and those that the enemies have walked at a
battle's first observation: together the two that SMAC steps."""


class Order(NamedTuple):
    """What one ally is told; see `orders.Orders`."""

    order: int
    target: int = NOBODY
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class Field:
    """The units as they are now, by row: allies by agent id, then enemies."""

    x: list[float]
    y: list[float]
    face_x: list[float]
    face_y: list[float]
    health: list[float]
    shield: list[float]
    energy: list[float]
    cooldown: list[float]
    goal_x: list[float]
    goal_y: list[float]
    order: list[int]
    target: list[int]

    @cached_property
    def alive(self) -> list[int]:
        """The rows of those who live."""
        return [row for row, health in enumerate(self.health) if health > 0]


class Match:
    """The game on one map.

    Args:
        seed: battle k of it is battle k of this seed in every other face of Skirmish.
    """

    def __init__(self, scenario: Scenario, seed: int) -> None:
        self._env = SkirmishEnv(scenario, 1, seed=seed)
        self.scenario, self.seed = scenario, seed
        self.units = in_agent_order(scenario) + scenario.enemy_units
        """The unit type of each row."""
        self.n_allies = len(scenario.ally_units)
        self.loop = QuickLoop(self._env.tables)
        self.number = -1
        """Of the battle."""
        self._first_tag = 1 - len(self.units)
        self.restart()

    def restart(self) -> None:
        """The seed's next battle, and the game's clock at its beginning."""
        self.game_loop = HEAD_START
        self._begin()

    def _begin(self) -> None:
        self.number += 1
        self._first_tag += len(self.units)  # nobody is ever called as somebody before
        number = torch.tensor([self.number])
        self._env.reset(battle_ids=number)
        self._keys = rng.battle_keys(self.seed, number)
        self._put(apart(self._env.world))
        self._battle_loop = self._waited = 0
        self.told: list[tuple[int, dict[int, Order]]] = []
        """The battle's orders so far, each with the game loop it was given before."""

    def _put(self, world: World) -> None:
        self._world = world
        self.__dict__.pop("field", None)

    @cached_property
    def field(self) -> Field:
        """Everybody as they are now."""
        w = self._world
        numbers = (w.x, w.y, w.face_x, w.face_y, w.health, w.shield, w.energy, w.cooldown)
        rows = torch.cat((*numbers, w.goal_x, w.goal_y), 1).T.tolist()
        return Field(*rows, *torch.cat((w.order, w.target), 1).T.tolist())

    # --------------------------------------------------------------------- tags

    def tag(self, row: int) -> int:
        """The name of a unit in this battle."""
        return self._first_tag + row

    def row(self, tag: int) -> int | None:
        """The living unit of this name; None if there is none."""
        row = tag - self._first_tag
        return row if 0 <= row < len(self.units) and self.field.health[row] > 0 else None

    # ------------------------------------------------------------------ playing

    def order(self, orders: Mapping[int, Order]) -> None:
        """Tell allies, by row, what to do."""
        if not orders:
            return
        self.told.append((self._battle_loop, dict(orders)))
        told = [orders.get(row, Order(STOP)) for row in range(self.n_allies)]

        def column(values: list[int] | list[float] | list[bool]) -> torch.Tensor:
            return torch.tensor(values)[:, None]

        given = column([row in orders for row in range(self.n_allies)])
        order, target = column([o.order for o in told]), column([o.target for o in told])
        x, y = column([o.x for o in told]), column([o.y for o in told])
        self._put(self.loop.obey(self._world, Orders(given, order, target, x, y)))

    def step(self, count: int) -> None:
        """Play so many game loops.

        Whether anybody is left is looked at before the first of them. (The game looks in each:
        where the last units of both sides fall together, it has the next battle under way before
        the step is over. Here it begins with the next step, as it does after SMAC's killing.)
        """
        self.game_loop += count
        if not self.field.alive:
            waits = min(count, RESPAWN_LOOPS - self._waited)
            self._waited += waits
            count -= waits
            if self._waited < RESPAWN_LOOPS:
                return
            self._begin()
        self._put(self.loop.play(self._world, self._keys, self._battle_loop, count))
        self._battle_loop += count

    def kill(self, rows: Collection[int]) -> None:
        """They are dead at once, and nobody's doing."""
        health = self._world.health.clone()
        health[list(rows)] = 0.0
        self._put(replace(self._world, health=health))
