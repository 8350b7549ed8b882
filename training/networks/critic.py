"""COMA's critic: what the team is worth for each action of one agent, the others' being given."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.agent import NO_ACTION
from training.types import EnvInfo, EpisodeBatch

HIDDEN = 128


class CriticInput(NamedTuple):
    """N moments of a team as the critic reads them."""

    team: Tensor
    """[N, S + 2 A U] float32: state, one-hots of all agents' actions, of their last actions."""
    obs: Tensor
    """[N, A, O] float32."""
    own: Tensor
    """[N, A] int64: agent a's action u as a U + u, one of the one-hots' columns."""

    def rows(self, which: Tensor) -> CriticInput:
        """Those of these moments, [K] int64."""
        return CriticInput(*(values.index_select(0, which) for values in self))

    def steps(self, widths: tuple[int, ...]) -> list[CriticInput]:
        """Cut into so many moments each: views."""
        parts = (values.split_with_sizes(widths) for values in self)
        return [CriticInput(*step) for step in zip(*parts, strict=True)]


class COMACritic(nn.Module):
    """Q values of every action of every agent (Foerster et al. 2018; sizes as PyMARL's).

    One network for all agents, of two hidden layers. For agent a it reads the state, a's
    observation, the others' actions, everybody's last actions and a's id: the Q values do not
    depend on a's own action, so that all of them come out of one pass. Parameters are named, shaped
    and initialised as PyMARL's; fc1's columns are in the order of the parts of `team`, then the
    observation and the id.

    Most of the input is the same for all agents of a moment, so the first layer multiplies it once
    and takes each agent's own action off again.
    """

    def __init__(self, info: EnvInfo) -> None:
        super().__init__()
        self.n_agents, self.n_actions = info.n_agents, info.n_actions
        n_joint = info.n_agents * info.n_actions
        self.columns = [info.state_dim, n_joint, n_joint, info.obs_dim, info.n_agents]
        self.fc1 = nn.Linear(sum(self.columns), HIDDEN)
        self.fc2 = nn.Linear(HIDDEN, HIDDEN)
        self.fc3 = nn.Linear(HIDDEN, info.n_actions)

    def read(self, batch: EpisodeBatch, actions: Tensor) -> CriticInput:
        """Every observation of whole episodes, R moments.

        Args:
            actions: [R, A] int64, taken there; at an episode's end, those to be imagined.
        """
        first = actions.new_full((batch.n_episodes, self.n_agents), NO_ACTION)
        last_actions = torch.cat([first, batch.actions])
        offsets = self.n_actions * torch.arange(self.n_agents, device=actions.device)
        team = [batch.state, self._one_hots(actions), self._one_hots(last_actions)]
        return CriticInput(torch.cat(team, 1), batch.obs, actions + offsets)

    def forward(self, moments: CriticInput) -> Tensor:
        """[N, A, U], of unavailable actions too."""
        n_state, n_joint, _, n_obs, _ = self.columns
        team, obs, agents = self.fc1.weight.split_with_sizes(
            [moments.team.shape[1], n_obs, self.n_agents], 1
        )
        shared = F.linear(moments.team, team, self.fc1.bias)
        # One row for each of the joint one-hot's columns: its agent's id, less the action itself.
        actions = team[:, n_state : n_state + n_joint].t().view(self.n_agents, self.n_actions, -1)
        own = (agents.t()[:, None] - actions).view(-1, HIDDEN)
        x = F.embedding(moments.own.view(-1), own).addmm_(moments.obs.flatten(0, 1), obs.t())
        x = (x.view(-1, self.n_agents, HIDDEN) + shared[:, None]).relu_()
        q_values: Tensor = self.fc3(self.fc2(x).relu_())
        return q_values

    def _one_hots(self, actions: Tensor) -> Tensor:
        """[N, A U] float32; zeros where there is no action."""
        # Class 0 stands for none, and is cut off.
        one_hots = F.one_hot(actions - NO_ACTION, self.n_actions + 1)[:, :, 1:]
        return one_hots.flatten(1).float()
