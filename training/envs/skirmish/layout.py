"""The order of every entry that an agent and a learner see: the one place that knows an offset."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass

from training.envs.skirmish.options import SkirmishOptions
from training.envs.skirmish.scenario import Scenario, UnitType

MOVE_NAMES = ("north", "south", "east", "west")
SURROUNDINGS = (*MOVE_NAMES, "northeast", "southwest", "southeast", "northwest")


@dataclass(frozen=True)
class ObsLayout:
    """The names of every entry, in order; sizes follow from them."""

    obs: tuple[str, ...]
    """One agent's observation; allies are named by their place among the others."""
    state: tuple[str, ...]
    actions: tuple[str, ...]
    """By what they are for all agents but healers, whose `attack_j` heals agent j."""

    @property
    def sha256(self) -> str:
        """Hash over what an agent needs: its observation's entries and its actions."""
        return hashlib.sha256(json.dumps([self.obs, self.actions]).encode()).hexdigest()


def build_layout(scenario: Scenario, options: SkirmishOptions) -> ObsLayout:
    n, k = len(scenario.ally_units), len(scenario.enemy_units)
    actions = ["no_op", "stop", *MOVE_NAMES, *(f"attack_{e}" for e in range(k))]
    obs = _obs(scenario, options, actions)
    if options.obs_instead_of_state:
        state = [f"agent_{i}.{f}" for i in range(n) for f in obs]
    else:
        state = _state(scenario, options, actions)
    return ObsLayout(tuple(obs), tuple(state), tuple(actions))


def _obs(scenario: Scenario, options: SkirmishOptions, actions: list[str]) -> list[str]:
    n, k = len(scenario.ally_units), len(scenario.enemy_units)
    all_health = options.obs_all_health
    own_health = all_health or options.obs_own_health
    ally_shield, enemy_shield = _shield(scenario.ally_units), _shield(scenario.enemy_units)
    ally_types, enemy_types = _types(scenario)

    enemy = ["attackable", "distance", "x", "y", *(["health", *enemy_shield] if all_health else [])]
    ally = ["visible", "distance", "x", "y", *(["health", *ally_shield] if all_health else [])]
    ally += ally_types + ([f"last_{a}" for a in actions] if options.obs_last_action else [])
    own = ["health", *ally_shield] if own_health else []
    obs = [f"can_move_{way}" for way in MOVE_NAMES]
    if options.obs_pathing_grid:
        obs += [f"pathing_{way}" for way in SURROUNDINGS]
    if options.obs_terrain_height:
        obs += [f"height_{way}" for way in (*SURROUNDINGS, "here")]
    obs += [f"enemy_{e}.{f}" for e in range(k) for f in enemy + enemy_types]
    obs += [f"ally_{i}.{f}" for i in range(n - 1) for f in ally]
    return obs + [f"own.{f}" for f in own + ally_types]


def _state(scenario: Scenario, options: SkirmishOptions, actions: list[str]) -> list[str]:
    n, k = len(scenario.ally_units), len(scenario.enemy_units)
    ally_types, enemy_types = _types(scenario)
    enemy = ["health", "x", "y", *_shield(scenario.enemy_units), *enemy_types]
    state = []
    for i, unit in enumerate(in_agent_order(scenario)):
        cooldown = "energy" if unit.heal else "cooldown"
        ally = ["health", cooldown, "x", "y", *_shield(scenario.ally_units), *ally_types]
        state += [f"ally_{i}.{f}" for f in ally]
    state += [f"enemy_{e}.{f}" for e in range(k) for f in enemy]
    if options.state_last_action:
        state += [f"ally_{i}.last_{a}" for i in range(n) for a in actions]
    if options.state_timestep_number:
        state.append("timestep")
    return state


def _types(scenario: Scenario) -> tuple[list[str], list[str]]:
    if not scenario.unit_type_bits:
        return [], []
    return [f"is_{t}" for t in scenario.ally_types], [f"is_{t}" for t in scenario.enemy_types]


def _shield(units: list[UnitType]) -> list[str]:
    return ["shield"] if has_shields(units) else []


def has_shields(units: list[UnitType]) -> bool:
    return units[0].race == "protoss"


def in_agent_order(scenario: Scenario) -> list[UnitType]:
    """SMAC numbers agents by unit type first, so types alone give the order of the records."""
    return sorted(scenario.ally_units, key=lambda unit: scenario.ally_types.index(unit.name))
