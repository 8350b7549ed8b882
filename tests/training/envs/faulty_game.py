"""The API's server with faults: it crashes, hangs or sends garbage as `faults` has it.

`install` makes a folder for SC2PATH whose program does so.
"""

from __future__ import annotations

import os
import shlex
import sys
import time
from pathlib import Path

from tests.training.envs.faults import take
from tests.training.envs.games import CHECKOUT
from training.envs.sc2_api import installation

GARBAGE = b"\xff\xff no Response of the API"


def install(folder: Path) -> Path:
    """As `installation.install`, with the faulty program."""
    folder = installation.install(folder)
    start = (
        f"import sys; sys.path.insert(0, {str(CHECKOUT)!r}); "
        f"from {__name__} import as_the_game; as_the_game(sys.argv[1:])"
    )
    program = shlex.join([sys.executable, "-E", "-c", start])
    (folder / installation.PROGRAM).write_text(f'#!/bin/sh\nexec {program} "$@"\n')
    return folder


def as_the_game(arguments: list[str]) -> None:
    from training import sc2_api
    from training.envs.sc2_api.game import Game

    answer = Game.answer

    def faulty(game: Game, message: bytes) -> bytes:
        fault = take()
        if fault == "crash":
            os._exit(1)
        if fault == "hang":
            time.sleep(100_000)
        return GARBAGE if fault == "garbage" else answer(game, message)

    Game.answer = faulty  # type: ignore[method-assign, assignment]
    sc2_api.as_the_game(arguments)
