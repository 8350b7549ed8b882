"""What SMAC's environment tells of its map and its sizes, whatever the battle is at."""

from __future__ import annotations

import math
from typing import Any

from training.envs.single import SingleBattle
from training.envs.skirmish.enemy_order import TYPE_IDS
from training.envs.skirmish.features import N_NON_ATTACK, SHOOT_RANGE, SIGHT_RANGE
from training.envs.skirmish.reward import max_reward
from training.envs.skirmish.scenario import MAP_SIZE
from training.envs.starcraft2_units import MAP_TYPES, Unit, type_ids


class StarCraft2Map:
    """The part of `StarCraft2Env` that a map and the options settle; names are SMAC's."""

    def __init__(self, battle: SingleBattle) -> None:
        info, scenario = battle.info, battle.env.scenario
        self._battle = battle
        self.map_name, self.episode_limit = info.map_name, info.episode_limit
        self.n_agents, self.n_enemies = info.n_agents, info.n_enemies
        self.n_actions, self.n_actions_no_attack = info.n_actions, N_NON_ATTACK
        self.n_actions_move = 4
        self.unit_type_bits = scenario.unit_type_bits
        self.map_type = MAP_TYPES.get(scenario.ally_types, "by_hand")
        self.map_x = self.map_y = self.max_distance_x = self.max_distance_y = MAP_SIZE
        self.max_reward = max_reward(scenario, battle.env.options)
        races = scenario.ally_units[0].race, scenario.enemy_units[0].race
        self.shield_bits_ally, self.shield_bits_enemy = (int(r == "protoss") for r in races)
        types = [f"type_{bit}" for bit in range(self.unit_type_bits)]
        self.ally_state_attr_names = ["health", "energy/cooldown", "rel_x", "rel_y"]
        self.ally_state_attr_names += ["shield"] * self.shield_bits_ally + types
        self.enemy_state_attr_names = ["health", "rel_x", "rel_y"]
        self.enemy_state_attr_names += ["shield"] * self.shield_bits_enemy + types
        self._ally_ids, self._enemy_ids = type_ids(scenario, True), type_ids(scenario, False)
        # SMAC's `marine_id` and so on: the id of an agent of that type, 0 where there is none.
        vars(self).update({f"{kind}_id": self._ally_ids.get(kind, 0) for kind in TYPE_IDS})
        self._max_cooldown = {
            ids[unit.name]: unit.smac_max_cooldown
            for ids, units in (
                (self._ally_ids, scenario.ally_units),
                (self._enemy_ids, scenario.enemy_units),
            )
            for unit in units
        }

    def get_env_info(self) -> dict[str, Any]:
        return {
            "state_shape": self.get_state_size(),
            "obs_shape": self.get_obs_size(),
            "n_actions": self.n_actions,
            "n_agents": self.n_agents,
            "episode_limit": self.episode_limit,
            "agent_features": self.ally_state_attr_names,
            "enemy_features": self.enemy_state_attr_names,
        }

    # ------------------------------------------------------------------- sizes

    def get_total_actions(self) -> int:
        return self.n_actions

    def get_obs_size(self) -> int:
        return self._battle.info.obs_dim

    def get_state_size(self) -> int:
        return self._battle.info.state_dim

    def get_ally_num_attributes(self) -> int:
        return len(self.ally_state_attr_names)

    def get_enemy_num_attributes(self) -> int:
        return len(self.enemy_state_attr_names)

    def get_obs_enemy_feats_size(self) -> tuple[int, int]:
        """Enemies, and entries an observation has for each."""
        return self.n_enemies, self._entries("enemy_0.")

    def get_obs_ally_feats_size(self) -> tuple[int, int]:
        return self.n_agents - 1, self._entries("ally_0.")

    def get_obs_own_feats_size(self) -> int:
        return self._entries("own.")

    def get_obs_move_feats_size(self) -> int:
        """All that is left: moves, and the ground around where it is observed."""
        enemies, allies = self.get_obs_enemy_feats_size(), self.get_obs_ally_feats_size()
        others = math.prod(enemies) + math.prod(allies) + self.get_obs_own_feats_size()
        return self.get_obs_size() - others

    def _entries(self, of: str) -> int:
        return sum(name.startswith(of) for name in self._battle.env.features.layout.obs)

    # ------------------------------------------------------- units and geometry

    def get_unit_types(self) -> list[int]:
        """The type id of each agent (SMAC knows them only after the first reset)."""
        return [self._ally_ids[name] for name in self._battle.info.unit_types]

    def get_unit_type_id(self, unit: Unit, ally: bool) -> int:
        """Place in the one-hot of unit types; SMAC numbers the sides' types apart."""
        return list((self._ally_ids if ally else self._enemy_ids).values()).index(unit.unit_type)

    def unit_max_cooldown(self, unit: Unit) -> float:
        """The number that SMAC divides this unit's cooldown by, in game loops."""
        return self._max_cooldown[unit.unit_type]

    def unit_max_shield(self, unit: Unit) -> float:
        return unit.shield_max

    def unit_shoot_range(self, agent_id: int) -> float:
        return SHOOT_RANGE

    def unit_sight_range(self, agent_id: int) -> float:
        return SIGHT_RANGE

    @staticmethod
    def distance(x1: float, y1: float, x2: float, y2: float) -> float:
        return math.hypot(x2 - x1, y2 - y1)
