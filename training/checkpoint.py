"""Checkpoints: whole or not there, checked when read, and safe to read.

A checkpoint is written aside, flushed to the disk, then renamed. It ends in the SHA-256 of what
comes before, so that a torn or changed file is noticed and the one before it is used. It holds
tensors and plain values only and is read with `torch.load(weights_only=True)`: reading one runs no
code that somebody put into it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from training.config import TrainConfig, with_values
from training.run_folder import RunFolder
from training.types import BattleRecord, EnvInfo

FORMAT_VERSION = 1
MAGIC = b"unmix-checkpoint"
FOOTER_SIZE = 32 + len(MAGIC)
KEEP = 3

State = dict[str, Any]


class CheckpointError(RuntimeError):
    """A checkpoint cannot be written, or none can be read; the message names the path."""


class DamagedCheckpointError(CheckpointError):
    """A file is torn, changed, or no checkpoint at all."""


def save(state: Mapping[str, Any], path: Path) -> None:
    """Write a checkpoint so that `path` holds the old content or the new, never a part.

    Raises:
        CheckpointError: the disk is full or the folder cannot be written; `path` is untouched.
    """
    buffer = io.BytesIO()
    torch.save({"format_version": FORMAT_VERSION, **state}, buffer)
    content = buffer.getvalue()
    aside = path.with_name(f".{path.name}")
    try:
        with aside.open("wb") as file:
            file.write(content + hashlib.sha256(content).digest() + MAGIC)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
        _flush_folder(path.parent)
    except OSError as error:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
        raise CheckpointError(f"{path}: cannot write the checkpoint: {error.strerror}") from error


def load(path: Path) -> State:
    """Read a checkpoint onto the CPU.

    Raises:
        DamagedCheckpointError: the file is torn, changed, or not one of ours.
        CheckpointError: it was written by another version.
    """
    content = path.read_bytes()
    body, digest = content[:-FOOTER_SIZE], content[-FOOTER_SIZE : -len(MAGIC)]
    if not content.endswith(MAGIC) or hashlib.sha256(body).digest() != digest:
        raise DamagedCheckpointError(f"{path}: the checkpoint is damaged")
    state: State = torch.load(io.BytesIO(body), map_location="cpu", weights_only=True)
    if state["format_version"] != FORMAT_VERSION:
        raise CheckpointError(
            f"{path}: checkpoint format {state['format_version']}; this is {FORMAT_VERSION}"
        )
    return state


def save_last(folder: RunFolder, state: State, env_steps: int) -> None:
    """Write the checkpoint of this many environment steps and drop the oldest ones."""
    save(state, folder.checkpoints / f"last-{env_steps:012d}.pt")
    for old in _all_last(folder)[KEEP:]:
        old.unlink(missing_ok=True)


def load_last(folder: RunFolder) -> State | None:
    """The newest checkpoint that is whole, or None where none has been written yet.

    Warns of each that is damaged, naming it.

    Raises:
        CheckpointError: there are some, but all are damaged.
    """
    paths = _all_last(folder)
    for path in paths:
        try:
            return load(path)
        except DamagedCheckpointError as error:
            warnings.warn(f"{error}; using the one before it", stacklevel=2)
    if paths:
        raise CheckpointError(f"{folder.checkpoints}: all checkpoints are damaged")
    return None


def tidy(folder: RunFolder) -> None:
    """Set damaged checkpoints aside, so that none is taken for the newest, and drop half-written
    ones."""
    for path in folder.checkpoints.glob(".*.pt"):
        path.unlink()
    for path in _all_last(folder):
        try:
            load(path)
        except DamagedCheckpointError:
            path.replace(path.with_suffix(".damaged"))


def _all_last(folder: RunFolder) -> list[Path]:
    """The newest first."""
    return sorted(folder.checkpoints.glob("last-*.pt"), reverse=True)


@dataclass(frozen=True)
class TrainedAgent:
    """What of a run goes on to be evaluated or exported."""

    weights: dict[str, torch.Tensor]
    """The agent network's state dict, on the CPU."""
    info: EnvInfo
    config: TrainConfig
    env_steps: int
    episodes: int
    gradient_steps: int
    win_rate: float | None
    """Greedy, over `win_rate_episodes` battles never trained on; None if it was not tested."""
    win_rate_episodes: int


def load_agent(run: str | Path, which: Literal["best", "last"] = "best") -> TrainedAgent:
    """Load a run's agent; a run that has no best yet gives its last.

    Args:
        run: the run's folder.

    Raises:
        CheckpointError: there is no such run, or no checkpoint in it can be read.
    """
    folder = RunFolder(run)
    has_best = which == "best" and folder.best.is_file()
    state = load(folder.best) if has_best else load_last(folder)
    if state is None:
        raise CheckpointError(f"{folder.path}: no checkpoint here")
    return TrainedAgent(
        weights=state["agent"],
        info=EnvInfo(**{**state["info"], "unit_types": tuple(state["info"]["unit_types"])}),
        config=with_values(TrainConfig(), state["config"], source=str(folder.path)),
        **state["counters"],
    )


def agent_state(
    weights: Mapping[str, torch.Tensor],
    info: EnvInfo,
    config: TrainConfig,
    counters: Mapping[str, float | None],
) -> State:
    """The part of a checkpoint that `load_agent` reads; `counters` are `TrainedAgent`'s numbers."""
    return {
        "agent": dict(weights),
        "info": dataclasses.asdict(info),
        "config": config.as_dict(),
        "counters": dict(counters),
    }


def records_to_state(records: Sequence[BattleRecord]) -> State:
    """Battles as a few tensors, the actions of all one after another."""

    def column(name: str, dtype: torch.dtype) -> torch.Tensor:
        return torch.tensor([getattr(record, name) for record in records], dtype=dtype)

    actions = [record.actions for record in records]
    return {
        "battle_id": column("battle_id", torch.int64),
        "length": column("length", torch.int64),
        "actions": torch.from_numpy(np.concatenate(actions)) if actions else torch.empty(0),
        "episode_return": column("episode_return", torch.float64),
        "battle_won": column("battle_won", torch.bool),
        "dead_allies": column("dead_allies", torch.int64),
        "dead_enemies": column("dead_enemies", torch.int64),
    }


def records_from_state(state: Mapping[str, torch.Tensor]) -> list[BattleRecord]:
    """The battles that `records_to_state` stored."""
    ends = state["length"].cumsum(0).tolist()
    all_actions = state["actions"].numpy()
    actions = [all_actions[end - n : end] for end, n in zip(ends, state["length"], strict=True)]
    names = ("battle_id", "episode_return", "battle_won", "dead_allies", "dead_enemies")
    columns = [state[name].tolist() for name in names]
    return [
        BattleRecord(actions=actions[i], **dict(zip(names, row, strict=True)))
        for i, row in enumerate(zip(*columns, strict=True))
    ]


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
