"""SMAC's own code over the wire beside our `StarCraft2Env`: the same battles, compared to the bit.

    python -m tests.training.envs.smac_conformance --smac-python ../smac-venv/bin/python

needs a Python in which `import smac` is oxwhirl's; docs/sc2-api.md says how to make one.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from tests.training.envs import smac_player
from training.envs.sc2_api.installation import install
from training.envs.skirmish.scenario import map_names
from training.envs.starcraft2 import StarCraft2Env

SMACS_OWN = [name for name in map_names() if name != "5m"]
"""The maps that SMAC has too."""

Told = dict[str, npt.NDArray[Any]]


def told_by_smac(
    smac_python: Path, folder: Path, map_name: str, seed: int, n_battles: int, *more: str
) -> Told:
    """What SMAC shows when it plays on the server that is laid out in `folder`."""
    file = folder / f"{map_name}.npz"
    script = smac_player.__file__
    play = [str(smac_python), script, map_name, str(seed), str(n_battles), str(file), *more]
    environment = {**os.environ, "SC2PATH": str(folder)}
    done = subprocess.run(play, env=environment, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{map_name}: SMAC stopped\n{done.stdout}{done.stderr}")
    with np.load(file) as told:
        return dict(told)


def told_by_us(map_name: str, seed: int, n_battles: int, *more: str) -> Told:
    env = StarCraft2Env(map_name, seed=seed, heuristic_ai="heuristic" in more)
    return smac_player.play(env, n_battles)


def differences(smacs: Told, ours: Told) -> list[str]:
    """Where the two are not equal, in words; none if they are."""
    found = []
    for name in sorted(smacs.keys() | ours.keys()):
        one, other = smacs[name], ours[name]
        if one.shape != other.shape:
            found.append(f"{name}: SMAC {one.shape}, ours {other.shape}")
        elif not np.array_equal(one, other):
            at = tuple(int(i) for i in np.argwhere(one != other)[0])
            count = int((one != other).sum())
            found.append(
                f"{name}: {count} differ, first {at}: SMAC {one[at]!r}, ours {other[at]!r}"
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description="SMAC over the wire beside our own environment")
    parser.add_argument("--smac-python", type=Path, required=True)
    parser.add_argument("--maps", nargs="+", choices=SMACS_OWN, default=SMACS_OWN)
    parser.add_argument("--battles", type=int, default=2)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    failed = False
    with tempfile.TemporaryDirectory() as scratch:
        folder = install(Path(scratch))
        for name in chosen.maps:
            smacs = told_by_smac(chosen.smac_python, folder, name, chosen.seed, chosen.battles)
            ours = told_by_us(name, chosen.seed, chosen.battles)
            found = differences(smacs, ours)
            steps = len(smacs["reward"]) - chosen.battles
            won = int(smacs["battle_won"].sum())
            print(f"{name}: {steps} steps, {won} won: {'; '.join(found) or 'equal'}", flush=True)
            failed |= bool(found)
    sys.exit(failed)


if __name__ == "__main__":
    main()
