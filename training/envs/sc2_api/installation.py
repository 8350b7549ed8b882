"""A folder that passes for StarCraft II's, so that pysc2 finds and starts this server.

Versions/Base75689/SC2_x64     starts the server; takes the game's command line
Maps/SMAC_Maps/3m.SC2Map ...   placeholders: pysc2 uploads them, the server goes by their names
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from training.envs.sc2_api.game import BASE_BUILD
from training.envs.skirmish.scenario import map_names

PROGRAM = Path("Versions") / f"Base{BASE_BUILD}" / "SC2_x64"
MAPS = Path("Maps") / "SMAC_Maps"
_MARK = "training.sc2_api"


class InstallationError(RuntimeError):
    """The folder cannot be laid out there."""


def install(folder: Path) -> Path:
    """Lay out the folder, anew if it is there, and return its absolute path.

    The program it holds starts this Python with this checkout.

    Raises:
        InstallationError: the real game is there. OSError: the folder cannot be written.
    """
    folder = folder.resolve()
    program = folder / PROGRAM
    if program.exists() and _MARK not in program.read_bytes()[:4096].decode(errors="replace"):
        raise InstallationError(
            f"{program} is not of this server's making (the real game?); name another folder"
        )
    (folder / MAPS).mkdir(parents=True, exist_ok=True)
    for name in map_names():
        (folder / MAPS / f"{name}.SC2Map").write_text(f"{name}, as Skirmish knows it\n")
    program.parent.mkdir(parents=True, exist_ok=True)
    program.write_text(_script())
    program.chmod(0o755)
    return folder


def _script() -> str:
    """The game is found by its folder, so that nothing of the client's environment is needed; nor
    is any of it heeded, as the client's packages are often others' versions."""
    checkout = Path(__file__).parents[3]
    start = f"import sys; sys.path.insert(0, {str(checkout)!r}); from {_MARK} import as_the_game"
    python = shlex.join([sys.executable, "-E", "-c", f"{start}; as_the_game(sys.argv[1:])"])
    return f'#!/bin/sh\n# Skirmish in the place of StarCraft II.\nexec {python} "$@"\n'
