"""A container that runs: an image's own entry point as process 1 of a room, on a read-only root."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.containers.images import Image
from tests.venvs import ROOT

START_S = 60.0


class Container:
    """Between `__enter__`, which waits for the log's "ready", and `__exit__`.

    It has no address but its own loopback: callers are run beside it, with `beside`.
    """

    def __init__(self, image: Image, environ: Mapping[str, str]) -> None:
        self._image = image
        self._environ = image.environ | dict(environ)
        self.log: list[str] = []
        self.is_ready = False
        self._ready = threading.Event()
        self._process = subprocess.Popen(
            self._command([*image.entrypoint, *image.command]), stderr=subprocess.PIPE, text=True
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _command(self, words: Sequence[str]) -> list[str]:
        return self._image.room.command(
            words,
            environ=self._environ,
            folder=self._image.folder,
            user=self._image.user,
            read_only=True,
            network=False,
        )

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.log.append(line)
            if line.startswith("{") and json.loads(line)["event"] == "ready":
                self.is_ready = True
                self._ready.set()
        self._ready.set()

    def __enter__(self) -> Self:
        self._ready.wait(START_S)
        if not self.is_ready:
            self.close()
            raise AssertionError("".join(self.log))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.kill()  # and with it everything inside
        self._process.wait(START_S)
        self._reader.join(START_S)
        assert self._process.stderr is not None
        self._process.stderr.close()

    @property
    def pid(self) -> int:
        """Its process 1, as this machine numbers it."""
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return int(children.read_text().split()[0])

    def status(self) -> dict[str, str]:
        """What the kernel says of process 1."""
        lines = Path(f"/proc/{self.pid}/status").read_text().splitlines()
        return {name: value.strip() for name, _, value in (it.partition(":") for it in lines)}

    def beside(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command of this machine's in the container's network."""
        enter = ["nsenter", f"--net=/proc/{self.pid}/ns/net"]
        return self._run([*enter, *words])

    def inside(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a command inside, as `docker exec` does for a health check."""
        enter = ["nsenter", f"--target={self.pid}", "--net", "--mount", "--root", "--wd"]
        uid, _, gid = self._image.user.partition(":")
        user = [f"--setuid={uid}", f"--setgid={gid}"]
        environ = [f"{name}={value}" for name, value in self._environ.items()]
        return self._run([*enter, *user, "/usr/bin/env", "-i", *environ, *words])

    def _run(self, words: Sequence[str]) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            words, capture_output=True, text=True, cwd=ROOT, timeout=START_S, check=False
        )

    def stop(self) -> int:
        """Send the image's stop signal to process 1, as `docker stop` does; the exit status."""
        os.kill(self.pid, signal.Signals[self._image.stop_signal])
        return self._process.wait(START_S)
