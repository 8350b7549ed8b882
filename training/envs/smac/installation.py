"""Whether StarCraft II, or what stands in its place, is where pysc2 will look for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from training.envs import GameError

_OUR_MAPS = Path(__file__).parents[1] / "skirmish" / "data" / "maps"
MAPS = tuple(sorted({path.stem for path in _OUR_MAPS.glob("*.json")} - {"5m"}))
"""The maps that SMAC has."""
PYTHON_VARIABLE = "UNMIX_SMAC_PYTHON"
HOW = "docs/environments.md"


def smac_python() -> str:
    """The Python that plays: UNMIX_SMAC_PYTHON, or this one.

    Raises:
        GameError: the variable names no program.
    """
    python = os.environ.get(PYTHON_VARIABLE) or sys.executable
    if not (Path(python).is_file() and os.access(python, os.X_OK)):
        raise GameError(f"{PYTHON_VARIABLE}={python} is no program: name a Python that has SMAC")
    return python


def game_folder() -> Path:
    """Where pysc2 looks, on Linux."""
    return Path(os.environ.get("SC2PATH", "~/StarCraftII")).expanduser()


def game_program() -> Path:
    """The newest version's program.

    Raises:
        GameError: there is none.
    """
    folder = game_folder()
    if not folder.is_dir():
        raise GameError(
            f"no StarCraft II in {folder}: set SC2PATH to the game's folder, or have Skirmish "
            f"stand in its place (python -m training.sc2_api install {folder})"
        )
    builds = [p for p in folder.glob("Versions/Base*") if p.name.removeprefix("Base").isdigit()]
    if not builds:
        raise GameError(f"no version of the game in {folder / 'Versions'}: SC2PATH names no game")
    program = max(builds, key=lambda p: int(p.name.removeprefix("Base"))) / "SC2_x64"
    if not program.is_file():
        raise GameError(f"{program} is missing: unpack the game anew")
    if not os.access(program, os.X_OK):
        raise GameError(f"{program} is not executable: chmod +x {program}")
    return program


def require_maps(*names: str) -> None:
    """Raises: GameError: a map's file is not there."""
    folder = game_folder() / "Maps" / "SMAC_Maps"
    missing = [name for name in names if not (folder / f"{name}.SC2Map").is_file()]
    if missing:
        raise GameError(
            f"{', '.join(missing)} missing in {folder}: copy SMAC's maps there "
            "(smac/env/starcraft2/maps/SMAC_Maps of its checkout)"
        )


def require_game(map_name: str) -> None:
    """Refuse, without starting anything, what could not be played.

    Raises:
        GameError: naming what is missing, and the fix.
    """
    smac_python()
    game_program()
    require_maps(map_name)
