"""Episodes kept for learning: whole, ragged, in one ring of steps.

A row of the ring is one observation of a battle and, unless it is the last, the step taken in it.
Observations and states are stored as float16, masks as bits, actions as bytes; one-hots of actions
and agents not at all. 3s5z takes 2,506 bytes a row: 5,000 episodes of 50 steps are 0.64 GB.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from training.types import BattleRecord, EnvInfo, Episode, EpisodeBatch

IntArray = npt.NDArray[np.int64]
DEFAULT_MAX_BYTES = 1_000_000_000
CONTROL_GROUP = Path("/sys/fs/cgroup")


class ReplayTooLargeError(MemoryError):
    """The replay would need more memory than there is."""


@dataclass(frozen=True)
class ReplaySize:
    """What a replay will need, known before anything is allocated."""

    episode_capacity: int
    step_capacity: int
    """Rows of the ring; an episode of L steps takes L + 1."""
    bytes_per_row: int

    @property
    def total_bytes(self) -> int:
        return self.step_capacity * self.bytes_per_row

    def __str__(self) -> str:
        return (
            f"replay: {self.total_bytes / 1e9:.2f} GB for {self.episode_capacity:,} episodes or "
            f"{self.step_capacity:,} steps, whichever comes first, at {self.bytes_per_row:,} bytes "
            "a step"
        )


def replay_size(
    info: EnvInfo, episode_capacity: int, max_bytes: int = DEFAULT_MAX_BYTES
) -> ReplaySize:
    """Room for `episode_capacity` episodes of full length, or for `max_bytes` if that is less."""
    if episode_capacity < 1:
        raise ValueError(f"a replay of {episode_capacity} episodes holds nothing")
    half_floats = info.n_agents * info.obs_dim + info.state_dim
    mask_bytes = math.ceil(info.n_agents * info.n_actions / 8)
    reward_bytes = 4
    bytes_per_row = 2 * half_floats + mask_bytes + info.n_agents + reward_bytes
    longest = info.episode_limit + 1
    rows = min(episode_capacity * longest, max_bytes // bytes_per_row)
    if rows < longest:
        raise ValueError(
            f"{max_bytes:,} bytes do not hold one episode of {longest} rows of {bytes_per_row:,}"
        )
    return ReplaySize(episode_capacity, rows, bytes_per_row)


class ReplayBuffer:
    """A ring of episodes in the order they were added; the oldest make room.

    What is sampled depends on the episodes held, their order and the generator, and on nothing
    else: a buffer to which the same episodes are added again samples as the first one did.

    Args:
        generator: draws the samples; its state is part of `state_dict`.
        device: where the ring lies, and where batches come out.

    Raises:
        ReplayTooLargeError: before anything is allocated.
    """

    def __init__(
        self,
        info: EnvInfo,
        size: ReplaySize,
        generator: np.random.Generator,
        device: torch.device | str = "cpu",
    ) -> None:
        self.info, self.size = info, size
        self.device = torch.device(device)
        _require_memory(size, self.device)
        self._generator = generator
        rows, n_agents = size.step_capacity, info.n_agents
        self._mask_bits = n_agents * info.n_actions

        def ring(dtype: torch.dtype, *shape: int) -> torch.Tensor:
            return torch.empty((rows, *shape), dtype=dtype, device=self.device)

        self._obs = ring(torch.float16, n_agents * info.obs_dim)
        self._state = ring(torch.float16, info.state_dim)
        self._avail_actions = ring(torch.uint8, math.ceil(self._mask_bits / 8))
        self._actions = ring(torch.uint8, n_agents)
        self._reward = ring(torch.float32)
        # Episodes are numbered as they come; number i stands in slot i % episode_capacity.
        self._oldest = self._next = 0
        self._next_row = self._rows_held = 0
        self._starts = np.zeros(size.episode_capacity, np.int64)
        self._lengths = np.zeros(size.episode_capacity, np.int64)
        self._terminal = np.zeros(size.episode_capacity, np.bool_)
        self._records: dict[int, BattleRecord] = {}

    def __len__(self) -> int:
        """Episodes held."""
        return self._next - self._oldest

    @property
    def n_steps(self) -> int:
        """Steps held."""
        return self._rows_held - len(self)

    def records(self) -> list[BattleRecord]:
        """The battles held, the oldest first: enough to play them again and rebuild the buffer."""
        return [self._records[number] for number in range(self._oldest, self._next)]

    def add(self, episodes: Iterable[Episode]) -> None:
        """Add episodes in their order; the oldest ones leave as room is needed."""
        for episode in episodes:
            self._add_one(episode)

    def _add_one(self, episode: Episode) -> None:
        length = episode.length
        n_rows = length + 1
        if not 1 <= length <= self.info.episode_limit:
            raise ValueError(
                f"battle {episode.battle_id} has {length} steps; expected 1 to "
                f"{self.info.episode_limit}"
            )
        while (
            len(self) == self.size.episode_capacity
            or self._rows_held + n_rows > self.size.step_capacity
        ):
            self._drop_oldest()
        masks = np.packbits(episode.avail_actions.reshape(n_rows, -1), axis=1, bitorder="little")
        self._write(self._obs, episode.obs.reshape(n_rows, -1))
        self._write(self._state, episode.state)
        self._write(self._avail_actions, masks)
        self._write(self._actions, episode.actions)
        self._write(self._reward, episode.reward)
        slot = self._next % self.size.episode_capacity
        self._starts[slot], self._lengths[slot] = self._next_row, length
        self._terminal[slot] = episode.terminal
        # A copy: an episode's arrays may be views that keep a whole round's alive.
        self._records[self._next] = replace(episode.record, actions=episode.actions.copy())
        self._next += 1
        self._next_row = (self._next_row + n_rows) % self.size.step_capacity
        self._rows_held += n_rows

    def _drop_oldest(self) -> None:
        length = int(self._lengths[self._oldest % self.size.episode_capacity])
        del self._records[self._oldest]
        self._oldest += 1
        self._rows_held -= length + 1

    def _write(self, ring: torch.Tensor, values: npt.NDArray[Any]) -> None:
        """Into the rows from `_next_row` on, which may go on at the ring's beginning."""
        source = torch.from_numpy(np.ascontiguousarray(values))
        before_end = min(len(source), self.size.step_capacity - self._next_row)
        ring[self._next_row : self._next_row + before_end] = source[:before_end]
        ring[: len(source) - before_end] = source[before_end:]

    def can_sample(self, batch_size: int) -> bool:
        return len(self) >= batch_size

    def sample(self, batch_size: int) -> EpisodeBatch:
        """So many distinct episodes, all equally likely.

        Raises:
            ValueError: fewer are held.
        """
        if not self.can_sample(batch_size):
            raise ValueError(f"{batch_size} episodes wanted of {len(self)} held")
        return self.gather(self._generator.choice(len(self), batch_size, replace=False))

    def gather(self, which: IntArray) -> EpisodeBatch:
        """The episodes at these places in the order held, 0 being the oldest. `which` is [B]."""
        slots = (self._oldest + which) % self.size.episode_capacity
        slots = slots[np.argsort(-self._lengths[slots], kind="stable")]
        lengths, starts = self._lengths[slots], self._starts[slots]
        rows = packed_rows(lengths)
        n_rows = len(rows.time)
        ring_rows = (starts[rows.episode] + rows.time) % self.size.step_capacity
        # `index_select`, here and below, takes an eighth of the time of indexing.
        at, step_rows = self._index(ring_rows), self._index(rows.step_rows)
        at_steps = at.index_select(0, step_rows)
        last_step = rows.time == lengths[rows.episode] - 1
        terminal = (last_step & self._terminal[slots][rows.episode])[rows.step_rows]
        n_agents = self.info.n_agents
        return EpisodeBatch(
            lengths=tuple(lengths.tolist()),
            widths=rows.widths,
            step_rows=step_rows,
            obs=self._obs.index_select(0, at).float().view(n_rows, n_agents, self.info.obs_dim),
            state=self._state.index_select(0, at).float(),
            avail_actions=self._unpack(self._avail_actions.index_select(0, at)),
            actions=self._actions.index_select(0, at_steps).long(),
            reward=self._reward.index_select(0, at_steps),
            terminal=torch.from_numpy(terminal).to(self.device),
        )

    def _index(self, rows: IntArray) -> torch.Tensor:
        return torch.from_numpy(rows).to(self.device)

    def _unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """[R, A, U] bool from bits, the lowest first."""
        bits = packed[:, :, None] >> torch.arange(8, dtype=torch.uint8, device=self.device)
        flags = (bits & 1).view(len(packed), -1)[:, : self._mask_bits].bool()
        return flags.reshape(-1, self.info.n_agents, self.info.n_actions)

    def state_dict(self) -> dict[str, Any]:
        """The generator's state. The episodes are not in it: see `records`."""
        return {"generator": self._generator.bit_generator.state}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._generator.bit_generator.state = state["generator"]


@dataclass(frozen=True)
class PackedRows:
    """Where the rows of an `EpisodeBatch` come from."""

    widths: tuple[int, ...]
    time: IntArray
    """[R] the step within its episode."""
    episode: IntArray
    """[R] the episode's place in the batch."""
    step_rows: IntArray
    """[K] the rows that are not their episode's last."""


def packed_rows(lengths: IntArray) -> PackedRows:
    """The order of the rows of episodes of so many steps, [B], falling."""
    times = np.arange(lengths[0] + 1)
    # How many of the falling lengths reach each time.
    widths = np.searchsorted(-lengths, -times, side="right")
    time = np.repeat(times, widths)
    first_rows = np.cumsum(widths) - widths
    episode = np.arange(len(time)) - first_rows[time]
    return PackedRows(
        tuple(widths.tolist()), time, episode, np.flatnonzero(time < lengths[episode])
    )


def _require_memory(size: ReplaySize, device: torch.device) -> None:
    available = _available_bytes(device)
    if available is not None and size.total_bytes > available:
        raise ReplayTooLargeError(
            f"{size}; {available / 1e9:.2f} GB are available on {device}. "
            "Make buffer_size smaller, or allow the replay fewer bytes"
        )


def _available_bytes(device: torch.device) -> int | None:
    """Memory to be had, or None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        meminfo = Path("/proc/meminfo").read_text()
    except OSError:
        return None
    available = next(line for line in meminfo.splitlines() if line.startswith("MemAvailable"))
    return min(int(available.split()[1]) * 1024, _control_group_bytes())


def _control_group_bytes() -> int:
    """What a container's limit leaves (control groups, version 2)."""
    try:
        limit = int((CONTROL_GROUP / "memory.max").read_text())
        return limit - int((CONTROL_GROUP / "memory.current").read_text())
    except (OSError, ValueError):  # no such file, or "max": no limit
        return 2**63
