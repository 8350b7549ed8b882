"""Others to measure beside ours, each in a virtual environment of its own.

A peer is a requirements file and a script beside this one. Its environment is made once, in
`.cache/peers` at the repository's root. The script is started once and asked for one round at a
time, so that its rounds and ours can take turns and what it compiled stays compiled.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

HERE = Path(__file__).parent
FOLDER = HERE.parents[1] / ".cache" / "peers"
SMAX_MAP = "3s5z"


class PeerUnavailableError(Exception):
    """The peer cannot be measured; the message is one line that says why."""


@dataclass(frozen=True)
class PeerRound:
    steps_per_second: float
    startup_seconds: float
    """Tracing and compiling for this batch size; not in the rate."""


class Peer:
    """A running script that answers requests for rounds; to be used in a `with` statement."""

    def __init__(self, command: Sequence[str | Path], timeout: float = 300.0) -> None:
        self._stderr = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._timeout = timeout
        inherited = {k: v for k, v in os.environ.items() if not k.startswith(("XLA_", "JAX_"))}
        try:
            self._process = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                text=True,
                env=inherited | {"JAX_PLATFORMS": "cpu"},
            )
        except OSError as error:
            self._stderr.close()
            raise PeerUnavailableError(f"cannot be started: {error}") from error

    def round(self, parallel: int, seconds: float) -> PeerRound:
        """Let it play for this long; compiles first if the batch size is new to it."""
        late = threading.Timer(self._timeout + seconds, self._process.kill)
        late.start()
        line = self._ask(json.dumps({"parallel": parallel, "seconds": seconds}))
        still_waiting = late.is_alive()
        late.cancel()
        if not still_waiting:
            raise PeerUnavailableError(f"no answer within {self._timeout + seconds:g} s")
        if not line:
            raise PeerUnavailableError(self._last_words())
        try:
            answer = json.loads(line)
            return PeerRound(float(answer["steps_per_second"]), float(answer["startup_seconds"]))
        except (ValueError, KeyError, TypeError) as error:
            raise PeerUnavailableError(f"not an answer: {line.strip()[:80]}") from error

    def _ask(self, request: str) -> str:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        try:
            self._process.stdin.write(request + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            return ""
        return self._process.stdout.readline()

    def _last_words(self) -> str:
        """Why it ended, by what it said last."""
        code = self._process.wait()
        self._stderr.seek(0)
        return f"ended with status {code}: {last_line(self._stderr.read())}"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.kill()
        self._process.communicate()
        self._stderr.close()


def start_smax(threads: int, say: Callable[[str], None]) -> Peer:
    """JaxMARL's SMAX on `SMAX_MAP`, with as many threads as this."""
    python = peer_python("smax", say)
    return Peer([python, "-I", HERE / "smax.py", SMAX_MAP, str(threads)])


def peer_python(name: str, say: Callable[[str], None], interpreter: str = "") -> Path:
    """The interpreter that holds the requirements in NAME.txt; makes it if it is not there.

    Args:
        interpreter: what to make it of; empty for the one that runs this.

    Raises:
        PeerUnavailableError: it could not be made.
    """
    requirements = HERE / f"{name}.txt"
    described = sys.version.encode() + requirements.read_bytes()
    described += interpreter.encode()
    folder = FOLDER / f"{name}-{hashlib.sha256(described).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    with _lock(name):
        # An environment cannot be renamed into place, so a file says that it is whole.
        complete = folder / "complete"
        if not complete.exists():
            for old in FOLDER.glob(f"{name}-*/"):
                shutil.rmtree(old)
            say(f"making {folder}, once")
            _run([interpreter or sys.executable, "-m", "venv", str(folder)])
            options = ["--quiet", "--disable-pip-version-check", "--no-compile", "--retries", "1"]
            _run([str(python), "-m", "pip", "install", *options, "-r", str(requirements)])
            complete.touch()
    return python


def last_line(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def _run(command: Sequence[str]) -> None:
    try:
        ended = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError as error:
        raise PeerUnavailableError(f"cannot be installed: {error}") from error
    if ended.returncode != 0:
        raise PeerUnavailableError(f"cannot be installed: {last_line(ended.stderr)}")


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """For several benchmarks at once."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    with (FOLDER / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
