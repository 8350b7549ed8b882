"""How far a planned run is, judged by its folder alone."""

from __future__ import annotations

import contextlib
import fcntl
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from training.config import ConfigError, TrainConfig, changed_settings
from training.experiment.plan import PlannedRun
from training.experiment.scripted import ScriptedConfig, parse_scripted
from training.metrics import read_metrics
from training.run_folder import RunFolder

State = Literal["new", "interrupted", "running", "finished", "other"]
HARMLESS = ("actor", "compile_env", "checkpoint_seconds")
"""Settings that change neither what is learned nor what is written down."""


@dataclass(frozen=True)
class Standing:
    """A run's state.

    new: nothing is there. interrupted: it can go on. running: a process is at work in the folder,
    whoever started it. finished: it was tested with its whole budget behind it. other: something
    else is in the folder, `note` says what.
    """

    state: State
    t_env: int = 0
    """Environment steps of the newest report."""
    win_rate: float | None = None
    """Of the newest test."""
    note: str = ""


def standing(run: PlannedRun, folder: RunFolder) -> Standing:
    """A run's state, from its settings, its metrics and its lock."""
    if not folder.config.is_file():
        return _without_settings(folder)
    try:
        differences = changes(load_settings(folder.config), run.config)
    except ConfigError as error:
        return Standing("other", note=str(error))
    if differences:
        return Standing("other", note=f"has other settings: {'; '.join(differences)}")
    rows = read_metrics(folder.metrics)
    t_env = max((row["t_env"] for row in rows), default=0)
    tests = sorted((r["t_env"], r["test_battle_won_mean"]) for r in rows if is_test(r))
    win_rate = tests[-1][1] if tests else None
    if tests and tests[-1][0] >= run.t_max:
        return Standing("finished", t_env, win_rate)
    return Standing("running" if is_held(folder) else "interrupted", t_env, win_rate)


def standing_or_kept(run: PlannedRun, folder: RunFolder, kept: Path | None) -> Standing:
    """The same; a run that is not there counts as finished if its small files were collected.

    Args:
        kept: the folder of the collected runs, if there is one.
    """
    now = standing(run, folder)
    if now.state == "new" and kept is not None:
        then = standing(run, RunFolder(kept / run.name))
        return then if then.state == "finished" else now
    return now


def _without_settings(folder: RunFolder) -> Standing:
    if not folder.path.exists():
        return Standing("new")
    if is_held(folder):
        return Standing("running")
    if _leftovers(folder) is None:
        return Standing("other", note="is neither empty nor a run")
    return Standing("new")


def clear_leftovers(folder: RunFolder) -> None:
    """Make place for a new run where one ended before it had written anything down."""
    if (left := _leftovers(folder)) is not None and not folder.config.is_file():
        for path in left:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)
        folder.path.rmdir()


def _leftovers(folder: RunFolder) -> list[Path] | None:
    """What such a run leaves behind; None if there is more, or no folder."""
    if not folder.path.is_dir():
        return None
    left = list(folder.path.iterdir())
    empty = (path.name == "lock" or path.name.startswith(".config.yaml") for path in left)
    rest = [path for path, known in zip(left, empty, strict=True) if not known]
    if any(path != folder.checkpoints or any(path.iterdir()) for path in rest):
        return None
    return left


def is_test(row: dict[str, Any]) -> bool:
    """Whether a row of metrics speaks of a test."""
    return "test_battle_won_mean" in row


def is_held(folder: RunFolder) -> bool:
    """Whether a process is at work in the folder."""
    with contextlib.suppress(FileNotFoundError), (folder.path / "lock").open("rb") as file:
        try:
            # Shared, so that two who only look do not see each other.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def load_settings(path: Path) -> TrainConfig | ScriptedConfig:
    """Read a run's config.yaml, of either kind.

    Raises:
        ConfigError: it is neither.
    """
    from training.config import load_yaml

    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not YAML: {error}") from None
    if isinstance(values, dict) and "policy" in values:
        return parse_scripted(values, str(path))
    return load_yaml(path)


def changes(old: TrainConfig | ScriptedConfig, new: TrainConfig | ScriptedConfig) -> list[str]:
    """The settings that make two runs different ones, as "name: old -> new"."""
    if isinstance(old, TrainConfig) and isinstance(new, TrainConfig):
        return [c for c in changed_settings(old, new) if c.split(":")[0] not in HARMLESS]
    if isinstance(old, ScriptedConfig) and isinstance(new, ScriptedConfig):
        after = new.as_dict()
        return [f"{k}: {v!r} -> {after[k]!r}" for k, v in old.as_dict().items() if v != after[k]]
    return ["a run that learns and a policy that does not"]
