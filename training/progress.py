"""What a run says while it goes: a live line on a terminal, a JSON line per report elsewhere."""

from __future__ import annotations

import json
import sys
import time
from typing import TYPE_CHECKING, TextIO

if TYPE_CHECKING:
    from rich.live import Live

    from training.metrics import Row

REFRESH_SECONDS = 0.25
QUIET_SECONDS = 5.0  # between lines where nobody watches


class Progress:
    """Shows steps, win rate, loss, steps per second and the time left.

    Reports go to standard output; what is said once goes to standard error, so that a pipe reads
    nothing but reports.
    """

    def __init__(self, t_max: int, out: TextIO | None = None) -> None:
        self._out = out if out is not None else sys.stdout
        self._t_max = t_max
        self._latest: Row = {}
        self._live: Live | None = None
        self._drawn = time.monotonic()
        if self._out.isatty():
            from rich.console import Console
            from rich.live import Live

            self._live = Live(console=Console(file=self._out), auto_refresh=False)
            self._live.start()

    def say(self, text: str) -> None:
        """Say something once."""
        if self._live is not None:
            self._live.console.print(text, highlight=False, markup=False)
        else:
            print(text, file=sys.stderr, flush=True)

    def report(self, row: Row) -> None:
        """A row of metrics has been written."""
        self._latest |= row
        if self._live is None:
            print(json.dumps(row), file=self._out, flush=True)

    def tick(self, t_env: int, steps_per_second: float, seconds_left: float | None) -> None:
        """A round has passed."""
        if self._live is None or time.monotonic() - self._drawn < REFRESH_SECONDS:
            return
        self._drawn = time.monotonic()
        self._show(self._line(t_env, steps_per_second, seconds_left))

    def wait(self, text: str) -> None:
        """Something goes on before the first round."""
        pause = REFRESH_SECONDS if self._live is not None else QUIET_SECONDS
        if time.monotonic() - self._drawn < pause:
            return
        self._drawn = time.monotonic()
        if self._live is not None:
            self._show(text)
        else:
            print(text, file=sys.stderr, flush=True)

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()

    def _show(self, markup: str) -> None:
        from rich.text import Text

        if self._live is not None:
            line = Text.from_markup(markup, overflow="ellipsis")
            line.no_wrap = True
            self._live.update(line, refresh=True)

    def _line(self, t_env: int, steps_per_second: float, seconds_left: float | None) -> str:
        parts = [f"[bold]{t_env:,}[/] of {self._t_max:,} steps"]
        if "test_battle_won_mean" in self._latest:
            low, high = self._latest["test_battle_won_ci95"]
            won = f"won [bold]{self._latest['test_battle_won_mean']:.0%}[/]"
            parts.append(f"{won} ({low:.0%}-{high:.0%})")
        if "loss" in self._latest:
            parts.append(f"loss {self._latest['loss']:.4f}")
        parts.append(f"{steps_per_second:,.0f} steps/s")
        if seconds_left is not None:
            parts.append(f"{spell_seconds(seconds_left)} left")
        return " · ".join(parts)


def spell_seconds(seconds: float) -> str:
    """A duration as a person says it, to two figures: 42 s, 12 min, 1 h 25 min."""
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60:02d} min"
