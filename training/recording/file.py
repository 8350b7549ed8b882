"""A recording as a file, and back."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

from training.envs.skirmish.scenario import map_names
from training.envs.smac.recorder import FORMAT, UNIT, VERSION


class RecordingError(ValueError):
    """The file holds no recording that can be compared."""


def read_recording(path: Path) -> dict[str, Any]:
    """What `training.record` has written.

    Raises:
        RecordingError: it is something else. OSError: the file cannot be read.
    """
    packed = path.read_bytes()
    try:
        recording = json.loads(gzip.decompress(packed))
    except (gzip.BadGzipFile, EOFError, ValueError):
        raise RecordingError(f"{path} is no gzip'd JSON") from None
    if not isinstance(recording, dict) or recording.get("format") != FORMAT:
        raise RecordingError(f"{path} is no recording of training.record")
    if recording["version"] != VERSION or recording["unit"] != list(UNIT):
        raise RecordingError(
            f"{path} is a recording of version {recording['version']}; {VERSION} is read"
        )
    unknown = sorted(recording["maps"].keys() - set(map_names()))
    if unknown:
        raise RecordingError(f"{path}: Skirmish has no map {', '.join(unknown)}")
    return recording
