"""What `--env smac` needs. It is needed if SC2PATH or UNMIX_SMAC_PYTHON is set, else optional."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from typing import Literal

from training.envs import GameError
from training.envs.smac.game import WORKER
from training.envs.smac.installation import (
    MAPS,
    PYTHON_VARIABLE,
    game_program,
    require_maps,
    smac_python,
)
from training.health import Finding

CHECK_SECONDS = 120


def check() -> Iterator[Finding]:
    is_meant = any(os.environ.get(name) for name in ("SC2PATH", PYTHON_VARIABLE))
    lack: Literal["wrong", "optional"] = "wrong" if is_meant else "optional"
    yield from _game(lack)
    yield _smac(lack)


def _game(lack: Literal["wrong", "optional"]) -> Iterator[Finding]:
    what = "StarCraft II"
    try:
        program = game_program()
    except GameError as error:
        yield _split(what, lack, error)
        return
    version = program.parent.name.removeprefix("Base")
    yield Finding(what, "ok", f"build {version} ({program})")
    try:
        require_maps(*MAPS)
    except GameError as error:
        yield _split("SMAC's maps", lack, error)
    else:
        yield Finding("SMAC's maps", "ok", "all there")


def _smac(lack: Literal["wrong", "optional"]) -> Finding:
    """By the Python that would play: nothing of SMAC is imported here."""
    try:
        python = smac_python()
        found = json.loads(_ask(python))
    except GameError as error:
        return _split("SMAC", lack, error)
    if found["problem"]:
        return _split("SMAC", lack, GameError(found["problem"]))
    return Finding("SMAC", "ok", f"in Python {found['python']} ({python})")


def _ask(python: str) -> str:
    try:
        done = subprocess.run(
            [python, str(WORKER), "check"], capture_output=True, text=True, timeout=CHECK_SECONDS
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise GameError(f"{python} does not run: {error}") from None
    if not done.stdout.startswith("{"):
        last = done.stderr.strip().splitlines()[-1:] or ["it says nothing"]
        raise GameError(f"SMAC in {python} cannot be imported: {last[0]}")
    return done.stdout


def _split(what: str, status: Literal["wrong", "optional"], error: GameError) -> Finding:
    """A message of the form "what is wrong: what to do"."""
    found, _, fix = str(error).partition(": ")
    return Finding(what, status, found, fix)
