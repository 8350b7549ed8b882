"""Values read from files, and read again when the files change."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, Generic, TypeVar

from serving.settings import SetupError

logger = logging.getLogger(__name__)
T = TypeVar("T")
Signature = list[tuple[int, int, int] | None]


class Watched(Generic[T]):
    """`value` is what `load` made of the files when they last made sense.

    Raises:
        SetupError: they do not at first.
    """

    def __init__(self, paths: Sequence[Path], load: Callable[[], T]) -> None:
        self._paths, self._load = paths, load
        # Taken before reading: what changes while it is read will be read again.
        self._seen = self._signature()
        self.value = load()

    def refresh(self) -> bool:
        """Read the files again if they have changed; whether there is a new value.

        Files that make no sense, perhaps because half of them have been replaced so far, leave the
        value as it is, and the log says so.
        """
        signature = self._signature()
        if signature == self._seen:
            return False
        self._seen = signature
        try:
            self.value = self._load()
        except Exception as error:  # whatever it is, the next change has to be seen
            known = isinstance(error, SetupError)
            logger.error("kept what was read before: %s", error, exc_info=not known)
            return False
        logger.info("read again: %s", ", ".join(path.name for path in self._paths))
        return True

    def _signature(self) -> Signature:
        return [_stat(path) for path in self._paths]


def _stat(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_ino, found.st_size


async def watch(values: Iterable[Watched[Any]], period_s: float = 1.0) -> None:
    """Refresh them for ever."""
    values = list(values)
    while True:
        await asyncio.sleep(period_s)
        for value in values:
            value.refresh()


def read_text(path: Path, setting: str) -> str:
    """The text of a setting's file. Raises: SetupError"""
    try:
        return path.read_text("utf-8")
    except OSError as error:
        fault = f"{setting}: {path} cannot be read ({error.strerror})"
    except UnicodeDecodeError:
        fault = f"{setting}: {path} is not text"
    raise SetupError(fault, f"name a file that the server may read in UNMIX_{setting.upper()}")
