"""Environments: `make_env` builds any of them by name."""

from __future__ import annotations

import difflib
import importlib
import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from training.envs.base import BatchedEnv

# Name -> where its class lives. Imported only when asked for.
ENVS = {
    "skirmish": ("training.envs.skirmish.env", "SkirmishEnv"),
    "smac": ("training.envs.smac.env", "SmacEnv"),
    "two_step": ("training.envs.two_step", "TwoStepEnv"),
}
DEFAULT_MAPS = {"skirmish": "3s5z", "smac": "3s5z", "two_step": "two_step"}
GAMES = frozenset({"smac"})
"""Environments whose battles are programs that do not repeat themselves: see `BatchedEnv`."""
GAMES_AT_ONCE = 8
"""Of an environment in `GAMES`, where nobody has said how many."""
COMMON_ARGUMENTS = ("map_name", "n_envs", "seed", "device")


class GameError(RuntimeError):
    """The game's program, or what is needed to run it, is missing or fails again and again; the
    message says what to do."""


def make_env(
    name: str,
    map_name: str | None,
    n_envs: int,
    seed: int = 0,
    device: str | torch.device = "cpu",
    compile: bool = False,
    **env_args: Any,
) -> BatchedEnv:
    """Build E = `n_envs` battles of the named environment.

    Args:
        name: a key of `ENVS`.
        map_name: the environment's map, its usual one if none is named; skirmish also takes the
            path of a map's file (docs/maps.md).
        seed: with a battle's id it fixes every random draw of the battle.
        compile: compile what is played every step, where the environment can be.
        env_args: the environment's own settings.

    Raises:
        ValueError: for a name, map or setting that is not known, with the nearest that is.
        GameError: a game cannot be started.
    """
    if name not in ENVS:
        raise ValueError(f"no environment is called {name!r}{nearest(name, ENVS)}")
    if n_envs < 1:
        raise ValueError(f"at least one battle must be played, not {n_envs}")
    module, class_name = ENVS[name]
    build = getattr(importlib.import_module(module), class_name)
    _check_arguments(name, build, env_args)
    map_name = map_name or default_map(name)
    if name == "skirmish":
        env_args["compile"] = compile
    env: BatchedEnv = build(map_name, n_envs, seed=seed, device=device, **env_args)
    return env


def default_map(name: str) -> str:
    """The map that is played if none is named."""
    return DEFAULT_MAPS[name]


def at_once(name: str, n_envs: int) -> int:
    """How many battles to play side by side where `n_envs` suit an environment that is no game."""
    return min(n_envs, GAMES_AT_ONCE) if name in GAMES else n_envs


def map_label(map_name: str) -> str:
    """What a map is called where files and models are named after it: a map file's bare name."""
    path = Path(map_name)
    return path.stem if path.suffix == ".json" else map_name


def check_task(name: str, map_name: str, env_args: Mapping[str, Any]) -> None:
    """Refuse, without importing torch, what `make_env` would refuse.

    Raises:
        ValueError: for a name, map or setting that is not known, with the nearest that is.
        GameError: the game is not installed.
    """
    if name not in ENVS:
        raise ValueError(f"no environment is called {name!r}{nearest(name, ENVS)}")
    if name == "skirmish":
        from training.envs.skirmish.formation import place
        from training.envs.skirmish.options import parse_options
        from training.envs.skirmish.scenario import load_scenario

        scenario = load_scenario(map_name)
        for spawns in (scenario.allies, scenario.enemies):
            place(spawns, scenario.terrain)
        parse_options(dict(env_args))
    elif name == "smac":
        from training.envs.smac.installation import require_game
        from training.envs.smac.options import check_smac

        check_smac(map_name, env_args)
        require_game(map_name)
    elif map_name != DEFAULT_MAPS[name]:
        raise ValueError(f"{name} has one map, {DEFAULT_MAPS[name]!r}; got {map_name!r}")
    elif env_args:
        raise ValueError(f"{name} has no setting {next(iter(env_args))!r}; it has none")


def nearest(word: str, known: Any) -> str:
    """An error message's tail: "; did you mean 'x'?" or the list of what is known."""
    names = [str(name) for name in known]
    close = difflib.get_close_matches(word, names, n=1, cutoff=0.5)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; known: {', '.join(sorted(names))}" if names else ""


def _check_arguments(name: str, build: Any, env_args: dict[str, Any]) -> None:
    parameters = inspect.signature(build).parameters
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return  # it checks its settings itself
    known = [p for p in parameters if p not in COMMON_ARGUMENTS]
    for argument in env_args:
        if argument not in known:
            hint = nearest(argument, known) or "; it has none"
            raise ValueError(f"{name} has no setting {argument!r}{hint}")
