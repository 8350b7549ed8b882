"""Whether StarCraft II, or what stands in its place, is where pysc2 will look for it."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from training.envs import GameError

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
            f"no StarCraft II in {folder}: set SC2PATH to the game's folder, or have Skirmish stand "
            f"in its place (python -m training.sc2_api install {folder})"
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


def require_map(map_name: str) -> Path:
    """The map's file.

    Raises:
        GameError: it is not there.
    """
    folder = game_folder() / "Maps" / "SMAC_Maps"
    path = folder / f"{map_name}.SC2Map"
    if not path.is_file():
        raise GameError(
            f"{path} is missing: copy SMAC's maps (smac/env/starcraft2/maps/SMAC_Maps of its "
            f"checkout) to {folder}"
        )
    return path


def require_game(map_name: str) -> None:
    """Refuse, without starting anything, what could not be played.

    Raises:
        GameError: naming what is missing, and the fix.
    """
    smac_python()
    game_program()
    require_map(map_name)
