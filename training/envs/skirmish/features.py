"""What SMAC shows: availability, observations and state, to the order and scale of every entry.

Sources: SMAC's interface, spec §2. `ObsLayout` is the one place where an offset is known.
Distances between units are computed in float64 from float32 positions and then rounded, as SMAC
does; all else is float32, where that gives the same bits.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

import torch
from torch import Tensor

from training.envs.skirmish.options import SkirmishOptions
from training.envs.skirmish.scenario import MAP_SIZE, Scenario, UnitType
from training.envs.skirmish.world import Tables, World

SHOOT_RANGE = 6.0  # of every unit type, centre to centre: <= is in range
SIGHT_RANGE = 9.0  # of every unit type, centre to centre: < is visible
N_NON_ATTACK = 6  # no-op, stop, north, south, east, west
NO_OP, STOP_ACTION = 0, 1
MOVES = ((0.0, 1.0), (0.0, -1.0), (1.0, 0.0), (-1.0, 0.0))  # actions 2..5 as (dx, dy)


@dataclass(frozen=True)
class ObsLayout:
    """The names of every entry, in order; sizes follow from them."""

    obs: tuple[str, ...]
    """One agent's observation; allies are named by their place among the others."""
    state: tuple[str, ...]
    actions: tuple[str, ...]

    @property
    def sha256(self) -> str:
        """Hash over what an agent needs: its observation's entries and its actions."""
        return hashlib.sha256(json.dumps([self.obs, self.actions]).encode()).hexdigest()


def build_layout(scenario: Scenario, options: SkirmishOptions) -> ObsLayout:
    n, k = len(scenario.ally_units), len(scenario.enemy_units)
    bits = bool(scenario.unit_type_bits)
    ally_types = [f"is_{t}" for t in scenario.ally_types] if bits else []
    enemy_types = [f"is_{t}" for t in scenario.enemy_types] if bits else []
    ally_shield = ["shield"] if has_shields(scenario.ally_units) else []
    enemy_shield = ["shield"] if has_shields(scenario.enemy_units) else []
    actions = ["no_op", "stop", "north", "south", "east", "west"]
    actions += [f"attack_{e}" for e in range(k)]
    last = [f"last_{a}" for a in actions]

    all_health = options.obs_all_health
    own_health = all_health or options.obs_own_health
    enemy = ["attackable", "distance", "x", "y", *(["health", *enemy_shield] if all_health else [])]
    ally = ["visible", "distance", "x", "y", *(["health", *ally_shield] if all_health else [])]
    own = ["health", *ally_shield] if own_health else []
    obs = [f"can_move_{a}" for a in actions[2:6]]
    obs += [f"enemy_{e}.{f}" for e in range(k) for f in enemy + enemy_types]
    ally += ally_types + (last if options.obs_last_action else [])
    obs += [f"ally_{i}.{f}" for i in range(n - 1) for f in ally]
    obs += [f"own.{f}" for f in own + ally_types]

    ally_row = ["health", "cooldown", "x", "y", *ally_shield, *ally_types]
    enemy_row = ["health", "x", "y", *enemy_shield, *enemy_types]
    state = [f"ally_{i}.{f}" for i in range(n) for f in ally_row]
    state += [f"enemy_{e}.{f}" for e in range(k) for f in enemy_row]
    if options.state_last_action:
        state += [f"ally_{i}.{f}" for i in range(n) for f in last]
    if options.state_timestep_number:
        state.append("timestep")
    return ObsLayout(tuple(obs), tuple(state), tuple(actions))


def has_shields(units: list[UnitType]) -> bool:
    return units[0].race == "protoss"


class Features:
    """Turns a `World` into what SMAC would show of it."""

    def __init__(
        self, scenario: Scenario, options: SkirmishOptions, tables: Tables, device: torch.device
    ) -> None:
        allies, enemies = _in_agent_order(scenario), scenario.enemy_units
        self.layout = build_layout(scenario, options)
        self.n, self.k = len(allies), len(enemies)
        self._options, self._tables = options, tables
        self._limit = scenario.episode_limit
        self._ally_shields, self._enemy_shields = has_shields(allies), has_shields(enemies)
        self._max_cooldown = torch.tensor(
            [[u.smac_max_cooldown] for u in allies], dtype=torch.float32, device=device
        )
        self._ally_types = _one_hot(allies, scenario.ally_types, scenario, device)
        self._enemy_types = _one_hot(enemies, scenario.enemy_types, scenario, device)
        # others[i] lists all agents but i, ascending: the order of ally blocks in an observation.
        self._others = torch.tensor(
            [[j for j in range(self.n) if j != i] for i in range(self.n)], device=device
        ).reshape(self.n, self.n - 1)

    def available(self, world: World) -> Tensor:
        """[n, U, B] bool (spec §2.3). A dead agent has no-op alone, a living one never has it."""
        alive = world.health > 0
        ally_alive = alive[: self.n]
        distance = self._distance(world, slice(self.n, None))
        attack = alive[None, self.n :] & (distance <= SHOOT_RANGE)
        head = [~ally_alive, ally_alive]
        head += [self._can_move(world, dx, dy) & ally_alive for dx, dy in MOVES]
        return torch.cat((torch.stack(head, 1), attack & ally_alive[:, None]), 1)

    def _distance(self, world: World, seen: slice) -> Tensor:
        """float64 centre distances from every agent to the units of `seen`, [n, ·, B]."""
        x, y = world.x.double(), world.y.double()
        dx, dy = x[None, seen] - x[: self.n, None], y[None, seen] - y[: self.n, None]
        return torch.sqrt(dx * dx + dy * dy)

    def _can_move(self, world: World, dx: float, dy: float) -> Tensor:
        # SMAC looks at half the move's length, and its int() truncates toward zero.
        half = self._options.move_amount / 2
        column = (world.x[: self.n] + dx * half).trunc().to(torch.int64)
        row = (world.y[: self.n] + dy * half).trunc().to(torch.int64)
        inside = (column >= 0) & (column < MAP_SIZE) & (row >= 0) & (row < MAP_SIZE)
        cell = (column.clamp(0, MAP_SIZE - 1) + 1) * (MAP_SIZE + 2) + row.clamp(0, MAP_SIZE - 1) + 1
        return inside & self._tables.pathable[cell]

    def observe(self, world: World, available: Tensor, last_actions: Tensor) -> Tensor:
        """[B, n, O] float32 (spec §2.4); `last_actions` [n, B] int64, -1 right after a reset."""
        n, options = self.n, self._options
        ally_alive = world.health[:n] > 0
        health, shield = self._fractions(world)
        enemies = self._seen(
            world, slice(n, None), available[:, N_NON_ATTACK:], health, shield, self._enemy_types
        )
        allies = self._seen(world, slice(0, n), None, health, shield, self._ally_types)
        if options.obs_last_action:
            visible = allies[:, :, :1] > 0
            last = self._last_action_rows(last_actions)[None].expand(n, -1, -1, -1)
            allies = torch.cat((allies, torch.where(visible, last, 0.0)), 2)
        index = self._others[:, :, None, None].expand(-1, -1, *allies.shape[2:])
        allies = allies.gather(1, index)
        own = [health[:n, None]] if options.obs_all_health or options.obs_own_health else []
        if own and self._ally_shields:
            own.append(shield[:n, None])
        own.append(self._ally_types.expand(-1, -1, world.x.shape[1]))
        blocks = [available[:, 2:6].float(), enemies.flatten(1, 2), allies.flatten(1, 2), *own]
        obs = torch.cat(blocks, 1)
        return torch.where(ally_alive[:, None], obs, 0.0).permute(2, 0, 1).contiguous()

    def _seen(
        self,
        world: World,
        seen: slice,
        first: Tensor | None,
        health: Tensor,
        shield: Tensor,
        types: Tensor,
    ) -> Tensor:
        """[n, ·, F, B] blocks of seen units, zero where out of sight or dead."""
        distance = self._distance(world, seen)
        visible = (distance < SIGHT_RANGE) & (world.health[None, seen] > 0)
        dx = world.x[None, seen] - world.x[: self.n, None]
        dy = world.y[None, seen] - world.y[: self.n, None]
        columns = [
            torch.ones_like(dx) if first is None else first.float(),
            (distance / SIGHT_RANGE).float(),
            dx / SIGHT_RANGE,
            dy / SIGHT_RANGE,
        ]
        if self._options.obs_all_health:
            columns.append(health[None, seen].expand_as(dx))
            if self._ally_shields if seen.start == 0 else self._enemy_shields:
                columns.append(shield[None, seen].expand_as(dx))
        blocks = torch.stack(columns, 2)
        if types.shape[1]:
            one_hot = types[None].expand(self.n, -1, -1, dx.shape[2])
            blocks = torch.cat((blocks, one_hot), 2)
        return torch.where(visible[:, :, None], blocks, 0.0)

    def state(self, world: World, last_actions: Tensor, steps: Tensor) -> Tensor:
        """[B, S] float32 (spec §2.6); `steps` [B] int64 taken in the episode."""
        n, batch = self.n, world.x.shape[1]
        health, shield = self._fractions(world)
        x = (world.x - MAP_SIZE / 2) / MAP_SIZE
        y = (world.y - MAP_SIZE / 2) / MAP_SIZE
        ally = [health[:n], world.cooldown[:n] / self._max_cooldown, x[:n], y[:n]]
        enemy = [health[n:], x[n:], y[n:]]
        if self._ally_shields:
            ally.append(shield[:n])
        if self._enemy_shields:
            enemy.append(shield[n:])
        rows = []
        for columns, types, units in (
            (ally, self._ally_types, slice(0, n)),
            (enemy, self._enemy_types, slice(n, None)),
        ):
            row = torch.cat((torch.stack(columns, 1), types.expand(-1, -1, batch)), 1)
            alive = world.health[units, None] > 0
            rows.append(torch.where(alive, row, 0.0).flatten(0, 1))
        if self._options.state_last_action:
            rows.append(self._last_action_rows(last_actions).flatten(0, 1))
        if self._options.state_timestep_number:
            rows.append((steps.float() / self._limit)[None])
        return torch.cat(rows, 0).T.contiguous()

    def _fractions(self, world: World) -> tuple[Tensor, Tensor]:
        tables = self._tables
        return world.health / tables.health, world.shield / tables.shield.clamp_min(1)

    def _last_action_rows(self, last_actions: Tensor) -> Tensor:
        """[n, U, B] one-hots; zeros where there is no last action."""
        actions = torch.arange(len(self.layout.actions), device=last_actions.device)
        return (last_actions[:, None] == actions[None, :, None]).float()


def _in_agent_order(scenario: Scenario) -> list[UnitType]:
    """SMAC numbers agents by unit type first, so types alone give the order of the records."""
    return sorted(scenario.ally_units, key=lambda unit: scenario.ally_types.index(unit.name))


def _one_hot(
    units: list[UnitType], types: tuple[str, ...], scenario: Scenario, device: torch.device
) -> Tensor:
    """[units, t, 1] float32; t is 0 on maps of one unit type."""
    names = types if scenario.unit_type_bits else ()
    return torch.tensor(
        [[float(unit.name == name) for name in names] for unit in units], device=device
    ).reshape(len(units), len(names), 1)
