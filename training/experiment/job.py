"""One run at work: a process with one thread, and what it says."""

from __future__ import annotations

import contextlib
import ctypes
import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from training.config import load_yaml
from training.experiment.command import evaluation_command, flags, training_command
from training.experiment.plan import PlannedRun
from training.experiment.scripted import ScriptedConfig, write_evaluation
from training.experiment.standing import Standing, clear_leftovers, standing
from training.run_folder import RunFolder

LAST_LINES = 6
_PRCTL = ctypes.CDLL(None).prctl
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}


class Job:
    """A run that has been started, anew or from where it was.

    Args:
        run: new or interrupted.
        folder: where it lives.
        logs: a folder for what the process says.

    Raises:
        RunFolderError: another process is at work in the folder (scripted policies only; a trainer
            finds out by itself and ends).
    """

    def __init__(self, run: PlannedRun, folder: RunFolder, logs: Path) -> None:
        self.run, self.folder = run, folder
        self.started = time.monotonic()
        self.begins_at = standing(run, folder).t_env
        self._held = contextlib.ExitStack()
        logs.mkdir(parents=True, exist_ok=True)
        self.log = logs / f"{run.name}.log"
        self._out = logs / f"{run.name}.json"
        if isinstance(run.config, ScriptedConfig):
            self._held.enter_context(folder.lock())
            words = [*evaluation_command(run.config), "--json"]
        else:
            words = training_words(run, folder)
        self.process = self._start(words)

    def _start(self, words: Sequence[str]) -> subprocess.Popen[bytes]:
        """The process, in a session of its own: a Ctrl-C reaches the queue alone, which passes it
        on. However the queue ends, the kernel then tells the process to stop."""
        scripted = isinstance(self.run.config, ScriptedConfig)
        with self.log.open("wb") as log, self._out.open("wb") as out:
            return subprocess.Popen(
                [sys.executable, "-m", *words],
                stdin=subprocess.DEVNULL,
                stdout=out if scripted else subprocess.DEVNULL,  # reports are in the metrics, too
                stderr=log,
                env=os.environ | ONE_THREAD,
                start_new_session=True,
                preexec_fn=lambda: _PRCTL(_PR_SET_PDEATHSIG, signal.SIGTERM),
            )

    def is_over(self) -> bool:
        return self.process.poll() is not None

    def ask_to_stop(self) -> None:
        """A trainer writes a checkpoint first; an evaluation is lost."""
        self.process.terminate()

    def kill(self) -> None:
        """No run is harmed by it: it goes on from its last checkpoint."""
        self.process.kill()
        self.process.wait()
        self._held.close()

    def conclude(self) -> Standing:
        """What has become of the run, once it is over."""
        if isinstance(self.run.config, ScriptedConfig) and self.process.returncode == 0:
            result = json.loads(self._out.read_bytes())
            seconds = time.monotonic() - self.started
            write_evaluation(self.folder, self.run.config, result, seconds)
        self._out.unlink(missing_ok=True)
        self._held.close()
        return standing(self.run, self.folder)

    def last_words(self) -> str:
        """The end of what it said."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return "\n".join(lines[-LAST_LINES:])


def training_words(run: PlannedRun, folder: RunFolder) -> list[str]:
    """Arguments of the command that starts the run, or goes on with it."""
    config = run.config
    assert not isinstance(config, ScriptedConfig)
    if folder.config.is_file():
        before = load_yaml(folder.config)
        # Whatever it was told before, it now ends at its budget; all else is as it was.
        to_the_end = dataclasses.replace(before, stop=config.stop)
        return ["training.train", "--resume", str(folder.path), *flags(to_the_end, before)]
    clear_leftovers(folder)
    where = ["--runs-dir", str(folder.path.parent), "--name", folder.path.name]
    local = dataclasses.replace(config, play=dataclasses.replace(config.play, actor="local"))
    return [*training_command(local, run.preset), *where]
