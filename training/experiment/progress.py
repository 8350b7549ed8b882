"""What a queue says: live lines on a terminal, one line for each event elsewhere."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TextIO

from rich.console import Console
from rich.live import Live
from rich.text import Text


class QueueProgress:
    """Events stay on the screen; below them, on a terminal, stands what is going on now."""

    def __init__(self, out: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._live: Live | None = None
        if self._out.isatty():
            self._live = Live(console=Console(file=self._out), auto_refresh=False, transient=True)
            self._live.start()

    def say(self, text: str) -> None:
        """Something has happened."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=self._out, flush=True)

    def show(self, lines: Sequence[str]) -> None:
        """How things are now; the first line is the most important."""
        if self._live is not None:
            text = Text("\n".join(lines), overflow="ellipsis", no_wrap=True)
            text.stylize("bold", 0, len(lines[0]))
            self._live.update(text, refresh=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
