"""`python -m training.compare FILE`: a recording of the game beside Skirmish, number by number.

docs/recording.md says what is compared, and how units are told apart.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

from training.recording.differences import Row, compare
from training.recording.file import RecordingError, read_recording

MOST_ROWS = 12
"""Of a part, for people."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 1 if anything differs."""
    parser = argparse.ArgumentParser(
        prog="python -m training.compare",
        description="Set a recording of the game beside Skirmish. Exit code 1 means that something "
        "differs.",
    )
    parser.add_argument("file", type=Path, help="written by training.record")
    parser.add_argument("--json", action="store_true", help="print all quantities, equal or not")
    chosen = parser.parse_args(arguments)
    try:
        recording = read_recording(chosen.file)
    except (RecordingError, OSError) as error:
        raise SystemExit(str(error)) from None
    found = {name: _beside(name, told) for name, told in recording["maps"].items()}
    if chosen.json:
        maps = {name: [row._asdict() for row in rows] for name, rows in found.items()}
        print(json.dumps({"game_version": recording["game_version"], "maps": maps}))
    else:
        print(f"the game: {recording['game_version']}, beside Skirmish")
        for name, rows in found.items():
            print("\n".join(table(name, rows)))
    return int(any(not row.equal for rows in found.values() for row in rows))


def _beside(name: str, told: dict[str, Any]) -> list[Row]:
    try:
        importlib.import_module("s2clientprotocol.sc2api_pb2")
    except ImportError as error:
        raise SystemExit(f"{error}; install what is missing: pip install 'unmix[sc2]'") from None
    from training.recording.skirmish import record_skirmish

    return compare(told, record_skirmish(name, told))


def table(map_name: str, rows: Sequence[Row]) -> Iterator[str]:
    """What differs, in lines; of what is equal the number. Of a battle's steps 0, 1, 2, 4, 8, ...
    and the last."""
    differing = [row for row in rows if not row.equal]
    steps = [number for row in rows if (number := _step(row)) is not None]
    shown = [row for row in differing if _is_told(_step(row), max(steps, default=0))]
    yield f"\n{map_name}: {len(rows):,} numbers, {len(differing):,} differ"
    if differing:
        yield f"{'':16}  {'quantity':26}  {'the game':>14}  {'Skirmish':>14}  {'difference':>12}"
    for part, of_part in groupby(shown, key=lambda row: row.part):
        group = list(of_part)
        for row in group[:MOST_ROWS]:
            values = f"{_short(row.game):>14}  {_short(row.skirmish):>14}"
            yield f"{part:16}  {row.quantity:26}  {values}  {_short(row.difference):>12}"
        if len(group) > MOST_ROWS:
            yield f"{part:16}  and {len(group) - MOST_ROWS} more (--json has all)"


def _step(row: Row) -> int | None:
    """The battle's step that this is about."""
    number = row.part.removeprefix("battle step ")
    return int(number) if number.isdigit() else None


def _is_told(step: int | None, last: int) -> bool:
    return step is None or step == last or step & (step - 1) == 0


def _short(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    sys.exit(main())
