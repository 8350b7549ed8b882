"""The game as its API shows it: units, in observations."""

from __future__ import annotations

import math
from collections.abc import Iterator

from s2clientprotocol import common_pb2, raw_pb2, sc2api_pb2

from training.envs.sc2_api.commands import ABILITY_IDS
from training.envs.sc2_api.match import Field, Match
from training.envs.skirmish.scenario import UnitType
from training.envs.skirmish.world import ATTACK, HEAL, MOVE, NOBODY
from training.envs.starcraft2_units import type_ids

OURS, THEIRS = 1, 2
"""Players: the one who plays over the API, and the computer."""


class UnitsSeen:
    """Shows one match. Fog is off in SMAC's maps: all living units are seen."""

    def __init__(self, match: Match) -> None:
        self._match = match
        ours, theirs = type_ids(match.scenario, True), type_ids(match.scenario, False)
        n = match.n_allies
        self._looks = [_look(unit, ours[unit.name], OURS) for unit in match.units[:n]]
        self._looks += [_look(unit, theirs[unit.name], THEIRS) for unit in match.units[n:]]
        self._shown: set[int] = set()

    def observation(self) -> sc2api_pb2.ResponseObservation:
        """What there is to see now, and who has fallen since it was last looked at."""
        match = self._match
        units = list(self._units(match.field))
        tags = {unit.tag for unit in units}
        fallen = sorted(self._shown - tags)
        self._shown = tags
        raw = raw_pb2.ObservationRaw(player=raw_pb2.PlayerRaw(), units=units)
        if fallen:
            raw.event.dead_units.extend(fallen)
        army = sum(unit.owner == OURS for unit in units)
        return sc2api_pb2.ResponseObservation(
            observation=sc2api_pb2.Observation(
                game_loop=match.game_loop,
                player_common=sc2api_pb2.PlayerCommon(player_id=OURS, army_count=army),
                raw_data=raw,
            )
        )

    def _units(self, field: Field) -> Iterator[raw_pb2.Unit]:
        first, n = self._match.tag(0), self._match.n_allies
        for row in field.alive:
            unit = raw_pb2.Unit()
            unit.CopyFrom(self._looks[row])
            unit.tag = first + row
            pos = unit.pos
            pos.x, pos.y = field.x[row], field.y[row]
            unit.facing = math.atan2(field.face_y[row], field.face_x[row]) % math.tau
            unit.health = field.health[row]
            unit.shield = field.shield[row]
            unit.energy = field.energy[row]
            unit.weapon_cooldown = max(field.cooldown[row], 0.0)  # below is what is left of a loop
            if row < n:  # the game does not tell what the other side is about
                self._tell_order(unit, row, field)
            yield unit

    def _tell_order(self, unit: raw_pb2.Unit, row: int, field: Field) -> None:
        order, target = field.order[row], field.target[row]
        if order == MOVE:
            point = common_pb2.Point(x=field.goal_x[row], y=field.goal_y[row])
            unit.orders.add(ability_id=ABILITY_IDS[MOVE], target_world_space_pos=point)
        elif order in (ATTACK, HEAL) and target != NOBODY:
            tag = self._match.tag(target)
            unit.orders.add(ability_id=ABILITY_IDS[order], target_unit_tag=tag)
            unit.engaged_target_tag = tag


def _look(unit: UnitType, type_id: int, owner: int) -> raw_pb2.Unit:
    """What never changes of a unit."""
    return raw_pb2.Unit(
        display_type=raw_pb2.Visible,
        alliance=raw_pb2.Self if owner == OURS else raw_pb2.Enemy,
        unit_type=type_id,
        owner=owner,
        radius=unit.radius,
        build_progress=1.0,
        cloak=raw_pb2.NotCloaked,
        is_on_screen=True,
        is_flying="ground" not in unit.planes,
        health_max=unit.health,
        shield_max=unit.shield,
        energy_max=unit.heal.max_energy if unit.heal else 0.0,
    )
