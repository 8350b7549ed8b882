"""Virtual environments for tests that must not see what is installed around them.

They live in `.cache/venvs` at the repository's root and are made once for what they hold. The
interpreter's `venv` and pip are all that is needed.
"""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).parents[1]
_FOLDER = ROOT / ".cache" / "venvs"


def cached_venv(name: str, *requirements: str, key: str = "") -> Path:
    """The interpreter of a virtual environment that holds these requirements.

    Args:
        key: anything else the environment depends on; another key makes another environment.
    """
    described = "\n".join([sys.version, key, *requirements])
    folder = _FOLDER / f"{name}-{hashlib.sha256(described.encode()).hexdigest()[:12]}"
    python = folder / "bin" / "python"
    with _lock(name):
        if not (folder / "complete").exists():
            for old in _FOLDER.glob(f"{name}-*/"):
                shutil.rmtree(old)
            run([sys.executable, "-m", "venv", str(folder)])
            pip_install(python, *requirements)
            (folder / "complete").touch()
    return python


def pip_install(python: Path, *arguments: str) -> None:
    quiet = ["--quiet", "--disable-pip-version-check", "--no-compile"]
    run([str(python), "-m", "pip", "install", *quiet, *arguments])


def run(command: Sequence[str]) -> str:
    """The command's output; fails with everything it said if it failed."""
    ended = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, f"{' '.join(command)}\n{ended.stdout}\n{ended.stderr}"
    return ended.stdout


@contextmanager
def _lock(name: str) -> Iterator[None]:
    """For several test processes at once."""
    _FOLDER.mkdir(parents=True, exist_ok=True)
    with (_FOLDER / f"{name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
