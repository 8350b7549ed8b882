"""Train a team: `python -m training.train --map 3s5z`."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib.util
import signal
import sys
import time
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Annotated

STARTED = time.monotonic()
HINT = "training needs the `train` extra: pip install 'unmix[train]'"

try:
    import tyro

    from training.actor import ActorError, LocalActor, ProcessActor, StoppedError
    from training.algorithms import ALGORITHMS
    from training.config import (
        ConfigError,
        EnvArg,
        TaskConfig,
        TrainConfig,
        changed_settings,
        load_preset,
        with_values,
    )
    from training.envs import GameError, at_once, check_task, default_map
    from training.progress import Progress
    from training.pymarl import with_pymarl
    from training.run_folder import RunFolder, RunFolderError, find_run_folder, new_run_folder
except ModuleNotFoundError as missing:
    sys.exit(f"{HINT} ({missing.name} is not installed)")

if TYPE_CHECKING:
    from training.actor import Actor


@dataclass(frozen=True)
class Source:
    """Where the settings come from before the flags change them."""

    preset: str | None = None
    """tuned wins soonest on two cores, paper has PyMARL's numbers, coma PyMARL's for COMA; or the
    path of a YAML of your own, which holds only what differs from PyMARL's. The flags below go on
    top. None: paper with --config, else coma for --algo coma, else tuned."""
    pymarl: Annotated[
        tuple[Path, ...], tyro.conf.arg(name="config", metavar="FILE"), tyro.conf.UseAppendAction
    ] = ()
    """A configuration file of PyMARL's, as it is; once for each of several files, later ones over
    earlier ones. They go on top of the preset, and the flags below on top of them
    (docs/from-pymarl.md)."""
    resume: str | None = None
    """Go on with this run, given by folder or name. Only its stop rules can be changed."""
    runs_dir: Path = Path("runs")
    """Where runs are kept."""


@dataclass(frozen=True)
class Named:
    """The flags that decide what is usual."""

    algo: str = TaskConfig.algo
    env: str = TaskConfig.env


@dataclass(frozen=True)
class Command(Source):
    """Train a team of agents with QMIX, VDN, IQL, COMA or one of QMIX's ablations.

    A run's folder holds its settings, metrics.jsonl, TensorBoard events, the learning curve and
    checkpoints. Ctrl-C writes a checkpoint and ends the run (twice: at once). --resume goes on
    exactly where it was, after a crash too: on a CPU the numbers are those of a run that was never
    interrupted.

    Examples:
      python -m training.train --map 3s5z --until-win-rate 0.95
      python -m training.train --map 8m --algo vdn --minutes 10 --name first-try
      python -m training.train --resume first-try --minutes 10
      python -m training.train --env two_step --env-steps 20000
      python -m training.train --config default.yaml --config sc2.yaml --config qmix.yaml
    """

    name: str | None = None
    """The new run's name; made of map, algorithm and seed if none is given."""
    config: Annotated[TrainConfig, tyro.conf.arg(name="")] = field(default_factory=TrainConfig)


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code: 0 also after a signal, 2 for a wrong setting, 1 for what went wrong
    later."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if importlib.util.find_spec("torch") is None:
        print(f"{HINT} (torch is not installed)", file=sys.stderr)
        return 2
    warnings.formatwarning = lambda message, *_: f"warning: {message}\n"
    stop = StopSignal()
    try:
        folder, config, goes_on = choose_run(arguments)
        return train(folder, config, goes_on, stop)
    except (ConfigError, RunFolderError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


def choose_run(arguments: Sequence[str]) -> tuple[RunFolder, TrainConfig, bool]:
    """The run's folder, its settings, and whether it goes on with an earlier one.

    Raises:
        ConfigError: a setting is wrong, or must not change in a run that goes on.
        RunFolderError: there is no such run, or there is one already.
    """
    source, _ = tyro.cli(
        Source, args=arguments, default=Source(), add_help=False, return_unknown_args=True
    )
    if source.resume is None:
        command = _add_flags(arguments, source, _before_flags(source, arguments))
        config = with_default_map(command.config)
        task = config.task
        try:
            check_task(task.env, task.map_name, task.env_args)
        except (ValueError, GameError) as error:
            raise ConfigError(str(error)) from error
        return new_run_folder(command.runs_dir, config, command.name), config, False
    folder = find_run_folder(source.runs_dir, source.resume)
    before = folder.load_config()
    command = _add_flags(arguments, source, before)
    changes = changed_settings(before, command.config)
    changes += [f"preset: {source.preset}"] if source.preset is not None else []
    changes += [f"config: {path}" for path in source.pymarl]
    changes += [f"name: {command.name}"] if command.name is not None else []
    if changes:
        raise ConfigError(
            f"{folder.path}: a run that goes on keeps its settings but for when to stop; "
            f"changed: {'; '.join(changes)}"
        )
    return folder, command.config, True


def _before_flags(source: Source, arguments: Sequence[str]) -> TrainConfig:
    """The preset, and PyMARL's files on top; what of them is ignored is said."""
    preset, env = _usual(arguments)
    config = load_preset(source.preset or ("paper" if source.pymarl else preset))
    if source.preset is None:
        n_envs = at_once(env, config.play.batch_size_run)
        config = with_values(config, {"batch_size_run": n_envs}, "preset")
    if source.pymarl:
        config, ignored = with_pymarl(config, source.pymarl)
        print(ignored, file=sys.stderr)
    return config


def _usual(arguments: Sequence[str]) -> tuple[str, str]:
    """The preset of the algorithm that the flags name, and the environment; of the usual algorithm
    if they name none that is known, which is for `_add_flags` to refuse."""
    named, _ = tyro.cli(
        Named, args=arguments, default=Named(), add_help=False, return_unknown_args=True
    )
    return ALGORITHMS.get(named.algo, ALGORITHMS[Named.algo]).preset, named.env


def _add_flags(arguments: Sequence[str], source: Source, config: TrainConfig) -> Command:
    # Tyro adds files to those in the default, and takes a mapping's keys for the only ones.
    env_args = config.task.env_args
    default = Command(**vars(source) | {"pymarl": ()}, config=_with_env_args(config, {}))
    command = tyro.cli(
        Command,
        prog="python -m training.train",
        args=arguments,
        default=default,
        config=(tyro.conf.OmitArgPrefixes,),
    )
    env_args = env_args | command.config.task.env_args
    return dataclasses.replace(command, config=_with_env_args(command.config, env_args))


def _with_env_args(config: TrainConfig, env_args: dict[str, EnvArg]) -> TrainConfig:
    return dataclasses.replace(config, task=dataclasses.replace(config.task, env_args=env_args))


def train(folder: RunFolder, config: TrainConfig, goes_on: bool, stop: StopSignal) -> int:
    """Run to the end; see `main` for the exit code."""
    device = choose_device(config.play.device)
    with folder.lock(), playing(config, device) as actor, telling(config) as progress:
        # Imported now: the playing process is on its way, and torch takes two seconds.
        import torch

        from training import checkpoint
        from training.algorithms.learner import NonFiniteLossError
        from training.allocator import keep_freed_memory
        from training.replay import ReplayTooLargeError
        from training.rollout import ReplayMismatchError
        from training.trainer import Trainer

        if device == "cpu":
            torch.set_num_threads(1)  # playing and learning have a core each
            keep_freed_memory()
        try:
            saved = checkpoint.load_last(folder) if goes_on else None
            checkpoint.tidy(folder)
            folder.save_config(config)
            info = actor.start(saved["actor"] if saved is not None else None, stop)
            trainer = Trainer(config, folder, info, device, actor, progress, stop, STARTED, saved)
            reason = trainer.run()
        except StoppedError:
            progress.say("stopped before the first round; nothing is lost")
            return 0
        except (
            ActorError,
            GameError,
            NonFiniteLossError,
            ReplayMismatchError,
            ReplayTooLargeError,
            checkpoint.CheckpointError,
            OSError,
        ) as error:
            progress.say(f"error: {error}")
            progress.say(f"the last good checkpoint is in {folder.checkpoints}")
            return 1
        progress.say(f"ended by {reason}; the run is in {folder.path}")
    return 0


def with_default_map(config: TrainConfig) -> TrainConfig:
    """`config` with the map that is played where none is named."""
    task = config.task
    named = dataclasses.replace(task, map_name=task.map_name or default_map(task.env))
    return dataclasses.replace(config, task=named)


def choose_device(wanted: str) -> str:
    """cpu or cuda.

    Raises:
        ConfigError: cuda is wanted, and torch finds none.
    """
    drivers = ("/proc/driver/nvidia", "/dev/nvidiactl", "/dev/dxg")
    if wanted == "cpu" or (wanted == "auto" and not any(Path(p).exists() for p in drivers)):
        return "cpu"  # known without importing torch
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if wanted == "cuda":
        raise ConfigError("device: torch finds no cuda device here")
    return "cpu"


@contextlib.contextmanager
def playing(config: TrainConfig, device: str) -> Iterator[Actor]:
    kind = config.play.actor
    if kind == "auto":
        kind = "process" if device == "cpu" else "local"
    actor = ProcessActor(config, device) if kind == "process" else LocalActor(config, device)
    try:
        yield actor
    finally:
        actor.close()


@contextlib.contextmanager
def telling(config: TrainConfig) -> Iterator[Progress]:
    progress = Progress(config.stop.t_max)
    try:
        yield progress
    finally:
        progress.close()


class StopSignal:
    """Turns true at the first SIGINT or SIGTERM; a second SIGINT ends the process at once."""

    def __init__(self) -> None:
        self._asked = False
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._ask)

    def __call__(self) -> bool:
        return self._asked

    def _ask(self, number: int, frame: FrameType | None) -> None:
        self._asked = True
        signal.signal(signal.SIGINT, signal.default_int_handler)


if __name__ == "__main__":
    sys.exit(main())
