"""A place where games are found, by a fake SMAC or a real one, and what is left of them."""

from __future__ import annotations

import os
import time
import uuid
from pathlib import Path

import pytest

from tests.training.envs import faults

CHECKOUT = Path(__file__).parents[3]
FAKE_SMAC = Path(__file__).parent / "fake_smac"
MARK = "TEST_GAME_MARK"


def lay_out(folder: Path, *maps: str) -> Path:
    """What passes for a game's folder as long as nobody starts it."""
    program = folder / "Versions" / "Base75689" / "SC2_x64"
    program.parent.mkdir(parents=True)
    program.write_text("#!/bin/sh\nexit 1\n")
    program.chmod(0o755)
    map_folder = folder / "Maps" / "SMAC_Maps"
    map_folder.mkdir(parents=True)
    for name in maps:
        (map_folder / f"{name}.SC2Map").touch()
    return folder


def play_with_fake_smac(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Have workers find the fake SMAC. Returns the folder that faults are to be put in."""
    fault_folder = tmp_path / "faults"
    fault_folder.mkdir()
    monkeypatch.setenv("SC2PATH", str(lay_out(tmp_path / "game", "3m")))
    monkeypatch.setenv("PYTHONPATH", f"{FAKE_SMAC}:{CHECKOUT}")
    monkeypatch.setenv(faults.FOLDER, str(fault_folder))
    monkeypatch.delenv("UNMIX_SMAC_PYTHON", raising=False)
    return fault_folder


def new_mark() -> str:
    """A value of the variable `MARK` that processes to be counted inherit."""
    return uuid.uuid4().hex


def marked(mark: str) -> list[int]:
    """Processes that have inherited the mark, but for this one; not those that have ended."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            environment = (folder / "environ").read_bytes()
        except OSError:
            continue
        if f"{MARK}={mark}".encode() in environment and int(folder.name) != os.getpid():
            found.append(int(folder.name))
    return found


def all_gone(mark: str, seconds: float = 10.0) -> bool:
    """Whether no process that has inherited the mark is left, within so many seconds."""
    deadline = time.monotonic() + seconds
    while marked(mark):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True
