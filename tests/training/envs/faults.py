"""Faults for games to have: a folder of files, each of which is one fault that one game takes.

Imported by games, so it needs the standard library alone.
"""

from __future__ import annotations

import os
import random
from pathlib import Path

FOLDER, CHANCE = "TEST_FAULTS", "TEST_FAULT_CHANCE"
"""Environment variables: the folder, and the chance of a fault each time a game asks (else 1)."""


def put(folder: Path, **counts: int) -> None:
    """So many faults of each kind."""
    folder.mkdir(exist_ok=True)
    for kind, count in counts.items():
        for number in range(count):
            (folder / f"{kind}-{number}").touch()


def take(*kinds: str) -> str:
    """The kind of fault to have now, of these or of any; empty: none."""
    folder = os.environ.get(FOLDER, "")
    if not folder or random.random() >= float(os.environ.get(CHANCE, "1")):
        return ""
    names = [n for n in os.listdir(folder) if not kinds or n.partition("-")[0] in kinds]
    random.shuffle(names)
    for name in names:
        try:
            os.unlink(os.path.join(folder, name))
        except FileNotFoundError:
            continue  # another game was faster
        return name.partition("-")[0]
    return ""
