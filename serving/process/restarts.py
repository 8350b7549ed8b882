"""How many workers have been replaced: the supervising process says it, the workers show it."""

from __future__ import annotations

from pathlib import Path


def write_restarts(folder: Path, n: int) -> None:
    """Say it, in the workers' folder."""
    aside = folder / "restarts.new"
    aside.write_text(str(n))
    aside.replace(folder / "restarts")


def read_restarts(folder: Path) -> int:
    path = folder / "restarts"
    return int(path.read_text()) if path.exists() else 0
