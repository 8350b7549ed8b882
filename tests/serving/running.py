"""A real server process, on ports that the system chooses."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

START_S = 30.0
FRONT = os.environ.get("TEST_FRONT", "grpcio")
"""The front of servers that name none."""


class RunningServer:
    """`python -m serving.server` between `__enter__` and `__exit__`.

    Leaving the block stops it, and fails if it did not exit cleanly or logged a traceback.
    """

    def __init__(
        self,
        models: Path,
        settings: Mapping[str, Any] | None = None,
        python: str = sys.executable,
        cwd: Path | None = None,
        ports: tuple[int, int] = (0, 0),
    ) -> None:
        """With the REST and the gRPC door at these ports; 0: any free."""
        hidden = ("UNMIX_", "PYTHONPATH") if cwd else ("UNMIX_",)
        clean = {name: it for name, it in os.environ.items() if not name.startswith(hidden)}
        chosen: dict[str, Any] = {"front": FRONT, **(settings or {})}
        given = {f"UNMIX_{name.upper()}": str(value) for name, value in chosen.items()}
        command = [python, "-m", "serving.server", "--models", str(models)]
        arguments = ["--http-port", str(ports[0]), "--grpc-port", str(ports[1])]
        self.process = subprocess.Popen(
            [*command, *arguments, "--log-format", "json"],
            stderr=subprocess.PIPE,
            text=True,
            env=clean | given | {"OMP_NUM_THREADS": "1"},
            cwd=cwd,
        )
        self._front = chosen["front"]
        self.log: list[str] = []
        self._ready = threading.Event()
        self.rest = self.grpc = self.admin = ""
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(line)
            event = json.loads(line) if line.startswith("{") else {}
            if event.get("event") == "ready":
                self.rest = event["rest"]
                self.admin = event.get("admin", "")
                self.grpc = event["grpc"].rpartition("//")[2]
                self._ready.set()
        self._ready.set()

    def __enter__(self) -> Self:
        self._ready.wait(START_S)
        if not self.rest:
            self.process.kill()
            raise AssertionError("the server did not start:\n" + "".join(self.log))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        code = self.stop()
        log = "".join(self.log)
        assert code == 0, log
        assert "Traceback" not in log, log

    @property
    def serving_pid(self) -> int:
        """The process that answers: behind Envoy it is Envoy's."""
        pid = self.process.pid
        if self._front == "envoy":
            pid = int(Path(f"/proc/{pid}/task/{pid}/children").read_text())
        return pid

    def kill(self) -> None:
        """SIGKILL: no farewell. `stop` still has to be called."""
        self.process.kill()
        self.process.wait(START_S)

    def terminate(self) -> None:
        self.process.send_signal(signal.SIGTERM)

    def stop(self) -> int:
        """Ask it to stop and wait; the exit status."""
        if self.process.poll() is None:
            self.terminate()
        try:
            code = self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        self._reader.join(START_S)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return code
