"""What SMAC's `StarCraft2Env` is given, checked without SMAC."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from training.envs import nearest
from training.envs.skirmish.layout import ObsLayout, build_layout
from training.envs.skirmish.options import (
    OF_THE_GAME,
    OptionError,
    SkirmishOptions,
    parse_options,
)
from training.envs.skirmish.scenario import Scenario, load_scenario
from training.envs.smac.installation import MAPS

OURS_ALONE = frozenset({"enemy_order", "unit_data", "enemy_healers"})
"""Options of Skirmish that choose what in the game is as it is."""
DIFFICULTIES = "123456789A"
_GAME_TYPES = {"debug": bool, "window_size_x": int, "window_size_y": int}  # the others: str


@dataclass(frozen=True)
class Patience:
    """How long a game may be silent before it counts as hung, in seconds."""

    step_seconds: float = 60.0
    reset_seconds: float = 300.0
    """Also for the game to start."""

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, bool) or not isinstance(value, int | float) or value <= 0:
                raise OptionError(f"{field.name} must be a positive number, not {value!r}")


@dataclass(frozen=True)
class SmacTask:
    """A map and options, as our side knows them and as SMAC is told."""

    scenario: Scenario
    options: SkirmishOptions
    layout: ObsLayout
    """Skirmish's, whose observations are SMAC's entry by entry: an agent plays in both."""
    arguments: dict[str, Any]
    """Of `StarCraft2Env`; the seed is each game's own."""
    patience: Patience


def check_smac(map_name: str, env_args: Mapping[str, Any]) -> SmacTask:
    """Read the options of `--env smac`: SMAC's own names, and `Patience`'s.

    Raises:
        ValueError: for a map or option that SMAC does not have, with the nearest that it has, or a
            value that it cannot use.
    """
    if map_name not in MAPS:
        raise ValueError(f"SMAC has no map {map_name!r}{nearest(map_name, MAPS)}")
    ours = {f.name for f in fields(Patience)}
    patience = Patience(**{name: env_args[name] for name in env_args if name in ours})
    given = {name: value for name, value in env_args.items() if name not in ours}
    known = ({f.name for f in fields(SkirmishOptions)} - OURS_ALONE) | OF_THE_GAME
    for name in given:
        if name == "seed":
            raise OptionError("seed: the run's --seed gives each game its own")
        if name not in known:
            raise OptionError(f"smac has no option {name!r}{nearest(name, known | ours)}")
    options = parse_options({k: v for k, v in given.items() if k not in OF_THE_GAME})
    of_the_game = {k: _game_value(k, v) for k, v in given.items() if k in OF_THE_GAME}
    scenario = load_scenario(map_name)
    arguments = {"map_name": map_name, **given, **of_the_game}
    return SmacTask(scenario, options, build_layout(scenario, options), arguments, patience)


def without_the_game(env_args: Mapping[str, Any]) -> dict[str, Any]:
    """The options that Skirmish knows too."""
    known = {f.name for f in fields(SkirmishOptions)}
    return {name: value for name, value in env_args.items() if name in known}


def _game_value(name: str, value: Any) -> Any:
    if name == "difficulty":
        value = str(value)  # a command line's 7 is read as a number
        if value not in tuple(DIFFICULTIES):
            raise OptionError(f"difficulty must be one of {', '.join(DIFFICULTIES)}, not {value!r}")
    kind = _GAME_TYPES.get(name, str)
    if type(value) is not kind:
        hint = " (such as 4.10.0, in full)" if name == "game_version" else ""
        raise OptionError(f"{name} must be a {kind.__name__}{hint}, not {value!r}")
    return value
