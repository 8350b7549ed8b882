"""The network of one agent, shared by all: Linear, ReLU, GRUCell, Linear (PyMARL's DRQN)."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from training.networks.gru import packed_gru
from training.types import EpisodeBatch

NO_ACTION = -1
"""The last action of an agent that has not acted yet."""


class DRQN(nn.Module):
    """Q values of one agent's actions, from what it alone has seen and done.

    Its input is the observation, the one-hot of its last action (zeros at first) and the one-hot of
    its id. Each one-hot picks one column of fc1's weight, so the columns are looked up and added.
    Parameters are named, shaped and initialised as PyMARL's.
    """

    def __init__(self, obs_dim: int, n_actions: int, n_agents: int, hidden_dim: int = 64) -> None:
        super().__init__()
        self.obs_dim, self.n_actions, self.n_agents = obs_dim, n_actions, n_agents
        self.hidden_dim = hidden_dim
        self.fc1 = nn.Linear(obs_dim + n_actions + n_agents, hidden_dim)
        self.rnn = nn.GRUCell(hidden_dim, hidden_dim)
        self.fc2 = nn.Linear(hidden_dim, n_actions)

    def initial_hidden(self, n_rows: int) -> Tensor:
        """[N, H] zeros."""
        return self.fc1.weight.new_zeros(n_rows, self.hidden_dim)

    def step(
        self, obs: Tensor, last_action: Tensor, agent_id: Tensor, hidden: Tensor
    ) -> tuple[Tensor, Tensor]:
        """One step of N agents, in any mixture.

        Args:
            obs: [N, O] float32.
            last_action: [N] int64, -1 where there is none.
            agent_id: [N] int64.
            hidden: [N, H] float32.

        Returns:
            Q values [N, U], not masked, and the next hidden state [N, H].
        """
        x = self._first_layer(obs, last_action, agent_id)
        hidden = self.rnn(x, hidden)
        return self.fc2(hidden), hidden

    def unroll(self, batch: EpisodeBatch) -> Tensor:
        """Q values of every agent at every observation of whole episodes, [R, A, U]."""
        n_rows = len(batch.obs)
        first = batch.actions.new_full((batch.n_episodes, self.n_agents), NO_ACTION)
        last_action = torch.cat([first, batch.actions]).view(-1)
        agent_id = torch.arange(self.n_agents, device=last_action.device).repeat(n_rows)
        x = self._first_layer(batch.obs.view(-1, self.obs_dim), last_action, agent_id)
        widths = [width * self.n_agents for width in batch.widths]
        agents = agent_id[: self.n_agents]
        previous_rows = (batch.step_rows[:, None] * self.n_agents + agents).view(-1)
        hidden = packed_gru(x, widths, previous_rows, self.rnn)
        # Products whose width is no multiple of 16 take twice as long.
        spare = -self.n_actions % 16
        weight, bias = F.pad(self.fc2.weight, (0, 0, 0, spare)), F.pad(self.fc2.bias, (0, spare))
        q_values = F.linear(hidden, weight, bias)[:, : self.n_actions]
        return q_values.view(n_rows, self.n_agents, self.n_actions)

    def _first_layer(self, obs: Tensor, last_action: Tensor, agent_id: Tensor) -> Tensor:
        """[N, H] after the ReLU."""
        columns = self.fc1.weight[:, self.obs_dim :].t()
        actions, agents = columns.split_with_sizes([self.n_actions, self.n_agents])
        n_choices = self.n_actions + 1  # the last one is no action, a row of zeros
        table = F.pad(actions, (0, 0, 0, 1)) + (agents + self.fc1.bias)[:, None]
        which = agent_id * n_choices + last_action.remainder(n_choices)
        one_hots = F.embedding(which, table.reshape(-1, self.hidden_dim))
        weight = self.fc1.weight[:, : self.obs_dim].t()
        return one_hots.addmm_(obs, weight).relu_()
