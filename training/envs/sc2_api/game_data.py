"""What of a game never changes: its map as images, its players, and the data of its units."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from s2clientprotocol import common_pb2, data_pb2, raw_pb2, sc2api_pb2

from training.envs.sc2_api.commands import ABILITIES
from training.envs.sc2_api.match import Match
from training.envs.sc2_api.units_seen import OURS, THEIRS
from training.envs.skirmish.features import SIGHT_RANGE
from training.envs.skirmish.ground import height_bytes
from training.envs.skirmish.scenario import LOOPS_PER_SECOND, MAP_SIZE, UnitType, Weapon
from training.envs.skirmish.world import ATTACK, HEAL, MOVE, STOP
from training.envs.starcraft2_units import type_ids

RACES = {"terran": common_pb2.Terran, "zerg": common_pb2.Zerg, "protoss": common_pb2.Protoss}
ATTRIBUTES = {name.lower(): number for name, number in data_pb2.Attribute.items()}
_ABILITY_NAMES = {STOP: "stop", MOVE: "move", ATTACK: "attack", HEAL: "MedivacHeal"}
_TARGETS = {
    STOP: data_pb2.AbilityData.Target.Value("None"),
    MOVE: data_pb2.AbilityData.Point,
    ATTACK: data_pb2.AbilityData.Unit,
    HEAL: data_pb2.AbilityData.Unit,
}


def game_info(match: Match, map_path: str) -> sc2api_pb2.ResponseGameInfo:
    """The map and who plays on it.

    Images have their rows from south to north. One bit a cell is packed as the game packs it,
    most significant first (spec §6.3).
    """
    scenario = match.scenario
    can_stand = scenario.terrain.pathable.T
    corner = common_pb2.PointI(x=0, y=0), common_pb2.PointI(x=MAP_SIZE, y=MAP_SIZE)
    races = [RACES[units[0].race] for units in (scenario.ally_units, scenario.enemy_units)]
    players = [
        sc2api_pb2.PlayerInfo(player_id=number, type=kind, race_requested=race, race_actual=race)
        for number, kind, race in zip(
            (OURS, THEIRS), (sc2api_pb2.Participant, sc2api_pb2.Computer), races, strict=True
        )
    ]
    return sc2api_pb2.ResponseGameInfo(
        map_name=scenario.name,
        local_map_path=map_path,
        player_info=players,
        start_raw=raw_pb2.StartRaw(
            map_size=common_pb2.Size2DI(x=MAP_SIZE, y=MAP_SIZE),
            pathing_grid=_image(1, np.packbits(can_stand, axis=1)),
            placement_grid=_image(1, np.packbits(np.zeros_like(can_stand), axis=1)),
            terrain_height=_image(8, height_bytes(scenario.terrain).T.astype(np.uint8)),
            playable_area=common_pb2.RectangleI(p0=corner[0], p1=corner[1]),
        ),
        options=sc2api_pb2.InterfaceOptions(raw=True, score=False),
    )


def _image(bits: int, rows: npt.NDArray[np.uint8]) -> common_pb2.ImageData:
    size = common_pb2.Size2DI(x=MAP_SIZE, y=MAP_SIZE)
    return common_pb2.ImageData(bits_per_pixel=bits, size=size, data=rows.tobytes())


def game_data(match: Match, wanted: sc2api_pb2.RequestData) -> sc2api_pb2.ResponseData:
    """The abilities that are understood and the unit types of this map, as far as wanted."""
    data = sc2api_pb2.ResponseData()
    if wanted.ability_id:
        data.abilities.extend(
            data_pb2.AbilityData(
                ability_id=number,
                link_name=_ABILITY_NAMES[order],
                friendly_name=_ABILITY_NAMES[order].capitalize(),
                available=True,
                target=_TARGETS[order],
            )
            for number, order in ABILITIES.items()
        )
    if wanted.unit_type_id:
        for ally, units in (
            (True, match.units[: match.n_allies]),
            (False, match.scenario.enemy_units),
        ):
            kinds = {unit.name: unit for unit in units}
            for name, number in type_ids(match.scenario, ally).items():
                data.units.append(_unit_data(kinds[name], number, ally))
    return data


def _unit_data(unit: UnitType, number: int, ally: bool) -> data_pb2.UnitTypeData:
    """SMAC's maps call their own unit types Marine_RL and so on."""
    name = "".join(word.capitalize() for word in unit.name.split("_"))
    return data_pb2.UnitTypeData(
        unit_id=number,
        name=f"{name}_RL" if ally else name,
        available=True,
        race=RACES[unit.race],
        sight_range=SIGHT_RANGE,
        movement_speed=unit.speed * LOOPS_PER_SECOND,
        armor=unit.armor,
        attributes=sorted(ATTRIBUTES[attribute] for attribute in unit.attributes),
        weapons=[_weapon(unit.weapon)] if unit.weapon is not None else [],
    )


def _weapon(weapon: Weapon) -> data_pb2.Weapon:
    kinds = {
        frozenset({"ground"}): data_pb2.Weapon.Ground,
        frozenset({"air"}): data_pb2.Weapon.Air,
        frozenset({"ground", "air"}): data_pb2.Weapon.Any,
    }
    return data_pb2.Weapon(
        type=kinds[weapon.targets],
        damage=weapon.damage,
        damage_bonus=[
            data_pb2.DamageBonus(attribute=ATTRIBUTES[attribute], bonus=bonus)
            for attribute, bonus in weapon.bonus.items()
        ],
        attacks=2 if weapon.delivery == "two_strikes" else max(weapon.beams, 1),
        range=weapon.range,
        speed=weapon.period / LOOPS_PER_SECOND,
    )
