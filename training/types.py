"""The named types that cross a border inside `training`, and the legend of their dimensions.

Dimensions used throughout:
    E parallel battles · B episodes in a batch · T steps · L steps of one episode · A agents
    U actions · O obs_dim · S state_dim · H hidden_dim · N rows of one network call
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch

ActionArray = npt.NDArray[np.uint8]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]


@dataclass(frozen=True)
class EnvInfo:
    """What a learner, an exporter and a service must know of an environment."""

    name: str
    """The environment: "skirmish", "two_step" or "smac"."""
    map_name: str
    n_agents: int
    n_enemies: int
    n_actions: int
    obs_dim: int
    state_dim: int
    episode_limit: int
    unit_types: tuple[str, ...]
    """The unit type of each agent, by agent id."""
    continuing_episode: bool
    """True: running out of time is not an ending for the learner, which then bootstraps
    (SMAC's `continuing_episode`; False by default, as in SMAC)."""
    layout_sha256: str
    """Hash over the ordered names of every observation feature and action. Two environments
    with equal hashes can share an agent."""
    game_version: str = ""
    """Of the game's program, where there is one and it has said so."""


class Observation(NamedTuple):
    """What E battles show before their agents act."""

    obs: torch.Tensor
    """[E, A, O] float32; all zeros for a dead agent."""
    state: torch.Tensor
    """[E, S] float32; only training may read it."""
    avail_actions: torch.Tensor
    """[E, A, U] bool; every agent, dead ones too, has at least one available action."""


class Transition(NamedTuple):
    """What one step of E battles brought."""

    observation: Observation
    """After the step; of a battle that has just ended, its last observation."""
    reward: torch.Tensor
    """[E] float32, shared by the team."""
    terminated: torch.Tensor
    """[E] bool; the battle was decided (won, lost or both sides dead)."""
    truncated: torch.Tensor
    """[E] bool; the episode limit was reached with the battle undecided."""
    battle_won: torch.Tensor
    """[E] bool; True only at the step that wins."""
    dead_allies: torch.Tensor
    """[E] int64."""
    dead_enemies: torch.Tensor
    """[E] int64."""
    lost: torch.Tensor | None = None
    """[E] bool, until the slot is reset; None: none. The game broke off: the battle counts for
    nothing, is neither terminated nor truncated, and another must be begun in its place."""


@dataclass(frozen=True)
class Episode:
    """One finished battle as the replay takes it; L steps, so L + 1 observations."""

    battle_id: int
    """The battle's number: with the environment's seed it fixes every random draw of the battle."""
    obs: npt.NDArray[np.float16]
    """[L + 1, A, O]."""
    state: npt.NDArray[np.float16]
    """[L + 1, S]."""
    avail_actions: BoolArray
    """[L + 1, A, U]."""
    actions: ActionArray
    """[L, A]."""
    reward: FloatArray
    """[L]."""
    terminal: bool
    """The last step ended the episode for the learner, which must not bootstrap from the last
    observation. A time-out counts as an ending unless `EnvInfo.continuing_episode`."""
    battle_won: bool
    dead_allies: int
    dead_enemies: int

    @property
    def length(self) -> int:
        return len(self.reward)

    @property
    def episode_return(self) -> float:
        return float(self.reward.sum(dtype=np.float64))

    @property
    def record(self) -> BattleRecord:
        return BattleRecord(
            battle_id=self.battle_id,
            actions=self.actions.copy(),  # `actions` may be a view of more
            episode_return=self.episode_return,
            battle_won=self.battle_won,
            dead_allies=self.dead_allies,
            dead_enemies=self.dead_enemies,
        )


@dataclass(frozen=True)
class BattleRecord:
    """All that must be kept of a battle: the environment can play it again from this."""

    battle_id: int
    actions: ActionArray
    """[L, A]."""
    episode_return: float
    battle_won: bool
    dead_allies: int
    dead_enemies: int

    @property
    def length(self) -> int:
        return len(self.actions)


@dataclass(frozen=True)
class EpisodeBatch:
    """B episodes of different lengths as flat rows in time order: nothing is padded.

    Episodes stand in order of falling length. Row 0 to B - 1 are the first observations of all
    of them, then come the second ones, and so on: the observations at time t are the first
    `widths[t]` episodes', the others having ended. An episode of L steps has L + 1 observations,
    so R = sum of L + 1 rows of observations and K = sum of L rows of steps. Steps stand in the same
    order, and so the observation *after* step k is row B + k.
    """

    lengths: tuple[int, ...]
    """[B] steps of each episode, falling."""
    widths: tuple[int, ...]
    """[longest + 1] how many episodes have an observation at each time; falling from B."""
    step_rows: torch.Tensor
    """[K] int64: the row of the observation that step k was taken in."""
    obs: torch.Tensor
    """[R, A, O] float32."""
    state: torch.Tensor
    """[R, S] float32."""
    avail_actions: torch.Tensor
    """[R, A, U] bool."""
    actions: torch.Tensor
    """[K, A] int64."""
    reward: torch.Tensor
    """[K] float32."""
    terminal: torch.Tensor
    """[K] bool: no bootstrapping from the observation after this step (see `Episode.terminal`)."""

    @property
    def n_episodes(self) -> int:
        return len(self.lengths)

    @property
    def n_steps(self) -> int:
        return len(self.reward)

    def to(self, device: torch.device) -> EpisodeBatch:
        """The same batch with its tensors on `device`."""
        return replace(
            self,
            step_rows=self.step_rows.to(device),
            obs=self.obs.to(device),
            state=self.state.to(device),
            avail_actions=self.avail_actions.to(device),
            actions=self.actions.to(device),
            reward=self.reward.to(device),
            terminal=self.terminal.to(device),
        )
