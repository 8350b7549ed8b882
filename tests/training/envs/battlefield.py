"""Battles set up by hand. Only this file knows how a `SkirmishEnv` keeps its units.

Units are numbered allies first: unit 0 is agent 0, unit n is enemy 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import torch

from training.envs.skirmish.env import SkirmishEnv
from training.envs.skirmish.layout import in_agent_order
from training.envs.skirmish.scenario import Scenario, UnitType, parse_scenario
from training.types import Observation, Transition

STOP, NORTH, SOUTH, EAST, WEST, ATTACK = 1, 2, 3, 4, 5, 6
NEVER = 1e6  # as a cooldown: the unit never shoots, though it behaves in all else as if armed
GRAIN = 4096.0  # positions are multiples of 1/4096


class Placed(NamedTuple):
    """A unit on the field. What is not given is as at the beginning of a battle."""

    x: float
    y: float
    looks: tuple[float, float] = (1.0, 0.0)
    health: float | None = None
    shield: float | None = None
    cooldown: float = 0.0
    shield_wait: float = 0.0
    goal: tuple[float, float] | None = None
    """Of an enemy's attack-move; by default it has arrived and stands."""
    target: int = -1
    """The unit that an enemy is attacking already."""


def scenario(
    allies: Sequence[str],
    enemies: Sequence[str],
    limit: int = 200,
    terrain: str = "plain",
    to: tuple[float, float] = (16, 16),
    at: tuple[tuple[float, float], tuple[float, float]] = ((9, 16), (23, 16)),
) -> Scenario:
    """A map of these units (each side of one type, or both sides of the same number of types).

    Allies and enemies are created around the points of `at`.
    """
    ally_types, enemy_types = list(dict.fromkeys(allies)), list(dict.fromkeys(enemies))
    several = max(len(ally_types), len(enemy_types))

    def spawns(units: Sequence[str], at: list[float]) -> list[dict[str, Any]]:
        return [{"unit": unit, "count": 1, "at": at} for unit in units]

    raw = {
        "name": "by_hand",
        "episode_limit": limit,
        "terrain": terrain,
        "unit_type_bits": several if several > 1 else 0,
        "ally_types": ally_types,
        "enemy_types": enemy_types,
        "allies": spawns(allies, list(at[0])),
        "enemies": spawns(enemies, list(at[1])),
        "enemy_order": {"attack_move": [list(to)]},
    }
    return parse_scenario(raw, "by_hand.json")


def battle(
    allies: dict[str, list[Placed]],
    enemies: dict[str, list[Placed]],
    n_envs: int = 1,
    limit: int = 200,
    terrain: str = "plain",
    seed: int = 5,
    **options: Any,
) -> SkirmishEnv:
    """`n_envs` battles of these units, all standing alike; the options are SMAC's."""
    ours, theirs = _listed(allies), _listed(enemies)
    kinds = [kind for kind, _ in ours], [kind for kind, _ in theirs]
    at = tuple((placed.x, placed.y) for _, placed in (ours[0], theirs[0]))
    field = scenario(*kinds, limit, terrain, at=(at[0], at[1]))
    env = SkirmishEnv(field, n_envs, seed=seed, **options)
    for unit, (_, placed) in enumerate(ours + theirs):
        put(env, unit, placed)
    return env


def _listed(units: dict[str, list[Placed]]) -> list[tuple[str, Placed]]:
    return [(kind, placed) for kind, all_placed in units.items() for placed in all_placed]


def put(env: SkirmishEnv, unit: int, placed: Placed) -> Observation:
    """Place a unit in every battle; returns what the battles now show."""
    goal = placed.goal or (placed.x, placed.y)
    values: dict[str, float] = {
        "x": _on_grain(placed.x),
        "y": _on_grain(placed.y),
        "face_x": placed.looks[0],
        "face_y": placed.looks[1],
        "cooldown": placed.cooldown,
        "shield_wait": placed.shield_wait,
        "goal_x": _on_grain(goal[0]),
        "goal_y": _on_grain(goal[1]),
        "target": placed.target,
    }
    if placed.health is not None:
        values["health"] = placed.health
    if placed.shield is not None:
        values["shield"] = placed.shield
    return alter(env, unit, **values)


def alter(env: SkirmishEnv, unit: int, **values: float) -> Observation:
    """Change numbers of a unit in every battle (x, y, health, shield, cooldown, ...)."""
    changed = {}
    for name, value in values.items():
        changed[name] = getattr(env.world, name).clone()
        changed[name][unit] = value
    return env.put(replace(env.world, **changed))


def scatter(env: SkirmishEnv, generator: torch.Generator) -> Observation:
    """Put all units of every battle anywhere, in any state; one in five is dead.

    In every other battle they stand within ten of each other, so that they see one another.
    """
    world = env.world

    def draw(most: float | torch.Tensor, grain: float = GRAIN) -> torch.Tensor:
        drawn = torch.rand(world.x.shape, generator=generator) * most
        return (drawn * grain).round() / grain

    dense = torch.arange(env.n_envs) % 2 == 0
    corner = torch.rand(2, env.n_envs, generator=generator) * 22
    x, y = (torch.where(dense, _on_grains(corner[i]) + draw(10), draw(31.99)) for i in (0, 1))
    alive = torch.rand(world.x.shape, generator=generator) > 0.2
    units = in_agent_order(env.scenario) + env.scenario.enemy_units
    most_health, most_shield, most_energy = (
        torch.tensor([[value] for value in values])
        for values in (
            [unit.health for unit in units],
            [unit.shield for unit in units],
            [unit.heal.max_energy if unit.heal else 0.0 for unit in units],
        )
    )
    whole = torch.rand(world.x.shape, generator=generator) > 0.7
    health = torch.where(whole, most_health, draw(most_health).clamp_min(1 / GRAIN))
    scattered = replace(
        world,
        x=x,
        y=y,
        health=torch.where(alive, health, 0.0),
        shield=draw(most_shield),
        energy=draw(most_energy),
        cooldown=draw(40.0),
    )
    return env.put(scattered)


def show(env: SkirmishEnv) -> Observation:
    """What the battles show now."""
    return env.put(env.world)


def see(env: SkirmishEnv, what: str) -> npt.NDArray[np.float64]:
    """[E, N] of x, y, health, shield or cooldown."""
    values: torch.Tensor = getattr(env.world, what)
    return values.T.double().cpu().numpy()


def of(env: SkirmishEnv, what: str, unit: int) -> float:
    """The same of one unit of the first battle."""
    return float(see(env, what)[0, unit])


def units(env: SkirmishEnv) -> list[UnitType]:
    """Allies by agent id, then enemies."""
    scenario = env.scenario
    allies = sorted(scenario.ally_units, key=lambda u: scenario.ally_types.index(u.name))
    return allies + scenario.enemy_units


def command(env: SkirmishEnv, *actions: int, loops: int = 1) -> None:
    """Game loops under these actions, whatever SMAC's masks say of them.

    The game takes orders that SMAC does not offer: an attack or a heal from further than 6.
    """
    for _ in range(loops):
        orders = torch.tensor([actions] * env.n_envs, device=env.device)
        slots = env._slots
        world, _ = env._give_orders(slots, orders, env._available)
        for loop in range(env.options.step_mul):
            now = slots.steps * env.options.step_mul + loop
            world = env._tick(world, env.tables, slots.keys, now)
        env._slots = slots._replace(world=world, steps=slots.steps + 1)


def act(env: SkirmishEnv, *actions: int) -> Transition:
    """One step in which every battle's agents take these actions."""
    return env.step(torch.tensor([actions] * env.n_envs))


def random_actions(avail_actions: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """[E, A] int64, uniform among what [E, A, U] allows."""
    rows = avail_actions.flatten(0, 1).float()
    drawn = torch.multinomial(rows, 1, generator=generator)
    return drawn.reshape(avail_actions.shape[:2])


def _on_grain(length: float) -> float:
    return round(length * GRAIN) / GRAIN


def _on_grains(lengths: torch.Tensor) -> torch.Tensor:
    return (lengths * GRAIN).round() / GRAIN
