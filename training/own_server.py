"""The step service as a process of one's own, for as long as it is needed."""

from __future__ import annotations

import json
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

START_SECONDS = 60.0
STOP_SECONDS = 20.0


class ServerError(RuntimeError):
    """The service did not start; what it said is in the message."""


def server_command(models: Path, *arguments: str) -> list[str]:
    """What serves a folder of models on free ports, so that `own_server` learns of them."""
    ports = ["--http-port", "0", "--grpc-port", "0"]
    told = ["--log-format", "json", "--log-level", "info"]
    python = [sys.executable, "-m", "serving.server"]
    return [*python, "--models", str(models), *ports, *told, *arguments]


@contextmanager
def own_server(command: Sequence[str]) -> Iterator[str]:
    """Start it; yields its gRPC address, `grpc://HOST:PORT`, and stops it with SIGTERM.

    Raises:
        ServerError
    """
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    ready: queue.Queue[str | None] = queue.Queue()
    log: list[str] = []

    def read() -> None:
        assert process.stderr is not None
        for line in process.stderr:
            log.append(line)
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ready":
                ready.put(event["grpc"])
        ready.put(None)

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        try:
            address = ready.get(timeout=START_SECONDS)
        except queue.Empty:
            address = None
        if address is None:
            raise ServerError("the service did not start:\n" + "".join(log))
        yield address
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
        reader.join()
        assert process.stderr is not None
        process.stderr.close()
