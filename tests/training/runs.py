"""Small runs in this process, and what they leave behind."""

from __future__ import annotations

import contextlib
import hashlib
import io
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from training import checkpoint
from training.actor import Actor, LocalActor, ProcessActor
from training.config import TrainConfig, load_preset, with_values
from training.metrics import CLOCK, Row, read_metrics
from training.progress import Progress
from training.run_folder import RunFolder
from training.trainer import Trainer


def small_config(**values: Any) -> TrainConfig:
    """A run on the two-step game of a second or two."""
    small = {
        "batch_size_run": 8,
        "gradient_steps_per_episode": 0.25,
        "batch_size": 8,
        "buffer_size": 48,
        "rnn_hidden_dim": 8,
        "hypernet_embed": 8,
        "epsilon_finish": 0.1,
        "epsilon_anneal_time": 500,
        "test_interval": 128,
        "log_interval": 64,
        "t_max": 800,
    }
    return with_values(load_preset("two_step"), small | values, source="test")


@contextlib.contextmanager
def training(
    config: TrainConfig,
    path: Path,
    stop: Callable[[], bool] = lambda: False,
    process: bool = False,
) -> Iterator[Trainer]:
    """A trainer in this folder, which goes on with what is there."""
    folder = RunFolder(path)
    actor: Actor = (ProcessActor if process else LocalActor)(config, "cpu")
    with folder.lock(), contextlib.closing(actor):
        folder.save_config(config)
        saved = checkpoint.load_last(folder)
        info = actor.start(saved["actor"] if saved is not None else None, lambda: False)
        progress = Progress(config.stop.t_max, out=io.StringIO())
        started = time.monotonic()
        yield Trainer(config, folder, info, "cpu", actor, progress, stop, started, saved)


def run(config: TrainConfig, path: Path, **how: Any) -> str:
    """Train to the end. Returns why it ended."""
    with training(config, path, **how) as trainer:
        return trainer.run()


def metrics(path: Path) -> list[Row]:
    """The rows, without what depends on the machine."""
    rows = read_metrics(RunFolder(path).metrics)
    return [{k: v for k, v in row.items() if k not in CLOCK} for row in rows]


def weights_sha256(path: Path) -> str:
    """Of the last checkpoint's agent."""
    weights = checkpoint.load_agent(path, "last").weights
    content = b"".join(weights[name].numpy().tobytes() for name in sorted(weights))
    return hashlib.sha256(content).hexdigest()
