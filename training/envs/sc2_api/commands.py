"""Raw unit commands, as SMAC gives them, read as orders.

Abilities are numbers of the game's data (spec §2.2). What the game would not do is answered with
the game's own codes.
"""

from __future__ import annotations

import math

from s2clientprotocol import error_pb2, raw_pb2, sc2api_pb2

from training.envs.sc2_api.match import Match, Order
from training.envs.skirmish.scenario import MAP_SIZE
from training.envs.skirmish.world import ATTACK, HEAL, MOVE, STOP

ABILITIES = {4: STOP, 16: MOVE, 23: ATTACK, 386: HEAL}
"""Ability id -> order."""
ABILITY_IDS = {order: ability for ability, order in ABILITIES.items()}


class RefusedError(Exception):
    """The game does not do that; `code` is its `ActionResult`."""

    def __init__(self, code: error_pb2.ActionResult.ValueType) -> None:
        super().__init__(error_pb2.ActionResult.Name(code))
        self.code = code


def read_action(action: sc2api_pb2.Action, match: Match) -> dict[int, Order]:
    """The orders in one action, by row.

    Raises:
        RefusedError: it is not, or not to be, followed.
    """
    if not action.ListFields():
        return {}
    raw = action.action_raw
    if raw.WhichOneof("action") != "unit_command" or raw.unit_command.queue_command:
        raise RefusedError(error_pb2.NotSupported)
    command = raw.unit_command
    order = ABILITIES.get(command.ability_id)
    if order is None:
        raise RefusedError(error_pb2.NotSupported)
    rows = [match.row(tag) for tag in command.unit_tags]
    orders = {}
    for row in rows:
        if row is None or row >= match.n_allies:  # dead, unknown, or not one's own
            raise RefusedError(error_pb2.Error)
        orders[row] = _order(order, row, command, match)
    return orders


def _order(order: int, row: int, command: raw_pb2.ActionRawUnitCommand, match: Match) -> Order:
    if order == STOP:
        return Order(STOP)
    aim = command.WhichOneof("target")
    if order == MOVE:
        if aim != "target_world_space_pos":
            raise RefusedError(error_pb2.NotSupported)
        point = command.target_world_space_pos
        if not (_on_map(point.x) and _on_map(point.y)):
            raise RefusedError(error_pb2.Error)
        return Order(MOVE, x=point.x, y=point.y)
    if aim != "target_unit_tag":
        raise RefusedError(error_pb2.NotSupported)
    target = match.row(command.target_unit_tag)
    if target is None or not _accepts(order, row, target, match):
        raise RefusedError(error_pb2.CantTargetThatUnit)
    return Order(order, target)


def _on_map(coordinate: float) -> bool:
    """SMAC's points of moves may lie off the map, by as much as a move is long."""
    return math.isfinite(coordinate) and -MAP_SIZE <= coordinate <= 2 * MAP_SIZE


def _accepts(order: int, row: int, target: int, match: Match) -> bool:
    unit, other = match.units[row], match.units[target]
    own = target < match.n_allies
    if order == ATTACK:
        return not own and unit.can_hit(other)
    hurt = match.field.health[target] < other.health
    return own and target != row and unit.heal is not None and hurt
