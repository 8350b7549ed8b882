"""`python -m serving.process.worker`: one of several serving processes, started by the supervisor.

Its standard input is a socket to the supervising process. What it is to do comes in by it, "ready"
goes out, and its end is the other process' end, which this one does not outlive.
"""

from __future__ import annotations

import asyncio
import functools
import os
import shutil
import socket
import sys
import threading
from pathlib import Path
from typing import Any

import msgspec
import structlog
import uvloop

from serving.access.shared_rates import SharedBuckets
from serving.logs import configure_logging
from serving.metrics import Metrics
from serving.models.device import check_device, check_engine
from serving.process.lifecycle import open_doors, serve
from serving.process.peers import answer_peers
from serving.process.worker_metrics import WorkerMetrics
from serving.process.worker_rest import App, WorkerRest
from serving.rest.api import RestApi
from serving.settings import Settings, SetupError

log = structlog.get_logger("serving")

_SHARED_CAPS = ("max_sessions", "max_client_sessions", "max_streams", "max_client_streams")
"""Limits of the whole service, of which each worker has its share. Those of a queue or a message
are about one process anyway."""
_LATER_S = 1.0
"""What a handed-over step may take beyond its own time limit."""


class Task(msgspec.Struct):
    """What the supervising process wants of this one; a line of JSON."""

    number: int
    """From 1; the number is given again when the process that had it has died."""
    folder: str
    """What all workers share, and nobody else sees."""
    settings: dict[str, Any]


class Worker:
    """What `serve` has to know where it is one of several processes."""

    def __init__(
        self, number: int, folder: Path, settings: Settings, parent: socket.socket
    ) -> None:
        self._number, self._folder, self._settings = number, folder, settings
        self._parent = parent
        self._listening: asyncio.Server | None = None
        self.session_prefix = f"{number}."
        self.buckets = SharedBuckets(settings.rate_per_s, settings.rate_burst, folder / "rates")

    async def open(self, inner: App, api: RestApi, metrics: Metrics) -> WorkerRest:
        """The REST door around `inner`, from now on open to the other workers."""
        door = WorkerRest(
            inner,
            api,
            WorkerMetrics(metrics, self._folder, self._number),
            self._number,
            self._settings.workers,
            self._folder,
            self._settings.max_body_bytes,
            self._settings.step_timeout_s + _LATER_S,
        )
        self._listening = await answer_peers(self._folder, self._number, door.answer)
        return door

    def say_ready(self) -> None:
        """Tell the supervising process."""
        self._parent.sendall(b"!")

    def close(self) -> None:
        """Other workers are answered no more."""
        if self._listening is not None:
            self._listening.close()


def share(settings: Settings) -> Settings:
    """One worker's part of what the whole service may hold, rounded up."""
    parts = {name: -(-getattr(settings, name) // settings.workers) for name in _SHARED_CAPS}
    return settings.model_copy(update=parts)


def main() -> None:
    parent = socket.socket(fileno=os.dup(0))
    line = parent.makefile("rb", buffering=0).readline()
    if not line:  # the supervising process has died meanwhile
        sys.exit(1)
    task = msgspec.json.decode(line, type=Task)
    settings = share(Settings(**task.settings))
    configure_logging(settings, task.number)
    folder = Path(task.folder)
    threading.Thread(target=_end_with, args=(parent, folder), daemon=True).start()
    try:
        check_engine()
        check_device(settings.device)
        doors = functools.partial(open_doors, shares_ports=True)
        worker = Worker(task.number, folder, settings, parent)
        uvloop.run(serve(settings, doors, worker=worker))
    except SetupError as error:
        print(f"cannot start: {error}", file=sys.stderr)
        sys.exit(1)


def _end_with(parent: socket.socket, folder: Path) -> None:
    """Wait for the end of the supervising process: without it nothing would tell this one to stop,
    and its port would not be free for whoever comes next."""
    while parent.recv(64):
        pass
    log.error("the supervising process has died")
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(1)


if __name__ == "__main__":
    main()
