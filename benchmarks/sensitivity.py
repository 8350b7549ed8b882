"""`python -m benchmarks.sensitivity`: how far the heuristic's wins move if a guess is switched.

Each row plays SMAC's heuristic with one mechanism of the simulator changed. What is measured in
replays of the real game is switched as well, to show what it is worth.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
import tyro
from rich.console import Console
from rich.table import Table

from training.envs.skirmish import combat, env, formation, loop, movement, opponent, world
from training.envs.skirmish.scenario import Scenario, UnitType, load_scenario
from training.evaluate import Command as Evaluate
from training.evaluate import run

Switch = Callable[[], Any]  # a context in which the mechanism is another


@dataclass(frozen=True)
class Command:
    """Switch the simulator's guesses one by one and print the heuristic's wins."""

    maps: tuple[str, ...] = ("3m", "5m", "8m", "2s3z", "3s5z", "1c3s5z", "MMM", "bane_vs_bane")
    episodes: int = 200
    seed: int = 1
    json_path: Path = Path("benchmarks/results/sensitivity.json")


def _constant(module: Any, name: str, value: Any) -> Switch:
    return lambda: patch.object(module, name, value)


def _units(change: Callable[[UnitType], UnitType]) -> Switch:
    """All units changed, on every map that is loaded meanwhile."""

    @contextmanager
    def switched() -> Iterator[None]:
        def load(name: str) -> Scenario:
            plain = load_scenario(name)
            units = {u.name: change(u) for u in plain.ally_units + plain.enemy_units}
            return plain.with_units(units)

        with patch.object(env, "load_scenario", load):
            yield

    return switched


def _without_backswing(unit: UnitType) -> UnitType:
    return replace(unit, weapon=unit.weapon and replace(unit.weapon, backswing=0))


SWITCHES: dict[str, tuple[Switch, dict[str, Any]]] = {
    "as it is": (nullcontext, {}),
    "units look round in every loop": (_constant(loop, "SCAN_PERIOD", 1), {}),
    "units look as far as the weapon reaches": (_constant(world, "SCAN_BEYOND", 0.0), {}),
    "nobody comes to a friend's help": (_constant(opponent, "HELP_RADIUS", 0.01), {}),
    "no backswing": (_units(_without_backswing), {}),
    "turning to fire takes no time": (_constant(combat, "TURN_COSINE", -1.0), {}),
    "others are walked round where they touch": (_constant(world, "LOOKAHEAD", 0.0), {}),
    "others are walked round from 1 away": (_constant(world, "LOOKAHEAD", 1.0), {}),
    "sides of walking round change freely": (_constant(movement, "CHANGE_SIDE", 0.0), {}),
    "enemies have walked 2 loops at first": (_constant(env, "HEAD_START", 2), {}),
    "places at spawn taken from the north on": (_constant(formation, "FIRST_TIE", (0, 1)), {}),
    "places at spawn taken from the west on": (_constant(formation, "FIRST_TIE", (-1, 0)), {}),
    "enemy medivac follows its army": (nullcontext, {"enemy_healers": "follow"}),
    "enemy medivac stays": (nullcontext, {"enemy_healers": "stay"}),
    "enemies listed in another order": (nullcontext, {"enemy_order": "shuffled"}),
    "Void's multiplayer units": (nullcontext, {"unit_data": "void_multi"}),
}


def main(command: Command) -> None:
    torch.set_num_threads(1)
    table = Table(title=f"SMAC's heuristic, wins in %, {command.episodes} battles each")
    table.add_column("mechanism")
    for name in command.maps:
        table.add_column(name, justify="right")
    rows: dict[str, dict[str, float]] = {}
    for mechanism, (switch, env_args) in SWITCHES.items():
        rows[mechanism] = {}
        for name in command.maps:
            with switch():
                play = Evaluate(
                    "heuristic", name, command.episodes, command.seed, env_args=env_args
                )
                rows[mechanism][name] = run(play).win_rate
        table.add_row(mechanism, *(f"{100 * rate:.0f}" for rate in rows[mechanism].values()))
        print(f"{mechanism}: done", flush=True)
    Console().print(table)
    command.json_path.parent.mkdir(parents=True, exist_ok=True)
    command.json_path.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Command, prog="python -m benchmarks.sensitivity", description=Command.__doc__))
