"""What a game shows, in numbers: grids, unit types, first observations, one random battle.

    python recorder.py FILE SEED PARENT MAP ...     plays by way of SMAC, and writes the file

This is run by SMAC's own Python (see `worker`), 3.8 or later, and imports nothing of ours. SMAC
launches the game and begins its battles; what is recorded is the game's own words, before SMAC
makes observations of them. `training.recording` plays the same on Skirmish.
"""

from __future__ import annotations

import base64
import gzip
import json
import math
import os
import random
import sys
from typing import Any, Callable, Dict, List, Optional, Sequence  # noqa: UP035 - Pythons before 3.9

FORMAT, VERSION = "unmix-recording", 1
N_RESETS = 5
STEP_LOOPS = 8
"""Of the game in a step of the battle, SMAC's `step_mul`."""
MOST_STEPS = 200
UNIT = (
    *("tag", "unit_type", "owner", "x", "y", "facing", "radius", "is_flying"),
    *("health", "health_max", "shield", "shield_max", "energy", "energy_max", "weapon_cooldown"),
)
"""What a unit's row holds. Angles are radians, cooldowns game loops."""
GRIDS = ("pathing_grid", "placement_grid", "terrain_height")
STOP, MOVE, ATTACK, HEAL = 4, 16, 23, 386
OURS, THEIRS = 1, 2

Unit = Dict[str, Any]  # noqa: UP006
Order = Dict[str, Any]  # noqa: UP006
"""`unit` (tag), `ability`, and `x` and `y`, or `target` (tag), or neither."""
Chooser = Callable[[Sequence[Unit]], Optional[List[Order]]]  # noqa: UP006, UP045
"""Orders for the units that are seen; None where the battle ends."""


def record(game: Any, seed: int, n_resets: int, chooser: Chooser | None = None) -> dict[str, Any]:
    """One map.

    Args:
        game: its `begin()` begins a battle, the first one after launching the game; its
            `controller` is pysc2's, or answers as that does.
        chooser: orders; none for random ones.
    """
    resets = []
    for _ in range(n_resets):
        game.begin()
        resets.append(seen(game.controller))
    control = game.controller
    kinds = {unit["unit_type"] for reset in resets for unit in as_units(reset["units"])}
    info = game_info(control.game_info())
    types = unit_types(control, kinds)
    if chooser is None:
        healers = {kind["unit_id"] for kind in types if not kind["weapons"]}
        chooser = RandomOrders(seed, healers, info["map_size"])
    episode = play(control, chooser, resets[-1])
    return {
        "seed": seed,
        "game_info": info,
        "unit_types": types,
        "resets": resets,
        "episode": episode,
    }


def play(control: Any, chooser: Chooser, first: dict[str, Any]) -> list[dict[str, Any]]:
    """Orders and what came of them, step by step."""
    now, steps = first, []
    while (orders := chooser(as_units(now["units"]))) is not None:
        results = give(control, orders)
        control.step(STEP_LOOPS)
        now = seen(control)
        steps.append({"orders": orders, "results": results, **now})
    return steps


def give(control: Any, orders: Sequence[Order]) -> list[int]:
    """Give orders as SMAC does. Returns the game's result codes."""
    from s2clientprotocol import common_pb2, raw_pb2, sc2api_pb2

    actions = []
    for order in orders:
        command = raw_pb2.ActionRawUnitCommand(
            ability_id=order["ability"], unit_tags=[order["unit"]], queue_command=False
        )
        if "target" in order:
            command.target_unit_tag = order["target"]
        if "x" in order:
            at = common_pb2.Point2D(x=order["x"], y=order["y"])
            command.target_world_space_pos.CopyFrom(at)
        actions.append(sc2api_pb2.Action(action_raw=raw_pb2.ActionRaw(unit_command=command)))
    answer = control.actions(sc2api_pb2.RequestAction(actions=actions))
    return [int(code) for code in answer.result]


class RandomOrders:
    """Each unit of ours is told something, again and again for up to four steps: more often than
    not to attack one of the three nearest enemies, else to walk two, or to stop. Until a side is
    gone.

    Args:
        healers: unit types without a weapon.
    """

    def __init__(self, seed: int, healers: set[int], map_size: Sequence[int]) -> None:
        self._random = random.Random(seed)
        self._healers, self._map_size = healers, map_size
        self._told: dict[int, tuple[int, Order]] = {}
        self._n_steps = 0

    def __call__(self, units: Sequence[Unit]) -> list[Order] | None:
        if self._n_steps == MOST_STEPS or {u["owner"] for u in units} != {OURS, THEIRS}:
            return None
        self._n_steps += 1
        alive = {unit["tag"] for unit in units}
        orders = []
        for unit in units:
            if unit["owner"] != OURS:
                continue
            left, order = self._told.get(unit["tag"], (0, {}))
            if not left or order.get("target", unit["tag"]) not in alive:
                left, order = self._random.randint(1, 4), self._choose(unit, units)
            self._told[unit["tag"]] = left - 1, order
            orders.append(order)
        return orders

    def _choose(self, unit: Unit, units: Sequence[Unit]) -> Order:
        luck = self._random.random()
        if luck < 0.1:
            return {"unit": unit["tag"], "ability": STOP}
        if luck < 0.35:
            dx, dy = self._random.choice(((0, 2), (0, -2), (2, 0), (-2, 0)))
            x, y = (
                min(max(unit[axis] + by, 0.5), size - 0.5)
                for axis, by, size in zip("xy", (dx, dy), self._map_size)  # noqa: B905 - old Pythons
            )
            return {"unit": unit["tag"], "ability": MOVE, "x": x, "y": y}
        heals = unit["unit_type"] in self._healers
        side = OURS if heals else THEIRS
        others = [u for u in units if u["owner"] == side and u["tag"] != unit["tag"]]
        others.sort(key=lambda u: math.hypot(u["x"] - unit["x"], u["y"] - unit["y"]))
        if not others:
            return {"unit": unit["tag"], "ability": STOP}
        target = self._random.choice(others[:3])["tag"]
        return {"unit": unit["tag"], "ability": HEAL if heals else ATTACK, "target": target}


# --------------------------------------------------------------------- what is seen


def seen(control: Any) -> dict[str, Any]:
    """The game's clock and all units, in the game's order, each a row of `UNIT`."""
    observation = control.observe().observation
    units = [
        [unit.pos.x if name == "x" else unit.pos.y if name == "y" else getattr(unit, name)
         for name in UNIT]
        for unit in observation.raw_data.units
        if unit.owner in (OURS, THEIRS)
    ]  # fmt: skip
    return {"game_loop": observation.game_loop, "units": units}


def as_units(rows: Sequence[Sequence[Any]]) -> list[Unit]:
    return [dict(zip(UNIT, row)) for row in rows]  # noqa: B905 - Pythons before 3.10


def game_info(told: Any) -> dict[str, Any]:
    raw = told.start_raw
    area = raw.playable_area
    return {
        "map_name": told.map_name,
        "map_size": [raw.map_size.x, raw.map_size.y],
        "playable_area": [area.p0.x, area.p0.y, area.p1.x, area.p1.y],
        **{name: _image(getattr(raw, name)) for name in GRIDS},
    }


def _image(image: Any) -> dict[str, Any]:
    return {
        "bits_per_pixel": image.bits_per_pixel,
        "size": [image.size.x, image.size.y],
        "data": base64.b64encode(image.data).decode(),
    }


def unit_types(control: Any, wanted: set[int]) -> list[dict[str, Any]]:
    """What the game's data tell of these types, by their numbers."""
    data = control.data_raw(
        ability_id=False, unit_type_id=True, upgrade_id=False, buff_id=False, effect_id=False
    )
    kinds = sorted((kind for kind in data.units if kind.unit_id in wanted), key=lambda k: k.unit_id)
    return [
        {
            "unit_id": kind.unit_id,
            "name": kind.name,
            "movement_speed": kind.movement_speed,
            "armor": kind.armor,
            "sight_range": kind.sight_range,
            "attributes": sorted(int(attribute) for attribute in kind.attributes),
            "weapons": [_weapon(weapon) for weapon in kind.weapons],
        }
        for kind in kinds
    ]


def _weapon(weapon: Any) -> dict[str, Any]:
    bonus = {str(int(bonus.attribute)): bonus.bonus for bonus in weapon.damage_bonus}
    return {
        "type": int(weapon.type),
        "damage": weapon.damage,
        "damage_bonus": bonus,
        "attacks": weapon.attacks,
        "range": weapon.range,
        "speed": weapon.speed,
    }


# ---------------------------------------------------------------------- by way of SMAC


class SmacGame:
    """SMAC's env as `record` wants it. Where SMAC would start the game anew, this ends."""

    def __init__(self, env: Any) -> None:
        env.full_restart = _broken_off
        self._env = env
        self._begun = False

    @property
    def controller(self) -> Any:
        return self._env._controller

    def begin(self) -> None:
        if self._begun:  # else a battle that is left early would start a second game
            self._env._episode_count = max(self._env._episode_count, 1)
        self._env.reset()
        self._begun = True


def _broken_off() -> None:
    raise RuntimeError("the game has broken off")


def write(path: str, recording: dict[str, Any]) -> None:
    """The whole file or none."""
    text = json.dumps(recording, separators=(",", ":"))
    with open(f"{path}.part", "wb") as file:
        file.write(gzip.compress(text.encode(), mtime=0))
    os.replace(f"{path}.part", path)


def main(path: str, seed: int, maps: Sequence[str], build: Callable[..., Any]) -> None:
    """Record these maps; the file holds all that are done."""
    recording: dict[str, Any] = {"format": FORMAT, "version": VERSION, "unit": UNIT, "maps": {}}
    for name in maps:
        env = build(map_name=name, seed=seed)
        game = SmacGame(env)
        told = record(game, seed, N_RESETS)
        pong = game.controller.ping()
        recording["game_version"], recording["base_build"] = pong.game_version, pong.base_build
        recording["maps"][name] = told
        env.close()
        write(path, recording)
        n_steps = len(told["episode"])
        print(f"{name}: {N_RESETS} beginnings, a battle of {n_steps} steps", flush=True)


if __name__ == "__main__":
    import subprocess

    import worker  # type: ignore[import-not-found]  # it lies beside this file

    sys.path.pop(0)  # this file's folder
    worker.die_with(int(sys.argv[3]))
    subprocess.Popen = worker.MortalPopen  # type: ignore[misc]
    try:
        main(sys.argv[1], int(sys.argv[2]), sys.argv[4:], worker.import_smac())
    except worker.SetupError as error:
        raise SystemExit(str(error)) from None
