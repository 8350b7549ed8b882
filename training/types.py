"""The named types that cross a border inside `training`, and the legend of their dimensions.

Dimensions used throughout:
    E parallel battles · B episodes in a batch · T steps · L steps of one episode · A agents
    U actions · O obs_dim · S state_dim · H hidden_dim · N rows of one network call
"""

from __future__ import annotations

from dataclasses import dataclass
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
