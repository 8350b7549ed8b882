"""What a run writes down: PyMARL's scalar names, one JSON line per report, TensorBoard events.

Every row of metrics.jsonl has `t_env`, the environment steps it speaks of, and any of:

    return_mean, return_std, battle_won_mean, ep_length_mean, dead_allies_mean, dead_enemies_mean
        over the battles finished since the last report, played with exploration
    loss, grad_norm, td_error_abs, q_taken_mean, target_mean
        means over the gradient steps since the last report
    coma_loss, agent_grad_norm, advantage_mean, pi_max, critic_loss, critic_grad_norm
        COMA's in place of loss and grad_norm
    epsilon, episode, gradient_steps, buffer_episodes
    test_return_mean, test_battle_won_mean, ... as above, over a greedy test's battles;
        test_battle_won_ci95 is the 95 % interval of its win rate
    confirm_...   the same over the fresh battles that confirm a test
    game_version, game_restarts   where a game is played: which one, and how many had broken off

A test is played beside the battles for learning, so its row comes some reports after the one of
the same `t_env`.

`CLOCK` names the fields that depend on the machine; all others repeat to the bit on a CPU.
"""

from __future__ import annotations

import json
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from training.types import BattleRecord

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Row = dict[str, Any]
CLOCK = ("seconds", "steps_per_second")


def wilson_interval(wins: int, battles: int) -> tuple[float, float]:
    """95 % interval of a win rate (Wilson, 1927): sound for few battles and at 0 and 100 %."""
    if battles == 0:
        return 0.0, 1.0
    z = 1.959964
    rate, share = wins / battles, z * z / battles
    centre = (rate + share / 2) / (1 + share)
    half = math.sqrt(rate * (1 - rate) * share + share * share / 4) / (1 + share)
    return max(0.0, centre - half), min(1.0, centre + half)


def battle_scalars(battles: Sequence[BattleRecord], prefix: str = "") -> Row:
    """PyMARL's scalars of these battles; none of no battles."""
    if not battles:
        return {}
    returns = [battle.episode_return for battle in battles]
    row = {
        "return_mean": statistics.fmean(returns),
        "return_std": statistics.pstdev(returns),
        "battle_won_mean": statistics.fmean(battle.battle_won for battle in battles),
        "ep_length_mean": statistics.fmean(battle.length for battle in battles),
        "dead_allies_mean": statistics.fmean(battle.dead_allies for battle in battles),
        "dead_enemies_mean": statistics.fmean(battle.dead_enemies for battle in battles),
    }
    return {prefix + name: value for name, value in row.items()}


def scalars_of_test(battles: Sequence[BattleRecord], prefix: str) -> Row:
    """`battle_scalars` and the win rate's 95 % interval."""
    wins = sum(battle.battle_won for battle in battles)
    interval = {prefix + "battle_won_ci95": list(wilson_interval(wins, len(battles)))}
    return battle_scalars(battles, prefix) | interval


def mean_scalars(rows: Iterable[Mapping[str, float]]) -> Row:
    """The mean of each scalar over the rows that have it."""
    values: dict[str, list[float]] = {}
    for row in rows:
        for name, value in row.items():
            values.setdefault(name, []).append(value)
    return {name: statistics.fmean(numbers) for name, numbers in values.items()}


class MetricsLog:
    """Appends rows to metrics.jsonl and TensorBoard.

    Args:
        cursor: bytes of metrics.jsonl to keep; what a lost process wrote after them is dropped.
        t_env: environment steps to go on from; TensorBoard hides what it has from there on.

    Raises:
        OSError: metrics.jsonl is shorter than `cursor`, or cannot be written.
    """

    def __init__(self, path: Path, tensorboard: Path, cursor: int = 0, t_env: int = 0) -> None:
        if cursor and (not path.is_file() or path.stat().st_size < cursor):
            raise OSError(f"{path}: lost lines that the checkpoint counts on")
        self._path, self._file = path, path.open("ab")
        self._file.truncate(cursor)
        self._tensorboard, self._purge_step = tensorboard, t_env + 1
        self._events: SummaryWriter | None = None

    @property
    def cursor(self) -> int:
        return self._file.tell()

    def write(self, row: Row) -> None:
        try:
            self._file.write(json.dumps(row, allow_nan=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(self._path)) from error
        events = self._open_events()
        for name, value in row.items():
            if name == "t_env" or isinstance(value, str):
                continue
            numbers = zip(("_low", "_high"), value, strict=True) if isinstance(value, list) else ()
            for tail, number in numbers or (("", value),):
                events.add_scalar(name + tail, number, row["t_env"])

    def sync(self) -> None:
        """Bring all rows to the disk: a checkpoint's cursor must never be ahead of the file."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()
        if self._events is not None:
            self._events.close()

    def _open_events(self) -> SummaryWriter:
        if self._events is None:  # importing it takes a while that a first battle can do without
            from torch.utils.tensorboard import SummaryWriter

            self._events = SummaryWriter(str(self._tensorboard), purge_step=self._purge_step)
        return self._events


def read_metrics(path: Path) -> list[Row]:
    """The rows of a metrics.jsonl; a last line that was cut short is left out."""
    if not path.is_file():
        return []
    lines = path.read_bytes().split(b"\n")[:-1]
    return [json.loads(line) for line in lines]
