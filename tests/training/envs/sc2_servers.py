"""Real servers for the tests of StarCraft II's API, each a process of its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

_LISTENING = re.compile(r"listening at ws://127\.0\.0\.1:(\d+)/sc2api")


@contextmanager
def running(command: Sequence[str]) -> Iterator[tuple[subprocess.Popen[str], int]]:
    """A server started by this command, and its port once it listens."""
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, _port(process)
        finally:
            process.kill()


def by_hand() -> list[str]:
    return [sys.executable, "-m", "training.sc2_api", "serve", "--port", "0"]


def _port(process: subprocess.Popen[str]) -> int:
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        found = _LISTENING.search(line)
        if found:
            return int(found[1])
    raise AssertionError(f"the server has not begun to listen: {''.join(said)}")
