"""`python -m training.record`: the game itself in numbers, for `training.compare`.

    python -m training.record --env smac --maps 3m 3s5z -o game.json.gz

docs/recording.md says what is in the file.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from training.envs import GameError, nearest
from training.envs.smac import recorder
from training.envs.smac.installation import MAPS, game_program, require_maps, smac_python


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m training.record",
        description="Record what StarCraft II shows, by way of SMAC, for training.compare.",
    )
    parser.add_argument("--env", choices=("smac",), required=True)
    parser.add_argument(
        "--map", "--maps", dest="maps", nargs="+", required=True, help='names, or "all"'
    )
    parser.add_argument("--seed", type=int, default=1, help="the game's, and the random orders'")
    parser.add_argument("-o", "--output", type=Path, required=True, help="such as game.json.gz")
    chosen = parser.parse_args(arguments)
    maps = list(MAPS) if chosen.maps == ["all"] else chosen.maps
    for name in maps:
        if name not in MAPS:
            parser.error(f"SMAC has no map {name!r}{nearest(name, MAPS)}")
    if not chosen.output.absolute().parent.is_dir():
        parser.error(f"there is no folder {chosen.output.absolute().parent}")
    try:
        python = smac_python()
        game_program()
        require_maps(*maps)
    except GameError as error:
        raise SystemExit(str(error)) from None
    return _record(python, chosen.output, chosen.seed, maps)


def _record(python: str, output: Path, seed: int, maps: Sequence[str]) -> int:
    script = recorder.__file__
    command = [python, script, str(output), str(seed), str(os.getpid()), *maps]
    code = subprocess.run(command, check=False).returncode
    if code:
        print("the recording has broken off; the maps named above are in the file", file=sys.stderr)
        return 1
    print(f"{output}: {output.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
