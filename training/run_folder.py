"""Where a run lives, and who may write there.

runs/<name>/
    config.yaml            every setting; itself a preset
    metrics.jsonl          one line per report
    tensorboard/           the same scalars
    curve.png              the learning curve
    checkpoints/
        last-<env steps>.pt    all that a resume needs; the newest few
        best.pt                the agent that won most, and what it won
    lock                   held, with its pid inside, by the trainer at work
"""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import os
from collections.abc import Iterator
from pathlib import Path

from training.config import TrainConfig, load_yaml, save_yaml
from training.envs import map_label


class RunFolderError(RuntimeError):
    """The run is not there, is there already, or another trainer is at work in it."""


class RunFolder:
    """The paths of a run; `lock` it before writing to any."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yaml"
        self.metrics = self.path / "metrics.jsonl"
        self.tensorboard = self.path / "tensorboard"
        self.curve = self.path / "curve.png"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.checkpoints / "best.pt"

    def load_config(self) -> TrainConfig:
        if not self.config.is_file():
            raise RunFolderError(f"{self.path}: no run here")
        return load_yaml(self.config)

    def save_config(self, config: TrainConfig) -> None:
        aside = self.path / ".config.yaml"
        save_yaml(config, aside)
        aside.replace(self.config)

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder for this process; the kernel lets go of it however the process ends.

        Raises:
            RunFolderError: naming the process that holds it.
        """
        self.checkpoints.mkdir(parents=True, exist_ok=True)
        with (self.path / "lock").open("a+", encoding="ascii") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                pid = file.read().strip() or "unknown"
                raise RunFolderError(f"{self.path}: process {pid} is training here") from None
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield


def new_run_folder(runs_dir: Path, config: TrainConfig, name: str | None) -> RunFolder:
    """A folder for a new run, not made yet. Without a name it is called after map, algorithm and
    seed, with a number if that is taken.

    Raises:
        RunFolderError: a run of this name is there already.
    """
    task = config.task
    stem = name or f"{map_label(task.map_name)}-{task.algo}-{task.seed}"
    tails = itertools.chain([""], (f"-{i}" for i in itertools.count(2)))
    for tail in tails:
        folder = RunFolder(runs_dir / f"{stem}{tail}")
        if not folder.path.exists():
            return folder
        if name:
            raise RunFolderError(
                f"{folder.path}: there is a run already; `--resume {folder.path}` goes on with it"
            )
    raise AssertionError("the numbers do not end")


def find_run_folder(runs_dir: Path, run: str) -> RunFolder:
    """The folder of a run given by its path or by its name in `runs_dir`.

    Raises:
        RunFolderError: there is no such run.
    """
    for path in (Path(run), runs_dir / run):
        if RunFolder(path).config.is_file():
            return RunFolder(path)
    raise RunFolderError(f"{run}: no run here, nor in {runs_dir}")
