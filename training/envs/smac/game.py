"""A slot's game: a worker process, and the program that it starts."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from training.envs import GameError

WORKER = Path(__file__).with_name("worker.py")
LAST_LINES = 15
MOST_LOG_BYTES = 1 << 20
_ROOT = Path(tempfile.gettempdir()) / f"unmix-smac-{os.getuid()}"


class LostGameError(Exception):
    """The game has died, hangs or talks nonsense; it has been killed."""

    def __init__(self, reason: str, last_lines: str) -> None:
        super().__init__(reason)
        self.last_lines = last_lines


class Game:
    """One worker at work, from its start until it is lost or closed; it is asked and answers in
    turns. It ends with this process, and its game with it (see `worker`).

    Args:
        python: the Python that has SMAC.
    """

    def __init__(self, python: str) -> None:
        # What worker and game say. It has no name, and is closed with them.
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        ours, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [python, str(WORKER), str(theirs.fileno()), str(os.getpid())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._log,
                stderr=self._log,
                env={**os.environ, "TMPDIR": str(_own_folder()), "OMP_NUM_THREADS": "1"},
                process_group=0,  # of it and the game, which a Ctrl-C does not reach
            )
        self._pipe = Connection(ours.detach())
        self._is_ready = False

    @property
    def pid(self) -> int:
        """The worker's, and its process group's."""
        return self._process.pid

    def ask(self, order: str, given: Any) -> None:
        """A worker that is gone is noticed by `answer`."""
        self._forget_old_words()
        with contextlib.suppress(OSError):
            self._pipe.send((order, given))

    def answer(self, deadline: float) -> dict[str, Any]:
        """What the worker answers to what was asked last.

        Args:
            deadline: by `time.monotonic()`.

        Raises:
            LostGameError: with the reason. GameError: SMAC cannot be imported.
        """
        if not self._is_ready:
            self._receive(deadline)
            self._is_ready = True
        answer: dict[str, Any] = self._receive(deadline)
        return answer

    def _receive(self, deadline: float) -> Any:
        try:
            if not self._pipe.poll(max(0.0, deadline - time.monotonic())):
                raise self._lost("no answer in time")
            kind, what = self._pipe.recv()
        except (EOFError, OSError):
            raise self._lost("its worker died") from None
        if kind == "setup":
            self.close()
            raise GameError(what)
        if kind == "broken":
            raise self._lost(what)
        return what

    def _lost(self, reason: str) -> LostGameError:
        self._kill()  # what it says now would be missed
        error = LostGameError(reason, self._last_lines())
        self.close()
        return error

    def _last_lines(self) -> str:
        size = os.fstat(self._log.fileno()).st_size
        text = os.pread(self._log.fileno(), 1 << 14, max(0, size - (1 << 14)))
        return "\n".join(text.decode(errors="replace").splitlines()[-LAST_LINES:])

    def _forget_old_words(self) -> None:
        if os.fstat(self._log.fileno()).st_size > MOST_LOG_BYTES:
            os.ftruncate(self._log.fileno(), 0)
            os.lseek(self._log.fileno(), 0, os.SEEK_SET)  # the place is the writers' too

    def close(self) -> None:
        """End worker and game at once."""
        self._kill()
        self._pipe.close()
        self._log.close()

    def _kill(self) -> None:
        if self._process.returncode is None:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


def _own_folder() -> Path:
    """For games' temporary files, which a killed game leaves; those of processes that are gone are
    removed on the way."""
    for folder in _ROOT.glob("*"):
        if not Path("/proc", folder.name).exists():
            shutil.rmtree(folder, ignore_errors=True)
    own = _ROOT / str(os.getpid())
    own.mkdir(parents=True, exist_ok=True, mode=0o700)
    return own
